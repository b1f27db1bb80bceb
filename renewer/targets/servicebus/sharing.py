"""What the sessions on one connection share, so that none of them can take it all: room for messages, and requests.

A renewal is a request over the same links and the same stream. Requests of other kinds are therefore but a few at a
time, however many are asked for and however long the broker is silent about them: most of the window stays free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from renewer.targets.servicebus.messages import read_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from renewer.messages import ReceivedMessage
    from renewer.targets.servicebus.envelope import Reply, Template
    from renewer.targets.servicebus.management import Management

MESSAGE_BYTES: Final = 32 * 1024 * 1024
"""Messages that have come in and wait to be taken, and such as may come, on one connection."""

READ_IN_THREAD: Final = 64 * 1024
"""Messages of more bytes than that together are read in a thread: values by the hundred thousand take their time."""

REQUESTS_AT_ONCE: Final = 32
"""Requests that are no renewals under way at a time on one connection."""


class Sharing:
    """What is left of what the sessions of one connection share."""

    def __init__(self) -> None:
        self._used = 0
        self._requests = anyio.Semaphore(REQUESTS_AT_ONCE)
        self._reading = anyio.CapacityLimiter(1)

    @property
    def room(self) -> int:
        """How many more bytes of messages may come in; less than none where sessions have used what is due to all."""
        return MESSAGE_BYTES - self._used

    def use(self, count: int) -> None:
        """Count bytes in, or, negative, out."""
        self._used += count

    async def read(self, payloads: Sequence[bytes]) -> list[ReceivedMessage]:
        """What is in these payloads. Large ones are read one after the other, while the event loop goes on."""

        def read_all() -> list[ReceivedMessage]:
            return [read_message(payload) for payload in payloads]

        if sum(map(len, payloads)) < READ_IN_THREAD:
            return read_all()
        return await anyio.to_thread.run_sync(read_all, limiter=self._reading)

    async def request(self, management: Management, ask: Template) -> Reply:
        """`Management.request`, for everything but renewals. Bounded by the caller's deadline."""
        async with self._requests:
            return await management.request(ask)
