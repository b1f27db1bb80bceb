"""The messages of held sessions, on their way between the targets and those who ask for them.

1. Messages are received while the session is held. While it is at risk none are: no work is begun under a lock that may
   be gone, and who waits for a message then is told so at once. What was received before may be settled then, for the
   broker decides whether that counts; and to peek changes nothing.
2. Of a session that was lost that is what is told, with the reason, and not that it is not held. A target that was told
   to give it back cannot know that it is lost.
3. To ask again for what was done is no error: an answer may have got lost. The latest settlements are remembered.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import anyio

from renewer.core.states import LeaseKind, LeaseState
from renewer.errors import ConflictError, LeaseLostError, MessageSettledError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from renewer.core.leases import Lease
    from renewer.core.model import LeaseId
    from renewer.core.states import MessageFate
    from renewer.daemon.waiting import Waiting
    from renewer.messages import InFlight, ReceivedMessage
    from renewer.ports import LeaseTarget, Settlement

REMOTE_S: Final = 15.0
"""How long a broker may take, beside the time that is waited for a message."""

REMEMBERED: Final = 20_000
"""Settlements that are remembered, of all sessions together."""


class SessionMessages:
    """What can be asked of a session that is held. Errors are those of `LeaseTarget`."""

    def __init__(
        self, target_of: Callable[[Lease], LeaseTarget], waiting: Waiting, *, remembered: int = REMEMBERED
    ) -> None:
        self._target_of = target_of
        self._waiting = waiting
        self._remembered = remembered
        self._settled: OrderedDict[tuple[LeaseId, str], MessageFate] = OrderedDict()

    async def receive(self, lease: Lease, *, count: int, wait_s: float) -> Sequence[ReceivedMessage]:
        """The next messages; none if none came in that time. If this is cancelled, they are for the next to ask."""
        _check_receivable(lease)
        epoch = lease.epoch
        received: Sequence[ReceivedMessage] | None = None
        failure: Exception | None = None
        with _in_time("the messages were not received", wait_s):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._cancel_at_risk, lease, tasks.cancel_scope)
                try:
                    received = await self._target_of(lease).receive(lease.spec, epoch, count=count, wait_s=wait_s)
                except Exception as error:
                    failure = error
                tasks.cancel_scope.cancel()
        if received is not None:
            return received
        loss = lease.last_loss
        if isinstance(failure, ConflictError) and loss is not None and loss.epoch == epoch:
            raise _lost(lease) from failure
        raise _at_risk() if failure is None else failure

    async def receive_deferred(self, lease: Lease, sequence_numbers: Sequence[int]) -> Sequence[ReceivedMessage]:
        """Deferred messages, all of these or none."""
        _check_receivable(lease)
        with _in_time("it is not known whether the messages were received; the lease shows what is in flight"):
            return await self._target_of(lease).receive_deferred(lease.spec, lease.epoch, sequence_numbers)

    async def peek(self, lease: Lease, *, count: int, from_sequence_number: int) -> Sequence[ReceivedMessage]:
        """Messages in any state, without receiving them."""
        _check_usable(lease)
        with _in_time("the messages were not sent"):
            return await self._target_of(lease).peek(
                lease.spec, lease.epoch, count=count, from_sequence_number=from_sequence_number
            )

    async def settle(self, lease: Lease, handle: str, settlement: Settlement) -> None:
        """Settle a message that was received over the lease, in its present epoch or an earlier one."""
        _check_kind(lease)
        key, fate = (lease.spec.id, handle), settlement.fate
        known = self._settled.get(key)
        if known is fate:
            return
        if known is not None:
            raise MessageSettledError(f"the message is settled already: it was {known.value}", fate=known)
        otherwise = f"it is not known whether the message was {fate.value}; ask again, the same way"
        try:
            with _in_time(otherwise, is_unknown=True):
                await self._target_of(lease).settle(lease.spec, lease.epoch, settlement, handle)
        except ConflictError as error:
            if type(error) is ConflictError and self._went_with_a_loss(lease, handle):
                raise _lost(lease, "if the message is not settled, it will be delivered again") from error
            raise
        self._settled[key] = fate
        if len(self._settled) > self._remembered:
            self._settled.popitem(last=False)

    def in_flight(self, lease: Lease) -> Sequence[InFlight]:
        """What was received over the lease and is not settled."""
        _check_kind(lease)
        return self._target_of(lease).in_flight(lease.spec)

    def _went_with_a_loss(self, lease: Lease, handle: str) -> bool:
        """Whether the message was in flight in a session that was lost, and not released by its owner."""
        if lease.last_loss is None or lease.state is LeaseState.RELEASED:
            return False
        return any(one.is_lost and one.handle == handle for one in self.in_flight(lease))

    async def _cancel_at_risk(self, lease: Lease, work: anyio.CancelScope) -> None:
        await self._waiting.until([lease.spec.id], lambda: lease.state is LeaseState.AT_RISK, math.inf)
        work.cancel()


def _check_receivable(lease: Lease) -> None:
    _check_usable(lease)
    if lease.state is LeaseState.AT_RISK:
        raise _at_risk()


def _lost(lease: Lease, consequence: str | None = None) -> LeaseLostError:
    loss = lease.last_loss
    assert loss is not None  # noqa: S101 - nobody says so of another
    more = "" if consequence is None else f"; {consequence}"
    return LeaseLostError(f"the session is lost: {loss.detail}{more}", reason=loss.reason)


def _at_risk() -> ConflictError:
    return ConflictError(
        "the lease is at_risk: no message is received under a lock that may be gone; wait until it is held again",
        state=LeaseState.AT_RISK,
    )


def _check_usable(lease: Lease) -> None:
    _check_kind(lease)
    if lease.state in (LeaseState.HELD, LeaseState.AT_RISK):
        return
    if lease.state is LeaseState.LOST and lease.last_loss is not None:
        raise _lost(lease)
    raise ConflictError(f"the lease is {lease.state}, not held; messages are received while it is", state=lease.state)


def _check_kind(lease: Lease) -> None:
    if lease.spec.kind is not LeaseKind.SESSION:
        raise ConflictError(
            "the lease is on the lock of one message, which is settled as a whole; messages are received in a session"
        )


@contextmanager
def _in_time(otherwise: str, wait_s: float = 0.0, *, is_unknown: bool = False) -> Generator[None, None, None]:
    try:
        with anyio.fail_after(wait_s + REMOTE_S):
            yield
    except TimeoutError as error:
        raise TransientError(
            f"no answer within {wait_s + REMOTE_S:g} s: {otherwise}", kind="timeout", is_unknown=is_unknown
        ) from error
