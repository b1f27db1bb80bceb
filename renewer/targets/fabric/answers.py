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
from typing import TYPE_CHECKING, Literal, cast

from renewer.core.model import NO_RESULT, Ended, PollAnswer, Result, StillRunning, Succeeded
from renewer.errors import ConflictError, TransientError, TransientKind
from renewer.targets.fabric.places import Place, is_state_path
from renewer.targets.fabric.tickets import Ticket, moved, result_path, ticket_for, ticket_of
from renewer.targets.http import Answer, is_json, parse_json, retry_after_s
from renewer.targets.origins import redact

if TYPE_CHECKING:
    from renewer.ports import Clock
    from renewer.targets.fabric.options import FabricOptions

_WAITING = frozenset({"notstarted", "running", "inprogress"})
_DONE = frozenset({"succeeded", "completed"})
_CANCELED = frozenset({"cancelled", "canceled"})

_TRANSIENT: dict[int, TransientKind] = {
    401: "unauthorized",
    404: "not_found",
    408: "timeout",
    410: "not_found",
    429: "throttled",
    503: "busy",
    504: "timeout",
}
_CLIENT_ERRORS = range(400, 500)
_UNDECIDED = frozenset({401, 408, 429})
"""Client errors after which the same first request may be accepted another time."""
_CHECKED_JSON_MAX = 1024 * 1024


def read_first(answer: Answer, *, method: str, asked: Place, options: FabricOptions, clock: Clock) -> PollAnswer:
    """Read the answer to an operation's first request.

    Raises `TransientError` for answers that decide nothing: 401, 408, 429, 5xx.
    """
    match answer.status:
        case 202:
            ticket = ticket_for(options, asked, answer)
            if ticket is None:
                return Ended("unpollable", error=_unpollable(answer))
            return StillRunning(retry_after_s=retry_after_s(answer.headers, clock), ticket=ticket)
        case 200 if method == "GET" and is_state_path(asked.path):
            # The caller knows the state URL itself; every answer there is a poll's.
            return _with_ticket(read_poll(answer, ticket_of(options, asked), options, clock), ticket_of(options, asked))
        case status if 200 <= status < 300:
            return Succeeded(result=_first_result(answer))
        case status if 300 <= status < 400:
            return Ended("rejected", error=_redirected(answer))
        case status if status in _CLIENT_ERRORS and status not in _UNDECIDED:
            return Ended("rejected", error=error_document(answer))
        case _:
            raise transient(answer, f"{method} {asked}", clock)


def read_adopted(answer: Answer, *, method: str, asked: Place, options: FabricOptions, clock: Clock) -> PollAnswer:
    """Read a first answer that the caller hands over; the request is not ours to send again, so none is transient."""
    try:
        return read_first(answer, method=method, asked=asked, options=options, clock=clock)
    except TransientError as error:
        document = error_document(answer)
        return Ended("rejected", error={**document, "message": f"{document.get('message', error)} (nothing to follow)"})


def read_poll(answer: Answer, ticket: Ticket, options: FabricOptions, clock: Clock) -> PollAnswer:
    """Read the answer of a state URL. Raises `TransientError` for everything that says nothing of the operation."""
    if answer.status == 202:
        state = _object_or_none(answer)
        return _still_running(answer, state, _word(state), ticket, options, clock)
    if answer.status == 204 and not is_state_path(ticket.path):
        return Succeeded()
    what = f"GET {ticket.path.partition('?')[0]}"
    if answer.status not in (200, 201):
        raise transient(answer, what, clock)
    state = _state(answer, what)
    if "status" not in state:
        if answer.header("location") is None and answer.header("retry-after") is None:
            # Seen where a GET had started the operation: when it is done its URL is that of the resource.
            return Succeeded(result=Result("json", answer.header("content-type"), answer.body))
        return _still_running(answer, state, None, ticket, options, clock)
    status = state["status"]
    if not isinstance(status, str) or not status:
        raise TransientError(f"{what}: the state document's status is not a text", kind="garbage")
    match status.lower():
        case word if word in _DONE:
            path = result_path(options, ticket, answer)
            if path is None:
                return Succeeded(status)
            return Succeeded(status, result=None, ticket=replace(ticket, result_path=path))
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
    match answer.status:
        case 200:
            return _result(answer, what)
        case 204:
            return NO_RESULT
        case 202:
            asked_s = retry_after_s(answer.headers, clock)
            raise TransientError(f"{what}: the result is not there yet", kind="server", retry_after_s=asked_s)
        case status if status in _CLIENT_ERRORS and _error_code(answer) == "OperationHasNoResult":
            return NO_RESULT
        case _:
            raise transient(answer, what, clock)


def read_canceled(answer: Answer, what: str, clock: Clock) -> None:
    """Read the answer to a wish to cancel. Raises `ConflictError` if the job has ended; `TransientError` otherwise."""
    if 200 <= answer.status < 300:
        return
    if answer.status in _CLIENT_ERRORS and _error_code(answer) == "JobAlreadyCompleted":
        raise ConflictError("the job has ended at the service already; its next poll tells how")
    raise transient(answer, what, clock)


