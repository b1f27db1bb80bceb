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
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar

from renewer.core.states import MessageFate
from renewer.core.values import value

if TYPE_CHECKING:
    from pathlib import Path

    from anyio.abc import TaskStatus

    from renewer.core.effects import TellLease, TellOperation
    from renewer.core.events import LinkLost
    from renewer.core.model import Grant, LeaseSpec, OperationSpec, PollAnswer, Result
    from renewer.core.quotas import Asking, Quota
    from renewer.messages import InFlight, ReceivedMessage

GATEWAY_ORIGIN: Final = "gateway"
"""The origin, in a lease's context, of what a gateway's workers hold."""

FollowProtocol = Literal["auto", "operation-location", "azure-async-operation", "location", "body"]
FinalStateVia = Literal["operation-location", "azure-async-operation", "location", "original-uri"]

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


@dataclass(frozen=True, slots=True)
class Settlement:
    """What becomes of a message. `properties` change its application properties (abandon, defer, dead-letter).

    Their values are what AMQP knows: None, text, bytes, numbers and the types of `renewer.amqp`. `reason` and
    `description` go with dead-letter alone.
    """

    how: Literal["complete", "abandon", "defer", "dead-letter"]
    properties: Mapping[str, object] = field(default_factory=dict, repr=False)
    reason: str | None = None
    description: str | None = None

    @property
    def fate(self) -> MessageFate:
        """What has become of the message once that is done."""
        return _FATES[self.how]


class LeaseTarget(Protocol):
    """Keeps leases on one remote system."""

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Serve until cancelled, then close every connection. `started` at once, connected or not."""
        ...

    async def acquire(self, spec: LeaseSpec, epoch: int) -> Grant:
        """Acquire the lease as `epoch`. If cancelled, whatever was begun is undone."""
        ...

    async def renew(self, spec: LeaseSpec, epoch: int) -> Grant:
        """Renew the lease of `epoch`. Several calls for one lease may be under way at once.

        `MessageSettledError`, here and in `acquire`, when somebody settled the message whose lock it is.
        """
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

    async def settle(self, spec: LeaseSpec, epoch: int, settlement: Settlement, handle: str | None = None) -> None:
        """Settle a message: with `handle` one that was received in this session, without the one that is locked.

        Returns when the remote has done it. `LeaseLostError` when the lock is gone: the message will be delivered
        again. `MessageSettledError` when it is settled already, `ConflictError` when it cannot be settled so, or not
        here. `UnknownHandleError` for a handle that no message was received with. `TransientError` when it was not
        done, or when nobody knows whether it was (`is_unknown`); the message says which.
        """
        ...

    async def receive(self, spec: LeaseSpec, epoch: int, *, count: int, wait_s: float) -> Sequence[ReceivedMessage]:
        """The next messages of the session, at most `count`; waits so long for the first one, and then for no more.

        None are sent ahead of being asked for, and none of those that are is lost if the caller is cancelled.
        `UsageError` for a count that is not 1 to 100. `ConflictError` when the session is not held as `epoch`, or too
        many of its messages are in flight. `LeaseLostError` as soon as the session is lost.
        """
        ...

    async def receive_deferred(
        self, spec: LeaseSpec, epoch: int, sequence_numbers: Sequence[int]
    ) -> Sequence[ReceivedMessage]:
        """Deferred messages of the session, all of these or none. The errors are those of `receive`.

        `ConflictError` when not all of them are there, deferred and free; `TransientError` when it failed, and may be
        asked again.
        """
        ...

    async def peek(
        self, spec: LeaseSpec, epoch: int, *, count: int, from_sequence_number: int = 0
    ) -> Sequence[ReceivedMessage]:
        """Look at messages of the session in any state, from that number on, without receiving them; at most `count`.

        Fewer do not mean that there are no more. The errors are those of `receive_deferred`.
        """
        ...

    def in_flight(self, spec: LeaseSpec) -> Sequence[InFlight]:
        """What was received over this lease and is not settled, what was lost with earlier epochs included."""
        ...


class PendingRenewal(Protocol):
    """A renewal that was asked for with `begin_renewals`, or an acquisition with `begin_acquisition`."""

    @property
    def grant(self) -> Grant | None:
        """What the remote granted; None if it is not answered, or in any other way."""
        ...

    async def finish(self) -> Grant:
        """What one comes to that was answered without a grant. Returns and raises as `renew` or `acquire`."""
        ...

    def cancel(self) -> None:
        """Stop waiting. No error if it is over."""
        ...


class WantedRenewal(Protocol):
    """A renewal that is to be begun. Whoever begins it sets `renewal`."""

    renewal: PendingRenewal | None

    @property
    def spec(self) -> LeaseSpec:
        """What is to be renewed."""
        ...

    @property
    def epoch(self) -> int:
        """As which epoch it is held."""
        ...


W = TypeVar("W", bound=WantedRenewal)


class BeginsRenewals(Protocol):
    """A lease target that can renew without a task for each renewal, which costs more than all else about it."""

    def begin_renewals(self, wanted: Sequence[W], answered: Callable[[Sequence[W]], None]) -> None:
        """Renew all these as `renew` does; `answered` is called once for each, for several together where they are.

        Perhaps at once, but not before `renewal` is set, and not after that is cancelled. Where `renewal` is not set
        nothing was asked: `renew` knows what is to be done, or waited for, before.
        """
        ...


class BeginsAcquisitions(Protocol):
    """A lease target that can acquire without a task for each acquisition."""

    def begin_acquisition(
        self, spec: LeaseSpec, epoch: int, answered: Callable[[PendingRenewal], None]
    ) -> PendingRenewal | None:
        """Acquire as `acquire` does; `answered` is called once, not before this returns, and not after `cancel`.

        None if nothing was asked: `acquire` knows what is to be done, or waited for, before. What was begun and is
        cancelled is undone.
        """
        ...


class OperationTarget(Protocol):
    """Follows operations of one account on one remote system."""

    @property
    def token_failures(self) -> int:
        """How many requests failed for want of a token that the service takes."""
        ...

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Serve until cancelled, then close every connection."""
        ...

    def prepare(
        self, how: Literal["submit", "adopt"], request: Mapping[str, object], terms: FollowTerms
    ) -> PreparedOperation:
        """Read what a caller asks for. Raises `UsageError` naming the field and what would be right."""
        ...

    def quota(self, spec: OperationSpec, asking: Asking, ticket: object) -> Quota:
        """What the next request of this operation counts against. Pure, quick, and never raises."""
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
    HORIZON = "horizon"


