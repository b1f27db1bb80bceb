"""The relay, between two endpoints of the AMQP layer and without I/O."""

from __future__ import annotations

import struct
from uuid import UUID, uuid4

import pytest

from renewer.amqp import (
    Accepted,
    AmqpError,
    AttachRequested,
    Begin,
    Close,
    ConnectionClosed,
    ConnectionState,
    DeliveryReceived,
    DeliveryUpdated,
    Flow,
    LinkAttached,
    LinkDetached,
    LinkRefused,
    Message,
    MessageProperties,
    ReceiverLink,
    Rejected,
    SaslAnonymous,
    SaslPlain,
    SessionEnded,
    Source,
    Symbol,
    Target,
    Timestamp,
    Value,
    decode_performative,
    encode_frame,
    encode_performative,
)
from renewer.amqp.frames import FrameReader, FrameType
from renewer.amqp.types import AmqpArray, Int, Long
from renewer.core.states import MessageFate
from renewer.gateway import access as access_module
from renewer.gateway.framing import MAX_FRAME_SIZE
from renewer.gateway.options import EntityPolicy
from renewer.gateway.pressure import HARD_LIMIT
from tests.gateway.weave import KEY, WALL, Weave, client, server, worker_token

TICKS_AT_EPOCH = 621_355_968_000_000_000
DAY = 86_400


class Worker:
    """Does what an SDK does, over a weave whose broker accepts everything that reaches it."""

    def __init__(self, **changes) -> None:
        self.weave = Weave(**changes)
        self.weave.settle()
        self.session = self.weave.worker.open_session()
        self.ends = {}
        self.put = []
        self.status = 202
        self.settle()

    def settle(self, *, passive=False):
        """Until all is quiet; the broker accepts links and answers tokens."""
        told = []
        while True:
            mine, brokers = self.weave.settle()
            told += mine
            if passive or not brokers:
                return told
            for event in brokers:
                match event:
                    case AttachRequested(link, remote):
                        self.ends[remote.name] = link
                        self.accept(link, remote)
                    case DeliveryReceived(link, delivery) if link.remote.target.address == "$cbs":
                        self.put.append(Message.decode(delivery.payload))
                        link.settle(delivery, Accepted())
                        self.ends["cbs-in"].send(
                            Message(
                                properties=MessageProperties(correlation_id=self.put[-1].properties.message_id),
                                application_properties={"status-code": Int(self.status), "status-description": "as is"},
                                body=Value(None),
                            ).encode()
                        )
                    case _:
                        told.append(event)

    def accept(self, link, remote):
        properties = None
        source = remote.source
        if source is not None and source.filter and "com.microsoft:session-filter" in source.filter:
            properties = {Symbol("com.microsoft:locked-until-utc"): Long(ticks(WALL + 130))}
        link.accept(properties=properties)
        if isinstance(link, ReceiverLink):
            link.flow(100)

    def cbs(self):
        node = {"source": Source(address="$cbs"), "target": Target(address="$cbs")}
        self.cbs_in = self.session.attach_receiver("cbs-in", credit=10, **node)
        self.cbs_out = self.session.attach_sender("cbs-out", **node)
        return self.settle()

    def put_token(self, token, audience="sb://127.0.0.1:5672/orders"):
        self.cbs_out.send(
            Message(
                properties=MessageProperties(message_id=uuid4()),
                application_properties={
                    "operation": "put-token",
                    "type": "jwt",
                    "name": audience,
                    "expiration": Timestamp(1),
                },
                body=Value(token),
            ).encode()
        )
        replies = [event for event in self.settle() if isinstance(event, DeliveryReceived)]
        return [Message.decode(event.delivery.payload).application_properties for event in replies]

    def log_in(self):
        self.cbs()
        [reply] = self.put_token(worker_token())
        assert reply["status-code"] == 202
        return self

    def receiver(self, name="r", *, address="amqps://127.0.0.1:5672/orders", session=None, **changes):
        filters = None if session is None else {Symbol("com.microsoft:session-filter"): session}
        given = {
            "source": Source(address=address, filter=filters),
            "target": Target(address=f"receiver-link-{name}"),
            "snd_settle_mode": 0,
            "rcv_settle_mode": 1,
        }
        return self.session.attach_receiver(name, **{**given, **changes})


def ticks(epoch_s: float) -> int:
    return int(epoch_s * 10_000_000) + TICKS_AT_EPOCH


def message(
    token: UUID | None = None, *, locked_until: float = WALL + 130, body: bytes = b"x", number: int = 7
) -> bytes:
    return Message(
        message_annotations={
            Symbol("x-opt-enqueued-time"): Timestamp(1),
            Symbol("x-opt-sequence-number"): Long(number),
            Symbol("x-opt-locked-until"): Timestamp(int(1000 * locked_until)),
        },
        body=Value(body),
    ).encode()


def frames(data: bytes) -> list:
    """The performatives in what went over a connection, after the greeting."""
    reader = FrameReader(1 << 20)
    start = data.rindex(b"AMQP\0\1\0\0") + 8
    reader.feed(data[start:])
    return [decode_performative(frame.body)[0] for frame in reader if frame.body and frame.type is FrameType.AMQP]


# Opening --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 65536])
@pytest.mark.parametrize("sasl", [SaslAnonymous(), None])
def test_the_broker_is_told_the_name_of_the_namespace_and_each_hop_has_its_own_signs_of_life(chunk, sasl):
    weave = Weave(chunk=chunk, worker=client(sasl=sasl, idle_time_out_s=30), broker=server(channel_max=4999))
    weave.settle()
    upstream, downstream = weave.broker.remote_open, weave.worker.remote_open
    assert upstream.hostname == "contoso.servicebus.example"
    assert upstream.container_id == "worker-1"
    assert upstream.idle_time_out == 30_000
    assert downstream.container_id == "broker"
    assert downstream.idle_time_out is None
    assert weave.told.worker == "worker-1"


@pytest.mark.parametrize(
    ("workers", "brokers", "spare", "shown"),
    [(0xFFFF, 4999, 4999, 4998), (0xFFFF, 0xFFFF, 0xFFFF, 0xFFFE), (0, 4999, 1, 0), (7, 4999, 8, 7), (9, 1, 1, 0)],
)
def test_the_last_channel_is_the_gateways_own(workers, brokers, spare, shown):
    weave = Weave(worker=client(channel_max=workers), broker=server(channel_max=brokers))
    weave.settle()
    assert weave.relay.spare.channel == spare
    assert weave.worker.remote_open.channel_max == shown
    assert weave.broker.remote_open.channel_max >= spare


def test_where_the_broker_allows_one_channel_the_worker_has_it_and_nothing_can_be_renewed():
    weave = Weave(broker=server(channel_max=0))
    weave.settle()
    assert weave.relay.spare.channel is None
    assert weave.worker.open_session()


def test_frames_are_kept_small_enough_to_lie_here_whole():
    weave = Weave(worker=client(max_frame_size=1 << 30), broker=server(max_frame_size=1 << 30))
    weave.settle()
    assert weave.broker.remote_open.max_frame_size == weave.worker.remote_open.max_frame_size == MAX_FRAME_SIZE


def test_sasl_plain_is_not_offered_for_it_would_put_no_token():
    weave = Weave(worker=client(sasl=SaslPlain("local", KEY)))
    weave.settle()
    assert weave.worker.state is ConnectionState.CLOSED
    assert not weave.host.dials


# Tokens ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 65536])
def test_a_good_token_is_replaced_by_the_gateways_own_on_the_workers_own_link(chunk):
    worker = Worker(chunk=chunk).log_in()
    [put] = worker.put
    assert put.body.value == "SharedAccessSignature ours"
    assert put.application_properties["name"] == "sb://contoso.servicebus.example/orders"
    assert put.application_properties["type"] == "servicebus.windows.net:sastoken"
    assert put.application_properties["expiration"] == 1_800_000_000_000
    assert worker.weave.host.tokens == ["orders"]
    assert worker.weave.host.keys == ["local"]
    assert worker_token().encode() not in bytes(worker.weave.seen_by_broker)
    assert worker.weave.told.of("token_put")


def test_a_token_in_many_frames_goes_on_in_as_many():
    worker = Worker(broker=server(max_frame_size=512)).log_in()
    [put] = worker.put
    assert put.body.value == "SharedAccessSignature ours"
    sender = worker.session.attach_sender(
        "s", source=Source(address="me"), target=Target(address="amqps://127.0.0.1:5672/orders")
    )
    worker.settle()
    sender.send(b"\x00\x53\x77\xa0\x01x")
    # The numbers of the session are still what both sides believe.
    assert [event for event in worker.settle() if isinstance(event, DeliveryReceived)]


def test_nothing_more_is_read_from_the_worker_until_the_gateways_token_is_there():
    worker = Worker()
    worker.cbs()
    worker.weave.token = None
    worker.put_token(worker_token())
    assert worker.weave.relay.holds_worker
    assert not worker.put
    worker.receiver()
    assert not [event for event in worker.settle() if isinstance(event, LinkAttached)]
    worker.weave.token = Weave().token
    assert [event for event in worker.settle() if isinstance(event, LinkAttached)]
    assert len(worker.put) == 1


def test_a_wrong_token_goes_on_as_one_that_cannot_be_good_and_the_worker_is_told_so_whatever_the_broker_says():
    worker = Worker()
    worker.cbs()
    wrong = worker_token(key="d3Jvbmc=")
    [reply] = worker.put_token(wrong)
    assert reply["status-code"] == 401
    assert wrong not in worker.put[0].body.value
    assert worker.put[0].body.value.startswith("SharedAccessSignature ")
    assert not worker.weave.relay.is_let_in
    assert worker.weave.host.refusals[0][0] == "key"


def test_a_token_for_an_entity_that_is_not_the_keys_is_refused():
    worker = Worker()
    worker.cbs()
    audience = "sb://127.0.0.1:5672/invoices"
    [reply] = worker.put_token(worker_token(audience), audience)
    assert reply["status-code"] == 401
    assert worker.weave.host.refusals[0][0] == "entity"


def test_a_gateway_without_a_token_of_its_own_says_so_and_that_it_may_be_tried_again():
    worker = Worker()
    worker.cbs()
    worker.weave.token = None
    worker.put_token(worker_token())
    worker.status = 401
    worker.weave._tokened = 1
    worker.weave.relay.token_ready(None, "the identity service is away", worker.weave.now)
    [reply] = [event for event in worker.settle() if isinstance(event, DeliveryReceived)]
    fields = Message.decode(reply.delivery.payload).application_properties
    assert fields["status-code"] == 503
    assert "the identity service is away" in fields["status-description"]


def test_who_proves_no_key_in_time_is_cut_off():
    worker = Worker()
    worker.cbs()
    worker.weave.relay.advance(100.0 + 19.9)
    assert worker.weave.worker.state is ConnectionState.OPENED
    worker.weave.now = 120.0
    worker.weave.relay.advance(120.0)
    closed, *_ = [event for event in worker.settle() if isinstance(event, ConnectionClosed)]
    assert closed.error.condition == "amqp:unauthorized-access"
    assert worker.weave.host.refusals[-1][0] == "timeout"


TOPIC = "events/Subscriptions/a"


def may_attach(worker, address):
    worker.receiver(str(uuid4()), address=address)
    return any(isinstance(event, LinkAttached) for event in worker.settle())


def test_what_is_signed_for_one_entity_opens_that_and_what_belongs_to_it_and_nothing_else_of_the_key():
    worker = Worker().log_in()
    for address in ("orders", "ORDERS", "amqps://127.0.0.1/orders/$DeadLetterQueue", "orders/$management"):
        assert may_attach(worker, address)
    for address in (TOPIC, f"{TOPIC}/$management", f"amqps://127.0.0.1/{TOPIC}"):
        assert not may_attach(worker, address)
    topic = f"sb://127.0.0.1:5672/{TOPIC}"
    assert worker.put_token(worker_token(topic), topic)[0]["status-code"] == 202
    assert may_attach(worker, TOPIC)
    assert may_attach(worker, "orders")


