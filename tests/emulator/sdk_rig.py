"""A broker in a thread of its own for the official SDK, which blocks (sync) or has a loop of its own (aio)."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import TYPE_CHECKING

import anyio
from anyio.from_thread import start_blocking_portal

from renewer.emulator.broker import Broker, BrokerOptions, QueueSpec
from renewer.emulator.broker.entities import Entity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from anyio.abc import BlockingPortal

ROUNDS = count(1)


class SdkRig:
    """The broker, as seen from other threads."""

    def __init__(self, portal: BlockingPortal, broker: Broker, port: int) -> None:
        self._portal = portal
        self._broker = broker
        self.port = port
        self.connection_string = (
            f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;"
            "UseDevelopmentEmulator=true"
        )

    def queue(self, *, sessions: bool = False, lock_duration_s: float = 60.0, max_delivery_count: int = 10) -> str:
        """A new queue for one test."""
        return self.entity(f"queue-{next(ROUNDS)}", sessions, lock_duration_s, max_delivery_count)

    def entity(
        self, name: str, sessions: bool = False, lock_duration_s: float = 60.0, max_delivery_count: int = 10
    ) -> str:
        self._portal.call(self._broker.add_queue, QueueSpec(name, sessions, lock_duration_s, max_delivery_count))
        return name

    def expire(self, entity: str, session_id: str) -> bool:
        return self._portal.call(self._broker.expire, entity, session_id)

    def expire_messages(self, entity: str) -> None:
        """Let the locks of all messages of a queue run out now."""
        self._portal.call(self._expire_messages, entity)

    def _expire_messages(self, entity: str) -> None:
        queue = self._broker.namespace.find(entity)
        assert isinstance(queue, Entity)
        for lock in [*queue._locks.values()]:
            queue.expire_message_lock(lock, self._broker.now())
        self._broker.settle_up()

    def expired(self) -> int:
        return self._portal.call(lambda: self._broker.counters.locks_expired)

    def failures(self) -> int:
        return self._portal.call(lambda: self._broker.counters.failures)


@contextmanager
def sdk_rig(options: BrokerOptions | None = None) -> Iterator[SdkRig]:
    """A broker that serves until the end of the block; a fault of its own fails the test."""
    broker = Broker(options=options)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(_serving(broker)) as port:
        rig = SdkRig(portal, broker, port)
        yield rig
        assert rig.failures() == 0


@asynccontextmanager
async def _serving(broker: Broker) -> AsyncIterator[int]:
    async with anyio.create_task_group() as tasks:
        yield await tasks.start(broker.serve)
        tasks.cancel_scope.cancel()
