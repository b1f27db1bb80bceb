"""AMQP sessions of one connection, and the handles in them. Here they are *channels*: Service Bus has its own sessions.

Links are placed where a handle is free by our own limit and by the peer's handle-max; requests and replies on channels
of their own, so that a broker that ends a channel with its sessions does not take the way to renew the others. When the
peer allows one channel only, everything shares it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio

from renewer.amqp import Connection, ConnectionState, SenderLink, SessionState
from renewer.amqp.session import DEFAULT_WINDOW
from renewer.errors import AmqpProtocolError, TransientError
from renewer.targets.servicebus.capacity import LEAST_LEARNED, may_be_links
from renewer.targets.servicebus.ceilings import OUR_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.amqp import AmqpError, Link, Session
    from renewer.targets.servicebus.capacity import Capacity

OUR_HANDLE_MAX: Final = 8191
"""What the peer may number its ends of our links with; generous, as the numbers are its own choice."""

MESSAGE_WINDOW: Final = 64
"""Frames of messages that may be under way to us on one channel. Answers to renewals queue up behind them in the
stream, so that there must never be more than a slow network carries in a second or so."""

_CONTROL_RESERVE: Final = 10
"""Handles that are kept free for requests where everything shares one channel: `$cbs` and four entities."""

_AHEAD: Final = 64
"""With fewer handles than this left for session receivers the next channel is opened: nobody has to wait for it."""

_LEAST_SHARED: Final = 5
"""`$cbs` and `$management`, two handles each, and one session receiver."""

_LEAST_ALONE: Final = 2
"""Either of them on a channel of its own."""


class NoRoomError(TransientError):
    """No handle is free on this connection now."""

    def __init__(self) -> None:
        super().__init__("the connection has no room for another link", kind="busy", condition=OUR_LIMIT)


class Channel:
    """One AMQP session and how many of its handles are taken, counting those on their way.

    `cap` is how many links it may have, as far as is known of it. `on_fallen(carried, asked, error)` is told when the
    broker takes all of its links away, while others were asked for, with an error whose cause that may be.
    """

    __slots__ = (
        "_fall",
        "attached",
        "cap",
        "is_control",
        "is_gone",
        "on_fallen",
        "on_free",
        "ready",
        "session",
        "used",
    )

    def __init__(
        self,
        session: Session,
        *,
        is_control: bool,
        cap: int,
        on_free: Callable[[], None],
        on_fallen: Callable[[int, int, AmqpError], None] | None = None,
    ) -> None:
        self.session = session
        self.is_control = is_control
        self.cap = cap
        self.used = 0
        self.ready = anyio.Event()
        self.is_gone = False
        self.attached: set[Link] = set()
        self.on_free = on_free
        self.on_fallen = on_fallen
        self._fall: _Fall | None = None

    def on_attached(self, link: Link) -> None:
        """The broker attached its end of a link."""
        self.attached.add(link)
        self._fall = None

    def on_gone(self, link: Link, taken_for: AmqpError | None = None) -> None:
        """A link is gone, and its handle free; `taken_for` is the broker's error where we did not ask for that."""
        if taken_for is not None and may_be_links(taken_for):
            self._on_taken(link, taken_for)
        self.attached.discard(link)
        self.free()

    def free(self, count: int = 1) -> None:
        """Give handles back."""
        self.used -= count
        self.on_free()

    @property
    def carried(self) -> int:
        """How many links the broker has attached, or had, when it began to refuse more or to take them away."""
        return len(self.attached) if self._fall is None else self._fall.carried

    def _on_taken(self, link: Link, error: AmqpError) -> None:
        fall, state = self._fall, self.session.state
        if fall is None or fall.error.condition != error.condition:
            attached = len(self.attached)
            # Where there is but this detach, the link may have been attached only to say why it is refused.
            carried = attached if state is SessionState.ENDED else len(self.attached - {link})
            fall = self._fall = _Fall(error, carried, self.used - attached)
        # A broker may end the AMQP session, or detach link by link. What is ended by us, or with its connection, says
        # nothing.
        is_last = self.attached == {link} and fall.carried >= LEAST_LEARNED
        is_over = state is SessionState.ENDED or is_last
        is_ours = state is SessionState.ENDING or self.is_gone
        if is_over and not is_ours and fall.asked and not fall.is_told and self.on_fallen is not None:
            fall.is_told = True
            self.on_fallen(fall.carried, fall.asked, error)


@dataclass(slots=True)
class _Fall:
    """What the broker refuses or takes away with one error: how many links there were, and were asked for, before."""

    error: AmqpError
    carried: int
    asked: int
    is_told: bool = False


