from __future__ import annotations

from uuid import UUID

import pytest

from renewer.amqp import (
    Accepted,
    AmqpArray,
    AmqpError,
    Attach,
    Data,
    Delivery,
    Header,
    Int,
    Message,
    MessageProperties,
    Modified,
    Rejected,
    Released,
    Symbol,
    Timestamp,
    Uint,
    Value,
)
from renewer.emulator.broker import BrokerOptions, QueueSpec
from renewer.emulator.broker.entities import Entity
from tests.emulator.broker_rig import PLAIN, Client, Rig, request, running

pytestmark = pytest.mark.anyio

DLQ = "plain/$deadletterqueue"
LOST = "com.microsoft:message-lock-lost"


def body_of(delivery: Delivery) -> object:
    body = Message.decode(delivery.payload).body
    assert isinstance(body, Value)
    return body.value


def token_of(delivery: Delivery) -> UUID:
    return UUID(bytes_le=delivery.delivery_tag)


def queue(rig: Rig, path: str = "plain") -> Entity:
    found = rig.broker.namespace.find(path)
    assert isinstance(found, Entity)
    return found


async def one(client: Client, entity: str = "plain") -> Delivery:
    """One message, locked."""
    (delivery,) = await client.receive(await client.receiver(entity), 1)
    return delivery


async def test_a_message_that_was_sent_without_an_id_gets_one() -> None:
    async with running() as rig, rig.client("plain") as client:
        assert await client.send(await client.sender("plain"), Message(Value("m"))) == Accepted()
        properties = Message.decode((await one(client)).payload).properties
        assert properties is not None
        assert properties.message_id


async def test_a_message_arrives_with_what_the_broker_knows_about_it() -> None:
    async with running() as rig, rig.client("plain") as client:
        sent = Message(
            Data([b"ab", b"c"]),
            MessageProperties(message_id="id", group_id="g", subject="s"),
            application_properties={"n": 1},
            message_annotations={Symbol("x-mine"): "kept"},
            header=Header(durable=True, ttl=1000),
        )
        assert await client.send(await client.sender("plain"), sent) == Accepted()
        delivery = await one(client)
        assert len(delivery.delivery_tag) == 16
        message = Message.decode(delivery.payload)
        assert (message.body, message.properties) == (sent.body, sent.properties)
        assert message.application_properties == {"n": 1}
        assert message.header == Header(durable=True, ttl=1000)
        annotations = message.message_annotations
        now_ms = rig.broker.utc_ms()
        assert annotations["x-mine"] == "kept"
        assert annotations["x-opt-sequence-number"] == 1
        assert annotations["x-opt-partition-key"] == "g"
        assert annotations["x-opt-message-state"] == Int(0)
        assert annotations["x-opt-enqueued-time"] == pytest.approx(now_ms, abs=5000)
        assert annotations["x-opt-locked-until"] == pytest.approx(now_ms + 60_000, abs=5000)
        assert type(annotations["x-opt-locked-until"]) is Timestamp


async def test_a_delivery_count_of_nought_is_written_out() -> None:
    async with running() as rig, rig.client("plain") as client:
        await client.fill("plain", "m")
        assert (await one(client)).payload.startswith(b"\x00\x53\x70\xc0")


async def test_a_batch_is_enqueued_message_by_message() -> None:
    async with running() as rig, rig.client("plain") as client:
        batch = Message(Data([Message(Value(text)).encode() for text in "abc"]))
        assert await client.send(await client.sender("plain"), batch, 0x80013700) == Accepted()
        deliveries = await client.receive(await client.receiver("plain"), 3)
        assert [body_of(delivery) for delivery in deliveries] == ["a", "b", "c"]


async def test_a_message_of_many_frames_goes_in_and_out() -> None:
    async with running() as rig, rig.client("plain", max_frame_size=4096) as client:
        text = "x" * 200_000
        await client.fill("plain", text)
        assert body_of(await one(client)) == text


