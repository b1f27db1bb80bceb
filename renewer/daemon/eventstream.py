"""The event stream: what happens, told to any number of readers, with a bounded past to go back to.

Events have ids ``GENERATION-NUMBER``. The generation changes whenever the daemon starts, so an id from before is known
to be from before; numbers begin at 1 and have no holes. A gap carries the id of the last event that was missed, where
there is one: who goes on after a gap goes on from there.

Readers have no task. Each has a short queue, and one that does not read loses the oldest of it, never the daemon's
memory. Renewals, polls and attempts that fail are many and soon stale: they are put into words only if somebody wants
them, are not kept, and have no id.
"""

from __future__ import annotations

import json
import re
from collections import deque
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from renewer.api.control import PASSING_EVENTS, EventDocument
from renewer.api.documents import to_json
from renewer.daemon.eventdocs import lease_data, lease_type, operation_data, operation_type
from renewer.daemon.eventpast import EventPast, KeptEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence
    from datetime import datetime

    from renewer.core.effects import TellLease, TellOperation
    from renewer.core.leases import Lease
    from renewer.core.model import LeaseId, OperationId
    from renewer.core.operations import Operation
    from renewer.ports import Clock

KEPT_EVENTS = 10_000
KEPT_BYTES = 16 * 1024 * 1024
READER_EVENTS = 1_000
"""How many events may wait for one reader."""

GAP = "stream.gap"

_ID = re.compile(r"([0-9]{1,18})-([0-9]{1,18})\Z", re.ASCII)


class EventStream:
    """A hook that tells readers. To be used on one event loop; `generation` is how often the registry was opened.

    `lease` and `operation` look up what the news itself does not say.
    """

    def __init__(
        self,
        generation: int,
        clock: Clock,
        *,
        lease: Callable[[LeaseId], Lease | None] = lambda _: None,
        operation: Callable[[OperationId], Operation | None] = lambda _: None,
        size: int = KEPT_EVENTS,
        max_bytes: int = KEPT_BYTES,
    ) -> None:
        self._generation = generation
        self._clock = clock
        self._lease = lease
        self._operation = operation
        self._past = EventPast(size, max_bytes)
        self._open = True
        self._readers: dict[_Reader, None] = {}
        self._choosers = 0
        self._by_subject: dict[str, dict[_Reader, None]] = {}

    @property
    def readers(self) -> int:
        """How many readers there are now."""
        subjective = {reader for readers in self._by_subject.values() for reader in readers}
        return len(self._readers) + len(subjective)

    def begin(self, generation: int) -> None:
        """Events from now on are of this generation. To be called before the first."""
        self._generation = generation

    def lease(self, news: TellLease) -> None:
        """Tell of a lease."""
        kind, subject = lease_type(news), news.spec.id
        if kind not in PASSING_EVENTS:
            self._publish(kind, subject, news.at, lease_data(news, self._lease(subject)))
        elif self._choosers or subject in self._by_subject:
            takers = self._takers(kind, subject)
            if takers:
                self._pass(takers, kind, subject, news.at, lease_data(news, self._lease(subject)))

    def renewed(self, news: Sequence[TellLease]) -> None:
        """Tell of renewals, if anybody wants to know."""
        if self._choosers or self._by_subject:
            for one in news:
                self.lease(one)

    def operation(self, news: TellOperation) -> None:
        """Tell of an operation."""
        kind, subject = operation_type(news), news.spec.id
        if kind not in PASSING_EVENTS:
            self._publish(kind, subject, news.at, operation_data(news, self._operation(subject)))
        elif self._choosers or subject in self._by_subject:
            takers = self._takers(kind, subject)
            if takers:
                self._pass(takers, kind, subject, news.at, operation_data(news, self._operation(subject)))

    @asynccontextmanager
    async def subscribe(
        self,
        after: str | None = None,
        wanted: Callable[[str, str], bool] | None = None,
        *,
        subjects: Collection[str] | None = None,
    ) -> AsyncIterator[AsyncIterator[EventDocument]]:
        """Events from now on, or from after the one with this id; as `renewer.api.Control.events` has it.

        With `subjects` only news of these ids are told; `wanted` is then not even asked about others, so that
        thousands can each listen to a lease of their own. The iterator ends only after `close`; reading from it may
        be cancelled without losing an event.
        """
        reader = _Reader(self, wanted, None if subjects is None else frozenset(subjects))
        if after is not None:
            reader.begin_with(self._since(after, reader))
        self._add(reader)
        try:
            yield reader
        finally:
            self._remove(reader)

    def latest(self, count: int, types: Collection[str]) -> list[EventDocument]:
        """So many of the newest events of these types that are still kept, the newest first."""
        return [self._told(number, kept) for number, kept in islice(self._past.newest_first(types), count)]

    def close(self) -> None:
        """Let every reader end once it has read what was told until now."""
        self._open = False
        for reader in (*self._readers, *(reader for readers in self._by_subject.values() for reader in readers)):
            reader.wake()

    @property
    def is_open(self) -> bool:
        """Whether more may follow."""
        return self._open

    def gap(self, event_id: str, why: str) -> EventDocument:
        """What tells that events are missing, `event_id` being the last of them."""
        return EventDocument(event_id, GAP, self._clock.utc_now(), "", {"reason": why})

    def _publish(self, kind: str, subject: str, at: float, data: dict[str, Any]) -> None:
        time = self._time_of(at)
        self._past.append(KeptEvent(kind, time, subject, to_json(data).decode()))
        takers = self._takers(kind, subject)
        if takers:
            event = EventDocument(f"{self._generation}-{self._past.last}", kind, time, subject, data)
            for reader in takers:
                reader.put(event)

    def _pass(self, takers: list[_Reader], kind: str, subject: str, at: float, data: dict[str, Any]) -> None:
        event = EventDocument("", kind, self._time_of(at), subject, data)
        for reader in takers:
            reader.put(event)

    def _time_of(self, at: float) -> datetime:
        """When it happened, not when it is told: in between it may have been stored."""
        return self._clock.utc_now() + timedelta(seconds=at - self._clock.now())

    def _takers(self, kind: str, subject: str) -> list[_Reader]:
        takers = [reader for reader in self._readers if reader.wants(kind, subject)] if self._readers else []
        if subject in self._by_subject:
            takers += [reader for reader in self._by_subject.get(subject, ()) if reader.wants(kind, subject)]
        return takers

    def _since(self, after: str, reader: _Reader) -> list[EventDocument]:
        """The kept events after this id that the reader wants, with a gap before them if there were more."""
        match = _ID.match(after)
        gone = self._past.gone
        known = match is not None and int(match[1]) == self._generation and int(match[2]) <= self._past.last
        number = int(match[2]) if match is not None and known else 0
        begin: list[EventDocument] = []
        if not known or number < gone:
            number = gone
            begin.append(self.gap(f"{self._generation}-{gone}", "too_old" if known else "unknown"))
        kept_since = self._past.after(number)
        return begin + [self._told(n, kept) for n, kept in kept_since if reader.wants_about(kept.type, kept.subject)]

    def _told(self, number: int, kept: KeptEvent) -> EventDocument:
        return EventDocument(f"{self._generation}-{number}", kept.type, kept.time, kept.subject, json.loads(kept.data))

    def _add(self, reader: _Reader) -> None:
        if reader.subjects is None:
            self._readers[reader] = None
            self._choosers += reader.chooses
            return
        for subject in reader.subjects:
            self._by_subject.setdefault(subject, {})[reader] = None

    def _remove(self, reader: _Reader) -> None:
        if reader.subjects is None:
            del self._readers[reader]
            self._choosers -= reader.chooses
            return
        for subject in reader.subjects:
            readers = self._by_subject[subject]
            del readers[reader]
            if not readers:
                del self._by_subject[subject]


