"""How long the owner of a lease may still be silent.

A dead worker must not pin a lock. Who is kept alive by a connection needs no sign while it stands; who sends
heartbeats, or has lost its connection, has so long to give one. A process is watched by the shell, which reports its
end. Until when there must be a sign is an instant on the monotonic clock, or None where there need not be any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from renewer.core.states import OwnerKind

if TYPE_CHECKING:
    from renewer.core.model import Owner

RETURN_S = 30.0
"""How long an owner has, at least, to connect first, and to come back to a daemon that was started anew."""

_LATE_S = 1.0
"""A deadline that is looked at so late passed while the daemon was stopped, or its machine asleep."""

_UNREAD_S = 2.0
"""How long an owner then has, at least: its sign of life may have come meanwhile, and is still to be read."""


def first_sign_by(owner: Owner, now: float) -> float | None:
    """By when, if the lease is registered now: who is to be known by its connection has yet to open one."""
    return next_sign_by(owner, now, is_new=owner.kind is OwnerKind.CONNECTION)


def next_sign_by(owner: Owner, now: float, *, stays: bool = False, is_new: bool = False) -> float | None:
    """By when, if there was a sign now. While it `stays` no other is needed; one that `is_new` has time to connect."""
    if stays or owner.kind not in (OwnerKind.CONNECTION, OwnerKind.HEARTBEAT):
        return None
    return now + max(owner.ttl_s, RETURN_S if is_new else 0.0)


def without_blame(until: float, now: float) -> float:
    """By when, where that has come: an owner is not blamed for a stall of our own."""
    return now + _UNREAD_S if until + _LATE_S <= now else until


def silence(owner: Owner) -> str:
    """What an owner did not do that is gone."""
    if owner.kind is OwnerKind.HEARTBEAT:
        return f"no heartbeat for {owner.ttl_s:g} s"
    return "the owner's connection is gone"
