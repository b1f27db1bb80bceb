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
    from renewer.targets.servicebus.connection import BrokerConnection
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


class Answers:
    """Tells whoever wants sessions renewed of their answers: of grants that came together, together."""

    __slots__ = ("_granted", "answered")

    def __init__(self, answered: Callable[[Sequence[Any]], None]) -> None:
        self.answered = answered
        self._granted: list[SessionRenewal] = []

    def add(self, renewal: SessionRenewal, carrier: BrokerConnection) -> None:
        """A renewal was granted by what was read just now."""
        if not self._granted:
            carrier.tell_together(self._tell)
        self._granted.append(renewal)

    def _tell(self) -> None:
        granted, self._granted = self._granted, []
        # What came behind the grant may have been the end of the session.
        wanted = [renewal.wanted for renewal in granted if not renewal.is_cancelled]
        if wanted:
            self.answered(wanted)


class SessionRenewal:
    """A renewal that no task waits for (`PendingRenewal`). `note` is told of errors."""

    __slots__ = ("_answers", "_held", "_judge", "_note", "_request", "grant", "is_cancelled", "wanted")

    def __init__(
        self,
        judge: Judge,
        held: HeldLock,
        wanted: WantedRenewal,
        answers: Answers,
        note: Callable[[RemoteError], None],
    ) -> None:
        self.grant: Grant | None = None
        self.wanted = wanted
        self.is_cancelled = False
        self._judge = judge
        self._held = held
        self._answers = answers
        self._note = note
        self._request: Request | None = None

    def ask(self) -> None:
        """Ask, unless that cannot be done now."""
        # It may be answered at once: by a pair of links that fails.
        self.wanted.renewal = self
        held = self._held
        try:
            request = held.management.ask(held.renewal(), self._on_answer, before=held.asked)
        except TransientError:
            self.wanted.renewal = None
            return
        except BaseException:
            self.wanted.renewal = None
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
        self.is_cancelled = True
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
        if self.grant is None:
            self._answers.answered([self.wanted])
        else:
            self._answers.add(self, self._held.link.carrier)

    async def _reply(self) -> Reply:
        assert self._request is not None  # noqa: S101 - it is answered
        return await self._held.management.accepted(self._request.result(), self._held.renewal())
