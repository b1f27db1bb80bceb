"""Links from attach to detach: who is told what, when, and how often; handles and names."""

from __future__ import annotations

import pytest

from renewer.amqp import (
    Accepted,
    AmqpError,
    Attach,
    AttachRequested,
    DeliveryReceived,
    Described,
    Detach,
    Flow,
    LinkAttached,
    LinkDetached,
    LinkRefused,
    Role,
    SessionEnded,
    Source,
    Symbol,
    Target,
    Transfer,
    Ulong,
)
from renewer.errors import AmqpProtocolError
from tests.amqp.amqp_pair import Pair, about, frame, of_type, violates


def test_a_link_is_attached_and_both_ends_see_what_the_other_said() -> None:
    pair = Pair(on_request=lambda request: request.link.accept(properties={"until": 5}, max_message_size=4096))
    session = pair.open_session()
    source = Source("amqps://ns/queue", filter={Symbol("com.microsoft:session-filter"): None})
    link = session.attach_receiver("r", source=source, target=Target("t"), properties={"who": "me"}, rcv_settle_mode=1)
    client_events, server_events = pair.pump()
    attached = of_type(client_events, LinkAttached)[0]
    assert attached.link is link
    assert attached.remote.source == source
    assert attached.remote.properties == {"until": 5}
    assert attached.remote.max_message_size == 4096
    assert attached.remote.initial_delivery_count == 0
    requested = of_type(server_events, AttachRequested)[0].remote
    assert (requested.properties, requested.rcv_settle_mode, requested.role) == ({"who": "me"}, 1, Role.RECEIVER)
    assert link.is_attached


def test_a_server_may_answer_with_another_source() -> None:
    resolved = Source("queue", filter={Symbol("com.microsoft:session-filter"): "session-7"})
    pair = Pair(on_request=lambda request: request.link.accept(source=resolved))
    link, _ = pair.receiver(pair.open_session())
    assert link.remote is not None
    assert link.remote.source == resolved


def test_a_request_may_be_answered_later() -> None:
    pair = Pair(on_request=lambda request: None)
    session = pair.open_session()
    link, end = pair.receiver(session, credit=3)
    assert about(pair.client_log, link) == []
    end.accept()
    pair.pump()
    assert about(pair.client_log, link) == ["LinkAttached"]
    assert end.credit == 3


def test_credit_that_came_before_the_answer_counts() -> None:
    pair = Pair(on_request=lambda request: None)
    session = pair.open_session()
    _, end = pair.receiver(session)
    pair.server.receive(frame(Flow(0, 10, 0, 10, 0, None, 5)), pair.now)
    assert about(pair.server_log, end) == ["AttachRequested"]
    end.send(b"early")
    end.accept()
    assert (end.queued, end.credit) == (0, 4)


def test_a_refused_attach_is_reported_once_with_the_error() -> None:
    error = AmqpError("com.microsoft:session-cannot-be-locked", "held", {"tracking": "1"})
    for role in (Role.RECEIVER, Role.SENDER):
        pair = Pair(on_request=lambda request: request.link.refuse(error))
        session = pair.open_session()
        attach = session.attach_receiver if role is Role.RECEIVER else session.attach_sender
        link = attach("x", source=Source("q"), target=Target("t"))
        client_events, server_events = pair.pump()
        assert client_events == [LinkRefused(link, error, True)]
        assert [type(event) for event in server_events] == [AttachRequested]
        assert session.links == []
        session.end()
        assert about(pair.pump()[0], link) == []


def test_an_attach_without_a_node_is_no_attach_even_if_nothing_follows() -> None:
    pair = Pair(on_request=lambda request: None)
    session = pair.open_session()
    link = session.attach_receiver("x", source=Source("q"), target=Target("t"), credit=5)
    pair.pump()
    pair.client.receive(frame(Attach("x", 0, Role.SENDER, initial_delivery_count=0)), pair.now)
    assert pair.pump()[0] == []
    assert not link.is_attached
    assert pair.client.receive_eof(pair.now)[0] == LinkRefused(link, None, False)


