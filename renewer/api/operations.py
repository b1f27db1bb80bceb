"""Routes of operations."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from renewer.api.bodies import open_result
from renewer.api.control import Control, FollowRequest
from renewer.api.documents import JsonResponse, to_json
from renewer.api.models import NewOperation, OperationFilter, WaitForMany, Waiting
from renewer.api.paging import has_labels, meant, page, shown_in_slices
from renewer.api.problems import Problem, not_found, problems
from renewer.api.requests import (
    REPLAYED,
    ApiRequest,
    ApiRoute,
    Daemon,
    IdempotencyKey,
    PathId,
    idempotency,
    replayed,
)
from renewer.api.views import Calendar, OperationPage, OperationView, WaitedView, show_operation
from renewer.api.wanted import while_wanted
from renewer.core.model import OperationId
from renewer.core.operations import Operation
from renewer.core.states import OperationState, is_over

FIRST_ANSWER_WAIT_S = 30.0
"""How long a new operation is held back without `wait`, for the service's first answer: it may have been refused."""

router = APIRouter(route_class=ApiRoute, default_response_class=JsonResponse, tags=["operations"])


@router.get("/v1/operations", response_model=OperationPage, responses=problems())
async def list_operations(control: Daemon, wanted: Annotated[OperationFilter, Query()]) -> Response:
    """List operations, in the order of their registration."""
    found = page(
        control.operations(), _keep(wanted), show_operation, control.clock, limit=wanted.limit, after=wanted.after
    )
    shown = await found
    await control.settled()
    return JsonResponse(shown)


