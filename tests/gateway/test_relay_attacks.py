"""The relay, and who means it ill or does what is allowed at the worst moment."""

from __future__ import annotations

from uuid import UUID

import pytest

from renewer.amqp import (
    Attach,
    Begin,
    Described,
    Detach,
    Flow,
    Message,
    MessageProperties,
    Source,
    Symbol,
    Target,
    Timestamp,
    Transfer,
    Ulong,
    Value,
    decode_performative,
    encode_frame,
    encode_performative,
)
from renewer.amqp.frames import FrameReader
from renewer.amqp.spans import performative_fields, splice
from renewer.amqp.types import AmqpArray, Uint
from renewer.gateway.options import EntityPolicy, WorkerKey
from renewer.gateway.watching import MOST_NAMED
from tests.gateway.test_relay import Manager, Worker, deliver, hold_session, locked, message, open_receiver, ticks
from tests.gateway.weave import KEY, WALL, server, worker_token

GUID = UUID("01234567-89ab-cdef-0123-456789abcdef")


def raw(worker, *performatives, channel=0, payload=b""):
    """The worker sends these; what goes on to the broker, and what the worker is told, not taken by either."""
    relay = worker.weave.relay
    sent = b"".join(encode_frame(channel, encode_performative(one) + payload) for one in performatives)
    relay.from_worker(bytearray(sent), worker.weave.now)
    return taken(relay.to_broker), taken(relay.to_worker)


def from_broker(worker, *performatives, channel=0, payload=b""):
    relay = worker.weave.relay
    sent = b"".join(encode_frame(channel, encode_performative(one) + payload) for one in performatives)
    relay.from_broker(bytearray(sent), worker.weave.now)
    return taken(relay.to_broker), taken(relay.to_worker)


def taken(out: list) -> list:
    reader = FrameReader(1 << 20)
    reader.feed(b"".join(out))
    out.clear()
    return [decode_performative(frame.body)[0] for frame in reader if frame.body]


def kinds(performatives) -> list:
    return [type(one).__name__ for one in performatives]


def attach(name="x", handle=50, *, role=True, source="orders", target="me", **changes):
    given = {
        "source": Source(address=source),
        "target": Target(address=target) if isinstance(target, str) else target,
        "initial_delivery_count": None if role else Uint(0),
    }
    return Attach(name, handle, role, **{**given, **changes})


# Ways past the gate ---------------------------------------------------------------------------------------------------


def test_a_receiver_with_a_coordinator_for_its_target_is_judged_by_its_source():
    worker = Worker().log_in()
    up, down = raw(worker, attach(source="invoices", target=Described(Ulong(0x30), [])))
    assert not up
    assert kinds(down) == ["Attach", "Detach"]


def test_a_sender_that_has_its_messages_moved_on_is_judged_by_where_to():
    worker = Worker().log_in()
    properties = {Symbol("com.microsoft:transfer-destination-address"): "invoices"}
    up, down = raw(worker, attach(role=False, source="me", target="orders", properties=properties))
    assert not up
    assert kinds(down) == ["Attach", "Detach"]


def test_a_destination_of_the_key_s_is_one_of_the_namespace_s_for_the_broker():
    worker = Worker().log_in()
    properties = {Symbol("com.microsoft:transfer-destination-address"): "orders"}
    up, _ = raw(worker, attach(role=False, source="me", target="orders", properties=properties))
    assert kinds(up) == ["Attach"]


def test_an_entity_is_not_taken_for_another_that_differs_by_a_letter_without_its_dot():
    worker = Worker(keys=(WorkerKey("local", KEY, ("orders", "invoices")),)).log_in()
    up, _ = raw(worker, attach(source="\u0131nvoices"))
    assert not up


# The worst moment -----------------------------------------------------------------------------------------------------


def test_a_link_that_is_refused_before_its_session_is_answered_is_told_after_the_answer():
    worker = Worker().log_in()
    _, down = raw(worker, Begin(None, 0, 100, 100), attach(source="invoices"), channel=1)
    assert kinds(down) == []
    _, down = from_broker(worker, Begin(1, 0, 100, 100), channel=1)
    assert kinds(down) == ["Begin", "Attach", "Detach"]