def test_a_detach_by_the_peer_is_answered_and_reported_once() -> None:
    pair = Pair()
    session = pair.open_session()
    link, end = pair.receiver(session)
    error = AmqpError("amqp:link:detach-forced", "idle")
    end.detach(error)
    end.detach(error)
    client_events, server_events = pair.pump()
    assert client_events == [LinkDetached(link, error, True)]
    assert server_events == [LinkDetached(end, None, True, by_us=True)]
    session.end()
    pair.client.close()
    client_events, server_events = pair.pump()
    assert about(client_events, link) == about(server_events, end) == []


def test_a_detach_by_us_is_reported_when_it_is_answered() -> None:
    pair = Pair()
    link, end = pair.receiver(pair.open_session())
    link.detach(closed=False)
    assert pair.pump() == (
        [LinkDetached(link, None, False, by_us=True)],
        [LinkDetached(end, None, False)],
    )


def test_a_link_may_be_detached_before_its_attach_is_answered() -> None:
    pair = Pair()
    session = pair.open_session()
    link = session.attach_receiver("r", source=Source("q"), target=Target("t"))
    link.detach()
    client_events, _ = pair.pump()
    assert client_events == [LinkDetached(link, None, True, by_us=True)]
    assert session.links == []


def test_a_peer_may_detach_before_it_was_answered() -> None:
    pair = Pair(on_request=lambda request: None)
    link, end = pair.receiver(pair.open_session())
    link.detach()
    client_events, server_events = pair.pump()
    assert client_events == [LinkDetached(link, None, True, by_us=True)]
    assert server_events == [LinkDetached(end, None, True)]
    end.accept()
    end.refuse(AmqpError("late"))
    assert pair.pump() == ([], [])


def test_both_may_detach_at_once() -> None:
    pair = Pair()
    link, end = pair.sender(pair.open_session())
    link.detach()
    end.detach(AmqpError("amqp:not-allowed"))
    client_events, server_events = pair.pump()
    assert client_events == [LinkDetached(link, AmqpError("amqp:not-allowed"), True, by_us=True)]
    assert server_events == [LinkDetached(end, None, True, by_us=True)]


def test_calls_on_a_link_that_has_gone_do_nothing() -> None:
    pair = Pair()
    session = pair.open_session()
    sender, server_receiver = pair.sender(session)
    receiver, server_sender = pair.receiver(session, credit=1)
    sender.send(b"a")
    server_sender.send(b"b")
    client_events, server_events = pair.pump()
    to_us = of_type(client_events, DeliveryReceived)[0].delivery
    to_them = of_type(server_events, DeliveryReceived)[0].delivery
    sender.detach()
    receiver.detach()
    pair.pump()
    server_receiver.settle(to_them, Accepted())
    server_receiver.flow(5)
    receiver.settle(to_us, Accepted())
    receiver.flow(5)
    delivery = sender.send(b"c")
    sender.settle(delivery)
    for link in (sender, receiver):
        link.detach()
    assert (sender.queued, delivery.delivery_id) == (0, None)
    assert pair.pump() == ([], [])


def test_links_are_reported_before_their_session_and_sessions_before_the_connection() -> None:
    for ending in ("end", "close", "eof", "garbage", "peer end", "peer close"):
        pair = Pair()
        session = pair.open_session()
        links = [pair.receiver(session, f"r{index}")[0] for index in range(3)]
        links[1].detach()
        pair.pump()
        error = AmqpError("amqp:internal-error", "gone")
        match ending:
            case "end":
                session.end()
            case "close":
                pair.client.close()
            case "eof":
                pair.client_log += pair.client.receive_eof(pair.now)
            case "garbage":
                pair.client_log += pair.client.receive(b"\x00" * 8, pair.now)
            case "peer end":
                pair.server.sessions[0].end(error)
            case "peer close":
                pair.server.close(error)
        pair.pump()
        assert about(pair.client_log, links[0]) == ["LinkAttached", "LinkDetached"]
        assert about(pair.client_log, links[1]) == ["LinkAttached", "LinkDetached"]
        names = [type(event).__name__ for event in pair.client_log]
        assert names.count("SessionEnded") == 1
        assert names[-1 if ending.endswith("end") else -2] == "SessionEnded"
        detached = of_type(pair.client_log, LinkDetached)[-1]
        assert detached.error == (error if ending.startswith("peer") else detached.error)
        assert detached.by_us == (ending == "end")
        assert of_type(pair.client_log, SessionEnded)[0].session is session


