"""The lock of one session that is held: which link holds it, what it is known to be, and how it is renewed."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from renewer.errors import RemoteError, TransientError
from renewer.targets.servicebus.managementops import renew_session_lock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from renewer.core.events import LinkLost
    from renewer.core.model import Grant, LeaseId
    from renewer.ports import WantedRenewal
    from renewer.targets.servicebus.envelope import Reply, Template
    from renewer.targets.servicebus.heldsession import HeldSession
    from renewer.targets.servicebus.lockclock import LockClock
    from renewer.targets.servicebus.management import Management
    from renewer.targets.servicebus.request import Request
    from renewer.targets.servicebus.sessionlink import SessionLink


class HeldLock:
    """What is known of a session that is held."""

    __slots__ = ("_renewal", "anchored_at", "asked", "epoch", "is_told", "lease_id", "link", "lock", "loss", "session")

    def __init__(self, lease_id: LeaseId, epoch: int, link: SessionLink, session: HeldSession, lock: LockClock) -> None:
        self.lease_id = lease_id
        self.epoch = epoch
        self.link = link
        self.session = session
        self.lock = lock
        self.anchored_at = 0.0
        self.loss: LinkLost | None = None
        self.is_told = False
        self.asked: Request | None = None
        """The latest renewal that was asked for, while it has no answer and is waited for."""
        self._renewal: Template | None = None

    @property
    def management(self) -> Management:
        """Where renewals are asked for."""
        return self.link.carrier.management(self.link.entity)

    def renewal(self) -> Template:
        """What is asked each time."""
        if self._renewal is None:
            link = self.link
            self._renewal = renew_session_lock(
                link.entity, link_name=link.name, session_id=link.session_id or "", lock_s=self.lock.duration_s
            )
        return self._renewal


class Judge(Protocol):
    """Says what replies mean for a lock that is held."""

    def granted(self, held: HeldLock, reply: Reply) -> Grant:
        """What a successful reply grants. TransientError if it does not say."""
        ...

    async def renewed(self, held: HeldLock, reply: Awaitable[Reply]) -> Grant:
        """What a renewal comes to once this reply to it is there."""
        ...


class SessionRenewal:
    """A renewal that no task waits for (`PendingRenewal`). `note` is told of errors."""

    __slots__ = ("_answered", "_held", "_judge", "_note", "_request", "_wanted", "grant")

    def __init__(
        self,
        judge: Judge,
        held: HeldLock,
        wanted: WantedRenewal,
        answered: Callable[[Sequence[Any]], None],
        note: Callable[[RemoteError], None],
    ) -> None:
        self.grant: Grant | None = None
        self._judge = judge
        self._held = held
        self._wanted = wanted
        self._answered = answered
        self._note = note
        self._request: Request | None = None

    def ask(self) -> None:
        """Ask, unless that cannot be done now."""
        # It may be answered at once: by a pair of links that fails.
        self._wanted.renewal = self
        held = self._held
        try:
            request = held.management.ask(held.renewal(), self._on_answer, before=held.asked)
        except TransientError:
            self._wanted.renewal = None
        except BaseException:
            self._wanted.renewal = None
            raise
        self._request = request
        if request.is_unanswered:
            held.asked = request

    async def finish(self) -> Grant:
        """See `PendingRenewal`."""
        try:
            return await self._judge.renewed(self._held, self._reply())
        except RemoteError as error:
            self._note(error)
            raise

    def cancel(self) -> None:
        """See `PendingRenewal`."""
        if self._request is not None:
            self._over(self._request)
            self._request.cancel()

    def _over(self, request: Request) -> None:
        if self._held.asked is request:
            self._held.asked = None

    def _on_answer(self, request: Request) -> None:
        self._request = request
        self._over(request)
        reply = request.reply
        if reply is not None and reply.is_success:
            with suppress(TransientError):  # A reply that does not say until when: `finish` raises it again.
                self.grant = self._judge.granted(self._held, reply)
        self._answered([self._wanted])

    async def _reply(self) -> Reply:
        assert self._request is not None  # noqa: S101 - it is answered
        return await self._held.management.accepted(self._request.result(), self._held.renewal())
