"""How much a broker may send towards a worker: never more than what may lie here while the worker takes nothing.

The gateway must not stop reading from the broker, for the answers to its own requests come over the same connection.
So it lowers the incoming window that the worker tells the broker (AMQP 1.0 part 2.5.6), and opens it again as the
worker drains. Ids wrap around at 2^32.
"""

from __future__ import annotations

from typing import Final

from renewer.amqp.serial import FURTHEST, serial_add, serial_distance

TARGET_BYTES: Final = 2 * 1024 * 1024
"""What may be under way to one AMQP session of a worker, as far as the size of frames can be foreseen."""

LEAST_FRAMES: Final = 8
MOST_FRAMES: Final = 256


class ClampedWindow:
    """The window of one AMQP session in the direction to the worker."""

    __slots__ = ("_granted_until", "_largest", "_worker_until", "is_held", "largest_seen", "next_id")

    def __init__(self, worker_window: int, frame_limit: int) -> None:
        self.next_id = 0
        """The transfer-id of the broker's next frame."""
        self._worker_until = worker_window
        self._largest = max(1, frame_limit)
        self._granted_until = min(worker_window, self._frames)
        self.largest_seen = 0
        """Bytes of the largest frame since more was granted last. Whoever sees the frames keeps it."""
        self.is_held = False
        """The worker takes nothing at present: nothing more is granted."""

    @property
    def first(self) -> int:
        """What to tell the broker in the begin."""
        return self._granted_until

    @property
    def needs_flow(self) -> bool:
        """Whether the broker should be told of more."""
        left = serial_distance(self.next_id, self._granted_until)
        return not self.is_held and 2 * left <= self._frames and self._may_grant(left)

    def began(self, next_outgoing_id: int) -> None:
        """The broker's begin: where its ids start."""
        self.next_id = next_outgoing_id
        self._granted_until = serial_add(next_outgoing_id, self._granted_until)
        self._worker_until = serial_add(next_outgoing_id, min(self._worker_until, FURTHEST))

    def told(self, next_incoming_id: int | None, window: int) -> int:
        """The worker tells its window in a flow; the window to tell the broker instead."""
        seen = self.next_id if next_incoming_id is None else next_incoming_id
        self._worker_until = serial_add(seen, min(window, FURTHEST))
        self._grant()
        return max(0, serial_distance(seen, self._limit))

    def window(self) -> int:
        """Grant what can be, and return the window to tell, counted from `next_id`."""
        self._grant()
        return max(0, serial_distance(self.next_id, self._limit))

    @property
    def _frames(self) -> int:
        return max(LEAST_FRAMES, min(MOST_FRAMES, TARGET_BYTES // self._largest))

    @property
    def _limit(self) -> int:
        ahead = serial_distance(self._granted_until, self._worker_until)
        return self._granted_until if ahead > 0 else self._worker_until

    def _may_grant(self, left: int) -> bool:
        return serial_distance(self.next_id, self._worker_until) > left

    def _grant(self) -> None:
        if self.is_held:
            return
        if self.largest_seen:
            self._largest = max(self.largest_seen, self._largest // 2)
            self.largest_seen = 0
        until = serial_add(self.next_id, self._frames)
        # What was granted stays granted.
        if serial_distance(self._granted_until, until) > 0:
            self._granted_until = until
