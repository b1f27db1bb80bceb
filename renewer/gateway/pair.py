"""A worker's connection and the one to the broker that belongs to it: bytes in, through the relay, and out again."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import structlog

from renewer.errors import TransientError
from renewer.gateway.pressure import Pressure
from renewer.gateway.wire import FAREWELL_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.gateway.house import House
    from renewer.gateway.relay import Relay
    from renewer.gateway.wire import End, Wire

_LAST_S: Final = 2 * FAREWELL_S
"""How long a pair whose worker is gone may go on."""

log = structlog.get_logger("renewer.gateway")


class Pair:
    """One worker and its way to the broker; what the relay asks of its host."""

    __slots__ = (
        "_broker",
        "_dialing",
        "_ends_by",
        "_has_failed",
        "_house",
        "_is_flushing",
        "_is_over",
        "_now",
        "_pressure",
        "_relay",
        "_worker",
        "_worker_is_gone",
        "accepted_at",
        "is_announced",
        "key_name",
        "peer",
    )

    def __init__(self, house: House) -> None:
        self._house = house
        self._now = house.now
        self.accepted_at = house.now()
        self.key_name: str | None = None
        """The name of the key that the worker has proved."""
        self.is_announced = False
        """Whether the house has told of that."""
        self.peer = ""
        self._relay: Relay | None = None
        self._worker: Wire | None = None
        self._broker: Wire | None = None
        self._dialing: anyio.CancelScope | None = None
        self._pressure = Pressure()
        self._is_flushing = False
        self._worker_is_gone = False
        self._ends_by: float | None = None
        self._is_over = False
        self._has_failed = False

    @property
    def passed(self) -> int:
        """Messages that the worker was passed."""
        return 0 if self._relay is None else self._relay.passed_to_worker

    @property
    def buffered(self) -> int:
        """Bytes that wait to be taken, by either side."""
        return sum(wire.buffered for wire in (self._worker, self._broker) if wire is not None)

    # For the house --------------------------------------------------------------------------------------------------

    def worker_end(self) -> End:
        """What the worker's wire belongs to. Only the wire keeps it, so that nothing goes round in a circle."""
        return _WorkerEnd(self)

    def broker_end(self) -> End:
        """The same for the broker's."""
        return _BrokerEnd(self)

    def accept(self, wire: Wire) -> None:
        """The worker's wire, which is not open yet."""
        self._worker = wire

    def advance(self, now: float, login_timeout_s: float) -> None:
        """Time has passed."""
        if self._ends_by is not None and now >= self._ends_by:
            self.abort()
        elif self._relay is not None:
            if self._pressure.broker_is_paused:
                # It is we who do not listen: the broker is not to be taken for silent.
                self._tell(partial(self._relay.from_broker, bytearray()))
            self._tell(self._relay.advance)
        elif now >= self.accepted_at + login_timeout_s:
            self._house.refused("timeout", "the TLS handshake took too long", self.peer)
            self.abort()

    def stop(self, reason: str) -> None:
        """Take leave of both sides; `over` follows soon."""
        if self._relay is None:
            self.abort()
        else:
            self._tell(partial(self._relay.stop, reason))

    def abort(self) -> None:
        """Let go of both sides at once, without a word more."""
        for wire in (self._worker, self._broker):
            if wire is not None:
                wire.abort()
        if self._dialing is not None:
            self._dialing.cancel()

    # For the relay --------------------------------------------------------------------------------------------------

    def dial(self) -> None:
        """Connect to the broker; the relay hears how it went."""
        self._dialing = anyio.CancelScope()
        self._house.start_soon(self._dial)

    def fetch_token(self, entity: str) -> None:
        """Get the gateway's own token; the relay hears how it went."""

        async def fetch() -> None:
            token, detail = None, ""
            try:
                token = await self._house.token(entity)
            except TransientError as error:
                detail = str(error)
            except TimeoutError:
                detail = "no token came in time"
            except Exception as error:
                log.exception("a token could not be had")
                detail = type(error).__name__
            if token is None:
                self._house.upstream_failed(f"no token for the namespace: {detail}")
            if self._relay is not None:
                self._tell(partial(self._relay.token_ready, token, detail))

        self._house.start_soon(fetch)

    def is_draining(self) -> bool:
        """See `House`."""
        return self._house.is_draining()

    def flush_now(self) -> None:
        """Write what there is at once. Whatever comes of that, the relay goes on to tell the leases of its end."""
        try:
            self._flush()
        except Exception as error:
            self._fail(error)

    def flush(self) -> None:
        """Something is to be written that nobody asked for just now: at the end of this turn, in one piece."""
        if not self._is_flushing:
            self._is_flushing = True
            asyncio.get_running_loop().call_soon(self._flush_later)

    def let_in(self, key: str) -> None:
        """The worker has proved this key."""
        self.key_name = key
        self._house.let_in(self)

    def refused(self, why: str, detail: str) -> None:
        """The worker was refused something: `why` is one of few words, `detail` for people."""
        self._house.refused(why, detail, self.peer)

    def upstream_failed(self, detail: str) -> None:
        """The broker was not reached, or was lost."""
        self._house.upstream_failed(detail)

    # From the wires -------------------------------------------------------------------------------------------------

    def worker_opened(self, wire: Wire) -> None:
        """The worker is there."""
        self.peer = wire.peer
        try:
            self._relay = self._house.make_relay(self, self.accepted_at)
            self._relay.write_to_worker = wire.writer
        except Exception as error:
            self._fail(error)

    def worker_received(self, data: bytearray) -> None:
        """Bytes from the worker."""
        relay = self._relay
        if relay is not None:
            # As `_tell` does, here and below, without a call more: every frame comes this way.
            try:
                relay.from_worker(data, self._now())
                self._flush()
            except Exception as error:
                self._fail(error)

    def broker_received(self, data: bytearray) -> None:
        """Bytes from the broker."""
        relay = self._relay
        if relay is not None:
            try:
                relay.from_broker(data, self._now())
                self._flush()
            except Exception as error:
                self._fail(error)

    def worker_ended(self, detail: str) -> None:
        """The worker will say nothing more."""
        if self._relay is None:
            # It was in the middle of a TLS handshake.
            self._house.refused("protocol", detail, self.peer)
        else:
            self._ends_by = self._now() + _LAST_S
            self._tell(self._relay.worker_gone)
        if self._worker is not None:
            self._worker.close()

    def worker_gone(self) -> None:
        """Nothing is left of the worker's wire."""
        self._worker_is_gone = True
        self._worker = None
        if self._ends_by is None:
            self._ends_by = self._now() + _LAST_S
        if self._broker is None and self._dialing is not None:
            self._dialing.cancel()
        self._look_whether_over()

    def broker_opened(self, wire: Wire) -> None:
        """The broker was reached."""
        self._broker = wire
        if self._relay is not None:
            self._relay.write_to_broker = wire.writer
            self._tell(self._relay.dialed)

    def broker_ended(self, detail: str) -> None:
        """The broker will say nothing more."""
        relay = self._relay
        if relay is not None:
            self._tell(partial(relay.broker_gone, detail))
        if self._broker is not None:
            self._broker.close()

    def broker_gone(self) -> None:
        """Nothing is left of the broker's wire."""
        self._broker = None
        self._look_whether_over()

    def worker_filled(self) -> None:
        """The worker does not take what it is sent."""
        self._pressure.worker_is_full = True
        if self._relay is not None:
            self._tell(self._relay.worker_paused)

    def worker_drained(self) -> None:
        """It does again."""
        self._pressure.worker_drained(self._broker)
        if self._relay is not None:
            self._tell(self._relay.worker_drained)

    def broker_filled(self) -> None:
        """The broker does not take what it is sent: then the worker is not listened to."""
        self._pressure.broker_is_full = True
        self._regulate()

    def broker_drained(self) -> None:
        """It does again."""
        self._pressure.broker_is_full = False
        self._regulate()

    # ----------------------------------------------------------------------------------------------------------------

    def _tell(self, what: Callable[[float], object]) -> None:
        try:
            what(self._now())
            self._flush()
        except Exception as error:
            self._fail(error)

    def _flush_later(self) -> None:
        self._is_flushing = False
        if not self._is_over:
            self._tell(lambda _: None)

    def _flush(self) -> None:
        """Write what there is. `send` may call back into here: what it is given has left the list by then."""
        relay, worker, broker = self._relay, self._worker, self._broker
        if relay is None:
            return
        if (out := relay.to_worker) and (worker is not None or self._worker_is_gone):
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            if worker is not None:
                worker.send(data)
                if self._pressure.worker_is_full and self._pressure.limit(worker, broker):
                    asyncio.get_running_loop().call_soon(self._cut_off)
        if (out := relay.to_broker) and broker is not None:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            broker.send(data)
        if relay.holds_worker is not self._pressure.worker_is_paused:
            self._regulate()
        if relay.worker_done and self._worker is not None:
            self._worker.close()
        if relay.broker_done:
            if self._broker is not None:
                self._broker.close()
            elif self._dialing is not None:
                self._dialing.cancel()

    def _cut_off(self) -> None:
        if self._relay is not None and self._worker is not None:
            self._house.refused("protocol", "it takes none of the answers to what it sends", self.peer)
            self._tell(partial(self._relay.stop, "the worker takes none of the answers to what it sends"))
            if self._worker is not None:
                self._worker.abort()

    def _regulate(self) -> None:
        if self._worker is not None and self._relay is not None:
            self._pressure.regulate(self._worker, holds_worker=self._relay.holds_worker)

    async def _dial(self) -> None:
        scope = self._dialing
        relay = self._relay
        if scope is None or relay is None:
            return
        detail: str | None = None
        try:
            await self._house.dial(self, scope)
        except OSError as error:
            detail = str(error) or type(error).__name__
        except Exception as error:
            log.exception("an upstream connection failed")
            detail = type(error).__name__
        finally:
            self._dialing = None
            self._look_whether_over()
        if detail is not None and not self._is_over:
            self._tell(partial(relay.dial_failed, detail))

    def _look_whether_over(self) -> None:
        if self._worker_is_gone and self._broker is None and self._dialing is None and not self._is_over:
            self._is_over = True
            self._house.over(self)
            # It knows us as we know it, and much else.
            self._relay = None

    def _fail(self, error: Exception) -> None:
        """A fault of ours costs this pair and no other."""
        if self._has_failed:
            return
        self._has_failed = True
        log.error("a worker connection failed", peer=self.peer, exc_info=error)
        if self._relay is not None:
            # The leases must hear of it; and if the links can be detached, so much the better.
            self._tell(partial(self._relay.stop, "the gateway failed"))
        self.abort()


class _WorkerEnd:
    """The worker's wire belongs to the pair."""

    __slots__ = ("drained", "ended", "filled", "gone", "opened", "received")

    def __init__(self, pair: Pair) -> None:
        self.opened = pair.worker_opened
        self.received = pair.worker_received
        self.ended = pair.worker_ended
        self.gone = pair.worker_gone
        self.filled = pair.worker_filled
        self.drained = pair.worker_drained


class _BrokerEnd:
    """And so does the broker's."""

    __slots__ = ("drained", "ended", "filled", "gone", "opened", "received")

    def __init__(self, pair: Pair) -> None:
        self.opened = pair.broker_opened
        self.received = pair.broker_received
        self.ended = pair.broker_ended
        self.gone = pair.broker_gone
        self.filled = pair.broker_filled
        self.drained = pair.broker_drained
