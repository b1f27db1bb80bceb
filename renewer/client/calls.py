"""Every call of the control API as a value: the request, and how its answer is read. No I/O."""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

from renewer.client.errors import BadRequest, ProtocolError, RenewerApiError
from renewer.client.messages import InFlight, in_flight_of, messages_of
from renewer.client.models import (
    Lease,
    Operation,
    Page,
    Result,
    SavedResult,
    Status,
    Waited,
    lease_of,
    operation_of,
    page_of,
    status_of,
    waited_of,
)
from renewer.client.quantities import Duration, seconds
from renewer.client.saving import Saving
from renewer.client.wire import BINARY_TYPE, JSON_TYPE, STREAM_TYPE, Answer, Call, Request, check, error_of

_Item = TypeVar("_Item")

Settling = Literal["complete", "abandon", "defer", "dead-letter"]
"""What can become of a message."""

OwnerKind = Literal["none", "connection", "heartbeat", "pid"]
FollowProtocol = Literal["auto", "operation-location", "azure-async-operation", "location", "body"]
FinalStateVia = Literal["operation-location", "azure-async-operation", "location", "original-uri"]
Names = str | Iterable[str]
"""One name or several."""

RELEASE_S: Final = 30.0
"""How much longer than usual a release may take: the broker is asked."""

SETTLE_S: Final = 15.0
"""How much longer than usual a settlement may take: the broker is asked."""

RECEIVE_S: Final = 15.0
"""How much longer than usual it may take to receive, beside what is waited for a message: the broker is asked."""

MANY_S: Final = 15.0
"""How much longer than usual it may take to take on many leases."""

MAX_LEASES_AT_ONCE: Final = 1000

FIRST_ANSWER_S: Final = 60.0
"""How much longer than usual a registration of an operation may take: the service's first answer is waited for."""


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
class OperationTerms:
    """How an operation is to be followed, whoever sends its first request. None means "as configured", or "auto"."""

    account: str | None = None
    protocol: FollowProtocol | None = None
    final_state_via: FinalStateVia | None = None
    poll_query: Mapping[str, str] | None = field(default=None, repr=False)
    poll_headers: Mapping[str, str] | None = field(default=None, repr=False)
    early_probe: Duration | None = None
    deadline: Duration | None = None
    labels: Mapping[str, str] | None = None
    callback: str | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """A lease as registration answered. `created`: it was made by this registration, not found."""

    lease: Lease
    created: bool


def status() -> Call[Status]:
    """The daemon itself."""
    return Call(_get("/v1/status"), lambda answer: status_of(check(answer).json()))


def drain(*, enabled: bool, park: bool) -> Call[Status]:
    """Take no new work, or take it again."""
    request = _post("/v1/drain", {"enabled": enabled, "park": park}, extra_s=RELEASE_S if park else 0.0)
    return Call(request, lambda answer: status_of(check(answer).json()))


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
    """One page of leases."""
    params = [
        *_several("state", state),
        *_given(kind=kind, servicebus=servicebus, entity=entity, session_id=session_id),
        *_labels(labels),
        *_given(sort=sort, limit=limit, after=after),
    ]
    return Call(_get("/v1/leases", params), _page(lease_of))


def operations(
    *,
    state: Names = (),
    account: str | None = None,
    labels: Mapping[str, str] | None = None,
    limit: int | None = None,
    after: str | None = None,
) -> Call[Page[Operation]]:
    """One page of operations."""
    params = [
        *_several("state", state),
        *_given(account=account),
        *_labels(labels),
        *_given(limit=limit, after=after),
    ]
    return Call(_get("/v1/operations", params), _page(operation_of))


def lease(lease_id: str, *, wait_s: float = 0.0, until: Literal["settled", "over"] = "settled") -> Call[Lease]:
    """One lease; with `wait_s`, once it is settled or over."""
    params = [*_wait(wait_s), ("until", until)] if wait_s else []
    return Call(_get(_lease(lease_id), params, extra_s=wait_s), _read_lease)


def register_lease(wish: LeaseWish, *, wait_s: float, idempotency_key: str) -> Call[Registered]:
    """Have a lock held. Raises `BadRequest` for what cannot be written."""
    request = _post(
        "/v1/leases",
        _lease_body(wish),
        params=_wait(wait_s),
        headers={"Idempotency-Key": idempotency_key},
        extra_s=wait_s,
    )

    def read(answer: Answer) -> Registered:
        made = answer.status == 201 or _header(answer, "idempotent-replayed") == "true"
        return Registered(lease_of(check(answer).json()), made)

    return Call(request, read)


