"""What callers may ask for beside what a call is about: options that several methods have, each explained here once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypedDict

from renewer.client.quantities import Duration, seconds

Names = str | Iterable[str]
"""One name or several."""

OwnerKind = Literal["none", "connection", "heartbeat", "pid"]
"""How it is known that the owner of a lease lives: not at all, by its event stream, its heartbeats, its process."""

FollowProtocol = Literal["auto", "operation-location", "azure-async-operation", "location", "body"]
"""How a service tells how an operation stands: by the resource of one of these headers, or by the resource itself."""

FinalStateVia = Literal["operation-location", "azure-async-operation", "location", "original-uri"]
"""Where the result of an operation is, as Azure's API specifications have it (``final-state-via``)."""


class LeaseOptions(TypedDict, total=False):
    """How a lock is to be kept. What is left out, or None, is as configured.

    `servicebus`: the namespace; `lock_duration`: of the broker's locks; `max_duration`: of ours; `labels`: to find it
    by; `callback`: who is told of it; `owner_ttl`: how long its owner may give no sign of life.
    """

    servicebus: str | None
    """The namespace, as the configuration calls it; not needed where there is but one."""

    lock_duration: Duration | None
    """How long the broker's locks of this entity last, if known."""

    max_duration: Duration | None
    """The lock is let go after this long."""

    labels: Mapping[str, str] | None
    """By which leases can be found."""

    callback: str | None
    """Where events of the lease are POSTed to."""

    owner_ttl: Duration | None
    """How long a heartbeat counts (30 s), or how long the owner may be without its connection (1 s)."""


class LeaseFilter(TypedDict, total=False):
    """Which leases are wanted: those of which all of this is true.

    `state`: one or several; `kind`: session or message; `servicebus`: the namespace; `entity`: the queue or
    subscription; `session_id`: the session; `labels`: all of these.
    """

    state: Names
    """Single states, or ``living`` or ``ended``."""

    kind: str | None
    """``session`` or ``message``."""

    servicebus: str | None
    entity: str | None
    session_id: str | None
    labels: Mapping[str, str] | None


class OperationOptions(TypedDict, total=False):
    """How an operation is to be followed. What is left out, or None, is as configured.

    `account`: whose it is; `protocol`: how the service tells of it; `final_state_via`: where its result is;
    `poll_query` and `poll_headers`: added to each poll; `early_probe`: a first look; `deadline`: for how long;
    `labels`: to find it by; `callback`: who is told of its end.
    """

    account: str | None
    """The account, as the configuration calls it (``fabric.main``); not needed where there is but one."""

    protocol: FollowProtocol | None
    """How the service tells how it stands, where its first answer leaves that open. Goes with Azure accounts."""

    final_state_via: FinalStateVia | None
    """Where its result is, as the service's API specification says. Goes with Azure accounts."""

    poll_query: Mapping[str, str] | None
    """Added to each poll that lacks them, such as ``api-version``."""

    poll_headers: Mapping[str, str] | None
    """Header fields to send with each poll. They are secrets, and never shown."""

    early_probe: Duration | None
    """It is asked about once so soon, whatever the service says; 0 never."""

    deadline: Duration | None
    """It is followed for this long."""

    labels: Mapping[str, str] | None
    """By which operations can be found."""

    callback: str | None
    """Where its end is POSTed to."""


class OperationFilter(TypedDict, total=False):
    """Which operations are wanted: those of which all of this is true.

    `state`: one or several; `account`: whose they are; `labels`: all of these.
    """

    state: Names
    """Single states, or ``living`` or ``ended``."""

    account: str | None
    labels: Mapping[str, str] | None


def check_options(method: str, options: Mapping[str, object], kind: type[object]) -> None:
    """Refuse, as Python does where they are named one by one, options that are not of this kind. Raises `TypeError`."""
    for name in options:
        if name not in kind.__annotations__:
            raise TypeError(f"{method}() got an unexpected keyword argument {name!r}")


def kept(names: Names) -> Names:
    """Names that may be gone through more than once."""
    return names if isinstance(names, str) else tuple(names)


def limit_s(name: str, span: Duration | None) -> float | None:
    """A span in seconds; None is no limit. Raises `BadRequest` that names it."""
    return None if span is None else seconds(name, span)
