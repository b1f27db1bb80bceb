"""The real clocks."""

from __future__ import annotations

from datetime import UTC, datetime

import anyio


class SystemClock:
    """The event loop's monotonic clock for deadlines, so that virtual time in tests rules both; UTC for people."""

    def now(self) -> float:
        """Monotonic seconds of the running event loop."""
        return anyio.current_time()

    def utc_now(self) -> datetime:
        """The machine's wall clock."""
        return datetime.now(UTC)
