"""A damaged registry is set aside whole, and what it still holds goes on."""

from __future__ import annotations

import random
import re
import sqlite3
from pathlib import Path

import pytest

from renewer.core.model import Result
from renewer.errors import RegistryError
from renewer.ports import Batch, Entry
from renewer.registry import SqliteRegistry
from renewer.registry.documents import UnreadableError, entry_from
from renewer.registry.schema import MIGRATIONS
from tests.registry.registry_rig import (
    LARGE,
    SMALL,
    callback,
    contents,
    ids,
    in_use,
    lease,
    named,
    operation,
    stored,
    whole,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """What is tested here happens in a thread, whichever the backend is."""
    return "asyncio"


PAGE = 4096
MANY: list[Entry] = [
    *(lease(f"lease-{n:04}", n, text="x" * 150) for n in range(600)),
    *(operation(f"operation-{n:04}", n, text="y" * 150) for n in range(300)),
    *(callback(f"callback-{n:04}", n, text="z" * 150) for n in range(100)),
]
RESULTS = {
    f"operation-{n:04}": Result("bytes", None, bytes([n % 256]) * (100_000 if n % 50 == 0 else 300)) for n in range(300)
}


async def many(directory: Path) -> Path:
    registry = SqliteRegistry(directory)
    shuffled = random.Random(7).sample(MANY, len(MANY))
    await stored(registry, *(Batch(puts=shuffled[n : n + 100]) for n in range(0, 1_000, 100)), Batch(results=RESULTS))
    return directory / "registry.sqlite3"


def asides(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.glob("registry.sqlite3.damaged-*")) if re.search(r"Z(-\d+)?$", path.name)]


def change(path: Path, sql: str) -> None:
    shell = sqlite3.connect(path, isolation_level=None)
    shell.execute("PRAGMA writable_schema = ON")
    shell.execute(sql)
    shell.close()


def spoil(path: Path, page: int, filler: bytes = b"\xff") -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(filler * PAGE)


def leaf_pages(path: Path, table: str) -> list[int]:
    """The pages in which a table's rows are: 13 marks a leaf (SQLite file format 1.6)."""
    content = path.read_bytes()
    shell = sqlite3.connect(path)
    (root,) = shell.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    shell.close()
    found, queue = [], [root]
    while queue:
        number = queue.pop()
        page = content[(number - 1) * PAGE : number * PAGE]
        if page[0] == 13:
            found.append(number)
            continue
        assert page[0] == 5
        cells = int.from_bytes(page[3:5], "big")
        queue.append(int.from_bytes(page[8:12], "big"))
        for cell in range(cells):
            at = int.from_bytes(page[12 + 2 * cell : 14 + 2 * cell], "big")
            queue.append(int.from_bytes(page[at : at + 4], "big"))
    return sorted(found)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a database", b"\0" * PAGE, b"SQLite format 3\0" + b"\0" * 20_000, random.Random(1).randbytes(9_999)],
)
async def test_a_file_that_is_no_database_is_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "registry.sqlite3"
    path.write_bytes(content)
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry) as opened:
        (aside,) = asides(tmp_path)
        assert opened.set_aside is not None
        assert re.fullmatch(
            rf"{re.escape(str(path))} was damaged \(.+\) and is now {re.escape(aside.name)}: 0 entries and 0 results "
            r"could still be read and were kept; .+",
            opened.set_aside,
        )
        assert (opened.generation, list(opened.entries)) == (1, [])
        await registry.write(Batch(puts=[lease("a")]))
    assert aside.read_bytes() == content
    assert aside.stat().st_mode & 0o777 == 0o600
    opened = await contents(registry)
    assert (ids(opened), opened.set_aside, opened.generation) == (["a"], None, 2)


