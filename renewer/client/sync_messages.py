"""Messages of a session that is held for a block, for code that blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from renewer.client.messagecalls import Settlement
from renewer.client.messages import Message
from renewer.client.settling import Settles, nobody


@dataclass(frozen=True, slots=True)
class ReceivedMessage(Message, Settles):
    """A message that was received in a session, to be settled while that is held; see `Settles`."""

    _settler: Callable[[str, Settlement], None] = field(default=nobody, repr=False, compare=False)
    """Settles the message with this handle so."""

    def _settle(self, settlement: Settlement) -> None:
        self._settler(self.handle or "", settlement)
