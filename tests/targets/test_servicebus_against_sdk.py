"""The target and the official SDK at the same broker: each keeps, reads and sees what the other did."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import MessageLockLostError

from renewer.core.model import LeaseId, LeaseSpec
from renewer.core.states import LeaseKind, LossReason
from renewer.errors import LeaseLostError
from renewer.targets.servicebus import NamespaceOptions, ServiceBusTarget
from renewer.targets.servicebus.credentials import SharedAccessKey
from tests.emulator.sdk_rig import SdkRig, sdk_rig
from tests.targets.scripted_broker import TestClock
from tests.targets.servicebus_rig import failing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from azure.servicebus import ServiceBusReceivedMessage
    from azure.servicebus.aio import ServiceBusReceiver

pytestmark = pytest.mark.anyio

LOCK_S = 4.0
WAIT_S = 10


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


@asynccontextmanager
async def target(rig: SdkRig) -> AsyncIterator[ServiceBusTarget]:
    options = NamespaceOptions(
        hostname="127.0.0.1",
        host="127.0.0.1",
        port=rig.port,
        credential=SharedAccessKey("local", "bG9jYWw="),
        tls=False,
        emulator=True,
        message_size_limit=1024 * 1024,
    )
    made = ServiceBusTarget(options, TestClock(), lambda loss: None, rng=random.Random(3))
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda task_status: made.run(task_status=task_status))
        yield made
        tasks.cancel_scope.cancel()


async def send(client: ServiceBusClient, queue: str, body: str) -> None:
    async with client.get_queue_sender(queue) as sender:
        await sender.send_messages(ServiceBusMessage(body))


async def receive_one(receiver: ServiceBusReceiver) -> ServiceBusReceivedMessage:
    (message,) = await receiver.receive_messages(1, max_wait_time=WAIT_S)
    return message


def lease(entity: str, message: ServiceBusReceivedMessage) -> LeaseSpec:
    return LeaseSpec(
        LeaseId("m"), "servicebus.main", entity, kind=LeaseKind.MESSAGE, lock_token=str(message.lock_token)
    )


async def keep_until(keeper: ServiceBusTarget, spec: LeaseSpec, until: datetime) -> None:
    """Hold the lock by its token until then, renewed at a third of its duration."""
    grant = await keeper.acquire(spec, 1)
    while datetime.now(UTC) < until:
        await anyio.sleep(grant.duration_s / 3)
        grant = await keeper.renew(spec, 1)
    await keeper.release(spec, 1)


async def test_a_message_lock_is_kept_by_its_token_alone_until_the_sdk_completes_the_message(
    rig: SdkRig, client: ServiceBusClient
) -> None:
    queue = rig.queue(lock_duration_s=LOCK_S)
    await send(client, queue, "long work")
    async with client.get_queue_receiver(queue) as receiver, target(rig) as keeper:
        message = await receive_one(receiver)
        assert message.locked_until_utc is not None
        await keep_until(keeper, lease(queue, message), message.locked_until_utc + timedelta(seconds=1))
        # The SDK goes by what it last heard itself and would not even ask; a renewal tells it that the lock still is.
        with pytest.raises(MessageLockLostError):
            await receiver.complete_message(message)
        await receiver.renew_message_lock(message)
        await receiver.complete_message(message)
        assert await receiver.peek_messages(1) == []
        assert message.delivery_count == 0


async def test_a_message_that_the_sdk_has_completed_has_no_lock_any_more(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue()
    await send(client, queue, "short work")
    async with client.get_queue_receiver(queue) as receiver, target(rig) as keeper:
        message = await receive_one(receiver)
        spec = lease(queue, message)
        grant = await keeper.acquire(spec, 1)
        assert 55 < grant.duration_s < 60.5
        await receiver.complete_message(message)
        error = await failing(keeper.renew(spec, 1), LeaseLostError)
        assert error.reason == LossReason.EXPIRED
        assert spec.lock_token is not None
        assert spec.lock_token not in str(error)
        await keeper.release(spec, 1)


async def test_message_locks_are_kept_in_subscriptions_and_dead_letter_queues(
    rig: SdkRig, client: ServiceBusClient
) -> None:
    subscription = rig.entity("topic-kept/Subscriptions/s")
    queue = rig.queue()
    async with client.get_topic_sender("topic-kept") as sender:
        await sender.send_messages(ServiceBusMessage("copy"))
    await send(client, queue, "dead")
    async with client.get_queue_receiver(queue) as receiver:
        await receiver.dead_letter_message(await receive_one(receiver))
    async with (
        client.get_subscription_receiver("topic-kept", "s") as copies,
        client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as dead,
        target(rig) as keeper,
    ):
        for entity, receiver in ((subscription, copies), (f"{queue}/$deadletterqueue", dead)):
            message = await receive_one(receiver)
            await keeper.acquire(lease(entity, message), 1)
            await keeper.renew(lease(entity, message), 1)
            await keeper.release(lease(entity, message), 1)
            await receiver.complete_message(message)


async def test_an_entity_with_sessions_renews_no_message_locks(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True)
    async with client.get_queue_sender(queue) as sender:
        await sender.send_messages(ServiceBusMessage("m", session_id="s"))
    async with client.get_queue_receiver(queue, session_id="s") as receiver, target(rig) as keeper:
        spec = lease(queue, await receive_one(receiver))
        assert (await failing(keeper.acquire(spec, 1), LeaseLostError)).reason == LossReason.REFUSED


async def test_state_that_one_sets_the_other_reads(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True)
    ours = LeaseSpec(LeaseId("s"), "servicebus.main", queue, session_id="s")
    async with target(rig) as keeper:
        for epoch, state in enumerate((b"\x00\xff", b"", b"x" * 300_000, None), start=1):
            await keeper.acquire(ours, epoch)
            await keeper.set_state(ours, epoch, state)
            assert await keeper.get_state(ours, epoch) == state
            await keeper.release(ours, epoch)
            async with client.get_queue_receiver(queue, session_id="s") as receiver:
                assert await receiver.session.get_state() == state
                await receiver.session.set_state(b"by the SDK %d" % epoch)
            await keeper.acquire(ours, epoch + 100)
            assert await keeper.get_state(ours, epoch + 100) == b"by the SDK %d" % epoch
            await keeper.release(ours, epoch + 100)