def test_a_link_may_be_given_up_and_attached_again_before_either_is_answered():
    worker = Worker().log_in()
    relay = worker.weave.relay
    raw(worker, attach("n", 50), Detach(50, True), attach("n", 51))
    ours = {"source": Source(address="orders"), "target": Target(address="me"), "initial_delivery_count": 0}
    from_broker(worker, Attach("n", 70, False, **ours))
    from_broker(worker, Detach(70, True))
    from_broker(worker, Attach("n", 71, False, **ours))
    assert not relay.worker_done
    assert not worker.weave.host.failures
    [link] = [link for session in relay._sessions for link in session.links if link.name == "n"]
    assert link.is_attached
    assert not link.is_gone


def test_a_delivery_that_is_aborted_is_not_kept():
    worker = Worker().log_in()
    open_receiver(worker)
    handle = worker.ends["r"].handle
    whole = message()
    first = Transfer(handle, 0, GUID.bytes_le, 0, False, more=True)
    from_broker(worker, first, payload=whole)
    from_broker(worker, Transfer(handle, aborted=True))
    assert not locked(worker)


def test_links_that_are_not_answered_by_who_was_refused_are_bounded():
    worker = Worker().log_in()
    for number in range(5000):
        raw(worker, attach(f"n{number}", 100 + number, source="invoices"))
        if worker.weave.relay.worker_done:
            return
    pytest.fail("5000 links are refused, and none of them let go of")


def test_who_has_proved_no_key_has_few_links():
    worker = Worker()
    for number in range(2000):
        raw(worker, attach(f"n{number}", 100 + number, source="$cbs"))
        if worker.weave.relay.worker_done:
            return
    pytest.fail("2000 links to $cbs, and no key")


def test_what_a_session_passed_still_counts_when_it_is_over():
    worker = Worker().log_in()
    open_receiver(worker)
    deliver(worker, message(), message())
    passed = worker.weave.relay.passed_to_worker
    worker.session.end()
    worker.settle()
    assert worker.weave.relay.passed_to_worker >= passed


def test_what_cannot_be_renewed_is_not_shown_extended():
    worker = Worker(broker=server(channel_max=0)).log_in()
    [attached] = hold_session(worker)
    assert attached.remote.properties[Symbol("com.microsoft:locked-until-utc")] == ticks(WALL + 130)


def put(worker, number, *, token=None):
    return Message(
        properties=MessageProperties(message_id=f"m-{number}"),
        application_properties={"operation": "put-token", "type": "jwt", "name": "sb://127.0.0.1:5672/orders"},
        body=Value(token or worker_token()),
    ).encode()


def test_tokens_that_come_in_turns_over_two_links_are_each_read_whole():
    worker = Worker()
    worker.cbs()
    raw(worker, attach("c1", 50, role=False, source="me", target="$cbs"), attach("c2", 51, role=False, target="$cbs"))
    one, two = put(worker, 1), put(worker, 2)
    raw(worker, Transfer(50, 0, b"1", 0, False, more=True), payload=one[:100])
    raw(worker, Transfer(51, 1, b"2", 0, False), payload=two)
    assert worker.weave.host.tokens == ["orders"]
    worker.weave.relay.token_ready(worker.weave.token, "", worker.weave.now)
    up = taken(worker.weave.relay.to_broker)
    assert [(frame.handle, frame.delivery_id) for frame in up] == [(51, 1)]
    raw(worker, Transfer(50), payload=one[100:])
    worker.weave.relay.token_ready(worker.weave.token, "", worker.weave.now)
    up = taken(worker.weave.relay.to_broker)
    assert [(frame.handle, frame.delivery_id) for frame in up] == [(50, 0), (50, None)]
    assert not worker.weave.relay.worker_done


def test_half_a_token_of_a_link_that_is_gone_spoils_no_other():
    worker = Worker()
    worker.cbs()
    raw(worker, attach("c1", 50, role=False, source="me", target="$cbs"))
    raw(worker, Transfer(50, 0, b"1", 0, False, more=True), payload=put(worker, 1)[:100])
    raw(worker, Detach(50, True), attach("c2", 50, role=False, source="me", target="$cbs"))
    raw(worker, Transfer(50, 1, b"2", 0, False), payload=put(worker, 2))
    assert worker.weave.host.tokens == ["orders"]
    assert not worker.weave.relay.worker_done


def test_who_begins_tokens_and_ends_none_is_cut_off():
    worker = Worker()
    worker.cbs()
    for number in range(20):
        raw(worker, attach(f"c{number}", 50 + number, role=False, source="me", target="$cbs"))
        raw(worker, Transfer(50 + number, number, b"1", 0, False, more=True), payload=b"x" * 10)
    assert worker.weave.relay.worker_done