@pytest.mark.parametrize(
    ("payload", "message_format", "condition"),
    [
        (b"\xff", 0, "amqp:decode-error"),
        (Message(Data([b"\xff"])).encode(), 0x80013700, "amqp:decode-error"),
        (Message(Value("no data")).encode(), 0x80013700, "com.microsoft:argument-error"),
    ],
)
async def test_what_is_no_message_is_rejected(payload: bytes, message_format: int, condition: str) -> None:
    async with running() as rig, rig.client("plain") as client:

        class Raw(Message):
            def encode(self) -> bytes:
                return payload

        outcome = await client.send(await client.sender("plain"), Raw(), message_format)
        assert isinstance(outcome, Rejected)
        assert outcome.error is not None
        assert outcome.error.condition == condition
        assert outcome.error.description
        assert outcome.error.info is not None


async def test_a_message_without_session_is_rejected_where_there_are_sessions() -> None:
    async with running() as rig, rig.client("orders") as client:
        outcome = await client.send(await client.sender("orders"), Message(Value("m")))
        assert isinstance(outcome, Rejected)
        assert outcome.error is not None
        assert outcome.error.condition == "amqp:not-allowed"


async def test_a_message_that_is_too_large_costs_the_link() -> None:
    options = BrokerOptions(max_message_size=1024)
    async with running(options=options) as rig, rig.client("plain") as client:
        link = await client.sender("plain")
        assert link.remote is not None
        assert link.max_message_size == 1024
        link.remote.max_message_size = None
        link.send(Message(Value("x" * 2000)).encode())
        client.transport.flush()
        error = await client.detached(link)
        assert error is not None
        assert error.condition == "amqp:link:message-size-exceeded"


@pytest.mark.parametrize("path", ["plain/$deadletterqueue", "news/Subscriptions/sub"])
async def test_messages_are_sent_to_queues_and_topics_only(path: str) -> None:
    async with running(PLAIN, QueueSpec("news/Subscriptions/sub")) as rig, rig.client("") as client:
        link = client.session.attach_sender("s", source=None, target=Attach("x", 0, False).target)
        link.detach()
        with pytest.raises(AssertionError, match="not-allowed"):
            await client.sender(path)


async def test_topics_hand_out_copies() -> None:
    specs = [QueueSpec(f"news/Subscriptions/{name}") for name in "ab"]
    async with running(*specs) as rig, rig.client("news") as client:
        await client.fill("news", "m")
        for name in "ab":
            delivery = await one(client, f"NEWS/subscriptions/{name}")
            assert body_of(delivery) == "m"
            assert await client.settle(delivery, Accepted()) == Accepted()


@pytest.mark.parametrize(
    ("state", "confirmed", "left"),
    [
        pytest.param(Accepted(), Accepted(), None, id="complete"),
        pytest.param(Released(), Released(), 0, id="release"),
        pytest.param(Modified(delivery_failed=True), Modified(delivery_failed=True), 1, id="abandon"),
        pytest.param(Modified(), Modified(), 1, id="abandon without saying that it failed"),
    ],
)
async def test_an_outcome_is_confirmed_with_itself(state: object, confirmed: object, left: int | None) -> None:
    async with running() as rig, rig.client("plain") as client:
        await client.fill("plain", "m")
        assert await client.settle(await one(client), state) == confirmed
        again = [stored.delivery_count for stored in queue(rig).peek(1, 10)]
        assert again == ([] if left is None else [left])


async def test_a_settlement_that_is_settled_already_is_carried_out_too() -> None:
    async with running() as rig, rig.client("plain") as client:
        await client.fill("plain", "m")
        delivery = await one(client)
        delivery.link.settle(delivery, Accepted())  # type: ignore[call-arg]
        client.transport.flush()
        await rig.until(lambda: queue(rig).size == 0)


