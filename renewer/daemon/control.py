"""The daemon as the API sees it: registering, looking, waiting, releasing. Implements `renewer.api.Control`."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Generator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Literal

import anyio

import renewer
from renewer.api.control import EventDocument, FollowRequest, HoldRequest, StatusReading, TargetReading
from renewer.core.events import (
    ForgetRequested,
    LeaseRegistered,
    LeaseReleaseRequested,
    LeaseRenewRequested,
    OperationRegistered,
    OwnerSeen,
)
from renewer.core.model import LeaseId, LeaseSpec, OperationId, OperationSpec, Result, Succeeded
from renewer.core.states import LeaseKind, LeaseState, OperationState, OwnerKind, is_over
from renewer.daemon.owners import identified
from renewer.daemon.registrar import Registrar, check_same, is_same_wish
from renewer.errors import AdmissionError, ConflictError, LeaseLostError, RegistryError, TransientError

if TYPE_CHECKING:
    from datetime import datetime

    from renewer.core.leases import Lease
    from renewer.core.operations import Operation
    from renewer.daemon.eventstream import EventStream
    from renewer.daemon.supervisor import Supervisor
    from renewer.daemon.waiting import Waiting
    from renewer.ports import Clock, LeaseTarget

_SETTLED_S = 2.0
"""How long an answer waits for the registry before it is given all the same."""

_REMOTE_S = 15.0
"""How long a caller waits for a broker or a service that is asked on its behalf."""

_DRAINING_RETRY_S = 30.0
_FULL_RETRY_S = 5.0


@dataclass(slots=True)
class Limits:
    """How many leases and operations that live are taken on; may be changed while the daemon runs."""

    leases: int = 20_000
    operations: int = 20_000


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the daemon can tell of itself, for `status`."""

    started_at: datetime
    targets: Callable[[], Sequence[TargetReading]] = lambda: ()
    loop_lag_s: Callable[[], float] = lambda: 0.0
    registry: str = "memory"
    trouble: Callable[[], Sequence[str]] = lambda: ()


