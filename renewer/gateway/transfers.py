"""What is looked at for every message in passing: a transfer's header, the end of a lock.

Buffers may be `bytes`, `bytearray` or `memoryview`. `at` is where the performative, or the payload, starts, `end` where
its frame ends, so that a whole chunk of frames can be passed; without it, the end of the buffer. What clients and
brokers write is read by hand, any other legal encoding through spans.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

from renewer.amqp.spans import SIZE_OF_1, WIDTH, pairs, performative_fields, skip, text_at
from renewer.errors import AmqpProtocolError
from renewer.gateway.fields import flag, malformed, uint
from renewer.gateway.layouts import match_delivery, match_sections
from renewer.gateway.sections import MESSAGE_ANNOTATIONS, find_sections

if TYPE_CHECKING:
    from renewer.amqp.spans import Buffer, Span

UsualLock: TypeAlias = "tuple[int, int, int | None]"
"""Where the eight bytes of a lock's end are, what they say (epoch milliseconds), and the sequence number if known."""


def read_transfer(
    body: Buffer, at: int = 0, end: int | None = None
) -> tuple[int, int | None, bytes | None, bool, bool, bool, int]:
    """Handle, delivery id, delivery tag, settled, more, aborted, and the offset of the payload (AMQP 1.0 part 2.7.5).

    AmqpProtocolError for what is no transfer.
    """
    if end is None:
        end = len(body)
    try:
        if body[at + 3] != 0xC0 or body[at + 2] != 0x14 or body[at + 1] != 0x53:
            return _read_any_transfer(body, at, end)
        payload = at + 5 + body[at + 4]
        code = body[at + 6]
        if code == 0x43:
            handle, offset = 0, at + 7
        elif code == 0x52:
            handle, offset = body[at + 7], at + 8
        elif code == 0x70:
            (handle,), offset = _U32(body, at + 7), at + 11
        else:
            return _read_any_transfer(body, at, end)
        code = body[offset]
        delivery_id: int | None
        if code == 0x52:
            delivery_id = body[offset + 1]
            offset += 2
        elif code == 0x70:
            (delivery_id,) = _U32(body, offset + 1)
            offset += 5
        elif code == 0x43:
            delivery_id = 0
            offset += 1
        elif code == 0x40:
            delivery_id = None
            offset += 1
        else:
            return _read_any_transfer(body, at, end)
        code = body[offset]
        tag: bytes | None
        if code == 0xA0:
            start = offset + 2
            offset = start + body[offset + 1]
            tag = bytes(body[start:offset])
        elif code == 0x40:
            tag = None
            offset += 1
        else:
            return _read_any_transfer(body, at, end)
        if offset >= payload or payload > end:
            return _read_any_transfer(body, at, end)
        settled, more, aborted = _read_tail(body[at + 5], bytes(body[offset:payload]))
    except (IndexError, struct.error):
        return _read_any_transfer(body, at, end)
    return handle, delivery_id, tag, settled, more, aborted, payload


def transfer_handle(buf: Buffer, at: int) -> int:
    """The handle of a transfer, and nothing else looked at."""
    try:
        code = buf[at + 3]
        if buf[at + 1] == 0x53 and (code == 0xC0 or code == 0xD0):
            first = at + 6 if code == 0xC0 else at + 12
            code = buf[first]
            if code == 0x52:
                return buf[first + 1]
            if code == 0x43:
                return 0
            if code == 0x70:
                return int(_U32(buf, first + 1)[0])
        return uint(buf, performative_fields(buf, at).spans[0])
    except (IndexError, struct.error) as error:
        raise malformed() from error


