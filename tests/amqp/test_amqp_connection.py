"""Opening, closing, headers, SASL and time-outs of a connection."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from renewer.amqp import (
    AMQP_HEADER,
    EMPTY_FRAME,
    SASL_HEADER,
    AmqpError,
    Begin,
    Close,
    Connection,
    ConnectionClosed,
    ConnectionOpened,
    ConnectionState,
    End,
    Frame,
    FrameReader,
    FrameType,
    Open,
    Performative,
    SaslAnonymous,
    SaslChallenge,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    SaslPlain,
    SaslServer,
    SessionEnded,
    SessionOpened,
    decode_performative,
    encode_frame,
    encode_performative,
)
from renewer.errors import AmqpProtocolError
from tests.amqp.amqp_pair import Pair, of_type


def frame(performative: Performative, channel: int = 0, type_: FrameType = FrameType.AMQP) -> bytes:
    return encode_frame(channel, encode_performative(performative), type_)


def frames(data: bytes) -> list[Performative]:
    reader = FrameReader(1 << 20)
    reader.feed(data)
    return [decode_performative(found.body)[0] for found in reader if found.body]


def plain_server(**options: object) -> Connection:
    """A server that has opened with a peer without SASL."""
    server = Connection(role="server", container_id="s", now=0.0, **options)  # type: ignore[arg-type]
    server.receive(AMQP_HEADER + frame(Open("peer")), 0.0)
    server.take_output()
    return server


def closed_with(connection: Connection, data: bytes) -> tuple[str | None, list[Performative]]:
    """The condition that a connection was closed with because of `data`, and what it said last."""
    closed = of_type(connection.receive(data, 1.0), ConnectionClosed)
    assert len(closed) == 1
    assert closed[0].reason == "protocol-error"
    assert connection.state is ConnectionState.CLOSED
    assert connection.receive(b"whatever", 2.0) == connection.advance(1e9) == connection.receive_eof(3.0) == []
    return closed[0].error.condition, frames(connection.take_output())


def test_client_and_server_open_and_close() -> None:
    pair = Pair(client={"hostname": "h", "channel_max": 7, "properties": {"product": "renewer"}})
    client_events, server_events = pair.pump()
    assert [type(event) for event in client_events] == [ConnectionOpened]
    assert [type(event) for event in server_events] == [ConnectionOpened]
    assert pair.server.remote_open is not None
    assert pair.server.remote_open.hostname == "h"
    assert pair.server.remote_open.channel_max == 7
    assert pair.server.remote_open.properties == {"product": "renewer"}
    pair.client.close()
    pair.client.close()
    client_events, server_events = pair.pump()
    assert client_events == [ConnectionClosed(None, "closed")]
    assert server_events == [ConnectionClosed(None, "closed")]
    assert pair.client.receive_eof(pair.now) == []


def test_the_server_may_close_and_say_why() -> None:
    pair = Pair()
    pair.pump()
    pair.server.close(AmqpError("amqp:connection:forced", "bye"))
    client_events, server_events = pair.pump()
    assert client_events == [ConnectionClosed(AmqpError("amqp:connection:forced", "bye"), "closed")]
    assert server_events == [ConnectionClosed(None, "closed")]


def test_both_may_close_at_once() -> None:
    pair = Pair()
    pair.pump()
    pair.server.close()
    pair.client.close()
    assert pair.pump() == ([ConnectionClosed(None, "closed")], [ConnectionClosed(None, "closed")])


def test_closing_before_anything_was_opened_is_over_at_once() -> None:
    client = Connection(role="client", container_id="c", sasl=SaslAnonymous(), now=0.0)
    client.close()
    assert client.next_due() == 0.0
    assert client.advance(0.0) == [ConnectionClosed(None, "closed")]
    assert client.next_due() is None


def test_nothing_is_sent_after_close() -> None:
    pair = Pair()
    session = pair.open_session()
    pair.client.close()
    session.attach_sender("late", source=None, target=None)
    session.end()
    assert [type(p) for p in frames(pair.client.take_output())] == [Close]


def test_a_session_cannot_be_opened_before_the_connection() -> None:
    client = Connection(role="client", container_id="c", now=0.0)
    with pytest.raises(AmqpProtocolError) as caught:
        client.open_session()
    assert caught.value.condition == "amqp:illegal-state"


def test_channels_run_out_at_the_lower_of_both_limits_and_are_used_again() -> None:
    pair = Pair(client={"channel_max": 1}, server={"channel_max": 5})
    first, second = pair.open_session(), pair.open_session()
    assert [first.channel, second.channel] == [0, 1]
    with pytest.raises(AmqpProtocolError):
        pair.client.open_session()
    first.end()
    client_events, server_events = pair.pump()
    assert client_events == [SessionEnded(first, None)]
    assert len(of_type(server_events, SessionEnded)) == 1
    again = pair.open_session()
    assert again.channel == 0
    assert of_type(pair.client_log, SessionOpened)[-1].session is again


def test_open_begin_and_attach_are_written_with_all_fields() -> None:
    pair = Pair(client={"sasl": None}, server={"sasl": None})
    sent = pair.client.take_output()
    assert sent[:8] == AMQP_HEADER
    assert sent[16:19] == b"\x00\x53\x10"
    assert sent[21] == 10  # the count of the list8
    pair.server.receive(sent, 0.0)
    pair.client.receive(pair.server.take_output(), 0.0)
    session = pair.client.open_session()
    begin = pair.client.take_output()
    assert begin[8:11] == b"\x00\x53\x11"
    assert begin[13] == 8
    pair.server.receive(begin, 0.0)
    pair.client.receive(pair.server.take_output(), 0.0)
    session.attach_sender("s", source=None, target=None)
    attach = pair.client.take_output()
    assert attach[8:11] == b"\x00\x53\x12"
    assert attach[13] == 14


# Headers and SASL


@pytest.mark.parametrize("size", [1, 3, 7, 8])
def test_a_peer_that_does_not_speak_amqp_is_shown_what_would_be_right(size: int) -> None:
    for sasl, header in ((None, AMQP_HEADER), (SaslServer(["ANONYMOUS"]), SASL_HEADER)):
        server = Connection(role="server", container_id="s", sasl=sasl, now=0.0)
        events = server.receive(b"GET / HTTP/1.1"[:size], 0.0)
        assert [event.reason for event in of_type(events, ConnectionClosed)] == ["protocol-error"]
        server = Connection(role="server", container_id="s", sasl=sasl, now=0.0)
        events = server.receive(b"AMQP\x00\x00\x09\x01", 0.0)
        assert [event.error.condition for event in of_type(events, ConnectionClosed)] == [
            "amqp:connection:framing-error"
        ]
        assert server.take_output() == header


def test_a_client_that_is_answered_with_another_protocol_gives_up() -> None:
    for sasl in (None, SaslAnonymous()):
        client = Connection(role="client", container_id="c", sasl=sasl, now=0.0)
        assert client.receive(b"AMQP\x02\x01\x00\x00", 0.0)[0].reason == "protocol-error"  # type: ignore[union-attr]


def test_plain_amqp_is_taken_by_a_server_that_does_not_require_sasl() -> None:
    pair = Pair(client={"sasl": None}, server={"sasl": SaslServer(["ANONYMOUS"], required=False)})
    assert [type(event) for event in pair.pump()[1]] == [ConnectionOpened]
    pair = Pair(server={"sasl": SaslServer(["ANONYMOUS"], required=False)})
    assert [type(event) for event in pair.pump()[1]] == [ConnectionOpened]


def test_plain_amqp_is_refused_by_a_server_that_requires_sasl() -> None:
    pair = Pair(client={"sasl": None})
    client_events, server_events = pair.pump()
    assert of_type(server_events, ConnectionClosed)[0].reason == "protocol-error"
    assert of_type(client_events, ConnectionClosed)[0].reason == "protocol-error"


def test_a_client_chooses_its_mechanism_among_those_offered() -> None:
    offered = SaslServer(["MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL"])
    for sasl in (SaslAnonymous(), SaslPlain("user", "key")):
        pair = Pair(client={"sasl": sasl}, server={"sasl": offered})
        assert [type(event) for event in pair.pump()[0]] == [ConnectionOpened]


def test_a_client_gives_up_when_its_mechanism_is_not_offered() -> None:
    pair = Pair(client={"sasl": SaslPlain("user", "key")})
    client_events, server_events = pair.pump()
    closed = of_type(client_events, ConnectionClosed)
    assert [(event.reason, event.error.condition) for event in closed] == [("sasl", "amqp:unauthorized-access")]
    assert server_events == []


def test_credentials_are_judged_and_refused() -> None:
    seen: list[tuple[str, str, str]] = []

    def authenticate(mechanism: str, user: str, password: str) -> bool:
        seen.append((mechanism, user, password))
        return password == "right"

    for password, reason in (("right", None), ("wrong", "sasl")):
        pair = Pair(client={"sasl": SaslPlain("user", password)}, server={"sasl": SaslServer(["PLAIN"], authenticate)})
        for events in pair.pump():
            assert [event.reason for event in of_type(events, ConnectionClosed)] == ([reason] if reason else [])
            assert "wrong" not in repr(events)
    assert seen == [("PLAIN", "user", "right"), ("PLAIN", "user", "wrong")]


@pytest.mark.parametrize("response", [None, b"", b"user", b"\0user", b"\0\0\0\0", b"\0\xff\0x"])
def test_a_malformed_plain_response_is_refused(response: bytes | None) -> None:
    server = Connection(role="server", container_id="s", sasl=SaslServer(["PLAIN"]), now=0.0)
    init = frame(SaslInit("PLAIN", response), type_=FrameType.SASL)
    events = server.receive(SASL_HEADER + init, 0.0)
    assert [event.reason for event in of_type(events, ConnectionClosed)] == ["sasl"]
    assert frames(server.take_output()[8:])[-1] == SaslOutcome(1)


def test_a_mechanism_that_was_not_offered_is_refused() -> None:
    server = Connection(role="server", container_id="s", sasl=SaslServer(["PLAIN"]), now=0.0)
    init = frame(SaslInit("ANONYMOUS", b""), type_=FrameType.SASL)
    assert of_type(server.receive(SASL_HEADER + init, 0.0), ConnectionClosed)[0].reason == "sasl"


def test_secrets_are_not_shown() -> None:
    assert "geheim" not in repr(SaslPlain("user", "geheim"))
    assert "geheim" not in repr(SaslInit("PLAIN", b"\0user\0geheim"))


@pytest.mark.parametrize(
    "performative", [SaslChallenge(b"?"), SaslInit("PLAIN"), Open("peer"), Begin(None, 0, 1, 1), SaslMechanisms([])]
)
@pytest.mark.parametrize("type_", list(FrameType))
def test_other_frames_during_sasl_end_the_connection(performative: Performative, type_: FrameType) -> None:
    client = Connection(role="client", container_id="c", sasl=SaslAnonymous(), now=0.0)
    events = client.receive(SASL_HEADER + frame(performative, type_=type_), 0.0)
    assert of_type(events, ConnectionClosed)[0].reason in ("protocol-error", "sasl")


def test_a_sasl_frame_is_bounded_before_anybody_is_let_in() -> None:
    server = Connection(role="server", container_id="s", sasl=SaslServer(["ANONYMOUS"]), now=0.0)
    events = server.receive(SASL_HEADER + (1 << 16).to_bytes(4, "big") + b"\x02\x01\x00\x00", 0.0)
    assert of_type(events, ConnectionClosed)[0].error.condition == "amqp:connection:framing-error"


def test_a_whole_conversation_may_arrive_at_once() -> None:
    server = Connection(role="server", container_id="s", sasl=SaslServer(["ANONYMOUS"]), now=0.0)
    init = frame(SaslInit("ANONYMOUS", b""), type_=FrameType.SASL)
    said = SASL_HEADER + init + AMQP_HEADER + frame(Open("peer")) + frame(Begin(None, 0, 10, 10), 3)
    events = server.receive(said, 0.0)
    assert [type(event) for event in events] == [ConnectionOpened, SessionOpened]


# What a peer must not do


@pytest.mark.parametrize(
    ("data", "condition"),
    [
        (b"\x00\x00\x00\x07\x02\x00\x00\x00", "amqp:connection:framing-error"),
        (b"\x00\x00\x00\x08\x01\x00\x00\x00", "amqp:connection:framing-error"),
        (b"\x00\x00\x00\x08\x03\x00\x00\x00", "amqp:connection:framing-error"),
        (b"\x00\x00\x00\x08\x02\x02\x00\x00", "amqp:connection:framing-error"),
        (b"\x00\x01\x00\x01\x02\x00\x00\x00", "amqp:connection:framing-error"),
        (encode_frame(0, b"\x00\x53\x10"), "amqp:decode-error"),
        (encode_frame(0, b"\x40"), "amqp:decode-error"),
        (encode_frame(0, b"\x00\x53\x99\x45"), "amqp:decode-error"),
        (encode_frame(0, b"\x00\x53\x28\x45"), "amqp:decode-error"),
        (frame(Open("again")), "amqp:connection:framing-error"),
        (frame(SaslOutcome(0)), "amqp:connection:framing-error"),
        (frame(SaslOutcome(0), type_=FrameType.SASL), "amqp:connection:framing-error"),
        (frame(Begin(9, 0, 1, 1)), "amqp:not-allowed"),
        (frame(Begin(None, 0, 1, 1), 256), "amqp:connection:framing-error"),
        (frame(Begin(None, 0, 1, 1), 1) * 2, "amqp:not-allowed"),
        (frame(End(), 4), "amqp:connection:framing-error"),
    ],
)
def test_a_protocol_violation_is_answered_with_a_close(data: bytes, condition: str) -> None:
    found, said = closed_with(plain_server(), data)
    assert found == condition
    assert isinstance(said[-1], Close)
    assert said[-1].error is not None
    assert said[-1].error.condition == condition


def test_a_frame_before_open_is_answered_with_open_and_close() -> None:
    server = Connection(role="server", container_id="s", now=0.0)
    events = server.receive(AMQP_HEADER + frame(Begin(None, 0, 1, 1)), 0.0)
    assert of_type(events, ConnectionClosed)[0].reason == "protocol-error"
    assert [type(p) for p in frames(server.take_output()[8:])] == [Open, Close]


@pytest.mark.parametrize("size", [0, 511])
def test_a_max_frame_size_below_the_minimum_is_refused(size: int) -> None:
    server = Connection(role="server", container_id="s", now=0.0)
    events = server.receive(AMQP_HEADER + frame(Open("peer", max_frame_size=size)), 0.0)
    assert of_type(events, ConnectionClosed)[0].error.condition == "amqp:invalid-field"


def test_a_client_does_not_take_sessions_of_the_server() -> None:
    client = Connection(role="client", container_id="c", now=0.0)
    client.receive(AMQP_HEADER + frame(Open("peer")), 0.0)
    client.take_output()
    assert closed_with(client, frame(Begin(None, 0, 1, 1)))[0] == "amqp:not-allowed"


def test_a_role_does_not_take_the_other_ones_sasl() -> None:
    with pytest.raises(TypeError):
        Connection(role="client", container_id="c", sasl=SaslServer([]), now=0.0)
    with pytest.raises(TypeError):
        Connection(role="server", container_id="c", sasl=SaslAnonymous(), now=0.0)


def test_the_end_of_the_stream_is_reported_at_every_stage() -> None:
    client = Connection(role="client", container_id="c", sasl=SaslAnonymous(), now=0.0)
    assert client.receive_eof(0.0) == [ConnectionClosed(None, "eof")]
    pair = Pair()
    session = pair.open_session()
    assert pair.client.receive_eof(0.0) == [SessionEnded(session, None), ConnectionClosed(None, "eof")]
    pair.server.close()
    assert of_type(pair.server.receive_eof(0.0), ConnectionClosed) == [ConnectionClosed(None, "closed")]


# Time


def test_an_empty_frame_is_sent_at_half_of_the_peers_time_out() -> None:
    pair = Pair(server={"idle_time_out_s": 60})
    pair.pump()
    assert pair.client.next_due() == 1030.0
    assert pair.client.advance(1029.9) == []
    assert pair.client.take_output(1029.9) == b""
    assert pair.client.advance(1030.0) == []
    assert pair.client.take_output(1030.0) == EMPTY_FRAME
    assert pair.client.next_due() == 1060.0


def test_whatever_is_sent_puts_the_empty_frame_off() -> None:
    pair = Pair(server={"idle_time_out_s": 60})
    pair.pump()
    pair.now = 1020.0
    pair.client.open_session()
    pair.pump()
    assert pair.client.next_due() == 1050.0


def test_a_silent_peer_is_given_up_exactly_when_the_time_out_has_passed() -> None:
    pair = Pair(client={"idle_time_out_s": 60})
    session = pair.open_session()
    assert pair.server.next_due() == 1030.0
    assert pair.client.next_due() == 1060.0
    assert pair.client.advance(1059.9) == []
    error = AmqpError("amqp:resource-limit-exceeded", "local-idle-timeout")
    assert pair.client.advance(1060.0) == [SessionEnded(session, error), ConnectionClosed(error, "idle")]
    assert frames(pair.client.take_output()) == [Close(error)]
    assert pair.client.next_due() is None


def test_a_peer_can_be_told_less_than_it_is_given() -> None:
    pair = Pair(client={"idle_time_out_s": 60, "told_idle_time_out_s": 30})
    pair.pump()
    assert pair.server.remote_open.idle_time_out == 30_000
    assert pair.client.advance(1059.9) == []
    assert [event.reason for event in pair.client.advance(1060.0)] == ["idle"]


def test_an_empty_frame_is_life_enough() -> None:
    pair = Pair(client={"idle_time_out_s": 60})
    pair.pump()
    assert pair.client.receive(EMPTY_FRAME, 1050.0) == []
    assert pair.client.next_due() == 1110.0


def test_two_idle_endpoints_keep_each_other_alive_for_hours() -> None:
    pair = Pair(client={"idle_time_out_s": 10}, server={"idle_time_out_s": 240})
    pair.pump()
    while pair.now < 20_000:
        due = [at for at in (pair.client.next_due(), pair.server.next_due()) if at is not None]
        assert min(due) > pair.now
        pair.now = min(due)
        assert pair.pump() == ([], [])
    assert pair.client.state is pair.server.state is ConnectionState.OPENED


def test_a_peer_with_an_absurd_time_out_does_not_keep_us_busy() -> None:
    server = Connection(role="server", container_id="s", now=0.0)
    server.receive(AMQP_HEADER + frame(Open("peer", idle_time_out=1)), 0.0)
    server.take_output(0.0)
    assert server.next_due() == 0.05
    server.receive(b"", 0.0)
    zero = Connection(role="server", container_id="s", now=0.0)
    zero.receive(AMQP_HEADER + frame(Open("peer", idle_time_out=0)), 0.0)
    assert zero.next_due() is None


def test_an_unsent_backlog_is_not_lengthened_by_signs_of_life() -> None:
    pair = Pair(server={"idle_time_out_s": 60})
    pair.pump()
    pair.client.open_session()
    waiting = pair.client.output_size
    for now in (1030.0, 1060.0, 1090.0):
        assert pair.client.advance(now) == []
        due = pair.client.next_due()
        assert due is not None
        assert due > now
    assert pair.client.output_size == waiting


def test_a_peer_that_never_opens_is_given_up_even_if_it_trickles() -> None:
    server = Connection(
        role="server", container_id="s", sasl=SaslServer(["ANONYMOUS"]), open_time_out_s=20, idle_time_out_s=60, now=0.0
    )
    assert server.next_due() == 20.0
    for step in range(7):
        assert server.receive(SASL_HEADER[step : step + 1], 2.0 * step) == []
    assert server.next_due() == 20.0
    assert [event.reason for event in of_type(server.advance(20.0), ConnectionClosed)] == ["idle"]


# However the bytes arrive


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 8, 13, 100])
def test_the_size_of_the_pieces_makes_no_difference(chunk: int) -> None:
    def story(pair: Pair) -> list[str]:
        session = pair.open_session()
        sender, _ = pair.sender(session)
        receiver, end = pair.receiver(session, auto_credit=4)
        for size in (0, 1, 1000, 70_000):
            sender.send(b"x" * size)
            end.send(b"y" * size)  # type: ignore[union-attr]
        pair.pump()
        receiver.detach()
        session.end()
        pair.client.close()
        pair.pump()
        return [
            f"{type(event).__name__}{getattr(event, 'delivery', '')}" for event in pair.client_log + pair.server_log
        ]

    assert story(Pair(chunk=chunk)) == story(Pair())


@pytest.mark.parametrize("build", [lambda: frame(Begin(None, 0, 1, 1), 256), lambda: b"\x00\x00\x00\x07" + bytes(4)])
def test_a_fault_is_found_however_the_bytes_arrive(build: Callable[[], bytes]) -> None:
    data = build()
    whole, bytewise = plain_server(), plain_server()
    events = whole.receive(data, 1.0)
    piecemeal = [event for index in range(len(data)) for event in bytewise.receive(data[index : index + 1], 1.0)]
    assert events == piecemeal
    assert whole.take_output() == bytewise.take_output()


# Frames alone


def test_frames_are_cut_out_of_any_pieces() -> None:
    data = b"".join(encode_frame(channel, bytes(channel)) for channel in range(50)) + EMPTY_FRAME
    for size in (1, 7, 64, len(data)):
        reader = FrameReader(512)
        found: list[Frame] = []
        for at in range(0, len(data), size):
            reader.feed(data[at : at + size])
            found += reader
        assert found == [Frame(FrameType.AMQP, channel, bytes(channel)) for channel in range(50)] + [
            Frame(FrameType.AMQP, 0, b"")
        ]
        assert len(reader) == 0


def test_an_extended_frame_header_is_passed_over() -> None:
    reader = FrameReader(512)
    reader.feed(b"\x00\x00\x00\x0e\x03\x00\x00\x05" + b"extd" + b"ab")
    assert list(reader) == [Frame(FrameType.AMQP, 5, b"ab")]


def test_a_frame_may_be_as_large_as_allowed_and_no_larger() -> None:
    reader = FrameReader(512)
    reader.feed(encode_frame(0, bytes(504)))
    assert len(list(reader)) == 1
    reader.feed(encode_frame(0, bytes(505))[:8])
    with pytest.raises(AmqpProtocolError):
        list(reader)
