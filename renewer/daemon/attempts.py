"""Attempts: what the core asks for, carried out against the targets.

Each kind of work for leases on each target has its own lane with so many places, so that a remote that is slow or
silent keeps nobody else waiting. Within a lane the attempt whose time ends first goes first: after a stall, that is the
lock that is nearest to expiry. Requests for operations begin at once: how many there are is the core's business.
An attempt runs under a cancel scope that ends when the core said; its outcome goes back as an event.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
from renewer.errors import LeaseLostError, MessageSettledError, TransientError

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from renewer.daemon.keeping import Keeper
    from renewer.ports import Clock, LeaseTarget, OperationTarget

_RELEASE_TIMEOUT_S = 5.0
"""How long a release may take; the lock ends by itself if the broker does not answer."""

_HOLD_S = 1.0
"""How long an attempt for a lease takes up a place in its lane, at most. It goes on after that, but one connection that
has fallen silent, or those who wait for the next available session, must not keep others of the namespace waiting."""

_Queued = StartAcquire | StartRenew | StartRelease

_log = structlog.get_logger("renewer.attempts")


class AttemptObserver(Protocol):
    """Told how attempts go; for metrics."""

    def attempt_started(self, kind: str, lateness_s: float) -> None:
        """An attempt of this kind began, so long after it fell due."""
        ...

    def renewal_answered(self, duration_s: float) -> None:
        """A renewal was answered, well or not, after so long."""
        ...


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """How many attempts for leases may be under way at once on each target, by kind.

    Each counts only for as long as the core waits for it, and for a second at most. Requests for operations are bounded
    by their quotas, which the core keeps.
    """

    renew: int = 1024
    acquire: int = 256
    release: int = 256


class _Lane:
    """Work of one kind on one target: a queue by end time, and a bounded number of places, each held for a while."""

    def __init__(self, limit: int) -> None:
        self.queue: list[tuple[float, int, _Queued]] = []
        self._limit = limit
        self._taken: set[object] = set()
        self._ends: list[tuple[float, int, object]] = []

    @property
    def relief_at(self) -> float | None:
        """When a place that somebody waits for becomes free at the latest; None if nobody waits."""
        return self._ends[0][0] if self.queue and self._ends else None

    def take(self, effect: _Queued, number: int, now: float) -> object | None:
        """A place for `effect`, to be given back; None if all are taken. `number` breaks ties."""
        while self._ends and (self._ends[0][0] <= now or self._ends[0][2] not in self._taken):
            self._taken.discard(heapq.heappop(self._ends)[2])
        if len(self._taken) >= self._limit:
            return None
        place = object()
        self._taken.add(place)
        hold_s = min(effect.patience_s, _HOLD_S) if isinstance(effect, StartRenew) else _HOLD_S
        heapq.heappush(self._ends, (now + hold_s, number, place))
        return place

    def give_back(self, place: object) -> None:
        """The attempt is over. No error if its place was given to another meanwhile."""
        self._taken.discard(place)


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
        self._sequence = itertools.count()
        self._scopes: dict[tuple[LeaseId | OperationId, int], anyio.CancelScope] = {}
        self._releases: dict[LeaseId, anyio.Event] = {}
        self._waiting: set[tuple[LeaseId, int]] = set()
        self._lanes: dict[str, _Lane] = {}

    def use(self, tasks: TaskGroup) -> None:
        """Run attempts in `tasks` from now on."""
        self._tasks = tasks

    def start(self, effect: Attempt | StartRelease) -> None:
        """Begin one attempt, or one release; for a lease as soon as its lane has room."""
        if self._tasks is None:
            raise RuntimeError("attempts were asked for before the supervisor runs")
        if isinstance(effect, StartSubmit | StartPoll | StartFetch):
            self._scopes[effect.spec.id, effect.attempt] = anyio.CancelScope(deadline=effect.abandon_at)
            self._tasks.start_soon(self._attempt, effect)
            return
        lane = self._lane_for(effect)
        if isinstance(effect, StartRenew):
            if (effect.spec.id, effect.epoch) in self._waiting:
                # The attempt before this one has not even begun; two would only make the queue longer.
                return
            self._waiting.add((effect.spec.id, effect.epoch))
        if isinstance(effect, StartRelease):
            self._releases.setdefault(effect.spec.id, anyio.Event())
            ends_at = self._clock.now()
        else:
            # The scope exists from the beginning, so that an attempt can be cancelled while it still waits.
            self._scopes[effect.spec.id, effect.attempt] = anyio.CancelScope(deadline=effect.abandon_at)
            ends_at = effect.abandon_at
        heapq.heappush(lane.queue, (ends_at, next(self._sequence), effect))
        self._fill(lane)

    def relieve(self) -> float | None:
        """Start what has found a place by now; returns when to call again, None for not before something happens."""
        for lane in self._lanes.values():
            self._fill(lane)
        return min((at for lane in self._lanes.values() if (at := lane.relief_at) is not None), default=None)

    def cancel(self, key: LeaseId | OperationId, attempt: int) -> None:
        """Stop an attempt; its outcome is not posted. No error if it is over."""
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

    def _fill(self, lane: _Lane) -> None:
        if self._tasks is None:
            return
        while lane.queue:
            _, number, effect = lane.queue[0]
            place = lane.take(effect, number, self._clock.now())
            if place is None:
                return
            heapq.heappop(lane.queue)
            if isinstance(effect, StartRenew):
                self._waiting.discard((effect.spec.id, effect.epoch))
            self._tasks.start_soon(self._work, lane, effect, place)

    async def _work(self, lane: _Lane, effect: _Queued, place: object) -> None:
        try:
            if isinstance(effect, StartRelease):
                await self._release(effect)
            else:
                await self._attempt(effect)
        finally:
            lane.give_back(place)
            self._fill(lane)

    async def _attempt(self, effect: Attempt) -> None:
        key = (effect.spec.id, effect.attempt)
        scope = self._scopes.get(key)
        if scope is None:
            return
        started_at = self._clock.now()
        if self._observer is not None:
            self._observer.attempt_started(_KINDS[type(effect)], max(0.0, started_at - effect.due_at))
        outcome: Event | None = None
        with scope:
            outcome = await self._outcome(effect)
        wanted = self._scopes.pop(key, None) is not None
        if not wanted:
            if isinstance(outcome, LeaseGranted):
                # Granted in the moment in which it was cancelled: the core knows what to do with it.
                self._post(outcome)
            return
        if outcome is None:
            outcome = _failed(effect, Transient("timeout", "no answer in time"))
        elif self._observer is not None and isinstance(effect, StartRenew):
            self._observer.renewal_answered(self._clock.now() - started_at)
        self._post(outcome)

    async def _outcome(self, effect: Attempt) -> Event:
        try:
            return await self._ask(effect)
        except TransientError as error:
            return _failed(effect, Transient(error.kind, str(error), error.retry_after_s))
        except LeaseLostError as error:
            return _failed(effect, Terminal(LossReason(error.reason), str(error)))
        except Exception as error:
            # A bug of ours must cost one attempt, not the daemon and every other lock with it.
            _log.exception("attempt raised an unexpected error", kind=_KINDS[type(effect)], id=effect.spec.id)
            return _failed(effect, Transient("garbage", f"unexpected {type(error).__name__}"))

    async def _ask(self, effect: Attempt) -> Event:
        match effect:
            case StartRenew(spec, epoch) | StartAcquire(spec, epoch):
                keeper = self._lease_target(spec.target)
                try:
                    grant = await (keeper.renew if isinstance(effect, StartRenew) else keeper.acquire)(spec, epoch)
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

    def _lane_for(self, effect: _Queued) -> _Lane:
        limits = self._limits
        match effect:
            case StartRenew():
                return self._lane(f"renew {effect.spec.target}", limits.renew)
            case StartAcquire():
                return self._lane(f"acquire {effect.spec.target}", limits.acquire)
            case StartRelease():
                return self._lane(f"release {effect.spec.target}", limits.release)

    def _lane(self, name: str, limit: int) -> _Lane:
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane(limit)
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


_KINDS: dict[type, str] = {
    StartRenew: "renew",
    StartAcquire: "acquire",
    StartSubmit: "submit",
    StartPoll: "poll",
    StartFetch: "fetch",
}
