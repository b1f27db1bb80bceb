"""The target over TCP on the loopback interface, connected by its own means."""

import random
import socket

import anyio
import pytest
from anyio.abc import SocketAttribute

from renewer.errors import TransientError, UsageError
from renewer.targets.servicebus import NamespaceOptions, ServiceBusTarget, SharedAccessKey
from renewer.targets.servicebus.tcp import TcpConnector
from tests.targets.scripted_broker import TestClock, scripted_broker
from tests.targets.servicebus_rig import failing, spec

pytestmark = pytest.mark.anyio


def options(port, **changes):
    settings = {"hostname": "127.0.0.1", "host": "127.0.0.1", "port": port, "tls": False, "emulator": True}
    settings |= {"credential": SharedAccessKey("rule", "s3cret"), "connect_timeout_s": 5.0}
    return NamespaceOptions(**(settings | changes))


async def test_a_session_is_held_over_tcp():
    async with scripted_broker() as broker, await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        target = ServiceBusTarget(
            options(listener.extra(SocketAttribute.local_port)), TestClock(), lambda loss: None, rng=random.Random(1)
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, broker.serve)
            await tasks.start(lambda task_status: target.run(task_status=task_status))
            with anyio.fail_after(10):
                await target.acquire(spec(), 1)
                await target.renew(spec(), 1)
                await target.release(spec(), 1)
            tasks.cancel_scope.cancel()


async def test_a_connection_that_vanishes_is_given_up_by_the_kernel_too():
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        settings = options(listener.extra(SocketAttribute.local_port))
        async with await TcpConnector(settings)(settings) as stream:
            raw = stream.extra(SocketAttribute.raw_socket)
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000


async def test_a_port_where_nobody_listens_is_transient():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        target = ServiceBusTarget(options(taken.getsockname()[1]), TestClock(), lambda loss: None, rng=random.Random(1))
        async with anyio.create_task_group() as tasks:
            await tasks.start(lambda task_status: target.run(task_status=task_status))
            with anyio.fail_after(10):
                error = await failing(target.acquire(spec(), 1), TransientError)
            assert error.kind == "network"
            tasks.cancel_scope.cancel()


async def test_tls_towards_something_else_is_transient():
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        target = ServiceBusTarget(
            options(listener.extra(SocketAttribute.local_port), tls=True),
            TestClock(),
            lambda loss: None,
            rng=random.Random(1),
        )

        async def answer(stream):
            async with stream:
                await stream.receive()
                await stream.send(b"AMQP\x00\x01\x00\x00")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, answer)
            await tasks.start(lambda task_status: target.run(task_status=task_status))
            with anyio.fail_after(10):
                error = await failing(target.acquire(spec(), 1), TransientError)
            assert error.kind == "network"
            tasks.cancel_scope.cancel()


async def test_a_ca_file_that_is_none_is_said_at_once(tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(UsageError, match=name):
            TcpConnector(options(1, tls=True, ca_file=str(tmp_path / name)))
