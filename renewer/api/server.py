"""The control API: leases and operations over HTTP, for workers and for people with curl.

Every error is a problem document; every list is paged; `wait=` holds an answer back until there is something to say.
"""

from __future__ import annotations

import hmac
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from renewer.api.control import Control, FollowRequest, HoldRequest
from renewer.api.models import LeaseView, NewLease, NewOperation, OperationView
from renewer.api.problems import Problem, answer_crash, answer_http_exception, answer_problem
from renewer.config import parse_duration
from renewer.core.leases import Lease
from renewer.core.model import LeaseId, OperationId
from renewer.core.operations import Operation
from renewer.core.states import LeaseState, OperationState, is_over
from renewer.errors import UsageError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_WAIT_S = 300.0
FIRST_ANSWER_WAIT_S = 30.0
"""How long ``POST /v1/operations`` waits for the service's first answer before it says "accepted"."""

DEFAULT_PAGE = 100
MAX_PAGE = 1000

_Model = TypeVar("_Model", bound=BaseModel)
_Item = TypeVar("_Item", Lease, Operation)


def build_api(control: Control, *, key: str | None = None) -> ASGIApp:
    """The API as an ASGI application. With `key`, every request must carry it as a bearer token."""
    api = _Api(control)
    app = Starlette(
        routes=[
            Route("/v1/leases", api.list_leases, methods=["GET"]),
            Route("/v1/leases", api.create_lease, methods=["POST"]),
            Route("/v1/leases/{id}", api.get_lease, methods=["GET"]),
            Route("/v1/leases/{id}", api.delete_lease, methods=["DELETE"]),
            Route("/v1/operations", api.list_operations, methods=["GET"]),
            Route("/v1/operations", api.create_operation, methods=["POST"]),
            Route("/v1/operations/{id}", api.get_operation, methods=["GET"]),
            Route("/v1/operations/{id}/result", api.get_result, methods=["GET"]),
        ],
        exception_handlers={
            Problem: answer_problem,
            HTTPException: answer_http_exception,
            Exception: answer_crash,
        },
    )
    return app if key is None else _BearerKey(app, key)


class _Api:
    def __init__(self, control: Control) -> None:
        self._control = control

    async def list_leases(self, request: Request) -> Response:
        return _page(request, self._control.leases(), lambda lease: LeaseView.of(lease, self._control.clock))

    async def create_lease(self, request: Request) -> Response:
        wait_s = _wait_s(request)
        body = await _body(request, NewLease)
        try:
            lease, created = self._control.hold(
                HoldRequest(
                    servicebus=body.servicebus,
                    entity=body.entity,
                    session_id=body.session_id,
                    lock_duration_s=body.lock_duration,
                    reacquire=body.reacquire,
                    max_duration_s=body.max_duration,
                    labels=body.labels,
                )
            )
        except UsageError as error:
            raise Problem(422, str(error)) from error
        if wait_s:
            await self._control.wait_lease(lease.spec.id, lambda lease: lease.state is not LeaseState.ACQUIRING, wait_s)
        view = LeaseView.of(lease, self._control.clock)
        return _json(view, 201 if created else 200, {"Location": f"/v1/leases/{view.id}"})

    async def get_lease(self, request: Request) -> Response:
        return _json(LeaseView.of(self._lease(request), self._control.clock))

    async def delete_lease(self, request: Request) -> Response:
        await self._control.release(self._lease(request).spec.id)
        return Response(status_code=204)

    async def list_operations(self, request: Request) -> Response:
        return _page(
            request, self._control.operations(), lambda operation: OperationView.of(operation, self._control.clock)
        )

    async def create_operation(self, request: Request) -> Response:
        wait_s = _wait_s(request)
        body = await _body(request, NewOperation)
        try:
            operation = self._control.follow(
                FollowRequest(
                    account=body.account,
                    how="submit" if body.submit is not None else "adopt",
                    request=body.submit if body.submit is not None else body.adopt or {},
                    deadline_s=body.deadline,
                    labels=body.labels,
                )
            )
        except UsageError as error:
            raise Problem(422, str(error)) from error
        await self._control.wait_operation(
            operation.spec.id, lambda operation: operation.state is not OperationState.ACCEPTED, FIRST_ANSWER_WAIT_S
        )
        if wait_s:
            await self._control.wait_operation(operation.spec.id, lambda operation: is_over(operation.state), wait_s)
        view = OperationView.of(operation, self._control.clock)
        return _json(view, 201, {"Location": f"/v1/operations/{view.id}"})

    async def get_operation(self, request: Request) -> Response:
        wait_s = _wait_s(request)
        operation = self._operation(request)
        if wait_s:
            await self._control.wait_operation(operation.spec.id, lambda operation: is_over(operation.state), wait_s)
        return _json(OperationView.of(operation, self._control.clock))

    async def get_result(self, request: Request) -> Response:
        operation = self._operation(request)
        result = operation.result
        if result is None:
            ended = is_over(operation.state)
            path = f"/v1/operations/{operation.spec.id}"
            detail = (
                f"the operation ended as {operation.state}, without a result; its error is in GET {path}"
                if ended
                else f"the operation is {operation.state}; wait for it with GET {path}?wait=60s"
            )
            raise Problem(409, detail, state=operation.state.value)
        if result.kind == "none":
            return Response(status_code=204)
        # No media_type: the service's own content type stands, and nothing may be added to it.
        headers = {
            "Content-Type": result.content_type or "application/octet-stream",
            "X-Content-Type-Options": "nosniff",
        }
        return Response(result.body, headers=headers)

    def _lease(self, request: Request) -> Lease:
        lease = self._control.lease(LeaseId(request.path_params["id"]))
        if lease is None:
            raise Problem(404, "no lease has this id; GET /v1/leases lists them, ended ones for an hour")
        return lease

    def _operation(self, request: Request) -> Operation:
        operation = self._control.operation(OperationId(request.path_params["id"]))
        if operation is None:
            raise Problem(
                404,
                "no operation has this id; GET /v1/operations lists them, ended ones for as long as keep_ended says",
            )
        return operation


