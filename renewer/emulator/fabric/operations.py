"""Operations and job instances as the service knows them: how far they are, and what they would answer now."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Generic, TypeVar, assert_never

from renewer.emulator.fabric.scenario import Ending, Scenario
from renewer.emulator.fabric.wire import error_document, timestamp

if TYPE_CHECKING:
    from datetime import datetime

    from renewer.emulator.fabric.scenario import BytesResult, JsonResult, NoResult

MAX_KEPT = 50_000
"""Operations that are remembered; the oldest are forgotten first, as the service forgets."""

OPERATION_RUNNING = ("Running",)
JOB_RUNNING = ("NotStarted", "InProgress")


@dataclass(slots=True)
class Throttle:
    """Puts requests off, `left` times, each time for `span_s` seconds."""

    left: int
    span_s: int
    until_s: float | None = None

    def wait_s(self, now_s: float) -> float | None:
        """Count a request; return the seconds for which it is put off, None when it is heard."""
        if self.until_s is not None and now_s < self.until_s:
            return self.until_s - now_s
        if self.left == 0:
            self.until_s = None
            return None
        self.left -= 1
        self.until_s = now_s + self.span_s
        return float(self.span_s)


@dataclass(slots=True)
class Progress:
    """How far one accepted operation is. Moments in `_s` are on the emulator's monotonic clock."""

    scenario: Scenario
    created_at: datetime
    accepted_s: float
    polls: int = 0
    """Polls that were answered with a state."""
    ended_at: datetime | None = None
    cancelled: bool = False
    told_until_s: float | None = None
    """No poll should come before, by the Retry-After of the last answer that was sent."""
    throttle: Throttle = field(init=False)

    def __post_init__(self) -> None:
        self.throttle = Throttle(self.scenario.poll_throttles, self.scenario.throttle_s)

    def poll(self, now_s: float, utc_now: datetime) -> None:
        """Count an answered poll, which is what moves an operation that is scripted in polls."""
        self.polls += 1
        limit = self.scenario.running_polls
        if limit is not None and self.polls > limit and self.scenario.ending is not Ending.NEVER:
            self.ended_at = self.ended_at or utc_now
        self.look(now_s)

    def look(self, now_s: float) -> bool:
        """Return whether it has ended by now, without counting a poll."""
        scenario = self.scenario
        by_time = scenario.running_polls is None and scenario.ending is not Ending.NEVER
        if self.ended_at is None and by_time and now_s - self.accepted_s >= scenario.running_s:
            self.ended_at = self.created_at + timedelta(seconds=scenario.running_s)
        return self.ended_at is not None or self.cancelled

    def earliness_s(self, now_s: float) -> float:
        """Seconds by which a poll comes before the told moment; 0 if it does not."""
        return 0.0 if self.told_until_s is None else max(0.0, self.told_until_s - now_s)

    def running_status(self, words: tuple[str, ...]) -> str:
        """Return the word for running at this poll, from the scenario or else from `words`."""
        chosen = self.scenario.running_statuses or words
        return chosen[min(max(self.polls, 1), len(chosen)) - 1]

    def last_status(self, success: str) -> str:
        """Return the word for how it ended; `success` is the one for an end as it should be."""
        if self.cancelled:
            return "Cancelled"
        match self.scenario.ending:
            case Ending.FAILED:
                return "Failed"
            case Ending.CANCELLED:
                return "Cancelled"
            case Ending.DEDUPED:
                return "Deduped"
            case Ending.SUCCEEDED | Ending.STATUS_LESS | Ending.NEVER:
                return success
            case _ as never:
                assert_never(never)


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation under `/v1/operations/{id}`."""

    id: str
    progress: Progress
    result: JsonResult | BytesResult | NoResult
    workspace_id: str

    def state(self, now_s: float, request_id: str) -> dict[str, object]:
        """Return the state document: every field always present, as recorded."""
        progress = self.progress
        ended = progress.look(now_s)
        status = progress.last_status("Succeeded") if ended else progress.running_status(OPERATION_RUNNING)
        failed = ended and progress.scenario.ending is Ending.FAILED
        return {
            "status": status,
            "createdTimeUtc": timestamp(progress.created_at),
            # Recorded: it does not move while the operation runs.
            "lastUpdatedTimeUtc": timestamp(progress.ended_at or progress.created_at),
            "percentComplete": 100 if status == "Succeeded" else None,
            "error": _failure(progress.scenario, request_id, self.workspace_id) if failed else None,
        }


@dataclass(slots=True)
class JobInstance:
    """A job instance under `/v1/workspaces/{w}/items/{i}/jobs/instances/{id}`."""

    id: str
    progress: Progress
    workspace_id: str
    item_id: str
    job_type: str
    root_activity_id: str
    next_mark_s: float = math.inf
    """The service counts Retry-After down to this moment."""

    def state(self, now_s: float, request_id: str) -> dict[str, object]:
        """Return the job instance document, in the words that only job instances use."""
        progress = self.progress
        ended = progress.look(now_s)
        status = progress.last_status("Completed") if ended else progress.running_status(JOB_RUNNING)
        failed = status == "Failed"
        document: dict[str, object] = {
            "id": self.id,
            "itemId": self.item_id,
            "jobType": self.job_type,
            "invokeType": "Manual",
            "status": status,
            "failureReason": self._failure_reason(request_id) if failed else None,
            "rootActivityId": self.root_activity_id,
            "startTimeUtc": timestamp(progress.created_at),
            "endTimeUtc": timestamp(progress.ended_at) if progress.ended_at is not None else None,
        }
        if ended and progress.scenario.ending is Ending.STATUS_LESS:
            del document["status"]
        return document

    def retry_after_s(self, now_s: float) -> int | None:
        """Return what is left of the interval; once it has run out, nothing for one answer, and a new interval."""
        interval_s = self.progress.scenario.retry_after
        if not isinstance(interval_s, int):
            return None
        if now_s >= self.next_mark_s:
            self.next_mark_s = now_s + interval_s
            return None
        return math.floor(self.next_mark_s - now_s)

    def _failure_reason(self, request_id: str) -> dict[str, object]:
        error = self.progress.scenario.error
        return {
            "requestId": request_id,
            "errorCode": error.code,
            "message": error.message,
            "isRetriable": error.is_retriable,
        }


Kept = TypeVar("Kept", Operation, JobInstance)


class Store(Generic[Kept]):
    """What was accepted, by id, bounded."""

    def __init__(self, limit: int = MAX_KEPT) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, kept: Kept) -> None:
        """Remember it; the oldest one is forgotten when there are too many."""
        self._kept[kept.id] = kept
        if len(self._kept) > self._limit:
            self._kept.popitem(last=False)

    def get(self, kept_id: str) -> Kept | None:
        """Return it, unless it was never there or has been forgotten."""
        return self._kept.get(kept_id)

    def count_ended(self, now_s: float) -> int:
        """Return how many of the remembered ones have ended."""
        return sum(kept.progress.look(now_s) for kept in self._kept.values())


def _failure(scenario: Scenario, request_id: str, workspace_id: str) -> dict[str, object]:
    error = scenario.error
    return error_document(
        request_id=request_id,
        code=error.code,
        message=error.message,
        more_details=error.more_details,
        resource_id=workspace_id if error.resource_id is None else error.resource_id,
        resource_type=error.resource_type,
        is_retriable=error.is_retriable,
    )
