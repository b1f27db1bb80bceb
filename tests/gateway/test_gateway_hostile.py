"""Peers of the gateway that break every rule: each costs its own connection, and the worker beside it nothing."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusReceiver

from renewer.amqp import (
    AMQP_HEADER,
    EMPTY_FRAME,
    SASL_HEADER,
    Accepted,
    Attach,
    Begin,
    Close,
    Described,
    Detach,
    Disposition,
    End,
    Flow,
    FrameType,
    Message,
    MessageProperties,
    Open,
    Performative,
    SaslInit,
    SaslOutcome,
    Source,
    Symbol,
    Target,
    Transfer,
    Ulong,
    Value,
    encode_frame,
    encode_performative,
)
from renewer.errors import AmqpProtocolError
from tests.gateway.judges.gateway_process import ALLOWED, Gateways, JudgedBroker, gateways_before, judged_broker, until
from tests.gateway.raw_peers import (
    WINDOW,
    Ended,
    RawBroker,
    RawPeer,
    RawWorker,
    frame,
    greet_as_broker,
    play_broker,
    raw_broker,
    signature,
)

GROWTH_MIB = 64
"""What the daemon may take more than before: it is bounded, whatever a peer does."""
MIB = 1 << 20
DEEP = b"\xd0" + struct.pack(">II", 4, 1)
"""The beginning of a list of one that holds a list of one …"""


class Surroundings:
    """What goes on beside the hostile peer."""

    def __init__(
        self, broker: JudgedBroker, gateways: Gateways, evil: RawBroker, neighbour: ServiceBusReceiver
    ) -> None:
        self.broker = broker
        self.gateways = gateways
        self.evil = evil
        self.neighbour = neighbour
        self.queue = broker.queue()
        self.other = broker.queue()
        self.key = gateways.keys["local"]

    @property
    def port(self) -> int:
        return self.gateways.ports["keeping"]

    def worker(self) -> RawWorker:
        """One that is let in."""
        worker = RawWorker(self.port)
        worker.let_in(self.queue, self.key)
        return worker

    def narrow(self) -> RawWorker:
        """One that may use `ALLOWED` alone."""
        worker = RawWorker(self.port)
        worker.let_in(ALLOWED, self.gateways.keys["narrow"], "narrow")
        return worker


@pytest.fixture(scope="module")
def everything() -> Iterator[Surroundings]:
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(judged_broker())
        evil = stack.enter_context(raw_broker(play_broker))
        second = broker.connection_string.replace(f":{broker.port};", f":{evil.port};")
        gateways = stack.enter_context(
            gateways_before(broker.connection_string, others={"second": second}, login_timeout="2s")
        )
        broker.entity(ALLOWED)
        # A lock that outlasts what the broker, which shares this process with the floods, may be behind.
        queue = broker.queue(sessions=True, lock_duration_s=20.0)
        client = ServiceBusClient.from_connection_string(gateways.connection_string(), retry_total=0)
        stack.enter_context(client)
        neighbour = stack.enter_context(client.get_queue_receiver(queue, session_id="s"))
        yield Surroundings(broker, gateways, evil, neighbour)


@pytest.fixture(autouse=True)
def beside(everything: Surroundings) -> Iterator[Surroundings]:
    """The neighbour's session, its state and the daemon's memory are the same after every test."""
    everything.neighbour.session.set_state("before")
    before = everything.gateways.rss_mib()
    yield everything
    everything.evil.serve = play_broker
    assert everything.neighbour.session.get_state() == b"before"
    assert everything.gateways.rss_mib() - before < GROWTH_MIB


# Workers that nobody has let in ---------------------------------------------------------------------------------------

SASL_GREETING = SASL_HEADER + encode_frame(
    0, encode_performative(SaslInit("ANONYMOUS", b"", "127.0.0.1")), FrameType.SASL
)
STRANGE_BEGINNINGS = {
    "garbage": bytes(range(256)) * 16,
    "zeroes": bytes(4096),
    "a request for a page": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(505),
    "AMQP 0.9.1": b"AMQP\x00\x00\x09\x01",
    "the header of AMQP over TLS": b"AMQP\x02\x01\x00\x00",
    "SASL and a frame of 4 GiB": SASL_HEADER + b"\xff\xff\xff\xff\x02\x01\x00\x00" + bytes(4096),
    "SASL and a frame of no size": SASL_HEADER + b"\x00\x00\x00\x00\x02\x01\x00\x00",
    "SASL and a frame whose body lies before it": SASL_HEADER + b"\x00\x00\x00\x10\x01\x01\x00\x00" + bytes(8),
    "SASL and an outcome": SASL_HEADER + encode_frame(0, encode_performative(SaslOutcome(0)), FrameType.SASL),
    "SASL by a mechanism that nobody has": SASL_HEADER
    + encode_frame(0, encode_performative(SaslInit("GSSAPI", b"x", "h")), FrameType.SASL),
    "SASL PLAIN with a wrong password": SASL_HEADER
    + encode_frame(0, encode_performative(SaslInit("PLAIN", b"\0local\0wrong", "h")), FrameType.SASL),
    "SASL PLAIN that is none": SASL_HEADER
    + encode_frame(0, encode_performative(SaslInit("PLAIN", b"local", "h")), FrameType.SASL),
    "SASL and a frame nested without end": SASL_HEADER + encode_frame(0, DEEP * 8000, FrameType.SASL),
    "a frame of 4 GiB": SASL_GREETING + AMQP_HEADER + b"\xff\xff\xff\xff\x02\x00\x00\x00" + bytes(4096),
    "a frame of no size": SASL_GREETING + AMQP_HEADER + bytes(8),
    "a frame of a type that nobody knows": SASL_GREETING + AMQP_HEADER + b"\x00\x00\x00\x08\x02\x07\x00\x00",
    "SASL again": SASL_GREETING + AMQP_HEADER + SASL_GREETING,
    "begin before open": SASL_GREETING + AMQP_HEADER + frame(Begin(None, 0, 1, 1)),
    "open twice": SASL_GREETING + AMQP_HEADER + frame(Open("a")) + frame(Open("a")),
    "an open that is none": SASL_GREETING + AMQP_HEADER + encode_frame(0, b"\x00\x53\x10\x45"),
    "an open nested without end": SASL_GREETING + AMQP_HEADER + encode_frame(0, b"\x00\x53\x10" + DEEP * 8000),
    "an open whose list is longer than it": SASL_GREETING
    + AMQP_HEADER
    + encode_frame(0, b"\x00\x53\x10\xd0" + struct.pack(">II", 0xFFFFFFF0, 0xFFFFFFF0)),
    "a performative that nobody knows": SASL_GREETING + AMQP_HEADER + encode_frame(0, b"\x00\x53\x77\x45"),
    "a frame that is no performative": SASL_GREETING + AMQP_HEADER + frame(Open("a")) + encode_frame(0, b"\x41" * 64),
    "no SASL and a begin": AMQP_HEADER + frame(Begin(None, 0, 1, 1)),
    "an attach without a token": SASL_GREETING
    + AMQP_HEADER
    + frame(Open("a"))
    + frame(Begin(None, 0, WINDOW, WINDOW))
    + frame(Attach("r", 0, True, source=Source("$management"), target=Target("me")))
    + frame(Flow(0, WINDOW, 0, WINDOW, 0, 0, 0xFFFFFFFF)),
    "nothing": b"",
    "half a header": b"AMQ",
    "half a frame": SASL_GREETING + AMQP_HEADER + frame(Open("a"))[:-1],
    "an open and no more": SASL_GREETING + AMQP_HEADER + frame(Open("a")),
}


@pytest.mark.parametrize("name", STRANGE_BEGINNINGS)
def test_who_begins_strangely_is_cut_off(beside: Surroundings, name: str) -> None:
    with RawWorker(beside.port) as worker, contextlib.suppress(Ended):
        worker.send(STRANGE_BEGINNINGS[name])
        while worker.receive():
            pass


def test_who_says_a_byte_now_and_then_is_cut_off_in_time(beside: Surroundings) -> None:
    data = SASL_GREETING + AMQP_HEADER + frame(Open("a")) + EMPTY_FRAME * 100_000
    over = threading.Event()

    def trickle(worker: RawWorker) -> None:
        with contextlib.suppress(Ended):
            for at in range(len(data)):
                worker.send(data[at : at + 1])
                if over.wait(0.01):
                    return

    with RawWorker(beside.port) as worker:
        sender = threading.Thread(target=trickle, args=[worker])
        sender.start()
        with contextlib.suppress(Ended):
            while worker.receive():
                pass
        over.set()
        sender.join()


def test_a_hundred_who_say_nothing_shut_nobody_out(beside: Surroundings) -> None:
    idle = [RawWorker(beside.port) for _ in range(150)]
    try:
        with beside.worker() as worker:
            assert worker.attach_receiver(beside.queue) is not None
    finally:
        for one in idle:
            one.socket.close()


@pytest.mark.parametrize("how", ["reset", "half a frame", "half closed"])
def test_who_goes_in_the_middle_is_forgotten(beside: Surroundings, how: str) -> None:
    with beside.worker() as worker:
        assert worker.attach_receiver(beside.queue) is not None
        match how:
            case "reset":
                worker.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            case "half a frame":
                worker.send(frame(Flow(0, WINDOW, 0, WINDOW, 0, 0, 10))[:-3])
            case _:
                worker.socket.shutdown(socket.SHUT_WR)
                worker.until_ended()
    until(lambda: (number := connections(beside), number <= 2), "the broker has but the neighbour's connection")


def connections(beside: Surroundings) -> int:
    return beside.broker.call(lambda broker: broker.counters.connections)


# Workers that were let in and want more ------------------------------------------------------------------------------

ELSEWHERE = [
    "{other}",
    "amqps://127.0.0.1/{other}",
    "sb://elsewhere.example/{other}",
    "{other}/$management",
    "{OTHER}/$Management",
    "{other}/$DeadLetterQueue",
    "{allowed}/../{other}",
    "{allowed}%2f..%2f{other}",
    "{allowed}/%2e%2e/{other}",
    "./{other}",
    "/{other}",
    "//{other}",
    "//{allowed}/../{other}",
    "amqps://127.0.0.1/{allowed}@elsewhere/{other}",
    "amqps://{allowed}/{other}",
    "{allowed}?x=/{other}",
    "{allowed}#/{other}",
    "{allowed}\\..\\{other}",
    "{allowed}\0/{other}",
    "{allowed};{other}",
    "{allowed},{other}",
    " {other}",
    "{other} ",
    "{other}/",
    "{allowed}-not",
    "{allowed}/Subscriptions/{other}",
    "$management",
    "/$management",
    "$cbs/{other}",
    "$CBS/$management",
    "$subscriptions",
    "$servicebus/discovery",
    "*",
    "",
]


def elsewhere(beside: Surroundings, address: str) -> str:
    for name, value in (("other", beside.other), ("OTHER", beside.other.upper()), ("allowed", ALLOWED)):
        address = address.replace(f"{{{name}}}", value)
    return address


@pytest.mark.parametrize("address", ELSEWHERE)
def test_nobody_attaches_where_the_key_does_not_lead(beside: Surroundings, address: str) -> None:
    address = elsewhere(beside, address)
    with beside.narrow() as worker:
        assert worker.attach_receiver(ALLOWED, 1) is not None
        with contextlib.suppress(Ended):
            assert worker.attach_receiver(address, 10) is None
            assert worker.attach_sender(Target(address), 11) is None
            assert worker.attach_receiver(ALLOWED, 12, source=Source(Symbol(address))) is None


@pytest.mark.parametrize("which", range(5))
def test_nobody_attaches_to_what_is_no_address(beside: Surroundings, which: int) -> None:
    with beside.narrow() as worker, contextlib.suppress(Ended):
        match which:
            case 0:
                assert worker.attach_sender(Described(Ulong(0x30), [])) is None  # A coordinator of transactions.
            case 1:
                assert worker.attach_receiver(None, source=Source(None, dynamic=True)) is None
            case 2:
                assert worker.attach_receiver(None, source=None) is None
            case 3:
                assert worker.attach_receiver(beside.other.encode()) is None
            case _:
                assert worker.attach_receiver(7) is None


@pytest.mark.parametrize("address", ["$cbs", "{allowed}"])
def test_a_link_whose_ends_name_different_entities_opens_the_allowed_one_alone(
    beside: Surroundings, address: str
) -> None:
    """A receiver is about its source, a sender about its target; the other end is the worker's own."""
    address = elsewhere(beside, address)
    before = beside.broker.call(lambda broker: broker.counters.refused.total())
    with beside.narrow() as worker, contextlib.suppress(Ended):
        worker.send(Attach("x", 5, True, source=Source(beside.other), target=Target(address)))
        assert worker.answer_to_attach() is None
        worker.send(
            Attach("y", 6, False, source=Source(address), target=Target(beside.other), initial_delivery_count=0)
        )
        assert worker.answer_to_attach() is None
    assert beside.broker.call(lambda broker: broker.counters.refused.total()) == before


