"""The ways to a broker, with and without TLS, WebSocket and a proxy; the official SDK comes the same way."""

from __future__ import annotations

import random
import ssl
import warnings
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio
import pytest
import structlog
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute, TLSListener
from azure.servicebus import ServiceBusMessage, TransportType
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import SessionCannotBeLockedError

from renewer.core.states import LossReason
from renewer.emulator import Emulator
from renewer.emulator.broker import Broker, BrokerOptions, QueueSpec
from renewer.errors import TransientError, UsageError
from renewer.targets.servicebus import NamespaceOptions, ServiceBusTarget, SharedAccessKey
from renewer.targets.servicebus.tcp import TcpConnector
from renewer.targets.servicebus.transports import connector_for
from renewer.targets.servicebus.unhurried import Unhurried, UnhurriedStream
from tests.targets.scripted_broker import TestClock, scripted_broker
from tests.targets.servicebus_rig import failing, spec
from tests.targets.tls_rig import Authority

pytestmark = pytest.mark.anyio

KEY = "bG9jYWw="


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


def options(port, **changes):
    settings = {"hostname": "127.0.0.1", "host": "127.0.0.1", "port": port, "connect_timeout_s": 5.0}
    settings |= {"credential": SharedAccessKey("local", KEY)}
    return NamespaceOptions(**(settings | changes))


class Losses(list):
    """What was lost, and the first of it awaited."""

    def __init__(self):
        super().__init__()
        self._first = anyio.Event()

    def add(self, loss):
        self.append(loss)
        self._first.set()

    async def first(self):
        await self._first.wait()
        return self[0]


@asynccontextmanager
async def target(settings):
    """A target that runs, and what it lost."""
    losses = Losses()
    made = ServiceBusTarget(settings, TestClock(), losses.add, rng=random.Random(1))
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda task_status: made.run(task_status=task_status))
        with anyio.fail_after(20):
            yield made, losses
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def emulator(context=None):
    """The emulator's door for WebSockets, and its broker."""
    broker = Broker(
        [QueueSpec("orders", requires_session=True), QueueSpec("plain")],
        options=BrokerOptions(key_name="local", key=KEY),
    )
    async with anyio.create_task_group() as tasks:
        await tasks.start(broker.serve)
        port = await tasks.start(partial(broker.serve_websocket, ssl_context=context))
        yield broker, port
        tasks.cancel_scope.cancel()
    assert broker.counters.failures == 0


@asynccontextmanager
async def tls_broker(context):
    """A broker behind TLS."""
    async with scripted_broker() as broker, await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)

        async def serve():
            with suppress(Exception):  # Handshakes that fail are the other side's to judge.
                await TLSListener(listener, context, standard_compatible=False).serve(broker.serve)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            yield port
            tasks.cancel_scope.cancel()


class Proxy:
    """An HTTP proxy that leads where it is asked to, or answers `answer`."""

    def __init__(self, answer=None):
        self.answer = answer
        self.asked = []
        self.port = 0

    async def serve(self, *, task_status):
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            self.port = listener.extra(SocketAttribute.local_port)
            task_status.started()
            await listener.serve(self._lead)

    async def _lead(self, stream):
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive()
            self.asked.append(head.decode().splitlines())
            if self.answer is not None:
                await stream.send(self.answer)
                return
            host, _, port = self.asked[-1][0].split()[1].rpartition(":")
            async with await anyio.connect_tcp(host, int(port)) as broker, anyio.create_task_group() as tasks:
                await stream.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                tasks.start_soon(_pass_on, stream, broker)
                tasks.start_soon(_pass_on, broker, stream)


async def _pass_on(source, sink):
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        while True:
            await sink.send(await source.receive())
    with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        await sink.aclose()


@asynccontextmanager
async def proxy(answer=None):
    made = Proxy(answer)
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda task_status: made.serve(task_status=task_status))
        yield made
        tasks.cancel_scope.cancel()


