"""Messages as an entity keeps them, and the locks on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any

from renewer.emulator.broker.deadlines import Ending

if TYPE_CHECKING:
    from uuid import UUID

    from renewer.emulator.broker.entities import Entity
    from renewer.emulator.broker.sessions import SessionLock


class MessageState(IntEnum):
    """Where a message stands; the numbers are those of the annotation `x-opt-message-state`."""

    ACTIVE = 0
    DEFERRED = 1
    SCHEDULED = 2


class Outcome(Enum):
    """What a receiver makes of a message."""

    COMPLETE = "complete"
    """Done: it is deleted."""
    ABANDON = "abandon"
    """Failed: available again, with one more failed delivery."""
    RELEASE = "release"
    """Not tried: available again as it was."""
    DEFER = "defer"
    """Put aside: only to be had by its sequence number."""
    DEAD_LETTER = "dead-letter"
    """Given up: moved to the dead-letter queue."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as it was sent. `content` is the shell's business."""

    content: Any
    session_id: str | None = None
    scheduled_ms: int | None = None
    """UTC milliseconds at which it shall be enqueued; None: at once."""


@dataclass(slots=True, eq=False)
class StoredMessage:
    """One message of an entity."""

    sequence_number: int
    content: Any
    session_id: str | None
    enqueued_ms: int
    """UTC milliseconds at which it became available (a scheduled one: shall become)."""
    state: MessageState = MessageState.ACTIVE
    delivery_count: int = 0
    """Deliveries that failed so far (AMQP 1.0 part 3.2.1)."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Application properties that settlement added or replaced, the reason for dead-lettering among them."""
    lock: MessageLock | None = None


class MessageLock(Ending):
    """A peek-lock on a message. `token` is a secret. In a session it has no end of its own but that of the session."""

    __slots__ = ("entity", "message", "session", "token")

    def __init__(
        self, entity: Entity, message: StoredMessage, token: UUID, ends_at: float | None, session: SessionLock | None
    ) -> None:
        self.entity = entity
        self.message = message
        self.token = token
        self.ends_at = ends_at
        self.session = session

    @property
    def lasts_until(self) -> float | None:
        """When it ends (monotonic seconds), by itself or with its session; None: it is over."""
        return self.ends_at if self.session is None else self.session.ends_at

    def end(self, now: float) -> None:
        """Give the message back, with one more failed delivery."""
        self.entity.expire_message_lock(self, now)