def test_a_token_for_another_entity_is_refused_and_opens_nothing(beside: Surroundings) -> None:
    narrow = beside.gateways.keys["narrow"]
    with beside.narrow() as worker:
        assert worker.put_token(beside.other, "narrow", narrow) == 401
        audience = f"sb://127.0.0.1/{beside.other}"
        assert worker.put(signature("sb://127.0.0.1/", "narrow", narrow), name=audience) == 401
        assert worker.attach_receiver(beside.other, 7) is None


def test_tokens_that_are_not_good_are_refused(beside: Surroundings) -> None:
    audience, key = f"sb://127.0.0.1/{beside.queue}", beside.key
    good = signature(audience, "local", key)
    bad: list[object] = [
        signature(audience, "local", key, lasts_s=-3600),
        signature(audience, "local", "bG9jYWw="),
        signature(audience, "nobody", key),
        signature(f"sb://127.0.0.1/{beside.other}", "local", key),
        good.replace("sig=", "sig=A"),
        good.replace("&se=", "&se=9"),
        good.replace(" sr=", " sr=sb%3A%2F%2F127.0.0.1%2F&sr="),
        good + "&se=9999999999",
        good + "&skn=narrow",
        "SharedAccessSignature ",
        "SharedAccessSignature sr=&sig=&se=&skn=",
        "",
        "x" * 5000,
        b"bytes",
        ["list"],
        None,
    ]
    for token in bad:
        with RawWorker(beside.port) as worker, contextlib.suppress(Ended):
            worker.open()
            worker.begin()
            worker.attach_cbs()
            assert worker.put(token, name=audience) >= 400, token
            assert worker.attach_receiver(beside.queue) is None


