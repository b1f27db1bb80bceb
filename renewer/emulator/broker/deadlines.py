"""What ends by itself: a heap of things with an end.

An `Ending` that is prolonged keeps its place in the heap and is put back when it surfaces too early: to renew a lock
costs nothing here. One that is cancelled is skipped, and the heap is swept when such outnumber the rest.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SWEEP_MINIMUM = 64


class Ending(ABC):
    """Something that ends at `ends_at` (monotonic seconds), unless it is prolonged or cancelled (None) before."""

    __slots__ = ("ends_at",)

    ends_at: float | None

    @abstractmethod
    def end(self, now: float) -> None:
        """Do what is to be done at the end."""


class Deadlines:
    """Endings by the time at which they end. Each is added once; its end may be moved later, or cancelled."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Ending]] = []
        self._added = 0
        self._cancelled = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, ending: Ending) -> None:
        """Watch `ending` from now on; one that never ends is left alone."""
        if ending.ends_at is not None:
            self._push(ending.ends_at, ending)

    def cancel(self, ending: Ending) -> None:
        """Forget `ending`, which was added and has not ended; no error if it was cancelled before."""
        if ending.ends_at is None:
            return
        ending.ends_at = None
        self._cancelled += 1
        if self._cancelled > len(self._heap) // 2 + _SWEEP_MINIMUM:
            self._heap = [entry for entry in self._heap if entry[2].ends_at is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def next_due(self) -> float | None:
        """When to look again: not later than the first end, possibly earlier. None: nothing ends."""
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> Iterator[Ending]:
        """Take out what has ended at `now`, the earliest first."""
        while self._heap and self._heap[0][0] <= now:
            _, _, ending = heapq.heappop(self._heap)
            if ending.ends_at is None:
                self._cancelled -= 1
            elif ending.ends_at > now:
                self._push(ending.ends_at, ending)
            else:
                ending.ends_at = None
                yield ending

    def _push(self, at: float, ending: Ending) -> None:
        self._added += 1
        heapq.heappush(self._heap, (at, self._added, ending))
