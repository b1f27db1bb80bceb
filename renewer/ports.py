"""What the daemon asks of the parts around the core: small Protocols, implemented by targets and hooks.

Adapters raise the errors of `renewer.errors` and no others: `TransientError` when an attempt may be made again,
`LeaseLostError` when the remote's word about a lease is final. Everything else is a bug, and is treated as a transient
failure so that it costs one attempt. What an operation's service said, a refusal too, is a value and not an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol

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

    async def get_state(self, spec: LeaseSpec, epoch: int) -> bytes | None:
        """The state that the session carries; None if there is none. `ConflictError` for a lease that has none."""
        ...

    async def set_state(self, spec: LeaseSpec, epoch: int, state: bytes | None) -> None:
        """Replace the session's state; None clears it. `ConflictError` for a lease that has none."""
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

    async def cancel(self, spec: OperationSpec, ticket: object) -> None:
        """Ask the service to cancel; polling goes on, and tells what came of it.

        `ConflictError` where the service has no way to cancel it, or it has ended; `TransientError` as for a poll.
        """
        ...

    def dump_request(self, request: object) -> object:
        """The request as JSON values, for `load_request` of this or a later version."""
        ...

    def load_request(self, document: object) -> object:
        """What `dump_request` made. Raises `RegistryError` if it cannot be read."""
        ...

    def dump_ticket(self, ticket: object) -> object:
        """The ticket as JSON values, for `load_ticket` of this or a later version."""
        ...

    def load_ticket(self, document: object) -> object:
        """What `dump_ticket` made. Raises `RegistryError` if it cannot be read."""
        ...


class EntryKind(StrEnum):
    """What is kept in a registry."""

    LEASE = "lease"
    OPERATION = "operation"
    CALLBACK = "callback"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a registry. `number` orders those of a kind; `document` is JSON values, and may hold secrets."""

    kind: EntryKind
    id: str
    number: int
    document: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that are made together or not at all.

    `puts` adds or replaces, `deletes` removes by kind and id (what is not there is no error; with an operation goes
    its result), `results` stores the results of operations by their id. Deletes come first.
    """

    puts: Sequence[Entry] = ()
    deletes: Sequence[tuple[EntryKind, str]] = ()
    results: Mapping[str, Result] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Opened:
    """What opening a registry brought. `generation` counts the times that it was opened.

    `set_aside` says, for people, what was damaged and where it was put; None as a rule.
    """

    generation: int
    entries: Sequence[Entry]
    set_aside: str | None = None


class Registry(Protocol):
    """The durable record of leases, operations, their results, and callbacks that are still to be delivered.

    Every method raises `RegistryError`, whose message names the file, the cause and the remedy. Calls are made one at
    a time.
    """

    async def open(self) -> Opened:
        """Make or find it, bring it to the present version, and read everything, each kind in order of its numbers."""
        ...

    async def write(self, batch: Batch) -> None:
        """Make the changes; they are durable when this returns.

        `UnstorableError` for an entry that never can be stored, such as one that is not JSON: nothing was done then.
        """
        ...

    async def result(self, operation_id: str) -> Result | None:
        """The result of an operation, with its body; None if none is stored."""
        ...

    async def close(self) -> None:
        """Let go of it. No error if it is not open."""
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
