"""The gateway's shell: sockets, TLS, WebSocket and proxy, bounds, and how connections begin and end."""

from __future__ import annotations

import socket
import stat
from functools import partial

import anyio
import pytest
import structlog

from renewer.amqp.websocket import accept_websocket
from renewer.daemon.clock import SystemClock
from renewer.errors import TransientError, UsageError
from renewer.gateway import pressure
from renewer.gateway import server as server_module
from renewer.gateway import upstream as upstream_module
from renewer.gateway import wire as wire_module
from renewer.gateway.options import TcpAddress, UnixAddress
from renewer.gateway.wire import HIGH_WATER
from renewer.targets.servicebus.tcp import tls_context
from tests.gateway.shell_rig import gateway, namespace, options, upstream
from tests.ports import free_port
from tests.targets.tls_rig import Authority

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certified(authority):
    """TLS of a server that is called localhost, and the file of its certificate and key."""
    before = set(authority.file.parent.iterdir())
    context = authority.server("localhost", "127.0.0.1")
    (file,) = set(authority.file.parent.iterdir()) - before
    return context, str(file)


@pytest.fixture
def trusting(authority):
    """TLS of a client that trusts it."""
    return tls_context(str(authority.file))


@pytest.fixture(params=["plain", "tls", "websocket", "secure websocket"])
async def way(request, authority, certified):
    """An upstream, and the namespace whose it is."""
    secure, web = request.param in ("tls", "secure websocket"), "websocket" in request.param
    changes = {"tls": secure, "ca_file": str(authority.file) if secure else None}
    changes |= {"transport": "amqp-websocket"} if web else {}
    async with upstream(context=certified[0] if secure else None, wrap=accept_websocket if web else None) as broker:
        yield broker, namespace(broker.port, **changes)


async def test_bytes_pass_both_ways_whatever_the_way_to_the_broker(way):
    broker, settings = way
    async with gateway(options(settings)) as rig:
        worker, other = await rig.let_through(broker)
        await worker.say(b"to the broker")
        await other.hear(b"to the broker")
        large = b"0123456789abcdef" * 65536
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other.say, large)
            await worker.hear(large)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.say, large)
            await other.hear(large)


async def test_a_worker_that_leaves_is_detached_upstream_at_once(way):
    broker, settings = way
    async with gateway(options(settings)) as rig:
        worker, other = await rig.let_through(broker)
        await worker.stream.aclose()
        await other.hear(b"detach\n")
        assert await other.hear_all() == b""
        await rig.until(lambda: rig.server.readings().connections == 0)


async def test_a_worker_that_was_killed_is_detached_upstream_at_once(way):
    broker, settings = way
    async with gateway(options(settings)) as rig:
        worker, other = await rig.let_through(broker)
        await worker.reset()
        await other.hear(b"detach\n")
        assert rig.relays[0].news.count(("worker gone",)) == 1


async def test_a_worker_that_ends_its_half_alone_has_left(way):
    broker, settings = way
    async with gateway(options(settings)) as rig:
        worker, other = await rig.let_through(broker)
        await worker.stream.send_eof()
        await other.hear(b"detach\n")
        assert await worker.hear_all() == b""


async def test_an_upstream_that_ends_is_told_to_the_worker_and_counted(way):
    broker, settings = way
    async with gateway(options(settings)) as rig:
        worker, other = await rig.let_through(broker)
        await other.say(b"last words\n")
        await other.stream.aclose()
        assert await worker.hear_all() == b"last words\nupstream gone\n"
        assert rig.server.readings().upstream_failures == 1


async def test_an_upstream_that_was_reset_is_told_to_the_worker():
    async with upstream() as broker, gateway(options(namespace(broker.port))) as rig:
        worker, other = await rig.let_through(broker)
        await other.reset()
        assert await worker.hear_all() == b"upstream gone\n"


@pytest.mark.parametrize("transport", ["amqp", "amqp-websocket"])
async def test_an_upstream_that_cannot_be_reached_is_said_so(transport):
    port = free_port()
    async with gateway(options(namespace(port, transport=transport))) as rig:
        worker = await rig.worker()
        await worker.say(b"dial\n")
        assert (await worker.hear_all()).startswith(f"cannot connect to 127.0.0.1:{port}: ".encode())
        assert rig.relays[0].news[0][0] == "dial failed"
        assert rig.server.readings().upstream_failures == 1
        await rig.until(lambda: rig.server.readings().strangers == 0)


