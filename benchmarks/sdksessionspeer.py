"""`python -m benchmarks.sdksessionspeer PORT COUNT PREFIX AT_ONCE [shared]`: the official SDK holds sessions.

As its users write it: one client, a receiver for each session, one AutoLockRenewer. With `shared` the client is given
an `ssl_context` of its own, which spares it one for each connection. It says, as lines of JSON, what it takes before
the first session is asked for, and how it stands when the last is held; then it holds them until it is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import time
from typing import Any

import certifi
from azure.servicebus.aio import AutoLockRenewer, ServiceBusClient

from benchmarks.processes import rss_mib
from benchmarks.scene import LOCAL

_FOR_EVER_S = 86_400.0


async def hold(port: int, count: int, prefix: str, at_once: int, *, shared: bool) -> None:
    """Hold so many sessions until killed."""
    options: dict[str, Any] = {}
    if shared:
        options["ssl_context"] = ssl.create_default_context(cafile=certifi.where())
    async with (
        ServiceBusClient.from_connection_string(LOCAL.format(port), **options) as client,
        AutoLockRenewer(max_lock_renewal_duration=_FOR_EVER_S) as renewer,
    ):
        _say(rss_mib=rss_mib(os.getpid()))
        began_at = time.monotonic()
        receivers = [
            client.get_queue_receiver("orders", session_id=f"{prefix}-{number}", auto_lock_renewer=renewer)
            for number in range(count)
        ]
        places = asyncio.Semaphore(at_once)

        async def open_one(receiver: Any) -> None:
            async with places:
                await receiver.__aenter__()

        await asyncio.gather(*map(open_one, receivers))
        _say(accept_s=time.monotonic() - began_at, tasks=len(asyncio.all_tasks()))
        await asyncio.Event().wait()


def _say(**values: float) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    asyncio.run(
        hold(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), shared="shared" in sys.argv[5:])
    )
