"""Holders of sessions and messages by the official SDK's AutoLockRenewer, each in a thread of its own.

It renews as often as what was left of the lock when it was told of it would need. So they renew first, that it be all:
on a machine that has much else to do most of it has passed before.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
from azure.servicebus import AutoLockRenewer, ServiceBusClient, ServiceBusMessage, aio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.emulator.sdk_rig import SdkRig

LOCK_S = 8.0
HOLD_S = 12.0
PATIENCE_S = HOLD_S + 30

HOLDERS = ("aio session", "aio message", "blocking session")


@contextmanager
def holding(rig: SdkRig) -> Iterator[dict[str, Future[None]]]:
    """All hold at the same time: what takes real time takes it once."""
    sessions, plain = rig.queue(sessions=True, lock_duration_s=LOCK_S), rig.queue(lock_duration_s=LOCK_S)
    work: dict[str, Callable[[], None]] = {
        "aio session": lambda: anyio.run(hold_session_aio, rig, sessions),
        "aio message": lambda: anyio.run(hold_message_aio, rig, plain),
        "blocking session": lambda: hold_session(rig, sessions),
    }
    with ThreadPoolExecutor(len(work)) as threads:
        yield {name: threads.submit(hold) for name, hold in work.items()}


async def hold_session_aio(rig: SdkRig, queue: str) -> None:
    async with (
        aio.ServiceBusClient.from_connection_string(rig.connection_string, retry_total=0) as client,
        client.get_queue_receiver(queue, session_id="aio") as receiver,
    ):
        async with aio.AutoLockRenewer() as renewer:
            await receiver.session.renew_lock()
            renewer.register(receiver, receiver.session, max_lock_renewal_duration=60)
            await anyio.sleep(HOLD_S)
            assert receiver.session.auto_renew_error is None
        await receiver.session.set_state("held")


async def hold_message_aio(rig: SdkRig, queue: str) -> None:
    async with aio.ServiceBusClient.from_connection_string(rig.connection_string, retry_total=0) as client:
        async with client.get_queue_sender(queue) as sender:
            await sender.send_messages(ServiceBusMessage("m"))
        async with client.get_queue_receiver(queue) as receiver, aio.AutoLockRenewer() as renewer:
            (message,) = await receiver.receive_messages(max_wait_time=10)
            await receiver.renew_message_lock(message)
            renewer.register(receiver, message, max_lock_renewal_duration=60)
            await anyio.sleep(HOLD_S)
            await receiver.complete_message(message)


def hold_session(rig: SdkRig, queue: str) -> None:
    with (
        ServiceBusClient.from_connection_string(rig.connection_string, retry_total=0) as client,
        client.get_queue_receiver(queue, session_id="blocking") as receiver,
        AutoLockRenewer() as renewer,
    ):
        receiver.session.renew_lock()
        renewer.register(receiver, receiver.session, max_lock_renewal_duration=60)
        # With pauses: the SDK's thread that renews waits for the one that receives, on a busy machine beyond the lock.
        for _ in range(round(HOLD_S / 2)):
            assert receiver.receive_messages(max_wait_time=1) == []
            time.sleep(1)
        assert receiver.session.auto_renew_error is None
        receiver.session.set_state("held")
