"""What a pair asks of the gateway that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import anyio

    from renewer.gateway.pair import Pair
    from renewer.gateway.relay import Relay
    from renewer.targets.servicebus.credentials import EntityToken


class House(Protocol):
    """What all pairs of a gateway share. Called on the event loop."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def is_draining(self) -> bool:
        """Whether workers may go on with what they have, and begin nothing."""
        ...

    def make_relay(self, pair: Pair, now: float) -> Relay:
        """The relay for a worker that has connected."""
        ...

    def start_soon(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine function beside everything else."""
        ...

    async def dial(self, pair: Pair, give_up: anyio.CancelScope) -> None:
        """Connect what `pair.broker_end` gives, and carry its bytes if that takes a task. OSError until it is open."""
        ...

    async def token(self, entity: str) -> EntityToken:
        """A token of the gateway's own. Raises TransientError or TimeoutError."""
        ...

    def let_in(self, pair: Pair) -> None:
        """The worker has proved its key."""
        ...

    def refused(self, why: str, detail: str, peer: str) -> None:
        """Something that the worker wanted was refused."""
        ...

    def upstream_failed(self, detail: str) -> None:
        """The broker was not reached, or was lost."""
        ...

    def over(self, pair: Pair) -> None:
        """Nothing is left of the pair."""
        ...
