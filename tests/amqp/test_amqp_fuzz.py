"""Whatever arrives, one kind of error comes out, or none at all, and memory stays in proportion to what was sent."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.amqp import (
    AMQP_HEADER,
    SASL_HEADER,
    Accepted,
    AmqpError,
    Attach,
    AttachRequested,
    Begin,
    Close,
    Connection,
    ConnectionClosed,
    ConnectionState,
    Data,
    DeliveryReceived,
    Described,
    Detach,
    Disposition,
    End,
    Event,
    Flow,
    FrameReader,
    FrameType,
    Header,
    LinkDetached,
    LinkRefused,
    Message,
    MessageProperties,
    Modified,
    Open,
    ReceiverLink,
    Rejected,
    SaslAnonymous,
    SaslChallenge,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    SaslResponse,
    SaslServer,
    SenderLink,
    SessionEnded,
    Source,
    Target,
    Transfer,
    Uint,
    Ulong,
    Value,
    decode,
    decode_performative,
    encode,
    encode_frame,
    encode_performative,
)
from renewer.errors import AmqpProtocolError
from tests.amqp.amqp_pair import VALUES, Pair, of_type

NOISE = st.binary(max_size=200)


@st.composite
def mutated(draw: st.DrawFn, original: st.SearchStrategy[bytes]) -> bytes:
    """Bytes that were right once."""
    data = bytearray(draw(original))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 4)):
            case 0 if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case 1 if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case 2:
                del data[at : at + draw(st.integers(1, 8))]
            case 3:
                data[at:at] = draw(st.binary(max_size=8))
            case _:
                del data[at:]
    return bytes(data)


ENCODED = VALUES.map(encode)
CODES = st.sampled_from([*range(0x10, 0x19), *range(0x23, 0x2A), 0x1D, 0x30, *range(0x40, 0x45), *range(0x70, 0x79)])
ODD_COMPOSITES = st.builds(Described, CODES.map(Ulong), st.lists(VALUES, max_size=14) | VALUES).map(encode)
MESSAGES = st.builds(
    Message,
    body=st.none()
    | st.builds(Data, st.lists(st.binary(max_size=20), min_size=1, max_size=3))
    | st.builds(Value, VALUES),
    properties=st.none() | st.builds(MessageProperties, message_id=st.uuids() | st.text(max_size=5)),
    application_properties=st.dictionaries(st.text(max_size=5), st.integers(0, 9) | st.text(max_size=5), max_size=3),
    message_annotations=st.dictionaries(st.text("abc", max_size=5), st.integers(0, 9), max_size=3),
    header=st.none() | st.builds(Header, durable=st.booleans()),
).map(Message.encode)


@given(NOISE | mutated(ENCODED) | mutated(ODD_COMPOSITES))
def test_decoding_a_value_fails_in_one_way_only(data: bytes) -> None:
    with suppress(AmqpProtocolError):
        value, end = decode(data)
        assert end <= len(data)
        decode(encode(value))


@given(NOISE | ODD_COMPOSITES | mutated(ODD_COMPOSITES))
def test_decoding_a_performative_fails_in_one_way_only(data: bytes) -> None:
    with suppress(AmqpProtocolError):
        performative, _ = decode_performative(data)
        assert decode_performative(encode_performative(performative))[0] == performative


@given(NOISE | ODD_COMPOSITES | mutated(MESSAGES) | st.lists(ODD_COMPOSITES, max_size=4).map(b"".join))
def test_decoding_a_message_fails_in_one_way_only(data: bytes) -> None:
    with suppress(AmqpProtocolError):
        message = Message.decode(data)
        Message.decode(message.encode())


@given(st.lists(NOISE | mutated(ENCODED.map(lambda data: encode_frame(1, data))), max_size=5))
def test_cutting_frames_fails_in_one_way_only(pieces: list[bytes]) -> None:
    reader = FrameReader(1000)
    with suppress(AmqpProtocolError):
        for piece in pieces:
            reader.feed(piece)
            for frame in reader:
                assert len(frame.body) <= 992
        assert len(reader) < 1000


@given(ENCODED, st.integers(1, 200))
def test_memory_stays_in_proportion(data: bytes, times: int) -> None:
    """A small value repeated in a list: what it costs in memory is bounded by a factor of what was sent."""
    wire = b"\xd0" + (len(data) * times + 4).to_bytes(4, "big") + times.to_bytes(4, "big") + data * times
    tracemalloc.start()
    try:
        decode(wire)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000 + 150 * len(wire)


@pytest.mark.parametrize("item", ["45", "c10100", "e00100", "e0022040", "f00000000500000020" + "40", "004040", "40"])
def test_the_dearest_values_cost_a_bounded_factor(item: str) -> None:
    data = bytes.fromhex(item)
    times = 60_000 // len(data)
    wire = b"\xd0" + (len(data) * times + 4).to_bytes(4, "big") + times.to_bytes(4, "big") + data * times
    tracemalloc.start()
    try:
        decode(wire)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 150 * len(wire)


# Connections at every stage

UINTS = st.integers(0, 4) | st.sampled_from([255, 256, 0x7FFF_FFFF, 0xFFFF_FFFE, 0xFFFF_FFFF])
MAYBE_UINTS = st.none() | UINTS
MAYBE_MAPS = st.none() | st.dictionaries(st.text("ab", min_size=1, max_size=2), VALUES, max_size=2)
NAMES = st.sampled_from(["r", "s", "x", "y"])
ERRORS = st.none() | st.builds(AmqpError, st.just("amqp:internal-error"), st.none() | st.text(max_size=5), MAYBE_MAPS)
STATES = (
    st.none()
    | st.builds(Accepted)
    | st.builds(Rejected, ERRORS)
    | st.builds(Modified)
    | st.just(Described(Ulong(0x34), []))
)
NODES = st.none() | st.text(max_size=3) | st.just("x" * 400)
PERFORMATIVES: st.SearchStrategy[Any] = st.one_of(
    st.builds(Open, st.text(max_size=3), max_frame_size=st.sampled_from([0, 512, 65536]), idle_time_out=MAYBE_UINTS),
    st.builds(Begin, st.none() | st.integers(0, 2), UINTS, UINTS, UINTS, UINTS),
    st.builds(
        Attach,
        NAMES,
        UINTS,
        st.booleans(),
        source=st.none() | st.builds(Source, NODES, filter=MAYBE_MAPS),
        target=st.none() | st.builds(Target, NODES),
        initial_delivery_count=MAYBE_UINTS,
        max_message_size=st.none() | st.sampled_from([0, 1, 100]),
        properties=MAYBE_MAPS,
    ),
    st.builds(
        Flow,
        MAYBE_UINTS,
        UINTS,
        UINTS,
        UINTS,
        MAYBE_UINTS,
        MAYBE_UINTS,
        MAYBE_UINTS,
        MAYBE_UINTS,
        st.booleans(),
        st.booleans(),
    ),
    st.builds(
        Transfer,
        UINTS,
        MAYBE_UINTS,
        st.none() | st.binary(max_size=3),
        MAYBE_UINTS,
        st.none() | st.booleans(),
        st.booleans(),
        state=STATES,
        aborted=st.booleans(),
    ),
    st.builds(Disposition, st.booleans(), UINTS, MAYBE_UINTS, st.booleans(), STATES),
    st.builds(Detach, UINTS, st.booleans(), ERRORS),
    st.builds(End, ERRORS),
    st.builds(Close, ERRORS),
    st.builds(SaslMechanisms, st.lists(st.sampled_from(["ANONYMOUS", "PLAIN"]), max_size=2)),
    st.builds(SaslInit, st.sampled_from(["ANONYMOUS", "PLAIN"]), st.none() | st.binary(max_size=5)),
    st.builds(SaslChallenge, st.binary(max_size=3)),
    st.builds(SaslResponse, st.binary(max_size=3)),
    st.builds(SaslOutcome, st.integers(0, 4)),
)
FRAMES = st.builds(
    lambda channel, performative, payload, type_: encode_frame(
        channel, encode_performative(performative) + payload, type_
    ),
    st.sampled_from([0, 0, 0, 1, 255, 256]),
    PERFORMATIVES,
    st.sampled_from([b"", b"", b"payload"]),
    st.sampled_from([FrameType.AMQP] * 9 + [FrameType.SASL]),
)
ATTACKS = st.lists(FRAMES | mutated(FRAMES) | NOISE, max_size=12)
ROLES = st.sampled_from(["client", "server"])


def opened(stage: int) -> Pair:
    """A pair that has come some way: nothing, opened, a session, links, deliveries under way."""
    pair = Pair(client={"idle_time_out_s": 60}, server={"idle_time_out_s": 60})
    if stage >= 1:
        pair.pump()
    if stage >= 2:
        session = pair.open_session()
    if stage >= 3:
        sender, _ = pair.sender(session)
        _, end = pair.receiver(session, auto_credit=3)
    if stage >= 4:
        sender.send(b"unsettled")
        sender.send(b"settled", settled=True)
        end.send(b"towards the client")  # type: ignore[union-attr]
        pair.pump()
    return pair


def attack(connection: Connection, pieces: list[bytes]) -> None:
    """Feed it all, with an application that answers; nothing may be raised and nothing reported twice."""
    told: list[Event] = []
    now = 1000.0

    def take(events: list[Event]) -> None:
        for event in events:
            told.append(event)
            match event:
                case AttachRequested(link=ReceiverLink() as link):
                    link.accept(auto_credit=2)
                case AttachRequested(link=SenderLink() as link) if link.name == "x":
                    link.refuse(AmqpError("amqp:not-found"))
                case AttachRequested(link=SenderLink() as link):
                    link.accept()
                    link.send(b"", settled=False)
                case DeliveryReceived(link=link, delivery=delivery):
                    link.settle(delivery, Accepted())

    for piece in pieces:
        take(connection.receive(piece, now))
        connection.next_due()
        connection.take_output(now)
        now += 1.0
    take(connection.advance(now))
    take(connection.advance(now + 1e6))
    take(connection.receive_eof(now))
    assert connection.state is ConnectionState.CLOSED
    assert len(of_type(told, ConnectionClosed)) == 1
    assert type(told[-1]) is ConnectionClosed
    for kind, key in ((LinkDetached, "link"), (LinkRefused, "link"), (SessionEnded, "session")):
        gone = [id(getattr(event, key)) for event in of_type(told, kind)]
        assert len(gone) == len(set(gone))
    assert connection.sessions == []
    assert connection.next_due() is None


@given(st.integers(0, 4), ROLES, ATTACKS)
def test_a_connection_survives_any_frames_at_any_stage(stage: int, role: str, pieces: list[bytes]) -> None:
    pair = opened(stage)
    attack(pair.client if role == "client" else pair.server, pieces)


@given(ROLES, st.sampled_from([b"", AMQP_HEADER, SASL_HEADER]), ATTACKS)
def test_a_connection_without_sasl_survives_any_frames(role: Any, header: bytes, pieces: list[bytes]) -> None:
    attack(Connection(role=role, container_id="x", now=1000.0), [header, *pieces])


@given(ROLES, st.sampled_from([AMQP_HEADER, SASL_HEADER]), ATTACKS)
def test_a_connection_with_sasl_survives_any_frames(role: Any, header: bytes, pieces: list[bytes]) -> None:
    sasl = SaslAnonymous() if role == "client" else SaslServer(["ANONYMOUS", "PLAIN"], required=False)
    attack(Connection(role=role, container_id="x", sasl=sasl, now=1000.0), [header, *pieces])


@given(ROLES, st.data())
def test_a_connection_survives_a_conversation_that_was_tampered_with(role: str, data: st.DataObject) -> None:
    said: list[bytes] = []
    pair = Pair()
    victim, other = (pair.client, pair.server) if role == "client" else (pair.server, pair.client)
    take_output = other.take_output
    other.take_output = lambda now=None: said.append(take_output(now)) or said[-1]  # type: ignore[method-assign,func-returns-value]
    session = pair.open_session()
    pair.sender(session)[0].send(b"x" * 50)
    pair.receiver(session, credit=5)[1].send(b"y")  # type: ignore[union-attr]
    pair.pump()
    session.end()
    pair.client.close()
    pair.pump()
    tampered = data.draw(mutated(st.just(b"".join(said))))
    sasl = SaslAnonymous() if role == "client" else SaslServer(["ANONYMOUS"])
    attack(Connection(role=victim.role, container_id="x", sasl=sasl, now=1000.0), [tampered])


@given(st.lists(st.sampled_from([b"\x00", b"\xff", b"A", b"AMQP", bytes(600)]), max_size=20))
def test_a_closed_connection_keeps_nothing(pieces: list[bytes]) -> None:
    server = Connection(role="server", container_id="x", now=0.0)
    server.receive_eof(0.0)
    for piece in pieces:
        assert server.receive(piece, 0.0) == []
    assert (server.output_size, len(server._reader)) == (0, 0)


def test_uint_zero_of_any_width_is_the_same_handle() -> None:
    wide = b"\x00\x53\x16\xc0\x07\x02\x70\x00\x00\x00\x00\x41"
    assert (
        decode_performative(wide)[0]
        == Detach(0, True)
        == decode_performative(encode_performative(Detach(Uint(0), True)))[0]
    )
