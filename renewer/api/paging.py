"""Lists: filtered, paged by a cursor that stays good, and made in slices so that the loop that renews is never held."""

from __future__ import annotations

import base64
import binascii
import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import anyio.lowlevel

from renewer.api.documents import to_json
from renewer.api.models import Standing
from renewer.api.problems import Problem
from renewer.api.views import Calendar
from renewer.core.leases import Lease
from renewer.core.operations import Operation
from renewer.core.states import LeaseState, OperationState, is_over

if TYPE_CHECKING:
    from renewer.ports import Clock

LOOKED_AT_ONCE = 1000
SHOWN_AT_ONCE = 100

_Item = TypeVar("_Item", Lease, Operation)
_Shown = TypeVar("_Shown")
_State = TypeVar("_State", LeaseState, OperationState)

_RANK = {LeaseState.AT_RISK: 0, LeaseState.HELD: 1, LeaseState.ACQUIRING: 2, LeaseState.LOST: 3, LeaseState.RELEASED: 3}


async def page(
    items: Iterable[_Item],
    keep: Callable[[_Item], bool],
    show: Callable[[_Item, Calendar], Mapping[str, object]],
    clock: Clock,
    *,
    limit: int,
    after: str | None,
) -> bytes:
    """One page, as JSON: up to `limit` items to `keep`, registered after the one that the cursor `after` tells of."""
    all_items = list(items)
    begin = 0 if after is None else bisect_right(all_items, _read_cursor(after), key=lambda item: item.number)
    chosen: list[_Item] = []
    for index in range(begin, len(all_items)):
        if keep(all_items[index]):
            chosen.append(all_items[index])
            if len(chosen) > limit:
                break
        if (index - begin) % LOOKED_AT_ONCE == LOOKED_AT_ONCE - 1:
            await anyio.lowlevel.checkpoint()
    cursor = _cursor(chosen[limit - 1].number) if len(chosen) > limit else None
    shown = await shown_in_slices(chosen[:limit], show, clock)
    return b'{"items":' + shown + b',"next":' + to_json(cursor) + b"}"


async def nearest_expiry(
    leases: Iterable[Lease],
    keep: Callable[[Lease], bool],
    show: Callable[[Lease, Calendar], Mapping[str, object]],
    clock: Clock,
    *,
    limit: int,
) -> bytes:
    """The one page, as JSON, of those `limit` leases to `keep` of whose locks the least is left."""
    all_leases = list(leases)
    now = clock.now()
    keys: list[tuple[int, float, int]] = []
    for index, lease in enumerate(all_leases):
        if keep(lease):
            margin_s = lease.margin_s(now)
            keys.append((_RANK[lease.state], 0.0 if margin_s is None else margin_s, index))
        if index % LOOKED_AT_ONCE == LOOKED_AT_ONCE - 1:
            await anyio.lowlevel.checkpoint()
    first = [all_leases[index] for _, _, index in heapq.nsmallest(limit, keys)]
    return b'{"items":' + await shown_in_slices(first, show, clock) + b',"next":null}'


async def shown_in_slices(
    items: Sequence[_Shown], show: Callable[[_Shown, Calendar], Mapping[str, object]], clock: Clock
) -> bytes:
    """A JSON array of `items` as they stand, each in itself; others get their turn in between."""
    parts: list[bytes] = []
    for begin in range(0, len(items), SHOWN_AT_ONCE):
        when = Calendar(clock)
        part = to_json([show(item, when) for item in items[begin : begin + SHOWN_AT_ONCE]])
        parts.append(part[1:-1])
        await anyio.lowlevel.checkpoint()
    return b"[" + b",".join(parts) + b"]"


def meant(wanted: Iterable[_State | Standing], states: type[_State]) -> frozenset[_State]:
    """The states that are asked for, one by one or all of a kind."""
    found: set[_State] = set()
    for state in wanted:
        if isinstance(state, Standing):
            found |= {known for known in states if is_over(known) is (state is Standing.ENDED)}
        else:
            found.add(state)
    return frozenset(found)


def has_labels(labels: Mapping[str, str], wanted: Sequence[tuple[str, str]]) -> bool:
    """Whether all that are wanted are among `labels`."""
    return all(labels.get(name) == value for name, value in wanted)


def _cursor(number: int) -> str:
    return base64.urlsafe_b64encode(f"n{number}".encode()).decode().rstrip("=")


def _read_cursor(text: str) -> int:
    try:
        plain = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        plain = b""
    digits = plain[1:]
    if not plain.startswith(b"n") or not digits.isdigit() or len(digits) > 18:
        raise Problem(400, "after: must be the `next` of the page before; start again without it")
    return int(digits)
