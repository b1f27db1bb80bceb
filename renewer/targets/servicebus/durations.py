"""How long the locks of one namespace last, learned from the broker's answers, and how far its clock is from ours."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import structlog

from renewer.targets.servicebus.lockclock import LockClock, SteadyWall

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.core.model import LeaseId, LeaseSpec
    from renewer.ports import Clock
    from renewer.targets.servicebus.options import NamespaceOptions

_MAX_SHORT_LOCKS: Final = 10_000

log = structlog.get_logger("renewer.servicebus")


class LockDurations:
    """One `LockClock` for each epoch of each lease, and what they have in common.

    `on_skew` is called with the estimated difference between the broker's clock and ours, in seconds, whenever an
    answer gives one.
    """

    def __init__(self, options: NamespaceOptions, clock: Clock, on_skew: Callable[[float], None] | None) -> None:
        self.wall = SteadyWall(clock.now(), clock.utc_now().timestamp())
        self.clock_skew_s: float | None = None
        """The broker's clock less ours, as of its last answer. For people: nothing is decided by it."""
        self._options = options
        self._clock = clock
        self._on_skew = on_skew
        self._short_locks: OrderedDict[LeaseId, float] = OrderedDict()
        self._warned_of_skew = False
        self._skew_read_at = -math.inf

    def begin(self, spec: LeaseSpec) -> LockClock:
        """A new epoch of the lease begins."""
        return LockClock(
            configured_s=self._options.lock_duration_s if spec.lock_duration_s is None else spec.lock_duration_s,
            assumed_s=self._options.assumed_lock_duration_s,
            upper_s=self._short_locks.get(spec.id),
        )

    def measure(self, lock: LockClock, locked_until: float | None, *, sent_at: float, received_at: float) -> None:
        """Take in the broker's word (epoch seconds) on a lock that was asked for at `sent_at` (monotonic)."""
        lock.answered(locked_until, sent_at=self.wall.at(sent_at), received_at=self.wall.at(received_at))
        if locked_until is None:
            return
        if received_at != self._skew_read_at:
            # One answer tells it once, however many locks it is about.
            self._skew_read_at = received_at
            self.clock_skew_s = locked_until - lock.duration_s - self._clock.utc_now().timestamp()
            if self._on_skew is not None:
                self._on_skew(self.clock_skew_s)
        if lock.skewed:
            self._warn_of_skew(
                "the broker's clock and ours are too far apart to read the lock's duration from its answers"
            )

    def expired(self, lease_id: LeaseId, lock: LockClock, anchored_at: float) -> None:
        """The broker says that a lock expired. If we thought it valid, our estimate of its duration was wrong."""
        lasted_s = self._clock.now() - anchored_at
        if lock.is_configured or lasted_s >= lock.duration_s:
            return
        self._short_locks[lease_id] = max(lasted_s, self._options.assumed_lock_duration_s)
        self._short_locks.move_to_end(lease_id)
        if len(self._short_locks) > _MAX_SHORT_LOCKS:
            self._short_locks.popitem(last=False)
        self._warn_of_skew("a lock expired before its estimated end")

    def forget(self, lease_id: LeaseId) -> None:
        """The lease is over: nothing that was learned about it is needed."""
        self._short_locks.pop(lease_id, None)

    def _warn_of_skew(self, what: str) -> None:
        if not self._warned_of_skew:
            self._warned_of_skew = True
            log.warning(
                "lock duration uncertain",
                target=self._options.target_name,
                why=what,
                clock_skew_s=self.clock_skew_s,
                remedy="set lock_duration for this namespace to the entities' lock duration, and synchronise the clock",
            )
