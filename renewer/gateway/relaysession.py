"""One AMQP session of a worker as it passes: its windows, and what becomes of each frame.

Each frame is looked at where it lies in the buffer that it came in. A method returns None to have it passed byte for
byte (after patching it in place, where only bytes of the same number change), the bytes to pass instead, or nothing at
all (`SWALLOW`).
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol

from renewer.amqp import Flow, encode_frame, encode_performative
from renewer.amqp.frames import HEADER_SIZE
from renewer.amqp.serial import serial_add
from renewer.amqp.spans import performative_fields, splice
from renewer.errors import AmqpProtocolError
from renewer.gateway.codes import DISPOSITION, FLOW, TRANSFER, Code
from renewer.gateway.deliveries import Deliveries
from renewer.gateway.fields import encoded_uint, uint_reader
from renewer.gateway.flows import check_flow, read_flow
from renewer.gateway.gate import Judge
from renewer.gateway.links import RECEIVER, LinkKind
from renewer.gateway.sessionlinks import SessionLinks
from renewer.gateway.transfers import transfer_handle
from renewer.gateway.watching import Exchanges, on_answer, on_ask
from renewer.gateway.windows import ClampedWindow

if TYPE_CHECKING:
    from typing import TypeAlias

    from renewer.amqp import AmqpError
    from renewer.amqp.spans import Fields
    from renewer.gateway.addresses import Node
    from renewer.gateway.links import WorkerLink
    from renewer.gateway.login import Login
    from renewer.gateway.options import EntityPolicy
    from renewer.gateway.transfers import UsualLock
    from renewer.gateway.windows import Sharing

    Seen: TypeAlias = "tuple[WorkerLink, UsualLock] | tuple[()]"

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
        "_links",
        "_next_outgoing_id",
        "_outgoing_window",
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
        self._deliveries = Deliveries(wire)
        self._links = SessionLinks(self, wire, self._deliveries)
        # Asked for each frame: not by way of the links.
        self._by_handle = self._links.by_handle
        self._by_remote = self._links.by_remote
        self.channel = channel
        self.remote_channel: int | None = None
        self.shown_channel = channel
        self.is_ended_by_worker = False
        self.is_ended_by_broker = False
        self.window = ClampedWindow(worker_window, frame_limit, sharing)
        self.passed = 0
        """Messages, or parts of one, that went to the worker."""
        self._next_outgoing_id = 0
        self._outgoing_window = 0

    @property
    def links(self) -> list[WorkerLink]:
        """Those that hold a handle of the worker's."""
        return list(self._by_handle.values())

    # What the worker sends ------------------------------------------------------------------------------------------

    def worker_began(self, body: bytes, fields: Fields) -> bytes:
        """The worker's begin, with the window that the broker is told."""
        uint = uint_reader(body, fields)
        self._next_outgoing_id = uint(1)
        self._outgoing_window = uint(3)
        if self.window.first == uint(2):
            return body
        return splice(body, fields, {2: encoded_uint(self.window.first)})

    def passes(self, code: int, buffer: bytearray, at: int, end: int) -> bool:
        """Whether the worker's frame whose body is at `at` goes on as it lies there. Most do.

        A disposition is then to be noted with `settled_by_worker`. What does not go on is for `from_worker`.
        AmqpProtocolError if it makes no sense.
        """
        if self.is_ended_by_worker or self.is_ended_by_broker:
            return False
        if code == DISPOSITION:
            return True
        if code == FLOW:
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
        if code == TRANSFER:
            link = self._by_handle.get(transfer_handle(buffer, at))
            if link is None or link.kind is not LinkKind.SENDER:
                return False
            self._next_outgoing_id = serial_add(self._next_outgoing_id, 1)
            return True
        return False

    def settled_by_worker(self, buffer: bytearray, at: int, end: int) -> None:
        """A disposition that lies at `at`. AmqpProtocolError if it is none."""
        self._deliveries.worker_settles(buffer, at, end)

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
                changed = self._links.worker_attaches(body)
            case Code.DETACH:
                changed = self._links.worker_detaches(body)
            case _:
                raise _not_in_a_session(code)
        return encode_frame(self.channel, changed) if changed else changed

    def _worker_flows(self, body: bytes) -> bytes | None:
        fields = performative_fields(body)
        uint = uint_reader(body, fields)
        handle = uint(4, -1)
        if handle in self._links.gate.refused:
            return SWALLOW
        if handle >= 0 and handle not in self._by_handle:
            raise AmqpProtocolError("a flow for no link", condition="amqp:session:unattached-handle")
        next_incoming_id, window = uint(0, -1), uint(1)
        self._outgoing_window = uint(3)
        told = self.window.told(None if next_incoming_id < 0 else next_incoming_id, window)
        return None if told == window else splice(body, fields, {1: encoded_uint(told)})

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

    # What the broker sends ------------------------------------------------------------------------------------------

    def broker_began(self, channel: int, body: bytes, fields: Fields) -> None:
        """The broker's answer to the begin."""
        self.remote_channel = channel
        self.window.began(uint_reader(body, fields)(1))

    def settled_by_broker(self, buffer: bytearray, at: int, end: int) -> None:
        """A disposition that lies at `at`; passes as it is. AmqpProtocolError if it is none."""
        self._deliveries.broker_settles(buffer, at, end)

    def delivers(self, frame: bytearray) -> Seen | None:
        """Whether this transfer, which came alone, goes to the worker as it lies here now: `delivered` notes it then.

        None, and nothing done, for one that is for `transfer_from_broker`.
        """
        code = frame[_HANDLE_AT]
        if code == 0x52:
            link = self._by_remote.get(frame[_HANDLE_AT + 1])
        elif code == 0x43:
            link = self._by_remote.get(0)
        else:
            return None
        if link is None or link.kind is not RECEIVER or frame[_LIST_AT] != 0xC0:
            return None
        if not link.is_watched:
            return _NOTHING_SEEN
        lock = self._deliveries.shown(link, frame, HEADER_SIZE, len(frame))
        return None if lock is None else (link, lock)

    def delivered(self, frame: bytearray, seen: Seen) -> None:
        """It was passed on: now there is time to note it."""
        self.passed += 1
        window = self.window
        window.next_id = (window.next_id + 1) & 0xFFFFFFFF
        size = len(frame) - HEADER_SIZE
        if size > window.largest_seen:
            window.largest_seen = size
        if seen:
            link, lock = seen
            self._deliveries.noted(link, frame, HEADER_SIZE, len(frame), lock)
        if window.needs_flow:
            self.more_window()

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
        if kind is RECEIVER:
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
                check_flow(body)
                changed = None
            case Code.DISPOSITION:
                self._deliveries.broker_settles(body, 0, len(body))
                changed = None
            case Code.ATTACH:
                changed = self._links.broker_attaches(body)
            case Code.DETACH:
                changed = self._links.broker_detaches(body)
            case _:
                raise _not_in_a_session(code)
        return encode_frame(self.shown_channel, changed) if changed else changed

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

    def take_refusals(self) -> bytes:
        """The answers to attaches that were refused, which the worker may be given now."""
        return self._links.take_refusals()

    def ended(self, *, by_worker: bool, error: AmqpError | None) -> None:
        """The session is over, and all links with it."""
        self._links.ended(by_worker=by_worker, error=error)

    def farewell(self) -> list[bytes]:
        """Frames that detach all links at the broker, whose worker is gone."""
        return [] if self.is_ended_by_worker or self.is_ended_by_broker else self._links.farewell()


def _not_in_a_session(code: int) -> AmqpProtocolError:
    return AmqpProtocolError(f"performative 0x{code:02x} in a session", condition="amqp:connection:framing-error")


_LIST_AT: Final = HEADER_SIZE + 3
_HANDLE_AT: Final = HEADER_SIZE + 6
"""Where a transfer of the usual kind has its list's constructor, and its first field."""
_NOTHING_SEEN: Final[Seen] = ()
_UINT: Final = Struct(">I")
