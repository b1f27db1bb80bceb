"""Attempts: what the core asks for, carried out against the targets.

Work for leases goes through lanes. Requests for operations begin at once: how many there are is the core's business.
An attempt is a task under a cancel scope that ends when the core said; its outcome goes back as an event. Only renewals
and acquisitions, where the target can do without, have no task: their answers are taken in by whoever reads them, and
what is more than a grant then gets its task.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import anyio
import structlog

from renewer.core.effects import Attempt, StartAcquire, StartFetch, StartPoll, StartRelease, StartRenew, StartSubmit
from renewer.core.events import (
    Event,
    LeaseAttemptFailed,
    LeaseGranted,
    LeaseSettled,
    OperationAnswered,
    OperationAttemptFailed,
    ResultFetched,
)
from renewer.core.model import Failure, LeaseId, OperationId, PollAnswer, Succeeded, Terminal, Transient
from renewer.core.states import LossReason, MessageFate
from renewer.daemon.lanes import Lane, LaneLimits, Queued
from renewer.daemon.pending import PendingAttempt
from renewer.daemon.workers import Workers
from renewer.errors import LeaseLostError, MessageSettledError, TransientError

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from renewer.core.model import LeaseSpec
    from renewer.daemon.keeping import Keeper
    from renewer.ports import Clock, LeaseTarget, OperationTarget, PendingRenewal

_RELEASE_TIMEOUT_S = 5.0
"""How long a release may take; the lock ends by itself if the broker does not answer."""

_LOOK_AFTER_S = 1.0
"""How often it is looked whether a renewal without a task has had its time."""

_AttemptKey = tuple[LeaseId | OperationId, int]
_Begin = Callable[["LeaseSpec", int, Callable[["PendingRenewal"], None]], "PendingRenewal | None"]

_log = structlog.get_logger("renewer.attempts")


class AttemptObserver(Protocol):
    """Told how attempts go; for metrics."""

    def attempt_started(self, kind: str, lateness_s: float) -> None:
        """An attempt of this kind began, so long after it fell due."""
        ...

    def renewal_answered(self, duration_s: float) -> None:
        """A renewal was answered, well or not, after so long."""
        ...


class AttemptRunner:
    """Runs attempts in the task group given, and posts their outcomes as events."""

    def __init__(
        self,
        *,
        lease_targets: Mapping[str, LeaseTarget],
        operation_targets: Mapping[str, OperationTarget],
        clock: Clock,
        post: Callable[[Event], None],
        keeper: Keeper,
        limits: LaneLimits,
        observer: AttemptObserver | None,
    ) -> None:
        self._lease_targets = lease_targets
        self._operation_targets = operation_targets
        self._clock = clock
        self._post = post
        self._keeper = keeper
        self._limits = limits
        self._observer = observer
        self._tasks: TaskGroup | None = None
        self._askers: Workers[Attempt] = Workers(self._attempt)
        self._keepers: Workers[tuple[Lane, Queued, int]] = Workers(self._work)
        self._sequence = itertools.count()
        # Attempts that are wanted: those without a scope have yet to begin.
        self._scopes: dict[_AttemptKey, anyio.CancelScope | None] = {}
        self._pending: dict[_AttemptKey, PendingAttempt] = {}
        self._look_at = 0.0
        self._releases: dict[LeaseId, anyio.Event] = {}
        # Renewals that wait for a place, by lease and epoch.
        self._waiting: dict[tuple[LeaseId, int], int] = {}
        self._lanes: dict[tuple[type[Queued], str], Lane] = {}
        self._to_fill: dict[Lane, None] = {}

    def use(self, tasks: TaskGroup | None) -> None:
        """Run attempts in `tasks` from now on; None: no more."""
        self._tasks = tasks

    def start(self, effect: Attempt | StartRelease) -> None:
        """Begin one attempt, or one release; for a lease once `fill` is called and its lane has room."""
        if self._tasks is None:
            raise RuntimeError("attempts were asked for before the supervisor runs")
        if isinstance(effect, StartSubmit | StartPoll | StartFetch):
            self._scopes[effect.spec.id, effect.attempt] = None
            self._askers.put(self._tasks, effect)
            return
        lane = self._lane_for(effect)
        if isinstance(effect, StartRenew):
            before = self._waiting.get((effect.spec.id, effect.epoch))
            if before is not None and (effect.spec.id, before) in self._scopes:
                # The attempt before this one has not even begun; two would only make the queue longer.
                return
            self._waiting[effect.spec.id, effect.epoch] = effect.attempt
            ends_at = effect.expires_at
        elif isinstance(effect, StartAcquire):
            ends_at = effect.abandon_at
        else:
            self._releases.setdefault(effect.spec.id, anyio.Event())
            ends_at = self._clock.now()
        if not isinstance(effect, StartRelease):
            self._scopes[effect.spec.id, effect.attempt] = None
        lane.put(effect, ends_at, next(self._sequence))
        self._to_fill[lane] = None

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
            for pending in [pending for pending in self._pending.values() if pending.effect.abandon_at <= now]:
                self._give_up(pending.effect)
        for lane in self._lanes.values():
            self._fill(lane)
        return min((at for lane in self._lanes.values() if (at := lane.relief_at) is not None), default=None)

    def cancel(self, key: LeaseId | OperationId, attempt: int) -> None:
        """Stop an attempt; its outcome is not posted. No error if it is over."""
        pending = self._pending.pop((key, attempt), None)
        if pending is not None:
            pending.cancel()
            self._left(pending.lane, pending.number)
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

    def _fill(self, lane: Lane) -> None:
        if self._tasks is None or lane.is_being_filled:
            return
        lane.is_being_filled = True
        try:
            now = self._clock.now()
            while (following := lane.take(now)) is not None:
                number, effect = following
                if isinstance(effect, StartRenew) and (
                    self._waiting.get((effect.spec.id, effect.epoch)) == effect.attempt
                ):
                    del self._waiting[effect.spec.id, effect.epoch]
                if not isinstance(effect, StartRelease) and self._begin(lane, effect, number, now):
                    continue
                self._keepers.put(self._tasks, (lane, effect, number))
        finally:
            lane.is_being_filled = False

    def _left(self, lane: Lane, number: int) -> None:
        """A place in the lane is free again."""
        lane.give_back(number)
        if lane.relief_at is not None:
            self._fill(lane)

    async def _work(self, work: tuple[Lane, Queued, int]) -> None:
        lane, effect, number = work
        try:
            if isinstance(effect, StartRelease):
                await self._release(effect)
            else:
                await self._attempt(effect)
        finally:
            self._left(lane, number)

    # Attempts without a task ----------------------------------------------------------------------------------------

    def _begin(self, lane: Lane, effect: StartRenew | StartAcquire, number: int, now: float) -> bool:
        """Have it asked for without a task, or not at all if nobody wants it any longer; False if it takes a task."""
        key, target = (effect.spec.id, effect.attempt), self._lease_targets.get(effect.spec.target)
        if key not in self._scopes:
            lane.give_back(number)
            return True
        kind = _KINDS[type(effect)]
        begin: _Begin | None = getattr(target, _BEGIN[kind], None)
        if begin is None:
            return False
        pending = PendingAttempt(effect, lane, number, now, self._take_in)
        try:
            asked = begin(effect.spec, effect.epoch, pending.answered)
        except Exception:
            _log.exception("attempt raised an unexpected error", kind=kind, id=effect.spec.id)
            return False
        if asked is None:
            return False
        if self._observer is not None:
            self._observer.attempt_started(kind, max(0.0, now - effect.due_at))
        if not pending.is_answered:
            pending.renewed = asked
            self._pending[key] = pending
            self._scopes.pop(key, None)
        return True

    def _take_in(self, pending: PendingAttempt, renewed: PendingRenewal) -> None:
        effect, grant = pending.effect, renewed.grant
        key = (effect.spec.id, effect.attempt)
        self._pending.pop(key, None)
        if self._tasks is None:
            return
        if grant is None:
            # What is to be done may take its time, and connections tell of failure before they have gone down.
            self._scopes[key] = None
            self._tasks.start_soon(self._finish, pending, renewed)
            return
        self._scopes.pop(key, None)
        if self._observer is not None and isinstance(effect, StartRenew):
            self._observer.renewal_answered(self._clock.now() - pending.started_at)
        try:
            self._post(LeaseGranted(effect.spec.id, effect.epoch, effect.attempt, grant))
        except Exception:
            # Whoever read the answer must not suffer from what it led to.
            _log.exception("attempt raised an unexpected error", kind=_KINDS[type(effect)], id=effect.spec.id)
        self._left(pending.lane, pending.number)

    async def _finish(self, pending: PendingAttempt, renewed: PendingRenewal) -> None:
        try:
            await self._attempt(pending.effect, renewed, pending.started_at)
        finally:
            self._left(pending.lane, pending.number)

    def _give_up(self, effect: StartRenew | StartAcquire) -> None:
        self.cancel(effect.spec.id, effect.attempt)
        self._post(_failed(effect, _NO_ANSWER))

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
                self._observer.attempt_started(_KINDS[type(effect)], max(0.0, started_at - effect.due_at))
        outcome: Event | None = None
        with scope:
            outcome = await self._outcome(effect, renewed)
        wanted = self._scopes.pop(key, None) is not None
        if not wanted:
            if isinstance(outcome, LeaseGranted):
                # Granted in the moment in which it was cancelled: the core knows what to do with it.
                self._post(outcome)
            return
        if outcome is None:
            outcome = _failed(effect, _NO_ANSWER)
        elif self._observer is not None and isinstance(effect, StartRenew):
            self._observer.renewal_answered(self._clock.now() - started_at)
        self._post(outcome)

    async def _outcome(self, effect: Attempt, renewed: PendingRenewal | None) -> Event:
        try:
            return await self._ask(effect, renewed)
        except TransientError as error:
            return _failed(effect, Transient(error.kind, str(error), error.retry_after_s))
        except LeaseLostError as error:
            return _failed(effect, Terminal(LossReason(error.reason), str(error)))
        except Exception as error:
            # A bug of ours must cost one attempt, not the daemon and every other lock with it.
            _log.exception("attempt raised an unexpected error", kind=_KINDS[type(effect)], id=effect.spec.id)
            return _failed(effect, Transient("garbage", f"unexpected {type(error).__name__}"))

    async def _ask(self, effect: Attempt, renewed: PendingRenewal | None) -> Event:
        match effect:
            case StartRenew(spec, epoch) | StartAcquire(spec, epoch):
                try:
                    if renewed is not None:
                        grant = await renewed.finish()
                    elif isinstance(effect, StartRenew):
                        grant = await self._lease_target(spec.target).renew(spec, epoch)
                    else:
                        grant = await self._lease_target(spec.target).acquire(spec, epoch)
                except MessageSettledError as error:
                    return LeaseSettled(spec.id, epoch, MessageFate(error.fate))
                return LeaseGranted(spec.id, epoch, effect.attempt, grant)
            case StartSubmit(spec, attempt):
                target = self._operation_target(spec.account)
                await self._keeper.note_submitting(spec.id)
                return self._answered(spec.id, attempt, await target.submit(spec))
            case StartPoll(spec, ticket, attempt):
                target = self._operation_target(spec.account)
                await self._keeper.cover_poll()
                return self._answered(spec.id, attempt, await target.poll(spec, ticket))
            case StartFetch(spec, ticket, attempt):
                result = await self._operation_target(spec.account).fetch(spec, ticket)
                return ResultFetched(spec.id, attempt, self._keeper.keep_result(spec.id, result))

    def _answered(self, operation_id: OperationId, attempt: int, answer: PollAnswer) -> Event:
        if isinstance(answer, Succeeded) and answer.result is not None:
            answer = replace(answer, result=self._keeper.keep_result(operation_id, answer.result))
        return OperationAnswered(operation_id, attempt, answer)

    def _lease_target(self, name: str) -> LeaseTarget:
        target = self._lease_targets.get(name)
        if target is None:
            raise TransientError(f"[{name}] is not in the configuration any longer; put it back", kind="network")
        return target

    def _operation_target(self, name: str) -> OperationTarget:
        target = self._operation_targets.get(name)
        if target is None:
            # Unreachable, so that a first request, which was not sent, may be sent when the account is back.
            raise TransientError(f"[{name}] is not in the configuration any longer; put it back", kind="unreachable")
        return target

    def _lane_for(self, effect: Queued) -> Lane:
        name = (type(effect), effect.spec.target)
        lane = self._lanes.get(name)
        if lane is None:
            limits = self._limits
            limit = {StartRenew: limits.renew, StartAcquire: limits.acquire, StartRelease: limits.release}
            lane = self._lanes[name] = Lane(limit[type(effect)])
        return lane

    async def _release(self, effect: StartRelease) -> None:
        spec = effect.spec
        try:
            with anyio.move_on_after(_RELEASE_TIMEOUT_S):
                await self._lease_target(spec.target).release(spec, effect.epoch)
        except (TransientError, LeaseLostError) as error:
            _log.warning("lease release not confirmed", lease=spec.id, detail=str(error))
        except Exception:
            _log.exception("release raised an unexpected error", lease=spec.id)
        finally:
            event = self._releases.pop(spec.id, None)
            if event is not None:
                event.set()


def _failed(effect: Attempt, failure: Failure) -> Event:
    match effect:
        case StartAcquire() | StartRenew():
            return LeaseAttemptFailed(effect.spec.id, effect.epoch, effect.attempt, failure)
        case _:
            if isinstance(failure, Terminal):
                failure = Transient("garbage", failure.detail)
            return OperationAttemptFailed(effect.spec.id, effect.attempt, failure)


_NO_ANSWER = Transient("timeout", "no answer in time")

_KINDS: dict[type, str] = {
    StartRenew: "renew",
    StartAcquire: "acquire",
    StartSubmit: "submit",
    StartPoll: "poll",
    StartFetch: "fetch",
}

_BEGIN = {"renew": "begin_renewal", "acquire": "begin_acquisition"}
