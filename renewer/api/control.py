"""What the API asks of the daemon, and the values they exchange."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from renewer.core.model import NO_OWNER, Owner
from renewer.core.states import LeaseKind
from renewer.core.values import value
from renewer.ports import DEFAULT_TERMS, FollowTerms

if TYPE_CHECKING:
    from datetime import datetime

    from renewer.core.leases import Lease
    from renewer.core.model import LeaseId, OperationId, Result
    from renewer.core.operations import Operation
    from renewer.errors import RenewerError
    from renewer.messages import InFlight, ReceivedMessage
    from renewer.ports import Clock, Settlement


PASSING_EVENTS = frozenset(
    {"lease.acquire_failed", "lease.renewed", "lease.renew_failed", "operation.polled", "operation.poll_failed"}
)
"""Types of events that are many and soon stale: renewals, polls, and attempts that fail and are made again."""


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The caller's Idempotency-Key, and a digest of what was asked for with it."""

    key: str
    fingerprint: str


@value
class HoldRequest:
    """Someone asks for a lock to be kept. None means "as configured" or, for the session, "the next available".

    For a message lock `lock_token` is given; and, where the caller knows them, `locked_until`, seconds since the epoch,
    and `sequence_number`.
    """

    servicebus: str | None
    entity: str
    kind: LeaseKind = LeaseKind.SESSION
    session_id: str | None = None
    lock_token: str | None = field(default=None, repr=False)
    locked_until: float | None = None
    sequence_number: int | None = None
    lock_duration_s: float | None = None
    reacquire: bool | None = None
    max_duration_s: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    owner: Owner = NO_OWNER
    callback: str | None = None
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class FollowRequest:
    """Someone asks for an operation to be followed: to be submitted by us, or adopted with its first answer.

    `early_probe_s` of 0 means none, whatever the configuration says; None means "as configured".
    """

    account: str | None
    how: Literal["submit", "adopt"]
    request: Mapping[str, object]
    terms: FollowTerms = DEFAULT_TERMS
    deadline_s: float | None = None
    early_probe_s: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    callback: str | None = None
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class EventDocument:
    """One event, as streams and callbacks tell it.

    `id` is ``GENERATION-NUMBER``, growing; `type` such as ``lease.lost`` or ``operation.succeeded``; `subject` the id
    of the lease or operation; `data` JSON values without secrets. `id` is "" for what is not kept for replay.
    """

    id: str
    type: str
    time: datetime
    subject: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TargetReading:
    """One namespace or account as it is now."""

    name: str
    connections: int | None = None
    links: int | None = None
    clock_skew_s: float | None = None


@dataclass(frozen=True, slots=True)
class PoolReading:
    """A pool as it is now: how many sessions it is for, are free (held, or on their way), and with workers.

    Those that nobody has taken and nobody can take, as they are at risk or parked, are none of these.
    """

    target: str
    name: str
    sessions: int
    held: int
    acquiring: int
    taken: int


@dataclass(frozen=True, slots=True)
class GatewayReading:
    """A gateway as it is now, and what it has seen since the start.

    `connections` are those of workers that have proved a key, counted by its name in `keys`; `logging_in` those that
    have not yet. `refusals` are counted by why. `messages` are those passed to workers.
    """

    name: str
    servicebus: str
    listen: str
    connections: int = 0
    logging_in: int = 0
    keys: Mapping[str, int] = field(default_factory=dict)
    refusals: Mapping[str, int] = field(default_factory=dict)
    upstream_failures: int = 0
    messages: int = 0
    buffered_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StatusReading:
    """The daemon as it is now. `trouble` lists, for people, what is wrong; empty as a rule."""

    version: str
    state: Literal["ready", "draining", "stopping"]
    started_at: datetime
    leases: Mapping[str, int]
    operations: Mapping[str, int]
    losses: int
    max_leases: int
    max_operations: int
    loop_lag_s: float
    registry: str
    targets: Sequence[TargetReading] = ()
    pools: Sequence[PoolReading] = ()
    gateways: Sequence[GatewayReading] = ()
    trouble: Sequence[str] = ()
    min_margin_s: float | None = None


