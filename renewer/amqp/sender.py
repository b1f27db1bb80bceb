"""The sending end of a link: credit, the queue of deliveries that wait for it, and their way into frames."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, ClassVar, Final

from renewer.amqp.delivery import Delivery
from renewer.amqp.events import CreditChanged
from renewer.amqp.link import Link, LinkState
from renewer.amqp.performatives import Disposition, Role, Transfer, encode_performative
from renewer.amqp.serial import FURTHEST, serial_add, serial_distance
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from renewer.amqp.performatives import Attach, DeliveryState, Flow, Properties, Source, Target
    from renewer.amqp.session import Session
    from renewer.amqp.types import Described

MAX_DELIVERY_TAG_SIZE: Final = 32


class SenderLink(Link):
    """Sends deliveries, each as soon as the receiver gave credit for it and the session's window is open."""

    role: ClassVar[bool] = Role.SENDER

    def __init__(self, session: Session, local: Attach, remote: Attach | None) -> None:
        super().__init__(session, local, remote)
        self.credit = 0
        """How many deliveries may be started now."""
        self.delivery_count = local.initial_delivery_count or 0
        self._queue: deque[Delivery] = deque()
        self._offset = 0  # How much of the queue's head is sent.
        self._is_started = False  # Whether a frame of the queue's head is sent.
        self._must_drain = False
        self._tags = 0

    @property
    def queued(self) -> int:
        """Deliveries that wait for credit or window, whole or in part."""
        return len(self._queue)

    @property
    def max_message_size(self) -> int | None:
        """The largest payload that the receiver takes, in bytes; None if it did not say."""
        return (self.remote.max_message_size or None) if self.remote is not None else None

    def accept(
        self,
        *,
        source: Source | None = None,
        target: Target | Described | None = None,
        properties: Properties = None,
        max_message_size: int | None = None,
        offered_capabilities: Sequence[str] | None = None,
        initial_delivery_count: int = 0,
    ) -> None:
        """Answer the peer's request with yes. Its source and target are echoed unless others are given."""
        if self._accept(
            source=source,
            target=target,
            properties=properties,
            max_message_size=max_message_size,
            offered_capabilities=offered_capabilities,
            initial_delivery_count=initial_delivery_count,
        ):
            self.delivery_count = initial_delivery_count
            self.session.wait_to_send(self)

    def send(
        self,
        payload: bytes,
        *,
        delivery_tag: bytes | None = None,
        settled: bool = False,
        message_format: int = 0,
        state: DeliveryState | None = None,
    ) -> Delivery:
        """Queue one encoded message and send what credit and window allow. Its outcome comes as `DeliveryUpdated`.

        AmqpProtocolError if it is larger than the receiver takes, the tag is longer than 32 bytes, or a value has no
        AMQP form.
        """
        limit = self.max_message_size
        if limit is not None and len(payload) > limit:
            raise AmqpProtocolError(
                f"a message of {len(payload)} bytes where the peer takes {limit}",
                condition="amqp:link:message-size-exceeded",
            )
        if delivery_tag is None:
            self._tags += 1
            delivery_tag = self._tags.to_bytes(8, "big")
        elif len(delivery_tag) > MAX_DELIVERY_TAG_SIZE:
            raise AmqpProtocolError("a delivery-tag of more than 32 bytes", condition="amqp:invalid-field")
        if message_format or state is not None:  # The frame is made when it can be sent; a fault must show now.
            encode_performative(Transfer(0, message_format=message_format, state=state))
        delivery = Delivery(self, delivery_tag, message_format, settled, payload, state)
        if self.state in (LinkState.ATTACHING, LinkState.REQUESTED, LinkState.ATTACHED):
            self._queue.append(delivery)
            if len(self._queue) == 1:
                if self._is_free_to_send and self.session.has_room_for_one:
                    self._send_head()
                if self._queue:
                    self.session.wait_to_send(self)
        return delivery

    def settle(self, delivery: Delivery, state: DeliveryState | None = None) -> None:
        """Forget a delivery whose outcome the receiver gave without settling, and tell it so (part 2.6.12)."""
        if delivery.delivery_id is None or delivery.delivery_id not in self.unsettled:
            return
        self.session.unsettled(self.role).forget(delivery.delivery_id)
        delivery.settled, delivery.state = True, state
        self.session.send(Disposition(Role.SENDER, delivery.delivery_id, None, True, state))

    # For the session ------------------------------------------------------------------------------------------------

    def on_flow(self, flow: Flow) -> None:
        """Take the receiver's credit (part 2.6.7): it is counted from the delivery-count that the receiver knows of."""
        if flow.link_credit is not None:
            known = self.delivery_count if flow.delivery_count is None else flow.delivery_count
            limit = serial_add(known, min(flow.link_credit, FURTHEST))
            self.credit = max(0, serial_distance(self.delivery_count, limit))
            self._must_drain = flow.drain
        if self.state is not LinkState.ATTACHED:
            return
        self.session.report(CreditChanged(self))
        self.session.wait_to_send(self)
        if self._must_drain:
            self.session.at_rest(self._drain)  # Which is also the echo.
        elif flow.echo:
            self.send_flow()

    def send_one(self) -> bool:
        """Send (the rest of) the first delivery, as far as the window allows; False if there is nothing to send now."""
        if self.state is not LinkState.ATTACHED:
            return False
        if self._queue and (self._is_started or self.credit > 0):
            self._send_head()
            return True
        if self._must_drain:
            self.session.at_rest(self._drain)
        return False

    def let_go(self) -> None:
        """Forget deliveries, queued ones too."""
        super().let_go()
        self._queue.clear()
        self.credit = 0

    def send_flow(self) -> None:
        """Tell the receiver our delivery-count and what credit is left."""
        self.session.send_flow(
            handle=self.handle,
            delivery_count=self.delivery_count,
            link_credit=self.credit,
            available=len(self._queue),
            drain=self._must_drain,
        )

    @property
    def _is_free_to_send(self) -> bool:
        return self.credit > 0 and not self._must_drain and self.state is LinkState.ATTACHED

    def _send_head(self) -> None:
        delivery = self._queue[0]
        if not self._is_started:
            self._is_started, self._offset = True, 0
            self.credit -= 1
            self.delivery_count = serial_add(self.delivery_count, 1)
            delivery.delivery_id = self.session.next_delivery_id()
            if not delivery.settled:
                self.session.unsettled(self.role).add(delivery.delivery_id, delivery)
            if self.session.send_whole(self.handle, delivery):
                self._head_sent(delivery)
                return
            frame = Transfer(
                self.handle,
                delivery.delivery_id,
                delivery.delivery_tag,
                delivery.message_format,
                delivery.settled,
                state=delivery.state,
            )
        else:
            frame = Transfer(self.handle)
        while self.session.may_transfer:
            self._offset = self.session.send_transfer(frame, delivery.payload, self._offset)
            if self._offset >= len(delivery.payload):
                self._head_sent(delivery)
                return
            frame = Transfer(self.handle)

    def _head_sent(self, delivery: Delivery) -> None:
        self._queue.popleft()
        self._is_started = False
        delivery.payload = b""

    def _drain(self) -> None:
        """Give back what credit is left (part 2.6.7): the receiver sees it used up by the delivery-count.

        Not before the application could use it: it may have messages for this very credit.
        """
        can_use_more = self._is_started or (self._queue and self.credit > 0)
        if can_use_more or not self._must_drain or self.state is not LinkState.ATTACHED:
            return
        self.delivery_count = serial_add(self.delivery_count, self.credit)
        self.credit = 0
        self.send_flow()
        self._must_drain = False
