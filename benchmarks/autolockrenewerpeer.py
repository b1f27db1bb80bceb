"""`python -m benchmarks.autolockrenewerpeer COUNT LOCK_S SECONDS TIMES`: azure-servicebus' AutoLockRenewer, fake locks.

The renewer is as it comes; only what it renews is not real. What is seen in so many seconds is said so many times, as
lines of JSON.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from azure.servicebus.aio import AutoLockRenewer, ServiceBusSession

from benchmarks.fakelocks import RENEWAL_S, Watch, ages

_LEFT_S = 11.0
"""The renewer lets a lock come down to 10 s before it renews it; what has less when it is registered, to less."""

_FOR_EVER_S = 86_400.0


class FakeSession(ServiceBusSession):
    """A session whose lock is renewed by waiting a little."""

    def __init__(self, session_id: str, lock_s: float, age_s: float, watch: Watch) -> None:
        super().__init__(session_id, _Receiver())  # type: ignore[arg-type]
        self._lock = timedelta(seconds=lock_s)
        self._session_start: Any = datetime.now(UTC)
        self._locked_until_utc: Any = self._session_start + self._lock - timedelta(seconds=age_s)
        self._watch = watch

    async def renew_lock(self, *, timeout: float | None = None, **kwargs: Any) -> datetime:
        """Renew it, unless it has expired."""
        await asyncio.sleep(RENEWAL_S)
        now = datetime.now(UTC)
        self._watch.renewed((self._locked_until_utc - now).total_seconds())
        self._locked_until_utc = now + self._lock
        return now


class _Receiver:
    _running = True


async def hold(count: int, lock_s: float, seconds: float, times: int) -> None:
    """Keep so many locks, and say how it went."""
    watch = Watch()
    probe = asyncio.create_task(watch.lag())

    async def lost(_renewable: object, _error: Exception | None) -> None:
        watch.lost += 1

    renewer = AutoLockRenewer(max_lock_renewal_duration=_FOR_EVER_S, on_lock_renew_failure=lost)
    for number, age_s in enumerate(ages(count, lock_s - _LEFT_S)):
        renewer.register(_Receiver(), FakeSession(str(number), lock_s, age_s, watch))  # type: ignore[arg-type]
        if number % 500 == 0:
            await asyncio.sleep(0)
    await asyncio.sleep(1.5)
    await watch.look(seconds, times)
    probe.cancel()


if __name__ == "__main__":
    asyncio.run(hold(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
