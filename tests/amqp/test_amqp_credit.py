"""Credit of links, windows of sessions, and ids that wrap around."""

from __future__ import annotations

import pytest

from renewer.amqp import (
    Accepted,
    CreditChanged,
    DeliveryReceived,
    DeliveryUpdated,
    Disposition,
    Flow,
    Role,
    Source,
    Target,
    decode_performative,
)
from renewer.errors import AmqpProtocolError
from tests.amqp.amqp_pair import BIG, Pair, frame, frame_sizes, of_type


def test_nothing_is_sent_without_credit_and_everything_with_it() -> None:
    pair = Pair(on_request=lambda request: request.link.accept())
    sender, end = pair.sender(pair.open_session())
    for index in range(5):
        sender.send(b"%d" % index)
    assert pair.pump()[1] == []
    assert (sender.queued, sender.credit) == (5, 0)
    end.flow(2)
    client_events, server_events = pair.pump()
    assert [event.delivery.payload for event in of_type(server_events, DeliveryReceived)] == [b"0", b"1"]
    assert client_events == [CreditChanged(sender)]
    end.flow(10)
    assert len(of_type(pair.pump()[1], DeliveryReceived)) == 3
    assert (sender.queued, sender.credit, end.credit) == (0, 7, 7)


def test_credit_given_with_the_attach_is_there_once_it_is_answered() -> None:
    pair = Pair()
    _, end = pair.receiver(pair.open_session(), credit=3)
    assert end.credit == 3


def test_credit_may_be_given_before_the_attach_is_answered() -> None:
    pair = Pair()
    session = pair.open_session()
    receiver = session.attach_receiver("r", source=Source("q"), target=Target("t"))
    receiver.flow(7)
    pair.pump()
    assert pair.server_links["r"].credit == receiver.credit == 7


def test_a_flow_for_a_link_that_we_gave_up_is_passed_over() -> None:
    pair = Pair()
    receiver, end = pair.receiver(pair.open_session(), credit=5)
    sender, server_end = pair.sender(receiver.session)
    for link in (receiver, sender):
        link.detach()
    end.send_flow()
    server_end.flow(3)
    assert of_type(pair.pump()[0], CreditChanged) == []


def test_an_idle_receiver_has_no_credit_and_gets_nothing() -> None:
    pair = Pair()
    link, end = pair.receiver(pair.open_session())
    end.send(b"waits")
    assert pair.pump() == ([], [])
    assert link.credit == end.credit == 0


def test_credit_that_tops_itself_up_lasts_for_twenty_thousand_deliveries() -> None:
    pair = Pair()
    session = pair.open_session()
    receiver, end = pair.receiver(session, auto_credit=100)
    total = 0
    for _ in range(200):
        for _ in range(100):
            end.send(b"reply", settled=True)
        total += len(of_type(pair.pump()[0], DeliveryReceived))
        pair.client_log.clear()
        assert 50 < receiver.credit <= 100
        assert end.queued == 0
    assert total == 20_000
    assert receiver.unsettled == end.unsettled == {}


def test_credit_of_one_tops_itself_up_too() -> None:
    pair = Pair()
    _, end = pair.receiver(pair.open_session(), auto_credit=1)
    for _ in range(10):
        end.send(b"x", settled=True)
    assert len(of_type(pair.pump()[0], DeliveryReceived)) == 10


def test_credit_may_be_taken_back_while_messages_are_under_way() -> None:
    pair = Pair()
    receiver, end = pair.receiver(pair.open_session(), credit=5)
    for _ in range(5):
        end.send(b"x", settled=True)
    receiver.flow(0)
    client_events, _ = pair.pump()
    assert len(of_type(client_events, DeliveryReceived)) == 5
    assert (receiver.credit, end.credit) == (0, 0)
    end.send(b"waits")
    assert pair.pump()[0] == []


def test_a_drain_without_messages_gives_all_credit_back() -> None:
    pair = Pair()
    receiver, end = pair.receiver(pair.open_session())
    receiver.flow(100, drain=True)
    client_events, server_events = pair.pump()
    assert client_events == [CreditChanged(receiver)]
    assert server_events == [CreditChanged(end)]
    assert (receiver.credit, end.credit, receiver.delivery_count, end.delivery_count) == (0, 0, 100, 100)


def test_a_drain_uses_the_credit_that_it_can() -> None:
    pair = Pair(on_request=lambda request: request.link.accept())
    receiver, end = pair.receiver(pair.open_session())
    for _ in range(3):
        end.send(b"x", settled=True)
    receiver.flow(10, drain=True)
    client_events, _ = pair.pump()
    assert [type(event) for event in client_events] == [DeliveryReceived] * 3 + [CreditChanged]
    assert receiver.delivery_count == end.delivery_count == 10
    receiver.flow(1)
    end.send(b"y")
    assert len(of_type(pair.pump()[0], DeliveryReceived)) == 1


