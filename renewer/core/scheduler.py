"""The scheduler: all leases and operations, on one queue keyed by due time.

Time and random fractions come in as arguments, effects go out as values; nothing here reads a clock, draws a random
number or does I/O. The shell calls `handle` for each event and `advance` when `next_due` has come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import assert_never

from renewer.core.duequeue import DueQueue
from renewer.core.effects import Effect, LeaseNews, OperationNews, TellLease, TellOperation
from renewer.core.events import (
    Event,
    ForgetRequested,
    LeaseAttemptFailed,
    LeaseEvent,
    LeaseGranted,
    LeaseHandedOver,
    LeaseNotSettled,
    LeaseParkRequested,
    LeaseRegistered,
    LeaseReleaseRequested,
    LeaseRenewRequested,
    LeaseRestored,
    LeaseRevised,
    LeaseSettled,
    LeaseSettling,
    LeaseUnparkRequested,
    LinkLost,
    OperationAnswered,
    OperationAttemptFailed,
    OperationEvent,
    OperationRegistered,
    OperationRestored,
    OwnerGone,
    OwnerSeen,
    ResultFetched,
)
from renewer.core.inorder import InOrder
from renewer.core.leases import Lease
from renewer.core.model import LeaseId, OperationId, OperationSpec, Transient
from renewer.core.operations import Operation
from renewer.core.quotas import LONGEST_PAUSE_S, Asking, Quota, QuotaReading, Quotas
from renewer.core.states import LeaseKind, is_over

QuotaOf = Callable[[OperationSpec, Asking, object], Quota | None]
"""Says what a request counts against, given the operation's ticket; None for nothing. A pure function."""

_SESSION = LeaseKind.SESSION  # CPython 3.11 takes its time to read a member off its enum.

_LEISURE_S = 5.0
"""Where there is more to do than can be done at once, what holds no lock goes before locks that last longer still."""


