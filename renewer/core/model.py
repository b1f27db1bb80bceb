"""The values that the core, the targets and the registry pass to each other."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NewType

from renewer.core.states import LeaseKind, LossReason, OwnerKind
from renewer.core.timing import PollPolicy, RenewalPolicy
from renewer.core.values import value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from renewer.errors import TransientKind

LeaseId = NewType("LeaseId", str)
OperationId = NewType("OperationId", str)


@dataclass(frozen=True, slots=True)
class Owner:
    """For whom a lease is kept, and how long it may give no sign of life.

    `ttl_s` is how long a heartbeat counts, or how long the owner may be without its connection. `pid_started` is the
    kernel's start time of process `pid`, so that another process with the same number is not taken for the owner.
    """

    kind: OwnerKind = OwnerKind.NONE
    ttl_s: float = 0.0
    pid: int | None = None
    pid_started: int | None = None


NO_OWNER = Owner()
USUAL_RENEWAL = RenewalPolicy()
USUAL_POLLING = PollPolicy()


@dataclass(frozen=True, slots=True)
class LeaseSpec:
    """A lease as its owner asked for it.

    `target` names who keeps it (``servicebus.main``), `entity` what it is on (``orders``,
    ``topic/Subscriptions/name``); `session_id` is None for the next available session. `lock_token` (a secret) names
    the message whose lock is kept, and `sequence_number` its place in the entity, where the owner knows it.
    `lock_duration_s` is the entity's lock duration where the owner knows it; None leaves it to the target. `context` is
    whatever the registrar wants kept with the lease: plain JSON values that the core hands through.
    """

    id: LeaseId
    target: str
    entity: str
    kind: LeaseKind = LeaseKind.SESSION
    session_id: str | None = None
    lock_token: str | None = field(default=None, repr=False)
    sequence_number: int | None = None
    lock_duration_s: float | None = None
    policy: RenewalPolicy = USUAL_RENEWAL
    labels: Mapping[str, str] = field(default_factory=dict)
    owner: Owner = NO_OWNER
    context: Mapping[str, Any] = field(default_factory=dict, repr=False)


@value
class Grant:
    """A lock granted or renewed.

    `anchored_at` is the monotonic instant from which `duration_s` counts: when the request was sent, so that the
    estimate errs on the safe side; for a request that the broker may have held back before granting, when its answer
    came. `renew_now` marks a grant whose anchor or duration is too uncertain to lean on. `locked_until` is the
    broker's own word, seconds since the epoch by its clock, for people to read.
    """

    anchored_at: float
    duration_s: float
    locked_until: float | None = None
    session_id: str | None = None
    renew_now: bool = False


@value
class Transient:
    """An attempt failed in a way that says nothing final about the thing itself."""

    kind: TransientKind
    detail: str
    retry_after_s: float | None = None


@value
class Terminal:
    """An attempt got the remote's final word about a lease."""

    reason: LossReason
    detail: str


Failure = Transient | Terminal


@dataclass(frozen=True, slots=True)
class OperationSpec:
    """An operation as its owner asked for it.

    `account` names identity and host (``fabric.main``). `request` is the target's own description of what was, or is
    to be, asked of the service; the core hands it through. `retry_safe` says that the first request may be sent twice.
    """

    id: OperationId
    account: str
    request: object
    retry_safe: bool = False
    policy: PollPolicy = USUAL_POLLING
    labels: Mapping[str, str] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Result:
    """What an operation left behind. `body` is kept byte for byte as the service sent it.

    `problem` says why there is none although the service has one, and asking again would not help; `problem_code` is
    that for programs. A large body is not
    in `body` but in `file`, the path of a file that is whole and on disk, with its size in `stored_size`; on its way to
    the registry that file is for whoever stores the result to take over. A result whose body is kept elsewhere has
    `stored_size` alone.
    """

    kind: Literal["json", "bytes", "none"]
    content_type: str | None = None
    body: bytes = field(default=b"", repr=False)
    problem: str | None = None
    problem_code: str = "ResultNotFetched"
    stored_size: int | None = None
    file: str | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """How many bytes the body has, wherever it is kept."""
        return len(self.body) if self.stored_size is None else self.stored_size

    @property
    def is_elsewhere(self) -> bool:
        """Whether this only tells of a body, which is kept somewhere else."""
        return self.stored_size is not None and self.file is None

    def without_body(self) -> Result:
        """The same result, for those who need to know of it and not to have it."""
        return replace(self, body=b"", file=None, stored_size=self.size)


NO_RESULT = Result(kind="none")


@value
class StillRunning:
    """The service says "not yet". `ticket` is what the target needs to ask again, if it changed.

    `recognised` is False for a status word that we do not know: it counts as running, with a warning. `started_at`
    and `updated_at` are the service's own words, seconds since the epoch, for people to read.
    """

    status: str | None = None
    recognised: bool = True
    retry_after_s: float | None = None
    percent_complete: float | None = None
    ticket: object = None
    started_at: float | None = None
    updated_at: float | None = None


@value
class Succeeded:
    """The service is done. With `result` None the result is still to be fetched."""

    status: str | None = None
    result: Result | None = NO_RESULT
    ticket: object = None


@value
class Ended:
    """The operation ended in another way; `error` is the service's document, whole, or our own account of it."""

    outcome: Literal["failed", "canceled", "expired", "unpollable", "rejected"]
    status: str | None = None
    error: Mapping[str, object] | None = None


PollAnswer = StillRunning | Succeeded | Ended
