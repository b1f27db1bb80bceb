"""Where a large body goes while it arrives: into a private file, so that memory is bounded whatever is sent.

Files are written by worker threads, 256 KiB at a time: a disk that is slow, or flushes, must not hold the event loop
that renews locks, and a thread for every small piece would cost more than the writing does.
"""

from __future__ import annotations

import errno
import os
import secrets
import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from renewer.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

_T = TypeVar("_T")

KEPT_IN_MEMORY = 256 * 1024
"""Bytes of a body that stay in memory; what is larger goes into a file, in pieces of this size."""

_THREADS = 4
_MODE = 0o600


class SpoolError(TransientError):
    """A body arrived and could not be kept: the disk is full, or worse. Nothing of it is the service's doing."""

    def __init__(self, directory: Path, error: OSError) -> None:
        remedy = "make room there" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "look after that directory"
        super().__init__(
            f"the answer cannot be kept in {directory} ({error.strerror or type(error).__name__}): {remedy}",
            kind="storage",
            condition="SpoolFailed",
        )


class Spool:
    """Makes files in `directory`, at most four worked on at a time.

    The directory is its owner's to make, to keep private, and to sweep: what a crash leaves is whatever else is there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._limiter: anyio.CapacityLimiter | None = None

    async def in_thread(self, work: Callable[[], _T]) -> _T:
        """Do `work` on a file in a worker thread; it is ended, cancelled or not. Raises `SpoolError`."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(_THREADS)
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._limiter)
        except OSError as error:
            raise SpoolError(self.directory, error) from error


class SpooledFile:
    """A body in a file of its own. The file goes with this object, unless somebody takes it over."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / f"{secrets.token_hex(16)}.part"
        self.size = 0
        self._remove = weakref.finalize(self, _unlink, self.path)

    def take_over(self) -> Path:
        """From now on the file is the caller's, to keep or to remove."""
        self._remove.detach()
        return self.path

    def remove(self) -> None:
        """Remove the file now. No error if it is not there, or was taken over."""
        self._remove()


class ArrivingBody:
    """A body while it arrives: in memory, and from 256 KiB on in a file, if there is a spool.

    A context manager: leaving it with an error, or cancelled, removes the file.
    """

    def __init__(self, spool: Spool | None) -> None:
        self.size = 0
        self._spool = spool
        self._buffer = bytearray()
        self._writer: _Writer | None = None

    async def __aenter__(self) -> ArrivingBody:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._spool is not None and self._writer is not None:
            with anyio.CancelScope(shield=True), suppress(SpoolError):
                await self._spool.in_thread(self._writer.discard)

    async def add(self, piece: bytes) -> None:
        """Take in what comes next. Raises `SpoolError` if it cannot be written."""
        self.size += len(piece)
        self._buffer += piece
        if self._spool is not None and len(self._buffer) > KEPT_IN_MEMORY:
            if self._writer is None:
                self._writer = _Writer(SpooledFile(self._spool.directory))
            full, self._buffer = self._buffer, bytearray()
            await self._spool.in_thread(partial(self._writer.write, full))

    async def finish(self) -> bytes | SpooledFile:
        """The whole body; a file is on disk when this returns. Raises `SpoolError`."""
        if self._spool is None or self._writer is None:
            return bytes(self._buffer)
        await self._spool.in_thread(partial(self._writer.finish, self._buffer))
        # A thread is not interrupted: who was cancelled meanwhile learns it here, while the file can still be removed.
        await anyio.lowlevel.checkpoint_if_cancelled()
        return self._writer.file


class _Writer:
    """Fills one file; used in worker threads, by one at a time."""

    def __init__(self, file: SpooledFile) -> None:
        self.file = file
        self._descriptor: int | None = None

    def write(self, piece: bytearray) -> None:
        if self._descriptor is None:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self.file.path, flags, _MODE)
            os.fchmod(self._descriptor, _MODE)
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self.file.size += len(piece)

    def finish(self, last: bytearray) -> None:
        self.write(last)
        if self._descriptor is not None:
            os.fsync(self._descriptor)
        self._close()

    def discard(self) -> None:
        try:
            self._close()
        finally:
            self.file.remove()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _unlink(path: Path) -> None:
    # What cannot be removed is left to be swept.
    with suppress(OSError):
        path.unlink()