class _Reader:
    """One reader's place in the stream: what is still to be replayed, then what waits for it."""

    def __init__(
        self, stream: EventStream, wanted: Callable[[str, str], bool] | None, subjects: frozenset[str] | None
    ) -> None:
        self.subjects = subjects
        self._stream = stream
        self._wanted = wanted
        self._replay: deque[EventDocument] = deque()
        self._queue: deque[EventDocument] = deque()
        self._missed = False
        self._missed_id = ""
        self._news: anyio.Event | None = None

    @property
    def chooses(self) -> bool:
        return self._wanted is not None

    def wants(self, kind: str, subject: str) -> bool:
        """Whether an event is for this reader, its subject being right."""
        return kind not in PASSING_EVENTS if self._wanted is None else self._wanted(kind, subject)

    def wants_about(self, kind: str, subject: str) -> bool:
        """Whether an event is for this reader."""
        return (self.subjects is None or subject in self.subjects) and self.wants(kind, subject)

    def begin_with(self, events: list[EventDocument]) -> None:
        self._replay.extend(events)

    def put(self, event: EventDocument) -> None:
        if len(self._queue) >= READER_EVENTS:
            self._missed = True
            self._missed_id = self._queue.popleft().id or self._missed_id
        self._queue.append(event)
        self.wake()

    def wake(self) -> None:
        if self._news is not None:
            self._news.set()

    def __aiter__(self) -> _Reader:
        return self

    async def __anext__(self) -> EventDocument:
        await anyio.lowlevel.checkpoint()
        while True:
            if self._replay:
                return self._replay.popleft()
            if self._missed:
                event_id, self._missed, self._missed_id = self._missed_id, False, ""
                return self._stream.gap(event_id, "too_slow")
            if self._queue:
                return self._queue.popleft()
            if not self._stream.is_open:
                raise StopAsyncIteration
            self._news = anyio.Event()
            await self._news.wait()
            self._news = None