async def test_a_rejected_message_is_dead_lettered_with_the_reason_from_the_error() -> None:
    async with running() as rig, rig.client("plain") as client:
        await client.fill("plain", "m")
        info = {"DeadLetterReason": "bad", "DeadLetterErrorDescription": "very bad", "more": 1}
        error = AmqpError("com.microsoft:dead-letter", "said twice", info)
        assert await client.settle(await one(client), Rejected(error)) == Rejected()
        dead = Message.decode((await one(client, DLQ)).payload)
        assert dead.application_properties == info


async def test_an_abandoned_message_comes_back_changed() -> None:
    async with running() as rig, rig.client("plain") as client:
        await client.fill("plain", "m")
        state = Modified(message_annotations={Symbol("tries"): 7})
        assert await client.settle(await one(client), state) == state
        again = Message.decode((await one(client)).payload)
        assert again.application_properties == {"tries": 7}
        assert again.header is not None
        assert again.header.delivery_count == 1


async def test_a_message_that_fails_too_often_is_dead_lettered() -> None:
    async with running(QueueSpec("plain", max_delivery_count=2)) as rig, rig.client("plain") as client:
        await client.fill("plain", "m")
        link = await client.receiver("plain")
        for _ in range(2):
            (delivery,) = await client.receive(link, 1)
            await client.settle(delivery, Modified(delivery_failed=True))
        dead = Message.decode((await one(client, DLQ)).payload)
        assert dead.application_properties["DeadLetterReason"] == "MaxDeliveryCountExceeded"


async def test_a_deferred_message_is_received_by_its_number() -> None:
    async with running() as rig, rig.client("plain") as client:
        await client.fill("plain", "m")
        state = Modified(delivery_failed=True, undeliverable_here=True)
        assert await client.settle(await one(client), state) == state
        body = {"sequence-numbers": AmqpArray([1], int), "receiver-settle-mode": Uint(1)}
        answer = await client.manage("plain", "receive-by-sequence-number", body)
        assert answer.status == 200
        (item,) = answer.body["messages"]
        assert Message.decode(item["message"]).body == Value("m")
        again = await client.manage("plain", "receive-by-sequence-number", body)
        assert (again.status, again.condition) == (404, "com.microsoft:message-not-found")
        body = {"disposition-status": "completed", "lock-tokens": AmqpArray([item["lock-token"]], UUID)}
        assert (await client.manage("plain", "update-disposition", body)).status == 200
        assert queue(rig).size == 0


async def test_a_lock_is_renewed_and_its_message_settled_over_any_connection() -> None:
    async with running() as rig, rig.client("plain") as anna, rig.client("plain") as boris:
        await anna.fill("plain", "a", "b")
        deliveries = await anna.receive(await anna.receiver("plain"), 2)
        tokens = AmqpArray([token_of(delivery) for delivery in deliveries], UUID)
        await anna.transport.aclose()
        renewed = await boris.manage("plain", "renew-lock", {"lock-tokens": tokens})
        assert renewed.status == 200
        assert len(renewed.body["expirations"]) == 2
        assert renewed.body["expirations"].type is Timestamp
        assert rig.broker.counters.message_renewals == 2
        body = {"disposition-status": "completed", "lock-tokens": tokens}
        assert (await boris.manage("plain", "update-disposition", body)).status == 200
        late = await boris.manage("plain", "renew-lock", {"lock-tokens": tokens})
        assert (late.status, late.condition) == (410, LOST)
        assert queue(rig).size == 0


