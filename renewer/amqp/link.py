"""Links: what both ends of one have in common, from attach to detach (AMQP 1.0 part 2.6).

Calls on a link that has gone do nothing: its `LinkDetached` was reported or is about to be. Only what cannot be meant
(a value without AMQP form, a message too large) raises AmqpProtocolError.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Final

from renewer.amqp.events import LinkAttached, LinkDetached, LinkRefused
from renewer.amqp.performatives import AmqpError, Attach, Detach, Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from renewer.amqp.delivery import Delivery
    from renewer.amqp.performatives import Properties, Source, Target
    from renewer.amqp.session import Session
    from renewer.amqp.types import Described

DEFAULT_MAX_MESSAGE_SIZE: Final = 1024 * 1024
"""What a receiver takes unless told otherwise, in bytes."""


class LinkState(Enum):
    """Where a link is between attach and detach."""

    ATTACHING = "attaching"
    """We asked, the peer has not answered."""
    REQUESTED = "requested"
    """The peer asked, we have not answered."""
    ATTACHED = "attached"
    DETACHING = "detaching"
    """We detached, the peer has not answered."""
    DETACHED = "detached"


class Link:
    """One end of a link. `local` is our attach, `remote` the peer's, None until it came."""

    __slots__ = ("_is_told", "_refused_by_peer", "local", "remote", "session", "state", "unsettled")

    role: ClassVar[bool]

    def __init__(self, session: Session, local: Attach, remote: Attach | None) -> None:
        self.session = session
        self.local = local
        self.remote = remote
        self.state = LinkState.ATTACHING if remote is None else LinkState.REQUESTED
        self.unsettled: dict[int, Delivery] = {}
        """Deliveries of this link, by delivery-id, that neither side has settled."""
        self._refused_by_peer = False
        self._is_told = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.state.value}>"

    @property
    def name(self) -> str:
        """What both sides call the link; unique for each direction on a connection."""
        return self.local.name

    @property
    def handle(self) -> int:
        """Our number for the link in its session."""
        return self.local.handle

    @property
    def is_attached(self) -> bool:
        """Both sides have attached and neither has detached."""
        return self.state is LinkState.ATTACHED

    def detach(self, error: AmqpError | None = None, *, closed: bool = True) -> None:
        """Give the link up, for good if `closed`. The peer's answer is reported as `LinkDetached(by_us=True)`."""
        if self.state in (LinkState.ATTACHING, LinkState.ATTACHED):
            self.session.send(Detach(self.handle, closed, error))
            self.state = LinkState.DETACHING
            self.let_go()

    def forget_terms(self) -> None:
        """Drop what both attaches said of sources, targets and properties; of a link that stands it is half the weight.

        For whoever has many links, and has read that.
        """
        if self.state is LinkState.ATTACHED and self.remote is not None:
            self.remote.name = self.local.name
            for attach in (self.local, self.remote):
                attach.source = attach.target = attach.properties = attach.unsettled = None
                attach.offered_capabilities = attach.desired_capabilities = None

    def refuse(self, error: AmqpError) -> None:
        """Answer a request with no: an attach without source and target, then a detach with the error (part 2.6.3).

        Nothing more is reported about the link.
        """
        if self.state is not LinkState.REQUESTED:
            return
        self._is_told = True
        self._send_refusal(error)
        self.state = LinkState.DETACHING

    # For the session ------------------------------------------------------------------------------------------------

    def on_attach(self, remote: Attach) -> None:
        """The peer answered our attach."""
        self.remote = remote
        if self.state is not LinkState.ATTACHING:
            return
        if (remote.source if self.role is Role.RECEIVER else remote.target) is None:
            self._refused_by_peer = True
            return  # The detach that must follow says why (part 2.6.3).
        self.state = LinkState.ATTACHED
        self.session.report(LinkAttached(self, remote))
        self._attached()

    def on_detach(self, detach: Detach) -> None:
        """The peer detached: answer, unless this is the answer, and report it."""
        by_us = self.state is LinkState.DETACHING
        if self.state is LinkState.REQUESTED:
            self._send_refusal(None)
        elif not by_us:
            self.session.send(Detach(self.handle, detach.closed))
        self.go_down(detach.error, closed=detach.closed, by_us=by_us)

    def go_down(self, error: AmqpError | None, *, closed: bool = False, by_us: bool = False) -> None:
        """The link is gone, by a detach or with its session; report it if that was not done."""
        self.state = LinkState.DETACHED
        self.let_go()
        if self._is_told:
            return
        self._is_told = True
        event = LinkRefused if self._refused_by_peer else LinkDetached
        self.session.report(event(self, error, closed, by_us))

    def report_own_detach(self, error: AmqpError) -> None:
        """Report a detach that we sent for a fault of the peer's, before it answers."""
        self._is_told = True
        self.session.report(LinkDetached(self, error, True, True))

    def let_go(self) -> None:
        """Forget deliveries: nothing more will be heard of them."""
        unsettled = self.session.unsettled(self.role)
        for delivery_id in list(self.unsettled):
            unsettled.forget(delivery_id)

    # For the two kinds of link --------------------------------------------------------------------------------------

    def _accept(
        self,
        *,
        source: Source | None,
        target: Target | Described | None,
        properties: Properties,
        max_message_size: int | None,
        offered_capabilities: Sequence[str] | None,
        initial_delivery_count: int | None,
    ) -> bool:
        """Answer a request with our attach; source and target are the peer's unless given. False if it is too late."""
        remote = self.remote
        if self.state is not LinkState.REQUESTED or remote is None:
            return False
        local = replace(
            self.local,
            snd_settle_mode=remote.snd_settle_mode,
            rcv_settle_mode=remote.rcv_settle_mode,
            source=remote.source if source is None else source,
            target=remote.target if target is None else target,
            properties=properties,
            max_message_size=max_message_size,
            offered_capabilities=offered_capabilities,
            initial_delivery_count=initial_delivery_count,
        )
        self.session.send(local)
        self.local = local
        self.state = LinkState.ATTACHED
        return True

    def _attached(self) -> None:
        """Both sides have attached."""

    def _send_refusal(self, error: AmqpError | None) -> None:
        count = None if self.role is Role.RECEIVER else 0
        self.session.send(replace(self.local, source=None, target=None, initial_delivery_count=count))
        self.session.send(Detach(self.handle, True, error))
