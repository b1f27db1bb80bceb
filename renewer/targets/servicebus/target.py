"""The lease target for one Service Bus namespace: session locks and message locks, over the same connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

import anyio

from renewer.core.states import LeaseKind
from renewer.core.timing import full_jitter_s
from renewer.errors import ConflictError, TransientError
from renewer.targets.servicebus.connection import BrokerConnection
from renewer.targets.servicebus.durations import LockDurations
from renewer.targets.servicebus.messagelocks import MessageLocks
from renewer.targets.servicebus.pool import Pool
from renewer.targets.servicebus.routes import Routes
from renewer.targets.servicebus.sas import shared_access_signature
from renewer.targets.servicebus.sessions import SessionLocks
from renewer.targets.servicebus.tcp import TcpConnector

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream, TaskStatus

    from renewer.core.model import Grant, LeaseSpec
    from renewer.ports import Clock, ReportLoss
    from renewer.targets.servicebus.options import NamespaceOptions

STOP_TIMEOUT_S: Final = 2.0
"""How long closing the connections may take at the end."""

DISTRUST_S: Final = 86_400.0
"""How much longer a token lives that is made after a refusal: the broker's clock may be ahead of ours."""


class ServiceBusTarget:
    """Keeps the locks of one namespace over few AMQP connections.

    `report_loss` is called once for each lease whose link is lost, the moment that is noticed; `on_skew` with the
    estimated difference between the broker's clock and ours, in seconds, whenever an answer gives one. `connect` makes
    the byte stream to the broker.
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
    ) -> None:
        self.options = options
        self.name = options.target_name
        self._clock = clock
        self._rng = rng
        self._connect = connect if connect is not None else TcpConnector(options)
        self._durations = LockDurations(options, clock, on_skew)
        self._pool = Pool(
            self._open,
            clock,
            lambda failures, base_s, cap_s: full_jitter_s(failures, rng.random(), base_s=base_s, cap_s=cap_s),
            spread_after=options.spread_after,
            connect_timeout_s=options.connect_timeout_s,
        )
        self._sessions = SessionLocks(options, self._pool, self._durations, report_loss)
        self._messages = MessageLocks(Routes(self._pool), self._durations)
        self._stopping = anyio.Event()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._pool.connections)

    @property
    def trouble(self) -> str | None:
        """Why the namespace cannot be reached, for people; None as a rule."""
        return self._pool.trouble

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

    async def acquire(self, spec: LeaseSpec, epoch: int) -> Grant:
        """Accept the session, or renew the message's lock for the first time."""
        return await self._locks(spec).acquire(spec, epoch)

    async def renew(self, spec: LeaseSpec, epoch: int) -> Grant:
        """Renew the lock. LeaseLostError when the broker says that it is gone, or when it is not held as this epoch."""
        return await self._locks(spec).renew(spec, epoch)

    async def release(self, spec: LeaseSpec, epoch: int) -> None:
        """Free the session, or stop renewing the message's lock."""
        await self._locks(spec).release(spec, epoch)

    async def get_state(self, spec: LeaseSpec, epoch: int) -> bytes | None:
        """The state that the session carries. See `SessionLocks.get_state`; ConflictError for a message lock."""
        return await self._session_of(spec).get_state(spec, epoch)

    async def set_state(self, spec: LeaseSpec, epoch: int, state: bytes | None) -> None:
        """Replace the state that the session carries. See `SessionLocks.set_state`; ConflictError as above."""
        await self._session_of(spec).set_state(spec, epoch, state)

    def _locks(self, spec: LeaseSpec) -> SessionLocks | MessageLocks:
        match spec.kind:
            case LeaseKind.SESSION:
                return self._sessions
            case LeaseKind.MESSAGE:
                return self._messages
            case _:
                assert_never(spec.kind)

    def _session_of(self, spec: LeaseSpec) -> SessionLocks:
        if spec.kind is not LeaseKind.SESSION:
            raise ConflictError("a message lock has no session state")
        return self._sessions

    # Running --------------------------------------------------------------------------------------------------------

    async def _serve(self, *, task_status: TaskStatus[None]) -> None:
        # Shielded, so that the connections outlive the cancellation by the time that a farewell takes.
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                await tasks.start(self._pool.serve)
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
        return BrokerConnection(stream, self.options, self._clock, self._rng, self._make_token, self._sessions.on_lost)

    def _make_token(self, entity: str, distrustful: bool) -> tuple[str, int]:
        # The later of what the clock shows and what it would show had nobody stepped it: too long a token harms nobody.
        now = max(self._durations.wall.at(self._clock.now()), self._clock.utc_now().timestamp())
        expires_at = int(now + self.options.token_lifetime_s + (DISTRUST_S if distrustful else 0.0))
        token = shared_access_signature(
            self.options.audience(entity), key_name=self.options.key_name, key=self.options.key, expires_at=expires_at
        )
        return token, expires_at