# TLS ------------------------------------------------------------------------------------------------------------------


async def test_a_broker_that_our_ca_file_vouches_for_is_trusted(authority):
    ca_file = str(authority.file)
    async with tls_broker(authority.server("127.0.0.1")) as port, target(options(port, ca_file=ca_file)) as (made, _):
        await made.acquire(spec(), 1)
        await made.renew(spec(), 1)


async def test_a_broker_is_called_what_the_namespace_is_called_wherever_it_is(authority):
    async with tls_broker(authority.server("ns.servicebus.windows.net")) as port:
        settings = options(port, ca_file=str(authority.file), hostname="ns.servicebus.windows.net")
        async with target(settings) as (made, _):
            await made.acquire(spec(), 1)


async def test_what_is_below_tls_can_be_left_unread_for_a_moment(authority):
    async with tls_broker(authority.server("127.0.0.1")) as port:
        settings = options(port, ca_file=str(authority.file))
        async with await connector_for(settings)(settings) as stream:
            # TLS gives out record by record what is there.
            assert isinstance(stream.extra(Unhurried.stream), UnhurriedStream)
            assert stream.extra(TLSAttribute.tls_version) >= "TLSv1.2"


@pytest.mark.parametrize("transport", ["amqp", "amqp-websocket"])
async def test_a_certificate_for_another_name_is_refused(authority, transport):
    async with tls_broker(authority.server("elsewhere.example")) as port:
        settings = options(port, ca_file=str(authority.file), transport=transport)
        async with target(settings) as (made, _):
            error = await failing(made.acquire(spec(), 1), TransientError)
        assert "certificate verify failed" in str(error)


@pytest.mark.parametrize("transport", ["amqp", "amqp-websocket"])
async def test_a_certificate_of_an_unknown_authority_is_refused(authority, transport):
    async with tls_broker(authority.server("127.0.0.1")) as port:
        async with target(options(port, transport=transport)) as (made, _):
            error = await failing(made.acquire(spec(), 1), TransientError)
        assert "certificate verify failed" in str(error)


async def test_tls_below_1_2_is_refused_however_openssl_is_configured(authority, monkeypatch):
    context = authority.server("127.0.0.1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    settings = options(1, ca_file=str(authority.file))
    assert TcpConnector(settings)._tls.minimum_version is ssl.TLSVersion.TLSv1_2
    async with tls_broker(context) as port, target(options(port, ca_file=str(authority.file))) as (made, _):
        error = await failing(made.acquire(spec(), 1), TransientError)
        assert error.kind == "network"


# WebSocket ------------------------------------------------------------------------------------------------------------


async def test_a_session_is_held_over_a_websocket():
    async with emulator() as (broker, port):
        settings = options(port, tls=False, emulator=True, transport="amqp-websocket")
        async with target(settings) as (made, losses):
            await made.acquire(spec(), 1)
            await made.set_state(spec(), 1, bytes(200_000))
            assert await made.get_state(spec(), 1) == bytes(200_000)
            await made.renew(spec(), 1)
            await made.release(spec(), 1)
        assert losses == []
        assert broker.counters.connections == 0


async def test_a_websocket_that_is_cut_is_noticed_at_once():
    async with emulator() as (broker, port):
        settings = options(port, tls=False, emulator=True, transport="amqp-websocket")
        async with target(settings) as (made, losses):
            await made.acquire(spec(), 1)
            broker.reset_connections()
            assert (await losses.first()).reason is LossReason.CONNECTION_LOST
            await made.acquire(spec(), 2)


async def test_what_opens_no_websocket_is_said_in_the_trouble():
    async def refuse(stream):
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, refuse)
        port = listener.extra(SocketAttribute.local_port)
        async with target(options(port, tls=False, emulator=True, transport="amqp-websocket")) as (made, _):
            error = await failing(made.acquire(spec(), 1), TransientError)
            assert error.kind == "network"
            assert "HTTP status 401" in str(error)
            assert "HTTP status 401" in str(made.trouble)
        tasks.cancel_scope.cancel()


