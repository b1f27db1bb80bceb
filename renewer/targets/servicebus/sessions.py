"""Session locks of one namespace: each belongs to a receiver link, and lives and dies with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from renewer.core.events import LinkLost
from renewer.core.model import Grant
from renewer.core.states import LossReason
from renewer.errors import ConflictError, LeaseLostError, TransientError, UsageError
from renewer.targets.servicebus.channels import NoRoomError
from renewer.targets.servicebus.connection import NEXT_SESSION_GRACE_S
from renewer.targets.servicebus.managementops import (
    get_session_state,
    read_expiration,
    read_session_state,
    renew_session_lock,
    set_session_state,
)
from renewer.targets.servicebus.requests import MAX_REPLY_SIZE
from renewer.targets.servicebus.verdicts import TOO_LARGE, passing

if TYPE_CHECKING:
    from renewer.core.model import LeaseId, LeaseSpec
    from renewer.ports import ReportLoss
    from renewer.targets.servicebus.connection import BrokerConnection
    from renewer.targets.servicebus.durations import LockDurations
    from renewer.targets.servicebus.envelope import Reply, Template
    from renewer.targets.servicebus.lockclock import LockClock
    from renewer.targets.servicebus.options import NamespaceOptions
    from renewer.targets.servicebus.pool import Pool
    from renewer.targets.servicebus.sessionlink import SessionLink

DETACH_TIMEOUT_S: Final = 4.0
"""How long a release waits for the broker's confirmation."""

GIVE_BACK_TIMEOUT_S: Final = 2.0
"""How long giving back all sessions may take at the end."""

ATTACHES_AT_ONCE: Final = 128
"""Sessions asked for by name at a time."""

ATTACH_PATIENCE_S: Final = 2.0
"""How long an acquisition waits for its turn; then it goes ahead: those before it may be waiting for lost answers."""

STATE_TIMEOUT_S: Final = 10.0
"""How long the broker may take to read or replace a session's state."""


