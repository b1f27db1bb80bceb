"""What azure-servicebus 7.15 puts on the wire, made by its own encoder, and encodings that others choose."""

from __future__ import annotations

import random
from typing import Any

from azure.servicebus._pyamqp import _encode, outcomes, performatives
from azure.servicebus._pyamqp.endpoints import Source, Target
from azure.servicebus._pyamqp.error import AMQPError
from azure.servicebus._pyamqp.message import Message, Properties
from azure.servicebus._transport._pyamqp_transport import PyamqpTransport


def frame_body(frame: Any) -> bytes:
    _, body = _encode.encode_frame(frame)
    assert body is not None
    return bytes(body)


def attach_session(entity: str, session_id: str | None) -> bytes:
    """The attach of a session receiver in peek-lock mode."""
    return frame_body(
        performatives.AttachFrame(
            "link-1",
            2,
            True,
            0,
            1,
            PyamqpTransport.create_source(entity, session_id),
            Target(address="receiver-link-1"),
            None,
            None,
            None,
            1048576,
            None,
            None,
            {b"com.microsoft:receiver-name": "worker"},
        )
    )


def attach(*, role: bool, source: str | None, target: str | None) -> bytes:
    ends = Source(address=source) if source else None, Target(address=target) if target else None
    return frame_body(performatives.AttachFrame("n", 0, role, 0, 0, *ends, None, None, 0, 1048576, None, None, None))


def flow(next_incoming_id: int, window: int, *, handle: int, credit: int) -> bytes:
    """Asks for messages over a link."""
    numbers = next_incoming_id, window, 1, 65_535, handle, 7, credit
    return frame_body(performatives.FlowFrame(*numbers, None, None, None, None))


def disposition(first: int, last: int | None, state: Any, *, settled: bool = True) -> bytes:
    return frame_body(performatives.DispositionFrame(True, first, last, settled, state, None))


COMPLETE = outcomes.Accepted()
ABANDON = outcomes.Modified(delivery_failed=True, undeliverable_here=False)
DEFER = outcomes.Modified(delivery_failed=True, undeliverable_here=True)
DEAD_LETTER = outcomes.Rejected(
    error=AMQPError(condition=b"com.microsoft:dead-letter", description="poison", info={b"DeadLetterReason": "bad"})
)
RELEASE = outcomes.Released()


def management_request(operation: bytes, body: dict[Any, Any], message_id: Any) -> bytes:
    """The payload of a request to `$management`."""
    message = PyamqpTransport.create_mgmt_msg(
        body,
        {b"associated-link-name": "link-1", b"com.microsoft:server-timeout": PyamqpTransport.AMQP_UINT_VALUE(60000)},
        None,  # type: ignore[arg-type]
        "orders/$management",
    )
    message.application_properties.update({"operation": operation, "type": b"entity-mgmt"})
    return payload(message._replace(properties=message.properties._replace(message_id=message_id)))


def put_token(token: str, audience: str, message_id: Any, expires_on: Any) -> bytes:
    fields = {b"name": audience, b"operation": b"put-token", b"type": "jwt", b"expiration": expires_on}
    return payload(Message(value=token, properties=Properties(message_id=message_id), application_properties=fields))


def payload(message: Message) -> bytes:
    buffer = bytearray()
    _encode.encode_payload(buffer, message)
    return bytes(buffer)


def garbled(data: bytes, draw: random.Random) -> bytes:
    """Bytes that were right once."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(changed) + 1)
        match draw.randrange(4):
            case 0 if at < len(changed):
                changed[at] = draw.randrange(256)
            case 1 if at < len(changed):
                changed[at] ^= 1 << draw.randrange(8)
            case 2:
                del changed[at : at + draw.randint(1, 8)]
            case _:
                changed[at:at] = draw.randbytes(draw.randint(1, 8))
    return bytes(changed)
