"""Sessions: windows, ids, and the links that share them (AMQP 1.0 part 2.5)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from renewer.amqp.events import AttachRequested, DeliveryUpdated, SessionEnded, SessionOpened
from renewer.amqp.frames import encode_frame
from renewer.amqp.link import DEFAULT_MAX_MESSAGE_SIZE, LinkState
from renewer.amqp.linktable import LinkTable
from renewer.amqp.performatives import (
    AmqpError,
    Attach,
    Begin,
    Detach,
    Disposition,
    End,
    Flow,
    Role,
    Transfer,
    encode_performative,
)
from renewer.amqp.receiver import ReceiverLink
from renewer.amqp.sender import SenderLink
from renewer.amqp.serial import serial_add
from renewer.amqp.unsettled import Unsettled
from renewer.amqp.wholetransfer import encode_whole_transfer
from renewer.amqp.windows import Windows
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from renewer.amqp.delivery import Delivery
    from renewer.amqp.events import Event
    from renewer.amqp.outlet import Outlet
    from renewer.amqp.performatives import Performative, Properties, Source, Target
    from renewer.amqp.types import Described

DEFAULT_WINDOW: Final = 2048
"""Transfer frames in flight, either way."""
DEFAULT_HANDLE_MAX: Final = 255


class SessionState(Enum):
    """Where a session is between begin and end."""

    BEGINNING = "beginning"
    """We began, the peer has not answered."""
    MAPPED = "mapped"
    ENDING = "ending"
    """We ended, the peer has not answered."""
    ENDED = "ended"


class Session:
    """One AMQP session. Made by `Connection.open_session` or by the peer's begin."""

    def __init__(
        self,
        outlet: Outlet,
        channel: int,
        *,
        takes_requests: bool,
        incoming_window: int = DEFAULT_WINDOW,
        outgoing_window: int = DEFAULT_WINDOW,
        handle_max: int = DEFAULT_HANDLE_MAX,
        next_outgoing_id: int = 0,
    ) -> None:
        self.channel = channel
        """Our number for the session on its connection."""
        self.remote_channel: int | None = None
        self.remote: Begin | None = None
        self.state = SessionState.BEGINNING
        self.handle_max = handle_max
        self._outlet = outlet
        self._takes_requests = takes_requests
        self._is_told = False
        self._windows = Windows(incoming_window, outgoing_window, next_outgoing_id)
        self._next_delivery_id = next_outgoing_id
        self._unsettled_out = Unsettled()
        self._unsettled_in = Unsettled()
        self._waiting: dict[SenderLink, None] = {}  # Links with something to send, next one first.
        self._links = LinkTable()

    def __repr__(self) -> str:
        return f"<Session {self.channel} {self.state.value}, {len(self._links)} links>"

    @property
    def links(self) -> list[SenderLink | ReceiverLink]:
        """The links that hold a handle: attached, or on their way to or from it."""
        return self._links.all()

    @property
    def remote_handle_max(self) -> int | None:
        """The highest handle that the peer takes, None until it answered."""
        return None if self.remote is None else self.remote.handle_max

    @property
    def handles_left(self) -> int:
        """How many more links can be attached."""
        limit = self.handle_max if self.remote is None else min(self.handle_max, self.remote.handle_max)
        return limit + 1 - len(self._links)

    def attach_receiver(
        self,
        name: str,
        *,
        source: Source | None,
        target: Target | Described | None,
        snd_settle_mode: int = 2,
        rcv_settle_mode: int = 0,
        credit: int = 0,
        auto_credit: int | None = None,
        properties: Properties = None,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        desired_capabilities: Sequence[str] | None = None,
    ) -> ReceiverLink:
        """Ask for a link that receives. Credit is given as soon as it is attached.

        AmqpProtocolError if the session is not open, all handles are taken or the name is in use.
        """
        attach = Attach(
            name,
            self._next_handle(name, Role.RECEIVER),
            Role.RECEIVER,
            snd_settle_mode,
            rcv_settle_mode,
            source,
            target,
            max_message_size=max_message_size,
            desired_capabilities=desired_capabilities,
            properties=properties,
        )
        self._outlet.send_or_raise(self.channel, attach)
        link = ReceiverLink(self, attach, None, credit=credit, auto_credit=auto_credit)
        self._links.add(link)
        return link

    def attach_sender(
        self,
        name: str,
        *,
        source: Source | None,
        target: Target | Described | None,
        snd_settle_mode: int = 2,
        rcv_settle_mode: int = 0,
        properties: Properties = None,
        max_message_size: int | None = None,
        desired_capabilities: Sequence[str] | None = None,
        initial_delivery_count: int = 0,
    ) -> SenderLink:
        """Ask for a link that sends. AmqpProtocolError as `attach_receiver`."""
        attach = Attach(
            name,
            self._next_handle(name, Role.SENDER),
            Role.SENDER,
            snd_settle_mode,
            rcv_settle_mode,
            source,
            target,
            initial_delivery_count=initial_delivery_count,
            max_message_size=max_message_size,
            desired_capabilities=desired_capabilities,
            properties=properties,
        )
        self._outlet.send_or_raise(self.channel, attach)
        link = SenderLink(self, attach, None)
        self._links.add(link)
        return link

    def end(self, error: AmqpError | None = None) -> None:
        """End the session and with it its links; they and it are reported when the peer answered."""
        if self.state in (SessionState.BEGINNING, SessionState.MAPPED):
            self._outlet.send(self.channel, End(error))
            self.state = SessionState.ENDING

    # For the connection ---------------------------------------------------------------------------------------------

    def begin(self, remote_channel: int | None) -> None:
        """Send our begin, the first of the two or the answer."""
        windows = self._windows
        self._outlet.send(
            self.channel,
            Begin(
                remote_channel,
                windows.next_outgoing_id,
                windows.incoming_window,
                windows.outgoing_window,
                self.handle_max,
            ),
        )

    def on_begin(self, remote_channel: int, begin: Begin) -> None:
        """The peer's begin, the first of the two or the answer."""
        self.remote_channel = remote_channel
        self.remote = begin
        self._windows.on_begin(begin)
        if self.state is SessionState.BEGINNING:
            self.state = SessionState.MAPPED
            self.report(SessionOpened(self))

    def on_end(self, end: End) -> None:
        """The peer's end: answer it, unless it is the answer."""
        if self.state is SessionState.MAPPED:
            self._outlet.send(self.channel, End())
        self.go_down(end.error)

    def go_down(self, error: AmqpError | None) -> None:
        """The session is over; report what was not reported."""
        by_us = self.state is SessionState.ENDING
        self.state = SessionState.ENDED
        for link in self.links:
            link.go_down(error, by_us=by_us or link.state is LinkState.DETACHING)
        self._links.clear()
        self._waiting.clear()
        if not self._is_told:
            self._is_told = True
            self.report(SessionEnded(self, error))

    def handle_frame(self, performative: Performative, payload: bytes) -> None:
        """One frame of this session. AmqpProtocolError if the peer broke the protocol."""
        if self.state is not SessionState.MAPPED:
            return  # We have ended it: what was under way is of no interest (part 2.5.5).
        match performative:
            case Transfer():
                self._on_transfer(performative, payload)
            case Disposition():
                self._on_disposition(performative)
            case Flow():
                self._on_flow(performative)
            case Attach():
                self._on_attach(performative)
            case Detach():
                self._on_detach(performative)
            case _:
                raise AmqpProtocolError(
                    f"{type(performative).__name__} in a session", condition="amqp:connection:framing-error"
                )

    # For the links --------------------------------------------------------------------------------------------------

    @property
    def may_transfer(self) -> bool:
        """Whether the peer's incoming window has room for a frame."""
        return self._windows.may_send and self.state is SessionState.MAPPED

    @property
    def has_room_for_one(self) -> bool:
        """The same, and no link waits for its turn."""
        return not self._waiting and self.may_transfer

    def report(self, event: Event) -> None:
        """Tell the application."""
        self._outlet.events.append(event)

    def send(self, performative: Performative) -> None:
        """Queue a frame, as long as the session stands."""
        if self.state is SessionState.MAPPED:
            self._outlet.send(self.channel, performative)

    def send_or_raise(self, performative: Performative) -> None:
        """The same; AmqpProtocolError and nothing queued if it does not fit into a frame or has no AMQP form."""
        if self.state is SessionState.MAPPED:
            self._outlet.send_or_raise(self.channel, performative)

    def send_flow(
        self,
        *,
        handle: int | None = None,
        delivery_count: int | None = None,
        link_credit: int | None = None,
        available: int | None = None,
        drain: bool = False,
    ) -> None:
        """Queue a flow, for a link or for the session alone. Every flow opens our window again."""
        windows = self._windows
        windows.reopen()
        self.send(
            Flow(
                windows.next_incoming_id,
                windows.incoming_window,
                windows.next_outgoing_id,
                windows.outgoing_window,
                handle,
                delivery_count,
                link_credit,
                available,
                drain,
            )
        )

    def send_whole(self, handle: int, delivery: Delivery) -> bool:
        """Queue a delivery that starts now, if it fits into one frame and is as most are; False if not."""
        delivery_id = delivery.delivery_id
        if delivery_id is None or delivery.message_format or delivery.state is not None:
            return False
        head = encode_whole_transfer(handle, delivery_id, delivery.delivery_tag, settled=delivery.settled)
        if len(head) + len(delivery.payload) > self._outlet.room:
            return False
        if not self._outlet.is_shut:
            self._outlet.output += encode_frame(self.channel, head + delivery.payload)
        self._windows.sent()
        return True

    def send_transfer(self, transfer: Transfer, payload: bytes, offset: int) -> int:
        """Queue a frame of a delivery with as much of the payload from `offset` on as fits; returns how far that is."""
        head = encode_performative(transfer)
        room = self._outlet.room - len(head)
        end = offset + room
        if end < len(payload):
            transfer.more = True
            head = encode_performative(transfer)  # No longer than before: a boolean is one byte.
        if room <= 0 < len(payload):
            self._outlet.fatal = AmqpProtocolError(
                "a transfer does not fit the peer's max-frame-size", condition="amqp:frame-size-too-small"
            )
            return len(payload)
        if not self._outlet.is_shut:
            self._outlet.output += encode_frame(self.channel, head + payload[offset:end])
        self._windows.sent()
        return end

    def wait_to_send(self, link: SenderLink) -> None:
        """Let a link send when it is its turn."""
        self._waiting[link] = None
        self._pump()

    def at_rest(self, action: Callable[[], None]) -> None:
        """Do this once the application has had its say about the events."""
        self._outlet.at_rest[action] = None

    def next_delivery_id(self) -> int:
        """The id for a delivery that is about to start."""
        delivery_id = self._next_delivery_id
        self._next_delivery_id = serial_add(delivery_id, 1)
        return delivery_id

    def unsettled(self, role: bool) -> Unsettled:
        """The unsettled deliveries of the direction in which our end has that role."""
        return self._unsettled_in if role is Role.RECEIVER else self._unsettled_out

    def hold(self, count: int) -> None:
        """Count bytes of unfinished deliveries."""
        self._outlet.hold(count)

    # What the peer sends --------------------------------------------------------------------------------------------

    def _on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        self._windows.received()
        link = self._links.bound(transfer.handle)
        if not isinstance(link, ReceiverLink):
            raise AmqpProtocolError("a transfer towards a sender", condition="amqp:not-allowed")
        link.on_transfer(transfer, payload)
        if self._windows.needs_flow:
            self.send_flow()

    def _on_disposition(self, disposition: Disposition) -> None:
        unsettled = self.unsettled(not disposition.role)
        for delivery_id, delivery in unsettled.meant_by(disposition):
            delivery.state = disposition.state
            if disposition.settled:
                delivery.settled = True
                unsettled.forget(delivery_id)
            self.report(DeliveryUpdated(delivery.link, delivery, disposition.state, disposition.settled))

    def _on_flow(self, flow: Flow) -> None:
        self._windows.on_flow(flow)
        if flow.handle is not None:
            self._links.bound(flow.handle).on_flow(flow)
        elif flow.echo:
            self.send_flow()
        self._pump()

    def _on_attach(self, attach: Attach) -> None:
        if attach.handle > self.handle_max:
            # What Service Bus does too: the session is lost, the connection is not.
            self._abort(AmqpError("amqp:not-allowed", f"the highest handle is {self.handle_max}"))
            return
        link = self._links.named(attach.name, not attach.role)
        if link is not None and link.remote is not None:
            raise AmqpProtocolError("attach to a link that is attached", condition="amqp:not-allowed")
        if link is not None:
            self._links.bind(link, attach.handle)
            link.on_attach(attach)
        elif self.handles_left > 0:
            self._on_request(attach)
        else:
            self._abort(AmqpError("amqp:not-allowed", "no handle left to answer with"))

    def _on_request(self, remote: Attach) -> None:
        role = not remote.role
        local = Attach(
            remote.name, self._next_handle(remote.name, role), role, remote.snd_settle_mode, remote.rcv_settle_mode
        )
        link = SenderLink(self, local, remote) if role is Role.SENDER else ReceiverLink(self, local, remote)
        self._links.bind(link, remote.handle)
        self._links.add(link)
        if self._takes_requests:
            self.report(AttachRequested(link, remote))
        else:
            link.refuse(AmqpError("amqp:not-allowed", "links are attached from this side only"))

    def _on_detach(self, detach: Detach) -> None:
        link = self._links.find(detach.handle)
        if link is None:
            # Some peers answer the detach of a link that they never attached; that must not cost the others theirs.
            return
        link.on_detach(detach)
        self._links.remove(link, detach.handle)
        if isinstance(link, SenderLink):
            self._waiting.pop(link, None)

    def _abort(self, error: AmqpError) -> None:
        """End the session for a fault of the peer's, and report it before the peer answers."""
        self._outlet.send(self.channel, End(error))
        self.go_down(error)
        self.state = SessionState.ENDING

    def _pump(self) -> None:
        """Let links send in turn, one delivery each, while the window is open."""
        while self._waiting and self.may_transfer:
            link = next(iter(self._waiting))
            del self._waiting[link]
            if link.send_one():
                self._waiting[link] = None

    def _next_handle(self, name: str, role: bool) -> int:
        if self.state is not SessionState.MAPPED:
            raise AmqpProtocolError("the session is not open", condition="amqp:illegal-state")
        if self._links.named(name, role) is not None:
            raise AmqpProtocolError("the link name is in use", condition="amqp:not-allowed")
        if self.handles_left <= 0:
            raise AmqpProtocolError("all handles of the session are taken", condition="amqp:resource-limit-exceeded")
        return self._links.next_handle()
