"""Leases as the API sees them: registering, looking, waiting, renewing, releasing; and the signs of life of owners."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Protocol

import anyio.lowlevel

from renewer.core.events import LeaseRegistered, LeaseReleaseRequested, LeaseRenewRequested, OwnerSeen
from renewer.core.states import LeaseKind, LeaseState, OwnerKind, is_over
from renewer.daemon.admission import FULL_RETRY_S, Admission
from renewer.daemon.owners import identified
from renewer.daemon.registrar import check_same, is_same_wish
from renewer.errors import AdmissionError, ConflictError, LeaseLostError, RenewerError, TransientError

if TYPE_CHECKING:
    from renewer.api.control import HoldRequest
    from renewer.core.leases import Lease
    from renewer.core.model import LeaseId, LeaseSpec
    from renewer.daemon.admission import Limits
    from renewer.daemon.registrar import Registrar
    from renewer.daemon.supervisor import Supervisor
    from renewer.daemon.waiting import Waiting
    from renewer.ports import Clock


AT_ONCE: Final = 50
"""How many leases are taken on before others have their turn on the event loop."""


class Pools(Protocol):
    """Sessions that are held for whoever asks for the next available one. See `SessionPools`."""

    def covers(self, spec: LeaseSpec) -> bool:
        """Whether who asks for this lease is given one of a pool."""
        ...

    def take(self, wanted: LeaseSpec) -> LeaseSpec:
        """Hand one over; returns it as it is kept from now on. `AdmissionError` when all are taken."""
        ...


class LeaseControl(Admission):
    """The part of `renewer.api.Control` that is about leases as a whole."""

    def __init__(
        self,
        supervisor: Supervisor,
        clock: Clock,
        waiting: Waiting,
        registrar: Registrar,
        *,
        limits: Limits,
        pools: Pools | None = None,
    ) -> None:
        super().__init__(supervisor, clock, waiting, registrar, limits=limits)
        self._pools = pools
        self._connections: Counter[LeaseId] = Counter()

    def leases(self) -> Iterable[Lease]:
        """All leases, in the order of their numbers."""
        # Those that the configuration names come late when they are restored, with the numbers that they had.
        return sorted(self._supervisor.scheduler.leases(), key=_number)

    def lease(self, lease_id: LeaseId) -> Lease | None:
        """One lease, if known."""
        return self._supervisor.scheduler.lease(lease_id)

    async def hold(self, request: HoldRequest) -> tuple[Lease, bool]:
        """Register a lease, or find the one that was asked for before or lives on the same lock."""
        lease, is_new = taken_on = self._take_on(request)
        await (self._stored(lease.spec) if is_new else self._found(lease.spec.id))
        return taken_on

    async def hold_all(self, requests: Sequence[HoldRequest]) -> list[tuple[Lease, bool] | RenewerError]:
        """The same for several, which become durable together; what one comes to is no matter to the others."""
        taken_on: list[tuple[Lease, bool] | RenewerError] = []
        for number, request in enumerate(requests, 1):
            try:
                taken_on.append(self._take_on(request))
            except RenewerError as error:
                taken_on.append(error)
            if number % AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
        keys = [one[0].spec.id for one in taken_on if not isinstance(one, RenewerError)]
        stored = dict(zip(keys, await self._keeper.all_durable(keys), strict=True))
        answers: list[tuple[Lease, bool] | RenewerError] = []
        for one in taken_on:
            try:
                answers.append(one if isinstance(one, RenewerError) else self._acknowledged(one, stored))
            except RenewerError as error:
                answers.append(error)
        return answers

    def _take_on(self, request: HoldRequest) -> tuple[Lease, bool]:
        """The lease as it is kept, and whether it is new; it is not stored yet."""
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
            return found, False
        owner = identified(spec.owner)
        if owner is not spec.owner:
            spec = replace(spec, owner=owner)
        if self._pools is not None and self._pools.covers(spec):
            self._admit_now()
            spec = self._pools.take(spec)
        else:
            self._admit(self._supervisor.scheduler.living_leases, self.limits.leases, "max_leases")
            self._admit_session(spec)
            self.register(spec)
        return self._need_lease(spec.id), True

    def _acknowledged(self, taken_on: tuple[Lease, bool], stored: Mapping[LeaseId, bool]) -> tuple[Lease, bool]:
        """The same, if it is stored, or was known before."""
        lease, is_new = taken_on
        is_stored = stored[lease.spec.id]
        if is_new:
            self._check_stored(lease.spec, is_stored=is_stored)
        else:
            self._check_found(lease.spec.id, is_stored=is_stored)
        return taken_on

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

    async def wait_lease(self, lease_id: LeaseId, done: Callable[[Lease], bool], timeout_s: float) -> None:
        """Return when `done` holds for the lease, when it is forgotten, or when the time is over."""

        def is_done() -> bool:
            lease = self.lease(lease_id)
            return lease is None or done(lease)

        await self._waiting.until([lease_id], is_done, timeout_s)

    def _kept_by(self, lease: Lease) -> ConflictError:
        what = "the message" if lease.spec.kind is LeaseKind.MESSAGE else f"session {lease.spec.session_id!r}"
        since_s = self._clock.now() - lease.registered_at
        return ConflictError(
            f"{what} of {lease.spec.entity} is kept already, by {lease.spec.id} (owner {lease.spec.owner.kind}, since "
            f"{since_s:.0f} s); release that one first, or wait until it is over",
            lease=lease.spec.id,
        )

    def _admit_session(self, spec: LeaseSpec) -> None:
        """A session needs a link of its own, and there are only so many."""
        namespace = self.registrar.namespaces.get(spec.target)
        if spec.kind is not LeaseKind.SESSION or namespace is None or namespace.room is None:
            return
        room = namespace.room()
        if self._supervisor.scheduler.living_sessions(spec.target) >= room.sessions:
            raise AdmissionError(
                f"{room.sessions} sessions of {spec.target} are kept already, the most that {room.why} allow",
                retry_after_s=FULL_RETRY_S,
            )

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


_number = attrgetter("number")


def _is_held(lease: Lease) -> bool:
    return lease.state in (LeaseState.HELD, LeaseState.AT_RISK)
