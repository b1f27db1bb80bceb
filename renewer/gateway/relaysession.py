"""One AMQP session of a worker as it passes: its links, its windows, and the frames that cannot pass as they are.

Each frame is looked at where it lies in the buffer that it came in. A method returns None to have it passed byte for
byte (after patching it in place, where only bytes of the same number change), the bytes to pass instead, or nothing at
all (`SWALLOW`).
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol

from renewer.amqp import AmqpError, Attach, Detach, Flow, decode, encode_frame, encode_performative
from renewer.amqp.composite import build_described
from renewer.amqp.serial import serial_add, serial_distance
from renewer.amqp.spans import performative_fields, splice
from renewer.errors import AmqpProtocolError, UsageError
from renewer.gateway.addresses import NodeKind, for_namespace, read_node
from renewer.gateway.attaching import (
    encode_address,
    find_session_lock,
    forwards_to,
    read_attach,
    ticks,
    with_addresses,
)
from renewer.gateway.codes import Code, State
from renewer.gateway.links import LinkKind, Locked, WorkerLink
from renewer.gateway.options import PASSED
from renewer.gateway.transfers import (
    outcome_of,
    read_delivery,
    read_disposition,
    rejected_error,
    transfer_handle,
)
from renewer.gateway.watching import Exchanges, on_answer, on_ask
from renewer.gateway.windows import ClampedWindow
from renewer.targets.servicebus.verdicts import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from renewer.amqp.spans import Fields
    from renewer.gateway.addresses import Node
    from renewer.gateway.attaching import AttachView
    from renewer.gateway.login import Login
    from renewer.gateway.options import EntityPolicy

SWALLOW: Final = b""
STRANGER_LINKS: Final = 8
"""Links that a worker may have on an AMQP session before it has proved a key."""

MOST_REFUSED: Final = 256
"""Links that were refused, and that the worker has not detached from its side."""

MOST_LOCKED: Final = 10_000
"""So many messages of one link are looked after at once; whoever takes more of them without settling any is not."""


class Wire(Exchanges, Protocol):
    """What a session needs of the connection that it is on."""

    login: Login

    @property
    def authority(self) -> str:
        """What the namespace is called in addresses."""
        ...

    @property
    def is_let_in(self) -> bool:
        """Whether a key was proved."""
        ...

    @property
    def is_draining(self) -> bool:
        """Whether workers may go on with what they have, and begin nothing."""
        ...

    def may_use(self, node: Node) -> bool:
        """Whether the keys that were proved are for this entity."""
        ...

    def policy_for(self, node: Node) -> EntityPolicy:
        """What is done with the locks of the entity."""
        ...

    def refused(self, why: str, detail: str) -> None:
        """An attach was refused."""
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
        "_handle_max",
        "_next_outgoing_id",
        "_outgoing_window",
        "_pending",
        "_refusals",
        "_refused",
        "_tracking",
        "_wire",
        "channel",
        "is_ended_by_broker",
        "is_ended_by_worker",
        "passed",
        "remote_channel",
        "shown_channel",
        "window",
    )

    def __init__(self, wire: Wire, channel: int, *, worker_window: int, frame_limit: int) -> None:
        self._wire = wire
        self.channel = channel
        self.remote_channel: int | None = None
        self.shown_channel = channel
        self.is_ended_by_worker = False
        self.is_ended_by_broker = False
        self.window = ClampedWindow(worker_window, frame_limit)
        self.passed = 0
        """Messages, or parts of one, that went to the worker."""
        self._handle_max = 0
        self._next_outgoing_id = 0
        self._outgoing_window = 0
        self._by_handle: dict[int, WorkerLink] = {}
        self._by_remote: dict[int, WorkerLink] = {}
        self._pending: dict[tuple[str, bool], list[WorkerLink]] = {}
        """Links whose attach the broker has not answered, in the order of their attaches."""
        self._refused: set[int] = set()
        self._refusals: list[bytes] = []
        """Answers that wait for the broker's begin: before it the worker knows no channel for them."""
        self._tracking: list[WorkerLink] = []

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

    def sends(self, buffer: bytearray, at: int) -> bool:
        """Whether the transfer at `at` is of a message that the worker sends: counted then, and passed unread."""
        link = self._by_handle.get(transfer_handle(buffer, at))
        if link is None or link.kind is not LinkKind.SENDER or self.is_ended_by_worker or self.is_ended_by_broker:
            return False
        self._next_outgoing_id = serial_add(self._next_outgoing_id, 1)
        return True

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
                changed = self._worker_settles(body)
            case Code.ATTACH:
                changed = self._worker_attaches(body)
            case Code.DETACH:
                changed = self._worker_detaches(body)
            case _:
                raise _not_in_a_session(code)
        return encode_frame(self.channel, changed) if changed else changed

    def _worker_attaches(self, body: bytes) -> bytes | None:
        view = read_attach(body)
        if view.handle in self._by_handle or view.handle in self._refused:
            raise AmqpProtocolError("attach with a handle in use", condition="amqp:session:handle-in-use")
        if not self._wire.is_let_in and len(self._by_handle) >= STRANGER_LINKS:
            raise AmqpProtocolError("put a token first", condition=_UNAUTHORIZED)
        admitted = self._admit(view, body)
        if isinstance(admitted, AmqpError):
            self._refuse(view, admitted)
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
        link.sent_at = self._wire.now
        self._by_handle[view.handle] = link
        self._pending.setdefault((view.name, view.role), []).append(link)
        return self._renamed(body, view, link)

    def _admit(self, view: AttachView, body: bytes) -> tuple[LinkKind, Node | None] | AmqpError:
        """What the link is for; or why there shall be none."""
        wire = self._wire
        if view.is_coordinator and not view.role:
            # Names no entity: what is done in a transaction goes over links that are judged one by one.
            if wire.is_let_in:
                return LinkKind.COORDINATOR, None
            return _unauthorized("put a token first")
        address = view.source if view.role else view.target
        try:
            if not address:
                raise UsageError("the node has no address")
            node = read_node(address)
        except UsageError as error:
            wire.refused("entity", str(error))
            return _unauthorized(f"the gateway does not let links be attached there: {error}")
        if node.kind is NodeKind.CBS:
            return LinkKind.CBS, node
        if not wire.is_let_in:
            return _unauthorized(f"put a token for {node.entity} first")
        if not wire.may_use(node):
            wire.refused("entity", f"{node.entity} is not among the entities of the key")
            return _unauthorized(f"the gateway's key is not for {node.entity}: add it to its entities")
        if node.kind is NodeKind.MANAGEMENT:
            return LinkKind.MANAGEMENT, node
        if view.role and wire.is_draining:
            return AmqpError("com.microsoft:server-busy", "the gateway is drained: it takes no new receivers", {})
        destination = None if view.role else forwards_to(body)
        if destination is not None and not self._may_forward(destination):
            where = shorten(destination)
            wire.refused("entity", f"{where} is not among the entities of the key")
            return _unauthorized(f"the gateway's key is not for {where}: add it to its entities")
        return (LinkKind.RECEIVER if view.role else LinkKind.SENDER), node

    def _may_forward(self, destination: str) -> bool:
        try:
            return self._wire.may_use(read_node(destination))
        except UsageError:
            return False

    def _renamed(self, body: bytes, view: AttachView, link: WorkerLink) -> bytes | None:
        """The attach with addresses as the namespace has them; what they were is kept for the answer."""
        authority = self._wire.authority
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

    def _refuse(self, view: AttachView, error: AmqpError) -> None:
        """Answer as a broker does that does not want the link: attach without an end, then detach.

        Nothing of it reaches the broker. The handle of the answer is free again with the detach.
        """
        if len(self._refused) >= MOST_REFUSED:
            raise AmqpProtocolError("too many links that were refused", condition="amqp:resource-limit-exceeded")
        self._refused.add(view.handle)
        handle = next(number for number in range(1 << 32) if number not in self._by_remote)
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
        self._refusals += [encode_performative(attach), encode_performative(Detach(handle, True, error))]
        if self.remote_channel is not None:
            self._wire.send_to_worker(self.take_refusals())

    def _worker_flows(self, body: bytes) -> bytes | None:
        fields = performative_fields(body)
        uint = _uint_reader(body, fields)
        handle = uint(4, -1)
        if handle in self._refused:
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

    def _worker_settles(self, body: bytes) -> bytes | None:
        if not self._tracking:
            return None
        role, first, last, settled, state, span = read_disposition(body)
        if not role or (not settled and state not in State.OUTCOMES):
            return None
        fate = None if span is None else outcome_of(body, span)
        for link, locked in self._named(first, last):
            if settled:
                del link.locked[locked.delivery_id]
                if locked.kept is not None:
                    self._wire.ledger.settled(link, locked, fate, None)
            else:
                locked.fate = fate
                if not locked.is_settling:
                    locked.is_settling = True
                    if locked.kept is not None:
                        self._wire.ledger.settling(link, locked)
        return None

    def _worker_detaches(self, body: bytes) -> bytes | None:
        handle = _uint_reader(body, performative_fields(body))(0)
        if handle in self._refused:
            self._refused.discard(handle)
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
            if link.locks:
                self._locked(link, buffer, at, end)
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
                changed = self._broker_settles(body)
            case Code.ATTACH:
                changed = self._broker_attaches(body)
            case Code.DETACH:
                changed = self._broker_detaches(body)
            case _:
                raise _not_in_a_session(code)
        return encode_frame(self.shown_channel, changed) if changed else changed

    def take_refusals(self) -> bytes:
        """The answers to attaches that were refused, which the worker may be given now."""
        frames = b"".join(encode_frame(self.shown_channel, body) for body in self._refusals)
        self._refusals.clear()
        return frames

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

    def _locked(self, link: WorkerLink, buffer: bytearray, at: int, end: int) -> None:
        """Part of a message under peek-lock: what its lock is, and what the worker is shown of it."""
        policy = link.policy
        if not (policy.sessions if link.is_session else policy.messages):
            return
        was_within = link.is_within
        delivery_id, tag, settled, link.is_within, aborted, offset, number = read_delivery(buffer, at, end)
        if was_within:
            if aborted:
                self._aborted(link)
            return
        link.within_id = None
        if settled or aborted or delivery_id is None:
            return
        if not link.is_session:
            locked = link.locked
            if len(locked) >= MOST_LOCKED or tag is None or len(tag) != _GUID_SIZE:
                return
            until = None if offset < 0 else _MILLISECONDS.unpack_from(buffer, offset)[0] / 1000
            locked[delivery_id] = Locked(delivery_id, tag, until, self._wire.now, number)
            link.within_id = delivery_id
        if offset >= 0 and policy.show_lock_until == "extended":
            shown = int(1000 * (self._wire.wall_now + policy.shown_for_s))
            _MILLISECONDS.pack_into(buffer, offset, shown)

    def _aborted(self, link: WorkerLink) -> None:
        """The broker takes back what it has begun to send."""
        locked = None if link.within_id is None else link.locked.pop(link.within_id, None)
        if locked is not None and locked.kept is not None:
            self._wire.ledger.settled(link, locked, None, None)

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
        changed = self._restored(body, view, link)
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
                self._tracking.append(link)
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

    def _restored(self, body: bytes, view: AttachView, link: WorkerLink) -> bytes | None:
        """The answer with the addresses as the worker wrote them, byte for byte: SDKs compare them."""
        source = link.raw_source[0] if link.raw_source and view.raw_source == link.raw_source[1] else None
        target = link.raw_target[0] if link.raw_target and view.raw_target == link.raw_target[1] else None
        if source is None and target is None:
            return None
        return with_addresses(body, source=source, target=target)

    def _broker_settles(self, body: bytes) -> bytes | None:
        if not self._tracking:
            return None
        role, first, last, settled, state, span = read_disposition(body)
        if role or not settled:
            return None
        error = rejected_error(body, span) if span is not None and state == State.REJECTED else None
        for link, locked in self._named(first, last):
            del link.locked[locked.delivery_id]
            if locked.kept is not None:
                fate = locked.fate if error is None else None
                self._wire.ledger.settled(link, locked, fate, error)
        return None

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
        if link in self._tracking:
            self._tracking.remove(link)
        if link.is_gone:
            return
        link.is_gone = True
        # Deferred messages come over a management node, and are settled over it.
        if link.kind in (LinkKind.RECEIVER, LinkKind.MANAGEMENT) and link.role and link.is_attached:
            self._wire.ledger.link_gone(link, by_worker=by_worker, error=error, now=self._wire.now)
        link.locked.clear()

    def _named(self, first: int, last: int) -> Iterator[tuple[WorkerLink, Locked]]:
        """The messages that a disposition is about, however large the range that it names."""
        count = serial_distance(first, last) + 1
        for link in self._tracking:
            if count == 1:
                locked = link.locked.get(first)
                if locked is not None:
                    yield link, locked
            else:
                for number, locked in list(link.locked.items()):
                    if 0 <= serial_distance(first, number) < count:
                        yield link, locked


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


def _unauthorized(text: str) -> AmqpError:
    """With the map too: azure-servicebus 7.15 reads all three fields of an error without looking."""
    return AmqpError(_UNAUTHORIZED, text, {})


def _not_in_a_session(code: int) -> AmqpProtocolError:
    return AmqpProtocolError(f"performative 0x{code:02x} in a session", condition="amqp:connection:framing-error")


_UNAUTHORIZED: Final = "amqp:unauthorized-access"
_SETTLED: Final = 1
_GUID_SIZE: Final = 16
_MILLISECONDS: Final = Struct(">q")