class _BearerKey:
    """Lets in only requests that carry the key."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._allowed(scope["headers"]):
            problem = Problem(
                401,
                "send the key of [api] as Authorization: Bearer KEY",
                headers={"WWW-Authenticate": 'Bearer realm="renewer"'},
            )
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _allowed(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        given = [value for name, value in headers if name.lower() == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, key = given[0].partition(b" ")
        return hmac.compare_digest(key.strip(b" "), self._key) and scheme.lower() == b"bearer"


def _json(view: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(view.model_dump_json(), status, headers, media_type="application/json")


def _page(request: Request, items: Iterable[_Item], show: Callable[[_Item], BaseModel]) -> Response:
    """One page: `limit` items after the one whose id is `after`; `next` is the `after` of the next page, or null."""
    limit = _whole(request, "limit", DEFAULT_PAGE, MAX_PAGE)
    after = request.query_params.get("after")
    rest = iter(items)
    if after is not None and not any(item.spec.id == after for item in rest):
        raise Problem(400, "after names no item that is still here; start again without it")
    page = list(itertools.islice(rest, limit))
    more = next(rest, None) is not None
    return JSONResponse(
        {
            "items": [show(item).model_dump(mode="json") for item in page],
            "next": page[-1].spec.id if more else None,
        }
    )


def _whole(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:10]) <= most:
        raise Problem(400, f"{name} must be a whole number from 1 to {most}")
    return int(text)


def _wait_s(request: Request) -> float:
    text = request.query_params.get("wait")
    if text is None:
        return 0.0
    try:
        wait_s = parse_duration(text).total_seconds()
    except ValueError as error:
        raise Problem(400, f"wait: {error}") from error
    if not 0 <= wait_s <= MAX_WAIT_S:
        raise Problem(400, f"wait must be from 0 to {MAX_WAIT_S:g} s")
    return wait_s


async def _body(request: Request, model: type[_Model]) -> _Model:
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_BODY_BYTES:
            raise Problem(413, f"the body may have {MAX_BODY_BYTES} bytes at most")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the body must be a JSON object: {error}") from error
    if not isinstance(document, dict):
        raise Problem(400, "the body must be a JSON object")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        errors = [
            {"field": ".".join(map(str, item["loc"])), "message": item["msg"].removeprefix("Value error, ")}
            for item in error.errors(include_input=False, include_url=False, include_context=False)
        ]
        summary = "; ".join(
            f"{item['field']}: {item['message']}" if item["field"] else item["message"] for item in errors
        )
        raise Problem(422, summary, errors=errors) from error
