"""The AMQP session beside the worker's: begun late, bounded, and no trouble to anybody but itself."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.amqp import (
    Accepted,
    AmqpError,
    AttachRequested,
    Begin,
    DeliveryReceived,
    End,
    Int,
    Message,
    MessageProperties,
    ReceiverLink,
    Session,
    Transfer,
    Value,
    decode_performative,
    encode_performative,
)
from renewer.amqp.outlet import Outlet
from renewer.errors import TransientError
from renewer.gateway.spare import LINGER_S, MOST_TOKENS, SpareChannel
from renewer.targets.servicebus import NamespaceOptions, SharedAccessKey
from renewer.targets.servicebus.credentials import EntityToken
from renewer.targets.servicebus.envelope import Template
from tests.virtualtime import virtual

pytestmark = pytest.mark.anyio

CHANNEL = 7
OPTIONS = NamespaceOptions("ns.example", "ns.example", 5671, SharedAccessKey("rule", "a2V5"), connect_timeout_s=5.0)
ASK = Template.of({"session-id": "s1"}, {"operation": "x"}, reply_to="orders/$management")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return virtual("asyncio")


class LoopClock:
    def now(self) -> float:
        return anyio.current_time()

    def utc_now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Provider:
    """Tokens without an end to speak of, and how often one was wanted."""

    remedy: str = "look at the key"
    trouble: str | None = None
    wanted: list[str] = field(default_factory=list)
    error: Exception | None = None

    async def prepare(self) -> None: ...

    async def watch(self) -> None: ...

    async def token(self, entity: str, *, beyond: float | None = None, refused: bool = False) -> EntityToken:
        self.wanted.append(entity)
        if self.error is not None:
            raise self.error
        return token(f"token-{len(self.wanted)}")


def token(text: str = "given", lifetime_s: float = 3600.0) -> EntityToken:
    return EntityToken(text, "servicebus.windows.net:sastoken", 2_000_000_000, anyio.current_time() + lifetime_s)


class Broker:
    """The other end of the spare channel, and the way to it: each frame is taken as it is sent, and answered."""

    def __init__(self, *, channel: int | None = CHANNEL, handle_max: int = 255, max_frame_size: int = 65536) -> None:
        self.channel = channel
        self.max_frame_size = max_frame_size
        self.our_max_frame_size = 65536
        self.on_frame: Any = None
        self.handle_max = handle_max
        self.begun = 0
        self.frames: list[bytes] = []
        self.asked: list[Message] = []
        self.is_mute = False
        """Requests are not answered."""
        self.is_deaf = False
        """Nothing is answered, not even a begin."""
        self.session: Any = None
        self._outlet = Outlet()
        self._replies: dict[str, Any] = {}

    def send(self, frames: bytes) -> None:
        while frames:
            size = int.from_bytes(frames[:4])
            assert size <= self.max_frame_size
            assert frames[4:8] == bytes((2, 0, 0, self.channel or 0))
            self.frames.append(frames[8:size])
            frames = frames[size:]
            if not self.is_deaf:
                asyncio.get_running_loop().call_soon(self._take, self.frames[-1])

    def end(self, error: AmqpError | None = None) -> None:
        self.session.end(error)
        self._answer()

    def _take(self, body: bytes) -> None:
        performative, offset = decode_performative(body)
        match performative:
            case Begin():
                self.begun += 1
                self._outlet = Outlet()
                self._outlet.remote_max_frame_size = 65536
                self.session = Session(self._outlet, 42, takes_requests=True, handle_max=self.handle_max)
                self.session.begin(CHANNEL)
                self.session.on_begin(CHANNEL, performative)
            case End():
                self.session.on_end(performative)
            case _:
                self.session.handle_frame(performative, body[offset:])
        events, self._outlet.events = self._outlet.events, []
        for event in events:
            self._on_event(event)
        self._answer()

    def _on_event(self, event: Any) -> None:
        match event:
            case AttachRequested(link):
                if isinstance(link, ReceiverLink):
                    link.accept(auto_credit=100)
                else:
                    link.accept()
                    self._replies[link.remote.source.address] = link
            case DeliveryReceived(link, delivery):
                link.settle(delivery, Accepted())
                message = Message.decode(delivery.payload)
                self.asked.append(message)
                if not self.is_mute:
                    self.reply(message)

    def reply(self, message: Message) -> None:
        assert message.properties is not None
        answer = Message(
            properties=MessageProperties(correlation_id=message.properties.message_id),
            application_properties={"statusCode": Int(200)},
            body=Value({}),
        )
        self._replies[message.properties.reply_to].send(answer.encode(), settled=True)

    def answer(self, message: Message) -> None:
        """Answer late."""
        self.reply(message)
        self._answer()

    def _answer(self) -> None:
        output, at = bytes(self._outlet.output), 0
        self._outlet.output.clear()
        while at < len(output):
            size = int.from_bytes(output[at : at + 4])
            if self.on_frame is not None:
                self.on_frame(output[at + 8 : at + size])
            at += size


@asynccontextmanager
async def spare_to(broker: Broker, provider: Provider | None = None):
    async with anyio.create_task_group() as tasks:
        spare = SpareChannel(
            broker,
            OPTIONS,
            provider or Provider(),
            LoopClock(),
            random.Random(7),
            name="main",
            spawn=tasks.start_soon,
        )
        with anyio.fail_after(1000):
            yield spare
        spare.close(TransientError("the test is over", kind="network"))


def codes(broker: Broker) -> list[int]:
    return [frame[2] for frame in broker.frames]


async def test_nothing_is_sent_before_there_is_something_to_ask():
    broker = Broker()
    async with spare_to(broker) as spare:
        spare.adopt("orders", token())
        for _ in range(100):
            spare.tick(anyio.current_time())
        assert not broker.frames
        assert not spare.is_begun


async def test_a_request_begins_a_session_of_our_own_and_is_answered():
    broker = Broker()
    async with spare_to(broker) as spare:
        spare.adopt("orders", token())
        reply = await spare.management("orders").request(ASK)
        assert reply.status == 200
        assert broker.begun == 1
        # With a token of the worker's in place there is nothing to put.
        assert len(broker.asked) == 1


async def test_without_a_token_of_the_workers_one_is_put_first():
    broker, provider = Broker(), Provider()
    async with spare_to(broker, provider) as spare:
        await spare.management("orders").request(ASK)
        assert provider.wanted == ["orders"]
        assert [message.application_properties["operation"] for message in broker.asked] == ["put-token", "x"]


async def test_a_token_that_was_adopted_is_put_anew_after_a_third_of_its_life():
    broker, provider = Broker(), Provider()
    async with spare_to(broker, provider) as spare:
        spare.adopt("orders", token(lifetime_s=300.0))
        await anyio.sleep(99)
        spare.tick(anyio.current_time())
        assert not provider.wanted
        await anyio.sleep(2)
        spare.tick(anyio.current_time())
        await anyio.sleep(0.1)
        assert provider.wanted == ["orders"]
        assert [message.body.value for message in broker.asked] == ["token-1"]
        # The worker has put one itself: that one counts from then on.
        spare.adopt("orders", token(lifetime_s=300.0))
        await anyio.sleep(90)
        spare.tick(anyio.current_time())
        assert len(provider.wanted) == 1


async def test_so_many_tokens_are_looked_after_and_no_more():
    broker, provider = Broker(), Provider()
    async with spare_to(broker, provider) as spare:
        for number in range(MOST_TOKENS + 50):
            spare.adopt(f"q{number}", token(lifetime_s=30.0))
        await anyio.sleep(11)
        spare.tick(anyio.current_time())
        await anyio.sleep(1)
        assert len(provider.wanted) == MOST_TOKENS


async def test_when_the_broker_ends_our_session_the_next_request_begins_anew():
    broker = Broker()
    async with spare_to(broker) as spare:
        spare.adopt("orders", token())
        await spare.management("orders").request(ASK)
        broker.end(AmqpError("amqp:internal-error", "oh"))
        assert not spare.is_begun
        assert (await spare.management("orders").request(ASK)).status == 200
        assert broker.begun == 2


async def test_a_request_that_is_under_way_as_our_session_ends_fails_at_once():
    broker = Broker()
    async with spare_to(broker) as spare:
        spare.adopt("orders", token())
        await spare.management("orders").request(ASK)
        broker.is_mute = True
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                with pytest.raises(TransientError):
                    await spare.management("orders").request(ASK)

            tasks.start_soon(ask)
            await anyio.sleep(0.01)
            assert len(broker.asked) == 2
            broker.end()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        bytes.fromhex("005311"),
        encode_performative(Begin(CHANNEL, 0, 1, 1)),
        encode_performative(Transfer(99, 0, b"t")),
        bytes.fromhex("005310c00802a10161a10162"),
    ],
)
async def test_what_the_broker_does_wrong_there_ends_our_session_and_no_more(body):
    broker = Broker()
    async with spare_to(broker) as spare:
        spare.adopt("orders", token())
        await spare.management("orders").request(ASK)
        broker.is_deaf = True
        broker.on_frame(body)
        assert codes(broker)[-1] == 0x17
        sent = len(broker.frames)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(spare.management("orders").request, ASK)
            await anyio.sleep(1)
            # The number is not free before the broker has ended its side.
            assert len(broker.frames) == sent
            broker.is_deaf = False
            broker.on_frame(encode_performative(End()))
        assert broker.begun == 2


async def test_a_broker_that_does_not_open_a_session_costs_the_request_its_time_and_no_more():
    broker = Broker()
    broker.is_deaf = True
    async with spare_to(broker) as spare:
        with pytest.raises(TransientError, match="in time"):
            await spare.management("orders").request(ASK)
        assert codes(broker) == [0x11]


async def test_with_no_channel_left_requests_fail_at_once():
    broker = Broker(channel=None)
    async with spare_to(broker) as spare:
        spare.adopt("orders", token(lifetime_s=3.0))
        await anyio.sleep(2)
        spare.tick(anyio.current_time())
        with pytest.raises(TransientError, match="no AMQP channel free"):
            spare.management("orders")
        assert not broker.frames


async def test_a_broker_that_allows_too_few_links_is_told_of_in_the_error():
    broker = Broker(handle_max=2)
    async with spare_to(broker) as spare:
        for entity in ("orders", "jobs"):
            spare.adopt(entity, token())
        await spare.management("orders").request(ASK)
        with pytest.raises(TransientError, match="no room"):
            await spare.management("jobs").request(ASK)


async def test_links_that_nobody_has_used_for_long_are_let_go_of_and_come_back_when_needed():
    broker = Broker()
    async with spare_to(broker) as spare:
        spare.adopt("orders", token(lifetime_s=36_000))
        await spare.management("orders").request(ASK)
        await anyio.sleep(LINGER_S - 1)
        spare.tick(anyio.current_time())
        assert 0x16 not in codes(broker)
        await anyio.sleep(2)
        spare.tick(anyio.current_time())
        assert codes(broker).count(0x16) == 2
        await spare.management("orders").request(ASK)
        assert broker.begun == 1


async def test_after_the_end_nothing_is_sent_and_nobody_waits():
    broker = Broker()
    async with spare_to(broker) as spare:
        spare.adopt("orders", token())
        await spare.management("orders").request(ASK)
        broker.is_mute = True
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                with pytest.raises(TransientError, match="cut"):
                    await spare.management("orders").request(ASK)

            tasks.start_soon(ask)
            await anyio.sleep(0.01)
            sent = len(broker.frames)
            spare.close(TransientError("cut", kind="network"))
            spare.close(TransientError("cut again", kind="network"))
        spare.tick(anyio.current_time())
        assert len(broker.frames) == sent
        assert broker.on_frame is None
        with pytest.raises(TransientError, match="cut"):
            spare.management("orders")


async def test_requests_that_are_larger_than_the_brokers_frames_go_in_several():
    broker = Broker(max_frame_size=512)
    large = Template.of({"lock-tokens": [bytes(16)] * 200}, {"operation": "x"}, reply_to="orders/$management")
    async with spare_to(broker) as spare:
        spare.adopt("orders", token())
        assert (await spare.management("orders").request(large)).status == 200
        assert codes(broker).count(0x14) > 6


async def test_answers_for_ever_do_not_run_out_of_credit_or_window():
    broker = Broker()
    async with spare_to(broker) as spare:
        spare.adopt("orders", token(lifetime_s=1e6))
        for _ in range(3000):
            await spare.management("orders").request(ASK)
        assert len(broker.asked) == 3000


async def test_an_answer_that_never_ends_is_cut_off():
    broker = Broker()
    async with spare_to(broker) as spare:
        spare.adopt("orders", token())
        await spare.management("orders").request(ASK)
        broker.is_deaf = True
        piece = Transfer(0, 1, b"t", more=True)
        for number in range(100):
            broker.on_frame(encode_performative(piece if not number else Transfer(0, more=True)) + bytes(50_000))
        assert codes(broker).count(0x17) == 1


async def test_a_token_that_cannot_be_refreshed_is_told_of_once():
    broker, provider = Broker(), Provider(error=TransientError("no token", kind="no_token"))
    async with spare_to(broker, provider) as spare:
        for number in range(10):
            spare.adopt(f"q{number}", token(lifetime_s=30.0))
        for _ in range(100):
            await anyio.sleep(0.25)
            spare.tick(anyio.current_time())
        assert len(provider.wanted) > 10
        assert spare._is_token_trouble_told
        assert spare.remedy("q1") == "no token"
        await anyio.sleep(10)
        assert spare.has_run_out("q1")


@given(st.lists(st.binary(max_size=60), max_size=5), st.booleans())
def test_no_bytes_on_our_channel_raise_or_make_us_send_without_end(bodies, is_begun):
    broker = Broker()
    broker.is_deaf = True
    spare = SpareChannel(
        broker, OPTIONS, Provider(), _StoppedClock(), random.Random(7), name="main", spawn=lambda *_: None
    )
    if is_begun:
        spare._begin()
    for body in bodies:
        broker.on_frame(body)
        broker.on_frame(b"\x00\x53" + body)
    assert len(broker.frames) <= 3


class _StoppedClock:
    def now(self) -> float:
        return 0.0

    def utc_now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)
