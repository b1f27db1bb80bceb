"""A session or a message's lock held for the length of a block, for code that blocks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, TypeVar

from renewer.client import holding
from renewer.client.calls import LeaseWish
from renewer.client.errors import Conflict, LockLost, NotFound
from renewer.client.holding import HEAR_S, Attach, AwaitSettled, Detach, Held
from renewer.client.plans import Plan, Terms
from renewer.client.sync_driver import Driver, Watcher, drive
from renewer.client.watching import AtRisk, Lost, Notice, Watch

_T = TypeVar("_T")

_log = logging.getLogger("renewer.client")

_STOP_S: Final = 0.5
_CALLBACK_S: Final = 2.0
"""How long leaving a block waits for the callback that is told of a loss."""


class MessageLock(Held):
    """The lock of a message, kept for the length of a block."""

    def __init__(self, watch: Watch, driver: Driver, terms: Terms) -> None:
        super().__init__(watch, terms)
        self._driver = driver
        self._nudge: Callable[[], None] | None = None
        self._changed = threading.Condition()

    def renew_lock(self, *, timeout: float | None = None) -> datetime | None:
        """Renew the lock now; returns until when it lasts. The daemon renews it in any case."""
        timeout_s = 10.0 if timeout is None else timeout
        lease = self._use(holding.renewing(self, self._terms, timeout_s=timeout_s))
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

    def _use(self, plan: Plan[_T]) -> _T:
        self.check()
        try:
            return self._driver.run(plan)
        except (Conflict, LockLost, NotFound):
            # The daemon no longer holds it; why not is the watcher's to hear and to tell.
            self._look(lambda: self.is_at_risk)
            self.check()
            raise

    def _look(self, enough: Callable[[], bool]) -> None:
        if self._nudge is not None:
            self._nudge()
        with self._changed:
            self._changed.wait_for(enough, HEAR_S)

    def _heard(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Session(MessageLock):
    """A session held for the length of a block, as Service Bus users know it."""

    @property
    def session_id(self) -> str:
        """The session's id, also where the next available one was asked for."""
        return self.lease.session_id or ""

    def get_state(self, *, timeout: float | None = None) -> bytes | None:
        """The state that the session carries; None if there is none."""
        return self._use(holding.session_state(self, self._terms, timeout_s=timeout))

    def set_state(self, state: bytes | bytearray | str | None, *, timeout: float | None = None) -> None:
        """Replace the state that the session carries; None clears it."""
        self._use(holding.new_session_state(self, state, self._terms, timeout_s=timeout))


_Lock = TypeVar("_Lock", bound=MessageLock)


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


class _Keeper:
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
        self._driver = driver
        self._terms = terms
        self._wish = wish
        self._kind = kind
        self._on_lost = on_lost
        self._on_at_risk = on_at_risk
        self._watcher: Watcher | None = None
        self._watch: Watch | None = None
        self.lock: Any = None
        self.left_lost: bool | None = None
        """Whether the lock was lost when the block was left; what comes after is our own doing."""

    @property
    def was_held(self) -> bool:
        return self._watch is not None and self._watch.epoch is not None

    def error(self) -> LockLost:
        assert self._watch is not None  # noqa: S101
        return self._watch.error()

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
        self.lock._heard()  # noqa: SLF001
        if not self.was_held or self.left_lost is False:
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
