"""One long-running operation: its record, and what each answer and each passing instant does to it.

The service is asked at the moments that it named, never before (but for one early probe, where the owner wants it).
What it says decides; what it fails to say costs a poll and nothing else, until the operation's own deadline. When it is
done the result is fetched at once, before the service forgets it. A request needs room in its quota, and waits for that
without being late.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, assert_never

from renewer.core.effects import (
    CancelAttempt,
    Effect,
    OperationNews,
    StartFetch,
    StartPoll,
    StartSubmit,
    TellOperation,
)
from renewer.core.failing import Trouble, denied, may_repeat, not_started, overrun, without_result
from renewer.core.model import (
    NO_RESULT,
    Ended,
    OperationSpec,
    PollAnswer,
    Result,
    StillRunning,
    Succeeded,
    Transient,
)
from renewer.core.states import OperationState, is_over
from renewer.core.timing import poll_delay_s, poll_retry_s
from renewer.core.values import shared

if TYPE_CHECKING:
    from collections.abc import Mapping

    from renewer.core.past import OperationPast
    from renewer.core.quotas import Asking

_ATTEMPT_GRACE_S = 1.0
"""How long the shell may take to report an attempt that it cancelled at its deadline."""

_SHORT_S = 5.0
_KEEP_S = 30.0
"""Where polls are no further apart than the first of these, and tell nothing new, one is kept only so often. After a
crash such an operation is polled a little later than it could be, and never earlier."""


class Admission(Protocol):
    """Says whether a request of an operation may begin now."""

    def __call__(self, operation: Operation, now: float, *, may_wait: bool) -> str | None:
        """None if it may, else the name of the quota that it waits for.

        Without `may_wait` it is one that need not be made: it begins only where others have room to spare.
        """
        ...


@dataclass(slots=True)
class Operation:
    """An operation and everything the core knows of it. Instants are monotonic seconds, spans seconds.

    `held_back_by` names the quota that the request due at `next_attempt_at` waits for. `service_started_at` and
    `service_updated_at` are the service's own words, seconds since the epoch. `_regular_at` is when to poll if the
    early probe that is due before it does not end the operation. `_kept_at` is the second in which it was last told
    more than routine. Read it from outside; change it only through its methods.
    """

    spec: OperationSpec
    registered_at: float
    number: int = 0
    state: OperationState = OperationState.ACCEPTED
    status: str | None = None
    ticket: object = None
    polls: int = 0
    poll_errors: int = 0
    retry_after_s: float | None = None
    percent_complete: float | None = None
    service_started_at: float | None = None
    service_updated_at: float | None = None
    error: Mapping[str, object] | None = None
    result: Result | None = None
    next_attempt_at: float | None = None
    held_back_by: str | None = None
    ended_at: float | None = None
    trouble: Trouble | None = None
    _attempt: int = 0
    _attempt_until: float | None = None
    _regular_at: float | None = None
    _kept_at: float = -math.inf

    @property
    def last_poll_error(self) -> str | None:
        """Why the last request failed; None if it did not."""
        return None if self.trouble is None else self.trouble.detail

    @property
    def failing_since(self) -> float | None:
        """When the first of those requests failed that have failed in a row; None if the last one did not."""
        return None if self.trouble is None else self.trouble.since

    @property
    def throttled_until(self) -> float | None:
        """Until when the service wanted no more requests, when it said so to this one last."""
        return None if self.trouble is None else self.trouble.throttled_until

    @property
    def asking(self) -> Asking:
        """What its next request is for."""
        match self.state:
            case OperationState.ACCEPTED:
                return "submit"
            case OperationState.FETCHING:
                return "fetch"
            case _:
                return "poll"

    @property
    def deadline_at(self) -> float:
        """When we stop following, whatever the service says."""
        return self.registered_at + self.spec.policy.deadline_s

    @property
    def forget_at(self) -> float | None:
        """When the record of an ended operation may go; None while it lives."""
        return None if self.ended_at is None else self.ended_at + self.spec.policy.retention_s

    def register(self, first: PollAnswer | None, now: float) -> list[Effect]:
        """Begin: with the service's first answer where the caller has it, else by sending the first request."""
        effects: list[Effect] = [self._tell(OperationNews.REGISTERED, now)]
        if first is None:
            self.next_attempt_at = now
            return effects
        return [*effects, *self._read(first, now)]

    def restore(self, past: OperationPast, now: float) -> list[Effect]:
        """Go on from what is known of an earlier run.

        Nothing is asked before it was due. Where a request was on its way, its answer is not known: another poll waits
        for as long as the service last asked for, and a first request that must not be sent twice is not.
        """
        self.state = past.state
        self.status = past.status
        self.ticket = past.ticket
        self.polls = past.polls
        self.poll_errors = past.poll_errors
        self.retry_after_s = past.retry_after_s
        self.percent_complete = past.percent_complete
        self.service_started_at = past.service_started_at
        self.service_updated_at = past.service_updated_at
        self.error = past.error
        self.result = past.result
        if past.last_poll_error is not None or past.throttled_until is not None:
            self.trouble = Trouble(detail=past.last_poll_error, throttled_until=past.throttled_until)
        self.ended_at = past.ended_at
        if is_over(self.state):
            return []
        effects: list[Effect] = [self._tell(OperationNews.RESTORED, now)]
        due_at = now if past.next_attempt_at is None else max(now, past.next_attempt_at)
        if self.state is OperationState.ACCEPTED and past.was_asking and not self.spec.retry_safe:
            failure = Transient("network", "the daemon was stopped while the first request was on its way")
            return [*effects, *self._attempt_failed(failure, now, 0.0)]
        if self.state is OperationState.RUNNING:
            in_full_at = now + poll_delay_s(self.spec.policy, self.retry_after_s)
            if past.was_asking:
                due_at = in_full_at
            elif self.polls == 0 and self.spec.policy.early_probe_s is not None:
                # What is due may be the early probe.
                self._regular_at = max(due_at, in_full_at)
        self.next_attempt_at = due_at
        return effects

    def forget(self) -> list[Effect]:
        """Nobody wants to know any longer: what is under way is stopped."""
        return [CancelAttempt(self.spec.id, self._attempt)] if self.is_asking else []

    @property
    def is_asking(self) -> bool:
        """Whether a request is on its way whose answer is not known yet."""
        return self._attempt_until is not None

    def wake_at(self) -> float | None:
        """When `advance` next has something to do."""
        if is_over(self.state):
            return self.forget_at
        due_at = self.next_attempt_at if self.held_back_by is None else None
        return min(timer for timer in (due_at, self._attempt_until, self.deadline_at) if timer is not None)

    def advance(self, now: float, fraction: float, admit: Admission) -> list[Effect]:
        """Do what has fallen due at `now`."""
        if is_over(self.state):
            return []
        if self.deadline_at <= now:
            return self._overrun(now)
        if self._attempt_until is not None and self._attempt_until <= now:
            cancel = CancelAttempt(self.spec.id, self._attempt)
            timeout = Transient("timeout", "no answer in time")
            return [cancel, *self._attempt_failed(timeout, now, fraction)]
        if self.next_attempt_at is None or self.next_attempt_at > now or self.held_back_by is not None:
            return []
        waits_for = admit(self, now, may_wait=self._regular_at is None)
        if waits_for is None:
            return self._start_attempt(self.next_attempt_at, now)
        if self._regular_at is not None:
            self.next_attempt_at, self._regular_at = self._regular_at, None
        else:
            self.held_back_by = waits_for
        return []

    def let_go(self, now: float) -> list[Effect]:
        """There is room in the quota that its request waited for."""
        self.held_back_by = None
        return self._start_attempt(now, now)

    def answered(self, attempt: int, answer: PollAnswer, now: float) -> list[Effect]:
        """The first request or a poll was answered."""
        if self.state is OperationState.FETCHING or not self._settle(attempt):
            return []
        if self.state is OperationState.RUNNING:
            self.polls += 1
        self.trouble = None
        return self._read(answer, now)

    def fetched(self, attempt: int, result: Result, now: float) -> list[Effect]:
        """The result arrived."""
        if self.state is not OperationState.FETCHING or not self._settle(attempt):
            return []
        return self._end_with(result, now)

    def failed(self, attempt: int, failure: Transient, now: float, fraction: float) -> list[Effect]:
        """A request failed; the operation itself may be well."""
        if not self._settle(attempt):
            return []
        return self._attempt_failed(failure, now, fraction)

    def _start_attempt(self, due_at: float, now: float) -> list[Effect]:
        self.next_attempt_at = None
        self._attempt += 1
        policy = self.spec.policy
        abandon_at = now + (policy.fetch_s if self.asking == "fetch" else policy.attempt_s)
        self._attempt_until = abandon_at + _ATTEMPT_GRACE_S
        match self.asking:
            case "submit":
                return [StartSubmit(self.spec, self._attempt, due_at, abandon_at)]
            case "fetch":
                return [StartFetch(self.spec, self.ticket, self._attempt, due_at, abandon_at)]
            case "poll":
                return [StartPoll(self.spec, self.ticket, self._attempt, due_at, abandon_at)]

    def _read(self, answer: PollAnswer, now: float) -> list[Effect]:
        match answer:
            case StillRunning():
                return self._still_running(answer, now)
            case Succeeded(status, result, ticket):
                self.status = status or self.status
                if ticket is not None:
                    self.ticket = ticket
                if result is None:
                    self.next_attempt_at = now
                    return self._move(OperationState.FETCHING, now)
                return self._end_with(result, now)
            case Ended(outcome, status, error):
                self.status = status or self.status
                self.error = error
                # Only a first request can be rejected; a poll that says so tells of a failure.
                rejected_late = outcome == "rejected" and self.state is not OperationState.ACCEPTED
                return self._end(OperationState.FAILED if rejected_late else OperationState(outcome), now)
            case _:
                assert_never(answer)

    def _still_running(self, answer: StillRunning, now: float) -> list[Effect]:
        known = (self.status, self.retry_after_s, self.percent_complete, self.ticket)
        self.status = shared(answer.status) or self.status
        self.retry_after_s = shared(answer.retry_after_s)
        if answer.ticket is not None:
            self.ticket = answer.ticket
        if answer.percent_complete is not None:
            self.percent_complete = answer.percent_complete
        self.service_started_at = answer.started_at or self.service_started_at
        self.service_updated_at = answer.updated_at or self.service_updated_at
        self._plan_poll(now)
        effects: list[Effect] = []
        if self.state is OperationState.RUNNING:
            is_same = known == (self.status, self.retry_after_s, self.percent_complete, self.ticket)
            is_soon = self.next_attempt_at is not None and self.next_attempt_at - now <= _SHORT_S
            is_routine = is_same and is_soon and now < self._kept_at + _KEEP_S
            if not is_routine:
                # Whole seconds, which those polled in the same one share.
                self._kept_at = shared(float(math.floor(now)))
            news, asked_s = OperationNews.POLLED, answer.retry_after_s
            effects.append(TellOperation(news, self.spec, self.state, now, None, None, asked_s, is_routine))
        else:
            effects += self._move(OperationState.RUNNING, now)
        if not answer.recognised:
            effects.append(self._tell(OperationNews.UNKNOWN_STATUS, now, detail=answer.status))
        return effects

    def _plan_poll(self, now: float) -> None:
        policy = self.spec.policy
        self.next_attempt_at = now + poll_delay_s(policy, self.retry_after_s)
        self._regular_at = None
        if self.state is OperationState.ACCEPTED and policy.early_probe_s is not None:
            probe_at = now + max(policy.early_probe_s, policy.floor_s)
            if probe_at < self.next_attempt_at:
                self.next_attempt_at, self._regular_at = probe_at, self.next_attempt_at

    def _attempt_failed(self, failure: Transient, now: float, fraction: float) -> list[Effect]:
        self._attempt_until = None
        self.poll_errors += 1
        trouble = self.trouble = Trouble() if self.trouble is None else self.trouble
        trouble.note(failure, now)
        told = self._tell(OperationNews.POLL_FAILED, now, failure=failure.kind, detail=failure.detail)
        if self.state is OperationState.ACCEPTED and not may_repeat(failure, retry_safe=self.spec.retry_safe):
            self.error = not_started(failure)
            return [told, *self._end(OperationState.REJECTED, now)]
        policy = self.spec.policy
        if trouble.is_denial(policy, now):
            return [told, *self._denied_for_good(failure, now)]
        retry_s = poll_retry_s(policy, failures=trouble.failures, fraction=fraction, asked_s=failure.retry_after_s)
        self.next_attempt_at = now + retry_s
        if self._regular_at is not None:
            # The early probe failed, and the service still wants to be left alone.
            self.next_attempt_at, self._regular_at = max(self.next_attempt_at, self._regular_at), None
        return [told]

    def _denied_for_good(self, failure: Transient, now: float) -> list[Effect]:
        """The service does not know the operation, or its result, any longer; or it refuses to tell."""
        if self.state is OperationState.FETCHING:
            return self._end_without_result(failure.detail, now)
        state, self.error = denied(failure, self.spec.policy)
        return self._end(state, now)

    def _overrun(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if self._attempt_until is not None:
            effects.append(CancelAttempt(self.spec.id, self._attempt))
        if self.state is OperationState.FETCHING:
            return [*effects, *self._end_without_result(self.last_poll_error or "no answer in time", now)]
        self.error = overrun(self.spec.policy.deadline_s)
        return [*effects, *self._end(OperationState.TIMED_OUT, now)]

    def _end_without_result(self, detail: str, now: float) -> list[Effect]:
        return self._end_with(replace(NO_RESULT, problem=detail), now)

    def _end_with(self, result: Result, now: float) -> list[Effect]:
        """It succeeded, whatever became of its result."""
        self.result = result
        if result.problem is not None:
            self.result = NO_RESULT
            self.error = without_result(result)
        return self._end(OperationState.SUCCEEDED, now)

    def _end(self, state: OperationState, now: float) -> list[Effect]:
        self.next_attempt_at = None
        self.held_back_by = None
        self._attempt_until = None
        self.ended_at = now
        if state is OperationState.SUCCEEDED:
            self.percent_complete = 100.0
        return self._move(state, now)

    def _settle(self, attempt: int) -> bool:
        """Whether this outcome is wanted: that of the attempt under way."""
        if attempt != self._attempt or self._attempt_until is None:
            return False
        self._attempt_until = None
        return True

    def _move(self, state: OperationState, now: float) -> list[Effect]:
        if self.state is OperationState.ACCEPTED:
            # Answered, so it is sent no more; it can be large.
            self.spec = replace(self.spec, request=None)
        self.state = state
        return [self._tell(OperationNews.STATE_CHANGED, now)]

    def _tell(
        self,
        news: OperationNews,
        now: float,
        *,
        failure: str | None = None,
        detail: str | None = None,
        retry_after_s: float | None = None,
    ) -> TellOperation:
        return TellOperation(news, self.spec, self.state, now, failure, detail, retry_after_s)
