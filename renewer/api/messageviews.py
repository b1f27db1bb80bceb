"""How the messages of a session are shown. What they hold keeps its AMQP type; large ones are made while written."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NotRequired

from typing_extensions import TypedDict

from renewer.api.amqpvalues import TypeName, typed_json
from renewer.api.jsonpieces import Members
from renewer.api.views import answer
from renewer.messages import DataBody, MessageState, ReceivedMessage, SequenceBody, UnreadableBody, ValueBody

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from renewer.messages import Body, InFlight


class TypedView(TypedDict):
    """A value with the name of its AMQP type.

    `value` is a string for long, ulong (which JSON numbers do not hold exactly everywhere), char, string, symbol and
    uuid; base64 for binary and decimals; RFC 3339 for a timestamp, or milliseconds where there is no such date; a
    number, or "NaN", "Infinity" or "-Infinity", for float and double. A list has typed values, a map pairs of them. An
    array has values `of` one type, each as it stands in `value` of that type, or typed where that is not enough.
    """

    type: TypeName
    value: Any
    of: NotRequired[TypeName]
    descriptor: NotRequired[TypedView]


class DataView(TypedDict):
    """Bytes."""

    kind: Literal["data"]
    base64: str


class SequenceView(TypedDict):
    """Lists of values, in one section or several."""

    kind: Literal["sequence"]
    sections: list[list[TypedView]]


class ValueView(TypedDict):
    """One value."""

    kind: Literal["value"]
    value: TypedView


class UnreadableView(TypedDict):
    """The whole message as it came, because it cannot be read; it can be settled as any other."""

    kind: Literal["unreadable"]
    base64: str
    problem: str


class MessageView(TypedDict):
    """A message. `handle` is what it is settled by; null where it was only looked at.

    `delivery_count` is how many deliveries failed before this one: 0 at the first. Ids that are no text are typed.
    """

    handle: str | None
    sequence_number: int | None
    enqueued_sequence_number: int | None
    message_id: str | TypedView | None
    correlation_id: str | TypedView | None
    session_id: str | None
    delivery_count: int
    state: MessageState
    enqueued_at: datetime | None
    scheduled_at: datetime | None
    expires_at: datetime | None
    content_type: str | None
    content_encoding: str | None
    subject: str | None
    to: str | None
    reply_to: str | None
    reply_to_session_id: str | None
    partition_key: str | None
    dead_letter_source: str | None
    application_properties: dict[str, TypedView]
    annotations: dict[str, TypedView]
    body: DataView | SequenceView | ValueView | UnreadableView | None


@answer
class MessagesView(TypedDict):
    """Messages, in their order."""

    messages: list[MessageView]


class InFlightView(TypedDict):
    """A message that was received and is not settled.

    `is_lost`: the session went, or the broker took it back, before it was; it will be delivered again.
    """

    handle: str
    sequence_number: int | None
    is_lost: bool


@answer
class InFlightListView(TypedDict):
    """Messages in flight."""

    messages: list[InFlightView]


def show_messages(messages: Iterable[ReceivedMessage]) -> dict[str, Any]:
    """A `MessagesView`, for `json_pieces`."""
    return {"messages": map(show_message, messages)}


def show_message(message: ReceivedMessage) -> dict[str, Any]:
    """A `MessageView`, for `json_pieces`."""
    return {
        "handle": message.handle,
        "sequence_number": message.sequence_number,
        "enqueued_sequence_number": message.enqueued_sequence_number,
        "message_id": _id(message.message_id),
        "correlation_id": _id(message.correlation_id),
        "session_id": message.session_id,
        "delivery_count": int(message.delivery_count),
        "state": message.state,
        "enqueued_at": _moment(message.enqueued_at),
        "scheduled_at": _moment(message.scheduled_at),
        "expires_at": _moment(message.expires_at),
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
        "subject": message.subject,
        "to": message.to,
        "reply_to": message.reply_to,
        "reply_to_session_id": message.reply_to_session_id,
        "partition_key": message.partition_key,
        "dead_letter_source": message.dead_letter_source,
        "application_properties": _properties(message.application_properties),
        "annotations": _properties(message.annotations),
        "body": _body(message.body),
    }


def show_in_flight(messages: Iterable[InFlight]) -> InFlightListView:
    """What was received and is not settled."""
    return {
        "messages": [
            {"handle": one.handle, "sequence_number": one.sequence_number, "is_lost": one.is_lost} for one in messages
        ]
    }


def _body(body: Body | None) -> dict[str, Any] | None:
    match body:
        case DataBody():
            return {"kind": "data", "base64": body.data}
        case SequenceBody(sections):
            return {"kind": "sequence", "sections": (map(typed_json, section) for section in sections)}
        case ValueBody(value):
            return {"kind": "value", "value": typed_json(value)}
        case UnreadableBody(payload, problem):
            return {"kind": "unreadable", "base64": payload, "problem": problem}
        case None:
            return None


def _properties(properties: Mapping[str, Any]) -> Members:
    return Members((name, typed_json(value)) for name, value in properties.items())


def _id(value: object) -> object:
    return value if value is None or type(value) is str else typed_json(value)


def _moment(at: float | None) -> str | None:
    if at is None:
        return None
    try:
        return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        # A remote's word that is no date.
        return None