def read_delivery(buf: Buffer, at: int, end: int) -> tuple[int | None, bytes | None, bool, bool, bool, int, int | None]:
    """What matters of a delivery, from its first transfer, and from its payload if it is not settled: in one go.

    Delivery id, delivery tag, settled, more, aborted, where the timestamp of the lock's end is (as
    `find_locked_until`) and the sequence number (as `find_sequence_number`).
    """
    match = match_delivery(buf, at, end)
    if match is not None:
        small_id, wide_id, tag, more, _, _, small, wide = match.groups()
        offset = match.end()
        if (
            match.start(5) == at + 5 + buf[at + 4]
            and offset + 8 <= _end_of_map(buf, match.start(6)) <= end
            and (small is not None or wide is not None)
        ):
            return (
                int.from_bytes(wide_id or small_id or b"", "big"),
                tag,
                False,
                more is not None,
                False,
                offset,
                int.from_bytes(wide or small or b"", "big", signed=True),
            )
    _, delivery_id, tag, settled, is_more, aborted, payload = read_transfer(buf, at, end)
    if settled or aborted:
        return delivery_id, tag, settled, is_more, aborted, -1, None
    return (
        delivery_id,
        tag,
        settled,
        is_more,
        aborted,
        find_locked_until(buf, payload, end),
        find_sequence_number(buf, payload, end),
    )


def usual_lock(buf: bytearray, at: int, end: int) -> UsualLock | None:
    """Of an unsettled message whose first transfer, a short list, is at `at`, and whose tag is a lock token.

    None also for what is laid out in an unusual way. For messages that come one at a time: the expressions above are
    the fastest where there are many, but have to come to the cache first.
    """
    number: int | None = None
    try:
        id_at = at + 6 + WIDTH[buf[at + 6]]
        tag_at = id_at + WIDTH[buf[id_at]]
        if buf[tag_at] != 0xA0 or buf[tag_at + 1] != _SIZE_OF_TOKEN:
            return None
        format_at = tag_at + 2 + _SIZE_OF_TOKEN
        if buf[format_at + WIDTH[buf[format_at]]] not in _NOT_SETTLED:
            return None
        at += 5 + buf[at + 4]
        (start,) = _U32(buf, at)
        while start != _SMALL_ANNOTATIONS:
            if start not in _SECTIONS_BEFORE:
                return None
            at += 4 if start == _EMPTY_HEADER else 5 + buf[at + 4]
            (start,) = _U32(buf, at)
        stop = at + 5 + buf[at + 4]
        at += 6
        while at < stop <= end:
            size = buf[at + 1]
            if size == _SIZE_OF_TIMESTAMPS_KEY and buf.startswith(_KEY_AND_TIMESTAMP, at):
                return (at + 21, _I64(buf, at + 21)[0], number) if at + 29 <= stop else None
            if size == _SIZE_OF_NUMBERS_KEY and buf.startswith(_KEY_AND_NUMBER, at):
                (number,) = _I64(buf, at + 24)
            if buf[at] != 0xA3:
                return None
            at += 2 + size
            width = WIDTH[buf[at]]
            if width == SIZE_OF_1:
                width = 2 + buf[at + 1]
            elif width <= 0:
                return None
            at += width
    except (IndexError, struct.error):
        pass
    return None


def find_locked_until(buf: Buffer, at: int, end: int) -> int:
    """Where the 8 bytes of the timestamp `x-opt-locked-until` are in the message whose sections lie from `at` to `end`.

    -1 if there is none, if the annotations go on in the next frame, and if this is no message at all.
    """
    match = match_sections(buf, at, end)
    if match is not None and match.end() + 8 <= _end_of_map(buf, match.start(1)) <= end:
        return match.end()
    value = _find_annotation(buf, at, end, _LOCKED_UNTIL)
    return value + 1 if value >= 0 and buf[value] == 0x83 else -1


def find_sequence_number(buf: Buffer, at: int, end: int) -> int | None:
    """The value of `x-opt-sequence-number`; None as with `find_locked_until`."""
    match = match_sections(buf, at, end)
    if match is not None and match.end() <= _end_of_map(buf, match.start(1)) <= end:
        number = match[3] or match[2]
        if number is not None:
            return int.from_bytes(number, "big", signed=True)
    value = _find_annotation(buf, at, end, _SEQUENCE_NUMBER)
    if value < 0:
        return None
    width, signed = _INTEGERS.get(buf[value], (None, False))
    return None if width is None else int.from_bytes(buf[value + 1 : value + 1 + width], "big", signed=signed)


