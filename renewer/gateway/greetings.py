"""What comes before the first frame on either connection: headers and SASL, each on its own hop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from renewer.amqp.frames import HEADER_SIZE, Frame, FrameReader
from renewer.amqp.greeting import Greeting

if TYPE_CHECKING:
    from renewer.amqp import SaslServer
    from renewer.amqp.sasl import SaslClient


class Greeter:
    """One side of a greeting. What it has to say is appended to `out`."""

    __slots__ = ("_greeting", "_out", "_said", "has_opened")

    def __init__(
        self,
        role: Literal["client", "server"],
        sasl: SaslServer | SaslClient,
        hostname: str | None,
        out: list[bytes | bytearray],
    ) -> None:
        self._said = bytearray()
        self._out = out
        self._greeting = Greeting(role, sasl, hostname, self._said)
        self.has_opened = False
        """Our open was sent after it."""
        self._say()

    @property
    def is_done(self) -> bool:
        """AMQP frames come next."""
        return self._greeting.is_done

    @property
    def may_open(self) -> bool:
        """Our AMQP header is sent, so that our open may follow."""
        return self._greeting.amqp_header_sent

    def read(self, buffer: bytearray, limit: int) -> bool:
        """Take what belongs to the greeting; whether that is all of it. AmqpProtocolError, with the answer said."""
        at = 0
        try:
            while not self.is_done:
                if self._greeting.awaits_header:
                    reader = FrameReader(limit)
                    reader.feed(buffer[at : at + HEADER_SIZE])
                    header = reader.take_header()
                    if header is None:
                        break
                    self._greeting.on_header(header)
                    at += HEADER_SIZE
                else:
                    frame, size = _first_frame(buffer, at, limit)
                    if frame is None:
                        break
                    self._greeting.on_frame(frame)
                    at += size
        finally:
            del buffer[:at]
            self._say()
        return self.is_done

    def _say(self) -> None:
        if self._said:
            self._out.append(bytes(self._said))
            self._said.clear()


def _first_frame(buffer: bytearray, at: int, limit: int) -> tuple[Frame | None, int]:
    reader = FrameReader(limit)
    reader.feed(buffer[at : at + limit])
    before = len(reader)
    frame = reader.next_frame()
    return frame, before - len(reader)
