"""Whether anybody still waits for an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import anyio

from renewer.asgi import stopping_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope

    Sign = Callable[[], Awaitable[object]]


async def while_wanted(request: Request, wait: Callable[[], Awaitable[object]]) -> None:
    """Wait for as long as there is somebody to answer: not when the caller has gone, or the server stops."""
    failure: Exception | None = None
    work = anyio.CancelScope()
    watches = [(sign, anyio.CancelScope()) for sign in _signs(request.scope, request.receive)]
    async with anyio.create_task_group() as tasks:
        for sign, watch in watches:
            tasks.start_soon(_cancel_after, sign, work, watch)
        with work:
            try:
                await wait()
            except Exception as error:
                failure = error
        # Each by itself, not all with the group: of a task that ends as cancelled anyio leaves a cycle with its
        # traceback and all that was under way, 18 KiB for each request, to the collector.
        for _, watch in watches:
            watch.cancel()
    if failure is not None:
        try:
            raise failure
        finally:
            del failure


async def cancel_when_unwanted(scope: Scope, receive: Receive, work: anyio.CancelScope) -> None:
    """Cancel `work` the moment that the caller closes its connection, or the server is told to stop."""
    async with anyio.create_task_group() as tasks:
        for sign in _signs(scope, receive):
            tasks.start_soon(_cancel_after, sign, work, anyio.CancelScope())


def _signs(scope: Scope, receive: Receive) -> list[Sign]:
    """What is over when nobody waits any longer."""
    stopping = stopping_of(scope)
    return [partial(_left, receive), *([] if stopping is None else [stopping.wait])]


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel_after(sign: Sign, work: anyio.CancelScope, watch: anyio.CancelScope) -> None:
    with watch:
        await sign()
        work.cancel()
