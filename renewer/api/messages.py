"""Routes of the messages of a held session: received, looked at, settled."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from renewer.api.amqpvalues import amqp_properties
from renewer.api.control import Control
from renewer.api.documents import JsonResponse
from renewer.api.fields import NO_TRUTH_VALUE, SequenceNumber
from renewer.api.finding import Epoch, check_epoch, find_lease, known_lease
from renewer.api.jsonpieces import json_response
from renewer.api.messageviews import InFlightListView, MessagesView, show_in_flight, show_messages
from renewer.api.models import NewDeadLetter, NewSettlement, Waiting
from renewer.api.problems import problems, telling_outcome
from renewer.api.requests import ApiRequest, ApiRoute, Daemon, PathId
from renewer.api.wanted import while_wanted
from renewer.messages import ReceivedMessage
from renewer.ports import Settlement

MOST = 100
"""Messages that can be asked for at a time."""

router = APIRouter(route_class=ApiRoute, default_response_class=JsonResponse, tags=["messages"])

Handle = Annotated[str, Path(description="The message's handle, as a receive gave it.", max_length=64)]

_REMOTE = (409, 502, 504)


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class NewReceive(_Wire):
    """How many messages to receive."""

    max: Annotated[int, Field(ge=1, le=MOST), NO_TRUTH_VALUE] = Field(
        1, description="So many at most; fewer where they are large, some 8 MiB together."
    )


class Receiving(Waiting):
    """How long to wait for the first message, and for whom."""

    epoch: int | None = Field(None, ge=1, description="The epoch that the caller holds; another one is 409.")


class NewDeferredReceive(_Wire):
    """Which deferred messages to receive."""

    sequence_numbers: Annotated[list[SequenceNumber], Field(min_length=1, max_length=MOST)]


class Peeking(_Wire):
    """Which messages to look at."""

    max: int = Field(1, ge=1, le=MOST, description="So many at most. Fewer do not mean that there are no more.")
    from_: SequenceNumber = Field(
        0, alias="from", description="A sequence number: 0, or one more than that of the last message."
    )
    epoch: int | None = Field(None, ge=1, description="The epoch that the caller holds; another one is 409.")


@router.post("/v1/leases/{id}/receive", response_model=MessagesView, responses=problems(404, 413, 415, 422, *_REMOTE))
async def receive_messages(
    request: ApiRequest,
    control: Daemon,
    id_: PathId,
    wanted: Annotated[Receiving, Query()],
    body: NewReceive | None = None,
) -> Response:
    """Receive the next messages of a held session. With `wait`, the first one is waited for; none is no error.

    They are in flight until they are settled, and go back as they were when the lease is released. Whoever goes away
    before they are there leaves them to the next who asks; an answer that got lost on its way is shown by
    `GET …/messages`. 409 with `state` where the lease is not held, or at risk: then no work should be begun.
    """
    lease_id = find_lease(control, id_).spec.id
    received: list[ReceivedMessage] = []

    async def receive() -> None:
        count = 1 if body is None else body.max
        check_epoch(control, lease_id, wanted.epoch)
        received.extend(await control.receive(lease_id, count=count, wait_s=wanted.wait or 0.0))

    with known_lease():
        await while_wanted(request, receive)
    return json_response(show_messages(received))


@router.post(
    "/v1/leases/{id}/receive-deferred",
    response_model=MessagesView,
    responses=problems(404, 413, 415, 422, *_REMOTE),
)
async def receive_deferred_messages(
    control: Daemon, id_: PathId, body: NewDeferredReceive, epoch: Epoch = None
) -> Response:
    """Receive messages of a held session that were deferred: all of these, or none (409)."""
    lease_id = find_lease(control, id_).spec.id
    with known_lease():
        check_epoch(control, lease_id, epoch)
        received = await control.receive_deferred(lease_id, body.sequence_numbers)
    return json_response(show_messages(received))


@router.get("/v1/leases/{id}/peek", response_model=MessagesView, responses=problems(404, 422, *_REMOTE))
async def peek_messages(control: Daemon, id_: PathId, wanted: Annotated[Peeking, Query()]) -> Response:
    """Look at messages of a held session in any state, without receiving them."""
    lease_id = find_lease(control, id_).spec.id
    with known_lease():
        check_epoch(control, lease_id, wanted.epoch)
        seen = await control.peek(lease_id, count=wanted.max, from_sequence_number=wanted.from_)
    return json_response(show_messages(seen))


@router.get("/v1/leases/{id}/messages", response_model=InFlightListView, responses=problems(404, 409))
async def list_messages_in_flight(control: Daemon, id_: PathId) -> Response:
    """List what was received over a lease and is not settled, what was lost on the way included."""
    lease_id = find_lease(control, id_).spec.id
    with known_lease():
        return json_response(show_in_flight(control.in_flight(lease_id)))


_SETTLING = partial(problems, 404, 415, *_REMOTE)


@router.post(
    "/v1/leases/{id}/messages/{handle}/complete", status_code=204, response_class=Response, responses=_SETTLING()
)
async def complete_received_message(control: Daemon, id_: PathId, handle: Handle) -> Response:
    """Complete a message that was received over the lease: it is done.

    What was asked for before is no error. 409 with `state` `lost` if the message is no longer ours: it will be
    delivered again; with `settled` if it was settled otherwise. 502 and 504 have an `outcome`: `not_done` if it is
    known that nothing was done, else `unknown`; then ask again. A lease that is at risk is no reason not to: the broker
    decides whether the lock still counts.
    """
    return await _settle(control, id_, handle, Settlement("complete"))


@router.post(
    "/v1/leases/{id}/messages/{handle}/abandon",
    status_code=204,
    response_class=Response,
    responses=_SETTLING(413, 422),
)
async def abandon_received_message(
    control: Daemon, id_: PathId, handle: Handle, body: NewSettlement | None = None
) -> Response:
    """Abandon a message that was received over the lease: it is delivered again. See `complete`."""
    return await _settle(control, id_, handle, Settlement("abandon", _properties(body)))


@router.post(
    "/v1/leases/{id}/messages/{handle}/defer",
    status_code=204,
    response_class=Response,
    responses=_SETTLING(413, 422),
)
async def defer_received_message(
    control: Daemon, id_: PathId, handle: Handle, body: NewSettlement | None = None
) -> Response:
    """Defer a message that was received over the lease: it is only to be had by its sequence number. See `complete`."""
    return await _settle(control, id_, handle, Settlement("defer", _properties(body)))


@router.post(
    "/v1/leases/{id}/messages/{handle}/dead-letter",
    status_code=204,
    response_class=Response,
    responses=_SETTLING(413, 422),
)
async def dead_letter_received_message(
    control: Daemon, id_: PathId, handle: Handle, body: NewDeadLetter | None = None
) -> Response:
    """Move a message that was received over the lease to the dead-letter queue. See `complete`."""
    reason, description = (None, None) if body is None else (body.reason, body.description)
    return await _settle(control, id_, handle, Settlement("dead-letter", _properties(body), reason, description))


async def _settle(control: Control, id_: str, handle: str, settlement: Settlement) -> Response:
    lease_id = find_lease(control, id_).spec.id
    with known_lease(), telling_outcome():
        await control.settle_received(lease_id, handle, settlement)
    return Response(status_code=204)


def _properties(body: NewSettlement | None) -> dict[str, object]:
    return {} if body is None else amqp_properties(body.properties)
