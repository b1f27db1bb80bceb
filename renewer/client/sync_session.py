"""A session or a message's lock held for the length of a block, for code that blocks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, TypeVar

from renewer.client import holding, leasecalls, messagecalls, plans
from renewer.client.errors import Conflict, LockAtRisk, LockLost, NotFound
from renewer.client.holding import HEAR_S, NEWS_S, Attach, AwaitSettled, Detach, Held, Keeping, Listening
from renewer.client.leasecalls import LeaseWish
from renewer.client.messagecalls import Settlement, Shown
from renewer.client.messages import InFlight, Message, message_of
from renewer.client.options import limit_s
from renewer.client.plans import Plan, Terms, exchange
from renewer.client.quantities import Duration, seconds
from renewer.client.settling import Settles
from renewer.client.sync_driver import Driver, Watcher, drive
from renewer.client.sync_messages import ReceivedMessage
from renewer.client.watching import AtRisk, Looked, Lost, Notice, Watch
from renewer.client.wire import Call

_T = TypeVar("_T")

_log = logging.getLogger("renewer.client")

_STOP_S: Final = 0.5
_CALLBACK_S: Final = 2.0
"""How long leaving a block waits for the callback that is told of a loss."""


class HeldLock(Held):
    """A lock that is ours for the length of a block."""

    def __init__(self, watch: Watch, driver: Driver, terms: Terms) -> None:
        super().__init__(watch, terms)
        self._driver = driver
        self._nudge: Callable[[], None] | None = None
        self._changed = threading.Condition()
        self._looks = 0

    def renew_lock(self, *, timeout: float | None = None) -> datetime | None:
        """Renew the lock now; returns until when it lasts. The daemon renews it in any case."""
        timeout_s = 10.0 if timeout is None else timeout
        lease = self._ask(leasecalls.renew(self.lease_id, timeout_s=timeout_s))
        if lease.epoch != self.epoch:
            self._look(lambda: self.is_lost)
            self.check()
        return self._renewed(lease)

    def check(self) -> None:  # noqa: D102 - as of Held
        doubt = self._doubt()
        if doubt is not None and self._is_stale:
            # This process may have been stopped for a while: what is known is old, and what came in meanwhile unread.
            self._look(lambda: not self._is_stale)
            doubt = self._doubt()
        if doubt is not None:
            raise doubt

    def _ask(self, call: Call[_T]) -> _T:
        return self._use(exchange(call, self._terms))

    def _use(self, plan: Plan[_T]) -> _T:
        self.check()
        try:
            return self._driver.run(plan)
        except (Conflict, LockLost, NotFound):
            # The daemon no longer holds it; why not is the watcher's to hear and to tell.
            self._look(lambda: self.is_at_risk or self.is_settled)
            self.check()
            raise

    def _look(self, enough: Callable[[], bool]) -> None:
        """Have the daemon asked how the lock stands, and wait until that is known."""
        before = self._looks
        if self._nudge is not None:
            self._nudge()
        with self._changed:
            self._changed.wait_for(lambda: enough() or self._looks > before, HEAR_S)

    def _await_news(self) -> None:
        """Wait, for a while, until the lock is no longer at risk, or lost."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_lost or not self.is_at_risk, NEWS_S)

    def _heard(self, notice: Notice) -> None:
        with self._changed:
            self._looks += isinstance(notice, Looked)
            self._changed.notify_all()


class MessageLock(HeldLock, Settles):
    """The lock of a message, kept for the length of a block. Once the message is settled nothing is kept any longer."""

    def _settle(self, settlement: Settlement) -> None:
        self._settled(self._ask(messagecalls.settle(self.lease_id, settlement)))


