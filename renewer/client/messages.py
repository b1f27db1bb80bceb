"""Messages as the daemon shows them, and what is in them as Python values."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

from renewer.client.documents import Reader
from renewer.client.errors import ProtocolError

BodyKind = Literal["data", "sequence", "value", "unreadable"]


@dataclass(frozen=True, slots=True)
class Message:
    """A message. `handle` is what it is settled by; None where it was only looked at.

    `body` is the bytes of a `data` body, which most have, `value` the value of a `value` body, `sequence` the lists of
    a `sequence` body, one for each of its sections. Of a message that cannot be read (`unreadable`) `body` is all that
    came, and `problem` says what is wrong; it can be settled as any other.

    `properties` are its application properties, and `annotations` the broker's, as Python's own values; what Python has
    no type for is left as ``{"type": "decimal128", "value": ...}``. `typed_properties` are the same with the names of
    their AMQP types, in which form they can be given to `abandon` and the like.

    `delivery_count` is how many deliveries failed before this one: 0 at the first. `document` is the daemon's answer.
    """

    handle: str | None = None
    sequence_number: int | None = None
    body: bytes = field(default=b"", repr=False)
    body_kind: BodyKind | None = None
    value: Any = field(default=None, repr=False)
    sequence: Sequence[list[Any]] = field(default=(), repr=False)
    problem: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict, repr=False)
    typed_properties: Mapping[str, Any] = field(default_factory=dict, repr=False)
    annotations: Mapping[str, Any] = field(default_factory=dict, repr=False)
    delivery_count: int = 0
    state: str = "active"
    enqueued_at: datetime | None = None
    enqueued_sequence_number: int | None = None
    scheduled_at: datetime | None = None
    expires_at: datetime | None = None
    message_id: str | int | UUID | bytes | None = None
    correlation_id: str | int | UUID | bytes | None = None
    session_id: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    subject: str | None = None
    to: str | None = None
    reply_to: str | None = None
    reply_to_session_id: str | None = None
    partition_key: str | None = None
    dead_letter_source: str | None = None
    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def text(self) -> str:
        """The body as text, which it is in UTF-8 or as a value. Raises `ValueError` if it is neither."""
        content = self.value if self.body_kind == "value" else self.body
        if isinstance(content, str):
            return content
        if isinstance(content, bytes) and self.body_kind != "sequence":
            return content.decode()
        raise ValueError(f"the body is no text: it is a {self.body_kind}")

    def json(self) -> Any:
        """The body read as JSON. Raises `ValueError` if it is none."""
        return json.loads(self.text())


@dataclass(frozen=True, slots=True)
class InFlight:
    """A message that was received over a lease and is not settled.

    `is_lost`: the session went, or the broker took it back, before it was; it will be delivered again.
    """

    handle: str
    sequence_number: int | None = None
    is_lost: bool = False


_Message = TypeVar("_Message", bound=Message)


def message_of(document: Mapping[str, Any], kind: type[_Message], **more: Any) -> _Message:
    """Read a message as this kind of one, which takes `more`. Raises `ProtocolError`."""
    read = Reader(document, "a message")
    try:
        return kind(
            handle=read.text("handle"),
            sequence_number=read.count("sequence_number"),
            **_body(read.part("body")),
            properties=_plain_members(document.get("application_properties")),
            typed_properties=_members(document.get("application_properties")),
            annotations=_plain_members(document.get("annotations")),
            delivery_count=read.whole("delivery_count"),
            state=read.text("state") or "active",
            enqueued_at=read.moment("enqueued_at"),
            enqueued_sequence_number=read.count("enqueued_sequence_number"),
            scheduled_at=read.moment("scheduled_at"),
            expires_at=read.moment("expires_at"),
            message_id=plain_value(document.get("message_id")),
            correlation_id=plain_value(document.get("correlation_id")),
            session_id=read.text("session_id"),
            content_type=read.text("content_type"),
            content_encoding=read.text("content_encoding"),
            subject=read.text("subject"),
            to=read.text("to"),
            reply_to=read.text("reply_to"),
            reply_to_session_id=read.text("reply_to_session_id"),
            partition_key=read.text("partition_key"),
            dead_letter_source=read.text("dead_letter_source"),
            document=document,
            **more,
        )
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise ProtocolError("what answered is not a renewer of this version: a message cannot be read") from error


def messages_of(document: object) -> Sequence[Mapping[str, Any]]:
    """The messages in an answer, as they came. Raises `ProtocolError`."""
    return [part.document for part in Reader(document, "messages").parts("messages")]


def in_flight_of(document: object) -> tuple[InFlight, ...]:
    """Read what is in flight. Raises `ProtocolError`."""
    return tuple(
        InFlight(part.required("handle"), part.count("sequence_number"), part.document.get("is_lost") is True)
        for part in Reader(document, "messages").parts("messages")
    )


def plain_value(shown: object) -> Any:
    """What a value that names its AMQP type is in Python; itself where Python has no type for it. Raises ValueError."""
    if not isinstance(shown, Mapping):
        return shown
    value: Any = shown.get("value")
    match shown.get("type"):
        case "list":
            return [plain_value(item) for item in value]
        case "map":
            return {_key(key): plain_value(item) for key, item in value}
        case "array":
            of = shown.get("of")
            return [plain_value(item if isinstance(item, Mapping) else {"type": of, "value": item}) for item in value]
        case "binary":
            return base64.b64decode(value)
        case "uuid":
            return UUID(value)
        case "long" | "ulong":
            return int(value)
        case "float" | "double":
            return float(value)
        case "timestamp":
            return datetime.fromisoformat(value).astimezone(UTC) if isinstance(value, str) else dict(shown)
        case str(name) if name in _AS_SHOWN:
            return value
        case _:
            return dict(shown)


_AS_SHOWN: Final = frozenset(
    ("null", "boolean", "ubyte", "ushort", "uint", "byte", "short", "int", "char", "string", "symbol")
)


def _key(shown: object) -> Any:
    """As `plain_value`; what Python has no type for cannot be a key, but what is shown of it can."""
    key = plain_value(shown)
    return key["value"] if isinstance(key, Mapping) else key


def _body(shown: Reader | None) -> dict[str, Any]:
    if shown is None:
        return {}
    document, kind = shown.document, shown.text("kind")
    match kind:
        case "data":
            return {"body_kind": kind, "body": _bytes(document)}
        case "unreadable":
            return {"body_kind": kind, "body": _bytes(document), "problem": shown.text("problem")}
        case "value":
            return {"body_kind": kind, "value": plain_value(document.get("value"))}
        case "sequence":
            sections = document.get("sections") or ()
            return {"body_kind": kind, "sequence": tuple([plain_value(item) for item in part] for part in sections)}
        case _:
            raise ValueError("a body of no known kind")


def _bytes(document: Mapping[str, Any]) -> bytes:
    return binascii.a2b_base64(document.get("base64") or "")


def _members(shown: object) -> Mapping[str, Any]:
    return shown if isinstance(shown, Mapping) else {}


def _plain_members(shown: object) -> Mapping[str, Any]:
    return {name: plain_value(value) for name, value in _members(shown).items()}