@pytest.mark.parametrize("filler", [b"\xff", b"\0"])
async def test_one_damaged_page_costs_only_what_was_on_it(tmp_path: Path, filler: bytes) -> None:
    path = await many(tmp_path)
    leaves = leaf_pages(path, "entries")
    for page in (leaves[0], leaves[len(leaves) // 2], leaves[-1]):
        spoil(path, page, filler)
    damaged = path.read_bytes()
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry) as opened:
        (aside,) = asides(tmp_path)
        assert aside.read_bytes() == damaged
        assert opened.generation == 2
        found = {(entry.kind, entry.id): entry for entry in opened.entries}
        assert all(entry in MANY for entry in found.values())
        assert len(MANY) - 3 * PAGE // 150 <= len(found) < len(MANY)
        kept = 0
        for id_, result in RESULTS.items():
            if ("operation", id_) in found:
                assert await whole(registry, id_) == result
                kept += 1
        assert f": {len(found):,} entries and {kept:,} results could still be read" in (opened.set_aside or "")
    large = {id_ for id_, result in RESULTS.items() if result.size > 65_536}
    lost = large - {id_ for _, id_ in found}
    beside = tmp_path / f"{aside.name}-results"
    assert len(list(beside.iterdir()) if lost else []) == len(lost)
    assert len(list((tmp_path / "results").iterdir())) == len(large) - len(lost)


async def test_a_file_that_was_cut_short_gives_what_is_left_of_it(tmp_path: Path) -> None:
    path = await many(tmp_path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size * 2 // 3)
    opened = await contents(SqliteRegistry(tmp_path))
    assert opened.set_aside is not None
    assert opened.entries
    assert all(entry in MANY for entry in opened.entries)


async def test_changes_that_were_only_in_the_log_are_salvaged_and_the_log_is_kept(tmp_path: Path) -> None:
    place, crashed = tmp_path / "state", tmp_path / "crashed"
    path = await many(place)
    registry = SqliteRegistry(place)
    async with in_use(registry):
        await registry.write(Batch(puts=[lease("only in the log", 10_000)]))
        copy_state(place, crashed)
    (crashed / "registry.sqlite3-shm").unlink()
    spoil(crashed / "registry.sqlite3", leaf_pages(path, "entries")[3])
    found = [(crashed / f"registry.sqlite3{suffix}").read_bytes() for suffix in ("", "-wal")]
    opened = await contents(SqliteRegistry(crashed))
    assert opened.set_aside is not None
    assert "only in the log" in ids(opened)
    assert len(opened.entries) > len(MANY) - 30
    (aside,) = asides(crashed)
    assert [aside.read_bytes(), aside.with_name(f"{aside.name}-wal").read_bytes()] == found


@pytest.mark.parametrize(
    ("sql", "cause"),
    [
        ("UPDATE entries SET document = '{\"cut\": ' WHERE id = 'bad'", "the document of lease bad is not JSON"),
        ("UPDATE entries SET document = '[1]' WHERE id = 'bad'", "the document of lease bad is not a JSON object"),
        ("UPDATE entries SET document = CAST(x'7b22ff227d' AS TEXT) WHERE id = 'bad'", "is not JSON"),
        ("UPDATE entries SET kind = 'teapot' WHERE id = 'bad'", "a kind or an id that was never written"),
        ("UPDATE entries SET kind = x'00' WHERE id = 'bad'", "no kind, id or number"),
        (
            f"INSERT INTO entries (kind, id, number, document) VALUES ('lease', 'x', 0, '{'[' * 100_000}')",
            "the document of lease x is not JSON",
        ),
    ],
)
async def test_a_row_that_cannot_be_understood_costs_no_other(tmp_path: Path, sql: str, cause: str) -> None:
    registry = SqliteRegistry(tmp_path)
    await stored(registry, Batch(puts=[operation("a"), lease("bad"), operation("c", 2)], results={"a": LARGE}))
    change(tmp_path / "registry.sqlite3", sql)
    async with in_use(registry) as opened:
        assert [id_ for id_ in ids(opened) if id_ != "bad"] == ["a", "c"]
        assert cause in (opened.set_aside or "")
        assert await whole(registry, "a") == LARGE
    assert (await contents(registry)).set_aside is None


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM registry",
        "DROP TABLE results",
        "ALTER TABLE entries RENAME COLUMN document TO text",
        "PRAGMA application_id = 0",
        "PRAGMA user_version = 0",
        "UPDATE sqlite_master SET sql = 'CREATE TABLE gibberish' WHERE name = 'results'",
    ],
)
async def test_a_layout_that_is_not_ours_any_more_is_damage(tmp_path: Path, sql: str) -> None:
    path = tmp_path / "registry.sqlite3"
    await stored(SqliteRegistry(tmp_path), Batch(puts=[lease("a")]))
    change(path, sql)
    opened = await contents(SqliteRegistry(tmp_path))
    assert opened.set_aside is not None
    assert ids(opened) == ([] if "document" in sql else ["a"])
    assert (await contents(SqliteRegistry(tmp_path))).set_aside is None


