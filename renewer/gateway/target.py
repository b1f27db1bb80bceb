"""The lease target of one gateway: renews what its workers hold, over the connections that they hold it on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

import anyio
import structlog

from renewer.core.states import LossReason
from renewer.errors import ConflictError, LeaseLostError, RemoteError, TransientError
from renewer.gateway.kept import LeaseBook
from renewer.gateway.ledger import ConnectionLedger
from renewer.gateway.spare import SpareChannel
from renewer.targets.servicebus.durations import LockDurations
from renewer.targets.servicebus.lockbatches import LockBatches
from renewer.targets.servicebus.lockrenewals import LockRenewal, LockRenewals
from renewer.targets.servicebus.managementops import read_expiration, renew_session_lock
from renewer.targets.servicebus.pacing import Pace
from renewer.targets.servicebus.verdicts import copy_of

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine, Sequence
    from uuid import UUID

    from anyio.abc import TaskGroup, TaskStatus

    from renewer.core.events import Event
    from renewer.core.model import Grant, LeaseSpec
    from renewer.gateway.kept import Kept
    from renewer.gateway.ledger import LinkPlace
    from renewer.gateway.ledgers import SpareWay
    from renewer.gateway.options import GatewayOptions
    from renewer.messages import InFlight, ReceivedMessage
    from renewer.ports import Clock, Settlement, W
    from renewer.targets.servicebus.credentials import TokenProvider
    from renewer.targets.servicebus.lockbatches import Renewed

MOST_AT_ONCE: Final = 500
"""How many messages get a lease in one tick: after a stall there may be very many, and renewals must not wait."""

log = structlog.get_logger("renewer.gateway")


class GatewayTarget:
    """Keeps the locks of all workers of one gateway. `run` it, and `tick` it four times a second.

    `register` is to know of a lease and have it registered, `post` takes what happens to it. `provider` gives the
    gateway's own tokens; whoever owns it watches it.
    """

    def __init__(
        self,
        options: GatewayOptions,
        clock: Clock,
        provider: TokenProvider,
        *,
        register: Callable[[LeaseSpec], None],
        post: Callable[[Event], None],
        rng: random.Random,
    ) -> None:
        self.options = options
        self.name = options.target_name
        self._clock = clock
        self._provider = provider
        self._rng = rng
        self._durations = LockDurations(options.namespace, clock, None)
        self._book = LeaseBook(options, self._durations, register=register, post=post)
        self._pace = Pace(clock, self.name)
        self._batches = LockBatches(self._pace, clock, most=options.namespace.message_batch)
        self._ledgers: dict[ConnectionLedger, None] = {}
        self._tasks: TaskGroup | None = None

    @property
    def leases(self) -> int:
        """How many locks are kept."""
        return len(self._book)

    @property
    def connections(self) -> int:
        """How many workers' connections are known."""
        return len(self._ledgers)

    @property
    def clock_skew_s(self) -> float | None:
        """The broker's clock less ours, as of its last answer. For people: nothing is decided by it."""
        return self._durations.clock_skew_s

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; nothing is asked beside the workers after that."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._pace.serve)
            await tasks.start(self._batches.serve)
            self._tasks = tasks
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                self._tasks = None
                for ledger in self._ledgers:
                    ledger.stop("the gateway is stopping")

    def connection(self, *, key_name: Callable[[], str | None], worker: str) -> ConnectionLedger:
        """The ledger of one more worker's connection; `worker` is its container-id, to be set when it is known."""
        ledger = ConnectionLedger(
            self._book,
            self._batches,
            gateway=self.options.name,
            key_name=key_name,
            worker=worker,
            make_spare=self._spare,
            on_closed=self._closed,
        )
        self._ledgers[ledger] = None
        return ledger

    def tick(self, now: float) -> None:
        """Keep what is not settled for long, and look after tokens and links of our own, on all connections."""
        if self._tasks is None:
            return
        left = MOST_AT_ONCE
        for ledger in [*self._ledgers]:
            left -= ledger.tick(now, left)

    # LeaseTarget ----------------------------------------------------------------------------------------------------

    async def acquire(self, spec: LeaseSpec, epoch: int) -> Grant:
        """What was seen when the worker got the lock. LeaseLostError when it is gone already."""
        kept = self._find(spec)
        if kept.loss is not None:
            kept.ledger.forget(kept)
            raise copy_of(kept.loss)
        return kept.grant()

    async def renew(self, spec: LeaseSpec, epoch: int) -> Grant:
        """Renew the lock on the worker's connection, naming the worker's link. LeaseLostError when it is gone."""
        kept = self._find(spec)
        if kept.loss is not None:
            raise copy_of(kept.loss)
        try:
            return await (self._renew_session(kept) if kept.token is None else self._renew_message(kept, kept.token))
        except LeaseLostError as error:
            self._book.refused(kept, error)
            raise

    def begin_renewals(self, wanted: Sequence[W], answered: Callable[[Sequence[W]], None]) -> None:
        """Renew the locks of messages without a task that waits. See `BeginsRenewals`."""
        together = LockRenewals(self, answered)
        by_place: dict[LinkPlace, list[LockRenewal[Kept]]] = {}
        for one in wanted:
            kept = self._book.find(one.spec.id)
            if kept is not None and kept.token is not None and kept.loss is None and self._tasks is not None:
                renewal = LockRenewal(together, one, kept, kept.token, kept.lock.duration_s, kept.expires_at)
                by_place.setdefault(kept.place, []).append(renewal)
        for place, renewals in by_place.items():
            self._batches.ask(place, renewals)
            for renewal in renewals:
                renewal.wanted.renewal = renewal

    def granted(self, kept: Kept, renewed: Renewed) -> Grant:
        """Take in that the lock of a message was renewed."""
        self._durations.measure(
            kept.lock, renewed.locked_until, sent_at=renewed.sent_at, received_at=renewed.received_at
        )
        return kept.renewed(renewed.locked_until, sent_at=renewed.sent_at)

    async def lost(self, kept: Kept, error: LeaseLostError) -> LeaseLostError:
        """The broker says that the lock is gone."""
        self._book.refused(kept, error)
        return error

    async def release(self, spec: LeaseSpec, epoch: int) -> None:
        """Renew it no longer. The link is the worker's: who detached it would take the session from under its hands."""
        kept = self._book.find(spec.id)
        if kept is not None:
            kept.ledger.forget(kept)

    async def get_state(self, spec: LeaseSpec, epoch: int) -> bytes | None:
        """ConflictError: see `_used_by_worker`."""
        _used_by_worker()

    async def set_state(self, spec: LeaseSpec, epoch: int, state: bytes | None) -> None:
        """ConflictError: see `_used_by_worker`."""
        _used_by_worker()

    async def settle(self, spec: LeaseSpec, epoch: int, settlement: Settlement, handle: str | None = None) -> None:
        """ConflictError: see `_used_by_worker`."""
        _used_by_worker()

    async def receive(self, spec: LeaseSpec, epoch: int, *, count: int, wait_s: float) -> Sequence[ReceivedMessage]:
        """ConflictError: see `_used_by_worker`."""
        _used_by_worker()

    async def receive_deferred(
        self, spec: LeaseSpec, epoch: int, sequence_numbers: Sequence[int]
    ) -> Sequence[ReceivedMessage]:
        """ConflictError: see `_used_by_worker`."""
        _used_by_worker()

    async def peek(
        self, spec: LeaseSpec, epoch: int, *, count: int, from_sequence_number: int = 0
    ) -> Sequence[ReceivedMessage]:
        """ConflictError: see `_used_by_worker`."""
        _used_by_worker()

    def in_flight(self, spec: LeaseSpec) -> Sequence[InFlight]:
        """What the worker has received is known to the worker."""
        return ()

    # Helpers --------------------------------------------------------------------------------------------------------

    def _closed(self, ledger: ConnectionLedger) -> None:
        self._ledgers.pop(ledger, None)

    def _find(self, spec: LeaseSpec) -> Kept:
        kept = self._book.find(spec.id)
        if kept is None:
            # As of a message lock that an earlier run of the daemon kept: it could be renewed, but for nobody.
            raise LeaseLostError("the connection of the worker that held it is gone", reason=LossReason.CONNECTION_LOST)
        return kept

    async def _renew_session(self, kept: Kept) -> Grant:
        await self._pace.turn(kept.expires_at, key=kept.id)
        if kept.renewal is None:
            kept.renewal = renew_session_lock(
                kept.entity,
                link_name=kept.place.link_name or "",
                session_id=kept.session_id or "",
                lock_s=kept.lock.duration_s,
            )
        try:
            reply = await kept.place.request(kept.renewal)
            locked_until = read_expiration(reply)
        except RemoteError as error:
            self._pace.note(error)
            raise
        self._durations.measure(kept.lock, locked_until, sent_at=reply.sent_at, received_at=reply.received_at)
        return kept.renewed(locked_until, sent_at=reply.sent_at)

    async def _renew_message(self, kept: Kept, token: UUID) -> Grant:
        renewed = await self._batches.renew(kept.place, token, lock_s=kept.lock.duration_s, deadline=kept.expires_at)
        return self.granted(kept, renewed)

    def _spare(self, way: SpareWay) -> SpareChannel:
        return SpareChannel(
            way,
            self.options.namespace,
            self._provider,
            self._clock,
            self._rng,
            name=self.options.name,
            spawn=self._spawn,
        )

    def _spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        if self._tasks is None:
            raise TransientError("the gateway is stopping", kind="network")
        self._tasks.start_soon(_guarded, work, args)


async def _guarded(work: Callable[..., Coroutine[Any, Any, None]], args: Sequence[object]) -> None:
    try:
        await work(*args)
    except Exception:
        # A fault of ours costs what was asked for here, not every other worker's locks.
        log.exception("work beside a worker failed")


def _used_by_worker() -> NoReturn:
    """The worker has the session, or the message, in its own hands: asked for here it could only get in its way."""
    raise ConflictError(
        "the worker itself uses this session or message through the gateway: whatever is to be done is done there"
    )
