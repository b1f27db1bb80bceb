"""A Service Bus broker in memory whose every answer the test decides.

By itself it lets everybody in, takes every token, grants every session that is free and renews its lock. A test
replaces `on_token`, `on_session` or `on_management` to do otherwise, or reaches into `peers`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
from anyio.abc import ByteStream

from renewer.amqp import (
    Accepted,
    AmqpError,
    AmqpTransport,
    Attach,
    AttachRequested,
    Connection,
    ConnectionClosed,
    ConnectionOpened,
    CreditChanged,
    Delivery,
    DeliveryReceived,
    DeliveryState,
    DeliveryUpdated,
    Event,
    Int,
    LinkDetached,
    Message,
    MessageProperties,
    ReceiverLink,
    Rejected,
    SaslServer,
    SenderLink,
    Source,
    Symbol,
    Timestamp,
    Value,
)

FILTER = Symbol("com.microsoft:session-filter")


class MemoryStream(ByteStream):
    """One end of a pipe in memory. `cut` breaks both directions, as a reset does; `freeze` lets nothing through."""

    def __init__(self, send: Any, receive: Any) -> None:
        self._send = send
        self._receive = receive
        self._rest = b""

    @classmethod
    def pair(cls) -> tuple[MemoryStream, MemoryStream]:
        a_send, b_receive = anyio.create_memory_object_stream[bytes](64)
        b_send, a_receive = anyio.create_memory_object_stream[bytes](64)
        return cls(a_send, a_receive), cls(b_send, b_receive)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if not self._rest:
            self._rest = await self._receive.receive()
        data, self._rest = self._rest[:max_bytes], self._rest[max_bytes:]
        return data

    async def send(self, item: bytes) -> None:
        await self._send.send(bytes(item))

    async def send_eof(self) -> None:
        self._send.close()

    async def aclose(self) -> None:
        self.cut()
        await anyio.lowlevel.checkpoint()

    def cut(self) -> None:
        self._send.close()
        self._receive.close()


@dataclass
class TestClock:
    """Monotonic time as it is, wall time as the test says."""

    __test__ = False
    offset_s: float = 0.0

    def now(self) -> float:
        return anyio.current_time()

    def utc_now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.offset_s)


@dataclass
class SessionAsk:
    """A client wants a session: `grant` it, `refuse` it, or keep it waiting."""

    peer: Peer
    link: SenderLink
    remote: Attach
    entity: str
    wanted: str | None

    def grant(
        self, session_id: str | None = None, *, lock_s: float | None = None, answer_filter: Any = ..., ticks: Any = ...
    ) -> None:
        broker = self.peer.broker
        session_id = session_id if session_id is not None else self.wanted
        until = broker.wall() + (broker.lock_s if lock_s is None else lock_s)
        source = self.remote.source
        assert isinstance(source, Source)
        answer = {FILTER: session_id} if answer_filter is ... else answer_filter
        self.link.accept(
            source=Source(address=source.address, filter=answer),
            properties={"com.microsoft:locked-until-utc": to_ticks(until) if ticks is ... else ticks},
        )
        broker.held[self.entity, str(session_id)] = self.link
        self.peer.transport.flush()
        broker.changed()

    def refuse(self, condition: str, description: str = "no") -> None:
        self.link.refuse(AmqpError(condition, description))
        self.peer.transport.flush()


@dataclass
class Ask:
    """A request on `$cbs` or `$management`."""

    peer: Peer
    node: str
    message: Message
    receiver: ReceiverLink

    @property
    def operation(self) -> str:
        return self.message.application_properties["operation"]

    @property
    def session_id(self) -> str:
        assert isinstance(self.message.body, Value)
        return self.message.body.value["session-id"]

    @property
    def link_name(self) -> str:
        return self.message.application_properties["associated-link-name"]

    def answer(
        self,
        status: object = 200,
        condition: str | None = None,
        *,
        body: object = None,
        description: str | None = None,
        kebab: bool = False,
        correlation_id: Any = ...,
        settled: bool = False,
    ) -> None:
        assert self.message.properties is not None
        own = self.message.properties.message_id
        names = ("status-code", "error-condition") if kebab else ("statusCode", "errorCondition")
        fields: dict[str, Any] = {names[0]: Int(status) if type(status) is int else status}
        if condition is not None:
            fields[names[1]] = Symbol(condition)
        if description is not None:
            fields["statusDescription"] = description
        reply = Message(
            properties=MessageProperties(correlation_id=own if correlation_id is ... else correlation_id),
            application_properties=fields,
            body=None if body is None else Value(body),
        )
        self.send(reply.encode(), settled=settled)

    def send(self, payload: bytes, *, settled: bool = False) -> None:
        self.peer.repliers[self.node].send(payload, settled=settled)
        self.peer.transport.flush()

    def renew(self, lock_s: float | None = None, **how: Any) -> None:
        broker = self.peer.broker
        until = broker.wall() + (broker.lock_s if lock_s is None else lock_s)
        self.answer(body={"expiration": Timestamp(int(1000 * until))}, **how)


@dataclass
class Peer:
    """The broker's end of one connection."""

    broker: ScriptedBroker
    connection: Connection
    transport: AmqpTransport
    stream: Any
    repliers: dict[str, SenderLink] = field(default_factory=dict)
    requesters: dict[str, ReceiverLink] = field(default_factory=dict)
    sessions: list[SessionAsk] = field(default_factory=list)
    closed: bool = False

    def on_event(self, event: Event) -> None:
        match event:
            case AttachRequested(link, remote):
                self._on_attach(link, remote)
            case DeliveryReceived(link, delivery):
                node = str(link.local.target.address)
                if self.broker.settles_requests:
                    link.settle(delivery, Accepted())
                self.broker.on_ask(Ask(self, node, Message.decode(delivery.payload), link))
            case LinkDetached(link):
                self.broker.on_detached(link)
            case CreditChanged():
                pass
            case DeliveryUpdated(link, delivery, state, settled) if any(ask.link is link for ask in self.sessions):
                assert isinstance(link, SenderLink)
                self.broker.on_outcome(link, delivery, state, settled)
                self.transport.flush()
            case ConnectionOpened() if len(self.broker.open_peers) > self.broker.max_connections:
                self.connection.close(AmqpError("amqp:resource-limit-exceeded", "too many connections"))
                self.transport.flush()
            case ConnectionClosed():
                self.closed = True
                self.broker.connection_gone(self)
        self.broker.changed()

    def _on_attach(self, link: SenderLink | ReceiverLink, remote: Attach) -> None:
        broker = self.broker
        broker.attach_names.append(remote.name)
        if isinstance(link, ReceiverLink):
            node = str(remote.target.address)
            if (error := broker.refused_nodes.get(node)) is not None:
                link.refuse(error)
                return
            self.requesters[node] = link
            if broker.takes_unsettled_requests_only:
                remote.snd_settle_mode = 0  # Which is echoed.
            link.accept(auto_credit=broker.request_credit, credit=broker.request_credit or 0)
            return
        assert isinstance(remote.source, Source)
        address = str(remote.source.address)
        if remote.source.filter is None:
            if (error := broker.refused_nodes.get(address)) is not None:
                link.refuse(error)
                return
            self.repliers[address] = link
            link.accept()
            return
        ask = SessionAsk(self, link, remote, address.split("/", 3)[3], remote.source.filter[FILTER])
        self.sessions.append(ask)
        broker.on_session(ask)

    def detach(self, link: SenderLink | ReceiverLink, condition: str | None = None) -> None:
        link.detach(AmqpError(condition, "scripted") if condition else None)
        self.transport.flush()


