"""A worker's connection and the upstream one that goes with it: signs of life, deadlines, and the end of both.

Each hop has its own signs of life, so that a worker that is blocked for an hour costs neither connection. When one of
them ends, so does the other: with a goodbye where there is somebody to say it to, and within a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from renewer.amqp import AmqpError, Close, Open, SaslServer, encode_frame, encode_performative
from renewer.amqp.frames import MIN_MAX_FRAME_SIZE
from renewer.errors import AmqpProtocolError
from renewer.gateway.access import Grants
from renewer.gateway.framing import MAX_FRAME_SIZE
from renewer.gateway.greetings import Greeter
from renewer.gateway.hops import Hop
from renewer.gateway.sessiontable import SessionTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.gateway.access import Doorman
    from renewer.gateway.ledgers import LinkLedger
    from renewer.gateway.options import GatewayOptions
    from renewer.gateway.relayhost import RelayHost
    from renewer.gateway.watching import Asked

FAREWELL_S: Final = 2.0
"""How long the broker may take to answer a close."""

FORCED: Final = "amqp:connection:forced"
"""The condition after which SDKs connect anew."""

_MECHANISMS: Final = ("MSSBCBS", "ANONYMOUS", "EXTERNAL")
"""What a namespace offers too, but not PLAIN: a worker is let in by the token that it puts, and that is replaced."""


class Connections(ABC):
    """Both. What is to be written is in `to_worker` and `to_broker`; whoever writes it empties them.

    Nothing here raises for what a peer sends.
    """

    __slots__ = (
        "_broker",
        "_close_by",
        "_grants",
        "_has_dialed",
        "_host",
        "_options",
        "_sessions",
        "_started_at",
        "_wall",
        "_worker",
        "asked",
        "broker_done",
        "holds_worker",
        "is_over",
        "is_paused",
        "ledger",
        "now",
        "to_broker",
        "to_worker",
        "wall_ahead_s",
        "worker_done",
        "write_to_broker",
        "write_to_worker",
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
        """`wall` is the wall clock in epoch seconds."""
        self._host = host
        self._options = options
        self.ledger = ledger
        self.now = self._started_at = now
        self._wall = wall
        self.wall_ahead_s = wall() - now
        """How far the wall clock is ahead of the monotonic one, looked at a few times a second."""
        self._worker = Hop(now, frame_size=MAX_FRAME_SIZE)
        self._broker = Hop(now, frame_size=MIN_MAX_FRAME_SIZE)
        self._worker.greeter = Greeter("server", SaslServer(_MECHANISMS, required=False), None, self._worker.out)
        self.to_worker = self._worker.out
        """What is to be written to the worker."""
        self.to_broker = self._broker.out
        """What is to be written to the broker."""
        self.write_to_worker: Callable[[bytearray], object] = self.to_worker.append
        """Takes what can be written at once, as nothing is before it. Whoever writes may put a shorter way here."""
        self.write_to_broker: Callable[[bytearray], object] = self.to_broker.append
        """The same for the broker."""
        self.holds_worker = False
        """Nothing more should be read from the worker for now."""
        self.worker_done = False
        """What is in `to_worker` is the last, and the worker's connection is to be closed."""
        self.broker_done = False
        self.is_paused = False
        """The worker takes nothing at present."""
        self.is_over = False
        """Nothing passes any longer."""
        self.asked: dict[tuple[str, bytes], Asked] = {}
        """See `Exchanges`."""
        self._sessions = SessionTable()
        self._grants = Grants(doorman)
        self._has_dialed = False
        self._close_by: float | None = None

    @property
    def wall_now(self) -> float:
        """The wall clock, in epoch seconds, as it was looked at in the last quarter of a second."""
        return self.now + self.wall_ahead_s

    # The shell tells ------------------------------------------------------------------------------------------------

    def dial_failed(self, detail: str, now: float) -> None:
        """There is no way to the broker."""
        self.broker_gone(detail, now)

    def worker_gone(self, now: float) -> None:
        """The worker's connection has ended, without a goodbye or after one: its links are closed at once."""
        self.now = now
        if self.holds_worker and self._broker.is_open and not self.is_over:
            # What it said before it left holds, but for the token that is awaited: nobody needs that any longer.
            self.holds_worker = False
            self.pump_worker()
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
        self._close_worker(FORCED, reason)
        self._finish(worker_gone=False, by_worker=False, detail=reason)

    def advance(self, now: float) -> None:
        """What is due: signs of life, and deadlines. Called a few times a second."""
        self.now = now
        self.wall_ahead_s = self._wall() - now
        if self._close_by is not None and now >= self._close_by:
            self.broker_done = self.worker_done = True
        if self.is_over:
            return
        patience_s = self._options.login_timeout_s
        if not self._grants and now - self._started_at >= patience_s:
            text = f"no key was proved within {patience_s:g} s"
            self.fail_worker(AmqpProtocolError(text, condition="amqp:unauthorized-access"), why="timeout")
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

    @abstractmethod
    def pump_worker(self) -> None:
        """Do what can be done with what the worker has sent."""

    def send_to_worker(self, frame: bytes) -> None:
        """Queue a frame for the worker."""
        self._worker.say(frame, self.now)

    def send_to_broker(self, frame: bytes) -> None:
        """Queue a frame for the broker."""
        self._broker.say(frame, self.now)

    def fail_worker(self, error: AmqpProtocolError, *, why: str = "protocol") -> None:
        """The worker broke the rules: it is told, and both connections end."""
        self._host.refused(why, str(error))
        self._close_worker(error.condition, str(error))
        self._finish(worker_gone=False, by_worker=False, detail=f"the worker was cut off: {error}")

    def fail_broker(self, error: AmqpProtocolError) -> None:
        """The broker did: both are told, and end."""
        self._end_broker(AmqpError(error.condition, str(error)))
        self._upstream_failed(f"the broker and we do not understand each other: {error}")

    # Ends -----------------------------------------------------------------------------------------------------------

    def _upstream_failed(self, detail: str) -> None:
        """There is no upstream any longer: the worker is told, in words that make its SDK connect anew."""
        if self.is_over:
            return
        self._host.upstream_failed(detail)
        self._close_worker(FORCED, f"the gateway has lost the namespace: {detail}")
        self._finish(worker_gone=False, by_worker=False, detail=detail)

    def _close_worker(self, condition: str, description: str) -> None:
        if self.worker_done or self.is_over:
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
        if self.is_over:
            return
        self.is_over = self.holds_worker = True
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