class Scheduler:
    """Every lease and every operation, and what is to be done about them when."""

    def __init__(self, quota_of: QuotaOf = lambda _spec, _asking, _ticket: None) -> None:
        self._quota_of = quota_of
        self._quotas = Quotas()
        self._leases: dict[LeaseId, Lease] = {}
        self._operations: dict[OperationId, Operation] = {}
        self._queue: DueQueue[str] = DueQueue()
        self._behind: InOrder[str] = InOrder()
        self._behind_since = 0.0
        self._ended: dict[type[Lease | Operation], set[str]] = {Lease: set(), Operation: set()}
        self._sessions: Counter[str] = Counter()
        self._messages: Counter[tuple[str, str]] = Counter()
        self._last_number = 0

    @property
    def queue_length(self) -> int:
        """How many things have a due time."""
        return len(self._queue) + len(self._behind)

    @property
    def living_leases(self) -> int:
        """How many leases have not ended."""
        return len(self._leases) - len(self._ended[Lease])

    @property
    def living_operations(self) -> int:
        """How many operations have not ended."""
        return len(self._operations) - len(self._ended[Operation])

    def living_sessions(self, target: str) -> int:
        """How many leases on sessions of this target have not ended."""
        return self._sessions[target]

    def next_due(self) -> float | None:
        """When `advance` next has something to do; None for never."""
        if self._behind:
            return self._behind_since
        due_at, room_at = self._queue.next_due(), self._quotas.next_due()
        return due_at if room_at is None else room_at if due_at is None else min(due_at, room_at)

    def is_due_before(self, moment: float) -> bool:
        """Whether `advance` has something to do before that."""
        if not (self._behind or self._operations or self._queue.may_be_due_before(moment)):
            return False
        due_at = self.next_due()
        return due_at is not None and due_at < moment

    def quotas(self, now: float) -> Iterator[QuotaReading]:
        """The quotas that operations count against, as they are now."""
        return self._quotas.readings(now)

    def lease(self, lease_id: LeaseId) -> Lease | None:
        """The lease of this id, if known."""
        return self._leases.get(lease_id)

    def leases(self) -> Iterator[Lease]:
        """All known leases, in the order of their registration."""
        return iter(self._leases.values())

    def operation(self, operation_id: OperationId) -> Operation | None:
        """The operation of this id, if known."""
        return self._operations.get(operation_id)

    def operations(self) -> Iterator[Operation]:
        """All known operations, in the order of their registration."""
        return iter(self._operations.values())

    def handle(self, event: Event, now: float, fraction: float) -> list[Effect]:
        """Take in one event at `now`. `fraction` is a random number in [0, 1). Events for the unknown are ignored."""
        if isinstance(event, LeaseGranted):
            lease = self._leases.get(event.lease_id)
            return [] if lease is None else self._handle_grant(lease, event, now, fraction)
        if isinstance(event, ForgetRequested):
            return self._handle_forget(event, now)
        if isinstance(event, LeaseEvent):
            return self._handle_lease(event, now, fraction)
        return self._handle_operation(event, now, fraction)

    def advance(self, now: float, draw: Callable[[], float], most: int | None = None) -> list[Effect]:
        """Do what has fallen due at `now`, for at most so many items: the lock that ends first goes first.

        `draw` gives random numbers in [0, 1).
        """
        effects: list[Effect] = []
        self._gather(now)
        left = self.queue_length if most is None else most
        for waited in self._quotas.ready(now, left):
            left -= 1
            let_go = self._operations[OperationId(waited)]
            effects += let_go.let_go(now)
            self._settle(let_go, now)
        # What is due again at once waits for the next call, and cannot hold up the rest.
        for _, key in self._behind.take(max(left, 0)):
            lease = self._leases.get(LeaseId(key))
            if lease is not None:
                effects += lease.advance(now, draw())
                if lease.forget_at is not None and lease.forget_at <= now:
                    effects.append(self._forget(lease, now))
                else:
                    self._settle_lease(lease)
            elif (operation := self._operations.get(OperationId(key))) is not None:
                effects += self._advance_operation(operation, now, draw())
        return effects

    def _advance_operation(self, operation: Operation, now: float, fraction: float) -> list[Effect]:
        waited_for = operation.held_back_by
        effects = operation.advance(now, fraction, self._admit)
        if waited_for is not None and operation.held_back_by is None:
            # Its deadline came before its turn.
            self._quotas.leave(operation.spec.id, waited_for, now)
        if is_over(operation.state) and operation.forget_at is not None and operation.forget_at <= now:
            effects.append(self._forget(operation, now))
        else:
            self._settle(operation, now)
        return effects

    def _gather(self, now: float) -> None:
        """Put what has fallen due in order. What is done about an item meanwhile does no harm to its place there."""
        due = self._queue.pop_all_due(now)
        if due:
            leases, at_leisure = self._leases, now + _LEISURE_S
            found = [leases.get(LeaseId(key)) for key in due]
            ends = [at_leisure if lease is None else lease.ends_at(at_leisure) for lease in found]
            self._behind.add([*zip(ends, due, strict=True)])
            self._behind_since = now

    def _handle_grant(self, lease: Lease, event: LeaseGranted, now: float, fraction: float) -> list[Effect]:
        effects = lease.granted(event, now, fraction, self._crowd(lease))
        self._settle_lease(lease)
        return effects

    def _handle_lease(self, event: LeaseEvent, now: float, fraction: float) -> list[Effect]:
        if isinstance(event, LeaseRegistered | LeaseRestored):
            if self._is_taken(event.spec.id):
                return []
            if isinstance(event, LeaseRegistered):
                lease = Lease(event.spec, now, self._next_number())
                effects = lease.register(now)
            else:
                lease = Lease(event.spec, event.past.registered_at, self._known_number(event.past.number))
                effects = lease.restore(event.past, now, fraction)
            self._leases[event.spec.id] = lease
            self._count(lease, 1)
        else:
            found = self._leases.get(event.lease_id)
            if found is None:
                return []
            lease = found
            match event:
                case LeaseGranted():
                    return self._handle_grant(lease, event, now, fraction)
                case LeaseAttemptFailed():
                    effects = lease.failed(event, now, fraction)
                case LinkLost():
                    effects = lease.link_lost(event, now, fraction)
                case LeaseRevised():
                    effects = lease.revise(event.spec, now)
                case LeaseHandedOver():
                    effects = lease.hand_over(event.spec, now)
                case LeaseRenewRequested():
                    effects = lease.renew_now(now)
                case LeaseSettling():
                    effects = lease.settling(event.epoch)
                case LeaseSettled():
                    effects = lease.settled(event.epoch, event.fate, now)
                case LeaseNotSettled():
                    effects = lease.not_settled(event.epoch, now)
                case LeaseReleaseRequested():
                    effects = lease.release(now)
                case LeaseParkRequested():
                    effects = lease.park(now)
                case LeaseUnparkRequested():
                    effects = lease.unpark(now)
                case OwnerSeen():
                    effects = lease.seen(now, stays=event.stays, is_new=event.is_new)
                case OwnerGone():
                    effects = lease.owner_gone(event.detail, now)
                case _:
                    assert_never(event)
        self._settle_lease(lease)
        return effects

    def _handle_operation(self, event: OperationEvent, now: float, fraction: float) -> list[Effect]:
        if isinstance(event, OperationRegistered | OperationRestored):
            if self._is_taken(event.spec.id):
                return []
            if isinstance(event, OperationRegistered):
                operation = Operation(event.spec, now, self._next_number())
                effects = operation.register(event.first, now)
            else:
                operation = Operation(event.spec, event.past.registered_at, self._known_number(event.past.number))
                effects = operation.restore(event.past, now)
                self._heed_past(operation, now)
            self._operations[event.spec.id] = operation
        else:
            found = self._operations.get(event.operation_id)
            if found is None:
                return []
            operation = found
            match event:
                case OperationAnswered():
                    self._quotas.answered(operation.spec.id)
                    effects = operation.answered(event.attempt, event.answer, now)
                case ResultFetched():
                    self._quotas.answered(operation.spec.id)
                    effects = operation.fetched(event.attempt, event.result, now)
                case OperationAttemptFailed():
                    self._heed(operation, event.failure, now)
                    effects = operation.failed(event.attempt, event.failure, now, fraction)
                case _:
                    assert_never(event)
        self._settle(operation, now)
        return effects

    def _handle_forget(self, event: ForgetRequested, now: float) -> list[Effect]:
        item = self._leases.get(LeaseId(event.key)) or self._operations.get(OperationId(event.key))
        if item is None:
            return []
        effects = item.release(now) if isinstance(item, Lease) else item.forget()
        self._queue.schedule(event.key, None)
        if isinstance(item, Operation) and item.held_back_by is not None:
            self._quotas.leave(event.key, item.held_back_by, now)
        self._quotas.ended(event.key, now)
        return [*effects, self._forget(item, now)]

    def _admit(self, operation: Operation, now: float, *, may_wait: bool) -> str | None:
        quota = self._quota_of(operation.spec, operation.asking, operation.ticket)
        if quota is None:
            return None
        due_at = now if operation.next_attempt_at is None else operation.next_attempt_at
        if not may_wait and not self._quotas.is_at_ease(quota, now):
            return quota.name
        return None if self._quotas.admit(operation.spec.id, quota, operation.asking, due_at, now) else quota.name

    def _heed(self, operation: Operation, failure: Transient, now: float) -> None:
        """Pause the quota of a request that was one too many."""
        if failure.kind == "throttled":
            self._quotas.throttled(operation.spec.id, failure.retry_after_s, now)
        else:
            self._quotas.answered(operation.spec.id)

    def _heed_past(self, operation: Operation, now: float) -> None:
        """Keep a quota closed that the service had closed before the daemon was started."""
        if operation.throttled_until is None or operation.throttled_until <= now or is_over(operation.state):
            return
        quota = self._quota_of(operation.spec, operation.asking, operation.ticket)
        if quota is not None:
            self._quotas.keep_closed(quota, min(operation.throttled_until, now + LONGEST_PAUSE_S), now)

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def _known_number(self, number: int) -> int:
        self._last_number = max(self._last_number, number)
        return number

    def _is_taken(self, key: str) -> bool:
        # By either kind: the queue, and an attempt's number, go by the id alone.
        return key in self._leases or key in self._operations

    def _settle_lease(self, lease: Lease) -> None:
        """Have it looked at again when it next has something to do."""
        self._queue.schedule(lease.spec.id, lease.wake_at())
        if lease.forget_at is not None:
            self._end(lease)

    def _settle(self, operation: Operation, now: float) -> None:
        """The same for an operation."""
        self._queue.schedule(operation.spec.id, operation.wake_at())
        self._settle_quota(operation, now)
        if is_over(operation.state):
            self._end(operation)

    def _end(self, item: Lease | Operation) -> None:
        ended = self._ended[type(item)]
        if item.spec.id not in ended:
            ended.add(item.spec.id)
            if isinstance(item, Lease):
                self._count(item, -1)

    def _count(self, lease: Lease, change: int) -> None:
        """Count those that live: sessions by target, messages by the entity, where their locks are renewed together."""
        spec = lease.spec
        if spec.kind is LeaseKind.SESSION:
            self._sessions[spec.target] += change
        else:
            self._messages[spec.target, spec.entity] += change
            if not self._messages[spec.target, spec.entity]:
                del self._messages[spec.target, spec.entity]

    def _crowd(self, lease: Lease) -> int:
        """How many locks can be renewed together with this one, itself included."""
        spec = lease.spec
        if spec.kind is _SESSION:
            return self._sessions[spec.target]
        return self._messages[spec.target, spec.entity]

    def _settle_quota(self, operation: Operation, now: float) -> None:
        """Give back its place in its quota once it has no use for it any longer."""
        if not operation.is_asking:
            self._quotas.ended(operation.spec.id, now)

    def _forget(self, item: Lease | Operation, now: float) -> Effect:
        self._end(item)
        self._ended[type(item)].discard(item.spec.id)
        if isinstance(item, Lease):
            del self._leases[item.spec.id]
            return TellLease(LeaseNews.FORGOTTEN, item.spec, item.epoch, now)
        del self._operations[item.spec.id]
        return TellOperation(OperationNews.FORGOTTEN, item.spec, item.state, now)
