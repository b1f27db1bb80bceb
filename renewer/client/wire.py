"""Requests and answers as values, and how an answer that is an error becomes an exception. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import httpx

from renewer.client.address import Address
from renewer.client.errors import (
    BadRequest,
    Conflict,
    LockLost,
    MessageSettled,
    NotAllowed,
    NotFound,
    ProtocolError,
    Refused,
    RemoteFailed,
    RenewerApiError,
    ServerError,
    Timeout,
    Unavailable,
)

_T = TypeVar("_T")

JSON_TYPE = "application/json"
BINARY_TYPE = "application/octet-stream"
STREAM_TYPE = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `extra_s` is how much longer than usual its answer may take, `limit_s` a shorter time than usual.

    The body stays out of repr: it may hold a lock token.
    """

    method: str
    path: str
    params: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = field(default=None, repr=False)
    extra_s: float = 0.0
    limit_s: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whole."""

    status: int
    headers: Mapping[str, str]
    content: bytes = field(default=b"", repr=False)

    def header(self, name: str) -> str | None:
        """A header field by its name in lower case; None if there is none."""
        return next((value for given, value in self.headers.items() if given.lower() == name), None)

    def json(self) -> Any:
        """The body as JSON. Raises `ProtocolError`."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError) as error:
            raise ProtocolError("what answered is not a renewer: its answer is not JSON", status=self.status) from error


@dataclass(frozen=True, slots=True)
class Call(Generic[_T]):
    """A request, and what its answer means. `repeatable`: sending it twice does no more than sending it once."""

    request: Request
    read: Callable[[Answer], _T]
    repeatable: bool = True

    def within(self, limit_s: float | None) -> Call[_T]:
        """The same call, whose answer may take no longer than this; None: as long as before."""
        return replace(self, request=replace(self.request, limit_s=limit_s))


class Unanswered(Exception):  # noqa: N818 - not an error yet: it may be tried again
    """No answer came. `delivered`: the request may have arrived. `late`: it did, and the answer took too long."""

    def __init__(self, cause: Exception, *, delivered: bool, late: bool = False) -> None:
        super().__init__(str(cause) or type(cause).__name__)
        self.cause = cause
        self.delivered = delivered
        self.late = late

    def error(self, address: Address) -> RenewerApiError:
        """What to tell the caller."""
        if self.late:
            return Timeout(f"the daemon at {address} did not answer in time; `renewer status` says how it is")
        if _is_permission(self.cause):
            return NotAllowed(
                f"no permission to use the socket of the daemon at {address};"
                " join the group that [api] socket_group names, or run as the daemon's user"
            )
        reason = str(self.cause) or type(self.cause).__name__
        return Unavailable(
            f"no daemon answers at {address} ({reason});"
            " start one with `renewer run --config config.toml`, or set RENEWER_API to where it listens"
        )


def unanswered(error: httpx.HTTPError | OSError) -> Unanswered:
    """What a failure of the transport says about the request."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.UnsupportedProtocol):
        return Unanswered(error, delivered=False)
    return Unanswered(error, delivered=True, late=isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout))


def check(answer: Answer) -> Answer:
    """Return `answer` if it is a success, else raise what it says."""
    if 200 <= answer.status < 300:
        return answer
    raise error_of(answer)


def nothing(answer: Answer) -> None:
    """Read an answer that says no more than that it is a success."""
    check(answer)


def error_of(answer: Answer) -> RenewerApiError:
    """The exception that says what the answer says."""
    status, problem = answer.status, _problem(answer)
    message = _message(status, problem)
    if status == 429:
        return Refused(message, status=status, problem=problem, retry_after_s=_retry_after(answer))
    if problem.get("state") == "lost" and status == 409:
        reason = str(problem.get("reason") or "lost")
        return LockLost(message, reason=reason, detail=message, status=status, problem=problem)
    if problem.get("state") == "settled" and status == 409:
        return MessageSettled(message, status=status, problem=problem)
    if not problem and (300 <= status < 400 or status == 404):
        return ProtocolError(f"what answered is not a renewer of this version (HTTP {status})", status=status)
    kinds: dict[int, type[RenewerApiError]] = {
        401: NotAllowed,
        403: NotAllowed,
        404: NotFound,
        408: Timeout,
        409: Conflict,
        410: NotFound,
        502: RemoteFailed,
        503: Unavailable,
        504: Timeout,
    }
    kind = kinds.get(status, BadRequest if 400 <= status < 500 else ServerError)
    return kind(message, status=status, problem=problem)


def _problem(answer: Answer) -> Mapping[str, Any]:
    try:
        document = json.loads(answer.content)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _message(status: int, problem: Mapping[str, Any]) -> str:
    detail = problem.get("detail") or problem.get("title")
    parts = [detail] if isinstance(detail, str) else []
    findings = problem.get("errors")
    for finding in findings if isinstance(findings, list) else []:
        if isinstance(finding, dict):
            line = f"{finding.get('field') or 'body'}: {finding.get('message', '')}"
            if not any(str(finding.get("message", "")) in part for part in parts):
                parts.append(line)
    if not parts:
        return f"the daemon answered HTTP {status}"
    return "; ".join(parts)


def _retry_after(answer: Answer) -> float | None:
    text = answer.header("retry-after") or ""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _is_permission(error: BaseException | None) -> bool:
    for _ in range(8):
        if error is None:
            return False
        # httpcore hands the system's word on as text at some layers, and as a cause at others.
        if isinstance(error, PermissionError) or "[Errno 13]" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
