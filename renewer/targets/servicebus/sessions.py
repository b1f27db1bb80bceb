"""Session locks of one namespace: each belongs to a receiver link, and lives and dies with it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import anyio

from renewer.core.events import LinkLost
from renewer.core.model import Grant
from renewer.core.states import LossReason
from renewer.errors import ConflictError, LeaseLostError, RenewerError, TransientError
from renewer.targets.servicebus.acceptance import Acceptance
from renewer.targets.servicebus.acquisition import SessionAcquisition
from renewer.targets.servicebus.ceilings import OUR_LIMIT
from renewer.targets.servicebus.deliveries import PastEpochs, read_handle, unknown_handle
from renewer.targets.servicebus.heldlock import Answers, HeldLock, SessionRenewal
from renewer.targets.servicebus.heldsession import HeldSession
from renewer.targets.servicebus.managementops import read_expiration
from renewer.targets.servicebus.verdicts import copy_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from renewer.core.model import LeaseId, LeaseSpec
    from renewer.errors import RemoteError
    from renewer.messages import InFlight
    from renewer.ports import Clock, PendingRenewal, ReportLoss, Settlement, W
    from renewer.targets.servicebus.durations import LockDurations
    from renewer.targets.servicebus.envelope import Reply
    from renewer.targets.servicebus.options import NamespaceOptions
    from renewer.targets.servicebus.pool import Pool
    from renewer.targets.servicebus.sessionlink import SessionLink

DETACH_TIMEOUT_S: Final = 4.0
"""How long a release waits for the broker's confirmation."""

GIVE_BACK_TIMEOUT_S: Final = 2.0
"""How long giving back all sessions may take at the end."""


