"""A damaged database is put aside, never thrown away, and what can still be read from it goes into a new one.

The steps, each of which may be the last before a crash: the damaged file becomes `….salvaging`; a new one is built from
whatever it still holds, and takes its place; the damaged one becomes `….damaged-STAMP`. As long as there is a
`….salvaging`, the next start goes on from where this one ended.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from renewer.registry.connections import read_only
from renewer.registry.documents import UnreadableError, entry_from, result_from
from renewer.registry.failures import UNREADABLE, code_of
from renewer.registry.privatefiles import flush_directory
from renewer.registry.resultfiles import is_result_file
from renewer.registry.schema import TABLES, build

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from renewer.registry.resultfiles import ResultFiles
    from renewer.registry.schema import Migration

_COMPANIONS = ("-wal", "-shm")
_MAX_ROWID = 2**63 - 1
_MAX_PROBES = 10_000
_MAX_CAUSE = 200


def put_out_of_the_way(path: Path) -> None:
    """Take the place from a damaged database; `settle` does the rest."""
    path.rename(_salvaging(path))


def settle(path: Path, files: ResultFiles, migrations: Sequence[Migration], *, cause: str | None = None) -> str | None:
    """Finish what was begun with a damaged database, and make an empty one where there is none.

    Returns what was set aside, for people. `cause` is how the damage was seen, where this start saw it.
    """
    source = _salvaging(path)
    if source.exists():
        return _settle_damage(path, source, files, migrations, cause)
    return None if path.exists() else _make_new(path, files, migrations)


def readable_rows(connection: sqlite3.Connection, table: str, columns: Sequence[str]) -> Iterator[tuple[object, ...]]:
    """Every row of a table that can be read, though pages between them cannot: each gap from both ends, then halved."""
    chosen = f"SELECT rowid, {', '.join(columns)} FROM {table} NOT INDEXED WHERE rowid > ? AND rowid < ? ORDER BY rowid"  # noqa: S608
    gaps = [(0, _MAX_ROWID)]
    probes = 0
    while gaps and probes < _MAX_PROBES:
        probes += 1
        low, high = gaps.pop()
        try:
            for rowid, *row in connection.execute(chosen, (low, high)):
                low = rowid
                yield tuple(row)
            continue
        except UNREADABLE as error:
            if not _is_about_the_file(error):
                return
        try:
            for rowid, *row in connection.execute(f"{chosen} DESC", (low, high)):
                high = rowid
                yield tuple(row)
            continue
        except UNREADABLE:
            pass
        middle = (low + high) // 2
        if high - low > 2:
            gaps += [(middle, high), (low, middle + 1)]


@dataclass(slots=True)
class _Tally:
    entries: int = 0
    results: int = 0

    def __str__(self) -> str:
        return f"{_count(self.entries, 'entry', 'entries')} and {_count(self.results, 'result', 'results')}"


def _settle_damage(
    path: Path, source: Path, files: ResultFiles, migrations: Sequence[Migration], cause: str | None
) -> str:
    aside = _free_name(path)
    kept: _Tally | None = None
    if not path.exists():
        for suffix in _COMPANIONS:
            _rename(_beside(path, suffix), _beside(source, suffix))
        kept = _rebuild(path, source, migrations)
    claimed = _claimed(path)
    if claimed is not None:
        files.set_aside(claimed, _beside(aside, "-results"))
    for suffix in (*_COMPANIONS, ""):
        _rename(_beside(source, suffix), _beside(aside, suffix))
    flush_directory(path.parent)
    seen = _printable(cause or "seen at an earlier start")
    saved = f"{kept} could still be read and were kept" if kept is not None else "an earlier start kept what it could"
    return (
        f"{path} was damaged ({seen}) and is now {aside.name}: {saved}; anything else is in that file alone, where the "
        ".recover command of the sqlite3 shell may find more"
    )


def _make_new(path: Path, files: ResultFiles, migrations: Sequence[Migration]) -> str | None:
    aside = _free_name(path)
    count = files.set_aside(frozenset(), _beside(aside, "-results"))
    # SQLite would play a -wal that was left alone into the new database.
    _rename(_beside(path, "-wal"), _beside(aside, "-wal"))
    _beside(path, "-shm").unlink(missing_ok=True)
    build(path, migrations)
    if not count:
        return None
    found = _count(count, "file", "files")
    return f"{path} was missing although results/ held {found}: a new one was made, they are in {aside.name}-results"


def _rebuild(path: Path, source: Path, migrations: Sequence[Migration]) -> _Tally:
    tally = _Tally()
    # Read-only, so that the damaged file stays as it was found.
    old = read_only(source)
    try:
        # Without this a database that was cut short cannot be read at all.
        old.execute("PRAGMA writable_schema = ON")
        version = _version(old, len(migrations))
        build(path, migrations, version=version, fill=lambda new: _copy(old, new, tally))
    finally:
        old.close()
    return tally


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, tally: _Tally) -> None:
    new.execute("PRAGMA foreign_keys = ON")
    new.execute("BEGIN IMMEDIATE")
    for table in TABLES:
        columns = [name for _, name, *_ in new.execute(f"PRAGMA table_info({table})")]
        places = ", ".join("?" * len(columns))
        how = "OR REPLACE" if table == "registry" else "OR IGNORE"
        insert = f"INSERT {how} INTO {table} ({', '.join(columns)}) VALUES ({places})"  # noqa: S608
        for row in readable_rows(old, table, columns):
            if not _is_sound(table, dict(zip(columns, row, strict=True))):
                continue
            try:
                count = new.execute(insert, row).rowcount
            except sqlite3.IntegrityError:
                continue  # the result of an operation that could not be read
            tally.entries += count if table == "entries" else 0
            tally.results += count if table == "results" else 0
    new.execute("COMMIT")
    new.execute("PRAGMA foreign_keys = OFF")


def _is_sound(table: str, row: dict[str, object]) -> bool:
    if table == "registry":
        return row["id"] == 1 and isinstance(row["generation"], int) and 0 <= row["generation"] < 2**53
    try:
        if table == "entries":
            entry_from(row["kind"], row["id"], row["number"], row["document"])
            return True
        result_from(row["head"], b"")
    except UnreadableError:
        return False
    body = row["body"]
    return is_result_file(row["file"]) if body is None else isinstance(body, bytes) and len(body) == row["size"]


def _version(old: sqlite3.Connection, newest: int) -> int:
    try:
        (version,) = old.execute("PRAGMA user_version").fetchone()
    except UNREADABLE:
        return newest
    return version if 1 <= version <= newest else newest


def _is_about_the_file(error: sqlite3.DatabaseError | UnicodeDecodeError) -> bool:
    return isinstance(error, UnicodeDecodeError) or code_of(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR}


def _claimed(path: Path) -> frozenset[str] | None:
    """None if the database is damaged once more, which is for whoever opens it next to find."""
    connection = read_only(path)
    try:
        return frozenset(name for (name,) in connection.execute("SELECT file FROM results WHERE file IS NOT NULL"))
    except UNREADABLE:
        return None
    finally:
        connection.close()


def _salvaging(path: Path) -> Path:
    return _beside(path, ".salvaging")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _free_name(path: Path) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    name = _beside(path, f".damaged-{stamp}")
    attempt = 1
    while any(_beside(name, suffix).exists() for suffix in ("", "-results", *_COMPANIONS)):
        attempt += 1
        name = _beside(path, f".damaged-{stamp}-{attempt}")
    return name


def _rename(path: Path, to: Path) -> None:
    try:
        if path.stat().st_size == 0 and path.name.endswith("-wal"):
            path.unlink()
        else:
            path.rename(to)
    except FileNotFoundError:
        return


def _printable(text: str) -> str:
    # SQLite quotes what it found, which may be anything.
    return "".join(char if char.isprintable() else "?" for char in text[:_MAX_CAUSE])


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