def test_a_drain_is_not_undone_by_credit_that_tops_itself_up() -> None:
    pair = Pair()
    receiver, end = pair.receiver(pair.open_session(), auto_credit=4)
    for _ in range(4):
        end.send(b"x", settled=True)
    receiver.flow(4, drain=True)
    client_events, _ = pair.pump()
    assert [type(event) for event in client_events] == [DeliveryReceived] * 4 + [CreditChanged]
    assert (receiver.credit, end.credit) == (0, 0)


def test_credit_that_is_taken_back_while_the_sender_gives_it_back_is_not_counted_twice() -> None:
    pair = Pair()
    receiver, end = pair.receiver(pair.open_session())
    receiver.flow(5, drain=True)
    pair.server.receive(pair.client.take_output(pair.now), pair.now)
    given_back = pair.server.take_output(pair.now)
    receiver.flow(0)
    receiver.flow(3)
    # Of the three, which were counted from where we thought that the sender was, none is left; that is told.
    assert pair.client.receive(given_back, pair.now) == [CreditChanged(receiver)]
    pair.pump()
    assert receiver.credit == end.credit == 0
    assert receiver.delivery_count == end.delivery_count == 5
    receiver.flow(3)
    for _ in range(4):
        end.send(b"m")
    assert len(of_type(pair.pump()[0], DeliveryReceived)) == 3


def test_a_sender_cannot_give_back_more_than_it_ever_had() -> None:
    pair = Pair()
    receiver, end = pair.receiver(pair.open_session(), credit=3)
    end.delivery_count += 1000
    end.send_flow()
    pair.pump()
    assert (receiver.delivery_count, receiver.credit) == (0, 3)


def test_a_drain_with_too_little_credit_is_used_up() -> None:
    pair = Pair()
    receiver, end = pair.receiver(pair.open_session())
    for _ in range(3):
        end.send(b"x", settled=True)
    receiver.flow(2, drain=True)
    client_events, _ = pair.pump()
    assert [type(event) for event in client_events] == [DeliveryReceived] * 2 + [CreditChanged]
    assert end.queued == 1


def test_an_echo_is_answered() -> None:
    pair = Pair()
    session = pair.open_session()
    pair.sender(session)
    pair.server.receive(frame(Flow(0, 10, 0, 10, echo=True)), pair.now)
    answer = decode_performative(pair.server.take_output()[8:])[0]
    assert isinstance(answer, Flow)
    assert answer.handle is None
    pair.server.receive(frame(Flow(0, 10, 0, 10, 0, 0, None, echo=True)), pair.now)
    answer = decode_performative(pair.server.take_output()[8:])[0]
    assert isinstance(answer, Flow)
    assert (answer.handle, answer.link_credit) == (0, 10)
    pair.client.receive(frame(Flow(0, 10, 0, 10, 0, 0, 5, echo=True)), pair.now)
    answer = decode_performative(pair.client.take_output()[8:])[0]
    assert isinstance(answer, Flow)
    assert (answer.handle, answer.link_credit) == (0, 5)


def test_a_sender_that_claims_more_than_its_credit_is_not_believed() -> None:
    pair = Pair()
    _, end = pair.sender(pair.open_session())
    pair.server.receive(frame(Flow(0, 10, 0, 10, 0, 1000, 0)), pair.now)
    assert (end.credit, end.delivery_count) == (10, 0)
    pair.server.receive(frame(Flow(0, 10, 0, 10, 0, 4, 0)), pair.now)
    assert (end.credit, end.delivery_count) == (6, 4)


@pytest.mark.parametrize("limit", [0x7FFF_FFFF, 0x8000_0000, BIG])
def test_a_peer_may_allow_as_much_as_can_be_written(limit: int) -> None:
    pair = Pair(on_request=lambda request: request.link.accept())
    sender, _ = pair.sender(pair.open_session(next_outgoing_id=5), initial_delivery_count=7)
    pair.client.receive(frame(Flow(5, limit, 0, limit, 0, 7, limit)), pair.now)
    assert sender.credit == 0x7FFF_FFFF
    for _ in range(3):
        sender.send(b"x", settled=True)
    assert sender.queued == 0


@pytest.mark.parametrize("credit", [-1, 0x8000_0000])
def test_a_credit_that_cannot_be_counted_is_refused_here(credit: int) -> None:
    pair = Pair()
    receiver, _ = pair.receiver(pair.open_session(), credit=3)
    with pytest.raises(AmqpProtocolError):
        receiver.flow(credit)
    assert receiver.credit == 3


# Windows


def test_the_window_of_the_peer_is_kept() -> None:
    pair = Pair(on_request=lambda request: request.link.accept(credit=100), server={"incoming_window": 4})
    sender, _ = pair.sender(pair.open_session())
    for _ in range(20):
        sender.send(b"x", settled=True)
    assert sender.queued == 16
    assert len(of_type(pair.pump()[1], DeliveryReceived)) == 20
    assert sender.queued == 0


