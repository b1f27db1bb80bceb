"""Locks of workers that are kept, each with what is known of its end; and the one place where news of them are told.

A lease of the gateway has one epoch: its lock came over a link of the worker's, which nobody else can attach again.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from renewer.core.events import (
    LeaseGranted,
    LeaseNotSettled,
    LeaseReleaseRequested,
    LeaseSettled,
    LeaseSettling,
    LinkLost,
    OwnerGone,
    OwnerSeen,
)
from renewer.core.model import Grant, LeaseId, LeaseSpec, Owner
from renewer.core.states import LeaseKind, LossReason, OwnerKind
from renewer.errors import LeaseLostError
from renewer.ports import GATEWAY_ORIGIN
from renewer.targets.servicebus.lockclock import LockClock, is_plausible
from renewer.targets.servicebus.verdicts import copy_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from uuid import UUID

    from renewer.core.events import Event
    from renewer.core.states import MessageFate
    from renewer.core.timing import RenewalPolicy
    from renewer.errors import RemoteError
    from renewer.gateway.ledger import ConnectionLedger, LinkPlace
    from renewer.gateway.options import EntityPolicy, GatewayOptions
    from renewer.targets.servicebus.durations import LockDurations
    from renewer.targets.servicebus.envelope import Template

MESSAGE_RETENTION_S: Final = 60.0
"""How long the lease of a message is remembered after its end, at most: there may be hundreds a second."""

EPOCH: Final = 1
"""The only epoch of a gateway's lease."""

_NOT_OURS: Final = -1
"""The number of an attempt that the worker made."""


class Kept:
    """One lock. `token` is set for a message, and secret; `session_id` for a session. Moments are monotonic.

    `anchored_at` and `duration_s` say when it ends as far as is known, `locked_until` what the broker said of that
    (epoch seconds); `is_vague` that the first two are too uncertain to lean on. `loss` is why it is lost.
    """

    __slots__ = (
        "anchored_at",
        "duration_s",
        "entity",
        "id",
        "is_vague",
        "ledger",
        "lock",
        "locked_until",
        "loss",
        "place",
        "renewal",
        "session_id",
        "token",
    )

    def __init__(
        self, ledger: ConnectionLedger, place: LinkPlace, lock: LockClock, *, session_id: str | None, token: UUID | None
    ) -> None:
        self.id = LeaseId(f"lease-{secrets.token_hex(8)}")
        self.ledger = ledger
        self.place = place
        self.entity = place.entity
        self.lock = lock
        self.session_id = session_id
        self.token = token
        self.anchored_at = 0.0
        self.duration_s = 0.0
        self.locked_until: float | None = None
        self.is_vague = False
        self.loss: RemoteError | None = None
        self.renewal: Template | None = None

    @property
    def expires_at(self) -> float:
        """When the lock ends if it is not renewed."""
        return self.anchored_at + self.duration_s

    def grant(self) -> Grant:
        """What is known of the lock now."""
        return Grant(self.anchored_at, self.duration_s, self.locked_until, self.session_id, self.is_vague)

    def renewed(self, locked_until: float | None, *, sent_at: float) -> Grant:
        """An answer to a request that was sent then; `lock` has been measured by it."""
        if sent_at >= self.anchored_at:
            self.anchored_at, self.duration_s = sent_at, self.lock.duration_s
            self.is_vague = False
            self.locked_until = locked_until
        return Grant(sent_at, self.lock.duration_s, locked_until, self.session_id)


