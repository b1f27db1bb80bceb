"""The lease target for one Service Bus namespace: session locks and message locks, over the same connections."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, assert_never

import anyio

from renewer.core.states import LeaseKind, LossReason
from renewer.core.timing import full_jitter_s
from renewer.errors import ConflictError, LeaseLostError, RemoteError, TransientError, UsageError
from renewer.targets.servicebus.capacity import Capacity
from renewer.targets.servicebus.ceilings import Ceiling
from renewer.targets.servicebus.connection import BrokerConnection
from renewer.targets.servicebus.credentials import CountedTokens, token_provider
from renewer.targets.servicebus.durations import LockDurations
from renewer.targets.servicebus.lockbatches import LockBatches
from renewer.targets.servicebus.messagelocks import MessageLocks
from renewer.targets.servicebus.messagewire import ManagementWire
from renewer.targets.servicebus.pacing import Pace
from renewer.targets.servicebus.pool import Pool
from renewer.targets.servicebus.routes import Routes
from renewer.targets.servicebus.sessions import SessionLocks
from renewer.targets.servicebus.tcp import tls_context
from renewer.targets.servicebus.transports import connector_for

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Generator, Sequence

    from anyio.abc import ByteStream, TaskStatus

    from renewer.core.model import Grant, LeaseSpec
    from renewer.messages import InFlight, ReceivedMessage
    from renewer.ports import Clock, PendingRenewal, ReportLoss, Settlement, W
    from renewer.targets.servicebus.credentials import TokenProvider
    from renewer.targets.servicebus.messagewire import MessageWire
    from renewer.targets.servicebus.options import NamespaceOptions

STOP_TIMEOUT_S: Final = 2.0
"""How long closing the connections may take at the end."""


NO_SESSIONS: Final = (
    '[{name}] has transport = "rest", which keeps the locks of messages alone; sessions need "amqp" or "amqp-websocket"'
)

_MESSAGE = LeaseKind.MESSAGE  # CPython 3.11 takes its time to read a member off its enum.


class ServiceBusTarget:
    """Keeps the locks of one namespace over few AMQP connections.

    `report_loss` is called once for each lease whose link is lost, the moment that is noticed; `on_skew` with the
    estimated difference between the broker's clock and ours, in seconds, whenever an answer gives one. `connect` makes
    the byte stream to the broker, `provider` the tokens; each as `options` say unless given.
    """

    def __init__(
        self,
        options: NamespaceOptions,
        clock: Clock,
        report_loss: ReportLoss,
        *,
        rng: random.Random,
        on_skew: Callable[[float], None] | None = None,
        connect: Callable[[NamespaceOptions], Awaitable[ByteStream]] | None = None,
        provider: TokenProvider | None = None,
    ) -> None:
        self.options = options
        self.name = options.target_name
        self._clock = clock
        self._rng = rng
        self._connect = connect if connect is not None else connector_for(options)
        self._durations = LockDurations(options, clock, on_skew)
        self._provider = CountedTokens(
            provider or token_provider(options, clock, wall=self._durations.wall, audience=options.audience)
        )
        self._pool = Pool(
            self._provider.prepare,
            self._open,
            clock,
            lambda failures, base_s, cap_s: full_jitter_s(failures, rng.random(), base_s=base_s, cap_s=cap_s),
            spread_after=options.spread_after,
            ceiling=Ceiling(clock, options.max_connections),
            connect_timeout_s=options.connect_timeout_s,
        )
        self._sessions = SessionLocks(options, self._pool, self._durations, report_loss, clock)
        self._pace = Pace(clock, self.name)
        self._messages = MessageLocks(self._message_wire(), self._durations, self._pace, clock)
        self._capacity = Capacity(clock, self.name, options.links_per_session)
        self._stopping = anyio.Event()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._pool.connections)

    @property
    def trouble(self) -> str | None:
        """Why the namespace cannot be reached, or soon may not be, for people; None as a rule."""
        # A credential that nobody needs now may have been put right since it was last tried.
        credential = self._provider.trouble if self._pool.connections else None
        return self._pool.trouble or self._sessions.trouble or credential

    @property
    def token_failures(self) -> int:
        """How often a token could not be had, or was not taken by the broker."""
        return self._provider.failures

    @property
    def session_room(self) -> int:
        """How many sessions can be held, as far as is known: settings say so, and what the broker has refused."""
        # A broker that lets nobody in now will let in again: whoever asks meanwhile may wait for that.
        connections = max(1, self._pool.ceiling.value())
        return int(connections * self._pool.fit_on_one(self.options.sessions_that_share))

    @property
    def is_limited(self) -> bool:
        """Whether the broker has refused connections because there are too many."""
        return self._pool.ceiling.is_lowered

    @property
    def links(self) -> int:
        """How many sessions are held."""
        return len(self._sessions)

    @property
    def clock_skew_s(self) -> float | None:
        """The broker's clock less ours, as of its last answer. For people: nothing is decided by it."""
        return self._durations.clock_skew_s

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Serve until cancelled; then give back all sessions and close the connections, in `STOP_TIMEOUT_S` each."""
        self._stopping = anyio.Event()
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._serve)
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                self._stopping.set()

    def check(self, spec: LeaseSpec) -> None:
        """Raise UsageError for a lease that cannot be kept over this namespace's transport."""
        if self.options.transport != "rest":
            return
        if spec.kind is LeaseKind.SESSION:
            raise UsageError(NO_SESSIONS.format(name=self.name))
        if spec.sequence_number is None:
            raise UsageError('sequence_number: is needed with transport = "rest", which names a message by it')
        if spec.lock_duration_s is None and self.options.lock_duration_s is None:
            raise UsageError(
                'lock_duration: is needed with transport = "rest", where the broker does not tell until when a lock is '
                f"renewed; give it here, or in [{self.name}]"
            )

    async def acquire(self, spec: LeaseSpec, epoch: int) -> Grant:
        """Accept the session, or renew the message's lock for the first time."""
        if spec.kind is LeaseKind.MESSAGE:
            return await self._messages.acquire(spec, epoch)
        if self.options.transport == "rest":
            raise LeaseLostError(NO_SESSIONS.format(name=self.name), reason=LossReason.REFUSED)
        self._pace.admit_newcomer()
        with self._noting():
            return await self._sessions.acquire(spec, epoch)

    async def renew(self, spec: LeaseSpec, epoch: int) -> Grant:
        """Renew the lock. LeaseLostError when the broker says that it is gone, or when it is not held as this epoch."""
        if spec.kind is LeaseKind.MESSAGE:
            return await self._messages.renew(spec, epoch)
        ends_at = self._sessions.ends_at(spec.id)
        await self._pace.turn(self._clock.now() if ends_at is None else ends_at, key=spec.id)
        with self._noting():
            return await self._sessions.renew(spec, epoch)

    def begin_renewals(self, wanted: Sequence[W], answered: Callable[[Sequence[W]], None]) -> None:
        """Renew the locks without a task that waits. See `BeginsRenewals`."""
        messages = [one for one in wanted if one.spec.kind is _MESSAGE]
        if messages:
            self._messages.begin_renewals(messages, answered)
        if len(messages) < len(wanted) and not self._pace.is_slowed:
            sessions = [one for one in wanted if one.spec.kind is not _MESSAGE]
            self._sessions.begin_renewals(sessions, answered, note=self._pace.note)

    def begin_acquisition(
        self, spec: LeaseSpec, epoch: int, answered: Callable[[PendingRenewal], None]
    ) -> PendingRenewal | None:
        """Accept the session without a task that waits. See `BeginsAcquisitions`."""
        if spec.kind is LeaseKind.MESSAGE or self.options.transport == "rest" or self._pace.is_slowed:
            return None
        return self._sessions.begin_acquisition(spec, epoch, answered, note=self._pace.note)

    async def release(self, spec: LeaseSpec, epoch: int) -> None:
        """Free the session, or stop renewing the message's lock."""
        await self._locks(spec).release(spec, epoch)

    async def get_state(self, spec: LeaseSpec, epoch: int) -> bytes | None:
        """The state that the session carries. See `HeldSession.get_state`; ConflictError for a message lock."""
        with self._noting():
            return await self._sessions_of(spec).held(spec, epoch).get_state()

    async def set_state(self, spec: LeaseSpec, epoch: int, state: bytes | None) -> None:
        """Replace the state that the session carries. See `HeldSession.set_state`; ConflictError as above."""
        with self._noting():
            await self._sessions_of(spec).held(spec, epoch).set_state(state)

    async def receive(self, spec: LeaseSpec, epoch: int, *, count: int, wait_s: float) -> Sequence[ReceivedMessage]:
        """Messages of the session. See `LeaseTarget.receive`; ConflictError as above."""
        return await self._sessions_of(spec).held(spec, epoch).receive(count, wait_s)

    async def receive_deferred(
        self, spec: LeaseSpec, epoch: int, sequence_numbers: Sequence[int]
    ) -> Sequence[ReceivedMessage]:
        """Deferred messages of the session. See `LeaseTarget.receive_deferred`; ConflictError as above."""
        with self._noting():
            return await self._sessions_of(spec).held(spec, epoch).receive_deferred(sequence_numbers)

    async def peek(
        self, spec: LeaseSpec, epoch: int, *, count: int, from_sequence_number: int = 0
    ) -> Sequence[ReceivedMessage]:
        """Look at messages of the session. See `LeaseTarget.peek`; ConflictError as above."""
        with self._noting():
            return await self._sessions_of(spec).held(spec, epoch).peek(count, from_sequence_number)

    def in_flight(self, spec: LeaseSpec) -> Sequence[InFlight]:
        """What was received over the lease and is not settled. A lock on one message has received nothing."""
        return self._sessions.in_flight(spec) if spec.kind is LeaseKind.SESSION else ()

    async def settle(self, spec: LeaseSpec, epoch: int, settlement: Settlement, handle: str | None = None) -> None:
        """Settle the message received in the session with that handle, or the one whose lock it is."""
        if spec.kind is LeaseKind.SESSION:
            if handle is None:
                raise UsageError("handle: name the message that is to be settled, as it was received in the session")
            with self._noting():
                await self._sessions.settle(spec, epoch, settlement, handle)
            return
        if handle is not None:
            raise ConflictError("the lease is on the lock of one message: there is no other to settle")
        await self._messages.settle(spec, epoch, settlement)

    def _message_wire(self) -> MessageWire:
        if self.options.transport == "rest":
            # Imported by those alone who use it.
            from renewer.targets.servicebus.restwire import RestWire

            tls = tls_context(self.options.ca_file) if self.options.tls else None
            return RestWire(self.options, self._provider, self._pace, self._clock, tls=tls)
        routes = Routes(self._pool)
        batches = LockBatches(self._pace, self._clock, most=self.options.message_batch)
        return ManagementWire(routes, batches)

    def _locks(self, spec: LeaseSpec) -> SessionLocks | MessageLocks:
        match spec.kind:
            case LeaseKind.SESSION:
                return self._sessions
            case LeaseKind.MESSAGE:
                return self._messages
            case _:
                assert_never(spec.kind)

    def _sessions_of(self, spec: LeaseSpec) -> SessionLocks:
        if spec.kind is not LeaseKind.SESSION:
            raise ConflictError("the lease is on the lock of one message: it has no session to be used")
        return self._sessions

    @contextmanager
    def _noting(self) -> Generator[None, None, None]:
        """What comes of a request is noted: one that is refused because there are too many slows all others down."""
        try:
            yield
        except RemoteError as error:
            self._pace.note(error)
            raise

    # Running --------------------------------------------------------------------------------------------------------

    async def _serve(self, *, task_status: TaskStatus[None]) -> None:
        # Shielded, so that the connections outlive the cancellation by the time that a farewell takes.
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                await tasks.start(self._pool.serve)
                tasks.start_soon(self._provider.watch)
                await tasks.start(self._pace.serve)
                await tasks.start(self._messages.serve)
                task_status.started()
                await self._stopping.wait()
                self._pool.stop()
                await self._sessions.give_all_back()
                with anyio.move_on_after(STOP_TIMEOUT_S):
                    await self._pool.aclose()
                tasks.cancel_scope.cancel()

    async def _open(self) -> BrokerConnection:
        try:
            stream = await self._connect(self.options)
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError) as error:
            what = f"{self.options.host}:{self.options.port}"
            raise TransientError(
                f"cannot connect to {what}: {error or type(error).__name__}", kind="network"
            ) from error
        return BrokerConnection(
            stream, self.options, self._clock, self._rng, self._provider, self._sessions.on_lost, self._capacity
        )
