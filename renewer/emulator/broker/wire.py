"""Messages, times and errors between the model and AMQP."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from renewer.amqp import (
    AmqpError,
    Data,
    Described,
    Int,
    Message,
    MessageProperties,
    Symbol,
    Timestamp,
    Ubyte,
    Uint,
    Ulong,
    encode,
)
from renewer.emulator.broker import refusals
from renewer.emulator.broker.messages import Incoming
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from renewer.emulator.broker.messages import StoredMessage
    from renewer.emulator.broker.refusals import RefusedError

BATCH_FORMAT: Final = 0x80013700
"""The message-format of a transfer whose data sections are encoded messages."""

SESSION_FILTER: Final = Symbol("com.microsoft:session-filter")
LOCKED_UNTIL: Final = Symbol("com.microsoft:locked-until-utc")
WAIT_TIMEOUT: Final = Symbol("com.microsoft:timeout")

_SCHEDULED_TIME: Final = "x-opt-scheduled-enqueue-time"
_TICKS_AT_UNIX_EPOCH: Final = 621_355_968_000_000_000
_HEADER: Final = Ulong(0x70)


def read_transfer(payload: bytes, message_format: int) -> list[Incoming]:
    """The messages that were sent. Raises `RefusedError` if there are none to be found in the payload."""
    try:
        message = Message.decode(payload)
        if message_format != BATCH_FORMAT:
            return [_incoming(message)]
        if not isinstance(message.body, Data):
            raise refusals.argument_error("A batch carries its messages in data sections.")
        return [_incoming(Message.decode(chunk)) for chunk in message.body.chunks]
    except AmqpProtocolError as error:
        raise refusals.RefusedError("amqp:decode-error", 400, f"The message cannot be read: {error}") from error


def write_message(stored: StoredMessage, *, locked_until_ms: int | None = None) -> bytes:
    """The message with what the broker knows about it, as a receiver gets it."""
    message: Message = stored.content
    header = message.header
    annotations = {
        **message.message_annotations,
        Symbol("x-opt-enqueued-time"): Timestamp(stored.enqueued_ms),
        Symbol("x-opt-sequence-number"): stored.sequence_number,
        Symbol("x-opt-message-state"): Int(stored.state),
    }
    if stored.session_id is not None:
        annotations.setdefault(Symbol("x-opt-partition-key"), stored.session_id)
    if locked_until_ms is not None:
        annotations[Symbol("x-opt-locked-until")] = Timestamp(locked_until_ms)
    # Written by hand because receivers look for a delivery-count of 0 too, which is the default and would be left out.
    head = Described(
        _HEADER,
        [
            header.durable if header is not None else False,
            Ubyte(header.priority if header is not None else 4),
            Uint(header.ttl) if header is not None and header.ttl is not None else None,
            False,
            Uint(stored.delivery_count),
        ],
    )
    rest = replace(
        message,
        header=None,
        delivery_annotations={},
        message_annotations=annotations,
        application_properties={**message.application_properties, **stored.changes},
    )
    return encode(head) + rest.encode()


def utc_ms(moment: datetime) -> int:
    """UTC milliseconds since 1970."""
    return round(moment.timestamp() * 1000)


def ticks(moment_ms: float) -> int:
    """.NET ticks (100 ns since the year 1) of UTC milliseconds since 1970."""
    return _TICKS_AT_UNIX_EPOCH + round(moment_ms * 10_000)


def describe(text: str, now_utc: datetime) -> str:
    """A description with what support asks for: an id to track it by and the time of the server."""
    return f"{text} TrackingId:{uuid4()}, SystemTracker:emulator, Timestamp:{now_utc.astimezone(UTC):%Y-%m-%dT%H:%M:%S}"


def to_error(refusal: RefusedError, now_utc: datetime) -> AmqpError:
    """The error for a detach or a rejected outcome; clients read all three fields without looking."""
    return AmqpError(refusal.condition, describe(refusal.text, now_utc), {})


def _incoming(message: Message) -> Incoming:
    scheduled: Any = message.message_annotations.get(_SCHEDULED_TIME)
    properties = message.properties if message.properties is not None else MessageProperties()
    if properties.message_id is None:
        # @azure/service-bus 7.9 sends none unless told to, and cannot settle a message that comes back without.
        properties = replace(properties, message_id=uuid4().hex)
    return Incoming(
        replace(message, properties=properties),
        session_id=properties.group_id,
        scheduled_ms=int(scheduled) if isinstance(scheduled, int) and not isinstance(scheduled, bool) else None,
    )
