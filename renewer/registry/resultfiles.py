"""Results that are too large for a row: one file each, whole before any row names it, written or taken over.

A file's name is drawn anew for each result, so that nothing is ever written over what a row still names. Files that
no row names are what a crash, or a failed removal, left behind.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from renewer.registry.privatefiles import flush_directory, make_directory, make_file, tighten

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Set
    from pathlib import Path

    from renewer.ports import Batch

_NAME = re.compile(r"[0-9a-f]{32}")
_NO_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What a file system says that has no hard links, or is another one: there the file is copied."""
_PIECE = 1024 * 1024


def is_result_file(name: object) -> bool:
    """Whether `name` is one that `ResultFiles` gives; a damaged row must not lead anywhere else."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def files_given(batch: Batch) -> list[str]:
    """The files that are the registry's once `batch` is written."""
    return [*batch.unwanted, *(result.file for result in batch.results.values() if result.file is not None)]


def remove_files(paths: Iterable[str | Path]) -> None:
    """Remove files; one that cannot be removed is left to be swept later."""
    for path in paths:
        with suppress(OSError):
            os.unlink(path)


class ResultFiles:
    """The directory of results. Every method raises `OSError`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def prepare(self) -> None:
        """Make the directory, and take everybody else's permissions away."""
        make_directory(self.directory)
        for name in self._names():
            tighten(self.directory / name)

    def path(self, name: str) -> Path:
        """Where the file is."""
        return self.directory / name

    def store(self, bodies: Iterable[bytes]) -> list[str]:
        """Write each body to a file of its own, all of them or none; they are durable when this returns."""
        names: list[str] = []
        try:
            for body in bodies:
                names.append(secrets.token_hex(16))
                self._write(names[-1], [body])
            if names:
                flush_directory(self.directory)
        except BaseException:
            self.remove(names)
            raise
        return names

    def take(self, sources: Iterable[Path]) -> list[str]:
        """Have each file under a name of our own, all of them or none; durable when this returns.

        The file stays where it is, too, for whoever must do this again. One that is gone has a name and no file, which
        is what `size` says of it.
        """
        names: list[str] = []
        try:
            for source in sources:
                names.append(secrets.token_hex(16))
                self._link(source, names[-1])
            if names:
                flush_directory(self.directory)
        except BaseException:
            self.remove(names)
            raise
        return names

    def size(self, name: str) -> int:
        """How long the body is."""
        return self.path(name).stat().st_size

    def remove(self, names: Iterable[str]) -> None:
        """Remove results; a file that cannot be removed is left to be swept later."""
        remove_files(map(self.path, names))

    def sweep(self, claimed: Set[str], *, at_most: int) -> int:
        """Remove files that nobody claims, and say how many."""
        count = 0
        for name in self._unclaimed(claimed):
            if count == at_most:
                break
            self.remove([name])
            count += 1
        return count

    def set_aside(self, claimed: Set[str], to: Path) -> int:
        """Move files that nobody claims to another directory, and say how many."""
        count = 0
        for name in self._unclaimed(claimed):
            make_directory(to)
            self.path(name).rename(to / name)
            count += 1
        return count

    def _unclaimed(self, claimed: Set[str]) -> Iterator[str]:
        return (name for name in self._names() if name not in claimed)

    def _names(self) -> list[str]:
        try:
            with os.scandir(self.directory) as found:
                return [entry.name for entry in found if entry.is_file(follow_symlinks=False)]
        except FileNotFoundError:
            return []

    def _link(self, source: Path, name: str) -> None:
        try:
            self.path(name).hardlink_to(source)
        except OSError as error:
            if error.errno == errno.ENOENT and not source.exists():
                return
            if error.errno not in _NO_LINKS:
                raise
            with source.open("rb") as file:
                self._write(name, iter(lambda: file.read(_PIECE), b""))

    def _write(self, name: str, pieces: Iterable[bytes]) -> None:
        unfinished = self.path(f"{name}.tmp")
        try:
            with os.fdopen(make_file(unfinished), "wb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(self.path(name))
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise
