"""A session or a message's lock held for the length of a block, for async code: the block is cancelled on loss."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, TypeVar

import anyio
import anyio.abc

from renewer.client import holding
from renewer.client.async_driver import AsyncDriver, AsyncWatcher, drive
from renewer.client.calls import LeaseWish
from renewer.client.errors import Conflict, LockLost, NotFound
from renewer.client.holding import HEAR_S, Attach, AwaitSettled, Detach, Held
from renewer.client.plans import Plan, Terms
from renewer.client.watching import AtRisk, Lost, Notice, Watch

_T = TypeVar("_T")

_log = logging.getLogger("renewer.client")

_RELEASE_S: Final = 30.0


class AsyncMessageLock(Held):
    """The lock of a message, kept for the length of a block."""

    def __init__(self, watch: Watch, driver: AsyncDriver, terms: Terms) -> None:
        super().__init__(watch, terms)
        self._driver = driver
        self._nudge: Callable[[], None] | None = None
        self._heard = anyio.Event()

    async def renew_lock(self, *, timeout: float | None = None) -> datetime | None:
        """Renew the lock now; returns until when it lasts. The daemon renews it in any case."""
        timeout_s = 10.0 if timeout is None else timeout
        lease = await self._use(holding.renewing(self, self._terms, timeout_s=timeout_s))
        if lease.epoch != self.epoch:
            await self._look(lambda: self.is_lost)
            self.check()
        return self._renewed(lease)

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
            await self._look(lambda: self.is_at_risk)
            self.check()
            raise

    async def _look(self, enough: Callable[[], bool]) -> None:
        if self._nudge is not None:
            self._nudge()
        with anyio.move_on_after(HEAR_S):
            while not enough():
                self._heard = anyio.Event()
                await self._heard.wait()


class AsyncSession(AsyncMessageLock):
    """A session held for the length of a block, as Service Bus users know it."""

    @property
    def session_id(self) -> str:
        """The session's id, also where the next available one was asked for."""
        return self.lease.session_id or ""

    async def get_state(self, *, timeout: float | None = None) -> bytes | None:
        """The state that the session carries; None if there is none."""
        return await self._use(holding.session_state(self, self._terms, timeout_s=timeout))

    async def set_state(self, state: bytes | bytearray | str | None, *, timeout: float | None = None) -> None:
        """Replace the state that the session carries; None clears it."""
        await self._use(holding.new_session_state(self, state, self._terms, timeout_s=timeout))


_Lock = TypeVar("_Lock", bound=AsyncMessageLock)


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


class _Keeper:
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
        self._driver = driver
        self._terms = terms
        self._wish = wish
        self._kind = kind
        self._on_lost = on_lost
        self._on_at_risk = on_at_risk
        self._tasks = tasks
        self._watcher: AsyncWatcher | None = None
        self._watch: Watch | None = None
        self._settled = anyio.Event()
        self._told = anyio.Event()
        self.body = anyio.CancelScope()
        self.lock: Any = None
        self.left_lost: bool | None = None
        """Whether the lock was lost when the block was left; what comes after is our own doing."""

    @property
    def was_held(self) -> bool:
        return self._watch is not None and self._watch.epoch is not None

    def error(self) -> LockLost:
        assert self._watch is not None  # noqa: S101
        return self._watch.error()

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
        self.lock._heard.set()  # noqa: SLF001
        if not self.was_held or self.left_lost is False:
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
