"""The wall clock is for what people and other machines read; the monotonic one for everything else."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import httpx
from freezegun import freeze_time

from renewer.daemon.clock import SystemClock
from renewer.targets.retryafter import retry_after_s


@freeze_time("2026-03-01 12:00:00")
def test_a_retry_after_date_without_a_date_is_read_against_the_wall_clock() -> None:
    assert SystemClock().utc_now() == datetime(2026, 3, 1, 12, tzinfo=UTC)
    headers = httpx.Headers({"Retry-After": "Sun, 01 Mar 2026 12:00:30 GMT"})
    waits = retry_after_s(headers, SystemClock())
    assert waits is not None
    assert 30.0 <= waits <= 31.0


def test_a_wall_clock_that_jumps_leaves_deadlines_where_they_are() -> None:
    before = SystemClock().now()
    with freeze_time("2036-03-01 12:00:00"):
        assert SystemClock().utc_now().year == 2036
        assert 0 <= SystemClock().now() - before < 3600
    assert SystemClock().now() >= before
    assert SystemClock.now is time.monotonic