@pytest.mark.parametrize("transport", ["amqp", "amqp-websocket"])
async def test_an_upstream_that_accepts_and_says_nothing_is_given_up_in_time(transport, authority):
    async with upstream() as broker:
        silent = namespace(
            broker.port, tls=True, ca_file=str(authority.file), connect_timeout_s=0.2, transport=transport
        )
        async with gateway(options(silent)) as rig:
            worker = await rig.worker()
            await worker.say(b"dial\n")
            assert (await worker.hear_all()).endswith(b": it took longer than 0.2 s\n")
            await (await broker.next()).hear_all()


async def test_an_upstream_with_a_certificate_of_nobody_known_is_not_spoken_to(certified):
    async with upstream(context=certified[0]) as broker, gateway(options(namespace(broker.port, tls=True))) as rig:
        worker = await rig.worker()
        await worker.say(b"dial\n")
        assert b"certificate verify failed" in await worker.hear_all()


async def test_an_upstream_with_a_certificate_for_another_name_is_not_spoken_to(authority):
    async with upstream(context=authority.server("elsewhere.test")) as broker:
        settings = namespace(broker.port, tls=True, ca_file=str(authority.file))
        async with gateway(options(settings)) as rig:
            worker = await rig.worker()
            await worker.say(b"dial\n")
            assert b"Hostname mismatch" in await worker.hear_all()


async def test_an_upstream_that_leaves_in_the_middle_of_the_handshake_is_said_so(authority):
    async with upstream() as broker:
        settings = namespace(broker.port, tls=True, ca_file=str(authority.file))
        async with gateway(options(settings)) as rig:
            worker = await rig.worker()
            await worker.say(b"dial\n")
            await (await broker.next()).stream.aclose()
            assert b": the TLS handshake failed: " in await worker.hear_all()


async def test_a_worker_that_leaves_while_the_broker_is_looked_for_ends_that(authority):
    async with upstream() as broker:
        settings = namespace(broker.port, tls=True, ca_file=str(authority.file))
        async with gateway(options(settings)) as rig:
            worker = await rig.worker()
            await worker.say(b"dial\n")
            other = await broker.next()
            await rig.until(lambda: rig.relays[0].holds_worker)
            rig.relays[0].holds_worker = False
            rig.relays[0].host.flush()
            await worker.stream.aclose()
            await other.hear_all()
            await rig.until(lambda: rig.server.readings().strangers == 0)


async def test_a_ca_file_that_is_not_there_is_said_before_anything_runs():
    with pytest.raises(UsageError, match="ca_file /nowhere"):
        server_module.GatewayServer(
            options(namespace(1, tls=True, ca_file="/nowhere")), None, SystemClock(), None, None
        )


async def test_the_broker_may_be_reached_by_way_of_a_proxy(certified, authority):
    async with upstream(context=certified[0]) as broker, upstream() as proxy:
        secure = {"tls": True, "ca_file": str(authority.file)}
        settings = namespace(broker.port, proxy=f"http://127.0.0.1:{proxy.port}", **secure)
        async with gateway(options(settings)) as rig, anyio.create_task_group() as tasks:
            worker = await rig.worker()
            await worker.say(b"dial\n")
            way = await proxy.next()
            head = b""
            while b"\r\n\r\n" not in head:
                head += await way.stream.receive()
            assert head.startswith(f"CONNECT 127.0.0.1:{broker.port} ".encode())
            onward = await anyio.connect_tcp("127.0.0.1", broker.port)
            await way.say(b"HTTP/1.1 200 Go on\r\n\r\n")

            async def carry(source, sink):
                async for data in source:
                    await sink.send(data)

            tasks.start_soon(carry, way.stream, onward)
            tasks.start_soon(carry, onward, way.stream)
            await worker.hear(b"dialed\n")
            other = await broker.next()
            await worker.say(b"hello")
            await other.hear(b"hello")
            tasks.cancel_scope.cancel()
            await onward.aclose()


# Who is let in --------------------------------------------------------------------------------------------------------