def test_a_good_token_after_bad_ones_lets_in(beside: Surroundings) -> None:
    with RawWorker(beside.port) as worker:
        worker.open()
        worker.begin()
        worker.attach_cbs()
        assert worker.put_token(beside.queue, "local", "bG9jYWw=") == 401
        assert worker.put_token(beside.queue, "local", beside.key) in {200, 202}
        assert worker.attach_receiver(beside.queue) is not None


# Workers that were let in and break the protocol ---------------------------------------------------------------------


def many_frames(worker: RawWorker, make: Callable[[int], bytes], number: int) -> None:
    """Send them in pieces, without reading; until the gateway has enough, or takes no more."""
    worker.socket.settimeout(1.0)
    with contextlib.suppress(Ended):
        for first in range(0, number, 100):
            worker.send(b"".join(make(one) for one in range(first, min(first + 100, number))))


def oversize(worker: RawWorker) -> None:
    worker.send(b"\x7f\xff\xff\xff\x02\x00\x00\x00" + bytes(100_000))


def nested_flow(worker: RawWorker) -> None:
    worker.send(encode_frame(0, b"\x00\x53\x13" + DEEP * 7000))


def nested_attach(worker: RawWorker) -> None:
    whole = encode_performative(
        Attach("n", 9, True, source=Source("x"), target=Target("y"), properties={Symbol("p"): "@" * 60000})
    )
    worker.send(encode_frame(0, whole.replace(b"@" * 60000, (DEEP * 7000)[:60000])))


