"""A file that is filled from afar: what was there before stays until all of the new has arrived."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
from pathlib import Path
from typing import IO

PIECE = 256 * 1024
"""Bytes that are written at a time."""

_MODE = 0o666
"""Of a new file, less the umask, as everybody makes files."""


class Unwritable(Exception):  # noqa: N818 - carries the error that the caller gets
    """The file cannot be written; `error` says why."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class Saving:
    """Fills `path` under another name beside it, and renames that when it is whole.

    A link is followed. What is there and no regular file, such as a terminal or a pipe, is written to when all has
    arrived. Every method raises `Unwritable`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.size = 0
        self._path = Path(os.path.realpath(path))
        self._file: IO[bytes] | None = None
        self._unfinished: Path | None = None

    def begin(self) -> None:
        """Begin, or begin anew."""
        self.discard()
        try:
            self._open()
        except OSError as error:
            raise Unwritable(error) from error

    def write(self, piece: bytes) -> None:
        """Add what comes next."""
        if self._file is None:
            raise RuntimeError("nothing was begun")
        try:
            self._file.write(piece)
        except OSError as error:
            raise Unwritable(error) from error
        self.size += len(piece)

    def finish(self) -> None:
        """It is whole: put it in its place."""
        if self._file is None:
            raise RuntimeError("nothing was begun")
        try:
            self._file.flush()
            if self._unfinished is None:
                self._file.seek(0)
                with self._path.open("wb") as out:
                    shutil.copyfileobj(self._file, out)
            else:
                os.fsync(self._file.fileno())
                self._unfinished.rename(self._path)
                self._unfinished = None
        except OSError as error:
            raise Unwritable(error) from error

    def discard(self) -> None:
        """Leave nothing behind. No error after `finish`, or if nothing was begun."""
        file, self._file = self._file, None
        unfinished, self._unfinished = self._unfinished, None
        self.size = 0
        with contextlib.suppress(OSError):
            if file is not None:
                file.close()
        with contextlib.suppress(OSError):
            if unfinished is not None:
                unfinished.unlink()

    def _open(self) -> None:
        before = self._mode_before()
        if before is not None and not stat.S_ISREG(before):
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by discard
            return
        unfinished = self._path.with_name(f".{self._path.name[:100]}.{secrets.token_hex(8)}.part")
        descriptor = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, _MODE)
        self._unfinished = unfinished
        self._file = os.fdopen(descriptor, "wb")
        if before is not None:
            os.fchmod(descriptor, stat.S_IMODE(before))

    def _mode_before(self) -> int | None:
        """The mode of what is there already; None if nothing is."""
        try:
            mode = self._path.stat().st_mode
        except FileNotFoundError:
            return None
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self._path))
        if stat.S_ISREG(mode):
            # To rename over a file that must not be written is allowed, and not what anybody means.
            self._path.open("ab").close()
        return mode