async def test_workers_may_come_over_tls(certified, trusting):
    listen = TcpAddress("127.0.0.1", 0, tls_cert_file=certified[1])
    async with upstream() as broker, gateway(options(namespace(broker.port), listen=listen)) as rig:
        worker, other = await rig.let_through(broker, tls=trusting)
        large = b"0123456789abcdef" * 20_000
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other.say, large)
            tasks.start_soon(worker.say, large)
            tasks.start_soon(worker.hear, large)
            tasks.start_soon(other.hear, large)
        await worker.stream.aclose()
        await other.hear(b"detach\n")


async def test_a_handshake_that_is_never_finished_ends_with_the_time_to_log_in(certified):
    listen = TcpAddress("127.0.0.1", 0, tls_cert_file=certified[1])
    async with gateway(options(namespace(1), listen=listen, login_timeout_s=0.1)) as rig:
        worker = await rig.worker()
        await worker.say(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")
        assert await worker.hear_all() == b""
        assert rig.server.readings().refusals == {"timeout": 1}
        assert rig.relays == []


async def test_a_worker_without_tls_where_there_is_to_be_some_is_refused(certified):
    listen = TcpAddress("127.0.0.1", 0, tls_cert_file=certified[1])
    async with gateway(options(namespace(1), listen=listen)) as rig:
        worker = await rig.worker()
        await worker.say(b"AMQP\x03\x01\x00\x00")
        assert (await worker.hear_all())[:1] in (b"", b"\x15")
        assert rig.server.readings().refusals == {"protocol": 1}


async def test_a_worker_that_does_not_log_in_is_let_go():
    async with gateway(options(namespace(1), login_timeout_s=0.1)) as rig:
        worker = await rig.worker()
        await worker.say(b"let-i")
        assert await worker.hear_all() == b"late\n"
        await rig.until(lambda: rig.server.readings().strangers == 0)
        assert rig.server.readings().refusals == {"timeout": 1}


async def test_the_oldest_that_has_not_logged_in_makes_room_for_others(monkeypatch):
    monkeypatch.setattr(server_module, "MOST_STRANGERS", 3)
    async with upstream() as broker, gateway(options(namespace(broker.port))) as rig:
        known, other = await rig.let_through(broker)
        strangers = []
        for count in range(1, 4):
            strangers.append(await rig.worker())
            await rig.until(lambda count=count: rig.server.readings().strangers == count)
        newest = await rig.worker()
        assert await strangers[0].hear_all() == b"stopped\n"
        await newest.say(b"let-in local\n")
        await newest.hear(b"welcome\n")
        await known.say(b"still here")
        await other.hear(b"still here")
        assert rig.server.readings().refusals == {"full": 1}


async def test_workers_beyond_the_limit_are_let_go_at_once():
    async with gateway(options(namespace(1), max_connections=2)) as rig:
        inside = [await rig.worker() for _ in range(2)]
        for worker in inside:
            await worker.say(b"let-in local\n")
            await worker.hear(b"welcome\n")
        outside = await rig.worker()
        assert await outside.hear_all() == b""
        assert rig.server.readings().refusals == {"full": 1}
        await inside[0].stream.aclose()
        await rig.until(lambda: rig.server.readings().connections == 1)
        late = await rig.worker()
        await late.say(b"let-in local\n")
        await late.hear(b"welcome\n")


async def test_many_workers_pass_side_by_side():
    async with upstream() as broker, gateway(options(namespace(broker.port))) as rig:
        ways = [await rig.let_through(broker) for _ in range(120)]
        for number, (worker, _) in enumerate(ways):
            await worker.say(f"I am {number}\n".encode())
        for number, (worker, other) in enumerate(ways):
            await other.hear(f"I am {number}\n".encode())
            await other.say(b"so you are\n")
            await worker.hear(b"so you are\n")
        readings = rig.server.readings()
        assert (readings.connections, readings.strangers, readings.messages) == (120, 0, 120)
        assert readings.keys == {"local": 120}


# Bounds ---------------------------------------------------------------------------------------------------------------


async def test_a_worker_that_reads_nothing_is_told_to_the_relay_and_at_last_stops_the_broker(way, monkeypatch):
    monkeypatch.setattr(pressure, "HARD_LIMIT", 1024 * 1024)
    broker, settings = way
    async with gateway(options(settings)) as rig:
        worker, other = await rig.let_through(broker)
        size = 48 * 1024 * 1024  # More than the system takes on four ends.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other.say, b"x" * size)
            await rig.relays[0].until("paused")
            await rig.until(lambda: rig.server.readings().buffered_bytes > 1024 * 1024)
            assert rig.server.readings().buffered_bytes < 2 * 1024 * 1024
            await worker.count(size)
        await rig.relays[0].until("drained")
        await worker.say(b"and on")
        await other.hear(b"and on")


async def test_a_broker_that_reads_nothing_stops_the_worker(way):
    broker, settings = way
    async with gateway(options(settings)) as rig:
        worker, other = await rig.let_through(broker)
        # A stream of anyio's reads ahead until it was read from.
        await worker.say(b"first words")
        await other.hear(b"first words")
        size = 48 * 1024 * 1024  # More than the system takes on four ends.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.say, b"x" * size)
            await rig.until(lambda: rig.server.readings().buffered_bytes > HIGH_WATER)
            assert rig.server.readings().buffered_bytes < 4 * HIGH_WATER
            # What the broker says goes on meanwhile.
            await other.say(b"busy")
            await worker.hear(b"busy")
            await other.count(size)


async def test_a_worker_that_dies_while_the_broker_reads_nothing_is_noticed_at_once():
    async with upstream() as broker, gateway(options(namespace(broker.port))) as rig:
        worker, other = await rig.let_through(broker)
        # A stream of anyio's reads ahead until it was read from.
        await worker.say(b"first words")
        await other.hear(b"first words")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.say, b"x" * 48 * 1024 * 1024)
            await rig.until(lambda: rig.server.readings().buffered_bytes > HIGH_WATER)
            tasks.cancel_scope.cancel()
        await worker.reset()
        await rig.relays[0].until("worker gone")