@value
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
    its result), `results` stores the results of operations by their id. Deletes come first. Of a result in a file the
    file is the registry's once the batch is written, also if there is no such operation (any longer); until then it
    stays, so that the same batch can be written again. `unwanted` are such files that are not to be stored after all:
    they are removed.
    """

    puts: Sequence[Entry] = ()
    deletes: Sequence[tuple[EntryKind, str]] = ()
    results: Mapping[str, Result] = field(default_factory=dict)
    unwanted: Sequence[str] = field(default=(), repr=False)


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
        """The result of an operation, its body in `body` or in `file`; None if none is stored.

        The file is the registry's: to be opened soon, and read, for it goes with the operation.
        """
        ...

    def spool_dir(self) -> Path:
        """Where to make the files of results that are large: there they are taken over without being copied.

        It is there, and private, while the registry is open; what is left there is removed when it is opened.
        """
        ...

    async def close(self) -> None:
        """Let go of it. No error if it is not open."""
        ...


@dataclass(frozen=True, slots=True)
class FollowTerms:
    """How a caller wants an operation followed, where its first answer leaves that open or is wrong about it.

    `poll_query` is added to the URL of every poll, `poll_headers` to its headers; both may hold secrets.
    `final_state_via` names where the final result is, in the words of the Azure API specifications.
    """

    protocol: FollowProtocol = "auto"
    final_state_via: FinalStateVia | None = None
    poll_query: Mapping[str, str] = field(default_factory=dict, repr=False)
    poll_headers: Mapping[str, str] = field(default_factory=dict, repr=False)


DEFAULT_TERMS = FollowTerms()


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


class HearsOfRenewals(Protocol):
    """A hook that is told of renewals by themselves, those that were acknowledged together in one go."""

    def renewed(self, news: Sequence[TellLease]) -> None:
        """What `lease` would be told one after the other, each being news of a renewal."""
        ...


_FATES = {
    "complete": MessageFate.COMPLETED,
    "abandon": MessageFate.ABANDONED,
    "defer": MessageFate.DEFERRED,
    "dead-letter": MessageFate.DEAD_LETTERED,
}