@pytest.mark.parametrize("status", ["abandoned", "defered", "suspended"])  # codespell:ignore
async def test_management_settles_in_every_way(status: str) -> None:
    async with running() as rig, rig.client("plain") as client:
        await client.fill("plain", "m")
        token = token_of(await one(client))
        body = {
            "disposition-status": status,
            "lock-tokens": AmqpArray([token], UUID),
            "deadletter-reason": "r",
            "deadletter-description": "d",
            "properties-to-modify": {"p": 1},
        }
        assert (await client.manage("plain", "update-disposition", body)).status == 200
        peeked = await client.manage(
            DLQ if status == "suspended" else "plain",
            "peek-message",
            {"from-sequence-number": 1, "message-count": 5},
        )
        (item,) = peeked.body["messages"]
        message = Message.decode(item["message"])
        assert message.application_properties["p"] == 1
        assert ("DeadLetterReason" in message.application_properties) == (status == "suspended")
        assert message.message_annotations["x-opt-message-state"] == (
            1 if status == "defered" else 0
        )  # codespell:ignore


async def test_a_message_whose_lock_ran_out_is_given_to_the_next_and_cannot_be_settled_by_the_first() -> None:
    async with running(lock_duration_s=0.1) as rig, rig.client("plain") as client:
        await client.fill("plain", "m")
        link = await client.receiver("plain")
        first, second = await client.receive(link, 2)
        assert Message.decode(second.payload).header == Header(delivery_count=1)
        outcome = await client.settle(first, Accepted())
        assert isinstance(outcome, Rejected)
        assert outcome.error is not None
        assert outcome.error.condition == LOST
        assert rig.broker.counters.message_locks_expired >= 1


async def test_a_closed_link_leaves_its_messages_locked_where_there_are_no_sessions() -> None:
    async with running() as rig, rig.client("plain") as client:
        await client.fill("plain", "m")
        delivery = await one(client)
        await client.detach(delivery.link)
        assert queue(rig).locked == 1


async def test_receive_and_delete() -> None:
    async with running() as rig, rig.client("plain") as client:
        await client.fill("plain", "a", "b")
        link = await client.receiver("plain", snd_settle_mode=1, rcv_settle_mode=0)
        deliveries = await client.receive(link, 2)
        assert [(body_of(d), d.settled) for d in deliveries] == [("a", True), ("b", True)]
        assert queue(rig).size == 0


async def test_receivers_share_what_comes_in_and_none_gets_more_than_it_asked_for() -> None:
    async with running() as rig, rig.client("plain") as client:
        links = [await client.receiver("plain") for _ in range(2)]
        for link in links:
            link.flow(2)
        client.transport.flush()
        await client.fill("plain", *"abcde")
        bodies = [body_of(d) for link in links for d in await client.deliveries(link, 2)]
        assert sorted(map(str, bodies)) == ["a", "b", "c", "d"]
        assert queue(rig).locked == 4


async def test_peeking_without_messages_is_no_error() -> None:
    async with running() as rig, rig.client("plain") as client:
        answer = await client.manage("plain", "peek-message", {"from-sequence-number": 1, "message-count": 1})
        assert (answer.status, answer.condition) == (204, "com.microsoft:message-not-found")


async def test_messages_are_scheduled_and_cancelled() -> None:
    async with running() as rig, rig.client("plain") as client:
        due_ms = rig.broker.utc_ms() + 100
        encoded = [
            Message(Value(text), message_annotations={"x-opt-scheduled-enqueue-time": Timestamp(due_ms)}).encode()
            for text in "ab"
        ]
        messages = [{"message-id": str(number), "message": item} for number, item in enumerate(encoded)]
        answer = await client.manage("plain", "schedule-message", {"messages": messages})
        numbers = answer.body["sequence-numbers"]
        assert (len(numbers), numbers.type) == (2, int)
        cancel = {"sequence-numbers": AmqpArray([numbers[0]], int)}
        assert (await client.manage("plain", "cancel-scheduled-message", cancel)).status == 200
        assert (await client.manage("plain", "cancel-scheduled-message", cancel)).status == 404
        assert body_of(await one(client)) == "b"


