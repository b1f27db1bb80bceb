"""The supervisor: the one loop that stands between the core, which decides, and the world, which acts.

Events are taken in as they come, on the event loop, one after the other; what the core answers is carried out at
once. Between events the loop sleeps until something is due, though never longer than `MAX_SLEEP_S`, so that a machine
that was suspended is noticed soon after it wakes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel
import structlog

from renewer.core.effects import CancelAttempt, Effect, TellLease, TellOperation
from renewer.core.events import Event, LeaseReleaseRequested
from renewer.core.scheduler import Scheduler
from renewer.core.states import is_over
from renewer.daemon.attempts import AttemptObserver, AttemptRunner, LaneLimits

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from renewer.core.model import LeaseId
    from renewer.ports import Clock, Hook, LeaseTarget, OperationTarget

MAX_SLEEP_S = 1.0

_N = TypeVar("_N", TellLease, TellOperation)

_log = structlog.get_logger("renewer.supervisor")


class Supervisor:
    """Runs the scheduler against real targets and a real clock."""

    def __init__(
        self,
        *,
        clock: Clock,
        lease_targets: Mapping[str, LeaseTarget],
        operation_targets: Mapping[str, OperationTarget],
        hooks: list[Hook],
        limits: LaneLimits | None = None,
        observer: AttemptObserver | None = None,
        on_lag: Callable[[float], None] | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.scheduler = Scheduler()
        self._clock = clock
        self._hooks = hooks
        self._on_lag = on_lag
        self._draw = draw
        self._wake = anyio.Event()
        self._sleeps_until = 0.0
        self._runner = AttemptRunner(
            lease_targets=lease_targets,
            operation_targets=operation_targets,
            clock=clock,
            post=self.post,
            limits=limits if limits is not None else LaneLimits(),
            observer=observer,
        )

    def post(self, event: Event) -> None:
        """Take in one event, from any task of this event loop, and do at once what follows from it."""
        self._perform(self.scheduler.handle(event, self._clock.now(), self._draw()))
        next_due = self.scheduler.next_due()
        if next_due is not None and next_due < self._sleeps_until:
            self._wake.set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._runner.use(tasks)
            task_status.started()
            while True:
                now = self._clock.now()
                self._perform(self.scheduler.advance(now, self._draw))
                await self._sleep(now, self._runner.relieve())

    async def release_all(self) -> None:
        """Ask for the release of every lease that lives, and wait until each is confirmed or given up."""
        for lease in list(self.scheduler.leases()):
            if not is_over(lease.state):
                self.post(LeaseReleaseRequested(lease.spec.id))
        await self._runner.all_released()

    async def released(self, lease_id: LeaseId) -> None:
        """Wait until the release under way for this lease, if any, is confirmed or given up."""
        await self._runner.released(lease_id)

    async def _sleep(self, now: float, relief_at: float | None) -> None:
        timers = (self.scheduler.next_due(), relief_at, now + MAX_SLEEP_S)
        until = min(timer for timer in timers if timer is not None)
        if until <= now:
            await anyio.lowlevel.checkpoint()
            return
        self._wake = anyio.Event()
        self._sleeps_until = until
        with anyio.move_on_after(until - now):
            await self._wake.wait()
        self._sleeps_until = 0.0
        if self._on_lag is not None and not self._wake.is_set():
            self._on_lag(max(0.0, self._clock.now() - until))

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, TellLease):
                for hook in self._hooks:
                    self._tell(hook.lease, effect)
            elif isinstance(effect, TellOperation):
                for hook in self._hooks:
                    self._tell(hook.operation, effect)
            elif isinstance(effect, CancelAttempt):
                self._runner.cancel(effect.key, effect.attempt)
            else:
                self._runner.start(effect)

    @staticmethod
    def _tell(hook: Callable[[_N], None], news: _N) -> None:
        try:
            hook(news)
        except Exception:
            # Whoever listens must not be able to stop what they listen to.
            _log.exception("hook raised an unexpected error")