def transfer_without_link(worker: RawWorker) -> None:
    worker.send(frame(Transfer(77, 0, b"t", 0, True), b"\x00\x53\x77\x40"))


def transfer_without_session(worker: RawWorker) -> None:
    worker.send(frame(Transfer(0, 0, b"t", 0, True), b"\x00\x53\x77\x40", channel=9))


def detach_without_link(worker: RawWorker) -> None:
    worker.send(Detach(77, True))


def the_last_channel(worker: RawWorker) -> None:
    worker.send(Begin(None, 0, WINDOW, WINDOW), channel=65535)


def a_sasl_frame(worker: RawWorker) -> None:
    worker.send(encode_frame(0, encode_performative(SaslInit("ANONYMOUS", b"", "h")), FrameType.SASL))


def a_second_open(worker: RawWorker) -> None:
    worker.send(Open("again"))


def begin_twice(worker: RawWorker) -> None:
    worker.send(Begin(None, 0, WINDOW, WINDOW))


def attach_twice_on_a_handle(worker: RawWorker) -> None:
    worker.attach_receiver(ALLOWED, 3)
    worker.attach_receiver(ALLOWED, 3)
    worker.send(Attach("again", 3, True, source=Source(ALLOWED), target=Target("me")))


def a_handle_beyond_all(worker: RawWorker) -> None:
    worker.send(Attach("h", 0xFFFFFFFF, True, source=Source(ALLOWED), target=Target("me")))


