"""Connections without I/O: bytes and time in, bytes and events out (AMQP 1.0 part 2.4).

    connection = Connection(role="client", container_id="me", sasl=SaslAnonymous(), now=clock())
    send(connection.take_output(clock()))
    for event in connection.receive(data, clock()): ...
    sleep until connection.next_due(), then: for event in connection.advance(clock()): ...

A peer that breaks the protocol gets a close with the right condition, the application a `ConnectionClosed`; nothing
that a peer sends makes `receive` raise. Calls on sessions and links never report at once: what they cause comes back
from the next `receive` or `advance`.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, Literal

from renewer.amqp.events import ConnectionClosed, ConnectionOpened
from renewer.amqp.frames import EMPTY_FRAME, MIN_MAX_FRAME_SIZE, FrameReader, FrameType
from renewer.amqp.greeting import Greeting, SaslRefusedError
from renewer.amqp.idle import IdleTimes
from renewer.amqp.outlet import MAX_UNFINISHED_BYTES, Outlet
from renewer.amqp.performatives import AmqpError, Begin, Close, Detach, End, Open, decode_performative
from renewer.amqp.plainattach import decode_plain_attach
from renewer.amqp.sasl import MAX_SASL_FRAME_SIZE, SaslClient, SaslServer
from renewer.amqp.session import DEFAULT_HANDLE_MAX, DEFAULT_WINDOW, Session
from renewer.amqp.wholetransfer import decode_whole_transfer
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from renewer.amqp.events import CloseReason, Event
    from renewer.amqp.frames import Frame
    from renewer.amqp.performatives import Properties

DEFAULT_MAX_FRAME_SIZE: Final = 65536
DEFAULT_CHANNEL_MAX: Final = 255


class ConnectionState(Enum):
    """Where a connection is."""

    GREETING = "greeting"
    """Headers and SASL; our open is not sent."""
    OPENING = "opening"
    """Our open is sent, the peer's has not come."""
    OPENED = "opened"
    CLOSING = "closing"
    """Our close is sent, the peer's has not come."""
    CLOSED = "closed"