@router.post(
    "/v1/operations",
    response_model=OperationView,
    status_code=201,
    responses={
        201: {
            "description": "It is new.",
            "headers": {"Location": {"schema": {"type": "string"}, "description": "Where the operation is."}},
        },
        200: {
            "description": "It is there already: one with the same Idempotency-Key.",
            "model": OperationView,
            "headers": REPLAYED,
        },
        **problems(413, 415, 422, 429, 503),
    },
)
async def create_operation(
    request: ApiRequest,
    control: Daemon,
    body: NewOperation,
    waiting: Annotated[Waiting, Query()],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Follow an operation. Without `wait`, the answer comes with the service's first one, or after 30 s.

    With `wait`, it is held back until the operation has ended, for as long as that says and no longer.
    """
    operation, created = await control.follow(
        FollowRequest(
            account=body.account,
            how="submit" if body.submit is not None else "adopt",
            request=body.submit if body.submit is not None else body.adopt or {},
            terms=body.terms(),
            deadline_s=body.deadline,
            early_probe_s=body.early_probe,
            labels=body.labels,
            callback=body.callback,
            idempotency=idempotency(request, idempotency_key, body),
        )
    )
    operation_id = operation.spec.id
    done, wait_s = (_is_answered, FIRST_ANSWER_WAIT_S) if waiting.wait is None else (_is_over, waiting.wait)
    if wait_s:
        await while_wanted(request, partial(control.wait_operations, [operation_id], done, wait_s))
    await control.settled(operation_id)
    shown = show_operation(operation, Calendar(control.clock))
    headers = {
        "Location": f"/v1/operations/{operation_id}",
        **replayed(operation.spec, idempotency_key, created=created),
    }
    return JsonResponse(shown, 201 if created else 200, headers)


@router.post("/v1/operations/wait", response_model=WaitedView, responses=problems(413, 415, 422))
async def wait_for_many(
    request: ApiRequest, control: Daemon, body: WaitForMany, waiting: Annotated[Waiting, Query()]
) -> Response:
    """Wait until all, or any, of these operations have ended; those that are not known are not waited for."""
    ids = [OperationId(id_) for id_ in dict.fromkeys(body.ids)]
    known = [id_ for id_ in ids if control.operation(id_) is not None]
    if waiting.wait and known:
        wait = partial(control.wait_operations, known, _is_over, waiting.wait, until=body.until)
        await while_wanted(request, wait)
    found = [operation for id_ in ids if (operation := control.operation(id_)) is not None]
    there = {operation.spec.id for operation in found}
    # What is shown after a pause may be further on than what was looked at: `done` is never too early.
    over = [is_over(operation.state) for operation in found]
    done = all(over) if body.until == "all" else any(over)
    items = await shown_in_slices(found, show_operation, control.clock)
    missing = to_json([id_ for id_ in ids if id_ not in there])
    await control.settled()
    return JsonResponse(b'{"done":' + to_json(done) + b',"items":' + items + b',"missing":' + missing + b"}")


@router.get("/v1/operations/{id}", response_model=OperationView, responses=problems(404))
async def get_operation(
    request: ApiRequest,
    control: Daemon,
    id_: PathId,
    waiting: Annotated[Waiting, Query()],
) -> Response:
    """Show an operation. With `wait`, the answer is held back until it has ended."""
    operation_id = _find(control, id_).spec.id
    if waiting.wait:
        await while_wanted(request, partial(control.wait_operations, [operation_id], _is_over, waiting.wait))
    return await _answer(control, operation_id)


@router.get(
    "/v1/operations/{id}/result",
    response_class=Response,
    responses={
        200: {
            "description": "The result byte for byte, with the content type that the service gave it.",
            "content": {"*/*": {"schema": {}}},
        },
        204: {"description": "The operation succeeded and has no result."},
        **problems(404, 409, 503),
    },
)
async def get_result(control: Daemon, id_: PathId) -> Response:
    """Show what an operation left behind."""
    operation = _find(control, id_)
    await control.settled(operation.spec.id)
    if operation.result is None:
        raise _no_result(operation)
    if operation.result.kind == "none":
        return Response(status_code=204)
    with _known():
        found = await open_result(partial(control.result, operation.spec.id))
    if found is None:
        raise not_found("operation")
    # The service's own content type stands, and nothing may be added to it.
    content_type = _as_header(found.result.content_type)
    return found.response({"Content-Type": content_type, "X-Content-Type-Options": "nosniff"})


@router.post(
    "/v1/operations/{id}/cancel",
    response_model=OperationView,
    status_code=202,
    responses=problems(404, 409, 415, 502, 504),
)
async def cancel_operation(control: Daemon, id_: PathId) -> Response:
    """Ask the service to cancel. Polling goes on, and tells what came of it."""
    operation_id = _find(control, id_).spec.id
    with _known():
        await control.cancel(operation_id)
    return await _answer(control, operation_id, 202)


@router.delete("/v1/operations/{id}", status_code=204, response_class=Response, responses=problems(404, 503))
async def forget_operation(control: Daemon, id_: PathId) -> Response:
    """Stop following an operation and drop what is known of it. The service is not asked to cancel."""
    operation_id = _find(control, id_).spec.id
    with _known():
        await control.forget_operation(operation_id)
    await control.settled(operation_id)
    return Response(status_code=204)


def _find(control: Control, id_: str) -> Operation:
    operation = control.operation(OperationId(id_))
    if operation is None:
        raise not_found("operation")
    return operation


async def _answer(control: Control, operation_id: OperationId, status: int = 200) -> Response:
    """The operation as it stands, once that is stored."""
    await control.settled(operation_id)
    return JsonResponse(show_operation(_find(control, operation_id), Calendar(control.clock)), status)


@contextmanager
def _known() -> Generator[None, None, None]:
    """An operation that is forgotten while something is asked of it is not there, as if so from the start."""
    try:
        yield
    except KeyError as error:
        raise not_found("operation") from error


def _is_answered(operation: Operation) -> bool:
    return operation.state is not OperationState.ACCEPTED


def _is_over(operation: Operation) -> bool:
    return is_over(operation.state)


def _no_result(operation: Operation) -> Problem:
    detail = (
        f"the operation ended as {operation.state}, without a result; its `error` says why"
        if is_over(operation.state)
        else f"the operation is {operation.state}; there is no result before it has ended"
    )
    return Problem(409, detail, state=operation.state.value)


def _as_header(content_type: str | None) -> str:
    """A content type as a header can carry it; the service's may be anything."""
    usable = content_type is not None and content_type.isascii() and content_type.isprintable() and content_type.strip()
    return content_type.strip() if content_type is not None and usable else "application/octet-stream"


def _keep(wanted: OperationFilter) -> Callable[[Operation], bool]:
    states, labels, account = meant(wanted.state, OperationState), wanted.labels(), wanted.account

    def keep(operation: Operation) -> bool:
        spec = operation.spec
        return (
            (not states or operation.state in states)
            and (account is None or account in (spec.account, spec.account.partition(".")[2]))
            and has_labels(spec.labels, labels)
        )

    return keep
