"""Messages of a session that is held for a block, for code that blocks."""

from __future__ import annotations

from dataclasses import dataclass

from renewer.client.settling import Received


@dataclass(frozen=True, slots=True)
class ReceivedMessage(Received[None]):
    """A message that was received in a session, to be settled while that is held; see `Settles`."""
