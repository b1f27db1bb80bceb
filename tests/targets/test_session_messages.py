"""The messages of a held session, received and settled, against a broker whose every answer the test decides."""

import uuid
from functools import partial

import anyio
import pytest

from renewer.amqp import (
    Accepted,
    AmqpArray,
    AmqpError,
    Data,
    Header,
    Int,
    Message,
    MessageProperties,
    Modified,
    ReceiverLink,
    Rejected,
    Released,
    Sequence,
    Symbol,
    Timestamp,
    Ubyte,
    Uint,
    Value,
)
from renewer.core.states import LossReason, MessageFate
from renewer.errors import (
    ConflictError,
    LeaseLostError,
    MessageSettledError,
    TransientError,
    UnknownHandleError,
    UsageError,
)
from renewer.messages import DataBody, InFlight, SequenceBody, UnreadableBody, ValueBody
from renewer.ports import Settlement
from renewer.targets.servicebus import heldsession, intake, settler
from tests.targets.servicebus_rig import failing, rig, spec
from tests.virtualtime import virtual

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return virtual(request.param)


COMPLETE = Settlement("complete")
UPDATE = "com.microsoft:update-disposition"
LOST = "com.microsoft:session-lock-lost"
MESSAGE_LOST = "com.microsoft:message-lock-lost"


def token(number):
    return uuid.UUID(int=number)


def encoded(text="hello", number=1, **parts):
    annotations = {"x-opt-sequence-number": number, "x-opt-enqueued-time": Timestamp(1_700_000_000_500)}
    return Message(Data([text.encode()]), message_annotations=annotations, **parts).encode()


def send(r, *numbers, link=None, settled=False, payload=None):
    """Have the broker send messages, whose bodies are their numbers, as far as it has credit."""
    link = link or r.broker.link_of("s1")
    for number in numbers:
        tag = token(number).bytes_le
        link.send(encoded(str(number), number) if payload is None else payload, delivery_tag=tag, settled=settled)
    r.broker.peer.transport.flush()


def bodies(messages):
    return [message.body.data.decode() for message in messages]


async def holding(r, epoch=1):
    await r.target.acquire(spec(), epoch)


async def received(r, *numbers, epoch=1):
    send(r, *numbers)
    messages = await r.target.receive(spec(), epoch, count=len(numbers), wait_s=5)
    assert bodies(messages) == [str(number) for number in numbers]
    return messages


async def waiting(r, link=None):
    """Return when somebody waits for a message."""
    link = link or r.broker.link_of("s1")
    await r.broker.until(lambda: link.credit)


# Receiving ----------------------------------------------------------------------------------------------------------


async def test_a_held_session_gives_the_broker_no_credit_until_somebody_receives():
    async with rig() as r:
        await holding(r)
        send(r, 1, 2, 3)
        await r.target.renew(spec(), 1)
        link = r.broker.link_of("s1")
        assert (link.credit, link.queued, link.delivery_count) == (0, 3, 0)
        assert bodies(await r.target.receive(spec(), 1, count=2, wait_s=5)) == ["1", "2"]
        assert (link.queued, link.delivery_count) == (1, 2)


async def test_messages_that_come_together_are_no_reason_for_more_credit(monkeypatch):
    flows, flow = [], ReceiverLink.flow
    monkeypatch.setattr(
        ReceiverLink, "flow", lambda link, credit, **how: (flows.append((credit, how)), flow(link, credit, **how))
    )
    async with rig() as r:
        await holding(r)
        send(r, *range(1, 10))
        flows.clear()
        assert len(await r.target.receive(spec(), 1, count=7, wait_s=5)) == 7
        await r.target.renew(spec(), 1)
        assert flows == [(7, {"drain": False})]
        assert r.broker.link_of("s1").queued == 2


async def test_a_receive_waits_for_the_first_message_and_for_no_more():
    async with rig() as r:
        await holding(r)
        async with anyio.create_task_group() as tasks:

            async def later():
                await waiting(r)
                send(r, 7)

            tasks.start_soon(later)
            assert bodies(await r.target.receive(spec(), 1, count=10, wait_s=60)) == ["7"]


async def test_a_receive_that_finds_nothing_is_empty_and_leaves_no_credit():
    async with rig() as r:
        await holding(r)
        for wait_s in (0, 0.02):
            assert await r.target.receive(spec(), 1, count=10, wait_s=wait_s) == []
        await r.target.renew(spec(), 1)
        send(r, 1)
        await r.target.renew(spec(), 1)
        assert r.broker.link_of("s1").queued == 1


async def test_a_receive_that_is_cancelled_takes_its_credit_back_and_loses_nothing():
    async with rig() as r:
        await holding(r)
        link = r.broker.link_of("s1")
        with anyio.move_on_after(0.02):
            await r.target.receive(spec(), 1, count=5, wait_s=60)
        await r.broker.until(lambda: not link.credit)
        send(r, 1, 2)
        assert bodies(await r.target.receive(spec(), 1, count=5, wait_s=5)) == ["1", "2"]


