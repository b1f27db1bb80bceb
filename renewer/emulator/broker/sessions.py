"""The sessions of one entity: who holds which, until when, and who waits for one.

Rules (azure-servicebus 7.15 behaviour and public documentation of Service Bus):
a session is held by one receiver link of one connection, and what is asked about it must come over that connection;
any id that nobody holds can be accepted, with messages or without; "the next one" is a session with messages that
nobody holds; renewing makes the lock last one lock duration from now; state stays until it is cleared.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from renewer.emulator.broker import refusals
from renewer.emulator.broker.deadlines import Ending
from renewer.emulator.broker.messages import MessageState
from renewer.emulator.broker.notices import SessionGranted, SessionLockExpired, SessionWaitTimedOut

if TYPE_CHECKING:
    from uuid import UUID

    from renewer.emulator.broker.deadlines import Deadlines
    from renewer.emulator.broker.entities import Entity
    from renewer.emulator.broker.messages import MessageLock, StoredMessage
    from renewer.emulator.broker.notices import Notice

MAX_SESSION_ID_LENGTH = 128


@dataclass(frozen=True, slots=True)
class Holder:
    """A receiver link. Its name says something only together with the connection that it is on."""

    connection: int
    link: str


class Session:
    """One session: its messages, its state, and its lock if there is one."""

    __slots__ = ("id", "lock", "messages", "ready", "state", "state_updated_ms")

    def __init__(self, session_id: str) -> None:
        self.id = session_id
        self.lock: SessionLock | None = None
        self.messages: dict[int, StoredMessage] = {}
        self.ready: list[int] = []
        """Heap of the sequence numbers of messages that can be received."""
        self.state: bytes | None = None
        self.state_updated_ms: int | None = None

    @property
    def is_active(self) -> bool:
        """Whether it has active messages, locked or not."""
        return any(message.state is MessageState.ACTIVE for message in self.messages.values())


class SessionLock(Ending):
    """The lock on a session. Over when `ends_at` is None; `holder` is None once the link of a lasting lock is gone."""

    __slots__ = ("holder", "messages", "session", "table")

    def __init__(self, table: SessionTable, session: Session, holder: Holder, ends_at: float) -> None:
        self.table = table
        self.session = session
        self.holder: Holder | None = holder
        self.ends_at = ends_at
        self.messages: dict[UUID, MessageLock] = {}
        """The locks on messages of the session, which end with it."""

    def end(self, now: float) -> None:
        """Take the session from its holder."""
        self.table.expire(self, now)


class SessionWaiter(Ending):
    """A receiver that waits for the next session."""

    __slots__ = ("holder", "table")

    def __init__(self, table: SessionTable, holder: Holder, ends_at: float) -> None:
        self.table = table
        self.holder = holder
        self.ends_at = ends_at

    def end(self, now: float) -> None:
        """Give up waiting."""
        self.table.give_up(self)


class SessionTable:
    """All sessions of one entity that have messages, state or a holder."""

    def __init__(self, entity: Entity, deadlines: Deadlines, notices: list[Notice], *, max_sessions: int) -> None:
        self._entity = entity
        self._deadlines = deadlines
        self._notices = notices
        self._max_sessions = max_sessions
        self._sessions: dict[str, Session] = {}
        self._available: dict[str, Session] = {}
        """Sessions with messages that nobody holds, the one that has been free longest first."""
        self._waiters: deque[SessionWaiter] = deque()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def held(self) -> int:
        """How many sessions are locked."""
        return sum(1 for session in self._sessions.values() if session.lock is not None)

    def get(self, session_id: str) -> Session | None:
        """The session, if it has messages, state or a holder."""
        return self._sessions.get(session_id)

    def accept(self, session_id: str, holder: Holder, now: float) -> SessionLock:
        """Lock this session. Raises `RefusedError` if another holds it, or if there are too many."""
        self.check(session_id)
        session = self.make(session_id)
        if session.lock is not None:
            raise refusals.session_cannot_be_locked(session_id)
        return self._lock(session, holder, now)

    def accept_next(self, holder: Holder, now: float) -> SessionLock | None:
        """Lock the next available session, or None if there is none."""
        session = next(iter(self._available.values()), None)
        return None if session is None else self._lock(session, holder, now)

    def wait(self, holder: Holder, ends_at: float) -> SessionWaiter:
        """Stand in line for a session; `SessionGranted` or `SessionWaitTimedOut` follows."""
        waiter = SessionWaiter(self, holder, ends_at)
        self._waiters.append(waiter)
        self._deadlines.add(waiter)
        return waiter

    def cancel_wait(self, waiter: SessionWaiter) -> None:
        """Leave the line without a word."""
        self._deadlines.cancel(waiter)
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def check_held(self, session_id: str, connection: int, link: str | None, now: float) -> SessionLock:
        """The lock, if a link of this connection, and the one named if one is, holds it now. Else `RefusedError`."""
        session = self._sessions.get(session_id)
        lock = None if session is None else session.lock
        if (
            lock is None
            or lock.ends_at is None
            or lock.ends_at <= now
            or lock.holder is None
            or lock.holder.connection != connection
            or (link is not None and lock.holder.link != link)
        ):
            raise refusals.session_lock_lost(session_id)
        return lock

    def renew(self, lock: SessionLock, now: float) -> None:
        """Let the lock last for one lock duration from now."""
        lock.ends_at = now + self._entity.lock_duration_s

    def release(self, lock: SessionLock, now: float) -> None:
        """Free the session; its unsettled messages are available again as they were."""
        if lock.ends_at is not None:
            self._deadlines.cancel(lock)
            self._unlock(lock, now, counted=False)

    def leave_to_expire(self, lock: SessionLock) -> None:
        """The holder is gone, the lock stays until its end."""
        lock.holder = None

    def expire(self, lock: SessionLock, now: float) -> None:
        """Take the session from its holder; its unsettled messages have one more failed delivery."""
        self._deadlines.cancel(lock)
        self._notices.append(SessionLockExpired(self._entity, lock.session.id, lock.holder))
        self._unlock(lock, now, counted=True)

    def give_up(self, waiter: SessionWaiter) -> None:
        """End a wait without a session."""
        self._waiters.remove(waiter)
        self._notices.append(SessionWaitTimedOut(waiter))

    def set_state(self, session: Session, state: bytes | None, now: float, utc_ms: int) -> None:
        """Keep `state` with the session; None clears it, empty bytes do not."""
        session.state = state
        session.state_updated_ms = None if state is None else utc_ms
        self.changed(session, now)

    def ids(self, *, updated_after_ms: int | None) -> list[str]:
        """Sessions whose state was set after that moment; with None, those with active messages or with state."""
        if updated_after_ms is None:
            return [s.id for s in self._sessions.values() if s.state is not None or s.is_active]
        return [
            s.id
            for s in self._sessions.values()
            if s.state_updated_ms is not None and s.state_updated_ms > updated_after_ms
        ]

    def check(self, session_id: str) -> None:
        """Raise `RefusedError` if there can be no session of that id: it is too long, or there are too many."""
        if len(session_id) > MAX_SESSION_ID_LENGTH:
            raise refusals.argument_error(f"A session id may have {MAX_SESSION_ID_LENGTH} characters.")
        if session_id not in self._sessions and len(self._sessions) >= self._max_sessions:
            raise refusals.quota_exceeded(f"The entity has {self._max_sessions} sessions; no more fit.")

    def make(self, session_id: str) -> Session:
        """The session of that id, new if need be."""
        session = self._sessions.get(session_id)
        if session is None:
            session = self._sessions[session_id] = Session(session_id)
        return session

    def changed(self, session: Session, now: float) -> None:
        """Look again at a session whose lock, messages or state have changed: offer it, or forget it."""
        if session.lock is not None or not session.ready:
            self._available.pop(session.id, None)
            if session.lock is None and not session.messages and session.state is None:
                self._sessions.pop(session.id, None)
        elif self._waiters:
            waiter = self._waiters.popleft()
            self._deadlines.cancel(waiter)
            lock = self._lock(session, waiter.holder, now)
            self._notices.append(SessionGranted(waiter, lock))
        else:
            self._available[session.id] = session

    def _lock(self, session: Session, holder: Holder, now: float) -> SessionLock:
        lock = SessionLock(self, session, holder, now + self._entity.lock_duration_s)
        session.lock = lock
        self._available.pop(session.id, None)
        self._deadlines.add(lock)
        return lock

    def _unlock(self, lock: SessionLock, now: float, *, counted: bool) -> None:
        for message_lock in [*lock.messages.values()]:
            self._entity.give_back(message_lock, now, counted=counted)
        lock.session.lock = None  # Only now: nobody is to get the session while messages are missing.
        self.changed(lock.session, now)