def test_what_is_signed_for_the_management_of_an_entity_does_not_open_its_messages():
    worker = Worker()
    worker.cbs()
    audience = "sb://127.0.0.1:5672/orders/$management"
    assert worker.put_token(worker_token(audience), audience)[0]["status-code"] == 202
    assert may_attach(worker, "orders/$management")
    assert not may_attach(worker, "orders")


def test_what_is_signed_for_the_namespace_opens_all_that_the_key_may_use():
    worker = Worker()
    worker.cbs()
    assert worker.put_token(worker_token("sb://127.0.0.1:5672/"))[0]["status-code"] == 202
    assert may_attach(worker, "orders")
    assert may_attach(worker, TOPIC)
    assert not may_attach(worker, "invoices")


def test_what_one_worker_signs_for_is_bounded(monkeypatch):
    monkeypatch.setattr(access_module, "MOST_GRANTS", 2)
    worker = Worker().log_in()
    for name in "ab":
        audience = f"sb://127.0.0.1:5672/events/Subscriptions/{name}"
        worker.put_token(worker_token(audience), audience)
    assert worker.weave.relay.worker_done
    assert worker.weave.host.refusals[-1] == ("protocol", "tokens for too many entities")


# The gate -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "invoices",
        "amqps://127.0.0.1:5672/invoices",
        "invoices/$management",
        "orders/../invoices",
        "orders%2f..%2finvoices",
        "events",
        "$cbsx",
        "",
        None,
    ],
)
def test_a_link_to_what_is_not_the_keys_is_refused_and_nothing_of_it_reaches_the_broker(address):
    worker = Worker().log_in()
    before = len(worker.weave.seen_by_broker)
    link = worker.receiver(address=address)
    refused = [event for event in worker.settle() if isinstance(event, LinkRefused)]
    assert [event.link for event in refused] == [link]
    assert refused[0].error.condition == "amqp:unauthorized-access"
    assert len(worker.weave.seen_by_broker) == before
    # The worker goes on.
    worker.receiver("fine")
    assert [event for event in worker.settle() if isinstance(event, LinkAttached)]


def test_before_a_key_is_proved_only_the_node_for_tokens_can_be_attached():
    worker = Worker()
    worker.receiver()
    assert [event for event in worker.settle() if isinstance(event, LinkRefused)]
    worker.log_in()


def test_credit_for_a_link_that_was_refused_goes_nowhere():
    worker = Worker().log_in()
    link = worker.receiver(address="invoices", credit=5)
    attach = worker.weave.worker.take_output(100.0)
    flow = encode_performative(Flow(0, 100, 0, 100, link.handle, 0, 5))
    before = len(worker.weave.seen_by_broker)
    # As rhea does it: credit right behind the attach, before any answer.
    worker.weave.relay.from_worker(bytearray(attach + encode_frame(0, flow)), 100.0)
    worker.settle()
    assert len(worker.weave.seen_by_broker) == before
    assert worker.weave.broker.state is ConnectionState.OPENED


def test_a_sender_may_not_go_without_an_address_for_it_could_send_anywhere():
    worker = Worker().log_in()
    worker.session.attach_sender("s", source=Source(address="me"), target=Target(address=None))
    assert [event for event in worker.settle() if isinstance(event, LinkRefused)]


@pytest.mark.parametrize("address", ["amqps://127.0.0.1:5672/orders", "AMQPS://gateway:1/orders", "orders"])
@pytest.mark.parametrize("chunk", [3, 65536])
def test_an_address_is_the_namespaces_for_the_broker_and_comes_back_byte_for_byte(address, chunk):
    worker = Worker(chunk=chunk).log_in()
    link = worker.receiver(address=address)
    [attached] = [event for event in worker.settle() if isinstance(event, LinkAttached)]
    assert attached.link is link
    assert attached.remote.source.address == address
    seen = worker.ends["r"].remote.source.address
    assert seen.lower().endswith("/orders") or seen == "orders"
    assert "127.0.0.1" not in seen
    assert worker.ends["r"].remote.target.address == "receiver-link-r"


# Locks ----------------------------------------------------------------------------------------------------------------


def hold_session(worker, session="s-1", wanted=None):
    worker.receiver(session=wanted if wanted is not None else session)
    return [event for event in worker.settle() if isinstance(event, LinkAttached)]


@pytest.mark.parametrize("chunk", [1, 65536])
def test_a_sessions_lock_is_shown_extended_and_told_truly(chunk):
    worker = Worker(chunk=chunk).log_in()
    [attached] = hold_session(worker)
    shown = attached.remote.properties[Symbol("com.microsoft:locked-until-utc")]
    assert shown == pytest.approx(ticks(WALL + worker.weave.now + 7 * DAY), abs=10_000_000)
    [(_, (link,), told)] = worker.weave.told.of("session_held")
    assert (link.session_id, link.entity, link.is_session, link.wants_next) == ("s-1", "orders", True, False)
    assert told["locked_until"] == pytest.approx(WALL + 130)


def test_a_lock_is_shown_as_it_is_where_that_is_wanted():
    worker = Worker(policies=(EntityPolicy(show_lock_until="true"),)).log_in()
    [attached] = hold_session(worker)
    assert attached.remote.properties[Symbol("com.microsoft:locked-until-utc")] == ticks(WALL + 130)
    assert worker.weave.told.of("session_held")


def test_a_lock_is_shown_for_as_long_as_it_may_be_renewed():
    worker = Worker(policies=(EntityPolicy(max_duration_s=600),)).log_in()
    [attached] = hold_session(worker)
    shown = attached.remote.properties[Symbol("com.microsoft:locked-until-utc")]
    assert shown == pytest.approx(ticks(WALL + 100 + 600), abs=10_000_000)


def test_where_nothing_is_renewed_frames_pass_as_they_are():
    worker = Worker(policies=(EntityPolicy("orders", sessions=False, messages=False), EntityPolicy())).log_in()
    [attached] = hold_session(worker)
    assert attached.remote.properties[Symbol("com.microsoft:locked-until-utc")] == ticks(WALL + 130)
    assert not worker.weave.told.of("session_held")


