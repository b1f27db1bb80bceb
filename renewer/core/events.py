"""What the core is told: registrations, wishes, and the outcomes of attempts."""

from __future__ import annotations

from renewer.core.model import (
    Failure,
    Grant,
    LeaseId,
    LeaseSpec,
    OperationId,
    OperationSpec,
    PollAnswer,
    Result,
    Transient,
)
from renewer.core.past import LeasePast, OperationPast
from renewer.core.states import LossReason, MessageFate
from renewer.core.values import value


@value
class LeaseRegistered:
    """Someone wants this lease kept. If a lease or an operation of this id is known, nothing changes."""

    spec: LeaseSpec


@value
class LeaseRestored:
    """A lease that was registered before the daemon was started. If its id is known, nothing changes."""

    spec: LeaseSpec
    past: LeasePast


@value
class LeaseGranted:
    """An attempt to acquire or renew succeeded."""

    lease_id: LeaseId
    epoch: int
    attempt: int
    grant: Grant


@value
class LeaseAttemptFailed:
    """An attempt to acquire or renew failed."""

    lease_id: LeaseId
    epoch: int
    attempt: int
    failure: Failure


@value
class LinkLost:
    """The target noticed, outside any attempt, that what carried the lease is gone."""

    lease_id: LeaseId
    epoch: int
    reason: LossReason
    detail: str


@value
class LeaseSettling:
    """The message whose lock the lease is on is about to be settled: no renewal may cross that.

    Exactly one of `LeaseSettled`, `LeaseNotSettled` and `LinkLost` must follow.
    """

    lease_id: LeaseId
    epoch: int


@value
class LeaseSettled:
    """The message is settled, by us or by somebody else: there is no lock any longer, and nothing is lost."""

    lease_id: LeaseId
    epoch: int
    fate: MessageFate


@value
class LeaseNotSettled:
    """The message was not settled, or nobody knows whether it was: renew on, and see."""

    lease_id: LeaseId
    epoch: int


@value
class LeaseReleaseRequested:
    """The owner is done with the lease."""

    lease_id: LeaseId


@value
class LeaseParkRequested:
    """The daemon stops: give the lease back, and leave it to be acquired by whoever starts next."""

    lease_id: LeaseId


@value
class LeaseUnparkRequested:
    """The daemon goes on after all: a parked lease is acquired again."""

    lease_id: LeaseId


@value
class LeaseRevised:
    """The lease is to be kept on other terms from now on; what it is on stays the same."""

    spec: LeaseSpec

    @property
    def lease_id(self) -> LeaseId:
        """Which lease."""
        return self.spec.id


@value
class LeaseHandedOver:
    """The lease, as it stands, is kept from now on for an owner who asked for one like it, on that owner's terms."""

    spec: LeaseSpec

    @property
    def lease_id(self) -> LeaseId:
        """Which lease."""
        return self.spec.id


@value
class LeaseRenewRequested:
    """Someone wants the lease renewed now, whenever it is due."""

    lease_id: LeaseId


@value
class OwnerSeen:
    """The owner gave a sign of life. While it `stays`, it needs to give no other: its connection stands.

    One that `is_new` has yet to open its connection.
    """

    lease_id: LeaseId
    stays: bool = False
    is_new: bool = False


@value
class OwnerGone:
    """The owner is known to have ended."""

    lease_id: LeaseId
    detail: str


@value
class ForgetRequested:
    """Nobody wants to know of this lease or operation any longer; a lease that lives is released."""

    key: LeaseId | OperationId


@value
class OperationRestored:
    """An operation that was registered before the daemon was started. If its id is known, nothing changes."""

    spec: OperationSpec
    past: OperationPast


@value
class OperationRegistered:
    """Someone wants this operation followed. If a lease or an operation of this id is known, nothing changes.

    `first` is the service's first answer when the caller brings it along.
    """

    spec: OperationSpec
    first: PollAnswer | None = None


@value
class OperationAnswered:
    """A first request or a poll was answered."""

    operation_id: OperationId
    attempt: int
    answer: PollAnswer


@value
class ResultFetched:
    """The result of a finished operation arrived."""

    operation_id: OperationId
    attempt: int
    result: Result


@value
class OperationAttemptFailed:
    """A request for an operation failed; the operation itself may be well."""

    operation_id: OperationId
    attempt: int
    failure: Transient


LeaseEvent = (
    LeaseRegistered
    | LeaseRestored
    | LeaseGranted
    | LeaseAttemptFailed
    | LinkLost
    | LeaseRevised
    | LeaseHandedOver
    | LeaseRenewRequested
    | LeaseSettling
    | LeaseSettled
    | LeaseNotSettled
    | LeaseReleaseRequested
    | LeaseParkRequested
    | LeaseUnparkRequested
    | OwnerSeen
    | OwnerGone
)
OperationEvent = OperationRegistered | OperationRestored | OperationAnswered | ResultFetched | OperationAttemptFailed
Event = LeaseEvent | OperationEvent | ForgetRequested
