"""One worker's connection and the one upstream that goes with it: frames in, frames out, and no I/O.

Frames are cut, looked at, and passed whole. Changed are, towards the broker: `open`, the addresses in `attach`, tokens,
and windows; towards the worker the answers to these, and the ends of locks where they are shown extended. Each hop has
its own signs of life, so that a worker that is blocked for an hour costs neither connection.

The last channel of the upstream connection is the gateway's own (`SpareWay`); the worker is told of one channel less.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol

from renewer.amqp import (
    EMPTY_FRAME,
    AmqpError,
    Begin,
    Close,
    FrameType,
    Open,
    SaslAnonymous,
    SaslServer,
    decode_performative,
    encode_frame,
    encode_performative,
)
from renewer.amqp.frames import HEADER_SIZE, MIN_MAX_FRAME_SIZE
from renewer.amqp.sasl import MAX_SASL_FRAME_SIZE
from renewer.amqp.spans import performative_fields, splice
from renewer.errors import AmqpProtocolError
from renewer.gateway.access import covers
from renewer.gateway.codes import Code
from renewer.gateway.greetings import Greeter
from renewer.gateway.login import Login
from renewer.gateway.options import PASSED
from renewer.gateway.relaysession import RelaySession, error_in
from renewer.gateway.watching import Asked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from renewer.gateway.access import Doorman
    from renewer.gateway.addresses import Node
    from renewer.gateway.ledgers import LinkLedger
    from renewer.gateway.links import WorkerLink
    from renewer.gateway.options import EntityPolicy, GatewayOptions, WorkerKey
    from renewer.targets.servicebus.credentials import EntityToken

MAX_FRAME_SIZE: Final = 64 * 1024
"""Bytes of a frame that either side is told to send at most: what must lie here whole."""

FAREWELL_S: Final = 2.0
"""How long the broker may take to answer a close."""

MECHANISMS: Final = ("MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL")
"""What a namespace offers too; whoever comes in by one without a key must put a token signed with one."""

_STRANGER_SESSIONS: Final = 8
"""AMQP sessions that a worker may have before it has proved a key."""

_FRAME: Final = Struct(">IBBH")
_CHANNEL: Final = Struct(">H")
_TRANSFER: Final = b"\x00\x53\x14"
_FORCED: Final = "amqp:connection:forced"


class RelayHost(Protocol):
    """The shell around a relay. Called from within the relay's methods; must not call back."""

    def dial(self) -> None:
        """Connect upstream; `dialed` or `dial_failed` follows."""
        ...

    def fetch_token(self, entity: str) -> None:
        """Get the gateway's own token for the entity; `token_ready` follows."""
        ...

    def flush(self) -> None:
        """Something was queued from outside: write it."""
        ...

    def let_in(self, key: str) -> None:
        """The worker proved this key for the first time."""
        ...

    def refused(self, why: str, detail: str) -> None:
        """The worker was refused something. `why`: key, entity, protocol, timeout."""
        ...

    def upstream_failed(self, detail: str) -> None:
        """The broker has closed the connection, fell silent, or cannot be understood."""
        ...


