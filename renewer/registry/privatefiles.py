"""Files that nobody but their owner may read, whatever the umask is, and that are still there after a power cut."""

from __future__ import annotations

import fcntl
import os
import stat
from typing import TYPE_CHECKING

from renewer.errors import RegistryError

if TYPE_CHECKING:
    from pathlib import Path

_FILE = 0o600
_DIRECTORY = 0o700
_PARENT = 0o755


def tighten(path: Path) -> None:
    """Take everybody else's permissions on `path` away. What is not there is no error."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    wanted = _DIRECTORY if stat.S_ISDIR(found.st_mode) else _FILE
    if stat.S_IMODE(found.st_mode) != wanted:
        path.chmod(wanted)


def make_directory(path: Path) -> None:
    """Make a directory of our own, or tighten it."""
    path.mkdir(mode=_DIRECTORY, exist_ok=True)
    tighten(path)


def make_parents(path: Path) -> None:
    """Make the directories above `path` that are not there, such that nobody else can write to them."""
    missing = [parent for parent in path.parents if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(mode=_PARENT, exist_ok=True)


def make_file(path: Path) -> int:
    """Make a new empty file and open it for writing; the caller closes the descriptor."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, _FILE)
    os.fchmod(descriptor, _FILE)
    return descriptor


def flush_directory(path: Path) -> None:
    """Make what was created, renamed or removed in `path` last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_exclusively(path: Path) -> int:
    """Take the lock that only one process can have; closing the descriptor, or dying, gives it back.

    The process id inside is for people; it decides nothing.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, _FILE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            process = f" (process {who})" if who.isdecimal() else ""
            raise RegistryError(
                f"{path.parent}: another renewer{process} is running with this state_dir: stop it first, or give each "
                "its own state_dir"
            ) from None
        os.fchmod(descriptor, _FILE)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
