"""A registry that forgets: for tests, and for whoever wants nothing on disk."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from renewer.errors import RegistryError
from renewer.ports import Batch, Entry, EntryKind, Opened
from renewer.registry.documents import document_text, in_order
from renewer.registry.resultfiles import files_given, remove_files

if TYPE_CHECKING:
    from renewer.core.model import Result


@dataclass(frozen=True, slots=True)
class _Kept:
    number: int
    text: str


class MemoryRegistry:
    """Keeps everything for as long as this object lives, closed or not. No thread, and it never waits.

    What is given away is always a copy, so that nothing can be changed but by `write`. Files of results stay where they
    are: in a temporary directory, which is made when somebody asks for it and goes with this object.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[EntryKind, str], _Kept] = {}
        self._results: dict[str, Result] = {}
        self._generation = 0
        self._is_open = False
        self._directory: Path | None = None

    async def open(self) -> Opened:
        """Read everything; `generation` counts how often this object was opened."""
        self._generation += 1
        self._is_open = True
        entries = (Entry(kind, id_, kept.number, json.loads(kept.text)) for (kind, id_), kept in self._entries.items())
        return Opened(self._generation, in_order(entries))

    async def write(self, batch: Batch) -> None:
        """Make the changes."""
        self._check_open()
        puts = {(entry.kind, entry.id): _Kept(entry.number, document_text(entry)) for entry in batch.puts}
        obsolete = files_given(batch)
        for kind, id_ in batch.deletes:
            self._entries.pop((kind, id_), None)
            if kind is EntryKind.OPERATION:
                obsolete += self._keep(id_, None)
        self._entries.update(puts)
        for id_, result in batch.results.items():
            if not result.is_elsewhere and (EntryKind.OPERATION, id_) in self._entries:
                obsolete += self._keep(id_, result)
        if obsolete:
            remove_files(set(obsolete) - {result.file for result in self._results.values()})

    async def result(self, operation_id: str) -> Result | None:
        """The result of an operation, its body in `body` or in `file`; None if none is stored."""
        self._check_open()
        result = self._results.get(operation_id)
        if result is not None:
            _check_there(result, operation_id)
        return result

    def spool_dir(self) -> Path:
        """The temporary directory."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="renewer-"))
            weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        return self._directory

    async def close(self) -> None:
        """Let go of it; what it holds stays for the next `open`."""
        self._is_open = False

    def _keep(self, operation_id: str, result: Result | None) -> list[str]:
        """Returns the files that this makes obsolete."""
        before = self._results.pop(operation_id, None)
        if result is not None:
            self._results[operation_id] = result
        return [] if before is None or before.file is None else [before.file]

    def _check_open(self) -> None:
        if not self._is_open:
            raise RegistryError("the registry in memory is not open: call open() first")


def _check_there(result: Result, operation_id: str) -> None:
    if result.file is not None and not Path(result.file).exists():
        raise RegistryError(f"{result.file}: the result of operation {operation_id} is gone, somebody removed its file")