class Connection:
    """One end of an AMQP connection, client or server.

    Silence of the peer for longer than `idle_time_out_s` closes the connection. The peer is told of that time-out, or
    of `told_idle_time_out_s`: part 2.4.5 advises to tell less than is meant, lest a late frame costs a connection that
    nothing is wrong with. `open_time_out_s` bounds the time until the peer's open is there. Windows and `handle_max`
    are those of the sessions that a server accepts. Deliveries that are not complete may have `max_unfinished` bytes
    together; beyond that the connection is closed.
    """

    def __init__(
        self,
        *,
        role: Literal["client", "server"],
        container_id: str,
        hostname: str | None = None,
        max_frame_size: int = DEFAULT_MAX_FRAME_SIZE,
        channel_max: int = DEFAULT_CHANNEL_MAX,
        idle_time_out_s: float | None = None,
        told_idle_time_out_s: float | None = None,
        open_time_out_s: float | None = None,
        properties: Properties = None,
        sasl: SaslClient | SaslServer | None = None,
        incoming_window: int = DEFAULT_WINDOW,
        outgoing_window: int = DEFAULT_WINDOW,
        handle_max: int = DEFAULT_HANDLE_MAX,
        max_unfinished: int = MAX_UNFINISHED_BYTES,
        now: float,
    ) -> None:
        if isinstance(sasl, SaslServer if role == "client" else SaslClient):
            raise TypeError(f"a {role} cannot use {type(sasl).__name__}")
        self.role: Final = role
        self.state = ConnectionState.GREETING
        told_s = idle_time_out_s if told_idle_time_out_s is None else told_idle_time_out_s
        idle_time_out = None if told_s is None else round(1000 * told_s)
        self.local_open = Open(
            container_id, hostname, max_frame_size, channel_max, idle_time_out, properties=properties
        )
        self.remote_open: Open | None = None
        self._session_limits = (incoming_window, outgoing_window, handle_max)
        self._outlet = Outlet(max_unfinished)
        self._reader = FrameReader(max_frame_size if sasl is None else MAX_SASL_FRAME_SIZE)
        self._greeting = Greeting(role, sasl, hostname, self._outlet.output)
        self._times = IdleTimes(idle_time_out_s, open_time_out_s, now)
        self._now = now
        # Sessions by our channel and by the peer's; channels of the peer's that ended and did not begin again.
        self._sessions: dict[int, Session] = {}
        self._by_remote: dict[int, Session] = {}
        self._ended_channels: set[int] = set()
        self._open_if_client()

    def __repr__(self) -> str:
        return f"<Connection {self.role} {self.state.value}, {len(self._sessions)} sessions>"

    @property
    def sessions(self) -> list[Session]:
        """The sessions that hold a channel."""
        return list(self._sessions.values())

    @property
    def output_size(self) -> int:
        """How many bytes wait to be taken."""
        return len(self._outlet.output)

    @property
    def has_output(self) -> bool:
        """Whether there is something to be taken."""
        return bool(self._outlet.output or self._outlet.at_rest)

    @property
    def has_news(self) -> bool:
        """Whether calls have caused something that the next `receive` or `advance` will report."""
        return bool(self._outlet.events) or self._outlet.fatal is not None

    def take_output(self, now: float | None = None) -> bytes:
        """What is to be sent at `now`, or, if the caller does not know, at the time that was last told."""
        while self._outlet.at_rest:
            self._outlet.at_rest.popitem()[0]()
        output = self._outlet.output
        if not output:
            return b""
        taken = bytes(output)
        output.clear()
        self._times.sent(self._now if now is None else now)
        return taken

    def receive(self, data: bytes | bytearray | memoryview, now: float) -> list[Event]:
        """Take what arrived and return what it means. Raises for nothing that a peer sends."""
        self._now = now
        self._times.received(now)
        if self.state is not ConnectionState.CLOSED:
            self._reader.feed(data)
            try:
                self._read()
            except SaslRefusedError as error:
                self._over(AmqpError(error.condition, str(error)), "sasl")
            except AmqpProtocolError as error:
                self._fail(error, "protocol-error")
        return self._take_events()

    def receive_eof(self, now: float) -> list[Event]:
        """The stream ended or broke."""
        self._now = now
        self._over(None, "closed" if self.state is ConnectionState.CLOSING else "eof")
        return self._take_events()

    def advance(self, now: float) -> list[Event]:
        """Do what is due: send a sign of life, give up on a silent peer. Returns also what calls have caused since."""
        self._now = now
        if self.state is not ConnectionState.CLOSED:
            give_up_at, keep_alive_at = self._times.give_up_at, self._times.keep_alive_at
            if give_up_at is not None and now >= give_up_at:
                # Part 2.4.5 leaves the words open; these are what the official clients know.
                error = AmqpProtocolError("local-idle-timeout", condition="amqp:resource-limit-exceeded")
                self._fail(error, "idle")
            elif keep_alive_at is not None and now >= keep_alive_at:
                if not self._outlet.output:
                    self._outlet.output += EMPTY_FRAME
                self._times.sent(now)
        return self._take_events()

    def next_due(self) -> float | None:
        """When `advance` has something to do next; None if only the peer can change that."""
        if self.has_news:
            return self._now
        return None if self.state is ConnectionState.CLOSED else self._times.next_due()

    def open_session(
        self,
        *,
        incoming_window: int = DEFAULT_WINDOW,
        outgoing_window: int = DEFAULT_WINDOW,
        handle_max: int = DEFAULT_HANDLE_MAX,
        next_outgoing_id: int = 0,
    ) -> Session:
        """Begin a session; `SessionOpened` follows. AmqpProtocolError if it is not open or has no channel left."""
        remote = self.remote_open
        if self.state is not ConnectionState.OPENED or remote is None:
            raise AmqpProtocolError("the connection is not open", condition="amqp:illegal-state")
        session = self._new_session(
            incoming_window=incoming_window,
            outgoing_window=outgoing_window,
            handle_max=handle_max,
            next_outgoing_id=next_outgoing_id,
        )
        session.begin(None)
        return session

    def close(self, error: AmqpError | None = None) -> None:
        """Close in order. `ConnectionClosed` follows when the peer has answered, or at once if we never opened."""
        if self.state in (ConnectionState.OPENING, ConnectionState.OPENED):
            self._outlet.send(0, Close(error))
            self._outlet.is_shut = True
            self.state = ConnectionState.CLOSING
        elif self.state is ConnectionState.GREETING:
            self._over(error, "closed")

    # Reading --------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        while self.state is not ConnectionState.CLOSED:
            if self._greeting.awaits_header:
                header = self._reader.take_header()
                if header is None:
                    return
                self._greeting.on_header(header)
                if self._greeting.is_done:
                    self._reader.max_frame_size = self.local_open.max_frame_size
            else:
                frame = self._reader.next_frame()
                if frame is None:
                    return
                if self._greeting.is_done:
                    self._on_frame(frame)
                else:
                    self._greeting.on_frame(frame)
                    self._open_if_client()

    def _on_frame(self, frame: Frame) -> None:
        if frame.type is not FrameType.AMQP:
            raise AmqpProtocolError("a SASL frame after SASL", condition="amqp:connection:framing-error")
        if not frame.body:
            return  # A sign of life.
        body = frame.body
        performative, offset = decode_whole_transfer(body) or decode_plain_attach(body) or decode_performative(body)
        payload = body[offset:]
        if self.remote_open is None and not isinstance(performative, Open):
            raise AmqpProtocolError("a frame before open", condition="amqp:connection:framing-error")
        if self.state is ConnectionState.CLOSING and not isinstance(performative, Close):
            return  # Our close stands; what was under way is of no interest (part 2.4.3).
        match performative:
            case Open():
                self._on_open(performative)
            case Begin():
                self._on_begin(frame.channel, performative)
            case End():
                self._on_end(frame.channel, performative)
            case Close():
                self._on_close(performative)
            case _:
                session = self._by_remote.get(frame.channel)
                if session is not None:
                    session.handle_frame(performative, payload)
                elif not (isinstance(performative, Detach) and frame.channel in self._ended_channels):
                    # The detach is forgiven: azure-servicebus 7.15 ends its session, then detaches its links.
                    raise AmqpProtocolError("a channel without a session", condition="amqp:connection:framing-error")

    def _on_open(self, remote: Open) -> None:
        if self.remote_open is not None:
            raise AmqpProtocolError("a second open", condition="amqp:connection:framing-error")
        if remote.max_frame_size < MIN_MAX_FRAME_SIZE:
            raise AmqpProtocolError("a max-frame-size below 512", condition="amqp:invalid-field")
        self.remote_open = remote
        self._outlet.remote_max_frame_size = remote.max_frame_size
        self._times.opened(remote.idle_time_out)
        if self.state is ConnectionState.GREETING:
            self._send_open()
        if self.state is ConnectionState.OPENING:
            self.state = ConnectionState.OPENED
            self._outlet.events.append(ConnectionOpened(remote))

    def _on_begin(self, channel: int, begin: Begin) -> None:
        if channel > self.local_open.channel_max:
            raise AmqpProtocolError("a channel beyond channel-max", condition="amqp:connection:framing-error")
        if channel in self._by_remote:
            raise AmqpProtocolError("begin on a channel in use", condition="amqp:not-allowed")
        if begin.remote_channel is None:
            session = self._accept_session(channel)
            session.begin(channel)
        else:
            answered = self._sessions.get(begin.remote_channel)
            if answered is None or answered.remote_channel is not None:
                raise AmqpProtocolError("an answer to no begin of ours", condition="amqp:not-allowed")
            session = answered
        self._by_remote[channel] = session
        self._ended_channels.discard(channel)
        session.on_begin(channel, begin)

    def _on_end(self, channel: int, end: End) -> None:
        session = self._by_remote.pop(channel, None)
        if session is None:
            raise AmqpProtocolError("end on a channel without a session", condition="amqp:connection:framing-error")
        session.on_end(end)
        del self._sessions[session.channel]
        self._ended_channels.add(channel)

    def _on_close(self, close: Close) -> None:
        if self.state is not ConnectionState.CLOSING:
            self._outlet.send(0, Close())
        self._over(close.error, "closed")

    # Helpers --------------------------------------------------------------------------------------------------------

    def _open_if_client(self) -> None:
        if self.role == "client" and self.state is ConnectionState.GREETING and self._greeting.amqp_header_sent:
            self._send_open()

    def _send_open(self) -> None:
        self._outlet.send_whole(0, self.local_open)
        self.state = ConnectionState.OPENING

    def _accept_session(self, channel: int) -> Session:
        if self.role == "client":
            raise AmqpProtocolError("sessions are begun from this side only", condition="amqp:not-allowed")
        incoming_window, outgoing_window, handle_max = self._session_limits
        return self._new_session(
            preferred_channel=channel,
            incoming_window=incoming_window,
            outgoing_window=outgoing_window,
            handle_max=handle_max,
        )

    def _new_session(
        self,
        *,
        preferred_channel: int = 0,
        incoming_window: int,
        outgoing_window: int,
        handle_max: int,
        next_outgoing_id: int = 0,
    ) -> Session:
        remote = self.remote_open
        limit = min(self.local_open.channel_max, self.local_open.channel_max if remote is None else remote.channel_max)
        candidates = (preferred_channel, *range(limit + 1))
        channel = next((c for c in candidates if c <= limit and c not in self._sessions), None)
        if channel is None:
            raise AmqpProtocolError("all channels are taken", condition="amqp:resource-limit-exceeded")
        session = self._sessions[channel] = Session(
            self._outlet,
            channel,
            takes_requests=self.role == "server",
            incoming_window=incoming_window,
            outgoing_window=outgoing_window,
            handle_max=handle_max,
            next_outgoing_id=next_outgoing_id,
        )
        return session

    def _fail(self, error: AmqpProtocolError, reason: CloseReason) -> None:
        """Close for a fault: tell the peer if it can hear it, and be over without waiting for an answer."""
        told = AmqpError(error.condition, str(error))
        if self.state is ConnectionState.GREETING and self._greeting.is_done:
            self._send_open()
        if self.state in (ConnectionState.OPENING, ConnectionState.OPENED):
            self._outlet.send(0, Close(told))
        self._over(told, reason)

    def _over(self, error: AmqpError | None, reason: CloseReason) -> None:
        """Report all that is gone, each once."""
        if self.state is ConnectionState.CLOSED:
            return
        self.state = ConnectionState.CLOSED
        self._outlet.is_shut = True
        for session in self.sessions:
            session.go_down(error)
        self._sessions.clear()
        self._by_remote.clear()
        self._outlet.events.append(ConnectionClosed(error, reason))

    def _take_events(self) -> list[Event]:
        fatal = self._outlet.fatal
        if fatal is not None:
            self._outlet.fatal = None
            self._fail(fatal, "protocol-error")
        events = self._outlet.events
        self._outlet.events = []
        return events
