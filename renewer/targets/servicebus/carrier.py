"""What requests and tokens need of the connection that carries them, whoever owns it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from renewer.amqp import Link
    from renewer.errors import AmqpProtocolError, RemoteError
    from renewer.targets.servicebus.channels import Channel
    from renewer.targets.servicebus.links import LinkOwner


class Carrier(Protocol):
    """A connection to the broker, or a share in one."""

    @property
    def answer_timeout_s(self) -> float:
        """How long the broker has to answer what opens or closes something."""
        ...

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    async def place_requests(self, count: int) -> Channel:
        """Reserve so many handles for requests, on a channel that is open.

        NoRoomError if there are none, TransientError if it fails.
        """
        ...

    def own(self, link: Link, owner: LinkOwner, channel: Channel) -> None:
        """Tell `owner` about the link; its handle on `channel` is given back when it is gone."""
        ...

    def flush(self, *, for_renewals: bool = False) -> None:
        """Have what was queued sent; the answers are not urgent if it is but renewals, or settles their replies."""
        ...

    def spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """Run `work` beside the caller. TransientError if it is too late for that."""
        ...

    def backoff_s(self, failures: int, *, base_s: float, cap_s: float) -> float:
        """Exponential, full jitter."""
        ...

    def answered(self) -> None:
        """The broker answered something."""
        ...

    def unanswered(self) -> None:
        """Somebody stopped waiting for an answer."""
        ...

    def dropped_reply(self, node: str) -> None:
        """A reply came for nobody."""
        ...

    def unreadable_reply(self, node: str, error: AmqpProtocolError) -> None:
        """A reply came that makes no sense, and is dropped: whoever waits for it gets none."""
        ...

    def token_not_refreshed(self, entity: str, error: RemoteError, left_s: float) -> None:
        """A token could not be replaced; the old one is good for so long."""
        ...
