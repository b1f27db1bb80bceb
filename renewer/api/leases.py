"""Routes of leases."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from renewer.api.amqpvalues import amqp_properties
from renewer.api.control import Control, EventDocument
from renewer.api.documents import JsonResponse
from renewer.api.finding import Epoch, check_epoch, find_lease, known_lease
from renewer.api.models import (
    Forgetting,
    LeaseFilter,
    LeaseStream,
    LeaseWaiting,
    NewDeadLetter,
    NewLease,
    NewSettlement,
    Renewing,
    Waiting,
)
from renewer.api.paging import has_labels, meant, nearest_expiry, page
from renewer.api.problems import problems, telling_outcome
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
from renewer.api.streams import GAP, EventStream, frame
from renewer.api.views import Calendar, LeasePage, LeaseView, show_event, show_lease
from renewer.api.wanted import while_wanted
from renewer.api.wishes import hold_request, is_settled, owner_is_here
from renewer.core.leases import Lease
from renewer.core.model import LeaseId
from renewer.core.states import LeaseState, is_over
from renewer.ports import Settlement

router = APIRouter(route_class=ApiRoute, default_response_class=JsonResponse, tags=["leases"])

_OCTETS = "application/octet-stream"
_STATE_BODY = {
    "requestBody": {"required": True, "content": {_OCTETS: {"schema": {"type": "string", "format": "binary"}}}}
}
_REMOTE = (409, 502, 504)


@router.get("/v1/leases", response_model=LeasePage, responses=problems())
async def list_leases(control: Daemon, wanted: Annotated[LeaseFilter, Query()]) -> Response:
    """List leases, in the order of their registration, or by what is left of their locks."""
    keep, clock = _keep(wanted), control.clock
    if wanted.sort == "remaining":
        shown = await nearest_expiry(control.leases(), keep, show_lease, clock, limit=wanted.limit)
    else:
        shown = await page(control.leases(), keep, show_lease, clock, limit=wanted.limit, after=wanted.after)
    # Nothing is shown that a crash would take back.
    await control.settled()
    return JsonResponse(shown)


@router.post(
    "/v1/leases",
    response_model=LeaseView,
    status_code=201,
    responses={
        201: {
            "description": "It is new.",
            "headers": {"Location": {"schema": {"type": "string"}, "description": "Where the lease is."}},
        },
        200: {
            "description": "It is there already: one with the same Idempotency-Key, or a living one on the same "
            "session or message.",
            "model": LeaseView,
            "headers": REPLAYED,
        },
        **problems(413, 415, 422, 429, 503),
    },
)
async def create_lease(
    request: ApiRequest,
    control: Daemon,
    body: NewLease,
    waiting: Annotated[Waiting, Query()],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Keep a lock. With `wait`, the answer is held back until the lease is no longer `acquiring`.

    Nobody is queued for a pool: while all of its sessions are with workers this is 429 at once, `wait` or not.
    """
    lease, created = await control.hold(hold_request(body, idempotency(request, idempotency_key, body)))
    lease_id = lease.spec.id
    if waiting.wait:
        with known_lease(), owner_is_here(control, lease):
            await while_wanted(request, partial(control.wait_lease, lease_id, is_settled, waiting.wait))
    await control.settled(lease_id)
    shown = show_lease(lease, Calendar(control.clock))
    headers = {"Location": f"/v1/leases/{lease_id}", **replayed(lease.spec, idempotency_key, created=created)}
    return JsonResponse(shown, 201 if created else 200, headers)


@router.get("/v1/leases/{id}", response_model=LeaseView, responses=problems(404))
async def get_lease(
    request: ApiRequest,
    control: Daemon,
    id_: PathId,
    waiting: Annotated[LeaseWaiting, Query()],
) -> Response:
    """Show a lease. With `wait`, the answer is held back until it is settled, or over."""
    lease_id = find_lease(control, id_).spec.id
    if waiting.wait:
        done = is_settled if waiting.until == "settled" else _is_over
        with known_lease():
            await while_wanted(request, partial(control.wait_lease, lease_id, done, waiting.wait))
    return await _answer(control, lease_id)


