"""Message locks of one namespace: each belongs to its token, whoever received the message, over whatever connection.

So there is nothing to attach and nothing to detach: a lease is acquired by renewing its lock once, and given back by
not renewing it any longer. A connection that breaks costs an attempt and no lease.

When the broker says that a lock is over it does not say why: it expired, or the message was settled over its receiver's
own link, which is how it should end. What can be told apart, and what cannot:

* Without a sequence number, nothing: the lease is lost, and the detail says that the message may have been settled.
* With it the entity is looked at. A message that is no longer there was completed or dead-lettered: settled. (Or its
  lock expired, and it was received, or ran out of its time to live, in the moment since.)
* One that is there and deferred was deferred, if its lock cannot have expired by our clock. After that it may as well
  have been received as deferred, where it stays deferred when its lock expires: lost.
* One that is there as it was has been abandoned, or its lock expired: lost, for it will be delivered again either way.
* A settlement of our own whose answer never came was done, if the lock is over before it can have expired.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from renewer.core.model import Grant
from renewer.core.states import LossReason, MessageFate
from renewer.errors import (
    ConflictError,
    LeaseLostError,
    MessageSettledError,
    RemoteError,
    TransientError,
    UsageError,
)
from renewer.targets.servicebus.lockrenewals import LockRenewal, LockRenewals
from renewer.targets.servicebus.locktokens import parse_lock_token
from renewer.targets.servicebus.settling import check_settlement
from renewer.targets.servicebus.verdicts import copy_of, is_unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from anyio.abc import TaskStatus

    from renewer.core.model import LeaseId, LeaseSpec
    from renewer.ports import Clock, Settlement, W
    from renewer.targets.servicebus.durations import LockDurations
    from renewer.targets.servicebus.lockbatches import Renewed
    from renewer.targets.servicebus.lockclock import LockClock
    from renewer.targets.servicebus.messagewire import MessageWire
    from renewer.targets.servicebus.pacing import Pace

PEEK_TIMEOUT_S: Final = 2.0
"""How long the look at a message may take whose lock is over: its owner waits to hear that."""

SETTLE_WITHIN_S: Final = 0.2
"""When a settlement must have its turn in a namespace that is throttled: somebody waits, and it frees a lock."""

NOT_DONE: Final = frozenset({"busy", "throttled", "unauthorized", "not_found", "refused", "unreachable"})
"""Kinds of failures after which it is certain that a settlement was not made; after all others it may have been."""


class MessageLocks:
    """The message locks that are kept."""

    def __init__(self, wire: MessageWire, durations: LockDurations, pace: Pace, clock: Clock) -> None:
        self._wire = wire
        self._durations = durations
        self._pace = pace
        self._clock = clock
        self._kept: dict[LeaseId, _Kept] = {}

    async def acquire(self, spec: LeaseSpec, epoch: int) -> Grant:
        """Renew the lock for the first time.

        LeaseLostError when the broker says that it is gone, that there is no such entity, or that it does not renew
        message locks there, as where there are sessions; MessageSettledError when the message is settled.
        """
        kept = self._begin(spec, epoch)
        self._wire.enter(kept.entity)
        try:
            grant = await self._first(kept)
            rival = self._kept.get(spec.id)
            if rival is not None and rival.epoch > epoch:
                raise TransientError("the lease has been acquired meanwhile", kind="busy", condition="renewer:rival")
        except BaseException:
            self._wire.leave(kept.entity)
            raise
        self._forget(self._kept.get(spec.id))
        self._kept[spec.id] = kept
        return grant

    async def renew(self, spec: LeaseSpec, epoch: int) -> Grant:
        """Renew the lock. LeaseLostError when the broker says that it is gone, or when it is kept as another epoch.

        One that is not kept here was kept before a restart: its token is all that it takes.
        """
        kept = self._kept.get(spec.id)
        if kept is None:
            return await self.acquire(spec, epoch)
        if kept.epoch != epoch:
            raise LeaseLostError("the lease is not held", reason=LossReason.DETACHED)
        return await self._renew(kept)

    def begin_renewals(self, wanted: Sequence[W], answered: Callable[[Sequence[W]], None]) -> None:
        """See `BeginsRenewals`."""
        together = LockRenewals(self, answered)
        by_entity: dict[str, list[LockRenewal[_Kept]]] = {}
        for one in wanted:
            kept = self._kept.get(one.spec.id)
            if kept is not None and kept.epoch == one.epoch:
                renewal = LockRenewal(together, one, kept, kept.token, kept.lock.duration_s, kept.expires_at)
                by_entity.setdefault(kept.entity, []).append(renewal)
        for entity, renewals in by_entity.items():
            try:
                is_asked = self._wire.ask(entity, renewals)
            except TransientError:
                return
            for renewal in renewals if is_asked else ():
                renewal.wanted.renewal = renewal

    async def release(self, spec: LeaseSpec, epoch: int) -> None:
        """Stop renewing. The lock is its receiver's, who settles the message or lets the lock expire."""
        kept = self._kept.get(spec.id)
        if kept is not None and kept.epoch == epoch:
            self._forget(kept)

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """Run what renewing takes, until cancelled."""
        await self._wire.serve(task_status=task_status)

    async def settle(self, spec: LeaseSpec, epoch: int, settlement: Settlement) -> None:
        """Settle the message by its token; nothing renews its lock after that. See `LeaseTarget.settle`.

        UsageError for what cannot be asked of any message. The same settlement again, after one whose outcome is not
        known, succeeds where the first one did.
        """
        check_settlement(settlement)
        self._wire.check(settlement)
        kept = self._kept.get(spec.id)
        if kept is None or kept.epoch != epoch:
            kept = self._begin(spec, epoch)
        self._wire.withdraw(kept)
        fate = settlement.fate
        await self._pace.turn(self._clock.now() + SETTLE_WITHIN_S)
        before, kept.unsure = kept.unsure, fate
        try:
            await self._wire.settle(kept, settlement)
        except LeaseLostError as error:
            kept.unsure = before
            self._pace.note(error)
            if error.reason != LossReason.EXPIRED:
                raise copy_of(error, text=self._wire.hide(str(error), kept)) from None
            over = await self._over(kept, error)
            if isinstance(over, MessageSettledError) and over.fate == fate == before:
                self._forget(kept)
                return
            self._forget(kept)
            raise over from None
        except TransientError as error:
            self._pace.note(error)
            text = self._wire.hide(str(error), kept)
            if is_unusable(error.condition):
                kept.unsure = before
                raise ConflictError(f"the message cannot be {fate.value} here: {text}") from None
            if error.kind in NOT_DONE:
                kept.unsure = before
                raise copy_of(error, text=f"the message was not {fate.value}: {text}") from None
            raise copy_of(
                error, text=f"it is not known whether the message was {fate.value}: {text}", is_unknown=True
            ) from None
        self._forget(kept)

    def _begin(self, spec: LeaseSpec, epoch: int) -> _Kept:
        try:
            token = parse_lock_token(spec.lock_token)
        except UsageError as error:
            raise LeaseLostError(str(error), reason=LossReason.REFUSED) from error
        return _Kept(spec, epoch, token, self._durations.begin(spec))

    async def _first(self, kept: _Kept) -> Grant:
        try:
            return await self._renew(kept)
        except TransientError as error:
            if is_unusable(error.condition):
                # Before anything was renewed: asking again changes nothing.
                raise LeaseLostError(str(error), reason=LossReason.REFUSED, condition=error.condition) from None
            raise

    async def _renew(self, kept: _Kept) -> Grant:
        try:
            # How much is left of a lock that we have not renewed yet is not known; half of one, say.
            deadline = kept.expires_at or self._clock.now() + kept.lock.duration_s / 2
            renewed = await self._wire.renew(kept, lock_s=kept.lock.duration_s, deadline=deadline)
        except LeaseLostError as error:
            raise await self.lost(kept, error) from None
        return self.granted(kept, renewed)

    def granted(self, kept: _Kept, renewed: Renewed) -> Grant:
        """Take in that the lock was renewed."""
        self._durations.measure(
            kept.lock, renewed.locked_until, sent_at=renewed.sent_at, received_at=renewed.received_at
        )
        duration_s = kept.lock.duration_s
        if renewed.sent_at + duration_s > kept.expires_at:
            kept.expires_at = renewed.sent_at + duration_s
        return Grant(renewed.sent_at, duration_s, renewed.locked_until)

    async def lost(self, kept: _Kept, error: LeaseLostError) -> LeaseLostError | MessageSettledError:
        """What to raise where a renewal found that the lock cannot be kept; it is kept no longer."""
        over = await self._over(kept, error) if error.reason == LossReason.EXPIRED else error
        self._forget(kept)
        return over

    async def _over(self, kept: _Kept, error: LeaseLostError) -> LeaseLostError | MessageSettledError:
        """What to raise now that the broker says that the lock is over. See the rules above."""
        was_valid = self._clock.now() < kept.expires_at
        said = self._wire.hide(str(error), kept)
        if kept.unsure is not None and was_valid:
            return MessageSettledError(f"the message is settled: it was {kept.unsure.value}", fate=kept.unsure)

        def lost(why: str) -> LeaseLostError:
            return LeaseLostError(f"{said}; {why}", reason=error.reason, condition=error.condition)

        number = kept.sequence_number
        if number is None:
            return lost("somebody else may have settled it: with its sequence_number that could be told")
        try:
            state = await self._look(kept.entity, number)
        except RemoteError as trouble:
            return lost(f"whether somebody else settled it could not be found out: {trouble}")
        if state is None:
            return MessageSettledError(
                f"message {number} of {kept.entity} is settled: it is there no longer",
                fate=kept.unsure if kept.unsure is not None and kept.unsure in _REMOVING else MessageFate.ELSEWHERE,
            )
        if state == "deferred" and (was_valid or kept.unsure is MessageFate.DEFERRED):
            return MessageSettledError(
                f"message {number} of {kept.entity} is settled: it is deferred",
                fate=kept.unsure if kept.unsure is MessageFate.DEFERRED else MessageFate.ELSEWHERE,
            )
        there = "still there, as deferred" if state == "deferred" else "still there"
        return lost(f"the message is {there}, and its lock expired or it was abandoned")

    async def _look(self, entity: str, number: int) -> str | None:
        """The state of the message with this number; None if it is not there."""
        with anyio.move_on_after(PEEK_TIMEOUT_S):
            return await self._wire.look(entity, number)
        raise TransientError("no answer in time", kind="timeout")

    def _forget(self, kept: _Kept | None) -> None:
        if kept is not None and self._kept.get(kept.lease_id) is kept:
            del self._kept[kept.lease_id]
            self._wire.leave(kept.entity)


class _Kept:
    """A message lock that is kept, and what it is known to be.

    `expires_at`: when it ends by our clock; 0 while it was never renewed. `unsure`: what became of the message if a
    settlement was made whose answer did not come.
    """

    __slots__ = ("entity", "epoch", "expires_at", "lease_id", "lock", "sequence_number", "token", "unsure")

    def __init__(self, spec: LeaseSpec, epoch: int, token: UUID, lock: LockClock) -> None:
        self.lease_id: LeaseId = spec.id
        self.epoch = epoch
        self.entity = spec.entity.strip("/")
        self.token = token
        self.sequence_number = spec.sequence_number
        self.lock = lock
        self.expires_at = 0.0
        self.unsure: MessageFate | None = None


_REMOVING: Final = (MessageFate.COMPLETED, MessageFate.DEAD_LETTERED)
