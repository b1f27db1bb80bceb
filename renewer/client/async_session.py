"""A session or a message's lock held for the length of a block, for async code: the block is cancelled on loss."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, TypeVar

import anyio
import anyio.abc

from renewer.client import holding, leasecalls, messagecalls, plans
from renewer.client.async_driver import AsyncDriver, AsyncWatcher, drive
from renewer.client.async_messages import AsyncReceivedMessage
from renewer.client.errors import Conflict, LockAtRisk, LockLost, NotFound
from renewer.client.holding import HEAR_S, NEWS_S, Attach, AwaitSettled, Detach, Held, Keeping, Listening
from renewer.client.leasecalls import LeaseWish
from renewer.client.messagecalls import Settlement, Shown
from renewer.client.messages import InFlight, Message, message_of
from renewer.client.options import limit_s
from renewer.client.plans import Plan, Terms, exchange
from renewer.client.quantities import Duration, seconds
from renewer.client.settling import AsyncSettles
from renewer.client.watching import AtRisk, Looked, Lost, Notice, Watch
from renewer.client.wire import Call

_T = TypeVar("_T")

_log = logging.getLogger("renewer.client")

_RELEASE_S: Final = 30.0


class AsyncHeldLock(Held):
    """A lock that is ours for the length of a block."""

    def __init__(self, watch: Watch, driver: AsyncDriver, terms: Terms) -> None:
        super().__init__(watch, terms)
        self._driver = driver
        self._nudge: Callable[[], None] | None = None
        self._heard = anyio.Event()
        self._looks = 0

    async def renew_lock(self, *, timeout: float | None = None) -> datetime | None:
        """Renew the lock now; returns until when it lasts. The daemon renews it in any case."""
        timeout_s = 10.0 if timeout is None else timeout
        lease = await self._ask(leasecalls.renew(self.lease_id, timeout_s=timeout_s))
        if lease.epoch != self.epoch:
            await self._look(lambda: self.is_lost)
            self.check()
        return self._renewed(lease)

    async def _ask(self, call: Call[_T]) -> _T:
        return await self._use(exchange(call, self._terms))

    async def _use(self, plan: Plan[_T]) -> _T:
        doubt = self._doubt()
        if doubt is not None and self._is_stale:
            # The event loop was kept busy: what is known is old, and what came in meanwhile unread.
            await self._look(lambda: not self._is_stale)
            doubt = self._doubt()
        if doubt is not None:
            raise doubt
        try:
            return await self._driver.run(plan)
        except (Conflict, LockLost, NotFound):
            # The daemon no longer holds it; why not is the watcher's to hear and to tell.
            await self._look(lambda: self.is_at_risk or self.is_settled)
            self.check()
            raise

    async def _look(self, enough: Callable[[], bool]) -> None:
        """Have the daemon asked how the lock stands, and wait until that is known."""
        before = self._looks
        if self._nudge is not None:
            self._nudge()
        await self._hear(lambda: enough() or self._looks > before, HEAR_S)

    async def _await_news(self) -> None:
        """Wait, for a while, until the lock is no longer at risk, or lost."""
        await self._hear(lambda: self.is_lost or not self.is_at_risk, NEWS_S)

    async def _hear(self, enough: Callable[[], bool], limit_s: float) -> None:
        with anyio.move_on_after(limit_s):
            while not enough():
                await self._heard.wait()

    def _note(self, notice: Notice) -> None:
        self._looks += isinstance(notice, Looked)
        heard, self._heard = self._heard, anyio.Event()
        heard.set()


class AsyncMessageLock(AsyncHeldLock, AsyncSettles):
    """The lock of a message, kept for the length of a block. Once the message is settled nothing is kept any longer."""

    async def _settle(self, settlement: Settlement) -> None:
        self._settled(await self._ask(messagecalls.settle(self.lease_id, settlement)))


class AsyncSession(AsyncHeldLock):
    """A session held for the length of a block, as Service Bus users know it.

    Messages are received from it one after the other by iterating over it.
    """

    _is_stopped = False

    @property
    def session_id(self) -> str:
        """The session's id, also where the next available one was asked for."""
        return self.lease.session_id or ""

    async def get_state(self, *, timeout: float | None = None) -> bytes | None:
        """The state that the session carries; None if there is none."""
        return await self._ask(leasecalls.get_state(self.lease_id, epoch=self.epoch).within(timeout))

    async def set_state(self, state: bytes | bytearray | str | None, *, timeout: float | None = None) -> None:
        """Replace the state that the session carries; None clears it."""
        await self._ask(leasecalls.set_state(self.lease_id, state, epoch=self.epoch).within(timeout))

    async def receive(self, max: int = 1, *, wait: Duration = 30.0) -> list[AsyncReceivedMessage]:  # noqa: A002 - the API's word
        """The next messages, `max` (100) at most, the first of which is waited for; none if none came in that time.

        They are in flight until they are settled, and go back as they were when the block is left. Where the answer got
        lost (`Unavailable`, `Timeout`), `in_flight` tells what was received all the same.
        """
        plan = plans.receive(self.lease_id, self._terms, count=max, wait_s=seconds("wait", wait), epoch=self.epoch)
        return self._received(await self._use(plan))

    async def receive_deferred(self, sequence_numbers: Sequence[int]) -> list[AsyncReceivedMessage]:
        """Messages that were deferred: all of these, or none, which is a `Conflict`."""
        call = messagecalls.receive_deferred(self.lease_id, sequence_numbers, epoch=self.epoch)
        return self._received(await self._ask(call))

    async def peek(self, max: int = 1, *, from_sequence_number: int = 0) -> list[Message]:  # noqa: A002 - the API's word
        """Look at messages in any state, from that sequence number on, without receiving them; `max` (100) at most.

        Fewer do not mean that there are no more: ask again from the last one's sequence number plus one.
        """
        call = messagecalls.peek(self.lease_id, count=max, from_sequence_number=from_sequence_number, epoch=self.epoch)
        return [message_of(shown, Message) for shown in await self._ask(call)]

    async def in_flight(self) -> tuple[InFlight, ...]:
        """What was received and is not settled, what was lost included; may be asked when the session is lost, too."""
        return await self._driver.run(exchange(messagecalls.in_flight(self.lease_id), self._terms))

    async def messages(self, *, idle: Duration | None = None) -> AsyncIterator[AsyncReceivedMessage]:
        """One message after the other, until `stop` is called, or none came for as long as `idle` says.

        Raises `SessionLost` when the session is; while it is at risk no message is received, and that is waited out.
        """
        listening = Listening(self._terms, limit_s("idle", idle))
        while not self._is_stopped:
            try:
                received = await self.receive(wait=listening.slice_s())
            except LockAtRisk:
                await self._await_news()
                continue
            for message in received:
                yield message
            if not listening.goes_on(received=bool(received)):
                return

    def __aiter__(self) -> AsyncIterator[AsyncReceivedMessage]:
        """As `messages`, until `stop` is called."""
        return self.messages()

    def stop(self) -> None:
        """End `messages`, from anywhere; it notices within some seconds, and gives what comes until then."""
        self._is_stopped = True

    def _received(self, shown: Shown) -> list[AsyncReceivedMessage]:
        return [message_of(document, AsyncReceivedMessage, _settler=self._settle) for document in shown]

    async def _settle(self, handle: str, settlement: Settlement) -> None:
        await self._ask(messagecalls.settle_received(self.lease_id, handle, settlement))


