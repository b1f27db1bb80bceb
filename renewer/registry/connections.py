"""Connections to a database file, as every part of the SQLite registry has them."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from pathlib import Path

BUSY_TIMEOUT_S = 5.0


def read_write(path: Path) -> sqlite3.Connection:
    """Transactions begin and end where we say so; the connection may move from thread to thread."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.text_factory = _text
    return connection


def read_only(path: Path) -> sqlite3.Connection:
    """Changes nothing in the file or its -wal, not even when it is closed; what is in the -wal is read all the same."""
    where = f"file:{quote(str(path))}?mode=ro"
    connection = sqlite3.connect(where, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    connection.text_factory = _text
    return connection


def _text(raw: bytes) -> str:
    # What is not UTF-8 becomes what no reader of ours takes, instead of an error about the whole query.
    return raw.decode("utf-8", "surrogateescape")
