"""Errors as problem documents (RFC 9457), and which error of the daemon is answered how."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, NotRequired

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from typing_extensions import TypedDict

from renewer.api.documents import to_json
from renewer.errors import (
    AdmissionError,
    ConflictError,
    LeaseLostError,
    MessageSettledError,
    RegistryError,
    RenewerError,
    TransientError,
    UnknownHandleError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MEDIA_TYPE = "application/problem+json"

_ANYWHERE = (400, 401, 403, 408)

_MEANING = {
    400: "The request cannot be read: a parameter, a header or the body is not what it must be.",
    401: "The bearer key is missing or wrong.",
    403: "Over TCP without a key only programs of this machine are let in, and no web page.",
    404: "There is no such lease, operation or message, or no longer.",
    408: "The request did not arrive in time.",
    409: "It does not fit the state that things are in; `detail` says which, and what would fit.",
    413: "The body is too large.",
    415: "Over TCP without a key the body must say that it is `application/json`.",
    422: "The body can be read, but asks for something that cannot be done as asked.",
    429: "No more can be taken on now, or the daemon is draining; try again after `Retry-After`.",
    502: "The remote service refused it for now.",
    503: "What must survive the daemon cannot be stored or read.",
    504: "The remote service gave no answer in time.",
}


class FieldProblem(TypedDict):
    """One mistake in the body, or in the parameters: where, and what would be right."""

    field: str
    message: str


class ProblemDocument(TypedDict):
    """A problem document (RFC 9457). `detail` says what to do about it.

    `lease` is the id of a lease that stands in the way, `state` the state that does: `lost` with its `reason`,
    `settled` with what became of the message. `failure` says in one word how the remote service failed, and `outcome`
    whether it is known that a message was not settled.
    """

    type: str
    title: str
    status: int
    detail: str
    errors: NotRequired[list[FieldProblem]]
    lease: NotRequired[str]
    state: NotRequired[str]
    reason: NotRequired[str]
    settled: NotRequired[str]
    failure: NotRequired[str]
    outcome: NotRequired[Literal["unknown", "not_done"]]


class Problem(HTTPException):
    """An error to be answered as it stands. `detail` says what to do about it."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
        **extra: object,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.errors = list(errors)
        self.extra = extra

    def document(self) -> dict[str, object]:
        """The problem as JSON values."""
        document: dict[str, object] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status_code).phrase,
            "status": self.status_code,
            "detail": self.detail,
            **self.extra,
        }
        if self.errors:
            document["errors"] = self.errors
        return document

    def response(self) -> Response:
        """The problem as an HTTP answer."""
        return Response(to_json(self.document()), self.status_code, self.headers, MEDIA_TYPE)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a route can answer with, for its documentation; those of every route are among them."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _MEANING[status], "content": content} for status in sorted({*_ANYWHERE, *statuses})}


def not_found(kind: str) -> Problem:
    """There is no lease, or no operation, of this id."""
    return Problem(404, f"no {kind} has this id; those that have ended are known for as long as keep_ended says")


@contextmanager
def telling_outcome() -> Generator[None, None, None]:
    """What settles a message tells, where it fails, whether it is known that nothing was done."""
    try:
        yield
    except TransientError as error:
        raise _transient(error, outcome="unknown" if error.is_unknown else "not_done") from error


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """Answer a `Problem`, and what the router refused: an unknown path, a method that is not allowed."""
    if isinstance(error, Problem):
        return error.response()
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 404:
        return Problem(404, f"nothing is at {request.scope['path'][:200]}; see GET /v1/openapi.json").response()
    if error.status_code == 405:
        allowed = ", ".join(_allowed(request))
        detail = f"{request.method} is not allowed here; {allowed} would be"
        return Problem(405, detail, headers={"Allow": allowed}).response()
    return Problem(error.status_code, error.detail, headers=error.headers).response()


async def answer_validation_error(_request: Request, error: Exception) -> Response:
    """Answer parameters and bodies that are not as documented: 400 for the former, 422 for the latter."""
    if not isinstance(error, RequestValidationError):
        raise error
    found: list[FieldProblem] = []
    in_body = True
    for item in error.errors():
        where, *rest = item["loc"]
        if where == "body" and not rest and item["type"] == "missing":
            return Problem(400, "the body must be a JSON object; there is none").response()
        in_body = in_body and where == "body"
        message = str(item["msg"]).removeprefix("Value error, ")
        found.append({"field": ".".join(map(str, rest)), "message": message})
    summary = "; ".join(f"{item['field']}: {item['message']}" if item["field"] else item["message"] for item in found)
    return Problem(422 if in_body else 400, summary, errors=found).response()


async def answer_renewer_error(_request: Request, error: Exception) -> Response:
    """Answer what the daemon, or a remote system through it, said to a wish."""
    return problem_of(error).response()


def problem_of(error: Exception) -> Problem:
    """What the daemon, or a remote system through it, said to a wish. Raises what is not for the caller's ears."""
    detail = str(error)
    match error:
        case UnknownHandleError():
            return Problem(404, detail)
        case UsageError():
            return Problem(422, detail)
        case MessageSettledError():
            return Problem(409, detail, state="settled", settled=error.fate)
        case ConflictError():
            extra: dict[str, Any] = {"lease": error.lease, "state": error.state}
            return Problem(409, detail, **{name: said for name, said in extra.items() if said is not None})
        case LeaseLostError():
            return Problem(409, detail, state="lost", reason=error.reason)
        case AdmissionError():
            return Problem(429, detail, headers=_retry_after(error.retry_after_s))
        case RegistryError():
            return Problem(503, detail)
        case TransientError():
            return _transient(error)
        case _:
            raise error


async def answer_crash(_request: Request, _error: Exception) -> Response:
    """Answer a bug of ours without telling its insides."""
    return Problem(500, "an unexpected error; the daemon's log has it").response()


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    HTTPException: answer_http_exception,
    RequestValidationError: answer_validation_error,
    RenewerError: answer_renewer_error,
    Exception: answer_crash,
}
"""Which handler answers which exception, as an application takes them."""


def _transient(error: TransientError, **extra: Any) -> Problem:
    status = 504 if error.kind == "timeout" else 502
    return Problem(status, str(error), headers=_retry_after(error.retry_after_s), failure=error.kind, **extra)


def _retry_after(delay_s: float | None) -> dict[str, str]:
    return {} if delay_s is None else {"Retry-After": str(max(1, math.ceil(delay_s)))}


def _allowed(request: Request) -> list[str]:
    """The methods of every route on this path: the router itself names those of the first one alone."""
    methods: set[str] = set()
    for route in request.app.state.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            methods |= set(getattr(route, "methods", None) or ())
    return sorted(methods)
