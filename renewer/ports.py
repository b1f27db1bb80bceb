"""What the daemon asks of the parts around the core: small Protocols, implemented by targets and hooks.

Adapters raise the errors of `renewer.errors` and no others: `TransientError` when an attempt may be made again,
`LeaseLostError` when the remote's word about a lease is final. Everything else is a bug, and is treated as a transient
failure so that it costs one attempt. What an operation's service said, a refusal too, is a value and not an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from renewer.core.effects import TellLease, TellOperation
    from renewer.core.events import LinkLost
    from renewer.core.model import Grant, LeaseSpec, OperationSpec, PollAnswer, Result

ReportLoss = Callable[["LinkLost"], None]
"""Called by a lease target, on the event loop, the moment it notices that a lease's carrier is gone."""


class Clock(Protocol):
    """The two clocks: one that decides, one for people and other machines to read."""

    def now(self) -> float:
        """Monotonic seconds; what every deadline counts on."""
        ...

    def utc_now(self) -> datetime:
        """Wall clock, timezone-aware UTC; decides nothing."""
        ...


class LeaseTarget(Protocol):
    """Keeps leases on one remote system."""

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Serve until cancelled, then close every connection. `started` at once, connected or not."""
        ...

    async def acquire(self, spec: LeaseSpec, epoch: int) -> Grant:
        """Acquire the lease as `epoch`. If cancelled, whatever was begun is undone."""
        ...

    async def renew(self, spec: LeaseSpec, epoch: int) -> Grant:
        """Renew the lease of `epoch`. Several calls for one lease may be under way at once."""
        ...

    async def release(self, spec: LeaseSpec, epoch: int) -> None:
        """Give the lease back; returns when the remote confirmed it. A lease that is not held is no error."""
        ...


class OperationTarget(Protocol):
    """Follows operations of one account on one remote system."""

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Serve until cancelled, then close every connection."""
        ...

    def prepare(self, how: Literal["submit", "adopt"], request: Mapping[str, object]) -> PreparedOperation:
        """Read what a caller asks for. Raises `UsageError` naming the field and what would be right."""
        ...

    async def submit(self, spec: OperationSpec) -> PollAnswer:
        """Send the first request and read its answer."""
        ...

    async def poll(self, spec: OperationSpec, ticket: object) -> PollAnswer:
        """Ask how the operation stands."""
        ...

    async def fetch(self, spec: OperationSpec, ticket: object) -> Result:
        """Fetch the result of an operation that succeeded."""
        ...


@dataclass(frozen=True, slots=True)
class PreparedOperation:
    """A caller's wish, understood: what goes into `OperationSpec`, and the first answer if the caller brought it."""

    request: object
    first: PollAnswer | None
    retry_safe: bool


class Hook(Protocol):
    """Someone who is told what happens: the log, the metrics, an event stream. Must not block and must not raise."""

    def lease(self, news: TellLease) -> None:
        """Something happened to a lease."""
        ...

    def operation(self, news: TellOperation) -> None:
        """Something happened to an operation."""
        ...
