"""Lanes: work for leases, one lane for each kind of it on each target, with a bounded number of places.

A remote that is slow or silent so keeps nobody else waiting. Within a lane the attempt whose time ends first goes
first: after a stall, that is the lock that is nearest to expiry. All that find a place at one moment go together.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from renewer.core.inorder import InOrder

if TYPE_CHECKING:
    from renewer.daemon.pending import PendingAttempt

HOLD_S = 1.0
"""How long an attempt for a lease takes up a place in its lane, at most. It goes on after that, but one connection that
has fallen silent, or those who wait for the next available session, must not keep others of the namespace waiting."""


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


class Places:
    """Places in a lane, taken at one moment: each until it is given back, all until the lane has them back."""

    __slots__ = ("count", "lane", "taken_at")

    def __init__(self, lane: Lane, count: int, taken_at: float) -> None:
        self.lane = lane
        self.count = count
        self.taken_at = taken_at

    def give_back(self, count: int = 1) -> None:
        """So many are not needed any longer. No error if the lane has taken them back meanwhile."""
        self.lane.leave(self, count)


class Lane:
    """Work of one kind on one target: a queue by end time, and a bounded number of places, each held for a while."""

    def __init__(self, limit: int) -> None:
        self.is_being_filled = False
        self._limit = limit
        self._numbers = itertools.count()
        self._newcomers: list[PendingAttempt] = []
        # Of those whose time ends at once the one that came first goes first.
        self._queue: InOrder[tuple[int, PendingAttempt]] = InOrder()
        self._taken = 0
        self._held: list[tuple[float, int, Places]] = []

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits, and no place is taken."""
        return not (self._newcomers or self._queue or self._taken)

    @property
    def relief_at(self) -> float | None:
        """When a place that somebody waits for becomes free at the latest; None if nobody waits."""
        return self._held[0][0] if self._held and (self._newcomers or self._queue) else None

    def put(self, attempts: Sequence[PendingAttempt]) -> None:
        """Queue these."""
        self._newcomers += attempts

    def take(self, now: float) -> list[PendingAttempt]:
        """Those who are next, with their `places`; none if nobody waits, or all places are taken."""
        held = self._held
        while held and (held[0][0] <= now or not held[0][2].count):
            places = heapq.heappop(held)[2]
            self.leave(places, places.count)
        newcomers, room = self._newcomers, max(0, self._limit - self._taken)
        if self._queue or len(newcomers) > room:
            numbers = self._numbers
            self._queue.add([(attempt.ends_at, (next(numbers), attempt)) for attempt in newcomers])
            taken = [attempt for _, (_, attempt) in self._queue.take(room)]
        else:
            taken = sorted(newcomers, key=_ends_at)
        newcomers.clear()
        if taken:
            places = Places(self, len(taken), now)
            for attempt in taken:
                attempt.places = places
            self._taken += len(taken)
            hold_s = min(HOLD_S, max(attempt.patience_s for attempt in taken))
            heapq.heappush(held, (now + hold_s, next(self._numbers), places))
        return taken

    def leave(self, places: Places, count: int) -> None:
        """So many of these places are free again, if they were not yet."""
        count = min(count, places.count)
        places.count -= count
        self._taken -= count


_ends_at = attrgetter("ends_at")