async def test_a_message_tells_all_that_the_sender_and_the_broker_said():
    async with rig() as r:
        await holding(r)
        message = Message(
            Value({"k": [Uint(1), None]}),
            MessageProperties(
                message_id=uuid.UUID(int=9),
                to="t",
                subject="sub",
                reply_to="r",
                correlation_id=7,
                content_type=Symbol("application/json"),
                content_encoding=Symbol("utf-8"),
                group_id="s1",
                reply_to_group_id="rs",
            ),
            {"n": Int(5), "b": Ubyte(1), "t": Timestamp(5), "s": Symbol("x"), "plain": 1.5, "none": None},
            {
                "x-opt-sequence-number": 42,
                "x-opt-enqueued-time": Timestamp(1_700_000_000_500),
                "x-opt-enqueue-sequence-number": 41,
                "x-opt-scheduled-enqueue-time": Timestamp(1_700_000_000_000),
                "x-opt-partition-key": "p",
                "x-opt-deadletter-source": "other",
                "x-opt-message-state": Int(1),
                "x-opt-locked-until": Timestamp(1),
                "x-opt-lock-token": token(1),
                "x-own": Symbol("kept"),
            },
            header=Header(delivery_count=3, ttl=1500),
        )
        send(r, 1, payload=message.encode())
        (got,) = await r.target.receive(spec(), 1, count=1, wait_s=5)
        assert got.body == ValueBody({"k": [1, None]})
        assert isinstance(got.body.value["k"][0], Uint)
        assert (got.sequence_number, got.delivery_count, got.state) == (42, 3, "deferred")
        assert (got.enqueued_at, got.expires_at, got.scheduled_at) == (1_700_000_000.5, 1_700_000_002.0, 1_700_000_000)
        assert (got.enqueued_sequence_number, got.partition_key, got.dead_letter_source) == (41, "p", "other")
        assert (got.message_id, got.correlation_id, got.session_id) == (uuid.UUID(int=9), 7, "s1")
        assert (got.to, got.subject, got.reply_to, got.reply_to_session_id) == ("t", "sub", "r", "rs")
        assert (got.content_type, got.content_encoding) == ("application/json", "utf-8")
        assert {key: type(value) for key, value in got.application_properties.items()} == {
            "n": Int,
            "b": Ubyte,
            "t": Timestamp,
            "s": Symbol,
            "plain": float,
            "none": type(None),
        }
        assert got.annotations == {"x-own": "kept"}
        for secret in (str(token(1)), token(1).hex, token(1).bytes_le.hex()):
            assert secret not in repr(got)
            assert secret not in got.handle


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (Data([b"\x00\xff"]), DataBody((b"\x00\xff",))),
        (Data([b"a", b"b"]), DataBody((b"a", b"b"))),
        (Data([b""]), DataBody((b"",))),
        (Sequence([[1, "a"], [None]]), SequenceBody(([1, "a"], [None]))),
        (Value(None), ValueBody(None)),
        (Value("text"), ValueBody("text")),
        (None, None),
    ],
)
async def test_bodies_come_as_they_were_sent(body, read):
    async with rig() as r:
        await holding(r)
        send(r, 1, payload=Message(body, application_properties={"p": 1}).encode())
        (got,) = await r.target.receive(spec(), 1, count=1, wait_s=5)
        assert got.body == read


async def test_large_messages_are_read_like_small_ones():
    async with rig() as r:
        await holding(r)
        values = list(range(60_000))
        send(r, 1, payload=Message(Value(values)).encode())
        (got,) = await r.target.receive(spec(), 1, count=1, wait_s=5)
        assert got.body == ValueBody(values)


