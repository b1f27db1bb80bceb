"""Messages settled by their lock tokens, with the official SDK on the other side: each sees what the other did."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import MessageLockLostError

from renewer.amqp import Symbol, Timestamp, Uint
from renewer.core.states import LossReason, MessageFate
from renewer.errors import ConflictError, LeaseLostError, MessageSettledError, UsageError
from renewer.ports import Settlement
from tests.emulator.sdk_rig import SdkRig, sdk_rig
from tests.targets.servicebus_rig import failing
from tests.targets.test_servicebus_against_sdk import lease, receive_one, send, target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from azure.servicebus import ServiceBusReceivedMessage
    from azure.servicebus.aio import ServiceBusReceiver

    from renewer.core.model import LeaseSpec
    from renewer.targets.servicebus import ServiceBusTarget

pytestmark = pytest.mark.anyio

COMPLETE = Settlement("complete")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def rig() -> Iterator[SdkRig]:
    with sdk_rig() as rig:
        yield rig


class Scene:
    """A message that the SDK received and whose lock we keep."""

    def __init__(
        self, client: ServiceBusClient, queue: str, receiver: ServiceBusReceiver, keeper: ServiceBusTarget
    ) -> None:
        self.client = client
        self.queue = queue
        self.receiver = receiver
        self.keeper = keeper
        self.message: ServiceBusReceivedMessage
        self.spec: LeaseSpec

    async def receive(self) -> ServiceBusReceivedMessage:
        self.message = await receive_one(self.receiver)
        spec = lease(self.queue, self.message)
        self.spec = replace(spec, sequence_number=self.message.sequence_number)
        return self.message

    async def settle(self, settlement: Settlement) -> None:
        await self.keeper.settle(self.spec, 1, settlement)


@asynccontextmanager
async def scene(rig: SdkRig, *, max_delivery_count: int = 10) -> AsyncIterator[Scene]:
    queue = rig.queue(max_delivery_count=max_delivery_count)
    async with (
        ServiceBusClient.from_connection_string(rig.connection_string, retry_total=0) as client,
        client.get_queue_receiver(queue) as receiver,
        target(rig) as keeper,
    ):
        await send(client, queue, "work")
        made = Scene(client, queue, receiver, keeper)
        await made.receive()
        await keeper.acquire(made.spec, 1)
        yield made


# What we settle -----------------------------------------------------------------------------------------------------


async def test_a_message_that_we_complete_is_gone_for_the_sdk(rig: SdkRig) -> None:
    async with scene(rig) as s:
        await s.settle(COMPLETE)
        assert await s.receiver.peek_messages(1) == []
        with pytest.raises(MessageLockLostError):
            await s.receiver.renew_message_lock(s.message)


async def test_a_message_that_we_abandon_is_delivered_to_the_sdk_again_as_we_changed_it(rig: SdkRig) -> None:
    async with scene(rig) as s:
        moment = Timestamp(1_767_225_600_000)
        changes = {
            "why": "not now",
            "tries": 3,
            "share": 0.5,
            "odd": True,
            "none": None,
            "size": Uint(7),
            "name": Symbol("s"),
            "raw": b"\x00\xff",
            "id": UUID(int=5),
            "at": moment,
        }
        await s.settle(Settlement("abandon", changes))
        again = await s.receive()
        assert again.delivery_count == 1
        assert again.application_properties == {
            b"why": b"not now",
            b"tries": 3,
            b"share": 0.5,
            b"odd": True,
            b"none": None,
            b"size": 7,
            b"name": b"s",
            b"raw": b"\x00\xff",
            b"id": UUID(int=5),
            b"at": moment,
        }


async def test_a_message_that_we_defer_is_there_for_the_sdk_by_its_number(rig: SdkRig) -> None:
    async with scene(rig) as s:
        await s.settle(Settlement("defer", {"step": "two"}))
        number = s.message.sequence_number
        assert number is not None
        (deferred,) = await s.receiver.receive_deferred_messages([number])
        assert str(deferred) == "work"
        assert deferred.application_properties == {b"step": b"two"}
        await s.receiver.complete_message(deferred)


async def test_a_message_that_we_dead_letter_is_in_the_dead_letter_queue_with_our_reason(rig: SdkRig) -> None:
    async with scene(rig) as s:
        await s.settle(Settlement("dead-letter", {"by": "renewer"}, "poison", "it breaks the worker"))
        dead = s.client.get_queue_receiver(s.queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER)
        async with dead:
            message = await receive_one(dead)
            assert (message.dead_letter_reason, message.dead_letter_error_description) == (
                "poison",
                "it breaks the worker",
            )
            assert message.application_properties is not None
            assert message.application_properties[b"by"] == b"renewer"
            await dead.complete_message(message)


async def test_a_message_is_settled_by_its_token_after_a_restart_too(rig: SdkRig) -> None:
    async with scene(rig) as s, target(rig) as other:
        await other.settle(s.spec, 1, COMPLETE)
        assert await s.receiver.peek_messages(1) == []


async def test_messages_of_subscriptions_and_dead_letter_queues_are_settled(rig: SdkRig) -> None:
    subscription = rig.entity("topic-settled/Subscriptions/s")
    queue = rig.queue()
    async with (
        ServiceBusClient.from_connection_string(rig.connection_string, retry_total=0) as client,
        client.get_topic_sender("topic-settled") as sender,
        client.get_subscription_receiver("topic-settled", "s") as copies,
        client.get_queue_receiver(queue) as receiver,
        client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as dead,
        target(rig) as keeper,
    ):
        await sender.send_messages(ServiceBusMessage("copy"))
        await send(client, queue, "dead")
        await receiver.dead_letter_message(await receive_one(receiver))
        for entity, source in ((subscription, copies), (f"{queue}/$deadletterqueue", dead)):
            spec = lease(entity, await receive_one(source))
            await keeper.acquire(spec, 1)
            await keeper.settle(spec, 1, COMPLETE)
            assert await source.peek_messages(1) == []


async def test_what_cannot_be_done_there_is_a_conflict_and_the_lock_is_kept_on(rig: SdkRig) -> None:
    queue = rig.queue()
    async with (
        ServiceBusClient.from_connection_string(rig.connection_string, retry_total=0) as client,
        client.get_queue_receiver(queue) as receiver,
        client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as dead,
        target(rig) as keeper,
    ):
        await send(client, queue, "dead")
        await receiver.dead_letter_message(await receive_one(receiver))
        spec = lease(f"{queue}/$deadletterqueue", await receive_one(dead))
        await keeper.acquire(spec, 1)
        error = await failing(keeper.settle(spec, 1, Settlement("dead-letter")), ConflictError)
        assert "cannot be dead-lettered here" in str(error)
        await keeper.renew(spec, 1)
        await keeper.settle(spec, 1, COMPLETE)


async def test_what_no_message_can_be_asked_for_is_refused_before_anything_is_sent(rig: SdkRig) -> None:
    async with scene(rig) as s:
        for settlement in (
            Settlement("complete", {"a": 1}),
            Settlement("abandon", reason="why"),
            Settlement("abandon", {"a": [1]}),
            Settlement("abandon", {"a": object()}),
            Settlement("abandon", {"a": 2**64}),
            Settlement("dead-letter", reason="x" * 5000),
        ):
            await failing(s.settle(settlement), UsageError)
        await s.keeper.renew(s.spec, 1)


async def test_a_message_lock_has_no_other_messages_to_settle(rig: SdkRig) -> None:
    async with scene(rig) as s:
        await failing(s.keeper.settle(s.spec, 1, COMPLETE, "some handle"), ConflictError)


# What the SDK settles, and what time does ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["complete", "dead_letter", "defer"])
async def test_a_message_that_the_sdk_settled_is_not_taken_for_a_lost_lock(rig: SdkRig, how: str) -> None:
    async with scene(rig) as s:
        await getattr(s.receiver, f"{how}_message")(s.message)
        error = await failing(s.keeper.renew(s.spec, 1), MessageSettledError)
        assert error.fate == MessageFate.ELSEWHERE
        # And nothing of it is kept: the next one asks anew, and learns the same where time tells nothing.
        if how != "defer":
            await failing(s.keeper.renew(s.spec, 1), MessageSettledError)


async def test_a_message_that_the_sdk_abandoned_is_lost_for_it_is_delivered_again(rig: SdkRig) -> None:
    async with scene(rig) as s:
        await s.receiver.abandon_message(s.message)
        error = await failing(s.keeper.renew(s.spec, 1), LeaseLostError)
        assert error.reason == LossReason.EXPIRED
        assert "still there" in str(error)


async def test_without_a_sequence_number_a_settled_message_counts_as_lost_and_says_what_may_be(rig: SdkRig) -> None:
    async with scene(rig) as s:
        await s.receiver.complete_message(s.message)
        error = await failing(s.keeper.renew(replace(s.spec, sequence_number=None), 1), MessageSettledError)
        # The target goes by what it was told when the lease began.
        assert error.fate == MessageFate.ELSEWHERE
        error = await failing(s.keeper.renew(replace(s.spec, sequence_number=None), 1), LeaseLostError)
        assert "may have settled it: with its sequence_number that could be told" in str(error)


async def test_a_lock_that_expired_is_lost_and_its_message_still_there(rig: SdkRig) -> None:
    async with scene(rig) as s:
        rig.expire_messages(s.queue)
        error = await failing(s.keeper.renew(s.spec, 1), LeaseLostError)
        assert "still there" in str(error)
        assert s.spec.lock_token is not None
        assert s.spec.lock_token not in str(error)


async def test_settling_what_the_sdk_has_settled_is_told_apart_from_settling_what_is_lost(rig: SdkRig) -> None:
    async with scene(rig) as s:
        await s.receiver.complete_message(s.message)
        error = await failing(s.settle(COMPLETE), MessageSettledError)
        assert "settled" in str(error)
    async with scene(rig) as s:
        await s.receiver.abandon_message(s.message)
        await failing(s.settle(COMPLETE), LeaseLostError)


async def test_a_message_that_we_settled_cannot_be_settled_again(rig: SdkRig) -> None:
    async with scene(rig) as s:
        await s.settle(COMPLETE)
        await failing(s.settle(COMPLETE), MessageSettledError)