async def test_an_index_that_went_wrong_costs_nothing(tmp_path: Path) -> None:
    path = await many(tmp_path)
    shell = sqlite3.connect(path)
    (root,) = shell.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_entries_1'").fetchone()
    shell.close()
    spoil(path, root)
    opened = await contents(SqliteRegistry(tmp_path))
    assert opened.set_aside is not None
    assert len(opened.entries) == len(MANY)


@pytest.mark.parametrize("seed", range(25))
async def test_whatever_is_overwritten_it_opens_and_the_damaged_file_is_kept(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    path = await many(tmp_path)
    with path.open("r+b") as file:
        for _ in range(dice.choice([1, 5, 50])):
            file.seek(dice.randrange(100, path.stat().st_size))
            file.write(dice.randbytes(dice.choice([1, 100, 5_000])))
    damaged = path.read_bytes()
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry) as opened:
        assert [aside.read_bytes() for aside in asides(tmp_path)] == ([damaged] if opened.set_aside else [])
        assert len({(entry.kind, entry.id) for entry in opened.entries}) == len(opened.entries)
        await registry.write(Batch(puts=[operation("new")], results={"new": LARGE}))
    opened = await contents(registry)
    assert "new" in ids(opened)
    assert opened.set_aside is None


async def test_an_older_registry_is_salvaged_in_its_version_and_then_brought_forward(tmp_path: Path) -> None:
    def rename(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE entries SET id = 'new-' || id")

    await stored(SqliteRegistry(tmp_path), Batch(puts=[lease("a"), lease("b", 2)]))
    change(tmp_path / "registry.sqlite3", "UPDATE entries SET document = 'x' WHERE id = 'a'")
    opened = await contents(SqliteRegistry(tmp_path, migrations=[*MIGRATIONS, rename]))
    assert ids(opened) == ["new-b"]


async def test_a_row_that_a_step_cannot_understand_costs_no_other(tmp_path: Path) -> None:
    def parse(connection: sqlite3.Connection) -> None:
        for row in connection.execute("SELECT kind, id, number, document FROM entries").fetchall():
            entry_from(*row)

    await stored(SqliteRegistry(tmp_path), Batch(puts=[lease("a"), lease("b", 2)]))
    change(tmp_path / "registry.sqlite3", "UPDATE entries SET document = 'x' WHERE id = 'a'")
    opened = await contents(SqliteRegistry(tmp_path, migrations=[*MIGRATIONS, parse]))
    assert ids(opened) == ["b"]
    assert "the document of lease a is not JSON" in (opened.set_aside or "")


async def test_a_row_that_a_step_will_never_understand_waits_for_a_better_step(tmp_path: Path) -> None:
    def understand_nothing(_connection: sqlite3.Connection) -> None:
        raise UnreadableError("what is this?")

    await stored(SqliteRegistry(tmp_path), Batch(puts=[operation("a")], results={"a": LARGE}))
    for _ in range(2):
        with pytest.raises(RegistryError, match=r"cannot be brought to the version of this renewer \(what is this\?\)"):
            await SqliteRegistry(tmp_path, migrations=[*MIGRATIONS, understand_nothing]).open()
    registry = SqliteRegistry(tmp_path, migrations=[*MIGRATIONS, lambda _: None])
    async with in_use(registry) as opened:
        assert ids(opened) == ["a"]
        assert await whole(registry, "a") == LARGE


async def test_two_damages_in_one_second_are_both_kept(tmp_path: Path) -> None:
    for content in (b"one", b"two", b"three"):
        (tmp_path / "registry.sqlite3").write_bytes(content)
        await contents(SqliteRegistry(tmp_path))
    found = sorted(aside.read_bytes() for aside in asides(tmp_path))
    assert found == [b"one", b"three", b"two"]


async def test_results_without_their_database_are_set_aside(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path)
    await stored(registry, Batch(puts=[operation("a")], results={"a": LARGE}))
    (tmp_path / "registry.sqlite3").unlink()
    opened = await contents(registry)
    (beside,) = named(tmp_path, "registry.sqlite3.damaged-*-results")
    assert [path.read_bytes() for path in beside.iterdir()] == [LARGE.body]
    assert opened.set_aside == (
        f"{tmp_path / 'registry.sqlite3'} was missing although results/ held 1 file: a new one was made, they are in "
        f"{beside.name}"
    )


async def test_a_log_without_its_database_is_not_taken_for_the_new_ones(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry):
        await registry.write(Batch(puts=[lease("a")]))
        log = (tmp_path / "registry.sqlite3-wal").read_bytes()
    (tmp_path / "state" / "registry.sqlite3-wal").write_bytes(log)
    assert ids(await contents(SqliteRegistry(tmp_path / "state"))) == []
    (aside,) = (tmp_path / "state").glob("*.damaged-*-wal")
    assert aside.read_bytes() == log


class Crash(BaseException):
    """The power is gone."""


@pytest.mark.parametrize("operation_name", ["rename", "unlink", "chmod"])
async def test_a_crash_at_any_point_of_the_salvage_loses_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation_name: str
) -> None:
    template = tmp_path / "template"
    puts = [operation("a"), lease("bad"), callback("c")]
    await stored(SqliteRegistry(template), Batch(puts=puts, results={"a": LARGE}))
    change(template / "registry.sqlite3", "UPDATE entries SET document = '' WHERE id = 'bad'")
    (template / "results" / ("0" * 32)).write_bytes(b"of a row that is lost")
    crashes = 0
    while True:
        place = tmp_path / f"crash-{crashes}"
        copy_state(template, place)
        left = crashes
        real = getattr(Path, operation_name)

        def crash_in_time(self: Path, *args: object, real: object = real, **more: object) -> object:
            nonlocal left
            if left == 0:
                raise Crash
            left -= 1
            return real(self, *args, **more)  # type: ignore[operator]

        registry = SqliteRegistry(place)
        with monkeypatch.context() as patch:
            patch.setattr(Path, operation_name, crash_in_time)
            try:
                await contents(registry)
                crashed = False
            except Crash:
                crashed = True
        async with in_use(registry) as opened:
            assert ids(opened) == ["a", "c"]
            assert await whole(registry, "a") == LARGE
        assert [aside.read_bytes() for aside in asides(place)] == [(template / "registry.sqlite3").read_bytes()]
        assert [path.read_bytes() for path in place.glob("*-results/*")] == [b"of a row that is lost"]
        assert not list(place.glob("*salvaging*"))
        if not crashed:
            break
        crashes += 1
    assert crashes > 0 or operation_name == "chmod"


