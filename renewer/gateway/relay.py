"""One worker's connection and the one upstream that goes with it: frames in, frames out, and no I/O.

Frames are cut, looked at, and passed whole. Changed are, towards the broker: `open`, the addresses in `attach`, tokens,
and windows; towards the worker the answers to these, and the ends of locks where they are shown extended. Each hop has
its own signs of life, so that a worker that is blocked for an hour costs neither connection.

The last channel of the upstream connection is the gateway's own (`SpareWay`); the worker is told of one channel less.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from renewer.amqp import (
    AmqpError,
    Begin,
    Close,
    Open,
    SaslAnonymous,
    SaslServer,
    decode_performative,
    encode_frame,
    encode_performative,
)
from renewer.amqp.frames import HEADER_SIZE, MIN_MAX_FRAME_SIZE
from renewer.amqp.sasl import MAX_SASL_FRAME_SIZE
from renewer.amqp.spans import performative_fields
from renewer.errors import AmqpProtocolError
from renewer.gateway.access import Grants, covers
from renewer.gateway.codes import DISPOSITION, TRANSFER, Code
from renewer.gateway.framing import (
    CHANNEL,
    CHANNEL_OFFSET,
    FRAME,
    MAX_FRAME_SIZE,
    SMALL_DESCRIPTOR,
    TRANSFER_START,
    check_header,
    code_of,
)
from renewer.gateway.greetings import Greeter
from renewer.gateway.hops import Hop
from renewer.gateway.login import Login
from renewer.gateway.opens import open_for_broker, open_for_worker, read_open, spare_channel
from renewer.gateway.options import PASSED
from renewer.gateway.relaysession import RelaySession, error_in
from renewer.gateway.sessiontable import HiddenChannel, SessionTable
from renewer.gateway.watching import Asked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from renewer.gateway.access import Doorman
    from renewer.gateway.addresses import Node
    from renewer.gateway.ledgers import LinkLedger
    from renewer.gateway.links import WorkerLink
    from renewer.gateway.options import EntityPolicy, GatewayOptions, WorkerKey
    from renewer.gateway.relayhost import RelayHost
    from renewer.targets.servicebus.credentials import EntityToken

FAREWELL_S: Final = 2.0
"""How long the broker may take to answer a close."""

MECHANISMS: Final = ("MSSBCBS", "ANONYMOUS", "EXTERNAL")
"""What a namespace offers too, but not PLAIN: a worker is let in by the token that it puts, and that is replaced."""

_STRANGER_SESSIONS: Final = 8
"""AMQP sessions that a worker may have before it has proved a key."""

_FORCED: Final = "amqp:connection:forced"


class Relay:
    """Both connections. What is to be written is in `to_worker` and `to_broker`; whoever writes it empties them.

    Nothing here raises for what a peer sends. `wall` is the wall clock in epoch seconds.
    """

    __slots__ = (
        "_broker",
        "_close_by",
        "_grants",
        "_has_dialed",
        "_host",
        "_is_over",
        "_open",
        "_options",
        "_sessions",
        "_started_at",
        "_wall",
        "_wall_ahead_s",
        "_worker",
        "asked",
        "broker_done",
        "holds_worker",
        "is_paused",
        "ledger",
        "login",
        "now",
        "spare",
        "to_broker",
        "to_worker",
        "worker_done",
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
        self.ledger = ledger
        self.now = self._started_at = now
        self._wall = wall
        self._wall_ahead_s = wall() - now
        self._worker = Hop(now, frame_size=MAX_FRAME_SIZE)
        self._broker = Hop(now, frame_size=MIN_MAX_FRAME_SIZE)
        self._worker.greeter = Greeter("server", SaslServer(MECHANISMS, required=False), None, self._worker.out)
        self.to_worker = self._worker.out
        """What is to be written to the worker."""
        self.to_broker = self._broker.out
        """What is to be written to the broker."""
        self.holds_worker = False
        """Nothing more should be read from the worker for now."""
        self.worker_done = False
        """What is in `to_worker` is the last, and the worker's connection is to be closed."""
        self.broker_done = False
        self.is_paused = False
        """The worker takes nothing at present."""
        self.login = Login(self, doorman, options.namespace)
        self.asked: dict[tuple[str, bytes], Asked] = {}
        self.spare = HiddenChannel(self._worker, self._broker, self._send_spare)
        self._sessions = SessionTable()
        self._grants = Grants(doorman)
        self._open: tuple[bytes, Open] | None = None
        self._has_dialed = False
        self._close_by: float | None = None
        self._is_over = False

    @property
    def wall_now(self) -> float:
        """The wall clock, in epoch seconds, as it was looked at in the last quarter of a second."""
        return self.now + self._wall_ahead_s

    @property
    def is_let_in(self) -> bool:
        """Whether a key was proved."""
        return bool(self._grants)

    @property
    def key_name(self) -> str | None:
        """The first key that was proved."""
        return self._grants.key_name

    @property
    def authority(self) -> str:
        """What the namespace is called in addresses."""
        return self._options.namespace.authority

    @property
    def is_draining(self) -> bool:
        """Whether workers may go on with what they have, and begin nothing."""
        return self._host.is_draining()

    @property
    def broker_frame_size(self) -> int:
        """Bytes of a frame that the broker takes."""
        return self._broker.frame_size

    @property
    def passed_to_worker(self) -> int:
        """Messages, or parts of one, that went to the worker."""
        return self._sessions.passed

    # The shell tells ------------------------------------------------------------------------------------------------

    def from_worker(self, data: bytes, now: float) -> None:
        """Bytes of the worker's."""
        self.now = now
        self._worker.received += data
        self._pump_worker()

    def from_broker(self, data: bytes, now: float) -> None:
        """Bytes of the broker's."""
        self.now = now
        self._broker.heard_at = now
        if self.broker_done:
            return
        self._broker.received += data
        try:
            self._read_broker()
        except AmqpProtocolError as error:
            self._end_broker(AmqpError(error.condition, str(error)))
            self._upstream_failed(f"the broker and we do not understand each other: {error}")
        if self._worker.received:
            self._pump_worker()

    def dialed(self, now: float) -> None:
        """The way to the broker stands."""
        self.now = now
        if self._is_over:
            self.broker_done = True
            return
        self._broker.heard_at = now
        self._broker.greeter = Greeter("client", SaslAnonymous(), self._options.namespace.hostname, self._broker.out)

    def dial_failed(self, detail: str, now: float) -> None:
        """There is no way to the broker."""
        self.broker_gone(detail, now)

    def token_ready(self, token: EntityToken | None, detail: str, now: float) -> None:
        """The gateway's own token is there; or cannot be had, for this reason."""
        self.now = now
        if self._is_over:
            return
        try:
            self.send_to_broker(self.login.token_ready(token, detail))
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
        self.now = now
        if self.holds_worker and self._broker.is_open and not self._is_over:
            # What it said before it left holds, but for the token that is awaited: nobody needs that any longer.
            self.holds_worker = False
            self._pump_worker()
        self.worker_done = True
        self._finish(worker_gone=True, by_worker=False, detail="the worker's connection broke")

    def broker_gone(self, detail: str, now: float) -> None:
        """The upstream connection has ended, or there never was one."""
        self.now = now
        self.broker_done = True
        self._upstream_failed(detail)

    def stop(self, reason: str, now: float) -> None:
        """End both, in order: the gateway stops."""
        self.now = now
        self._close_worker(_FORCED, reason)
        self._finish(worker_gone=False, by_worker=False, detail=reason)

    def advance(self, now: float) -> None:
        """What is due: signs of life, and deadlines. Called a few times a second."""
        self.now = now
        self._wall_ahead_s = self._wall() - now
        if self._close_by is not None and now >= self._close_by:
            self.broker_done = self.worker_done = True
        if self._is_over:
            return
        patience_s = self._options.login_timeout_s
        if not self._grants and now - self._started_at >= patience_s:
            text = f"no key was proved within {patience_s:g} s"
            self._fail_worker(AmqpProtocolError(text, condition="amqp:unauthorized-access"), why="timeout")
            return
        if self._broker.greeter is None:
            return
        silent_s = now - self._broker.heard_at
        namespace = self._options.namespace
        if silent_s >= (namespace.idle_timeout_s if self._broker.is_open else namespace.connect_timeout_s):
            self._end_broker(AmqpError("amqp:resource-limit-exceeded", "local-idle-timeout"))
            self._upstream_failed(f"the broker fell silent for {silent_s:.0f} s")
            return
        self._broker.keep_alive(now)
        self._worker.keep_alive(now)

    # For the parts --------------------------------------------------------------------------------------------------

    def may_use(self, node: Node) -> bool:
        """Whether one of the keys that were proved is for this entity, and what was signed with it is too."""
        return self._grants.may_use(node)

    def policy_for(self, node: Node) -> EntityPolicy:
        """What is done with the locks of the entity."""
        base = node.base
        policy = next((policy for policy in self._options.policies if covers(policy.entity, base)), PASSED)
        # What cannot be renewed must not be shown as if it were.
        return policy if self.spare.channel is not None else replace(policy, show_lock_until="true")

    def let_in(self, key: WorkerKey, scope: str) -> None:
        """See `LoginHost`."""
        was_stranger = not self._grants
        self._grants.add(key, scope)
        if was_stranger:
            self._host.let_in(key.name)

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
        for session in self._sessions:
            yield from (link for link in session.links if link.locks and link.entity.lower() == wanted)

    def send_to_worker(self, frame: bytes) -> None:
        """Queue a frame for the worker."""
        self._worker.say(frame, self.now)

    def send_to_broker(self, frame: bytes) -> None:
        """Queue a frame for the broker."""
        self._broker.say(frame, self.now)

    # From the worker ------------------------------------------------------------------------------------------------

    def _pump_worker(self) -> None:
        """Do what can be done with what the worker has sent."""
        if self._is_over:
            self._worker.received.clear()
        elif not self.holds_worker:
            try:
                self._read_worker()
            except AmqpProtocolError as error:
                self._fail_worker(error)

    def _read_worker(self) -> None:
        hop = self._worker
        if not hop.is_greeted and not self._greet(hop):
            return
        buffer, ours = hop.received, self._sessions.ours
        run, at, there = 0, 0, len(buffer)
        limit = self._broker.frame_size if hop.is_open else MAX_FRAME_SIZE
        try:
            while there - at >= HEADER_SIZE and not (self._is_over or self.holds_worker):
                size, offset, kind, channel = FRAME.unpack_from(buffer, at)
                if not HEADER_SIZE <= size <= limit or offset != 2 or kind:
                    check_header(size, offset, kind, limit)
                end = at + size
                if end > there:
                    break
                start = at + 4 * offset
                session = ours.get(channel)
                if (
                    session is not None
                    and end - start > 2
                    and buffer[start : start + 2] == SMALL_DESCRIPTOR
                    and session.passes(buffer[start + 2], buffer, start, end)
                ):
                    at = end
                    continue
                # In order: what is done with this frame may send something too.
                if run < at:
                    self.send_to_broker(bytes(buffer[run:at]))
                run = at
                body = bytes(buffer[start:end])
                changed = self._from_worker_frame(channel, body) if body else b""
                if changed is not None:
                    self.send_to_broker(changed)
                    run = end
                at = end
        finally:
            # What came before a fault was right.
            hop.received = self._pass(self._broker, buffer, run, at)

    def _from_worker_frame(self, channel: int, body: bytes) -> bytes | None:
        """What goes on in place of this frame; None for the frame as it is."""
        code = code_of(body)
        session = self._sessions.ours.get(channel)
        if session is not None and code not in (Code.BEGIN, Code.END, Code.CLOSE):
            return session.from_worker(code, body)
        if not self._worker.is_open:
            if code != Code.OPEN:
                raise AmqpProtocolError("a frame before open", condition="amqp:connection:framing-error")
            self._worker_opens(body)
            return b""
        match code:
            case Code.BEGIN:
                return self._worker_begins(channel, body)
            case Code.END if session is not None:
                return self._sessions.worker_ends(session)
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
        opened = read_open(body)
        self._open = body, opened
        self.ledger.worker = opened.container_id
        self._worker.frame_size = min(opened.max_frame_size, MAX_FRAME_SIZE)
        self._worker.idle_s = (opened.idle_time_out or 0) / 1000
        self.holds_worker = self._has_dialed = True
        self._host.dial()

    def _worker_begins(self, channel: int, body: bytes) -> bytes | None:
        self._sessions.check_new(channel)
        if not self._grants and len(self._sessions) >= _STRANGER_SESSIONS:
            raise AmqpProtocolError("put a token first", condition="amqp:unauthorized-access")
        begin, _ = decode_performative(body)
        if not isinstance(begin, Begin) or begin.remote_channel is not None:
            raise AmqpProtocolError("an answer to no begin", condition="amqp:not-allowed")
        session = self._sessions.add(
            self, channel, worker_window=begin.incoming_window, frame_limit=self._worker.frame_size
        )
        session.window.is_held = self.is_paused
        return encode_frame(channel, session.worker_began(body, performative_fields(body)))

    # From the broker ------------------------------------------------------------------------------------------------

    def _read_broker(self) -> None:
        hop = self._broker
        if not hop.is_greeted and not self._greet(hop):
            return
        buffer, by_remote = hop.received, self._sessions.by_remote
        run, at, there = 0, 0, len(buffer)
        limit = self._worker.frame_size
        touched: RelaySession | None = None
        try:
            while there - at >= HEADER_SIZE:
                size, offset, kind, channel = FRAME.unpack_from(buffer, at)
                if not HEADER_SIZE <= size <= limit or offset != 2 or kind:
                    check_header(size, offset, kind, limit)
                end = at + size
                if end > there:
                    break
                start = at + 4 * offset
                session = by_remote.get(channel)
                code = 0
                if end - start > 2 and buffer[start : start + 2] == SMALL_DESCRIPTOR and not self._is_over:
                    code = buffer[start + 2]
                if code == TRANSFER and session is not None:
                    if touched is not session:
                        if touched is not None:
                            touched.more_window()
                        touched = session
                    changed = session.transfer_from_broker(buffer, start, end)
                elif code == DISPOSITION and session is not None:
                    session.settled_by_broker(buffer, start, end)
                    changed = None
                else:
                    # In order: what is done with this frame may send something too.
                    if run < at:
                        self._pass_to_worker(bytes(buffer[run:at]))
                    run = at
                    changed = (
                        self._from_broker_frame(channel, session, bytes(buffer[start:end])) if start < end else b""
                    )
                if changed is not None:
                    if run < at:
                        self._pass_to_worker(bytes(buffer[run:at]))
                    self._pass_to_worker(changed)
                    run = end
                elif self._sessions.is_translated and session is not None:
                    CHANNEL.pack_into(buffer, at + CHANNEL_OFFSET, session.shown_channel)
                at = end
        finally:
            # What came before a fault was right.
            hop.received = self._pass(self._worker, buffer, run, at)
        if touched is not None:
            touched.more_window()

    def _from_broker_frame(self, channel: int, session: RelaySession | None, body: bytes) -> bytes | None:
        """What goes on in place of this frame; None for the frame as it is."""
        code = code_of(body)
        if self._is_over and code != Code.CLOSE:
            return b""
        if session is not None and code not in (Code.BEGIN, Code.END, Code.CLOSE):
            if code == Code.TRANSFER:
                # With a descriptor that is not the usual one.
                plain = bytearray(TRANSFER_START + body[performative_fields(body).start :])
                changed = session.transfer_from_broker(plain, 0, len(plain))
                return changed or encode_frame(session.shown_channel, bytes(plain))
            return session.from_broker(code, body)
        if channel == self.spare.remote and code not in (Code.BEGIN, Code.CLOSE):
            if code == Code.END:
                self.spare.remote = None
            self.spare.receive(body)
            return b""
        match code:
            case Code.OPEN:
                return self._broker_opens(body)
            case Code.BEGIN:
                return self._sessions.broker_begins(channel, body, self.spare)
            case Code.END if session is not None:
                return self._sessions.broker_ends(channel, session, body)
            case Code.CLOSE:
                self._broker_closes(body)
                return b""
            case Code.DETACH if self._broker.is_open:
                return b""
            case _:
                raise AmqpProtocolError("a channel without a session", condition="amqp:connection:framing-error")

    def _broker_opens(self, body: bytes) -> bytes:
        remote = read_open(body)
        if self._broker.is_open or self._open is None:
            raise AmqpProtocolError("a second open", condition="amqp:connection:framing-error")
        self._broker.frame_size = min(remote.max_frame_size, MAX_FRAME_SIZE)
        self._broker.idle_s = (remote.idle_time_out or 0) / 1000
        self._broker.is_open = self._worker.is_open = True
        self.spare.channel = spare_channel(self._open[1], remote)
        self._sessions.highest = 0 if self.spare.channel is None else self.spare.channel - 1
        self.holds_worker = False
        self.ledger.opened(self.spare, self.now)
        told = open_for_worker(body, frame_size=self._broker.frame_size, channel_max=self._sessions.highest)
        return encode_frame(0, told)

    def _broker_closes(self, body: bytes) -> None:
        error = error_in(body, performative_fields(body), 0)
        if self._close_by is None:
            self.send_to_broker(encode_frame(0, encode_performative(Close())))
        self.broker_done = True
        if self._is_over:
            return
        detail = "the broker closed the connection"
        if error is not None:
            detail += f": {error.condition}: {error.description or ''}"
        self._host.upstream_failed(detail)
        # In the broker's own words.
        self._close_worker(error.condition if error else _FORCED, (error and error.description) or detail)
        self._finish(worker_gone=False, by_worker=False, detail=detail)

    # Ends -----------------------------------------------------------------------------------------------------------

    def _fail_worker(self, error: AmqpProtocolError, *, why: str = "protocol") -> None:
        """The worker broke the rules: it is told, and both connections end."""
        self._host.refused(why, str(error))
        self._close_worker(error.condition, str(error))
        self._finish(worker_gone=False, by_worker=False, detail=f"the worker was cut off: {error}")

    def _upstream_failed(self, detail: str) -> None:
        """There is no upstream any longer: the worker is told, in words that make its SDK connect anew."""
        if self._is_over:
            return
        self._host.upstream_failed(detail)
        self._close_worker(_FORCED, f"the gateway has lost the namespace: {detail}")
        self._finish(worker_gone=False, by_worker=False, detail=detail)

    def _close_worker(self, condition: str, description: str) -> None:
        if self.worker_done or self._is_over:
            return
        if self._worker.greeter is not None and self._worker.greeter.is_done:
            if not self._worker.is_open:
                opened = Open("renewer", max_frame_size=MAX_FRAME_SIZE)
                self.send_to_worker(encode_frame(0, encode_performative(opened)))
            # The map too: azure-servicebus 7.15 reads all three fields without looking whether they are there.
            self.send_to_worker(encode_frame(0, encode_performative(Close(AmqpError(condition, description, {})))))
        self.worker_done = True

    def _finish(self, *, worker_gone: bool, by_worker: bool, detail: str) -> None:
        """Nothing passes any longer: the links are detached upstream, and the ledger is told, once."""
        if self._is_over:
            return
        self._is_over = self.holds_worker = True
        if self._broker.is_open and not self.broker_done:
            for session in self._sessions:
                for frame in session.farewell():
                    self.send_to_broker(frame)
            self._end_broker(None)
        elif self._broker.greeter is not None or not self._has_dialed:
            self.broker_done = True
        # What frees the locks goes out before anybody is told of it.
        self._host.flush_now()
        self.ledger.closed(worker_gone=worker_gone, by_worker=by_worker, detail=detail, now=self.now)
        self.asked.clear()

    def _end_broker(self, error: AmqpError | None) -> None:
        """Close upstream: in order, within a time; with `error` at once."""
        if self.broker_done or self._close_by is not None:
            return
        if self._broker.is_open:
            self.send_to_broker(encode_frame(0, encode_performative(Close(error))))
            self._close_by = self.now + FAREWELL_S
        if error is not None:
            self.broker_done = True

    # Helpers --------------------------------------------------------------------------------------------------------

    def _greet(self, hop: Hop) -> bool:
        """Take what comes before frames; whether frames come next."""
        greeter = hop.greeter
        if greeter is None:
            return False
        hop.is_greeted = greeter.read(hop.received, MAX_SASL_FRAME_SIZE)
        if hop is self._broker and greeter.may_open and not greeter.has_opened and self._open is not None:
            greeter.has_opened = True
            told = open_for_broker(*self._open, self._options.namespace, frame_size=self._worker.frame_size)
            self.send_to_broker(encode_frame(0, told))
        return hop.is_greeted

    def _pass(self, hop: Hop, buffer: bytearray, run: int, at: int) -> bytearray:
        """Queue for the hop what lies between `run` and `at`; what is left of the buffer after it."""
        is_all = run == 0 and at == len(buffer)
        if run < at and not self._is_over:
            # Most often all of it, without a copy.
            hop.out.append(buffer if is_all else bytes(buffer[run:at]))
            hop.said_at = self.now
        if is_all:
            return bytearray()
        del buffer[:at]
        return buffer

    def _pass_to_worker(self, data: bytes | bytearray) -> None:
        if not self._is_over:
            self._worker.say(data, self.now)

    def _pause(self, is_paused: bool, now: float) -> None:
        self.now = now
        self.is_paused = is_paused
        for session in self._sessions:
            session.window.is_held = is_paused
            session.more_window()

    def _send_spare(self, frames: bytes) -> None:
        """Queue frames of the gateway's own session, from outside."""
        if not self._is_over:
            self.send_to_broker(frames)
            self._host.flush()
