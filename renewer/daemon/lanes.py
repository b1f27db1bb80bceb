"""Lanes: work for leases, one lane for each kind of it on each target, with a bounded number of places.

A remote that is slow or silent so keeps nobody else waiting. Within a lane the attempt whose time ends first goes
first: after a stall, that is the lock that is nearest to expiry.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from renewer.core.effects import StartAcquire, StartRelease, StartRenew

HOLD_S = 1.0
"""How long an attempt for a lease takes up a place in its lane, at most. It goes on after that, but one connection that
has fallen silent, or those who wait for the next available session, must not keep others of the namespace waiting."""

Queued = StartAcquire | StartRenew | StartRelease


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """How many attempts for leases may be under way at once on each target, by kind.

    Each counts only for as long as the core waits for it, and for a second at most. Requests for operations are bounded
    by their quotas, which the core keeps.
    """

    renew: int = 1024
    acquire: int = 64
    """Each that waits for its link takes 12 KiB, and 64 are as fast as more where answers take less than 50 ms."""
    release: int = 256


class Lane:
    """Work of one kind on one target: a queue by end time, and a bounded number of places, each held for a while.

    Whoever is queued has a number, which breaks ties and is later the name of its place.
    """

    def __init__(self, limit: int) -> None:
        self.is_being_filled = False
        self._limit = limit
        self._queue: list[tuple[float, int, Queued]] = []
        self._taken: set[int] = set()
        self._ends: list[tuple[float, int]] = []

    @property
    def relief_at(self) -> float | None:
        """When a place that somebody waits for becomes free at the latest; None if nobody waits."""
        return self._ends[0][0] if self._queue and self._ends else None

    def put(self, effect: Queued, ends_at: float, number: int) -> None:
        """Queue work whose time ends then."""
        heapq.heappush(self._queue, (ends_at, number, effect))

    def take(self, now: float) -> tuple[int, Queued] | None:
        """Who is next, with a place that is to be given back; None if nobody waits, or all places are taken."""
        if not self._queue:
            return None
        ends, taken = self._ends, self._taken
        while ends and (ends[0][0] <= now or ends[0][1] not in taken):
            taken.discard(heapq.heappop(ends)[1])
        if len(taken) >= self._limit:
            return None
        _, number, effect = heapq.heappop(self._queue)
        taken.add(number)
        hold_s = min(effect.patience_s, HOLD_S) if isinstance(effect, StartRenew) else HOLD_S
        heapq.heappush(ends, (now + hold_s, number))
        return number, effect

    def give_back(self, number: int) -> None:
        """The work is done. No error if its place was given to another meanwhile."""
        self._taken.discard(number)
