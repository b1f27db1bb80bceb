"""Messages: the sections of a payload (AMQP 1.0 part 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from renewer.amqp.codec import decode, encode_into
from renewer.amqp.composite import (
    BINARY,
    BOOLEAN,
    MESSAGE_ID,
    STRING,
    SYMBOL,
    TIMESTAMP,
    UBYTE,
    UINT,
    build,
    composite,
    put_composite,
    schema_for,
)
from renewer.amqp.types import Symbol, Ulong
from renewer.errors import AmqpProtocolError


@composite(0x70, "amqp:header:list", BOOLEAN, UBYTE, UINT, BOOLEAN, UINT)
@dataclass(slots=True)
class Header:
    """How to deliver (part 3.2.1). `ttl` in milliseconds."""

    durable: bool = False
    priority: int = 4
    ttl: int | None = None
    first_acquirer: bool = False
    delivery_count: int = 0


@composite(
    0x73,
    "amqp:properties:list",
    MESSAGE_ID,
    BINARY,
    STRING,
    STRING,
    STRING,
    MESSAGE_ID,
    SYMBOL,
    SYMBOL,
    TIMESTAMP,
    TIMESTAMP,
    STRING,
    UINT,
    STRING,
)
@dataclass(slots=True)
class MessageProperties:
    """What the sender said about the message (part 3.2.4). Ids are `int` (ulong), uuid.UUID, `bytes` or `str`."""

    message_id: Any = None
    user_id: bytes | None = None
    to: str | None = None
    subject: str | None = None
    reply_to: str | None = None
    correlation_id: Any = None
    content_type: str | None = None
    content_encoding: str | None = None
    absolute_expiry_time: int | None = None
    creation_time: int | None = None
    group_id: str | None = None
    group_sequence: int | None = None
    reply_to_group_id: str | None = None


@dataclass(slots=True)
class Data:
    """A body of bytes, in one section or several (part 3.2.6)."""

    chunks: list[bytes]

    def joined(self) -> bytes:
        """All chunks as one."""
        return b"".join(self.chunks)


@dataclass(slots=True)
class Sequence:
    """A body of lists, in one section or several (part 3.2.7)."""

    lists: list[list[Any]]


@dataclass(slots=True)
class Value:
    """A body of one AMQP value (part 3.2.8)."""

    value: Any


Body: TypeAlias = "Data | Sequence | Value | None"


@dataclass(slots=True)
class Message:
    """A message. The keys of annotations and footer are symbols (a `str` is written as one), of properties strings."""

    body: Body = field(default=None, repr=False)  # It may be a token.
    properties: MessageProperties | None = None
    application_properties: dict[str, Any] = field(default_factory=dict)
    message_annotations: dict[Any, Any] = field(default_factory=dict)
    delivery_annotations: dict[Any, Any] = field(default_factory=dict)
    header: Header | None = None
    footer: dict[Any, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The payload: its sections in the order of the standard. AmqpProtocolError if a value has no AMQP form."""
        buffer = bytearray()
        if self.header is not None:
            put_composite(buffer, self.header)
        _put_annotations(buffer, DELIVERY_ANNOTATIONS, self.delivery_annotations)
        _put_annotations(buffer, MESSAGE_ANNOTATIONS, self.message_annotations)
        if self.properties is not None:
            put_composite(buffer, self.properties)
        if self.application_properties:
            _put_section(buffer, APPLICATION_PROPERTIES, self.application_properties)
        match self.body:
            case Data(chunks):
                for chunk in chunks:
                    if not isinstance(chunk, (bytes, bytearray, memoryview)):
                        raise _mixed_body("amqp:invalid-field")
                    _put_section(buffer, DATA, chunk)
            case Sequence(lists):
                for items in lists:
                    if not isinstance(items, (list, tuple)):
                        raise _mixed_body("amqp:invalid-field")
                    _put_section(buffer, SEQUENCE, items)
            case Value(value):
                _put_section(buffer, VALUE, value)
            case None:
                pass
        _put_annotations(buffer, FOOTER, self.footer)
        return bytes(buffer)

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Message:
        """The message in a payload. AmqpProtocolError if it is none.

        Sections may stand in any order: azure-servicebus 7.15 writes delivery annotations last.
        """
        if not isinstance(data, bytes):
            data = bytes(data)
        message = cls()
        seen = 0
        offset = 0
        while offset < len(data):
            code, offset = _section_at(data, offset)
            value, offset = decode(data, offset)
            bit = 1 << (code - HEADER)
            if seen & bit and code != DATA and code != SEQUENCE:
                raise AmqpProtocolError("a message with the same section twice")
            seen |= bit
            message._take_section(code, value)
        return message

    def _take_section(self, code: int, value: Any) -> None:
        if code in _MAPS:
            setattr(self, _MAPS[code], _map(value))
        elif code == PROPERTIES:
            self.properties = build(_PROPERTIES, value)
        elif code == HEADER:
            self.header = build(_HEADER, value)
        elif code == VALUE and self.body is None:
            self.body = Value(value)
        elif code == DATA and isinstance(value, bytes):
            if self.body is None:
                self.body = Data([value])
            elif isinstance(self.body, Data):
                self.body.chunks.append(value)
            else:
                raise _mixed_body()
        elif code == SEQUENCE and isinstance(value, list):
            if self.body is None:
                self.body = Sequence([value])
            elif isinstance(self.body, Sequence):
                self.body.lists.append(value)
            else:
                raise _mixed_body()
        else:
            raise _mixed_body()