@router.delete("/v1/leases/{id}", status_code=204, response_class=Response, responses=problems(404, 503))
async def release_lease(control: Daemon, id_: PathId, how: Annotated[Forgetting, Query()]) -> Response:
    """Give a lock back; it is free when this is answered. No error if the lease is over."""
    lease_id = find_lease(control, id_).spec.id
    with known_lease():
        await (control.forget_lease(lease_id) if how.forget else control.release(lease_id))
    await control.settled(lease_id)
    return Response(status_code=204)


@router.post("/v1/leases/{id}/renew", response_model=LeaseView, responses=problems(404, 415, *_REMOTE))
async def renew_lease(control: Daemon, id_: PathId, how: Annotated[Renewing, Query()]) -> Response:
    """Renew a lock now, whenever it is due."""
    lease_id = find_lease(control, id_).spec.id
    with known_lease():
        await control.renew_now(lease_id, how.wait)
    return await _answer(control, lease_id)


@router.post("/v1/leases/{id}/heartbeat", response_model=LeaseView, responses=problems(404, 409, 415))
async def heartbeat(control: Daemon, id_: PathId) -> Response:
    """Give a sign of the owner's life."""
    lease_id = find_lease(control, id_).spec.id
    with known_lease():
        control.heartbeat(lease_id)
    return await _answer(control, lease_id)


@router.post("/v1/leases/{id}/complete", response_model=LeaseView, responses=problems(404, 415, *_REMOTE))
async def complete_message(control: Daemon, id_: PathId) -> Response:
    """Complete the message whose lock is kept: it is done, and the lease is over.

    What was asked for before is no error; 409 if it was settled otherwise (`settled` says how), or if its lock is lost.
    502 and 504 have an `outcome`: `not_done` if it is known that nothing was done, else `unknown`; then ask again.
    """
    return await _settle(control, id_, Settlement("complete"))


@router.post("/v1/leases/{id}/abandon", response_model=LeaseView, responses=problems(404, 413, 415, 422, *_REMOTE))
async def abandon_message(control: Daemon, id_: PathId, body: NewSettlement | None = None) -> Response:
    """Abandon the message whose lock is kept: it is delivered again. See `complete`."""
    return await _settle(control, id_, Settlement("abandon", _properties(body)))


@router.post("/v1/leases/{id}/defer", response_model=LeaseView, responses=problems(404, 413, 415, 422, *_REMOTE))
async def defer_message(control: Daemon, id_: PathId, body: NewSettlement | None = None) -> Response:
    """Defer the message whose lock is kept: it is only to be had by its sequence number. See `complete`."""
    return await _settle(control, id_, Settlement("defer", _properties(body)))


@router.post("/v1/leases/{id}/dead-letter", response_model=LeaseView, responses=problems(404, 413, 415, 422, *_REMOTE))
async def dead_letter_message(control: Daemon, id_: PathId, body: NewDeadLetter | None = None) -> Response:
    """Move the message whose lock is kept to the dead-letter queue. See `complete`."""
    reason, description = (None, None) if body is None else (body.reason, body.description)
    return await _settle(control, id_, Settlement("dead-letter", _properties(body), reason, description))


@router.get(
    "/v1/leases/{id}/state",
    response_class=Response,
    responses={
        200: {
            "description": "The state, byte for byte.",
            "content": {_OCTETS: {"schema": {"type": "string", "format": "binary"}}},
        },
        204: {"description": "The session carries no state."},
        **problems(404, *_REMOTE),
    },
)
async def get_state(control: Daemon, id_: PathId, epoch: Epoch = None) -> Response:
    """Show the state that a held session carries."""
    lease_id = find_lease(control, id_).spec.id
    with known_lease():
        check_epoch(control, lease_id, epoch)
        state = await control.session_state(lease_id)
    if state is None:
        return Response(status_code=204)
    return Response(state, headers={"X-Content-Type-Options": "nosniff"}, media_type=_OCTETS)


@router.put(
    "/v1/leases/{id}/state",
    status_code=204,
    response_class=Response,
    responses=problems(404, 413, *_REMOTE),
    openapi_extra=_STATE_BODY,
)
async def put_state(request: ApiRequest, control: Daemon, id_: PathId, epoch: Epoch = None) -> Response:
    """Replace the state that a held session carries."""
    lease_id = find_lease(control, id_).spec.id
    state = await request.body()
    with known_lease():
        check_epoch(control, lease_id, epoch)
        await control.set_session_state(lease_id, state)
    return Response(status_code=204)