async def test_sessions_are_listed_in_pages() -> None:
    async with running() as rig, rig.client("orders") as client:
        for name in "abc":
            await client.fill("orders", "m", session_id=name)
        everything = Timestamp(253_402_300_800_000)

        async def page(skip: int) -> object:
            body = {"last-updated-time": everything, "skip": Int(skip), "top": Int(2)}
            answer = await client.manage("orders", "get-message-sessions", body)
            return [*answer.body["sessions-ids"]] if answer.status == 200 else answer.condition

        assert await page(0) == ["a", "b"]
        assert await page(2) == ["c"]
        assert await page(4) == "com.microsoft:session-not-found"


@pytest.mark.parametrize(
    ("entity", "operation", "body", "status"),
    [
        ("plain", "no-such-operation", {}, 501),
        ("plain", "renew-lock", {}, 400),
        ("plain", "renew-lock", {"lock-tokens": AmqpArray([], UUID)}, 400),
        ("plain", "renew-lock", {"lock-tokens": ["text"]}, 400),
        ("plain", "update-disposition", {"disposition-status": "eaten"}, 400),
        ("plain", "peek-message", {"from-sequence-number": True, "message-count": 1}, 400),
        ("plain", "schedule-message", {"messages": [7]}, 400),
        ("plain", "schedule-message", {"messages": [{"message": b"\xff"}]}, 400),
        ("plain", "renew-session-lock", {"session-id": "s"}, 410),
        ("plain", "get-message-sessions", {"last-updated-time": 1}, 400),
        ("orders", "renew-session-lock", {"session-id": 7}, 400),
        ("orders", "renew-session-lock", {}, 400),
        ("orders", "set-session-state", {"session-id": "s", "session-state": b""}, 410),
        ("orders", "renew-lock", {"lock-tokens": AmqpArray([UUID(int=1)], UUID)}, 400),
    ],
)
async def test_requests_that_make_no_sense_are_answered_so(
    entity: str, operation: str, body: dict[str, object], status: int
) -> None:
    async with running() as rig, rig.client("") as client:
        answer = await client.manage(entity, operation, body)
        assert answer.status == status
        assert answer.condition
        assert answer.body is None


async def test_a_request_that_cannot_be_read_is_rejected_and_the_next_one_answered() -> None:
    async with running() as rig, rig.client("plain") as client:
        pair = await client.pair("plain/$management")

        class Raw(Message):
            def encode(self) -> bytes:
                return b"\xff\xff"

        assert isinstance(await client.send(pair.requests, Raw()), Rejected)
        assert await client.send(pair.requests, Message(Data([b"no map"]))) == Accepted()
        peek = request("peek-message", {"from-sequence-number": 1, "message-count": 1})
        assert (await pair.ask(peek)).application_properties["statusCode"] == 204


@pytest.mark.parametrize("message_id", [UUID(int=5), "text", b"bytes", 7])
async def test_an_answer_names_its_request_with_an_id_of_the_same_type(message_id: object) -> None:
    async with running() as rig, rig.client("plain") as client:
        pair = await client.pair("plain/$management")
        asked = request("peek-message", {"from-sequence-number": 1, "message-count": 1})
        asked.properties = MessageProperties(message_id=message_id)
        asked.application_properties["com.microsoft:tracking-id"] = "track"
        await client.send(pair.requests, asked)
        (delivery,) = await client.deliveries(pair.replies, 1)
        reply = Message.decode(delivery.payload)
        assert delivery.settled
        assert reply.properties is not None
        assert reply.properties.correlation_id == message_id
        assert isinstance(reply.properties.correlation_id, type(message_id))
        assert type(reply.application_properties["statusCode"]) is Int
        assert type(reply.application_properties["errorCondition"]) is Symbol
        assert reply.application_properties["com.microsoft:tracking-id"] == "track"


async def test_requests_never_run_out_of_credit() -> None:
    async with running() as rig, rig.client("plain") as client:
        pair = await client.pair("plain/$management")
        for _ in range(2500):
            last = pair.post(request("peek-message", {"from-sequence-number": 1, "message-count": 1}))
        await pair.reply(last)
        assert rig.broker.counters.replies_dropped == 0
