"""The scheduler: all leases and operations, on one queue keyed by due time.

Time and random fractions come in as arguments, effects go out as values; nothing here reads a clock, draws a random
number or does I/O. The shell calls `handle` for each event and `advance` when `next_due` has come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import assert_never

from renewer.core.duequeue import DueQueue
from renewer.core.effects import Effect, LeaseNews, OperationNews, TellLease, TellOperation
from renewer.core.events import (
    Event,
    LeaseAttemptFailed,
    LeaseEvent,
    LeaseGranted,
    LeaseRegistered,
    LeaseReleaseRequested,
    LinkLost,
    OperationAnswered,
    OperationAttemptFailed,
    OperationEvent,
    OperationRegistered,
    ResultFetched,
)
from renewer.core.leases import Lease
from renewer.core.model import LeaseId, OperationId
from renewer.core.operations import Operation
from renewer.core.states import is_over


class Scheduler:
    """Every lease and every operation, and what is to be done about them when."""

    def __init__(self) -> None:
        self._leases: dict[LeaseId, Lease] = {}
        self._operations: dict[OperationId, Operation] = {}
        self._queue: DueQueue[str] = DueQueue()

    @property
    def queue_length(self) -> int:
        """How many things have a due time."""
        return len(self._queue)

    def next_due(self) -> float | None:
        """When `advance` next has something to do; None for never."""
        return self._queue.next_due()

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
        if isinstance(event, LeaseEvent):
            return self._handle_lease(event, now, fraction)
        return self._handle_operation(event, now, fraction)

    def advance(self, now: float, draw: Callable[[], float]) -> list[Effect]:
        """Do everything that has fallen due at `now`, longest due first. `draw` gives random numbers in [0, 1)."""
        effects: list[Effect] = []
        # An item is looked at once in each call, so that one due again at once cannot hold up the rest.
        seen: list[Lease | Operation] = []
        while (key := self._queue.pop_due(now)) is not None:
            item = self._leases.get(LeaseId(key)) or self._operations[OperationId(key)]
            effects += item.advance(now, draw())
            if is_over(item.state) and item.forget_at is not None and item.forget_at <= now:
                effects.append(self._forget(item, now))
            else:
                seen.append(item)
        for item in seen:
            self._queue.schedule(item.spec.id, item.wake_at())
        return effects

    def _handle_lease(self, event: LeaseEvent, now: float, fraction: float) -> list[Effect]:
        if isinstance(event, LeaseRegistered):
            if self._is_taken(event.spec.id):
                return []
            lease = self._leases[event.spec.id] = Lease(event.spec, now)
            effects = lease.register(now)
        else:
            found = self._leases.get(event.lease_id)
            if found is None:
                return []
            lease = found
            match event:
                case LeaseGranted():
                    effects = lease.granted(event, now, fraction)
                case LeaseAttemptFailed():
                    effects = lease.failed(event, now, fraction)
                case LinkLost():
                    effects = lease.link_lost(event, now, fraction)
                case LeaseReleaseRequested():
                    effects = lease.release(now)
                case _:
                    assert_never(event)
        self._queue.schedule(lease.spec.id, lease.wake_at())
        return effects

    def _handle_operation(self, event: OperationEvent, now: float, fraction: float) -> list[Effect]:
        if isinstance(event, OperationRegistered):
            if self._is_taken(event.spec.id):
                return []
            operation = self._operations[event.spec.id] = Operation(event.spec, now)
            effects = operation.register(event.first, now)
        else:
            found = self._operations.get(event.operation_id)
            if found is None:
                return []
            operation = found
            match event:
                case OperationAnswered():
                    effects = operation.answered(event.attempt, event.answer, now)
                case ResultFetched():
                    effects = operation.fetched(event.attempt, event.result, now)
                case OperationAttemptFailed():
                    effects = operation.failed(event.attempt, event.failure, now, fraction)
                case _:
                    assert_never(event)
        self._queue.schedule(operation.spec.id, operation.wake_at())
        return effects

    def _is_taken(self, key: str) -> bool:
        # By either kind: the queue, and an attempt's number, go by the id alone.
        return key in self._leases or key in self._operations

    def _forget(self, item: Lease | Operation, now: float) -> Effect:
        if isinstance(item, Lease):
            del self._leases[item.spec.id]
            return TellLease(LeaseNews.FORGOTTEN, item.spec, item.epoch, now)
        del self._operations[item.spec.id]
        return TellOperation(OperationNews.FORGOTTEN, item.spec, item.state, now)
