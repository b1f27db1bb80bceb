"""What Fabric's answers mean, as values of the core.

Two families share the vocabulary below: operations (`/operations/{id}`, from microsoft/fabric-rest-api-specs,
`LongRunningOperationStatus`) and job instances (`…/jobs/instances/{id}`, `ItemJobStatus`). Both sets are open: a word
that is not here, and `Undefined`, mean that it still runs.

An answer that is an error says that *reading the state* failed, never that the operation did; only a state document
ends an operation. The exception is the answer to the first request, which tells whether there is an operation at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from renewer.core.model import NO_RESULT, Ended, PollAnswer, Result, StillRunning, Succeeded
from renewer.errors import ConflictError, TransientError
from renewer.targets.fabric.places import is_state_path, where_to_look
from renewer.targets.fabric.tickets import Ticket, moved, result_path, ticket_for, ticket_of
from renewer.targets.http import Answer, is_json
from renewer.targets.rest.documents import (
    CLIENT_ERRORS,
    STATUS_MAX,
    error_code,
    error_document,
    first_moment,
    object_or_none,
    percent,
    state_object,
    transient,
)
from renewer.targets.rest.results import first_result_of, result_of
from renewer.targets.retryafter import retry_after_s

if TYPE_CHECKING:
    from renewer.ports import Clock
    from renewer.targets.rest.account import AccountOptions
    from renewer.targets.rest.places import Place

_WAITING = frozenset({"notstarted", "running", "inprogress"})
_DONE = frozenset({"succeeded", "completed"})
_CANCELED = frozenset({"cancelled", "canceled"})

_UNDECIDED = frozenset({401, 408, 429})
"""Client errors after which the same first request may be accepted another time."""


def read_first(answer: Answer, *, method: str, asked: Place, options: AccountOptions, clock: Clock) -> PollAnswer:
    """Read the answer to an operation's first request.

    Raises `TransientError` for answers that decide nothing: 401, 408, 429, 5xx.
    """
    match answer.status:
        case 200 | 201 | 202 | 404 | 410 if is_poll(method, asked):
            # The caller knows the state URL itself, and what such a URL answers is about the operation.
            ticket = ticket_of(options, asked)
            return _with_ticket(read_poll(answer, ticket, options, clock), ticket)
        case 202:
            named = ticket_for(options, asked, answer)
            if named is None:
                return Ended("unpollable", error=_unpollable(answer, asked))
            return StillRunning(retry_after_s=retry_after_s(answer.headers, clock), ticket=named)
        case status if 200 <= status < 300:
            return Succeeded(result=first_result_of(answer))
        case status if 300 <= status < 500 and status not in _UNDECIDED:
            return Ended("rejected", error=error_document(answer))
        case _:
            raise transient(answer, f"{method} {asked}", clock)


def read_adopted(answer: Answer, *, method: str, asked: Place, options: AccountOptions, clock: Clock) -> PollAnswer:
    """Read a first answer that the caller hands over; the request is not ours to send again, so none is transient."""
    try:
        read = read_first(answer, method=method, asked=asked, options=options, clock=clock)
        ticket = ticket_of(options, asked)
        has_headers = any(name != "content-type" for name in answer.headers)
        if isinstance(read, Succeeded) and read.status and not has_headers and ticket.result_path is not None:
            # Location would have said whether there is a result. Its headers were not handed over: ask for it.
            return replace(read, result=None, ticket=ticket)
        return read
    except TransientError as error:
        if is_poll(method, asked):
            return StillRunning(retry_after_s=error.retry_after_s, ticket=ticket_of(options, asked))
        document = error_document(answer)
        return Ended("rejected", error={**document, "message": f"{document.get('message', error)} (nothing to follow)"})


def is_poll(method: str, asked: Place) -> bool:
    """Whether a first request asks for the state of an operation that was started before."""
    return method == "GET" and is_state_path(asked.path)


def read_poll(answer: Answer, ticket: Ticket, options: AccountOptions, clock: Clock) -> PollAnswer:
    """Read the answer of a state URL. Raises `TransientError` for everything that says nothing of the operation."""
    if answer.status == 202:
        state = object_or_none(answer)
        return _still_running(answer, state, _word(state), ticket, options, clock)
    what = f"GET {ticket.path.partition('?')[0]}"
    is_state = is_state_path(ticket.path)
    if answer.status == 204 and not is_state:
        return Succeeded()
    if answer.status not in (200, 201):
        raise transient(answer, what, clock)
    state = object_or_none(answer)
    if state is None and not is_state and _is_result(answer):
        return Succeeded(result=result_of(answer, what))
    state = state if state is not None else state_object(answer, what)
    if "status" not in state:
        if answer.header("location") is not None or answer.header("retry-after") is not None:
            return _still_running(answer, state, None, ticket, options, clock)
        if isinstance(state.get("errorCode"), str):
            raise transient(answer, what, clock)
        # Seen where a GET had started the operation: when it is done its URL is that of the resource.
        return Succeeded(result=Result("json", answer.header("content-type"), answer.body))
    status = state["status"]
    if not isinstance(status, str) or not status:
        raise TransientError(f"{what}: the state document's status is not a text", kind="garbage")
    match status.lower():
        case word if word in _DONE:
            path = result_path(options, ticket, answer)
            if path is None:
                return Succeeded(status)
            return Succeeded(status, result=None, ticket=replace(ticket, result=path))
        case "failed":
            return Ended("failed", status, _reason(state, status, "the service gave no reason"))
        case word if word in _CANCELED:
            return Ended("canceled", status, _reason(state, status, "canceled at the service"))
        case "deduped":
            return Ended("canceled", status, _deduped(state, status))
        case _:
            return _still_running(answer, state, status, ticket, options, clock)


def read_result(answer: Answer, what: str, clock: Clock) -> Result:
    """Read the answer of a result URL. Raises `TransientError` where the result may still be had."""
    code = error_code(answer) if answer.status in CLIENT_ERRORS else None
    match answer.status, code:
        case 200, _:
            return result_of(answer, what)
        case (204, _) | (_, "OperationHasNoResult"):
            return NO_RESULT
        case (202, _) | (_, "OperationNotSucceeded"):
            asked_s = retry_after_s(answer.headers, clock)
            raise TransientError(
                f"{what}: the result is not there yet", kind="server", retry_after_s=asked_s, condition=code
            )
        case _:
            raise transient(answer, what, clock)


def read_canceled(answer: Answer, what: str, clock: Clock) -> None:
    """Read the answer to a wish to cancel. Raises `ConflictError` if the job has ended; `TransientError` otherwise."""
    if 200 <= answer.status < 300:
        return
    if answer.status in CLIENT_ERRORS and error_code(answer) == "JobAlreadyCompleted":
        raise ConflictError("the job has ended at the service already; its next poll tells how")
    raise transient(answer, what, clock)


def _still_running(
    answer: Answer,
    state: Mapping[str, object] | None,
    status: str | None,
    ticket: Ticket,
    options: AccountOptions,
    clock: Clock,
) -> StillRunning:
    return StillRunning(
        status=None if status is None else status[:STATUS_MAX],
        recognised=answer.status == 202 or (status is not None and status.lower() in _WAITING),
        retry_after_s=retry_after_s(answer.headers, clock),
        percent_complete=percent(state),
        ticket=moved(options, ticket, answer),
        started_at=first_moment(state, "createdTimeUtc", "startTimeUtc"),
        updated_at=first_moment(state, "lastUpdatedTimeUtc", "endTimeUtc"),
    )


def _with_ticket(answer: PollAnswer, ticket: Ticket) -> PollAnswer:
    if isinstance(answer, StillRunning) and answer.ticket is None:
        return replace(answer, ticket=ticket)
    return answer


def _word(state: Mapping[str, object] | None) -> str | None:
    status = None if state is None else state.get("status")
    return status if isinstance(status, str) else None


def _reason(state: Mapping[str, object], status: str, otherwise: str) -> Mapping[str, object]:
    for name in ("error", "failureReason"):
        reason = state.get(name)
        if isinstance(reason, dict) and reason:
            return cast("Mapping[str, object]", reason)
        if isinstance(reason, str) and reason:
            return {"errorCode": status, "message": reason}
    return {"errorCode": status, "message": otherwise}


def _deduped(state: Mapping[str, object], status: str) -> Mapping[str, object]:
    message = (
        "the service skipped this job instance because another one of the same job already runs; "
        "follow that one, or start the job again after it"
    )
    error: dict[str, object] = {"errorCode": status, "message": message}
    if state.get("failureReason"):
        error["failureReason"] = state["failureReason"]
    return error


def _is_result(answer: Answer) -> bool:
    """Whether what stands behind some Location, and is no object, can be what the operation made.

    What is no state URL ends as Azure says: with 200, and the result as its body. A page for people is none.
    """
    content_type = answer.header("content-type")
    return not answer.body or is_json(content_type) or (content_type or "").startswith("application/octet-stream")


def _unpollable(answer: Answer, asked: Place) -> Mapping[str, object]:
    message = (
        "the service accepted the request but named neither an operation id nor a usable Location, so nothing tells "
        f"of its end; {where_to_look(asked)}"
    )
    return {**error_document(answer), "errorCode": "NotPollable", "message": message}
