"""Messages that wait for the time at which they shall be enqueued."""

from __future__ import annotations

from typing import TYPE_CHECKING

from renewer.emulator.broker import refusals
from renewer.emulator.broker.deadlines import Ending
from renewer.emulator.broker.messages import MessageState, StoredMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from renewer.emulator.broker.deadlines import Deadlines
    from renewer.emulator.broker.messages import Incoming


class Scheduled(Ending):
    """A message and its time."""

    __slots__ = ("message", "schedule")

    def __init__(self, schedule: Schedule, message: StoredMessage, ends_at: float) -> None:
        self.schedule = schedule
        self.message = message
        self.ends_at = ends_at

    def end(self, now: float) -> None:
        """Enqueue the message."""
        self.schedule.enqueue(self, now)


class Schedule:
    """The scheduled messages of a queue, a subscription or a topic, by sequence number.

    The number is good only until the message is enqueued: then it gets a new one, as if it had just been sent.
    """

    def __init__(self, deadlines: Deadlines, enqueue: Callable[[StoredMessage, float], None]) -> None:
        self._deadlines = deadlines
        self._enqueue = enqueue
        self._scheduled: dict[int, Scheduled] = {}

    def __len__(self) -> int:
        return len(self._scheduled)

    def __iter__(self) -> Iterator[StoredMessage]:
        return (scheduled.message for scheduled in self._scheduled.values())

    def add(self, incoming: Incoming, sequence_number: int, now: float, utc_ms: int) -> None:
        """Keep a message until its time, which may have come already."""
        due_ms = utc_ms if incoming.scheduled_ms is None else incoming.scheduled_ms
        message = StoredMessage(
            sequence_number, incoming.content, incoming.session_id, due_ms, state=MessageState.SCHEDULED
        )
        scheduled = Scheduled(self, message, now + max(0, due_ms - utc_ms) / 1000)
        self._scheduled[sequence_number] = scheduled
        self._deadlines.add(scheduled)

    def cancel(self, sequence_numbers: Iterable[int]) -> None:
        """Delete scheduled messages: all of these, or `RefusedError` and none."""
        wanted = dict.fromkeys(sequence_numbers)
        if not all(number in self._scheduled for number in wanted):
            raise refusals.message_not_found("Not all of these messages are scheduled.")
        for number in wanted:
            self._deadlines.cancel(self._scheduled.pop(number))

    def enqueue(self, scheduled: Scheduled, now: float) -> None:
        """The time of a message has come."""
        del self._scheduled[scheduled.message.sequence_number]
        self._enqueue(scheduled.message, now)
