"""What is asked of a lock that is kept, as the API sees it: settling, a session's state, and its messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from renewer.core.states import LeaseKind, LeaseState, LossReason
from renewer.daemon.leasecontrol import LeaseControl
from renewer.daemon.messages import SessionMessages
from renewer.daemon.patience import in_time
from renewer.daemon.settling import settle_message
from renewer.errors import ConflictError, LeaseLostError, MessageSettledError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from renewer.core.leases import Lease
    from renewer.core.model import LeaseId
    from renewer.daemon.admission import Limits
    from renewer.daemon.leasecontrol import Pools
    from renewer.daemon.registrar import Registrar
    from renewer.daemon.supervisor import Supervisor
    from renewer.daemon.waiting import Waiting
    from renewer.messages import InFlight, ReceivedMessage
    from renewer.ports import Clock, LeaseTarget, Settlement


class MessageControl(LeaseControl):
    """The part of `renewer.api.Control` that goes on to the target which keeps the lock."""

    def __init__(
        self,
        supervisor: Supervisor,
        clock: Clock,
        waiting: Waiting,
        registrar: Registrar,
        *,
        limits: Limits,
        pools: Pools | None = None,
    ) -> None:
        super().__init__(supervisor, clock, waiting, registrar, limits=limits, pools=pools)
        self._messages = SessionMessages(self._lease_target, waiting)

    def check_epoch(self, lease_id: LeaseId, epoch: int) -> None:
        """`LeaseLostError` if the lease is not on this epoch any longer."""
        lease = self._need_lease(lease_id)
        if lease.epoch == epoch:
            return
        loss = lease.last_loss
        detail = "it has not begun" if epoch > lease.epoch else "it is over" if loss is None else loss.detail
        reason = LossReason.SUPERSEDED if loss is None else loss.reason
        raise LeaseLostError(
            f"epoch {epoch} of the lease is not its present one, {lease.epoch}: {detail}", reason=reason
        )

    async def session_state(self, lease_id: LeaseId) -> bytes | None:
        """The state that a held session carries."""
        lease = self._need_held(lease_id)
        async with in_time("the session's state could not be read"):
            return await self._lease_target(lease).get_state(lease.spec, lease.epoch)

    async def set_session_state(self, lease_id: LeaseId, state: bytes | None) -> None:
        """Replace or clear the state that a held session carries."""
        lease = self._need_held(lease_id)
        async with in_time("it is not known whether the session's state was written"):
            await self._lease_target(lease).set_state(lease.spec, lease.epoch, state)

    async def settle(self, lease_id: LeaseId, settlement: Settlement) -> Lease:
        """Settle the message whose lock it is, which ends the lease."""
        lease = self._need_lease(lease_id)
        if lease.spec.kind is not LeaseKind.MESSAGE:
            raise ConflictError("the lease is on a session: what is settled is a message that was received in it")
        if lease.fate is settlement.fate:
            return lease
        if lease.fate is not None:
            raise MessageSettledError(f"the message is settled already: it was {lease.fate.value}", fate=lease.fate)
        loss = lease.last_loss
        if lease.state is LeaseState.LOST and loss is not None:
            raise LeaseLostError(f"the lock is lost: {loss.detail}", reason=loss.reason)
        lease = self._need_held(lease_id)
        await settle_message(lease, settlement, self._lease_target(lease), self._supervisor.post, now=self._clock.now())
        return lease

    async def receive(self, lease_id: LeaseId, *, count: int, wait_s: float) -> Sequence[ReceivedMessage]:
        """Receive messages of a held session."""
        return await self._messages.receive(self._need_lease(lease_id), count=count, wait_s=wait_s)

    async def receive_deferred(self, lease_id: LeaseId, sequence_numbers: Sequence[int]) -> Sequence[ReceivedMessage]:
        """Receive deferred messages of a held session."""
        return await self._messages.receive_deferred(self._need_lease(lease_id), sequence_numbers)

    async def peek(self, lease_id: LeaseId, *, count: int, from_sequence_number: int = 0) -> Sequence[ReceivedMessage]:
        """Look at messages of a held session."""
        lease = self._need_lease(lease_id)
        return await self._messages.peek(lease, count=count, from_sequence_number=from_sequence_number)

    async def settle_received(self, lease_id: LeaseId, handle: str, settlement: Settlement) -> None:
        """Settle a message that was received over the lease."""
        await self._messages.settle(self._need_lease(lease_id), handle, settlement)

    def in_flight(self, lease_id: LeaseId) -> Sequence[InFlight]:
        """What was received over the lease and is not settled."""
        return self._messages.in_flight(self._need_lease(lease_id))

    def _lease_target(self, lease: Lease) -> LeaseTarget:
        namespace = self.registrar.namespaces.get(lease.spec.target)
        if namespace is None:
            raise ConflictError(f"[{lease.spec.target}] is not in the configuration any longer; put it back")
        return namespace.target
