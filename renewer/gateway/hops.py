"""One of the two connections that a relay stands between, without what it means: bytes, and when which came."""

from __future__ import annotations

from typing import TYPE_CHECKING

from renewer.amqp import EMPTY_FRAME

if TYPE_CHECKING:
    from renewer.gateway.greetings import Greeter


class Hop:
    """`out` is what is to be written, `received` what has come and was not dealt with. Moments are monotonic.

    `idle_s` is after how long without a frame the peer gives the connection up; 0 if it never does.
    """

    __slots__ = ("frame_size", "greeter", "heard_at", "idle_s", "is_greeted", "is_open", "out", "received", "said_at")

    def __init__(self, now: float, *, frame_size: int) -> None:
        self.out: list[bytes | bytearray] = []
        self.received = bytearray()
        self.greeter: Greeter | None = None
        self.is_greeted = False
        """What comes next are frames."""
        self.frame_size = frame_size
        """Bytes of a frame that the peer takes."""
        self.is_open = False
        """Both have opened."""
        self.idle_s = 0.0
        self.said_at = self.heard_at = now

    def say(self, data: bytes | bytearray, now: float) -> None:
        """Queue bytes for the peer."""
        if data:
            self.out.append(data)
            self.said_at = now

    def keep_alive(self, now: float) -> None:
        """Give a sign of life, if one is due."""
        if self.is_open and self.idle_s and now - self.said_at >= self.idle_s / 2:
            self.say(EMPTY_FRAME, now)