def deliver(worker, *payloads, name="r", tags=None):
    """The broker sends; what the worker got."""
    for index, payload in enumerate(payloads):
        worker.ends[name].send(payload, delivery_tag=None if tags is None else tags[index])
    return [event.delivery for event in worker.settle() if isinstance(event, DeliveryReceived)]


def open_receiver(worker, **changes):
    link = worker.receiver(credit=1000, **changes)
    worker.settle()
    return link


def locked(worker) -> dict:
    """What the relay remembers of the messages under way to the worker, by sequence number."""
    return {
        lock.sequence_number: lock
        for session in worker.weave.relay._sessions
        for link in session.links
        for lock in link.locked.values()
    }


@pytest.mark.parametrize("chunk", [1, 65536])
def test_a_messages_lock_is_noted_with_its_token_and_shown_extended(chunk):
    worker = Worker(chunk=chunk).log_in()
    open_receiver(worker)
    token = uuid4()
    [delivery] = deliver(worker, message(), tags=[token.bytes_le])
    shown = Message.decode(delivery.payload).message_annotations[Symbol("x-opt-locked-until")]
    assert shown == pytest.approx(1000 * (WALL + 100 + 7 * DAY), abs=1000)
    assert locked(worker)[7].tag == token.bytes_le
    assert locked(worker)[7].locked_until == WALL + 130
    assert Message.decode(delivery.payload).body.value == b"x"


def test_only_the_annotation_itself_is_changed_wherever_else_its_bytes_may_stand():
    worker = Worker().log_in()
    open_receiver(worker)
    trap = b"\xa3\x12x-opt-locked-until\x83" + struct.pack(">q", 42)
    payload = Message(
        message_annotations={
            Symbol("trap"): trap.decode("latin-1"),
            Symbol("x-opt-locked-until"): Timestamp(int(1000 * WALL)),
        },
        body=Value(trap),
    ).encode()
    [delivery] = deliver(worker, payload, tags=[uuid4().bytes_le])
    got = Message.decode(delivery.payload)
    assert got.body.value == trap
    assert got.message_annotations[Symbol("trap")] == trap.decode("latin-1")
    assert got.message_annotations[Symbol("x-opt-locked-until")] > 1000 * WALL


# A frame that comes alone ---------------------------------------------------------------------------------------------


class Written(list):
    """What was written at once, and what was known of locks at that moment."""

    def __init__(self, worker):
        super().__init__()
        self._worker = worker
        self.known = []

    def take(self, data):
        self.append(bytes(data))
        self.known.append(set(locked(self._worker)))


def alone(worker):
    """From now on a shell writes what can be written at once: what it is given, for the worker and for the broker."""
    down, up = Written(worker), Written(worker)
    worker.weave.relay.write_to_worker, worker.weave.relay.write_to_broker = down.take, up.take
    return down, up


def test_frames_that_come_alone_are_passed_on_first_and_noted_then():
    worker = Worker().log_in()
    link = open_receiver(worker)
    relay, weave = worker.weave.relay, worker.weave
    down, up = alone(worker)

    worker.ends["r"].send(message(), delivery_tag=UUID(int=1).bytes_le)
    relay.from_broker(bytearray(weave.broker.take_output(100.0)), 100.0)
    assert (len(down), down.known, relay.to_worker) == (1, [set()], [])
    assert locked(worker)[7].locked_until == WALL + 130
    assert locked(worker)[7].tag == UUID(int=1).bytes_le
    [event] = weave.worker.receive(down.pop(), 100.0)
    shown = Message.decode(event.delivery.payload).message_annotations[Symbol("x-opt-locked-until")]
    assert shown == pytest.approx(1000 * (WALL + 100 + 7 * DAY), abs=1000)

    link.settle(event.delivery, Accepted(), settled=False)
    relay.from_worker(bytearray(weave.worker.take_output(100.0)), 100.0)
    assert (len(up), relay.to_broker) == (1, [])
    assert locked(worker)[7].is_settling
    [update] = weave.broker.receive(up.pop(), 100.0)

    worker.ends["r"].settle(update.delivery, Accepted())
    relay.from_broker(bytearray(weave.broker.take_output(100.0)), 100.0)
    assert (len(down), down.known[-1]) == (1, {7})
    assert not locked(worker)

    link.flow(1000)
    relay.from_worker(bytearray(weave.worker.take_output(100.0)), 100.0)
    [sent] = up
    flow = decode_performative(sent[8:])[0]
    assert isinstance(flow, Flow)
    assert flow.incoming_window <= 256
    assert relay.passed_to_worker == 1


def test_a_frame_that_comes_alone_does_not_overtake_what_waits():
    worker = Worker().log_in()
    link = open_receiver(worker)
    relay, weave = worker.weave.relay, worker.weave
    down, up = alone(worker)
    relay.send_to_worker(b"first")
    relay.send_to_broker(b"first")
    worker.ends["r"].send(message(), delivery_tag=uuid4().bytes_le)
    link.flow(1000)
    relay.from_broker(bytearray(weave.broker.take_output(100.0)), 100.0)
    relay.from_worker(bytearray(weave.worker.take_output(100.0)), 100.0)
    assert (down, up) == ([], [])
    assert (relay.to_worker[0], relay.to_broker[0]) == (b"first", b"first")
    assert (len(relay.to_worker), len(relay.to_broker)) == (2, 2)


def test_a_frame_that_is_half_there_or_not_alone_waits_for_its_turn():
    worker = Worker().log_in()
    open_receiver(worker)
    relay = worker.weave.relay
    down, _ = alone(worker)
    for number in (1, 2):
        worker.ends["r"].send(message(number=number), delivery_tag=uuid4().bytes_le)
    data = worker.weave.broker.take_output(100.0)
    relay.from_broker(bytearray(data[:40]), 100.0)
    relay.from_broker(bytearray(data[40:]), 100.0)
    assert not down
    events = worker.settle()
    assert len([event for event in events if isinstance(event, DeliveryReceived)]) == 2
    assert set(locked(worker)) == {1, 2}


