"""What is known of a worker's links: the relay keeps it up to date, the ledger makes leases of it."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from renewer.core.model import LeaseId
    from renewer.core.states import MessageFate
    from renewer.gateway.options import EntityPolicy


class LinkKind(Enum):
    """What a worker's link is for."""

    CBS = auto()
    MANAGEMENT = auto()
    RECEIVER = auto()
    SENDER = auto()
    COORDINATOR = auto()


RECEIVER: Final = LinkKind.RECEIVER
"""Once more for those who ask for each frame: CPython 3.11 finds a name of a module much faster than one of an enum."""


class Locked:
    """A message that a worker has received and not settled. Moments are monotonic.

    `tag` is the delivery tag, which holds the lock token (GUID, little-endian, where it is 16 bytes long);
    `locked_until` the true end of the lock in epoch seconds, None where the broker did not say. `kept` is the lease
    that keeps the lock, once there is one. `fate` is what the worker asked for when it settled, while `is_settling`:
    until the broker has answered.
    """

    __slots__ = (
        "delivery_id",
        "fate",
        "is_settling",
        "kept",
        "locked_until",
        "received_at",
        "sequence_number",
        "tag",
    )

    def __init__(
        self,
        delivery_id: int,
        tag: bytes,
        locked_until: float | None,
        received_at: float,
        sequence_number: int | None = None,
    ) -> None:
        self.delivery_id = delivery_id
        self.tag = tag
        self.locked_until = locked_until
        self.received_at = received_at
        self.sequence_number = sequence_number
        self.kept: LeaseId | None = None
        self.is_settling = False
        self.fate: MessageFate | None = None


class WorkerLink:
    """A link that a worker has attached; `handle` is the worker's number for it, `remote_handle` the broker's.

    `entity` is the path of the entity (``orders``, ``events/Subscriptions/a``, a dead-letter queue with its suffix), of
    a management node the entity that it is about. `role` is True where the worker receives. `locks` says whether what
    comes over it is peek-locked.
    """

    __slots__ = (
        "channel",
        "entity",
        "handle",
        "is_attached",
        "is_gone",
        "is_session",
        "is_watched",
        "is_within",
        "kept",
        "kind",
        "locked",
        "locks",
        "name",
        "partial",
        "policy",
        "raw_source",
        "raw_target",
        "remote_handle",
        "role",
        "sent_at",
        "session_id",
        "shown_for_s",
        "wants_next",
        "within_id",
    )

    def __init__(
        self, kind: LinkKind, name: str, entity: str, *, channel: int, handle: int, role: bool, policy: EntityPolicy
    ) -> None:
        self.kind = kind
        self.name = name
        self.entity = entity
        self.channel = channel
        self.handle = handle
        self.remote_handle: int | None = None
        self.role = role
        self.policy = policy
        self.is_session = False
        self.wants_next = False
        """It asked for the next available session, so that the broker may have held the answer back."""
        self.session_id: str | None = None
        """The session that was asked for, and then the one that the broker granted."""
        self.locks = False
        self.is_watched = False
        """It locks, and the locks are kept: what comes over it is looked at."""
        self.shown_for_s: float | None = None
        """How far in the future their ends are shown; None where they are shown as they are."""
        self.is_attached = False
        self.is_gone = False
        """One of the two sides has detached it."""
        self.sent_at = 0.0
        """When its attach went to the broker."""
        self.locked: dict[int, Locked] = {}
        """By delivery id, in the order of arrival; only where the policy has message locks renewed and `locks`."""
        self.kept: LeaseId | None = None
        """The lease on the session's lock."""
        self.raw_source: tuple[bytes, bytes] | None = None
        """The encoded source address as the worker wrote it, and as the broker got it; None where they are the same."""
        self.raw_target: tuple[bytes, bytes] | None = None
        self.is_within = False
        """The last frame was not the last one of its delivery."""
        self.within_id: int | None = None
        """Of the delivery that came last, where its lock was noted."""
        self.partial: bytearray | None = None
        """What has come of a delivery that is read whole."""
