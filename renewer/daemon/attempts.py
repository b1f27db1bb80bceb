"""Attempts: what the core asks for, carried out against the targets.

Work for leases goes through lanes. Requests for operations begin at once: how many there are is the core's business.
An attempt is a task under a cancel scope that ends when the core said; its outcome goes back as an event. Only renewals
and acquisitions, where the target can do without, have no task: their answers are taken in by whoever reads them, and
what is more than a grant then gets its task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

import anyio
import structlog

from renewer.core.effects import Attempt, StartAcquire, StartFetch, StartPoll, StartRelease, StartRenew, StartSubmit
from renewer.core.events import Event, LeaseGranted
from renewer.core.model import LeaseId, OperationId
from renewer.daemon.asking import KINDS, NO_ANSWER, Asking, failed
from renewer.daemon.lanes import Lane, LaneLimits
from renewer.daemon.pending import PendingAttempt
from renewer.daemon.workers import Workers

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from renewer.core.model import LeaseSpec
    from renewer.daemon.keeping import Keeper
    from renewer.ports import Clock, LeaseTarget, OperationTarget, PendingRenewal

_LOOK_AFTER_S = 1.0
"""How often it is looked whether a renewal without a task has had its time."""

_IDLE_KEEPERS = 8
"""How many tasks for leases wait for more. Few things take one, though a hundred at once while a connection opens."""

_AttemptKey = tuple[LeaseId | OperationId, int]
_BeginRenewals = Callable[[Sequence[PendingAttempt], Callable[[Sequence[PendingAttempt]], None]], None]
_BeginAcquisition = Callable[["LeaseSpec", int, Callable[["PendingRenewal"], None]], "PendingRenewal | None"]
_ForLease = StartRenew | StartAcquire | StartRelease

_log = structlog.get_logger("renewer.attempts")


class AttemptObserver(Protocol):
    """Told how attempts go; for metrics."""

    def attempts_started(self, kind: str, lateness_s: Sequence[float]) -> None:
        """Attempts of this kind began, each so long after it fell due."""
        ...

    def renewals_answered(self, duration_s: Sequence[float]) -> None:
        """Renewals were answered, well or not, each after so long."""
        ...


class AttemptRunner:
    """Runs attempts in the task group given, and posts their outcomes as events: `post_all` several at once."""

    def __init__(
        self,
        *,
        lease_targets: Mapping[str, LeaseTarget],
        operation_targets: Mapping[str, OperationTarget],
        clock: Clock,
        post: Callable[[Event], None],
        post_all: Callable[[Sequence[Event]], None],
        keeper: Keeper,
        limits: LaneLimits,
        observer: AttemptObserver | None,
    ) -> None:
        self._lease_targets = lease_targets
        self._clock = clock
        self._post = post
        self._post_all = post_all
        self._asking = Asking(lease_targets, operation_targets, keeper)
        self._limits = limits
        self._observer = observer
        self._tasks: TaskGroup | None = None
        self._askers: Workers[Attempt] = Workers(self._attempt)
        self._keepers: Workers[PendingAttempt] = Workers(self._work, most_idle=_IDLE_KEEPERS)
        # Attempts that are wanted: those that have a task, or are about to, and the others.
        self._scopes: dict[_AttemptKey, anyio.CancelScope | None] = {}
        self._pending: dict[_AttemptKey, PendingAttempt] = {}
        self._look_at = 0.0
        self._releases: dict[LeaseId, anyio.Event] = {}
        # Renewals that wait for a place.
        self._waiting: dict[LeaseId, PendingAttempt] = {}
        self._lanes: dict[tuple[type[_ForLease], str], Lane] = {}
        self._to_fill: dict[Lane, None] = {}

    def use(self, tasks: TaskGroup | None) -> None:
        """Run attempts in `tasks` from now on; None: no more."""
        self._tasks = tasks

    def start(self, effect: Attempt | StartRelease) -> None:
        """Begin one attempt, or one release; for a lease once `fill` is called and its lane has room."""
        if isinstance(effect, StartRenew):
            self.start_renewals([effect])
            return
        tasks = self._running()
        if isinstance(effect, StartSubmit | StartPoll | StartFetch):
            self._scopes[effect.spec.id, effect.attempt] = None
            self._askers.put(tasks, effect)
            return
        if isinstance(effect, StartAcquire):
            attempt = self._pending[effect.spec.id, effect.attempt] = PendingAttempt(
                effect, effect.due_at, effect.abandon_at
            )
        else:
            self._releases.setdefault(effect.spec.id, anyio.Event())
            now = self._clock.now()
            attempt = PendingAttempt(effect, now, now)
        self._queue(self._lane_for(type(effect), effect.spec.target), [attempt])

    def start_renewals(self, effects: Sequence[StartRenew]) -> None:
        """The same for renewals: those that go to one target together begin together."""
        self._running()
        for target, those in groupby(effects, _target_of):
            queued: list[PendingAttempt] = []
            for effect in those:
                lease_id = effect.spec.id
                before = self._waiting.get(lease_id)
                if before is not None and before.is_wanted and before.epoch == effect.epoch:
                    # The attempt before this one has not even begun; two would only make the queue longer.
                    continue
                attempt = PendingAttempt(effect, effect.due_at, effect.expires_at, effect.patience_s)
                self._waiting[lease_id] = self._pending[lease_id, effect.attempt] = attempt
                queued.append(attempt)
            self._queue(self._lane_for(StartRenew, target), queued)

    def fill(self) -> None:
        """Start what was queued since the last call, as far as there is room."""
        while self._to_fill:
            self._fill(self._to_fill.popitem()[0])

    def relieve(self) -> float | None:
        """Start what has found a place by now; returns when to call again, None for not before something happens.

        To be called once a second at least.
        """
        now = self._clock.now()
        if now >= self._look_at:
            self._look_at = now + _LOOK_AFTER_S
            for key, pending in [*self._pending.items()]:
                effect = pending.effect
                # What one of them leads to may be the end of another.
                if not isinstance(effect, StartRelease) and effect.abandon_at <= now and key in self._pending:
                    self.cancel(*key)
                    self._post(failed(effect, NO_ANSWER))
        for lane in self._lanes.values():
            self._fill(lane)
        return min((at for lane in self._lanes.values() if (at := lane.relief_at) is not None), default=None)

    def cancel(self, key: LeaseId | OperationId, attempt: int) -> None:
        """Stop an attempt; its outcome is not posted. No error if it is over."""
        pending = self._pending.pop((key, attempt), None)
        if pending is not None:
            pending.cancel()
            self._left([pending])
            return
        scope = self._scopes.pop((key, attempt), None)
        if scope is not None:
            scope.cancel()

    async def released(self, lease_id: LeaseId) -> None:
        """Wait until the release under way for this lease, if any, is confirmed or given up."""
        event = self._releases.get(lease_id)
        if event is not None:
            await event.wait()

    async def all_released(self) -> None:
        """Wait until no release is under way."""
        while self._releases:
            await next(iter(self._releases.values())).wait()

    def _running(self) -> TaskGroup:
        if self._tasks is None:
            raise RuntimeError("attempts were asked for before the supervisor runs")
        return self._tasks

    def _queue(self, lane: Lane, attempts: Sequence[PendingAttempt]) -> None:
        lane.put(attempts)
        self._to_fill[lane] = None

    def _fill(self, lane: Lane) -> None:
        if self._tasks is None or lane.is_being_filled:
            return
        lane.is_being_filled = True
        try:
            now = self._clock.now()
            while attempts := lane.take(now):
                self._begin(attempts, now)
        finally:
            lane.is_being_filled = False

    def _begin(self, attempts: Sequence[PendingAttempt], now: float) -> None:
        """Begin what has found places in one lane, so that all of it is of one kind."""
        wanted = [attempt for attempt in attempts if attempt.is_wanted]
        if len(wanted) < len(attempts):
            self._left([attempt for attempt in attempts if not attempt.is_wanted])
        if isinstance(attempts[0].effect, StartRenew):
            for attempt in attempts:
                if self._waiting.get(attempt.spec.id) is attempt:
                    del self._waiting[attempt.spec.id]
            if wanted:
                self._begin_renewals(wanted, now)
            return
        for attempt in wanted:
            if not attempt.is_wanted:
                continue  # What another led to was its end, and its place is given back.
            if not (isinstance(attempt.effect, StartAcquire) and self._begin_acquisition(attempt, attempt.effect)):
                self._begin_task(attempt)

    def _begin_task(self, attempt: PendingAttempt) -> None:
        """Have a task carry it out."""
        effect = attempt.effect
        if not isinstance(effect, StartRelease):
            del self._pending[effect.spec.id, effect.attempt]
            self._scopes[effect.spec.id, effect.attempt] = None
        self._keepers.put(self._running(), attempt)

    async def _work(self, attempt: PendingAttempt) -> None:
        try:
            if isinstance(attempt.effect, StartRelease):
                await self._release(attempt.effect)
            else:
                await self._attempt(attempt.effect)
        finally:
            self._left([attempt])

    def _left(self, attempts: Sequence[PendingAttempt]) -> None:
        """Places in lanes, if these have any, are free again."""
        for places, those in groupby(attempts, _places_of):
            if places is not None:
                places.give_back(len([*those]))
                if places.lane.relief_at is not None:
                    self._fill(places.lane)

    # Attempts without a task ----------------------------------------------------------------------------------------

    def _begin_renewals(self, attempts: Sequence[PendingAttempt], now: float) -> None:
        """Have locks of one target renewed without tasks; those for which that cannot be get one each."""
        begin: _BeginRenewals | None = getattr(self._lease_targets.get(attempts[0].spec.target), "begin_renewals", None)
        if begin is not None:
            try:
                begin(attempts, self._take_in)
            except Exception:
                _log.exception("attempt raised an unexpected error", kind="renew", target=attempts[0].spec.target)
        begun = [attempt for attempt in attempts if attempt.renewal is not None or attempt.is_answered]
        if self._observer is not None and begun:
            self._observer.attempts_started("renew", [now - attempt.due_at for attempt in begun])
        if len(begun) < len(attempts):
            for attempt in attempts:
                if attempt.renewal is None and not attempt.is_answered and attempt.is_wanted:
                    self._begin_task(attempt)

    def _begin_acquisition(self, attempt: PendingAttempt, effect: StartAcquire) -> bool:
        """Have it asked for without a task; False if it takes one."""
        begin: _BeginAcquisition | None = getattr(
            self._lease_targets.get(effect.spec.target), "begin_acquisition", None
        )
        if begin is None:
            return False
        try:
            asked = begin(effect.spec, effect.epoch, partial(self._take_in_one, attempt))
        except Exception:
            _log.exception("attempt raised an unexpected error", kind="acquire", id=effect.spec.id)
            return False
        if asked is None:
            return False
        attempt.renewal = asked
        if self._observer is not None:
            self._observer.attempts_started("acquire", [self._clock.now() - effect.due_at])
        return True

    def _take_in_one(self, attempt: PendingAttempt, _acquired: PendingRenewal) -> None:
        self._take_in([attempt])

    def _take_in(self, attempts: Sequence[PendingAttempt]) -> None:
        """Take in what was answered together."""
        granted: list[LeaseGranted] = []
        done: list[PendingAttempt] = []
        for attempt in attempts:
            effect = attempt.effect
            if isinstance(effect, StartRelease) or not attempt.is_wanted:
                # Cancelled in the moment in which it was answered.
                continue
            key = (effect.spec.id, effect.attempt)
            del self._pending[key]
            renewal = attempt.answered()
            grant = renewal.grant
            if grant is not None:
                granted.append(LeaseGranted(effect.spec.id, effect.epoch, effect.attempt, grant))
                done.append(attempt)
            elif self._tasks is not None:
                # What is to be done may take its time, and connections tell of failure before they have gone down.
                self._scopes[key] = None
                self._tasks.start_soon(self._finish, attempt, renewal)
        if not granted or self._tasks is None:
            return
        if self._observer is not None and isinstance(done[0].effect, StartRenew):
            now = self._clock.now()
            self._observer.renewals_answered([now - attempt.started_at for attempt in done])
        try:
            self._post_all(granted)
        except Exception:
            # Whoever read the answer must not suffer from what it led to.
            _log.exception("grants were not taken in")
        self._left(done)

    async def _finish(self, attempt: PendingAttempt, renewal: PendingRenewal) -> None:
        try:
            assert not isinstance(attempt.effect, StartRelease)  # noqa: S101 - these are always tasks
            await self._attempt(attempt.effect, renewal, attempt.started_at)
        finally:
            self._left([attempt])

    # Attempts as tasks ----------------------------------------------------------------------------------------------

    async def _attempt(
        self, effect: Attempt, renewed: PendingRenewal | None = None, started_at: float | None = None
    ) -> None:
        """Carry out one attempt, or finish the one that was asked for at `started_at`."""
        key = (effect.spec.id, effect.attempt)
        if key not in self._scopes:
            return
        scope = self._scopes[key] = anyio.CancelScope(deadline=effect.abandon_at)
        if started_at is None:
            started_at = self._clock.now()
            if self._observer is not None:
                self._observer.attempts_started(KINDS[type(effect)], [started_at - effect.due_at])
        outcome: Event | None = None
        with scope:
            outcome = await self._asking.outcome(effect, renewed)
        wanted = self._scopes.pop(key, None) is not None
        if not wanted:
            if isinstance(outcome, LeaseGranted):
                # Granted in the moment in which it was cancelled: the core knows what to do with it.
                self._post(outcome)
            return
        if outcome is None:
            outcome = failed(effect, NO_ANSWER)
        elif self._observer is not None and isinstance(effect, StartRenew):
            self._observer.renewals_answered([self._clock.now() - started_at])
        self._post(outcome)

    def _lane_for(self, kind: type[_ForLease], target: str) -> Lane:
        lane = self._lanes.get((kind, target))
        if lane is None:
            limits = self._limits
            limit = {StartRenew: limits.renew, StartAcquire: limits.acquire, StartRelease: limits.release}
            lane = self._lanes[kind, target] = Lane(limit[kind])
        return lane

    async def _release(self, effect: StartRelease) -> None:
        try:
            await self._asking.release(effect)
        finally:
            event = self._releases.pop(effect.spec.id, None)
            if event is not None:
                event.set()


_target_of = attrgetter("spec.target")
_places_of = attrgetter("places")