class ScriptedBroker:
    """See the module. Use it as `async with scripted_broker() as broker`, and pass `broker.connect` to the target."""

    def __init__(self, tasks: Any) -> None:
        self.lock_s = 30.0
        self.clock_ahead_s = 0.0
        self.handle_max = 255
        self.max_frame_size = 65536
        self.max_connections = 1000
        self.channel_max = 255
        self.idle_time_out_s: float | None = None
        self.request_credit: int | None = 100
        self.settles_requests = True
        self.takes_unsettled_requests_only = False
        self.refused_nodes: dict[str, AmqpError] = {}
        self.is_mute = False
        self.mute_streams: list[MemoryStream] = []
        self.connect_errors: list[BaseException] = []
        self.connects = 0
        self.peers: list[Peer] = []
        self.attach_names: list[str] = []
        self.asks: list[Ask] = []
        self.tokens: list[Ask] = []
        self.held: dict[tuple[str, str], SenderLink] = {}
        self.free_sessions: dict[str, list[str]] = defaultdict(list)
        self.on_token: Callable[[Ask], None] = lambda ask: ask.answer(200, kebab=True)
        self.on_management: Callable[[Ask], None] = lambda ask: ask.renew()
        self.on_session: Callable[[SessionAsk], None] = self.grant_if_free
        self.on_outcome: Callable[[SenderLink, Delivery, DeliveryState | None, bool], None] = self.settle_as_asked
        self.outcomes: list[tuple[bytes, DeliveryState | None]] = []
        self._tasks = tasks
        self._changed = anyio.Event()

    async def connect(self, _options: object) -> ByteStream:
        self.connects += 1
        self.changed()
        if self.connect_errors:
            raise self.connect_errors.pop(0)
        client, server = MemoryStream.pair()
        if self.is_mute:
            self.mute_streams.append(server)
        else:
            self._tasks.start_soon(self.serve, server)
        return client

    async def serve(self, server: ByteStream) -> None:
        """Be the broker on this stream."""
        connection = Connection(
            role="server",
            container_id="scripted",
            channel_max=self.channel_max,
            handle_max=self.handle_max,
            max_frame_size=self.max_frame_size,
            idle_time_out_s=self.idle_time_out_s,
            sasl=SaslServer(["MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL"]),
            now=anyio.current_time(),
        )
        peer = Peer(self, connection, AmqpTransport(server, connection), server)
        self.peers.append(peer)
        await peer.transport.run(peer.on_event)

    @property
    def peer(self) -> Peer:
        """The latest connection."""
        return self.peers[-1]

    @property
    def open_peers(self) -> list[Peer]:
        return [peer for peer in self.peers if not peer.closed]

    def wall(self) -> float:
        return time.time() + self.clock_ahead_s

    def settle_as_asked(self, link: SenderLink, delivery: Delivery, state: DeliveryState | None, settled: bool) -> None:
        self.outcomes.append((delivery.delivery_tag, state))
        if not settled:
            link.settle(delivery, Rejected() if isinstance(state, Rejected) else state)

    def grant_if_free(self, ask: SessionAsk) -> None:
        wanted = ask.wanted
        if wanted is None:
            free = [name for name in self.free_sessions[ask.entity] if (ask.entity, name) not in self.held]
            if not free:
                ask.refuse("com.microsoft:timeout", "no session")
                return
            wanted = free[0]
        if (ask.entity, wanted) in self.held:
            ask.refuse("com.microsoft:session-cannot-be-locked", "held")
            return
        ask.grant(wanted)

    def on_ask(self, ask: Ask) -> None:
        if ask.node == "$cbs":
            self.tokens.append(ask)
            self.on_token(ask)
        else:
            self.asks.append(ask)
            self.on_management(ask)

    def on_detached(self, link: Any) -> None:
        self.held = {key: value for key, value in self.held.items() if value is not link}

    def connection_gone(self, peer: Peer) -> None:
        self.held = {key: link for key, link in self.held.items() if link not in [ask.link for ask in peer.sessions]}

    def link_of(self, session_id: str, entity: str = "orders") -> SenderLink:
        return self.held[entity, session_id]

    def changed(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, condition: Callable[[], object], within_s: float = 10.0) -> None:
        """Wait until `condition()`, looked at whenever something happened at the broker."""
        with anyio.fail_after(within_s):
            while not condition():
                await self._changed.wait()


@asynccontextmanager
async def scripted_broker():
    async with anyio.create_task_group() as tasks:
        broker = ScriptedBroker(tasks)
        yield broker
        for stream in broker.mute_streams:
            stream.cut()
        tasks.cancel_scope.cancel()


def to_ticks(at: float) -> int:
    return int(at * 10_000_000) + 621_355_968_000_000_000
