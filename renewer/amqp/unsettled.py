"""Deliveries of one direction of a session, by delivery-id, until either side settles them (AMQP 1.0 part 2.6.12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from renewer.amqp.serial import serial_add, serial_distance
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from renewer.amqp.delivery import Delivery
    from renewer.amqp.performatives import Disposition


class Unsettled:
    """What a disposition can be about."""

    def __init__(self) -> None:
        self._deliveries: dict[int, Delivery] = {}

    def add(self, delivery_id: int, delivery: Delivery) -> None:
        """Remember a delivery, here and with its link. AmqpProtocolError if the id is in use."""
        if delivery_id in self._deliveries:
            raise AmqpProtocolError("a delivery-id that is in use", condition="amqp:not-allowed")
        self._deliveries[delivery_id] = delivery
        delivery.link.unsettled[delivery_id] = delivery

    def forget(self, delivery_id: int) -> None:
        """Drop a delivery, here and with its link."""
        delivery = self._deliveries.pop(delivery_id, None)
        if delivery is not None:
            delivery.link.unsettled.pop(delivery_id, None)

    def meant_by(self, disposition: Disposition) -> list[tuple[int, Delivery]]:
        """The deliveries in the range of a disposition: the range may be anything, our deliveries are few."""
        first, last = disposition.first, disposition.last
        length = serial_distance(first, first if last is None else last) + 1
        if length <= len(self._deliveries):
            ids = [i for i in (serial_add(first, step) for step in range(length)) if i in self._deliveries]
        else:
            ids = [i for i in self._deliveries if 0 <= serial_distance(first, i) < length]
        return [(delivery_id, self._deliveries[delivery_id]) for delivery_id in ids]
