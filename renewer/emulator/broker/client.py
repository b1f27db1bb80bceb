"""One client's connection: what it may do, its links, and how it comes to its end."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import traceback
from typing import TYPE_CHECKING, TypeVar

import anyio
import structlog
from anyio.abc import SocketAttribute

from renewer.amqp import (
    AmqpError,
    AmqpTransport,
    AttachRequested,
    Connection,
    ConnectionClosed,
    ConnectionOpened,
    ConnectionState,
    CreditChanged,
    DeliveryReceived,
    DeliveryUpdated,
    LinkDetached,
    ReceiverLink,
    SaslServer,
    SenderLink,
)
from renewer.emulator.broker import refusals
from renewer.emulator.broker.addresses import covers
from renewer.emulator.broker.attaching import answer_attach
from renewer.emulator.broker.deadlines import Ending
from renewer.emulator.broker.ends import ReceiverEnd
from renewer.emulator.broker.nodes import ReplyEnd, RequestEnd
from renewer.emulator.broker.play import AS_ALWAYS, Play, play_for
from renewer.emulator.faults import FaultAction

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import ByteStream

    from renewer.amqp import Event, Link
    from renewer.emulator.broker.addresses import Address
    from renewer.emulator.broker.cbs import Grant
    from renewer.emulator.broker.ends import LinkEnd
    from renewer.emulator.broker.refusals import RefusedError
    from renewer.emulator.broker.server import Broker
    from renewer.emulator.faults import Fault

E = TypeVar("E", bound="LinkEnd")

MECHANISMS = ("MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL")
CLOSE_GRACE_S = 2.0
"""How long a client may take to answer our close."""

_GARBAGE = b"HTTP/1.1 418 I'm a teapot\r\n\r\n"

log = structlog.get_logger("renewer.emulator.broker")


class ClientConnection:
    """A connection with its claims and our ends of its links. `number` tells connections apart."""

    def __init__(self, broker: Broker, number: int, stream: ByteStream, start: Play = AS_ALWAYS) -> None:
        options = broker.options
        self.broker = broker
        self.number = number
        self.sessions_held = 0
        self._start = start
        self._stream = stream
        self.connection = Connection(
            role="server",
            container_id="renewer-emulator",
            max_frame_size=options.max_frame_size,
            channel_max=4999,
            idle_time_out_s=options.idle_timeout_s,
            handle_max=options.handle_max,
            sasl=SaslServer(MECHANISMS, self._authenticate, required=False),
            now=broker.now(),
        )
        self.transport = AmqpTransport(stream, self.connection)
        self._scope = anyio.CancelScope()
        self._ends: dict[Link, LinkEnd] = {}
        self._receivers: dict[str, ReceiverEnd] = {}
        self._replies: dict[Address, list[ReplyEnd]] = {}
        self._claims: dict[str, _Claim] = {}
        self._may_everything = False
        self._auth_deadline = _AuthDeadline(self, broker.now() + options.auth_deadline_s)
        broker.deadlines.add(self._auth_deadline)

    async def run(self) -> None:
        """Serve the client until the connection is over."""
        if self._start.breakage is not None and self._start.breakage.action is FaultAction.RESET:
            self.reset()
        with self._scope:
            try:
                await self.transport.run(self._on_event)
            except Exception as error:
                # A fault of ours costs one client its connection, not everybody the broker. The trace goes out as
                # text: pretty ones show variables, and with them tokens.
                self.broker.counters.failures += 1
                trace = "".join(traceback.format_exception(error))
                log.error("connection failed", connection=self.number, trace=trace)  # noqa: TRY400

    # Links ----------------------------------------------------------------------------------------------------------

    def add(self, end: E) -> E:
        """Keep our end of a link."""
        self._ends[end.link] = end
        if isinstance(end, ReceiverEnd):
            self._receivers[end.link.name] = end
        elif isinstance(end, ReplyEnd):
            self._replies.setdefault(end.node, []).append(end)
        counters = self.broker.counters
        counters.links_per_amqp_session_max = max(counters.links_per_amqp_session_max, len(end.link.session.links))
        return end

    def drop(self, end: LinkEnd, *, lost: bool = False) -> None:
        """Give up our end of a link; no error if that was done before."""
        if self._ends.pop(end.link, None) is None:
            return
        if isinstance(end, ReceiverEnd):
            self._receivers.pop(end.link.name, None)
        elif isinstance(end, ReplyEnd):
            self._replies[end.node].remove(end)
        end.gone(lost=lost)

    def refuse(self, link: SenderLink | ReceiverLink, refusal: RefusedError) -> None:
        """Answer an attach with no."""
        end = self._ends.get(link)
        if end is not None:
            self.drop(end)
        link.refuse(self.broker.error(refusal))
        self.wake()

    def touch_receiver(self, name: str) -> None:
        """A request named this link: it is not idle."""
        end = self._receivers.get(name)
        if end is not None:
            end.touch()

    def steal_receiver(self, name: str) -> None:
        """The name of a link is good for one at a time, the latest (AMQP 1.0 part 2.6.1): free it."""
        old = self._receivers.get(name)
        if old is not None:
            old.detach(AmqpError("amqp:link:stolen", self.broker.describe("The link was attached again."), {}))

    def find_reply_end(self, asked: RequestEnd, reply_to: object) -> ReplyEnd | None:
        """Where to answer: the link for the same node whose target is `reply_to`, rather in the same AMQP session."""

        def fitness(end: ReplyEnd) -> tuple[bool, bool]:
            return end.reply_to == reply_to, end.link.session is asked.link.session

        return max(self._replies.get(asked.node, ()), key=fitness, default=None)

    # What the client may do -----------------------------------------------------------------------------------------

    def grant(self, grant: Grant) -> None:
        """Let the client use what a token is good for, until the token ends."""
        self.broker.deadlines.cancel(self._auth_deadline)
        old = self._claims.pop(grant.path.lower(), None)
        if old is not None:
            self.broker.deadlines.cancel(old)
        claim = _Claim(self, grant.path, None if grant.lasts_s is None else self.broker.now() + grant.lasts_s)
        self._claims[grant.path.lower()] = claim
        self.broker.deadlines.add(claim)

    def is_authorized(self, path: str) -> bool:
        """Whether a token covers the path."""
        return self._may_everything or any(covers(claim, path) for claim in self._claims)

    def check_authorized(self, path: str, *, management: bool = False) -> None:
        """Raise `RefusedError` unless a token covers the path.

        For what goes over a management node, a token for that node will do, too (@azure/service-bus 7.9 behaviour).
        """
        if not self.is_authorized(f"{path}/$management" if management else path):
            raise refusals.unauthorized(f"Unauthorized access. No token for '{path}' was put on this connection.")

    def end_claim(self, path: str) -> None:
        """A token has ended: so do the links that it was for."""
        self._claims.pop(path.lower(), None)
        text = self.broker.describe("ExpiredToken: the token has expired.")
        for end in [*self._ends.values()]:
            if end.path and covers(path, end.path) and not self.is_authorized(end.path):
                end.detach(AmqpError("amqp:unauthorized-access", text, {}))

    # Doing and breaking things --------------------------------------------------------------------------------------

    def play(self, point: str, end: LinkEnd, **attributes: object) -> Play:
        """How a request is to go. If something is to break instead, it just has, and the request is to be ignored."""
        play = play_for(self.broker.faults.pick(point, **attributes))
        if play.breakage is None:
            return play
        self.misbehave(play.breakage, end)
        return Play(is_ignored=True)

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something that may write to this connection, after a delay if there is one."""
        if delay_s > 0:
            self.broker.after(delay_s, lambda: self.later(0.0, action))
        else:
            action()
            self.wake()

    def wake(self) -> None:
        """Have written what there is to write."""
        self.broker.to_flush.add(self)

    def misbehave(self, fault: Fault, end: LinkEnd | None) -> None:
        """Break the link or the connection as a fault says."""
        text = self.broker.describe(fault.message or "As the script wants it.")
        match fault.action:
            case FaultAction.DETACH if end is not None:
                end.detach(AmqpError(fault.condition or "amqp:link:detach-forced", text, {}))
            case FaultAction.RESET:
                self.reset()
            case FaultAction.GARBAGE:
                raw = self._stream.extra(SocketAttribute.raw_socket)
                with contextlib.suppress(OSError):
                    os.write(raw.fileno(), _GARBAGE)
            case _:
                self.close(AmqpError(fault.condition or "amqp:connection:forced", text, {}))

    def close(self, error: AmqpError) -> None:
        """Close the connection in good form, or without if the client does not take part."""
        if self.connection.state not in (ConnectionState.OPENED, ConnectionState.OPENING):
            self.reset()
            return
        self.connection.close(error)
        self.broker.after(CLOSE_GRACE_S, self._scope.cancel)
        self.wake()

    def reset(self) -> None:
        """Cut the TCP connection without a word."""
        raw = self._stream.extra(SocketAttribute.raw_socket)
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._scope.cancel()

    # ----------------------------------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        self.broker.advance()
        match event:
            case DeliveryReceived(link, delivery):
                end = self._ends.get(link)
                if end is not None:
                    end.on_delivery(delivery)
            case DeliveryUpdated(link, delivery, state, settled):
                end = self._ends.get(link)
                if end is not None:
                    end.on_update(delivery, state, settled=settled)
            case CreditChanged(link):
                end = self._ends.get(link)
                if end is not None:
                    end.on_credit()
            case AttachRequested(link):
                answer_attach(self, link)
            case LinkDetached(link, _, closed):
                end = self._ends.get(link)
                if end is not None:
                    self.drop(end, lost=not closed)
            case ConnectionOpened():
                self._begin()
            case ConnectionClosed():
                self._over()
            case _:
                pass
        self.broker.settle_up()

    def _begin(self) -> None:
        """Play what was scripted for the connection."""
        if self._start.refusal is not None:
            self.close(self.broker.error(self._start.refusal))
        elif self._start.breakage is not None:
            self.misbehave(self._start.breakage, None)

    def _over(self) -> None:
        for end in [*self._ends.values()]:
            self.drop(end, lost=True)
        self.broker.deadlines.cancel(self._auth_deadline)
        for claim in self._claims.values():
            self.broker.deadlines.cancel(claim)
        self._claims.clear()

    def _authenticate(self, mechanism: str, user: str, password: str) -> bool:
        if mechanism != "PLAIN":
            return True  # The tokens come later.
        options = self.broker.options
        if options.key is not None and (user, password) != (options.key_name, options.key):
            return False
        self._may_everything = True
        self.broker.deadlines.cancel(self._auth_deadline)
        return True


class _Claim(Ending):
    """What a token is good for."""

    __slots__ = ("client", "path")

    def __init__(self, client: ClientConnection, path: str, ends_at: float | None) -> None:
        self.client = client
        self.path = path
        self.ends_at = ends_at

    def end(self, now: float) -> None:
        """Drop what it was for."""
        self.client.end_claim(self.path)


class _AuthDeadline(Ending):
    """The patience with a client that shows no token."""

    __slots__ = ("client",)

    def __init__(self, client: ClientConnection, ends_at: float) -> None:
        self.client = client
        self.ends_at = ends_at

    def end(self, now: float) -> None:
        """Close the connection."""
        text = self.client.broker.describe("No valid token was put on the connection in time.")
        self.client.close(AmqpError("amqp:unauthorized-access", text, {}))
