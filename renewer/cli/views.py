"""How leases, operations and events look to people."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

from renewer.cli.output import Cell, Column, Style
from renewer.cli.words import ago, clock, size, span, when

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from renewer.client import Event, Lease, Operation

LEASE_COLUMNS = (
    Column("id"),
    Column("state"),
    Column("entity", flexible=True),
    Column("session", flexible=True),
    Column("expires", right=True),
    Column("lost", right=True),
)
OPERATION_COLUMNS = (
    Column("id"),
    Column("account", flexible=True),
    Column("state"),
    Column("status", flexible=True),
    Column("next poll", right=True),
    Column("elapsed", right=True),
    Column("outcome", flexible=True),
)
STYLES: Mapping[str, Style] = {
    "held": "good",
    "succeeded": "good",
    "acquiring": "warn",
    "at_risk": "bad",
    "lost": "bad",
    "released": "dim",
    "failed": "bad",
    "rejected": "bad",
    "unpollable": "bad",
    "expired": "bad",
    "timed_out": "bad",
    "canceled": "warn",
    "ready": "good",
    "draining": "warn",
    "stopping": "warn",
}
_PARKED = Cell("parked: held again by `renewer drain --off`, or by the daemon's next start", "warn")
ENDED = frozenset({"succeeded", "failed", "canceled", "expired", "timed_out", "unpollable", "rejected"})
_NARROW_TYPE = 10
_GAPS = {
    "too_old": "events are missing here: they were too many or too long ago for the daemon to keep them",
    "too_slow": "events are missing here: they came faster than they were read",
    "unknown": "events may be missing here: the daemon was started anew, and keeps none from before",
}
OVER = frozenset({"lost", "released"})


def state_cell(state: str) -> Cell:
    """A state in its colour."""
    return Cell(str(state), STYLES.get(str(state), ""))


def session_text(lease: Lease) -> str:
    """What is locked within the entity: the session, or that it is a message."""
    if str(lease.kind) == "message":
        return "(message)"
    if lease.session_id is None:
        return "(next available)"
    return lease.session_id or '""'


def expiry_text(lease: Lease) -> str:
    """How long the lock lasts if nothing renews it, or that its time is over."""
    if lease.remaining_s is None or str(lease.state) not in ("held", "at_risk"):
        return ""
    return f"in {span(lease.remaining_s)}" if lease.remaining_s > 0 else f"{span(-lease.remaining_s)} ago"


def is_parked(lease: Lease) -> bool:
    """Whether it was given back for now, by `renewer drain --park`."""
    return lease.document.get("parked") is True and str(lease.state) not in OVER


def lease_state(lease: Lease) -> Cell:
    """What a lease is, in its colour."""
    return Cell("parked", "dim") if is_parked(lease) else state_cell(lease.state)


def ended_text(count: int, most: int) -> str:
    """That some are not shown, because they have ended; as many as `most` were counted."""
    return f"{count if count < most else f'{most} or more'} ended: --all shows them"


def lease_row(lease: Lease) -> Sequence[Cell | str]:
    """One line of `LEASE_COLUMNS`."""
    lost = Cell(str(lease.losses), "bad") if lease.losses else ""
    return [lease.id, lease_state(lease), lease.entity, session_text(lease), expiry_text(lease), lost]


def lease_details(lease: Lease) -> list[tuple[str, Cell | str]]:
    """Everything worth knowing of one lease."""
    loss = lease.last_loss
    return [
        ("lease", lease.id),
        ("state", _PARKED if is_parked(lease) else state_cell(lease.state)),
        ("entity", lease.entity),
        ("session" if str(lease.kind) == "session" else "kind", session_text(lease)),
        ("servicebus", lease.servicebus),
        ("expires", _expiry(lease)),
        ("next attempt", ago(lease.next_attempt_at)),
        ("acquired", when(lease.acquired_at)),
        ("epoch", str(lease.epoch) if lease.epoch else ""),
        ("renewals", str(lease.renewals) if lease.epoch else ""),
        ("margin", _margins(lease)),
        ("sequence number", "" if lease.sequence_number is None else str(lease.sequence_number)),
        ("settled", lease.settled or ""),
        ("losses", str(lease.losses) if lease.losses else ""),
        ("last loss", f"{loss.reason}: {loss.detail} ({ago(loss.at)})" if loss is not None else ""),
        ("last error", lease.last_error or ""),
        ("pool", f"{lease.pool}, free" if lease.pool and lease.free else lease.pool or ""),
        ("owner", _owner(lease)),
        ("labels", labels_text(lease.labels)),
    ]


def operation_row(operation: Operation) -> Sequence[Cell | str]:
    """One line of `OPERATION_COLUMNS`."""
    return [
        operation.id,
        operation.account,
        state_cell(operation.state),
        _status(operation),
        next_poll(operation, wide=False),
        span(operation.elapsed_s),
        outcome_text(operation),
    ]


def next_poll(operation: Operation, now: datetime | None = None, *, wide: bool = True) -> str:
    """When it is asked about next, or what that waits for."""
    if operation.ended_at is not None:
        return ""
    if operation.limited_by is None:
        return ago(operation.next_poll_at, now)
    return f"waits for the quota {operation.limited_by}" if wide else "quota"


def operation_details(operation: Operation) -> list[tuple[str, Cell | str]]:
    """Everything worth knowing of one operation."""
    return [
        ("operation", operation.id),
        ("state", state_cell(operation.state)),
        ("status", operation.status or ""),
        ("account", operation.account),
        ("outcome", outcome_text(operation)),
        ("what to do", operation.advice or ""),
        ("submitted", when(operation.submitted_at)),
        ("ended", when(operation.ended_at)),
        ("elapsed", span(operation.elapsed_s)),
        ("next poll", next_poll(operation)),
        ("progress", f"{operation.percent_complete:g} %" if operation.percent_complete is not None else ""),
        ("polls", _polls(operation)),
        ("last error", operation.last_poll_error or ""),
        ("service began", when(operation.service_started_at)),
        ("service changed", when(operation.service_updated_at)),
        ("gives up", ago(operation.deadline_at) if operation.ended_at is None else ""),
        ("labels", labels_text(operation.labels)),
    ]


def outcome_text(operation: Operation) -> str:
    """What came of it: the service's error, or what there is to read."""
    if operation.error:
        return error_text(operation.error)
    result = operation.result
    if result is None:
        return ""
    return "no result" if str(result.kind) == "none" else f"{result.kind}, {size(result.size)}"


