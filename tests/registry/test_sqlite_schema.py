"""Versions of the database: forward in whole steps, and no step into what is not known."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from renewer.errors import RegistryError
from renewer.ports import Batch
from renewer.registry import SqliteRegistry
from renewer.registry.schema import MIGRATIONS
from tests.registry.registry_rig import LARGE, contents, ids, in_use, lease, named, operation, stored, whole

pytestmark = pytest.mark.anyio


def add_a_column(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE entries ADD COLUMN touched INTEGER NOT NULL DEFAULT 0")
    for rowid, text in connection.execute("SELECT rowid, document FROM entries").fetchall():
        document = json.dumps({**json.loads(text), "migrated": True})
        connection.execute("UPDATE entries SET document = ?, touched = 1 WHERE rowid = ?", (document, rowid))


def fail_half_way(connection: sqlite3.Connection) -> None:
    add_a_column(connection)
    connection.execute("INSERT INTO nowhere VALUES (1)")


def version(directory: Path) -> int:
    connection = sqlite3.connect(directory / "registry.sqlite3")
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()


async def test_an_older_registry_is_brought_forward_with_all_it_holds(tmp_path: Path) -> None:
    await stored(SqliteRegistry(tmp_path), Batch(puts=[lease("a", 1, x=1), operation("b")], results={"b": LARGE}))
    newer = SqliteRegistry(tmp_path, migrations=[*MIGRATIONS, add_a_column])
    async with in_use(newer) as opened:
        assert opened.generation == 2
        assert list(opened.entries) == [lease("a", 1, x=1, migrated=True), operation("b", 1, migrated=True)]
        assert await whole(newer, "b") == LARGE
    assert version(tmp_path) == len(MIGRATIONS) + 1
    assert ids(await contents(newer)) == ["a", "b"]


async def test_a_new_registry_is_made_in_the_newest_version(tmp_path: Path) -> None:
    await contents(SqliteRegistry(tmp_path, migrations=[*MIGRATIONS, add_a_column]))
    assert version(tmp_path) == len(MIGRATIONS) + 1


async def test_a_step_that_fails_leaves_the_version_before_it(tmp_path: Path) -> None:
    entries = [lease("a", 1, x=1)]
    await stored(SqliteRegistry(tmp_path), Batch(puts=entries))
    with pytest.raises(RegistryError, match="no such table: nowhere"):
        await SqliteRegistry(tmp_path, migrations=[*MIGRATIONS, fail_half_way]).open()
    assert version(tmp_path) == len(MIGRATIONS)
    assert list((await contents(SqliteRegistry(tmp_path))).entries) == entries


async def test_what_one_step_did_stays_when_the_next_fails(tmp_path: Path) -> None:
    await stored(SqliteRegistry(tmp_path), Batch(puts=[lease("a")]))
    with pytest.raises(RegistryError):
        await SqliteRegistry(tmp_path, migrations=[*MIGRATIONS, add_a_column, fail_half_way]).open()
    assert version(tmp_path) == len(MIGRATIONS) + 1
    opened = await contents(SqliteRegistry(tmp_path, migrations=[*MIGRATIONS, add_a_column, lambda _: None]))
    assert list(opened.entries) == [lease("a", 1, migrated=True)]


async def test_a_newer_registry_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    newer = SqliteRegistry(tmp_path, migrations=[*MIGRATIONS, add_a_column])
    await stored(newer, Batch(puts=[operation("a")], results={"a": LARGE}))
    path = tmp_path / "registry.sqlite3"
    before = path.read_bytes()
    with pytest.raises(RegistryError) as caught:
        await SqliteRegistry(tmp_path).open()
    assert str(caught.value) == (
        f"{path} was written by a newer renewer (schema 2, this one knows 1): run that "
        "version or move the file away, together with results/ beside it"
    )
    assert path.read_bytes() == before
    async with in_use(newer) as opened:
        assert ids(opened) == ["a"]
        assert await whole(newer, "a") == LARGE


async def test_another_programs_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    shell = sqlite3.connect(path)
    shell.execute("CREATE TABLE recipes (name)")
    shell.close()
    before = path.read_bytes()
    with pytest.raises(RegistryError, match="another program's database: move it away"):
        await SqliteRegistry(tmp_path).open()
    assert path.read_bytes() == before


async def test_a_half_made_database_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "registry.sqlite3.new").write_bytes(b"SQLite format 3\0 and no more")
    (tmp_path / "registry.sqlite3.new-journal").write_bytes(b"rest")
    opened = await contents(SqliteRegistry(tmp_path))
    assert (opened.generation, opened.set_aside) == (1, None)
    assert [path.name for path in named(tmp_path, "*")] == ["registry.lock", "registry.sqlite3", "results"]
