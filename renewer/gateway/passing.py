"""The frames between a worker and its broker, one way each: cut, looked at, and passed whole wherever they can be.

A frame that comes alone takes the shortest way there is: most workers fetch and settle one message after the other, and
each frame of theirs finds the caches of its processor cold, so that a function more before it is written costs a
microsecond and not a tenth of one. What only has to be noted of it is noted when it was passed on.

For the same reason the two ways share what they are made of, and not the loops over their frames, alike as these are:
what one does with a frame the other does not, and to ask for it would be a call or two for each frame.
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


class _OneWay:
    """What both ways know: the hop that frames come from, the one that they go to, and the sessions by channel."""

    __slots__ = ("_from", "_queue", "_relay", "_sessions", "_to")

    def __init__(self, relay: Relay, source: Hop, to: Hop, sessions: dict[int, RelaySession]) -> None:
        """`sessions` are by the numbers that the source calls them by."""
        self._relay = relay
        self._from = source
        self._to = to
        self._queue = to.out
        self._sessions = sessions


class WorkerFrames(_OneWay):
    """From the worker to the broker."""

    __slots__ = ()

    def take(self, data: bytearray, now: float) -> None:
        """Bytes of the worker's, which may be changed in place."""
        relay, hop = self._relay, self._from
        relay.now = now
        if not (hop.received or relay.holds_worker or self._queue) and len(data) >= LONE_LEAST:
            size, kind, channel, start, code = LONE_FRAME(data)
            if size == len(data) and kind == PLAIN_FRAME and start == SMALL_START and size <= self._to.frame_size:
                session = self._sessions.get(channel)
                try:
                    if session is not None and session.passes(code, data, HEADER_SIZE, size):
                        relay.write_to_broker(data)
                        self._to.said_at = now
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
            self._from.received.clear()
        elif not relay.holds_worker:
            try:
                self._read()
            except AmqpProtocolError as error:
                relay.fail_worker(error)

    def _read(self) -> None:
        relay, hop = self._relay, self._from
        if not hop.is_greeted and not relay.greet(hop):
            return
        buffer, sessions = hop.received, self._sessions
        run, at, there = 0, 0, len(buffer)
        limit = self._to.frame_size if hop.is_open else MAX_FRAME_SIZE
        try:
            while there - at >= HEADER_SIZE and not (relay.is_over or relay.holds_worker):
                size, offset, kind, channel = FRAME.unpack_from(buffer, at)
                if not HEADER_SIZE <= size <= limit or offset != 2 or kind:
                    check_header(size, offset, kind, limit)
                end = at + size
                if end > there:
                    break
                start = at + 4 * offset
                session = sessions.get(channel)
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
            hop.received = relay.pass_run(self._to, buffer, run, at)


class BrokerFrames(_OneWay):
    """From the broker to the worker."""

    __slots__ = ()

    def take(self, data: bytearray, now: float) -> None:
        """Bytes of the broker's, which may be changed in place."""
        relay, hop = self._relay, self._from
        relay.now = hop.heard_at = now
        if not (hop.received or relay.is_over or relay.is_paused or self._queue) and len(data) >= LONE_LEAST:
            size, kind, channel, start, code = LONE_FRAME(data)
            if size == len(data) and kind == PLAIN_FRAME and start == SMALL_START and size <= self._to.frame_size:
                session = self._sessions.get(channel)
                if session is not None and session.shown_channel == channel:
                    try:
                        if code == TRANSFER:
                            seen = session.delivers(data)
                            if seen is not None:
                                relay.write_to_worker(data)
                                self._to.said_at = now
                                session.delivered(data, seen)
                                return
                        elif code == DISPOSITION:
                            relay.write_to_worker(data)
                            self._to.said_at = now
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
        relay, hop = self._relay, self._from
        if not hop.is_greeted and not relay.greet(hop):
            return
        buffer, sessions = hop.received, self._sessions
        run, at, there = 0, 0, len(buffer)
        limit = self._to.frame_size
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
                session = sessions.get(channel)
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
            hop.received = relay.pass_run(self._to, buffer, run, at)
        if touched is not None:
            touched.more_window()