def register_leases(
    wishes: Sequence[LeaseWish], *, wait_s: float, idempotency_key: str | None = None
) -> Call[list[Lease | RenewerApiError]]:
    """Have many locks held, `MAX_LEASES_AT_ONCE` at most. Raises `BadRequest` for what cannot be written."""
    request = _post(
        "/v1/leases/batch",
        {"leases": [_lease_body(wish) for wish in wishes]},
        params=_wait(wait_s),
        headers={} if idempotency_key is None else {"Idempotency-Key": idempotency_key},
        extra_s=wait_s + MANY_S,
    )

    def read(answer: Answer) -> list[Lease | RenewerApiError]:
        items, _ = page_of(check(answer).json())
        if len(items) != len(wishes):
            raise ProtocolError("what answered is not a renewer of this version: not every lease was answered")
        return [_taken_on(item) for item in items]

    return Call(request, read)


def _taken_on(item: Mapping[str, Any]) -> Lease | RenewerApiError:
    status = item.get("status")
    if "problem" in item and isinstance(status, int):
        return error_of(Answer(status, {}, json.dumps(item["problem"]).encode()))
    return lease_of(item.get("lease"))


def _lease_body(wish: LeaseWish) -> dict[str, Any]:
    owner: dict[str, Any] = {"kind": wish.owner}
    if wish.owner_ttl is not None:
        if wish.owner in {"none", "pid"}:
            raise BadRequest(f"owner_ttl: goes with owner='connection' or 'heartbeat', not with {wish.owner!r}")
        owner["ttl"] = seconds("owner_ttl", wish.owner_ttl)
    if wish.pid is not None and wish.owner != "pid":
        raise BadRequest(f"pid: goes with owner='pid', not with {wish.owner!r}")
    if wish.owner == "pid":
        owner["pid"] = os.getpid() if wish.pid is None else wish.pid
    return _without_none(
        servicebus=wish.servicebus,
        entity=wish.entity,
        kind=wish.kind,
        session_id=wish.session_id,
        lock_token=wish.lock_token,
        locked_until_utc=_iso(wish.locked_until_utc),
        sequence_number=wish.sequence_number,
        lock_duration=_span("lock_duration", wish.lock_duration),
        reacquire=wish.reacquire,
        max_duration=_span("max_duration", wish.max_duration),
        labels=dict(wish.labels) if wish.labels else None,
        callback=wish.callback,
        owner=owner if wish.owner != "none" else None,
    )


def release(lease_id: str, *, forget: bool = False) -> Call[None]:
    """Give a lock back; with `forget`, drop its record too."""
    params = [("forget", "true")] if forget else []
    return Call(Request("DELETE", _lease(lease_id), params, extra_s=RELEASE_S), _nothing)


def renew(lease_id: str, *, timeout_s: float) -> Call[Lease]:
    """Renew now."""
    return Call(Request("POST", _lease(lease_id, "/renew"), _wait(timeout_s), extra_s=timeout_s), _read_lease)


def settle(
    lease_id: str,
    how: Settling,
    *,
    properties: Mapping[str, object] | None = None,
    reason: str | None = None,
    description: str | None = None,
) -> Call[Lease]:
    """Settle the message whose lock it is. Raises `BadRequest` for what cannot be written."""
    body = _settlement(properties, reason, description)
    return Call(_post(_lease(lease_id, f"/{how}"), body, extra_s=SETTLE_S), _read_lease)


def receive(lease_id: str, *, count: int, wait_s: float, epoch: int | None = None) -> Call[Sequence[Mapping[str, Any]]]:
    """The next messages of a held session, as they came. Asked again, it gives the ones after those."""
    params = [*_wait(wait_s), *_epoch(epoch)]
    request = _post(_lease(lease_id, "/receive"), {"max": count}, params=params, extra_s=wait_s + RECEIVE_S)
    return Call(request, _read_messages, repeatable=False)


def receive_deferred(
    lease_id: str, sequence_numbers: Sequence[int], *, epoch: int | None = None
) -> Call[Sequence[Mapping[str, Any]]]:
    """Deferred messages of a held session, as they came."""
    body = {"sequence_numbers": list(sequence_numbers)}
    request = _post(_lease(lease_id, "/receive-deferred"), body, params=_epoch(epoch), extra_s=RECEIVE_S)
    return Call(request, _read_messages, repeatable=False)


def peek(
    lease_id: str, *, count: int, from_sequence_number: int, epoch: int | None = None
) -> Call[Sequence[Mapping[str, Any]]]:
    """Messages of a held session in any state, as they came."""
    params = [("max", str(count)), ("from", str(from_sequence_number)), *_epoch(epoch)]
    return Call(_get(_lease(lease_id, "/peek"), params, extra_s=RECEIVE_S), _read_messages)