def test_when_it_is_renewed_here_no_longer_a_workers_own_renewal_is_shown_as_it_is():
    worker = Worker(policies=(EntityPolicy(max_duration_s=600),)).log_in()
    open_receiver(worker, session="s-1")
    manager = Manager(worker)

    def renewed_at(now):
        worker.weave.now = now
        until = {"expiration": Timestamp(int(1000 * (WALL + now + 30)))}
        answer = manager.ask("com.microsoft:renew-session-lock", {"session-id": "s-1"}, until)
        return answer["expiration"] / 1000 - WALL - now

    assert renewed_at(200.0) == pytest.approx(500)
    assert renewed_at(690.0) == pytest.approx(30)
    assert renewed_at(800.0) == pytest.approx(30)


def test_a_token_in_frames_with_nothing_in_them_does_not_go_on_for_ever():
    worker = Worker()
    worker.cbs()
    raw(worker, attach("c1", 50, role=False, source="me", target="$cbs"))
    for number in range(1000):
        raw(worker, Transfer(50, 0 if number == 0 else None, b"1", 0, False, more=True))
    assert worker.weave.relay.worker_done


@pytest.mark.parametrize("names", [(b"orders", b"invoices"), (b"invoices", b"orders")])
def test_a_destination_that_is_given_twice_opens_nothing(names):
    worker = Worker().log_in()
    key = b"com.microsoft:transfer-destination-address"
    pairs = b"".join(b"\xa3" + bytes((len(key),)) + key + b"\xa1" + bytes((len(name),)) + name for name in names)
    twice = b"\xd1" + (len(pairs) + 4).to_bytes(4, "big") + b"\x00\x00\x00\x04" + pairs
    body = encode_performative(attach(role=False, source="me", target="orders", properties={Symbol("x"): "y"}))
    fields = performative_fields(body)
    relay = worker.weave.relay
    relay.from_worker(bytearray(encode_frame(0, splice(body, fields, {13: twice}))), worker.weave.now)
    assert "Attach" not in kinds(taken(relay.to_broker))


def part(handle, number, **changes):
    return Transfer(handle, number, GUID.bytes_le, 0, **{"settled": False, **changes})


def test_a_delivery_that_is_aborted_in_its_first_frame_leaves_those_before_it_alone():
    worker = Worker().log_in()
    open_receiver(worker)
    handle = worker.ends["r"].handle
    from_broker(worker, part(handle, 0), payload=message(number=1))
    from_broker(worker, part(handle, 1, more=True, settled=True), payload=message(number=2))
    from_broker(worker, Transfer(handle, aborted=True))
    assert set(locked(worker)) == {1}


def test_a_delivery_that_is_aborted_after_it_was_kept_is_told_as_over():
    worker = Worker().log_in()
    open_receiver(worker)
    handle = worker.ends["r"].handle
    from_broker(worker, part(handle, 0, more=True), payload=message())
    [noted] = locked(worker).values()
    noted.kept = "lease-1"
    from_broker(worker, Transfer(handle, aborted=True))
    [(_, (_, told, fate, error), _)] = worker.weave.told.of("settled")
    assert (told, fate, error) == (noted, None, None)


def test_an_address_that_is_refused_is_not_repeated_at_any_length():
    worker = Worker().log_in()
    properties = {Symbol("com.microsoft:transfer-destination-address"): "x" * 20_000}
    raw(worker, attach(role=False, source="me", target="orders", properties=properties))
    assert all(len(detail) < 1000 for _, detail in worker.weave.host.refusals)


def test_requests_that_nobody_answers_are_remembered_within_bounds():
    worker = Worker().log_in()
    manager = Manager(worker)
    tokens = [UUID(int=number) for number in range(8000)]
    for number in range(10):
        manager.outward.send(
            Message(
                properties=MessageProperties(message_id=f"m-{number}"),
                application_properties={"operation": "com.microsoft:renew-lock"},
                body=Value({"lock-tokens": AmqpArray(tokens, UUID)}),
            ).encode()
        )
        worker.settle()
    asked = worker.weave.relay.asked
    assert sum(len(one.ask.tokens) for one in asked.values()) <= MOST_NAMED
    assert len(asked) == 2


def test_nonsense_in_a_flow_of_the_broker_s_ends_the_connection_also_where_nobody_reads_it():
    worker = Worker().log_in()
    open_receiver(worker)
    relay = worker.weave.relay
    body = encode_performative(Flow(0, 100, 0, 100, 0, 0, 1))
    relay.from_broker(bytearray(encode_frame(0, splice(body, performative_fields(body), {9: b"\x43"}))), 100.0)
    assert relay.broker_done
    assert worker.weave.host.failures
