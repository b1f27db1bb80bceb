"""Results that come to the SQLite registry in files: taken over without a copy, and never lost in between."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from renewer.errors import RegistryError
from renewer.ports import Batch, EntryKind
from renewer.registry import SqliteRegistry
from tests.registry.registry_rig import LARGE, arrived, in_use, lease, mode, operation, spooled, stored, whole

pytestmark = pytest.mark.anyio


async def test_a_file_in_the_place_for_results_is_not_copied(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry):
        result = arrived(registry)
        before = spooled(registry)[0].stat()
        await registry.write(Batch(puts=[operation("a")], results={"a": result}))
        (kept,) = spooled(registry)
        after = kept.stat()
        assert (after.st_ino, after.st_nlink) == (before.st_ino, 1)
        assert kept.suffix == ""


@pytest.mark.parametrize("error", [errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP])
async def test_where_there_are_no_links_a_file_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def no_links(self: Path, target: Path) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("a")], results={"a": arrived(registry)}))
        assert await whole(registry, "a") == LARGE
        (kept,) = spooled(registry)
        assert mode(kept) == 0o600


async def test_a_file_from_elsewhere_is_taken_over_too(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "state")
    async with in_use(registry):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.write_bytes(LARGE.body)
        result = arrived(registry)
        spooled(registry)[0].rename(elsewhere)
        moved = type(result)(result.kind, result.content_type, file=str(elsewhere), stored_size=result.stored_size)
        await registry.write(Batch(puts=[operation("a")], results={"a": moved}))
        assert await whole(registry, "a") == LARGE
        assert not elsewhere.exists()


async def test_a_transaction_that_failed_keeps_the_file_and_none_of_its_names(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("a", 1)]))
        shell = sqlite3.connect(tmp_path / "registry.sqlite3", isolation_level=None)
        shell.execute("CREATE TRIGGER no BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'not today'); END")
        result = arrived(registry)
        batch = Batch(puts=[operation("a", 2)], results={"a": result})
        for _ in range(3):
            with pytest.raises(RegistryError, match="not today"):
                await registry.write(batch)
            assert [str(path) for path in spooled(registry)] == [result.file]
        shell.execute("DROP TRIGGER no")
        shell.close()
        await registry.write(batch)
        assert await whole(registry, "a") == LARGE
        assert len(spooled(registry)) == 1


async def test_a_commit_that_was_made_and_told_as_failed_costs_nothing(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry):
        database = registry._database
        assert database is not None
        batch = Batch(puts=[operation("a")], results={"a": arrived(registry)})

        class Lying:
            def __init__(self, connection: sqlite3.Connection) -> None:
                self._real = connection

            def __getattr__(self, name: str) -> object:
                return getattr(self._real, name)

            def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
                cursor = self._real.execute(sql, *parameters)
                if sql == "COMMIT":
                    raise sqlite3.OperationalError("disk I/O error")
                return cursor

        real = database._connection
        database._connection = Lying(real)  # type: ignore[assignment]
        with pytest.raises(RegistryError):
            await registry.write(batch)
        database._connection = real
        assert await whole(registry, "a") == LARGE
        await registry.write(batch)
        assert await whole(registry, "a") == LARGE
        assert len(spooled(registry)) == 1


async def test_the_disk_that_takes_no_more_keeps_the_file_for_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target), None, str(self))

    registry = SqliteRegistry(tmp_path)
    async with in_use(registry):
        result = arrived(registry)
        batch = Batch(puts=[operation("a"), lease("b")], results={"a": result})
        with monkeypatch.context() as patch:
            patch.setattr(Path, "hardlink_to", full)
            with pytest.raises(RegistryError, match="the disk is full"):
                await registry.write(batch)
        assert [str(path) for path in spooled(registry)] == [result.file]
        await registry.write(batch)
        assert await whole(registry, "a") == LARGE


async def test_what_was_still_arriving_at_a_crash_is_swept_at_the_next_start(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path)
    await stored(registry, Batch(puts=[operation("a")], results={"a": LARGE}))
    arrived(registry)
    async with in_use(SqliteRegistry(tmp_path)) as opened:
        assert opened.set_aside is None
        assert len(spooled(registry)) == 1


async def test_a_crash_between_storing_and_removing_leaves_one_file(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry):
        result = arrived(registry)
        await registry.write(Batch(puts=[operation("a")], results={"a": result}))
        (kept,) = spooled(registry)
        os.link(kept, str(result.file))
    again = SqliteRegistry(tmp_path)
    async with in_use(again) as opened:
        assert opened.set_aside is None
        assert await whole(again, "a") == LARGE
        assert spooled(again) == [kept]


async def test_a_result_can_be_read_to_its_end_though_its_operation_is_forgotten(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("a")], results={"a": arrived(registry)}))
        result = await registry.result("a")
        assert result is not None
        with spooled(registry)[0].open("rb") as file:
            assert str(file.name) == result.file
            await registry.write(Batch(deletes=[(EntryKind.OPERATION, "a")]))
            assert spooled(registry) == []
            assert file.read() == LARGE.body
