"""A held session and the official SDK: what one sends, settles and puts aside, the other finds so."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio
import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.amqp import AmqpAnnotatedMessage, AmqpMessageHeader, AmqpMessageProperties
from azure.servicebus.exceptions import SessionCannotBeLockedError

from renewer.amqp import Byte, Float32, Int, Short, Symbol, Timestamp, Ubyte, Uint, Ulong, Ushort
from renewer.core.model import LeaseId, LeaseSpec
from renewer.errors import LeaseLostError
from renewer.messages import DataBody, SequenceBody, ValueBody
from renewer.ports import Settlement
from tests.emulator.sdk_rig import SdkRig, sdk_rig
from tests.targets.servicebus_rig import failing
from tests.targets.test_servicebus_against_sdk import target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from azure.servicebus import ServiceBusReceivedMessage
    from azure.servicebus.aio import ServiceBusReceiver

    from renewer.messages import ReceivedMessage

pytestmark = pytest.mark.anyio

WAIT_S = 10
COMPLETE = Settlement("complete")
UUID_1 = UUID(int=1)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def rig() -> Iterator[SdkRig]:
    with sdk_rig() as rig:
        yield rig


@pytest.fixture
async def client(rig: SdkRig) -> AsyncIterator[ServiceBusClient]:
    async with ServiceBusClient.from_connection_string(rig.connection_string, retry_total=0) as client:
        yield client


def lease(queue: str, session_id: str = "s") -> LeaseSpec:
    return LeaseSpec(LeaseId(session_id), "servicebus.main", queue, session_id=session_id)


async def send(client: ServiceBusClient, queue: str, *messages: Any) -> None:
    async with client.get_queue_sender(queue) as sender:
        for message in messages:
            ours = isinstance(message, str)
            await sender.send_messages(ServiceBusMessage(message, session_id="s") if ours else message)


async def receive(receiver: ServiceBusReceiver, number: int) -> list[ServiceBusReceivedMessage]:
    messages: list[ServiceBusReceivedMessage] = []
    while len(messages) < number:
        more = await receiver.receive_messages(number - len(messages), max_wait_time=WAIT_S)
        assert more, f"only {len(messages)} of {number}"
        messages += more
    return messages


def bodies(messages: Sequence[ReceivedMessage]) -> list[str]:
    texts = []
    for message in messages:
        assert isinstance(message.body, DataBody)
        texts.append(message.body.data.decode())
    return texts


# What the SDK sends -------------------------------------------------------------------------------------------------


async def test_every_kind_of_body_comes_as_the_sdk_sent_it(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True)
    ours = AmqpMessageProperties(group_id="s")
    await send(
        client,
        queue,
        ServiceBusMessage(b"\x00\xff", session_id="s"),
        ServiceBusMessage("text", session_id="s"),
        AmqpAnnotatedMessage(data_body=[b"one", b"two"], properties=ours),
        AmqpAnnotatedMessage(value_body={"k": [1, None, True, 1.5, "x"]}, properties=ours),
        AmqpAnnotatedMessage(value_body=None, properties=ours),
        AmqpAnnotatedMessage(sequence_body=[[1, "a"], [2.5]], properties=ours),
        ServiceBusMessage(b"x" * 500_000, session_id="s"),
    )
    async with target(rig) as keeper:
        await keeper.acquire(lease(queue), 1)
        messages = await keeper.receive(lease(queue), 1, count=10, wait_s=WAIT_S)
        assert [message.body for message in messages] == [
            DataBody((b"\x00\xff",)),
            DataBody((b"text",)),
            DataBody((b"one", b"two")),
            ValueBody({"k": [1, None, True, 1.5, "x"]}),
            None,  # The SDK sends no section for a value of null.
            SequenceBody(([1, "a"], [2.5])),
            DataBody((b"x" * 500_000,)),
        ]
        assert [message.sequence_number for message in messages] == [1, 2, 3, 4, 5, 6, 7]


async def test_every_type_of_property_comes_as_the_sdk_sent_it(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True)
    sent: dict[str, tuple[Any, type]] = {
        "UBYTE": (5, Ubyte),
        "BYTE": (-3, Byte),
        "USHORT": (300, Ushort),
        "SHORT": (-300, Short),
        "UINT": (70_000, Uint),
        "INT": (-70_000, Int),
        "ULONG": (2**63, Ulong),
        "LONG": (-(2**40), int),
        "FLOAT": (1.5, Float32),
        "DOUBLE": (2.5, float),
        "BOOL": (True, bool),
        "TIMESTAMP": (1_700_000_000_123, Timestamp),
        "UUID": (UUID_1, UUID),
        "BINARY": (b"\x00\xff", bytes),
        "STRING": ("täxt", str),
        "SYMBOL": ("sym", Symbol),
    }
    typed: dict[Any, Any] = {name: {"TYPE": name, "VALUE": value} for name, (value, _) in sent.items()}
    await send(client, queue, ServiceBusMessage("m", session_id="s", application_properties={**typed, "none": None}))
    async with target(rig) as keeper:
        await keeper.acquire(lease(queue), 1)
        (message,) = await keeper.receive(lease(queue), 1, count=1, wait_s=WAIT_S)
        got = dict(message.application_properties)
        assert got.pop("none") is None
        assert {name: (value, type(value)) for name, value in got.items()} == sent


async def test_what_else_the_sdk_says_of_a_message_is_there(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True)
    properties = AmqpMessageProperties(
        message_id="id",
        correlation_id="c",
        subject="sub",
        content_type="application/json",
        content_encoding="utf-8",
        to="to",
        reply_to="r",
        reply_to_group_id="rs",
        group_id="s",
    )
    header = AmqpMessageHeader(time_to_live=60_000)
    before = datetime.now(UTC).timestamp()
    await send(client, queue, AmqpAnnotatedMessage(data_body=b"{}", properties=properties, header=header))
    async with target(rig) as keeper:
        await keeper.acquire(lease(queue), 1)
        (got,) = await keeper.receive(lease(queue), 1, count=1, wait_s=WAIT_S)
        assert (got.message_id, got.correlation_id, got.subject, got.session_id) == ("id", "c", "sub", "s")
        assert (got.content_type, got.content_encoding) == ("application/json", "utf-8")
        assert (got.to, got.reply_to, got.reply_to_session_id, got.partition_key) == ("to", "r", "rs", "s")
        assert got.enqueued_at is not None
        assert before - 1 < got.enqueued_at < before + 60
        assert got.expires_at == got.enqueued_at + 60
        assert (got.delivery_count, got.state) == (0, "active")


# What the SDK finds -------------------------------------------------------------------------------------------------


async def test_what_is_settled_in_each_way_the_sdk_finds_so(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True)
    await send(client, queue, "complete", "abandon", "defer", "dead-letter")
    ours = lease(queue)
    async with target(rig) as keeper:
        await keeper.acquire(ours, 1)
        complete, abandon, defer, dead = await keeper.receive(ours, 1, count=4, wait_s=WAIT_S)
        await keeper.settle(ours, 1, COMPLETE, complete.handle)
        await keeper.settle(ours, 1, Settlement("abandon", {"n": Uint(5), "s": "x"}), abandon.handle)
        await keeper.settle(ours, 1, Settlement("defer", {"later": True}), defer.handle)
        letter = Settlement("dead-letter", {"p": 1.5}, reason="why", description="what")
        await keeper.settle(ours, 1, letter, dead.handle)
        await keeper.release(ours, 1)
    async with client.get_queue_receiver(queue, session_id="s") as receiver:
        (again,) = await receive(receiver, 1)
        assert (str(again), again.delivery_count) == ("abandon", 1)
        assert again.application_properties == {b"n": 5, b"s": b"x"}
        assert defer.sequence_number is not None
        (deferred,) = await receiver.receive_deferred_messages(defer.sequence_number)
        assert str(deferred) == "defer"
        assert deferred.application_properties == {b"later": True}
        await receiver.complete_message(again)
        await receiver.complete_message(deferred)
        assert await receiver.peek_messages(10, sequence_number=1) == []
    async with client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
        (letter_of_it,) = await receive(receiver, 1)
        assert str(letter_of_it) == "dead-letter"
        assert (letter_of_it.dead_letter_reason, letter_of_it.dead_letter_error_description) == ("why", "what")
        assert letter_of_it.application_properties is not None
        assert letter_of_it.application_properties[b"p"] == 1.5
        await receiver.complete_message(letter_of_it)


async def test_what_does_not_fit_into_a_frame_the_sdk_finds_too(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True)
    await send(client, queue, "m")
    ours = lease(queue)
    async with target(rig) as keeper:
        await keeper.acquire(ours, 1)
        (message,) = await keeper.receive(ours, 1, count=1, wait_s=WAIT_S)
        await keeper.settle(ours, 1, Settlement("abandon", {"schlüssel": "x" * 80_000}), message.handle)
        await keeper.release(ours, 1)
    async with client.get_queue_receiver(queue, session_id="s") as receiver:
        (again,) = await receive(receiver, 1)
        assert again.application_properties == {"schlüssel".encode(): b"x" * 80_000}
        assert again.delivery_count == 1


async def test_what_the_sdk_deferred_is_received_settled_and_gone(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True)
    await send(client, queue, "complete", "abandon", "dead-letter", "stays")
    async with client.get_queue_receiver(queue, session_id="s") as receiver:
        for message in await receive(receiver, 4):
            await receiver.defer_message(message)
    ours = lease(queue)
    async with target(rig) as keeper:
        await keeper.acquire(ours, 1)
        complete, abandon, dead = await keeper.receive_deferred(ours, 1, [1, 2, 3])
        assert bodies([complete, abandon, dead]) == ["complete", "abandon", "dead-letter"]
        assert complete.state == "deferred"
        await keeper.settle(ours, 1, COMPLETE, complete.handle)
        await keeper.settle(ours, 1, Settlement("abandon", {"tried": Int(1)}), abandon.handle)
        await keeper.settle(ours, 1, Settlement("dead-letter", reason="r"), dead.handle)
        assert keeper.in_flight(ours) == []
        await keeper.release(ours, 1)
    async with client.get_queue_receiver(queue, session_id="s") as receiver:
        (still,) = await receiver.receive_deferred_messages(2)
        assert (str(still), still.application_properties) == ("abandon", {b"tried": 1})
        assert [m.sequence_number for m in await receiver.peek_messages(10, sequence_number=1)] == [2, 4]
    async with client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
        (letter,) = await receive(receiver, 1)
        assert (str(letter), letter.dead_letter_reason) == ("dead-letter", "r")


async def test_both_see_the_same_when_they_peek(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True)
    await send(client, queue, *(f"m{n}" for n in range(1, 6)), ServiceBusMessage("x", session_id="another"))
    ours = lease(queue)
    async with target(rig) as keeper:
        await keeper.acquire(ours, 1)
        (first,) = await keeper.receive(ours, 1, count=1, wait_s=WAIT_S)
        await keeper.settle(ours, 1, Settlement("defer"), first.handle)
        mine = await keeper.peek(ours, 1, count=10)
        rest = await keeper.peek(ours, 1, count=2, from_sequence_number=3)
        assert keeper.in_flight(ours) == []
        await keeper.release(ours, 1)
    assert [message.state for message in mine] == ["deferred", *["active"] * 4]
    assert bodies(rest) == ["m3", "m4"]
    assert {message.handle for message in [*mine, *rest]} == {None}
    async with client.get_queue_receiver(queue, session_id="s") as receiver:
        theirs = await receiver.peek_messages(10, sequence_number=1)
    assert [(m.sequence_number, str(m)) for m in theirs] == [
        (message.sequence_number, body) for message, body in zip(mine, bodies(mine), strict=True)
    ]


# Whose session it is ------------------------------------------------------------------------------------------------


async def test_the_sdk_is_refused_while_we_hold_the_session_and_has_its_messages_after(
    rig: SdkRig, client: ServiceBusClient
) -> None:
    queue = rig.queue(sessions=True)
    await send(client, queue, "a", "b", "c")
    ours = lease(queue)
    async with target(rig) as keeper:
        await keeper.acquire(ours, 1)
        first, _ = await keeper.receive(ours, 1, count=2, wait_s=WAIT_S)
        with pytest.raises(SessionCannotBeLockedError):
            async with client.get_queue_receiver(queue, session_id="s"):
                pass
        await keeper.settle(ours, 1, COMPLETE, first.handle)
        await keeper.release(ours, 1)
        async with client.get_queue_receiver(queue, session_id="s") as receiver:
            # What was in flight when it was released comes as if nothing had happened, and in its place.
            again = await receive(receiver, 2)
            assert [(str(message), message.delivery_count) for message in again] == [("b", 0), ("c", 0)]


async def test_what_was_in_flight_when_the_session_was_lost_the_sdk_receives_once_more(
    rig: SdkRig, client: ServiceBusClient
) -> None:
    queue = rig.queue(sessions=True)
    await send(client, queue, "a")
    ours = lease(queue)
    async with target(rig) as keeper:
        await keeper.acquire(ours, 1)
        (message,) = await keeper.receive(ours, 1, count=1, wait_s=WAIT_S)

        async def wait() -> None:
            await failing(keeper.receive(ours, 1, count=1, wait_s=60), LeaseLostError)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert rig.expire(queue, "s")
        error = await failing(keeper.settle(ours, 1, COMPLETE, message.handle), LeaseLostError)
        assert "delivered again" in str(error)
        assert [lost.is_lost for lost in keeper.in_flight(ours)] == [True]
        async with client.get_queue_receiver(queue, session_id="s") as receiver:
            (again,) = await receive(receiver, 1)
            assert (str(again), again.delivery_count) == ("a", 1)


async def test_a_receive_that_waits_gets_what_the_sdk_sends_then(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True)
    ours = lease(queue)
    got: list[str] = []
    async with target(rig) as keeper:
        await keeper.acquire(ours, 1)

        async def wait() -> None:
            while len(got) < 20:
                messages = await keeper.receive(ours, 1, count=10, wait_s=WAIT_S)
                got.extend(bodies(messages))
                for message in messages:
                    await keeper.settle(ours, 1, COMPLETE, message.handle)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await send(client, queue, *(f"m{n}" for n in range(20)))
        assert got == [f"m{n}" for n in range(20)]
        assert await keeper.peek(ours, 1, count=1) == []


async def test_sessions_of_subscriptions_are_used_like_those_of_queues(rig: SdkRig, client: ServiceBusClient) -> None:
    subscription = rig.entity("topic-used/Subscriptions/s", sessions=True)
    ours = lease(subscription)
    async with client.get_topic_sender("topic-used") as sender:
        for body in ("complete", "defer", "dead-letter"):
            await sender.send_messages(ServiceBusMessage(body, session_id="s"))
    async with target(rig) as keeper:
        await keeper.acquire(ours, 1)
        complete, defer, dead = await keeper.receive(ours, 1, count=3, wait_s=WAIT_S)
        await keeper.settle(ours, 1, COMPLETE, complete.handle)
        await keeper.settle(ours, 1, Settlement("defer"), defer.handle)
        await keeper.settle(ours, 1, Settlement("dead-letter", reason="r"), dead.handle)
        assert defer.sequence_number is not None
        (deferred,) = await keeper.receive_deferred(ours, 1, [defer.sequence_number])
        await keeper.settle(ours, 1, COMPLETE, deferred.handle)
        assert await keeper.peek(ours, 1, count=1) == []
    async with client.get_subscription_receiver(
        "topic-used", "s", sub_queue=ServiceBusSubQueue.DEAD_LETTER
    ) as receiver:
        (letter,) = await receive(receiver, 1)
        assert (str(letter), letter.dead_letter_reason) == ("dead-letter", "r")
        await receiver.complete_message(letter)