def test_what_comes_for_a_worker_that_takes_nothing_is_queued_where_its_limit_is_watched():
    worker = Worker().log_in()
    open_receiver(worker)
    relay = worker.weave.relay
    down, _ = alone(worker)
    relay.worker_paused(100.0)
    worker.ends["r"].send(message(), delivery_tag=uuid4().bytes_le)
    relay.from_broker(bytearray(worker.weave.broker.take_output(100.0)), 100.0)
    assert not down
    assert len(relay.to_worker) == 1


GARBLED_DISPOSITION = encode_frame(0, b"\x00\x53\x15\xc0\x03\x02\x43\x43")


def test_a_disposition_that_comes_alone_and_is_none_ends_the_connection_of_a_worker():
    worker = Worker().log_in()
    open_receiver(worker)
    relay = worker.weave.relay
    alone(worker)
    relay.from_worker(bytearray(GARBLED_DISPOSITION), 100.0)
    assert relay.worker_done
    assert [why for why, _ in worker.weave.host.refusals] == ["protocol"]
    assert worker.weave.told.of("closed")


def test_a_disposition_that_comes_alone_and_is_none_ends_the_connection_to_a_broker():
    worker = Worker().log_in()
    open_receiver(worker)
    relay = worker.weave.relay
    alone(worker)
    relay.from_broker(bytearray(GARBLED_DISPOSITION), 100.0)
    assert relay.broker_done
    assert worker.weave.host.failures
    assert worker.weave.told.of("closed")


@pytest.mark.parametrize("size", range(8, 24))
def test_a_frame_that_is_cut_short_is_no_fault_of_ours(size):
    worker = Worker().log_in()
    open_receiver(worker)
    relay = worker.weave.relay
    body = b"\x00\x53\x14\xc0\xff\x05\x52\x01\x52\x01\xa0\x10" + bytes(4)
    frame = bytearray(size.to_bytes(4, "big") + b"\x02\0\0\0" + body)
    for take in (relay.from_broker, relay.from_worker):
        take(frame[:size], 100.0)


def test_a_message_that_the_worker_settles_is_forgotten_when_the_broker_has_answered():
    worker = Worker().log_in()
    link = open_receiver(worker)
    [first, second] = deliver(worker, message(number=1), message(number=2), tags=[uuid4().bytes_le, uuid4().bytes_le])
    lock = locked(worker)[1]
    lock.kept = "lease-1"
    link.settle(first, Accepted(), settled=False)
    events = worker.settle()
    assert worker.weave.told.of("settling")[0][1][1] is lock
    [update] = [event for event in events if isinstance(event, DeliveryUpdated)]
    worker.ends["r"].settle(update.delivery, Accepted())
    worker.settle()
    [(_, (_, settled, fate, error), _)] = worker.weave.told.of("settled")
    assert (settled, fate, error) == (lock, MessageFate.COMPLETED, None)
    assert list(locked(worker)) == [2]
    del second


def test_a_message_that_the_worker_settles_without_waiting_is_forgotten_at_once():
    worker = Worker().log_in()
    link = open_receiver(worker)
    [delivery] = deliver(worker, message(), tags=[uuid4().bytes_le])
    link.settle(delivery, Accepted(), settled=True)
    worker.settle()
    assert not locked(worker)
    assert not worker.weave.told.of("settled")


def test_a_settlement_that_the_broker_refuses_is_told_as_such():
    worker = Worker().log_in()
    link = open_receiver(worker)
    [delivery] = deliver(worker, message(), tags=[uuid4().bytes_le])
    locked(worker)[7].kept = "lease-1"
    link.settle(delivery, Accepted(), settled=False)
    [update] = [event for event in worker.settle() if isinstance(event, DeliveryUpdated)]
    worker.ends["r"].settle(update.delivery, Rejected(AmqpError("com.microsoft:message-lock-lost", "gone")))
    worker.settle()
    [(_, (_, _, fate, error), _)] = worker.weave.told.of("settled")
    assert fate is None
    assert error.condition == "com.microsoft:message-lock-lost"


def test_messages_that_are_settled_as_they_are_sent_are_not_noted():
    worker = Worker().log_in()
    open_receiver(worker, snd_settle_mode=1, rcv_settle_mode=0)
    worker.ends["r"].send(message(), settled=True)
    worker.settle()
    assert not locked(worker)


def test_messages_of_a_session_are_its_locks_and_not_noted_one_by_one():
    worker = Worker().log_in()
    open_receiver(worker, session="s-1")
    [delivery] = deliver(worker, message(), tags=[uuid4().bytes_le])
    assert not locked(worker)
    shown = Message.decode(delivery.payload).message_annotations[Symbol("x-opt-locked-until")]
    assert shown > 1000 * (WALL + 6 * DAY)


def test_a_worker_that_closes_its_link_gives_the_session_back():
    worker = Worker().log_in()
    link = open_receiver(worker, session="s-1")
    link.detach()
    worker.settle()
    [(_, (gone,), told)] = worker.weave.told.of("link_gone")
    assert gone.session_id == "s-1"
    assert told["by_worker"]


def test_a_link_that_the_broker_detaches_is_told_with_its_reason():
    worker = Worker().log_in()
    link = open_receiver(worker, session="s-1")
    worker.ends["r"].detach(AmqpError("com.microsoft:session-lock-lost", "expired"))
    [detached] = [event for event in worker.settle() if isinstance(event, LinkDetached) and event.link is link]
    assert detached.error.condition == "com.microsoft:session-lock-lost"
    [(_, _, told)] = worker.weave.told.of("link_gone")
    assert not told["by_worker"]
    assert told["error"].condition == "com.microsoft:session-lock-lost"


# Over the management node ---------------------------------------------------------------------------------------------


