"""The broker: the model behind TCP connections, one clock for everything in it, and the means to disturb it."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
import structlog
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSListener

from renewer.amqp import AmqpError
from renewer.emulator.broker import refusals
from renewer.emulator.broker.client import ClientConnection
from renewer.emulator.broker.counters import BrokerCounters
from renewer.emulator.broker.deadlines import Deadlines, Ending
from renewer.emulator.broker.entities import Entity
from renewer.emulator.broker.namespace import Namespace
from renewer.emulator.broker.notices import (
    MessageLockExpired,
    MessagesReady,
    SessionGranted,
    SessionLockExpired,
    SessionWaitTimedOut,
)
from renewer.emulator.broker.play import play_for
from renewer.emulator.broker.specs import BrokerOptions, Linger
from renewer.emulator.broker.wire import describe, to_error, utc_ms
from renewer.emulator.faults import Faults
from renewer.errors import UsageError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from anyio.abc import ByteStream, Listener, TaskStatus
    from anyio.streams.stapled import MultiListener

    from renewer.emulator.broker.ends import ReceiverEnd, SessionEnd
    from renewer.emulator.broker.notices import Notice
    from renewer.emulator.broker.refusals import RefusedError
    from renewer.emulator.broker.sessions import Holder, SessionLock, SessionWaiter
    from renewer.emulator.broker.specs import QueueSpec

BACKLOG = 1024
HANDSHAKE_S = 10.0
"""How long a client may take to ask for a WebSocket."""
MAX_SLEEP_S = 60.0
GRAIN_S = 0.005
"""Ends that lie closer together than this are handled together."""

log = structlog.get_logger("renewer.emulator.broker")


class Broker:
    """A Service Bus over plain AMQP, for development and tests.

    `faults` says what shall go wrong and what time the broker believes it is; the offset shows in the times that it
    tells, not in what it checks. Raises `UsageError` if the queues make no sense together.
    """

    def __init__(
        self,
        queues: Iterable[QueueSpec] = (),
        *,
        lock_duration_s: float = 60.0,
        faults: Faults | None = None,
        options: BrokerOptions | None = None,
    ) -> None:
        self.options = options or BrokerOptions()
        self.faults = Faults() if faults is None else faults
        self.counters = BrokerCounters()
        self.namespace = Namespace(queues, lock_duration_s=lock_duration_s)
        self.deadlines = Deadlines()
        """What ends beside the locks and waits of the model: patience with clients, claims, delays."""
        self.waiting: dict[SessionWaiter, SessionEnd] = {}
        self.to_flush: set[ClientConnection] = set()
        self._clients: set[ClientConnection] = set()
        self._holders: dict[Holder, SessionEnd] = {}
        self._receivers: dict[Entity, dict[ReceiverEnd, None]] = {}
        self._numbers = 0
        self._rearm: anyio.Event | None = None
        self._armed_for = 0.0

    async def serve(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled. Reports the port (0: any free one) when it listens; raises `UsageError` if it cannot.

        What the broker keeps outlives this: serving again is a restart that lost nothing but the connections.
        """
        listener, bound_port = await _listen(host, port)
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_time)
            log.info("broker listens", host=host, port=bound_port)
            task_status.started(bound_port)
            await listener.serve(self._serve_client, tasks)

    async def serve_websocket(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        ssl_context: ssl.SSLContext | None = None,
        task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve over WebSocket, too, beside `serve` and like it; inside TLS with an `ssl_context`."""
        # Imported by those alone who use it.
        from renewer.amqp.websocket import accept_websocket

        async def serve_client(stream: ByteStream) -> None:
            try:
                with anyio.fail_after(HANDSHAKE_S):
                    accepted = await accept_websocket(stream)
            except OSError as error:  # TimeoutError is one.
                log.info("no websocket", error=str(error))
                return
            await self._serve_client(accepted)

        tcp_listener, bound_port = await _listen(host, port)
        listener: Listener[Any] = tcp_listener
        if ssl_context is not None:
            listener = TLSListener(tcp_listener, ssl_context, standard_compatible=False)
        async with listener, anyio.create_task_group() as tasks:
            log.info("broker listens", host=host, port=bound_port, transport="websocket")
            task_status.started(bound_port)
            await listener.serve(serve_client, tasks)

    # To disturb it --------------------------------------------------------------------------------------------------

    def add_queue(self, spec: QueueSpec) -> None:
        """Make one more queue or subscription. Raises `UsageError` if there is one of that name."""
        self.namespace.add(spec)

    def detach_session(
        self, entity: str, session_id: str, *, condition: str = "com.microsoft:session-lock-lost"
    ) -> bool:
        """Throw the holder of a session off its link; False if nobody holds it."""
        lock = self._lock(entity, session_id)
        end = None if lock is None or lock.holder is None else self._holders.get(lock.holder)
        if end is None:
            return False
        end.take_away(condition)
        self.settle_up()
        return True

    def expire(self, entity: str, session_id: str) -> bool:
        """Let the lock of a session run out now; False if there is none."""
        lock = self._lock(entity, session_id)
        if lock is None:
            return False
        lock.table.expire(lock, self.now())
        self.settle_up()
        return True

    def reset_connections(self) -> int:
        """Cut every TCP connection without a word; returns how many there were."""
        for client in self._clients:
            client.reset()
        return len(self._clients)

    def state(self) -> dict[str, object]:
        """What there is, for JSON: counts, and every entity with what it holds. No tokens, no contents."""
        return {
            "counters": self.counters.as_dict(),
            "entities": [
                {
                    "path": entity.path,
                    "requires_session": entity.requires_session,
                    "lock_duration_s": entity.lock_duration_s,
                    "messages": entity.size,
                    "messages_locked": entity.locked,
                    "messages_scheduled": len(entity.schedule),
                    "sessions": len(entity.sessions),
                    "sessions_held": entity.sessions.held,
                }
                for entity in self.namespace
            ],
        }

    def lock_left_s(self, entity: str, session_id: str) -> float | None:
        """How long the lock of a session will last unless it is renewed; None if nobody holds it."""
        lock = self._lock(entity, session_id)
        return None if lock is None or lock.ends_at is None else max(0.0, lock.ends_at - self.now())

    # For the connections --------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Monotonic seconds."""
        return anyio.current_time()

    def utc_ms(self) -> int:
        """UTC milliseconds as the broker's clock, which may be off, has them."""
        return utc_ms(self.faults.utc_now())

    def utc_ms_at(self, at: float) -> int:
        """UTC milliseconds of a monotonic moment as the broker's clock has them."""
        return round(self.utc_ms() + (at - self.now()) * 1000)

    def true_utc_s(self) -> float:
        """Unix seconds without the offset: what tokens are measured against."""
        return (self.faults.utc_now() - timedelta(seconds=self.faults.clock_offset_s)).timestamp()

    def describe(self, text: str) -> str:
        """A description of an error with an id to track it by and the time."""
        return describe(text, self.faults.utc_now())

    def error(self, refusal: RefusedError) -> AmqpError:
        """The error that tells of a refusal, which is counted."""
        self.counters.refused[refusal.condition] += 1
        return to_error(refusal, self.faults.utc_now())

    def lingers(self, *, lost: bool) -> bool:
        """Whether the lock of a session outlives its link."""
        match self.options.linger:
            case Linger.NEVER:
                return False
            case Linger.CONNECTION_LOSS:
                return lost
            case Linger.ALWAYS:
                return True

    def after(self, delay_s: float, action: Callable[[], object]) -> None:
        """Do something later."""
        self.deadlines.add(_Delayed(action, self.now() + delay_s))

    def add_receiver(self, end: ReceiverEnd) -> None:
        """A receiver without session has attached."""
        self._receivers.setdefault(end.entity, {})[end] = None

    def remove_receiver(self, end: ReceiverEnd) -> None:
        """It has gone."""
        self._receivers.get(end.entity, {}).pop(end, None)

    def add_holder(self, end: SessionEnd) -> None:
        """A receiver has a session."""
        self._holders[end.holder] = end
        counters, client = self.counters, end.client
        client.sessions_held += 1
        counters.sessions_accepted += 1
        counters.sessions_held = len(self._holders)
        counters.sessions_held_max = max(counters.sessions_held_max, counters.sessions_held)
        counters.sessions_per_connection_max = max(counters.sessions_per_connection_max, client.sessions_held)

    def remove_holder(self, end: SessionEnd) -> None:
        """It has it no more."""
        if self._holders.get(end.holder) is end:
            del self._holders[end.holder]
            end.client.sessions_held -= 1
            self.counters.sessions_held = len(self._holders)

    def advance(self) -> None:
        """Let end what has ended by now."""
        now = self.now()
        for ending in self.deadlines.pop_due(now):
            ending.end(now)
        due_at = self.namespace.next_due()
        if due_at is not None and due_at <= now:
            self._carry_out(self.namespace.advance(now))

    def settle_up(self) -> None:
        """After anything that changed something: tell whom it concerns, have it written, and set the timer."""
        while notices := self.namespace.take_notices():
            self._carry_out(notices)
        for client in self.to_flush:
            client.transport.flush()
        self.to_flush.clear()
        due_at = self._next_due()
        if due_at is not None and due_at < self._armed_for and self._rearm is not None:
            self._rearm.set()

    # ----------------------------------------------------------------------------------------------------------------

    async def _serve_client(self, stream: ByteStream) -> None:
        async with stream:
            play = play_for(self.faults.pick("servicebus.connect"))
            if play.is_ignored or play.is_silent:
                await _swallow(stream)
                return
            await anyio.sleep(play.delay_s)
            if len(self._clients) >= self.options.max_connections:
                self.counters.refused["amqp:resource-limit-exceeded"] += 1
                return
            self._numbers += 1
            client = ClientConnection(self, self._numbers, stream, play)
            self._clients.add(client)
            self.settle_up()  # It brought a deadline of its own.
            counters = self.counters
            counters.connections_total += 1
            counters.connections = len(self._clients)
            counters.connections_max = max(counters.connections_max, counters.connections)
            try:
                await client.run()
            finally:
                self._clients.discard(client)
                counters.connections = len(self._clients)
                self.settle_up()

    async def _keep_time(self) -> None:
        while True:
            self.advance()
            self.settle_up()
            due_at = self._next_due()
            now = self.now()
            wait_s = MAX_SLEEP_S if due_at is None else min(MAX_SLEEP_S, max(GRAIN_S, due_at - now))
            self._armed_for = now + wait_s
            self._rearm = anyio.Event()
            with anyio.move_on_after(wait_s):
                await self._rearm.wait()

    def _next_due(self) -> float | None:
        return min(
            (at for at in (self.namespace.next_due(), self.deadlines.next_due()) if at is not None), default=None
        )

    def _carry_out(self, notices: list[Notice]) -> None:
        for notice in notices:
            match notice:
                case MessagesReady(entity, None):
                    self._pump(entity)
                case MessagesReady(_, session):
                    end = self._end_of(session.lock) if session is not None else None
                    if end is not None:
                        end.pump()
                case SessionGranted(waiter, lock):
                    end = self.waiting.get(waiter)
                    if end is not None:
                        end.hold(lock)
                        end.accept()
                case SessionWaitTimedOut(waiter):
                    end = self.waiting.get(waiter)
                    if end is not None:
                        end.refuse(refusals.no_session_available())
                case SessionLockExpired(entity, session_id, holder):
                    end = None if holder is None else self._holders.get(holder)
                    if end is not None:
                        self.counters.locks_expired += 1
                        log.info("session lock expired", entity=entity.path, session_id=session_id)
                        end.detach(to_error(refusals.session_lock_lost(session_id), self.faults.utc_now()))
                case MessageLockExpired():
                    self.counters.message_locks_expired += 1

    def _pump(self, entity: Entity) -> None:
        """Give out messages to the receivers in turn: the one that is served first now is the last next time."""
        receivers = self._receivers.get(entity)
        if not receivers:
            return
        for end in [*receivers]:
            end.pump()
        first = next(iter(receivers), None)
        if first is not None:
            del receivers[first]
            receivers[first] = None

    def _end_of(self, lock: SessionLock | None) -> SessionEnd | None:
        return None if lock is None or lock.holder is None else self._holders.get(lock.holder)

    def _lock(self, path: str, session_id: str) -> SessionLock | None:
        entity = self.namespace.find(path)
        session = entity.sessions.get(session_id) if isinstance(entity, Entity) else None
        return None if session is None else session.lock


async def _listen(host: str, port: int) -> tuple[MultiListener[Any], int]:
    try:
        listener = await anyio.create_tcp_listener(local_host=host, local_port=port, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error}; choose another address or port") from error
    return listener, listener.extra(SocketAttribute.local_port)


async def _swallow(stream: ByteStream) -> None:
    """Take what comes and never answer."""
    with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            await stream.receive()


class _Delayed(Ending):
    """Something to do later."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], object], ends_at: float) -> None:
        self.action = action
        self.ends_at = ends_at

    def end(self, now: float) -> None:
        """Do it."""
        self.action()
