"""What a relay tells the ledger of one worker connection, and how the ledger speaks to the broker beside the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from renewer.amqp import AmqpError
    from renewer.core.states import MessageFate
    from renewer.gateway.asking import LockedMessage
    from renewer.gateway.links import Locked, WorkerLink
    from renewer.targets.servicebus.credentials import EntityToken


class SpareWay(Protocol):
    """The last channel of the upstream connection, which the worker does not see."""

    @property
    def channel(self) -> int | None:
        """Our number for it; None where the two peers leave none."""
        ...

    @property
    def max_frame_size(self) -> int:
        """Bytes of a frame that the broker takes."""
        ...

    @property
    def our_max_frame_size(self) -> int:
        """Bytes of a frame that the broker was told."""
        ...

    on_frame: Callable[[bytes], None] | None
    """Called with the body of each frame that comes over it; the remote-channel of a begin is our number."""

    def send(self, frames: bytes) -> None:
        """Queue whole frames for the broker."""
        ...


class LinkLedger(Protocol):
    """The locks that one worker holds over one connection. Nothing here raises. Moments are monotonic."""

    worker: str
    """What the worker calls itself: the container-id of its open."""

    def opened(self, spare: SpareWay, now: float) -> None:
        """The broker has let the connection in."""
        ...

    def link_opened(self, link: WorkerLink) -> None:
        """A link is attached over which locked messages come."""
        ...

    def session_held(self, link: WorkerLink, *, locked_until: float | None, sent_at: float, received_at: float) -> None:
        """The broker has granted the session of this link, until then by its own clock (epoch seconds)."""
        ...

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
        """The worker itself has renewed a session's lock, or those of these messages."""
        ...

    def settling(self, link: WorkerLink, locked: Locked) -> None:
        """The worker settles a message that has a lease; the broker has not answered."""
        ...

    def settled(self, link: WorkerLink, locked: Locked, fate: MessageFate | None, error: AmqpError | None) -> None:
        """A message that has a lease is settled (`fate` None: not known how); with `error`, the broker refused."""
        ...

    def settled_by_token(self, entity: str, tokens: Sequence[UUID], fate: MessageFate) -> None:
        """Messages are settled over the management node; they may have leases."""
        ...

    def locked_by_token(self, link: WorkerLink, messages: Sequence[LockedMessage], *, received_at: float) -> None:
        """Deferred messages came as answer over this link to a management node."""
        ...

    def link_gone(self, link: WorkerLink, *, by_worker: bool, error: AmqpError | None, now: float) -> None:
        """A link is detached: its session is free, and what it had of messages cannot be settled over it."""
        ...

    def token_put(self, entity: str, token: EntityToken, now: float) -> None:
        """This token of ours goes to the broker for the entity, in the worker's place."""
        ...

    def closed(self, *, worker_gone: bool, by_worker: bool, detail: str, now: float) -> None:
        """The connection is over: the worker vanished, or said goodbye, or it was ended here or by the broker."""
        ...
