"""The two transfer windows of a session (AMQP 1.0 part 2.5.6). Every transfer frame counts, not every delivery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from renewer.amqp.serial import FURTHEST, serial_add, serial_distance
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from renewer.amqp.performatives import Begin, Flow


class Windows:
    """How many frames either side may send, and the transfer-ids of the next ones."""

    def __init__(self, incoming_window: int, outgoing_window: int, next_outgoing_id: int) -> None:
        self.incoming_window = incoming_window
        self.outgoing_window = outgoing_window
        self.next_outgoing_id = next_outgoing_id
        self.next_incoming_id: int | None = None
        """None until the peer's begin told it."""
        self._initial_outgoing_id = next_outgoing_id
        self._incoming_left = incoming_window
        self._remote_left = 0

    @property
    def may_send(self) -> bool:
        """Whether the peer takes another frame."""
        return self._remote_left > 0

    @property
    def needs_flow(self) -> bool:
        """Whether half of what we allowed is used up, so that the peer should be told of more."""
        return self._incoming_left <= self.incoming_window // 2

    def sent(self) -> None:
        """A transfer frame was sent."""
        self._remote_left -= 1
        self.next_outgoing_id = serial_add(self.next_outgoing_id, 1)

    def received(self) -> None:
        """A transfer frame arrived. AmqpProtocolError if the peer was not allowed to send it."""
        if self._incoming_left <= 0:
            raise AmqpProtocolError("a transfer over the window", condition="amqp:session:window-violation")
        self._incoming_left -= 1
        self.next_incoming_id = serial_add(self.next_incoming_id or 0, 1)

    def reopen(self) -> None:
        """A flow is about to tell the peer our whole window."""
        self._incoming_left = self.incoming_window

    def on_begin(self, begin: Begin) -> None:
        """Where the peer starts."""
        self.next_incoming_id = begin.next_outgoing_id
        self._remote_left = begin.incoming_window

    def on_flow(self, flow: Flow) -> None:
        """What the peer has seen of our frames, and what it takes from there."""
        seen = self._initial_outgoing_id if flow.next_incoming_id is None else flow.next_incoming_id
        end = serial_add(seen, min(flow.incoming_window, FURTHEST))
        self._remote_left = max(0, serial_distance(self.next_outgoing_id, end))
