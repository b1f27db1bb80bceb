"""What the page shows, as one document: the most urgent of everything, counted and cut, and nothing that is a secret.

A listener without a key tells this to whoever asks. So there is no lock token, no URL, no result and no request in it,
and texts that were written by others have whatever looks like a credential taken out of them.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import anyio.lowlevel

from renewer.api.advice import advice
from renewer.api.documents import to_json
from renewer.api.views import Calendar
from renewer.core.leases import Lease
from renewer.core.operations import Operation
from renewer.core.states import LeaseKind, LeaseState, OperationState, is_over
from renewer.daemon.page.words import label_words, shown, visible

if TYPE_CHECKING:
    from renewer.api.control import Control, EventDocument, StatusReading

MOST_ROWS = 25
"""So many leases that are not held, leases that are held, and operations that are followed."""

MOST_PAST = 15
"""So many losses, ends of operations, and pieces of news."""

MOST_PARTS = 20
"""So many namespaces and accounts, pools, gateways, and lines of trouble."""

NEWSWORTHY = frozenset(
    {
        "lease.at_risk",
        "lease.lost",
        "lease.reacquired",
        "lease.recovered",
        *(f"operation.{state.value}" for state in OperationState if is_over(state)),
    }
)

LOOKED_AT_ONCE = 1000
"""So many are looked at before whatever else is due gets its turn."""

_Row = dict[str, object]
_Key = tuple[float, float, int]


async def take_snapshot(control: Control, latest: Callable[[int], Sequence[EventDocument]]) -> bytes:
    """The daemon as it stands, in JSON. `latest` gives so many of the newest `NEWSWORTHY` events, the newest first."""
    status = control.status()
    not_held, held, lost = _Top(MOST_ROWS), _Top(MOST_ROWS), _Top(MOST_PAST)
    leases = list(control.leases())
    kept_for: Counter[str] = Counter()
    for begin in range(0, len(leases), LOOKED_AT_ONCE):
        some = leases[begin : begin + LOOKED_AT_ONCE]
        _sort_leases(some, control.clock.now(), not_held, held, lost)
        if status.gateways:
            kept_for.update(lease.spec.target for lease in some if not is_over(lease.state))
        await anyio.lowlevel.checkpoint()
    followed, ended = _Top(MOST_ROWS), _Top(MOST_PAST)
    operations = list(control.operations())
    for begin in range(0, len(operations), LOOKED_AT_ONCE):
        _sort_operations(operations[begin : begin + LOOKED_AT_ONCE], followed, ended)
        await anyio.lowlevel.checkpoint()
    when = Calendar(control.clock)
    return to_json(
        {
            **_show_status(status, when),
            "gateways": _show_gateways(status, kept_for),
            "not_held": not_held.shown(lambda lease: _show_lease(lease, when)),
            "held": held.shown(lambda lease: _show_lease(lease, when)),
            "lost": lost.shown(lambda lease: _show_loss(lease, when)),
            "followed": followed.shown(lambda operation: _show_operation(operation, when)),
            "ended": ended.shown(lambda operation: _show_end(operation, when)),
            "news": [_show_news(event) for event in latest(MOST_PAST)],
        }
    )


class _Top:
    """The few with the smallest keys, and how many there were."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._best: list[tuple[_Key, Lease | Operation]] = []

    def offer(self, some: Sequence[tuple[_Key, Lease | Operation]]) -> None:
        # A key ends in the number of what it is of, so that nothing else is ever compared.
        self._count += len(some)
        self._best = heapq.nsmallest(self._most, [*self._best, *some])

    def shown(self, show: Callable[..., _Row]) -> _Row:
        return {"count": self._count, "rows": [show(item) for _, item in self._best]}


def _sort_leases(leases: Iterable[Lease], now: float, not_held: _Top, held: _Top, lost: _Top) -> None:
    waiting: list[tuple[_Key, Lease | Operation]] = []
    kept: list[tuple[_Key, Lease | Operation]] = []
    losses: list[tuple[_Key, Lease | Operation]] = []
    for lease in leases:
        if lease.last_loss is not None:
            losses.append(((-lease.last_loss.at, 0.0, lease.number), lease))
        match lease.state:
            case LeaseState.HELD:
                kept.append(((lease.expires_at - now, 0.0, lease.number), lease))
            case LeaseState.AT_RISK:
                waiting.append(((0.0, lease.expires_at - now, lease.number), lease))
            case LeaseState.ACQUIRING if not lease.is_parked:
                # Those that were ours first, then those that are refused, then those that merely wait.
                rank = 1.0 if lease.losses else 2.0 if lease.failures else 3.0
                waiting.append(((rank, lease.registered_at, lease.number), lease))
            case _:
                pass
    not_held.offer(waiting)
    held.offer(kept)
    lost.offer(losses)


def _sort_operations(operations: Iterable[Operation], followed: _Top, ended: _Top) -> None:
    under_way: list[tuple[_Key, Lease | Operation]] = []
    over: list[tuple[_Key, Lease | Operation]] = []
    for operation in operations:
        if operation.ended_at is not None:
            over.append(((-operation.ended_at, 0.0, operation.number), operation))
        elif not is_over(operation.state):
            due_at = operation.next_attempt_at
            under_way.append(((0.0 if due_at is None else due_at, 0.0, operation.number), operation))
    followed.offer(under_way)
    ended.offer(over)