class DaemonControl:
    """`renewer.api.Control` over the supervisor."""

    def __init__(
        self,
        supervisor: Supervisor,
        clock: Clock,
        waiting: Waiting,
        stream: EventStream,
        registrar: Registrar,
        *,
        limits: Limits,
        outlook: Outlook,
    ) -> None:
        self.limits = limits
        self.registrar = registrar
        self.state: Literal["ready", "draining", "stopping"] = "ready"
        self._supervisor = supervisor
        self._keeper = supervisor.keeper
        self._clock = clock
        self._waiting = waiting
        self._stream = stream
        self._outlook = outlook
        self._connections: Counter[LeaseId] = Counter()

    # --- the daemon itself -----------------------------------------------------------------------------------------

    @property
    def clock(self) -> Clock:
        """The daemon's clocks."""
        return self._clock

    def status(self) -> StatusReading:
        """Everything about the daemon itself."""
        leases = list(self.leases())
        margins = [lease.min_margin_s for lease in leases if lease.min_margin_s is not None]
        trouble = list(self._outlook.trouble())
        if self._keeper.trouble is not None:
            trouble.append(self._keeper.trouble)
        return StatusReading(
            version=renewer.__version__,
            state=self.state,
            started_at=self._outlook.started_at,
            leases=Counter(lease.state.value for lease in leases),
            operations=Counter(operation.state.value for operation in self.operations()),
            losses=sum(lease.losses for lease in leases),
            min_margin_s=min(margins, default=None),
            max_leases=self.limits.leases,
            max_operations=self.limits.operations,
            loop_lag_s=self._outlook.loop_lag_s(),
            registry=self._outlook.registry,
            targets=self._outlook.targets(),
            trouble=trouble,
        )

    async def drain(self, *, enabled: bool, park: bool) -> None:
        """Take no new work (or take it again). With `park`, give every lease back."""
        if self.state == "stopping":
            raise ConflictError("the daemon is stopping")
        self.state = "draining" if enabled else "ready"
        if enabled and park:
            await self._supervisor.park_all()
            await self._keeper.flush()
        elif not enabled:
            self._supervisor.unpark_all()

    async def settled(self, key: str | None = None) -> None:
        """Return when what is known of this lease or operation, or of all, is stored or cannot be; soon in any case."""
        with anyio.move_on_after(_SETTLED_S):
            if key is None:
                await self._keeper.flush()
            else:
                # Again if it changed meanwhile: what is shown next must be what is stored.
                while self._keeper.is_pending(key) and await self._keeper.durable(key):
                    pass

    def events(
        self,
        *,
        after: str | None = None,
        wanted: Callable[[str, str], bool] | None = None,
        subjects: Collection[str] | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[EventDocument]]:
        """Events as they happen; see `renewer.api.Control`."""
        return self._stream.subscribe(after, wanted, subjects=subjects)

    # --- leases ----------------------------------------------------------------------------------------------------

    def leases(self) -> Iterable[Lease]:
        """All leases, in the order of their numbers."""
        # Those that the configuration names come late when they are restored, with the numbers that they had.
        return sorted(self._supervisor.scheduler.leases(), key=_number)

    def lease(self, lease_id: LeaseId) -> Lease | None:
        """One lease, if known."""
        return self._supervisor.scheduler.lease(lease_id)

    async def hold(self, request: HoldRequest) -> tuple[Lease, bool]:
        """Register a lease, or find the one that was asked for before or lives on the same lock."""
        asked_before = self.registrar.lease_asked_before(request.idempotency)
        found = None if asked_before is None else self.lease(asked_before)
        if found is not None:
            check_same(request.idempotency, found.spec)
        spec = self.registrar.lease(request)
        if found is None:
            found = self.living_on(spec)
            if found is not None and not is_same_wish(found.spec, spec):
                raise self._kept_by(found)
        if found is not None:
            await self._found(found.spec.id)
            return found, False
        self._admit(self._supervisor.scheduler.living_leases, self.limits.leases, "max_leases")
        spec = replace(spec, owner=identified(spec.owner))
        self.register(spec)
        await self._stored(spec)
        return self._need_lease(spec.id), True

    def _kept_by(self, lease: Lease) -> ConflictError:
        what = "the message" if lease.spec.kind is LeaseKind.MESSAGE else f"session {lease.spec.session_id!r}"
        since_s = self._clock.now() - lease.registered_at
        return ConflictError(
            f"{what} of {lease.spec.entity} is kept already, by {lease.spec.id} (owner {lease.spec.owner.kind}, since "
            f"{since_s:.0f} s); release that one first, or wait until it is over",
            lease=lease.spec.id,
        )

    def register(self, spec: LeaseSpec) -> None:
        """Register a lease as it is."""
        self.registrar.note(spec)
        self._supervisor.post(LeaseRegistered(spec))

    def living_on(self, spec: LeaseSpec) -> Lease | None:
        """The lease that lives on the same session or message."""
        lease_id = self.registrar.on_same_lock(spec)
        lease = None if lease_id is None else self.lease(lease_id)
        return None if lease is None or is_over(lease.state) else lease

    async def release(self, lease_id: LeaseId) -> None:
        """Release a lease and wait until the broker confirmed it or had its time."""
        self._need_lease(lease_id)
        self._supervisor.post(LeaseReleaseRequested(lease_id))
        await self._supervisor.released(lease_id)
        await self._ended(lease_id)

    async def forget_lease(self, lease_id: LeaseId) -> None:
        """Release it if it lives, and drop what is known of it."""
        lease = self._need_lease(lease_id)
        self._supervisor.post(LeaseReleaseRequested(lease_id))
        await self._supervisor.released(lease_id)
        self._forget(lease.spec)
        await self._ended(lease_id)

    async def renew_now(self, lease_id: LeaseId, timeout_s: float) -> Lease:
        """Renew without waiting for the due time; returns once it is renewed."""
        lease = self._need_held(lease_id)
        epoch, renewals = lease.epoch, lease.renewals
        self._supervisor.post(LeaseRenewRequested(lease_id))
        await self._waiting.until(
            [lease_id], lambda: lease.renewals > renewals or lease.epoch != epoch or not _is_held(lease), timeout_s
        )
        if lease.renewals > renewals and lease.epoch == epoch and _is_held(lease):
            return lease
        if lease.epoch != epoch or not _is_held(lease):
            loss = lease.last_loss
            if loss is None or loss.epoch != epoch:
                raise ConflictError(f"the lease is {lease.state}: it was released meanwhile")
            raise LeaseLostError(f"the lock is lost: {loss.detail}", reason=loss.reason)
        why = f": {lease.last_error}" if lease.last_error else ""
        raise TransientError(f"no renewal was acknowledged within {timeout_s:g} s{why}", kind="timeout")

    def heartbeat(self, lease_id: LeaseId) -> Lease:
        """The owner gives a sign of life."""
        lease = self._need_owned(lease_id, OwnerKind.HEARTBEAT, "register it with owner.kind heartbeat")
        self._supervisor.post(OwnerSeen(lease_id))
        return lease

    @contextmanager
    def owner_connection(self, lease_id: LeaseId, *, is_new: bool = False) -> Generator[None, None, None]:
        """While this is entered the owner's connection stands; with `is_new`, its own is still to come."""
        self._need_owned(lease_id, OwnerKind.CONNECTION, "register it with owner.kind connection")
        self._connections[lease_id] += 1
        self._supervisor.post(OwnerSeen(lease_id, stays=True))
        try:
            yield
        finally:
            self._connections[lease_id] -= 1
            if not self._connections[lease_id]:
                del self._connections[lease_id]
                self._supervisor.post(OwnerSeen(lease_id, is_new=is_new))

    async def session_state(self, lease_id: LeaseId) -> bytes | None:
        """The state that a held session carries."""
        lease = self._need_held(lease_id)
        async with _in_time("the session's state could not be read"):
            return await self._lease_target(lease).get_state(lease.spec, lease.epoch)

    async def set_session_state(self, lease_id: LeaseId, state: bytes | None) -> None:
        """Replace or clear the state that a held session carries."""
        lease = self._need_held(lease_id)
        async with _in_time("it is not known whether the session's state was written"):
            await self._lease_target(lease).set_state(lease.spec, lease.epoch, state)

    async def wait_lease(self, lease_id: LeaseId, done: Callable[[Lease], bool], timeout_s: float) -> None:
        """Return when `done` holds for the lease, when it is forgotten, or when the time is over."""

        def is_done() -> bool:
            lease = self.lease(lease_id)
            return lease is None or done(lease)

        await self._waiting.until([lease_id], is_done, timeout_s)

    # --- operations ------------------------------------------------------------------------------------------------

    def operations(self) -> Iterable[Operation]:
        """All operations, in the order of their numbers, in which they were registered."""
        return self._supervisor.scheduler.operations()

    def operation(self, operation_id: OperationId) -> Operation | None:
        """One operation, if known."""
        return self._supervisor.scheduler.operation(operation_id)

    async def follow(self, request: FollowRequest) -> tuple[Operation, bool]:
        """Register an operation; its first request, if it is ours to send, is on its way when this returns."""
        asked_before = self.registrar.operation_asked_before(request.idempotency)
        found = None if asked_before is None else self.operation(asked_before)
        if found is not None:
            check_same(request.idempotency, found.spec)
            await self._found(found.spec.id)
            return found, False
        spec, first = self.registrar.operation(request)
        self._admit(self._supervisor.scheduler.living_operations, self.limits.operations, "max_operations")
        if isinstance(first, Succeeded) and first.result is not None:
            first = replace(first, result=self._keeper.keep_result(spec.id, first.result))
        self.registrar.note(spec)
        self._supervisor.post(OperationRegistered(spec, first))
        await self._stored(spec)
        return self._need_operation(spec.id), True

    async def wait_operations(
        self,
        operation_ids: Sequence[OperationId],
        done: Callable[[Operation], bool],
        timeout_s: float,
        *,
        until: Literal["any", "all"] = "all",
    ) -> None:
        """Return when `done` holds for one, or for all, of those that are known, or when the time is over."""

        def is_done() -> bool:
            known = [found for name in operation_ids if (found := self.operation(name)) is not None]
            return not known or (any if until == "any" else all)(map(done, known))

        await self._waiting.until(operation_ids, is_done, timeout_s)

    async def result(self, operation_id: OperationId) -> Result | None:
        """The result with its body; None while there is none."""
        operation = self._need_operation(operation_id)
        if operation.result is None or not operation.result.size:
            return operation.result
        return await self._keeper.result(operation_id)

    async def cancel(self, operation_id: OperationId) -> None:
        """Ask the service to cancel; the operation's state tells, in time, what came of it."""
        operation = self._need_operation(operation_id)
        if is_over(operation.state) or operation.state is OperationState.FETCHING:
            raise ConflictError(f"the operation is {operation.state}: there is nothing left to cancel")
        if operation.state is OperationState.ACCEPTED:
            raise ConflictError("the operation's first request is not answered yet; wait for it, and cancel then")
        account = self.registrar.accounts.get(operation.spec.account)
        if account is None:
            raise ConflictError(f"[{operation.spec.account}] is not in the configuration any longer; put it back")
        async with _in_time("it is not known whether the service was asked to cancel"):
            await account.target.cancel(operation.spec, operation.ticket)

    async def forget_operation(self, operation_id: OperationId) -> None:
        """Stop following, and drop what is known of it, the result too."""
        self._forget(self._need_operation(operation_id).spec)
        await self._ended(operation_id)

    # --- helpers ---------------------------------------------------------------------------------------------------

    async def _found(self, key: str) -> None:
        """Another's registration may still be on its way to the registry; it is not acknowledged before that one is."""
        if not await self._keeper.durable(key) and not self._supervisor.knows(key):
            raise RegistryError(f"not registered, because it cannot be stored: {self._why()}")

    async def _ended(self, key: str) -> None:
        if not await self._keeper.durable(key):
            raise RegistryError(
                f"it was let go, but after a restart it would be back, because that cannot be stored: {self._why()}"
            )

    def _why(self) -> str:
        return self._keeper.trouble or "see the log"

    async def _stored(self, spec: LeaseSpec | OperationSpec) -> None:
        if await self._keeper.durable(spec.id):
            return
        why = self._why()
        # What cannot be stored is not taken on: after a crash nobody would know of it.
        self._forget(spec)
        raise RegistryError(f"not registered, because it cannot be stored: {why}")

    def _forget(self, spec: LeaseSpec | OperationSpec) -> None:
        self.registrar.drop(spec)
        self._supervisor.post(ForgetRequested(spec.id))

    def _admit(self, living: int, limit: int, setting: str) -> None:
        if self.state != "ready":
            raise AdmissionError(f"the daemon is {self.state}: it takes no new work", retry_after_s=_DRAINING_RETRY_S)
        if self._keeper.trouble is not None:
            raise RegistryError(f"not registered, because it cannot be stored: {self._keeper.trouble}")
        if living >= limit:
            raise AdmissionError(
                f"{living} are kept already, the most that [api] {setting} allows", retry_after_s=_FULL_RETRY_S
            )

    def _lease_target(self, lease: Lease) -> LeaseTarget:
        namespace = self.registrar.namespaces.get(lease.spec.target)
        if namespace is None:
            raise ConflictError(f"[{lease.spec.target}] is not in the configuration any longer; put it back")
        return namespace.target

    def _need_lease(self, lease_id: LeaseId) -> Lease:
        lease = self.lease(lease_id)
        if lease is None:
            raise KeyError(lease_id)
        return lease

    def _need_held(self, lease_id: LeaseId) -> Lease:
        lease = self._need_lease(lease_id)
        if not _is_held(lease):
            raise ConflictError(f"the lease is {lease.state}, not held; wait until it is")
        return lease

    def _need_owned(self, lease_id: LeaseId, kind: OwnerKind, remedy: str) -> Lease:
        lease = self._need_lease(lease_id)
        if lease.spec.owner.kind is not kind:
            raise ConflictError(f"the owner of this lease is of kind {lease.spec.owner.kind}; {remedy}")
        if is_over(lease.state):
            raise ConflictError(f"the lease is {lease.state}")
        return lease

    def _need_operation(self, operation_id: OperationId) -> Operation:
        operation = self.operation(operation_id)
        if operation is None:
            raise KeyError(operation_id)
        return operation


_number = attrgetter("number")


def _is_held(lease: Lease) -> bool:
    return lease.state in (LeaseState.HELD, LeaseState.AT_RISK)


@asynccontextmanager
async def _in_time(otherwise: str) -> AsyncIterator[None]:
    try:
        with anyio.fail_after(_REMOTE_S):
            yield
    except TimeoutError as error:
        raise TransientError(f"no answer within {_REMOTE_S:g} s: {otherwise}", kind="timeout") from error
