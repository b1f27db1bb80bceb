"""A result's body on its way out: from memory, or from its file in pieces that worker threads read.

However large it is, and however slowly it is taken, no more than a piece of it is in memory, and the loop that renews
waits for no disk.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from io import FileIO
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar
from starlette.responses import StreamingResponse

from renewer.errors import RegistryError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from renewer.core.model import Result

_T = TypeVar("_T")

PIECE = 256 * 1024
"""Bytes that are read, and sent, at a time."""

_READERS = 8
_TRIES = 3

_limiter: RunVar[anyio.CapacityLimiter] = RunVar("renewer.api.bodies")


@dataclass(frozen=True, slots=True)
class OpenResult:
    """A result whose body can be read to its end, whatever happens to the operation. Closed by being sent."""

    result: Result
    file: FileIO | None

    def response(self, headers: Mapping[str, str]) -> StreamingResponse:
        """The body, with `headers` and its length."""
        return _BodyResponse(self, {**headers, "Content-Length": str(self.result.size)})


async def open_result(ask: Callable[[], Awaitable[Result | None]]) -> OpenResult | None:
    """The result that `ask` gives, ready to be sent; None if it gives none.

    It is asked again where the file is gone before it could be opened: results move when they are stored. Raises
    `RegistryError` if the body cannot be had.
    """
    path = ""
    for _ in range(_TRIES):
        result = await ask()
        if result is None or result.file is None:
            return None if result is None else OpenResult(result, None)
        path = result.file
        try:
            return OpenResult(result, await _in_thread(partial(_open, path, result.size)))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _unreadable(path, error) from error
    raise RegistryError(f"{path}: the result is gone, somebody removed its file: put it back, or forget the operation")


class _BodyResponse(StreamingResponse):
    """Sends a result, and closes its file, sent or not."""

    def __init__(self, found: OpenResult, headers: Mapping[str, str]) -> None:
        super().__init__(_pieces(found), headers=headers)
        self._file = found.file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with _closing(self._file):
            await super().__call__(scope, receive, send)


@asynccontextmanager
async def _closing(file: FileIO | None) -> AsyncIterator[None]:
    try:
        yield
    finally:
        if file is not None:
            # Whoever closes a file that was removed meanwhile waits for the disk to take its blocks back.
            with anyio.CancelScope(shield=True):
                await _in_thread(file.close)


async def _pieces(found: OpenResult) -> AsyncIterator[bytes]:
    if found.file is None:
        for begin in range(0, len(found.result.body), PIECE):
            yield found.result.body[begin : begin + PIECE]
        return
    left = found.result.size
    while left:
        try:
            piece = await _in_thread(partial(found.file.read, min(PIECE, left)))
        except OSError as error:
            raise _unreadable(found.result.file, error) from error
        if not piece:
            raise RegistryError(f"{found.result.file}: the result was cut short while it was sent")
        left -= len(piece)
        yield piece


def _open(path: str, size: int) -> FileIO:
    file = FileIO(path)
    if os.fstat(file.fileno()).st_size != size:
        file.close()
        raise RegistryError(
            f"{path}: the result is damaged (it should be {size} bytes long and is not): restore it from a backup, or "
            "forget the operation"
        )
    return file


def _unreadable(path: str | None, error: OSError) -> RegistryError:
    why = error.strerror or type(error).__name__
    return RegistryError(f"{path}: the result cannot be read: {why}: look after the disk and what may read it")


async def _in_thread(work: Callable[[], _T]) -> _T:
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_READERS)
        _limiter.set(limiter)
    return await anyio.to_thread.run_sync(work, limiter=limiter)
