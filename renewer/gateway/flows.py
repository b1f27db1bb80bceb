"""Flows as they lie in a buffer (AMQP 1.0 part 2.7.4): what they say of windows, and whether they make sense."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from renewer.amqp.spans import WIDTH, performative_fields
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from renewer.amqp.spans import Buffer


def read_flow(buf: Buffer, at: int, end: int) -> tuple[int, int, int, int, int] | None:
    """Of a flow for a link: handle, next-incoming-id, incoming-window, where its four bytes are, and outgoing-window.

    It begins as most do, that is known. None for one that goes on in an unusual way, or makes no sense. By hand: an
    expression with so many groups takes more than twice as long.
    """
    try:
        count = buf[at + 5]
        if buf[at + 3] != 0xC0 or end != at + 5 + buf[at + 4] or not 6 <= count <= _MOST_OF_FLOW:
            return None
        if buf[at + 6] == 0x70:
            (next_incoming_id,) = _U32(buf, at + 7)
            at += 11
        elif buf[at + 6] == 0x52:
            next_incoming_id = buf[at + 7]
            at += 8
        else:
            return None
        window_at = at + 1
        if buf[at] != 0x70:
            return None
        (window,) = _U32(buf, window_at)
        at += 5 + _NUMBER[buf[at + 5]]
        if buf[at] == 0x70:
            (outgoing_window,) = _U32(buf, at + 1)
            at += 5
        elif buf[at] == 0x52:
            outgoing_window = buf[at + 1]
            at += 2
        else:
            return None
        code = buf[at]
        if code == 0x52:
            handle = buf[at + 1]
        elif code == 0x43:
            handle = 0
        elif code == 0x70:
            (handle,) = _U32(buf, at + 1)
        else:
            return None
        at += _NUMBER[code]
        for widths in _AFTER_HANDLE[: count - 5]:
            width = widths[buf[at]]
            if not width:
                return None
            at += width
    except (IndexError, struct.error):
        return None
    return (handle, next_incoming_id, window, window_at, outgoing_window) if at == end else None


def check_flow(body: bytes) -> None:
    """AmqpProtocolError for what is no flow, also where nobody reads it."""
    spans = performative_fields(body).spans
    if not _LEAST_OF_FLOW <= len(spans) <= _MOST_OF_FLOW:
        raise _malformed()
    for allowed, (start, _) in zip(_FLOW_FIELDS, spans, strict=False):
        if body[start] not in allowed or (body[start] == 0x56 and body[start + 1] > 1):
            raise _malformed()


def _malformed() -> AmqpProtocolError:
    return AmqpProtocolError("a flow with a field that its type does not allow")


def _widths(*codes: int) -> bytes:
    """By constructor: how many bytes a value has with it; 0 for those that are not among `codes`."""
    return bytes(WIDTH[code] if code in codes else 0 for code in range(256))


_U32: Final = struct.Struct(">I").unpack_from
_NUMBER: Final = _widths(0x43, 0x52, 0x70)
_NUMBER_OR_NULL: Final = _widths(0x40, 0x43, 0x52, 0x70)
_FLAG_OR_NULL: Final = _widths(0x40, 0x41, 0x42)
_NULL: Final = _widths(0x40)
_AFTER_HANDLE: Final = (_NUMBER_OR_NULL, _NUMBER_OR_NULL, _NUMBER_OR_NULL, _FLAG_OR_NULL, _FLAG_OR_NULL, _NULL)
"""Delivery-count, link-credit, available, drain, echo; and properties, which nobody sends."""
_LEAST_OF_FLOW: Final = 4
_MOST_OF_FLOW: Final = 11
_A_NUMBER: Final = frozenset((0x43, 0x52, 0x70))
_FLOW_FIELDS: Final = (
    _A_NUMBER | {0x40},
    *(_A_NUMBER,) * 3,
    *(_A_NUMBER | {0x40},) * 4,
    *(frozenset((0x40, 0x41, 0x42, 0x56)),) * 2,
    frozenset((0x40, 0xC1, 0xD1)),
)
"""By field: the constructors that it may have."""
