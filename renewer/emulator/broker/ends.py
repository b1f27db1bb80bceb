"""The broker's ends of links to entities: where messages come in, and where they go out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from renewer.amqp import (
    Accepted,
    AmqpError,
    Modified,
    Received,
    Rejected,
    Released,
    Source,
)
from renewer.emulator.broker.deadlines import Ending
from renewer.emulator.broker.messages import Outcome
from renewer.emulator.broker.refusals import RefusedError
from renewer.emulator.broker.wire import LOCKED_UNTIL, SESSION_FILTER, read_transfer, ticks, write_message
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from renewer.amqp import Delivery, DeliveryState, ReceiverLink, SenderLink
    from renewer.emulator.broker.client import ClientConnection
    from renewer.emulator.broker.entities import Entity
    from renewer.emulator.broker.messages import MessageLock
    from renewer.emulator.broker.namespace import Topic
    from renewer.emulator.broker.sessions import Holder, SessionLock, SessionWaiter

REQUEST_CREDIT = 1000
"""Credit that senders get, topped up for as long as the link lives."""

_SETTLED = 1
"""snd-settle-mode of a receiver that wants messages deleted as they are sent (AMQP 1.0 part 2.8.2)."""


class LinkEnd(ABC):
    """Our end of one link, for the path that it was authorized for."""

    idles: ClassVar[bool] = True
    """Whether it is detached when nothing happens on it for long."""

    def __init__(self, client: ClientConnection, link: SenderLink | ReceiverLink, path: str) -> None:
        self.client = client
        self.broker = client.broker
        self.link = link
        self.path = path
        self.idle = _Idle(self, self.broker.now() + self.broker.options.link_idle_s if self.idles else None)
        self.broker.deadlines.add(self.idle)

    def touch(self) -> None:
        """Something happened on the link, or in its name."""
        if self.idle.ends_at is not None:
            self.idle.ends_at = self.broker.now() + self.broker.options.link_idle_s

    def detach(self, error: AmqpError) -> None:
        """Throw the peer off the link, or refuse it if it still waits for an answer."""
        self.client.drop(self)
        self.link.refuse(error)
        self.link.detach(error)
        self.client.wake()

    @abstractmethod
    def accept(self) -> None:
        """Let the peer have the link."""

    def gone(self, *, lost: bool) -> None:
        """The link is no more; `lost` if nobody detached it."""
        self.broker.deadlines.cancel(self.idle)

    def on_delivery(self, delivery: Delivery) -> None:  # noqa: B027
        """A message arrived."""

    def on_update(self, delivery: Delivery, state: DeliveryState | None, *, settled: bool) -> None:  # noqa: B027
        """The peer said what became of a message that we sent."""

    def on_credit(self) -> None:  # noqa: B027
        """The peer wants messages."""


class SenderEnd(LinkEnd):
    """Takes messages for a queue or topic."""

    link: ReceiverLink

    def __init__(self, client: ClientConnection, link: ReceiverLink, node: Entity | Topic) -> None:
        super().__init__(client, link, node.path)
        self.node = node

    def accept(self) -> None:
        """Let the peer have the link, with credit."""
        self.link.accept(auto_credit=REQUEST_CREDIT, max_message_size=self.broker.options.max_message_size)

    def on_delivery(self, delivery: Delivery) -> None:
        """Enqueue what was sent, and say so."""
        self.touch()
        play = self.client.play("servicebus.transfer", self, entity=self.node.path)
        if play.is_ignored:
            return
        outcome: Accepted | Rejected = Accepted()
        try:
            if play.refusal is not None:
                raise play.refusal
            batch = read_transfer(delivery.payload, delivery.message_format)
            self.node.send(batch, self.broker.now(), self.broker.utc_ms())
        except RefusedError as refusal:
            outcome = Rejected(self.broker.error(refusal))
        delivery.payload = b""
        if not play.is_silent:
            self.client.later(play.delay_s, lambda: self.link.settle(delivery, outcome))


class ReceiverEnd(LinkEnd):
    """Gives out the messages of an entity without sessions, or of one session."""

    link: SenderLink

    def __init__(self, client: ClientConnection, link: SenderLink, entity: Entity) -> None:
        super().__init__(client, link, entity.path)
        self.entity = entity
        self.deletes = link.remote is not None and link.remote.snd_settle_mode == _SETTLED
        self._locks: dict[Delivery, MessageLock] = {}

    def accept(self) -> None:
        """Let the peer have the link."""
        self.link.accept(max_message_size=self.broker.options.max_message_size)
        if self.link.is_attached:
            self.broker.add_receiver(self)

    def gone(self, *, lost: bool) -> None:
        """Stop giving out. Messages on their way keep their locks: those belong to their tokens."""
        super().gone(lost=lost)
        self.broker.remove_receiver(self)

    def on_credit(self) -> None:
        """Give out what there is."""
        self.touch()
        self.pump()

    def on_update(self, delivery: Delivery, state: DeliveryState | None, *, settled: bool) -> None:
        """Settle a message as the peer decided, and confirm it with the same outcome."""
        self.touch()
        if isinstance(state, Received):
            return
        lock = self._locks.get(delivery)
        if lock is None:
            return
        session_id = lock.message.session_id
        play = self.client.play("servicebus.disposition", self, entity=self.path, session_id=session_id)
        if play.is_ignored:
            return
        del self._locks[delivery]
        answer: DeliveryState | None
        try:
            if play.refusal is not None:
                raise play.refusal
            self._settle(lock, state)
            answer = Rejected() if isinstance(state, Rejected) else state
        except RefusedError as refusal:
            answer = Rejected(self.broker.error(refusal))
        if not settled and not play.is_silent:
            self.client.later(play.delay_s, lambda: self.link.settle(delivery, answer))
        self.pump()

    def pump(self) -> None:
        """Send messages as long as there are any, and credit for them."""
        while self.link.is_attached and self.link.credit > self.link.queued and self._send_one():
            self.client.wake()

    def _session(self) -> SessionLock | None:
        return None

    def _send_one(self) -> bool:
        now = self.broker.now()
        lock = self.entity.lock_next(now, self._session())
        if lock is None:
            return False
        until = None if self.deletes else lock.lasts_until
        locked_until_ms = None if until is None else self.broker.utc_ms_at(until)
        delivery = self._transfer(write_message(lock.message, locked_until_ms=locked_until_ms), lock.token.bytes_le)
        if delivery is None:
            self.entity.settle(lock, Outcome.RELEASE, now)
            return False
        if self.deletes:
            self.entity.settle(lock, Outcome.COMPLETE, now)
        else:
            self._locks[delivery] = lock
        return True

    def _transfer(self, payload: bytes, tag: bytes) -> Delivery | None:
        try:
            return self.link.send(payload, delivery_tag=tag, settled=self.deletes)
        except AmqpProtocolError as error:
            self.detach(AmqpError(error.condition, str(error), {}))
            return None

    def _settle(self, lock: MessageLock, state: DeliveryState | None) -> None:
        now = self.broker.now()
        self.entity.locks_of([lock.token], now)
        match state:
            case Accepted():
                self.entity.settle(lock, Outcome.COMPLETE, now)
            case Rejected(error):
                info: dict[Any, Any] = dict(error.info or {}) if error is not None else {}
                reason, description = info.pop("DeadLetterReason", None), info.pop("DeadLetterErrorDescription", None)
                self.entity.settle(
                    lock,
                    Outcome.DEAD_LETTER,
                    now,
                    changes={str(key): value for key, value in info.items()},
                    reason=reason,
                    description=description or (error.description if error is not None else None),
                )
            case Modified(_, undeliverable_here, changes):
                outcome = Outcome.DEFER if undeliverable_here else Outcome.ABANDON
                self.entity.settle(
                    lock, outcome, now, changes={str(key): value for key, value in (changes or {}).items()}
                )
            case Released() | None:
                self.entity.settle(lock, Outcome.RELEASE, now)
            case _:
                raise RefusedError("amqp:not-implemented", 501, "There are no transactions here.")


class SessionEnd(ReceiverEnd):
    """Holds a session, or waits for one."""

    def __init__(self, client: ClientConnection, link: SenderLink, entity: Entity, holder: Holder) -> None:
        super().__init__(client, link, entity)
        self.holder = holder
        self.waiter: SessionWaiter | None = None
        self.lock: SessionLock | None = None

    def wait(self, ends_at: float) -> None:
        """Stand in line for the next session."""
        self.waiter = self.entity.sessions.wait(self.holder, ends_at)
        self.broker.waiting[self.waiter] = self

    def hold(self, lock: SessionLock) -> None:
        """Take the lock, without telling the peer."""
        self.lock = lock
        self._leave_line()
        self.broker.add_holder(self)

    def accept(self) -> None:
        """Let the peer have the link, and tell it which session it has until when."""
        source = self.link.remote.source if self.link.remote is not None else None
        lock = self.lock
        if lock is None or lock.ends_at is None or not isinstance(source, Source):
            return
        self.link.accept(
            source=replace(source, filter={**(source.filter or {}), SESSION_FILTER: lock.session.id}),
            properties={LOCKED_UNTIL: ticks(self.broker.utc_ms_at(lock.ends_at))},
            max_message_size=self.broker.options.max_message_size,
        )
        self.client.wake()

    def refuse(self, refusal: RefusedError) -> None:
        """There is no session for the peer."""
        self._leave_line()
        self.client.refuse(self.link, refusal)
        self.client.wake()

    def take_away(self, condition: str) -> None:
        """Free the session against the peer's will."""
        error = AmqpError(condition, self.broker.describe("The session was taken away from its receiver."), {})
        self.detach(error)

    def gone(self, *, lost: bool) -> None:
        """Free the session, or leave it to its end if that is what the broker is to do."""
        super().gone(lost=lost)
        self._leave_line()
        if self.lock is None:
            return
        self.broker.remove_holder(self)
        if self.broker.lingers(lost=lost):
            self.entity.sessions.leave_to_expire(self.lock)
        else:
            self.entity.sessions.release(self.lock, self.broker.now())
        self.lock = None

    def _session(self) -> SessionLock | None:
        return self.lock

    def _send_one(self) -> bool:
        return self.lock is not None and self.lock.ends_at is not None and super()._send_one()

    def _leave_line(self) -> None:
        if self.waiter is not None:
            self.broker.waiting.pop(self.waiter, None)
            self.entity.sessions.cancel_wait(self.waiter)
            self.waiter = None


class _Idle(Ending):
    """The patience with a silent link."""

    __slots__ = ("link_end",)

    def __init__(self, link_end: LinkEnd, ends_at: float | None) -> None:
        self.link_end = link_end
        self.ends_at = ends_at

    def end(self, now: float) -> None:
        """Detach it."""
        self.link_end.broker.counters.links_idled += 1
        text = self.link_end.broker.describe("IdleTimerExpired: the link was silent for too long.")
        self.link_end.detach(AmqpError("amqp:link:detach-forced", text, {}))