_Lock = TypeVar("_Lock", bound=AsyncHeldLock)


@asynccontextmanager
async def block(
    driver: AsyncDriver,
    terms: Terms,
    wish: LeaseWish,
    wait_s: float | None,
    kind: Callable[[Watch, AsyncDriver, Terms], _Lock],
    on_lost: Callable[[_Lock, str, str], object] | None,
    on_at_risk: Callable[[_Lock, str], object] | None,
) -> AsyncIterator[_Lock]:
    """Hold a lock for the length of the block."""
    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        keeper = _Keeper(driver, terms, wish, kind, on_lost, on_at_risk, tasks)
        try:
            await drive(holding.acquire(wish, terms, wait_s=wait_s), keeper.perform)
            with keeper.body:
                yield keeper.lock
        except anyio.get_cancelled_exc_class():
            await keeper.leave(quiet=True)
            raise
        except BaseException as error:
            failure = error  # it comes before what may fail on the way out
            await keeper.leave(quiet=True)
        else:
            failure = await keeper.leave(quiet=wish.owner != "none")
    if keeper.left_lost and (failure is None or _is_ours_to_replace(failure)):
        raise keeper.error() from failure
    if failure is not None:
        try:
            raise failure
        finally:
            del failure


class _Keeper(Keeping):
    """What stands behind a block: the watcher's task, the owner's callbacks, the way out."""

    def __init__(
        self,
        driver: AsyncDriver,
        terms: Terms,
        wish: LeaseWish,
        kind: Callable[[Watch, AsyncDriver, Terms], Any],
        on_lost: Callable[[Any, str, str], object] | None,
        on_at_risk: Callable[[Any, str], object] | None,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        super().__init__(terms, wish, on_lost, on_at_risk)
        self._driver = driver
        self._kind = kind
        self._tasks = tasks
        self._watcher: AsyncWatcher | None = None
        self._settled = anyio.Event()
        self._told = anyio.Event()
        self.body = anyio.CancelScope()

    async def perform(self, step: object) -> object:
        match step:
            case Attach(watch):
                self._attach(watch)
                return None
            case AwaitSettled(watch, timeout_s):
                with anyio.move_on_after(timeout_s):
                    while not watch.is_settled:
                        self._settled = anyio.Event()
                        await self._settled.wait()
                return None
            case Detach():
                self._stop()
                self._watch = None
                return None
            case _:
                return await self._driver.perform(step)

    async def leave(self, *, quiet: bool) -> Exception | None:
        """Give the lock back. Returns what failed; with `quiet` it is logged instead."""
        watch = self._watch
        self.left_lost = self.was_held and self.lock.is_lost
        if self.left_lost:
            with anyio.CancelScope(shield=True):
                await self._told.wait()
        self._stop()
        if watch is None:
            return None
        with anyio.move_on_after(_RELEASE_S, shield=True):
            try:
                await self._driver.run(holding.give_back(watch.lease.id, self._wish, self._terms))
            except NotFound:
                return None
            except Exception as error:
                if not (quiet or self.left_lost):
                    return error
                if not self.left_lost:
                    _log.warning("%s", holding.not_given_back(watch, self._wish, self._terms, error))
        return None

    def _attach(self, watch: Watch) -> None:
        self._watch = watch
        self.lock = self._kind(watch, self._driver, self._terms)
        plan = holding.watch_over(watch, self._wish, self._terms)
        self._watcher = AsyncWatcher(self._driver, plan, self._tell, self._tasks)
        self.lock._nudge = self._watcher.nudge  # noqa: SLF001
        self._watcher.start()

    def _stop(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop()

    async def _tell(self, notice: Notice) -> None:
        self._settled.set()
        self.lock._note(notice)  # noqa: SLF001
        if not self._is_worth_telling():
            return
        try:
            match notice:
                case Lost(reason, detail):
                    self.body.cancel()
                    with anyio.CancelScope(shield=True):
                        await _call(self._on_lost, self.lock, reason, detail)
                case AtRisk(detail):
                    await _call(self._on_at_risk, self.lock, detail)
                case _:
                    pass
        except Exception:
            _log.exception("a callback of %s failed", self.lock.lease.id)
        finally:
            if isinstance(notice, Lost):
                self._told.set()


async def _call(callback: Callable[..., object] | None, *arguments: object) -> None:
    if callback is not None:
        outcome = callback(*arguments)
        if inspect.isawaitable(outcome):
            await outcome


def _is_ours_to_replace(failure: BaseException) -> bool:
    return isinstance(failure, Exception) and not isinstance(failure, LockLost)