class Channels:
    """All channels of one connection."""

    def __init__(
        self, connection: Connection, *, capacity: Capacity, answer_timeout_s: float, flush: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._capacity = capacity
        self._handles = 1 + OUR_HANDLE_MAX
        """How many links the peer takes on a channel, by its handle-max."""
        self._timeout_s = answer_timeout_s
        self._flush = flush
        self._channels: dict[Session, Channel] = {}
        self._control = 0
        """How many of them are for requests."""
        self._limit: int | None = None
        self.is_crowded = False
        """No handle was free when one was wanted, and none has become free since."""

    @property
    def limit(self) -> int:
        """How many channels both sides allow."""
        if self._limit is not None:
            return self._limit
        remote, ours = self._connection.remote_open, self._connection.local_open.channel_max
        if remote is None:
            return 1 + ours
        self._limit = 1 + min(ours, remote.channel_max)
        return self._limit

    @property
    def carried(self) -> int:
        """How many session receivers the broker has attached here, or had, when it began to refuse more."""
        channels = self._channels.values()
        # Each pair has one sender, session receivers have none.
        senders = sum(isinstance(link, SenderLink) for channel in channels for link in channel.attached)
        return max(0, sum(channel.carried for channel in channels) - 2 * senders)

    @property
    def capacity(self) -> int:
        """How many session receivers fit on this connection, as far as is known."""
        if self.limit == 1:
            return max(1, self._per_channel - max(_CONTROL_RESERVE, _LEAST_SHARED - 1))
        return max(1, self.limit - max(1, self._control)) * self._per_channel

    async def place(self, count: int, *, control: bool) -> Channel:
        """Reserve `count` handles of one open channel. NoRoomError if there are none, TransientError if it fails."""
        while True:
            channel = self._choose(count, control=control)
            channel.used += count
            try:
                await self._until_ready(channel)
            except BaseException:
                channel.free(count)
                raise
            if self._left(channel) >= 0:
                return channel
            # It may have fewer links than was thought when others reserved here too.
            channel.free(count)

    def place_now(self, count: int, *, control: bool) -> Channel | None:
        """The same where a channel is open that has them; None where there is something to wait for, or none."""
        try:
            channel = self._choose(count, control=control)
        except TransientError:
            return None
        if not channel.ready.is_set() or channel.is_gone:
            return None
        channel.used += count
        if self._left(channel) < _AHEAD and not control:
            self._open_ahead()
        return channel

    def on_opened(self, session: Session) -> None:
        """The peer answered our begin, and said how many handles it takes."""
        channel = self._channels.get(session)
        if channel is not None:
            handles = min(session.handle_max, session.remote_handle_max or 0) + 1
            channel.cap = self._handles = min(self._handles, handles)
            channel.ready.set()

    def on_ended(self, session: Session) -> None:
        """A channel is gone, and its links with it."""
        channel = self._channels.pop(session, None)
        if channel is not None:
            channel.is_gone = True
            self._control -= channel.is_control
            channel.ready.set()
            self._on_free()

    def close(self) -> None:
        """The connection is gone: let nobody wait for a channel."""
        for session in list(self._channels):
            self.on_ended(session)

    @property
    def _per_channel(self) -> int:
        return min(self._handles, self._capacity.links)

    def _left(self, channel: Channel) -> int:
        """How many more links it may have; less than none where it has more than is known now to be good."""
        return min(channel.cap, self._capacity.links) - channel.used

    async def _until_ready(self, channel: Channel) -> None:
        if not channel.ready.is_set():
            with anyio.move_on_after(self._timeout_s) as scope:
                await channel.ready.wait()
            if scope.cancelled_caught:
                raise TransientError("the broker did not open an AMQP session in time", kind="timeout")
        if channel.is_gone:
            raise TransientError("the AMQP session ended", kind="network")

    def _choose(self, count: int, *, control: bool) -> Channel:
        if self._connection.state is not ConnectionState.OPENED:
            raise TransientError("the connection is closed", kind="network")
        shared = self.limit == 1
        for channel in self._channels.values():
            reserve = self._reserve(channel) if shared and not control else 0
            if (shared or channel.is_control is control) and count + reserve <= self._left(channel):
                return channel
        # The last channel is kept for control as long as there is none for it.
        kept = 0 if control or shared or self._control else 1
        if len(self._channels) + kept < self.limit:
            try:
                return self._open(control=control)
            except AmqpProtocolError:
                # Channels that have ended on our side only still count for the peer.
                pass
        if control:
            for channel in self._channels.values():
                if count <= self._left(channel):
                    return channel
        if self._per_channel < (_LEAST_SHARED if shared else _LEAST_ALONE):
            # No other connection would have more room, so it must not be asked for at once.
            raise TransientError(
                "too few links are allowed on one connection to hold a session", kind="busy", condition=OUR_LIMIT
            )
        self.is_crowded = True
        raise NoRoomError

    def _open_ahead(self) -> None:
        """Have another channel open by the time that those there are full, where the peer allows it."""
        room = sum(max(0, self._left(channel)) for channel in self._channels.values() if not channel.is_control)
        kept = 0 if self._control else 1
        if room < _AHEAD and 1 < len(self._channels) + kept < self.limit:
            with suppress(AmqpProtocolError):
                self._open(control=False)

    def _reserve(self, channel: Channel) -> int:
        """Handles that session receivers must leave where they share the channel with requests."""
        # Each pair has one sender, session receivers have none.
        attached = 2 * sum(isinstance(link, SenderLink) for link in channel.session.links)
        missing = max(0, _LEAST_SHARED - 1 - attached)
        return max(missing, min(_CONTROL_RESERVE, self._per_channel - _LEAST_SHARED))

    def _open(self, *, control: bool) -> Channel:
        # Where everything shares one channel, requests must not wait for a window that messages have filled.
        window = DEFAULT_WINDOW if control or self.limit == 1 else MESSAGE_WINDOW
        session = self._connection.open_session(incoming_window=window, handle_max=OUR_HANDLE_MAX)
        channel = Channel(
            session, is_control=control, cap=self._handles, on_free=self._on_free, on_fallen=self._capacity.fell
        )
        self._channels[session] = channel
        self._control += control
        self._flush()
        return channel

    def _on_free(self) -> None:
        self.is_crowded = False
