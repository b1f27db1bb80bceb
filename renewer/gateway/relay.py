"""One worker's connection and the one upstream that goes with it: frames in, frames out, and no I/O.

Frames are cut, looked at, and passed whole. Changed are, towards the broker: `open`, the addresses in `attach`, tokens,
and windows; towards the worker the answers to these, and the ends of locks where they are shown extended.

The last channel of the upstream connection is the gateway's own (`SpareWay`); the worker is told of one channel less.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from renewer.amqp import Begin, Close, Open, SaslAnonymous, decode_performative, encode_frame, encode_performative
from renewer.amqp.sasl import MAX_SASL_FRAME_SIZE
from renewer.amqp.spans import performative_fields
from renewer.errors import AmqpProtocolError
from renewer.gateway.access import covers
from renewer.gateway.codes import Code
from renewer.gateway.connections import FORCED, Connections
from renewer.gateway.fields import error_in
from renewer.gateway.framing import MAX_FRAME_SIZE, TRANSFER_START, code_of
from renewer.gateway.greetings import Greeter
from renewer.gateway.login import Login
from renewer.gateway.opens import open_for_broker, open_for_worker, read_open, spare_channel
from renewer.gateway.options import PASSED
from renewer.gateway.passing import BrokerFrames, WorkerFrames
from renewer.gateway.relaysession import RelaySession
from renewer.gateway.sessiontable import HiddenChannel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from renewer.gateway.access import Doorman
    from renewer.gateway.addresses import Node
    from renewer.gateway.hops import Hop
    from renewer.gateway.ledgers import LinkLedger
    from renewer.gateway.links import WorkerLink
    from renewer.gateway.options import EntityPolicy, GatewayOptions, WorkerKey
    from renewer.gateway.relayhost import RelayHost
    from renewer.targets.servicebus.credentials import EntityToken

_STRANGER_SESSIONS: Final = 8
"""AMQP sessions that a worker may have before it has proved a key."""


class Relay(Connections):
    """Both connections, and what passes between them: what the shell tells, and what the parts ask."""

    __slots__ = ("_open", "_worker_frames", "from_broker", "from_worker", "login", "spare")

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
        """`wall` is the wall clock in epoch seconds."""
        super().__init__(host, options, doorman, ledger, now=now, wall=wall)
        self.login = Login(self, doorman, options.namespace)
        self.spare = HiddenChannel(self._worker, self._broker, self._send_spare)
        self._open: tuple[bytes, Open] | None = None
        self._worker_frames = WorkerFrames(self, self._worker, self._broker, self._sessions.ours)
        self.from_worker: Callable[[bytearray, float], None] = self._worker_frames.take
        """Bytes of the worker's, which may be changed in place, and when they came. Not by way of a method of ours."""
        self.from_broker: Callable[[bytearray, float], None] = BrokerFrames(
            self, self._broker, self._worker, self._sessions.by_remote
        ).take
        """The same for the broker's."""

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

    def dialed(self, now: float) -> None:
        """The way to the broker stands."""
        self.now = now
        if self.is_over:
            self.broker_done = True
            return
        self._broker.heard_at = now
        self._broker.greeter = Greeter("client", SaslAnonymous(), self._options.namespace.hostname, self._broker.out)

    def token_ready(self, token: EntityToken | None, detail: str, now: float) -> None:
        """The gateway's own token is there; or cannot be had, for this reason."""
        self.now = now
        if self.is_over:
            return
        try:
            self.send_to_broker(self.login.token_ready(token, detail))
        except AmqpProtocolError as error:
            self.fail_worker(error)
            return
        self.holds_worker = False
        self.pump_worker()

    def worker_paused(self, now: float) -> None:
        """The worker takes nothing more at present."""
        self._pause(True, now)

    def worker_drained(self, now: float) -> None:
        """It does again."""
        self._pause(False, now)

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

    def pump_worker(self) -> None:
        """Do what can be done with what the worker has sent."""
        if self._worker.received:
            self._worker_frames.pump()

    # For the frames -------------------------------------------------------------------------------------------------

    def from_worker_frame(self, channel: int, body: bytes) -> bytes | None:
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

    def from_broker_frame(self, channel: int, session: RelaySession | None, body: bytes) -> bytes | None:
        """What goes on in place of this frame; None for the frame as it is."""
        code = code_of(body)
        if self.is_over and code != Code.CLOSE:
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

    def greet(self, hop: Hop) -> bool:
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

    def pass_run(self, hop: Hop, buffer: bytearray, run: int, at: int) -> bytearray:
        """Queue for the hop what lies between `run` and `at`; what is left of the buffer after it."""
        is_all = run == 0 and at == len(buffer)
        if run < at and not self.is_over:
            # Most often all of it, without a copy.
            hop.out.append(buffer if is_all else bytes(buffer[run:at]))
            hop.said_at = self.now
        if is_all:
            return bytearray()
        del buffer[:at]
        return buffer

    def pass_to_worker(self, data: bytes | bytearray) -> None:
        """Queue for the worker what comes from the broker; nothing once both have ended."""
        if not self.is_over:
            self._worker.say(data, self.now)

    # ----------------------------------------------------------------------------------------------------------------

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
        if self.is_over:
            return
        detail = "the broker closed the connection"
        if error is not None:
            detail += f": {error.condition}: {error.description or ''}"
        self._host.upstream_failed(detail)
        # In the broker's own words.
        self._close_worker(error.condition if error else FORCED, (error and error.description) or detail)
        self._finish(worker_gone=False, by_worker=False, detail=detail)

    def _pause(self, is_paused: bool, now: float) -> None:
        self.now = now
        self.is_paused = is_paused
        for session in self._sessions:
            session.window.is_held = is_paused
            session.more_window()

    def _send_spare(self, frames: bytes) -> None:
        """Queue frames of the gateway's own session, from outside."""
        if not self.is_over:
            self.send_to_broker(frames)
            self._host.flush()
