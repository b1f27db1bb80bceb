"""Frames: cutting a byte stream into them and putting bodies into them (AMQP 1.0 part 2.3)."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

AMQP_HEADER: Final = b"AMQP\x00\x01\x00\x00"
SASL_HEADER: Final = b"AMQP\x03\x01\x00\x00"
HEADER_SIZE: Final = 8
MIN_MAX_FRAME_SIZE: Final = 512
"""No peer may announce less (part 2.7.1)."""


class FrameType(IntEnum):
    """The type octet of a frame header."""

    AMQP = 0
    SASL = 1


class Frame(NamedTuple):
    """One frame. An AMQP frame without a body is a sign of life and nothing else."""

    type: FrameType
    channel: int
    body: bytes


EMPTY_FRAME: Final = b"\x00\x00\x00\x08\x02\x00\x00\x00"
"""What is sent to keep a connection alive (part 2.4.5)."""


def encode_frame(channel: int, body: bytes, type: FrameType = FrameType.AMQP) -> bytes:  # noqa: A002
    """A frame around `body`: performative and payload."""
    return _FRAME_HEADER.pack(_FRAME_HEADER.size + len(body), _FRAME_HEADER.size // 4, type, channel) + body


class FrameReader:
    """Cuts what `feed` gets into frames; holds no more than one unfinished frame.

    Iterating gives the frames that are complete, and may be resumed after the next `feed`. A frame beyond
    `max_frame_size` is refused as soon as its header is seen.
    """

    def __init__(self, max_frame_size: int) -> None:
        self.max_frame_size = max_frame_size
        self._buffer = bytearray()
        self._at = 0

    def __len__(self) -> int:
        return len(self._buffer) - self._at

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take what arrived."""
        self._buffer += data

    def take_header(self) -> bytes | None:
        """The next eight bytes as a protocol header (part 2.2), None until they are there.

        AmqpProtocolError as soon as they cannot become one.
        """
        found = bytes(self._buffer[self._at : self._at + HEADER_SIZE])
        if found[:4] != AMQP_HEADER[: min(4, len(found))]:
            raise AmqpProtocolError("not AMQP", condition="amqp:connection:framing-error")
        if len(found) < HEADER_SIZE:
            return None
        self._skip(HEADER_SIZE)
        return found

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        frame = self.next_frame()
        if frame is None:
            raise StopIteration
        return frame

    def next_frame(self) -> Frame | None:
        """The next frame, None until it is complete. AmqpProtocolError for a header that cannot be."""
        buffer, at = self._buffer, self._at
        there = len(buffer) - at
        if there < 8:
            self._skip(0)
            return None
        size, data_offset, frame_type, channel = _FRAME_HEADER.unpack_from(buffer, at)
        start = 4 * data_offset
        if size > self.max_frame_size:
            raise AmqpProtocolError(
                f"a frame of {size} bytes where {self.max_frame_size} are allowed",
                condition="amqp:connection:framing-error",
            )
        if start < 8 or size < start or frame_type > 1:
            raise AmqpProtocolError("a malformed frame header", condition="amqp:connection:framing-error")
        if there < size:
            self._skip(0)
            return None
        with memoryview(buffer) as view:
            body = bytes(view[at + start : at + size])
        self._skip(size)
        return Frame(_FRAME_TYPES[frame_type], channel, body)

    def _skip(self, count: int) -> None:
        """Move on; drop what was read when that is cheap: all of it, or more than what is left."""
        self._at += count
        if self._at == len(self._buffer):
            self._buffer.clear()
            self._at = 0
        elif not count and self._at:
            del self._buffer[: self._at]
            self._at = 0


_FRAME_HEADER: Final = struct.Struct(">IBBH")
_FRAME_TYPES: Final = tuple(FrameType)
