"""The four ways to settle a message, for all that one can be settled by, in code that blocks and in async code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from renewer.client.messagecalls import Settlement


class Settles(ABC):
    """What settles a message while its lock is held, in code that blocks.

    All four ways raise `LockLost` (in a session `SessionLost`) when the lock is gone: the message will be delivered
    again then. `LockAtRisk` says that the lock may be gone; `MessageSettled` that the message was settled otherwise.
    After `RemoteFailed` or `Timeout` it may be done or not (`outcome`), and asking again is safe.
    """

    __slots__ = ()

    def complete(self) -> None:
        """Complete the message: it is done."""
        self._settle(Settlement("complete"))

    def abandon(self, *, properties: Mapping[str, object] | None = None) -> None:
        """Abandon the message, so that it is delivered again; `properties` change its own."""
        self._settle(Settlement("abandon", properties))

    def defer(self, *, properties: Mapping[str, object] | None = None) -> None:
        """Defer the message: it is only to be had by its sequence number."""
        self._settle(Settlement("defer", properties))

    def dead_letter(
        self,
        *,
        reason: str | None = None,
        description: str | None = None,
        properties: Mapping[str, object] | None = None,
    ) -> None:
        """Move the message to the dead-letter queue."""
        self._settle(Settlement("dead-letter", properties, reason, description))

    @abstractmethod
    def _settle(self, settlement: Settlement) -> None: ...


class AsyncSettles(ABC):
    """What settles a message while its lock is held, in async code. It raises what `Settles` does."""

    __slots__ = ()

    async def complete(self) -> None:
        """Complete the message: it is done."""
        await self._settle(Settlement("complete"))

    async def abandon(self, *, properties: Mapping[str, object] | None = None) -> None:
        """Abandon the message, so that it is delivered again; `properties` change its own."""
        await self._settle(Settlement("abandon", properties))

    async def defer(self, *, properties: Mapping[str, object] | None = None) -> None:
        """Defer the message: it is only to be had by its sequence number."""
        await self._settle(Settlement("defer", properties))

    async def dead_letter(
        self,
        *,
        reason: str | None = None,
        description: str | None = None,
        properties: Mapping[str, object] | None = None,
    ) -> None:
        """Move the message to the dead-letter queue."""
        await self._settle(Settlement("dead-letter", properties, reason, description))

    @abstractmethod
    async def _settle(self, settlement: Settlement) -> None: ...


def nobody(*_: object) -> Any:
    """Stands for the session of a message that has none."""
    raise TypeError("a message is settled in the session that received it")
