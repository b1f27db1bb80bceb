"""What went wrong with a file, said so that whoever reads it knows what to do: one place for causes and remedies."""

from __future__ import annotations

import errno
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from renewer.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ELSEWHERE = "or set another state_dir"
_WRITABLE = f"let the user that renewer runs as own and write it and its directory, {_ELSEWHERE}"
_FULL = ("the disk is full", "make room; what is already registered is safe, and the next write is tried as ever")
_READ_ONLY = ("it cannot be written: read-only", f"mount its disk writable, {_WRITABLE}")
_LOCKED = ("another program has it locked", "end what else has it open, such as a sqlite3 shell or a backup")
_DAMAGED = ("it is damaged", "restart renewer: it sets the file aside and keeps whatever can still be read")

_BY_ERRNO = {
    errno.ENOENT: ("a directory above it is not there, or cannot be made", "set another state_dir"),
    errno.ENOSPC: _FULL,
    errno.EDQUOT: ("the disk quota is used up", _FULL[1]),
    errno.EFBIG: ("it may not grow further", "raise the limit on file sizes (ulimit -f)"),
    errno.EROFS: _READ_ONLY,
    errno.EACCES: ("permission denied", _WRITABLE),
    errno.EPERM: ("not permitted", _WRITABLE),
    errno.EISDIR: ("it is a directory", f"move it away, {_ELSEWHERE}"),
    errno.ENOTDIR: ("it, or a part of its path, is not a directory", f"move that away, {_ELSEWHERE}"),
    errno.EEXIST: ("it is in the way", f"move it away, {_ELSEWHERE}"),
    errno.EMFILE: ("too many files are open", "raise the limit on open files (ulimit -n, LimitNOFILE=)"),
    errno.ENFILE: ("too many files are open on this machine", "raise fs.file-max"),
    errno.ENOLCK: ("its file system has no locks", "set a state_dir on a local disk"),
    errno.EIO: ("the disk failed", "look into the kernel's log, and check the disk"),
}

_BY_SQLITE_CODE = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_PERM: ("permission denied", _WRITABLE),
    sqlite3.SQLITE_AUTH: ("permission denied", _WRITABLE),
    sqlite3.SQLITE_CANTOPEN: ("it, or the -wal file beside it, cannot be opened", _WRITABLE),
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_IOERR: ("reading or writing it failed", "make room, and look into the kernel's log"),
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_NOLFS: ("it may not grow further", "set a state_dir on a file system for large files"),
}


UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What reading a damaged file may raise: the second where SQLite's own message quotes garbage."""


class DamagedError(Exception):
    """The file holds something that is not, or no longer, a registry; the message says how that was seen."""


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn what fails inside into a `RegistryError` about `path`, or about the file that the system names."""
    try:
        yield
    except OSError as error:
        raise explained(path, error) from error
    except sqlite3.Error as error:
        raise explained(path, error) from error
    except UnicodeDecodeError as error:
        raise RegistryError(f"{path}: {': '.join(_DAMAGED)}") from error


def explained(path: Path, error: OSError | sqlite3.Error) -> RegistryError:
    """File, cause and remedy."""
    if isinstance(error, OSError):
        where = error.filename if isinstance(error.filename, str) else str(path)
        otherwise = (error.strerror or type(error).__name__, f"look after it, {_ELSEWHERE}")
        cause, remedy = _BY_ERRNO.get(error.errno or 0, otherwise)
        return RegistryError(f"{where}: {cause}: {remedy}")
    otherwise = (f"SQLite says {error}", "look after the file, and restart renewer")
    cause, remedy = _BY_SQLITE_CODE.get(code_of(error), otherwise)
    return RegistryError(f"{path}: {cause}: {remedy}")


def code_of(error: sqlite3.Error) -> int:
    """The family of SQLite's error code; 0 for the errors that are Python's own."""
    # The rest of the number says where in SQLite it happened.
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF
