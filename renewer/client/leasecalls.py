"""Calls about leases: the request, and how its answer is read. No I/O. See `renewer.client.wire.Call`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from renewer.client.errors import BadRequest, ProtocolError, RenewerApiError
from renewer.client.models import Lease, Page, lease_of, page_of
from renewer.client.options import Names, OwnerKind
from renewer.client.quantities import Duration, seconds
from renewer.client.requesting import (
    body_of,
    epoch_only,
    get,
    given,
    labelled,
    lease_path,
    post,
    several,
    span,
    waiting,
)
from renewer.client.wire import BINARY_TYPE, STREAM_TYPE, Answer, Call, Request, check, error_of, nothing

RELEASE_S: Final = 30.0
"""How much longer than usual a release may take: the broker is asked."""

MANY_S: Final = 15.0
"""How much longer than usual it may take to take on many leases."""


@dataclass(frozen=True, slots=True)
class LeaseWish:
    """What a caller wants to have held. None means "as configured" or, for the session, "the next available"."""

    entity: str
    session_id: str | None = None
    servicebus: str | None = None
    kind: Literal["session", "message"] = "session"
    lock_token: str | None = field(default=None, repr=False)
    locked_until_utc: datetime | None = None
    lock_duration: Duration | None = None
    reacquire: bool | None = None
    max_duration: Duration | None = None
    labels: Mapping[str, str] | None = None
    callback: str | None = None
    owner: OwnerKind = "none"
    owner_ttl: Duration | None = None
    pid: int | None = None
    sequence_number: int | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """A lease as registration answered. `created`: it was made by this registration, not found."""

    lease: Lease
    created: bool


def leases(
    *,
    state: Names = (),
    kind: str | None = None,
    servicebus: str | None = None,
    entity: str | None = None,
    session_id: str | None = None,
    labels: Mapping[str, str] | None = None,
    sort: Literal["registered", "remaining"] | None = None,
    limit: int | None = None,
    after: str | None = None,
) -> Call[Page[Lease]]:
    """One page of leases: see `LeaseFilter`."""
    params = [
        *several("state", state),
        *given(kind=kind, servicebus=servicebus, entity=entity, session_id=session_id),
        *labelled(labels),
        *given(sort=sort, limit=limit, after=after),
    ]
    return Call(get("/v1/leases", params), lambda answer: page_of(check(answer).json(), lease_of))


def lease(lease_id: str, *, wait_s: float = 0.0, until: Literal["settled", "over"] = "settled") -> Call[Lease]:
    """One lease; with `wait_s`, once it is settled or over."""
    params = [*waiting(wait_s), ("until", until)] if wait_s else []
    return Call(get(lease_path(lease_id), params, extra_s=wait_s), read_lease)


def register_lease(wish: LeaseWish, *, wait_s: float, idempotency_key: str) -> Call[Registered]:
    """Have a lock held. Raises `BadRequest` for what cannot be written."""
    request = post(
        "/v1/leases",
        _lease_body(wish),
        params=waiting(wait_s),
        idempotency_key=idempotency_key,
        extra_s=wait_s,
    )

    def read(answer: Answer) -> Registered:
        made = answer.status == 201 or answer.header("idempotent-replayed") == "true"
        return Registered(lease_of(check(answer).json()), made)

    return Call(request, read)


def register_leases(
    wishes: Sequence[LeaseWish], *, wait_s: float, idempotency_key: str | None = None
) -> Call[list[Lease | RenewerApiError]]:
    """Have many locks held, 1,000 at most. Raises `BadRequest` for what cannot be written."""
    request = post(
        "/v1/leases/batch",
        {"leases": [_lease_body(wish) for wish in wishes]},
        params=waiting(wait_s),
        idempotency_key=idempotency_key,
        extra_s=wait_s + MANY_S,
    )

    def read(answer: Answer) -> list[Lease | RenewerApiError]:
        answers = page_of(check(answer).json(), _taken_on).items
        if len(answers) != len(wishes):
            raise ProtocolError("what answered is not a renewer of this version: not every lease was answered")
        return list(answers)

    return Call(request, read)


def release(lease_id: str, *, forget: bool = False) -> Call[None]:
    """Give a lock back; with `forget`, drop its record too."""
    params = [("forget", "true")] if forget else []
    return Call(Request("DELETE", lease_path(lease_id), params, extra_s=RELEASE_S), nothing)


def renew(lease_id: str, *, timeout_s: float) -> Call[Lease]:
    """Renew now."""
    return Call(Request("POST", lease_path(lease_id, "/renew"), waiting(timeout_s), extra_s=timeout_s), read_lease)


def heartbeat(lease_id: str) -> Call[Lease]:
    """A sign of life of the owner."""
    return Call(Request("POST", lease_path(lease_id, "/heartbeat")), read_lease)


def get_state(lease_id: str, *, epoch: int | None = None) -> Call[bytes | None]:
    """The state of a held session."""

    def read(answer: Answer) -> bytes | None:
        return None if check(answer).status == 204 else answer.content

    return Call(get(lease_path(lease_id, "/state"), epoch_only(epoch)), read)


def set_state(lease_id: str, state: bytes | bytearray | str | None, *, epoch: int | None = None) -> Call[None]:
    """Replace or clear the state of a held session."""
    path, params = lease_path(lease_id, "/state"), epoch_only(epoch)
    if state is None:
        return Call(Request("DELETE", path, params), nothing)
    content = state.encode() if isinstance(state, str) else bytes(state)
    return Call(Request("PUT", path, params, {"Content-Type": BINARY_TYPE}, content), nothing)


def lease_events(lease_id: str, *, owner: bool) -> Request:
    """The stream of one lease; with `owner`, the stream that says that the owner lives."""
    params = [("owner", "true")] if owner else []
    return Request("GET", lease_path(lease_id, "/events"), params, {"Accept": STREAM_TYPE})


def read_lease(answer: Answer) -> Lease:
    """The lease in an answer. Raises what an answer that is none says."""
    return lease_of(check(answer).json())


def _taken_on(item: Mapping[str, Any]) -> Lease | RenewerApiError:
    """One lease of many, or why there is none."""
    status = item.get("status")
    if "problem" in item and isinstance(status, int):
        return error_of(Answer(status, {}, json.dumps(item["problem"]).encode()))
    return lease_of(item.get("lease"))


def _lease_body(wish: LeaseWish) -> dict[str, object]:
    return body_of(
        servicebus=wish.servicebus,
        entity=wish.entity,
        kind=wish.kind,
        session_id=wish.session_id,
        lock_token=wish.lock_token,
        locked_until_utc=_iso(wish.locked_until_utc),
        sequence_number=wish.sequence_number,
        lock_duration=span("lock_duration", wish.lock_duration),
        reacquire=wish.reacquire,
        max_duration=span("max_duration", wish.max_duration),
        labels=dict(wish.labels) if wish.labels else None,
        callback=wish.callback,
        owner=_owner(wish),
    )


def _owner(wish: LeaseWish) -> dict[str, object] | None:
    owner: dict[str, object] = {"kind": wish.owner}
    if wish.owner_ttl is not None:
        if wish.owner in {"none", "pid"}:
            raise BadRequest(f"owner_ttl: goes with owner='connection' or 'heartbeat', not with {wish.owner!r}")
        owner["ttl"] = seconds("owner_ttl", wish.owner_ttl)
    if wish.pid is not None and wish.owner != "pid":
        raise BadRequest(f"pid: goes with owner='pid', not with {wish.owner!r}")
    if wish.owner == "pid":
        owner["pid"] = os.getpid() if wish.pid is None else wish.pid
    return None if wish.owner == "none" else owner


def _iso(at: datetime | None) -> str | None:
    if at is None:
        return None
    if at.tzinfo is None:
        raise BadRequest("locked_until_utc: must have a time zone, as in datetime.now(UTC)")
    return at.astimezone(UTC).isoformat()
