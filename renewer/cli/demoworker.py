"""A worker as one writes it with azure-servicebus, which knows nothing of renewer: `renewer demo --gateway` runs two.

It takes the message of one session, works for a while without ever giving its event loop a chance to run, and completes
the message. The SDK's own AutoLockRenewer is told to keep the lock, and needs that loop. What happens is told on
stdout, a JSON document for each line.

python -m renewer.cli.demoworker QUEUE SESSION SECONDS, with the connection string in SERVICEBUS_CONNECTION.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import AutoLockRenewer, ServiceBusClient
from azure.servicebus.exceptions import ServiceBusError

_PATIENCE_S = 30


async def work(connection_string: str, queue: str, session_id: str, seconds: float) -> None:
    """Send a message to the session, and process it. Raises whatever the SDK does."""
    async with (
        ServiceBusClient.from_connection_string(connection_string) as client,
        AutoLockRenewer(max_lock_renewal_duration=3600) as renewer,
    ):
        async with client.get_queue_sender(queue) as sender:
            await sender.send_messages(ServiceBusMessage("work", session_id=session_id))
        async with client.get_queue_receiver(queue, session_id=session_id) as receiver:
            renewer.register(receiver, receiver.session)
            for message in await receiver.receive_messages(max_message_count=1, max_wait_time=_PATIENCE_S):
                tell("working")
                time.sleep(seconds)  # noqa: ASYNC251 - this is what it is about
                tell("completing")
                await receiver.complete_message(message)
                tell("completed")


def tell(event: str, **fields: object) -> None:
    """Say what happens."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Run the worker; 0 if the message was completed."""
    queue, session_id, seconds = arguments
    try:
        asyncio.run(work(os.environ["SERVICEBUS_CONNECTION"], queue, session_id, float(seconds)))
    except ServiceBusError as error:
        tell("failed", error=type(error).__name__, message=error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