class Tokens:
    """Gives tokens when it is allowed to."""

    def __init__(self, error=None):
        self.asked = anyio.Event()
        self.allowed = anyio.Event()
        self.error = error

    async def token(self, entity):
        self.asked.set()
        await self.allowed.wait()
        if self.error is not None:
            raise self.error
        return f"token for {entity}"


async def test_nothing_is_read_from_a_worker_while_its_token_is_awaited():
    tokens = Tokens()
    async with gateway(options(namespace(1)), tokens) as rig:
        worker = await rig.worker()
        await worker.say(b"token orders\n")
        await tokens.asked.wait()
        await worker.say(b"let-in local\n")
        await anyio.wait_all_tasks_blocked()
        assert rig.relays[0].news == []
        tokens.allowed.set()
        await worker.hear(b"token for orders\nwelcome\n")


@pytest.mark.parametrize("how", ["leaves", "is killed"])
async def test_a_worker_that_goes_while_its_token_is_awaited_is_noticed_at_once_with_what_it_said_last(how):
    tokens = Tokens()
    async with gateway(options(namespace(1, connect_timeout_s=60.0)), tokens) as rig:
        worker = await rig.worker()
        await worker.say(b"token orders\n")
        await tokens.asked.wait()
        if how == "leaves":
            await worker.say(b"let-in local\n")
            await worker.stream.aclose()
        else:
            await worker.reset()
        await rig.relays[0].until("worker gone")
        assert rig.relays[0].ledger.worker == ("worker" if how == "leaves" else "")


async def test_a_worker_over_tls_that_goes_while_its_token_is_awaited_is_noticed_at_once(certified, trusting):
    tokens = Tokens()
    listen = TcpAddress("127.0.0.1", 0, tls_cert_file=certified[1])
    async with gateway(options(namespace(1, connect_timeout_s=60.0), listen=listen), tokens) as rig:
        worker = await rig.worker(tls=trusting)
        await worker.say(b"token orders\n")
        await tokens.asked.wait()
        await anyio.aclose_forcefully(worker.stream)
        await rig.relays[0].until("worker gone")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TransientError("no identity", kind="no_token"), b"no identity\n"),
        (TimeoutError(), b"no token came in time\n"),
        (ValueError("secret"), b"ValueError\n"),
    ],
)
async def test_a_token_that_cannot_be_had_is_told_with_the_reason(error, said):
    tokens = Tokens(error)
    tokens.allowed.set()
    async with gateway(options(namespace(1)), tokens) as rig:
        worker = await rig.worker()
        await worker.say(b"token orders\n")
        await worker.hear(said)