class Manager:
    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        node = {"source": Source(address="orders/$management"), "target": Target(address="orders/$management")}
        self.inward = worker.session.attach_receiver("m-in", credit=100, **node)
        self.outward = worker.session.attach_sender("m-out", **node)
        worker.settle()

    def ask(self, operation, body, answer, status=200):
        self.outward.send(
            Message(
                properties=MessageProperties(message_id=uuid4(), reply_to="orders/$management"),
                application_properties={"operation": operation},
                body=Value(body),
            ).encode()
        )
        [asked] = [event for event in self.worker.settle() if isinstance(event, DeliveryReceived)]
        request = Message.decode(asked.delivery.payload)
        self.worker.ends["m-in"].send(
            Message(
                properties=MessageProperties(correlation_id=request.properties.message_id),
                application_properties={"statusCode": Int(status)},
                body=Value(answer),
            ).encode()
        )
        [answered] = [event for event in self.worker.settle() if isinstance(event, DeliveryReceived)]
        return Message.decode(answered.delivery.payload).body.value


def test_a_workers_own_renewal_of_a_session_counts_and_is_shown_as_all_else_is():
    worker = Worker().log_in()
    open_receiver(worker, session="s-1")
    answer = Manager(worker).ask(
        "com.microsoft:renew-session-lock", {"session-id": "s-1"}, {"expiration": Timestamp(int(1000 * (WALL + 160)))}
    )
    assert answer["expiration"] > 1000 * (WALL + 6 * DAY)
    [(_, args, _)] = worker.weave.told.of("renewed_by_worker")
    assert args == ("orders", "s-1", (), [WALL + 160])


def test_a_workers_own_renewal_of_messages_counts():
    worker = Worker().log_in()
    tokens = [uuid4(), uuid4()]
    answer = Manager(worker).ask(
        "com.microsoft:renew-lock",
        {"lock-tokens": AmqpArray(tokens, UUID)},
        {"expirations": AmqpArray([Timestamp(int(1000 * WALL)), Timestamp(int(1000 * WALL + 1000))], Timestamp)},
    )
    assert all(item > 1000 * (WALL + 6 * DAY) for item in answer["expirations"].items)
    [(_, args, _)] = worker.weave.told.of("renewed_by_worker")
    assert args[2] == tuple(tokens)
    assert args[3] == [WALL, WALL + 1]


def test_a_message_settled_by_its_token_is_forgotten():
    worker = Worker().log_in()
    open_receiver(worker)
    token = uuid4()
    deliver(worker, message(), tags=[token.bytes_le])
    Manager(worker).ask(
        "com.microsoft:update-disposition",
        {"disposition-status": "suspended", "lock-tokens": AmqpArray([token], UUID)},
        {},
    )
    assert not locked(worker)
    [(_, args, _)] = worker.weave.told.of("settled_by_token")
    assert args == ("orders", (token,), MessageFate.DEAD_LETTERED)


def test_what_a_management_node_refuses_changes_nothing():
    worker = Worker().log_in()
    open_receiver(worker)
    token = uuid4()
    deliver(worker, message(), tags=[token.bytes_le])
    Manager(worker).ask(
        "com.microsoft:update-disposition",
        {"disposition-status": "completed", "lock-tokens": AmqpArray([token], UUID)},
        None,
        status=410,
    )
    assert locked(worker)
    assert not worker.weave.told.of("settled_by_token")


def test_a_management_link_that_is_given_up_is_told_for_deferred_messages_are_settled_over_it():
    worker = Worker().log_in()
    manager = Manager(worker)
    manager.inward.detach()
    worker.settle()
    [(_, (link,), told)] = worker.weave.told.of("link_gone")
    assert link.name == "m-in"
    assert told["by_worker"]


# Windows --------------------------------------------------------------------------------------------------------------


def test_a_worker_that_takes_nothing_is_sent_no_more_than_may_lie_here():
    worker = Worker().log_in()
    open_receiver(worker)
    relay = worker.weave.relay
    relay.worker_paused(100.0)
    for number in range(1000):
        worker.ends["r"].send(message(number=number, body=b"x" * 50_000), delivery_tag=uuid4().bytes_le)
    seen = len(worker.weave.seen_by_worker)
    got = [event for event in worker.settle() if isinstance(event, DeliveryReceived)]
    assert len(worker.weave.seen_by_worker) - seen < 16 * 1024 * 1024
    assert len(got) < 1000
    relay.worker_drained(101.0)
    got += [event for event in worker.settle() if isinstance(event, DeliveryReceived)]
    assert len(got) == 1000


def test_a_worker_that_takes_everything_is_never_kept_waiting():
    worker = Worker().log_in()
    open_receiver(worker)
    got = 0
    for number in range(900):
        got += len(deliver(worker, message(number=number), tags=[uuid4().bytes_le]))
    assert got == 900


def test_a_small_window_of_the_workers_own_is_kept_to():
    weave = Weave()
    weave.settle()
    weave.worker.open_session(incoming_window=3)
    weave.settle()
    assert weave.broker.sessions[0].remote.incoming_window == 3


def test_many_sessions_of_a_worker_share_what_may_be_under_way_to_it():
    """Else a worker that is blocked would have the gateway stop to read the broker, and with that its own answers."""
    worker = Worker(worker=client(max_frame_size=MAX_FRAME_SIZE), broker=server(max_frame_size=MAX_FRAME_SIZE)).log_in()
    for _ in range(39):
        worker.weave.worker.open_session(incoming_window=65_535)
        worker.settle()
    granted = [session.remote.incoming_window for session in worker.weave.broker.sessions]
    assert len(granted) == 40
    assert MAX_FRAME_SIZE * sum(granted) < HARD_LIMIT
    assert min(granted) >= 1


# The spare channel ----------------------------------------------------------------------------------------------------


def test_frames_of_the_spare_channel_never_reach_the_worker():
    worker = Worker().log_in()
    spare = worker.weave.told.spare
    bodies = []
    spare.on_frame = bodies.append
    before = len(worker.weave.seen_by_worker)
    spare.send(encode_frame(spare.channel, encode_performative(Begin(None, 0, 100, 100))))
    worker.settle()
    assert worker.weave.host.flushes
    begin, _ = decode_performative(bodies[0])
    assert begin.remote_channel == spare.channel
    worker.weave.broker.sessions[1].end()
    worker.settle()
    assert len(bodies) == 2
    assert len(worker.weave.seen_by_worker) == before


