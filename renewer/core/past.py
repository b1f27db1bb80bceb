"""What is still known of leases and operations from before the daemon was started.

Instants are monotonic seconds of the present run: whoever brings a past has moved them over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from renewer.core.states import LeaseState, LossReason, MessageFate, OperationState
from renewer.core.values import value

if TYPE_CHECKING:
    from renewer.core.model import Result


@dataclass(frozen=True, slots=True)
class Loss:
    """The last time a lease was lost."""

    epoch: int
    reason: LossReason
    detail: str
    at: float


@value
class LeasePast:
    """A lease as it was last known. Renewals are not remembered one by one, so `expires_at` is the least it can be."""

    number: int
    state: LeaseState
    registered_at: float
    epoch: int = 0
    session_id: str | None = None
    expires_at: float | None = None
    duration_s: float = 0.0
    losses: int = 0
    last_loss: Loss | None = None
    last_error: str | None = None
    fate: MessageFate | None = None
    forget_at: float | None = None


@value
class OperationPast:
    """An operation as it was last known. `was_asking`: a request was on its way, and its answer is not known."""

    number: int
    state: OperationState
    registered_at: float
    was_asking: bool = False
    status: str | None = None
    ticket: object = None
    polls: int = 0
    poll_errors: int = 0
    retry_after_s: float | None = None
    percent_complete: float | None = None
    service_started_at: float | None = None
    service_updated_at: float | None = None
    error: Mapping[str, object] | None = None
    last_poll_error: str | None = None
    result: Result | None = None
    next_attempt_at: float | None = None
    throttled_until: float | None = None
    ended_at: float | None = None