class SessionLocks:
    """The sessions that are held."""

    def __init__(
        self, options: NamespaceOptions, pool: Pool, durations: LockDurations, report_loss: ReportLoss
    ) -> None:
        self._options = options
        self._pool = pool
        self._durations = durations
        self._report_loss = report_loss
        self._held: dict[LeaseId, _Held] = {}
        self._by_link: dict[SessionLink, _Held] = {}
        self._attaching = anyio.CapacityLimiter(ATTACHES_AT_ONCE)

    def __len__(self) -> int:
        """How many are held."""
        return len(self._held)

    async def acquire(self, spec: LeaseSpec, epoch: int) -> Grant:
        """Accept the session, or the next available one. The errors are those of `verdicts.attach_refused`."""
        await self._drop_leftover(spec.id, epoch)
        link = await self._accept_somewhere(spec)
        rival = self._held.get(spec.id)
        if rival is not None and rival.epoch >= epoch:
            link.let_go()
            self._end_use(link)
            raise TransientError("the lease has been acquired meanwhile", kind="busy")
        held = _Held(spec.id, epoch, link, self._durations.begin(spec))
        self._held[spec.id] = held
        self._by_link[link] = held
        return self._first_grant(spec, held)

    async def renew(self, spec: LeaseSpec, epoch: int) -> Grant:
        """Renew the lock. LeaseLostError when the broker says that it is gone, or when it is not held as this epoch."""
        held = self._held.get(spec.id)
        if held is None or held.epoch != epoch:
            raise LeaseLostError("the lease is not held", reason=LossReason.DETACHED)
        link = held.link
        if held.renewal is None:
            held.renewal = renew_session_lock(
                link.entity, link_name=link.name, session_id=link.session_id or "", lock_s=held.lock.duration_s
            )
        try:
            reply = await link.carrier.management(link.entity).request(held.renewal)
            locked_until = read_expiration(reply)
        except LeaseLostError as error:
            self._note_early_end(held, error.reason)
            held.is_told = True
            raise
        except TransientError:
            if held.loss is not None:
                raise LeaseLostError(held.loss.detail, reason=held.loss.reason) from None
            raise
        self._durations.measure(held.lock, locked_until, sent_at=reply.sent_at, received_at=reply.received_at)
        held.anchored_at = max(held.anchored_at, reply.sent_at)
        return Grant(
            anchored_at=reply.sent_at,
            duration_s=held.lock.duration_s,
            locked_until=locked_until,
            session_id=link.session_id,
        )

    async def release(self, spec: LeaseSpec, epoch: int) -> None:
        """Detach, which frees the session at once. TransientError when the broker does not confirm it in time."""
        held = self._held.get(spec.id)
        if held is None or held.epoch != epoch:
            return
        self._forget(held)
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
        for link in links:
            link.let_go()
        with anyio.move_on_after(GIVE_BACK_TIMEOUT_S):
            for link in links:
                await link.wait_gone(GIVE_BACK_TIMEOUT_S)

    # State ----------------------------------------------------------------------------------------------------------

    async def get_state(self, spec: LeaseSpec, epoch: int) -> bytes | None:
        """The session's state; None if it has none.

        ConflictError when it is not held as this epoch. LeaseLostError, and the loss is reported, when the broker says
        that the lock is gone; TransientError when it does not answer, or not well.
        """
        held = self._holding(spec, epoch)
        link = held.link
        ask = get_session_state(
            link.entity, link_name=link.name, session_id=link.session_id or "", timeout_s=STATE_TIMEOUT_S
        )
        try:
            return read_session_state(await self._ask_of_state(held, ask, "the session's state was not sent in time"))
        except TransientError as error:
            if error.condition == TOO_LARGE:
                raise ConflictError(
                    f"the session's state does not fit into {MAX_REPLY_SIZE} bytes, and no more is taken; "
                    "read it with a client of the broker"
                ) from error
            raise

    async def set_state(self, spec: LeaseSpec, epoch: int, state: bytes | None) -> None:
        """Replace the session's state; None clears it. The errors are those of `get_state`.

        UsageError if the state is larger than the broker takes.
        """
        held = self._holding(spec, epoch)
        link = held.link
        ask = set_session_state(
            link.entity, state, link_name=link.name, session_id=link.session_id or "", timeout_s=STATE_TIMEOUT_S
        )
        try:
            await self._ask_of_state(
                held, ask, "the broker did not confirm the session's state in time: it may be the old or the new one"
            )
        except TransientError as error:
            if error.condition == TOO_LARGE:
                size = len(state or b"")
                limit = link.carrier.management(link.entity).max_request_size
                raise UsageError(_too_large(size, None if limit is None else limit - (ask.size - size))) from error
            raise

    def _holding(self, spec: LeaseSpec, epoch: int) -> _Held:
        held = self._held.get(spec.id)
        if held is None or held.epoch != epoch:
            raise ConflictError("the session is not held now: its state can be read and set while it is")
        return held

    async def _ask_of_state(self, held: _Held, ask: Template, too_late: str) -> Reply:
        management = held.link.carrier.management(held.link.entity)
        try:
            with anyio.move_on_after(STATE_TIMEOUT_S):
                return await management.request(ask)
        except LeaseLostError as error:
            if error.reason != LossReason.EXPIRED:
                # Says something about the request. Whether the lock is still ours, the next renewal will tell.
                raise passing(error) from None
            # One that was released or lost meanwhile has nothing more to lose.
            if self._by_link.get(held.link) is held:
                self._tell(held, LossReason.EXPIRED, str(error))
            raise
        except TransientError:
            if held.loss is not None:
                raise LeaseLostError(held.loss.detail, reason=held.loss.reason) from None
            raise
        raise TransientError(too_late, kind="timeout")

    # Acquiring ------------------------------------------------------------------------------------------------------

    async def _drop_leftover(self, lease_id: LeaseId, epoch: int) -> None:
        """A link of an older epoch, or of an attempt whose grant nobody took, makes way."""
        held = self._held.get(lease_id)
        if held is None or held.epoch > epoch:
            return
        self._forget(held)
        held.link.let_go()
        await held.link.wait_gone(DETACH_TIMEOUT_S)

    async def _accept_somewhere(self, spec: LeaseSpec) -> SessionLink:
        while True:
            connection = await self._pool.reserve()
            try:
                return await self._accept(connection, spec)
            except NoRoomError:
                # It turned out smaller than it looked, and is passed over from now on.
                self._pool.give_back(connection)
            except BaseException:
                self._pool.give_back(connection)
                raise

    async def _accept(self, connection: BrokerConnection, spec: LeaseSpec) -> SessionLink:
        entity = spec.entity.strip("/")
        if spec.session_id is None:
            # May wait at the broker for a minute: takes no turn from others.
            return await connection.accept_session(entity, None, server_timeout_s=self._patience_s())
        turn, has_turn = object(), False
        with anyio.move_on_after(ATTACH_PATIENCE_S):
            await self._attaching.acquire_on_behalf_of(turn)
            has_turn = True
        try:
            return await connection.accept_session(entity, spec.session_id, server_timeout_s=0.0)
        finally:
            if has_turn:
                self._attaching.release_on_behalf_of(turn)

    def _patience_s(self) -> float:
        """How long the broker may wait for a session to become free: what is left to our caller, less the way back."""
        left_s = anyio.current_effective_deadline() - anyio.current_time() - NEXT_SESSION_GRACE_S
        return max(1.0, min(self._options.next_session_timeout_s, left_s))

    def _first_grant(self, spec: LeaseSpec, held: _Held) -> Grant:
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

    def _tell(self, held: _Held, reason: LossReason, detail: str) -> None:
        """Report a loss, once."""
        self._note_early_end(held, reason)
        held.loss = LinkLost(held.lease_id, held.epoch, reason, detail)
        if not held.is_told:
            held.is_told = True
            self._report_loss(held.loss)

    def _note_early_end(self, held: _Held, reason: str) -> None:
        if reason == LossReason.EXPIRED and not held.is_told:
            self._durations.expired(held.lease_id, held.lock, held.anchored_at)

    def _forget(self, held: _Held) -> None:
        """The lease is no longer held; its link is on its own."""
        if self._held.get(held.lease_id) is held:
            del self._held[held.lease_id]
        if self._by_link.pop(held.link, None) is not None:
            self._end_use(held.link)

    def _end_use(self, link: SessionLink) -> None:
        link.carrier.leave(link.entity)
        self._pool.give_back(link.carrier)


class _Held:
    """A session that is held: which link, and what its lock is known to be."""

    __slots__ = ("anchored_at", "epoch", "is_told", "lease_id", "link", "lock", "loss", "renewal")

    def __init__(self, lease_id: LeaseId, epoch: int, link: SessionLink, lock: LockClock) -> None:
        self.lease_id = lease_id
        self.epoch = epoch
        self.link = link
        self.lock = lock
        self.anchored_at = 0.0
        self.renewal: Template | None = None
        self.loss: LinkLost | None = None
        self.is_told = False


def _too_large(size: int, limit: int | None) -> str:
    if limit is not None and limit < size:
        return f"the state has {size} bytes, and the broker takes {limit}; store it elsewhere, and its place here"
    return (
        f"the broker refuses a state of {size} bytes as too large: it takes as much as one message may have, 256 KB in "
        "the standard tier, 1 MB in the premium tier if no more is set; store it elsewhere, and its place here"
    )
