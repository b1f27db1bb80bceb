"""The AMQP sessions of one worker connection by the numbers of both sides, and the gateway's own beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from renewer.amqp import AmqpError, Begin, decode_performative, encode_frame
from renewer.amqp.spans import performative_fields
from renewer.errors import AmqpProtocolError
from renewer.gateway.fields import error_in
from renewer.gateway.relaysession import RelaySession
from renewer.gateway.windows import Sharing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from renewer.gateway.hops import Hop
    from renewer.gateway.relaysession import Wire


class HiddenChannel:
    """The gateway's own channel; see `SpareWay`. `send` queues frames for the broker and has them written."""

    __slots__ = ("_broker", "_send", "_worker", "channel", "on_frame", "remote")

    def __init__(self, worker: Hop, broker: Hop, send: Callable[[bytes], None]) -> None:
        self._worker = worker
        self._broker = broker
        self._send = send
        self.channel: int | None = None
        self.remote: int | None = None
        """The broker's number for it, while our session stands."""
        self.on_frame: Callable[[bytes], None] | None = None

    @property
    def max_frame_size(self) -> int:
        """See `SpareWay`."""
        return self._broker.frame_size

    @property
    def our_max_frame_size(self) -> int:
        """See `SpareWay`: what the broker was told is what the worker takes."""
        return self._worker.frame_size

    def send(self, frames: bytes) -> None:
        """See `SpareWay`."""
        self._send(frames)

    def receive(self, body: bytes) -> None:
        """The body of a frame that came over it."""
        if self.on_frame is not None:
            self.on_frame(body)


class SessionTable:
    """By the worker's numbers, which are ours towards the broker too, and by the broker's."""

    __slots__ = ("_passed_before", "_sharing", "by_remote", "highest", "ours")

    def __init__(self) -> None:
        self.ours: dict[int, RelaySession] = {}
        self.by_remote: dict[int, RelaySession] = {}
        self.highest = 0
        """The highest channel that the worker may use, and be shown."""
        self._passed_before = 0
        self._sharing = Sharing()

    def __iter__(self) -> Iterator[RelaySession]:
        return iter(self.ours.values())

    def __len__(self) -> int:
        return len(self.ours)

    @property
    def passed(self) -> int:
        """Messages, or parts of one, that went to the worker."""
        return self._passed_before + sum(session.passed for session in self)

    def check_new(self, channel: int) -> None:
        """AmqpProtocolError if the worker cannot begin a session there."""
        if channel > self.highest:
            raise AmqpProtocolError("a channel beyond channel-max", condition="amqp:connection:framing-error")
        if channel in self.ours:
            raise AmqpProtocolError("begin on a channel in use", condition="amqp:not-allowed")

    def add(self, wire: Wire, channel: int, *, worker_window: int, frame_limit: int) -> RelaySession:
        """A session that the worker begins."""
        self._sharing.sessions = len(self.ours) + 1
        session = RelaySession(
            wire, channel, worker_window=worker_window, frame_limit=frame_limit, sharing=self._sharing
        )
        self.ours[channel] = session
        return session

    def drop(self, session: RelaySession) -> None:
        """Both sides have ended it."""
        self._passed_before += session.passed
        del self.ours[session.channel]
        self._sharing.sessions = len(self.ours)

    def broker_begins(self, channel: int, body: bytes, spare: HiddenChannel) -> bytes | None:
        """The broker's answer to a begin: what goes on, as `RelaySession.from_broker` has it."""
        begin, _ = decode_performative(body)
        if not isinstance(begin, Begin) or channel in self.by_remote or channel == spare.remote:
            raise AmqpProtocolError("begin on a channel in use", condition="amqp:not-allowed")
        number = begin.remote_channel
        if number is not None and number == spare.channel:
            spare.remote = channel
            spare.receive(body)
            return b""
        session = None if number is None else self.ours.get(number)
        if session is None or session.remote_channel is not None:
            raise AmqpProtocolError("an answer to no begin", condition="amqp:not-allowed")
        session.broker_began(channel, body, performative_fields(body))
        session.shown_channel = self._to_show(channel)
        self.by_remote[channel] = session
        refusals = session.take_refusals()
        if session.shown_channel == channel and not refusals:
            return None
        return encode_frame(session.shown_channel, body) + refusals

    def broker_ends(self, channel: int, session: RelaySession, body: bytes) -> bytes | None:
        """The broker's end, the first of the two or the answer."""
        del self.by_remote[channel]
        error: AmqpError | None = error_in(body, performative_fields(body), 0)
        session.ended(by_worker=session.is_ended_by_worker, error=error)
        if session.is_ended_by_worker:
            self.drop(session)
        else:
            # The worker's answer goes to the broker, and is the last of it.
            session.is_ended_by_broker = True
        return None if session.shown_channel == channel else encode_frame(session.shown_channel, body)

    def worker_ends(self, session: RelaySession) -> bytes | None:
        """The worker's end, the first of the two or the answer."""
        if session.is_ended_by_worker:
            return b""
        if session.is_ended_by_broker:
            self.drop(session)
        else:
            session.ended(by_worker=True, error=None)
            session.is_ended_by_worker = True
        return None

    def _to_show(self, channel: int) -> int:
        """The broker's number, where the worker takes so high a one and it is free; else one that is."""
        shown = {session.shown_channel for session in self.by_remote.values()}
        if channel <= self.highest and channel not in shown:
            return channel
        return next(number for number in range(1 << 16) if number not in shown)
