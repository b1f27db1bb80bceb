"""What is asked of a broker about single messages, whatever carries it; and how AMQP does.

Over AMQP everything goes to the entity's management node, over whatever connection there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from renewer.targets.servicebus.lockbatches import without_tokens
from renewer.targets.servicebus.managementops import peek_messages, read_messages, settle_message
from renewer.targets.servicebus.messages import read_message

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from anyio.abc import TaskStatus

    from renewer.ports import Settlement
    from renewer.targets.servicebus.lockbatches import LockBatches, Renewed, Wish
    from renewer.targets.servicebus.routes import Routes

SERVER_TIMEOUT_S: Final = 10.0
"""How long the broker is asked to take at most; who waits for it may have less patience."""


class LockedMessage(Protocol):
    """A message that is locked. `token` is a secret."""

    @property
    def entity(self) -> str:
        """Where it is."""
        ...

    @property
    def token(self) -> UUID:
        """What its lock is known by."""
        ...

    @property
    def sequence_number(self) -> int | None:
        """Its place in the entity, where that is known."""
        ...


class MessageWire(Protocol):
    """The way to the messages of one namespace. All failures are `RemoteError`s."""

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """Run what it takes, until cancelled."""
        ...

    def enter(self, entity: str) -> None:
        """Somebody will have requests for the entity, until `leave`."""
        ...

    def leave(self, entity: str) -> None:
        """Whoever entered is done."""
        ...

    async def renew(self, message: LockedMessage, *, lock_s: float, deadline: float) -> Renewed:
        """Renew the lock, which ends at `deadline` (monotonic) if it is not."""
        ...

    def ask(self, entity: str, wishes: Sequence[Wish]) -> bool:
        """Renew these locks together, see `LockBatches.ask`; False, and nothing asked, where each needs its own."""
        ...

    def withdraw(self, message: LockedMessage) -> None:
        """Renew the lock no more, should that still wait to be asked for: the message is about to be settled."""
        ...

    def check(self, settlement: Settlement) -> None:
        """Raise `ConflictError` if messages cannot be settled so this way."""
        ...

    async def settle(self, message: LockedMessage, settlement: Settlement) -> None:
        """Settle the message."""
        ...

    async def look(self, entity: str, number: int) -> str | None:
        """The state of the message with this number; None if it is not there."""
        ...

    def hide(self, text: str, message: LockedMessage) -> str:
        """The broker's words, without what is secret about the message."""
        ...


class ManagementWire:
    """The way over AMQP."""

    def __init__(self, routes: Routes, batches: LockBatches) -> None:
        self._routes = routes
        self._batches = batches

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """Send batches, until cancelled."""
        await self._batches.serve(task_status=task_status)

    def enter(self, entity: str) -> None:
        """See `Routes.enter`."""
        self._routes.enter(entity)

    def leave(self, entity: str) -> None:
        """See `Routes.leave`."""
        self._routes.leave(entity)

    async def renew(self, message: LockedMessage, *, lock_s: float, deadline: float) -> Renewed:
        """Renew the lock, together with others."""
        return await self._batches.renew(
            self._routes.place(message.entity), message.token, lock_s=lock_s, deadline=deadline
        )

    def ask(self, entity: str, wishes: Sequence[Wish]) -> bool:
        """Renew the locks together, and with others."""
        self._batches.ask(self._routes.place(entity), wishes)
        return True

    def withdraw(self, message: LockedMessage) -> None:
        """Have no batch spoiled by it."""
        self._batches.withdraw(self._routes.place(message.entity), message.token)

    def check(self, settlement: Settlement) -> None:
        """Everything can be done over AMQP."""

    async def settle(self, message: LockedMessage, settlement: Settlement) -> None:
        """Settle the message by its token."""
        ask = settle_message(message.entity, message.token, settlement, timeout_s=SERVER_TIMEOUT_S)
        await self._routes.request(message.entity, ask)

    async def look(self, entity: str, number: int) -> str | None:
        """Peek at the message with this number."""
        ask = peek_messages(entity, from_number=number, count=1, timeout_s=SERVER_TIMEOUT_S)
        found = read_messages(await self._routes.request(entity, ask))
        seen = read_message(found[0][0]) if found else None
        return seen.state if seen is not None and seen.sequence_number == number else None

    def hide(self, text: str, message: LockedMessage) -> str:
        """The words without the token, however it is written."""
        return without_tokens(text, [message.token])