class SessionLocks:
    """The sessions that are held."""

    def __init__(
        self,
        options: NamespaceOptions,
        pool: Pool,
        durations: LockDurations,
        report_loss: ReportLoss,
        clock: Clock,
    ) -> None:
        self._options = options
        self._pool = pool
        self._durations = durations
        self._report_loss = report_loss
        self._clock = clock
        self._answers: Answers | None = None
        self._held: dict[LeaseId, HeldLock] = {}
        self._by_link: dict[SessionLink, HeldLock] = {}
        self._held_of: Counter[str] = Counter()
        self._past = PastEpochs()
        self._acceptance = Acceptance(pool, clock, self._held_of, next_session_timeout_s=options.next_session_timeout_s)

    def __len__(self) -> int:
        """How many are held."""
        return len(self._held)

    @property
    def trouble(self) -> str | None:
        """Why no more sessions can be had of an entity; None as a rule. For people."""
        return self._acceptance.trouble

    async def acquire(self, spec: LeaseSpec, epoch: int, begun: SessionLink | None = None) -> Grant:
        """Accept the session, or the next available one. The errors are those of `verdicts.attach_refused`.

        With `begun` it was asked for already, and that was refused.
        """
        await self._drop_leftover(spec.id, epoch)
        return self.hold(spec, epoch, await self._acceptance.accept(spec, begun))

    def begin_acquisition(
        self,
        spec: LeaseSpec,
        epoch: int,
        answered: Callable[[PendingRenewal], None],
        *,
        note: Callable[[RemoteError], None],
    ) -> PendingRenewal | None:
        """See `BeginsAcquisitions`; `note` is told of errors."""
        if spec.session_id is None or spec.id in self._held:
            return None
        acquisition = SessionAcquisition(self, spec, epoch, answered, note)
        return acquisition if self._acceptance.begin(spec.entity.strip("/"), spec.session_id, acquisition) else None

    def asked(self, acquisition: SessionAcquisition, link: SessionLink, *, is_used: bool) -> None:
        """What `begin_acquisition` asked for is answered, or not wanted any longer. Unless it is used it is let go."""
        self._acceptance.end(acquisition, link.entity)
        if not is_used:
            link.let_go()
            self._end_use(link)

    def hold(self, spec: LeaseSpec, epoch: int, link: SessionLink) -> Grant:
        """Hold what was accepted, as this epoch of the lease; TransientError if there is a later one by now."""
        link.carrier.is_proved = True
        rival = self._held.get(spec.id)
        if rival is not None and rival.epoch >= epoch:
            link.let_go()
            self._end_use(link)
            raise TransientError("the lease has been acquired meanwhile", kind="busy", condition=OUR_LIMIT)
        session = HeldSession(
            link,
            epoch,
            message_size_limit=self._options.message_size_limit,
            on_lock_lost=self._on_lock_lost,
        )
        held = HeldLock(spec.id, epoch, link, session, self._durations.begin(spec))
        self._held[spec.id] = held
        self._by_link[link] = held
        self._held_of[link.entity] += 1
        return self._first_grant(spec, held)

    async def renew(self, spec: LeaseSpec, epoch: int) -> Grant:
        """Renew the lock. LeaseLostError when the broker says that it is gone, or when it is not held as this epoch."""
        held = self._held.get(spec.id)
        if held is None or held.epoch != epoch:
            raise LeaseLostError("the lease is not held", reason=LossReason.DETACHED)
        return await self.renewed(held, held.management.request(held.renewal()))

    def begin_renewals(
        self, wanted: Sequence[W], answered: Callable[[Sequence[W]], None], *, note: Callable[[RemoteError], None]
    ) -> None:
        """See `BeginsRenewals`; `note` is told of errors."""
        answers = self._answers
        if answers is None or answers.answered != answered:
            answers = self._answers = Answers(answered)
        for one in wanted:
            held = self._held.get(one.spec.id)
            if held is not None and held.epoch == one.epoch:
                SessionRenewal(self, held, one, answers, note).ask()

    async def renewed(self, held: HeldLock, reply: Awaitable[Reply]) -> Grant:
        """What a renewal comes to once this reply to it is there."""
        try:
            return self.granted(held, await reply)
        except LeaseLostError as error:
            self._note_early_end(held, error.reason)
            held.is_told = True
            raise copy_of(error, text=str(error) + self._lose(held, error.reason, str(error))) from None
        except TransientError:
            if held.loss is not None:
                raise LeaseLostError(held.loss.detail, reason=held.loss.reason) from None
            raise

    def granted(self, held: HeldLock, reply: Reply) -> Grant:
        """What a successful reply grants. TransientError if it does not say."""
        locked_until = read_expiration(reply)
        self._durations.measure(held.lock, locked_until, sent_at=reply.sent_at, received_at=reply.received_at)
        held.anchored_at = max(held.anchored_at, reply.sent_at)
        return Grant(
            anchored_at=reply.sent_at,
            duration_s=held.lock.duration_s,
            locked_until=locked_until,
            session_id=held.link.session_id,
        )

    def ends_at(self, lease_id: LeaseId) -> float | None:
        """Until when the lock of this lease is known to be held (monotonic); None if it is not."""
        held = self._held.get(lease_id)
        return None if held is None else held.anchored_at + held.lock.duration_s

    async def release(self, spec: LeaseSpec, epoch: int) -> None:
        """Detach, which frees the session at once. TransientError when the broker does not confirm it in time."""
        held = self._held.get(spec.id)
        if held is None or held.epoch != epoch:
            return
        self._forget(held)
        self._part(held)
        if not held.is_told:
            self._durations.forget(spec.id)
        held.link.let_go()
        if not await held.link.wait_gone(DETACH_TIMEOUT_S):
            held.link.carrier.unanswered()
            raise TransientError("the broker did not confirm the release in time", kind="timeout")

    async def give_all_back(self) -> None:
        """Detach everything, and wait for that no longer than `GIVE_BACK_TIMEOUT_S`."""
        links = [held.link for held in self._held.values()]
        for held in list(self._held.values()):
            self._forget(held)
            self._part(held)
        for link in links:
            link.let_go()
        with anyio.move_on_after(GIVE_BACK_TIMEOUT_S):
            for link in links:
                await link.wait_gone(GIVE_BACK_TIMEOUT_S)

    # Using ----------------------------------------------------------------------------------------------------------

    def held(self, spec: LeaseSpec, epoch: int) -> HeldSession:
        """What can be done with the session, which is held as this epoch; else ConflictError.

        Whatever is asked of it raises LeaseLostError, and the loss is reported, when the broker says that the lock is
        gone; TransientError when the broker does not answer, or not well.
        """
        held = self._held.get(spec.id)
        if held is None or held.epoch != epoch:
            raise ConflictError("the session is not held now: it can be used while it is")
        return held.session

    async def settle(self, spec: LeaseSpec, epoch: int, settlement: Settlement, handle: str) -> None:
        """Settle a message that was received in this session, now or in an epoch that is over. See `LeaseTarget`."""
        received_in, number = read_handle(handle)
        held = self._held.get(spec.id)
        if held is not None and held.epoch == epoch == received_in and held.session.end_error is None:
            await held.session.settle(number, settlement)
            return
        if received_in > epoch:
            raise unknown_handle()
        raise self._past.judge(spec.id, received_in, number)

    def in_flight(self, spec: LeaseSpec) -> list[InFlight]:
        """See `LeaseTarget.in_flight`."""
        held = self._held.get(spec.id)
        return [*self._past.in_flight(spec.id), *(() if held is None else held.session.in_flight())]

    # Acquiring ------------------------------------------------------------------------------------------------------

    async def _drop_leftover(self, lease_id: LeaseId, epoch: int) -> None:
        """A link of an older epoch, or of an attempt whose grant nobody took, makes way."""
        held = self._held.get(lease_id)
        if held is None or held.epoch > epoch:
            return
        self._forget(held)
        self._part(held)
        held.link.let_go()
        await held.link.wait_gone(DETACH_TIMEOUT_S)

    def _first_grant(self, spec: LeaseSpec, held: HeldLock) -> Grant:
        link = held.link
        self._durations.measure(held.lock, link.locked_until, sent_at=link.sent_at, received_at=link.granted_at)
        # The broker may have granted at any time since it was asked. If that is long, only a renewal tells more.
        is_vague = spec.session_id is None or held.lock.is_slow(link.granted_at - link.sent_at)
        held.anchored_at = link.granted_at if is_vague else link.sent_at
        return Grant(
            anchored_at=held.anchored_at,
            duration_s=held.lock.duration_s,
            locked_until=link.locked_until,
            session_id=link.session_id,
            renew_now=is_vague or link.locked_until is None,
        )

    # Losing ---------------------------------------------------------------------------------------------------------

    def on_lost(self, link: SessionLink, reason: LossReason, detail: str) -> None:
        """The link is gone."""
        held = self._by_link.get(link)
        if held is not None:
            self._forget(held)
            self._tell(held, reason, detail)

    def _on_lock_lost(self, link: SessionLink, detail: str) -> None:
        """The broker says so in an answer. One that was released or lost meanwhile has nothing more to lose."""
        held = self._by_link.get(link)
        if held is not None:
            self._tell(held, LossReason.EXPIRED, detail)

    def _tell(self, held: HeldLock, reason: LossReason, detail: str) -> None:
        """Report a loss, once."""
        self._note_early_end(held, reason)
        detail += self._lose(held, reason, detail)
        held.loss = LinkLost(held.lease_id, held.epoch, reason, detail)
        if not held.is_told:
            held.is_told = True
            self._report_loss(held.loss)

    def _lose(self, held: HeldLock, reason: str, detail: str) -> str:
        """End what is under way in a session that is lost; what to say of its messages."""

        def lost() -> RenewerError:
            return LeaseLostError(detail, reason=reason)

        past = held.session.end(lost)
        if past is None:
            return ""
        self._past.add(held.lease_id, past, reason)
        return past.told()

    def _part(self, held: HeldLock) -> None:
        """End what is under way in a session that is given back."""
        past = held.session.end(lambda: ConflictError("the session was released meanwhile"))
        if past is not None:
            self._past.add(held.lease_id, past, None)

    def _note_early_end(self, held: HeldLock, reason: str) -> None:
        if reason == LossReason.EXPIRED and not held.is_told:
            self._durations.expired(held.lease_id, held.lock, held.anchored_at)

    def _forget(self, held: HeldLock) -> None:
        """The lease is no longer held; its link is on its own."""
        if self._held.get(held.lease_id) is held:
            del self._held[held.lease_id]
        if self._by_link.pop(held.link, None) is not None:
            self._held_of[held.link.entity] -= 1
            self._end_use(held.link)

    def _end_use(self, link: SessionLink) -> None:
        link.carrier.leave(link.entity)
        self._pool.give_back(link.carrier)
