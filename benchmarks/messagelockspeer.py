"""`python -m benchmarks.messagelockspeer PORT COUNT renew|hand-over`: the official SDK with messages under peek-lock.

One client, one receiver. With `renew` each message is registered with an AutoLockRenewer; with `hand-over` their lock
tokens are printed, and nothing is renewed. It says, as lines of JSON, what it takes before the first message is
received, and how it stands when it has the last; then it keeps them until it is killed. At SIGUSR1 it renews all of
them one by one, in a loop, with nothing around that, and says what that cost.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, cast

from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.aio import AutoLockRenewer, ServiceBusClient

from benchmarks.processes import rss_mib
from benchmarks.scene import LOCAL

if TYPE_CHECKING:
    from azure.servicebus.aio import ServiceBusReceiver


QUEUE = "orders"

_FOR_EVER_S = 86_400.0


class OneAtATime:
    """A receiver over which no two renewals overlap.

    Two that do are sent with one delivery-id (azure-servicebus 7.15 behaviour), which AMQP 1.0 part 2.6.12 does not
    allow: a broker that minds closes the connection, and with hundreds of messages every lock is lost within seconds.
    """

    def __init__(self, receiver: ServiceBusReceiver) -> None:
        self._receiver = receiver
        self._turn = asyncio.Lock()

    async def renew_message_lock(self, message: ServiceBusReceivedMessage, **options: Any) -> object:
        """What the receiver does, when it is this one's turn."""
        async with self._turn:
            return await self._receiver.renew_message_lock(message, **options)


async def keep(port: int, count: int, *, renews: bool) -> None:
    """Receive so many messages, and keep them until killed."""
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, asked.set)
    async with ServiceBusClient.from_connection_string(LOCAL.format(port)) as client:
        async with client.get_queue_sender(QUEUE) as sender:
            for first in range(0, count, 100):
                await sender.send_messages([ServiceBusMessage(b"work") for _ in range(first, min(first + 100, count))])
        _say(rss_mib=rss_mib(os.getpid()))
        renewer = AutoLockRenewer(max_lock_renewal_duration=_FOR_EVER_S)
        async with client.get_queue_receiver(QUEUE) as receiver:
            one_at_a_time = cast("ServiceBusReceiver", OneAtATime(receiver))
            messages: list[ServiceBusReceivedMessage] = []
            while len(messages) < count:
                for message in await receiver.receive_messages(min(100, count - len(messages)), max_wait_time=10):
                    messages.append(message)
                    if renews:
                        renewer.register(one_at_a_time, message)
            _say(tokens=None if renews else [str(message.lock_token) for message in messages])
            await asked.wait()
            await renewer.close()
            began_cpu_s = time.process_time()
            for message in messages:
                await receiver.renew_message_lock(message)
            _say(loop_us_each=1e6 * (time.process_time() - began_cpu_s) / count)
            await asyncio.Event().wait()


def _say(**values: object) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    asyncio.run(keep(int(sys.argv[1]), int(sys.argv[2]), renews=sys.argv[3] == "renew"))
