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

from renewer.client import calls
from renewer.client.address import Address
from renewer.client.errors import NotFound, RenewerApiError, Timeout
from renewer.client.models import Lease, Operation, Waited
from renewer.client.saving import Saving
from renewer.client.wire import Answer, Call, Request, Unanswered

_T = TypeVar("_T")

WAIT_SLICE_S: Final = 60.0
"""How long one request waits at most: a longer wait is several, so that the daemon may be restarted meanwhile."""

_MANY: Final = 250
"""How many leases one request asks for: enough to make it cheap, and few enough for all to get their turn."""

_MOMENT_S: Final = 0.1
"""How long some of many leases are waited for before the next are asked for: most often that is all it takes, and they
need not be asked for again."""

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


def hold(wish: calls.LeaseWish, terms: Terms, *, wait_s: float, idempotency_key: str | None) -> Plan[Lease]:
    """Register a lease and wait until it is settled, or the time is over."""
    over_at = terms.clock() + wait_s
    key = new_key() if idempotency_key is None else idempotency_key
    registered = yield from exchange(
        calls.register_lease(wish, wait_s=min(wait_s, WAIT_SLICE_S), idempotency_key=key), terms
    )
    lease: Lease = registered.lease
    while lease.state == "acquiring" and (rest_s := over_at - terms.clock()) > 0.001:
        lease = yield from exchange(calls.lease(lease.id, wait_s=min(rest_s, WAIT_SLICE_S)), terms)
    return lease


def hold_all(wishes: Sequence[calls.LeaseWish], terms: Terms, *, wait_s: float) -> Plan[list[Lease | RenewerApiError]]:
    """Register many leases and wait until they are settled, or the time is over."""
    over_at = terms.clock() + wait_s
    groups = [_Group(wishes[first : first + _MANY]) for first in range(0, len(wishes), _MANY)]
    for group in groups:
        # All are asked for before any is waited for in earnest, unless there are no others.
        yield from group.ask(terms, wait_s if len(groups) == 1 else min(wait_s, _MOMENT_S))
    # In the same order: the first are read while the last are still being acquired.
    for group in groups:
        while group.is_acquiring and (rest_s := over_at - terms.clock()) > 0.001:
            yield from group.ask(terms, rest_s)
    return [answer for group in groups for answer in group.answers]


class _Group:
    """Leases that one request asks for, and what was answered last. To ask again finds the same leases."""

    def __init__(self, wishes: Sequence[calls.LeaseWish]) -> None:
        self.answers: list[Lease | RenewerApiError] = []
        self._wishes = wishes
        # Whoever names no owner is given the lease that lives on the session; others need a key to find their own.
        self._key = None if all(wish.owner == "none" for wish in wishes) else new_key()

    @property
    def is_acquiring(self) -> bool:
        return any(isinstance(answer, Lease) and answer.state == "acquiring" for answer in self.answers)

    def ask(self, terms: Terms, wait_s: float) -> Plan[None]:
        call = calls.register_leases(self._wishes, wait_s=min(wait_s, WAIT_SLICE_S), idempotency_key=self._key)
        self.answers = yield from exchange(call, terms)


def wait_lease(lease_id: str, until: Literal["settled", "over"], terms: Terms, *, wait_s: float) -> Plan[Lease]:
    """One lease, once it is as wanted, or the time is over."""
    over_at = terms.clock() + wait_s
    while True:
        rest_s = max(0.0, over_at - terms.clock())
        lease: Lease = yield from exchange(calls.lease(lease_id, wait_s=min(rest_s, WAIT_SLICE_S), until=until), terms)
        settled = lease.is_over or (until == "settled" and lease.state != "acquiring")
        if settled or over_at - terms.clock() < 0.001:
            return lease


def receive(
    lease_id: str, terms: Terms, *, count: int, wait_s: float, epoch: int | None = None
) -> Plan[Sequence[Mapping[str, Any]]]:
    """The next messages of a held session, as they came; none if none came in that time."""
    over_at = terms.clock() + wait_s
    while True:
        rest_s = max(0.0, over_at - terms.clock())
        call = calls.receive(lease_id, count=count, wait_s=min(rest_s, WAIT_SLICE_S), epoch=epoch)
        messages: Sequence[Mapping[str, Any]] = yield from exchange(call, terms)
        if messages or over_at - terms.clock() < 0.001:
            return messages


def follow(call: Callable[[float], Call[Operation]], terms: Terms, *, wait_s: float) -> Plan[Operation]:
    """Register an operation and wait until it has ended, or the time is over."""
    over_at = terms.clock() + wait_s
    operation: Operation = yield from exchange(call(min(wait_s, WAIT_SLICE_S)), terms)
    if operation.is_over or not wait_s:
        return operation
    return (yield from wait_operation(operation.id, terms, wait_s=over_at - terms.clock()))


def wait_operation(operation_id: str, terms: Terms, *, wait_s: float | None) -> Plan[Operation]:
    """One operation, once it has ended, or the time is over."""
    over_at = None if wait_s is None else terms.clock() + wait_s
    while True:
        rest_s = WAIT_SLICE_S if over_at is None else max(0.0, over_at - terms.clock())
        operation: Operation = yield from exchange(
            calls.operation(operation_id, wait_s=min(rest_s, WAIT_SLICE_S)), terms
        )
        if operation.is_over or (over_at is not None and over_at - terms.clock() < 0.001):
            return operation


def ended_operation(operation_id: str, terms: Terms, *, wait_s: float | None) -> Plan[Operation]:
    """One operation, once it has ended. Raises `Timeout`."""
    operation = yield from wait_operation(operation_id, terms, wait_s=wait_s)
    if not operation.is_over:
        raise Timeout(f"{operation_id} is {operation.state} and has not ended in {wait_s:g} s; it is followed on")
    return operation


def wait_many(ids: Sequence[str], until: Literal["all", "any"], terms: Terms, *, wait_s: float | None) -> Plan[Waited]:
    """Several operations, once all or one of them ended, or the time is over."""
    ids = list(ids)
    over_at = None if wait_s is None else terms.clock() + wait_s
    while True:
        rest_s = WAIT_SLICE_S if over_at is None else max(0.0, over_at - terms.clock())
        waited: Waited = yield from exchange(calls.wait_operations(ids, until, wait_s=min(rest_s, WAIT_SLICE_S)), terms)
        if waited.done or not waited.items or (over_at is not None and over_at - terms.clock() < 0.001):
            return waited


def ended_operations(
    ids: Sequence[str], until: Literal["all", "any"], terms: Terms, *, wait_s: float | None
) -> Plan[tuple[Operation, ...]]:
    """Those of several operations that have ended, once all or one of them have. Raises `Timeout` or `NotFound`."""
    ids = list(ids)
    # Looked at before the wait, so that nobody waits to be told of an id that there never was.
    known = _all_known((yield from exchange(calls.wait_operations(ids, until, wait_s=0.0), terms)))
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


def _all_known(waited: Waited) -> Waited:
    if waited.missing:
        raise NotFound(f"{_list(waited.missing)}: no such operation, or not any more")
    return waited


def _list(ids: Sequence[str]) -> str:
    few = ", ".join(ids[:_FEW])
    return few if len(ids) <= _FEW else f"{few} and {len(ids) - _FEW} more"
