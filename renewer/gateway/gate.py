"""The gate: every attach of a worker's is judged by the address that it names, before the broker sees anything of it.

There must be no second way to write an address. What is refused is answered here. Of what is let through the addresses
are changed to what the namespace calls them, and back in the broker's answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from renewer.amqp import AmqpError, Attach, Detach, encode_frame, encode_performative
from renewer.errors import AmqpProtocolError, UsageError
from renewer.gateway.addresses import NodeKind, for_namespace, read_node
from renewer.gateway.attaching import encode_address, forwards_to, with_addresses
from renewer.gateway.links import LinkKind
from renewer.targets.servicebus.verdicts import shorten

if TYPE_CHECKING:
    from collections.abc import Container

    from renewer.gateway.addresses import Node
    from renewer.gateway.attaching import AttachView
    from renewer.gateway.links import WorkerLink

STRANGER_LINKS: Final = 8
"""Links that a worker may have on an AMQP session before it has proved a key."""

MOST_REFUSED: Final = 256
"""Links that were refused, and that the worker has not detached from its side."""


class Judge(Protocol):
    """What the gate needs to know of the worker, and whom it tells of a refusal."""

    @property
    def is_let_in(self) -> bool:
        """Whether a key was proved."""
        ...

    @property
    def is_draining(self) -> bool:
        """Whether workers may go on with what they have, and begin nothing."""
        ...

    def may_use(self, node: Node) -> bool:
        """Whether a key was proved that is for this entity, by a signature that is."""
        ...

    def refused(self, why: str, detail: str) -> None:
        """An attach was refused."""
        ...


class Gate:
    """The links that one AMQP session of a worker's may have."""

    __slots__ = ("_answers", "_judge", "refused")

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.refused: set[int] = set()
        """Handles of links that were refused, and that the worker has not detached from its side."""
        self._answers: list[bytes] = []

    def admit(self, view: AttachView, body: bytes, *, links: int) -> tuple[LinkKind, Node | None] | AmqpError:
        """What the link is for; or why there shall be none. The session has so many `links` already."""
        judge = self._judge
        if not judge.is_let_in and links >= STRANGER_LINKS:
            raise AmqpProtocolError("put a token first", condition=_UNAUTHORIZED)
        if view.is_coordinator and not view.role:
            # Names no entity: what is done in a transaction goes over links that are judged one by one.
            if judge.is_let_in:
                return LinkKind.COORDINATOR, None
            return _unauthorized("put a token first")
        address = view.source if view.role else view.target
        try:
            if not address:
                raise UsageError("the node has no address")
            node = read_node(address)
        except UsageError as error:
            judge.refused("entity", str(error))
            return _unauthorized(f"the gateway does not let links be attached there: {error}")
        if node.kind is NodeKind.CBS:
            return LinkKind.CBS, node
        if not judge.is_let_in:
            return _unauthorized(f"put a token for {node.entity} first")
        if not judge.may_use(node):
            judge.refused("entity", f"the key, or what was signed with it, is not for {node.entity}")
            return _unauthorized(_not_for(node.entity))
        if node.kind is NodeKind.MANAGEMENT:
            return LinkKind.MANAGEMENT, node
        if view.role and judge.is_draining:
            return AmqpError("com.microsoft:server-busy", "the gateway is drained: it takes no new receivers", {})
        destination = None if view.role else forwards_to(body)
        if destination is not None and not self._may_forward(destination):
            where = shorten(destination)
            judge.refused("entity", f"the key, or what was signed with it, is not for {where}")
            return _unauthorized(_not_for(where))
        return (LinkKind.RECEIVER if view.role else LinkKind.SENDER), node

    def refuse(self, view: AttachView, error: AmqpError, *, in_use: Container[int]) -> None:
        """Answer as a broker does that does not want the link: attach without an end, then detach.

        Nothing of it reaches the broker. `in_use` are handles of the broker's; that of the answer is free again with
        the detach. AmqpProtocolError where too much was refused.
        """
        if len(self.refused) >= MOST_REFUSED:
            raise AmqpProtocolError("too many links that were refused", condition="amqp:resource-limit-exceeded")
        self.refused.add(view.handle)
        handle = next(number for number in range(1 << 32) if number not in in_use)
        attach = Attach(
            view.name,
            handle,
            not view.role,
            view.snd_settle_mode,
            0,
            None,
            None,
            initial_delivery_count=0 if view.role else None,
        )
        self._answers += [encode_performative(attach), encode_performative(Detach(handle, True, error))]

    def take_answers(self, channel: int) -> bytes:
        """The frames that tell of refusals. Before the broker's begin the worker knows no channel for them."""
        frames = b"".join(encode_frame(channel, body) for body in self._answers)
        self._answers.clear()
        return frames

    def _may_forward(self, destination: str) -> bool:
        try:
            return self._judge.may_use(read_node(destination))
        except UsageError:
            return False


def renamed(body: bytes, view: AttachView, link: WorkerLink, authority: str) -> bytes | None:
    """The attach with addresses as the namespace has them; what they were is kept with the link, for the answer."""
    for name, raw in (("source", view.raw_source), ("target", view.raw_target)):
        text = view.source if name == "source" else view.target
        if raw is None or text is None or "://" not in text:
            continue
        ours = encode_address(for_namespace(text, authority))
        if ours != raw:
            setattr(link, f"raw_{name}", (raw, ours))
    if link.raw_source is None and link.raw_target is None:
        return None
    return with_addresses(
        body,
        source=None if link.raw_source is None else link.raw_source[1],
        target=None if link.raw_target is None else link.raw_target[1],
    )


def restored(body: bytes, view: AttachView, link: WorkerLink) -> bytes | None:
    """The broker's answer with the addresses as the worker wrote them, byte for byte: SDKs compare them."""
    source = link.raw_source[0] if link.raw_source and view.raw_source == link.raw_source[1] else None
    target = link.raw_target[0] if link.raw_target and view.raw_target == link.raw_target[1] else None
    if source is None and target is None:
        return None
    return with_addresses(body, source=source, target=target)


def _not_for(entity: str) -> str:
    return f"the gateway's key (see its entities), or what was signed with it, is not for {entity}"


def _unauthorized(text: str) -> AmqpError:
    """With the map too: azure-servicebus 7.15 reads all three fields of an error without looking."""
    return AmqpError(_UNAUTHORIZED, text, {})


_UNAUTHORIZED: Final = "amqp:unauthorized-access"
