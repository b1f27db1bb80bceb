"""The past of the event stream: the newest events, numbered without holes, in little memory.

All but the last few are packed, many together: each then takes some 20 B instead of 370, for a microsecond, and of most
nobody ever asks for the past.
"""

from __future__ import annotations

import json
import zlib
from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_PACKED_EVENTS = 128
_PACKED_BYTES = 64 * 1024
"""So many events, or such long ones, are packed at once: that takes 0.1 ms on the event loop."""

_LEVEL = 3
_ENVELOPE_BYTES = 600
_TEXT = json.JSONEncoder(separators=(",", ":"))


class KeptEvent(NamedTuple):
    """An event that can be asked for again; `data` is JSON. Its number follows from its place."""

    type: str
    time: datetime
    subject: str
    data: str

    @property
    def weight(self) -> int:
        """Its bytes, roughly, while it is not packed."""
        return _ENVELOPE_BYTES + len(self.data)


class EventPast:
    """The last `size` events at most, or fewer so that they weigh no more than `max_bytes`."""

    def __init__(self, size: int, max_bytes: int) -> None:
        self.last = 0
        """The number of the newest event; the first has 1."""
        self._size = size
        self._max_bytes = max_bytes
        self._count = 0
        self._bytes = 0
        self._oldest: deque[KeptEvent] = deque()
        self._packs: deque[_Pack] = deque()
        self._newest: list[KeptEvent] = []
        self._newest_bytes = 0

    @property
    def gone(self) -> int:
        """The number of the last event that is not kept any longer; 0 if all are."""
        return self.last - self._count

    def append(self, event: KeptEvent) -> None:
        """Keep one more, and let go of the oldest where there are too many."""
        self._newest.append(event)
        self._newest_bytes += len(event.data)
        self.last += 1
        self._count += 1
        self._bytes += event.weight
        if len(self._newest) >= _PACKED_EVENTS or self._newest_bytes >= _PACKED_BYTES:
            self._packs.append(_Pack(self._take_newest()))
        while self._count > self._size or self._bytes > self._max_bytes:
            self._drop()

    def after(self, number: int) -> Iterator[tuple[int, KeptEvent]]:
        """The events after the one of this number, with theirs. To be read before the next is kept."""
        before = self.gone
        for part in self._parts():
            if before + len(part) > number:
                yield from (found for found in enumerate(part, before + 1) if found[0] > number)
            before += len(part)

    def newest_first(self, types: Collection[str]) -> Iterator[tuple[int, KeptEvent]]:
        """The events of these types, with their numbers. To be read before the next is kept."""
        last = self.last
        for part in reversed(self._parts()):
            if not isinstance(part, _Pack) or not part.types.isdisjoint(types):
                numbered = zip(range(last, 0, -1), reversed(list(part)), strict=False)
                yield from (found for found in numbered if found[1].type in types)
            last -= len(part)

    def _parts(self) -> list[deque[KeptEvent] | _Pack | list[KeptEvent]]:
        return [self._oldest, *self._packs, self._newest]

    def _take_newest(self) -> list[KeptEvent]:
        taken, self._newest, self._newest_bytes = self._newest, [], 0
        return taken

    def _drop(self) -> None:
        if not self._oldest:
            self._oldest.extend(self._packs.popleft() if self._packs else self._take_newest())
        self._count -= 1
        self._bytes -= self._oldest.popleft().weight


class _Pack:
    """Some events that follow each other, compressed."""

    __slots__ = ("_count", "_packed", "types")

    def __init__(self, events: Iterable[KeptEvent]) -> None:
        plain = [(event.type, event.time.isoformat(), event.subject, event.data) for event in events]
        self.types = frozenset(type_ for type_, *_ in plain)
        self._count = len(plain)
        self._packed = zlib.compress(_TEXT.encode(plain).encode("ascii"), _LEVEL)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[KeptEvent]:
        for type_, time, subject, data in json.loads(zlib.decompress(self._packed)):
            yield KeptEvent(type_, datetime.fromisoformat(time), subject, data)
