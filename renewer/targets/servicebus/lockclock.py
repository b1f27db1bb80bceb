"""How long a lock lasts, read from a broker whose clock is not ours.

A broker says until when a lock is held, by its own clock. What we need is a span, to be counted on our monotonic clock.
The rules:

* A configured duration wins over everything.
* Else the first prompt answer of an epoch is believed: what it says less our wall clock. That wall clock is read once,
  at the start, and counts monotonically from there, so that whoever steps the machine's clock later changes nothing.
* What cannot be a lock (half a second and less, more than five minutes) shows that the clocks are apart: the assumed
  duration is used.
* Later answers can shorten the duration, never lengthen it: a broker whose clock is stepped forward must not make us
  lazy. They are measured from when the request was sent, which never gives less than the truth, so that a slow answer
  does not count as a short lock.
* A lock that the broker declared expired before its estimated end proves the estimate wrong: the next one of that lease
  is estimated no longer than the one that was seen to end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SHORTEST_LOCK_S: Final = 0.5
LONGEST_LOCK_S: Final = 305.0
"""A lock lasts at most 5 minutes; the rest allows for clocks that are nearly right."""

_TICKS_AT_EPOCH: Final = 621_355_968_000_000_000
_TICKS_PER_S: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class SteadyWall:
    """The wall clock as it was at `mono_at`, carried on by the monotonic clock: it cannot be stepped."""

    mono_at: float
    wall_at: float

    def at(self, mono: float) -> float:
        """Seconds since the epoch at the monotonic instant `mono`."""
        return self.wall_at + (mono - self.mono_at)


class LockClock:
    """The lock duration of one lease for one epoch. Moments are seconds since the epoch by a `SteadyWall`."""

    __slots__ = ("_settled", "duration_s", "is_configured", "skewed", "upper_s")

    def __init__(self, *, configured_s: float | None, assumed_s: float, upper_s: float | None = None) -> None:
        self.duration_s = configured_s if configured_s is not None else assumed_s
        self.upper_s = upper_s
        """No estimate is longer than this."""
        self.skewed = False
        """Whether an answer could not be true with clocks that agree, so that the duration is an assumption."""
        self.is_configured = configured_s is not None
        self._settled = False

    def answered(self, locked_until: float | None, *, sent_at: float, received_at: float) -> None:
        """Take in an answer to a request that was sent and answered at these moments."""
        if self.is_configured or locked_until is None:
            return
        if self._settled:
            seen = locked_until - sent_at
            if is_plausible(seen):
                self.duration_s = min(self.duration_s, seen)
            return
        seen = locked_until - received_at
        if not is_plausible(seen):
            self.skewed = self._settled = True
            return
        self.duration_s = seen if self.upper_s is None else min(seen, self.upper_s)
        # How long the answer was under way is unknown, and missing from the estimate: a slow one is not the last word.
        self._settled = not self.is_slow(received_at - sent_at)

    def is_slow(self, elapsed_s: float) -> bool:
        """Whether an exchange took so much of the lock that its answer is no good measure."""
        return elapsed_s > self.duration_s / 4


def is_plausible(duration_s: float) -> bool:
    """Whether a lock can last that long."""
    return SHORTEST_LOCK_S < duration_s <= LONGEST_LOCK_S


def from_ticks(value: object) -> float | None:
    """Seconds since the epoch for a count of .NET ticks (100 ns since the year 1); None for anything else."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return (value - _TICKS_AT_EPOCH) / _TICKS_PER_S


def from_milliseconds(value: object) -> float | None:
    """Seconds since the epoch for milliseconds since the epoch; None for anything else."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value / 1000