def test_a_blocked_worker_is_not_taken_for_dead_and_a_silent_broker_is():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        wire_module._tune(client, None)
        assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
        assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        wire_module._tune(client, 10_000)
        assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000


# Ends -----------------------------------------------------------------------------------------------------------------


async def test_a_worker_that_is_let_go_hears_why_though_it_goes_on_talking():
    async with gateway(options(namespace(1))) as rig:
        worker = await rig.worker()
        await worker.say(b"bye\n" + b"and so on\n" * 5000)
        assert await worker.hear_all() == b"bye\n"


async def test_a_worker_that_does_not_leave_is_cut_off(monkeypatch):
    monkeypatch.setattr(wire_module, "FAREWELL_S", 0.05)
    async with gateway(options(namespace(1))) as rig:
        worker = await rig.worker()
        await worker.say(b"bye\n")
        await rig.until(lambda: rig.relays and not rig.server.readings().strangers)
        assert await worker.hear_all() == b"bye\n"


async def test_stopping_takes_leave_of_all_and_lets_nobody_in(way):
    broker, settings = way
    async with gateway(options(settings)) as rig:
        worker, other = await rig.let_through(broker)
        stranger = await rig.worker()
        await stranger.say(b"let-in local\n")
        await stranger.hear(b"welcome\n")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(rig.server.stop, "for the test")
            assert await worker.hear_all() == b"stopped\n"
            assert await stranger.hear_all() == b"stopped\n"
            assert await other.hear_all() == b"detach\n"
        assert ("stop", "for the test") in rig.relays[0].news
        assert rig.server.readings().connections == 0
        with pytest.raises(OSError):
            await (await rig.worker()).stream.receive()


async def test_a_gateway_that_is_cancelled_takes_leave_too(way):
    broker, settings = way
    heard = []
    async with anyio.create_task_group() as tasks, gateway(options(settings)) as rig:
        worker, other = await rig.let_through(broker)

        async def hear(peer):
            heard.append(await peer.hear_all())
            await peer.stream.aclose()

        tasks.start_soon(hear, worker)
        tasks.start_soon(hear, other)
        rig.tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await rig.until(lambda: len(heard) == 2)
    assert sorted(heard) == [b"detach\n", b"stopped\n"]


async def test_a_gateway_that_is_cancelled_does_not_wait_for_a_broker_that_says_nothing(authority):
    async with upstream() as broker:
        settings = namespace(broker.port, tls=True, ca_file=str(authority.file), connect_timeout_s=1000.0)
        async with gateway(options(settings)) as rig:
            worker = await rig.worker()
            await worker.say(b"dial\n")
            other = await broker.next()
            rig.tasks.cancel_scope.cancel()
            with anyio.fail_after(5, shield=True):
                assert await worker.hear_all() == b"stopped\n"
                await other.hear_all()
        assert rig.server.readings().strangers == 0


async def test_a_fault_of_ours_costs_one_worker_and_no_other():
    async with upstream() as broker, gateway(options(namespace(broker.port))) as rig:
        fine, other = await rig.let_through(broker)
        with structlog.testing.capture_logs() as logs:
            unlucky = await rig.worker()
            await unlucky.say(b"crash\n")
            assert await unlucky.hear_all() == b"stopped\n"
            await rig.until(lambda: rig.server.readings().strangers == 0)
        assert [line["event"] for line in logs if line["log_level"] == "error"] == ["a worker connection failed"]
        await fine.say(b"none the worse")
        await other.hear(b"none the worse")


async def test_leases_that_cannot_be_looked_after_once_do_not_end_the_gateway(monkeypatch):
    monkeypatch.setattr(server_module, "TICK_S", 0.001)
    async with gateway(options(namespace(1))) as rig:
        ticks = []

        def tick(now):
            ticks.append(now)
            raise RuntimeError("for the test")

        rig.target.tick = tick
        with structlog.testing.capture_logs():
            await rig.until(lambda: len(ticks) > 3)
        worker = await rig.worker()
        await worker.say(b"let-in local\n")
        await worker.hear(b"welcome\n")


