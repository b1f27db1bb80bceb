"""Renewals of message locks that no task waits for: see `BeginsRenewals`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from renewer.errors import LeaseLostError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.core.model import Grant
    from renewer.errors import MessageSettledError
    from renewer.ports import PendingRenewal
    from renewer.targets.servicebus.lockbatches import Renewed, Wish

K = TypeVar("K", contravariant=True)


class LockKeeper(Protocol[K]):
    """Keeps locks, each known by what it has of it."""

    def granted(self, kept: K, renewed: Renewed) -> Grant:
        """Take in that the lock was renewed."""
        ...

    async def lost(self, kept: K, error: LeaseLostError) -> RemoteError | MessageSettledError:
        """Keep the lock no longer, as it cannot be renewed. What is to be raised for that."""
        ...


class LockRenewal(Generic[K]):
    """One renewal of one lock, on its way. Its `wish` is set by whoever asks, with `on_answer` to be told."""

    __slots__ = ("_answered", "_error", "_keeper", "_kept", "grant", "wish")

    def __init__(self, keeper: LockKeeper[K], kept: K, answered: Callable[[PendingRenewal], None]) -> None:
        self.grant: Grant | None = None
        self.wish: Wish | None = None
        self._keeper = keeper
        self._kept = kept
        self._answered = answered
        self._error: RemoteError | None = None

    def on_answer(self, answer: Renewed | RemoteError) -> None:
        """See `Done`."""
        if isinstance(answer, RemoteError):
            self._error = answer
        else:
            self.grant = self._keeper.granted(self._kept, answer)
        self._answered(self)

    async def finish(self) -> Grant:
        """See `PendingRenewal`."""
        assert self._error is not None  # noqa: S101 - it was answered, and without a grant
        if isinstance(self._error, LeaseLostError):
            raise await self._keeper.lost(self._kept, self._error) from None
        raise self._error

    def cancel(self) -> None:
        """Wait no longer."""
        if self.wish is not None:
            self.wish.cancel()
