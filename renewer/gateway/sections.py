"""The sections of an encoded message in passing: where each lies, and what the ids in it are (AMQP 1.0 part 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from renewer.amqp.decoder import decode
from renewer.amqp.spans import descriptor_at, items, skip
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from renewer.amqp.spans import Buffer, Span

MESSAGE_ANNOTATIONS: Final = 0x72
PROPERTIES: Final = 0x73
APPLICATION_PROPERTIES: Final = 0x74
VALUE: Final = 0x77


def find_sections(payload: Buffer, at: int = 0, end: int | None = None) -> dict[int, Span]:
    """The span of the value of each section, by its descriptor: of one that is there twice, the last.

    AmqpProtocolError for bytes that are no message.
    """
    end = len(payload) if end is None else end
    found: dict[int, Span] = {}
    while at < end:
        code, start = descriptor_at(payload, at, end)
        if not 0x70 <= code <= 0x78:
            raise AmqpProtocolError("a payload with something that is no message section")
        at = skip(payload, start, end)
        found[code] = (start, at)
    return found


def message_id(payload: bytes, sections: dict[int, Span]) -> bytes | None:
    """What the message is called by who sent it, in a form to compare with `correlation_id`; None if it is not."""
    return _id_at(payload, sections, 0)


def correlation_id(payload: bytes, sections: dict[int, Span]) -> bytes | None:
    """The message-id that this message answers; None if it answers none."""
    return _id_at(payload, sections, 5)


def read_map(payload: bytes, sections: dict[int, Span], section: int) -> dict[Any, Any]:
    """What a section that is a map holds; empty if it is missing, null, or none."""
    span = sections.get(section)
    value = decode(payload, span[0])[0] if span is not None else None
    return value if isinstance(value, dict) else {}


def _id_at(payload: bytes, sections: dict[int, Span], index: int) -> bytes | None:
    span = sections.get(PROPERTIES)
    if span is None:
        return None
    for position, (start, _) in enumerate(items(payload, *span)):
        if position == index:
            return _comparable(decode(payload, start)[0])
    return None


def _comparable(value: object) -> bytes | None:
    """Brokers answer a uuid with a uuid, or with its text, or with its bytes: all of them compare equal here."""
    match value:
        case None:
            return None
        case UUID():
            return b"u" + value.bytes
        case bytes() if len(value) == 16:
            return b"u" + value
        case bytes():
            return b"b" + value
        case str():
            return _comparable_text(value)
        case int():
            return b"n%d" % value
        case _:
            return None


def _comparable_text(text: str) -> bytes:
    if len(text) == 36:
        try:
            return b"u" + UUID(text).bytes
        except ValueError:
            pass
    return b"s" + text.encode()
