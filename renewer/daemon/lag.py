"""How late the event loop was, lately."""

from __future__ import annotations

from collections import deque

WINDOW_S = 60.0


class RecentLag:
    """The worst lag of the last minute. Lags come in as they are seen, with the monotonic time."""

    def __init__(self) -> None:
        # Falling: a lag hides every smaller one before it.
        self._worst: deque[tuple[float, float]] = deque()

    def observe(self, lag_s: float, now: float) -> None:
        """The loop woke so late."""
        while self._worst and self._worst[-1][1] <= lag_s:
            self._worst.pop()
        self._worst.append((now, lag_s))

    def worst_s(self, now: float) -> float:
        """The worst of the last minute; 0 if there was none."""
        while self._worst and self._worst[0][0] < now - WINDOW_S:
            self._worst.popleft()
        return self._worst[0][1] if self._worst else 0.0