def a_flow_from_nowhere(worker: RawWorker) -> None:
    worker.send(Flow(0x7FFFFFF0, 0xFFFFFFFF, 0x7FFFFFF0, 0xFFFFFFFF, 99, 0x7FFFFFF0, 0xFFFFFFFF))


BREACHES: list[Callable[[RawWorker], None]] = [
    oversize,
    nested_flow,
    nested_attach,
    transfer_without_link,
    transfer_without_session,
    detach_without_link,
    the_last_channel,
    a_sasl_frame,
    a_second_open,
    begin_twice,
    attach_twice_on_a_handle,
    a_handle_beyond_all,
    a_flow_from_nowhere,
]


@pytest.mark.parametrize("breach", BREACHES, ids=lambda breach: breach.__name__)
def test_who_breaks_the_protocol_is_told_so_and_cut_off(
    beside: Surroundings, breach: Callable[[RawWorker], None]
) -> None:
    with beside.narrow() as worker:
        with contextlib.suppress(Ended):
            breach(worker)
        said = until_close_or_end(worker)
        assert any(isinstance(one, Close | End | Detach) and one.error is not None for one in said), said[-3:]


def test_the_end_of_a_session_that_is_not_there_changes_nothing(beside: Surroundings) -> None:
    """AMQP 1.0 part 2.7.7 leaves open what comes of it: here the worker goes on, or is cut off."""
    with beside.narrow() as worker, contextlib.suppress(Ended):
        worker.send(End(), channel=9)
        assert worker.put_token(ALLOWED, "narrow", beside.gateways.keys["narrow"]) in {200, 202}


def until_close_or_end(worker: RawWorker) -> list[Performative]:
    """What the gateway or the broker says, up to the end of the session or the connection."""
    with contextlib.suppress(Ended):
        for _, performative, _ in worker.performatives():
            if isinstance(performative, Close | End | Detach) and performative.error is not None:
                break
    return worker.seen


def test_ids_wrap_around(beside: Surroundings) -> None:
    """A worker may begin to count wherever it likes (AMQP 1.0 part 2.8.10)."""
    first = 0xFFFFFFFE
    with RawWorker(beside.port) as worker:
        worker.open()
        worker.begin(next_outgoing_id=first)
        worker.attach_cbs()
        for number in range(4):
            audience = f"sb://127.0.0.1/{beside.queue}"
            worker._ids = (first + number) & 0xFFFFFFFF
            asked = {"operation": "put-token", "type": "jwt", "name": audience}
            message = Message(Value(signature(audience, "local", beside.key)), MessageProperties(message_id="m"), asked)
            worker.send(frame(Transfer(200, worker._ids, b"%d" % number, 0, True), message.encode()))
            worker.wait_for(Transfer)
        assert worker.attach_sender(Target(beside.queue), 4) is not None
        for number in range(4, 8):
            transfer = Transfer(4, (first + number) & 0xFFFFFFFF, b"%d" % number, 0, False)
            worker.send(frame(transfer, Message(Value("m")).encode()))
            assert isinstance(worker.wait_for(Disposition).state, Accepted)