def test_a_worker_that_uses_the_spare_channel_is_cut_off():
    worker = Worker().log_in()
    spare = worker.weave.told.spare
    worker.weave.relay.from_worker(
        bytearray(encode_frame(spare.channel, encode_performative(Begin(None, 0, 9, 9)))), 100.0
    )
    closed, *_ = [event for event in worker.settle() if isinstance(event, ConnectionClosed)]
    assert closed.error.condition == "amqp:connection:framing-error"


def test_a_broker_that_numbers_its_channels_beyond_the_workers_is_translated():
    worker = Weave(worker=client(channel_max=0))
    worker.settle()
    spare = worker.told.spare
    spare.on_frame = lambda _: None
    # Ours comes first, and gets the broker's channel 0 … which the worker may then not be shown another one for.
    spare.send(encode_frame(spare.channel, encode_performative(Begin(None, 0, 100, 100))))
    worker.settle()
    session = worker.worker.open_session()
    worker.settle()
    assert session.remote_channel == 0
    session.end()
    events, _ = worker.settle()
    assert [event for event in events if isinstance(event, SessionEnded)]


# Ends -----------------------------------------------------------------------------------------------------------------


def test_when_the_worker_is_gone_its_links_are_detached_at_once():
    worker = Worker().log_in()
    open_receiver(worker, session="s-1")
    start = len(worker.weave.seen_by_broker)
    worker.weave.relay.worker_gone(100.0)
    told = worker.settle(passive=True)
    del told
    seen = bytes(worker.weave.seen_by_broker)
    last = [type(frame).__name__ for frame in frames(seen)][-4:]
    assert last[-1] == "Close"
    assert last[-2] == "Detach"
    assert len(seen) > start
    [(_, _, told)] = worker.weave.told.of("closed")
    assert told["worker_gone"]
    assert worker.weave.relay.broker_done
    assert worker.weave.relay.worker_done


def test_a_broker_that_never_answers_the_close_is_left_after_a_while():
    worker = Worker().log_in()
    worker.weave.relay.worker_gone(100.0)
    assert not worker.weave.relay.broker_done
    worker.weave.relay.advance(102.0)
    assert worker.weave.relay.broker_done


def test_what_a_worker_settles_right_before_its_goodbye_is_settled():
    worker = Worker().log_in()
    link = open_receiver(worker)
    [delivery] = deliver(worker, message(), tags=[uuid4().bytes_le])
    link.settle(delivery, Accepted(), settled=True)
    worker.weave.worker.close()
    worker.settle()
    names = [type(frame).__name__ for frame in frames(bytes(worker.weave.seen_by_broker))]
    assert names.index("Disposition", names.index("Attach")) < names.index("Close")


def test_what_a_worker_settles_before_it_leaves_is_settled_though_its_token_is_still_awaited():
    worker = Worker().log_in()
    link = open_receiver(worker)
    [delivery] = deliver(worker, message(), tags=[uuid4().bytes_le])
    worker.weave.token = None
    assert not worker.put_token(worker_token())
    link.settle(delivery, Accepted(), settled=True)
    worker.settle()
    before = len(worker.weave.seen_by_broker)
    worker.weave.relay.worker_gone(100.0)
    worker.weave.settle()
    told = bytes(worker.weave.seen_by_broker)
    names = [type(frame).__name__ for frame in frames(told)][len(frames(told[:before])) :]
    assert (names[0], names[-1]) == ("Disposition", "Close")


def test_what_a_worker_settles_right_before_a_fault_of_its_is_settled():
    worker = Worker().log_in()
    link = open_receiver(worker)
    [delivery] = deliver(worker, message(), tags=[uuid4().bytes_le])
    link.settle(delivery, Accepted(), settled=True)
    data = worker.weave.worker.take_output(100.0)
    before = len(worker.weave.seen_by_broker)
    worker.weave.relay.from_worker(bytearray(data + b"\x00\x00\x00\x07\x02\x00\x00\x00"), 100.0)
    worker.weave.settle()
    assert bytes(worker.weave.seen_by_broker[before:]).startswith(data)


def test_what_a_broker_sends_right_before_a_fault_of_its_reaches_the_worker():
    worker = Worker().log_in()
    open_receiver(worker)
    worker.ends["r"].send(message(), delivery_tag=uuid4().bytes_le)
    data = worker.weave.broker.take_output(100.0)
    worker.weave.relay.from_broker(bytearray(data + b"\x00\x00\x00\x07\x02\x00\x00\x00"), 100.0)
    assert [event for event in worker.settle() if isinstance(event, DeliveryReceived)]


def test_what_a_broker_sends_right_before_its_goodbye_reaches_the_worker():
    worker = Worker().log_in()
    open_receiver(worker)
    worker.ends["r"].send(message(), delivery_tag=uuid4().bytes_le)
    worker.weave.broker.close()
    assert [event for event in worker.settle() if isinstance(event, DeliveryReceived)]


def test_a_worker_that_says_goodbye_is_answered_and_so_is_the_broker():
    worker = Worker().log_in()
    open_receiver(worker, session="s-1")
    worker.weave.worker.close()
    events = worker.settle()
    [closed] = [event for event in events if isinstance(event, ConnectionClosed) and event.reason == "closed"][:1]
    assert closed.error is None
    [(_, _, told)] = worker.weave.told.of("closed")
    assert told["by_worker"]
    assert isinstance(frames(bytes(worker.weave.seen_by_broker))[-1], Close)


def test_when_the_upstream_breaks_the_worker_is_told_in_words_that_make_it_come_back():
    worker = Worker().log_in()
    open_receiver(worker, session="s-1")
    worker.weave.relay.broker_gone("reset by peer", 100.0)
    closed, *_ = [event for event in worker.settle() if isinstance(event, ConnectionClosed)]
    assert closed.error.condition == "amqp:connection:forced"
    [(_, _, told)] = worker.weave.told.of("closed")
    assert not told["worker_gone"]
    assert not told["by_worker"]
    assert worker.weave.relay.worker_done


def test_a_namespace_that_cannot_be_reached_is_told_to_the_worker():
    weave = Weave(dials=False)
    weave.settle()
    weave.relay.dial_failed("connection refused", 100.0)
    events, _ = weave.settle()
    [closed] = [event for event in events if isinstance(event, ConnectionClosed)]
    assert closed.error.condition == "amqp:connection:forced"
    assert "connection refused" in closed.error.description
    assert weave.relay.broker_done


