"""Messages of a session that is held for a block, for async code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from renewer.client.messagecalls import Settlement
from renewer.client.messages import Message
from renewer.client.settling import AsyncSettles, nobody


@dataclass(frozen=True, slots=True)
class AsyncReceivedMessage(Message, AsyncSettles):
    """A message that was received in a session, to be settled while that is held; see `Settles`. All is awaited."""

    _settler: Callable[[str, Settlement], Awaitable[None]] = field(default=nobody, repr=False, compare=False)
    """Settles the message with this handle so."""

    async def _settle(self, settlement: Settlement) -> None:
        await self._settler(self.handle or "", settlement)
