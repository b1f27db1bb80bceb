"""What the tests of registries share: entries in brief, and a registry that is open for as long as a block lasts."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from renewer.core.model import Result
from renewer.ports import Batch, Entry, EntryKind, Opened
from renewer.registry import MemoryRegistry, SqliteRegistry

if TYPE_CHECKING:
    from renewer.ports import Registry

Reach = Callable[[], "Registry"]
"""Gives a registry for the same store, as each new start of the daemon would."""


def _memory(_directory: Path) -> Reach:
    registry = MemoryRegistry()
    return lambda: registry


def _sqlite(directory: Path) -> Reach:
    return lambda: SqliteRegistry(directory, inline_result_bytes=16)


# A new registry joins the conformance suite and the model by one line here.
STORES: dict[str, Callable[[Path], Reach]] = {
    "memory": _memory,
    "sqlite": _sqlite,
}

SMALL = Result(kind="json", content_type="application/json", body=b'{"a":1}')
LARGE = Result(kind="bytes", content_type=None, body=bytes(range(256)) * 400)


def lease(id_: str, number: int = 1, **document: Any) -> Entry:
    return Entry(EntryKind.LEASE, id_, number, document)


def operation(id_: str, number: int = 1, **document: Any) -> Entry:
    return Entry(EntryKind.OPERATION, id_, number, document)


def callback(id_: str, number: int = 1, **document: Any) -> Entry:
    return Entry(EntryKind.CALLBACK, id_, number, document)


def ids(opened: Opened) -> list[str]:
    return [entry.id for entry in opened.entries]


def named(directory: Path, pattern: str) -> list[Path]:
    return sorted(directory.glob(pattern))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@asynccontextmanager
async def in_use(registry: Registry) -> AsyncIterator[Opened]:
    opened = await registry.open()
    try:
        yield opened
    finally:
        await registry.close()


async def stored(registry: Registry, *batches: Batch) -> None:
    """Open it, write, and close it."""
    async with in_use(registry):
        for batch in batches:
            await registry.write(batch)


async def contents(registry: Registry) -> Opened:
    """What a start of the daemon finds."""
    async with in_use(registry) as opened:
        return opened
