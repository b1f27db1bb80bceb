"""Messages of leases, received and settled by their ids, for async code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from renewer.client import messagecalls, plans
from renewer.client.async_base import AsyncBase
from renewer.client.messagecalls import Settlement, Settling
from renewer.client.messages import InFlight, Message, message_of
from renewer.client.models import Lease
from renewer.client.quantities import Duration, seconds


class AsyncMessageMethods(AsyncBase):
    """The methods of `AsyncClient` that are about messages."""

    async def complete(self, lease_id: str) -> Lease:
        """Complete the message whose lock is kept, which ends the lease.

        Raises `LockLost`, `MessageSettled` if it was settled otherwise, and `RemoteFailed` or `Timeout`, whose text
        says whether it is known that nothing was done; asking again is safe.
        """
        return await self._call(messagecalls.settle(lease_id, Settlement("complete")))

    async def abandon(self, lease_id: str, *, properties: Mapping[str, object] | None = None) -> Lease:
        """Abandon the message, so that it is delivered again; `properties` change its own. See `complete`."""
        return await self._call(messagecalls.settle(lease_id, Settlement("abandon", properties)))

    async def defer(self, lease_id: str, *, properties: Mapping[str, object] | None = None) -> Lease:
        """Defer the message: it is only to be had by its sequence number. See `complete`."""
        return await self._call(messagecalls.settle(lease_id, Settlement("defer", properties)))

    async def dead_letter(
        self,
        lease_id: str,
        *,
        reason: str | None = None,
        description: str | None = None,
        properties: Mapping[str, object] | None = None,
    ) -> Lease:
        """Move the message to the dead-letter queue. See `complete`."""
        settlement = Settlement("dead-letter", properties, reason, description)
        return await self._call(messagecalls.settle(lease_id, settlement))

    async def receive(self, lease_id: str, max: int = 1, *, wait: Duration = 30.0) -> list[Message]:  # noqa: A002
        """The next messages of a held session, `max` (100) at most; none if none came in that time.

        They are in flight until they are settled (`settle`), and go back as they were when the lease is released.
        """
        plan = plans.receive(lease_id, self._terms, count=max, wait_s=seconds("wait", wait))
        return [message_of(shown, Message) for shown in await self._driver.run(plan)]

    async def receive_deferred(self, lease_id: str, sequence_numbers: Sequence[int]) -> list[Message]:
        """Messages of a held session that were deferred: all of these, or none, which is a `Conflict`."""
        call = messagecalls.receive_deferred(lease_id, sequence_numbers)
        return [message_of(shown, Message) for shown in await self._call(call)]

    async def peek(self, lease_id: str, max: int = 1, *, from_sequence_number: int = 0) -> list[Message]:  # noqa: A002
        """Look at messages of a held session in any state, without receiving them; `max` (100) at most."""
        call = messagecalls.peek(lease_id, count=max, from_sequence_number=from_sequence_number)
        return [message_of(shown, Message) for shown in await self._call(call)]

    async def in_flight(self, lease_id: str) -> tuple[InFlight, ...]:
        """What was received over a lease and is not settled, what was lost on the way included."""
        return await self._call(messagecalls.in_flight(lease_id))

    async def settle(
        self,
        lease_id: str,
        handle: str,
        how: Settling,
        *,
        properties: Mapping[str, object] | None = None,
        reason: str | None = None,
        description: str | None = None,
    ) -> None:
        """Settle a message that was received over a lease, by its handle. Raises as `complete` does."""
        settlement = Settlement(how, properties, reason, description)
        await self._call(messagecalls.settle_received(lease_id, handle, settlement))
