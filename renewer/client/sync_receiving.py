"""Messages of leases, received and settled by their ids, for code that blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from renewer.client import messagecalls, plans
from renewer.client.messagecalls import Settlement, Settling
from renewer.client.messages import InFlight, Message, message_of
from renewer.client.models import Lease
from renewer.client.quantities import Duration, seconds
from renewer.client.sync_base import Base


class MessageMethods(Base):
    """The methods of `Client` that are about messages."""

    def complete(self, lease_id: str) -> Lease:
        """Complete the message whose lock is kept, which ends the lease.

        Raises `LockLost`, `MessageSettled` if it was settled otherwise, and `RemoteFailed` or `Timeout`, whose text
        says whether it is known that nothing was done; asking again is safe.
        """
        return self._call(messagecalls.settle(lease_id, Settlement("complete")))

    def abandon(self, lease_id: str, *, properties: Mapping[str, object] | None = None) -> Lease:
        """Abandon the message, so that it is delivered again; `properties` change its own. See `complete`."""
        return self._call(messagecalls.settle(lease_id, Settlement("abandon", properties)))

    def defer(self, lease_id: str, *, properties: Mapping[str, object] | None = None) -> Lease:
        """Defer the message: it is only to be had by its sequence number. See `complete`."""
        return self._call(messagecalls.settle(lease_id, Settlement("defer", properties)))

    def dead_letter(
        self,
        lease_id: str,
        *,
        reason: str | None = None,
        description: str | None = None,
        properties: Mapping[str, object] | None = None,
    ) -> Lease:
        """Move the message to the dead-letter queue. See `complete`."""
        settlement = Settlement("dead-letter", properties, reason, description)
        return self._call(messagecalls.settle(lease_id, settlement))

    def receive(self, lease_id: str, max: int = 1, *, wait: Duration = 30.0) -> list[Message]:  # noqa: A002
        """The next messages of a held session, `max` (100) at most; none if none came in that time.

        They are in flight until they are settled (`settle`), and go back as they were when the lease is released.
        """
        plan = plans.receive(lease_id, self._terms, count=max, wait_s=seconds("wait", wait))
        return [message_of(shown, Message) for shown in self._driver.run(plan)]

    def receive_deferred(self, lease_id: str, sequence_numbers: Sequence[int]) -> list[Message]:
        """Messages of a held session that were deferred: all of these, or none, which is a `Conflict`."""
        call = messagecalls.receive_deferred(lease_id, sequence_numbers)
        return [message_of(shown, Message) for shown in self._call(call)]

    def peek(self, lease_id: str, max: int = 1, *, from_sequence_number: int = 0) -> list[Message]:  # noqa: A002
        """Look at messages of a held session in any state, without receiving them; `max` (100) at most."""
        call = messagecalls.peek(lease_id, count=max, from_sequence_number=from_sequence_number)
        return [message_of(shown, Message) for shown in self._call(call)]

    def in_flight(self, lease_id: str) -> tuple[InFlight, ...]:
        """What was received over a lease and is not settled, what was lost on the way included."""
        return self._call(messagecalls.in_flight(lease_id))

    def settle(
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
        self._call(messagecalls.settle_received(lease_id, handle, settlement))
