"""The queue of things that fall due: a heap with lazy deletion.

A key is scheduled at one instant at a time. Rescheduling pushes a new entry and leaves the old one where it is; an
entry is live only while the index names exactly its instant, and stale ones are dropped when they surface. When stale
entries outnumber live ones the heap is rebuilt, so memory stays proportional to the live ones and every operation
stays O(log n) amortised.
"""

from __future__ import annotations

import heapq
from typing import Generic, Protocol, Self, TypeVar

_SWEEP_MINIMUM = 64


class Key(Protocol):
    """What can be scheduled: hashable, and ordered so that ties break the same way every time."""

    def __hash__(self) -> int: ...

    def __lt__(self, other: Self, /) -> bool: ...


K = TypeVar("K", bound=Key)


class DueQueue(Generic[K]):
    """Keys by due time. Instants are floats; `None` for "never" is expressed by not being in the queue."""

    __slots__ = ("_due", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[float, K]] = []
        self._due: dict[K, float] = {}

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
        heapq.heappush(self._heap, (due_at, key))
        self._sweep()

    def cancel(self, key: K) -> None:
        """Take `key` out; no error if it is not there."""
        if self._due.pop(key, None) is not None:
            self._sweep()

    def next_due(self) -> float | None:
        """The earliest due time of all, or None when nothing is scheduled."""
        heap, due = self._heap, self._due
        while heap:
            due_at, key = heap[0]
            if due.get(key) == due_at:
                return due_at
            heapq.heappop(heap)
        return None

    def pop_due(self, now: float) -> K | None:
        """Take out and return the key that has been due longest at `now`, or None if none is."""
        next_due = self.next_due()
        if next_due is None or next_due > now:
            return None
        _, key = heapq.heappop(self._heap)
        del self._due[key]
        self._sweep()
        return key

    def _sweep(self) -> None:
        if len(self._heap) > 2 * len(self._due) + _SWEEP_MINIMUM:
            self._heap = [(due_at, key) for key, due_at in self._due.items()]
            heapq.heapify(self._heap)
