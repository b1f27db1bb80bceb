"""How leases, operations, events and the daemon itself are shown: plain documents, typed, without secrets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from renewer.api.advice import advice
from renewer.core.states import LeaseKind, LeaseState, LossReason, MessageFate, OperationState, OwnerKind

if TYPE_CHECKING:
    from renewer.api.control import EventDocument, StatusReading
    from renewer.core.leases import Lease
    from renewer.core.model import Owner
    from renewer.core.operations import Operation
    from renewer.ports import Clock

_Word = TypeVar("_Word", bound=StrEnum)

answer = with_config(ConfigDict(defer_build=True))
"""For what is answered as a whole: its schema is for the document alone, and to build it would hold up every start."""


class LossView(TypedDict):
    """The last time a lease was lost."""

    reason: LossReason
    detail: str
    epoch: int
    at: datetime


class OwnerView(TypedDict):
    """For whom a lease is kept; `remaining_s` until it counts as gone, where that is counted."""

    kind: OwnerKind
    ttl_s: float | None
    pid: int | None
    remaining_s: float | None


@answer
class LeaseView(TypedDict):
    """A lease. `remaining_s` is negative for a lease at risk. `settled`: what became of its message, if that ended it.

    One that is `parked` was given back, and is held again by the next start, or when the drain is called off. `epoch`
    counts within this lease: it begins at 1 in every new one. `pool` names the pool that its session is of; while it is
    `free`, no worker has taken it.
    """

    id: str
    number: int
    kind: LeaseKind
    state: LeaseState
    parked: bool
    servicebus: str
    entity: str
    session_id: str | None
    sequence_number: int | None
    epoch: int
    locked_until_utc: datetime | None
    remaining_s: float | None
    lock_duration_s: float | None
    next_attempt_at: datetime | None
    registered_at: datetime
    acquired_at: datetime | None
    renewals: int
    last_margin_s: float | None
    min_margin_s: float | None
    losses: int
    last_loss: LossView | None
    last_error: str | None
    settled: MessageFate | None
    pool: str | None
    free: bool
    labels: dict[str, str]
    owner: OwnerView


@answer
class LeasePage(TypedDict):
    """A page of leases; `next` is the `after` of the next page, or null."""

    items: list[LeaseView]
    next: str | None


class ResultView(TypedDict):
    """What an operation left behind; the body itself is at `href`."""

    kind: Literal["json", "bytes", "none"]
    size: int
    href: str | None


@answer
class OperationView(TypedDict):
    """An operation. `status` is the service's word, `state` ours.

    `error` is the service's own document, or our account; `advice` says what to do about an end that is not a good one.
    `next_poll_at` is null while a request is on its way, and once the next one waits for the quota that `limited_by`
    names: it is due then, and made as soon as there is room. `service_started_at` and `service_updated_at` are the
    service's own account.
    """

    id: str
    number: int
    account: str
    state: OperationState
    status: str | None
    submitted_at: datetime
    next_poll_at: datetime | None
    elapsed_s: float
    deadline_at: datetime
    ended_at: datetime | None
    service_started_at: datetime | None
    service_updated_at: datetime | None
    limited_by: str | None
    polls: int
    poll_errors: int
    last_poll_error: str | None
    retry_after_s: float | None
    percent_complete: float | None
    error: dict[str, Any] | None
    advice: str | None
    result: ResultView | None
    labels: dict[str, str]


@answer
class OperationPage(TypedDict):
    """A page of operations; `next` is the `after` of the next page, or null."""

    items: list[OperationView]
    next: str | None


@answer
class WaitedView(TypedDict):
    """What became of a wait: those known, in the order asked, and the ids of those that are not."""

    done: bool
    items: list[OperationView]
    missing: list[str]


class TargetView(TypedDict):
    """A namespace or an account."""

    name: str
    connections: int | None
    links: int | None
    clock_skew_s: float | None


class PoolView(TypedDict):
    """A pool of `sessions` next available sessions: `held` and `acquiring` are free, `taken` are with workers."""

    servicebus: str
    name: str
    sessions: int
    held: int
    acquiring: int
    taken: int


class GatewayView(TypedDict):
    """A gateway: where workers come in, how many are there (by key), and what it has seen since the start.

    `logging_in` are connections that have proved no key yet; `messages` those passed to workers.
    """

    name: str
    servicebus: str
    listen: str
    connections: int
    logging_in: int
    keys: dict[str, int]
    refusals: dict[str, int]
    upstream_failures: int
    messages: int
    buffered_bytes: int


class LimitsView(TypedDict):
    """How many can be taken on."""

    leases: int
    operations: int


@answer
class StatusView(TypedDict):
    """The daemon. `trouble` says, for people, what is wrong; empty as a rule."""

    version: str
    state: Literal["ready", "draining", "stopping"]
    started_at: datetime
    uptime_s: float
    leases: dict[str, int]
    operations: dict[str, int]
    losses: int
    min_margin_s: float | None
    loop_lag_s: float
    registry: str
    limits: LimitsView
    targets: list[TargetView]
    pools: list[PoolView]
    gateways: list[GatewayView]
    trouble: list[str]


class EventView(TypedDict):
    """An event, as it stands in `data:` of a stream."""

    id: str
    type: str
    time: datetime
    subject: str
    data: dict[str, Any]


class Calendar:
    """Turns monotonic instants into dates: both clocks are read once, so that one view is consistent in itself."""

    def __init__(self, clock: Clock) -> None:
        self.now = clock.now()
        self._utc_now = clock.utc_now()

    def utc_of(self, at: float) -> datetime:
        """The date of an instant."""
        return self._utc_now + timedelta(seconds=at - self.now)

    def utc(self, at: float | None) -> datetime | None:
        """The date of an instant, if there is one."""
        return None if at is None else self.utc_of(at)


def show_lease(lease: Lease, when: Calendar) -> LeaseView:
    """The lease as it stands now."""
    spec, loss = lease.spec, lease.last_loss
    owner_until = lease.owner_until
    return {
        "id": spec.id,
        "number": lease.number,
        "kind": _bare(spec.kind),
        "state": _bare(lease.state),
        "parked": lease.is_parked,
        "servicebus": spec.target.partition(".")[2],
        "entity": spec.entity,
        "session_id": lease.session_id if lease.session_id is not None else spec.session_id,
        "sequence_number": spec.sequence_number,
        "epoch": lease.epoch,
        "locked_until_utc": _from_timestamp(lease.locked_until),
        "remaining_s": _rounded(lease.margin_s(when.now)),
        "lock_duration_s": _rounded(lease.duration_s) if lease.epoch else None,
        "next_attempt_at": when.utc(lease.next_attempt_at),
        "registered_at": when.utc_of(lease.registered_at),
        "acquired_at": when.utc(lease.acquired_at),
        "renewals": lease.renewals,
        "last_margin_s": _rounded(lease.last_margin_s),
        "min_margin_s": _rounded(lease.min_margin_s),
        "losses": lease.losses,
        "last_loss": None
        if loss is None
        else {"reason": loss.reason, "detail": loss.detail, "epoch": loss.epoch, "at": when.utc_of(loss.at)},
        "last_error": lease.last_error,
        "settled": lease.fate,
        "pool": spec.context.get("pool"),
        "free": spec.context.get("origin") == "pool",
        "labels": dict(spec.labels),
        "owner": _show_owner(spec.owner, None if owner_until is None else owner_until - when.now),
    }


def show_operation(operation: Operation, when: Calendar) -> OperationView:
    """The operation as it stands now."""
    spec, result = operation.spec, operation.result
    until = operation.ended_at if operation.ended_at is not None else when.now
    return {
        "id": spec.id,
        "number": operation.number,
        "account": spec.account,
        "state": _bare(operation.state),
        "status": operation.status,
        "submitted_at": when.utc_of(operation.registered_at),
        # What waits for its quota was due before now, and when there is room is not known.
        "next_poll_at": when.utc(operation.next_attempt_at) if operation.held_back_by is None else None,
        "elapsed_s": round(until - operation.registered_at, 3),
        "deadline_at": when.utc_of(operation.deadline_at),
        "ended_at": when.utc(operation.ended_at),
        "service_started_at": _from_timestamp(operation.service_started_at),
        "service_updated_at": _from_timestamp(operation.service_updated_at),
        "limited_by": operation.held_back_by,
        "polls": operation.polls,
        "poll_errors": operation.poll_errors,
        "last_poll_error": operation.last_poll_error,
        "retry_after_s": operation.retry_after_s,
        "percent_complete": operation.percent_complete,
        "error": dict(operation.error) if operation.error is not None else None,
        "advice": advice(operation),
        "result": None
        if result is None
        else {
            "kind": result.kind,
            "size": result.size,
            "href": None if result.kind == "none" else f"/v1/operations/{spec.id}/result",
        },
        "labels": dict(spec.labels),
    }


def show_status(reading: StatusReading, clock: Clock) -> StatusView:
    """The daemon as it stands now."""
    return {
        "version": reading.version,
        "state": reading.state,
        "started_at": reading.started_at,
        "uptime_s": round((clock.utc_now() - reading.started_at).total_seconds(), 3),
        "leases": dict(reading.leases),
        "operations": dict(reading.operations),
        "losses": reading.losses,
        "min_margin_s": _rounded(reading.min_margin_s),
        "loop_lag_s": round(reading.loop_lag_s, 6),
        "registry": reading.registry,
        "limits": {"leases": reading.max_leases, "operations": reading.max_operations},
        "targets": [
            {
                "name": target.name,
                "connections": target.connections,
                "links": target.links,
                "clock_skew_s": _rounded(target.clock_skew_s),
            }
            for target in reading.targets
        ],
        "pools": [
            {
                "servicebus": pool.target.partition(".")[2],
                "name": pool.name,
                "sessions": pool.sessions,
                "held": pool.held,
                "acquiring": pool.acquiring,
                "taken": pool.taken,
            }
            for pool in reading.pools
        ],
        "gateways": [
            {
                "name": gateway.name,
                "servicebus": gateway.servicebus,
                "listen": gateway.listen,
                "connections": gateway.connections,
                "logging_in": gateway.logging_in,
                "keys": dict(gateway.keys),
                "refusals": dict(gateway.refusals),
                "upstream_failures": gateway.upstream_failures,
                "messages": gateway.messages,
                "buffered_bytes": gateway.buffered_bytes,
            }
            for gateway in reading.gateways
        ],
        "trouble": list(reading.trouble),
    }


def show_event(event: EventDocument) -> EventView:
    """The event as streams tell it."""
    return {
        "id": event.id,
        "type": event.type,
        "time": event.time,
        "subject": event.subject,
        "data": dict(event.data),
    }


def _show_owner(owner: Owner, remaining_s: float | None) -> OwnerView:
    counted = owner.kind in (OwnerKind.HEARTBEAT, OwnerKind.CONNECTION)
    return {
        "kind": _bare(owner.kind),
        "ttl_s": owner.ttl_s if counted else None,
        "pid": owner.pid,
        "remaining_s": _rounded(remaining_s),
    }


def _bare(word: _Word) -> _Word:
    """The same as plain text: of an enum's member `to_json` reads `value`, a third of what it takes to show a lease."""
    return cast("_Word", str(word))


def _from_timestamp(moment: float | None) -> datetime | None:
    if moment is None:
        return None
    try:
        return datetime.fromtimestamp(moment, UTC)
    except (ValueError, OverflowError, OSError):
        # A remote's word that is no date.
        return None


def _rounded(span_s: float | None) -> float | None:
    return None if span_s is None else round(span_s, 3)
