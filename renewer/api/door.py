"""The door of the control API: it is open at once, and whoever comes before the API is loaded waits for that."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel
from starlette.responses import JSONResponse

from renewer.asgi import serve, stopping_of

if TYPE_CHECKING:
    from anyio.abc import TaskStatus
    from starlette.types import ASGIApp, Receive, Scope, Send

    from renewer.api.control import Control


async def serve_api(
    control: Control,
    listener: socket.socket,
    *,
    key: Callable[[], str | None] = lambda: None,
    loaded: anyio.Event | None = None,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the API on `listener` until cancelled. `key` tells the bearer key that callers must show now, if any.

    Without one, TCP is for programs of this machine alone. Requests are taken in at once, and wait until `load_api` is
    done: `loaded` is set then; None to have it done here.
    """
    loading = _Loading()
    async with anyio.create_task_group() as tasks:
        await tasks.start(serve, loading, listener)
        task_status.started()
        if loaded is None:
            await load_api()
        else:
            await loaded.wait()
        from renewer.api.server import build_api

        loading.end(build_api(control, key=key, over_tcp=listener.family != socket.AF_UNIX))


async def load_api() -> None:
    """Import what answers: a quarter of a second, in pieces that hold up the event loop for half of that at most.

    Not in a thread: one that reads files gives the interpreter away each time, and a busy event loop gives it back 5 ms
    later, so that whoever asked had to wait for 20 s.
    """
    for name in _PIECES:
        importlib.import_module(name)
        await anyio.lowlevel.checkpoint()


class _Loading:
    """An application that is still to come."""

    def __init__(self) -> None:
        self._app: ASGIApp = self._wait
        self._is_there = anyio.Event()

    def end(self, app: ASGIApp) -> None:
        """Here it is."""
        self._app = app
        self._is_there.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        stopping = stopping_of(scope)
        if stopping is None:
            await self._is_there.wait()
        else:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_cancel_when, stopping, tasks.cancel_scope)
                await self._is_there.wait()
                tasks.cancel_scope.cancel()
        if self._is_there.is_set():
            await self._app(scope, receive, send)
        else:
            problem = {"type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": _STOPPING}
            answer = JSONResponse(problem, 503, media_type="application/problem+json")
            await answer(scope, receive, send)


async def _cancel_when(stopping: anyio.Event, scope: anyio.CancelScope) -> None:
    await stopping.wait()
    scope.cancel()


_STOPPING: Final = "the daemon is stopping; ask again when it runs"
_PIECES: Final = (
    "fastapi",
    "renewer.api.models",
    "renewer.api.leases",
    "renewer.api.messages",
    "renewer.api.operations",
    "renewer.api.server",
)