def test_any_credit_is_bounded_by_the_window(beside: Surroundings) -> None:
    """Credit for everything, a window for everything, and then not a byte is read: 100 MB wait at the broker."""
    queue = beside.broker.queue()
    client = ServiceBusClient.from_connection_string(beside.broker.connection_string)
    with client, client.get_queue_sender(queue) as sender:
        for _ in range(100):
            sender.send_messages(ServiceBusMessage(b"x" * 1_000_000))
    before = beside.gateways.rss_mib()
    with beside.worker() as worker:
        assert worker.put_token(queue, "local", beside.key) in {200, 202}
        assert worker.attach_receiver(queue) is not None
        worker.credit(0, 0xFFFFFFFF, window=0xFFFFFFFF)
        for _ in range(20):
            beside.neighbour.session.set_state("before")
            assert beside.gateways.rss_mib() - before < GROWTH_MIB
        # It reads, after all: everything is there.
        seen = 0
        for _, performative, payload in worker.performatives():
            if isinstance(performative, Transfer):
                seen += len(payload)
                if seen > 100_000_000:
                    break


FLOODS: dict[str, Callable[[int], bytes]] = {
    "transfers beyond every window": lambda number: frame(
        Transfer(4, number, b"%d" % number, 0, True), Message(Value("x" * 10_000)).encode()
    ),
    "a token without end": lambda number: frame(Transfer(200, 1, b"t", 0, True, more=True), b"x" * 10_000),
    "a request without end": lambda number: frame(Transfer(6, 1, b"t", 0, True, more=True), b"x" * 10_000),
    "attaches": lambda number: frame(
        Attach(f"a{number}", 10 + number, True, source=Source(ALLOWED), target=Target("me"))
    ),
    "refused attaches": lambda number: frame(
        Attach("a" * 1000, 10 + number, True, source=Source("not-mine"), target=Target("me"))
    ),
    "sessions": lambda number: frame(Begin(None, 0, WINDOW, WINDOW), channel=number & 0xFFFF),
    "flows that want an echo": lambda number: frame(Flow(0, WINDOW, 0, WINDOW, echo=True)),
    "empty frames": lambda number: EMPTY_FRAME * 100,
    "tokens": lambda number: frame(
        Transfer(200, 1 + number, b"%d" % number, 0, True),
        Message(
            Value("SharedAccessSignature x"),
            MessageProperties(message_id=f"{number}"),
            {"operation": "put-token", "name": f"sb://127.0.0.1/{number}", "type": "jwt"},
        ).encode(),
    ),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_from_who_never_reads_fills_no_memory(beside: Surroundings, name: str) -> None:
    before = beside.gateways.rss_mib()
    with beside.narrow() as worker:
        worker.attach_sender(Target(ALLOWED), 4)
        worker.attach_receiver(f"{ALLOWED}/$management", 5)
        worker.attach_sender(Target(f"{ALLOWED}/$management"), 6)
        many_frames(worker, FLOODS[name], 20_000)
        beside.neighbour.session.set_state("before")
        assert beside.gateways.rss_mib() - before < GROWTH_MIB


# Brokers --------------------------------------------------------------------------------------------------------------


def garbage_at_once(peer: RawPeer) -> None:
    peer.send(bytes(range(256)) * 64)
    peer.until_ended()


def end_at_once(peer: RawPeer) -> None:
    peer.socket.close()


def no_sasl_mechanism(peer: RawPeer) -> None:
    peer.read_exactly(8)
    peer.send(SASL_HEADER, b"\x00\x00\x00\x0d\x02\x01\x00\x00\x00\x53\x40\x45\x00")
    peer.until_ended()


def half_an_open(peer: RawPeer) -> None:
    greet_as_broker(peer)
    peer.send(frame(Open("half"))[:-2])
    peer.socket.close()


def close_instead_of_open(peer: RawPeer) -> None:
    greet_as_broker(peer)
    peer.send(Close())
    peer.until_ended()


def on_attach(*what: Performative | bytes, channel: int = 0) -> Callable[[RawPeer], None]:
    """A good broker up to the first attach to an entity, and then this."""

    def answer(peer: RawPeer, _channel: int, performative: Performative, _payload: bytes) -> bool:
        if isinstance(performative, Attach) and "cbs" not in performative.name:
            peer.send(*what, channel=channel)
            peer.socket.settimeout(1.0)  # What the gateway bears with, it may.
            peer.until_ended()
            raise Ended
        return False

    return lambda peer: play_broker(peer, answer)


EVIL: dict[str, Callable[[RawPeer], None]] = {
    "garbage at once": garbage_at_once,
    "the end at once": end_at_once,
    "no mechanism": no_sasl_mechanism,
    "nothing": RawPeer.until_ended,
    "half an open": half_an_open,
    "a close instead of an open": close_instead_of_open,
    "an open with a channel-max of 0 and frames of 512": lambda peer: play_broker(
        peer, channel_max=0, max_frame_size=512
    ),
    "garbage": on_attach(b"\x00\x00\x01\x00\x02\x00\x00\x00" + bytes(range(248))),
    "a frame of 2 GiB": on_attach(b"\x7f\xff\xff\xff\x02\x00\x00\x00" + bytes(4096)),
    "a frame without a size": on_attach(bytes(8)),
    "a flow nested without end": on_attach(encode_frame(0, b"\x00\x53\x13" + DEEP * 7000)),
    "a flow with nonsense where nobody reads": on_attach(
        encode_frame(0, b"\x00\x53\x13\xc0\x06\x05\x43\x43\x43\x43\x45")
    ),
    "an attach nested without end": on_attach(encode_frame(0, b"\x00\x53\x12" + DEEP * 7000)),
    "a transfer to nobody": on_attach(Transfer(99, 0, b"t", 0, False)),
    "a transfer on a channel that is not there": on_attach(Transfer(0, 0, b"t", 0, False), channel=200),
    "an end of a session that is not there": on_attach(End(), channel=200),
    "a second open": on_attach(Open("again")),
    "an attach that nobody asked for": on_attach(Attach("who", 7, False, source=Source("x"), target=Target("y"))),
    "a detach of what is not there": on_attach(Detach(77, True)),
    "a begin that nobody asked for": on_attach(Begin(None, 0, 1, 1), channel=33),
    "a begin for a channel that is not there": on_attach(Begin(3333, 0, 1, 1), channel=33),
    "a performative that nobody knows": on_attach(encode_frame(0, b"\x00\x53\x77\x45")),
}


@pytest.mark.parametrize("name", EVIL)
def test_a_broker_that_breaks_the_protocol_costs_that_connection(beside: Surroundings, name: str) -> None:
    beside.evil.serve = EVIL[name]
    with RawWorker(beside.gateways.ports["second"]) as worker, contextlib.suppress(Ended):
        worker.let_in("q", beside.key)
        worker.send(Attach("r", 1, True, source=Source("q"), target=Target("me")))
        if "channel-max" in name:
            worker.wait_for(Attach)
            return
        with contextlib.suppress(AmqpProtocolError):  # What lies deep within a frame passes as it came.
            worker.until_ended()


def test_a_broker_that_never_stops_sending_to_a_worker_that_never_reads(beside: Surroundings) -> None:
    """It goes on for as long as the gateway takes it, whatever window and credit it was given."""
    payload = b"\x00\x53\x77\xb0" + struct.pack(">I", 50_000) + b"x" * 50_000
    sent = threading.Event()

    def flood(peer: RawPeer, _channel: int, performative: Performative, _payload: bytes) -> bool:
        if isinstance(performative, Attach) and "cbs" not in performative.name:
            peer.send(
                Attach(
                    performative.name, performative.handle, False, source=performative.source, initial_delivery_count=0
                )
            )
            peer.socket.settimeout(1.0)
            try:
                for number in range(4000):
                    transfer = Transfer(performative.handle, number, number.to_bytes(16, "big"), 0, False)
                    peer.send(frame(transfer, payload))
            finally:
                sent.set()
        return False

    beside.evil.serve = lambda peer: play_broker(peer, flood)
    before = beside.gateways.rss_mib()
    with RawWorker(beside.gateways.ports["second"]) as worker:
        worker.let_in("q", beside.key)
        worker.send(Attach("r", 1, True, source=Source("q"), target=Target("me")))
        assert sent.wait(60)
        beside.neighbour.session.set_state("before")
        assert beside.gateways.rss_mib() - before < GROWTH_MIB