def copy_state(source: Path, to: Path) -> None:
    (to / "results").mkdir(parents=True, mode=0o700)
    for path in source.rglob("*"):
        if path.is_file():
            copy = to / path.relative_to(source)
            copy.write_bytes(path.read_bytes())


async def test_damage_seen_while_running_says_that_a_restart_mends_it(tmp_path: Path) -> None:
    path = await many(tmp_path)
    registry = SqliteRegistry(tmp_path)
    async with in_use(registry):
        connection = registry._database._connection  # type: ignore[union-attr]
        connection.execute("PRAGMA shrink_memory")
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'results'").fetchone()
        spoil(path, root)
        with pytest.raises(RegistryError, match="it is damaged: restart renewer: it sets the file aside"):
            await registry.result("operation-0007")
    opened = await contents(registry)
    assert len(opened.entries) == len(MANY)
    assert opened.set_aside is not None


async def test_a_small_result_that_is_damaged_is_not_given_out(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path)
    await stored(registry, Batch(puts=[operation("a"), operation("b")], results={"a": SMALL, "b": SMALL}))
    change(tmp_path / "registry.sqlite3", "UPDATE results SET head = '{}' WHERE operation = 'a'")
    async with in_use(registry) as opened:
        assert opened.set_aside is None
        with pytest.raises(RegistryError, match=r"result of operation a is damaged \(.*\): restore it from a backup"):
            await registry.result("a")
        assert await whole(registry, "b") == SMALL