async def test_two_receives_at_once_share():
    async with rig() as r:
        await holding(r)
        link = r.broker.link_of("s1")
        got = []

        async def receive():
            got.append(bodies(await r.target.receive(spec(), 1, count=2, wait_s=60)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            tasks.start_soon(receive)
            await r.broker.until(lambda: link.credit == 4)
            send(r, 1, 2, 3, 4)
        assert sorted(got) == [["1", "3"], ["2", "4"]]


@pytest.mark.parametrize("count", [0, -1, 101])
async def test_a_count_out_of_range_is_refused(count):
    async with rig() as r:
        await holding(r)
        await failing(r.target.receive(spec(), 1, count=count, wait_s=0), UsageError)
        await failing(r.target.peek(spec(), 1, count=count), UsageError)


async def test_no_more_than_so_many_messages_of_a_session_are_in_flight(monkeypatch):
    monkeypatch.setattr(heldsession, "MAX_IN_FLIGHT", 3)
    async with rig() as r:
        await holding(r)
        send(r, 1, 2, 3, 4)
        messages = await r.target.receive(spec(), 1, count=10, wait_s=5)
        assert len(messages) == 3
        await failing(r.target.receive(spec(), 1, count=1, wait_s=5), ConflictError)
        await failing(r.target.receive_deferred(spec(), 1, [9]), ConflictError)
        await r.target.settle(spec(), 1, COMPLETE, messages[0].handle)
        assert bodies(await r.target.receive(spec(), 1, count=10, wait_s=5)) == ["4"]


async def test_what_is_not_held_as_this_epoch_cannot_be_used():
    async with rig() as r:
        await r.target.acquire(spec(), 2)
        for epoch in (1, 3):
            await failing(r.target.receive(spec(), epoch, count=1, wait_s=0), ConflictError)
            await failing(r.target.peek(spec(), epoch, count=1), ConflictError)
            await failing(r.target.receive_deferred(spec(), epoch, [1]), ConflictError)


async def test_a_receive_that_hangs_delays_no_renewal():
    async with rig() as r:
        await holding(r)
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(partial(r.target.receive, spec(), 1, count=1, wait_s=60))
            await waiting(r)
            for _ in range(10):
                await r.target.renew(spec(), 1)
            tasks.cancel_scope.cancel()


async def test_requests_that_hang_delay_no_renewal(monkeypatch):
    monkeypatch.setattr(intake, "DRAIN_PATIENCE_S", 0.05)
    async with rig(request_window=40) as r:
        await holding(r)
        r.broker.on_management = lambda ask: ask.renew() if "renew" in ask.operation else None
        async with anyio.create_task_group() as tasks:
            for _ in range(200):
                tasks.start_soon(partial(failing, r.target.peek(spec(), 1, count=1), TransientError))
            await r.broker.until(lambda: len(r.broker.asks) == 32)
            with anyio.fail_after(1):
                for _ in range(50):
                    await r.target.renew(spec(), 1)
            await r.target.release(spec(), 1)
            tasks.cancel_scope.cancel()


async def test_a_link_takes_messages_of_the_size_that_is_set_and_no_smaller_ones_than_the_sdk():
    for limit, largest in ((1024, 2**20), (2**21, 2**21 + 2**16)):
        async with rig(message_size_limit=limit) as r:
            await holding(r)
            assert r.broker.peer.sessions[0].remote.max_message_size == largest


async def test_the_larger_messages_may_be_the_fewer_sessions_share_a_connection():
    async with rig(message_size_limit=100 * 2**20) as r:
        for number in range(3):
            await r.target.acquire(spec(f"s{number}"), 1)
        assert r.target.connections == 2


async def test_little_of_the_stream_is_ahead_of_a_renewal_at_any_time():
    async with rig() as r:
        await holding(r)
        messages = r.broker.link_of("s1").session
        assert messages.remote.incoming_window * r.broker.peer.connection.remote_open.max_frame_size <= 4 * 2**20
        assert r.broker.peer.requesters["orders/$management"].session is not messages


# Settling -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settlement", "said"),
    [
        (COMPLETE, Accepted()),
        (Settlement("abandon"), Modified(delivery_failed=True, undeliverable_here=False)),
        (
            Settlement("abandon", {"n": Uint(5), "s": "x"}),
            Modified(delivery_failed=True, undeliverable_here=False, message_annotations={"n": 5, "s": "x"}),
        ),
        (Settlement("defer"), Modified(delivery_failed=True, undeliverable_here=True)),
        (
            Settlement("defer", {"why": "later"}),
            Modified(delivery_failed=True, undeliverable_here=True, message_annotations={"why": "later"}),
        ),
        (Settlement("dead-letter"), Rejected(AmqpError("com.microsoft:dead-letter", None, {}))),
        (
            Settlement("dead-letter", {"n": True}, reason="r", description="d"),
            Rejected(
                AmqpError(
                    "com.microsoft:dead-letter",
                    "d",
                    {"DeadLetterReason": "r", "DeadLetterErrorDescription": "d", "n": True},
                )
            ),
        ),
    ],
)
async def test_each_way_to_settle_is_said_over_the_link_as_the_official_clients_do(settlement, said):
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        assert r.target.in_flight(spec()) == [InFlight(message.handle, 1)]
        await r.target.settle(spec(), 1, settlement, message.handle)
        assert r.broker.outcomes == [(token(1).bytes_le, said)]
        assert r.target.in_flight(spec()) == []
        assert r.broker.asks == []


async def test_a_message_is_settled_once():
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        await r.target.settle(spec(), 1, COMPLETE, message.handle)
        for settlement in (COMPLETE, Settlement("abandon")):
            error = await failing(r.target.settle(spec(), 1, settlement, message.handle), MessageSettledError)
            assert "settled already" in str(error)
            assert error.fate == MessageFate.COMPLETED
        assert len(r.broker.outcomes) == 1


async def test_a_message_that_is_being_settled_cannot_be_settled_meanwhile():
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        answers = []
        r.broker.on_outcome = lambda *outcome: answers.append(outcome)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(r.target.settle, spec(), 1, COMPLETE, message.handle)
            await r.broker.until(lambda: answers)
            assert "just now" in str(await failing(r.target.settle(spec(), 1, COMPLETE, message.handle), ConflictError))
            r.broker.settle_as_asked(*answers[0])
            r.broker.peer.transport.flush()


@pytest.mark.parametrize(
    "handle", ["1.2", "1.0", "2.1", "", "1", "x.y", "1.1 ", "\u0661.\u0661", "1.99999999999999999999", "-1.1"]
)
async def test_a_handle_of_nothing_is_told_apart(handle):
    async with rig() as r:
        await holding(r)
        await received(r, 1)
        await failing(r.target.settle(spec(), 1, COMPLETE, handle), UnknownHandleError)


async def test_a_session_has_messages_by_handle_and_a_message_lock_has_none():
    async with rig() as r:
        await holding(r)
        await failing(r.target.settle(spec(), 1, COMPLETE), UsageError)


@pytest.mark.parametrize(
    "settlement",
    [
        Settlement("complete", {"a": 1}),
        Settlement("complete", reason="r"),
        Settlement("abandon", description="d"),
        Settlement("dead-letter", reason="x" * 4097),
        Settlement("dead-letter", description="x" * 4097),
        Settlement("abandon", {"": 1}),
        Settlement("abandon", {"a": object()}),
        Settlement("abandon", {"a": 2**63}),
        Settlement("abandon", {"a": [1]}),
        Settlement("abandon", {"a": {"b": 1}}),
        Settlement("abandon", {"a": AmqpArray([1])}),
    ],
)
async def test_what_no_message_can_be_asked_is_refused_before_anything_is_sent(settlement):
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        await failing(r.target.settle(spec(), 1, settlement, message.handle), UsageError)
        assert r.broker.outcomes == []
        await r.target.settle(spec(), 1, COMPLETE, message.handle)


@pytest.mark.parametrize(
    "properties", [{"p": "x" * 70_000}, {"schlüssel": "x"}, {f"p{n}": "y" * 1000 for n in range(80)}]
)
async def test_what_does_not_fit_over_the_link_is_said_in_a_request(properties):
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        r.broker.on_management = lambda ask: ask.answer(body={})
        await r.target.settle(spec(), 1, Settlement("abandon", properties), message.handle)
        assert r.broker.outcomes == []
        (ask,) = r.broker.asks
        assert ask.operation == UPDATE
        assert ask.link_name == r.broker.peer.sessions[0].remote.name
        body = ask.message.body.value
        assert body["properties-to-modify"] == properties
        assert (body["disposition-status"], body["session-id"]) == ("abandoned", "s1")
        assert [*body["lock-tokens"]] == [token(1)]


async def test_what_does_not_fit_into_a_request_either_is_refused_and_the_message_stays_in_flight():
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        await failing(
            r.target.settle(spec(), 1, Settlement("abandon", {"p": "x" * 1_100_000}), message.handle), UsageError
        )
        assert r.target.in_flight(spec()) == [InFlight(message.handle, 1)]
        await r.target.settle(spec(), 1, COMPLETE, message.handle)


async def test_a_broker_that_settles_over_the_link_what_was_asked_by_request_takes_nothing_back():
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        link = r.broker.link_of("s1")

        def both(ask):
            link.settle(next(iter(link.unsettled.values())), Modified())
            ask.answer(body={})

        r.broker.on_management = both
        await r.target.settle(spec(), 1, Settlement("abandon", {"ü": 1}), message.handle)
        error = await failing(r.target.settle(spec(), 1, COMPLETE, message.handle), MessageSettledError)
        assert error.fate == MessageFate.ABANDONED
        assert r.target.in_flight(spec()) == []


async def test_no_lock_token_is_repeated_however_the_broker_says_that_the_session_is_lost():
    words = f"{token(1)} {token(1).hex} {token(1).bytes_le.hex().upper()}"
    for over_link in (True, False):
        async with rig() as r:
            await holding(r)
            (message,) = await received(r, 1)
            gone = Rejected(AmqpError(LOST, words))
            r.broker.on_outcome = lambda link, delivery, state, settled, gone=gone: link.settle(delivery, gone)
            r.broker.on_management = lambda ask: ask.send(
                Message(
                    properties=MessageProperties(correlation_id=ask.message.properties.message_id),
                    application_properties={
                        "statusCode": Int(410),
                        "errorCondition": Symbol(LOST),
                        "statusDescription": words,
                    },
                ).encode()
            )
            how = COMPLETE if over_link else Settlement("abandon", {"ü": 1})
            error = await failing(r.target.settle(spec(), 1, how, message.handle), LeaseLostError)
            assert str(error).count("<redacted>") == r.losses[0].detail.count("<redacted>") == 3


async def test_settling_costs_the_other_sessions_on_the_connection_nothing():
    async with rig() as r:
        await holding(r)
        await r.target.acquire(spec("s2"), 1)
        (message,) = await received(r, 1)
        r.broker.on_management = lambda ask: ask.answer(body={}) if ask.operation == UPDATE else ask.renew()
        await r.target.settle(spec(), 1, Settlement("abandon", {"p": "x" * 200_000}), message.handle)
        await r.target.renew(spec("s2"), 1)
        assert r.losses == []


# What the broker answers --------------------------------------------------------------------------------------------


async def test_a_settlement_that_the_broker_refuses_as_busy_was_not_done_and_may_be_asked_again():
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        busy = Rejected(AmqpError("com.microsoft:server-busy", "later"))
        r.broker.on_outcome = lambda link, delivery, state, settled: link.settle(delivery, busy)
        error = await failing(r.target.settle(spec(), 1, COMPLETE, message.handle), TransientError)
        assert error.kind == "busy"
        assert r.target.in_flight(spec()) == [InFlight(message.handle, 1)]
        r.broker.on_management = lambda ask: ask.answer(body={})
        await r.target.settle(spec(), 1, Settlement("abandon"), message.handle)
        assert r.broker.asks[0].operation == UPDATE
        assert r.target.in_flight(spec()) == []


async def test_a_message_whose_lock_is_gone_comes_again_and_the_session_stays():
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        gone = Rejected(AmqpError(MESSAGE_LOST, f"lock {token(1)} is lost"))
        r.broker.on_outcome = lambda link, delivery, state, settled: link.settle(delivery, gone)
        for _ in range(2):
            error = await failing(r.target.settle(spec(), 1, COMPLETE, message.handle), LeaseLostError)
            assert "delivered again" in str(error)
            assert str(token(1)) not in str(error)
        assert r.target.in_flight(spec()) == [InFlight(message.handle, 1, is_lost=True)]
        assert r.losses == []
        await r.target.renew(spec(), 1)


async def test_the_brokers_word_in_a_settlement_that_the_session_is_lost_is_a_loss_told_once():
    async with rig() as r:
        await holding(r)
        first, second = await received(r, 1, 2)
        gone = Rejected(AmqpError(LOST, "lost"))
        r.broker.on_outcome = lambda link, delivery, state, settled: link.settle(delivery, gone)
        await failing(r.target.settle(spec(), 1, COMPLETE, first.handle), LeaseLostError)
        (loss,) = r.losses
        assert (loss.epoch, loss.reason) == (1, LossReason.EXPIRED)
        assert "2 messages in flight will be delivered again (sequence numbers 1, 2)" in loss.detail
        await failing(r.target.settle(spec(), 1, COMPLETE, second.handle), LeaseLostError)
        await failing(r.target.receive(spec(), 1, count=1, wait_s=60), LeaseLostError)
        assert len(r.losses) == 1


@pytest.mark.parametrize("state", [Released(), Modified(), Accepted()])
async def test_an_answer_that_is_not_what_was_asked_is_no_success(state):
    settlement = Settlement("abandon") if isinstance(state, Accepted) else COMPLETE
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        r.broker.on_outcome = lambda link, delivery, _, settled: link.settle(delivery, state)
        await failing(r.target.settle(spec(), 1, settlement, message.handle), TransientError)


async def test_a_broker_that_settles_without_a_word_has_done_as_it_was_told():
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        r.broker.on_outcome = lambda link, delivery, state, settled: link.settle(delivery, None)
        await r.target.settle(spec(), 1, COMPLETE, message.handle)


async def test_without_an_answer_over_the_link_the_management_node_is_asked(monkeypatch):
    monkeypatch.setattr(settler, "PATIENCE_S", 0.02)
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        r.broker.on_outcome = lambda *outcome: None
        r.broker.on_management = lambda ask: ask.answer(body={})
        await r.target.settle(spec(), 1, Settlement("dead-letter", reason="r", description="d"), message.handle)
        body = r.broker.asks[0].message.body.value
        assert body["disposition-status"] == "suspended"
        assert (body["deadletter-reason"], body["deadletter-description"]) == ("r", "d")
        assert "settled already" in str(
            await failing(r.target.settle(spec(), 1, COMPLETE, message.handle), ConflictError)
        )


async def test_when_nobody_answers_it_is_not_known_and_asking_again_is_safe(monkeypatch):
    monkeypatch.setattr(settler, "PATIENCE_S", 0.02)
    monkeypatch.setattr(settler, "REQUEST_TIMEOUT_S", 0.02)
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        answers = []
        r.broker.on_outcome = lambda *outcome: answers.append(outcome)
        r.broker.on_management = lambda ask: None
        error = await failing(r.target.settle(spec(), 1, COMPLETE, message.handle), TransientError)
        assert "not known" in str(error)
        assert error.is_unknown
        assert r.target.in_flight(spec()) == [InFlight(message.handle, 1)]
        # The answer comes late: who asks the same again is told that it is done, once.
        r.broker.settle_as_asked(*answers[0])
        r.broker.peer.transport.flush()
        r.broker.on_management = lambda ask: ask.renew()
        await r.target.renew(spec(), 1)
        assert r.target.in_flight(spec()) == []
        await r.target.settle(spec(), 1, COMPLETE, message.handle)
        await failing(r.target.settle(spec(), 1, COMPLETE, message.handle), ConflictError)


async def test_a_late_answer_is_no_success_for_who_asks_otherwise(monkeypatch):
    monkeypatch.setattr(settler, "PATIENCE_S", 0.02)
    monkeypatch.setattr(settler, "REQUEST_TIMEOUT_S", 0.02)
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        answers = []
        r.broker.on_outcome = lambda *outcome: answers.append(outcome)
        r.broker.on_management = lambda ask: None
        await failing(r.target.settle(spec(), 1, COMPLETE, message.handle), TransientError)
        r.broker.settle_as_asked(*answers[0])
        r.broker.peer.transport.flush()
        r.broker.on_management = lambda ask: ask.renew()
        await r.target.renew(spec(), 1)
        await failing(r.target.settle(spec(), 1, Settlement("abandon"), message.handle), ConflictError)


async def test_after_a_first_try_without_answer_a_lock_that_is_gone_leaves_it_unknown(monkeypatch):
    monkeypatch.setattr(settler, "PATIENCE_S", 0.02)
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        r.broker.on_outcome = lambda *outcome: None
        r.broker.on_management = lambda ask: ask.answer(410, MESSAGE_LOST)
        for _ in range(2):
            error = await failing(r.target.settle(spec(), 1, COMPLETE, message.handle), TransientError)
            assert "not known" in str(error)
        assert r.losses == []


def only_peeks(*payloads):
    """Every lock is over; what is there of the session's messages is seen."""

    def answer(ask):
        if ask.operation != "com.microsoft:peek-message":
            ask.answer(410, MESSAGE_LOST)
        elif payloads:
            ask.answer(body={"messages": [{"message": payload} for payload in payloads]})
        else:
            ask.answer(204)

    return answer


def seen(number, state):
    annotations = {"x-opt-sequence-number": number, "x-opt-message-state": Int(state)}
    return Message(message_annotations=annotations, body=Value("m")).encode()


@pytest.mark.parametrize(
    ("settlement", "there"),
    [
        (COMPLETE, ()),
        (COMPLETE, (seen(2, 0),)),
        (Settlement("dead-letter"), ()),
        (Settlement("defer"), (seen(1, 1),)),
        (Settlement("abandon"), (seen(1, 0),)),
    ],
)
async def test_what_was_done_without_an_answer_is_seen_when_its_lock_is_over(monkeypatch, settlement, there):
    monkeypatch.setattr(settler, "PATIENCE_S", 0.02)
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        r.broker.on_outcome = lambda *outcome: None
        r.broker.on_management = only_peeks(*there)
        await r.target.settle(spec(), 1, settlement, message.handle)
        assert r.target.in_flight(spec()) == []
        assert r.losses == []


@pytest.mark.parametrize(("settlement", "state"), [(COMPLETE, 0), (Settlement("defer"), 0), (COMPLETE, 1)])
async def test_what_is_still_there_when_its_lock_is_over_comes_again(monkeypatch, settlement, state):
    monkeypatch.setattr(settler, "PATIENCE_S", 0.02)
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        r.broker.on_outcome = lambda *outcome: None
        r.broker.on_management = only_peeks(seen(1, state))
        error = await failing(r.target.settle(spec(), 1, settlement, message.handle), LeaseLostError)
        assert "delivered again" in str(error)
        assert r.losses == []


async def test_what_was_asked_in_two_ways_and_is_gone_stays_unknown(monkeypatch):
    monkeypatch.setattr(settler, "PATIENCE_S", 0.02)
    monkeypatch.setattr(settler, "REQUEST_TIMEOUT_S", 0.02)
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        r.broker.on_outcome = lambda *outcome: None
        r.broker.on_management = lambda ask: None
        await failing(r.target.settle(spec(), 1, COMPLETE, message.handle), TransientError)
        r.broker.on_management = only_peeks()
        error = await failing(r.target.settle(spec(), 1, Settlement("dead-letter"), message.handle), TransientError)
        assert error.is_unknown


async def test_a_caller_who_gives_up_leaves_the_settlement_to_the_next_who_asks():
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        answers = []
        r.broker.on_outcome = lambda *outcome: answers.append(outcome)
        with anyio.move_on_after(0.02):
            await r.target.settle(spec(), 1, COMPLETE, message.handle)
        r.broker.settle_as_asked(*answers[0])
        r.broker.peer.transport.flush()
        await r.target.renew(spec(), 1)
        await r.target.settle(spec(), 1, COMPLETE, message.handle)


async def test_a_message_that_came_settled_has_nothing_left_to_settle():
    async with rig() as r:
        await holding(r)
        send(r, 1, settled=True)
        (message,) = await r.target.receive(spec(), 1, count=1, wait_s=5)
        assert bodies([message]) == ["1"]
        assert r.target.in_flight(spec()) == []
        assert "settled already" in str(
            await failing(r.target.settle(spec(), 1, COMPLETE, message.handle), ConflictError)
        )


async def test_a_message_that_the_broker_takes_back_unasked_will_come_again():
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        link = r.broker.link_of("s1")
        link.settle(next(iter(link.unsettled.values())), Released())
        r.broker.peer.transport.flush()
        await r.target.renew(spec(), 1)
        assert r.target.in_flight(spec()) == [InFlight(message.handle, 1, is_lost=True)]
        await failing(r.target.settle(spec(), 1, COMPLETE, message.handle), LeaseLostError)
        assert r.broker.outcomes == []


async def test_a_message_that_cannot_be_read_is_given_out_as_it_is_and_can_be_dead_lettered():
    async with rig() as r:
        await holding(r)
        send(r, 1, payload=b"\x00\x53\x75nonsense")
        (message,) = await r.target.receive(spec(), 1, count=1, wait_s=5)
        assert isinstance(message.body, UnreadableBody)
        assert message.body.payload == b"\x00\x53\x75nonsense"
        assert message.body.problem
        assert message.sequence_number is None
        await r.target.settle(spec(), 1, Settlement("dead-letter", reason="unreadable"), message.handle)


# Deferred messages, and a look ahead --------------------------------------------------------------------------------


def deferred(*numbers):
    return {"messages": [{"message": encoded(str(n), n), "lock-token": token(n)} for n in numbers]}


async def test_deferred_messages_are_received_by_number_and_settled_by_request():
    async with rig() as r:
        await holding(r)
        r.broker.on_management = lambda ask: ask.answer(body=deferred(5, 6))
        first, second = await r.target.receive_deferred(spec(), 1, [5, 6, 5])
        assert bodies([first, second]) == ["5", "6"]
        (ask,) = r.broker.asks
        assert ask.operation == "com.microsoft:receive-by-sequence-number"
        body = ask.message.body.value
        assert ([*body["sequence-numbers"]], body["receiver-settle-mode"]) == ([5, 6], 1)
        assert isinstance(body["receiver-settle-mode"], Uint)
        assert (body["session-id"], ask.link_name) == ("s1", r.broker.peer.sessions[0].remote.name)
        assert [m.sequence_number for m in r.target.in_flight(spec())] == [5, 6]
        r.broker.on_management = lambda ask: ask.answer(body={})
        await r.target.settle(spec(), 1, Settlement("defer", {"again": True}), first.handle)
        body = r.broker.asks[1].message.body.value
        assert body["disposition-status"] == "defered"
        assert [*body["lock-tokens"]] == [token(5)]
        assert body["properties-to-modify"] == {"again": True}
        r.broker.on_management = lambda ask: ask.answer(410, MESSAGE_LOST)
        assert "delivered again" in str(
            await failing(r.target.settle(spec(), 1, COMPLETE, second.handle), LeaseLostError)
        )
        assert r.losses == []


async def test_deferred_messages_that_are_not_there_are_a_conflict():
    async with rig() as r:
        await holding(r)
        r.broker.on_management = lambda ask: ask.answer(404, "com.microsoft:message-not-found")
        await failing(r.target.receive_deferred(spec(), 1, [5]), ConflictError)
        assert r.losses == []


@pytest.mark.parametrize("numbers", [[], [-1], [2**63], list(range(32))])
async def test_numbers_that_make_no_sense_or_are_too_many_are_refused(numbers):
    async with rig() as r:
        await holding(r)
        await failing(r.target.receive_deferred(spec(), 1, numbers), UsageError)
        assert r.broker.asks == []


async def test_who_gives_up_waiting_for_deferred_messages_finds_them_in_flight():
    async with rig() as r:
        await holding(r)
        asks = []
        r.broker.on_management = asks.append
        with anyio.move_on_after(0.02):
            await r.target.receive_deferred(spec(), 1, [5])
        r.broker.on_management = lambda ask: ask.renew()
        asks[0].answer(body=deferred(5))
        await r.target.renew(spec(), 1)
        (message,) = r.target.in_flight(spec())
        assert message.sequence_number == 5
        r.broker.on_management = lambda ask: ask.answer(body={})
        await r.target.settle(spec(), 1, Settlement("abandon"), message.handle)


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        {"messages": 5},
        {"messages": ["x"]},
        {"messages": [{"message": "text", "lock-token": token(1)}]},
        {"messages": [{"message": b"", "lock-token": "text"}]},
        {"messages": [{"message": b""}]},
    ],
)
async def test_an_answer_that_has_no_messages_is_garbage(body):
    async with rig() as r:
        await holding(r)
        r.broker.on_management = lambda ask: ask.answer(body=body)
        assert (await failing(r.target.receive_deferred(spec(), 1, [1]), TransientError)).kind == "garbage"
        assert r.target.in_flight(spec()) == []