def test_a_ca_file_that_is_none_is_said_for_websockets_too(tmp_path):
    with pytest.raises(UsageError, match=r"missing\.pem"):
        connector_for(options(443, transport="amqp-websocket", ca_file=str(tmp_path / "missing.pem")))


# Proxies --------------------------------------------------------------------------------------------------------------


async def test_a_proxy_leads_to_the_broker_and_sees_nothing(authority):
    async with emulator(authority.server("127.0.0.1")) as (_, port), proxy() as way:
        settings = options(
            port,
            transport="amqp-websocket",
            ca_file=str(authority.file),
            proxy=f"http://127.0.0.1:{way.port}",
        )
        async with target(settings) as (made, _):
            await made.acquire(spec(), 1)
            await made.renew(spec(), 1)
        assert way.asked == [[f"CONNECT 127.0.0.1:{port} HTTP/1.1", f"Host: 127.0.0.1:{port}", ""]]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "refused a way .* 407.*password"),
        (b"HTTP/1.0 403 Forbidden\r\n\r\n", "refused a way .* 403"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\nAMQP", "more than it was asked"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 10_000, "does not speak HTTP"),
        (b"", "closed the connection"),
    ],
)
async def test_a_proxy_that_leads_nowhere_is_named(answer, words):
    async with proxy(answer) as way:
        settings = options(443, transport="amqp-websocket", proxy=f"http://127.0.0.1:{way.port}")
        async with target(settings) as (made, _):
            with pytest.raises(TransientError, match=words):
                await made.acquire(spec(), 1)


async def test_a_proxy_in_the_environment_is_not_asked(monkeypatch):
    async with emulator() as (_, port), proxy() as way:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{way.port}")
        settings = options(port, tls=False, emulator=True, transport="amqp-websocket")
        async with target(settings) as (made, _):
            await made.acquire(spec(), 1)
        assert way.asked == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_emulator_has_a_door_for_websockets_beside_its_others():
    made = Emulator([QueueSpec("orders", requires_session=True)], lock_duration_s=30)
    anywhere = ("127.0.0.1", 0)
    with structlog.testing.capture_logs() as logs:
        async with anyio.create_task_group() as tasks:
            await tasks.start(partial(made.run, anywhere, anywhere, websocket=anywhere))
            (port,) = [entry["port"] for entry in logs if entry.get("transport") == "websocket"]
            async with target(options(port, tls=False, emulator=True, transport="amqp-websocket")) as (held, _):
                await held.acquire(spec(), 1)
            tasks.cancel_scope.cancel()


# The official SDK -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_sdk_over_the_same_websocket_is_refused_what_is_held_and_gets_it_then(authority):
    async with emulator(authority.server("127.0.0.1")) as (_, port):
        sdk = ServiceBusClient.from_connection_string(
            f"Endpoint=sb://127.0.0.1;SharedAccessKeyName=local;SharedAccessKey={KEY}",
            transport_type=TransportType.AmqpOverWebsocket,
            custom_endpoint_address=f"sb://127.0.0.1:{port}",
            connection_verify=str(authority.file),
            retry_total=0,
        )
        settings = options(port, transport="amqp-websocket", ca_file=str(authority.file))
        async with sdk, target(settings) as (made, _):
            await made.acquire(spec(), 1)
            async with sdk.get_queue_sender("orders") as sender:
                await sender.send_messages(ServiceBusMessage("x" * 100_000, session_id="s1"))
            with pytest.raises(SessionCannotBeLockedError):
                await sdk.get_queue_receiver("orders", session_id="s1").__aenter__()
            await made.release(spec(), 1)
            async with sdk.get_queue_receiver("orders", session_id="s1") as receiver:
                (message,) = await receiver.receive_messages(1, max_wait_time=5)
                assert str(message) == "x" * 100_000
                await receiver.complete_message(message)
