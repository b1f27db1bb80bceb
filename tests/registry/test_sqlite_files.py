"""What the SQLite registry has on disk: who may read it, who may have it, and what stays behind."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from renewer.core.model import Result
from renewer.errors import RegistryError
from renewer.ports import Batch, EntryKind
from renewer.registry import SqliteRegistry
from tests.registry.registry_rig import (
    LARGE,
    SMALL,
    contents,
    ids,
    in_use,
    lease,
    mode,
    named,
    operation,
    stored,
    whole,
)

pytestmark = pytest.mark.anyio


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def modes(directory: Path) -> dict[str, int]:
    paths = [directory, *directory.rglob("*")]
    return {str(path.relative_to(directory)): mode(path) for path in paths}


def result_files(directory: Path) -> list[Path]:
    return sorted((directory / "results").iterdir())


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
async def test_nobody_else_may_read_anything_whatever_the_umask_is(tmp_path: Path, mask: int) -> None:
    directory = tmp_path / "state"
    with umask(mask):
        async with in_use(SqliteRegistry(directory)) as _:
            pass
        registry = SqliteRegistry(directory)
        async with in_use(registry):
            await registry.write(Batch(puts=[operation("a")], results={"a": LARGE}))
            found = modes(directory)
    (result,) = result_files(directory)
    assert found == {
        ".": 0o700,
        "registry.lock": 0o600,
        "registry.sqlite3": 0o600,
        "registry.sqlite3-wal": 0o600,
        "registry.sqlite3-shm": 0o600,
        "results": 0o700,
        f"results/{result.name}": 0o600,
    }


async def test_nobody_else_may_replace_the_state_dir_whatever_the_umask_is(tmp_path: Path) -> None:
    with umask(0o000):
        async with in_use(SqliteRegistry(tmp_path / "a" / "b" / "state")):
            pass
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/b/state")] == [0o755, 0o755, 0o700]


async def test_files_that_are_too_open_are_tightened(tmp_path: Path) -> None:
    await stored(SqliteRegistry(tmp_path), Batch(puts=[operation("a")], results={"a": LARGE}))
    for path in named(tmp_path, "**/*"):
        path.chmod(0o777 if path.is_dir() else 0o666)
    await contents(SqliteRegistry(tmp_path))
    found = modes(tmp_path)
    del found["."]
    assert all(bits == (0o700 if name == "results" else 0o600) for name, bits in found.items())


async def test_an_existing_state_dir_keeps_its_permissions_because_others_use_it_too(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o750)
    await contents(SqliteRegistry(directory))
    assert mode(directory) == 0o750


async def test_the_state_dir_is_made_with_all_that_leads_to_it(tmp_path: Path) -> None:
    directory = tmp_path / "var" / "lib" / "renewer"
    await stored(SqliteRegistry(directory), Batch(puts=[lease("a")]))
    assert ids(await contents(SqliteRegistry(directory))) == ["a"]


async def test_a_second_daemon_is_told_of_the_first(tmp_path: Path) -> None:
    second = SqliteRegistry(tmp_path)
    first = SqliteRegistry(tmp_path)
    async with in_use(first):
        with pytest.raises(RegistryError) as caught:
            await second.open()
        assert str(caught.value) == (
            f"{tmp_path}: another renewer (process {os.getpid()}) is running with this state_dir: stop it first, or "
            "give each its own state_dir"
        )
        await first.write(Batch(puts=[lease("a")]))
    assert ids(await contents(second)) == ["a"]


async def test_the_lock_is_given_back_when_opening_fails(tmp_path: Path) -> None:
    (tmp_path / "registry.sqlite3").mkdir()
    registry = SqliteRegistry(tmp_path)
    with pytest.raises(RegistryError):
        await registry.open()
    descriptor = os.open(tmp_path / "registry.lock", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


async def test_small_results_are_in_the_row_and_large_ones_in_files(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path, inline_result_bytes=100)
    edge = {
        "at": Result("bytes", None, b"x" * 100),
        "above": Result("bytes", None, b"y" * 101),
    }
    await stored(registry, Batch(puts=[operation("at"), operation("above")], results=edge))
    assert [path.read_bytes() for path in result_files(tmp_path)] == [b"y" * 101]


async def test_files_go_when_nothing_names_them_any_more(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("a"), operation("b")], results={"a": LARGE, "b": LARGE}))
        before = result_files(tmp_path)
        await registry.write(Batch(results={"a": LARGE}))
        replaced = result_files(tmp_path)
        assert (len(before), len(replaced), len({*before} & {*replaced})) == (2, 2, 1)
        await registry.write(Batch(results={"a": SMALL}))
        assert len(result_files(tmp_path)) == 1
        await registry.write(Batch(deletes=[(EntryKind.OPERATION, "b")]))
        assert result_files(tmp_path) == []


async def test_files_of_a_batch_that_failed_go_too(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("a", 1)], results={"a": LARGE}))
        kept = result_files(tmp_path)
        shell = sqlite3.connect(tmp_path / "registry.sqlite3", isolation_level=None)
        shell.execute("CREATE TRIGGER no BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'not today'); END")
        with pytest.raises(RegistryError, match="not today"):
            await registry.write(Batch(puts=[operation("a", 2)], results={"a": LARGE}))
        shell.execute("DROP TRIGGER no")
        shell.close()
        assert result_files(tmp_path) == kept
        assert await whole(registry, "a") == LARGE


async def test_what_a_crash_left_in_results_is_swept_at_the_next_start(tmp_path: Path) -> None:
    await stored(SqliteRegistry(tmp_path), Batch(puts=[operation("a")], results={"a": LARGE}))
    kept = result_files(tmp_path)
    (tmp_path / "results" / ("0" * 32)).write_bytes(b"no row")
    (tmp_path / "results" / f"{'1' * 32}.tmp").write_bytes(b"half")
    (tmp_path / "results" / "a directory").mkdir()
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry) as opened:
        assert opened.set_aside is None
        assert await whole(registry, "a") == LARGE
    assert [path for path in result_files(tmp_path) if path.is_file()] == kept


async def test_a_sweep_is_bounded_and_goes_on_at_the_next_start(tmp_path: Path) -> None:
    await stored(SqliteRegistry(tmp_path), Batch())
    for number in range(1_500):
        (tmp_path / "results" / f"{number:032x}").touch()
    left = []
    for _ in range(2):
        await contents(SqliteRegistry(tmp_path))
        left.append(len(result_files(tmp_path)))
    assert left == [500, 0]


async def test_a_result_whose_file_is_gone_says_so_and_can_be_forgotten(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("op-1")], results={"op-1": LARGE}))
        (file,) = result_files(tmp_path)
        file.unlink()
        with pytest.raises(RegistryError) as caught:
            await registry.result("op-1")
        assert str(caught.value) == (
            f"{file}: the result of operation op-1 is gone, somebody removed its file: put the file back, or forget "
            "the operation"
        )
        await registry.write(Batch(deletes=[(EntryKind.OPERATION, "op-1")]))
        assert await registry.result("op-1") is None


async def test_a_result_whose_file_was_cut_short_is_not_given_out(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("op-1")], results={"op-1": LARGE}))
        (file,) = result_files(tmp_path)
        file.write_bytes(LARGE.body[:-1])
        with pytest.raises(RegistryError, match="result of operation op-1 is damaged"):
            await registry.result("op-1")


async def test_a_row_leads_to_no_file_outside_of_results(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"key")
    registry = SqliteRegistry(tmp_path / "state")
    await stored(registry, Batch(puts=[operation("a")], results={"a": LARGE}))
    shell = sqlite3.connect(tmp_path / "state" / "registry.sqlite3")
    shell.execute("UPDATE results SET file = '../../secret', size = 3")
    shell.commit()
    shell.close()
    async with in_use(registry):
        with pytest.raises(RegistryError, match="damaged"):
            await registry.result("a")
        await registry.write(Batch(deletes=[(EntryKind.OPERATION, "a")]))
    assert secret.read_bytes() == b"key"


async def test_space_is_given_back_when_much_was_deleted(tmp_path: Path) -> None:
    keys = [(EntryKind.LEASE, str(number)) for number in range(500)]
    registry = SqliteRegistry(tmp_path)
    await stored(registry, Batch(puts=[lease(id_, text="x" * 4_000) for _, id_ in keys]))
    full = (tmp_path / "registry.sqlite3").stat().st_size
    await stored(registry, Batch(deletes=keys))
    await contents(registry)
    assert (tmp_path / "registry.sqlite3").stat().st_size < full / 10


async def test_the_log_of_changes_does_not_grow_without_end(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path, synchronous="normal")
    async with in_use(registry):
        for number in range(300):
            await registry.write(Batch(puts=[lease("a", number, text="x" * 100_000)]))
        assert (tmp_path / "registry.sqlite3-wal").stat().st_size < 8 * 1024 * 1024
    assert not (tmp_path / "registry.sqlite3-wal").exists()


async def test_the_file_says_whose_it_is(tmp_path: Path) -> None:
    await contents(SqliteRegistry(tmp_path))
    header = (tmp_path / "registry.sqlite3").read_bytes()[:100]
    assert (header[68:72], header[60:64]) == (b"RNWR", b"\x00\x00\x00\x01")


@pytest.mark.parametrize(("synchronous", "level"), [("full", 2), ("normal", 1)])
async def test_how_durable_a_write_is_can_be_chosen(tmp_path: Path, synchronous: str, level: int) -> None:
    registry = SqliteRegistry(tmp_path, synchronous=synchronous)  # type: ignore[arg-type]
    async with in_use(registry):
        connection = registry._database._connection  # type: ignore[union-attr]
        assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