def test_a_window_counts_frames_not_messages() -> None:
    pair = Pair(server={"incoming_window": 3, "max_frame_size": 512})
    sender, _ = pair.sender(pair.open_session())
    sender.send(bytes(10_000), settled=True)
    sender.send(b"next", settled=True)
    assert len(frame_sizes(pair.client.take_output())) == 3
    assert sender.queued == 2


def test_a_window_smaller_than_a_message_is_replenished_on_the_way() -> None:
    pair = Pair(server={"incoming_window": 1, "max_frame_size": 512})
    sender, _ = pair.sender(pair.open_session())
    sender.send(bytes(50_000))
    assert len(of_type(pair.pump()[1], DeliveryReceived)) == 1


def test_links_take_turns_when_the_window_is_narrow() -> None:
    pair = Pair(server={"incoming_window": 2}, on_request=lambda request: request.link.accept(credit=100))
    session = pair.open_session()
    one, two = pair.sender(session, "one")[0], pair.sender(session, "two")[0]
    for link in (one, two):
        for _ in range(10):
            link.send(link.name.encode(), settled=True)
    payloads = [event.delivery.payload for event in of_type(pair.pump()[1], DeliveryReceived)]
    assert sorted(payloads) == [b"one"] * 10 + [b"two"] * 10
    assert payloads[4:16].count(b"one") == 6


def test_a_drain_waits_for_the_window() -> None:
    pair = Pair(client={"max_frame_size": 512})
    receiver, end = pair.receiver(pair.open_session(incoming_window=2))
    end.send(bytes(5_000), settled=True)
    receiver.flow(5, drain=True)
    client_events, _ = pair.pump()
    assert [type(event) for event in client_events] == [DeliveryReceived, CreditChanged]


# Ids that wrap around


@pytest.mark.parametrize("start", [BIG, BIG - 1, BIG - 5, 0x7FFF_FFFF, 0])
def test_ids_wrap_around(start: int) -> None:
    accepted = lambda request: request.link.accept(credit=4)  # noqa: E731
    pair = Pair(on_request=accepted, server={"incoming_window": 3, "max_frame_size": 512})
    session = pair.open_session(next_outgoing_id=start, incoming_window=5)
    sender, end = pair.sender(session, initial_delivery_count=start)
    deliveries = []
    for index in range(12):
        deliveries.append(sender.send(bytes(300 * (index % 3))))
        for event in of_type(pair.pump()[1], DeliveryReceived):
            end.settle(event.delivery, Accepted())
        end.flow(4)
    pair.pump()
    assert [delivery.delivery_id for delivery in deliveries] == [(start + index) & BIG for index in range(12)]
    assert all(delivery.settled for delivery in deliveries)
    assert end.delivery_count == sender.delivery_count == (start + 12) & BIG
    assert sender.unsettled == {}


@pytest.mark.parametrize("start", [BIG, BIG - 3])
def test_a_range_of_deliveries_wraps_around(start: int) -> None:
    pair = Pair()
    sender, _ = pair.sender(pair.open_session(next_outgoing_id=start))
    deliveries = [sender.send(b"x") for _ in range(8)]
    pair.pump()
    data = frame(Disposition(Role.RECEIVER, start, (start + 5) & BIG, True, Accepted()))
    events = pair.client.receive(data, pair.now)
    assert [event.delivery for event in of_type(events, DeliveryUpdated)] == deliveries[:6]


def test_credit_is_topped_up_across_the_wrap() -> None:
    pair = Pair(on_request=lambda request: request.link.accept(initial_delivery_count=BIG - 10))
    receiver, end = pair.receiver(pair.open_session(), auto_credit=4)
    for _ in range(30):
        end.send(b"x", settled=True)
    assert len(of_type(pair.pump()[0], DeliveryReceived)) == 30
    assert receiver.delivery_count == 19


def test_a_drain_across_the_wrap() -> None:
    pair = Pair(on_request=lambda request: request.link.accept(initial_delivery_count=BIG - 1))
    receiver, end = pair.receiver(pair.open_session())
    receiver.flow(5, drain=True)
    assert pair.pump()[0] == [CreditChanged(receiver)]
    assert end.delivery_count == receiver.delivery_count == 3


def test_a_drain_gives_messages_that_the_sender_has_only_now_a_way_out() -> None:
    pair = Pair()
    receiver, sender = pair.receiver(pair.open_session())
    receiver.flow(5, drain=True)
    events = pair.server.receive(pair.client.take_output(), pair.now)
    assert [event.link for event in of_type(events, CreditChanged)] == [sender]
    for number in range(3):
        sender.send(b"%d" % number, settled=True)
    pair.pump()
    assert [event.delivery.payload for event in of_type(pair.client_log, DeliveryReceived)] == [b"0", b"1", b"2"]
    assert (sender.credit, receiver.credit) == (0, 0)
