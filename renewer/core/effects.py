"""What the core asks for: attempts to be made or cancelled, and news to be told.

Instants are monotonic seconds. An attempt's `abandon_at` is when the shell cancels it; the core itself goes on
earlier, at a deadline of its own, and still accepts an answer that comes in between.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from renewer.core.values import value

if TYPE_CHECKING:
    from renewer.core.model import LeaseId, LeaseSpec, OperationId, OperationSpec
    from renewer.core.states import LossReason, OperationState


@value
class StartAcquire:
    """Acquire the lease anew as `epoch`."""

    spec: LeaseSpec
    epoch: int
    attempt: int
    due_at: float
    abandon_at: float


@value
class StartRenew:
    """Renew the lease of `epoch`, whose lock ends at `expires_at`.

    After `patience_s` the core goes on without it, though its answer still counts.
    """

    spec: LeaseSpec
    epoch: int
    attempt: int
    due_at: float
    abandon_at: float
    patience_s: float
    expires_at: float


@value
class StartRelease:
    """Give the lease back, or tidy up what is left of a lost one; nothing waits for the outcome."""

    spec: LeaseSpec
    epoch: int


@value
class CancelAttempt:
    """Stop waiting for this attempt; its outcome is no longer wanted."""

    key: LeaseId | OperationId
    attempt: int


@value
class StartSubmit:
    """Send the operation's first request."""

    spec: OperationSpec
    attempt: int
    due_at: float
    abandon_at: float


@value
class StartPoll:
    """Ask how the operation stands."""

    spec: OperationSpec
    ticket: object
    attempt: int
    due_at: float
    abandon_at: float


@value
class StartFetch:
    """Fetch the result of a finished operation."""

    spec: OperationSpec
    ticket: object
    attempt: int
    due_at: float
    abandon_at: float


class LeaseNews(StrEnum):
    """What can be told of a lease."""

    REGISTERED = "registered"
    RESTORED = "restored"
    REVISED = "revised"
    ACQUIRED = "acquired"
    REACQUIRED = "reacquired"
    ACQUIRE_FAILED = "acquire_failed"
    RENEWED = "renewed"
    RENEW_FAILED = "renew_failed"
    AT_RISK = "at_risk"
    RECOVERED = "recovered"
    LOST = "lost"
    RELEASED = "released"
    PARKED = "parked"
    FORGOTTEN = "forgotten"


@value
class TellLease:
    """News of a lease. `margin_s` is what was left of the lock of `lock_s` when a renewal was acknowledged.

    `session_id` is the session that was accepted, or asked for; `failures` counts attempts that failed in a row.
    """

    news: LeaseNews
    spec: LeaseSpec
    epoch: int
    at: float
    reason: LossReason | None = None
    failure: str | None = None
    detail: str | None = None
    margin_s: float | None = None
    final: bool = False
    session_id: str | None = None
    failures: int = 0
    lock_s: float | None = None


class OperationNews(StrEnum):
    """What can be told of an operation."""

    REGISTERED = "registered"
    RESTORED = "restored"
    POLLED = "polled"
    POLL_FAILED = "poll_failed"
    UNKNOWN_STATUS = "unknown_status"
    STATE_CHANGED = "state_changed"
    FORGOTTEN = "forgotten"


@value
class TellOperation:
    """News of an operation, in `state` after it.

    With `is_routine` there is nothing new but when it is due next, and that need not be kept.
    """

    news: OperationNews
    spec: OperationSpec
    state: OperationState
    at: float
    failure: str | None = None
    detail: str | None = None
    retry_after_s: float | None = None
    is_routine: bool = False


Attempt = StartAcquire | StartRenew | StartSubmit | StartPoll | StartFetch
Effect = Attempt | StartRelease | CancelAttempt | TellLease | TellOperation
