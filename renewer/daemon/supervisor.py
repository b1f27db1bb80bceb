"""The supervisor: the one loop that stands between the core, which decides, and the world, which acts.

Events are taken in as they come, on the event loop, one after the other; what the core answers is carried out at
once. Between events the loop sleeps until something is due, though never longer than `MAX_SLEEP_S`, so that a machine
that was suspended is noticed soon after it wakes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import structlog

from renewer.core.effects import CancelAttempt, Effect, LeaseNews, StartRenew, TellLease
from renewer.core.events import Event, LeaseParkRequested, LeaseUnparkRequested
from renewer.core.model import LeaseId, OperationId
from renewer.core.scheduler import Scheduler
from renewer.core.states import is_over
from renewer.daemon.attempts import AttemptObserver, AttemptRunner
from renewer.daemon.horizon import Horizon
from renewer.daemon.keeping import Deliveries, Keeper, News
from renewer.daemon.lanes import LaneLimits
from renewer.daemon.naps import set_within
from renewer.daemon.records import Timeline, boot_id, lease_entry, operation_entry
from renewer.ports import GATEWAY_ORIGIN, Entry, EntryKind, Registry

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from renewer.core.model import OperationSpec
    from renewer.core.quotas import Asking, Quota
    from renewer.ports import Clock, Hook, LeaseTarget, OperationTarget

MAX_SLEEP_S = 1.0

AT_ONCE = 500
"""How many things are looked at before others have their turn on the event loop, when many fall due together."""

_RENEWED = LeaseNews.RENEWED

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
        registry: Registry,
        deliveries: Deliveries | None = None,
        limits: LaneLimits | None = None,
        observer: AttemptObserver | None = None,
        on_lag: Callable[[float], None] | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.scheduler = Scheduler(self._quota_of)
        self._boot = boot_id()
        self._clock = clock
        self._horizon = Horizon(clock, self.timeline)
        self.keeper = Keeper(
            registry, snapshot=self._snapshot, tell=self._tell, horizon=self._horizon, deliveries=deliveries
        )
        self._operation_targets = operation_targets
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
            post_all=self.post_all,
            keeper=self.keeper,
            limits=limits if limits is not None else LaneLimits(),
            observer=observer,
        )

    def post(self, event: Event) -> None:
        """Take in one event, from any task of this event loop, and do at once what follows from it."""
        self._perform(self.scheduler.handle(event, self._clock.now(), self._draw()))
        if self.scheduler.is_due_before(self._sleeps_until):
            self._wake.set()

    def post_all(self, events: Sequence[Event]) -> None:
        """The same for several that came together; what one of them leads to is no matter to the others."""
        now, effects = self._clock.now(), []
        for event in events:
            try:
                effects += self.scheduler.handle(event, now, self._draw())
            except Exception:
                _log.exception("an event was not taken in")
        self._perform(effects)
        if self.scheduler.is_due_before(self._sleeps_until):
            self._wake.set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        try:
            async with anyio.create_task_group() as tasks:
                self._runner.use(tasks)
                await tasks.start(self.keeper.run)
                task_status.started()
                while True:
                    now = self._clock.now()
                    self._perform(self.scheduler.advance(now, self._draw, AT_ONCE))
                    await self._sleep(now, self._runner.relieve())
        finally:
            self._runner.use(None)

    def knows(self, key: str) -> bool:
        """Whether there is a lease or an operation of this id."""
        return self.scheduler.lease(LeaseId(key)) is not None or self.scheduler.operation(OperationId(key)) is not None

    async def park_all(self) -> None:
        """Give every lease back, to be held again by the next start; returns when each is confirmed or given up."""
        for lease in list(self.scheduler.leases()):
            # What a gateway's worker holds is its own: it ends with the worker's links.
            if not is_over(lease.state) and lease.spec.context.get("origin") != GATEWAY_ORIGIN:
                self.post(LeaseParkRequested(lease.spec.id))
        await self._runner.all_released()

    def unpark_all(self) -> None:
        """Have every lease that was parked held again."""
        for lease in list(self.scheduler.leases()):
            if lease.is_parked:
                self.post(LeaseUnparkRequested(lease.spec.id))

    def timeline(self) -> Timeline:
        """The clocks as they are now, for records."""
        return Timeline.read(self._clock, self._boot)

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
        is_due = not await set_within(self._wake, until - now)
        self._sleeps_until = 0.0
        if self._on_lag is not None and is_due:
            self._on_lag(max(0.0, self._clock.now() - until))

    def _perform(self, effects: Sequence[Effect]) -> None:
        renewals: list[StartRenew] = []
        renewed: list[TellLease] = []
        is_pending = self.keeper.is_pending
        for effect in effects:
            if isinstance(effect, StartRenew):
                renewals.append(effect)
            elif isinstance(effect, TellLease) and effect.news is _RENEWED and not is_pending(effect.spec.id):
                # Nothing of it is kept, and nobody is called back for it.
                renewed.append(effect)
            else:
                # What came before is before it.
                self._perform_together(renewals, renewed)
                if isinstance(effect, News):
                    self.keeper.take(effect)
                elif isinstance(effect, CancelAttempt):
                    self._runner.cancel(effect.key, effect.attempt)
                else:
                    self._runner.start(effect)
        self._perform_together(renewals, renewed)
        # Only now, so that of all these the one that is nearest to its end goes first.
        self._runner.fill()

    def _perform_together(self, renewals: list[StartRenew], renewed: list[TellLease]) -> None:
        """Start these renewals, and tell of those; both lists are empty then."""
        if renewed:
            self._tell_renewed(renewed.copy())
            renewed.clear()
        if renewals:
            self._runner.start_renewals(renewals)
            renewals.clear()

    def _tell(self, news: News) -> None:
        for hook in self._hooks:
            self._tell_one(hook, news)

    def _tell_renewed(self, news: Sequence[TellLease]) -> None:
        """Tell of renewals, which most news are, and of which most hooks want to know nothing."""
        for hook in self._hooks:
            renewed: Callable[[Sequence[TellLease]], None] | None = getattr(hook, "renewed", None)
            if renewed is None:
                for one in news:
                    self._tell_one(hook, one)
                continue
            try:
                renewed(news)
            except Exception:
                _log.exception("hook raised an unexpected error")

    def _tell_one(self, hook: Hook, news: News) -> None:
        # Whoever listens must not be able to stop what they listen to.
        try:
            if isinstance(news, TellLease):
                hook.lease(news)
            else:
                hook.operation(news)
        except Exception:
            _log.exception("hook raised an unexpected error")

    def _quota_of(self, spec: OperationSpec, asking: Asking, ticket: object) -> Quota | None:
        target = self._operation_targets.get(spec.account)
        return None if target is None else target.quota(spec, asking, ticket)

    def _snapshot(self, kind: EntryKind, key: str) -> Entry | None:
        if kind is EntryKind.LEASE:
            lease = self.scheduler.lease(LeaseId(key))
            return None if lease is None else lease_entry(lease, self.timeline())
        if kind is EntryKind.HORIZON:
            return self._horizon.entry()
        operation = self.scheduler.operation(OperationId(key))
        if operation is None:
            return None
        return operation_entry(operation, self.timeline(), self._operation_targets.get(operation.spec.account))