async def test_messages_are_peeked_at_without_being_received():
    async with rig() as r:
        await holding(r)
        r.broker.on_management = lambda ask: ask.answer(body={"messages": [{"message": encoded("5", 5)}]})
        (message,) = await r.target.peek(spec(), 1, count=10, from_sequence_number=4)
        assert (message.handle, message.sequence_number, message.body.data) == (None, 5, b"5")
        (ask,) = r.broker.asks
        assert ask.operation == "com.microsoft:peek-message"
        body = ask.message.body.value
        assert body == {"from-sequence-number": 4, "message-count": 10, "session-id": "s1"}
        assert isinstance(body["message-count"], Int)
        assert r.target.in_flight(spec()) == []


@pytest.mark.parametrize(("status", "condition"), [(204, None), (202, None), (404, "com.microsoft:message-not-found")])
async def test_nothing_to_peek_at_is_no_error(status, condition):
    async with rig() as r:
        await holding(r)
        r.broker.on_management = lambda ask: ask.answer(status, condition)
        assert await r.target.peek(spec(), 1, count=10) == []
        assert r.losses == []


async def test_the_brokers_word_in_a_peek_that_the_session_is_lost_ends_those_who_wait_for_messages():
    async with rig() as r:
        await holding(r)
        r.broker.on_management = lambda ask: ask.answer(410, LOST)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(failing, r.target.receive(spec(), 1, count=1, wait_s=60), LeaseLostError)
            await waiting(r)
            await failing(r.target.peek(spec(), 1, count=1), LeaseLostError)
        assert [loss.reason for loss in r.losses] == [LossReason.EXPIRED]


