"""Deliveries without I/O: what a callback says, how it is kept in the registry, and which is due when.

Events are CloudEvents 1.0 in structured mode (spec 3.1, JSON format 1.0). An event keeps its id through every attempt
and restart, so that a receiver can tell a repetition. Of each subject one delivery is under way at a time, in order.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from renewer.core.duequeue import DueQueue
from renewer.core.effects import LeaseNews, OperationNews, TellLease
from renewer.core.states import is_over
from renewer.daemon.eventdocs import lease_data, lease_type, operation_data, operation_type
from renewer.errors import RegistryError
from renewer.ports import Entry, EntryKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.core.effects import TellOperation
    from renewer.core.model import OperationId
    from renewer.core.operations import Operation

MAX_PENDING = 100_000
MAX_PENDING_PER_SUBJECT = 1_000

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
SOURCE = "renewer"

_VERSION = 1

_TOLD = frozenset(
    {
        LeaseNews.ACQUIRED,
        LeaseNews.REACQUIRED,
        LeaseNews.AT_RISK,
        LeaseNews.RECOVERED,
        LeaseNews.LOST,
        LeaseNews.RELEASED,
    }
)


@dataclass(slots=True)
class Delivery:
    """One event on its way to one URL. `give_up_at` is monotonic: an attempt that fails after it is the last."""

    id: str
    subject: str
    type: str
    url: str = field(repr=False)
    event: Mapping[str, Any] = field(repr=False)
    happened_at: datetime
    give_up_at: float = 0.0
    failures: int = 0


def callback_url(news: TellLease | TellOperation) -> str | None:
    """The URL that is to be told of this piece of news; None if nobody asked for that."""
    url = news.spec.context.get("callback")
    if not isinstance(url, str):
        return None
    if isinstance(news, TellLease):
        return url if news.news in _TOLD else None
    return url if news.news is OperationNews.STATE_CHANGED and is_over(news.state) else None


def make_entry(
    news: TellLease | TellOperation,
    url: str,
    *,
    event_id: str,
    number: int,
    time: datetime,
    operation: Callable[[OperationId], Operation | None],
) -> Entry:
    """The delivery of this piece of news, as the registry keeps it."""
    if isinstance(news, TellLease):
        kind, data = lease_type(news), lease_data(news)
    else:
        kind, data = operation_type(news), operation_data(news, operation(news.spec.id))
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": SOURCE,
        "type": f"renewer.{kind}",
        "subject": str(news.spec.id),
        "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": data,
    }
    return Entry(EntryKind.CALLBACK, event_id, number, {"v": _VERSION, "url": url, "event": event})


def read_entry(entry: Entry) -> Delivery:
    """What `make_entry` made. Raises `RegistryError` if it cannot be read."""
    document = entry.document
    event, url = document.get("event"), document.get("url")
    if document.get("v") != _VERSION or not isinstance(event, Mapping) or not isinstance(url, str):
        raise RegistryError(f"callback {entry.id} is not of a form that this version of renewer reads")
    fields = cast("Mapping[str, Any]", event)
    subject, kind, time = fields.get("subject"), fields.get("type"), fields.get("time")
    try:
        happened_at = datetime.fromisoformat(str(time))
    except ValueError:
        happened_at = None
    if not isinstance(subject, str) or not isinstance(kind, str) or happened_at is None or happened_at.tzinfo is None:
        raise RegistryError(f"callback {entry.id} is damaged: its event has no subject, type or time")
    return Delivery(entry.id, subject, kind, url, fields, happened_at)


def signature(key: str, moment: int, body: bytes) -> str:
    """The value of ``Renewer-Signature``: the time in seconds since the epoch, and HMAC-SHA256 over time and body.

    The time is signed along, so that a receiver can refuse what was recorded and is sent again later.
    """
    signed = hmac.new(key.encode("utf-8"), f"{moment}.".encode("ascii") + body, hashlib.sha256)
    return f"t={moment},v1={signed.hexdigest()}"


class Outbox:
    """Which delivery is due when: in order of arrival for each subject, the next only when the one before is done."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Delivery]] = {}
        self._due: DueQueue[str] = DueQueue()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, delivery: Delivery, now: float) -> Delivery | None:
        """Put it last of its subject; returns the one that had to give way, if there are too many."""
        waiting = self._waiting.setdefault(delivery.subject, deque())
        gives_way: Delivery | None = None
        if len(waiting) >= MAX_PENDING_PER_SUBJECT or self._size >= MAX_PENDING:
            if len(waiting) < 2:
                self._tidy(delivery.subject)
                return delivery
            # The first may be under way.
            gives_way = waiting[1]
            del waiting[1]
            self._size -= 1
        waiting.append(delivery)
        self._size += 1
        if len(waiting) == 1:
            self._due.schedule(delivery.subject, now)
        return gives_way

    def next_due(self) -> float | None:
        """When the next delivery falls due that is not under way; None if there is none."""
        return self._due.next_due()

    def take(self, now: float) -> Delivery | None:
        """A delivery that is due; it is under way until `retry` or `finish`."""
        subject = self._due.pop_due(now)
        return None if subject is None else self._waiting[subject][0]

    def retry(self, delivery: Delivery, due_at: float) -> None:
        """It failed, and is tried again then."""
        self._due.schedule(delivery.subject, due_at)

    def finish(self, delivery: Delivery, now: float) -> None:
        """It is done with, well or not; the next of its subject falls due."""
        self._waiting[delivery.subject].popleft()
        self._size -= 1
        if not self._tidy(delivery.subject):
            self._due.schedule(delivery.subject, now)

    def _tidy(self, subject: str) -> bool:
        if self._waiting[subject]:
            return False
        del self._waiting[subject]
        return True
