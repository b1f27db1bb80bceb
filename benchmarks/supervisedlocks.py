"""`python -m benchmarks.supervisedlocks COUNT LOCK_S SECONDS TIMES [herd]`: the daemon's supervisor keeps fake locks.

All that stands between the core and a target in the daemon is here and real: supervisor, lanes, metrics, log, event
stream. Only the target is not. With `herd` all locks fall due within a twentieth of a lock. What is seen in so many
seconds is said so many times, as lines of JSON.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel
import prometheus_client

from benchmarks.fakelocks import RENEWAL_S, Watch, ages
from renewer.config.model import DaemonSettings
from renewer.core.effects import LeaseNews, TellLease, TellOperation
from renewer.core.events import LeaseRegistered
from renewer.core.model import Grant, LeaseId, LeaseSpec
from renewer.daemon.clock import SystemClock
from renewer.daemon.eventstream import EventStream
from renewer.daemon.garbage import collect_seldom
from renewer.daemon.supervisor import Supervisor
from renewer.observe.log import LogHook, configure_logging
from renewer.observe.metrics import AttemptMetrics, Metrics, MetricsHook
from renewer.registry import MemoryRegistry

if TYPE_CHECKING:
    from renewer.ports import LeaseTarget, W

_AT_ONCE = 250
_AT_LEAST_S = 0.5
_CALM_S = 1.5

_ACQUIRE_S = 0.0003
"""How long, about, it takes to acquire one. The first is renewed a moment after the last is acquired."""


class FakeTarget:
    """Grants locks that fall due when `dues` says, or a little sooner; renews each in a moment (`BeginsRenewals`)."""

    def __init__(self, lock_s: float, dues: dict[LeaseId, float], watch: Watch) -> None:
        self._lock_s = lock_s
        self._dues = dues
        self._watch = watch
        self._ends_at: dict[LeaseId, float] = {}

    async def acquire(self, spec: LeaseSpec, epoch: int) -> Grant:
        """A lock of twice as long as it has until then."""
        now = anyio.current_time()
        left_s = self._dues[spec.id] - now
        if left_s < _AT_LEAST_S:
            # Acquired later than was planned, or for the second time.
            left_s = self._lock_s / 2
        # Whatever its length, it is half over when it is due, as any lock.
        self._ends_at[spec.id] = now + left_s + self._lock_s / 2
        return Grant(now, left_s / spec.policy.due_fraction, session_id=spec.session_id)

    def begin_renewals(self, wanted: Sequence[W], answered: Callable[[Sequence[W]], None]) -> None:
        """Renew them, as Service Bus targets do, without tasks; each is answered by itself."""
        for one in wanted:
            one.renewal = _Renewal(self, one, answered)

    def renewed(self, lease_id: LeaseId, asked_at: float) -> Grant:
        """The answer."""
        now = anyio.current_time()
        self._watch.renewed(self._ends_at[lease_id] - now)
        self._ends_at[lease_id] = now + self._lock_s
        return Grant(asked_at, self._lock_s)


class _Renewal:
    """One that is answered in a moment."""

    def __init__(self, target: FakeTarget, wanted: W, answered: Callable[[Sequence[W]], None]) -> None:
        self.grant: Grant | None = None
        self._target = target
        self._wanted = wanted
        self._answered: Callable[[Sequence[Any]], None] = answered
        self._asked_at = anyio.current_time()
        self._timer = asyncio.get_running_loop().call_later(RENEWAL_S, self._answer)

    def _answer(self) -> None:
        self.grant = self._target.renewed(self._wanted.spec.id, self._asked_at)
        self._answered([self._wanted])

    async def finish(self) -> Grant:
        """All are granted."""
        raise AssertionError("a renewal without a grant")

    def cancel(self) -> None:
        """No answer."""
        self._timer.cancel()


class _Attempts(AttemptMetrics):
    """The daemon's own metrics of attempts, and each lateness besides."""

    def __init__(self, metrics: Metrics, watch: Watch) -> None:
        super().__init__(metrics)
        self._watch = watch

    def attempts_started(self, kind: str, lateness_s: Sequence[float]) -> None:
        super().attempts_started(kind, lateness_s)
        if kind == "renew":
            for late_s in lateness_s:
                self._watch.late(late_s)


class _Hook:
    """Sees when the last of so many locks is acquired, and when one is lost."""

    def __init__(self, count: int, watch: Watch) -> None:
        self.all_acquired = anyio.Event()
        self._missing = count
        self._watch = watch

    def lease(self, news: TellLease) -> None:
        if news.news is LeaseNews.ACQUIRED:
            self._missing -= 1
            if not self._missing:
                self.all_acquired.set()
        elif news.news is LeaseNews.LOST:
            self._watch.lost += 1

    def operation(self, news: TellOperation) -> None:
        """There are none."""


async def hold(count: int, lock_s: float, seconds: float, times: int, *, herd: bool) -> None:
    """Keep so many locks, and say how it went."""
    watch, clock = Watch(), SystemClock()
    began_at = clock.now()
    if herd:
        # All at the latest moment at which what is granted now is due; but for its jitter, all at once.
        first_due_at, spread_s = began_at + lock_s / 2, 0.0
        look_at = first_due_at - lock_s / 20 - 0.2
    else:
        # As evenly as after hours of work.
        look_at = first_due_at = began_at + _CALM_S + count * _ACQUIRE_S
        spread_s = lock_s / 2
    ids = [LeaseId(f"lease-{number:08}") for number in range(count)]
    dues = dict(zip(ids, (first_due_at + age_s for age_s in ages(count, spread_s)), strict=True))
    registry = MemoryRegistry()
    await registry.open()
    metrics = Metrics(prometheus_client.CollectorRegistry())
    hook = _Hook(count, watch)
    supervisor = Supervisor(
        clock=clock,
        lease_targets={"servicebus.main": cast("LeaseTarget", FakeTarget(lock_s, dues, watch))},
        operation_targets={},
        hooks=[MetricsHook(metrics), LogHook(), EventStream(0, clock), hook],
        registry=registry,
        observer=_Attempts(metrics, watch),
        on_lag=metrics.loop_lag.observe,
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch.lag)
        await tasks.start(supervisor.run)
        for number, lease_id in enumerate(ids):
            supervisor.post(LeaseRegistered(LeaseSpec(lease_id, "servicebus.main", "orders", session_id=str(number))))
            if number % _AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
        await hook.all_acquired.wait()
        await anyio.sleep(max(0.0, look_at - clock.now()))
        await watch.look(seconds, times)
        tasks.cancel_scope.cancel()


def main() -> None:
    """Set up what `renewer run` sets up, and run."""
    collect_seldom()
    with Path(os.devnull).open("w") as nowhere, closing(configure_logging(stream=nowhere)):
        numbers = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
        loop = os.environ.get("RENEWER_DAEMON__EVENT_LOOP", "auto")
        options = {"use_uvloop": DaemonSettings.model_validate({"event_loop": loop}).uses_uvloop()}
        anyio.run(lambda: hold(*numbers, herd="herd" in sys.argv), backend_options=options)


if __name__ == "__main__":
    main()
