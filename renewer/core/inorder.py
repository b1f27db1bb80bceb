"""What is to be taken in the order of its times: a sorted list with a finger on the first that is left.

Where much is put in and taken out together this costs a fifth of what a heap does: sorting and cutting are done in C,
and what comes together is mostly in order already. Few that come while many are there go into a heap beside the list.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from operator import itemgetter
from typing import Generic, TypeVar

_FEW = 4
"""Those that come are few, and sorting all is too much, where so many times as many are there."""

K = TypeVar("K")


class InOrder(Generic[K]):
    """Pairs of a time and what it is of, in the order of the times.

    Those with one time come as they were put in, as a rule: to compare them as well makes it twice as dear where there
    are many, as of locks that are renewed together.
    """

    __slots__ = ("_first", "_late", "_pairs")

    def __init__(self) -> None:
        self._pairs: list[tuple[float, K]] = []
        self._first = 0
        self._late: list[tuple[float, K]] = []

    def __len__(self) -> int:
        return len(self._pairs) - self._first + len(self._late)

    @property
    def first(self) -> tuple[float, K] | None:
        """What comes first, None if there is nothing."""
        if self._late and (self._first == len(self._pairs) or self._late[0][0] < self._pairs[self._first][0]):
            return self._late[0]
        return self._pairs[self._first] if self._first < len(self._pairs) else None

    def add(self, pairs: list[tuple[float, K]]) -> None:
        """Put them in their places."""
        late = self._late
        if len(self._pairs) - self._first > _FEW * (len(pairs) + len(late)):
            for pair in pairs:
                heapq.heappush(late, pair)
            return
        del self._pairs[: self._first]
        self._first = 0
        late.sort()  # A heap is in no order where times are the same; and these came first.
        self._pairs += late
        self._pairs += pairs
        late.clear()
        self._pairs.sort(key=_time_of)

    def take(self, most: int) -> list[tuple[float, K]]:
        """Take out the first ones, so many at most."""
        if not self._late:
            return self._cut(self._first + most)
        taken: list[tuple[float, K]] = []
        while len(taken) < most and (first := self.first) is not None:
            taken.append(first)
            self._drop_first()
        return taken

    def take_until(self, time: float) -> list[tuple[float, K]]:
        """Take out all up to that time."""
        late: list[tuple[float, K]] = []
        while self._late and self._late[0][0] <= time:
            late.append(heapq.heappop(self._late))
        taken = self._cut(bisect_right(self._pairs, time, self._first, key=_time_of))
        return sorted(taken + late, key=_time_of) if late else taken

    def clear(self) -> None:
        """Take out all."""
        self._pairs.clear()
        self._first = 0
        self._late.clear()

    def _drop_first(self) -> None:
        if self._late and self.first is self._late[0]:
            heapq.heappop(self._late)
        else:
            self._cut(self._first + 1)

    def _cut(self, end: int) -> list[tuple[float, K]]:
        taken = self._pairs[self._first : end]
        self._first += len(taken)
        if 2 * self._first > len(self._pairs):
            del self._pairs[: self._first]
            self._first = 0
        return taken


_time_of = itemgetter(0)
