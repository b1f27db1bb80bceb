"""Fields of performatives that are read without decoding the rest, and written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from renewer.amqp import AmqpError, decode
from renewer.amqp.composite import build_described
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.amqp.spans import Buffer, Fields, Span


def error_in(body: bytes, fields: Fields, index: int) -> AmqpError | None:
    """The error in this field of a detach, an end or a close; None where there is none."""
    if len(fields.spans) <= index:
        return None
    found = build_described(decode(body, fields.spans[index][0])[0])
    return found if isinstance(found, AmqpError) else None


def uint_reader(body: bytes, fields: Fields) -> Callable[..., int]:
    """Reads fields that are numbers; a missing or null one is `default`, where there is one."""

    def read(index: int, default: int | None = None) -> int:
        start, end = fields.spans[index] if index < len(fields.spans) else (0, 0)
        code = body[start] if end > start else 0x40
        if code == 0x40:
            if default is None:
                raise AmqpProtocolError("a field that must not be missing")
            return default
        if code == 0x43:
            return 0
        if code in (0x50, 0x52, 0x53, 0x60, 0x70):
            return int.from_bytes(body[start + 1 : end], "big")
        raise AmqpProtocolError("a field that is no number")

    return read


def encoded_uint(value: int) -> bytes:
    """The value in four bytes, with its constructor."""
    return b"\x70" + value.to_bytes(4, "big")


def flag(body: Buffer, spans: list[Span] | tuple[Span, ...], index: int) -> bool:
    """The boolean at that index, False where it is null or missing. AmqpProtocolError for anything else."""
    return index < len(spans) and body[spans[index][0]] != 0x40 and boolean(body, spans[index])


def boolean(body: Buffer, span: Span) -> bool:
    """AmqpProtocolError for what is none."""
    match body[span[0]]:
        case 0x41:
            return True
        case 0x42:
            return False
        case 0x56 if body[span[0] + 1] < 2:
            return body[span[0] + 1] == 1
        case _:
            raise malformed()


def uint(body: Buffer, span: Span) -> int:
    """AmqpProtocolError for what is none."""
    match body[span[0]]:
        case 0x43:
            return 0
        case 0x52:
            return body[span[0] + 1]
        case 0x70:
            return int.from_bytes(body[span[0] + 1 : span[1]], "big")
        case _:
            raise malformed()


def malformed() -> AmqpProtocolError:
    """For a field of another type than it must have."""
    return AmqpProtocolError("a performative with a field that its type does not allow")
