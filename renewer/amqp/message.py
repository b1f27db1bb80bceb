"""Messages: the sections of a payload (AMQP 1.0 part 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
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
        _put_annotations(buffer, _Section.DELIVERY_ANNOTATIONS, self.delivery_annotations)
        _put_annotations(buffer, _Section.MESSAGE_ANNOTATIONS, self.message_annotations)
        if self.properties is not None:
            put_composite(buffer, self.properties)
        if self.application_properties:
            _put_section(buffer, _Section.APPLICATION_PROPERTIES, self.application_properties)
        match self.body:
            case Data(chunks):
                for chunk in chunks:
                    if not isinstance(chunk, (bytes, bytearray, memoryview)):
                        raise _mixed_body("amqp:invalid-field")
                    _put_section(buffer, _Section.DATA, chunk)
            case Sequence(lists):
                for items in lists:
                    if not isinstance(items, (list, tuple)):
                        raise _mixed_body("amqp:invalid-field")
                    _put_section(buffer, _Section.SEQUENCE, items)
            case Value(value):
                _put_section(buffer, _Section.VALUE, value)
            case None:
                pass
        _put_annotations(buffer, _Section.FOOTER, self.footer)
        return bytes(buffer)

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Message:
        """The message in a payload. AmqpProtocolError if it is none.

        Sections may stand in any order: azure-servicebus 7.15 writes delivery annotations last.
        """
        if not isinstance(data, bytes):
            data = bytes(data)
        message = cls()
        seen: set[_Section] = set()
        offset = 0
        while offset < len(data):
            section, offset = _section_at(data, offset)
            value, offset = decode(data, offset)
            if section in seen and section not in _REPEATABLE:
                raise AmqpProtocolError("a message with the same section twice")
            seen.add(section)
            message._take_section(section, value)
        return message

    def _take_section(self, section: _Section, value: Any) -> None:
        match section:
            case _Section.HEADER:
                self.header = build(_HEADER, value)
            case _Section.PROPERTIES:
                self.properties = build(_PROPERTIES, value)
            case _Section.APPLICATION_PROPERTIES:
                self.application_properties = _map(value)
            case _Section.MESSAGE_ANNOTATIONS:
                self.message_annotations = _map(value)
            case _Section.DELIVERY_ANNOTATIONS:
                self.delivery_annotations = _map(value)
            case _Section.FOOTER:
                self.footer = _map(value)
            case _Section.VALUE if self.body is None:
                self.body = Value(value)
            case _Section.DATA if isinstance(value, bytes):
                if self.body is None:
                    self.body = Data([value])
                elif isinstance(self.body, Data):
                    self.body.chunks.append(value)
                else:
                    raise _mixed_body()
            case _Section.SEQUENCE if isinstance(value, list):
                if self.body is None:
                    self.body = Sequence([value])
                elif isinstance(self.body, Sequence):
                    self.body.lists.append(value)
                else:
                    raise _mixed_body()
            case _:
                raise _mixed_body()


class _Section(IntEnum):
    HEADER = 0x70
    DELIVERY_ANNOTATIONS = 0x71
    MESSAGE_ANNOTATIONS = 0x72
    PROPERTIES = 0x73
    APPLICATION_PROPERTIES = 0x74
    DATA = 0x75
    SEQUENCE = 0x76
    VALUE = 0x77
    FOOTER = 0x78


_BY_CODE: Final = {int(section): section for section in _Section}
_BY_SYMBOL: Final = {
    "amqp:header:list": _Section.HEADER,
    "amqp:delivery-annotations:map": _Section.DELIVERY_ANNOTATIONS,
    "amqp:message-annotations:map": _Section.MESSAGE_ANNOTATIONS,
    "amqp:properties:list": _Section.PROPERTIES,
    "amqp:application-properties:map": _Section.APPLICATION_PROPERTIES,
    "amqp:data:binary": _Section.DATA,
    "amqp:amqp-sequence:list": _Section.SEQUENCE,
    "amqp:amqp-value:*": _Section.VALUE,
    "amqp:footer:map": _Section.FOOTER,
}
_REPEATABLE: Final = (_Section.DATA, _Section.SEQUENCE)
_HEADER: Final = schema_for(Header)
_PROPERTIES: Final = schema_for(MessageProperties)


def _section_at(data: bytes, offset: int) -> tuple[_Section, int]:
    """Which section starts at `offset`, and where its value does."""
    if data[offset : offset + 2] == b"\x00\x53" and len(data) > offset + 2:
        section = _BY_CODE.get(data[offset + 2])
        offset += 3
    elif data[offset] == 0x00:
        descriptor, offset = decode(data, offset + 1)
        if isinstance(descriptor, Symbol):
            section = _BY_SYMBOL.get(descriptor)
        else:
            section = _BY_CODE.get(descriptor) if isinstance(descriptor, Ulong) else None
    else:
        section = None
    if section is None:
        raise AmqpProtocolError("a payload with something that is no message section")
    return section, offset


def _put_section(buffer: bytearray, section: _Section, value: object) -> None:
    buffer += bytes((0x00, 0x53, section))
    encode_into(buffer, value)


def _put_annotations(buffer: bytearray, section: _Section, annotations: dict[Any, Any]) -> None:
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
