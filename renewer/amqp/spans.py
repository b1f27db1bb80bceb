"""Where values lie inside encoded AMQP: for bytes in passing, of which little is read and less is changed.

Nothing is decoded here. A span is the pair of the offsets where a value starts, with its constructor, and ends. Bytes
are `bytes`, `bytearray` or `memoryview`; `end` bounds what belongs to the value looked at, where more follows. Whatever
is malformed is an `AmqpProtocolError`; what lies deeper than what is looked at is not checked.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from renewer.amqp.encoder import MAX_DEPTH, put_compound
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Buffer: TypeAlias = "bytes | bytearray | memoryview"
Span: TypeAlias = "tuple[int, int]"

MAX_FIELDS: Final = 64
"""No composite type of AMQP 1.0 has more than 14 fields."""


class Fields(NamedTuple):
    """A described list: its descriptor as a number, the span of each field, where the list starts, where it ends."""

    code: int
    spans: tuple[Span, ...]
    start: int
    end: int


def performative_fields(body: Buffer, at: int = 0, end: int | None = None) -> Fields:
    """The fields of the described list at `at`: a performative, or what lies in one, such as a source or an outcome.

    The descriptor is a number (in any width) or one of the symbols that the standard has for it.
    """
    if end is None or end > len(body):
        end = len(body)
    code, start = descriptor_at(body, at, end)
    try:
        match body[start] if start < end else -1:
            case 0x45:
                return Fields(code, (), start, start + 1)
            case 0xC0:
                first, stop, count = start + 3, start + 2 + body[start + 1], body[start + 2]
            case 0xD0:
                size, count = _U32_U32.unpack_from(body, start + 1)
                first, stop = start + 9, start + 5 + size
            case _:
                raise AmqpProtocolError("a performative, or a part of one, that is no list")
    except (IndexError, struct.error) as error:
        raise _cut_off() from error
    if stop > end or count > stop - first:
        raise _cut_off()
    if count > MAX_FIELDS:
        raise AmqpProtocolError("a list with too many fields")
    spans = []
    offset = first
    try:
        for _ in range(count):
            width = WIDTH[body[offset]]
            if width > 0:
                after = offset + width
            elif width == SIZE_OF_1:
                after = offset + 2 + body[offset + 1]
            else:
                after = skip(body, offset, stop)
            spans.append((offset, after))
            offset = after
    except IndexError as error:
        raise _cut_off() from error
    if offset != stop:
        raise AmqpProtocolError("the size of a list is not that of its items")
    return Fields(code, tuple(spans), start, stop)


def descriptor_at(data: Buffer, at: int, end: int | None = None) -> tuple[int, int]:
    """The descriptor of the described value at `at` as a number, and where the value behind it starts."""
    if end is None or end > len(data):
        end = len(data)
    if at + 3 > end or data[at] != 0x00:
        raise AmqpProtocolError("no described value where one must be")
    match data[at + 1]:
        case 0x53:
            return data[at + 2], at + 3
        case 0x44:
            return 0, at + 2
        case 0x80 if at + 10 <= end:
            return int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
        case 0xA3 | 0xB3:
            after = skip(data, at + 1, end)
            name = bytes(data[at + (3 if data[at + 1] == 0xA3 else 6) : after])
            code = _CODES.get(name)
            if code is not None:
                return code, after
    raise AmqpProtocolError("a descriptor of an unknown type")


def is_null(data: Buffer, span: Span) -> bool:
    """Whether the value of that span is null."""
    return data[span[0]] == 0x40


def skip(data: Buffer, at: int, end: int | None = None) -> int:
    """The offset after the value at `at`, which must end at or before `end`."""
    if end is None or end > len(data):
        end = len(data)
    try:
        after = _after(data, at, end)
    except (IndexError, struct.error) as error:
        raise _cut_off() from error
    if after > end:
        raise _cut_off()
    return after


def items(data: Buffer, at: int, end: int | None = None) -> Iterator[Span]:
    """The spans of the items of the list at `at`, or of a map's keys and values by turns.

    They come one at a time: the error for what is wrong further on comes when it is reached.
    """
    if end is None or end > len(data):
        end = len(data)
    try:
        match data[at] if at < end else -1:
            case 0x45:
                return
            case 0xC0 | 0xC1:
                offset, stop, count = at + 3, at + 2 + data[at + 1], data[at + 2]
            case 0xD0 | 0xD1:
                size, count = _U32_U32.unpack_from(data, at + 1)
                offset, stop = at + 9, at + 5 + size
            case _:
                raise AmqpProtocolError("neither a list nor a map")
    except (IndexError, struct.error) as error:
        raise _cut_off() from error
    if stop > end or count > stop - offset:
        raise _cut_off()
    for _ in range(count):
        after = skip(data, offset, stop)
        yield offset, after
        offset = after
    if offset != stop:
        raise AmqpProtocolError("the size of a list or map is not that of its items")


def pairs(data: Buffer, at: int, end: int | None = None) -> Iterator[tuple[Span, Span]]:
    """The spans of keys and values of the map at `at`; as `items`. A null counts as an empty map."""
    if at < (len(data) if end is None else min(end, len(data))) and data[at] == 0x40:
        return
    spans = items(data, at, end)
    for key in spans:
        value = next(spans, None)
        if value is None:
            raise AmqpProtocolError("a map with a key that has no value")
        yield key, value


def array_of_fixed(data: Buffer, at: int, end: int | None = None) -> tuple[int, int, int, int]:
    """Of the array at `at`, of items of fixed width: constructor, where the first item starts, width, how many.

    The constructor is 0x40, and nothing follows, where an empty array has left it out.
    """
    if end is None or end > len(data):
        end = len(data)
    try:
        match data[at] if at < end else -1:
            case 0xE0:
                first, stop, count = at + 3, at + 2 + data[at + 1], data[at + 2]
            case 0xF0:
                size, count = _U32_U32.unpack_from(data, at + 1)
                first, stop = at + 9, at + 5 + size
            case _:
                raise AmqpProtocolError("no array where one must be")
    except (IndexError, struct.error) as error:
        raise _cut_off() from error
    if stop > end or first > stop:
        raise _cut_off()
    if first == stop and not count:
        return 0x40, first, 0, 0
    if first == stop:
        raise _cut_off()
    code = data[first]
    width = WIDTH[code] - 1
    if width < 0:
        raise AmqpProtocolError("an array of something else than was to be")
    if first + 1 + count * width != stop:
        raise AmqpProtocolError("the size of an array is not that of its items")
    return code, first + 1, width, count


def text_at(data: Buffer, span: Span) -> bytes | None:
    """The bytes of the string, symbol or binary of that span, None for anything else."""
    start, end = span
    match data[start]:
        case 0xA0 | 0xA1 | 0xA3:
            return bytes(data[start + 2 : end])
        case 0xB0 | 0xB1 | 0xB3:
            return bytes(data[start + 5 : end])
        case _:
            return None


def splice(body: Buffer, fields: Fields, changes: Mapping[int, bytes]) -> bytes:
    """`body` with fields replaced by other encoded values; all the rest, and what follows, byte for byte.

    An index may lie beyond the fields that are there: nulls fill up between.
    """
    values = [bytes(body[start:end]) for start, end in fields.spans]
    for index in sorted(changes):
        values += [b"\x40"] * (index + 1 - len(values))
        values[index] = changes[index]
    raw = b"".join(values)
    spliced = bytearray(body[: fields.start])
    if body[fields.start] == 0xD0:
        spliced += b"\xd0" + _U32_U32.pack(len(raw) + 4, len(values)) + raw
    else:
        put_compound(spliced, 0xC0, len(values), raw)
    spliced += body[fields.end :]
    return bytes(spliced)


def _after(data: Buffer, at: int, end: int) -> int:
    if at >= end:
        raise IndexError
    depth = 0
    code = data[at]
    while code == 0x00:
        # The descriptor is a value too, and may be described itself.
        depth += 1
        if depth > MAX_DEPTH:
            raise AmqpProtocolError(f"nested deeper than {MAX_DEPTH}")
        at += 1
        while data[at] == 0x00:
            at, depth = _after_descriptor(data, at, end, depth)
        at = _after_plain(data, at)
        if at >= end:
            raise IndexError
        code = data[at]
    return _after_plain(data, at)


def _after_descriptor(data: Buffer, at: int, end: int, depth: int) -> tuple[int, int]:
    """Past the descriptor of a descriptor: it is there to be bounded, nobody sends one."""
    depth += 1
    if depth > MAX_DEPTH:
        raise AmqpProtocolError(f"nested deeper than {MAX_DEPTH}")
    at += 1
    if at >= end:
        raise IndexError
    if data[at] == 0x00:
        at, depth = _after_descriptor(data, at, end, depth)
    return _after_plain(data, at), depth


def _after_plain(data: Buffer, at: int) -> int:
    """The offset after a value that is not described."""
    code = data[at]
    width = WIDTH[code]
    if width > 0:
        return at + width
    if width == SIZE_OF_1:
        return at + 2 + data[at + 1]
    if width == _SIZE_OF_4:
        size: int = _U32.unpack_from(data, at + 1)[0]
        return at + 5 + size
    raise AmqpProtocolError(f"unknown constructor 0x{code:02x}")


def _cut_off() -> AmqpProtocolError:
    return AmqpProtocolError("the bytes end in the middle of a value")


def _widths() -> tuple[int, ...]:
    """By constructor: how many bytes the value has with it, or how wide the size behind it is."""
    widths = [0] * 256
    for width, codes in (
        (1, (0x40, 0x41, 0x42, 0x43, 0x44, 0x45)),
        (2, (0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56)),
        (3, (0x60, 0x61)),
        (5, (0x70, 0x71, 0x72, 0x73, 0x74)),
        (9, (0x80, 0x81, 0x82, 0x83, 0x84)),
        (17, (0x94, 0x98)),
        (SIZE_OF_1, (0xA0, 0xA1, 0xA3, 0xC0, 0xC1, 0xE0)),
        (_SIZE_OF_4, (0xB0, 0xB1, 0xB3, 0xD0, 0xD1, 0xF0)),
    ):
        for code in codes:
            widths[code] = width
    return tuple(widths)


SIZE_OF_1: Final = -1
_SIZE_OF_4: Final = -4
WIDTH: Final = _widths()
"""By constructor: how many bytes a value of fixed width has with it; `SIZE_OF_1` where the next byte tells how many
follow it, less than that where four bytes do, and 0 for what is no constructor of a plain value."""
_U32: Final = struct.Struct(">I")
_U32_U32: Final = struct.Struct(">II")
_CODES: Final = {
    b"amqp:open:list": 0x10,
    b"amqp:begin:list": 0x11,
    b"amqp:attach:list": 0x12,
    b"amqp:flow:list": 0x13,
    b"amqp:transfer:list": 0x14,
    b"amqp:disposition:list": 0x15,
    b"amqp:detach:list": 0x16,
    b"amqp:end:list": 0x17,
    b"amqp:close:list": 0x18,
    b"amqp:error:list": 0x1D,
    b"amqp:received:list": 0x23,
    b"amqp:accepted:list": 0x24,
    b"amqp:rejected:list": 0x25,
    b"amqp:released:list": 0x26,
    b"amqp:modified:list": 0x27,
    b"amqp:source:list": 0x28,
    b"amqp:target:list": 0x29,
    b"amqp:coordinator:list": 0x30,
    b"amqp:declare:list": 0x31,
    b"amqp:discharge:list": 0x32,
    b"amqp:declared:list": 0x33,
    b"amqp:transactional-state:list": 0x34,
    b"amqp:sasl-mechanisms:list": 0x40,
    b"amqp:sasl-init:list": 0x41,
    b"amqp:sasl-challenge:list": 0x42,
    b"amqp:sasl-response:list": 0x43,
    b"amqp:sasl-outcome:list": 0x44,
    b"amqp:header:list": 0x70,
    b"amqp:delivery-annotations:map": 0x71,
    b"amqp:message-annotations:map": 0x72,
    b"amqp:properties:list": 0x73,
    b"amqp:application-properties:map": 0x74,
    b"amqp:data:binary": 0x75,
    b"amqp:amqp-sequence:list": 0x76,
    b"amqp:amqp-value:*": 0x77,
    b"amqp:footer:map": 0x78,
}
