"""The four ways to settle a message, for all that one can be settled by, in code that blocks and in async code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from renewer.client.messagecalls import Settlement
from renewer.client.messages import Message

_Done = TypeVar("_Done")
"""What a method returns: None, or in async code what is to be awaited."""


class Settles(ABC, Generic[_Done]):
    """What settles a message while its lock is held.

    All four ways raise `LockLost` (in a session `SessionLost`) when the lock is gone: the message will be delivered
    again then. `LockAtRisk` says that the lock may be gone; `MessageSettled` that the message was settled otherwise.
    After `RemoteFailed` or `Timeout` it may be done or not (`outcome`), and asking again is safe.
    """

    __slots__ = ()

    def complete(self) -> _Done:
        """Complete the message: it is done."""
        return self._settle(Settlement("complete"))

    def abandon(self, *, properties: Mapping[str, object] | None = None) -> _Done:
        """Abandon the message, so that it is delivered again; `properties` change its own."""
        return self._settle(Settlement("abandon", properties))

    def defer(self, *, properties: Mapping[str, object] | None = None) -> _Done:
        """Defer the message: it is only to be had by its sequence number."""
        return self._settle(Settlement("defer", properties))

    def dead_letter(
        self,
        *,
        reason: str | None = None,
        description: str | None = None,
        properties: Mapping[str, object] | None = None,
    ) -> _Done:
        """Move the message to the dead-letter queue."""
        return self._settle(Settlement("dead-letter", properties, reason, description))

    @abstractmethod
    def _settle(self, settlement: Settlement) -> _Done: ...


def _nobody(*_: object) -> Any:
    raise TypeError("a message is settled in the session that received it")


@dataclass(frozen=True, slots=True)
class Received(Message, Settles[_Done]):
    """A message that was received in a session, to be settled while that is held."""

    _settler: Callable[[str, Settlement], _Done] = field(default=_nobody, repr=False, compare=False)
    """Settles the message with this handle so."""

    def _settle(self, settlement: Settlement) -> _Done:
        return self._settler(self.handle or "", settlement)
