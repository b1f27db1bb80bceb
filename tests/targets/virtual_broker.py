"""The emulator's broker in virtual time, and a supervisor that keeps sessions on it: hours pass in milliseconds.

Everything between the core and the broker is the real thing, byte for byte; only the network is in memory, so that it
can be cut, or fall silent, and a test can put both clocks where it likes.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import anyio
import sniffio
import trio
from anyio.abc import ByteStream

from renewer.core.effects import LeaseNews, TellLease
from renewer.core.events import LeaseRegistered
from renewer.core.model import LeaseId, LeaseSpec
from renewer.core.timing import RenewalPolicy
from renewer.daemon.supervisor import Supervisor
from renewer.emulator.broker import Broker, BrokerOptions, QueueSpec
from renewer.emulator.faults import Fault, FaultAction, Faults
from renewer.registry import MemoryRegistry
from renewer.targets.servicebus import NamespaceOptions, ServiceBusTarget, SharedAccessKey

KEY = "bG9jYWw="

PASSING = frozenset({LeaseNews.RENEWED, LeaseNews.RENEW_FAILED, LeaseNews.ACQUIRE_FAILED})


class Wire(ByteStream):
    """One end of a connection. What is sent while it `is_frozen` arrives when it is no more, if ever."""

    def __init__(self, link: Link, send, receive) -> None:
        self._link = link
        self._send = send
        self._receive = receive
        self._rest = b""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if not self._rest:
            self._rest = await self._receive.receive()
        data, self._rest = self._rest[:max_bytes], self._rest[max_bytes:]
        return data

    async def send(self, item: bytes) -> None:
        if self._link.is_frozen:
            self._link.stuck.append((self._send, bytes(item)))
            await anyio.lowlevel.checkpoint()
        else:
            await self._send.send(bytes(item))

    async def send_eof(self) -> None:
        self._send.close()

    async def aclose(self) -> None:
        self._send.close()
        self._receive.close()
        await anyio.lowlevel.checkpoint()


class Link:
    """Both ends."""

    def __init__(self) -> None:
        self.is_frozen = False
        self.stuck: list[tuple[object, bytes]] = []
        up_send, up_receive = anyio.create_memory_object_stream[bytes](10_000)
        down_send, down_receive = anyio.create_memory_object_stream[bytes](10_000)
        self.client = Wire(self, up_send, down_receive)
        self.server = Wire(self, down_send, up_receive)

    def thaw(self) -> None:
        self.is_frozen = False
        stuck, self.stuck = self.stuck, []
        for send, item in stuck:
            send.send_nowait(item)

    async def cut(self) -> None:
        await self.client.aclose()
        await self.server.aclose()


@dataclass
class Clocks:
    """The daemon's clocks: the monotonic one is the event loop's, the wall clock is set as the test likes."""

    offset_s: float = 0.0

    def now(self) -> float:
        return anyio.current_time()

    def utc_now(self) -> datetime:
        return true_utc() + timedelta(seconds=self.offset_s)


def true_utc() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=anyio.current_time() % 1e9)


def stall(seconds: float) -> None:
    """Nothing runs for so long, and then everything that has fallen due, at once."""
    if sniffio.current_async_library() == "trio":
        trio.lowlevel.current_clock().jump(seconds)
    else:
        asyncio.get_running_loop()._virtual.now += seconds


@dataclass
class Told:
    """A hook that remembers what was told, and when by the event loop's time."""

    news: list[TellLease] = field(default_factory=list)
    at: list[float] = field(default_factory=list)

    def lease(self, news: TellLease) -> None:
        self.news.append(news)
        self.at.append(anyio.current_time())

    def operation(self, news) -> None:
        raise AssertionError("there are no operations here")


class World:
    """A broker, a daemon's supervisor, and the network between them."""

    def __init__(self, lock_s: float, sessions: int, **options) -> None:
        self.lock_s = lock_s
        self.clocks = Clocks()
        self.faults = Faults(true_utc)
        terms = {"key_name": "rule", "key": KEY} if options.pop("verifies", False) else {}
        self.broker = Broker(
            [QueueSpec("orders", requires_session=True)],
            lock_duration_s=lock_s,
            faults=self.faults,
            options=BrokerOptions(**terms),
        )
        self.told = Told()
        self.links: list[Link] = []
        self.is_down = False
        settings = {"hostname": "localhost", "host": "localhost", "port": 5672, "tls": False, "emulator": True}
        settings |= {"credential": SharedAccessKey("rule", KEY)}
        self.target = ServiceBusTarget(
            NamespaceOptions(**(settings | options)),
            self.clocks,
            lambda loss: self.supervisor.post(loss),
            rng=random.Random(7),
            connect=self._connect,
        )
        self.registry = MemoryRegistry()
        self.supervisor = Supervisor(
            clock=self.clocks,
            lease_targets={"servicebus.main": self.target},
            operation_targets={},
            hooks=[self.told],
            registry=self.registry,
            draw=random.Random(7).random,
        )
        self.specs = [
            LeaseSpec(LeaseId(f"lease-{n}"), "servicebus.main", "orders", session_id=f"s{n}", policy=RenewalPolicy())
            for n in range(sessions)
        ]

    async def _connect(self, _options: object) -> ByteStream:
        await anyio.lowlevel.checkpoint()
        if self.is_down:
            raise ConnectionRefusedError("nobody home")
        link = Link()
        self.links.append(link)
        self._tasks.start_soon(self.broker._serve_client, link.server)
        return link.client

    @asynccontextmanager
    async def running(self):
        """Everything runs, and every session is held."""
        await self.registry.open()
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self.broker._keep_time)
            await tasks.start(self.supervisor.run)
            scope = anyio.CancelScope()
            await tasks.start(self._run_target, scope)
            for spec in self.specs:
                self.supervisor.post(LeaseRegistered(spec))
            await anyio.sleep(0.5)
            assert self.broker.counters.sessions_held == len(self.specs)
            yield self
            scope.cancel()
            await anyio.sleep(5)
            tasks.cancel_scope.cancel()

    async def _run_target(self, scope: anyio.CancelScope, *, task_status) -> None:
        with scope:
            await self.target.run(task_status=task_status)

    # --- what goes wrong --------------------------------------------------------------------------------------------

    def fault(self, action: str, *, on: str = "servicebus.management", **terms) -> str:
        """Have the broker misbehave, until `faults.clear()`."""
        return self.faults.add(Fault(on=on, action=FaultAction(action), **terms))

    def freeze(self) -> None:
        for link in self.links:
            link.is_frozen = True

    def thaw(self) -> None:
        for link in self.links:
            link.thaw()

    async def cut(self) -> None:
        for link in self.links:
            await link.cut()
        self.links.clear()

    # --- what came of it ---------------------------------------------------------------------------------------------

    def lease(self, number: int = 0):
        return self.supervisor.scheduler.lease(self.specs[number].id)

    def of(self, *kinds: LeaseNews) -> list[TellLease]:
        return [news for news in self.told.news if news.news in kinds]

    def times(self, kind: LeaseNews) -> list[float]:
        return [at for news, at in zip(self.told.news, self.told.at, strict=True) if news.news is kind]

    def story(self, number: int = 0) -> list[str]:
        """What was told of one lease, but for what passes."""
        lease_id = self.specs[number].id
        return [news.news.value for news in self.told.news if news.spec.id == lease_id and news.news not in PASSING]
