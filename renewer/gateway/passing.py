"""The frames between a worker and its broker, one way each: cut, looked at, and passed whole wherever they can be.

A frame that comes alone takes the shortest way there is: most workers fetch and settle one message after the other, and
each frame of theirs finds the caches of its processor cold, so that a function more before it is written costs a
microsecond and not a tenth of one. What only has to be noted of it is noted when it was passed on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from renewer.amqp.frames import HEADER_SIZE
from renewer.errors import AmqpProtocolError
from renewer.gateway.codes import DISPOSITION, TRANSFER
from renewer.gateway.framing import (
    CHANNEL,
    CHANNEL_OFFSET,
    FRAME,
    LONE_FRAME,
    LONE_LEAST,
    MAX_FRAME_SIZE,
    PLAIN_FRAME,
    SMALL_DESCRIPTOR,
    SMALL_START,
    check_header,
)

if TYPE_CHECKING:
    from renewer.gateway.hops import Hop
    from renewer.gateway.relay import Relay
    from renewer.gateway.relaysession import RelaySession


class WorkerFrames:
    """From the worker to the broker."""

    __slots__ = ("_broker", "_hop", "_ours", "_queue", "_relay")

    def __init__(self, relay: Relay, worker: Hop, broker: Hop, ours: dict[int, RelaySession]) -> None:
        """`ours` are the sessions by the worker's numbers."""
        self._relay = relay
        self._hop = worker
        self._broker = broker
        self._queue = broker.out
        self._ours = ours

    def take(self, data: bytearray, now: float) -> None:
        """Bytes of the worker's, which may be changed in place."""
        relay, hop = self._relay, self._hop
        relay.now = now
        if not (hop.received or relay.holds_worker or self._queue) and len(data) >= LONE_LEAST:
            size, kind, channel, start, code = LONE_FRAME(data)
            if size == len(data) and kind == PLAIN_FRAME and start == SMALL_START and size <= self._broker.frame_size:
                session = self._ours.get(channel)
                try:
                    if session is not None and session.passes(code, data, HEADER_SIZE, size):
                        relay.write_to_broker(data)
                        self._broker.said_at = now
                        if code == DISPOSITION:
                            session.settled_by_worker(data, HEADER_SIZE, size)
                        return
                except AmqpProtocolError as error:
                    relay.fail_worker(error)
                    return
        hop.received += data
        self.pump()

    def pump(self) -> None:
        """Do what can be done with what the worker has sent."""
        relay = self._relay
        if relay.is_over:
            self._hop.received.clear()
        elif not relay.holds_worker:
            try:
                self._read()
            except AmqpProtocolError as error:
                relay.fail_worker(error)

    def _read(self) -> None:
        relay, hop = self._relay, self._hop
        if not hop.is_greeted and not relay.greet(hop):
            return
        buffer, ours = hop.received, self._ours
        run, at, there = 0, 0, len(buffer)
        limit = self._broker.frame_size if hop.is_open else MAX_FRAME_SIZE
        try:
            while there - at >= HEADER_SIZE and not (relay.is_over or relay.holds_worker):
                size, offset, kind, channel = FRAME.unpack_from(buffer, at)
                if not HEADER_SIZE <= size <= limit or offset != 2 or kind:
                    check_header(size, offset, kind, limit)
                end = at + size
                if end > there:
                    break
                start = at + 4 * offset
                session = ours.get(channel)
                if session is not None and end - start > 2 and buffer[start : start + 2] == SMALL_DESCRIPTOR:
                    code = buffer[start + 2]
                    if session.passes(code, buffer, start, end):
                        if code == DISPOSITION:
                            session.settled_by_worker(buffer, start, end)
                        at = end
                        continue
                # In order: what is done with this frame may send something too.
                if run < at:
                    relay.send_to_broker(bytes(buffer[run:at]))
                run = at
                body = bytes(buffer[start:end])
                changed = relay.from_worker_frame(channel, body) if body else b""
                if changed is not None:
                    relay.send_to_broker(changed)
                    run = end
                at = end
        finally:
            # What came before a fault was right.
            hop.received = relay.pass_run(self._broker, buffer, run, at)