# The address ----------------------------------------------------------------------------------------------------------


async def test_workers_may_come_over_a_unix_socket(tmp_path):
    path = tmp_path / "gateway.sock"
    listen = UnixAddress(str(path), mode=0o600)
    async with upstream() as broker:
        async with gateway(options(namespace(broker.port), listen=listen)) as rig:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            worker, other = await rig.let_through(broker)
            await worker.say(b"hello")
            await other.hear(b"hello")
        assert not path.exists()


async def test_an_address_that_is_taken_is_said_so():
    async with gateway(options(namespace(1))) as rig:
        port = int(rig.server.address.rpartition(":")[2])
        with pytest.raises(UsageError, match=rf"127\.0\.0\.1:{port}.*choose another"):
            server_module.GatewayServer(
                options(namespace(1), listen=TcpAddress("127.0.0.1", port)), rig.target, SystemClock(), None, None
            ).bind()


async def test_a_gateway_can_run_again_on_its_address(tmp_path):
    made = partial(gateway, options(namespace(1), listen=UnixAddress(str(tmp_path / "gateway.sock"))))
    for _ in range(2):
        async with made() as rig:
            worker = await rig.worker()
            await worker.say(b"let-in local\n")
            await worker.hear(b"welcome\n")


# The log --------------------------------------------------------------------------------------------------------------


async def test_who_came_and_went_is_in_the_log():
    async with gateway(options(namespace(1))) as rig:
        with structlog.testing.capture_logs() as logs:
            worker = await rig.worker()
            await worker.say(b"let-in local\n")
            await worker.hear(b"welcome\n")
            await worker.stream.aclose()
            await rig.until(lambda: len(logs) == 2)
        came, went = logs
        assert (came["event"], came["gateway"], came["key"], came["worker"]) == (
            "worker let in",
            "main",
            "local",
            "worker",
        )
        assert came["peer"].startswith("127.0.0.1:")
        assert (went["event"], went["key"], went["worker"]) == ("worker gone", "local", "worker")


async def test_refusals_are_all_counted_and_said_less_and_less_often():
    async with gateway(options(namespace(1))) as rig:
        worker = await rig.worker()
        with structlog.testing.capture_logs() as logs:
            for _ in range(9):
                await worker.say(b"refuse key\n")
                await worker.hear(b"refused\n")
            await worker.say(b"refuse entity\n")
            await worker.hear(b"refused\n")
        assert [(line["why"], line["count"]) for line in logs] == [
            ("key", 1),
            ("key", 2),
            ("key", 4),
            ("key", 8),
            ("entity", 1),
        ]
        assert rig.server.readings().refusals == {"key": 9, "entity": 1}


# Addresses of a namespace ---------------------------------------------------------------------------------------------


@pytest.fixture
def addresses(monkeypatch):
    """What the name of a host leads to, in the order of the system."""
    found = []

    async def look_up(loop, host, port, **more):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in found]

    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", look_up)
    return found


async def test_an_address_that_refuses_leads_to_the_next_one(addresses):
    with socket.create_server(("127.0.0.1", 0)) as server:
        addresses += [("127.0.0.1", free_port()), server.getsockname()]
        with anyio.fail_after(5):
            connected = await upstream_module._connect("broker.test", 5671)
        with connected:
            assert connected.getpeername() == server.getsockname()


async def test_an_address_that_says_nothing_does_not_keep_the_next_one_waiting(addresses, monkeypatch):
    monkeypatch.setattr(upstream_module, "_EYEBALLS_S", 0.01)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_server(("127.0.0.1", 0)) as server:
        # The system answers none that come once its queue is full.
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        addresses += [full.getsockname(), server.getsockname()]
        with anyio.fail_after(5):
            connected = await upstream_module._connect("broker.test", 5671)
        with connected:
            assert connected.getpeername() == server.getsockname()
        for one in waiting:
            one.close()


async def test_when_no_address_answers_all_are_said(addresses):
    addresses += [("127.0.0.1", free_port()), ("127.0.0.1", free_port())]
    with anyio.fail_after(5), pytest.raises(OSError, match=f"{addresses[0][1]}.*; .*{addresses[1][1]}"):
        await upstream_module._connect("broker.test", 5671)