def test_what_the_broker_says_as_it_closes_reaches_the_worker():
    worker = Worker().log_in()
    worker.weave.broker.close(AmqpError("amqp:connection:forced", "the node is recycled"))
    closed = [event for event in worker.settle() if isinstance(event, ConnectionClosed) and event.error]
    assert closed[0].error.description == "the node is recycled"
    assert worker.weave.host.failures


def test_a_worker_that_goes_while_the_namespace_is_dialed_costs_nothing_more():
    weave = Weave(dials=False)
    weave.settle()
    weave.relay.worker_gone(100.0)
    weave.relay.dialed(101.0)
    assert weave.relay.broker_done
    assert not weave.relay.to_broker


def test_a_stop_takes_leave_of_both():
    worker = Worker().log_in()
    open_receiver(worker, session="s-1")
    worker.weave.relay.stop("the daemon stops", 100.0)
    [closed, *_] = [event for event in worker.settle() if isinstance(event, ConnectionClosed)]
    assert closed.error.description == "the daemon stops"
    assert worker.weave.broker.state is ConnectionState.CLOSED


@pytest.mark.parametrize("side", ["worker", "broker"])
@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff\xff\x02\x00\x00\x00",
        b"\x00\x00\x00\x07\x02\x00\x00\x00",
        b"\x00\x00\x00\x08\x01\x00\x00\x00",
        b"\x00\x00\x00\x08\x02\x09\x00\x00",
        encode_frame(0, b"\x00\x53\x14"),
        encode_frame(0, b"\x00\x53\x14\xc0\x03\x01\x52\x63"),
        encode_frame(0, b"\x00\x53\x12\xc0\xff\x0e"),
        encode_frame(0, b"nonsense"),
        encode_frame(77, b"\x00\x53\x14\xc0\x03\x01\x52\x00"),
        encode_frame(0, b"\x00\x53\x10\x45"),
        encode_frame(0, b"\x00\x53\x11\x45"),
        encode_frame(0, b"\x00\x53\x99\x45"),
    ],
)
def test_garbage_ends_the_connection_with_an_amqp_error(side, garbage):
    worker = Worker().log_in()
    open_receiver(worker, session="s-1")
    getattr(worker.weave.relay, f"from_{side}")(garbage, 100.0)
    closed = [event for event in worker.settle() if isinstance(event, ConnectionClosed)]
    assert closed
    assert closed[0].error is not None
    assert worker.weave.relay.worker_done
    assert worker.weave.told.of("closed")


def test_a_worker_that_ends_its_session_and_then_detaches_is_forgiven():
    worker = Worker().log_in()
    link = open_receiver(worker, session="s-1")
    worker.session.end()
    detach = encode_frame(0, bytes.fromhex("005316 c0 03 02 52") + bytes([link.handle]) + b"\x41")
    worker.weave.relay.from_worker(bytearray(worker.weave.worker.take_output(100.0) + detach), 100.0)
    worker.settle()
    assert worker.weave.relay.worker_done is False
    assert worker.weave.told.of("link_gone")
    session = worker.weave.worker.open_session()
    worker.settle()
    assert session.remote_channel == 0


def test_a_session_that_the_broker_ends_is_told_and_can_be_begun_again():
    worker = Worker().log_in()
    open_receiver(worker, session="s-1")
    worker.weave.broker.sessions[0].end(AmqpError("amqp:session:window-violation", "x"))
    assert [event for event in worker.settle() if isinstance(event, SessionEnded)]
    assert worker.weave.told.of("link_gone")
    worker.weave.worker.open_session()
    worker.settle()
    assert worker.weave.relay.worker_done is False


def test_a_namespace_that_cannot_be_reached_is_counted():
    weave = Weave(dials=False)
    weave.settle()
    weave.relay.dial_failed("connection refused", 100.0)
    assert weave.host.failures == ["connection refused"]


def test_an_upstream_that_breaks_is_counted_once():
    worker = Worker().log_in()
    open_receiver(worker, session="s-1")
    worker.weave.relay.broker_gone("reset by peer", 100.0)
    worker.weave.relay.broker_gone("reset by peer", 100.0)
    assert worker.weave.host.failures == ["reset by peer"]


def test_an_upstream_that_ends_behind_a_worker_that_has_left_is_no_failure():
    worker = Worker().log_in()
    worker.weave.worker.close()
    worker.settle()
    worker.weave.relay.broker_gone("the connection was closed", 100.0)
    assert worker.weave.host.failures == []


def test_while_the_daemon_is_drained_workers_go_on_and_begin_nothing():
    worker = Worker().log_in()
    open_receiver(worker, session="s-1")
    worker.weave.host.draining = True
    worker.receiver("late", session="s-2")
    [refused] = [event for event in worker.settle() if isinstance(event, LinkRefused)]
    assert refused.error.condition == "com.microsoft:server-busy"
    assert Manager(worker)
    assert not worker.weave.told.of("link_gone")


# Time -----------------------------------------------------------------------------------------------------------------


def test_a_silent_worker_costs_no_connection_for_both_hops_are_kept_alive():
    worker = Worker(worker=client(idle_time_out_s=60.0)).log_in()
    start = worker.weave.now
    for quarter in range(8 * 60 * 4):
        now = start + quarter / 4
        worker.weave.now = now
        worker.weave.relay.advance(now)
        worker.settle()
        worker.weave.broker.advance(now)
        if worker.weave.broker.state is not ConnectionState.OPENED:
            raise AssertionError(f"the broker gave up after {now - start} s")
        worker.settle()
    assert worker.weave.relay.worker_done is False


def test_a_broker_that_falls_silent_is_given_up():
    worker = Worker().log_in()
    worker.weave.relay.advance(100.0 + 59)
    assert worker.weave.relay.worker_done is False
    worker.weave.relay.advance(100.0 + 60)
    assert worker.weave.relay.worker_done
    assert "silent" in worker.weave.host.failures[0]
