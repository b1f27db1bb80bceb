"""Results that are too large for a row: one file each, written whole before any row names it.

A file's name is drawn anew for each result, so that nothing is ever written over what a row still names. Files that
no row names are what a crash, or a failed removal, left behind.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from renewer.registry.privatefiles import flush_directory, make_directory, make_file, tighten

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Set
    from pathlib import Path

_NAME = re.compile(r"[0-9a-f]{32}")


def is_result_file(name: object) -> bool:
    """Whether `name` is one that `ResultFiles` gives; a damaged row must not lead anywhere else."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


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
                self._write(names[-1], body)
            if names:
                flush_directory(self.directory)
        except BaseException:
            self.remove(names)
            raise
        return names

    def read(self, name: str) -> bytes:
        """The whole body."""
        return self.path(name).read_bytes()

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; one that cannot be removed is left to be swept later."""
        for name in names:
            with suppress(OSError):
                self.path(name).unlink()

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

    def _write(self, name: str, body: bytes) -> None:
        unfinished = self.path(f"{name}.tmp")
        try:
            with os.fdopen(make_file(unfinished), "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(self.path(name))
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise
