"""One HTTP exchange with the emulated Fabric: token, body, scripted fault, answer, record."""

from __future__ import annotations

import contextlib
import hmac
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, assert_never
from uuid import uuid4

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from renewer.emulator.fabric.items import display_name_of
from renewer.emulator.fabric.scenario import is_host
from renewer.emulator.fabric.wire import JSON_UTF8, RefusalError, blocked, json_object, json_response, told_wait_s
from renewer.emulator.faults import Fault, FaultAction
from renewer.emulator.http import BodyTooLargeError, client_gone, read_body, reset_connection, write_raw

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from starlette.types import Receive, Scope, Send

    from renewer.emulator.fabric.operations import Progress
    from renewer.emulator.faults import Faults

KEPT_REQUESTS = 1000
KEPT_EARLY_POLLS = 100

UNANSWERED_HOLD_S = 300.0
"""A client whose reply was lost is cut off after so long, should it still be there."""

# What a data plane under load was seen to send instead of a status line.
_GARBAGE = b"\x01\x00\x00\x00\x00\x00\x00\x1fRetry-After: 42\r\n\r\n"


@dataclass(slots=True)
class Call:
    """One request whose token was good and whose body is a JSON object, on its way to a handler."""

    request: Request
    request_id: str
    document: Mapping[str, object]
    now_s: float
    utc_now: datetime
    progress: Progress | None = None
    """Of the operation that it asks about, or has started."""
    early_s: float = 0.0
    """Seconds by which it came too early."""

    @property
    def path(self) -> str:
        """The path of the request, without its query."""
        return path_of(self.request)

    @property
    def home(self) -> str:
        """Scheme, host and port by which the client reached us."""
        return home_of(self.request)

    def parameter(self, name: str) -> str:
        """Return a parameter of the path; empty if the path has none of that name."""
        return str(self.request.path_params.get(name, ""))


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request as it was seen, for tests and for the admin API. The token itself is not kept."""

    at: datetime
    method: str
    path: str
    point: str
    token_present: bool
    """Whether it carried an Authorization header at all."""
    status: int | None
    """None: it was not answered."""
    fault: str | None
    early_s: float
    """Seconds by which it came before the moment that an earlier Retry-After had told; 0 when it did not."""


@dataclass(slots=True)
class Journal:
    """What was seen, bounded."""

    requests: deque[RequestRecord] = field(default_factory=lambda: deque(maxlen=KEPT_REQUESTS))
    early: deque[RequestRecord] = field(default_factory=lambda: deque(maxlen=KEPT_EARLY_POLLS))
    total: int = 0
    unauthorized: int = 0
    early_total: int = 0
    earliest_s: float = 0.0
    changed: anyio.Event = field(default_factory=anyio.Event)
    """Set, and replaced, at each request."""

    def add(self, record: RequestRecord) -> None:
        """Keep a record and count it."""
        self.changed.set()
        self.changed = anyio.Event()
        self.requests.append(record)
        self.total += 1
        self.unauthorized += record.status == 401
        if record.early_s > 0:
            self.early.append(record)
            self.early_total += 1
            self.earliest_s = max(self.earliest_s, record.early_s)


@dataclass(frozen=True, slots=True)
class Desk:
    """What every endpoint needs to receive a request."""

    faults: Faults
    journal: Journal
    token: str | None
    """The one bearer token that is let in; None lets everybody in."""
    clock: Callable[[], float]
    progress_of: Callable[[Request], Progress | None]


class Silence(Enum):
    """What a client gets that gets no answer."""

    WAIT = "wait"
    """Nothing, until it gives up."""
    RESET = "reset"
    """A TCP reset."""
    GARBAGE = "garbage"
    """Bytes that are not HTTP."""


class Endpoint:
    """The ASGI application of one route: `handler` decides the answer, everything around it is common to all."""

    def __init__(self, desk: Desk, point: str, handler: Callable[[Call], Response]) -> None:
        self._desk = desk
        self._point = point
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Receive one request, and answer it or not."""
        request = Request(scope, receive)
        desk = self._desk
        request_id = str(uuid4())
        now_s = desk.clock()
        call: Call | None = None
        fault: Fault | None = None
        outcome: Response | Silence
        try:
            check_token(request, desk.token)
            document = json_object(await _body(request))
            progress = desk.progress_of(request)
            early_s = 0.0 if progress is None else progress.earliness_s(now_s)
            call = Call(request, request_id, document, now_s, desk.faults.utc_now(), progress, early_s)
            fault = desk.faults.pick(self._point, **_attributes(call))
            outcome = self._answer(call, fault)
        except RefusalError as refusal:
            outcome = refusal.response(request_id, home_of(request))
        except ClientDisconnect:
            return
        # Written down before anything is sent: whoever has the answer also finds the record.
        record = RequestRecord(
            at=desk.faults.utc_now(),
            method=request.method,
            path=path_of(request)[:1000],
            point=self._point,
            token_present="authorization" in request.headers,
            status=outcome.status_code if isinstance(outcome, Response) else None,
            fault=None if fault is None else fault.action.value,
            early_s=0.0 if call is None else call.early_s,
        )
        desk.journal.add(record)
        if isinstance(outcome, Silence):
            await _keep_silent(request, outcome, send)
            return
        if fault is not None and fault.action is FaultAction.DELAY:
            with anyio.move_on_after(fault.delay_s or 0):
                await client_gone(scope, receive)
                return
        outcome.headers["RequestId"] = request_id
        if call is not None and call.progress is not None:
            self._note_pace(call.progress, outcome)
        await outcome(scope, receive, send)

    def _note_pace(self, progress: Progress, response: Response) -> None:
        wait_s = told_wait_s(response.headers.get("retry-after"), self._desk.faults.utc_now())
        if wait_s is not None:
            progress.told_until_s = self._desk.clock() + wait_s
        elif response.status_code < 400:
            progress.told_until_s = None

    def _answer(self, call: Call, fault: Fault | None) -> Response | Silence:
        """Answer as the handler would, or as the fault wants it. Raises `RefusalError`."""
        if fault is None:
            return self._handler(call)
        match fault.action:
            case FaultAction.LOSE_REPLY:
                with contextlib.suppress(RefusalError):
                    self._handler(call)
                return Silence.WAIT
            case FaultAction.DROP:
                return Silence.WAIT
            case FaultAction.DELAY:
                return self._handler(call)
            case FaultAction.RESET:
                return Silence.RESET
            case FaultAction.GARBAGE:
                return Silence.GARBAGE
            case FaultAction.BUSY:
                raise blocked(1, call.utc_now, retry_after=fault.retry_after)
            case FaultAction.UNAUTHORIZED:
                message = fault.message or "Access token has expired, resubmit with a new access token"
                raise RefusalError(401, fault.condition or "TokenExpired", message)
            case FaultAction.STATUS | FaultAction.DETACH | FaultAction.CLOSE:
                # The last two have no meaning in HTTP, and no point of Fabric takes them.
                return _scripted_status(fault)
            case _ as never:
                assert_never(never)


def path_of(request: Request) -> str:
    """Return the path of a request, without its query."""
    path: str = request.scope["path"]
    return path


def home_of(request: Request) -> str:
    """Return scheme, host and port by which a client reached us; what it calls us only if that can be a host."""
    scope = request.scope
    host = request.headers.get("host", "")
    if not is_host(host):
        name, port = scope.get("server") or ("localhost", 80)
        host = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    return f"{scope['scheme']}://{host}"


def check_token(request: Request, token: str | None) -> None:
    """Raise `RefusalError` (401) unless the request carries the token, or none is asked for."""
    if token is None:
        return
    header = request.headers.get("authorization")
    if header is None:
        raise RefusalError(401, "TokenIsMissing", "The request has no access token")
    scheme, _, given = header.partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise RefusalError(401, "InvalidToken", "The access token is not valid for this service")


async def _body(request: Request) -> bytes:
    try:
        return await read_body(request)
    except BodyTooLargeError as error:
        # The rest of the body is still on its way: the connection cannot be used again.
        headers = {"Connection": "close"}
        raise RefusalError(413, "RequestEntityTooLarge", str(error), headers=headers) from error


def _attributes(call: Call) -> dict[str, object]:
    """Return what a fault can match a request by."""
    query = {f"query_{name}": value for name, value in call.request.query_params.items()}
    scenario = call.progress.scenario.name if call.progress is not None else None
    return {
        **query,
        "path": call.path,
        "method": call.request.method,
        "display_name": display_name_of(call.document),
        "scenario": scenario or call.request.headers.get("x-emulator-scenario"),
        **call.request.path_params,
    }


async def _keep_silent(request: Request, silence: Silence, send: Send) -> None:
    """Leave a request without an answer; returns when its connection is gone."""
    match silence:
        case Silence.WAIT:
            with anyio.move_on_after(UNANSWERED_HOLD_S):
                await client_gone(request.scope, request.receive)
                return
            reset_connection(request.scope)
        case Silence.RESET:
            if not reset_connection(request.scope):
                raise ConnectionResetError("Connection reset by a scripted fault")
        case Silence.GARBAGE:
            if not write_raw(request.scope, _GARBAGE):
                await Response(_GARBAGE, media_type=JSON_UTF8)(request.scope, request.receive, send)
                return
        case _ as never:
            assert_never(never)
    await client_gone(request.scope, request.receive)


def _scripted_status(fault: Fault) -> Response:
    status = fault.status or 500
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    if status >= 400:
        code = fault.condition or ("InternalServerError" if status >= 500 else "UnknownError")
        message = fault.message or "An unexpected error occurred while processing the request"
        raise RefusalError(status, code, message, headers=headers)
    if status in (204, 304):
        return Response(status_code=status, headers=headers)
    return json_response(status, None, headers)
