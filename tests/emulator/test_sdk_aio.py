"""The official SDK, in its asyncio form, against the broker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusMessage, ServiceBusReceivedMessage, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver
from azure.servicebus.exceptions import (
    MessageLockLostError,
    OperationTimeoutError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from tests.emulator.sdk_rig import SdkRig, sdk_rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.anyio

WAIT_S = 5


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


async def send(client: ServiceBusClient, queue: str, *bodies: str, session_id: str | None = None) -> None:
    async with client.get_queue_sender(queue) as sender:
        await sender.send_messages([ServiceBusMessage(body, session_id=session_id) for body in bodies])


async def receive(receiver: ServiceBusReceiver, number: int) -> list[ServiceBusReceivedMessage]:
    messages: list[ServiceBusReceivedMessage] = []
    while len(messages) < number:
        more = await receiver.receive_messages(number - len(messages), max_wait_time=WAIT_S)
        assert more, f"only {len(messages)} of {number}"
        messages += more
    return messages


async def test_a_session_from_accept_to_release(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True)
    await send(client, queue, "complete", "abandon", "defer", "dead-letter", session_id="s")
    async with client.get_queue_receiver(queue, session_id="s") as receiver:
        session = receiver.session
        assert session.session_id == "s"
        assert session.locked_until_utc > datetime.now(UTC) + timedelta(seconds=50)
        assert await session.renew_lock() > datetime.now(UTC) + timedelta(seconds=50)
        assert await session.get_state() is None
        for state, kept in ((b"\x00\xff", b"\x00\xff"), ("text", b"text"), ("", b""), (None, None)):
            await session.set_state(state)
            assert await session.get_state() == kept
        complete, abandon, defer, dead_letter = await receive(receiver, 4)
        await receiver.complete_message(complete)
        await receiver.abandon_message(abandon)
        await receiver.defer_message(defer)
        await receiver.dead_letter_message(dead_letter, reason="reason", error_description="description")
        assert defer.sequence_number is not None
        (deferred,) = await receiver.receive_deferred_messages(defer.sequence_number)
        await receiver.complete_message(deferred)
        (again,) = await receive(receiver, 1)
        assert (str(again), again.delivery_count) == ("abandon", 1)
        await receiver.complete_message(again)
        assert await receiver.peek_messages(10, sequence_number=1) == []
    async with client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
        (dead,) = await receive(receiver, 1)
        assert (dead.dead_letter_reason, dead.dead_letter_error_description) == ("reason", "description")
        await receiver.complete_message(dead)


async def test_the_next_session_and_the_list_of_sessions(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True)
    await send(client, queue, "m", session_id="full")
    async with client.get_queue_receiver(queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=WAIT_S) as receiver:
        assert receiver.session.session_id == "full"
        next_one = client.get_queue_receiver(queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=0.2)
        with pytest.raises(OperationTimeoutError):
            await next_one.__aenter__()
    assert [session_id async for session_id in client.list_queue_sessions(queue)] == ["full"]


async def test_a_receiver_that_waits_gets_the_session_that_comes_up(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True)
    seen: list[str] = []

    async def wait_for_next() -> None:
        async with client.get_queue_receiver(queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=30) as receiver:
            seen.append(receiver.session.session_id)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_next)
            await send(client, queue, "m", session_id="late")
    assert seen == ["late"]


async def test_a_second_holder_is_refused(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True)
    async with client.get_queue_receiver(queue, session_id="s"):
        with pytest.raises(SessionCannotBeLockedError):
            await client.get_queue_receiver(queue, session_id="s").__aenter__()


async def test_a_lock_that_nobody_renews_is_lost(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True, lock_duration_s=1.0)
    before = rig.expired()
    async with client.get_queue_receiver(queue, session_id="s") as receiver:

        async def wait_and_renew() -> None:
            while rig.expired() == before:
                await receiver.receive_messages(max_wait_time=0.1)
            await receiver.session.renew_lock()

        # The SDK tells it as soon as it hears of it, which may be in the midst of a wait for messages.
        with anyio.fail_after(10), pytest.raises(SessionLockLostError):
            await wait_and_renew()
        assert rig.expired() > before
        with pytest.raises(SessionLockLostError):
            await receiver.session.renew_lock()


async def test_a_lock_that_is_taken_away_is_lost_though_the_client_believes_in_it(
    rig: SdkRig, client: ServiceBusClient
) -> None:
    queue = rig.queue(sessions=True)
    async with client.get_queue_receiver(queue, session_id="s") as receiver:
        assert rig.expire(queue, "s")
        with pytest.raises(SessionLockLostError):
            await receiver.session.set_state("too late")


async def test_a_plain_queue(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue()
    async with client.get_queue_sender(queue) as sender:
        batch = await sender.create_message_batch()
        for body in ("a", "b"):
            batch.add_message(ServiceBusMessage(body))
        await sender.send_messages(batch)
        numbers = await sender.schedule_messages(ServiceBusMessage("c"), datetime.now(UTC) + timedelta(hours=1))
        await sender.cancel_scheduled_messages(numbers)
    async with client.get_queue_receiver(queue) as receiver:
        first, second = await receive(receiver, 2)
        assert await receiver.renew_message_lock(first) > datetime.now(UTC)
        await receiver.complete_message(second)
        rig.expire_messages(queue)
        (again,) = await receive(receiver, 1)
        assert (str(again), again.delivery_count) == ("a", 1)
        with pytest.raises(MessageLockLostError):
            await receiver.complete_message(first)
        await receiver.complete_message(again)
