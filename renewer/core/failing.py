"""Requests of an operation that failed: what is known of them, and what is told of an end that comes of it.

An end of which the service has said nothing is told as a service would tell it: with a document that has an `errorCode`
and a `message`, which says what is known and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from renewer.core.quotas import LONGEST_PAUSE_S
from renewer.core.states import OperationState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from renewer.core.model import Result, Transient
    from renewer.core.timing import PollPolicy

_SAFE_TO_REPEAT = frozenset({"throttled", "busy", "unreachable", "no_token"})
"""First requests that failed in these ways were not taken up, so sending them again starts nothing twice."""


@dataclass(slots=True)
class Trouble:
    """What is known of requests that failed in a row; `kind` is how the last ones did. Few operations have it."""

    detail: str | None = None
    throttled_until: float | None = None
    since: float | None = None
    failures: int = 0
    kind: str | None = None
    kind_since: float = 0.0

    def note(self, failure: Transient, now: float) -> None:
        """One more failed."""
        self.since = now if self.since is None else self.since
        self.failures += 1
        self.detail = failure.detail
        self.throttled_until = None
        if failure.kind == "throttled" and failure.retry_after_s is not None:
            self.throttled_until = now + min(failure.retry_after_s, LONGEST_PAUSE_S)
        if failure.kind != self.kind:
            self.kind, self.kind_since = failure.kind, now

    def is_denial(self, policy: PollPolicy, now: float) -> bool:
        """Whether the service has denied the operation, or its answer, for so long that it is not asked again."""
        grace_s = {"not_found": policy.not_found_grace_s, "refused": policy.refused_grace_s}.get(self.kind or "")
        return grace_s is not None and now - self.kind_since >= grace_s


def may_repeat(failure: Transient, *, retry_safe: bool) -> bool:
    """Whether a first request that failed may be sent again; `retry_safe`: sent twice it starts nothing twice."""
    return retry_safe or failure.kind in _SAFE_TO_REPEAT


def not_started(failure: Transient) -> Mapping[str, object]:
    """A first request failed that must not be sent again."""
    if failure.kind == "unauthorized":
        return {"errorCode": "Unauthorized", "message": failure.detail}
    return {
        "errorCode": "FirstRequestFailed",
        "message": f"{failure.detail}; the service may or may not have started the operation. "
        "Look there before you send it again.",
    }


def denied(failure: Transient, policy: PollPolicy) -> tuple[OperationState, Mapping[str, object]]:
    """The end of an operation that the service does not know any longer, or refuses to tell of."""
    if failure.kind == "refused":
        return OperationState.UNPOLLABLE, {
            "errorCode": "PollRefused",
            "message": f"{failure.detail}; refused for {policy.refused_grace_s:g} s. The operation may "
            "still be running at the service: look there, or adopt it again once it can be asked.",
        }
    return OperationState.EXPIRED, {
        "errorCode": "OperationExpired",
        "message": f"{failure.detail}, for {policy.not_found_grace_s:g} s: the service does not know "
        "this operation any longer. Look at the resource itself for its outcome.",
    }


def overrun(deadline_s: float) -> Mapping[str, object]:
    """The operation's own deadline has passed."""
    return {
        "errorCode": "DeadlineExceeded",
        "message": f"not finished within its deadline of {deadline_s:g} s; it may still be "
        "running at the service. Adopt it again with a longer deadline to go on following it.",
    }


def without_result(result: Result) -> Mapping[str, object]:
    """It succeeded, and `result` has the problem with what it left behind."""
    message = f"the operation succeeded, but its result could not be fetched: {result.problem}"
    return {"errorCode": result.problem_code, "message": message}
