"""Queues and subscriptions: their messages, the locks on them, and what settling one does.

Rules (azure-servicebus 7.15 behaviour and public documentation of Service Bus): a message lock belongs to its token,
whoever presents it; in a session it ends with the session. A failed delivery is one that was abandoned or whose lock
expired; at the maximum the message is dead-lettered. A closed link or session counts nothing.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from renewer.emulator.broker import refusals
from renewer.emulator.broker.messages import Incoming, MessageLock, MessageState, Outcome, StoredMessage
from renewer.emulator.broker.notices import MessageLockExpired, MessagesReady
from renewer.emulator.broker.schedule import Schedule
from renewer.emulator.broker.sessions import SessionTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from renewer.emulator.broker.deadlines import Deadlines
    from renewer.emulator.broker.notices import Notice
    from renewer.emulator.broker.sessions import Session, SessionLock

MAX_MESSAGES = 100_000
MAX_SESSIONS = 100_000

REASON = "DeadLetterReason"
DESCRIPTION = "DeadLetterErrorDescription"
SESSION_ID_MISSING = "SessionIdMissing"
MAX_DELIVERY_COUNT_EXCEEDED = "MaxDeliveryCountExceeded"


class Entity:
    """A queue, a subscription, or the dead-letter queue of one (`dead_letters` is then None).

    `takes_messages`: clients send to it, as they do to queues only.
    """

    def __init__(
        self,
        path: str,
        deadlines: Deadlines,
        notices: list[Notice],
        *,
        requires_session: bool = False,
        lock_duration_s: float = 60.0,
        max_delivery_count: int = 10,
        dead_letters: Entity | None = None,
        takes_messages: bool = False,
        new_token: Callable[[], UUID] = uuid4,
    ) -> None:
        self.path = path
        self.requires_session = requires_session
        self.lock_duration_s = lock_duration_s
        self.max_delivery_count = max_delivery_count
        self.dead_letters = dead_letters
        self.takes_messages = takes_messages
        self.sessions = SessionTable(self, deadlines, notices, max_sessions=MAX_SESSIONS)
        self.schedule = Schedule(deadlines, self._enqueue_scheduled)
        self._deadlines = deadlines
        self._notices = notices
        self._new_token = new_token
        self._numbers = count(1)
        self._messages: dict[int, StoredMessage] = {}
        self._ready: list[int] = []
        self._locks: dict[UUID, MessageLock] = {}

    @property
    def size(self) -> int:
        """How many messages there are, in any state."""
        return len(self._messages) + len(self.schedule)

    @property
    def locked(self) -> int:
        """How many messages are locked."""
        return len(self._locks)

    # Sending --------------------------------------------------------------------------------------------------------

    def check(self, batch: Sequence[Incoming]) -> None:
        """Raise `RefusedError` if these messages cannot be taken in together."""
        if self.size + len(batch) > MAX_MESSAGES:
            raise refusals.quota_exceeded(f"The entity has {self.size} messages; no more than {MAX_MESSAGES} fit.")
        if self.requires_session:
            for incoming in batch:
                if incoming.session_id is None:
                    raise refusals.not_allowed("The entity has sessions: a message must name the one it belongs to.")
                self.sessions.check(incoming.session_id)

    def send(self, batch: Sequence[Incoming], now: float, utc_ms: int) -> list[int]:
        """Take in messages, all of them or (`RefusedError`) none; their sequence numbers."""
        self.check(batch)
        return [self._send(incoming, now, utc_ms) for incoming in batch]

    def schedule_messages(self, batch: Sequence[Incoming], now: float, utc_ms: int) -> list[int]:
        """Keep messages until their time, all of them or (`RefusedError`) none; the numbers to cancel them by."""
        self.check(batch)
        numbers = [next(self._numbers) for _ in batch]
        for number, incoming in zip(numbers, batch, strict=True):
            self.schedule.add(incoming, number, now, utc_ms)
        return numbers

    def put_copy(self, message: StoredMessage, now: float) -> None:
        """(Subscription) take in a message that was sent to the topic."""
        copy = StoredMessage(next(self._numbers), message.content, message.session_id, message.enqueued_ms)
        if self.requires_session and message.session_id is None:
            self._give_up(copy, now, SESSION_ID_MISSING, "The subscription has sessions, the message names none.")
        else:
            self._put(copy, now)

    def put_dead(self, message: StoredMessage, now: float) -> None:
        """(Dead-letter queue) take in a message that was given up elsewhere, under its old number."""
        message.state = MessageState.ACTIVE
        self._put(message, now)

    # Receiving ------------------------------------------------------------------------------------------------------

    def lock_next(self, now: float, session: SessionLock | None = None) -> MessageLock | None:
        """Lock the next available message, of the session if the entity has sessions; None if there is none."""
        message = self._pop_ready(session)
        return None if message is None else self._lock(message, now, session)

    def lock_deferred(
        self, sequence_numbers: Iterable[int], now: float, session: SessionLock | None = None
    ) -> list[MessageLock]:
        """Lock deferred messages: all of these, or `RefusedError` and none."""
        return [self._lock(message, now, session) for message in self._deferred(sequence_numbers, session)]

    def take_deferred(
        self, sequence_numbers: Iterable[int], now: float, session: SessionLock | None = None
    ) -> list[StoredMessage]:
        """Receive and delete deferred messages: all of these, or `RefusedError` and none."""
        messages = self._deferred(sequence_numbers, session)
        for message in messages:
            self._remove(message, now)
        return messages

    def peek(self, from_number: int, limit: int, session_id: str | None = None) -> list[StoredMessage]:
        """Look at messages in any state, by sequence number, without locking them."""
        found: Iterable[StoredMessage]
        if session_id is None:
            found = [*self._messages.values(), *self.schedule]
        else:
            session = self.sessions.get(session_id)
            found = [
                *(session.messages.values() if session is not None else ()),
                *(message for message in self.schedule if message.session_id == session_id),
            ]
        wanted = (message for message in found if message.sequence_number >= from_number)
        return heapq.nsmallest(limit, wanted, key=lambda message: message.sequence_number)

    # Locks and settlement -------------------------------------------------------------------------------------------

    def locks_of(self, tokens: Iterable[UUID], now: float) -> list[MessageLock]:
        """The locks that these tokens stand for: all of them, or `RefusedError`."""
        locks = []
        for token in dict.fromkeys(tokens):
            lock = self._locks.get(token)
            until = None if lock is None else lock.lasts_until
            if lock is None or until is None or until <= now:
                raise refusals.message_lock_lost()
            locks.append(lock)
        return locks

    def renew(self, tokens: Iterable[UUID], now: float) -> None:
        """Let message locks last for one lock duration from now: all of them, or `RefusedError` and none."""
        if self.requires_session:
            raise refusals.not_allowed("The entity has sessions: the lock of the session is to be renewed.")
        for lock in self.locks_of(tokens, now):
            lock.ends_at = now + self.lock_duration_s

    def settle(
        self,
        lock: MessageLock,
        outcome: Outcome,
        now: float,
        *,
        changes: Mapping[str, Any] | None = None,
        reason: str | None = None,
        description: str | None = None,
    ) -> None:
        """Make of a locked message what its receiver decided; `changes` go into its application properties."""
        message = lock.message
        if outcome is Outcome.DEAD_LETTER and self.dead_letters is None:
            raise refusals.not_allowed("A dead-letter queue has no dead-letter queue.")
        message.changes.update(changes or {})
        match outcome:
            case Outcome.COMPLETE:
                self._unlock(lock)
                self._remove(message, now)
            case Outcome.DEAD_LETTER:
                self._unlock(lock)
                self._give_up(message, now, reason, description)
            case Outcome.DEFER:
                self._unlock(lock)
                message.state = MessageState.DEFERRED
                self._after_settlement(lock, now)
            case Outcome.ABANDON | Outcome.RELEASE:
                self.give_back(lock, now, counted=outcome is Outcome.ABANDON)
                self._after_settlement(lock, now)

    def expire_message_lock(self, lock: MessageLock, now: float) -> None:
        """The time of a lock is over."""
        self._notices.append(MessageLockExpired(self, lock))
        self.give_back(lock, now, counted=True)

    def give_back(self, lock: MessageLock, now: float, *, counted: bool) -> None:
        """End a lock and make its message available again; with `counted` its delivery has failed."""
        self._unlock(lock)
        message = lock.message
        message.delivery_count += counted
        if counted and self.dead_letters is not None and message.delivery_count >= self.max_delivery_count:
            self._give_up(
                message,
                now,
                MAX_DELIVERY_COUNT_EXCEEDED,
                f"The message could not be processed in {self.max_delivery_count} deliveries.",
            )
        elif message.state is MessageState.ACTIVE:
            self._make_ready(message)

    # ----------------------------------------------------------------------------------------------------------------

    def _send(self, incoming: Incoming, now: float, utc_ms: int) -> int:
        number = next(self._numbers)
        if incoming.scheduled_ms is not None and incoming.scheduled_ms > utc_ms:
            self.schedule.add(incoming, number, now, utc_ms)
        else:
            self._put(StoredMessage(number, incoming.content, incoming.session_id, utc_ms), now)
        return number

    def _enqueue_scheduled(self, message: StoredMessage, now: float) -> None:
        message.sequence_number = next(self._numbers)
        message.state = MessageState.ACTIVE
        self._put(message, now)

    def _put(self, message: StoredMessage, now: float) -> None:
        self._messages[message.sequence_number] = message
        session = self._session_of(message)
        if session is not None:
            session.messages[message.sequence_number] = message
        self._make_ready(message)
        if session is not None:
            self.sessions.changed(session, now)

    def _remove(self, message: StoredMessage, now: float) -> None:
        self._messages.pop(message.sequence_number, None)
        session = self._session_of(message)
        if session is not None:
            session.messages.pop(message.sequence_number, None)
            self.sessions.changed(session, now)

    def _give_up(self, message: StoredMessage, now: float, reason: str | None, description: str | None) -> None:
        assert self.dead_letters is not None
        self._remove(message, now)
        for key, text in ((REASON, reason), (DESCRIPTION, description)):
            if text is not None:
                message.changes[key] = text
        self.dead_letters.put_dead(message, now)

    def _make_ready(self, message: StoredMessage) -> None:
        session = self._session_of(message)
        heapq.heappush(self._ready if session is None else session.ready, message.sequence_number)
        self._notices.append(MessagesReady(self, session))

    def _pop_ready(self, session: SessionLock | None) -> StoredMessage | None:
        ready = self._ready if session is None else session.session.ready
        return self._messages[heapq.heappop(ready)] if ready else None

    def _lock(self, message: StoredMessage, now: float, session: SessionLock | None) -> MessageLock:
        ends_at = now + self.lock_duration_s if session is None else None
        lock = MessageLock(self, message, self._new_token(), ends_at, session)
        message.lock = lock
        self._locks[lock.token] = lock
        self._deadlines.add(lock)
        if session is not None:
            session.messages[lock.token] = lock
        return lock

    def _unlock(self, lock: MessageLock) -> None:
        self._deadlines.cancel(lock)
        lock.message.lock = None
        self._locks.pop(lock.token, None)
        if lock.session is not None:
            lock.session.messages.pop(lock.token, None)

    def _deferred(self, sequence_numbers: Iterable[int], session: SessionLock | None) -> list[StoredMessage]:
        found = []
        for number in dict.fromkeys(sequence_numbers):
            message = self._messages.get(number)
            if (
                message is None
                or message.state is not MessageState.DEFERRED
                or message.lock is not None
                or (session is not None and message.session_id != session.session.id)
            ):
                raise refusals.message_not_found("Not all of these messages are deferred and free.")
            found.append(message)
        return found

    def _session_of(self, message: StoredMessage) -> Session | None:
        if not self.requires_session or message.session_id is None:
            return None
        return self.sessions.make(message.session_id)

    def _after_settlement(self, lock: MessageLock, now: float) -> None:
        if lock.session is not None:
            self.sessions.changed(lock.session.session, now)
