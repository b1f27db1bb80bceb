"""Transfers as nearly all of them are (AMQP 1.0 part 2.7.5): a whole delivery in one frame, with nothing unusual.

To write and read these by hand, without a judge for each of eleven fields, takes a quarter of the time. Whatever is
unusual is left to `encode_performative` and `decode_performative`, whose results these equal.
"""

from __future__ import annotations

import itertools
import struct
from typing import Final

from renewer.amqp.performatives import Transfer


def encode_whole_transfer(handle: int, delivery_id: int, delivery_tag: bytes, *, settled: bool) -> bytes:
    """The performative of a delivery that has no state, is of format 0, and fits into one frame with its payload."""
    tail = _SETTLED if settled else _UNSETTLED
    fields = b"".join((_uint(handle), _uint(delivery_id), b"\xa0", bytes((len(delivery_tag),)), delivery_tag, tail))
    return b"".join((_LIST8_OF_A_TRANSFER, bytes((len(fields) + 1, _HEAD_FIELDS + len(tail))), fields))


def decode_whole_transfer(body: bytes) -> tuple[Transfer, int] | None:
    """What `decode_performative` makes of this frame body; None if it has to be asked."""
    try:
        if body.startswith(_LIST8_OF_A_TRANSFER):
            end, count, at = 5 + body[4], body[5], 6
        elif body.startswith(_LIST32_OF_A_TRANSFER):
            size, count = _U32_U32.unpack_from(body, 4)
            end, at = 8 + size, 12
        else:
            return None
        handle, at = uint_at(body, at)
        delivery_id, at = uint_at(body, at)
        if body[at] != 0xA0:
            return None
        tag_at = at + 2
        at = tag_at + body[at + 1]
        tail = body[at:end]
        settled, message_format, batchable = _TAILS[tail]
        if count != _HEAD_FIELDS + len(tail) or at + len(tail) != end:
            return None
    except (LookupError, struct.error):
        return None
    return Transfer(
        handle, delivery_id, body[tag_at:at], message_format, settled, False, None, None, False, False, batchable
    ), end


def uint_at(body: bytes, at: int) -> tuple[int, int]:
    """The uint that begins there, and where it ends. LookupError or struct.error if there is none."""
    code = body[at]
    if code == 0x52:
        return body[at + 1], at + 2
    if code == 0x70:
        return _U32.unpack_from(body, at + 1)[0], at + 5
    if code == 0x43:
        return 0, at + 1
    raise LookupError


def _uint(value: int) -> bytes:
    if value == 0:
        return b"\x43"
    return bytes((0x52, value)) if value < 256 else b"\x70" + value.to_bytes(4, "big")


def _plain_tails() -> dict[bytes, tuple[bool | None, int | None, bool]]:
    """What may follow the delivery-tag where each field is one byte: `settled`, `message-format` and `batchable`."""
    null, true, false, zero = 0x40, 0x41, 0x42, 0x43
    no = (null, false)
    fields = ((zero, null), (null, true, false), no, (null,), (null,), no, no, (null, true, false))
    tails: dict[bytes, tuple[bool | None, int | None, bool]] = {}
    for count in range(len(fields) + 1):
        for tail in itertools.product(*fields[:count]):
            settled = None if count < 2 or tail[1] == null else tail[1] == true
            message_format = 0 if count and tail[0] == zero else None
            tails[bytes(tail)] = (settled, message_format, count == len(fields) and tail[-1] == true)
    return tails


_LIST8_OF_A_TRANSFER: Final = b"\x00\x53\x14\xc0"
_LIST32_OF_A_TRANSFER: Final = b"\x00\x53\x14\xd0"
_HEAD_FIELDS: Final = 3
_TAILS: Final = _plain_tails()
_SETTLED: Final = bytes.fromhex("43 41 42 40 40 42 42 42")
_UNSETTLED: Final = bytes.fromhex("43 42 42 40 40 42 42 42")
_U32: Final = struct.Struct(">I")
_U32_U32: Final = struct.Struct(">II")
