"""Messages of a session that is held for a block, for async code."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from renewer.client.settling import Received


@dataclass(frozen=True, slots=True)
class AsyncReceivedMessage(Received[Coroutine[Any, Any, None]]):
    """A message that was received in a session, to be settled while that is held; see `Settles`. All is awaited."""
