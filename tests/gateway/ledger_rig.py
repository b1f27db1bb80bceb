"""Workers on the emulator's broker, each with a ledger of the gateway's beside it; in virtual time, without sockets.

A worker is an AMQP client whose bytes pass through the least that a relay does: frames of one channel, the spare one,
go to the ledger's side, all others to the worker; what the worker does with links and messages is told to the ledger.
"""

from __future__ import annotations

import random
from collections import deque
from contextlib import asynccontextmanager
from typing import Any

import anyio

from renewer.amqp import (
    Accepted,
    Connection,
    CreditChanged,
    DeliveryReceived,
    DeliveryUpdated,
    LinkAttached,
    LinkDetached,
    Message,
    Rejected,
    SaslAnonymous,
    SaslPlain,
    SessionOpened,
    Source,
    Symbol,
    Target,
    Value,
)
from renewer.core.effects import LeaseNews
from renewer.core.states import MessageFate
from renewer.daemon.supervisor import Supervisor
from renewer.emulator.broker import Broker, BrokerOptions, QueueSpec
from renewer.emulator.faults import Fault, FaultAction, Faults
from renewer.gateway.links import LinkKind, Locked, WorkerLink
from renewer.gateway.options import EntityPolicy, GatewayOptions, TcpAddress, WorkerKey
from renewer.gateway.target import GatewayTarget
from renewer.registry import MemoryRegistry
from renewer.targets.servicebus import NamespaceOptions, SharedAccessKey
from renewer.targets.servicebus.credentials import token_provider
from renewer.targets.servicebus.lockclock import from_ticks
from tests.targets.virtual_broker import KEY, Clocks, Link, Told, true_utc

SPARE = 11
"""The number of the spare channel; the worker's are lower."""

FILTER = Symbol("com.microsoft:session-filter")
LOCKED_UNTIL = Symbol("com.microsoft:locked-until-utc")


def options(**changes: Any) -> GatewayOptions:
    namespace = NamespaceOptions(
        hostname="localhost",
        host="localhost",
        port=5672,
        tls=False,
        emulator=True,
        credential=SharedAccessKey("rule", KEY),
        connect_timeout_s=5.0,
        **changes.pop("namespace", {}),
    )
    terms: dict[str, Any] = {"listen": TcpAddress("127.0.0.1", 0), "keys": (WorkerKey("local", KEY, ("*",)),)}
    return GatewayOptions("main", namespace=namespace, **(terms | changes))


