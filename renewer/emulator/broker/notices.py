"""What the model has to say to the shell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from renewer.emulator.broker.entities import Entity
    from renewer.emulator.broker.messages import MessageLock
    from renewer.emulator.broker.sessions import Holder, Session, SessionLock, SessionWaiter


@dataclass(frozen=True, slots=True)
class MessagesReady:
    """Messages can be had: in the session, or without one."""

    entity: Entity
    session: Session | None


@dataclass(frozen=True, slots=True)
class SessionGranted:
    """A receiver that waited for a session has one."""

    waiter: SessionWaiter
    lock: SessionLock


@dataclass(frozen=True, slots=True)
class SessionWaitTimedOut:
    """A receiver has waited for a session as long as it wanted to."""

    waiter: SessionWaiter


@dataclass(frozen=True, slots=True)
class SessionLockExpired:
    """A session was not renewed in time. `holder` is None if its link was gone before."""

    entity: Entity
    session_id: str
    holder: Holder | None


@dataclass(frozen=True, slots=True)
class MessageLockExpired:
    """A message was neither settled nor its lock renewed in time."""

    entity: Entity
    lock: MessageLock


Notice: TypeAlias = MessagesReady | SessionGranted | SessionWaitTimedOut | SessionLockExpired | MessageLockExpired