class LeaseBook:
    """All locks that one gateway keeps. The core is told of them from here, by `register` and `post`."""

    def __init__(
        self,
        options: GatewayOptions,
        durations: LockDurations,
        *,
        register: Callable[[LeaseSpec], None],
        post: Callable[[Event], None],
    ) -> None:
        self.durations = durations
        self._options = options
        self._register = register
        self._post = post
        self._kept: dict[LeaseId, Kept] = {}
        self._terms: dict[tuple[EntityPolicy, LeaseKind], tuple[RenewalPolicy, Mapping[str, object]]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def new_lock(self) -> LockClock:
        """For a lock of which nothing is known yet."""
        namespace = self._options.namespace
        return LockClock(configured_s=namespace.lock_duration_s, assumed_s=namespace.assumed_lock_duration_s)

    def find(self, lease_id: LeaseId) -> Kept | None:
        """The lock of this lease; also one that is lost, until the core knows."""
        return self._kept.get(lease_id)

    def begin_session(self, kept: Kept, locked_until: float | None, *, sent_at: float, received_at: float) -> None:
        """The lock was granted in answer to an attach that was sent then.

        The broker may have held that back for a while before it granted: if the answer took long, the lock counts from
        the answer and is renewed at once to have a sound anchor.
        """
        self.durations.measure(kept.lock, locked_until, sent_at=sent_at, received_at=received_at)
        is_slow = kept.lock.is_slow(received_at - sent_at)
        kept.anchored_at = received_at if is_slow else sent_at
        kept.duration_s = kept.lock.duration_s
        kept.locked_until = locked_until
        kept.is_vague = is_slow or locked_until is None

    def begin_message(self, kept: Kept, locked_until: float | None, *, received_at: float) -> None:
        """The message came then; its lock began before that, so that only what was left of it tells something."""
        left_s = 0.0 if locked_until is None else locked_until - self.durations.wall.at(received_at)
        kept.anchored_at, kept.duration_s, kept.locked_until = received_at, kept.lock.duration_s, locked_until
        if not kept.lock.is_configured:
            kept.is_vague = not is_plausible(left_s)
            if not kept.is_vague:
                kept.duration_s = left_s

    def enter(
        self, kept: Kept, policy: EntityPolicy, *, labels: Mapping[str, str], sequence_number: int | None = None
    ) -> None:
        """Keep a lock from now on. Its owner is the worker's connection, which stands."""
        self._kept[kept.id] = kept
        kind = LeaseKind.SESSION if kept.token is None else LeaseKind.MESSAGE
        terms, context = self._terms_of(policy, kind)
        # The token stays here: whoever starts after this daemon has no use for it, as the worker will be gone too.
        spec = LeaseSpec(
            kept.id,
            self._options.target_name,
            kept.entity,
            kind=kind,
            session_id=kept.session_id,
            sequence_number=sequence_number,
            policy=terms,
            labels=labels,
            owner=_OWNER,
            context=context,
        )
        self._register(spec)
        self._post(OwnerSeen(kept.id, stays=True))

    def forget(self, kept: Kept) -> None:
        """Keep it no longer; nothing is told."""
        self._kept.pop(kept.id, None)
        self.durations.forget(kept.id)

    def renewed_by_worker(self, kept: Kept, locked_until: float | None, *, sent_at: float, received_at: float) -> None:
        """The worker has renewed it."""
        self.durations.measure(kept.lock, locked_until, sent_at=sent_at, received_at=received_at)
        self._post(LeaseGranted(kept.id, EPOCH, _NOT_OURS, kept.renewed(locked_until, sent_at=sent_at)))

    def settling(self, kept: Kept) -> None:
        """The worker is about to have settled the message."""
        self._post(LeaseSettling(kept.id, EPOCH))

    def not_settled(self, kept: Kept) -> None:
        """It has not, or nobody knows."""
        self._post(LeaseNotSettled(kept.id, EPOCH))

    def settled(self, kept: Kept, fate: MessageFate | None) -> None:
        """The message is settled; where it is not known how, the lock is given back for all that is known."""
        self.forget(kept)
        self._post(LeaseReleaseRequested(kept.id) if fate is None else LeaseSettled(kept.id, EPOCH, fate))

    def released(self, kept: Kept) -> None:
        """The worker has let go of it."""
        self.forget(kept)
        self._post(LeaseReleaseRequested(kept.id))

    def owner_gone(self, kept: Kept, detail: str) -> None:
        """The worker has vanished."""
        self.forget(kept)
        self._post(OwnerGone(kept.id, detail))

    def lost(self, kept: Kept, reason: LossReason, detail: str) -> None:
        """It is lost. That is known until the core gives it back; it may be about to ask for it the first time."""
        self.refused(kept, LeaseLostError(detail, reason=reason))
        self._post(LinkLost(kept.id, EPOCH, reason, detail))

    def refused(self, kept: Kept, error: LeaseLostError) -> None:
        """The broker has said in an answer that it is gone: whoever asked tells."""
        kept.loss = copy_of(error)
        if error.reason == LossReason.EXPIRED:
            self.durations.expired(kept.id, kept.lock, kept.anchored_at)

    def _terms_of(self, policy: EntityPolicy, kind: LeaseKind) -> tuple[RenewalPolicy, Mapping[str, object]]:
        terms = self._terms.get((policy, kind))
        if terms is None:
            renewal = self._options.renewal
            asked: dict[str, Any] = {"reacquire": False, "max_duration_s": policy.max_duration_s}
            if kind is LeaseKind.MESSAGE:
                asked["retention_s"] = min(renewal.retention_s, MESSAGE_RETENTION_S)
            terms = replace(renewal, **asked), {"origin": GATEWAY_ORIGIN, "asked": asked}
            self._terms[policy, kind] = terms
        return terms


_OWNER: Final = Owner(OwnerKind.CONNECTION)