def in_flight(lease_id: str) -> Call[tuple[InFlight, ...]]:
    """What was received over a lease and is not settled."""
    return Call(_get(_lease(lease_id, "/messages")), lambda answer: in_flight_of(check(answer).json()))


def settle_received(
    lease_id: str,
    handle: str,
    how: Settling,
    *,
    properties: Mapping[str, object] | None = None,
    reason: str | None = None,
    description: str | None = None,
) -> Call[None]:
    """Settle a message that was received over a lease. Raises `BadRequest` for what cannot be written."""
    path = _lease(lease_id, f"/messages/{_segment('message', handle, what_of='handle')}/{how}")
    return Call(_post(path, _settlement(properties, reason, description), extra_s=SETTLE_S), _nothing)


def heartbeat(lease_id: str) -> Call[Lease]:
    """A sign of life of the owner."""
    return Call(Request("POST", _lease(lease_id, "/heartbeat")), _read_lease)


def get_state(lease_id: str, *, timeout_s: float = 0.0, epoch: int | None = None) -> Call[bytes | None]:
    """The state of a held session."""

    def read(answer: Answer) -> bytes | None:
        return None if check(answer).status == 204 else answer.content

    return Call(_get(_lease(lease_id, "/state"), _epoch(epoch), extra_s=timeout_s), read)


def set_state(
    lease_id: str, state: bytes | bytearray | str | None, *, timeout_s: float = 0.0, epoch: int | None = None
) -> Call[None]:
    """Replace or clear the state of a held session."""
    path, params = _lease(lease_id, "/state"), _epoch(epoch)
    if state is None:
        return Call(Request("DELETE", path, params=params, extra_s=timeout_s), _nothing)
    content = state.encode() if isinstance(state, str) else bytes(state)
    headers = {"Content-Type": BINARY_TYPE}
    return Call(Request("PUT", path, params=params, headers=headers, content=content, extra_s=timeout_s), _nothing)


def operation(operation_id: str, *, wait_s: float = 0.0) -> Call[Operation]:
    """One operation; with `wait_s`, once it has ended."""
    return Call(_get(_operation(operation_id), _wait(wait_s), extra_s=wait_s), _read_operation)


def register_operation(
    how: Literal["submit", "adopt"],
    request: Mapping[str, object],
    terms: OperationTerms,
    *,
    wait_s: float,
    idempotency_key: str,
) -> Call[Operation]:
    """Have an operation followed. Raises `BadRequest` for what cannot be written."""
    body = _without_none(
        account=terms.account,
        **{how: {name: value for name, value in request.items() if value is not None}},
        protocol=terms.protocol,
        final_state_via=terms.final_state_via,
        poll_query=dict(terms.poll_query) if terms.poll_query else None,
        poll_headers=dict(terms.poll_headers) if terms.poll_headers else None,
        early_probe=_span("early_probe", terms.early_probe),
        deadline=_span("deadline", terms.deadline),
        labels=dict(terms.labels) if terms.labels else None,
        callback=terms.callback,
    )
    return Call(
        _post(
            "/v1/operations",
            body,
            params=_wait(wait_s),
            headers={"Idempotency-Key": idempotency_key},
            extra_s=FIRST_ANSWER_S + wait_s,
        ),
        _read_operation,
    )


def wait_operations(ids: Sequence[str], until: Literal["all", "any"], *, wait_s: float) -> Call[Waited]:
    """Wait for operations to end."""
    request = _post("/v1/operations/wait", {"ids": list(ids), "until": until}, params=_wait(wait_s), extra_s=wait_s)
    return Call(request, lambda answer: waited_of(check(answer).json()))


def result(operation_id: str) -> Call[Result]:
    """What an operation left behind."""

    def read(answer: Answer) -> Result:
        kind, content_type = _kind_of_result(check(answer))
        return Result(kind, content_type, answer.content)

    return Call(_get(_operation(operation_id, "/result"), extra_s=RELEASE_S), read)


def save_result(operation_id: str, into: Saving) -> Call[SavedResult]:
    """What an operation left behind, its body not in the answer but in `into`."""

    def read(answer: Answer) -> SavedResult:
        kind, content_type = _kind_of_result(check(answer))
        return SavedResult(kind, content_type, into.size)

    return Call(_get(_operation(operation_id, "/result"), extra_s=RELEASE_S), read)


def cancel(operation_id: str) -> Call[Operation]:
    """Ask the service to cancel."""
    return Call(Request("POST", _operation(operation_id, "/cancel"), extra_s=RELEASE_S), _read_operation)


def forget(any_id: str) -> Call[None]:
    """Drop what is known of a lease (it is released) or of an operation (it is no longer followed)."""
    if any_id.startswith("op-"):
        return Call(Request("DELETE", _operation(any_id)), _nothing)
    return release(any_id, forget=True)