class BrokerFrames:
    """From the broker to the worker."""

    __slots__ = ("_by_remote", "_hop", "_queue", "_relay", "_worker")

    def __init__(self, relay: Relay, broker: Hop, worker: Hop, by_remote: dict[int, RelaySession]) -> None:
        """`by_remote` are the sessions by the broker's numbers."""
        self._relay = relay
        self._hop = broker
        self._worker = worker
        self._queue = worker.out
        self._by_remote = by_remote

    def take(self, data: bytearray, now: float) -> None:
        """Bytes of the broker's, which may be changed in place."""
        relay, hop = self._relay, self._hop
        relay.now = hop.heard_at = now
        if not (hop.received or relay.is_over or relay.is_paused or self._queue) and len(data) >= LONE_LEAST:
            size, kind, channel, start, code = LONE_FRAME(data)
            if size == len(data) and kind == PLAIN_FRAME and start == SMALL_START and size <= self._worker.frame_size:
                session = self._by_remote.get(channel)
                if session is not None and session.shown_channel == channel:
                    try:
                        if code == TRANSFER:
                            seen = session.delivers(data)
                            if seen is not None:
                                relay.write_to_worker(data)
                                self._worker.said_at = now
                                session.delivered(data, seen)
                                return
                        elif code == DISPOSITION:
                            relay.write_to_worker(data)
                            self._worker.said_at = now
                            session.settled_by_broker(data, HEADER_SIZE, size)
                            return
                    except AmqpProtocolError as error:
                        relay.fail_broker(error)
                        return
        if relay.broker_done:
            return
        hop.received += data
        try:
            self._read()
        except AmqpProtocolError as error:
            relay.fail_broker(error)
        relay.pump_worker()

    def _read(self) -> None:
        relay, hop = self._relay, self._hop
        if not hop.is_greeted and not relay.greet(hop):
            return
        buffer, by_remote = hop.received, self._by_remote
        run, at, there = 0, 0, len(buffer)
        limit = self._worker.frame_size
        touched: RelaySession | None = None
        try:
            while there - at >= HEADER_SIZE:
                size, offset, kind, channel = FRAME.unpack_from(buffer, at)
                if not HEADER_SIZE <= size <= limit or offset != 2 or kind:
                    check_header(size, offset, kind, limit)
                end = at + size
                if end > there:
                    break
                start = at + 4 * offset
                session = by_remote.get(channel)
                code = 0
                if end - start > 2 and buffer[start : start + 2] == SMALL_DESCRIPTOR and not relay.is_over:
                    code = buffer[start + 2]
                if code == TRANSFER and session is not None:
                    if touched is not session:
                        if touched is not None:
                            touched.more_window()
                        touched = session
                    changed = session.transfer_from_broker(buffer, start, end)
                elif code == DISPOSITION and session is not None:
                    session.settled_by_broker(buffer, start, end)
                    changed = None
                else:
                    # In order: what is done with this frame may send something too.
                    if run < at:
                        relay.pass_to_worker(bytes(buffer[run:at]))
                    run = at
                    changed = (
                        relay.from_broker_frame(channel, session, bytes(buffer[start:end])) if start < end else b""
                    )
                if changed is not None:
                    if run < at:
                        relay.pass_to_worker(bytes(buffer[run:at]))
                    relay.pass_to_worker(changed)
                    run = end
                elif session is not None and session.shown_channel != channel:
                    CHANNEL.pack_into(buffer, at + CHANNEL_OFFSET, session.shown_channel)
                at = end
        finally:
            # What came before a fault was right.
            hop.received = relay.pass_run(self._worker, buffer, run, at)
        if touched is not None:
            touched.more_window()
