"""A registry that forgets: for tests, and for whoever wants nothing on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from renewer.errors import RegistryError
from renewer.ports import Batch, Entry, EntryKind, Opened
from renewer.registry.documents import document_text, in_order

if TYPE_CHECKING:
    from renewer.core.model import Result


@dataclass(frozen=True, slots=True)
class _Kept:
    number: int
    text: str


class MemoryRegistry:
    """Keeps everything for as long as this object lives, closed or not. No thread, no I/O, and it never waits.

    What is given away is always a copy, so that nothing can be changed but by `write`.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[EntryKind, str], _Kept] = {}
        self._results: dict[str, Result] = {}
        self._generation = 0
        self._is_open = False

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
        for kind, id_ in batch.deletes:
            self._entries.pop((kind, id_), None)
            if kind is EntryKind.OPERATION:
                self._results.pop(id_, None)
        self._entries.update(puts)
        for id_, result in batch.results.items():
            if result.stored_size is None and (EntryKind.OPERATION, id_) in self._entries:
                self._results[id_] = result

    async def result(self, operation_id: str) -> Result | None:
        """The result of an operation; None if none is stored."""
        self._check_open()
        return self._results.get(operation_id)

    async def close(self) -> None:
        """Let go of it; what it holds stays for the next `open`."""
        self._is_open = False

    def _check_open(self) -> None:
        if not self._is_open:
            raise RegistryError("the registry in memory is not open: call open() first")
