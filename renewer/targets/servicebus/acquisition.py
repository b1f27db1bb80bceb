"""A session that is being asked for while no task waits: see `BeginsAcquisitions`.

A task with its scopes and events cost twice as much as all else about it, and several times its memory. So only what is
more than an attach and its answer is done in one: to connect, to put a token, to find another connection when this one
turns out to be full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from renewer.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.core.model import Grant, LeaseSpec
    from renewer.ports import PendingRenewal
    from renewer.targets.servicebus.sessionlink import SessionLink


class Holder(Protocol):
    """Holds what is accepted."""

    def asked(self, acquisition: SessionAcquisition, link: SessionLink, *, is_used: bool) -> None:
        """It is answered, or not wanted any longer. Unless it is used it is let go."""
        ...

    def hold(self, spec: LeaseSpec, epoch: int, link: SessionLink) -> Grant:
        """Hold it, as this epoch of the lease. TransientError if there is a later one by now."""
        ...

    async def acquire(self, spec: LeaseSpec, epoch: int, begun: SessionLink | None = None) -> Grant:
        """What asking comes to, `begun` having been refused."""
        ...


class SessionAcquisition:
    """One such session (`PendingRenewal`), asked for over `link`. `note` is told of errors."""

    __slots__ = ("_answered", "_epoch", "_error", "_holder", "_note", "_spec", "grant", "link")

    def __init__(
        self,
        holder: Holder,
        spec: LeaseSpec,
        epoch: int,
        answered: Callable[[PendingRenewal], None],
        note: Callable[[RemoteError], None],
    ) -> None:
        self.grant: Grant | None = None
        self.link: SessionLink | None = None
        self._holder = holder
        self._spec = spec
        self._epoch = epoch
        self._answered = answered
        self._note = note
        self._error: RemoteError | None = None

    def on_settled(self) -> None:
        """The broker has answered, or will not."""
        link = self.link
        assert link is not None  # noqa: S101 - it cannot be settled before it was asked for
        self._holder.asked(self, link, is_used=link.refusal is None)
        if link.refusal is None:
            try:
                self.grant = self._holder.hold(self._spec, self._epoch, link)
            except RemoteError as error:
                self._error = error
        self._answered(self)

    async def finish(self) -> Grant:
        """See `PendingRenewal`."""
        try:
            if self._error is not None:
                raise self._error
            return await self._holder.acquire(self._spec, self._epoch, self.link)
        except RemoteError as error:
            self._note(error)
            raise

    def cancel(self) -> None:
        """See `PendingRenewal`."""
        if self.link is not None and self.link.is_awaited:
            self._holder.asked(self, self.link, is_used=False)