@lru_cache(maxsize=512)
def _read_tail(count: int, tail: bytes) -> tuple[bool, bool, bool]:
    """Settled, more and aborted of a transfer of `count` fields, of which all after the third are in `tail`.

    There are few such tails; a broker writes one or two.
    """
    offset = 0
    spans: list[Span] = []
    for _ in range(count - 3):
        after = skip(tail, offset)
        spans.append((offset, after))
        offset = after
    if offset != len(tail) or count > 11:
        raise malformed()
    return flag(tail, spans, 1), flag(tail, spans, 2), flag(tail, spans, 6)


def _read_any_transfer(body: Buffer, at: int, end: int) -> tuple[int, int | None, bytes | None, bool, bool, bool, int]:
    fields = performative_fields(body, at, end)
    spans = fields.spans
    if fields.code != 0x14 or not 1 <= len(spans) <= 11:
        raise malformed()
    handle = uint(body, spans[0])
    delivery_id = tag = None
    if len(spans) > 1 and body[spans[1][0]] != 0x40:
        delivery_id = uint(body, spans[1])
    if len(spans) > 2 and body[spans[2][0]] != 0x40:
        if body[spans[2][0]] not in (0xA0, 0xB0):
            raise malformed()
        tag = text_at(body, spans[2])
    return handle, delivery_id, tag, flag(body, spans, 4), flag(body, spans, 5), flag(body, spans, 9), fields.end


def _find_annotation(buf: Buffer, at: int, end: int, name: bytes) -> int:
    """Where the value of a message annotation starts, -1 if there is none."""
    try:
        while at < end:
            if buf[at] != 0x00 or buf[at + 1] != 0x53:
                return _find_annotation_anyhow(buf, at, end, name)
            code, at = buf[at + 2], at + 3
            if code == MESSAGE_ANNOTATIONS:
                return _find_in_map(buf, at, end, name)
            at = skip(buf, at, end)
    except (IndexError, AmqpProtocolError):
        pass
    return -1


def _find_annotation_anyhow(buf: Buffer, at: int, end: int, name: bytes) -> int:
    span = find_sections(buf, at, end).get(MESSAGE_ANNOTATIONS)
    return -1 if span is None else _find_in_map(buf, *span, name)


def _find_in_map(buf: Buffer, at: int, end: int, name: bytes) -> int:
    for key, value in pairs(buf, at, end):
        if text_at(buf, key) == name and buf[key[0]] in (0xA3, 0xB3):
            return value[0]
    return -1


def _end_of_map(buf: Buffer, at: int) -> int:
    return at + 2 + buf[at + 1] if buf[at] == 0xC1 else at + 5 + int(_U32(buf, at + 1)[0])


_SMALL_ANNOTATIONS: Final = 0x005372C1
_EMPTY_HEADER: Final = 0x00537045
_SECTIONS_BEFORE: Final = frozenset((0x005370C0, 0x005371C1, _EMPTY_HEADER))
"""How a header and delivery annotations begin."""
_KEY_AND_TIMESTAMP: Final = b"\xa3\x12x-opt-locked-until\x83"
_SIZE_OF_TIMESTAMPS_KEY: Final = 18
_KEY_AND_NUMBER: Final = b"\xa3\x15x-opt-sequence-number\x81"
_SIZE_OF_NUMBERS_KEY: Final = 21
_SIZE_OF_TOKEN: Final = 16
_NOT_SETTLED: Final = b"\x40\x42\x00"
"""Null, false, and no such field: then the payload is next."""
_U32: Final = struct.Struct(">I").unpack_from
_I64: Final = struct.Struct(">q").unpack_from
_LOCKED_UNTIL: Final = b"x-opt-locked-until"
_SEQUENCE_NUMBER: Final = b"x-opt-sequence-number"
_INTEGERS: Final = {
    0x81: (8, True),
    0x55: (1, True),
    0x71: (4, True),
    0x54: (1, True),
    0x80: (8, False),
    0x53: (1, False),
    0x44: (0, False),
    0x70: (4, False),
    0x52: (1, False),
    0x43: (0, False),
}
"""Width and sign by constructor; the service writes a long."""
