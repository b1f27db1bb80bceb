"""What each side is told of the other when the connections open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from renewer.amqp import Open, decode_performative
from renewer.amqp.frames import MIN_MAX_FRAME_SIZE
from renewer.amqp.spans import performative_fields, splice
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from renewer.targets.servicebus import NamespaceOptions

_HIGHEST = 0xFFFF


def read_open(body: bytes) -> Open:
    """The open of either side. AmqpProtocolError if it is none, or one that cannot be kept to."""
    opened, _ = decode_performative(body)
    if not isinstance(opened, Open):
        raise AmqpProtocolError("not an open", condition="amqp:connection:framing-error")
    if opened.max_frame_size < MIN_MAX_FRAME_SIZE:
        raise AmqpProtocolError("a max-frame-size below 512", condition="amqp:invalid-field")
    return opened


def open_for_broker(body: bytes, opened: Open, namespace: NamespaceOptions, *, frame_size: int) -> bytes:
    """The worker's open, as the namespace gets it."""
    hostname = namespace.hostname.encode()
    return splice(
        body,
        performative_fields(body),
        {
            1: b"\xa1" + bytes((len(hostname),)) + hostname,
            2: _uint(frame_size),
            # The worker's highest channel and one more, so that the broker can number its ends of all of them.
            3: _ushort(min(_HIGHEST, opened.channel_max + 1)),
            # Told less than is meant, lest a late frame costs a connection that nothing is wrong with.
            4: _uint(round(500 * namespace.idle_timeout_s)),
        },
    )


def spare_channel(worker: Open, broker: Open) -> int | None:
    """The last channel that both allow, which is the gateway's own; None where there is but one."""
    return min(worker.channel_max + 1, broker.channel_max, _HIGHEST) or None


def open_for_worker(body: bytes, *, frame_size: int, channel_max: int) -> bytes:
    """The broker's open, as the worker gets it: nothing is asked of it that it cannot do while it is blocked."""
    return splice(body, performative_fields(body), {2: _uint(frame_size), 3: _ushort(channel_max), 4: b"\x40"})


def _uint(value: int) -> bytes:
    return b"\x70" + value.to_bytes(4, "big")


def _ushort(value: int) -> bytes:
    return b"\x60" + value.to_bytes(2, "big")