def _show_status(status: StatusReading, when: Calendar) -> _Row:
    return {
        "now": when.utc_of(when.now),
        "version": status.version,
        "state": status.state,
        "started_at": status.started_at,
        "leases": dict(status.leases),
        "operations": dict(status.operations),
        "losses": status.losses,
        "min_margin_s": _rounded(status.min_margin_s),
        "loop_lag_s": _rounded(status.loop_lag_s),
        "registry": status.registry,
        "max_leases": status.max_leases,
        "max_operations": status.max_operations,
        "trouble": [shown(text) for text in status.trouble[:MOST_PARTS]],
        "targets": {
            "count": len(status.targets),
            "rows": [
                {
                    "name": visible(target.name),
                    "connections": target.connections,
                    "links": target.links,
                    "clock_skew_s": _rounded(target.clock_skew_s),
                }
                for target in status.targets[:MOST_PARTS]
            ],
        },
        "pools": {
            "count": len(status.pools),
            "rows": [
                {
                    "name": visible(pool.name),
                    "servicebus": visible(pool.target.partition(".")[2]),
                    "sessions": pool.sessions,
                    "free": pool.held,
                    "acquiring": pool.acquiring,
                    "taken": pool.taken,
                }
                for pool in status.pools[:MOST_PARTS]
            ],
        },
    }


def _show_gateways(status: StatusReading, kept_for: Mapping[str, int]) -> _Row:
    """`kept_for` counts living leases by their targets."""
    return {
        "count": len(status.gateways),
        "rows": [
            {
                "name": visible(gateway.name),
                "servicebus": visible(gateway.servicebus),
                "listen": visible(gateway.listen, 400),
                "workers": gateway.connections,
                "logging_in": gateway.logging_in,
                "leases": kept_for.get(f"gateway.{gateway.name}", 0),
                "messages": gateway.messages,
                "upstream_failures": gateway.upstream_failures,
                "refused": sum(gateway.refusals.values()),
            }
            for gateway in status.gateways[:MOST_PARTS]
        ],
    }


def _show_place(lease: Lease) -> _Row:
    spec = lease.spec
    session_id = lease.session_id if lease.session_id is not None else spec.session_id
    return {
        "id": visible(spec.id),
        "state": "parked" if lease.is_parked else lease.state.value,
        "servicebus": visible(spec.target.partition(".")[2]),
        "entity": visible(spec.entity, 400),
        "message": spec.sequence_number if spec.kind is LeaseKind.MESSAGE else None,
        "is_message": spec.kind is LeaseKind.MESSAGE,
        "session_id": None if session_id is None else visible(session_id),
        "losses": lease.losses,
        "labels": label_words(spec.labels),
    }


def _show_lease(lease: Lease, when: Calendar) -> _Row:
    spec = lease.spec
    pool = spec.context.get("pool")
    return {
        **_show_place(lease),
        "remaining_s": _rounded(lease.margin_s(when.now)),
        "duration_s": _rounded(lease.duration_s) if lease.epoch else None,
        "last_margin_s": _rounded(lease.last_margin_s),
        "renewals": lease.renewals,
        "failures": lease.failures,
        "why": None if lease.last_error is None or lease.state is LeaseState.HELD else shown(lease.last_error),
        "waited_s": _rounded(when.now - lease.registered_at),
        "owner": spec.owner.kind.value,
        "pool": None if pool is None else visible(str(pool)),
        "is_free": spec.context.get("origin") == "pool",
    }


def _show_loss(lease: Lease, when: Calendar) -> _Row:
    loss = lease.last_loss
    if loss is None:
        return _show_place(lease)
    told: _Row = {"reason": loss.reason.value, "detail": shown(loss.detail), "at": when.utc_of(loss.at)}
    return {**_show_place(lease), **told}


def _show_account(operation: Operation) -> _Row:
    return {
        "id": visible(operation.spec.id),
        "account": visible(operation.spec.account),
        "state": operation.state.value,
        "status": None if operation.status is None else shown(operation.status, 60),
        "labels": label_words(operation.spec.labels),
    }


def _show_operation(operation: Operation, when: Calendar) -> _Row:
    # What waits for its quota was due before now.
    due_at = operation.next_attempt_at if operation.held_back_by is None else None
    return {
        **_show_account(operation),
        "elapsed_s": _rounded(when.now - operation.registered_at),
        "next_poll_s": None if due_at is None else _rounded(due_at - when.now),
        "limited_by": None if operation.held_back_by is None else shown(operation.held_back_by),
        "percent": operation.percent_complete,
        "polls": operation.polls,
        "poll_errors": operation.poll_errors,
        "why": None if operation.last_poll_error is None else shown(operation.last_poll_error),
    }


def _show_end(operation: Operation, when: Calendar) -> _Row:
    return {
        **_show_account(operation),
        "ended_at": when.utc(operation.ended_at),
        "error": None if operation.error is None else _error_words(operation.error),
        "advice": advice(operation),
    }


def _show_news(event: EventDocument) -> _Row:
    data = event.data
    session_id = data.get("session_id")
    error = data.get("error")
    why = [str(data[name]) for name in ("reason", "detail") if data.get(name)]
    if isinstance(error, Mapping):
        why.append(_error_words(error))
    return {
        "time": event.time,
        "type": event.type,
        "subject": visible(event.subject),
        "where": visible(str(data.get("entity") or data.get("account") or ""), 400),
        "session_id": visible(session_id) if isinstance(session_id, str) else None,
        "why": shown(": ".join(why)),
    }


def _error_words(error: Mapping[str, object]) -> str:
    """A service's error in one line; the whole of it is for those who ask the control API."""
    parts = (error.get("errorCode") or error.get("code"), error.get("message"))
    return shown(": ".join(part for part in parts if isinstance(part, str) and part) or "error")


def _rounded(span_s: float | None) -> float | None:
    return None if span_s is None else round(span_s, 3)
