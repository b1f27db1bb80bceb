"""The daemon's status as it tells it: frozen values, read as those of `renewer.client.models` are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from renewer.client.documents import Reader


@dataclass(frozen=True, slots=True)
class Target:
    """One namespace or account behind the daemon."""

    name: str
    connections: int | None = None
    links: int | None = None
    clock_skew_s: float | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool of `sessions` next available sessions: `held` and `acquiring` are free, `taken` are with workers."""

    name: str
    servicebus: str = ""
    sessions: int = 0
    held: int = 0
    acquiring: int = 0
    taken: int = 0


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where workers with an SDK of their own come in. `connections` have proved a key, `logging_in` not yet."""

    name: str
    servicebus: str = ""
    listen: str = ""
    connections: int = 0
    logging_in: int = 0
    keys: Mapping[str, int] = field(default_factory=dict)
    refusals: Mapping[str, int] = field(default_factory=dict)
    upstream_failures: int = 0
    messages: int = 0
    buffered_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Status:
    """The daemon as it is now: `state` is ready, draining or stopping; `trouble` says what is wrong, for people."""

    state: str
    version: str = ""
    started_at: datetime | None = None
    uptime_s: float | None = None
    leases: Mapping[str, int] = field(default_factory=dict)
    operations: Mapping[str, int] = field(default_factory=dict)
    losses: int = 0
    min_margin_s: float | None = None
    loop_lag_s: float | None = None
    registry: str = ""
    limits: Mapping[str, int] = field(default_factory=dict)
    targets: Sequence[Target] = ()
    pools: Sequence[Pool] = ()
    gateways: Sequence[Gateway] = ()
    trouble: Sequence[str] = ()
    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


def status_of(document: object) -> Status:
    """Read the daemon's status. Raises `ProtocolError`."""
    read = Reader(document, "a status")
    return Status(
        state=read.required("state"),
        version=read.text("version") or "",
        started_at=read.moment("started_at"),
        uptime_s=read.number("uptime_s"),
        leases=read.counts("leases"),
        operations=read.counts("operations"),
        losses=read.whole("losses"),
        min_margin_s=read.number("min_margin_s"),
        loop_lag_s=read.number("loop_lag_s"),
        registry=read.text("registry") or "",
        limits=read.counts("limits"),
        targets=tuple(
            Target(
                target.text("name") or "",
                target.count("connections"),
                target.count("links"),
                target.number("clock_skew_s"),
            )
            for target in read.parts("targets")
        ),
        pools=tuple(
            Pool(
                pool.text("name") or "",
                pool.text("servicebus") or "",
                pool.whole("sessions"),
                pool.whole("held"),
                pool.whole("acquiring"),
                pool.whole("taken"),
            )
            for pool in read.parts("pools")
        ),
        gateways=tuple(
            Gateway(
                gateway.text("name") or "",
                gateway.text("servicebus") or "",
                gateway.text("listen") or "",
                gateway.whole("connections"),
                gateway.whole("logging_in"),
                gateway.counts("keys"),
                gateway.counts("refusals"),
                gateway.whole("upstream_failures"),
                gateway.whole("messages"),
                gateway.whole("buffered_bytes"),
            )
            for gateway in read.parts("gateways")
        ),
        trouble=read.list_of_texts("trouble"),
        document=read.document,
    )
