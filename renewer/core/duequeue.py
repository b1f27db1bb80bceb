"""The queue of things that fall due: a list of what is next, in order, and the rest in buckets of 0.25 s.

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
from typing import Generic, Protocol, Self, TypeVar

from renewer.core.inorder import InOrder

_BUCKET_S = 0.25
"""A power of two, so that the beginnings of buckets are exact."""

_SWEEP_MINIMUM = 64

_NEVER = float("inf")


class Key(Protocol):
    """What can be scheduled: hashable, and with an order, so that ties break the same way every time."""

    def __hash__(self) -> int: ...

    def __lt__(self, other: Self, /) -> bool: ...


K = TypeVar("K", bound=Key)


class DueQueue(Generic[K]):
    """Keys by due time. Instants are floats; `None` for "never" is expressed by not being in the queue."""

    __slots__ = ("_buckets", "_due", "_entries", "_next", "_times")

    def __init__(self) -> None:
        self._due: dict[K, float] = {}
        self._next: InOrder[K] = InOrder()
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
        due = self._due
        if due.get(key) == due_at:
            return
        due[key] = due_at
        self._entries += 1
        begin = due_at - due_at % _BUCKET_S if due_at != _NEVER else due_at
        bucket = self._buckets.get(begin)
        if bucket is None:
            self._buckets[begin] = [key]
            heapq.heappush(self._times, begin)
        else:
            bucket.append(key)
        if self._entries > 2 * len(due) + _SWEEP_MINIMUM:
            self._sweep()

    def cancel(self, key: K) -> None:
        """Take `key` out; no error if it is not there."""
        if self._due.pop(key, None) is not None and self._entries > 2 * len(self._due) + _SWEEP_MINIMUM:
            self._sweep()

    def next_due(self) -> float | None:
        """The earliest due time of all, or None when nothing is scheduled."""
        following, times = self._next, self._times
        while True:
            first = following.first
            while times and (first is None or times[0] <= first[0]):
                self._open()
                first = following.first
            if first is None:
                return None
            due_at, key = first
            if self._due.get(key) == due_at:
                return due_at
            self._drop(following.take(1))

    def may_be_due_before(self, moment: float) -> bool:
        """Whether anything could fall due before that; cheap, and wrong only where it says yes."""
        first = self._next.first
        return (first is not None and first[0] < moment) or (bool(self._times) and self._times[0] < moment)

    def pop_due(self, now: float) -> K | None:
        """Take out and return the key that has been due longest at `now`, or None if none is."""
        due_at = self.next_due()
        if due_at is None or due_at > now:
            return None
        (key,) = self._drop(self._next.take(1))
        return key

    def pop_all_due(self, now: float) -> list[K]:
        """Take out and return all that are due at `now`, those that have been longest first."""
        popped: list[K] = []
        while (first := self.next_due()) is not None and first <= now:
            # Of what is in order, all that comes before the first bucket.
            popped += self._drop(self._next.take_until(min(now, self._times[0]) if self._times else now))
        return popped

    def _drop(self, taken: list[tuple[float, K]]) -> list[K]:
        """Forget what was taken out of what is next; returns what of it was live."""
        self._entries -= len(taken)
        due = self._due
        live: list[K] = []
        for due_at, key in taken:
            if due.get(key) == due_at:
                del due[key]
                live.append(key)
        if self._entries > 2 * len(due) + _SWEEP_MINIMUM:
            self._sweep()
        return live

    def _open(self) -> None:
        """Put in order what is in the first bucket."""
        begin = heapq.heappop(self._times)
        end = begin + _BUCKET_S
        bucket = self._buckets.pop(begin)
        due = self._due
        live = [
            (due_at, key)
            for key in bucket
            if (due_at := due.get(key)) is not None and (begin <= due_at < end or due_at == begin)
        ]
        self._entries -= len(bucket) - len(live)
        self._next.add(live)

    def _sweep(self) -> None:
        live, self._due = self._due, {}
        self._next.clear()
        self._buckets.clear()
        self._times.clear()
        self._entries = 0
        for key, due_at in live.items():
            self.schedule(key, due_at)
