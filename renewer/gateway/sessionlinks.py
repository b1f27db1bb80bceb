"""The links of one AMQP session of a worker's, by the numbers of both sides: how they are attached, and end."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from renewer.amqp import AmqpError, Detach, encode_frame, encode_performative
from renewer.amqp.spans import performative_fields
from renewer.errors import AmqpProtocolError
from renewer.gateway.attaching import find_session_lock, read_attach, ticks
from renewer.gateway.fields import error_in, uint_reader
from renewer.gateway.gate import Gate, renamed, restored
from renewer.gateway.links import LinkKind, WorkerLink
from renewer.gateway.options import PASSED

if TYPE_CHECKING:
    from renewer.gateway.deliveries import Deliveries
    from renewer.gateway.relaysession import RelaySession, Wire


class SessionLinks:
    """Those of `session`. Methods return as those of `RelaySession` do."""

    __slots__ = ("_deliveries", "_pending", "_session", "_wire", "by_handle", "by_remote", "gate")

    def __init__(self, session: RelaySession, wire: Wire, deliveries: Deliveries) -> None:
        self._session = session
        self._wire = wire
        self._deliveries = deliveries
        self.gate = Gate(wire)
        self.by_handle: dict[int, WorkerLink] = {}
        """By the worker's handles."""
        self.by_remote: dict[int, WorkerLink] = {}
        """By the broker's."""
        self._pending: dict[tuple[str, bool], list[WorkerLink]] = {}
        """Links whose attach the broker has not answered, in the order of their attaches."""

    def worker_attaches(self, body: bytes) -> bytes | None:
        """The worker attaches, and is let through or refused."""
        view = read_attach(body)
        if view.handle in self.by_handle or view.handle in self.gate.refused:
            raise AmqpProtocolError("attach with a handle in use", condition="amqp:session:handle-in-use")
        admitted = self.gate.admit(view, body, links=len(self.by_handle))
        if isinstance(admitted, AmqpError):
            self.gate.refuse(view, admitted, in_use=self.by_remote)
            if self._session.remote_channel is not None:
                self._wire.send_to_worker(self.take_refusals())
            return b""
        kind, node = admitted
        link = WorkerLink(
            kind,
            view.name,
            "" if node is None else node.entity,
            channel=self._session.channel,
            handle=view.handle,
            role=view.role,
            policy=PASSED if node is None else self._wire.policy_for(node),
        )
        link.is_session = view.is_session
        link.session_id = view.session_id
        link.wants_next = view.is_session and view.session_id is None
        # 1: settled by the sender (AMQP 1.0 part 2.8.2): nothing is locked.
        link.locks = kind is LinkKind.RECEIVER and view.snd_settle_mode != _SETTLED
        link.is_watched = link.locks and (link.policy.sessions if link.is_session else link.policy.messages)
        if link.policy.show_lock_until == "extended":
            link.shown_for_s = link.policy.shown_for_s
        link.sent_at = self._wire.now
        self.by_handle[view.handle] = link
        self._pending.setdefault((view.name, view.role), []).append(link)
        return renamed(body, view, link, self._wire.authority)

    def worker_detaches(self, body: bytes) -> bytes | None:
        """The worker detaches."""
        handle = uint_reader(body, performative_fields(body))(0)
        if handle in self.gate.refused:
            self.gate.refused.discard(handle)
            return b""
        link = self.by_handle.pop(handle, None)
        if link is None:
            raise AmqpProtocolError("a detach of no link", condition="amqp:session:unattached-handle")
        self._gone(link, by_worker=True, error=None)
        return None

    def broker_attaches(self, body: bytes) -> bytes | None:
        """The broker answers an attach."""
        view = read_attach(body)
        key = view.name, not view.role
        waiting = self._pending.get(key)
        if not waiting:
            raise AmqpProtocolError("an answer to no attach", condition="amqp:not-allowed")
        link = waiting.pop(0)
        if not waiting:
            del self._pending[key]
        if view.handle in self.by_remote:
            raise AmqpProtocolError("attach with a handle in use", condition="amqp:session:handle-in-use")
        link.remote_handle = view.handle
        self.by_remote[view.handle] = link
        changed = restored(body, view, link)
        # For a receiver an answer without source, for a sender one without target, is the first half of a refusal.
        if (view.raw_source if link.role else view.raw_target) is None and link.kind is not LinkKind.COORDINATOR:
            return changed
        link.is_attached = True
        if link.kind is not LinkKind.RECEIVER or link.is_gone:
            return changed
        if link.locks:
            if link.is_session:
                link.session_id = view.session_id if view.session_id is not None else link.session_id
                changed = self._session_held(body if changed is None else changed, link) or changed
            elif link.policy.messages:
                self._deliveries.followed.append(link)
            self._wire.ledger.link_opened(link)
        return changed

    def _session_held(self, body: bytes, link: WorkerLink) -> bytes | None:
        wire, policy = self._wire, link.policy
        found = find_session_lock(body)
        if policy.sessions:
            wire.ledger.session_held(
                link, locked_until=None if found is None else found[1], sent_at=link.sent_at, received_at=wire.now
            )
        if found is None or not policy.sessions or policy.show_lock_until != "extended":
            return None
        patched = bytearray(body)
        _MILLISECONDS.pack_into(patched, found[0], ticks(wire.wall_now + policy.shown_for_s))
        return bytes(patched)

    def broker_detaches(self, body: bytes) -> bytes | None:
        """The broker detaches, or answers that the worker did."""
        fields = performative_fields(body)
        link = self.by_remote.pop(uint_reader(body, fields)(0), None)
        if link is None:
            # Some peers answer the detach of a link that they never attached.
            return None
        # The worker's number for it is free once the worker has answered.
        self._gone(link, by_worker=False, error=error_in(body, fields, 2))
        return None

    def take_refusals(self) -> bytes:
        """The answers to attaches that were refused, which the worker may be given now."""
        return self.gate.take_answers(self._session.shown_channel)

    def ended(self, *, by_worker: bool, error: AmqpError | None) -> None:
        """The session is over, and all links with it."""
        for link in list(self.by_handle.values()):
            self._gone(link, by_worker=by_worker, error=error)
        self.by_handle.clear()

    def farewell(self) -> list[bytes]:
        """Frames that detach all links at the broker, whose worker is gone."""
        channel = self._session.channel
        return [encode_frame(channel, encode_performative(Detach(handle, True))) for handle in self.by_handle]

    def _gone(self, link: WorkerLink, *, by_worker: bool, error: AmqpError | None) -> None:
        if link in self._deliveries.followed:
            self._deliveries.followed.remove(link)
        if link.is_gone:
            return
        link.is_gone = True
        # Deferred messages come over a management node, and are settled over it.
        if link.kind in (LinkKind.RECEIVER, LinkKind.MANAGEMENT) and link.role and link.is_attached:
            self._wire.ledger.link_gone(link, by_worker=by_worker, error=error, now=self._wire.now)
        link.locked.clear()


_SETTLED: Final = 1
_MILLISECONDS: Final = Struct(">q")
