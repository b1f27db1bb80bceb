"""The wire models of what a caller sends: bodies and query parameters. Nothing unknown is let pass."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema, model_validator

from renewer.api.amqpvalues import Properties
from renewer.api.fields import (
    CallbackUrl,
    Duration,
    EarlyProbe,
    Entity,
    HeaderName,
    HeaderValue,
    ItemId,
    LabelFilter,
    Labels,
    LockToken,
    Moment,
    Name,
    OwnerSpan,
    Patience,
    ProcessId,
    QueryName,
    QueryValue,
    SequenceNumber,
    SessionId,
    Wait,
)
from renewer.core.states import LeaseKind, LeaseState, OperationState, OwnerKind
from renewer.ports import FinalStateVia, FollowProtocol, FollowTerms

DEFAULT_PAGE = 100
MAX_PAGE = 1000

_HEADERS: dict[str, Any] = {
    "type": "object",
    "additionalProperties": {"type": "string"},
    "description": "Header fields by name.",
}
_SUBMIT: dict[str, Any] = {
    "type": "object",
    "description": "The first request, which is ours to send. A path counts from the account's base URL.",
    "properties": {"method": {"type": "string"}, "url": {"type": "string"}, "headers": _HEADERS, "body": {}},
    "required": ["url"],
}
_ADOPT: dict[str, Any] = {
    "type": "object",
    "description": "The first request as you sent it, with the status, the headers and the body of its answer.",
    "properties": {
        "method": {"type": "string"},
        "url": {"type": "string"},
        "status": {"type": "integer"},
        "headers": _HEADERS,
        "body": {},
    },
    "required": ["url"],
}


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


class NewOwner(_Wire):
    """For whom a lease is kept: when the owner is gone, it is released."""

    kind: OwnerKind
    ttl: OwnerSpan | None = Field(
        None,
        description="How long a heartbeat counts (30 s), or how long the owner may be without its connection (1 s).",
    )
    pid: ProcessId | None = Field(None, description="The owner's process on this machine.")

    @model_validator(mode="after")
    def _fits(self) -> NewOwner:
        if (self.kind is OwnerKind.PID) != (self.pid is not None):
            raise ValueError("pid goes with the kind pid, and with no other")
        if self.ttl is not None and self.kind not in (OwnerKind.HEARTBEAT, OwnerKind.CONNECTION):
            raise ValueError("ttl goes with the kinds heartbeat and connection")
        return self


class NewLease(_Wire):
    """A lock that is to be kept: a session, or the lock of a message that was received elsewhere."""

    servicebus: Name | None = Field(None, description="The namespace, as the configuration calls it.")
    entity: Entity = Field(description="A queue, or `topic/Subscriptions/name`.")
    kind: LeaseKind = LeaseKind.SESSION
    session_id: SessionId | None = Field(None, description="None: the next session that is free.")
    lock_token: LockToken | None = Field(
        None, repr=False, description="A message's lock token. It is a secret and never shown."
    )
    locked_until_utc: Moment | None = Field(None, description="Until when the message is locked, if known.")
    sequence_number: SequenceNumber | None = Field(
        None,
        description="The message's sequence number, if known: with it, a message that was settled by somebody else is "
        "told apart from a lock that was lost.",
    )
    lock_duration: Duration | None = Field(None, description="The entity's lock duration, if known.")
    reacquire: bool | None = Field(None, description="Whether a lost session is accepted again, as a new epoch.")
    max_duration: Duration | None = Field(None, description="The lease is let go after this long.")
    labels: Labels = {}
    callback: CallbackUrl | None = Field(None, repr=False, description="Where events of this lease are POSTed to.")
    owner: NewOwner | None = Field(None, description="None: kept until it is released.")

    @model_validator(mode="after")
    def _fits(self) -> NewLease:
        if self.kind is LeaseKind.MESSAGE:
            if self.lock_token is None:
                raise ValueError("a message lock needs its lock_token")
            if self.session_id is not None:
                raise ValueError("session_id goes with the kind session")
            if self.reacquire:
                raise ValueError("reacquire goes with the kind session: a message lock that is lost stays lost")
        elif not (self.lock_token is None and self.locked_until_utc is None and self.sequence_number is None):
            raise ValueError("lock_token, locked_until_utc and sequence_number go with the kind message")
        return self


MAX_LEASES_AT_ONCE = 1000


class NewLeases(_Wire):
    """Several locks that are to be kept."""

    leases: Annotated[list[NewLease], Field(min_length=1, max_length=MAX_LEASES_AT_ONCE)]


class NewSettlement(_Wire):
    """How a message is to be changed when it is abandoned or deferred."""

    properties: Properties = Field(
        {},
        repr=False,
        description="Application properties to set. JSON scalars become string, long, double, boolean and null; others "
        'are written as `{"type": "uint", "value": 7}`.',
    )


class NewDeadLetter(NewSettlement):
    """Why a message goes to the dead-letter queue."""

    reason: str | None = Field(None, max_length=4096, description="One word or few, for programs.")
    description: str | None = Field(None, max_length=4096, description="For people.")


class NewOperation(_Wire):
    """An operation that is to be followed: exactly one of `submit` and `adopt`."""

    account: Name | None = Field(None, description="The account, as the configuration calls it.")
    submit: Annotated[dict[str, JsonValue] | None, WithJsonSchema(_SUBMIT)] = None
    adopt: Annotated[dict[str, JsonValue] | None, WithJsonSchema(_ADOPT)] = None
    protocol: FollowProtocol = Field(
        "auto",
        description="How the service tells how the operation stands: by the resource of one of these headers, or by "
        "the body of the resource itself. auto: as its first answer says. Any other goes with azure accounts.",
    )
    final_state_via: FinalStateVia | None = Field(
        None, description="Where the result is, as the service's API specification says. Goes with azure accounts."
    )
    poll_query: Annotated[dict[QueryName, QueryValue], Field(max_length=20)] = Field(
        {}, repr=False, description="Query parameters to add to each poll that lacks them, such as `api-version`."
    )
    poll_headers: Annotated[dict[HeaderName, HeaderValue], Field(max_length=20)] = Field(
        {}, repr=False, description="Header fields to send with each poll. They are secrets and never shown."
    )
    early_probe: EarlyProbe | None = Field(
        None, description="Ask once so soon after the first answer, whatever Retry-After says; 0: do not."
    )
    deadline: Duration | None = Field(None, description="When to stop following it.")
    labels: Labels = {}
    callback: CallbackUrl | None = Field(None, repr=False, description="Where the end of this operation is POSTed to.")

    @model_validator(mode="after")
    def _one_way(self) -> NewOperation:
        if (self.submit is None) == (self.adopt is None):
            raise ValueError("give exactly one of submit (we send the first request) and adopt (you did)")
        return self

    def terms(self) -> FollowTerms:
        """How the caller wants it followed."""
        return FollowTerms(self.protocol, self.final_state_via, self.poll_query, self.poll_headers)


class WaitForMany(_Wire):
    """Operations to wait for."""

    ids: Annotated[list[ItemId], Field(min_length=1, max_length=1000)]
    until: Literal["all", "any"] = "all"


class NewDrain(_Wire):
    """Whether to take new work. With `park`, every lease is given back, to be held again by the next start."""

    enabled: bool = True
    park: bool = False

    @model_validator(mode="after")
    def _fits(self) -> NewDrain:
        if self.park and not self.enabled:
            raise ValueError("park goes with enabled: what was parked is held again by the next start")
        return self


class _Paged(_Wire):
    label: list[LabelFilter] = Field([], max_length=32, description="NAME:VALUE; all of several must fit.")
    limit: int = Field(DEFAULT_PAGE, ge=1, le=MAX_PAGE)
    after: str | None = Field(None, max_length=64, description="`next` of the page before.")

    def labels(self) -> list[tuple[str, str]]:
        """The labels that an item must have."""
        pairs = (item.partition(":") for item in self.label)
        return [(name, value) for name, _, value in pairs]


class Standing(StrEnum):
    """All states of things that live, or of those that have ended."""

    LIVING = "living"
    ENDED = "ended"


class LeaseFilter(_Paged):
    """Which leases to list, and how."""

    state: list[LeaseState | Standing] = Field([], max_length=8)
    kind: LeaseKind | None = None
    servicebus: Name | None = None
    entity: str | None = Field(None, max_length=400)
    session_id: SessionId | None = None
    sort: Literal["registered", "remaining"] = Field(
        "registered", description="`remaining`: what expires first comes first; one page, without `next`."
    )

    @model_validator(mode="after")
    def _fits(self) -> LeaseFilter:
        if self.sort == "remaining" and self.after is not None:
            raise ValueError("after goes with sort=registered: by what remains there is one page alone")
        return self


class OperationFilter(_Paged):
    """Which operations to list."""

    state: list[OperationState | Standing] = Field([], max_length=16)
    account: Name | None = None


class Waiting(_Wire):
    """How long to hold the answer back."""

    wait: Wait | None = Field(None, description="Hold the answer back for up to this long, 300 s at most.")


class LeaseWaiting(Waiting):
    """How long to hold the answer back, and for what."""

    until: Literal["settled", "over"] = Field(
        "settled", description="`settled`: no longer `acquiring`. `over`: lost for good, or released."
    )


class Renewing(_Wire):
    """How long a renewal may take."""

    wait: Patience = Field(10.0, description="How long the renewal may take.")


class Forgetting(_Wire):
    """Whether the record goes too."""

    forget: bool = Field(False, description="Drop the record as well.")


class LeaseStream(_Wire):
    """Who reads a lease's events."""

    owner: bool = Field(False, description="This connection is the owner's: when it breaks, the owner counts as gone.")


class EventFilter(_Wire):
    """Which events to stream, and from where on."""

    type: list[Annotated[str, Field(max_length=64)]] = Field(
        [], max_length=64, description="A type such as `lease.lost`, or a family such as `lease`."
    )
    subject: list[ItemId] = Field([], max_length=1000, description="The id of a lease or an operation.")
    after: str | None = Field(None, description="As Last-Event-ID.", pattern="^[0-9]{1,18}-[0-9]{1,18}$")
