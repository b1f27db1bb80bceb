"""What is looked at for every message in passing: a transfer's header, the end of a lock, what became of a delivery.

Buffers may be `bytes`, `bytearray` or `memoryview`. `at` is where the performative, or the payload, starts, `end` where
its frame ends, so that a whole chunk of frames can be passed; without it, the end of the buffer. What clients and
brokers write is read by hand, any other legal encoding through spans.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from renewer.amqp.composite import build_described
from renewer.amqp.decoder import decode
from renewer.amqp.performatives import AmqpError, Rejected
from renewer.amqp.spans import descriptor_at, pairs, performative_fields, skip, text_at
from renewer.core.states import MessageFate
from renewer.errors import AmqpProtocolError
from renewer.gateway.layouts import match_delivery, match_disposition, match_flow, match_sections
from renewer.gateway.sections import MESSAGE_ANNOTATIONS, find_sections

if TYPE_CHECKING:
    from renewer.amqp.spans import Buffer, Span

RECEIVED: Final = 0x23
ACCEPTED: Final = 0x24
REJECTED: Final = 0x25
RELEASED: Final = 0x26
MODIFIED: Final = 0x27
TRANSACTIONAL: Final = 0x34
OUTCOMES: Final = frozenset((ACCEPTED, REJECTED, RELEASED, MODIFIED, TRANSACTIONAL))
"""States in which a receiver is done with a delivery (AMQP 1.0 part 3.4); a transactional one is part 4.5.8."""


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
        return _uint(buf, performative_fields(buf, at).spans[0])
    except (IndexError, struct.error) as error:
        raise _malformed() from error


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


def read_flow(buf: Buffer, at: int, end: int) -> tuple[int, int, int, int, int] | None:
    """Of a flow for a link: handle, next-incoming-id, incoming-window, where its four bytes are, and outgoing-window.

    None for one that is laid out in an unusual way, or not at all (AMQP 1.0 part 2.7.4).
    """
    match = match_flow(buf, at, end)
    if match is None or match.end() != end or end != at + 5 + buf[at + 4]:
        return None
    count, seen, wide_seen, window, outgoing, wide_outgoing, handle, wide_handle = match.group(1, 2, 3, 4, 5, 6, 7, 8)
    if match.lastindex != count[0] + _GROUPS_BEFORE:
        return None
    return (
        int.from_bytes(wide_handle or handle or b"", "big"),
        int.from_bytes(wide_seen or seen, "big"),
        int.from_bytes(window, "big"),
        match.start(4),
        int.from_bytes(wide_outgoing or outgoing, "big"),
    )


def read_disposition(
    body: Buffer, at: int = 0, end: int | None = None
) -> tuple[bool, int, int, bool, int | None, Span | None]:
    """Role of its sender, first and last delivery id, settled, descriptor and span of the state (part 2.7.6).

    AmqpProtocolError for what is no disposition.
    """
    if end is None:
        end = len(body)
    match = match_disposition(body, at, end)
    if match is not None and match.end() == at + 5 + body[at + 4]:
        sign, small, wide, same, last_small, last_wide, is_settled, _, code, _ = match.groups()
        first = int.from_bytes(wide or small or b"", "big")
        last = first if same else int.from_bytes(last_wide or last_small or b"", "big")
        return sign is not None, first, last, is_settled is not None, code[0], (match.start(8), match.start(10))
    return _read_any_disposition(body, at, end)


def outcome_of(body: Buffer, span: Span) -> MessageFate | None:
    """What a worker's outcome makes of a message; None for what is no outcome by itself (received, transactional).

    azure-servicebus 7.15 behaviour: complete is accepted, dead-letter is rejected, abandon and defer are modified,
    the latter undeliverable here.
    """
    fields = performative_fields(body, *span)
    match fields.code:
        case 0x24:
            return MessageFate.COMPLETED
        case 0x25:
            return MessageFate.DEAD_LETTERED
        case 0x26:
            return MessageFate.ABANDONED
        case 0x27:
            undeliverable = fields.spans[1] if len(fields.spans) > 1 else None
            if undeliverable is not None and body[undeliverable[0]] != 0x40 and _boolean(body, undeliverable):
                return MessageFate.DEFERRED
            return MessageFate.ABANDONED
        case _:
            return None


def rejected_error(body: Buffer, span: Span) -> AmqpError | None:
    """The error in a rejected outcome; None for any other state, and for one that gives none."""
    state = build_described(decode(bytes(body[span[0] : span[1]]))[0])
    return state.error if isinstance(state, Rejected) else None


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
        raise _malformed()
    return _flag(tail, spans, 1), _flag(tail, spans, 2), _flag(tail, spans, 6)


def _read_any_transfer(body: Buffer, at: int, end: int) -> tuple[int, int | None, bytes | None, bool, bool, bool, int]:
    fields = performative_fields(body, at, end)
    spans = fields.spans
    if fields.code != 0x14 or not 1 <= len(spans) <= 11:
        raise _malformed()
    handle = _uint(body, spans[0])
    delivery_id = tag = None
    if len(spans) > 1 and body[spans[1][0]] != 0x40:
        delivery_id = _uint(body, spans[1])
    if len(spans) > 2 and body[spans[2][0]] != 0x40:
        if body[spans[2][0]] not in (0xA0, 0xB0):
            raise _malformed()
        tag = text_at(body, spans[2])
    return handle, delivery_id, tag, _flag(body, spans, 4), _flag(body, spans, 5), _flag(body, spans, 9), fields.end


def _read_any_disposition(body: Buffer, at: int, end: int) -> tuple[bool, int, int, bool, int | None, Span | None]:
    fields = performative_fields(body, at, end)
    spans = fields.spans
    count = len(spans)
    if fields.code != 0x15 or not 2 <= count <= 6:
        raise _malformed()
    role = _boolean(body, spans[0])
    first = _uint(body, spans[1])
    last = first if count < 3 or body[spans[2][0]] == 0x40 else _uint(body, spans[2])
    settled = _flag(body, spans, 3)
    if count < 5 or body[spans[4][0]] == 0x40:
        return role, first, last, settled, None, None
    state = spans[4]
    if body[state[0]] == 0x00 and body[state[0] + 1] == 0x53:
        return role, first, last, settled, body[state[0] + 2], state
    return role, first, last, settled, descriptor_at(body, *state)[0], state


def _flag(body: Buffer, spans: list[Span] | tuple[Span, ...], index: int) -> bool:
    return index < len(spans) and body[spans[index][0]] != 0x40 and _boolean(body, spans[index])


def _boolean(body: Buffer, span: Span) -> bool:
    match body[span[0]]:
        case 0x41:
            return True
        case 0x42:
            return False
        case 0x56 if body[span[0] + 1] < 2:
            return body[span[0] + 1] == 1
        case _:
            raise _malformed()


def _uint(body: Buffer, span: Span) -> int:
    match body[span[0]]:
        case 0x43:
            return 0
        case 0x52:
            return body[span[0] + 1]
        case 0x70:
            return int.from_bytes(body[span[0] + 1 : span[1]], "big")
        case _:
            raise _malformed()


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


def _malformed() -> AmqpProtocolError:
    return AmqpProtocolError("a transfer or disposition with a field that its type does not allow")


_GROUPS_BEFORE: Final = 3
"""Groups of `match_flow` up to its fifth field, less five."""
_U32: Final = struct.Struct(">I").unpack_from
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
