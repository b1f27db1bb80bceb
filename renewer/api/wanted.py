"""Whether anybody still waits for an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio

from renewer.asgi import stopping_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope


async def while_wanted(request: Request, wait: Callable[[], Awaitable[object]]) -> None:
    """Wait for as long as there is somebody to answer: not when the caller has gone, or the server stops."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel_when_unwanted, request.scope, request.receive, tasks.cancel_scope)
        try:
            await wait()
        except Exception as error:
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def cancel_when_unwanted(scope: Scope, receive: Receive, work: anyio.CancelScope) -> None:
    """Cancel `work` the moment that the caller closes its connection, or the server is told to stop."""
    stopping = stopping_of(scope)

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        work.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gone)
        if stopping is not None:
            await stopping.wait()
            work.cancel()