class Control(Protocol):
    """The daemon as the API sees it.

    Wishes that cannot be met raise an error of `renewer.errors` that says what would work: `UsageError` (wrong as
    asked), `ConflictError` (wrong now), `AdmissionError` (too many, or draining), `RegistryError` (cannot be stored),
    `TransientError` and `LeaseLostError` (what the remote said). Unknown ids raise `KeyError` in methods that take one
    and return nothing optional.
    """

    @property
    def clock(self) -> Clock:
        """The daemon's clocks."""
        ...

    def status(self) -> StatusReading:
        """Everything about the daemon itself."""
        ...

    async def drain(self, *, enabled: bool, park: bool) -> None:
        """Take no new work (or take it again). With `park`, give every lease back, for the next start to hold."""
        ...

    async def settled(self, key: str | None = None) -> None:
        """Return when what is known of this lease or operation, or of all, is stored or cannot be; soon in any case."""
        ...

    def events(
        self,
        *,
        after: str | None = None,
        wanted: Callable[[str, str], bool] | None = None,
        subjects: Collection[str] | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[EventDocument]]:
        """Events from now on, or from after the one with this id: those of `subjects` alone, where given.

        `wanted` is asked with type and subject.

        An event of type ``stream.gap`` says that some before it are missing: `after` is too old or unknown, or the
        reader fell behind. `PASSING_EVENTS` are told only to readers that have a `wanted`, which gets to choose, and
        are not replayed.
        """
        ...

    def leases(self) -> Iterable[Lease]:
        """All leases, in the order of their registration, which is that of their `number`."""
        ...

    def lease(self, lease_id: LeaseId) -> Lease | None:
        """One lease, if known."""
        ...

    async def hold(self, request: HoldRequest) -> tuple[Lease, bool]:
        """Register a lease; it is stored when this returns.

        True if it is new; False if one with the same Idempotency-Key, or a living one on the same session or message,
        was found instead.
        """
        ...

    async def hold_all(self, requests: Sequence[HoldRequest]) -> Sequence[tuple[Lease, bool] | RenewerError]:
        """Register several leases; each is stored, or why it was not is returned in its place, when this returns.

        What is wrong with one is no matter to the others.
        """
        ...

    async def release(self, lease_id: LeaseId) -> None:
        """Release a lease and wait until the broker confirmed it or had its time. One that has ended is no error."""
        ...

    async def forget_lease(self, lease_id: LeaseId) -> None:
        """Release it if it lives, and drop what is known of it."""
        ...

    async def renew_now(self, lease_id: LeaseId, timeout_s: float) -> Lease:
        """Renew without waiting for the due time; returns once it is renewed.

        `ConflictError` if it is not held, `LeaseLostError` if it is lost by that, `TransientError` in time without.
        """
        ...

    def heartbeat(self, lease_id: LeaseId) -> Lease:
        """The owner gives a sign of life. `ConflictError` if it is not kept by heartbeats, or has ended."""
        ...

    def owner_connection(self, lease_id: LeaseId, *, is_new: bool = False) -> AbstractContextManager[None]:
        """While this is entered the owner's connection stands. `ConflictError` if it is not kept by a connection.

        With `is_new` this is but the request that registers it, and the owner then has its time to connect.
        """
        ...

    def check_epoch(self, lease_id: LeaseId, epoch: int) -> None:
        """`LeaseLostError` if the lease is not on this epoch: whoever held that one can use it no longer."""
        ...

    async def session_state(self, lease_id: LeaseId) -> bytes | None:
        """The state that a held session carries. `ConflictError` if it is not held."""
        ...

    async def set_session_state(self, lease_id: LeaseId, state: bytes | None) -> None:
        """Replace or clear the state that a held session carries. `ConflictError` if it is not held."""
        ...

    async def settle(self, lease_id: LeaseId, settlement: Settlement) -> Lease:
        """Settle the message whose lock it is, which ends the lease; returns when the broker has done it.

        `LeaseLostError` if the lock is gone, `MessageSettledError` if the message is settled already, `ConflictError`
        if it cannot be settled so; `TransientError` if it was not, or if nobody knows whether it was.
        """
        ...

    async def receive(self, lease_id: LeaseId, *, count: int, wait_s: float) -> Sequence[ReceivedMessage]:
        """The next messages of a held session, at most `count`; none if none came in that time.

        `LeaseLostError` if the session is lost, `ConflictError` if it is not held or at risk. If this is cancelled,
        the messages are for whoever asks next.
        """
        ...

    async def receive_deferred(self, lease_id: LeaseId, sequence_numbers: Sequence[int]) -> Sequence[ReceivedMessage]:
        """Deferred messages of a held session, all of these or none: `ConflictError`. Else as `receive`."""
        ...

    async def peek(self, lease_id: LeaseId, *, count: int, from_sequence_number: int = 0) -> Sequence[ReceivedMessage]:
        """Messages of a held session in any state, from that number on, without receiving them; they have no handle."""
        ...

    async def settle_received(self, lease_id: LeaseId, handle: str, settlement: Settlement) -> None:
        """Settle a message that was received over the lease; returns when the broker has done it, or had before.

        `LeaseLostError` if the message will be delivered again, `MessageSettledError` or `ConflictError` if it is
        settled otherwise, `UnknownHandleError` if there is none. `TransientError` if it was not done, or nobody knows.
        """
        ...

    def in_flight(self, lease_id: LeaseId) -> Sequence[InFlight]:
        """What was received over the lease and is not settled, what was lost included."""
        ...

    async def wait_lease(self, lease_id: LeaseId, done: Callable[[Lease], bool], timeout_s: float) -> None:
        """Return when `done` holds for the lease, when it is forgotten, or when the time is over."""
        ...

    def operations(self) -> Iterable[Operation]:
        """All operations, in the order of their registration, which is that of their `number`."""
        ...

    def operation(self, operation_id: OperationId) -> Operation | None:
        """One operation, if known."""
        ...

    async def follow(self, request: FollowRequest) -> tuple[Operation, bool]:
        """Register an operation; it is stored when this returns, and its first request, if ours to send, on its way.

        False if one with the same Idempotency-Key was found instead.
        """
        ...

    async def wait_operations(
        self,
        operation_ids: Sequence[OperationId],
        done: Callable[[Operation], bool],
        timeout_s: float,
        *,
        until: Literal["any", "all"] = "all",
    ) -> None:
        """Return when `done` holds for one, or for all, of those that are known, or when the time is over."""
        ...

    async def result(self, operation_id: OperationId) -> Result | None:
        """The result, its body in `body` or in `file`, which is to be opened at once; None while there is none."""
        ...

    async def cancel(self, operation_id: OperationId) -> None:
        """Ask the service to cancel; the operation's state tells, in time, what came of it."""
        ...

    async def forget_operation(self, operation_id: OperationId) -> None:
        """Stop following, and drop what is known of it, the result too. The service is not asked to cancel."""
        ...
