"""Calls about messages: received over a lease, looked at, settled. No I/O. See `renewer.client.wire.Call`."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from renewer.client.errors import BadRequest
from renewer.client.leasecalls import read_lease
from renewer.client.messages import InFlight, in_flight_of, messages_of
from renewer.client.models import Lease
from renewer.client.requesting import body_of, epoch_only, get, lease_path, post, segment, waiting
from renewer.client.wire import Answer, Call, check, nothing

Shown = Sequence[Mapping[str, Any]]
"""Messages as the daemon shows them."""

SETTLE_S: Final = 15.0
"""How much longer than usual a settlement may take: the broker is asked."""

RECEIVE_S: Final = 15.0
"""How much longer than usual it may take to receive, beside what is waited for a message: the broker is asked."""


Settling = Literal["complete", "abandon", "defer", "dead-letter"]
"""What can become of a message."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is to become of a message. `properties` change its own; the reason and description go with dead letters."""

    how: Settling
    properties: Mapping[str, object] | None = field(default=None, repr=False)
    reason: str | None = None
    description: str | None = None


def settle(lease_id: str, settlement: Settlement) -> Call[Lease]:
    """Settle the message whose lock it is. Raises `BadRequest` for what cannot be written."""
    request = post(lease_path(lease_id, f"/{settlement.how}"), _settlement_body(settlement), extra_s=SETTLE_S)
    return Call(request, read_lease)


def settle_received(lease_id: str, handle: str, settlement: Settlement) -> Call[None]:
    """Settle a message that was received over a lease. Raises `BadRequest` for what cannot be written."""
    path = lease_path(lease_id, f"/messages/{segment('handle of the message', handle)}/{settlement.how}")
    return Call(post(path, _settlement_body(settlement), extra_s=SETTLE_S), nothing)


def receive(lease_id: str, *, count: int, wait_s: float, epoch: int | None = None) -> Call[Shown]:
    """The next messages of a held session. Asked again, it gives the ones after those."""
    params = [*waiting(wait_s), *epoch_only(epoch)]
    request = post(lease_path(lease_id, "/receive"), {"max": count}, params=params, extra_s=wait_s + RECEIVE_S)
    return Call(request, _read_messages, repeatable=False)


def receive_deferred(lease_id: str, sequence_numbers: Sequence[int], *, epoch: int | None = None) -> Call[Shown]:
    """Deferred messages of a held session."""
    body = {"sequence_numbers": list(sequence_numbers)}
    request = post(lease_path(lease_id, "/receive-deferred"), body, params=epoch_only(epoch), extra_s=RECEIVE_S)
    return Call(request, _read_messages, repeatable=False)


def peek(lease_id: str, *, count: int, from_sequence_number: int, epoch: int | None = None) -> Call[Shown]:
    """Messages of a held session in any state."""
    params = [("max", str(count)), ("from", str(from_sequence_number)), *epoch_only(epoch)]
    return Call(get(lease_path(lease_id, "/peek"), params, extra_s=RECEIVE_S), _read_messages)


def in_flight(lease_id: str) -> Call[tuple[InFlight, ...]]:
    """What was received over a lease and is not settled."""
    return Call(get(lease_path(lease_id, "/messages")), lambda answer: in_flight_of(check(answer).json()))


def _read_messages(answer: Answer) -> Shown:
    return messages_of(check(answer).json())


def _settlement_body(settlement: Settlement) -> dict[str, object]:
    given = settlement.properties
    changed = {name: _property(value) for name, value in given.items()} if given else None
    return body_of(properties=changed, reason=settlement.reason, description=settlement.description)


def _property(value: object) -> object:
    """A value of an application property as the daemon reads it: JSON's own, or with the name of its AMQP type."""
    match value:
        case bytes() | bytearray():
            return {"type": "binary", "value": base64.b64encode(value).decode()}
        case uuid.UUID():
            return {"type": "uuid", "value": str(value)}
        case datetime():
            if value.tzinfo is None:
                raise BadRequest("properties: a date must have a time zone, as in datetime.now(UTC)")
            return {"type": "timestamp", "value": value.isoformat()}
        case _:
            return dict(value) if isinstance(value, Mapping) else value
