"""What the endpoints of one connection share: the bytes to send, the events to report, the peer's limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from renewer.amqp.frames import MIN_MAX_FRAME_SIZE, encode_frame
from renewer.amqp.performatives import Attach, encode_performative
from renewer.amqp.plainattach import encode_plain_attach
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.amqp.events import Event
    from renewer.amqp.performatives import Performative

MAX_UNFINISHED_BYTES: Final = 64 * 1024 * 1024
"""How many bytes of deliveries that are not complete yet one peer may make us hold over all its links, unless told."""

_FRAME_HEADER_SIZE: Final = 8


class Outlet:
    """The way out for frames and events. `remote_max_frame_size` is the least there is until the peer's open tells."""

    def __init__(self, max_unfinished: int = MAX_UNFINISHED_BYTES) -> None:
        self._max_unfinished = max_unfinished
        self.output = bytearray()
        self.events: list[Event] = []
        self.at_rest: dict[Callable[[], None], None] = {}
        """What to do once the application has had its say about the events: before output is next taken."""
        self.remote_max_frame_size = MIN_MAX_FRAME_SIZE
        self.unfinished_bytes = 0
        self.fatal: AmqpProtocolError | None = None
        """Why the connection has to be closed, found while something was sent."""
        self.is_shut = False
        """Our close is sent or the connection is gone: what else is sent is dropped."""

    def send(self, channel: int, performative: Performative) -> None:
        """Queue a frame. If the peer's max-frame-size is too small for it the connection cannot go on."""
        try:
            self.send_or_raise(channel, performative)
        except AmqpProtocolError as error:
            if error.condition != _TOO_SMALL:
                raise
            self.fatal = error

    def send_or_raise(self, channel: int, performative: Performative) -> None:
        """Queue a frame; AmqpProtocolError and nothing queued if it does not fit or has no AMQP form."""
        plain = encode_plain_attach(performative) if isinstance(performative, Attach) else None
        body = plain or encode_performative(performative)
        if self.is_shut:
            return
        if len(body) > self.room:
            name = type(performative).__name__.lower()
            raise AmqpProtocolError(f"a {name} does not fit the peer's max-frame-size", condition=_TOO_SMALL)
        self.output += encode_frame(channel, body)

    def send_whole(self, channel: int, performative: Performative) -> None:
        """Queue a frame before the peer's limit is known."""
        self.output += encode_frame(channel, encode_performative(performative))

    @property
    def room(self) -> int:
        """How many bytes a frame body may have."""
        return self.remote_max_frame_size - _FRAME_HEADER_SIZE

    def hold(self, count: int) -> None:
        """Count bytes of unfinished deliveries in (or, negative, out)."""
        self.unfinished_bytes += count
        if count > 0 and self.unfinished_bytes > self._max_unfinished:
            raise AmqpProtocolError("too many unfinished deliveries", condition="amqp:resource-limit-exceeded")


_TOO_SMALL: Final = "amqp:frame-size-too-small"
