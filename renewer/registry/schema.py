"""How the database is laid out, and how one layout becomes the next.

`MIGRATIONS[n]` brings version n to version n + 1; each is made in one transaction together with its version. A released
step is never changed: a new layout is a new step at the end.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from renewer.errors import RegistryError
from renewer.registry.connections import read_write
from renewer.registry.documents import UnreadableError
from renewer.registry.failures import DamagedError
from renewer.registry.privatefiles import flush_directory, make_file

if TYPE_CHECKING:
    from pathlib import Path

APPLICATION_ID = 0x524E5752
""""RNWR" in the database's header: what `file` and other programs know it by."""

TABLES = ("registry", "entries", "results")
"""In the order in which rows can be put into them."""

Migration = Callable[[sqlite3.Connection], None]
"""Changes the layout with `execute`, without beginning or ending a transaction.

Raises `renewer.registry.documents.UnreadableError` for a row that it cannot understand.
"""


def _first_layout(connection: sqlite3.Connection) -> None:
    connection.execute(
        """
        CREATE TABLE registry (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            generation INTEGER NOT NULL CHECK (typeof(generation) = 'integer')
        )
        """
    )
    connection.execute(
        """
        CREATE TABLE entries (
            kind TEXT NOT NULL,
            id TEXT NOT NULL,
            number INTEGER NOT NULL CHECK (typeof(number) = 'integer'),
            document TEXT NOT NULL CHECK (typeof(document) = 'text'),
            UNIQUE (kind, id)
        )
        """
    )
    # Either the body is in the row, or the name of its file in results/ is.
    connection.execute(
        """
        CREATE TABLE results (
            operation TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL DEFAULT 'operation' CHECK (kind = 'operation'),
            head TEXT NOT NULL,
            size INTEGER NOT NULL,
            body BLOB,
            file TEXT,
            CHECK ((body IS NULL) <> (file IS NULL)),
            FOREIGN KEY (kind, operation) REFERENCES entries (kind, id) ON DELETE CASCADE
        )
        """
    )
    connection.execute("INSERT INTO registry (id, generation) VALUES (1, 0)")


MIGRATIONS: Sequence[Migration] = (_first_layout,)


def version_of(path: Path, connection: sqlite3.Connection, known: int) -> int:
    """The version of an existing database.

    Raises `DamagedError` if it cannot be ours as it is, and `RegistryError` if it is another program's or a newer
    renewer's, which is nothing to be set aside.
    """
    application = _pragma(connection, "application_id")
    version = _pragma(connection, "user_version")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if application != APPLICATION_ID:
        if tables and not tables.issuperset(TABLES):
            raise RegistryError(
                f"{path}: it is another program's database: move it away, or set another state_dir for renewer"
            )
        raise DamagedError("it is empty" if not tables else "its header is not ours")
    if version > known:
        raise RegistryError(
            f"{path} was written by a newer renewer (schema {version}, this one knows {known}): run that version or "
            "move the file away, together with results/ beside it"
        )
    if version < 1 or not tables.issuperset(TABLES):
        raise DamagedError("its tables are not there")
    return version


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration], *, until: int | None = None) -> None:
    """Bring the database forward to version `until`, the newest unless said otherwise, a transaction for each step."""
    for version in range(_pragma(connection, "user_version"), len(migrations) if until is None else until):
        connection.execute("BEGIN IMMEDIATE")
        try:
            migrations[version](connection)
            connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def build(
    path: Path,
    migrations: Sequence[Migration],
    *,
    version: int | None = None,
    fill: Callable[[sqlite3.Connection], None] | None = None,
) -> None:
    """Make a new database at `path`, or nothing.

    It is made under another name and renamed when it is whole, so that a half-made one is never taken for damaged.
    `fill` gets it at `version`, before it is brought to the newest.
    """
    unfinished = path.with_name(path.name + ".new")
    for suffix in ("", "-journal", "-wal", "-shm"):
        unfinished.with_name(unfinished.name + suffix).unlink(missing_ok=True)
    os.close(make_file(unfinished))  # SQLite takes the permissions of the files beside it from this one
    connection = read_write(unfinished)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        migrate(connection, migrations, until=version)
        if fill is not None:
            fill(connection)
        try:
            migrate(connection, migrations)
        except UnreadableError as error:
            raise RegistryError(
                f"{path}: it cannot be brought to the version of this renewer ({error}): run the version that wrote it"
            ) from error
        # Now and not later, so that what is at `path` never has a rollback journal that must be played back first.
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    unfinished.rename(path)
    flush_directory(path.parent)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)
