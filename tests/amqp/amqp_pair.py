"""A client and a server joined in memory, and strategies for AMQP values."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from renewer.amqp import (
    AmqpArray,
    AttachRequested,
    Byte,
    Char,
    Connection,
    ConnectionClosed,
    Decimal32,
    Decimal64,
    Decimal128,
    Described,
    Event,
    Float32,
    Int,
    Link,
    Performative,
    ReceiverLink,
    SaslAnonymous,
    SaslServer,
    SenderLink,
    Session,
    Short,
    Source,
    Symbol,
    Target,
    Timestamp,
    Ubyte,
    Uint,
    Ulong,
    Ushort,
    encode_frame,
    encode_performative,
)

BIG = 0xFFFF_FFFF
"""The highest id before the wrap."""


def accept(request: AttachRequested) -> None:
    """What a server does that has no opinion: ten credits to whoever sends."""
    if isinstance(request.link, ReceiverLink):
        request.link.accept(credit=10)
    else:
        request.link.accept()


class Pair:
    """Carries bytes both ways until nobody has anything to say. Links of the server are found by name."""

    def __init__(
        self,
        *,
        client: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
        on_request: Callable[[AttachRequested], None] = accept,
        chunk: int | None = None,
    ) -> None:
        self.now = 1000.0
        self.on_request = on_request
        self.chunk = chunk
        client_options = {"container_id": "client", "sasl": SaslAnonymous(), **(client or {})}
        server_options = {"container_id": "server", "sasl": SaslServer(["ANONYMOUS"]), **(server or {})}
        self.client = Connection(role="client", now=self.now, **client_options)
        self.server = Connection(role="server", now=self.now, **server_options)
        self.server_links: dict[str, SenderLink | ReceiverLink] = {}
        self.client_log: list[Event] = []
        self.server_log: list[Event] = []

    def pump(self) -> tuple[list[Event], list[Event]]:
        """Exchange until quiet; the events of the client and of the server since the last time."""
        client_events: list[Event] = []
        server_events: list[Event] = []
        while True:
            client_events += self.client.advance(self.now)
            server_events += self._served(self.server.advance(self.now))
            to_server, to_client = self.client.take_output(self.now), self.server.take_output(self.now)
            if not to_server and not to_client:
                break
            for data in self._chunks(to_server):
                server_events += self._served(self.server.receive(data, self.now))
            for data in self._chunks(to_client):
                client_events += self.client.receive(data, self.now)
        self.client_log += client_events
        self.server_log += server_events
        return client_events, server_events

    def open_session(self, **options: Any) -> Session:
        """An open session of the client's."""
        self.pump()
        session = self.client.open_session(**options)
        self.pump()
        return session

    def receiver(self, session: Session, name: str = "r", **options: Any) -> tuple[ReceiverLink, SenderLink]:
        """An attached link that the client receives on, and the server's end of it."""
        link = session.attach_receiver(name, source=Source("queue"), target=Target("here"), **options)
        self.pump()
        end = self.server_links[name]
        assert isinstance(end, SenderLink)
        return link, end

    def sender(self, session: Session, name: str = "s", **options: Any) -> tuple[SenderLink, ReceiverLink]:
        """An attached link that the client sends on, and the server's end of it."""
        link = session.attach_sender(name, source=Source("here"), target=Target("queue"), **options)
        self.pump()
        end = self.server_links[name]
        assert isinstance(end, ReceiverLink)
        return link, end

    def _served(self, events: list[Event]) -> list[Event]:
        for event in events:
            if isinstance(event, AttachRequested):
                self.server_links[event.remote.name] = event.link
                self.on_request(event)
        return events

    def _chunks(self, data: bytes) -> list[bytes]:
        size = self.chunk or max(1, len(data))
        return [data[at : at + size] for at in range(0, len(data), size)]


def of_type(events: list[Event], kind: type) -> list[Any]:
    """The events of exactly that class."""
    return [event for event in events if type(event) is kind]


def about(events: list[Event], link: Link) -> list[str]:
    """The names of the events about one link."""
    return [type(event).__name__ for event in events if getattr(event, "link", None) is link]


def frame(performative: Performative, payload: bytes = b"", channel: int = 0) -> bytes:
    """One AMQP frame."""
    return encode_frame(channel, encode_performative(performative) + payload)


