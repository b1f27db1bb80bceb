"""Work that takes more than one step, written once for both clients.

A plan is a generator: it yields steps, is sent what came of each, and returns its result. Whoever runs it does the I/O
and nothing else. `Unanswered` is thrown into it where a request got no answer.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from renewer.client import leasecalls, messagecalls, operationcalls
from renewer.client.address import Address
from renewer.client.errors import NotFound, RenewerApiError, Timeout
from renewer.client.leasecalls import LeaseWish
from renewer.client.messagecalls import Shown
from renewer.client.models import Lease, Operation, Waited
from renewer.client.operationcalls import OperationTerms
from renewer.client.saving import Saving
from renewer.client.wire import Answer, Call, Request, Unanswered

_T = TypeVar("_T")

WAIT_SLICE_S: Final = 60.0
"""How long one request waits at most: a longer wait is several, so that the daemon may be restarted meanwhile."""

_MANY: Final = 250
"""How many leases one request asks for: enough to make it cheap, and few enough for all to get their turn."""

_MOMENT_S: Final = 0.2
"""How long some of many leases are waited for before the next are asked for: most often that is all it takes, and they
need not be asked for again."""

_SOON_S: Final = 0.001
"""With less than this left a wait is over: it is the least that a request can be told to wait."""

_FEW: Final = 5
_FIRST_DELAY_S: Final = 0.05
_MAX_DELAY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Send:
    """Send the request; what comes of it is an `Answer`."""

    request: Request


@dataclass(frozen=True, slots=True)
class Save:
    """Send the request; the body of a success goes into `into`, from its beginning to its end, and not into the answer.

    Besides `Unanswered`, `Unwritable` is thrown into the plan.
    """

    request: Request
    into: Saving


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for this long."""

    delay_s: float


Step = Send | Save | Pause
Plan = Generator[Any, Any, _T]


@dataclass(frozen=True, slots=True)
class Terms:
    """How patient one client is: for how long a daemon that cannot be reached is tried again."""

    address: Address
    retry_for_s: float
    clock: Callable[[], float] = time.monotonic


def exchange(call: Call[_T], terms: Terms, *, into: Saving | None = None) -> Plan[_T]:
    """Make one call; where the daemon cannot be reached and it does no harm, make it again for a while.

    With `into` that is where the body of the answer goes.
    """
    step = Send(call.request) if into is None else Save(call.request, into)
    give_up_at = terms.clock() + terms.retry_for_s
    attempt = 0
    while True:
        try:
            answer: Answer = yield step
        except Unanswered as failure:
            delay_s = backoff_s(attempt)
            may = not failure.late and (call.repeatable or not failure.delivered)
            if not may or terms.clock() + delay_s > give_up_at:
                raise failure.error(terms.address) from failure.cause
            attempt += 1
            yield Pause(delay_s)
        else:
            return call.read(answer)


def hold(wish: LeaseWish, terms: Terms, *, wait_s: float, idempotency_key: str | None) -> Plan[Lease]:
    """Register a lease and wait until it is settled, or the time is over."""
    wait = _Wait(terms, wait_s)
    key = new_key() if idempotency_key is None else idempotency_key
    call = leasecalls.register_lease(wish, wait_s=wait.slice_s, idempotency_key=key)
    registered = yield from exchange(call, terms)
    lease: Lease = registered.lease
    while lease.state == "acquiring" and not wait.is_over:
        lease = yield from exchange(leasecalls.lease(lease.id, wait_s=wait.slice_s), terms)
    return lease


def hold_all(wishes: Sequence[LeaseWish], terms: Terms, *, wait_s: float) -> Plan[list[Lease | RenewerApiError]]:
    """Register many leases and wait until they are settled, or the time is over."""
    wait = _Wait(terms, wait_s)
    groups = [_Group(wishes[first : first + _MANY]) for first in range(0, len(wishes), _MANY)]
    for group in groups:
        # All are asked for before any is waited for in earnest, unless there are no others.
        yield from group.ask(terms, wait.slice_s if len(groups) == 1 else min(wait_s, _MOMENT_S))
    # In the same order: the first are read while the last are still being acquired.
    for group in groups:
        while group.is_acquiring and not wait.is_over:
            yield from group.ask(terms, wait.slice_s)
    return [answer for group in groups for answer in group.answers]


class _Group:
    """Leases that one request asks for, and what was answered last. To ask again finds the same leases."""

    def __init__(self, wishes: Sequence[LeaseWish]) -> None:
        self.answers: list[Lease | RenewerApiError] = []
        self._wishes = wishes
        # Whoever names no owner is given the lease that lives on the session; others need a key to find their own.
        self._key = None if all(wish.owner == "none" for wish in wishes) else new_key()

    @property
    def is_acquiring(self) -> bool:
        return any(isinstance(answer, Lease) and answer.state == "acquiring" for answer in self.answers)

    def ask(self, terms: Terms, wait_s: float) -> Plan[None]:
        call = leasecalls.register_leases(self._wishes, wait_s=wait_s, idempotency_key=self._key)
        self.answers = yield from exchange(call, terms)


