"""A gateway whose relays know no AMQP, a broker that is any server, and workers that are any client."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager, suppress

import anyio
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSListener

from renewer.daemon.clock import SystemClock
from renewer.gateway.options import GatewayOptions, TcpAddress, WorkerKey
from renewer.gateway.server import GatewayServer
from renewer.targets.servicebus import NamespaceOptions, SharedAccessKey
from tests.gateway.fake_relay import FakeRelay, FakeTarget


def namespace(port, **changes):
    settings = {"hostname": "localhost", "host": "127.0.0.1", "port": port, "tls": False, "connect_timeout_s": 5.0}
    return NamespaceOptions(**(settings | {"credential": SharedAccessKey("local", "a2V5")} | changes))


def options(upstream, **changes):
    settings = {"name": "main", "listen": TcpAddress("127.0.0.1", 0), "namespace": upstream}
    settings |= {"keys": (WorkerKey("local", "a2V5", ("*",)),)}
    return GatewayOptions(**(settings | changes))


class Peer:
    """One end of a stream, which says and hears."""

    def __init__(self, stream):
        self.stream = stream
        self.heard = bytearray()

    async def say(self, words):
        await self.stream.send(words)

    async def hear(self, words):
        """Hear these words next."""
        while len(self.heard) < len(words):
            self.heard += await self.stream.receive()
        assert bytes(self.heard[: len(words)]) == words
        del self.heard[: len(words)]

    async def hear_all(self):
        """Everything until the other side ends."""
        with suppress(anyio.EndOfStream):
            while True:
                self.heard += await self.stream.receive()
        await self.stream.aclose()
        return bytes(self.heard)

    async def count(self, size):
        """Hear so many bytes, whatever they are."""
        count = len(self.heard)
        self.heard.clear()
        while count < size:
            count += len(await self.stream.receive(1 << 20))
        assert count == size

    async def reset(self):
        """Let go of the connection as a process does that was killed with something unread."""
        raw_socket = self.stream.extra(SocketAttribute.raw_socket)
        raw_socket.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # SOL_SOCKET, SO_LINGER: on, 0 s
        await anyio.aclose_forcefully(self.stream)


class Upstream:
    """What the gateway connects to."""

    def __init__(self):
        self._put, self._get = anyio.create_memory_object_stream[Peer](1000)
        self._release = anyio.Event()
        self.port = 0

    async def next(self):
        """The next connection."""
        return await self._get.receive()

    async def serve(self, context, wrap):
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            self.port = listener.extra(SocketAttribute.local_port)
            inner = listener if context is None else _Quiet(listener, context, standard_compatible=False)

            async def handle(stream):
                async with AsyncExitStack() as stack:
                    stream = stream if wrap is None else await wrap(stream)
                    await stack.enter_async_context(stream)
                    self._put.send_nowait(Peer(stream))
                    await anyio.sleep_forever()

            yield self, inner, handle

    def close(self):
        self._put.close()
        self._get.close()


class _Quiet(TLSListener):
    """Handshakes that fail are the other side's to judge."""

    @staticmethod
    async def handle_handshake_error(exc, stream):
        await anyio.aclose_forcefully(stream)


@asynccontextmanager
async def upstream(*, context=None, wrap=None):
    """A server; with `context` inside TLS; with `wrap` as something else that is a stream."""
    made = Upstream()
    serving = made.serve(context, wrap)
    made, listener, handle = await anext(serving)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield made
        tasks.cancel_scope.cancel()
    with suppress(StopAsyncIteration):
        await anext(serving)
    made.close()


class Rig:
    """A gateway that runs."""

    def __init__(self, settings, provider, tasks):
        self.relays = []
        self.target = FakeTarget()
        self.settings = settings
        self.tasks = tasks
        self.server = GatewayServer(settings, self.target, SystemClock(), None, provider, make_relay=self._make_relay)
        self.peers = AsyncExitStack()

    def _make_relay(self, *arguments, **more):
        self.relays.append(FakeRelay(*arguments, **more))
        return self.relays[-1]

    async def worker(self, *, tls=None):
        """Connect."""
        host, _, port = self.server.address.rpartition(":")
        stream = await (
            anyio.connect_unix(self.server.address)
            if not host
            else anyio.connect_tcp(host, int(port), ssl_context=tls, tls=tls is not None, tls_standard_compatible=False)
        )
        await self.peers.enter_async_context(stream)
        return Peer(stream)

    async def let_through(self, upstream, *, tls=None):
        """A worker that has a way to the broker: both ends of it."""
        worker = await self.worker(tls=tls)
        await worker.say(b"let-in local\ndial\n")
        await worker.hear(b"welcome\ndialed\n")
        other = await upstream.next()
        # Nobody waits at the end for what a test has left open.
        self.peers.push_async_callback(anyio.aclose_forcefully, other.stream)
        return worker, other

    async def until(self, what):
        """Wait until this is so; asked again whenever the gateway may have done something."""
        while not what():  # noqa: ASYNC110 - it changes without a sign
            await anyio.sleep(0.001)


@asynccontextmanager
async def gateway(settings, provider=None):
    """A gateway that runs until the end of the block."""
    async with anyio.create_task_group() as tasks:
        rig = Rig(settings, provider, tasks)
        await tasks.start(lambda task_status: rig.server.run(task_status=task_status))
        with anyio.fail_after(20):
            async with rig.peers:
                yield rig
        tasks.cancel_scope.cancel()
    assert rig.server.readings().buffered_bytes == 0
