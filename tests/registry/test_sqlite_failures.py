"""What the machine refuses is said with file, cause and remedy, and is over when its cause is gone."""

from __future__ import annotations

import os
import resource
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from renewer.errors import RegistryError
from renewer.ports import Batch
from renewer.registry import SqliteRegistry, connections
from renewer.registry.failures import explained
from tests.registry.registry_rig import LARGE, SMALL, contents, ids, in_use, lease, operation, stored, whole

pytestmark = pytest.mark.anyio


def may_open_anything() -> bool:
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0)
        return os.access(file.name, os.R_OK)


needs_permissions = pytest.mark.skipif(may_open_anything(), reason="permissions do not hold this user back")


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_database_refuses_the_write_and_takes_it_once_there_is_room(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry):
        await registry.write(Batch(puts=[lease("before")]))
        connection = registry._database._connection  # type: ignore[union-attr]
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        big = Batch(puts=[lease("first", 2), lease("big", 3, text="x" * 100_000)])
        with pytest.raises(RegistryError) as caught:
            await registry.write(big)
        assert str(caught.value) == (
            f"{tmp_path / 'registry.sqlite3'}: the disk is full: make room; what is already registered is safe, and "
            "the next write is tried as ever"
        )
        connection.execute("PRAGMA max_page_count = 1000000")
        await registry.write(Batch(puts=[lease("after", 4)]))
        await registry.write(big)
    assert ids(await contents(registry)) == ["before", "first", "big", "after"]


async def test_a_disk_that_takes_no_more_refuses_the_write_and_keeps_the_rest(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("before")]))
        room = (tmp_path / "registry.sqlite3-wal").stat().st_size + 20_000
        with no_file_larger_than(room):
            with pytest.raises(RegistryError, match=r"registry\.sqlite3: .*: make room"):
                await registry.write(Batch(puts=[lease("half"), lease("big", text="x" * 100_000)]))
            with pytest.raises(RegistryError, match="it may not grow further"):
                await registry.write(Batch(puts=[operation("half")], results={"before": SMALL, "half": LARGE}))
            assert await registry.result("before") is None
        assert list((tmp_path / "results").iterdir()) == []
        await registry.write(Batch(results={"before": LARGE}))
        assert await whole(registry, "before") == LARGE
    assert ids(await contents(registry)) == ["before"]


async def test_a_disk_that_takes_nothing_at_the_start_is_no_damage(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "state")
    with no_file_larger_than(64), pytest.raises(RegistryError):
        await registry.open()
    assert (await contents(registry)).set_aside is None
    await stored(registry, Batch(puts=[lease("a")]))
    with no_file_larger_than(64), pytest.raises(RegistryError):
        await registry.open()
    opened = await contents(registry)
    assert (ids(opened), opened.set_aside) == (["a"], None)


@pytest.mark.parametrize("name", ["registry.sqlite3", "registry.lock"])
async def test_a_directory_where_a_file_should_be_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    registry = SqliteRegistry(tmp_path)
    with pytest.raises(RegistryError) as caught:
        await registry.open()
    assert str(caught.value) == f"{tmp_path / name}: it is a directory: move it away, or set another state_dir"
    (tmp_path / name).rmdir()
    assert ids(await contents(registry)) == []


async def test_a_file_where_a_directory_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for directory in (tmp_path / "file", tmp_path / "file" / "state"):
        with pytest.raises(RegistryError, match=f"^{tmp_path / 'file'}.*: move .*, or set another state_dir$"):
            await SqliteRegistry(directory).open()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "results").touch()
    with pytest.raises(RegistryError, match="results: it is in the way: move it away"):
        await SqliteRegistry(tmp_path / "state").open()


@needs_permissions
async def test_a_directory_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    registry = SqliteRegistry(directory)
    await stored(registry, Batch(puts=[lease("a")]))
    for name in ("registry.lock", "registry.sqlite3"):
        (directory / name).chmod(0o000)
        with pytest.raises(RegistryError) as caught:
            await registry.open()
        assert str(caught.value).startswith(f"{directory / name}: permission denied: let the user that renewer runs as")
        (directory / name).chmod(0o600)
    directory.chmod(0o500)
    with pytest.raises(RegistryError, match="own and write it and its directory"):
        await registry.open()
    directory.chmod(0o700)
    assert ids(await contents(registry)) == ["a"]


async def test_another_program_that_keeps_it_locked_is_waited_for_and_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BUSY_TIMEOUT_S", 0.01)
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry):
        shell = sqlite3.connect(tmp_path / "registry.sqlite3", isolation_level=None)
        shell.execute("BEGIN IMMEDIATE")
        with pytest.raises(RegistryError, match="another program has it locked: end what else has it open"):
            await registry.write(Batch(puts=[operation("a")], results={"a": LARGE}))
        assert list((tmp_path / "results").iterdir()) == []
        shell.execute("ROLLBACK")
        shell.close()
        await registry.write(Batch(puts=[lease("b")]))
    assert ids(await contents(registry)) == ["b"]


async def test_a_program_that_reads_it_disturbs_nobody(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry):
        shell = sqlite3.connect(tmp_path / "registry.sqlite3", isolation_level=None)
        shell.execute("BEGIN")
        shell.execute("SELECT count(*) FROM entries").fetchall()
        await registry.write(Batch(puts=[lease("a")]))
        shell.close()
    assert ids(await contents(registry)) == ["a"]


@pytest.mark.parametrize("how", ["moved", "replaced"])
async def test_a_file_that_is_taken_away_while_in_use_takes_no_more_writes(tmp_path: Path, how: str) -> None:
    path, away = tmp_path / "registry.sqlite3", tmp_path / "away"
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("a")], results={"a": SMALL}))
        path.rename(away)
        if how == "replaced":
            path.write_bytes(away.read_bytes())
        for use in (lambda: registry.write(Batch(puts=[lease("b")])), lambda: registry.result("a")):
            with pytest.raises(RegistryError, match="was moved, removed or replaced while renewer was using it"):
                await use()
        away.rename(path)
        await registry.write(Batch(puts=[lease("c")]))
    assert ids(await contents(registry)) == ["c", "a"]


async def test_a_document_never_appears_in_an_error(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry):
        for bad in ({"token": "hush", "x": b""}, {"token": "hush", "x": float("nan")}):
            with pytest.raises(RegistryError) as caught:
                await registry.write(Batch(puts=[lease("a", 1, **bad)]))
            assert "hush" not in f"{caught.value}{caught.value!r}"


def test_a_failure_that_nobody_foresaw_still_names_file_and_remedy() -> None:
    path = Path("/state/registry.sqlite3")
    assert str(explained(path, OSError(9999, "gremlins"))) == (
        "/state/registry.sqlite3: gremlins: look after it, or set another state_dir"
    )
    assert str(explained(path, OSError())).startswith("/state/registry.sqlite3: OSError: ")
    assert str(explained(path, sqlite3.ProgrammingError("odd"))) == (
        "/state/registry.sqlite3: SQLite says odd: look after the file, and restart renewer"
    )