def transient(answer: Answer, what: str, clock: Clock) -> TransientError:
    """An answer that says nothing final, as an error that says what it was."""
    document = error_document(answer)
    code = _error_code(answer)
    status = answer.status
    kind: TransientKind = _TRANSIENT.get(status, "server" if 300 <= status < 600 else "garbage")
    if code == "OperationNotFound" and status in _CLIENT_ERRORS:
        kind = "not_found"
    told = redact(f"{document['errorCode']}: {document['message']}")
    return TransientError(
        f"{what}: HTTP {status} {told}",
        kind=kind,
        retry_after_s=retry_after_s(answer.headers, clock),
        condition=code,
    )


def error_document(answer: Answer) -> dict[str, object]:
    """The service's error document, whole, with `httpStatus` and `requestId` beside it; our own where it sent none."""
    ours: dict[str, object] = {"httpStatus": answer.status}
    request_id = answer.header("requestid") or answer.header("x-ms-request-id")
    if request_id is not None:
        ours["requestId"] = redact(request_id, limit=100)
    if 300 <= answer.status < 400:
        return _redirected(answer)
    theirs = _object_or_none(answer)
    if theirs is None:
        text = redact(answer.body[:4000].decode("utf-8", "replace"))
        theirs = {"message": text or "no error document"}
    message = _inner(theirs).get("message", "no message")
    fallback = {"errorCode": _error_code(answer) or f"Http{answer.status}", "message": message}
    return {**fallback, **ours, **theirs}


def _still_running(
    answer: Answer,
    state: Mapping[str, object] | None,
    status: str | None,
    ticket: Ticket,
    options: FabricOptions,
    clock: Clock,
) -> StillRunning:
    return StillRunning(
        status=status,
        recognised=answer.status == 202 or (status is not None and status.lower() in _WAITING),
        retry_after_s=retry_after_s(answer.headers, clock),
        percent_complete=_percent(state),
        ticket=moved(options, ticket, answer),
    )


def _with_ticket(answer: PollAnswer, ticket: Ticket) -> PollAnswer:
    if isinstance(answer, StillRunning) and answer.ticket is None:
        return replace(answer, ticket=ticket)
    return answer


def _state(answer: Answer, what: str) -> Mapping[str, object]:
    try:
        document = parse_json(answer.body)
    except ValueError:
        shown = redact(answer.body[:400].decode("utf-8", "replace"), limit=80)
        raise TransientError(f"{what}: the state document is not JSON: {shown or 'empty'}", kind="garbage") from None
    if not isinstance(document, dict):
        name = "null" if document is None else type(document).__name__
        raise TransientError(f"{what}: the state document is no object but {name}", kind="garbage")
    return cast("Mapping[str, object]", document)


def _object_or_none(answer: Answer) -> Mapping[str, object] | None:
    try:
        document = parse_json(answer.body)
    except ValueError:
        return None
    return cast("Mapping[str, object]", document) if isinstance(document, dict) else None


def _word(state: Mapping[str, object] | None) -> str | None:
    status = None if state is None else state.get("status")
    return status if isinstance(status, str) else None


def _percent(state: Mapping[str, object] | None) -> float | None:
    percent = None if state is None else state.get("percentComplete")
    if isinstance(percent, bool) or not isinstance(percent, int | float):
        return None
    return float(min(max(percent, 0), 100))


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


def _unpollable(answer: Answer) -> Mapping[str, object]:
    message = (
        "the service accepted the request but named neither an operation id nor a usable Location, so nothing tells "
        "of its end; look at the resource itself"
    )
    return {**error_document(answer), "errorCode": "NotPollable", "message": message}


def _redirected(answer: Answer) -> dict[str, object]:
    target = redact(answer.header("location") or "nowhere")
    message = f"the service redirects to {target}; redirects are not followed, for the token is for its host alone"
    return {"errorCode": "Redirected", "message": message, "httpStatus": answer.status}


def _error_code(answer: Answer) -> str | None:
    document = _object_or_none(answer)
    code = None if document is None else document.get("errorCode", _inner(document).get("code"))
    code = code if isinstance(code, str) and code else answer.header("x-ms-public-api-error-code")
    return redact(code, limit=100) if code else None


def _inner(document: Mapping[str, object]) -> Mapping[str, object]:
    """The `error` object of the form that gateways before Fabric use: `{"error": {"code", "message"}}`."""
    inner = document.get("error")
    return cast("Mapping[str, object]", inner) if isinstance(inner, dict) else {}


def _first_result(answer: Answer) -> Result:
    if not answer.body:
        return NO_RESULT
    try:
        return _result(answer, "the first answer")
    except TransientError:
        # It was carried out, whatever the body: to ask again is not ours.
        return Result("bytes", answer.header("content-type"), answer.body)


def _result(answer: Answer, what: str) -> Result:
    if not answer.body:
        return NO_RESULT
    content_type = answer.header("content-type")
    kind: Literal["json", "bytes"] = "json" if is_json(content_type) else "bytes"
    if kind == "json" and not _seems_whole(answer.body):
        raise TransientError(f"{what}: the result is no whole JSON document", kind="garbage")
    return Result(kind, content_type, answer.body)


def _seems_whole(body: bytes) -> bool:
    """Whether JSON is whole; a large one is judged by its ends, for reading it would hold up everybody else."""
    if len(body) > _CHECKED_JSON_MAX:
        ends = body[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] + body[-64:].rstrip()[-1:]
        return ends in {b"{}", b"[]", b'""'}
    try:
        parse_json(body)
    except ValueError:
        return False
    return True