# Loss and release ---------------------------------------------------------------------------------------------------


def detach(r):
    r.broker.peer.detach(r.broker.link_of("s1"), LOST)


def cut(r):
    r.broker.peer.stream.cut()


@pytest.mark.parametrize(("breaking", "reason"), [(detach, LossReason.EXPIRED), (cut, LossReason.CONNECTION_LOST)])
async def test_a_loss_ends_those_who_wait_at_once_and_says_what_was_in_flight(breaking, reason):
    async with rig() as r:
        await holding(r)
        done, *lost = await received(r, *range(1, 14))
        await r.target.settle(spec(), 1, COMPLETE, done.handle)
        errors = []
        answers = []
        r.broker.on_outcome = lambda *outcome: answers.append(outcome)

        async def fail(awaitable):
            errors.append(await failing(awaitable, LeaseLostError))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail, r.target.receive(spec(), 1, count=5, wait_s=60))
            tasks.start_soon(fail, r.target.settle(spec(), 1, COMPLETE, lost[0].handle))
            await waiting(r)
            await r.broker.until(lambda: answers)
            breaking(r)
        assert len(errors) == 2
        (loss,) = r.losses
        assert loss.reason == reason
        sure, one = "11 messages in flight will be delivered again", "1 message in flight will be delivered again"
        assert f"; {sure} (sequence numbers 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 1 more)" in loss.detail
        assert loss.detail.endswith(f"; {one}, if not settled before (sequence number 2)")
        assert [m.is_lost for m in r.target.in_flight(spec())] == [True] * 12
        unsure = await failing(r.target.settle(spec(), 1, COMPLETE, lost[0].handle), LeaseLostError)
        assert "not known" in str(unsure)
        error = await failing(r.target.settle(spec(), 1, COMPLETE, lost[1].handle), LeaseLostError)
        assert error.reason == reason
        assert "it will be delivered again" in str(error)
        await failing(r.target.settle(spec(), 1, COMPLETE, done.handle), ConflictError)


