"""Streams of events (text/event-stream, as the HTML standard has it): the one place that writes them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import TYPE_CHECKING

import anyio
from starlette.responses import Response

from renewer.api.documents import to_json
from renewer.api.wanted import cancel_when_unwanted

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

KEEP_ALIVE_S = 10.0
"""A stream that has nothing to tell says at least so after this long; a reader can then tell it from a dead one."""

GAP = "stream.gap"
"""The type of the event that says that some before it are missing."""

_OPENING = b"retry: 1000\n\n"
_KEEP_ALIVE = b": keep-alive\n\n"

Frames = AbstractAsyncContextManager[AsyncGenerator[bytes, None]]
"""Where a stream's bytes come from; left the moment that the stream ends, from whichever side."""


def frame(event: str, document: object, *, id_: str = "") -> bytes:
    """One event. JSON in one line, so that it is one ``data:`` field; an event that cannot be replayed has no id."""
    head = f"id: {id_}\nevent: {event}\n" if id_ else f"event: {event}\n"
    return head.encode() + b"data: " + to_json(document) + b"\n\n"


class EventStream(Response):
    """An answer that goes on until its frames end, its reader goes, or the server stops.

    The frames are opened before the answer begins, so that a refusal can still be told as a problem. A reader that
    does not read holds back this stream alone; the server lets go of one that does not read at all.
    """

    media_type = "text/event-stream"

    def __init__(self, open_frames: Callable[[], Frames]) -> None:
        super().__init__(None, 200, {"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._open_frames = open_frames
        # Its length is not known.
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream."""
        async with self._open_frames() as frames:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            writer = _Writer(send)
            async with anyio.create_task_group() as tasks, aclosing(frames):
                tasks.start_soon(cancel_when_unwanted, scope, receive, tasks.cancel_scope)
                tasks.start_soon(writer.keep_alive)
                await writer.write(_OPENING)
                async for some in frames:
                    await writer.write(some)
                tasks.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Writer:
    """Writes frames, one at a time, and says that it lives when there are none."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._turn = anyio.Lock()
        self._silent_since = anyio.current_time()

    async def write(self, some: bytes) -> None:
        async with self._turn:
            await self._send({"type": "http.response.body", "body": some, "more_body": True})
            self._silent_since = anyio.current_time()

    async def keep_alive(self) -> None:
        while True:
            due_at = self._silent_since + KEEP_ALIVE_S
            await anyio.sleep_until(due_at)
            if self._silent_since + KEEP_ALIVE_S <= anyio.current_time():
                await self.write(_KEEP_ALIVE)