@router.delete("/v1/leases/{id}/state", status_code=204, response_class=Response, responses=problems(404, *_REMOTE))
async def clear_state(control: Daemon, id_: PathId, epoch: Epoch = None) -> Response:
    """Clear the state that a held session carries."""
    lease_id = find_lease(control, id_).spec.id
    with known_lease():
        check_epoch(control, lease_id, epoch)
        await control.set_session_state(lease_id, None)
    return Response(status_code=204)


@router.get(
    "/v1/leases/{id}/events",
    status_code=200,
    response_class=EventStream,
    responses={
        200: {
            "description": "First an event `snapshot` with the lease; then its events, renewals included; the end "
            "once it is over.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **problems(404, 409),
    },
)
async def stream_lease(control: Daemon, id_: PathId, how: Annotated[LeaseStream, Query()]) -> Response:
    """Stream the events of one lease. With `owner`, this connection is the owner's."""
    lease_id = find_lease(control, id_).spec.id
    return EventStream(partial(_lease_frames, control, lease_id, owner=how.owner))


@asynccontextmanager
async def _lease_frames(
    control: Control, lease_id: LeaseId, *, owner: bool
) -> AsyncIterator[AsyncGenerator[bytes, None]]:
    with ExitStack() as stack:
        if owner:
            with known_lease():
                stack.enter_context(control.owner_connection(lease_id))
        async with control.events(wanted=_everything, subjects=[lease_id]) as events:
            await control.settled(lease_id)
            yield _lease_story(control, lease_id, events)


async def _lease_story(
    control: Control, lease_id: LeaseId, events: AsyncIterator[EventDocument]
) -> AsyncGenerator[bytes, None]:
    """The lease as it is, then what happens to it, until its end; as it is once more where something is missing."""
    lease = control.lease(lease_id)
    while lease is not None:
        yield frame("snapshot", show_lease(lease, Calendar(control.clock)))
        if is_over(lease.state):
            return
        async for event in events:
            yield frame(event.type, show_event(event), id_=event.id)
            if event.type == GAP:
                break
            if event.type in _LAST or (event.type == "lease.lost" and event.data.get("final")):
                return
        else:
            return
        lease = control.lease(lease_id)


def _everything(_event: str, _subject: str) -> bool:
    return True


_LAST = frozenset({"lease.released", "lease.forgotten"})


async def _answer(control: Control, lease_id: LeaseId) -> Response:
    """The lease as it stands, once that is stored."""
    await control.settled(lease_id)
    return JsonResponse(show_lease(find_lease(control, lease_id), Calendar(control.clock)))


async def _settle(control: Control, id_: str, settlement: Settlement) -> Response:
    lease_id = find_lease(control, id_).spec.id
    with known_lease(), telling_outcome():
        await control.settle(lease_id, settlement)
    return await _answer(control, lease_id)


def _properties(body: NewSettlement | None) -> dict[str, Any]:
    return {} if body is None else amqp_properties(body.properties)


def _is_over(lease: Lease) -> bool:
    return is_over(lease.state)


def _keep(wanted: LeaseFilter) -> Callable[[Lease], bool]:
    states, labels = meant(wanted.state, LeaseState), wanted.labels()
    target = None if wanted.servicebus is None else f"servicebus.{wanted.servicebus.removeprefix('servicebus.')}"
    entity = None if wanted.entity is None else wanted.entity.lower()
    if not (states or labels or wanted.kind or target or entity is not None or wanted.session_id is not None):
        return _any

    def keep(lease: Lease) -> bool:
        spec = lease.spec
        return (
            (not states or lease.state in states)
            and (wanted.kind is None or spec.kind is wanted.kind)
            and (target is None or spec.target == target)
            and (entity is None or spec.entity.lower() == entity)
            and (wanted.session_id is None or wanted.session_id in (lease.session_id, spec.session_id))
            and has_labels(spec.labels, labels)
        )

    return keep


def _any(_lease: Lease) -> bool:
    return True
