"""A worker as a process of its own: holds a session, says so, and sits on its only thread until somebody kills it."""

from __future__ import annotations

import asyncio
import sys
import time

from azure.servicebus.aio import ServiceBusClient


async def hold(connection_string: str, queue: str, session_ids: list[str]) -> None:
    async with ServiceBusClient.from_connection_string(connection_string) as client:
        for session_id in session_ids:
            await client.get_queue_receiver(queue, session_id=session_id).__aenter__()
        sys.stdout.write("holding\n")
        sys.stdout.flush()
        time.sleep(3600)  # noqa: ASYNC251 - to block the loop is what it is here for.


if __name__ == "__main__":
    asyncio.run(hold(sys.argv[1], sys.argv[2], sys.argv[3:]))
