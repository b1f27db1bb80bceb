"""The real clocks."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class SystemClock:
    """The monotonic clock for deadlines, UTC for people.

    asyncio's event loop counts on this very monotonic clock, so instants can be used as deadlines of cancel scopes.
    """

    now = staticmethod(time.monotonic)

    @staticmethod
    def utc_now() -> datetime:
        """The machine's wall clock."""
        return datetime.now(UTC)
