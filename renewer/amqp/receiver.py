"""The receiving end of a link: credit that it gives, frames put together to deliveries, and their settlement."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from renewer.amqp.delivery import Delivery
from renewer.amqp.events import CreditChanged, DeliveryReceived
from renewer.amqp.link import DEFAULT_MAX_MESSAGE_SIZE, Link, LinkState
from renewer.amqp.performatives import AmqpError, Disposition, Role
from renewer.amqp.serial import FURTHEST, serial_add, serial_distance
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from renewer.amqp.performatives import Attach, DeliveryState, Flow, Properties, Source, Target, Transfer
    from renewer.amqp.session import Session
    from renewer.amqp.types import Described


class ReceiverLink(Link):
    """Gives credit and takes deliveries. With `auto_credit` the credit is topped up when it has fallen to half."""

    __slots__ = (
        "_chunks",
        "_first_credit",
        "_granted",
        "_is_draining",
        "_unfinished",
        "auto_credit",
        "credit",
        "delivery_count",
    )

    role: ClassVar[bool] = Role.RECEIVER

    def __init__(
        self,
        session: Session,
        local: Attach,
        remote: Attach | None,
        *,
        credit: int = 0,
        auto_credit: int | None = None,
    ) -> None:
        super().__init__(session, local, remote)
        self.credit = 0
        """How many deliveries the sender may still start."""
        self.delivery_count = 0
        self.auto_credit = auto_credit
        self._first_credit = auto_credit or credit
        self._granted = (
            0  # The furthest delivery-count that we ever allowed: what is in flight when credit is cut is no fault.
        )
        self._is_draining = False
        self._unfinished: Delivery | None = None
        self._chunks: bytearray | bytes = b""
        """What came of it by now. Made when there is one: there are thousands of links that never have any."""

    @property
    def max_message_size(self) -> int:
        """The largest payload that is taken, in bytes; beyond it the link is detached."""
        return self.local.max_message_size or DEFAULT_MAX_MESSAGE_SIZE

    def accept(
        self,
        *,
        source: Source | None = None,
        target: Target | Described | None = None,
        properties: Properties = None,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        offered_capabilities: Sequence[str] | None = None,
        credit: int = 0,
        auto_credit: int | None = None,
    ) -> None:
        """Answer the peer's request with yes and give credit. Source and target are echoed unless given."""
        if self._accept(
            source=source,
            target=target,
            properties=properties,
            max_message_size=max_message_size,
            offered_capabilities=offered_capabilities,
            initial_delivery_count=None,
        ):
            self.auto_credit = auto_credit
            self._first_credit = auto_credit or credit
            self._attached()

    def flow(self, credit: int, *, drain: bool = False) -> None:
        """Let the sender start `credit` deliveries from now; with `drain` at once or not at all."""
        if not 0 <= credit <= FURTHEST:
            raise AmqpProtocolError(f"a credit of {credit}", condition="amqp:invalid-field")
        if self.state is LinkState.ATTACHED:
            self.credit = credit
            self._is_draining = drain
            limit = serial_add(self.delivery_count, credit)
            if serial_distance(self._granted, limit) > 0:
                self._granted = limit
            self._send_flow()
        elif self.state in (LinkState.ATTACHING, LinkState.REQUESTED):
            self._first_credit = credit

    def settle(self, delivery: Delivery, state: DeliveryState | None, *, settled: bool = True) -> None:
        """Tell the sender what became of a delivery; with `settled` forget it, else wait for its `DeliveryUpdated`.

        AmqpProtocolError, and nothing is done, if the state has no AMQP form or is too large for the peer's frames.
        """
        if delivery.delivery_id is None or delivery.delivery_id not in self.unsettled:
            return
        self.session.send_or_raise(Disposition(Role.RECEIVER, delivery.delivery_id, None, settled, state))
        delivery.state = state
        if settled:
            delivery.settled = True
            self.session.unsettled(self.role).forget(delivery.delivery_id)

    def settle_all(self, deliveries: Iterable[Delivery], state: DeliveryState | None) -> None:
        """Settle several deliveries alike, those with ids that follow each other in one frame.

        AmqpProtocolError as `settle`.
        """
        runs: list[list[Delivery]] = []
        next_id: int | None = None
        for delivery in deliveries:
            if delivery.delivery_id is None or delivery.delivery_id not in self.unsettled:
                continue
            if delivery.delivery_id == next_id:
                runs[-1].append(delivery)
            else:
                runs.append([delivery])
            next_id = serial_add(delivery.delivery_id, 1)
        unsettled = self.session.unsettled(self.role)
        for run in runs:
            first, last = run[0].delivery_id, run[-1].delivery_id
            assert first is not None  # noqa: S101 - see above
            self.session.send_or_raise(Disposition(Role.RECEIVER, first, None if len(run) == 1 else last, True, state))
            for delivery in run:
                delivery.settled, delivery.state = True, state
                if delivery.delivery_id is not None:
                    unsettled.forget(delivery.delivery_id)

    # For the session ------------------------------------------------------------------------------------------------

    def on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        """Take one frame of a delivery."""
        if self.state is LinkState.DETACHING:
            return
        delivery = self._unfinished
        if delivery is None:
            delivery = self._start(transfer)
            if not transfer.more and not transfer.aborted:
                if len(payload) > self.max_message_size:
                    self._detach_oversized()
                    return
                delivery.payload = payload
                self._finish(delivery)
                return
            self._unfinished, self._chunks = delivery, bytearray()
        elif transfer.delivery_id is not None and transfer.delivery_id != delivery.delivery_id:
            raise AmqpProtocolError("a delivery inside another one", condition="amqp:not-allowed")
        elif transfer.settled:
            delivery.settled = True
        if transfer.aborted:
            self._drop_unfinished()
            self._top_up()
            return
        if len(self._chunks) + len(payload) > self.max_message_size:
            self._detach_oversized()
            return
        self._chunks += payload
        self.session.hold(len(payload))
        if not transfer.more:
            delivery.payload = bytes(self._chunks)
            self._drop_unfinished()
            self._finish(delivery)

    def on_flow(self, flow: Flow) -> None:
        """The sender's flow tells its delivery-count, which a drain advances without deliveries (part 2.6.7)."""
        if self.state is not LinkState.ATTACHED:
            return
        if flow.delivery_count is not None:
            given_back = serial_distance(self.delivery_count, flow.delivery_count)
            # Of what we ever allowed: credit may have been taken back while the sender gave it back itself.
            if given_back > 0 and serial_distance(flow.delivery_count, self._granted) >= 0:
                self.delivery_count = flow.delivery_count
                self.credit = max(0, self.credit - given_back)
                if not self._is_draining:
                    self.session.report(CreditChanged(self))
        if self._is_draining and self.credit == 0:
            self._is_draining = False
            self.session.report(CreditChanged(self))
        if flow.echo:
            self._send_flow()

    def let_go(self) -> None:
        """Forget deliveries, the unfinished one too."""
        super().let_go()
        self._drop_unfinished()
        self.credit = 0

    def _attached(self) -> None:
        remote = self.remote
        self.delivery_count = self._granted = (remote.initial_delivery_count or 0) if remote is not None else 0
        if self._first_credit:
            self.flow(self._first_credit)

    def _start(self, transfer: Transfer) -> Delivery:
        if transfer.delivery_id is None or transfer.delivery_tag is None:
            raise AmqpProtocolError("a delivery without id or tag", condition="amqp:decode-error")
        if serial_distance(self.delivery_count, self._granted) <= 0:
            raise AmqpProtocolError("a transfer without credit", condition="amqp:link:transfer-limit-exceeded")
        self.delivery_count = serial_add(self.delivery_count, 1)
        self.credit = max(0, self.credit - 1)
        return Delivery(
            self,
            transfer.delivery_tag,
            transfer.message_format or 0,
            bool(transfer.settled),
            b"",
            transfer.state,
            transfer.delivery_id,
        )

    def _finish(self, delivery: Delivery) -> None:
        if not delivery.settled and delivery.delivery_id is not None:
            self.session.unsettled(self.role).add(delivery.delivery_id, delivery)
        self.session.report(DeliveryReceived(self, delivery))
        self._top_up()

    def _top_up(self) -> None:
        if self.auto_credit is not None and not self._is_draining and self.credit <= self.auto_credit // 2:
            self.flow(self.auto_credit)

    def _drop_unfinished(self) -> None:
        self.session.hold(-len(self._chunks))
        self._unfinished = None
        self._chunks = b""

    def _detach_oversized(self) -> None:
        error = AmqpError("amqp:link:message-size-exceeded", f"more than {self.max_message_size} bytes")
        self.detach(error)
        self.report_own_detach(error)

    def _send_flow(self) -> None:
        self.session.send_flow(
            handle=self.handle,
            delivery_count=self.delivery_count if self.remote is not None else None,
            link_credit=self.credit,
            drain=self._is_draining,
        )