def frame_sizes(data: bytes) -> list[int]:
    """The sizes of the frames in `data`."""
    sizes, at = [], 0
    while at < len(data):
        sizes.append(int.from_bytes(data[at : at + 4], "big"))
        at += sizes[-1]
    return sizes


def violates(pair: Pair, data: bytes) -> str:
    """The condition with which the server closes the connection because of `data`."""
    events = pair.server.receive(data, pair.now)
    closed = of_type(events, ConnectionClosed)
    assert [event.reason for event in closed] == ["protocol-error"]
    assert of_type(pair.pump()[0], ConnectionClosed) == [ConnectionClosed(closed[0].error, "closed")]
    return str(closed[0].error.condition)


def same(left: object, right: object) -> bool:
    """Equality that sees types, and NaN as equal to itself."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float) and isinstance(right, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return same(list(left.keys()), list(right.keys())) and same(list(left.values()), list(right.values()))
    if isinstance(left, Described) and isinstance(right, Described):
        return same(left.descriptor, right.descriptor) and same(left.value, right.value)
    if isinstance(left, AmqpArray) and isinstance(right, AmqpArray):
        return (
            left.type is right.type
            and same(left.descriptor, right.descriptor)
            and same(list(left.items), list(right.items))
        )
    return left == right


def _signed(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(1 << (bits - 1)), (1 << (bits - 1)) - 1) | st.integers(-130, 130).filter(
        lambda value: bits > 8 or -128 <= value <= 127
    )


def _unsigned(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, (1 << bits) - 1) | st.integers(0, 255)


def _float32(raw: bytes) -> Float32:
    return Float32(struct.unpack(">f", raw)[0])


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
SYMBOLS = st.text(st.characters(max_codepoint=127), max_size=300).map(Symbol)

SCALARS: dict[type, st.SearchStrategy[Any]] = {
    type(None): st.none(),
    bool: st.booleans(),
    Ubyte: _unsigned(8).map(Ubyte),
    Ushort: _unsigned(16).map(Ushort),
    Uint: _unsigned(32).map(Uint),
    Ulong: _unsigned(64).map(Ulong),
    Byte: _signed(8).map(Byte),
    Short: _signed(16).map(Short),
    Int: _signed(32).map(Int),
    int: _signed(64),
    Float32: st.floats(width=32, allow_nan=False).map(Float32),
    float: st.floats(allow_nan=False),
    Decimal32: st.binary(min_size=4, max_size=4).map(Decimal32),
    Decimal64: st.binary(min_size=8, max_size=8).map(Decimal64),
    Decimal128: st.binary(min_size=16, max_size=16).map(Decimal128),
    Char: st.characters(exclude_categories=["Cs"]).map(Char),
    Timestamp: _signed(64).map(Timestamp),
    UUID: st.uuids(),
    bytes: st.binary(max_size=300),
    str: TEXT,
    Symbol: SYMBOLS,
}
KEYS = st.one_of(*(strategy for kind, strategy in SCALARS.items() if kind not in (float, Float32)))


def _arrays(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def of(kind: type) -> st.SearchStrategy[AmqpArray]:
        return st.builds(
            AmqpArray,
            st.lists(SCALARS[kind], max_size=20),
            st.just(kind),
            st.none() | st.just(Symbol("test:item")) | _unsigned(64).map(Ulong),
        )

    nested = st.builds(AmqpArray, st.lists(st.lists(children, max_size=3), max_size=3), st.just(list)) | st.builds(
        AmqpArray, st.lists(st.dictionaries(KEYS, children, max_size=3), max_size=3), st.just(dict)
    )
    deep = st.builds(AmqpArray, st.lists(st.sampled_from(list(SCALARS)).flatmap(of), max_size=3), st.just(AmqpArray))
    return st.sampled_from(list(SCALARS)).flatmap(of) | nested | deep


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(*SCALARS.values()),
    lambda children: (
        st.lists(children, max_size=6)
        | st.dictionaries(KEYS, children, max_size=6)
        | st.builds(Described, _unsigned(64).map(Ulong) | SYMBOLS, children)
        | _arrays(children)
    ),
    max_leaves=12,
)
