"""What the API asks of the daemon, and the values they exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from renewer.core.leases import Lease
    from renewer.core.model import LeaseId, OperationId
    from renewer.core.operations import Operation
    from renewer.ports import Clock


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """Someone asks for a session to be held. None means "as configured" or, for the session, "the next available"."""

    servicebus: str | None
    entity: str
    session_id: str | None = None
    lock_duration_s: float | None = None
    reacquire: bool | None = None
    max_duration_s: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FollowRequest:
    """Someone asks for an operation to be followed: to be submitted by us, or adopted with its first answer."""

    account: str | None
    how: Literal["submit", "adopt"]
    request: Mapping[str, object]
    deadline_s: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


class Control(Protocol):
    """The daemon as the API sees it. Wishes that cannot be met raise `UsageError` with what would work."""

    @property
    def clock(self) -> Clock:
        """The daemon's clocks."""
        ...

    def leases(self) -> Iterable[Lease]:
        """All leases, in the order of their registration."""
        ...

    def lease(self, lease_id: LeaseId) -> Lease | None:
        """One lease, if known."""
        ...

    def hold(self, request: HoldRequest) -> tuple[Lease, bool]:
        """Register a lease; True if it is new, False if a living one on the same session was found instead."""
        ...

    async def release(self, lease_id: LeaseId) -> None:
        """Release a lease and wait until the broker confirmed it or had its time."""
        ...

    async def wait_lease(self, lease_id: LeaseId, done: Callable[[Lease], bool], timeout_s: float) -> None:
        """Return when `done` holds for the lease, when it is forgotten, or when the time is over."""
        ...

    def operations(self) -> Iterable[Operation]:
        """All operations, in the order of their registration."""
        ...

    def operation(self, operation_id: OperationId) -> Operation | None:
        """One operation, if known."""
        ...

    def follow(self, request: FollowRequest) -> Operation:
        """Register an operation; its first request, if it is ours to send, is on its way when this returns."""
        ...

    async def wait_operation(
        self, operation_id: OperationId, done: Callable[[Operation], bool], timeout_s: float
    ) -> None:
        """Return when `done` holds for the operation, when it is forgotten, or when the time is over."""
        ...
