"""Deliveries: frames, sizes, outcomes, and what does not fit."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from renewer.amqp import (
    Accepted,
    AmqpError,
    ConnectionClosed,
    DeliveryReceived,
    DeliveryUpdated,
    Described,
    Disposition,
    LinkDetached,
    LinkRefused,
    Modified,
    Rejected,
    Role,
    Source,
    Target,
    Transfer,
    Ulong,
)
from renewer.amqp.frames import FrameReader
from renewer.amqp.outlet import MAX_UNFINISHED_BYTES
from renewer.amqp.performatives import decode_performative
from renewer.errors import AmqpProtocolError
from tests.amqp.amqp_pair import Pair, about, frame, frame_sizes, of_type


def test_a_message_arrives_and_its_outcome_comes_back() -> None:
    pair = Pair()
    sender, end = pair.sender(pair.open_session())
    delivery = sender.send(b"hello", delivery_tag=b"tag", message_format=0x80013700)
    _, server_events = pair.pump()
    received = of_type(server_events, DeliveryReceived)[0].delivery
    assert (received.payload, received.delivery_tag, received.message_format) == (b"hello", b"tag", 0x80013700)
    assert (received.settled, received.link, received.delivery_id) == (False, end, 0)
    assert (delivery.settled, delivery.payload) == (False, b"")
    rejected = Rejected(AmqpError("amqp:not-allowed", "no", {"a": 1}))
    end.settle(received, rejected)
    client_events, _ = pair.pump()
    assert client_events == [DeliveryUpdated(sender, delivery, rejected, True)]
    assert (delivery.settled, delivery.state) == (True, rejected)
    end.settle(received, Accepted())
    assert pair.pump() == ([], [])


def test_deliveries_that_follow_each_other_are_settled_in_one_frame() -> None:
    pair = Pair()
    session = pair.open_session()
    receiver, end = pair.receiver(session, credit=10)
    other, other_end = pair.receiver(session, "other", credit=10)
    sent = [end.send(b"1"), end.send(b"2"), end.send(b"3")]
    unrelated = other_end.send(b"of another link")
    sent.append(end.send(b"4"))
    received = [event.delivery for event in of_type(pair.pump()[0], DeliveryReceived)]
    (kept,) = (delivery for delivery in received if delivery.link is other)
    receiver.settle_all((delivery for delivery in received if delivery.link is receiver), Accepted())
    output = pair.client.take_output()
    reader = FrameReader(65536)
    reader.feed(output)
    told = [decode_performative(one.body)[0] for one in reader]
    accepted = Accepted()
    assert told == [
        Disposition(Role.RECEIVER, 0, 2, True, accepted),
        Disposition(Role.RECEIVER, 4, None, True, accepted),
    ]
    events = pair.server.receive(output, pair.now)
    assert [event.delivery for event in of_type(events, DeliveryUpdated)] == sent
    assert all(delivery.settled for delivery in sent)
    assert not unrelated.settled
    assert not kept.settled
    assert receiver.unsettled == end.unsettled == {}
    receiver.settle_all(received, Accepted())
    assert not pair.client.has_output


def test_an_outcome_that_does_not_fit_into_a_frame_is_refused_and_costs_nothing() -> None:
    pair = Pair(server={"max_frame_size": 512})
    receiver, end = pair.receiver(pair.open_session(), credit=2)
    end.send(b"hello")
    (received,) = [event.delivery for event in of_type(pair.pump()[0], DeliveryReceived)]
    for state in (Modified(True, False, {"p": "x" * 600}), Modified(True, False, {"p": object()})):
        with pytest.raises(AmqpProtocolError):
            receiver.settle(received, state)
        assert (received.state, received.settled) == (None, False)
    receiver.settle(received, Accepted())
    assert [event.state for event in of_type(pair.pump()[1], DeliveryUpdated)] == [Accepted()]


def test_a_settled_message_needs_no_outcome() -> None:
    pair = Pair()
    sender, end = pair.sender(pair.open_session())
    sender.send(b"hello", settled=True)
    received = of_type(pair.pump()[1], DeliveryReceived)[0].delivery
    assert received.settled
    end.settle(received, Accepted())
    assert pair.pump() == ([], [])
    assert sender.unsettled == end.unsettled == {}


def test_a_receiver_that_settles_second_waits_for_the_sender() -> None:
    pair = Pair()
    receiver, end = pair.receiver(pair.open_session(), rcv_settle_mode=1, credit=1)
    delivery = end.send(b"x")
    received = of_type(pair.pump()[0], DeliveryReceived)[0].delivery
    receiver.settle(received, Accepted(), settled=False)
    _, server_events = pair.pump()
    assert server_events == [DeliveryUpdated(end, delivery, Accepted(), False)]
    end.settle(delivery, Accepted())
    end.settle(delivery, Accepted())
    client_events, _ = pair.pump()
    assert client_events == [DeliveryUpdated(receiver, received, Accepted(), True)]
    assert receiver.unsettled == end.unsettled == {}


def test_a_disposition_covers_a_range() -> None:
    pair = Pair(server={"sasl": None}, client={"sasl": None})
    sender, _ = pair.sender(pair.open_session())
    deliveries = [sender.send(b"x") for _ in range(10)]
    pair.pump()
    events = pair.client.receive(frame(Disposition(Role.RECEIVER, 2, 4, True, Modified(True))), pair.now)
    assert [event.delivery for event in of_type(events, DeliveryUpdated)] == deliveries[2:5]
    events = pair.client.receive(frame(Disposition(Role.RECEIVER, 0, 0x7000_0000, True, Accepted())), pair.now)
    assert [event.delivery for event in of_type(events, DeliveryUpdated)] == deliveries[:2] + deliveries[5:]
    assert pair.client.receive(frame(Disposition(Role.RECEIVER, 0, 9, True)), pair.now) == []
    assert pair.client.receive(frame(Disposition(Role.RECEIVER, 9, 0, True)), pair.now) == []


def test_state_may_travel_with_the_message() -> None:
    state = Described(Ulong(0x34), [b"transaction"])
    pair = Pair()
    sender, _ = pair.sender(pair.open_session())
    sender.send(b"x", state=state)
    assert of_type(pair.pump()[1], DeliveryReceived)[0].delivery.state == state


@pytest.mark.parametrize("size", [0, 1, 400, 503, 504, 505, 511, 512, 513, 5_000, 100_000])
def test_a_message_is_split_into_frames_that_the_peer_takes(size: int) -> None:
    pair = Pair(server={"max_frame_size": 512})
    sender, _ = pair.sender(pair.open_session())
    payload = bytes(index % 251 for index in range(size))
    sender.send(payload)
    data = pair.client.take_output()
    for at in frame_sizes(data):
        assert at <= 512
    events = pair.server.receive(data, pair.now)
    assert [event.delivery.payload for event in of_type(events, DeliveryReceived)] == [payload]


def test_a_message_larger_than_the_peer_takes_is_refused_here() -> None:
    pair = Pair(on_request=lambda request: request.link.accept(max_message_size=100, credit=5))
    sender, _ = pair.sender(pair.open_session())
    sender.send(bytes(100))
    with pytest.raises(AmqpProtocolError) as caught:
        sender.send(bytes(101))
    assert caught.value.condition == "amqp:link:message-size-exceeded"
    with pytest.raises(AmqpProtocolError):
        sender.send(b"", delivery_tag=bytes(33))


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_message_larger_than_we_take_detaches_the_link(pieces: int) -> None:
    pair = Pair(on_request=lambda request: request.link.accept(max_message_size=100, credit=5))
    link, end = pair.sender(pair.open_session())
    transfers = [Transfer(0, 0, b"t", 0, True, more=index < pieces - 1) for index in range(pieces)]
    data = b"".join(frame(transfer, bytes(102 // pieces)) for transfer in transfers)
    _, server_events = pair.server.receive(data, pair.now), pair.server_log
    assert about(server_events, end)[:1] == ["AttachRequested"]
    client_events, server_events = pair.pump()
    assert [event.error.condition for event in of_type(client_events, LinkDetached)] == [
        "amqp:link:message-size-exceeded"
    ]
    assert about(client_events, link) == ["LinkDetached"]
    assert about(server_events, end) == []


def test_an_oversized_message_is_reported_at_once_and_only_once() -> None:
    pair = Pair(on_request=lambda request: request.link.accept(max_message_size=10, credit=5))
    _, end = pair.sender(pair.open_session())
    events = pair.server.receive(frame(Transfer(0, 0, b"t", 0, True), bytes(11)), pair.now)
    assert about(events, end) == ["LinkDetached"]
    assert about(pair.pump()[1], end) == []


def test_an_aborted_message_is_dropped() -> None:
    pair = Pair()
    _, end = pair.sender(pair.open_session())
    data = (
        frame(Transfer(0, 0, b"a", 0, more=True), b"lost")
        + frame(Transfer(0, aborted=True))
        + frame(Transfer(0, 1, b"b", 0, aborted=True), b"lost too")
        + frame(Transfer(0, 2, b"c", 0), b"kept")
    )
    events = pair.server.receive(data, pair.now)
    assert [event.delivery.payload for event in of_type(events, DeliveryReceived)] == [b"kept"]
    assert end.credit == 7


def test_a_message_may_be_settled_by_its_last_frame() -> None:
    pair = Pair()
    pair.sender(pair.open_session())
    data = frame(Transfer(0, 0, b"a", 0, more=True), b"1") + frame(Transfer(0, settled=True), b"2")
    delivery = of_type(pair.server.receive(data, pair.now), DeliveryReceived)[0].delivery
    assert (delivery.payload, delivery.settled) == (b"12", True)


def test_unfinished_messages_of_one_peer_are_bounded_together() -> None:
    pair = Pair(on_request=lambda request: request.link.accept(max_message_size=40 << 20, credit=5))
    session = pair.open_session()
    for name in ("a", "b"):
        pair.sender(session, name)
    piece = bytes(60_000)
    tracemalloc.start()
    events: list[Any] = []
    for index in range(2 * (40 << 20) // len(piece)):
        handle = index % 2
        first = index < 2
        transfer = Transfer(handle, handle if first else None, b"t" if first else None, 0 if first else None, more=True)
        events += pair.server.receive(frame(transfer, piece), pair.now)
        pair.server.take_output()
        if events:
            break
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert of_type(events, ConnectionClosed)[0].error.condition == "amqp:resource-limit-exceeded"
    assert peak < 2 * MAX_UNFINISHED_BYTES


def test_many_links_with_unfinished_messages_go_down_together() -> None:
    pair = Pair(on_request=lambda request: request.link.accept(max_message_size=33 << 20, credit=5))
    session = pair.open_session()
    for index in range(5):
        pair.sender(session, str(index))
    events: list[Any] = []
    for index in (0, 1, 2):
        events += pair.server.receive(frame(Transfer(index, index, b"t", 0, more=True), b"x"), pair.now)
    piece = bytes(65_000)
    sizes = {3: 0, 4: 0}
    while not events:
        handle = min(sizes, key=lambda key: sizes[key])
        first = sizes[handle] == 0
        sizes[handle] += len(piece)
        transfer = Transfer(handle, handle if first else None, b"t" if first else None, more=True)
        events += pair.server.receive(frame(transfer, piece), pair.now)
        pair.server.take_output()
    assert len(of_type(events, LinkDetached)) == 5
    assert of_type(events, ConnectionClosed)[0].error.condition == "amqp:resource-limit-exceeded"


def test_an_answer_that_cannot_be_written_leaves_the_request_open() -> None:
    pair = Pair(on_request=lambda request: None)
    link, end = pair.receiver(pair.open_session())
    with pytest.raises(AmqpProtocolError):
        end.accept(properties={"a": object()})
    end.refuse(AmqpError("amqp:internal-error"))
    assert pair.pump()[0] == [LinkRefused(link, AmqpError("amqp:internal-error"), True)]


# Frames that do not fit


def test_a_request_that_does_not_fit_the_peers_frames_is_refused_here() -> None:
    pair = Pair(server={"max_frame_size": 512})
    session = pair.open_session()
    with pytest.raises(AmqpProtocolError) as caught:
        session.attach_receiver("r", source=Source("x" * 600), target=Target("t"))
    assert caught.value.condition == "amqp:frame-size-too-small"
    assert session.links == []
    assert pair.receiver(session)[0].handle == 0


def test_an_answer_that_does_not_fit_the_peers_frames_closes_the_connection() -> None:
    pair = Pair(client={"max_frame_size": 512})
    session = pair.open_session()
    session.attach_receiver("r", source=Source("x" * 600), target=Target("t"))
    client_events, server_events = pair.pump()
    closed = of_type(server_events, ConnectionClosed)
    assert [(event.reason, event.error.condition) for event in closed] == [
        ("protocol-error", "amqp:frame-size-too-small")
    ]
    assert [event.reason for event in of_type(client_events, ConnectionClosed)] == ["closed"]


def test_a_state_that_does_not_fit_closes_the_connection() -> None:
    pair = Pair(server={"max_frame_size": 512})
    sender, _ = pair.sender(pair.open_session())
    sender.send(b"x", state=Rejected(AmqpError("a", "x" * 600)))
    assert of_type(pair.pump()[0], ConnectionClosed)[0].error.condition == "amqp:frame-size-too-small"


def test_what_amqp_cannot_carry_is_refused_here_and_changes_nothing() -> None:
    pair = Pair()
    session = pair.open_session()
    with pytest.raises(AmqpProtocolError):
        session.attach_receiver("r", source=Source(object()), target=None)
    sender, _ = pair.sender(session)
    with pytest.raises(AmqpProtocolError):
        sender.send(b"x", message_format=-1)
    assert pair.pump() == ([], [])
    sender.send(b"y")
    assert [event.delivery.payload for event in of_type(pair.pump()[1], DeliveryReceived)] == [b"y"]


def test_nothing_shows_payloads_or_tags() -> None:
    pair = Pair()
    sender, end = pair.sender(pair.open_session())
    delivery = sender.send(b"geheim", delivery_tag=b"token")
    _, server_events = pair.pump()
    shown = repr(delivery) + repr(server_events) + repr(pair.client) + repr(sender) + repr(end) + repr(sender.session)
    assert "geheim" not in shown
    assert "token" not in shown
