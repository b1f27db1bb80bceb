"""Who may have which link: the answer to an attach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from renewer.amqp import Described, ReceiverLink, SenderLink, Source, Target
from renewer.emulator.broker import refusals
from renewer.emulator.broker.addresses import NodeKind, parse_address
from renewer.emulator.broker.ends import ReceiverEnd, SenderEnd, SessionEnd
from renewer.emulator.broker.entities import Entity
from renewer.emulator.broker.nodes import CbsEnd, ManagementEnd, ReplyEnd
from renewer.emulator.broker.play import play_for
from renewer.emulator.broker.refusals import RefusedError
from renewer.emulator.broker.sessions import Holder
from renewer.emulator.broker.wire import SESSION_FILTER, WAIT_TIMEOUT
from renewer.emulator.faults import FaultAction

if TYPE_CHECKING:
    from renewer.emulator.broker.addresses import Address
    from renewer.emulator.broker.client import ClientConnection
    from renewer.emulator.broker.ends import LinkEnd


def answer_attach(client: ClientConnection, link: SenderLink | ReceiverLink) -> None:
    """Accept or refuse a link that the client asks for; one to the next session perhaps later."""
    try:
        address = _address(link)
        wish = _session_wish(link)
        play = play_for(
            client.broker.faults.pick(
                "servicebus.attach",
                entity=address.path,
                session_id=wish[0] if wish else None,
                node=address.kind.value,
                role="receiver" if isinstance(link, SenderLink) else "sender",
            )
        )
        if play.is_ignored:
            return
        if play.refusal is not None:
            raise play.refusal
        if play.breakage is not None and play.breakage.action is not FaultAction.DETACH:
            client.misbehave(play.breakage, None)
            return
        end = _make_end(client, link, address, wish)
    except RefusedError as refusal:
        client.refuse(link, refusal)
        return
    if isinstance(end, SessionEnd) and end.lock is None:
        return  # It waits for a session.
    if play.breakage is not None:
        end.accept()
        client.misbehave(play.breakage, end)
    elif not play.is_silent:
        client.later(play.delay_s, end.accept)


def _make_end(
    client: ClientConnection, link: SenderLink | ReceiverLink, address: Address, wish: tuple[str | None] | None
) -> LinkEnd:
    if address.kind is NodeKind.CBS:
        return client.add(
            ReplyEnd(client, link, address) if isinstance(link, SenderLink) else CbsEnd(client, link, address)
        )
    node = client.broker.namespace.find(address.path)
    if node is None:
        raise refusals.entity_not_found(address.path)
    client.check_authorized(address.path, management=address.kind is NodeKind.MANAGEMENT)
    if address.kind is NodeKind.MANAGEMENT:
        return client.add(
            ReplyEnd(client, link, address)
            if isinstance(link, SenderLink)
            else ManagementEnd(client, link, address, node)
        )
    if isinstance(link, ReceiverLink):
        if isinstance(node, Entity) and not node.takes_messages:
            raise refusals.not_allowed("Messages are sent to queues and topics only.")
        return client.add(SenderEnd(client, link, node))
    if not isinstance(node, Entity):
        raise refusals.not_allowed("Messages are received from a subscription of the topic.")
    if wish is not None and not node.requires_session:
        raise refusals.not_allowed("The entity has no sessions: it is to be received from without one.")
    if wish is None and node.requires_session:
        raise refusals.not_allowed("The entity has sessions: it is to be received from with one.")
    client.steal_receiver(link.name)
    if wish is None:
        return client.add(ReceiverEnd(client, link, node))
    return _session_end(client, link, node, wish[0])


def _session_end(client: ClientConnection, link: SenderLink, entity: Entity, session_id: str | None) -> SessionEnd:
    now, table, holder = client.broker.now(), entity.sessions, Holder(client.number, link.name)
    lock = table.accept_next(holder, now) if session_id is None else table.accept(session_id, holder, now)
    end = client.add(SessionEnd(client, link, entity, holder))
    if lock is None:
        end.wait(now + _patience_s(client, link))
    else:
        end.hold(lock)
    return end


def _address(link: SenderLink | ReceiverLink) -> Address:
    remote = link.remote
    terminus = None if remote is None else remote.source if isinstance(link, SenderLink) else remote.target
    if isinstance(terminus, Described):
        raise refusals.RefusedError("amqp:not-implemented", 501, "There are no transactions here.")
    address = parse_address(terminus.address) if isinstance(terminus, (Source, Target)) else None
    if address is None:
        raise refusals.RefusedError("amqp:invalid-field", 400, "The link names no entity.")
    return address


def _session_wish(link: SenderLink | ReceiverLink) -> tuple[str | None] | None:
    """The session that a receiver asks for, (None,) for the next one; None if it asks for none at all."""
    source = link.remote.source if isinstance(link, SenderLink) and link.remote is not None else None
    filters: dict[Any, Any] = (source.filter or {}) if isinstance(source, Source) else {}
    if SESSION_FILTER not in filters:
        return None
    wanted = filters[SESSION_FILTER]
    if isinstance(wanted, Described):  # As the standard has it; Service Bus and its clients use the bare value.
        wanted = wanted.value
    if wanted is not None and not isinstance(wanted, str):
        raise refusals.argument_error("The session filter must be a string, or null for the next session.")
    return (wanted,)


def _patience_s(client: ClientConnection, link: SenderLink) -> float:
    wanted = (link.remote.properties or {}).get(WAIT_TIMEOUT) if link.remote is not None else None
    if isinstance(wanted, int) and not isinstance(wanted, bool) and wanted >= 0:
        return wanted / 1000
    return client.broker.options.next_session_wait_s
