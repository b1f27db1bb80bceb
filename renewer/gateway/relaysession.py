"""One AMQP session of a worker as it passes: its links, its windows, and the frames that cannot pass as they are.

Each frame is looked at where it lies in the buffer that it came in. A method returns None to have it passed byte for
byte (after patching it in place, where only bytes of the same number change), the bytes to pass instead, or nothing at
all (`SWALLOW`).
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol

from renewer.amqp import AmqpError, Detach, Flow, decode, encode_frame, encode_performative
from renewer.amqp.composite import build_described
from renewer.amqp.serial import serial_add
from renewer.amqp.spans import performative_fields, splice
from renewer.errors import AmqpProtocolError
from renewer.gateway.attaching import find_session_lock, read_attach, ticks
from renewer.gateway.codes import DISPOSITION, FLOW, TRANSFER, Code
from renewer.gateway.deliveries import Deliveries
from renewer.gateway.gate import Gate, Judge, renamed, restored
from renewer.gateway.links import LinkKind, WorkerLink
from renewer.gateway.options import PASSED
from renewer.gateway.transfers import read_flow, transfer_handle
from renewer.gateway.watching import Exchanges, on_answer, on_ask
from renewer.gateway.windows import ClampedWindow

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.amqp.spans import Fields
    from renewer.gateway.addresses import Node
    from renewer.gateway.login import Login
    from renewer.gateway.options import EntityPolicy
    from renewer.gateway.windows import Sharing

SWALLOW: Final = b""


class Wire(Exchanges, Judge, Protocol):
    """What a session needs of the connection that it is on."""

    login: Login

    @property
    def authority(self) -> str:
        """What the namespace is called in addresses."""
        ...

    def policy_for(self, node: Node) -> EntityPolicy:
        """What is done with the locks of the entity."""
        ...

    def send_to_worker(self, frame: bytes) -> None:
        """Queue a frame of our own, after all that was passed."""
        ...

    def send_to_broker(self, frame: bytes) -> None:
        """The same the other way."""
        ...


class RelaySession:
    """`channel` is the worker's number for it and ours towards the broker; `remote_channel` the broker's.

    `shown_channel` is the number that the worker sees on the broker's frames: the broker's own wherever it can be.
    """

    __slots__ = (
        "_by_handle",
        "_by_remote",
        "_deliveries",
        "_gate",
        "_handle_max",
        "_next_outgoing_id",
        "_outgoing_window",
        "_pending",
        "_wire",
        "channel",
        "is_ended_by_broker",
        "is_ended_by_worker",
        "passed",
        "remote_channel",
        "shown_channel",
        "window",
    )

    def __init__(self, wire: Wire, channel: int, *, worker_window: int, frame_limit: int, sharing: Sharing) -> None:
        self._wire = wire
        self._gate = Gate(wire)
        self._deliveries = Deliveries(wire)
        self.channel = channel
        self.remote_channel: int | None = None
        self.shown_channel = channel
        self.is_ended_by_worker = False
        self.is_ended_by_broker = False
        self.window = ClampedWindow(worker_window, frame_limit, sharing)
        self.passed = 0
        """Messages, or parts of one, that went to the worker."""
        self._handle_max = 0
        self._next_outgoing_id = 0
        self._outgoing_window = 0
        self._by_handle: dict[int, WorkerLink] = {}
        self._by_remote: dict[int, WorkerLink] = {}
        self._pending: dict[tuple[str, bool], list[WorkerLink]] = {}
        """Links whose attach the broker has not answered, in the order of their attaches."""

    @property
    def links(self) -> list[WorkerLink]:
        """Those that hold a handle of the worker's."""
        return list(self._by_handle.values())

    # What the worker sends ------------------------------------------------------------------------------------------

    def worker_began(self, body: bytes, fields: Fields) -> bytes:
        """The worker's begin, with the window that the broker is told."""
        uint = _uint_reader(body, fields)
        self._next_outgoing_id = uint(1)
        self._outgoing_window = uint(3)
        self._handle_max = uint(4, 0xFFFFFFFF)
        if self.window.first == uint(2):
            return body
        return splice(body, fields, {2: _uint(self.window.first)})

    def passes(self, code: int, buffer: bytearray, at: int, end: int) -> bool:
        """Whether the worker's frame whose body is at `at` goes on as it lies there, noted. Most do.

        What does not go on is for `from_worker`. AmqpProtocolError if it makes no sense.
        """
        if self.is_ended_by_worker or self.is_ended_by_broker:
            return False
        if code == DISPOSITION:
            self._deliveries.worker_settles(buffer, at, end)
            return True
        if code == FLOW:
            return self._flow_passes(buffer, at, end)
        if code == TRANSFER:
            link = self._by_handle.get(transfer_handle(buffer, at))
            if link is None or link.kind is not LinkKind.SENDER:
                return False
            self._next_outgoing_id = serial_add(self._next_outgoing_id, 1)
            return True
        return False

    def from_worker(self, code: int, body: bytes) -> bytes | None:
        """A frame of the worker's. AmqpProtocolError if it makes no sense."""
        if self.is_ended_by_worker or self.is_ended_by_broker:
            # azure-servicebus 7.15 ends its session and then detaches its links: the broker has heard enough.
            return SWALLOW
        match code:
            case Code.TRANSFER:
                return self._worker_transfers(body)
            case Code.FLOW:
                changed = self._worker_flows(body)
            case Code.DISPOSITION:
                self._deliveries.worker_settles(body, 0, len(body))
                changed = None
            case Code.ATTACH:
                changed = self._worker_attaches(body)
            case Code.DETACH:
                changed = self._worker_detaches(body)
            case _:
                raise _not_in_a_session(code)
        return encode_frame(self.channel, changed) if changed else changed

    def _worker_attaches(self, body: bytes) -> bytes | None:
        view = read_attach(body)
        if view.handle in self._by_handle or view.handle in self._gate.refused:
            raise AmqpProtocolError("attach with a handle in use", condition="amqp:session:handle-in-use")
        admitted = self._gate.admit(view, body, links=len(self._by_handle))
        if isinstance(admitted, AmqpError):
            self._gate.refuse(view, admitted, in_use=self._by_remote)
            if self.remote_channel is not None:
                self._wire.send_to_worker(self.take_refusals())
            return SWALLOW
        kind, node = admitted
        link = WorkerLink(
            kind,
            view.name,
            "" if node is None else node.entity,
            channel=self.channel,
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
        self._by_handle[view.handle] = link
        self._pending.setdefault((view.name, view.role), []).append(link)
        return renamed(body, view, link, self._wire.authority)

    def _flow_passes(self, buffer: bytearray, at: int, end: int) -> bool:
        """Whether the flow is laid out in the usual way: then the window in it is set in place."""
        found = read_flow(buffer, at, end)
        if found is None:
            return False
        handle, next_incoming_id, window, window_at, outgoing_window = found
        if handle not in self._by_handle:
            return False
        self._outgoing_window = outgoing_window
        told = self.window.told(next_incoming_id, window)
        if told != window:
            _UINT.pack_into(buffer, window_at, told)
        return True

    def _worker_flows(self, body: bytes) -> bytes | None:
        fields = performative_fields(body)
        uint = _uint_reader(body, fields)
        handle = uint(4, -1)
        if handle in self._gate.refused:
            return SWALLOW
        if handle >= 0 and handle not in self._by_handle:
            raise AmqpProtocolError("a flow for no link", condition="amqp:session:unattached-handle")
        next_incoming_id, window = uint(0, -1), uint(1)
        self._outgoing_window = uint(3)
        told = self.window.told(None if next_incoming_id < 0 else next_incoming_id, window)
        return None if told == window else splice(body, fields, {1: _uint(told)})

    def _worker_transfers(self, body: bytes) -> bytes | None:
        handle = transfer_handle(body, 0)
        link = self._by_handle.get(handle)
        if link is None or link.role:
            raise AmqpProtocolError("a transfer over no link to send on", condition="amqp:session:unattached-handle")
        self._next_outgoing_id = serial_add(self._next_outgoing_id, 1)
        if link.kind is LinkKind.CBS:
            return self._wire.login.on_transfer(self.channel, body)
        if link.kind is LinkKind.MANAGEMENT:
            on_ask(self._wire, link, body)
        return None

    def _worker_detaches(self, body: bytes) -> bytes | None:
        handle = _uint_reader(body, performative_fields(body))(0)
        if handle in self._gate.refused:
            self._gate.refused.discard(handle)
            return SWALLOW
        link = self._by_handle.pop(handle, None)
        if link is None:
            raise AmqpProtocolError("a detach of no link", condition="amqp:session:unattached-handle")
        self._gone(link, by_worker=True, error=None)
        return None

    # What the broker sends ------------------------------------------------------------------------------------------

    def broker_began(self, channel: int, body: bytes, fields: Fields) -> None:
        """The broker's answer to the begin."""
        self.remote_channel = channel
        self.window.began(_uint_reader(body, fields)(1))

    def settled_by_broker(self, buffer: bytearray, at: int, end: int) -> None:
        """A disposition that lies at `at`; passes as it is."""
        self._deliveries.broker_settles(buffer, at, end)

    def transfer_from_broker(self, buffer: bytearray, at: int, end: int) -> bytes | None:
        """A transfer that lies at `at`, its payload up to `end`. Most frames are that: as fast as can be."""
        window = self.window
        window.next_id = (window.next_id + 1) & 0xFFFFFFFF
        size = end - at
        if size > window.largest_seen:
            window.largest_seen = size
        link = self._by_remote.get(transfer_handle(buffer, at))
        if link is None:
            raise AmqpProtocolError("a transfer over no link", condition="amqp:session:unattached-handle")
        kind = link.kind
        if kind is LinkKind.RECEIVER:
            self.passed += 1
            if link.is_watched:
                self._deliveries.locked(link, buffer, at, end)
            return None
        if kind is LinkKind.CBS:
            changed = self._wire.login.on_reply(bytes(buffer[at:end]))
            return None if changed is None else encode_frame(self.shown_channel, changed)
        if kind is LinkKind.MANAGEMENT and link.role:
            on_answer(self._wire, link, buffer, at, end)
        return None

    def from_broker(self, code: int, body: bytes) -> bytes | None:
        """Any other frame of the broker's."""
        match code:
            case Code.FLOW:
                changed = None
            case Code.DISPOSITION:
                self._deliveries.broker_settles(body, 0, len(body))
                changed = None
            case Code.ATTACH:
                changed = self._broker_attaches(body)
            case Code.DETACH:
                changed = self._broker_detaches(body)
            case _:
                raise _not_in_a_session(code)
        return encode_frame(self.shown_channel, changed) if changed else changed

    def take_refusals(self) -> bytes:
        """The answers to attaches that were refused, which the worker may be given now."""
        return self._gate.take_answers(self.shown_channel)

    def more_window(self) -> None:
        """Tell the broker of more window, if there is any to be told of."""
        window = self.window
        if self.remote_channel is None or not window.needs_flow:
            return
        if self.is_ended_by_worker or self.is_ended_by_broker:
            return
        told = window.window()
        flow = Flow(window.next_id, told, self._next_outgoing_id, self._outgoing_window)
        self._wire.send_to_broker(encode_frame(self.channel, encode_performative(flow)))

    def ended(self, *, by_worker: bool, error: AmqpError | None) -> None:
        """The session is over, and all links with it."""
        for link in self.links:
            self._gone(link, by_worker=by_worker, error=error)
        self._by_handle.clear()

    def farewell(self) -> list[bytes]:
        """Frames that detach all links at the broker, whose worker is gone."""
        if self.is_ended_by_worker or self.is_ended_by_broker:
            return []
        return [encode_frame(self.channel, encode_performative(Detach(link.handle, True))) for link in self.links]

    def _broker_attaches(self, body: bytes) -> bytes | None:
        view = read_attach(body)
        key = view.name, not view.role
        waiting = self._pending.get(key)
        if not waiting:
            raise AmqpProtocolError("an answer to no attach", condition="amqp:not-allowed")
        link = waiting.pop(0)
        if not waiting:
            del self._pending[key]
        if view.handle in self._by_remote:
            raise AmqpProtocolError("attach with a handle in use", condition="amqp:session:handle-in-use")
        link.remote_handle = view.handle
        self._by_remote[view.handle] = link
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

    def _broker_detaches(self, body: bytes) -> bytes | None:
        fields = performative_fields(body)
        link = self._by_remote.pop(_uint_reader(body, fields)(0), None)
        if link is None:
            # Some peers answer the detach of a link that they never attached.
            return None
        # The worker's number for it is free once the worker has answered.
        self._gone(link, by_worker=False, error=error_in(body, fields, 2))
        return None

    # Helpers --------------------------------------------------------------------------------------------------------

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


def error_in(body: bytes, fields: Fields, index: int) -> AmqpError | None:
    """The error in this field of a detach, an end or a close; None where there is none."""
    if len(fields.spans) <= index:
        return None
    found = build_described(decode(body, fields.spans[index][0])[0])
    return found if isinstance(found, AmqpError) else None


def _uint_reader(body: bytes, fields: Fields) -> Callable[..., int]:
    """Reads fields that are numbers; a missing or null one is `default`, where there is one."""

    def read(index: int, default: int | None = None) -> int:
        start, end = fields.spans[index] if index < len(fields.spans) else (0, 0)
        code = body[start] if end > start else 0x40
        if code == 0x40:
            if default is None:
                raise AmqpProtocolError("a field that must not be missing")
            return default
        if code == 0x43:
            return 0
        if code in (0x50, 0x52, 0x53, 0x60, 0x70):
            return int.from_bytes(body[start + 1 : end], "big")
        raise AmqpProtocolError("a field that is no number")

    return read


def _uint(value: int) -> bytes:
    return b"\x70" + value.to_bytes(4, "big")


def _not_in_a_session(code: int) -> AmqpProtocolError:
    return AmqpProtocolError(f"performative 0x{code:02x} in a session", condition="amqp:connection:framing-error")


_SETTLED: Final = 1
_UINT: Final = Struct(">I")
_MILLISECONDS: Final = Struct(">q")
