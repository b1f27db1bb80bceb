"""Renewals of message locks that no task waits for: see `BeginsRenewals`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import structlog

from renewer.errors import LeaseLostError, RemoteError, TransientError
from renewer.targets.servicebus.lockbatches import Renewed, Wish

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from renewer.core.model import Grant
    from renewer.errors import MessageSettledError
    from renewer.ports import WantedRenewal

K = TypeVar("K")
_Kept_contra = TypeVar("_Kept_contra", contravariant=True)

log = structlog.get_logger("renewer.servicebus")


class LockKeeper(Protocol[_Kept_contra]):
    """Keeps locks, each known by what it has of it."""

    def granted(self, kept: _Kept_contra, renewed: Renewed) -> Grant:
        """Take in that the lock was renewed."""
        ...

    async def lost(self, kept: _Kept_contra, error: LeaseLostError) -> RemoteError | MessageSettledError:
        """Keep the lock no longer, as it cannot be renewed. What is to be raised for that."""
        ...


class LockRenewals(Generic[K]):
    """Renewals that are begun together. `answered` is told of those that are answered together."""

    __slots__ = ("_answered", "keeper", "told")

    def __init__(self, keeper: LockKeeper[K], answered: Callable[[Sequence[Any]], None]) -> None:
        self.keeper = keeper
        self._answered = answered
        self.told = self._on_answers

    def _on_answers(self, renewals: Sequence[LockRenewal[K]]) -> None:
        for renewal in renewals:
            if isinstance(renewal.answer, Renewed):
                try:
                    renewal.grant = self.keeper.granted(renewal.kept, renewal.answer)
                except Exception as error:
                    # A bug of ours must cost one renewal, and not those beside it.
                    log.exception("renewal raised an unexpected error")
                    renewal.answer = TransientError(f"unexpected {type(error).__name__}", kind="garbage")
        self._answered([renewal.wanted for renewal in renewals])


class LockRenewal(Wish, Generic[K]):
    """One renewal of one lock, on its way: a `PendingRenewal`, and a wish for `LockBatches`."""

    __slots__ = ("_together", "grant", "kept", "wanted")

    def __init__(
        self, together: LockRenewals[K], wanted: WantedRenewal, kept: K, token: UUID, lock_s: float, deadline: float
    ) -> None:
        Wish.__init__(self, token, lock_s, deadline, together.told)
        self.grant: Grant | None = None
        self.wanted = wanted
        self.kept = kept
        self._together = together

    async def finish(self) -> Grant:
        """See `PendingRenewal`."""
        error = self.answer
        assert isinstance(error, RemoteError)  # noqa: S101 - it was answered, and without a grant
        if isinstance(error, LeaseLostError):
            raise await self._together.keeper.lost(self.kept, error) from None
        raise error
