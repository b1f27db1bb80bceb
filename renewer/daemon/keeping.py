"""Keeping: what must survive the daemon goes into the registry, and good news waits until it is there.

News of a change marks its lease or operation; a writer takes what is marked, as it then stands, and stores it in one
batch, so that many changes cost one write; what somebody waits for goes first. News that somebody may build on
(registered, acquired, succeeded) is held back for those milliseconds, in order, so that nothing that was told is
unknown after a crash. Bad news does not wait, unless it is of something whose good news has not been told yet. Renewals
are not written.

When the registry is slow or cannot be written the daemon goes on: everything is told at once, the writer tries again,
and new work is refused by whoever asks `durable`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import anyio
import structlog

from renewer.core.effects import LeaseNews, OperationNews, TellLease, TellOperation
from renewer.daemon import horizon
from renewer.daemon.marks import Mark, Marks
from renewer.errors import RegistryError, UnstorableError
from renewer.ports import Batch, Entry, EntryKind

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from renewer.core.model import Result
    from renewer.daemon.horizon import Horizon
    from renewer.ports import Registry

News = TellLease | TellOperation

PATIENCE_S = 2.0
"""How long good news is held back at most."""

_RETRY_S = (1.0, 2.0, 4.0, 8.0, 10.0)

_log = structlog.get_logger("renewer.registry")


class Deliveries(Protocol):
    """Makes and sends callbacks; they are kept until they are acknowledged."""

    def entry_for(self, news: News) -> Entry | None:
        """The callback that this piece of news asks for, if any."""
        ...

    def send(self, entry: Entry) -> None:
        """The news may be told: deliver the callback."""
        ...


class Keeper:
    """Between the core's news and those who are told it.

    `snapshot` takes down a lease or an operation as it stands, None if it is forgotten; `tell` passes news on.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        snapshot: Callable[[EntryKind, str], Entry | None],
        tell: Callable[[News], None],
        horizon: Horizon,
        deliveries: Deliveries | None = None,
    ) -> None:
        self.trouble: str | None = None
        """Why the registry cannot be written; None while it can."""
        self.failures = 0
        """How often it could not be written."""
        self._registry = registry
        self._snapshot = snapshot
        self._tell = tell
        self._horizon = horizon
        self._deliveries = deliveries
        self._marks = Marks()
        self._under_way: dict[str, Mark] = {}
        self._callbacks: dict[str, Entry] = {}
        self._results: dict[str, Result] = {}
        self._unwanted: list[str] = []
        self._work = anyio.Event()
        self._write_begins = anyio.Event()
        self._write_began_at: float | None = None
        self._is_slow = False

    @property
    def backlog(self) -> int:
        """How many things wait to be stored."""
        return len(self._marks) + len(self._under_way)

    def take(self, news: News) -> None:
        """Take in one piece of news: pass it on, now or when what it tells of is stored."""
        key = news.spec.id
        if news.news is _RENEWED and not self.is_pending(key):
            # Most news are: not kept, and nobody is called back for it.
            self._tell(news)
            return
        kind = EntryKind.LEASE if isinstance(news, TellLease) else EntryKind.OPERATION
        callback = None if self._deliveries is None else self._deliveries.entry_for(news)
        if _is_kept(news) or callback is not None:
            change = self._mark(kind, key)
            if callback is not None:
                self._callbacks[callback.id] = callback
                change.callbacks += (callback.id,)
        waiting = self._pending(key)
        if waiting is None:
            self._pass_on_one(news, callback)
            return
        is_first = not any(mark.held_back for mark in (self._under_way.get(key), waiting) if mark is not None)
        if self._is_slow or self.trouble is not None or (news.news in _NOT_HELD_BACK and is_first):
            self._pass_on_one(news, callback)
        else:
            waiting.held_back += ((news, callback),)
            self._marks.hurry(key)

    def is_pending(self, key: str) -> bool:
        """Whether something of this lease or operation is still to be stored."""
        return key in self._marks or key in self._under_way

    async def durable(self, key: str) -> bool:
        """Wait until all that is known of this lease or operation by now is stored; False if it cannot be."""
        return (await self.all_durable([key]))[0]

    async def all_durable(self, keys: Sequence[str]) -> list[bool]:
        """The same for several, all as they stand now: what fails is tried again, and none waits for that."""
        marks = [self._pending(key) for key in keys]
        for key in keys:
            self._marks.hurry(key)
        for mark in marks:
            if mark is not None:
                await mark.wait()
        return [mark is None or mark.stored for mark in marks]

    async def note_submitting(self, key: str) -> None:
        """Store that the first request of this operation goes out, before it does; returns only when it is stored.

        Whoever starts after a crash then knows that it may have been sent.
        """
        self._mark(EntryKind.OPERATION, key)
        while not await self.durable(key):
            self._mark(EntryKind.OPERATION, key)
            await anyio.sleep(_RETRY_S[0])

    async def cover_poll(self) -> None:
        """Return once the horizon covers a poll that goes out now, or when that cannot be stored."""
        if self._horizon.is_near:
            self._mark_horizon()
            if not self._horizon.covers_now and self.trouble is None:
                await self.durable(horizon.KEY)

    def no_more_polls(self) -> None:
        """The daemon is about to stop: have the next start know that what is due later was not asked."""
        self._horizon.draw_in()
        self._mark_horizon()

    def keep_result(self, key: str, result: Result) -> Result:
        """Take charge of a result's body, or of the file that it is in; what the core needs to know is returned."""
        self._drop_result(key)
        if not result.body and result.file is None:
            return result
        self._results[key] = result
        return result.without_body()

    async def result(self, key: str) -> Result | None:
        """The result of an operation, its body in `body` or in `file`. Raises `RegistryError` if it cannot be read.

        A file may be gone before it is opened, because its result was stored meanwhile: then ask again.
        """
        waiting = self._results.get(key)
        return waiting if waiting is not None else await self._registry.result(key)

    def delivered(self, callback_id: str) -> None:
        """A callback was acknowledged, or given up: it need not be kept."""
        if self._callbacks.pop(callback_id, None) is not None:
            self._mark(EntryKind.CALLBACK, callback_id)

    def restored(self, callback: Entry) -> None:
        """A callback of an earlier run that is still to be delivered."""
        self._callbacks[callback.id] = callback

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Write, until cancelled, what is to be stored. It is called once at a time."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_writes)
            task_status.started()
            failures = 0
            while True:
                if not self._marks and not self._unwanted:
                    self._work = anyio.Event()
                    await self._work.wait()
                if await self._write():
                    failures = 0
                else:
                    await anyio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                    failures += 1

    async def flush(self) -> None:
        """Wait until all that is known of anything by now is stored, or cannot be; not for what comes meanwhile."""
        self._marks.hurry_all()
        for mark in (*self._under_way.values(), *self._marks):
            await mark.wait()

    def _drop_result(self, key: str) -> None:
        """A result that is kept here is not to be stored; its file, if it has one, is the registry's to remove."""
        result = self._results.pop(key, None)
        if result is not None and result.file is not None:
            self._unwanted.append(result.file)
            self._work.set()

    def _mark(self, kind: EntryKind, key: str) -> Mark:
        self._work.set()
        return self._marks.add(kind, key)

    def _mark_horizon(self) -> None:
        self._mark(EntryKind.HORIZON, horizon.KEY)
        # All polls wait for it, or soon will.
        self._marks.hurry(horizon.KEY)

    def _pending(self, key: str) -> Mark | None:
        return self._marks.get(key) or self._under_way.get(key)

    async def _write(self) -> bool:
        batch = self._take_batch()
        self._write_began_at = anyio.current_time()
        self._write_begins.set()
        try:
            unstorable = await self._store(batch)
        except RegistryError as error:
            self._failed(batch, str(error))
            return False
        finally:
            self._write_began_at = None
            self._is_slow = False
        if self.trouble is not None:
            self.trouble = None
            _log.warning("registry written again")
        done, self._under_way = self._under_way, {}
        if horizon.KEY in done:
            self._horizon.stored()
        for key, result in batch.results.items():
            if self._results.get(key) is result:
                del self._results[key]
        for key, mark in done.items():
            mark.stored = key not in unstorable
            self._pass_on(mark)
            mark.finish()
        return True

    async def _store(self, batch: Batch) -> set[str]:
        """Store what can be stored; returns the ids of what never can be, and must not keep the rest waiting."""
        unstorable: set[str] = set()
        while True:
            try:
                await self._registry.write(batch)
            except UnstorableError as error:
                if error.key in unstorable:
                    raise
                unstorable.add(error.key)
                _log.error("record not stored", id=error.key, detail=str(error))
                batch = replace(batch, puts=[entry for entry in batch.puts if entry.id != error.key])
            else:
                return unstorable

    async def _watch_writes(self) -> None:
        """Lose patience with a write that takes too long. A task for each would cost a busy loop some turns of it."""
        while True:
            if self._write_began_at is None:
                self._write_begins = anyio.Event()
                await self._write_begins.wait()
            elif (left_s := self._write_began_at + PATIENCE_S - anyio.current_time()) > 0:
                await anyio.sleep(left_s)
            else:
                if not self._is_slow:
                    self._lose_patience()
                await anyio.sleep(PATIENCE_S)

    def _lose_patience(self) -> None:
        self._is_slow = True
        _log.warning("registry slow", backlog=self.backlog)
        for mark in (*self._under_way.values(), *self._marks):
            self._pass_on(mark)

    def _take_batch(self) -> Batch:
        puts: list[Entry] = []
        deletes: list[tuple[EntryKind, str]] = []
        results: dict[str, Result] = {}
        self._under_way = self._marks.take()
        for key, mark in self._under_way.items():
            entry = None if mark.kind is EntryKind.CALLBACK else self._snapshot(mark.kind, key)
            if entry is None:
                deletes.append((mark.kind, key))
                self._drop_result(key)
            else:
                puts.append(entry)
            if entry is not None and key in self._results:
                results[key] = self._results[key]
            puts += [self._callbacks[name] for name in mark.callbacks if name in self._callbacks]
        unwanted, self._unwanted = self._unwanted, []
        return Batch(puts, deletes, results, unwanted)

    def _failed(self, batch: Batch, why: str) -> None:
        self.failures += 1
        self._unwanted += batch.unwanted
        if self.trouble != why:
            _log.error("registry not written", detail=why)
        self.trouble = why
        done, self._under_way = self._under_way, {}
        again = self._marks.take_all()
        for key, mark in (*done.items(), *again.items()):
            self._pass_on(mark)
            mark.finish()
            # Marked anew for the next try, with nobody waiting.
            self._marks.add(mark.kind, key).callbacks += mark.callbacks

    def _pass_on(self, mark: Mark) -> None:
        while mark.held_back:
            first, mark.held_back = mark.held_back[0], mark.held_back[1:]
            self._pass_on_one(*first)

    def _pass_on_one(self, news: News, callback: Entry | None) -> None:
        self._tell(news)
        if callback is not None and self._deliveries is not None:
            self._deliveries.send(callback)


def _is_kept(news: News) -> bool:
    return news.news in _KEPT and not (isinstance(news, TellOperation) and news.is_routine)


_KEPT: frozenset[LeaseNews | OperationNews] = frozenset(
    {
        LeaseNews.REGISTERED,
        LeaseNews.REVISED,
        LeaseNews.ACQUIRED,
        LeaseNews.REACQUIRED,
        LeaseNews.LOST,
        LeaseNews.RELEASED,
        LeaseNews.PARKED,
        LeaseNews.FORGOTTEN,
        OperationNews.REGISTERED,
        OperationNews.POLLED,
        OperationNews.POLL_FAILED,
        OperationNews.STATE_CHANGED,
        OperationNews.FORGOTTEN,
    }
)

_RENEWED = LeaseNews.RENEWED
_NOT_HELD_BACK: frozenset[LeaseNews | OperationNews] = frozenset(
    {
        LeaseNews.AT_RISK,
        LeaseNews.LOST,
        # Nobody can build on it, and thousands come at once.
        OperationNews.POLLED,
    }
)