async def test_a_loss_with_nothing_in_flight_says_nothing_of_messages():
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        await r.target.settle(spec(), 1, COMPLETE, message.handle)
        detach(r)
        await r.until_lost()
        assert "message" not in r.losses[0].detail


async def test_a_loss_that_a_renewal_tells_names_what_was_in_flight_too():
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 8)
        r.broker.on_management = lambda ask: ask.answer(410, LOST)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(failing, r.target.receive(spec(), 1, count=5, wait_s=60), LeaseLostError)
            await waiting(r)
            error = await failing(r.target.renew(spec(), 1), LeaseLostError)
        assert "1 message in flight will be delivered again (sequence number 8)" in str(error)
        await failing(r.target.settle(spec(), 1, COMPLETE, message.handle), LeaseLostError)
        assert r.broker.outcomes == []


async def test_a_handle_of_an_epoch_that_was_lost_is_never_taken_for_one_of_the_next():
    async with rig() as r:
        await holding(r)
        settled, lost = await received(r, 1, 2)
        await r.target.settle(spec(), 1, COMPLETE, settled.handle)
        detach(r)
        await r.until_lost()
        await holding(r, 2)
        again, other = await received(r, 2, 3, epoch=2)
        assert len({settled.handle, lost.handle, again.handle, other.handle}) == 4
        await failing(r.target.settle(spec(), 2, COMPLETE, lost.handle), LeaseLostError)
        await failing(r.target.settle(spec(), 2, COMPLETE, settled.handle), ConflictError)
        await failing(r.target.settle(spec(), 2, COMPLETE, "1.3"), UsageError)
        await r.target.settle(spec(), 2, COMPLETE, again.handle)
        assert r.target.in_flight(spec()) == [InFlight(lost.handle, 2, is_lost=True), InFlight(other.handle, 3)]


