"""What the tests of registries share: entries in brief, and a registry that is open for as long as a block lasts."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

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


async def whole(registry: Registry, operation_id: str) -> Result | None:
    """A result with its body, wherever that is."""
    result = await registry.result(operation_id)
    if result is None or result.file is None:
        return result
    body = await anyio.Path(result.file).read_bytes()
    assert result.size == len(body)
    return replace(result, body=body, file=None, stored_size=None)


def arrived(registry: Registry, result: Result = LARGE, name: str = "arrived.part") -> Result:
    """The same result as a target hands it over: its body in a file where the registry wants it."""
    path = registry.spool_dir() / name
    path.write_bytes(result.body)
    return replace(result, body=b"", file=str(path), stored_size=len(result.body))


def spooled(registry: Registry) -> list[Path]:
    """Every file where results are."""
    return sorted(registry.spool_dir().iterdir())
