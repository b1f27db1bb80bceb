"""The model as a whole: every queue, topic and subscription, found by path, and one clock for all their deadlines.

No I/O and no clock in here: time comes as an argument (`now`: monotonic seconds, `utc_ms`: UTC milliseconds), what
follows from it comes out as notices.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from renewer.emulator.broker.deadlines import Deadlines
from renewer.emulator.broker.entities import Entity
from renewer.emulator.broker.messages import StoredMessage
from renewer.emulator.broker.schedule import Schedule
from renewer.emulator.broker.specs import check_lock_duration
from renewer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from renewer.emulator.broker.messages import Incoming
    from renewer.emulator.broker.notices import Notice
    from renewer.emulator.broker.specs import QueueSpec

DEAD_LETTER_SUFFIX = "/$deadletterqueue"


class Topic:
    """Where messages are sent to that each subscription gets a copy of."""

    def __init__(self, path: str, deadlines: Deadlines) -> None:
        self.path = path
        self.subscriptions: list[Entity] = []
        self.schedule = Schedule(deadlines, self._publish)
        self._numbers = count(1)

    def send(self, batch: Sequence[Incoming], now: float, utc_ms: int) -> list[int]:
        """Take in messages, all of them or (`RefusedError`) none; their sequence numbers."""
        for subscription in self.subscriptions:
            fitting = [i for i in batch if i.session_id is not None or not subscription.requires_session]
            subscription.check(fitting)
        numbers = [next(self._numbers) for _ in batch]
        for number, incoming in zip(numbers, batch, strict=True):
            if incoming.scheduled_ms is not None and incoming.scheduled_ms > utc_ms:
                self.schedule.add(incoming, number, now, utc_ms)
            else:
                self._publish(StoredMessage(number, incoming.content, incoming.session_id, utc_ms), now)
        return numbers

    def schedule_messages(self, batch: Sequence[Incoming], now: float, utc_ms: int) -> list[int]:
        """Keep messages until their time; the numbers to cancel them by."""
        numbers = [next(self._numbers) for _ in batch]
        for number, incoming in zip(numbers, batch, strict=True):
            self.schedule.add(incoming, number, now, utc_ms)
        return numbers

    def _publish(self, message: StoredMessage, now: float) -> None:
        for subscription in self.subscriptions:
            subscription.put_copy(message, now)


class Namespace:
    """Queues, topics and subscriptions by path, compared without regard to case."""

    def __init__(
        self, queues: Iterable[QueueSpec], *, lock_duration_s: float, new_token: Callable[[], UUID] = uuid4
    ) -> None:
        check_lock_duration("broker", lock_duration_s)
        self._lock_duration_s = lock_duration_s
        self._new_token = new_token
        self._deadlines = Deadlines()
        self._notices: list[Notice] = []
        self._nodes: dict[str, Entity | Topic] = {}
        for spec in queues:
            self.add(spec)

    def add(self, spec: QueueSpec) -> Entity:
        """Make a queue or subscription. Raises `UsageError` if there is one of that name."""
        key = spec.name.lower()
        if key in self._nodes:
            raise UsageError(f"queue {spec.name}: there is one of that name already")
        topic_path, subscriptions, name = spec.name.rpartition("/")
        topic_path, _, marker = topic_path.rpartition("/")
        topic: Topic | None = None
        if subscriptions and marker.lower() == "subscriptions" and topic_path:
            node = self._nodes.get(topic_path.lower())
            if node is None:
                node = Topic(topic_path, self._deadlines)
            if not isinstance(node, Topic):
                raise UsageError(f"subscription {name}: {topic_path} is a queue, not a topic")
            topic = node
        lock_duration_s = self._lock_duration_s if spec.lock_duration_s is None else spec.lock_duration_s
        dead_letters = Entity(
            spec.name + DEAD_LETTER_SUFFIX,
            self._deadlines,
            self._notices,
            lock_duration_s=lock_duration_s,
            new_token=self._new_token,
        )
        entity = Entity(
            spec.name,
            self._deadlines,
            self._notices,
            requires_session=spec.requires_session,
            lock_duration_s=lock_duration_s,
            max_delivery_count=spec.max_delivery_count,
            dead_letters=dead_letters,
            takes_messages=topic is None,
            new_token=self._new_token,
        )
        self._nodes[key] = entity
        self._nodes[key + DEAD_LETTER_SUFFIX] = dead_letters
        if topic is not None:
            self._nodes[topic.path.lower()] = topic
            topic.subscriptions.append(entity)
        return entity

    def __iter__(self) -> Iterator[Entity]:
        """Every queue and subscription with its dead-letter queue."""
        return (node for node in self._nodes.values() if isinstance(node, Entity))

    def find(self, path: str) -> Entity | Topic | None:
        """What stands at `path`, if anything."""
        return self._nodes.get(path.lower())

    def advance(self, now: float) -> list[Notice]:
        """Let pass what has ended by `now`; all notices since the last time."""
        for ending in self._deadlines.pop_due(now):
            ending.end(now)
        return self.take_notices()

    def take_notices(self) -> list[Notice]:
        """The notices since the last time."""
        notices = [*self._notices]
        self._notices.clear()
        return notices

    def next_due(self) -> float | None:
        """When to call `advance` again at the latest; None: nothing is due."""
        return self._deadlines.next_due()
