"""How long the owner of a lease may still be silent.

A dead worker must not pin a lock. Who is kept alive by a connection needs no sign while it stands; who sends
heartbeats, or has lost its connection, has so long to give one. A process is watched by the shell, which reports its
end.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(slots=True)
class Ownership:
    """By when the owner must give its next sign of life, `until`, on the monotonic clock; None for not at all."""

    until: float | None = None

    def begin(self, owner: Owner, now: float) -> None:
        """The lease is registered: who is to be known by its connection has yet to open one."""
        self.seen(owner, now, is_new=owner.kind is OwnerKind.CONNECTION)

    def seen(self, owner: Owner, now: float, *, stays: bool = False, is_new: bool = False) -> None:
        """A sign of life. While it `stays` no other is needed; one that `is_new` has its time to connect."""
        if stays or owner.kind not in (OwnerKind.CONNECTION, OwnerKind.HEARTBEAT):
            self.until = None
        else:
            self.until = now + max(owner.ttl_s, RETURN_S if is_new else 0.0)

    def end(self) -> None:
        """Nobody waits for a sign any longer."""
        self.until = None

    def is_gone(self, now: float) -> bool:
        """Whether the owner has been silent for too long; it is not blamed for a stall of our own."""
        if self.until is not None and self.until + _LATE_S <= now:
            self.until = now + _UNREAD_S
        return self.until is not None and self.until <= now


def silence(owner: Owner) -> str:
    """What an owner did not do that is gone."""
    if owner.kind is OwnerKind.HEARTBEAT:
        return f"no heartbeat for {owner.ttl_s:g} s"
    return "the owner's connection is gone"