def wait_lease(lease_id: str, until: Literal["settled", "over"], terms: Terms, *, wait_s: float) -> Plan[Lease]:
    """One lease, once it is as wanted, or the time is over."""
    wait = _Wait(terms, wait_s)
    while True:
        lease: Lease = yield from exchange(leasecalls.lease(lease_id, wait_s=wait.slice_s, until=until), terms)
        if lease.is_over or (until == "settled" and lease.state != "acquiring") or wait.is_over:
            return lease


def receive(lease_id: str, terms: Terms, *, count: int, wait_s: float, epoch: int | None = None) -> Plan[Shown]:
    """The next messages of a held session; none if none came in that time."""
    wait = _Wait(terms, wait_s)
    while True:
        call = messagecalls.receive(lease_id, count=count, wait_s=wait.slice_s, epoch=epoch)
        messages: Shown = yield from exchange(call, terms)
        if messages or wait.is_over:
            return messages


def follow(
    how: Literal["submit", "adopt"],
    request: Mapping[str, object],
    operation_terms: OperationTerms,
    terms: Terms,
    *,
    wait_s: float,
    idempotency_key: str | None = None,
) -> Plan[Operation]:
    """Register an operation and wait until it has ended, or the time is over."""
    wait = _Wait(terms, wait_s)
    key = new_key() if idempotency_key is None else idempotency_key
    call = operationcalls.register_operation(how, request, operation_terms, wait_s=wait.slice_s, idempotency_key=key)
    operation: Operation = yield from exchange(call, terms)
    if operation.is_over or not wait_s:
        return operation
    return (yield from _wait_operation(operation.id, terms, wait))


def wait_operation(operation_id: str, terms: Terms, *, wait_s: float | None) -> Plan[Operation]:
    """One operation, once it has ended, or the time is over."""
    return (yield from _wait_operation(operation_id, terms, _Wait(terms, wait_s)))


def ended_operation(operation_id: str, terms: Terms, *, wait_s: float | None) -> Plan[Operation]:
    """One operation, once it has ended. Raises `Timeout`."""
    operation = yield from wait_operation(operation_id, terms, wait_s=wait_s)
    if not operation.is_over:
        raise Timeout(f"{operation_id} is {operation.state} and has not ended in {wait_s:g} s; it is followed on")
    return operation


def wait_many(ids: Sequence[str], until: Literal["all", "any"], terms: Terms, *, wait_s: float | None) -> Plan[Waited]:
    """Several operations, once all or one of them ended, or the time is over."""
    ids = list(ids)
    wait = _Wait(terms, wait_s)
    while True:
        waited: Waited = yield from exchange(operationcalls.wait_operations(ids, until, wait_s=wait.slice_s), terms)
        if waited.done or not waited.items or wait.is_over:
            return waited


def ended_operations(
    ids: Sequence[str], until: Literal["all", "any"], terms: Terms, *, wait_s: float | None
) -> Plan[tuple[Operation, ...]]:
    """Those of several operations that have ended, once all or one of them have. Raises `Timeout` or `NotFound`."""
    ids = list(ids)
    # Looked at before the wait, so that nobody waits to be told of an id that there never was.
    known = _all_known((yield from exchange(operationcalls.wait_operations(ids, until, wait_s=0.0), terms)))
    if not known.done:
        known = _all_known((yield from wait_many(ids, until, terms, wait_s=wait_s)))
    if not known.done:
        left = [operation.id for operation in known.items if not operation.is_over]
        raise Timeout(f"{_list(left)} did not end in {wait_s:g} s; they are followed on")
    return tuple(operation for operation in known.items if operation.is_over)


def backoff_s(attempt: int) -> float:
    """How long to wait before trying again: growing, and drawn, so that many workers do not come back at once."""
    most_s = min(_MAX_DELAY_S, _FIRST_DELAY_S * 2.0 ** min(attempt, 10))
    return most_s * random.uniform(0.5, 1.0)  # noqa: S311 - nothing secret


def new_key() -> str:
    """An Idempotency-Key that nobody else has."""
    return uuid.uuid4().hex


class _Wait:
    """A wait that is made of several requests. None is for ever."""

    def __init__(self, terms: Terms, wait_s: float | None) -> None:
        self._now = terms.clock
        self._over_at = None if wait_s is None else terms.clock() + wait_s

    @property
    def slice_s(self) -> float:
        """How long the next request may wait."""
        return WAIT_SLICE_S if self._over_at is None else min(WAIT_SLICE_S, max(0.0, self._over_at - self._now()))

    @property
    def is_over(self) -> bool:
        return self._over_at is not None and self._over_at - self._now() < _SOON_S


def _wait_operation(operation_id: str, terms: Terms, wait: _Wait) -> Plan[Operation]:
    while True:
        operation: Operation = yield from exchange(operationcalls.operation(operation_id, wait_s=wait.slice_s), terms)
        if operation.is_over or wait.is_over:
            return operation


def _all_known(waited: Waited) -> Waited:
    if waited.missing:
        raise NotFound(f"{_list(waited.missing)}: no such operation, or not any more")
    return waited


def _list(ids: Sequence[str]) -> str:
    few = ", ".join(ids[:_FEW])
    return few if len(ids) <= _FEW else f"{few} and {len(ids) - _FEW} more"
