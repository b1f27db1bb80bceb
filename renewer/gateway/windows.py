"""How much a broker may send towards a worker: never more than what may lie here while the worker takes nothing.

The gateway must not stop reading from the broker, for the answers to its own requests come over the same connection.
So it lowers the incoming window that the worker tells the broker (AMQP 1.0 part 2.5.6), and opens it again as the
worker drains. Ids wrap around at 2^32.
"""

from __future__ import annotations

from typing import Final

from renewer.amqp.serial import FURTHEST, serial_add, serial_distance

CONNECTION_BYTES: Final = 8 * 1024 * 1024
"""What may be under way to all AMQP sessions of a worker together, as far as the size of frames can be foreseen."""

SESSION_BYTES: Final = 2 * 1024 * 1024
"""And to one of them."""

MOST_FRAMES: Final = 256


class Sharing:
    """How many AMQP sessions of a connection share what may be under way."""

    __slots__ = ("sessions",)

    def __init__(self) -> None:
        self.sessions = 1

    def frames_of(self, size: int) -> int:
        """How many frames of that size may be under way to one of them; one at least, or nothing would ever come."""
        share = min(SESSION_BYTES, CONNECTION_BYTES // max(1, self.sessions))
        return max(1, min(MOST_FRAMES, share // size))


class ClampedWindow:
    """The window of one AMQP session in the direction to the worker."""

    __slots__ = (
        "_frames",
        "_granted_until",
        "_largest",
        "_shared_by",
        "_sharing",
        "_worker_until",
        "is_held",
        "largest_seen",
        "next_id",
    )

    def __init__(self, worker_window: int, frame_limit: int, sharing: Sharing) -> None:
        self._sharing = sharing
        self._shared_by = sharing.sessions
        self.next_id = 0
        """The transfer-id of the broker's next frame."""
        self._worker_until = worker_window
        self._largest = max(1, frame_limit)
        self._frames = sharing.frames_of(self._largest)
        """How many frames may be under way."""
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
        if 2 * left > self._frames or self.is_held:
            return False
        return serial_distance(self.next_id, self._worker_until) > left

    def began(self, next_outgoing_id: int) -> None:
        """The broker's begin: where its ids start."""
        self.next_id = next_outgoing_id
        self._granted_until = serial_add(next_outgoing_id, self._granted_until)
        self._worker_until = serial_add(next_outgoing_id, min(self._worker_until, FURTHEST))

    def told(self, next_incoming_id: int | None, window: int) -> int:
        """The worker tells its window in a flow; the window to tell the broker instead.

        Asked for each message that is fetched alone, before it can go on: hence in one piece.
        """
        seen = self.next_id if next_incoming_id is None else next_incoming_id
        wanted = min(window, FURTHEST)
        self._worker_until = (seen + wanted) & _LAST_ID
        if not self.is_held:
            largest = self._largest
            if self.largest_seen:
                largest = max(self.largest_seen, largest // 2)
                self.largest_seen = 0
            if largest != self._largest or self._shared_by != self._sharing.sessions:
                self._largest, self._shared_by = largest, self._sharing.sessions
                self._frames = self._sharing.frames_of(largest)
            until = (self.next_id + self._frames) & _LAST_ID
            # What was granted stays granted.
            if 0 < (until - self._granted_until) & _LAST_ID <= FURTHEST:
                self._granted_until = until
        left = (self._granted_until - seen) & _LAST_ID
        return 0 if left > FURTHEST else min(wanted, left)

    def window(self) -> int:
        """Grant what can be, and return the window to tell, counted from `next_id`."""
        return self.told(None, max(0, serial_distance(self.next_id, self._worker_until)))


_LAST_ID: Final = 0xFFFFFFFF