async def test_of_an_epoch_that_nobody_remembers_a_message_counts_as_lost():
    async with rig() as r:
        await holding(r, 9)
        for handle in ("3.1", "8.700"):
            error = await failing(r.target.settle(spec(), 9, COMPLETE, handle), LeaseLostError)
            assert "if it was not settled before" in str(error)


async def test_a_release_ends_those_who_wait_and_gives_back_what_is_in_flight():
    async with rig() as r:
        await holding(r)
        (message,) = await received(r, 1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(failing, r.target.receive(spec(), 1, count=1, wait_s=60), ConflictError)
            await waiting(r)
            await r.target.release(spec(), 1)
        assert r.losses == []
        assert r.broker.outcomes == []
        error = await failing(r.target.settle(spec(), 1, COMPLETE, message.handle), ConflictError)
        assert "released" in str(error)
        assert r.target.in_flight(spec()) == [InFlight(message.handle, 1, is_lost=True)]


async def test_when_the_daemon_stops_those_who_wait_are_told():
    async with rig() as r:
        await holding(r)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(failing, r.target.receive(spec(), 1, count=1, wait_s=60), ConflictError)
            await waiting(r)
            r.stop.cancel()


async def test_messages_under_way_when_a_session_is_released_are_not_kept_for_the_next_holder():
    async with rig() as r:
        await holding(r)
        with anyio.move_on_after(0.02):
            await r.target.receive(spec(), 1, count=2, wait_s=60)
        link = r.broker.link_of("s1")
        link.credit = 1  # It was on its way before the credit was taken back.
        send(r, 1)
        await r.target.renew(spec(), 1)
        await r.target.release(spec(), 1)
        await holding(r, 2)
        send(r, 2)
        assert bodies(await r.target.receive(spec(), 2, count=5, wait_s=5)) == ["2"]


async def test_sessions_of_subscriptions_are_used_the_same_way():
    entity = "topic/Subscriptions/sub"
    lease = spec("s1", entity=entity)
    async with rig() as r:
        await r.target.acquire(lease, 1)
        send(r, 1, link=r.broker.link_of("s1", entity))
        (message,) = await r.target.receive(lease, 1, count=1, wait_s=5)
        await r.target.settle(lease, 1, COMPLETE, message.handle)
        r.broker.on_management = lambda ask: ask.answer(204)
        assert await r.target.peek(lease, 1, count=1) == []
        assert r.broker.asks[0].node == f"{entity}/$management"
