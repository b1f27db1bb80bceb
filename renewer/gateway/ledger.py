"""What one worker holds over its connection: locks that are seen as they pass, made into leases and ended.

A session's lock is a lease from the moment that it is granted, and covers the messages of the session. A message's lock
becomes one when the worker has had it for a while: most messages are settled before that, and cost nothing here.

A lease ends with what it came over. When a worker's link is gone, so are the leases on its messages, though their locks
would stand: an SDK drops what it has fetched ahead over such a link, and nobody would ever settle that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

import structlog

from renewer.core.states import LossReason
from renewer.errors import LeaseLostError, TransientError
from renewer.gateway.kept import Kept
from renewer.gateway.spare import NO_CHANNEL
from renewer.targets.servicebus.lockbatches import without_tokens
from renewer.targets.servicebus.lockclock import is_plausible
from renewer.targets.servicebus.verdicts import describe, loss_of, settling_refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from renewer.amqp import AmqpError
    from renewer.core.model import LeaseId
    from renewer.core.states import MessageFate
    from renewer.gateway.asking import LockedMessage
    from renewer.gateway.kept import LeaseBook
    from renewer.gateway.ledgers import SpareWay
    from renewer.gateway.links import Locked, WorkerLink
    from renewer.gateway.options import EntityPolicy
    from renewer.gateway.spare import SpareChannel
    from renewer.targets.servicebus.credentials import EntityToken
    from renewer.targets.servicebus.envelope import Reply, Template
    from renewer.targets.servicebus.lockbatches import LockBatches

PROMOTE_AFTER_S: Final = 2.0
"""A message that is not settled for so long has its lock kept."""

PROMOTE_SHARE: Final = 0.1
"""Or for this part of its lock, if that is shorter."""

MOST_MESSAGES: Final = 10_000
"""Message locks that are kept on one connection at once. Those beyond it have their turn as others end."""

_LONGEST_LABEL: Final = 64
_TOKEN_SIZE: Final = 16

log = structlog.get_logger("renewer.gateway")


class LinkPlace:
    """A link of the worker's, or (without a name) an entity on the worker's connection, that requests are made for."""

    __slots__ = ("_ledger", "entity", "kept", "link_name", "newest")

    def __init__(self, ledger: ConnectionLedger, entity: str, link_name: str | None) -> None:
        self._ledger = ledger
        self.entity = entity
        self.link_name = link_name
        self.kept: dict[LeaseId, Kept] = {}
        """Locks that came over the link."""
        self.newest: int | None = None
        """The newest delivery when all that had come over the link was looked after; None while something is not."""

    async def request(self, ask: Template) -> Reply:
        """See `Place.request`. Over the connection of the worker, and nothing else."""
        return await self._ledger.request(self.entity, ask)


class ConnectionLedger:
    """The locks of one worker connection. See `LinkLedger`; `tick` it four times a second.

    `make_spare` makes the channel of our own once the broker has let the connection in.
    """

    __slots__ = (
        "_batches",
        "_book",
        "_by_session",
        "_by_token",
        "_gateway",
        "_is_full_told",
        "_is_mute_told",
        "_kept",
        "_key_name",
        "_labels",
        "_make_spare",
        "_on_closed",
        "_places",
        "_spare",
        "worker",
    )

    def __init__(
        self,
        book: LeaseBook,
        batches: LockBatches,
        *,
        gateway: str,
        key_name: Callable[[], str | None],
        worker: str,
        make_spare: Callable[[SpareWay], SpareChannel],
        on_closed: Callable[[ConnectionLedger], None],
    ) -> None:
        self.worker = worker
        self._book = book
        self._batches = batches
        self._gateway = gateway
        self._key_name = key_name
        self._make_spare = make_spare
        self._on_closed = on_closed
        self._spare: SpareChannel | None = None
        self._kept: dict[LeaseId, Kept] = {}
        self._places: dict[WorkerLink, LinkPlace] = {}
        self._by_session: dict[tuple[str, str | None], Kept] = {}
        self._by_token: dict[UUID, Kept] = {}
        self._labels: Mapping[str, str] | None = None
        self._is_full_told = False
        self._is_mute_told = False

    @property
    def leases(self) -> int:
        """Locks that are kept."""
        return len(self._kept)

    async def request(self, entity: str, ask: Template) -> Reply:
        """Ask the entity's management node, beside the worker. The errors are those of `Management.request`."""
        spare = self._spare
        if spare is None:
            raise TransientError("the worker's connection is not open", kind="network")
        if not spare.is_possible and not self._is_mute_told:
            self._is_mute_told = True
            log.error("locks cannot be renewed", gateway=self._gateway, worker=self.labels["worker"], why=NO_CHANNEL)
        return await spare.management(entity).request(ask)

    def tick(self, now: float, most: int) -> int:
        """Keep the locks of messages that are not settled for long, of so many at most; returns of how many."""
        begun = 0
        for link, place in self._places.items():
            if link.locked:
                begun += self._promote(link, place, now, most - begun)
        if self._spare is not None:
            self._spare.tick(now)
        return begun

    def stop(self, detail: str) -> None:
        """Ask for nothing more; what is kept is told of when the connection is closed."""
        if self._spare is not None:
            self._spare.close(TransientError(detail, kind="network"))

    def forget(self, kept: Kept) -> None:
        """The lease is over for the core: nothing more is asked for it, and nothing told."""
        self._drop(kept)
        self._book.forget(kept)

    @property
    def labels(self) -> Mapping[str, str]:
        """What leases of this worker are found by."""
        if self._labels is None:
            worker = "".join(char if char.isprintable() else " " for char in self.worker[:_LONGEST_LABEL])
            self._labels = {"gateway": self._gateway, "key": self._key_name() or "", "worker": worker}
        return self._labels

    # What the relay tells -------------------------------------------------------------------------------------------

    def opened(self, spare: SpareWay, now: float) -> None:
        """See `LinkLedger`."""
        self._spare = self._make_spare(spare)

    def token_put(self, entity: str, token: EntityToken, now: float) -> None:
        """See `LinkLedger`."""
        if self._spare is not None:
            self._spare.adopt(entity, token)

    def link_opened(self, link: WorkerLink) -> None:
        """See `LinkLedger`. A session's lock covers its messages, which cannot be renewed one by one there."""
        if link.policy.messages and not link.is_session:
            self._places[link] = LinkPlace(self, link.entity, link.name)

    def session_held(self, link: WorkerLink, *, locked_until: float | None, sent_at: float, received_at: float) -> None:
        """See `LinkLedger`."""
        if not link.policy.sessions or link.kept is not None:
            return
        place = LinkPlace(self, link.entity, link.name)
        kept = Kept(self, place, self._book.new_lock(), session_id=link.session_id, token=None)
        self._book.begin_session(kept, locked_until, sent_at=sent_at, received_at=received_at)
        self._by_session[link.entity.lower(), link.session_id] = kept
        link.kept = kept.id
        self._enter(kept, link.policy)

    def locked_by_token(self, link: WorkerLink, messages: Sequence[LockedMessage], *, received_at: float) -> None:
        """See `LinkLedger`."""
        if not link.policy.messages:
            return
        place = self._places.setdefault(link, LinkPlace(self, link.entity, None))
        for message in messages:
            if self._has_room():
                self._keep_message(
                    place,
                    message.token,
                    link.policy,
                    locked_until=message.locked_until,
                    received_at=received_at,
                    sequence_number=message.sequence_number,
                )

    def renewed_by_worker(
        self,
        entity: str,
        session_id: str | None,
        tokens: Sequence[UUID],
        expirations: Sequence[float],
        *,
        sent_at: float,
        received_at: float,
    ) -> None:
        """See `LinkLedger`."""
        of_session = self._by_session.get((entity.lower(), session_id)) if session_id is not None else None
        renewed = [self._by_token.get(token) for token in tokens] if of_session is None else [of_session]
        for kept, locked_until in zip(renewed, expirations, strict=False):
            if kept is not None:
                self._book.renewed_by_worker(kept, locked_until, sent_at=sent_at, received_at=received_at)

    def settling(self, link: WorkerLink, locked: Locked) -> None:
        """See `LinkLedger`."""
        kept = self._of(locked)
        if kept is not None and kept.token is not None:
            self._batches.withdraw(kept.place, kept.token)
            self._book.settling(kept)

    def settled(self, link: WorkerLink, locked: Locked, fate: MessageFate | None, error: AmqpError | None) -> None:
        """See `LinkLedger`."""
        kept = self._of(locked)
        if kept is None or kept.token is None:
            return
        if error is None:
            self._settled(kept, fate)
            return
        refusal = settling_refused(error)
        if isinstance(refusal, LeaseLostError):
            self._lose(kept, LossReason(refusal.reason), without_tokens(str(refusal), [kept.token]))
        else:
            self._book.not_settled(kept)

    def settled_by_token(self, entity: str, tokens: Sequence[UUID], fate: MessageFate) -> None:
        """See `LinkLedger`."""
        for token in tokens:
            kept = self._by_token.get(token)
            if kept is not None:
                self._settled(kept, fate)

    def link_gone(self, link: WorkerLink, *, by_worker: bool, error: AmqpError | None, now: float) -> None:
        """See `LinkLedger`."""
        place = self._places.pop(link, None)
        gone = [] if place is None else [*place.kept.values()]
        if link.kept is not None and (kept := self._kept.get(link.kept)) is not None:
            gone.append(kept)
        if not gone:
            return
        reason, detail = self._loss_of(link.entity, error)
        for kept in gone:
            self._drop(kept)
            if by_worker:
                self._book.released(kept)
            else:
                self._book.lost(kept, reason, detail)

    def closed(self, *, worker_gone: bool, by_worker: bool, detail: str, now: float) -> None:
        """See `LinkLedger`."""
        self.stop(detail)
        over = [*self._kept.values()]
        for known in (self._kept, self._places, self._by_session, self._by_token):
            known.clear()
        for kept in over:
            if worker_gone:
                self._book.owner_gone(kept, detail)
            elif by_worker:
                self._book.released(kept)
            else:
                self._book.lost(kept, LossReason.CONNECTION_LOST, detail)
        self._on_closed(self)

    # Helpers --------------------------------------------------------------------------------------------------------

    def _promote(self, link: WorkerLink, place: LinkPlace, now: float, most: int) -> int:
        newest = next(reversed(link.locked))
        if newest == place.newest:
            return 0
        begun, is_done = 0, True
        for locked in link.locked.values():
            if locked.kept is not None or len(locked.tag) != _TOKEN_SIZE:
                continue
            if not self._is_due(locked, now) or begun >= most or not self._has_room():
                is_done = False
                break
            if locked.is_settling:
                is_done = False
                continue
            locked.kept = self._keep_message(
                place,
                UUID(bytes_le=locked.tag),
                link.policy,
                locked_until=locked.locked_until,
                received_at=locked.received_at,
                sequence_number=locked.sequence_number,
            )
            begun += 1
        place.newest = newest if is_done else None
        return begun

    def _is_due(self, locked: Locked, now: float) -> bool:
        age_s = now - locked.received_at
        if age_s >= PROMOTE_AFTER_S or locked.locked_until is None:
            return age_s >= PROMOTE_AFTER_S
        left_s = locked.locked_until - self._book.durations.wall.at(locked.received_at)
        return is_plausible(left_s) and age_s >= PROMOTE_SHARE * left_s

    def _has_room(self) -> bool:
        if len(self._by_token) < MOST_MESSAGES:
            return True
        if not self._is_full_told:
            self._is_full_told = True
            log.warning(
                "too many messages to keep their locks",
                gateway=self._gateway,
                worker=self.labels["worker"],
                most=MOST_MESSAGES,
                remedy="have the worker fetch fewer messages ahead",
            )
        return False

    def _keep_message(
        self,
        place: LinkPlace,
        token: UUID,
        policy: EntityPolicy,
        *,
        locked_until: float | None,
        received_at: float,
        sequence_number: int | None,
    ) -> LeaseId:
        old = self._by_token.get(token)
        if old is not None:
            return old.id
        kept = Kept(self, place, self._book.new_lock(), session_id=None, token=token)
        self._book.begin_message(kept, locked_until, received_at=received_at)
        self._by_token[token] = kept
        place.kept[kept.id] = kept
        self._enter(kept, policy, sequence_number)
        return kept.id

    def _enter(self, kept: Kept, policy: EntityPolicy, sequence_number: int | None = None) -> None:
        self._kept[kept.id] = kept
        self._book.enter(kept, policy, labels=self.labels, sequence_number=sequence_number)

    def _of(self, locked: Locked) -> Kept | None:
        return None if locked.kept is None else self._kept.get(locked.kept)

    def _settled(self, kept: Kept, fate: MessageFate | None) -> None:
        self._drop(kept)
        self._book.settled(kept, fate)

    def _lose(self, kept: Kept, reason: LossReason, detail: str) -> None:
        self._drop(kept)
        self._book.lost(kept, reason, detail)

    def _drop(self, kept: Kept) -> None:
        """Have it no longer."""
        self._kept.pop(kept.id, None)
        kept.place.kept.pop(kept.id, None)
        if kept.token is not None:
            self._by_token.pop(kept.token, None)
        elif self._by_session.get(key := (kept.entity.lower(), kept.session_id)) is kept:
            del self._by_session[key]

    def _loss_of(self, entity: str, error: AmqpError | None) -> tuple[LossReason, str]:
        reason, detail = loss_of(error), describe(error, "the broker detached the worker's link")
        spare = self._spare
        if reason is LossReason.DETACHED and spare is not None and spare.has_run_out(entity):
            # Whatever the broker calls it: links go when their token has ended.
            reason = LossReason.UNAUTHORIZED
        if reason is LossReason.UNAUTHORIZED and spare is not None:
            detail = f"{detail}; {spare.remedy(entity)}"
        return reason, detail
