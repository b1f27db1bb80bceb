"""`python -m benchmarks.onebyone LISTEN UPSTREAM`: a way to a broker whose every frame arrives in a write of its own.

The emulator writes the answers to what came together in one piece. A broker that hands requests to others, as the real
service does, answers each when that is done: here after 1 to 3 ms, in the order in which it was asked.
"""

from __future__ import annotations

import asyncio
import random
import sys

from renewer.amqp import AMQP_HEADER

LEAST_S, MOST_S = 0.001, 0.003
GAP_S = 0.0002
"""Between two frames at least, so that a reader that is awake reads each by itself."""


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: int) -> None:
    """One client, until either side ends."""
    from_broker, to_broker = await asyncio.open_connection("127.0.0.1", upstream)

    async def pass_requests() -> None:
        while data := await reader.read(65536):
            to_broker.write(data)
        to_broker.close()

    async def pass_answers() -> None:
        loop = asyncio.get_running_loop()
        leaves_at = 0.0
        try:
            while True:
                frame = await from_broker.readexactly(8)
                if not frame.startswith(AMQP_HEADER[:4]):
                    frame += await from_broker.readexactly(int.from_bytes(frame[:4]) - 8)
                leaves_at = max(leaves_at + GAP_S, loop.time() + random.uniform(LEAST_S, MOST_S))
                loop.call_at(leaves_at, writer.write, frame)
        except asyncio.IncompleteReadError:
            writer.close()

    await asyncio.gather(pass_requests(), pass_answers(), return_exceptions=True)


async def main(listen: int, upstream: int) -> None:
    """Serve until killed."""
    server = await asyncio.start_server(lambda r, w: serve(r, w, upstream), "127.0.0.1", listen)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
