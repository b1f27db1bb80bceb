"""`python -m benchmarks.azurecorepeer URL COUNT`: azure-core follows operations, as its own SDKs do.

It says first how much memory (MiB) it has before it follows any.
"""

from __future__ import annotations

import asyncio
import sys
from os import getpid
from typing import Any

from azure.core import AsyncPipelineClient
from azure.core.pipeline.policies import AsyncRetryPolicy, HeadersPolicy, RequestIdPolicy
from azure.core.polling import AsyncLROPoller
from azure.core.polling.async_base_polling import AsyncLROBasePolling
from azure.core.rest import HttpRequest

from benchmarks.processes import rss_mib


async def follow(base_url: str, count: int) -> None:
    """Start so many operations, and follow them until killed."""
    policies: list[Any] = [RequestIdPolicy(), HeadersPolicy(), AsyncRetryPolicy()]
    client: AsyncPipelineClient[Any, Any] = AsyncPipelineClient(base_url, policies=policies)
    async with client, asyncio.TaskGroup() as tasks:
        print(rss_mib(getpid()), flush=True)
        for _ in range(count):
            tasks.create_task(_one(client, base_url))


async def _one(client: AsyncPipelineClient[Any, Any], base_url: str) -> None:
    # Pollers begin with the answer as generated clients hand it to them.
    first = await client.send_request(HttpRequest("POST", f"{base_url}/v1/start"), _return_pipeline_response=True)
    poller: AsyncLROPoller[Any] = AsyncLROPoller(client, first, lambda done: done, AsyncLROBasePolling())
    await poller.result()


if __name__ == "__main__":
    asyncio.run(follow(sys.argv[1], int(sys.argv[2])))
