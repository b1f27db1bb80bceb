"""`python -m benchmarks.bytecopy PORT`: passes bytes on to a port of this machine and back, and does nothing else.

What any go-between on asyncio adds at least. It says on which port it listens. All read into one pad: a buffer of their
own for each read, as asyncio.Protocol has it, costs three calls to the system's memory as often as not.
"""

from __future__ import annotations

import asyncio
import socket
import sys

PAD = memoryview(bytearray(256 * 1024))


class End(asyncio.BufferedProtocol):
    """One side of a worker's connection."""

    def get_buffer(self, sizehint: int) -> memoryview:
        return PAD


class Upstream(End):
    """The way to the broker, of one worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        _without_delay(transport)

    def buffer_updated(self, nbytes: int) -> None:
        self.worker.transport.write(bytes(PAD[:nbytes]))

    def connection_lost(self, _: Exception | None) -> None:
        self.worker.transport.close()


class Worker(End):
    """A worker's connection."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.upstream: asyncio.Transport | None = None
        self.waiting: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        _without_delay(transport)
        self.dialing = asyncio.create_task(self.dial())

    async def dial(self) -> None:
        loop = asyncio.get_running_loop()
        self.upstream, _ = await loop.create_connection(lambda: Upstream(self), "127.0.0.1", int(sys.argv[1]))
        self.upstream.writelines(self.waiting)

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(PAD[:nbytes])
        if self.upstream is None:
            self.waiting.append(data)
        else:
            self.upstream.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        if self.upstream is not None:
            self.upstream.close()


def _without_delay(transport: asyncio.BaseTransport) -> None:
    transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Worker, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
