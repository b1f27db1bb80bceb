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

from renewer.amqp import Connection, ConnectionState, SenderLink
from renewer.amqp.session import DEFAULT_WINDOW
from renewer.errors import AmqpProtocolError, TransientError
from renewer.targets.servicebus.ceilings import OUR_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.amqp import AmqpError, Link, Session

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

_TOO_MANY_LINKS: Final = "amqp:resource-limit-exceeded"


@dataclass(slots=True)
class Handles:
    """How many links a channel may have, by our own choice or by what the broker has ended one for.

    What was learned on one connection is known on the next: to learn it costs all sessions on a channel.
    """

    most: int


class NoRoomError(TransientError):
    """No handle is free on this connection now."""

    def __init__(self) -> None:
        super().__init__("the connection has no room for another link", kind="busy", condition=OUR_LIMIT)


class Channel:
    """One AMQP session and how many of its handles are taken, counting those on their way.

    `confirmed` is how many links it had when the broker attached one last.
    """

    __slots__ = ("attached", "cap", "confirmed", "is_control", "is_gone", "on_free", "ready", "session", "used")

    def __init__(self, session: Session, *, is_control: bool, cap: int, on_free: Callable[[], None]) -> None:
        self.session = session
        self.is_control = is_control
        self.cap = cap
        self.used = 0
        self.ready = anyio.Event()
        self.is_gone = False
        self.attached: set[Link] = set()
        self.confirmed = 0
        self.on_free = on_free

    def on_attached(self, link: Link) -> None:
        """The broker attached its end of a link."""
        self.attached.add(link)
        self.confirmed = len(self.attached)

    def on_gone(self, link: Link) -> None:
        """A link is gone, and its handle free."""
        self.attached.discard(link)
        self.free()

    def free(self, count: int = 1) -> None:
        """Give handles back."""
        self.used -= count
        self.on_free()


class Channels:
    """All channels of one connection."""

    def __init__(
        self, connection: Connection, *, handles: Handles, answer_timeout_s: float, flush: Callable[[], None]
    ) -> None:
        self.handles = handles
        self._connection = connection
        self._per_channel = handles.most
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
            if channel.used <= channel.cap:
                return channel
            # The peer's handle-max is lower than was thought when others reserved here too.
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
        if channel.cap - channel.used < _AHEAD and not control:
            self._open_ahead()
        return channel

    def on_opened(self, session: Session) -> None:
        """The peer answered our begin, and said how many handles it takes."""
        channel = self._channels.get(session)
        if channel is not None:
            handles = min(session.handle_max, session.remote_handle_max or 0) + 1
            channel.cap = self._per_channel = min(self._per_channel, handles)
            channel.ready.set()

    def on_ended(self, session: Session, error: AmqpError | None = None) -> None:
        """A channel is gone, and its links with it; with as many as it had, where the broker says so, next time."""
        channel = self._channels.pop(session, None)
        if channel is not None:
            if error is not None and error.condition == _TOO_MANY_LINKS and channel.confirmed >= _LEAST_SHARED:
                self.handles.most = max(_LEAST_ALONE, min(self.handles.most, channel.confirmed))
                self._per_channel = min(self._per_channel, self.handles.most)
            channel.is_gone = True
            self._control -= channel.is_control
            channel.ready.set()
            self._on_free()

    def close(self) -> None:
        """The connection is gone: let nobody wait for a channel."""
        for session in list(self._channels):
            self.on_ended(session)

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
            if (shared or channel.is_control is control) and channel.used + count + reserve <= channel.cap:
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
                if channel.used + count <= channel.cap:
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
        room = sum(channel.cap - channel.used for channel in self._channels.values() if not channel.is_control)
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
        channel = Channel(session, is_control=control, cap=self._per_channel, on_free=self._on_free)
        self._channels[session] = channel
        self._control += control
        self._flush()
        return channel

    def _on_free(self) -> None:
        self.is_crowded = False
