"""Frames as they lie in a buffer: told apart by their first bytes, and checked before anything of them is believed."""

from __future__ import annotations

from struct import Struct
from typing import Final

from renewer.amqp.frames import FrameType
from renewer.amqp.spans import performative_fields
from renewer.errors import AmqpProtocolError

FRAME: Final = Struct(">IBBH")
"""Size, data offset in words, type, channel (AMQP 1.0 part 2.3)."""

LONE_FRAME: Final = Struct(">IHHHB").unpack_from
"""Size, offset and type, channel, how the performative begins, and its code; most are `PLAIN_FRAME`, `SMALL_START`."""

PLAIN_FRAME: Final = 0x0200
SMALL_START: Final = 0x0053
LONE_LEAST: Final = 16
"""Bytes of a frame that is not looked at more closely than that; no transfer, flow or disposition is shorter."""

CHANNEL: Final = Struct(">H")
CHANNEL_OFFSET: Final = 6

SMALL_DESCRIPTOR: Final = b"\x00\x53"
"""How nearly every performative begins; its code is the next byte."""

TRANSFER_START: Final = SMALL_DESCRIPTOR + b"\x14"
"""How nearly every transfer begins."""

MAX_FRAME_SIZE: Final = 64 * 1024
"""Bytes of a frame that either side is told to send at most: what must lie here whole."""


def check_header(size: int, offset: int, kind: int, limit: int) -> None:
    """AmqpProtocolError for the header of a frame that cannot be."""
    if size > limit:
        raise AmqpProtocolError(
            f"a frame of {size} bytes where {limit} are allowed", condition="amqp:connection:framing-error"
        )
    if offset < 2 or size < 4 * offset or kind != FrameType.AMQP:
        raise AmqpProtocolError("a malformed frame header", condition="amqp:connection:framing-error")


def code_of(body: bytes) -> int:
    """The descriptor of a performative. AmqpProtocolError if there is none."""
    if body[:2] == b"\x00\x53" and len(body) > 2:
        return body[2]
    return performative_fields(body).code