def test_a_session_that_the_peer_ended_takes_no_links() -> None:
    pair = Pair()
    session = pair.open_session()
    pair.server.sessions[0].end()
    pair.pump()
    with pytest.raises(AmqpProtocolError) as caught:
        session.attach_sender("s", source=None, target=None)
    assert caught.value.condition == "amqp:illegal-state"
    session.end()
    assert pair.pump() == ([], [])


def test_a_session_may_be_ended_before_its_begin_is_answered() -> None:
    pair = Pair()
    pair.pump()
    session = pair.client.open_session()
    session.end()
    client_events, server_events = pair.pump()
    assert client_events == [SessionEnded(session, None)]
    assert of_type(server_events, SessionEnded) != []
    assert pair.open_session().channel == 0


def test_both_may_end_a_session_at_once() -> None:
    pair = Pair()
    session = pair.open_session()
    pair.server.sessions[0].end()
    session.end()
    client_events, server_events = pair.pump()
    assert client_events == [SessionEnded(session, None)]
    assert len(server_events) == 1
    assert pair.client.sessions == pair.server.sessions == []


def test_a_detach_after_end_is_forgiven() -> None:
    pair = Pair()
    session = pair.open_session()
    pair.receiver(session)
    session.end()
    pair.pump()
    assert pair.server.receive(frame(Detach(0, True)), pair.now) == []
    assert violates(pair, frame(Flow(0, 1, 0, 1))) == "amqp:connection:framing-error"


def test_a_forgiven_channel_begins_afresh() -> None:
    pair = Pair()
    pair.open_session().end()
    pair.pump()
    pair.open_session()
    assert violates(pair, frame(Flow(0, 1, 0, 1, 0))) == "amqp:session:unattached-handle"


def test_a_server_that_asks_a_client_for_a_link_is_refused() -> None:
    pair = Pair()
    session = pair.open_session()
    end = pair.server.sessions[0].attach_sender("uninvited", source=Source("a"), target=Target("b"))
    client_events, server_events = pair.pump()
    assert client_events == []
    assert [type(event) for event in server_events] == [LinkRefused]
    assert not end.is_attached
    assert session.links == []


def test_an_unknown_target_is_kept_and_echoed() -> None:
    coordinator = Described(Ulong(0x30), [])
    pair = Pair()
    link = pair.open_session().attach_sender("tx", source=Source(), target=coordinator)
    pair.pump()
    assert link.remote is not None
    assert link.remote.target == coordinator


# Handles


def test_handles_end_at_the_lower_of_both_limits_and_are_used_again() -> None:
    pair = Pair(server={"handle_max": 2})
    session = pair.open_session(handle_max=10)
    links = [pair.receiver(session, f"r{index}")[0] for index in range(3)]
    assert [link.handle for link in links] == [0, 1, 2]
    assert (session.remote_handle_max, session.handles_left) == (2, 0)
    with pytest.raises(AmqpProtocolError) as caught:
        session.attach_receiver("one too many", source=None, target=None)
    assert caught.value.condition == "amqp:resource-limit-exceeded"
    links[1].detach()
    assert session.handles_left == 0
    pair.pump()
    assert pair.receiver(session, "again")[0].handle == 1


def test_one_link_too_many_ends_the_session_but_not_the_connection() -> None:
    pair = Pair(server={"handle_max": 255})
    session = pair.open_session()
    links = [pair.receiver(session, f"r{index}")[0] for index in range(256)]
    server_events = pair.server.receive(frame(Attach("over", 256, Role.RECEIVER)), pair.now)
    client_events, more = pair.pump()
    assert more == []
    assert [event.error.condition for event in of_type(client_events, SessionEnded)] == ["amqp:not-allowed"]
    assert len(of_type(client_events, LinkDetached)) == len(of_type(server_events, LinkDetached)) == len(links)
    assert len(of_type(server_events, SessionEnded)) == 1
    assert pair.receiver(pair.open_session())[0].is_attached