class Relay:
    """Both connections. What is to be written is in `to_worker` and `to_broker`; whoever writes it empties them.

    Nothing here raises for what a peer sends. `wall` is the wall clock in epoch seconds.
    """

    __slots__ = (
        "_broker_heard_at",
        "_broker_idle_s",
        "_broker_in",
        "_broker_said_at",
        "_by_remote",
        "_close_by",
        "_dialed_at",
        "_from_broker",
        "_from_worker",
        "_host",
        "_is_open",
        "_is_over",
        "_keys",
        "_open",
        "_options",
        "_remapped",
        "_sessions",
        "_spare_remote",
        "_started_at",
        "_wall",
        "_worker_idle_s",
        "_worker_in",
        "_worker_opened",
        "_worker_said_at",
        "asked",
        "broker_done",
        "broker_frame_size",
        "doorman",
        "holds_worker",
        "is_paused",
        "ledger",
        "login",
        "now",
        "spare",
        "to_broker",
        "to_worker",
        "wall_now",
        "worker_channel_max",
        "worker_done",
        "worker_frame_size",
    )

    def __init__(
        self,
        host: RelayHost,
        options: GatewayOptions,
        doorman: Doorman,
        ledger: LinkLedger,
        *,
        now: float,
        wall: Callable[[], float],
    ) -> None:
        self._host = host
        self._options = options
        self.doorman = doorman
        self.ledger = ledger
        self.now = now
        self._wall = wall
        self.wall_now = wall()
        self.to_worker: list[bytes | bytearray] = []
        self.to_broker: list[bytes | bytearray] = []
        self.holds_worker = False
        """Nothing more should be read from the worker for now."""
        self.worker_done = False
        """What is in `to_worker` is the last, and the worker's connection is to be closed."""
        self.broker_done = False
        self.is_paused = False
        """The worker takes nothing at present."""
        self.login = Login(self, doorman, options.namespace)
        self.asked: dict[tuple[str, bytes], Asked] = {}
        self.broker_frame_size = MIN_MAX_FRAME_SIZE
        self.worker_frame_size = MAX_FRAME_SIZE
        self.worker_channel_max = 0
        self.spare = Spare(self)
        self._keys: list[WorkerKey] = []
        self._from_worker = Greeter(
            "server", SaslServer(MECHANISMS, self._authenticate, required=False), None, self.to_worker
        )
        self._from_broker: Greeter | None = None
        self._worker_in = bytearray()
        self._broker_in = bytearray()
        self._open: tuple[bytes, Open] | None = None
        self._worker_opened = False
        self._sessions: dict[int, RelaySession] = {}
        self._by_remote: dict[int, RelaySession] = {}
        self._remapped = False
        self._spare_remote: int | None = None
        self._worker_idle_s: float | None = None
        self._broker_idle_s = 0.0
        self._worker_said_at = self._broker_said_at = self._broker_heard_at = self._started_at = now
        self._dialed_at: float | None = None
        self._close_by: float | None = None
        self._is_open = False
        """The broker has opened the connection."""
        self._is_over = False

    @property
    def is_let_in(self) -> bool:
        """Whether a key was proved."""
        return bool(self._keys)

    @property
    def key_name(self) -> str | None:
        """The first key that was proved."""
        return self._keys[0].name if self._keys else None

    @property
    def authority(self) -> str:
        """What the namespace is called in addresses."""
        return self._options.namespace.authority

    @property
    def passed_to_worker(self) -> int:
        """Transfer frames that went to the worker over the sessions that stand."""
        return sum(session.passed for session in self._sessions.values())

    # The shell tells ------------------------------------------------------------------------------------------------

    def from_worker(self, data: bytes, now: float) -> None:
        """Bytes of the worker's."""
        self._tick(now)
        self._worker_in += data
        self._pump_worker()

    def from_broker(self, data: bytes, now: float) -> None:
        """Bytes of the broker's."""
        self._tick(now)
        self._broker_heard_at = now
        if self.broker_done:
            return
        self._broker_in += data
        try:
            self._read_broker()
        except AmqpProtocolError as error:
            self._end_broker(AmqpError(error.condition, str(error)))
            detail = f"the broker and we do not understand each other: {error}"
            self._host.upstream_failed(detail)
            self._upstream_over(detail)
        if not self.holds_worker:
            self._pump_worker()

    def dialed(self, now: float) -> None:
        """The way to the broker stands."""
        self._tick(now)
        if self._is_over:
            self.broker_done = True
            return
        self._broker_heard_at = now
        self._from_broker = Greeter("client", SaslAnonymous(), self._options.namespace.hostname, self.to_broker)

    def dial_failed(self, detail: str, now: float) -> None:
        """There is no way to the broker."""
        self._tick(now)
        self.broker_done = True
        self._upstream_over(detail)

    def token_ready(self, token: EntityToken | None, detail: str, now: float) -> None:
        """The gateway's own token is there; or cannot be had, for this reason."""
        self._tick(now)
        if self._is_over:
            return
        try:
            self._to_broker(self.login.token_ready(token, detail))
        except AmqpProtocolError as error:
            self._fail_worker(error)
            return
        self.holds_worker = False
        self._pump_worker()

    def worker_paused(self, now: float) -> None:
        """The worker takes nothing more at present."""
        self._pause(True, now)

    def worker_drained(self, now: float) -> None:
        """It does again."""
        self._pause(False, now)

    def worker_gone(self, now: float) -> None:
        """The worker's connection has ended, without a goodbye or after one: its links are closed at once."""
        self._tick(now)
        self.worker_done = True
        self._finish(worker_gone=True, by_worker=False, detail="the worker's connection broke")

    def broker_gone(self, detail: str, now: float) -> None:
        """The upstream connection has ended."""
        self._tick(now)
        self.broker_done = True
        self._upstream_over(detail)

    def stop(self, reason: str, now: float) -> None:
        """End both, in order: the gateway stops."""
        self._tick(now)
        self._close_worker(_FORCED, reason)
        self._finish(worker_gone=False, by_worker=False, detail=reason)

    def advance(self, now: float) -> None:
        """What is due: signs of life, and deadlines. Called a few times a second."""
        self._tick(now)
        if self._close_by is not None and now >= self._close_by:
            self.broker_done = self.worker_done = True
        if self._is_over:
            return
        patience_s = self._options.login_timeout_s
        if not self._keys and now - self._started_at >= patience_s:
            text = f"no key was proved within {patience_s:g} s"
            self._fail_worker(AmqpProtocolError(text, condition="amqp:unauthorized-access"), why="timeout")
            return
        if self._from_broker is None:
            return
        silent_s = now - self._broker_heard_at
        namespace = self._options.namespace
        if silent_s >= (namespace.idle_timeout_s if self._is_open else namespace.connect_timeout_s):
            self._end_broker(AmqpError("amqp:resource-limit-exceeded", "local-idle-timeout"))
            detail = f"the broker fell silent for {silent_s:.0f} s"
            self._host.upstream_failed(detail)
            self._upstream_over(detail)
            return
        if self._broker_idle_s and now - self._broker_said_at >= self._broker_idle_s / 2:
            self._to_broker(EMPTY_FRAME)
        if self._worker_opened and self._worker_idle_s and now - self._worker_said_at >= self._worker_idle_s / 2:
            self.send_to_worker(EMPTY_FRAME)

    # For the parts --------------------------------------------------------------------------------------------------

    def may_use(self, node: Node) -> bool:
        """Whether one of the keys that were proved is for this entity."""
        return any(self.doorman.may_use(key, node.base) for key in self._keys)

    def policy_for(self, node: Node) -> EntityPolicy:
        """What is done with the locks of the entity."""
        base = node.base
        return next((policy for policy in self._options.policies if covers(policy.entity, base)), PASSED)

    def let_in(self, key: WorkerKey) -> None:
        """This key was proved."""
        if not self._keys:
            self._host.let_in(key.name)
        if key not in self._keys:
            self._keys.append(key)

    def refused(self, why: str, detail: str) -> None:
        """Something was refused that the worker goes on without."""
        self._host.refused(why, detail)

    def want_token(self, entity: str) -> None:
        """See `LoginHost`."""
        self.holds_worker = True
        self._host.fetch_token(entity)

    def receivers(self, entity: str) -> Iterator[WorkerLink]:
        """The worker's links that receive from this entity."""
        wanted = entity.lower()
        for session in self._sessions.values():
            yield from (link for link in session.links if link.locks and link.entity.lower() == wanted)

    def send_to_worker(self, frame: bytes) -> None:
        """Queue a frame for the worker."""
        self.to_worker.append(frame)
        self._worker_said_at = self.now

    def send_to_broker(self, frame: bytes) -> None:
        """Queue a frame for the broker."""
        self._to_broker(frame)

    def send_spare(self, frames: bytes) -> None:
        """Queue frames of the gateway's own session, from outside."""
        if not self._is_over:
            self._to_broker(frames)
            self._host.flush()

    # From the worker ------------------------------------------------------------------------------------------------

    def _pump_worker(self) -> None:
        """Do what can be done with what the worker has sent."""
        if self._is_over or self.holds_worker:
            if self._is_over:
                self._worker_in.clear()
            return
        try:
            self._read_worker()
        except AmqpProtocolError as error:
            self._fail_worker(error)

    def _read_worker(self) -> None:
        buffer = self._worker_in
        at = 0
        if not self._from_worker.is_done:
            at = self._from_worker.read(buffer, MAX_SASL_FRAME_SIZE)
            if not self._from_worker.is_done:
                del buffer[:at]
                return
        run, there = at, len(buffer)
        limit = self.broker_frame_size if self._worker_opened else MAX_FRAME_SIZE
        while there - at >= HEADER_SIZE and not (self._is_over or self.holds_worker):
            size, offset, kind, channel = _FRAME.unpack_from(buffer, at)
            if not HEADER_SIZE <= size <= limit or offset != 2 or kind:
                _check(size, offset, kind, limit)
            end = at + size
            if end > there:
                break
            start = at + 4 * offset
            if buffer[start : start + 3] == _TRANSFER and end > start + 3:
                session = self._sessions.get(channel)
                if session is not None and session.sends(buffer, start):
                    at = end
                    continue
            changed = self._from_worker_frame(channel, bytes(buffer[start:end])) if start < end else b""
            if changed is not None:
                if run < at:
                    self._to_broker(bytes(buffer[run:at]))
                if changed:
                    self._to_broker(changed)
                run = end
            at = end
        if run < at:
            self._to_broker(bytes(buffer[run:at]))
        del buffer[:at]

    def _from_worker_frame(self, channel: int, body: bytes) -> bytes | None:
        """What goes on in place of this frame; None for the frame as it is."""
        code = _code_of(body)
        session = self._sessions.get(channel)
        if session is not None and code not in (Code.BEGIN, Code.END, Code.CLOSE):
            return session.from_worker(code, body)
        if not self._worker_opened:
            if code != Code.OPEN or self._open is not None:
                raise AmqpProtocolError("a frame before open", condition="amqp:connection:framing-error")
            self._worker_opens(body)
            return b""
        match code:
            case Code.BEGIN:
                return self._worker_begins(channel, body)
            case Code.END if session is not None:
                if session.is_ended_by_broker:
                    del self._sessions[channel]
                    return None
                if session.is_ended_by_worker:
                    return b""
                session.ended(by_worker=True, error=None)
                session.is_ended_by_worker = True
                return None
            case Code.CLOSE:
                self._finish(worker_gone=False, by_worker=True, detail="the worker closed the connection")
                self.send_to_worker(encode_frame(0, encode_performative(Close())))
                self.worker_done = True
                return b""
            case Code.DETACH | Code.DISPOSITION | Code.FLOW | Code.END:
                # azure-servicebus 7.15 detaches its links after it has ended their session.
                return b""
            case _:
                raise AmqpProtocolError("a channel without a session", condition="amqp:connection:framing-error")

    def _worker_opens(self, body: bytes) -> None:
        opened, _ = decode_performative(body)
        if not isinstance(opened, Open):
            raise AmqpProtocolError("not an open", condition="amqp:connection:framing-error")
        if opened.max_frame_size < MIN_MAX_FRAME_SIZE:
            raise AmqpProtocolError("a max-frame-size below 512", condition="amqp:invalid-field")
        self._open = body, opened
        self.ledger.worker = opened.container_id
        self.worker_frame_size = min(opened.max_frame_size, MAX_FRAME_SIZE)
        self._worker_idle_s = None if opened.idle_time_out is None else opened.idle_time_out / 1000
        self.holds_worker = True
        self._dialed_at = self.now
        self._host.dial()

    def _worker_begins(self, channel: int, body: bytes) -> bytes | None:
        if channel > self.worker_channel_max:
            raise AmqpProtocolError("a channel beyond channel-max", condition="amqp:connection:framing-error")
        if channel in self._sessions:
            raise AmqpProtocolError("begin on a channel in use", condition="amqp:not-allowed")
        if not self._keys and len(self._sessions) >= _STRANGER_SESSIONS:
            raise AmqpProtocolError("put a token first", condition="amqp:unauthorized-access")
        begin, _ = decode_performative(body)
        if not isinstance(begin, Begin) or begin.remote_channel is not None:
            raise AmqpProtocolError("an answer to no begin", condition="amqp:not-allowed")
        frame_limit = min(self.worker_frame_size, MAX_FRAME_SIZE)
        session = RelaySession(self, channel, worker_window=begin.incoming_window, frame_limit=frame_limit)
        session.window.is_held = self.is_paused
        self._sessions[channel] = session
        return encode_frame(channel, session.worker_began(body, performative_fields(body)))

    # From the broker ------------------------------------------------------------------------------------------------

    def _read_broker(self) -> None:
        buffer = self._broker_in
        greeter = self._from_broker
        at = 0
        if greeter is not None and not greeter.is_done:
            at = greeter.read(buffer, MAX_SASL_FRAME_SIZE)
            if greeter.may_open and self._open is not None and not self._is_open and not greeter.has_opened:
                greeter.has_opened = True
                self._to_broker(encode_frame(0, self._open_for_broker(*self._open)))
            if not greeter.is_done:
                del buffer[:at]
                return
        run, there = at, len(buffer)
        by_remote = self._by_remote
        passes = not self._is_over
        limit = self.worker_frame_size
        touched: RelaySession | None = None
        while there - at >= HEADER_SIZE:
            size, offset, kind, channel = _FRAME.unpack_from(buffer, at)
            if not HEADER_SIZE <= size <= limit or offset != 2 or kind:
                _check(size, offset, kind, limit)
            end = at + size
            if end > there:
                break
            start = at + 4 * offset
            session = by_remote.get(channel)
            if session is not None and buffer[start : start + 3] == _TRANSFER:
                if touched is not session:
                    if touched is not None:
                        touched.more_window()
                    touched = session
                changed = session.transfer_from_broker(buffer, start, end) if passes else b""
            elif start == end:
                changed = b""
            else:
                changed = self._from_broker_frame(channel, session, bytes(buffer[start:end]))
            if changed is None and self._remapped and session is not None:
                _CHANNEL.pack_into(buffer, at + 6, session.shown_channel)
            if changed is not None:
                if run < at and passes:
                    self.to_worker.append(bytes(buffer[run:at]))
                if changed and passes:
                    self.to_worker.append(changed)
                run = end
            at = end
        if run < at and passes:
            if run == 0 and at == there:
                # Most often: all of it, without a copy.
                self.to_worker.append(buffer)
                self._broker_in = bytearray()
            else:
                self.to_worker.append(bytes(buffer[run:at]))
            self._worker_said_at = self.now
        if self._broker_in is buffer:
            del buffer[:at]
        if touched is not None and passes:
            touched.more_window()

    def _from_broker_frame(self, channel: int, session: RelaySession | None, body: bytes) -> bytes | None:
        """What goes on in place of this frame; None for the frame as it is."""
        code = _code_of(body)
        if self._is_over and code != Code.CLOSE:
            return b""
        if session is not None and code not in (Code.BEGIN, Code.END, Code.CLOSE):
            if code == Code.TRANSFER:
                # With a descriptor that is not the usual one.
                fields = performative_fields(body)
                plain = bytearray(_TRANSFER + body[fields.start :])
                changed = session.transfer_from_broker(plain, 0, len(plain))
                return changed or encode_frame(session.shown_channel, bytes(plain))
            return session.from_broker(code, body)
        if channel == self._spare_remote and code not in (Code.BEGIN, Code.CLOSE):
            if code == Code.END:
                self._spare_remote = None
            self.spare.receive(body)
            return b""
        match code:
            case Code.OPEN:
                return self._broker_opens(body)
            case Code.BEGIN:
                return self._broker_begins(channel, body)
            case Code.END if session is not None:
                return self._broker_ends(channel, session, body)
            case Code.CLOSE:
                return self._broker_closes(body)
            case Code.DETACH if self._is_open:
                return b""
            case _:
                raise AmqpProtocolError("a channel without a session", condition="amqp:connection:framing-error")

    def _open_for_broker(self, body: bytes, opened: Open) -> bytes:
        namespace = self._options.namespace
        # The worker's highest channel and one more, so that the broker can number its ends of all of them.
        highest = min(0xFFFF, opened.channel_max + 1)
        hostname = namespace.hostname.encode()
        return splice(
            body,
            performative_fields(body),
            {
                1: b"\xa1" + bytes((len(hostname),)) + hostname,
                2: b"\x70" + self.worker_frame_size.to_bytes(4, "big"),
                3: b"\x60" + highest.to_bytes(2, "big"),
                # Told less than is meant, lest a late frame costs a connection that nothing is wrong with.
                4: b"\x70" + round(500 * namespace.idle_timeout_s).to_bytes(4, "big"),
            },
        )

    def _broker_opens(self, body: bytes) -> bytes:
        remote, _ = decode_performative(body)
        if self._worker_opened or self._open is None or not isinstance(remote, Open):
            raise AmqpProtocolError("a second open", condition="amqp:connection:framing-error")
        if remote.max_frame_size < MIN_MAX_FRAME_SIZE:
            raise AmqpProtocolError("a max-frame-size below 512", condition="amqp:invalid-field")
        worker_highest = self._open[1].channel_max
        self.broker_frame_size = min(remote.max_frame_size, MAX_FRAME_SIZE)
        self._is_open = True
        self._broker_idle_s = (remote.idle_time_out or 0) / 1000
        spare = min(worker_highest + 1, remote.channel_max, 0xFFFF)
        if spare > 0:
            self.spare.channel = spare
            self.worker_channel_max = spare - 1
        self._worker_opened = True
        self.holds_worker = False
        told = splice(
            body,
            performative_fields(body),
            {
                2: b"\x70" + self.broker_frame_size.to_bytes(4, "big"),
                3: b"\x60" + self.worker_channel_max.to_bytes(2, "big"),
                4: b"\x40",
            },
        )
        self.ledger.opened(self.spare, self.now)
        return encode_frame(0, told)

    def _broker_begins(self, channel: int, body: bytes) -> bytes | None:
        begin, _ = decode_performative(body)
        if not isinstance(begin, Begin) or channel in self._by_remote or channel == self._spare_remote:
            raise AmqpProtocolError("begin on a channel in use", condition="amqp:not-allowed")
        ours = begin.remote_channel
        if ours is not None and ours == self.spare.channel:
            self._spare_remote = channel
            self.spare.receive(body)
            return b""
        session = None if ours is None else self._sessions.get(ours)
        if session is None or session.remote_channel is not None:
            raise AmqpProtocolError("an answer to no begin", condition="amqp:not-allowed")
        session.broker_began(channel, body, performative_fields(body))
        session.shown_channel = self._channel_to_show(channel)
        self._by_remote[channel] = session
        return None if session.shown_channel == channel else encode_frame(session.shown_channel, body)

    def _channel_to_show(self, channel: int) -> int:
        """The broker's number, where the worker takes so high a one and it is free; else one that is."""
        shown = {session.shown_channel for session in self._by_remote.values()}
        if channel <= self.worker_channel_max and channel not in shown:
            return channel
        self._remapped = True
        return next(number for number in range(1 << 16) if number not in shown)

    def _broker_ends(self, channel: int, session: RelaySession, body: bytes) -> bytes | None:
        del self._by_remote[channel]
        session.ended(by_worker=session.is_ended_by_worker, error=error_in(body, performative_fields(body), 0))
        if session.is_ended_by_worker:
            del self._sessions[session.channel]
        else:
            # The worker's answer goes to the broker, and is the last of it.
            session.is_ended_by_broker = True
        return None if session.shown_channel == channel else encode_frame(session.shown_channel, body)

    def _broker_closes(self, body: bytes) -> bytes | None:
        error = error_in(body, performative_fields(body), 0)
        if self._close_by is None:
            self._to_broker(encode_frame(0, encode_performative(Close())))
        self.broker_done = True
        if self._is_over:
            return b""
        detail = "the broker closed the connection"
        if error is not None:
            detail += f": {error.condition}: {error.description or ''}"
        self._host.upstream_failed(detail)
        if self._worker_opened:
            self.to_worker.append(encode_frame(0, body))
            self.worker_done = True
        else:
            self._close_worker(error.condition if error else _FORCED, detail)
        self._finish(worker_gone=False, by_worker=False, detail=detail)
        return b""

    # Ends -----------------------------------------------------------------------------------------------------------

    def _fail_worker(self, error: AmqpProtocolError, *, why: str = "protocol") -> None:
        """The worker broke the rules: it is told, and both connections end."""
        self._host.refused(why, str(error))
        self._close_worker(error.condition, str(error))
        self._finish(worker_gone=False, by_worker=False, detail=f"the worker was cut off: {error}")

    def _upstream_over(self, detail: str) -> None:
        """There is no upstream any longer: the worker is told, in words that make its SDK connect anew."""
        if self._is_over:
            return
        self._close_worker(_FORCED, f"the gateway has lost the namespace: {detail}")
        self._finish(worker_gone=False, by_worker=False, detail=detail)

    def _close_worker(self, condition: str, description: str) -> None:
        if self.worker_done or self._is_over:
            return
        if self._from_worker.is_done:
            if not self._worker_opened:
                self._worker_opened = True
                opened = Open("renewer", max_frame_size=MAX_FRAME_SIZE)
                self.send_to_worker(encode_frame(0, encode_performative(opened)))
            # The map too: azure-servicebus 7.15 reads all three fields without looking whether they are there.
            self.send_to_worker(encode_frame(0, encode_performative(Close(AmqpError(condition, description, {})))))
        self.worker_done = True

    def _finish(self, *, worker_gone: bool, by_worker: bool, detail: str) -> None:
        """Nothing passes any longer: the links are detached upstream, and the ledger is told, once."""
        if self._is_over:
            return
        self._is_over = True
        self.holds_worker = True
        if not self.broker_done:
            if self._is_open:
                for session in self._sessions.values():
                    for frame in session.farewell():
                        self._to_broker(frame)
                self._end_broker(None)
            elif self._from_broker is not None:
                self.broker_done = True
        # What frees the locks goes out before anybody is told of it.
        self._host.flush()
        self.ledger.closed(worker_gone=worker_gone, by_worker=by_worker, detail=detail, now=self.now)
        if self._from_broker is None:
            # Whoever dials is told when it comes back.
            self.broker_done = self.broker_done or self._dialed_at is None
        self._worker_in.clear()
        self.asked.clear()

    def _end_broker(self, error: AmqpError | None) -> None:
        if self.broker_done or self._close_by is not None:
            return
        if self._is_open:
            self._to_broker(encode_frame(0, encode_performative(Close(error))))
            self._close_by = self.now + FAREWELL_S
        if error is not None:
            self.broker_done = True

    # Helpers --------------------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        self.now = now
        self.wall_now = self._wall()

    def _pause(self, is_paused: bool, now: float) -> None:
        self._tick(now)
        self.is_paused = is_paused
        for session in self._sessions.values():
            session.window.is_held = is_paused
            session.more_window()

    def _to_broker(self, data: bytes) -> None:
        if data:
            self.to_broker.append(data)
            self._broker_said_at = self.now

    def _authenticate(self, mechanism: str, user: str, password: str) -> bool:
        if mechanism != "PLAIN":
            return True
        key = self.doorman.check_plain(user, password)
        if key is None:
            self._host.refused("key", "a name and key, given with PLAIN, that are none of the gateway's")
            return False
        self.let_in(key)
        return True


