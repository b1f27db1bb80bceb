"""An encoded message of Service Bus, as a value.

What the broker knows of a message is in annotations named ``x-opt-…`` (azure-servicebus 7.15 behaviour). What is not
of the type that it should be counts as absent, and what is no message at all is given out as it is, so that whoever
receives it can dead-letter it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from renewer.amqp import Data, Header, Message, MessageProperties, Sequence, Value
from renewer.errors import AmqpProtocolError
from renewer.messages import DataBody, ReceivedMessage, SequenceBody, UnreadableBody, ValueBody
from renewer.targets.servicebus.lockclock import from_milliseconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from renewer.messages import Body, MessageState


def read_message(payload: bytes, handle: str | None = None) -> ReceivedMessage:
    """The message in a payload. Never raises: what cannot be read has an `UnreadableBody`."""
    try:
        message = Message.decode(payload)
    except AmqpProtocolError as error:
        return ReceivedMessage(handle, UnreadableBody(payload, str(error)))
    header = message.header or Header()
    properties = message.properties or MessageProperties()
    annotations = {str(key): value for key, value in message.message_annotations.items()}
    enqueued_at = from_milliseconds(annotations.get(_ENQUEUED))
    return ReceivedMessage(
        handle,
        _body(message),
        sequence_number=_number(annotations, _NUMBER),
        delivery_count=header.delivery_count,
        state=_STATES.get(_number(annotations, _STATE) or 0, "active"),
        enqueued_at=enqueued_at,
        enqueued_sequence_number=_number(annotations, _ENQUEUED_NUMBER),
        scheduled_at=from_milliseconds(annotations.get(_SCHEDULED)),
        expires_at=_expiry(enqueued_at, header.ttl, properties),
        message_id=properties.message_id,
        correlation_id=properties.correlation_id,
        session_id=properties.group_id,
        content_type=_plain(properties.content_type),
        content_encoding=_plain(properties.content_encoding),
        subject=properties.subject,
        to=properties.to,
        reply_to=properties.reply_to,
        reply_to_session_id=properties.reply_to_group_id,
        partition_key=_text(annotations, _PARTITION),
        dead_letter_source=_text(annotations, _DEAD_SOURCE),
        application_properties={str(key): value for key, value in message.application_properties.items()},
        annotations={key: value for key, value in annotations.items() if key not in _HAVE_FIELDS},
    )


_ENQUEUED: Final = "x-opt-enqueued-time"
_NUMBER: Final = "x-opt-sequence-number"
_ENQUEUED_NUMBER: Final = "x-opt-enqueue-sequence-number"
_SCHEDULED: Final = "x-opt-scheduled-enqueue-time"
_STATE: Final = "x-opt-message-state"
_PARTITION: Final = "x-opt-partition-key"
_DEAD_SOURCE: Final = "x-opt-deadletter-source"

# The lock of a session's message is that of the session, and its token is a secret.
_HAVE_FIELDS: Final = frozenset(
    (
        _ENQUEUED,
        _NUMBER,
        _ENQUEUED_NUMBER,
        _SCHEDULED,
        _STATE,
        _PARTITION,
        _DEAD_SOURCE,
        "x-opt-locked-until",
        "x-opt-lock-token",
    )
)
_STATES: Final[dict[int, MessageState]] = {0: "active", 1: "deferred", 2: "scheduled"}


def _body(message: Message) -> Body | None:
    match message.body:
        case Data(chunks):
            return DataBody(tuple(chunks))
        case Sequence(lists):
            return SequenceBody(tuple(lists))
        case Value(value):
            return ValueBody(value)
        case None:
            return None


def _expiry(enqueued_at: float | None, ttl_ms: int | None, properties: MessageProperties) -> float | None:
    if enqueued_at is not None and ttl_ms is not None:
        return enqueued_at + ttl_ms / 1000
    return from_milliseconds(properties.absolute_expiry_time)


def _number(annotations: Mapping[str, Any], name: str) -> int | None:
    value = annotations.get(name)
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _text(annotations: Mapping[str, Any], name: str) -> str | None:
    return _plain(annotations.get(name))


def _plain(value: object) -> str | None:
    """Text without its AMQP type, where the type says nothing."""
    return str(value) if isinstance(value, str) else None
