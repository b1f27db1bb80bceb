"""A message on its way over a link, in either direction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from renewer.amqp.performatives import DeliveryState
    from renewer.amqp.receiver import ReceiverLink
    from renewer.amqp.sender import SenderLink


@dataclass(slots=True, eq=False)
class Delivery:
    """One delivery (AMQP 1.0 part 2.6.12).

    `payload` is the encoded message; of a delivery that we send it is dropped once it is on its way. `delivery_id` is
    None until the first frame was sent. `settled`: one side has forgotten it, nothing more will be heard of it.
    """

    link: SenderLink | ReceiverLink = field(repr=False)
    delivery_tag: bytes = field(repr=False)  # With Service Bus it is the lock token.
    message_format: int
    settled: bool
    payload: bytes = field(repr=False)
    state: DeliveryState | None = None
    delivery_id: int | None = None