class Spare:
    """The gateway's own channel; see `SpareWay`."""

    __slots__ = ("_relay", "channel", "on_frame")

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.channel: int | None = None
        self.on_frame: Callable[[bytes], None] | None = None

    @property
    def max_frame_size(self) -> int:
        """See `SpareWay`."""
        return self._relay.broker_frame_size

    @property
    def our_max_frame_size(self) -> int:
        """See `SpareWay`."""
        return self._relay.worker_frame_size

    def send(self, frames: bytes) -> None:
        """See `SpareWay`."""
        self._relay.send_spare(frames)

    def receive(self, body: bytes) -> None:
        """The body of a frame that came over it."""
        if self.on_frame is not None:
            self.on_frame(body)


def _code_of(body: bytes) -> int:
    """The descriptor of a performative."""
    if body[:2] == b"\x00\x53" and len(body) > 2:
        return body[2]
    return performative_fields(body).code


def _check(size: int, offset: int, kind: int, limit: int) -> None:
    """AmqpProtocolError for the header of a frame that cannot be."""
    if size > limit:
        raise AmqpProtocolError(
            f"a frame of {size} bytes where {limit} are allowed", condition="amqp:connection:framing-error"
        )
    if offset < 2 or size < 4 * offset or kind != FrameType.AMQP:
        raise AmqpProtocolError("a malformed frame header", condition="amqp:connection:framing-error")
