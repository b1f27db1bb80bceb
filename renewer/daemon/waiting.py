"""Waiting for news: lets a request sleep until something happened to leases or operations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from renewer.core.effects import TellLease, TellOperation


class Waiting:
    """A hook that wakes whoever waits for news of an id. It costs nothing for ids that nobody waits for."""

    def __init__(self) -> None:
        self._waiters: dict[str, list[anyio.Event]] = {}

    def lease(self, news: TellLease) -> None:
        """Wake those who wait for this lease."""
        self._wake(news.spec.id)

    def renewed(self, news: Sequence[TellLease]) -> None:
        """Wake those who wait for these leases."""
        if self._waiters:
            for one in news:
                self._wake(one.spec.id)

    def operation(self, news: TellOperation) -> None:
        """Wake those who wait for this operation."""
        self._wake(news.spec.id)

    async def until(self, keys: Collection[str], done: Callable[[], bool], timeout_s: float) -> bool:
        """Return once `done` holds, looked at whenever there is news of one of `keys`; False if the time is over."""
        with anyio.move_on_after(timeout_s):
            while not done():
                event = anyio.Event()
                for key in keys:
                    self._waiters.setdefault(key, []).append(event)
                try:
                    await event.wait()
                finally:
                    self._leave(keys, event)
        return done()

    def _leave(self, keys: Collection[str], event: anyio.Event) -> None:
        for key in keys:
            waiters = self._waiters.get(key)
            if waiters is not None and event in waiters:
                waiters.remove(event)
                if not waiters:
                    del self._waiters[key]

    def _wake(self, key: str) -> None:
        for event in self._waiters.pop(key, ()):
            event.set()