class Worker:
    """One worker: its end of the connection, and what stands between it and the broker. It is the `SpareWay` too."""

    def __init__(self, world: GatewayWorld, *, policy: EntityPolicy, channel: int | None, plain: bool) -> None:
        self.world = world
        self.policy = policy
        self.channel = channel
        self.max_frame_size = 65536
        self.our_max_frame_size = 65536
        self.on_frame = None
        self.spare_frames: list[bytes] = []
        self.wire = Link()
        self.amqp = Connection(
            role="client",
            container_id="worker-1",
            hostname="localhost",
            channel_max=SPARE - 1,
            sasl=SaslPlain("rule", KEY) if plain else SaslAnonymous(),
            now=anyio.current_time(),
        )
        self.ledger = world.target.connection(key_name=lambda: "local", worker="worker-1")
        self.links: dict[Any, WorkerLink] = {}
        self.messages: deque[tuple[WorkerLink, Locked, Any]] = deque()
        self.refusals: list[Any] = []
        self.session: Any = None
        self._hidden: set[int] = set()
        self._rest = b""
        self._changed = anyio.Event()
        self._is_over = False

    # SpareWay -------------------------------------------------------------------------------------------------------

    def send(self, frames: bytes) -> None:
        assert not self._is_over, "sent after the end"
        at = 0
        while at < len(frames):
            size = int.from_bytes(frames[at : at + 4])
            assert int.from_bytes(frames[at + 6 : at + 8]) == self.channel
            self.spare_frames.append(frames[at + 8 : at + size])
            at += size
        assert at == len(frames)
        self._send(frames)

    # What a worker does ---------------------------------------------------------------------------------------------

    async def open(self) -> None:
        await self.until(lambda: self.amqp.state.value == "opened")
        self.ledger.opened(self, anyio.current_time())
        self.session = self.amqp.open_session(incoming_window=2000)
        self.flush()
        await self.until(lambda: self.session.state.value == "mapped")

    async def accept(self, session_id: str | None, entity: str = "orders") -> WorkerLink:
        """Take a session."""
        return await self._attach(entity, {FILTER: session_id}, is_session=True)

    async def receive(self, entity: str = "jobs", count: int = 1, credit: int | None = None) -> WorkerLink:
        """Get so many messages of a queue without sessions, and keep them locked."""
        link = await self._attach(entity, None, is_session=False)
        amqp = next(end for end, known in self.links.items() if known is link)
        amqp.flow(count if credit is None else credit)
        self.flush()
        await self.until(lambda: len(link.locked) >= count)
        return link

    def settle(self, link: WorkerLink, locked: Locked, state: Any = None, *, settled: bool = False) -> None:
        """Complete a message, or what `state` says."""
        state = Accepted() if state is None else state
        end, delivery = next((d.link, d) for _, known, d in self.messages if known is locked)
        end.settle(delivery, state, settled=settled)
        if settled:
            del link.locked[locked.delivery_id]
            self.ledger.settled(link, locked, MessageFate.COMPLETED, None)
        else:
            locked.is_settling = True
            locked.fate = MessageFate.COMPLETED if isinstance(state, Accepted) else MessageFate.ABANDONED
            if locked.kept is not None:
                self.ledger.settling(link, locked)
        self.flush()

    def detach(self, link: WorkerLink) -> None:
        """Let go of a link."""
        end = next(end for end, known in self.links.items() if known is link)
        end.detach()
        self._gone(link, by_worker=True, error=None)
        self.flush()

    async def vanish(self) -> None:
        """End without a word."""
        self._is_over = True
        self.ledger.closed(worker_gone=True, by_worker=False, detail="the worker is gone", now=anyio.current_time())
        await self.wire.cut()

    def said_goodbye(self) -> None:
        self._is_over = True
        self.ledger.closed(worker_gone=False, by_worker=True, detail="closed", now=anyio.current_time())

    async def until(self, condition: Any) -> None:
        with anyio.fail_after(20):
            while not condition():
                self._changed = anyio.Event()
                await self._changed.wait()

    # The least of a relay -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        self.flush()
        try:
            while True:
                self._take(await self.wire.client.receive())
                self.flush()
                self._changed.set()
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            if not self._is_over:
                self._is_over = True
                self.ledger.closed(
                    worker_gone=False, by_worker=False, detail="the connection broke", now=anyio.current_time()
                )

    def flush(self) -> None:
        data = self.amqp.take_output(anyio.current_time())
        if data and not self._is_over:
            self._send(data)

    def _send(self, data: bytes) -> None:
        if self.wire.is_frozen:
            self.wire.stuck.append((self.wire.client._send, data))
        else:
            self.wire.client._send.send_nowait(data)

    def _take(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= 8:
            size = 8 if self._rest[:4] == b"AMQP" else int.from_bytes(self._rest[:4])
            if len(self._rest) < size:
                return
            frame, self._rest = self._rest[:size], self._rest[size:]
            if not self._is_spare(frame):
                for event in self.amqp.receive(frame, anyio.current_time()):
                    self._on_event(event)
            elif self.on_frame is not None:
                self.on_frame(frame[8:])

    def _is_spare(self, frame: bytes) -> bool:
        if frame[:4] == b"AMQP" or frame[5] != 0 or len(frame) == 8:
            return False
        number, code = int.from_bytes(frame[6:8]), frame[10]
        if code == 0x11 and frame[11] == 0xC0 and frame[14] == 0x60 and int.from_bytes(frame[15:17]) == self.channel:
            self._hidden.add(number)
        hidden = number in self._hidden
        if hidden and code == 0x17:
            self._hidden.discard(number)
        return hidden

    def _on_event(self, event: Any) -> None:
        now = anyio.current_time()
        match event:
            case LinkAttached(end) | DeliveryReceived(end) | DeliveryUpdated(end) if end not in self.links:
                pass
            case LinkAttached(end, remote):
                link = self.links[end]
                link.is_attached = True
                if link.is_session:
                    link.session_id = remote.source.filter[FILTER]
                    until = from_ticks(remote.properties[LOCKED_UNTIL])
                    self.ledger.session_held(link, locked_until=until, sent_at=link.sent_at, received_at=now)
                self.ledger.link_opened(link)
            case LinkDetached(end, error, _, by_us):
                if not by_us:
                    self.refusals.append(error)
                    self._gone(self.links[end], by_worker=False, error=error)
            case DeliveryReceived(end, delivery):
                link = self.links[end]
                found = Message.decode(delivery.payload).message_annotations
                locked = Locked(delivery.delivery_id, delivery.delivery_tag, None, now)
                locked.locked_until = found[Symbol("x-opt-locked-until")] / 1000
                locked.sequence_number = found[Symbol("x-opt-sequence-number")]
                if not link.is_session:
                    link.locked[delivery.delivery_id] = locked
                self.messages.append((link, locked, delivery))
            case DeliveryUpdated(end, delivery, state, settled):
                link = self.links[end]
                locked = link.locked.pop(delivery.delivery_id, None) if settled else None
                if locked is not None and locked.kept is not None:
                    error = state.error if isinstance(state, Rejected) else None
                    self.ledger.settled(link, locked, None if error else locked.fate, error)
            case _:
                assert isinstance(event, CreditChanged | SessionOpened) or "Opened" in type(event).__name__, event

    def _gone(self, link: WorkerLink, *, by_worker: bool, error: Any) -> None:
        if link.is_attached:
            link.is_attached = False
            self.ledger.link_gone(link, by_worker=by_worker, error=error, now=anyio.current_time())
            link.locked.clear()

    async def _attach(self, entity: str, filters: Any, *, is_session: bool) -> WorkerLink:
        name = f"worker-link-{len(self.links)}"
        end = self.session.attach_receiver(
            name,
            source=Source(address=entity, filter=filters),
            target=Target(address=name),
            snd_settle_mode=0,
            rcv_settle_mode=1,
        )
        link = WorkerLink(LinkKind.RECEIVER, name, entity, channel=0, handle=end.handle, role=True, policy=self.policy)
        link.is_session, link.locks, link.sent_at = is_session, True, anyio.current_time()
        self.links[end] = link
        self.flush()
        refused = len(self.refusals)
        await self.until(lambda: link.is_attached or len(self.refusals) > refused)
        return link


class GatewayWorld:
    """A broker, a supervisor with a gateway's target, and workers."""

    def __init__(self, lock_s: float = 10.0, *, broker: dict[str, Any] | None = None, **changes: Any) -> None:
        self.clocks = Clocks()
        self.faults = Faults(true_utc)
        self.broker = Broker(
            [QueueSpec("orders", requires_session=True), QueueSpec("jobs", max_delivery_count=100)],
            lock_duration_s=lock_s,
            faults=self.faults,
            options=BrokerOptions(**(broker or {})),
        )
        self.told = Told()
        self.options = options(**changes)
        self.specs: list[Any] = []
        self.workers: list[Worker] = []
        self.provider = token_provider(self.options.namespace, self.clocks, audience=self.options.namespace.audience)
        self.target = GatewayTarget(
            self.options,
            self.clocks,
            self.provider,
            register=self._register,
            post=lambda event: self.supervisor.post(event),
            rng=random.Random(7),
        )
        self.registry = MemoryRegistry()
        self.supervisor = Supervisor(
            clock=self.clocks,
            lease_targets={self.target.name: self.target},
            operation_targets={},
            hooks=[self.told],
            registry=self.registry,
            draw=random.Random(7).random,
        )

    def _register(self, spec: Any) -> None:
        from renewer.core.events import LeaseRegistered

        self.specs.append(spec)
        self.supervisor.post(LeaseRegistered(spec))

    async def worker(self, *, channel: int | None = SPARE, plain: bool = True, **policy: Any) -> Worker:
        """One more worker, let in."""
        worker = Worker(self, policy=EntityPolicy(**policy), channel=channel, plain=plain)
        self.workers.append(worker)
        self.tasks.start_soon(self.broker._serve_client, worker.wire.server)
        self.tasks.start_soon(worker.run)
        await worker.open()
        return worker

    def put(self, count: int, queue: str = "jobs") -> None:
        """Messages into a queue."""
        from renewer.emulator.broker.wire import read_transfer

        entity = self.broker.namespace.find(queue)
        for number in range(count):
            batch = read_transfer(Message(body=Value(number)).encode(), 0)
            entity.send(batch, anyio.current_time(), self.broker.utc_ms())
        self.broker.settle_up()

    def fault(self, action: str, *, on: str = "servicebus.management", **terms: Any) -> None:
        self.faults.add(Fault(on=on, action=FaultAction(action), **terms))

    @asynccontextmanager
    async def running(self):
        await self.registry.open()
        async with anyio.create_task_group() as tasks:
            self.tasks = tasks
            tasks.start_soon(self.broker._keep_time)
            await tasks.start(self.supervisor.run)
            self.scope = anyio.CancelScope()
            await tasks.start(self._run_target)
            tasks.start_soon(self._tick)
            try:
                yield self
            finally:
                self.scope.cancel()
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    for worker in self.workers:
                        await worker.wire.cut()

    async def _run_target(self, *, task_status: Any) -> None:
        with self.scope:
            await self.target.run(task_status=task_status)

    async def _tick(self) -> None:
        while True:
            await anyio.sleep(0.25)
            self.target.tick(anyio.current_time())

    # What came of it ------------------------------------------------------------------------------------------------

    def lease(self, lease_id: Any):
        return self.supervisor.scheduler.lease(lease_id)

    def leases(self):
        return [*self.supervisor.scheduler.leases()]

    def of(self, *kinds: LeaseNews):
        return [news for news in self.told.news if news.news in kinds]

    def story(self, lease_id: Any) -> list[str]:
        """What was told of one lease, in order, but for renewals that went well."""
        passing = (LeaseNews.RENEWED,)
        return [n.news.value for n in self.told.news if n.spec.id == lease_id and n.news not in passing]
