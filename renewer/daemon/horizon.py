"""The horizon: until when polls may go out whose answers a crash could swallow.

Who starts after a crash must not ask again before the service wants it to, and an answer that nobody read may have
asked for a pause. So it must know which polls may have been sent. To note each one before it goes out would cost a
flush of the disk for each; instead it is stored, every second or two, how far ahead polls may go out. A poll that was
due within that horizon may have been sent; one that was due beyond it was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from renewer.ports import Entry, EntryKind

if TYPE_CHECKING:
    from renewer.daemon.records import Timeline
    from renewer.ports import Clock

KEY = "polls"

REACH_S = 3.0
"""How far ahead is stored. What falls due so soon after a crash waits for a Retry-After more than it would have to."""

_VERSION = 1


class Horizon:
    """How far polls may go out, as far as that is stored."""

    def __init__(self, clock: Clock, timeline: Callable[[], Timeline]) -> None:
        self._clock = clock
        self._timeline = timeline
        self._reach_s = REACH_S
        self._written_until = -math.inf
        self._stored_until = -math.inf

    @property
    def covers_now(self) -> bool:
        """Whether a poll may go out now."""
        return self._clock.now() < self._stored_until

    @property
    def is_near(self) -> bool:
        """Whether it should be moved on, for polls that come soon."""
        return self._stored_until - self._clock.now() < self._reach_s / 2

    def draw_in(self) -> None:
        """From now on store no more than the present: the daemon is about to stop."""
        self._reach_s = 0.0

    def entry(self) -> Entry:
        """Move it on: what is to be stored, and counts once `stored` is called."""
        timeline = self._timeline()
        self._written_until = timeline.now + self._reach_s
        document = {"v": _VERSION, "clock": timeline.mark(), "until": self._written_until}
        return Entry(EntryKind.HORIZON, KEY, 0, document)

    def stored(self) -> None:
        """What `entry` gave last is on disk."""
        self._stored_until = self._written_until


def read_horizon(entry: Entry, timeline: Timeline) -> float:
    """Until when an earlier run may have sent polls, as an instant of this one.

    One that cannot be read counts as endless: no poll goes out too early, and some later than they could.
    """
    document: Any = entry.document
    try:
        if document["v"] != _VERSION:
            return math.inf
        return cast("float", timeline.carry(document["clock"])(float(document["until"])))
    except (KeyError, TypeError, ValueError):
        return math.inf
