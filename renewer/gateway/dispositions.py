"""Dispositions as they lie in a buffer (AMQP 1.0 part 2.7.6): which deliveries, and what became of them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from renewer.amqp.composite import build_described
from renewer.amqp.decoder import decode
from renewer.amqp.performatives import AmqpError, Rejected
from renewer.amqp.spans import descriptor_at, performative_fields
from renewer.core.states import MessageFate
from renewer.gateway.fields import boolean, flag, malformed, uint

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


def read_disposition(
    body: Buffer, at: int = 0, end: int | None = None
) -> tuple[bool, int, int, bool, int | None, Span | None]:
    """Role of its sender, first and last delivery id, settled, descriptor and span of the state (part 2.7.6).

    AmqpProtocolError for what is no disposition. What clients and brokers write is read by hand, all else by spans.
    """
    if end is None:
        end = len(body)
    try:
        count = body[at + 5]
        if body[at + 2] != 0x15 or body[at + 3] != 0xC0 or end != at + 5 + body[at + 4] or not 5 <= count <= 6:
            return _read_any(body, at, end)
        role, offset = body[at + 6], at + 7
        if role == 0x56:
            role, offset = _BOOLEANS[body[offset]], offset + 1
        code = body[offset]
        if code == 0x70:
            (first,) = _U32(body, offset + 1)
            offset += 5
        elif code == 0x52:
            first = body[offset + 1]
            offset += 2
        else:
            return _read_any(body, at, end)
        code, last = body[offset], first
        if code == 0x70:
            (last,) = _U32(body, offset + 1)
            offset += 5
        elif code == 0x52:
            last = body[offset + 1]
            offset += 2
        elif code == 0x40:
            offset += 1
        else:
            return _read_any(body, at, end)
        settled, offset = body[offset], offset + 1
        if settled == 0x56:
            settled, offset = _BOOLEANS[body[offset]], offset + 1
        start, state, code = offset, body[offset + 2], body[offset + 3]
        if body[start] or body[start + 1] != 0x53 or not (0x41 <= role <= 0x42 and 0x40 <= settled <= 0x42):
            return _read_any(body, at, end)
        offset += 4 if code == 0x45 else 5 + body[offset + 4]
        if (code != 0x45 and code != 0xC0) or offset + count - 5 != end or (count == 6 and body[offset] not in _FLAG):
            return _read_any(body, at, end)
    except (IndexError, struct.error):
        return _read_any(body, at, end)
    return role == 0x41, first, last, settled == 0x41, state, (start, offset)


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
            if undeliverable is not None and body[undeliverable[0]] != 0x40 and boolean(body, undeliverable):
                return MessageFate.DEFERRED
            return MessageFate.ABANDONED
        case _:
            return None


def rejected_error(body: Buffer, span: Span) -> AmqpError | None:
    """The error in a rejected outcome; None for any other state, and for one that gives none."""
    state = build_described(decode(bytes(body[span[0] : span[1]]))[0])
    return state.error if isinstance(state, Rejected) else None


def _read_any(body: Buffer, at: int, end: int) -> tuple[bool, int, int, bool, int | None, Span | None]:
    fields = performative_fields(body, at, end)
    spans = fields.spans
    count = len(spans)
    if fields.code != 0x15 or not 2 <= count <= 6:
        raise malformed()
    role = boolean(body, spans[0])
    first = uint(body, spans[1])
    last = first if count < 3 or body[spans[2][0]] == 0x40 else uint(body, spans[2])
    settled = flag(body, spans, 3)
    if count < 5 or body[spans[4][0]] == 0x40:
        return role, first, last, settled, None, None
    state = spans[4]
    if body[state[0]] == 0x00 and body[state[0] + 1] == 0x53:
        return role, first, last, settled, body[state[0] + 2], state
    return role, first, last, settled, descriptor_at(body, *state)[0], state


_U32: Final = struct.Struct(">I").unpack_from
_BOOLEANS: Final = b"\x42\x41"
"""The shorter way to write a boolean, by the value of the longer one."""
_FLAG: Final = b"\x40\x41\x42"
