"""The daemon as the API, the configuration and the demo see it: registering, looking, waiting, releasing."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from renewer.api import FollowRequest, HoldRequest
from renewer.core.events import LeaseRegistered, LeaseReleaseRequested, OperationRegistered
from renewer.core.leases import Lease
from renewer.core.model import LeaseId, LeaseSpec, OperationId, OperationSpec
from renewer.core.operations import Operation
from renewer.core.states import is_over
from renewer.errors import UsageError

if TYPE_CHECKING:
    from renewer.core.timing import PollPolicy, RenewalPolicy
    from renewer.daemon.supervisor import Supervisor
    from renewer.daemon.waiting import Waiting
    from renewer.ports import Clock, OperationTarget

_Item = TypeVar("_Item", Lease, Operation)


@dataclass(frozen=True, slots=True)
class Account:
    """An account that operations can be followed on, and how patiently."""

    target: OperationTarget
    policy: PollPolicy


class DaemonControl:
    """Implements `renewer.api.Control` over the supervisor. Ids are random and mean nothing."""

    def __init__(
        self,
        supervisor: Supervisor,
        clock: Clock,
        waiting: Waiting,
        *,
        namespaces: Mapping[str, RenewalPolicy],
        accounts: Mapping[str, Account],
    ) -> None:
        self._supervisor = supervisor
        self._clock = clock
        self._waiting = waiting
        self._namespaces = namespaces
        self._accounts = accounts
        self._by_session: dict[tuple[str, str, str | None], LeaseId] = {}

    @property
    def clock(self) -> Clock:
        """The daemon's clocks."""
        return self._clock

    def leases(self) -> Iterable[Lease]:
        """All leases, in the order of their registration."""
        return self._supervisor.scheduler.leases()

    def lease(self, lease_id: LeaseId) -> Lease | None:
        """One lease, if known."""
        return self._supervisor.scheduler.lease(lease_id)

    def hold(self, request: HoldRequest) -> tuple[Lease, bool]:
        """Register a lease; one that lives on the same session is returned instead, for two would only fight."""
        name = _choose(request.servicebus, self._namespaces, "servicebus")
        target = f"servicebus.{name}"
        key = (target, request.entity.lower(), request.session_id)
        living = self._living(key)
        if living is not None:
            return living, False
        policy = self._namespaces[name]
        if request.reacquire is not None:
            policy = replace(policy, reacquire=request.reacquire)
        if request.max_duration_s is not None:
            policy = replace(policy, max_duration_s=request.max_duration_s)
        spec = LeaseSpec(
            id=LeaseId(f"lease-{secrets.token_hex(8)}"),
            target=target,
            entity=request.entity,
            session_id=request.session_id,
            lock_duration_s=request.lock_duration_s,
            policy=policy,
            labels=request.labels,
        )
        if request.session_id is not None:
            self._by_session[key] = spec.id
        self._supervisor.post(LeaseRegistered(spec))
        return self._registered(self.lease(spec.id)), True

    def _living(self, key: tuple[str, str, str | None]) -> Lease | None:
        lease_id = self._by_session.get(key)
        lease = None if lease_id is None else self.lease(lease_id)
        if lease is None or is_over(lease.state):
            self._by_session.pop(key, None)
            return None
        return lease

    async def release(self, lease_id: LeaseId) -> None:
        """Release a lease and wait until the broker confirmed it or had its time."""
        self._supervisor.post(LeaseReleaseRequested(lease_id))
        await self._supervisor.released(lease_id)

    async def wait_lease(self, lease_id: LeaseId, done: Callable[[Lease], bool], timeout_s: float) -> None:
        """Return when `done` holds for the lease, when it is forgotten, or when the time is over."""
        await self._waiting.until(lease_id, lambda: self.lease(lease_id), done, timeout_s)

    def operations(self) -> Iterable[Operation]:
        """All operations, in the order of their registration."""
        return self._supervisor.scheduler.operations()

    def operation(self, operation_id: OperationId) -> Operation | None:
        """One operation, if known."""
        return self._supervisor.scheduler.operation(operation_id)

    def follow(self, request: FollowRequest) -> Operation:
        """Register an operation; its first request, if it is ours to send, is on its way when this returns."""
        name = _choose(request.account, self._accounts, "account")
        account = self._accounts[name]
        prepared = account.target.prepare(request.how, request.request)
        policy = account.policy
        if request.deadline_s is not None:
            policy = replace(policy, deadline_s=request.deadline_s)
        spec = OperationSpec(
            id=OperationId(f"op-{secrets.token_hex(8)}"),
            account=name,
            request=prepared.request,
            retry_safe=prepared.retry_safe,
            policy=policy,
            labels=request.labels,
        )
        self._supervisor.post(OperationRegistered(spec, prepared.first))
        return self._registered(self.operation(spec.id))

    async def wait_operation(
        self, operation_id: OperationId, done: Callable[[Operation], bool], timeout_s: float
    ) -> None:
        """Return when `done` holds for the operation, when it is forgotten, or when the time is over."""
        await self._waiting.until(operation_id, lambda: self.operation(operation_id), done, timeout_s)

    @staticmethod
    def _registered(item: _Item | None) -> _Item:
        if item is None:
            raise RuntimeError("what was registered is not there")
        return item


def _choose(given: str | None, known: Mapping[str, object], field: str) -> str:
    """The name given, or the only one there is."""
    if given is None and len(known) == 1:
        return next(iter(known))
    # Accounts are called by their section, fabric.main; the name alone will do where it is clear.
    meant = [name for name in known if given in (name, name.partition(".")[2])]
    if given and len(meant) == 1:
        return meant[0]
    if not known:
        raise UsageError(f"{field}: the configuration has none; add one and restart")
    names = ", ".join(sorted(known))
    raise UsageError(f"{field}: name one of those configured: {names}" + (f" (not {given!r})" if given else ""))