def error_text(error: Mapping[str, Any]) -> str:
    """A service's error in one line."""
    code, message = error.get("errorCode") or error.get("code"), error.get("message")
    return ": ".join(str(part) for part in (code, message) if part) or "error"


def event_line(event: Event, *, wide: bool = True) -> tuple[str, Style]:
    """One event in one line, and how good or bad it is. Where it is not `wide`, the id alone tells of which kind."""
    data = event.data
    kind = event.type.ljust(20) if wide else event.type.partition(".")[2].ljust(_NARROW_TYPE)
    words = [clock(event.time), kind, event.subject]
    if event.type == "stream.gap":
        words.append(_GAPS.get(str(data.get("reason")), _GAPS["too_old"]))
        return "  ".join(word for word in words if word), event_style(event.type)
    if event.type == "snapshot":
        words += [str(data.get("state") or ""), f"{data.get('entity')}/{data.get('session_id')}"]
    elif event.type.startswith("lease."):
        where = str(data.get("entity") or "")
        session_id = data.get("session_id")
        words.append(f"{where}/{session_id}" if session_id is not None else where)
    elif data.get("account"):
        words.append(str(data["account"]))
    words += _event_words(data)
    return "  ".join(word for word in words if word), event_style(event.type)


def event_style(kind: str) -> Style:
    """How good or bad an event of this type is."""
    name = kind.partition(".")[2]
    if name in ("lost", "at_risk", "failed", "rejected", "expired", "timed_out", "unpollable", "gap"):
        return "bad"
    if name in ("acquired", "reacquired", "recovered", "succeeded"):
        return "good"
    if name in ("renew_failed", "acquire_failed", "poll_failed", "unknown_status", "canceled"):
        return "warn"
    return "dim" if name in ("renewed", "polled") else ""


def labels_text(labels: Mapping[str, str]) -> str:
    """Labels as they are written on the command line."""
    return " ".join(f"{name}={value}" for name, value in labels.items())


def _event_words(data: Mapping[str, Any]) -> list[str]:
    words = [str(data[name]) for name in ("reason", "failure", "detail") if data.get(name)]
    if data.get("error"):
        error = data["error"]
        words.append(error_text(error) if isinstance(error, dict) else str(error))
    result = data.get("result")
    if isinstance(result, dict) and result.get("kind") not in (None, "none"):
        words.append(f"{result['kind']}, {size(int(result.get('size') or 0))}")
    if data.get("margin_s") is not None:
        words.append(f"margin {span(float(data['margin_s']))}")
    if data.get("final"):
        words.append("for good")
    return words


def _margins(lease: Lease) -> str:
    if lease.last_margin_s is None:
        return ""
    smallest = f", smallest {span(lease.min_margin_s)}" if lease.min_margin_s is not None else ""
    return f"{span(lease.last_margin_s)} left at the last renewal{smallest}"


def _expiry(lease: Lease) -> str:
    """When the lock ends by the broker's clock, and how long that is."""
    away = expiry_text(lease)
    if not away or lease.locked_until_utc is None:
        return away
    return f"{away}, at {lease.locked_until_utc.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def _owner(lease: Lease) -> str:
    owner = lease.owner
    kind = str(owner.kind)
    if kind == "none":
        return "none: kept until it is released"
    words = [kind]
    if owner.pid is not None:
        words.append(str(owner.pid))
    if owner.remaining_s is not None and kind == "connection":
        words.append(f"(waits {span(owner.remaining_s)} for its owner's connection)")
    elif owner.remaining_s is not None:
        words.append(f"(released in {span(owner.remaining_s)} without a sign of life)")
    return " ".join(words)


def _status(operation: Operation) -> str:
    words = [operation.status or ""]
    if operation.percent_complete is not None and operation.ended_at is None:
        words.append(f"{operation.percent_complete:g} %")
    return " ".join(word for word in words if word)


def _polls(operation: Operation) -> str:
    failed = f", {operation.poll_errors} failed" if operation.poll_errors else ""
    return f"{operation.polls}{failed}"
