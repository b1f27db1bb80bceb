"""The registry that is embedded: one SQLite file and a directory of large results, in the daemon's own state_dir."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from renewer.errors import RegistryError
from renewer.ports import Batch, Entry, Opened
from renewer.registry import salvage
from renewer.registry.database import Database, Synchronous
from renewer.registry.failures import DamagedError, told
from renewer.registry.privatefiles import lock_exclusively, make_directory, make_parents
from renewer.registry.resultfiles import ResultFiles
from renewer.registry.schema import MIGRATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from renewer.core.model import Result
    from renewer.registry.schema import Migration

_T = TypeVar("_T")

DATABASE = "registry.sqlite3"
LOCK = "registry.lock"
RESULTS = "results"
_MAX_SWEPT_AT_OPEN = 1_000


class SqliteRegistry:
    """Keeps everything in `state_dir`, which belongs to one process at a time.

    A body of more than `inline_result_bytes` becomes a file in `results/`, and what comes in a file stays one. After a
    failure the same object may be used again: what failed was not done, or at least not acknowledged. A call that was
    begun is ended, cancelled or not. `migrations` is for tests.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        synchronous: Synchronous = "full",
        inline_result_bytes: int = 64 * 1024,
        migrations: Sequence[Migration] = MIGRATIONS,
    ) -> None:
        self._state_dir = state_dir.absolute()
        self._path = self._state_dir / DATABASE
        self._files = ResultFiles(self._state_dir / RESULTS)
        self._synchronous: Synchronous = synchronous
        self._inline_bytes = inline_result_bytes
        self._migrations = migrations
        self._limiter: anyio.CapacityLimiter | None = None
        self._thread = ThreadPoolExecutor(1, "registry")
        self._lock: int | None = None
        self._database: Database | None = None

    async def open(self) -> Opened:
        """Take the directory, bring the file to the present version, and read everything; a damaged one is set aside.

        Opening it again begins anew.
        """
        self._limiter = anyio.CapacityLimiter(1)
        return await self._in_thread(self._open)

    async def write(self, batch: Batch) -> None:
        """Make the changes; they are on disk when this returns."""
        await self._in_thread(lambda: self._opened().write(batch))

    async def result(self, operation_id: str) -> Result | None:
        """The result of an operation, its body in `body` or in `file`; None if none is stored."""
        return await self._in_thread(lambda: self._opened().result(operation_id))

    def spool_dir(self) -> Path:
        """`results/`: there while this is open, and swept whenever it is opened."""
        return self._files.directory

    async def close(self) -> None:
        """Let go of the directory."""
        await self._in_thread(self._close)

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        # Shielded to the last: whoever is cancelled meanwhile still learns whether it was done.
        with anyio.CancelScope(shield=True):
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                return await anyio.to_thread.run_sync(call, limiter=self._limiter)
            # anyio's threads take two turns of the event loop more, 10 ms each while thousands are polled.
            return await loop.run_in_executor(self._thread, call)
        raise AssertionError("nobody cancels this scope")

    def _opened(self) -> Database:
        if self._database is None:
            raise RegistryError(f"{self._path} is not open: call open() first")
        return self._database

    def _open(self) -> Opened:
        self._close()
        with told(self._state_dir):
            if not self._state_dir.is_dir():
                make_parents(self._state_dir)
                make_directory(self._state_dir)
            self._lock = lock_exclusively(self._state_dir / LOCK)
        try:
            with told(self._path):
                return self._read()
        except BaseException:
            self._close()
            raise

    def _read(self) -> Opened:
        self._files.prepare()
        set_aside = salvage.settle(self._path, self._files, self._migrations)
        try:
            generation, entries = self._open_database()
        except DamagedError as damage:
            self._let_go_of_database()
            salvage.put_out_of_the_way(self._path)
            told_so = salvage.settle(self._path, self._files, self._migrations, cause=str(damage))
            set_aside = "; ".join(filter(None, (set_aside, told_so)))
            try:
                generation, entries = self._open_database()
            except DamagedError as again:
                raise RegistryError(
                    f"{self._path}: it was rebuilt and is damaged again ({again}): check the disk, or set another "
                    "state_dir"
                ) from again
        return Opened(generation, entries, set_aside)

    def _open_database(self) -> tuple[int, list[Entry]]:
        self._database = Database(
            self._path,
            self._files,
            self._migrations,
            synchronous=self._synchronous,
            inline_bytes=self._inline_bytes,
        )
        opened = self._database.read()
        self._files.sweep(self._database.claimed_files(), at_most=_MAX_SWEPT_AT_OPEN)
        return opened

    def _close(self) -> None:
        try:
            with told(self._path):
                self._let_go_of_database()
        finally:
            lock, self._lock = self._lock, None
            if lock is not None:
                os.close(lock)

    def _let_go_of_database(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()
