"""Leases, operations and events as the daemon tells of them: frozen values.

Unknown fields are kept in `document` alone; missing ones have defaults.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from renewer.client.documents import Reader

_Item = TypeVar("_Item")

LEASE_ENDS = frozenset({"lost", "released"})
OPERATION_ENDS = frozenset({"succeeded", "failed", "canceled", "expired", "timed_out", "unpollable", "rejected"})


@dataclass(frozen=True, slots=True)
class Loss:
    """The last time a lease was lost, and in which epoch."""

    reason: str
    detail: str = ""
    epoch: int = 0
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Owner:
    """For whom a lease is kept. `remaining_s` is how long it may still be silent; None: as long as it likes."""

    kind: str = "none"
    ttl_s: float | None = None
    pid: int | None = None
    remaining_s: float | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """A lock that the daemon keeps. `remaining_s` was true when the daemon said it, and is negative when at risk.

    `state` is one of acquiring, held, at_risk, lost, released. `parked`: it was given back for a while, and is to be
    held again. `epoch` counts within this lease: it starts at 1 in each new one. `settled` is what became of the
    message whose lock it was, if that ended it. `pool` names the pool that its session is of; while it is `free`, no
    worker has taken it. `document` is the daemon's answer.
    """

    id: str
    state: str
    kind: str = "session"
    parked: bool = False
    number: int = 0
    servicebus: str = ""
    entity: str = ""
    session_id: str | None = None
    sequence_number: int | None = None
    epoch: int = 0
    locked_until_utc: datetime | None = None
    remaining_s: float | None = None
    lock_duration_s: float | None = None
    next_attempt_at: datetime | None = None
    registered_at: datetime | None = None
    acquired_at: datetime | None = None
    renewals: int = 0
    last_margin_s: float | None = None
    min_margin_s: float | None = None
    losses: int = 0
    last_loss: Loss | None = None
    last_error: str | None = None
    settled: str | None = None
    pool: str | None = None
    free: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    owner: Owner = field(default_factory=Owner)
    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_held(self) -> bool:
        """Whether the lock is ours, as far as the daemon knows; it may be at risk."""
        return self.state in {"held", "at_risk"}

    @property
    def is_over(self) -> bool:
        """Whether nothing will follow: lost for good, or released."""
        return self.state in LEASE_ENDS


@dataclass(frozen=True, slots=True)
class ResultInfo:
    """That an operation left a result: its `kind` (json, bytes, none), its size in bytes, its path."""

    kind: str
    size: int = 0
    href: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """A long-running operation that the daemon follows. `status` is the service's word, `state` the daemon's.

    `state` is one of accepted, running, fetching, succeeded, failed, canceled, expired, timed_out, unpollable,
    rejected; `error` the service's error document, `advice` what to do about it. `next_poll_at` is None
    while a request is on its way, and once the next one waits for the quota that `limited_by` names;
    `service_started_at` and `service_updated_at` are the service's own account.
    """

    id: str
    state: str
    number: int = 0
    account: str = ""
    status: str | None = None
    submitted_at: datetime | None = None
    next_poll_at: datetime | None = None
    elapsed_s: float | None = None
    deadline_at: datetime | None = None
    ended_at: datetime | None = None
    service_started_at: datetime | None = None
    service_updated_at: datetime | None = None
    limited_by: str | None = None
    polls: int = 0
    poll_errors: int = 0
    last_poll_error: str | None = None
    retry_after_s: float | None = None
    percent_complete: float | None = None
    error: Mapping[str, Any] | None = None
    advice: str | None = None
    result: ResultInfo | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_over(self) -> bool:
        """Whether it has ended, well or not."""
        return self.state in OPERATION_ENDS

    @property
    def succeeded(self) -> bool:
        """Whether it ended well."""
        return self.state == "succeeded"


@dataclass(frozen=True, slots=True)
class Result:
    """What an operation left behind, byte for byte. `kind` is json, bytes, or none (a success without a result)."""

    kind: str
    content_type: str | None = None
    content: bytes = field(default=b"", repr=False)

    def json(self) -> Any:
        """The result read as JSON; None where there is none. Raises `ValueError` if it is not JSON."""
        return json.loads(self.content) if self.content else None

    @property
    def text(self) -> str:
        """The result as UTF-8 text."""
        return self.content.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class SavedResult:
    """What an operation left behind, in a file of `size` bytes. `kind` is as for `Result`; a none is an empty file."""

    kind: str
    content_type: str | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `type` such as ``lease.lost``; `subject` the id of the lease or operation.

    `id` is what a later stream may begin after; "" for what is not kept for replay.
    """

    type: str
    subject: str = ""
    id: str = ""
    time: datetime | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def lease(self) -> Lease:
        """The lease that a ``snapshot`` shows. Raises `ProtocolError` for other events."""
        return lease_of(self.data)


