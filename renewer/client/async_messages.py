"""Messages of a session that is held for a block, for async code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from renewer.client.calls import Settling
from renewer.client.messages import Message

Settle = Callable[[str, Settling, Mapping[str, object] | None, str | None, str | None], Awaitable[None]]
"""Settles the message with this handle so, with properties, a reason and a description."""


async def _nobody(*_: object) -> None:
    raise TypeError("a message is settled in the session that received it")


@dataclass(frozen=True, slots=True)
class AsyncReceivedMessage(Message):
    """A message that was received in a session, to be settled while that is held.

    All four ways to settle it raise `SessionLost` or `LockLost` when the lock is gone: it will be delivered again then.
    `LockAtRisk` says that the lock may be gone; `MessageSettled` that the message was settled otherwise. After
    `RemoteFailed` or `Timeout` it may be done or not (`outcome`), and asking again is safe.
    """

    _settle: Settle = field(default=_nobody, repr=False, compare=False)

    async def complete(self) -> None:
        """Complete it: it is done."""
        await self._settle(self.handle or "", "complete", None, None, None)

    async def abandon(self, *, properties: Mapping[str, object] | None = None) -> None:
        """Abandon it, so that it is delivered again; `properties` change its own."""
        await self._settle(self.handle or "", "abandon", properties, None, None)

    async def defer(self, *, properties: Mapping[str, object] | None = None) -> None:
        """Defer it: it is only to be had by its sequence number."""
        await self._settle(self.handle or "", "defer", properties, None, None)

    async def dead_letter(
        self,
        *,
        reason: str | None = None,
        description: str | None = None,
        properties: Mapping[str, object] | None = None,
    ) -> None:
        """Move it to the dead-letter queue."""
        await self._settle(self.handle or "", "dead-letter", properties, reason, description)