def test_a_server_without_a_handle_to_answer_with_ends_the_session() -> None:
    pair = Pair(server={"handle_max": 9})
    pair.open_session(handle_max=0)
    attaches = frame(Attach("a", 3, Role.RECEIVER)) + frame(Attach("b", 4, Role.RECEIVER))
    events = pair.server.receive(attaches, pair.now)
    assert [event.error.condition for event in of_type(events, SessionEnded)] == ["amqp:not-allowed"]


def test_a_name_is_taken_once_for_each_direction() -> None:
    pair = Pair()
    session = pair.open_session()
    pair.sender(session, "same")
    pair.receiver(session, "same")
    with pytest.raises(AmqpProtocolError):
        session.attach_receiver("same", source=None, target=None)
    assert violates(pair, frame(Attach("same", 7, Role.RECEIVER))) == "amqp:not-allowed"


def test_a_name_may_be_used_again_after_detach() -> None:
    pair = Pair()
    session = pair.open_session()
    for _ in range(3):
        link, _ = pair.receiver(session, "r")
        link.detach()
        pair.pump()
    assert about(pair.client_log, link) == ["LinkAttached", "LinkDetached"]


def test_a_detach_of_a_link_that_the_peer_never_attached_harms_nobody() -> None:
    pair = Pair()
    session = pair.open_session()
    assert pair.client.receive(frame(Detach(9, True)), pair.now) == []
    link, _ = pair.receiver(session, "r")
    assert about(pair.client_log, link) == ["LinkAttached"]


# What a peer must not do


@pytest.mark.parametrize(
    ("data", "condition"),
    [
        (frame(Transfer(9, 0, b"t", 0)), "amqp:session:unattached-handle"),
        (frame(Flow(0, 1, 0, 1, 9)), "amqp:session:unattached-handle"),
        (frame(Transfer(1, 0, b"t", 0)), "amqp:not-allowed"),
        (frame(Transfer(0, None, b"t", 0)), "amqp:decode-error"),
        (frame(Transfer(0, 0, None, 0)), "amqp:decode-error"),
        (frame(Attach("new", 0, Role.SENDER, initial_delivery_count=0)), "amqp:session:handle-in-use"),
        (frame(Transfer(0, 0, b"t", 0)) * 2, "amqp:not-allowed"),
        (frame(Transfer(0, 0, b"t", 0, more=True)) + frame(Transfer(0, 1, b"u", 0)), "amqp:not-allowed"),
        (frame(Transfer(0, 0, b"t", 0), channel=3), "amqp:connection:framing-error"),
        (
            b"".join(frame(Transfer(0, index, b"t", 0, True)) for index in range(11)),
            "amqp:link:transfer-limit-exceeded",
        ),
    ],
)
def test_a_protocol_violation_closes_the_connection(data: bytes, condition: str) -> None:
    pair = Pair()
    session = pair.open_session()
    pair.sender(session)
    pair.receiver(session)
    assert violates(pair, data) == condition


def test_frames_over_the_window_close_the_connection() -> None:
    pair = Pair(server={"incoming_window": 0}, on_request=lambda request: request.link.accept(credit=10))
    pair.sender(pair.open_session())
    assert violates(pair, frame(Transfer(0, 0, b"t", 0, True))) == "amqp:session:window-violation"


def test_what_was_under_way_when_we_ended_is_passed_over() -> None:
    pair = Pair()
    session = pair.open_session()
    receiver, end = pair.receiver(session, credit=10)
    end.send(b"x")
    session.end()
    assert of_type(pair.pump()[0], DeliveryReceived) == []
    receiver, end = pair.receiver(pair.open_session(), credit=10)
    end.send(b"x")
    receiver.detach()
    assert of_type(pair.pump()[0], DeliveryReceived) == []
    receiver, end = pair.receiver(pair.open_session(), credit=10)
    end.send(b"x")
    pair.client.close()
    assert of_type(pair.pump()[0], DeliveryReceived) == []
