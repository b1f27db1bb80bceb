"""News of leases and operations as documents: what event streams and callbacks tell, one form for both.

Everything here is JSON values, and nothing is a secret: no lock token, no URL, no request. What a service said about
an operation that failed is passed on whole unless it is very long.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from renewer.core.effects import LeaseNews, OperationNews
from renewer.core.states import LeaseState, OperationState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from renewer.core.effects import TellLease, TellOperation
    from renewer.core.leases import Lease
    from renewer.core.model import Result
    from renewer.core.operations import Operation

MAX_ERROR_BYTES = 32 * 1024
"""An operation's error of more bytes of JSON than this is told by its code and the beginning of its message."""

_MAX_TEXT = 2_000


def lease_type(news: TellLease) -> str:
    """The type of the event, such as ``lease.lost``."""
    return _LEASE_TYPES[news.news]


def operation_type(news: TellOperation) -> str:
    """The type of the event, such as ``operation.succeeded``: a change of state is called by the new state."""
    what = news.state if news.news is OperationNews.STATE_CHANGED else news.news
    return _OPERATION_TYPES[what]


def lease_data(news: TellLease, lease: Lease | None = None) -> dict[str, Any]:
    """The event's data. `lease` is asked for the state where the news does not say it; unknown, that is null."""
    spec = news.spec
    state = _state_after(news) or (None if lease is None else lease.state)
    data: dict[str, Any] = {
        "kind": str(spec.kind),
        "servicebus": spec.target.partition(".")[2],
        "entity": spec.entity,
        "session_id": news.session_id,
        "epoch": news.epoch,
        "state": None if state is None else str(state),
    }
    if news.reason is not None:
        data["reason"] = news.reason.value
    if news.detail is not None:
        data["detail"] = news.detail
    if news.failure is not None:
        data["failure"] = news.failure
        data["failures"] = news.failures
    if news.margin_s is not None:
        data["margin_s"] = round(news.margin_s, 3)
    if news.news is LeaseNews.LOST:
        data["final"] = news.final
    if news.news is LeaseNews.RELEASED and lease is not None and lease.fate is not None:
        data["settled"] = lease.fate.value
    if news.news in _GRANTS and lease is not None and lease.epoch == news.epoch:
        data["remaining_s"] = round(lease.expires_at - news.at, 3)
        until = lease.locked_until
        data["locked_until_utc"] = None if until is None else datetime.fromtimestamp(until, UTC).isoformat()
    data["labels"] = dict(spec.labels)
    return data


def operation_data(news: TellOperation, operation: Operation | None = None) -> dict[str, Any]:
    """The event's data. `operation` has the service's own status, the error and the result; unknown, they are null."""
    data: dict[str, Any] = {
        "account": news.spec.account,
        "state": news.state.value,
        "status": None if operation is None else operation.status,
        "error": None if operation is None or operation.error is None else _bounded(operation.error),
        "result": None if operation is None or operation.result is None else _shown(operation, operation.result),
    }
    if news.failure is not None:
        data["failure"] = news.failure
    if news.detail is not None:
        data["detail"] = news.detail
    data["labels"] = dict(news.spec.labels)
    return data


_GRANTS = frozenset({LeaseNews.ACQUIRED, LeaseNews.REACQUIRED, LeaseNews.RENEWED, LeaseNews.RECOVERED})

_OPERATION_TYPES = {what: f"operation.{what.value}" for kind in (OperationNews, OperationState) for what in kind}

_LEASE_TYPES = {news: f"lease.{news.value}" for news in LeaseNews}

_STATES_AFTER = {
    LeaseNews.REGISTERED: LeaseState.ACQUIRING,
    LeaseNews.ACQUIRED: LeaseState.HELD,
    LeaseNews.REACQUIRED: LeaseState.HELD,
    LeaseNews.ACQUIRE_FAILED: LeaseState.ACQUIRING,
    LeaseNews.AT_RISK: LeaseState.AT_RISK,
    LeaseNews.RECOVERED: LeaseState.HELD,
    LeaseNews.RELEASED: LeaseState.RELEASED,
}


def _state_after(news: TellLease) -> LeaseState | None:
    """The state that the news itself means: by the time that it is told, the lease may have gone on."""
    if news.news is LeaseNews.LOST:
        return LeaseState.LOST if news.final else LeaseState.ACQUIRING
    return _STATES_AFTER.get(news.news)


def _shown(operation: Operation, result: Result) -> dict[str, Any]:
    href = None if result.kind == "none" else f"/v1/operations/{operation.spec.id}/result"
    return {"kind": result.kind, "size": result.size, "href": href}


def _bounded(error: Mapping[str, object]) -> dict[str, Any]:
    if len(json.dumps(error, default=str)) <= MAX_ERROR_BYTES:
        return dict(error)
    told: dict[str, Any] = {
        name: text[:_MAX_TEXT] for name in ("errorCode", "message") if isinstance(text := error.get(name), str)
    }
    return {**told, "truncated": True}