# The codes of the sections, as plain numbers: members of an enum are slow to read and to compare, and every reply to a
# renewal has three sections.
HEADER: Final = 0x70
DELIVERY_ANNOTATIONS: Final = 0x71
MESSAGE_ANNOTATIONS: Final = 0x72
PROPERTIES: Final = 0x73
APPLICATION_PROPERTIES: Final = 0x74
DATA: Final = 0x75
SEQUENCE: Final = 0x76
VALUE: Final = 0x77
FOOTER: Final = 0x78

_MAPS: Final = {
    DELIVERY_ANNOTATIONS: "delivery_annotations",
    MESSAGE_ANNOTATIONS: "message_annotations",
    APPLICATION_PROPERTIES: "application_properties",
    FOOTER: "footer",
}
_BY_SYMBOL: Final = {
    "amqp:header:list": HEADER,
    "amqp:delivery-annotations:map": DELIVERY_ANNOTATIONS,
    "amqp:message-annotations:map": MESSAGE_ANNOTATIONS,
    "amqp:properties:list": PROPERTIES,
    "amqp:application-properties:map": APPLICATION_PROPERTIES,
    "amqp:data:binary": DATA,
    "amqp:amqp-sequence:list": SEQUENCE,
    "amqp:amqp-value:*": VALUE,
    "amqp:footer:map": FOOTER,
}
_HEADER: Final = schema_for(Header)
_PROPERTIES: Final = schema_for(MessageProperties)


def _section_at(data: bytes, offset: int) -> tuple[int, int]:
    """The code of the section that starts at `offset`, and where its value does."""
    code: object
    if data[offset : offset + 2] == b"\x00\x53" and len(data) > offset + 2:
        code = data[offset + 2]
        offset += 3
    elif data[offset] == 0x00:
        code, offset = decode(data, offset + 1)
        if isinstance(code, Symbol):
            code = _BY_SYMBOL.get(code)
        elif not isinstance(code, Ulong):
            code = None
    else:
        code = None
    if not isinstance(code, int) or not HEADER <= code <= FOOTER:
        raise AmqpProtocolError("a payload with something that is no message section")
    return code, offset


def _put_section(buffer: bytearray, section: int, value: object) -> None:
    buffer += bytes((0x00, 0x53, section))
    encode_into(buffer, value)


def _put_annotations(buffer: bytearray, section: int, annotations: dict[Any, Any]) -> None:
    if annotations:
        _put_section(buffer, section, {Symbol(k) if type(k) is str else k: v for k, v in annotations.items()})


def _map(value: object) -> dict[Any, Any]:
    """A section that is a map; several clients write null for an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise AmqpProtocolError("a message section that should be a map")
    return value


def _mixed_body(condition: str = "amqp:decode-error") -> AmqpProtocolError:
    return AmqpProtocolError("a message body of the wrong type, or of two kinds", condition=condition)
