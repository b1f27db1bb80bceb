"""The attempts of one lease that are under way: which one the lease waits for now, and which are still listened to.

An attempt that had its time is overdue: the next one starts, and its own answer counts all the same when it comes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Attempts:
    """Numbered from 1 to `last`. `until` is when the current one is overdue; None while none is waited for."""

    until: float | None = None
    last: int = 0
    _open: deque[int] = field(default_factory=deque)

    def begin(self) -> int:
        """The number of a new attempt, which is the current one from now on. Set `until`."""
        self.last += 1
        self._open.append(self.last)
        return self.last

    def is_open(self, attempt: int) -> bool:
        """Whether the attempt's outcome is still waited for."""
        return attempt in self._open

    def settle(self, attempt: int) -> bool:
        """The attempt has ended. True if it is the current one and was not yet overdue."""
        if attempt in self._open:
            self._open.remove(attempt)
        current = attempt == self.last and self.until is not None
        if current:
            self.until = None
        return current

    def make_room(self, most: int) -> list[int]:
        """Those to be cancelled, so that with one more there are at most so many."""
        cancelled: list[int] = []
        while len(self._open) >= most:
            # The oldest is kept for as long as it can be: if answers are late, its answer is the next to come.
            in_the_way = 1 if len(self._open) > 1 else 0
            cancelled.append(self._open[in_the_way])
            del self._open[in_the_way]
        return cancelled

    def clear(self) -> list[int]:
        """All of them, to be cancelled: nothing is waited for any longer."""
        cancelled = [*self._open]
        self._open.clear()
        self.until = None
        return cancelled