@dataclass(frozen=True, slots=True)
class Page(Generic[_Item]):
    """Part of a list. `next` is what to give as `after` for the next part; None at the end."""

    items: Sequence[_Item]
    next: str | None = None


@dataclass(frozen=True, slots=True)
class Waited:
    """What became of a wait for operations: `items` those that are known, in the order asked, `missing` the others.

    `done` is False when the time was over first.
    """

    done: bool
    items: Sequence[Operation] = ()
    missing: Sequence[str] = ()


def lease_of(document: object) -> Lease:
    """Read a lease. Raises `ProtocolError`."""
    read = Reader(document, "a lease")
    loss, owner = read.part("last_loss"), read.part("owner")
    return Lease(
        id=read.required("id"),
        state=read.required("state"),
        kind=read.text("kind") or "session",
        parked=read.document.get("parked") is True,
        number=read.whole("number"),
        servicebus=read.text("servicebus") or "",
        entity=read.text("entity") or "",
        session_id=read.text("session_id"),
        sequence_number=read.count("sequence_number"),
        epoch=read.whole("epoch"),
        locked_until_utc=read.moment("locked_until_utc"),
        remaining_s=read.number("remaining_s"),
        lock_duration_s=read.number("lock_duration_s"),
        next_attempt_at=read.moment("next_attempt_at"),
        registered_at=read.moment("registered_at"),
        acquired_at=read.moment("acquired_at"),
        renewals=read.whole("renewals"),
        last_margin_s=read.number("last_margin_s"),
        min_margin_s=read.number("min_margin_s"),
        losses=read.whole("losses"),
        last_loss=None
        if loss is None
        else Loss(loss.text("reason") or "", loss.text("detail") or "", loss.whole("epoch"), loss.moment("at")),
        last_error=read.text("last_error"),
        settled=read.text("settled"),
        pool=read.text("pool"),
        free=read.document.get("free") is True,
        labels=read.texts("labels"),
        owner=Owner()
        if owner is None
        else Owner(
            owner.text("kind") or "none",
            owner.number("ttl_s"),
            owner.whole("pid") or None,
            owner.number("remaining_s"),
        ),
        document=read.document,
    )


def operation_of(document: object) -> Operation:
    """Read an operation. Raises `ProtocolError`."""
    read = Reader(document, "an operation")
    result, error = read.part("result"), read.part("error")
    return Operation(
        id=read.required("id"),
        state=read.required("state"),
        number=read.whole("number"),
        account=read.text("account") or "",
        status=read.text("status"),
        submitted_at=read.moment("submitted_at"),
        next_poll_at=read.moment("next_poll_at"),
        elapsed_s=read.number("elapsed_s"),
        deadline_at=read.moment("deadline_at"),
        ended_at=read.moment("ended_at"),
        service_started_at=read.moment("service_started_at"),
        service_updated_at=read.moment("service_updated_at"),
        limited_by=read.text("limited_by"),
        polls=read.whole("polls"),
        poll_errors=read.whole("poll_errors"),
        last_poll_error=read.text("last_poll_error"),
        retry_after_s=read.number("retry_after_s"),
        percent_complete=read.number("percent_complete"),
        error=None if error is None else error.document,
        advice=read.text("advice"),
        result=None
        if result is None
        else ResultInfo(result.text("kind") or "", result.whole("size"), result.text("href")),
        labels=read.texts("labels"),
        document=read.document,
    )


def event_of(document: object, *, type: str = "", id: str = "") -> Event:  # noqa: A002 - the wire's own words
    """Read the data of one event; `type` and `id` are what its stream said. Raises `ProtocolError`."""
    read = Reader(document, "an event")
    data = read.part("data")
    if data is None:
        # A snapshot is the thing itself, without an envelope.
        return Event(type, read.text("id") or "", id, None, read.document, read.document)
    return Event(
        read.text("type") or type,
        read.text("subject") or "",
        read.text("id") or id,
        read.moment("time"),
        data.document,
        read.document,
    )


def waited_of(document: object) -> Waited:
    """Read the answer to a wait for operations. Raises `ProtocolError`."""
    read = Reader(document, "an answer to a wait")
    items = tuple(operation_of(part.document) for part in read.parts("items"))
    return Waited(read.document.get("done") is True, items, read.list_of_texts("missing"))


def page_of(document: object, read_item: Callable[[Mapping[str, Any]], _Item]) -> Page[_Item]:
    """Read a page of things that `read_item` reads. Raises `ProtocolError`."""
    read = Reader(document, "a page of a list")
    return Page(tuple(read_item(part.document) for part in read.parts("items")), read.text("next"))