def events(types: Names, subjects: Names, after: str | None) -> Request:
    """The stream of what happens."""
    headers = {"Accept": STREAM_TYPE}
    if after is not None:
        headers["Last-Event-ID"] = after
    return Request("GET", "/v1/events", [*_several("type", types), *_several("subject", subjects)], headers)


def lease_events(lease_id: str, *, owner: bool) -> Request:
    """The stream of one lease; with `owner`, the stream that says that the owner lives."""
    params = [("owner", "true")] if owner else []
    return Request("GET", _lease(lease_id, "/events"), params, {"Accept": STREAM_TYPE})


def _read_lease(answer: Answer) -> Lease:
    return lease_of(check(answer).json())


def _read_messages(answer: Answer) -> Sequence[Mapping[str, Any]]:
    return messages_of(check(answer).json())


def _read_operation(answer: Answer) -> Operation:
    return operation_of(check(answer).json())


def _nothing(answer: Answer) -> None:
    check(answer)


def _page(read: Callable[[object], _Item]) -> Callable[[Answer], Page[_Item]]:
    def read_page(answer: Answer) -> Page[_Item]:
        items, after = page_of(check(answer).json())
        return Page(tuple(map(read, items)), after)

    return read_page


def _get(path: str, params: Sequence[tuple[str, str]] = (), *, extra_s: float = 0.0) -> Request:
    return Request("GET", path, params, extra_s=extra_s)


def _post(
    path: str,
    body: Mapping[str, object],
    *,
    params: Sequence[tuple[str, str]] = (),
    headers: Mapping[str, str] | None = None,
    extra_s: float = 0.0,
) -> Request:
    try:
        content = json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        # The text of the error may quote what could not be written.
        raise BadRequest(f"the request cannot be written as JSON ({type(error).__name__}): give plain values") from None
    return Request("POST", path, params, {"Content-Type": JSON_TYPE, **(headers or {})}, content, extra_s)


def _lease(lease_id: str, rest: str = "") -> str:
    return f"/v1/leases/{_segment('lease', lease_id)}{rest}"


def _operation(operation_id: str, rest: str = "") -> str:
    return f"/v1/operations/{_segment('operation', operation_id)}{rest}"


def _segment(what: str, any_id: str, *, what_of: str = "id") -> str:
    if not any_id or any_id in {".", ".."}:
        raise BadRequest(f"the {what_of} of the {what} is empty")
    return quote(any_id, safe="")


def _wait(wait_s: float) -> list[tuple[str, str]]:
    return [("wait", f"{wait_s:.3f}")] if wait_s else []


def _epoch(epoch: int | None) -> list[tuple[str, str]]:
    return [("epoch", str(epoch))] if epoch else []


def _several(name: str, values: Names) -> list[tuple[str, str]]:
    return [(name, value) for value in ((values,) if isinstance(values, str) else values)]


def _given(**values: str | int | None) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in values.items() if value is not None]


def _labels(labels: Mapping[str, str] | None) -> list[tuple[str, str]]:
    return [("label", f"{name}:{value}") for name, value in (labels or {}).items()]


def _without_none(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _settlement(
    properties: Mapping[str, object] | None, reason: str | None, description: str | None
) -> dict[str, object]:
    changed = None if not properties else {name: _property(value) for name, value in properties.items()}
    return _without_none(properties=changed, reason=reason, description=description)


def _property(value: object) -> object:
    """A value of an application property as the daemon reads it: JSON's own, or with the name of its AMQP type."""
    match value:
        case bytes() | bytearray():
            return {"type": "binary", "value": base64.b64encode(value).decode()}
        case uuid.UUID():
            return {"type": "uuid", "value": str(value)}
        case datetime():
            if value.tzinfo is None:
                raise BadRequest("properties: a date must have a time zone, as in datetime.now(UTC)")
            return {"type": "timestamp", "value": value.isoformat()}
        case _:
            return dict(value) if isinstance(value, Mapping) else value


def _span(name: str, value: Duration | None) -> float | None:
    return None if value is None else seconds(name, value)


def _iso(at: datetime | None) -> str | None:
    if at is None:
        return None
    if at.tzinfo is None:
        raise BadRequest("locked_until_utc: must have a time zone, as in datetime.now(UTC)")
    return at.astimezone(UTC).isoformat()


def _kind_of_result(answer: Answer) -> tuple[str, str | None]:
    if answer.status == 204:
        return "none", None
    content_type = _header(answer, "content-type")
    media = (content_type or "").partition(";")[0].strip().lower()
    return "json" if media == JSON_TYPE or media.endswith("+json") else "bytes", content_type


def _header(answer: Answer, name: str) -> str | None:
    return next((value for given, value in answer.headers.items() if given.lower() == name), None)
