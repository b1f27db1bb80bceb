"""The queue of things that fall due: a heap of what is next, and the rest in buckets of a quarter of a second each.

A key is scheduled at one instant at a time, which the index knows. Rescheduling enters it anew and leaves the old entry
where it is: an entry is live only while the index names its instant, and stale ones are dropped when their bucket is
opened, or when they surface. When stale entries outnumber live ones all are entered anew, so memory stays proportional
to the live ones.

One heap of all would do, and did. But most of a heap of 100,000 is out of the processor's reach: to take one lease out
took 9 µs of the 100 that its renewal costs in the whole daemon, and takes 1 here; and a key in a bucket needs half the
memory of an entry in a heap.
"""

from __future__ import annotations

import heapq
import math
from typing import Generic, Protocol, Self, TypeVar

_BUCKET_S = 0.25
"""A power of two, so that the beginnings of buckets are exact."""

_SWEEP_MINIMUM = 64


class Key(Protocol):
    """What can be scheduled: hashable, and ordered so that ties break the same way every time."""

    def __hash__(self) -> int: ...

    def __lt__(self, other: Self, /) -> bool: ...


K = TypeVar("K", bound=Key)


class DueQueue(Generic[K]):
    """Keys by due time. Instants are floats; `None` for "never" is expressed by not being in the queue."""

    __slots__ = ("_buckets", "_due", "_entries", "_next", "_times")

    def __init__(self) -> None:
        self._due: dict[K, float] = {}
        self._next: list[tuple[float, K]] = []
        self._buckets: dict[float, list[K]] = {}
        self._times: list[float] = []
        self._entries = 0

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, key: object) -> bool:
        return key in self._due

    def due_at(self, key: K) -> float | None:
        """When `key` falls due, or None if it is not scheduled."""
        return self._due.get(key)

    def schedule(self, key: K, due_at: float | None) -> None:
        """Make `key` due at `due_at` and at no other time; None takes it out."""
        if due_at is None:
            self.cancel(key)
            return
        if self._due.get(key) == due_at:
            return
        self._due[key] = due_at
        self._enter(key, due_at)
        if self._entries > 2 * len(self._due) + _SWEEP_MINIMUM:
            self._sweep()

    def cancel(self, key: K) -> None:
        """Take `key` out; no error if it is not there."""
        if self._due.pop(key, None) is not None and self._entries > 2 * len(self._due) + _SWEEP_MINIMUM:
            self._sweep()

    def next_due(self) -> float | None:
        """The earliest due time of all, or None when nothing is scheduled."""
        while True:
            while self._times and (not self._next or self._times[0] <= self._next[0][0]):
                self._open()
            if not self._next:
                return None
            due_at, key = self._next[0]
            if self._due.get(key) == due_at:
                return due_at
            heapq.heappop(self._next)
            self._entries -= 1

    def may_be_due_before(self, moment: float) -> bool:
        """Whether anything could fall due before that; cheap, and wrong only where it says yes."""
        return (bool(self._next) and self._next[0][0] < moment) or (bool(self._times) and self._times[0] < moment)

    def pop_due(self, now: float) -> K | None:
        """Take out and return the key that has been due longest at `now`, or None if none is."""
        due_at = self.next_due()
        if due_at is None or due_at > now:
            return None
        _, key = heapq.heappop(self._next)
        self._entries -= 1
        del self._due[key]
        if self._entries > 2 * len(self._due) + _SWEEP_MINIMUM:
            self._sweep()
        return key

    def _enter(self, key: K, due_at: float) -> None:
        self._entries += 1
        time = _bucket_of(due_at)
        bucket = self._buckets.get(time)
        if bucket is None:
            self._buckets[time] = [key]
            heapq.heappush(self._times, time)
        else:
            bucket.append(key)

    def _open(self) -> None:
        """Put in order what is in the first bucket."""
        time = heapq.heappop(self._times)
        for key in self._buckets.pop(time):
            due_at = self._due.get(key)
            if due_at is not None and _bucket_of(due_at) == time:
                heapq.heappush(self._next, (due_at, key))
            else:
                self._entries -= 1

    def _sweep(self) -> None:
        self._next, self._buckets, self._times, self._entries = [], {}, [], 0
        for key, due_at in self._due.items():
            self._enter(key, due_at)


def _bucket_of(due_at: float) -> float:
    """The moment at which its bucket begins."""
    return due_at if due_at == math.inf else due_at - due_at % _BUCKET_S
