"""The database itself, used by one thread at a time: opened and checked, read, and written in transactions.

Raises `DamagedError` while it is opened and read for the first time; afterwards `RegistryError` alone.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from renewer.errors import RegistryError
from renewer.ports import Batch, Entry, EntryKind
from renewer.registry.connections import read_only, read_write
from renewer.registry.documents import (
    UnreadableError,
    document_text,
    entry_from,
    head_text,
    in_order,
    is_text,
    result_from,
)
from renewer.registry.failures import UNREADABLE, DamagedError, code_of, told
from renewer.registry.privatefiles import tighten
from renewer.registry.resultfiles import files_given, is_result_file, remove_files
from renewer.registry.schema import migrate, version_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from renewer.core.model import Result
    from renewer.registry.resultfiles import ResultFiles
    from renewer.registry.schema import Migration

Synchronous = Literal["full", "normal"]
"""`full`: what was acknowledged survives a power cut. `normal`: it survives the end of the process alone."""

_T = TypeVar("_T")

_MOST_ROWS = 128
"""In one statement, a power of two: SQLite before 3.32 takes 999 values."""
_CHECKPOINT_PAGES = 1_000
_MAX_IDLE_WAL_BYTES = 4 * 1024 * 1024
_PAGES_GIVEN_BACK_AT_OPEN = 5_000


class Database:
    """An open registry file."""

    def __init__(
        self,
        path: Path,
        files: ResultFiles,
        migrations: Sequence[Migration],
        *,
        synchronous: Synchronous,
        inline_bytes: int,
    ) -> None:
        self._path = path
        self._files = files
        self._inline_bytes = inline_bytes
        self._unsure: list[str] = []
        # Says more about what is wrong than SQLite would. Never again while it is open: closing any descriptor of
        # this file drops SQLite's locks on it (POSIX advisory locks).
        os.close(os.open(path, os.O_RDWR))
        for suffix in ("", "-wal", "-shm"):
            tighten(path.with_name(path.name + suffix))
        found = path.stat()
        self._identity = (found.st_dev, found.st_ino)
        _inspect(path, len(migrations))
        self._connection = read_write(path)
        try:
            self._prepare(migrations, synchronous)
        except BaseException:
            self._connection.close()
            raise

    def read(self) -> tuple[int, list[Entry]]:
        """The generation that begins now, and every entry."""
        with _damage_told_apart(sqlite3.SQLITE_ERROR), self._transaction():  # that is: not our tables
            self._connection.execute("UPDATE registry SET generation = generation + 1 WHERE id = 1")
            generations = self._connection.execute("SELECT generation FROM registry WHERE id = 1").fetchall()
            if len(generations) != 1 or not isinstance(generations[0][0], int):
                raise DamagedError("its count of starts is not there")
            try:
                rows = self._connection.execute("SELECT kind, id, number, document FROM entries NOT INDEXED")
                entries = [entry_from(*row) for row in rows]
            except UnreadableError as error:
                raise DamagedError(str(error)) from error
        return generations[0][0], in_order(entries)

    def claimed_files(self) -> set[str]:
        """The names of all files that hold a result."""
        return {name for (name,) in self._connection.execute("SELECT file FROM results WHERE file IS NOT NULL")}

    def write(self, batch: Batch) -> None:
        """Make the changes in one transaction; large results are on disk before it, obsolete ones removed after it.

        So are the files that results came in: until then they stay, in case it must be done again.
        """
        self._check_in_place()
        puts = [(entry.kind, entry.id, entry.number, document_text(entry)) for entry in batch.puts]
        # A result whose body is kept elsewhere is kept here already.
        results = {id_: result for id_, result in batch.results.items() if not result.is_elsewhere and is_text(id_)}
        deletes = [(kind, id_) for kind, id_ in batch.deletes if is_text(id_)]
        names: dict[str, str] = {}
        try:
            with told(self._path), self._transaction():
                names = self._store_large(results)
                try:
                    obsolete = self._apply(deletes, puts, results, names)
                except BaseException:
                    self._files.remove(names.values())
                    raise
        except BaseException:
            # The disk may have kept a commit that it said failed, so its files stay until a later one stands.
            self._unsure += names.values()
            self._give_room_back()
            raise
        self._files.remove([*obsolete, *self._unsure])
        self._unsure.clear()
        remove_files(files_given(batch))

    def result(self, operation_id: str) -> Result | None:
        """The result of an operation, with its body or the file that holds it."""
        self._check_in_place()
        if not is_text(operation_id):
            return None
        with told(self._path):
            row = self._connection.execute(
                "SELECT head, size, body, file FROM results WHERE operation = ?", (operation_id,)
            ).fetchone()
        if row is None:
            return None
        head, size, body, file = row
        where = self._path
        try:
            if body is not None:
                if not isinstance(body, bytes):
                    raise UnreadableError("its body is not bytes")
                _check_length(len(body), size)
                return result_from(head, body)
            if not is_result_file(file):
                raise UnreadableError("its file has a name that was never given")
            where = self._files.path(file)
            with told(where):
                _check_length(self._files.size(file), size)
            return replace(result_from(head, b""), stored_size=size, file=str(where))
        except RegistryError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            raise RegistryError(
                f"{where}: the result of operation {operation_id} is gone, somebody removed its file: put the file "
                "back, or forget the operation"
            ) from error.__cause__
        except UnreadableError as error:
            raise RegistryError(
                f"{where}: the result of operation {operation_id} is damaged ({error}): restore it from a backup, or "
                "forget the operation"
            ) from error

    def close(self) -> None:
        """Bring the -wal back into the file and let go of it."""
        self._connection.close()

    def _prepare(self, migrations: Sequence[Migration], synchronous: Synchronous) -> None:
        execute = self._connection.execute
        with _damage_told_apart():
            (mode,) = execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise RegistryError(
                    f"{self._path}: its file system cannot share memory between processes: set a state_dir on a "
                    "local disk"
                )
            execute(f"PRAGMA synchronous = {synchronous}")
            execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            execute(f"PRAGMA journal_size_limit = {_MAX_IDLE_WAL_BYTES}")
            execute("PRAGMA trusted_schema = OFF")
            # In KiB, and enough: all is read once, at the start, and what is written is not looked at again. With four
            # times as much, batches took as long and wrote as many pages.
            execute("PRAGMA cache_size = -64")
            try:
                migrate(self._connection, migrations)
            except UnreadableError as error:
                raise DamagedError(str(error)) from error
            execute("PRAGMA foreign_keys = ON")
            # As a script, because `execute` stops after the first page.
            self._connection.executescript(f"PRAGMA incremental_vacuum({_PAGES_GIVEN_BACK_AT_OPEN})")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # Some failures roll back by themselves.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _store_large(self, results: Mapping[str, Result]) -> dict[str, str]:
        large = [id_ for id_, result in results.items() if result.file is None and result.size > self._inline_bytes]
        arrived = {id_: Path(result.file) for id_, result in results.items() if result.file is not None}
        with told(self._files.directory):
            stored = dict(zip(large, self._files.store(results[id_].body for id_ in large), strict=True))
            try:
                return {**stored, **dict(zip(arrived, self._files.take(arrived.values()), strict=True))}
            except BaseException:
                self._files.remove(stored.values())
                raise

    def _apply(
        self,
        deletes: Sequence[tuple[EntryKind, str]],
        puts: Sequence[tuple[str, str, int, str]],
        results: Mapping[str, Result],
        names: Mapping[str, str],
    ) -> list[str]:
        """Returns the names of files that nobody needs once this is committed."""
        obsolete = [file for kind, id_ in deletes if kind is EntryKind.OPERATION for file in self._file_of(id_)]
        for kind in {kind for kind, _ in deletes}:
            for ids in _in_pieces([id_ for of, id_ in deletes if of == kind]):
                self._connection.execute(_delete(len(ids)), [kind, *ids])
        for rows in _in_pieces(puts):
            self._connection.execute(_put(len(rows)), list(chain.from_iterable(rows)))
        for id_, result in results.items():
            obsolete += self._put_result(id_, result, names.get(id_))
        return obsolete

    def _put_result(self, operation_id: str, result: Result, file: str | None) -> list[str]:
        obsolete = self._file_of(operation_id)
        body = result.body if file is None else None
        count = self._connection.execute(
            "INSERT INTO results (operation, head, size, body, file) SELECT ?, ?, ?, ?, ? WHERE EXISTS "
            "(SELECT 1 FROM entries WHERE kind = 'operation' AND id = ?) ON CONFLICT (operation) DO UPDATE SET "
            "head = excluded.head, size = excluded.size, body = excluded.body, file = excluded.file",
            (operation_id, head_text(result), result.size, body, file, operation_id),
        ).rowcount
        if count == 0 and file is not None:
            obsolete.append(file)
        return obsolete

    def _file_of(self, operation_id: str) -> list[str]:
        rows = self._connection.execute(
            "SELECT file FROM results WHERE operation = ? AND file IS NOT NULL", (operation_id,)
        )
        return [file for (file,) in rows if is_result_file(file)]

    def _give_room_back(self) -> None:
        # What the -wal takes up may be just what the next try needs, on a disk that is full.
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _check_in_place(self) -> None:
        # SQLite goes on writing to a file that has no name any more, and calls it durable.
        try:
            found = self._path.stat()
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._identity:
            raise RegistryError(
                f"{self._path}: it was moved, removed or replaced while renewer was using it: put it back, or restart "
                "renewer to begin anew"
            )


def _in_pieces(rows: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """All rows, as many at a time as go into one statement, in powers of two: each is kept, and takes 1.25 KiB a row.

    Python's sqlite3 gives the interpreter away at each step of a statement, and beside a busy event loop gets it back
    up to 5 ms later. With a step for each row a batch of 100 took 100 ms there, where it takes 3 beside an idle one.
    """
    begin, size = 0, _MOST_ROWS
    while begin < len(rows):
        while size > len(rows) - begin:
            size //= 2
        yield rows[begin : begin + size]
        begin += size


def _put(count: int) -> str:
    return (
        f"INSERT INTO entries (kind, id, number, document) VALUES {', '.join(['(?, ?, ?, ?)'] * count)} "  # noqa: S608
        "ON CONFLICT (kind, id) DO UPDATE SET number = excluded.number, document = excluded.document"
    )


def _delete(count: int) -> str:
    return f"DELETE FROM entries WHERE kind = ? AND id IN ({', '.join('?' * count)})"  # noqa: S608


def _check_length(found: int, size: object) -> None:
    if found != size:
        raise UnreadableError(f"it should be {size} bytes long and is not")


def _inspect(path: Path, known_version: int) -> None:
    # With a connection of its own, because one that may write brings the -wal into the file when it is closed, and a
    # damaged file should stay as it was found.
    connection = read_only(path)
    try:
        with _damage_told_apart():
            version_of(path, connection, known_version)
            connection.execute("PRAGMA cell_size_check = ON")
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                raise DamagedError(" ".join(str(verdict).split()))
    finally:
        connection.close()


@contextmanager
def _damage_told_apart(*signs: int) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        if isinstance(error, UnicodeDecodeError):
            raise DamagedError("its layout is garbage") from error
        if code_of(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, *signs}:
            raise DamagedError(str(error)) from error
        raise