class Session(HeldLock):
    """A session held for the length of a block, as Service Bus users know it.

    Messages are received from it one after the other by iterating over it.
    """

    _is_stopped = False

    @property
    def session_id(self) -> str:
        """The session's id, also where the next available one was asked for."""
        return self.lease.session_id or ""

    def get_state(self, *, timeout: float | None = None) -> bytes | None:
        """The state that the session carries; None if there is none."""
        return self._ask(leasecalls.get_state(self.lease_id, epoch=self.epoch).within(timeout))

    def set_state(self, state: bytes | bytearray | str | None, *, timeout: float | None = None) -> None:
        """Replace the state that the session carries; None clears it."""
        self._ask(leasecalls.set_state(self.lease_id, state, epoch=self.epoch).within(timeout))

    def receive(self, max: int = 1, *, wait: Duration = 30.0) -> list[ReceivedMessage]:  # noqa: A002 - the API's word
        """The next messages, `max` (100) at most, the first of which is waited for; none if none came in that time.

        They are in flight until they are settled, and go back as they were when the block is left. Where the answer got
        lost (`Unavailable`, `Timeout`), `in_flight` tells what was received all the same.
        """
        plan = plans.receive(self.lease_id, self._terms, count=max, wait_s=seconds("wait", wait), epoch=self.epoch)
        return self._received(self._use(plan))

    def receive_deferred(self, sequence_numbers: Sequence[int]) -> list[ReceivedMessage]:
        """Messages that were deferred: all of these, or none, which is a `Conflict`."""
        call = messagecalls.receive_deferred(self.lease_id, sequence_numbers, epoch=self.epoch)
        return self._received(self._ask(call))

    def peek(self, max: int = 1, *, from_sequence_number: int = 0) -> list[Message]:  # noqa: A002 - the API's word
        """Look at messages in any state, from that sequence number on, without receiving them; `max` (100) at most.

        Fewer do not mean that there are no more: ask again from the last one's sequence number plus one.
        """
        call = messagecalls.peek(self.lease_id, count=max, from_sequence_number=from_sequence_number, epoch=self.epoch)
        return [message_of(shown, Message) for shown in self._ask(call)]

    def in_flight(self) -> tuple[InFlight, ...]:
        """What was received and is not settled, what was lost included; may be asked when the session is lost, too."""
        return self._driver.run(exchange(messagecalls.in_flight(self.lease_id), self._terms))

    def messages(self, *, idle: Duration | None = None) -> Iterator[ReceivedMessage]:
        """One message after the other, until `stop` is called, or none came for as long as `idle` says.

        Raises `SessionLost` when the session is; while it is at risk no message is received, and that is waited out.
        """
        listening = Listening(self._terms, limit_s("idle", idle))
        while not self._is_stopped:
            try:
                received = self.receive(wait=listening.slice_s())
            except LockAtRisk:
                self._await_news()
                continue
            yield from received
            if not listening.goes_on(received=bool(received)):
                return

    def __iter__(self) -> Iterator[ReceivedMessage]:
        """As `messages`, until `stop` is called."""
        return self.messages()

    def stop(self) -> None:
        """End `messages`, from anywhere; it notices within some seconds, and gives what comes until then."""
        self._is_stopped = True

    def _received(self, shown: Shown) -> list[ReceivedMessage]:
        return [message_of(document, ReceivedMessage, _settler=self._settle) for document in shown]

    def _settle(self, handle: str, settlement: Settlement) -> None:
        self._ask(messagecalls.settle_received(self.lease_id, handle, settlement))


_Lock = TypeVar("_Lock", bound=HeldLock)


@contextmanager
def block(
    driver: Driver,
    terms: Terms,
    wish: LeaseWish,
    wait_s: float | None,
    kind: Callable[[Watch, Driver, Terms], _Lock],
    on_lost: Callable[[_Lock, str, str], object] | None,
    on_at_risk: Callable[[_Lock, str], object] | None,
) -> Iterator[_Lock]:
    """Hold a lock for the length of the block."""
    keeper = _Keeper(driver, terms, wish, kind, on_lost, on_at_risk)
    try:
        drive(holding.acquire(wish, terms, wait_s=wait_s), keeper.perform)
        lock = keeper.lock
        assert lock is not None  # acquire returns only with what it attached  # noqa: S101
        yield lock
    except BaseException as error:
        keeper.leave(quiet=True)  # the error of the block comes first
        if keeper.left_lost and isinstance(error, Exception) and not isinstance(error, LockLost):
            raise keeper.error() from error
        raise
    keeper.leave(quiet=wish.owner != "none")
    if keeper.left_lost:
        raise keeper.error()


class _Keeper(Keeping):
    """What stands behind a block: the watcher's thread, the owner's callbacks, the way out."""

    def __init__(
        self,
        driver: Driver,
        terms: Terms,
        wish: LeaseWish,
        kind: Callable[[Watch, Driver, Terms], Any],
        on_lost: Callable[[Any, str, str], object] | None,
        on_at_risk: Callable[[Any, str], object] | None,
    ) -> None:
        super().__init__(terms, wish, on_lost, on_at_risk)
        self._driver = driver
        self._kind = kind
        self._watcher: Watcher | None = None

    def perform(self, step: object) -> object:
        match step:
            case Attach(watch):
                self._attach(watch)
                return None
            case AwaitSettled(watch, timeout_s):
                with self.lock._changed:  # noqa: SLF001
                    self.lock._changed.wait_for(lambda: watch.is_settled, timeout_s)  # noqa: SLF001
                return None
            case Detach():
                self._stop()
                self._watch = None
                return None
            case _:
                return self._driver.perform(step)

    def leave(self, *, quiet: bool) -> None:
        self.left_lost = self.was_held and self.lock.is_lost
        self._stop()
        watch = self._watch
        if watch is None:
            return
        try:
            self._driver.run(holding.give_back(watch.lease.id, self._wish, self._terms))
        except NotFound:
            return
        except Exception as error:
            if not (quiet or self.left_lost):
                raise
            if not self.left_lost:
                _log.warning("%s", holding.not_given_back(watch, self._wish, self._terms, error))

    def _attach(self, watch: Watch) -> None:
        self._watch = watch
        self.lock = self._kind(watch, self._driver, self._terms)
        plan = holding.watch_over(watch, self._wish, self._terms)
        self._watcher = Watcher(self._driver, plan, self._tell, f"renewer-{watch.lease.id}")
        self.lock._nudge = self._watcher.nudge  # noqa: SLF001
        self._watcher.start()

    def _stop(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop(_CALLBACK_S if self.left_lost else _STOP_S)

    def _tell(self, notice: Notice) -> None:
        self.lock._heard(notice)  # noqa: SLF001
        if not self._is_worth_telling():
            return
        try:
            match notice:
                case Lost(reason, detail) if self._on_lost is not None:
                    self._on_lost(self.lock, reason, detail)
                case AtRisk(detail) if self._on_at_risk is not None:
                    self._on_at_risk(self.lock, detail)
                case _:
                    pass
        except Exception:
            _log.exception("a callback of %s failed", self.lock.lease.id)
