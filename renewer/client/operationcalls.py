"""Calls about operations: the request, and how its answer is read. No I/O. See `renewer.client.wire.Call`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from renewer.client.models import Operation, Page, Result, SavedResult, Waited, operation_of, page_of, waited_of
from renewer.client.options import FinalStateVia, FollowProtocol, Names
from renewer.client.quantities import Duration
from renewer.client.requesting import body_of, get, given, labelled, operation_path, post, several, span, waiting
from renewer.client.saving import Saving
from renewer.client.wire import JSON_TYPE, Answer, Call, Request, check, nothing

FIRST_ANSWER_S: Final = 60.0
"""How much longer than usual a registration may take: the service's first answer is waited for."""

SERVICE_S: Final = 30.0
"""How much longer than usual it may take to cancel, as the service is asked, or to begin a result that is large."""


@dataclass(frozen=True, slots=True)
class OperationTerms:
    """How an operation is to be followed, whoever sends its first request: see `OperationOptions`."""

    account: str | None = None
    protocol: FollowProtocol | None = None
    final_state_via: FinalStateVia | None = None
    poll_query: Mapping[str, str] | None = field(default=None, repr=False)
    poll_headers: Mapping[str, str] | None = field(default=None, repr=False)
    early_probe: Duration | None = None
    deadline: Duration | None = None
    labels: Mapping[str, str] | None = None
    callback: str | None = None


def operations(
    *,
    state: Names = (),
    account: str | None = None,
    labels: Mapping[str, str] | None = None,
    limit: int | None = None,
    after: str | None = None,
) -> Call[Page[Operation]]:
    """One page of operations: see `OperationFilter`."""
    params = [
        *several("state", state),
        *given(account=account),
        *labelled(labels),
        *given(limit=limit, after=after),
    ]
    return Call(get("/v1/operations", params), lambda answer: page_of(check(answer).json(), operation_of))


def operation(operation_id: str, *, wait_s: float = 0.0) -> Call[Operation]:
    """One operation; with `wait_s`, once it has ended."""
    return Call(get(operation_path(operation_id), waiting(wait_s), extra_s=wait_s), _read_operation)


def register_operation(
    how: Literal["submit", "adopt"],
    request: Mapping[str, object],
    terms: OperationTerms,
    *,
    wait_s: float,
    idempotency_key: str,
) -> Call[Operation]:
    """Have an operation followed. Raises `BadRequest` for what cannot be written."""
    body = body_of(
        account=terms.account,
        **{how: body_of(**request)},
        protocol=terms.protocol,
        final_state_via=terms.final_state_via,
        poll_query=dict(terms.poll_query) if terms.poll_query else None,
        poll_headers=dict(terms.poll_headers) if terms.poll_headers else None,
        early_probe=span("early_probe", terms.early_probe),
        deadline=span("deadline", terms.deadline),
        labels=dict(terms.labels) if terms.labels else None,
        callback=terms.callback,
    )
    return Call(
        post(
            "/v1/operations",
            body,
            params=waiting(wait_s),
            idempotency_key=idempotency_key,
            extra_s=FIRST_ANSWER_S + wait_s,
        ),
        _read_operation,
    )


def wait_operations(ids: Sequence[str], until: Literal["all", "any"], *, wait_s: float) -> Call[Waited]:
    """Wait for operations to end."""
    request = post("/v1/operations/wait", {"ids": list(ids), "until": until}, params=waiting(wait_s), extra_s=wait_s)
    return Call(request, lambda answer: waited_of(check(answer).json()))


def result(operation_id: str) -> Call[Result]:
    """What an operation left behind."""

    def read(answer: Answer) -> Result:
        kind, content_type = _kind_of_result(check(answer))
        return Result(kind, content_type, answer.content)

    return Call(_get_result(operation_id), read)


def save_result(operation_id: str, into: Saving) -> Call[SavedResult]:
    """What an operation left behind, its body not in the answer but in `into`."""

    def read(answer: Answer) -> SavedResult:
        kind, content_type = _kind_of_result(check(answer))
        return SavedResult(kind, content_type, into.size)

    return Call(_get_result(operation_id), read)


def cancel(operation_id: str) -> Call[Operation]:
    """Ask the service to cancel."""
    return Call(Request("POST", operation_path(operation_id, "/cancel"), extra_s=SERVICE_S), _read_operation)


def forget_operation(operation_id: str) -> Call[None]:
    """Follow it no longer, and drop its record."""
    return Call(Request("DELETE", operation_path(operation_id)), nothing)


def _read_operation(answer: Answer) -> Operation:
    return operation_of(check(answer).json())


def _get_result(operation_id: str) -> Request:
    return get(operation_path(operation_id, "/result"), extra_s=SERVICE_S)


def _kind_of_result(answer: Answer) -> tuple[str, str | None]:
    """The kind of a `Result`, and its Content-Type."""
    if answer.status == 204:
        return "none", None
    content_type = answer.header("content-type")
    media = (content_type or "").partition(";")[0].strip().lower()
    return "json" if media == JSON_TYPE or media.endswith("+json") else "bytes", content_type
