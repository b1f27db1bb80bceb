"""What a `Connection` reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from renewer.amqp.delivery import Delivery
    from renewer.amqp.link import Link
    from renewer.amqp.performatives import AmqpError, Attach, DeliveryState, Open
    from renewer.amqp.receiver import ReceiverLink
    from renewer.amqp.sender import SenderLink
    from renewer.amqp.session import Session

CloseReason: TypeAlias = Literal["closed", "eof", "protocol-error", "idle", "sasl"]
"""Closed by either side in order; the stream ended; one side broke the protocol; the peer was silent; no way in."""


@dataclass(slots=True)
class ConnectionOpened:
    """Both opens are exchanged: sessions can be opened."""

    remote: Open


@dataclass(slots=True)
class ConnectionClosed:
    """The connection is over: reported exactly once, after every session and link was. Nothing follows."""

    error: AmqpError | None
    reason: CloseReason


@dataclass(slots=True)
class SessionOpened:
    """The peer answered our begin, or (server) we answered its begin: links can be attached."""

    session: Session


@dataclass(slots=True)
class SessionEnded:
    """The session is over, whoever ended it; its links were reported before."""

    session: Session
    error: AmqpError | None


@dataclass(slots=True)
class AttachRequested:
    """(Server) the peer wants a link: answer with `link.accept(...)` or `link.refuse(error)`, now or later."""

    link: SenderLink | ReceiverLink
    remote: Attach


@dataclass(slots=True)
class LinkAttached:
    """The peer attached the link that we asked for."""

    link: Link
    remote: Attach


@dataclass(slots=True)
class LinkDetached:
    """The link is gone: once for every link that was asked for and not refused by us.

    `by_us` is set where the peer answered our own detach; `error` is then the peer's, if it had one too.
    """

    link: Link
    error: AmqpError | None
    closed: bool
    by_us: bool = False


@dataclass(slots=True)
class LinkRefused(LinkDetached):
    """A link that we asked for was refused by the peer: it never was attached. Takes the place of `LinkDetached`."""


@dataclass(slots=True)
class DeliveryReceived:
    """A whole message arrived."""

    link: ReceiverLink
    delivery: Delivery


@dataclass(slots=True)
class DeliveryUpdated:
    """The peer said what became of a delivery, ours or its own. `settled`: it has forgotten the delivery."""

    link: SenderLink | ReceiverLink
    delivery: Delivery
    state: DeliveryState | None
    settled: bool


@dataclass(slots=True)
class CreditChanged:
    """A flow for the link arrived: a sender has new credit (or none), a receiver was drained or got credit back."""

    link: SenderLink | ReceiverLink


Event: TypeAlias = (
    ConnectionOpened
    | ConnectionClosed
    | SessionOpened
    | SessionEnded
    | AttachRequested
    | LinkAttached
    | LinkDetached
    | LinkRefused
    | DeliveryReceived
    | DeliveryUpdated
    | CreditChanged
)
