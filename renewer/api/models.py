"""The wire models: what a caller sends, and how leases and operations are shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from renewer.config import parse_duration
from renewer.core.states import LeaseKind, LeaseState, LossReason, OperationState

if TYPE_CHECKING:
    from renewer.core.leases import Lease
    from renewer.core.operations import Operation
    from renewer.ports import Clock


def _seconds(value: object) -> float:
    return parse_duration(value).total_seconds()


Duration = Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=365 * 86_400)]
"""Seconds, or a text such as ``500ms``, ``30s``, ``4m``, ``1h``, ``1d``."""

LabelName = Annotated[str, Field(min_length=1, max_length=63)]
LabelValue = Annotated[str, Field(max_length=255)]
Labels = Annotated[dict[LabelName, LabelValue], Field(max_length=32)]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NewLease(_Wire):
    """The body of ``POST /v1/leases``."""

    servicebus: str | None = None
    entity: Annotated[str, Field(min_length=1, max_length=260)]
    session_id: Annotated[str, Field(max_length=128)] | None = None
    lock_duration: Duration | None = None
    reacquire: bool | None = None
    max_duration: Duration | None = None
    labels: Labels = {}


class NewOperation(_Wire):
    """The body of ``POST /v1/operations``: exactly one of `submit` and `adopt`."""

    account: str | None = None
    submit: dict[str, JsonValue] | None = None
    adopt: dict[str, JsonValue] | None = None
    deadline: Duration | None = None
    labels: Labels = {}

    @model_validator(mode="after")
    def _one_way(self) -> NewOperation:
        if (self.submit is None) == (self.adopt is None):
            raise ValueError("give exactly one of submit (we send the first request) and adopt (you did)")
        return self


class LossView(BaseModel):
    """The last time a lease was lost."""

    reason: LossReason
    detail: str
    epoch: int
    at: datetime


class LeaseView(BaseModel):
    """A lease as the API shows it. `remaining_s` is negative for a lease at risk."""

    id: str
    kind: LeaseKind
    state: LeaseState
    servicebus: str
    entity: str
    session_id: str | None
    epoch: int
    locked_until_utc: datetime | None
    remaining_s: float | None
    lock_duration_s: float | None
    next_attempt_at: datetime | None
    registered_at: datetime
    acquired_at: datetime | None
    renewals: int
    last_margin_s: float | None
    min_margin_s: float | None
    losses: int
    last_loss: LossView | None
    last_error: str | None
    labels: dict[str, str]

    @classmethod
    def of(cls, lease: Lease, clock: Clock) -> LeaseView:
        """Show `lease` as it stands now."""
        when = _Calendar(clock)
        loss = lease.last_loss
        return cls(
            id=lease.spec.id,
            kind=lease.spec.kind,
            state=lease.state,
            servicebus=lease.spec.target.partition(".")[2],
            entity=lease.spec.entity,
            session_id=lease.session_id if lease.session_id is not None else lease.spec.session_id,
            epoch=lease.epoch,
            locked_until_utc=None if lease.locked_until is None else datetime.fromtimestamp(lease.locked_until, UTC),
            remaining_s=_rounded(lease.margin_s(when.now)),
            lock_duration_s=_rounded(lease.duration_s) if lease.epoch else None,
            next_attempt_at=when.utc(lease.next_attempt_at),
            registered_at=when.utc_of(lease.registered_at),
            acquired_at=when.utc(lease.acquired_at),
            renewals=lease.renewals,
            last_margin_s=_rounded(lease.last_margin_s),
            min_margin_s=_rounded(lease.min_margin_s),
            losses=lease.losses,
            last_loss=None
            if loss is None
            else LossView(reason=loss.reason, detail=loss.detail, epoch=loss.epoch, at=when.utc_of(loss.at)),
            last_error=lease.last_error,
            labels=dict(lease.spec.labels),
        )


class ResultView(BaseModel):
    """What an operation left behind; the body itself is at `href`."""

    kind: Literal["json", "bytes", "none"]
    size: int
    href: str | None


class OperationView(BaseModel):
    """An operation as the API shows it. `status` is the service's word, `state` ours."""

    id: str
    account: str
    state: OperationState
    status: str | None
    submitted_at: datetime
    next_poll_at: datetime | None
    elapsed_s: float
    deadline_at: datetime
    ended_at: datetime | None
    polls: int
    poll_errors: int
    last_poll_error: str | None
    retry_after_s: float | None
    percent_complete: float | None
    error: dict[str, Any] | None
    result: ResultView | None
    labels: dict[str, str]

    @classmethod
    def of(cls, operation: Operation, clock: Clock) -> OperationView:
        """Show `operation` as it stands now."""
        when = _Calendar(clock)
        result = operation.result
        until = operation.ended_at if operation.ended_at is not None else when.now
        return cls(
            id=operation.spec.id,
            account=operation.spec.account,
            state=operation.state,
            status=operation.status,
            submitted_at=when.utc_of(operation.registered_at),
            next_poll_at=when.utc(operation.next_attempt_at),
            elapsed_s=round(until - operation.registered_at, 3),
            deadline_at=when.utc_of(operation.deadline_at),
            ended_at=when.utc(operation.ended_at),
            polls=operation.polls,
            poll_errors=operation.poll_errors,
            last_poll_error=operation.last_poll_error,
            retry_after_s=operation.retry_after_s,
            percent_complete=operation.percent_complete,
            error=dict(operation.error) if operation.error is not None else None,
            result=None
            if result is None
            else ResultView(
                kind=result.kind,
                size=len(result.body),
                href=None if result.kind == "none" else f"/v1/operations/{operation.spec.id}/result",
            ),
            labels=dict(operation.spec.labels),
        )


class _Calendar:
    """Turns monotonic instants into dates: both clocks are read once, so that one view is consistent in itself."""

    def __init__(self, clock: Clock) -> None:
        self.now = clock.now()
        self._utc_now = clock.utc_now()

    def utc_of(self, at: float) -> datetime:
        return self._utc_now + timedelta(seconds=at - self.now)

    def utc(self, at: float | None) -> datetime | None:
        return None if at is None else self.utc_of(at)


def _rounded(span_s: float | None) -> float | None:
    return None if span_s is None else round(span_s, 3)
