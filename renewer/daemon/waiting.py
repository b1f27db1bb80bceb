"""Waiting for news: lets a request sleep until something happened to one lease or one operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import anyio

if TYPE_CHECKING:
    from renewer.core.effects import TellLease, TellOperation

_Item = TypeVar("_Item")


class Waiting:
    """A hook that wakes whoever waits for news of an id. It costs nothing for ids that nobody waits for."""

    def __init__(self) -> None:
        self._events: dict[str, anyio.Event] = {}

    def lease(self, news: TellLease) -> None:
        """Wake those who wait for this lease."""
        self._wake(news.spec.id)

    def operation(self, news: TellOperation) -> None:
        """Wake those who wait for this operation."""
        self._wake(news.spec.id)

    async def until(
        self, key: str, look: Callable[[], _Item | None], done: Callable[[_Item], bool], timeout_s: float
    ) -> None:
        """Return when `look` finds nothing, or something that is `done`, or when the time is over."""
        with anyio.move_on_after(timeout_s):
            while (item := look()) is not None and not done(item):
                await self._events.setdefault(key, anyio.Event()).wait()

    def _wake(self, key: str) -> None:
        event = self._events.pop(key, None)
        if event is not None:
            event.set()
