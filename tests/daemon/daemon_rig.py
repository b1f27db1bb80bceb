"""Targets that keep locks truly, in virtual time, and misbehave as told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup, TaskStatus

from renewer.core.effects import LeaseNews, OperationNews, TellLease, TellOperation
from renewer.core.events import LeaseRegistered, LinkLost, OperationRegistered
from renewer.core.model import Grant, LeaseId, LeaseSpec, OperationId, OperationSpec, PollAnswer, Result
from renewer.core.quotas import Asking, Quota
from renewer.core.states import LossReason, MessageFate
from renewer.core.timing import PollPolicy, RenewalPolicy
from renewer.daemon.control import DaemonControl, Limits, Outlook
from renewer.daemon.eventstream import EventStream
from renewer.daemon.lanes import LaneLimits
from renewer.daemon.registrar import Account, Forgetting, Namespace, Registrar
from renewer.daemon.restoring import restore
from renewer.daemon.supervisor import Supervisor
from renewer.daemon.waiting import Waiting
from renewer.errors import ConflictError, LeaseLostError, MessageSettledError, UnknownHandleError
from renewer.messages import InFlight, ReceivedMessage
from renewer.ports import FollowTerms, PendingRenewal, PreparedOperation, Settlement, W
from renewer.registry import MemoryRegistry


@dataclass
class FakeBroker:
    """Keeps one lock a session. `before` is asked before each renewal takes effect; it may sleep or raise."""

    duration_s: float = 10.0
    latency_s: float = 0.005
    before: Callable[[LeaseSpec, int], object] | None = None
    after: Callable[[LeaseSpec, int], object] | None = None
    locked_until: dict[LeaseId, float] = field(default_factory=dict)
    renewals: int = 0
    releases: list[LeaseId] = field(default_factory=list)
    states: dict[LeaseId, bytes] = field(default_factory=dict)
    settled: dict[LeaseId, Settlement] = field(default_factory=dict)
    settling: Callable[[LeaseSpec, Settlement], object] | None = None
    messages: list[ReceivedMessage] = field(default_factory=list)
    received: dict[str, InFlight] = field(default_factory=dict)
    asked: list[tuple[object, ...]] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    expired: int = 0

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        task_status.started()
        await anyio.sleep_forever()

    async def acquire(self, spec: LeaseSpec, epoch: int) -> Grant:
        sent_at = anyio.current_time()
        await anyio.sleep(self.latency_s)
        self.locked_until[spec.id] = anyio.current_time() + self.duration_s
        return Grant(sent_at, self.duration_s, session_id=spec.session_id)

    async def renew(self, spec: LeaseSpec, epoch: int) -> Grant:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.renewals += 1
        number = self.renewals
        try:
            sent_at = anyio.current_time()
            await anyio.sleep(self.latency_s / 2)
            if self.before is not None:
                await _maybe(self.before(spec, number))
            now = anyio.current_time()
            if spec.id in self.settled:
                raise MessageSettledError("it is settled", fate=MessageFate.ELSEWHERE)
            if self.locked_until.get(spec.id, 0.0) <= now:
                self.expired += 1
                raise LeaseLostError("the lock has expired", reason=LossReason.EXPIRED)
            self.locked_until[spec.id] = now + self.duration_s
            if self.after is not None:
                await _maybe(self.after(spec, number))
            await anyio.sleep(self.latency_s / 2)
            return Grant(sent_at, self.duration_s)
        finally:
            self.under_way -= 1

    async def release(self, spec: LeaseSpec, epoch: int) -> None:
        await anyio.sleep(self.latency_s)
        self.locked_until.pop(spec.id, None)
        self.releases.append(spec.id)

    async def settle(self, spec: LeaseSpec, epoch: int, settlement: Settlement, handle: str | None = None) -> None:
        await anyio.sleep(self.latency_s / 2)
        if self.settling is not None:
            await _maybe(self.settling(spec, settlement))
        if handle is not None:
            self.asked.append(("settle", epoch, handle, settlement))
            if self.received.pop(handle, None) is None:
                raise UnknownHandleError("handle: there is none")
            return
        if spec.id in self.settled:
            raise MessageSettledError("it is settled", fate=MessageFate.ELSEWHERE)
        if self.locked_until.pop(spec.id, 0.0) <= anyio.current_time():
            raise LeaseLostError("the lock has expired", reason=LossReason.EXPIRED)
        self.settled[spec.id] = settlement
        await anyio.sleep(self.latency_s / 2)

    async def receive(self, spec: LeaseSpec, epoch: int, *, count: int, wait_s: float) -> list[ReceivedMessage]:
        self.asked.append(("receive", epoch, count, wait_s))
        if not self.messages:
            await anyio.sleep(wait_s)
        taken, self.messages = self.messages[:count], self.messages[count:]
        self.received |= {one.handle: InFlight(one.handle, one.sequence_number) for one in taken if one.handle}
        return taken

    async def receive_deferred(
        self, spec: LeaseSpec, epoch: int, sequence_numbers: Sequence[int]
    ) -> list[ReceivedMessage]:
        self.asked.append(("receive_deferred", epoch, *sequence_numbers))
        return await self.receive(spec, epoch, count=len(sequence_numbers), wait_s=0)

    async def peek(
        self, spec: LeaseSpec, epoch: int, *, count: int, from_sequence_number: int = 0
    ) -> list[ReceivedMessage]:
        self.asked.append(("peek", epoch, count, from_sequence_number))
        return self.messages[:count]

    def in_flight(self, spec: LeaseSpec) -> list[InFlight]:
        return list(self.received.values())

    async def get_state(self, spec: LeaseSpec, epoch: int) -> bytes | None:
        await anyio.sleep(self.latency_s)
        return self.states.get(spec.id)

    async def set_state(self, spec: LeaseSpec, epoch: int, state: bytes | None) -> None:
        await anyio.sleep(self.latency_s)
        if state is None:
            self.states.pop(spec.id, None)
        else:
            self.states[spec.id] = state


@dataclass
class PendingBroker(FakeBroker):
    """Renews without a task for each renewal, as far as whoever asks is concerned."""

    tasks: TaskGroup | None = None
    begun: int = 0
    cancelled: int = 0

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        async with anyio.create_task_group() as self.tasks:
            task_status.started()
            await anyio.sleep_forever()

    def begin_renewals(self, wanted: Sequence[W], answered: Callable[[Sequence[W]], None]) -> None:
        for one in wanted:
            there_at_once: list[PendingRenewal] = []

            def take_in(renewal: PendingRenewal, one: W = one, there: list[PendingRenewal] = there_at_once) -> None:
                there.append(renewal)
                one.renewal = renewal
                answered([one])

            renewal = self.begin_renewal(one.spec, one.epoch, take_in)
            if not there_at_once:
                one.renewal = renewal

    def begin_renewal(
        self, spec: LeaseSpec, epoch: int, answered: Callable[[PendingRenewal], None]
    ) -> PendingRenewal | None:
        if self.tasks is None:
            return None
        self.begun += 1
        renewal = PendingFromTask(self)
        self.tasks.start_soon(renewal.ask, spec, epoch, answered)
        return renewal


class PendingFromTask:
    """A renewal that a task of the broker's own carries out."""

    def __init__(self, broker: PendingBroker) -> None:
        self.grant: Grant | None = None
        self._broker = broker
        self._error: Exception | None = None
        self._scope = anyio.CancelScope()

    async def ask(self, spec: LeaseSpec, epoch: int, answered: Callable[[PendingRenewal], None]) -> None:
        with self._scope:
            try:
                self.grant = await self._broker.renew(spec, epoch)
            except Exception as error:
                self._error = error
            answered(self)

    async def finish(self) -> Grant:
        await anyio.lowlevel.checkpoint()
        assert self._error is not None
        raise self._error

    def cancel(self) -> None:
        self._broker.cancelled += 1
        self._scope.cancel()


@dataclass
class FakeService:
    """Follows one operation as scripted: an iterator of answers, or errors to raise, one for each request."""

    script: Iterator[PollAnswer | Result | Exception]
    asked_at: list[tuple[str, float]] = field(default_factory=list)
    tickets: list[object] = field(default_factory=list)
    cancelled: list[OperationId] = field(default_factory=list)
    can_cancel: bool = True
    allows: Quota = Quota("fabric.main", at_once=64)  # noqa: RUF009

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        task_status.started()
        await anyio.sleep_forever()

    def prepare(self, how: str, request: object, terms: FollowTerms) -> PreparedOperation:
        return PreparedOperation(request, None, retry_safe=False)

    def quota(self, spec: OperationSpec, asking: Asking, ticket: object) -> Quota:
        return self.allows

    async def submit(self, spec: OperationSpec) -> PollAnswer:
        return await self._next("submit")

    async def poll(self, spec: OperationSpec, ticket: object) -> PollAnswer:
        self.tickets.append(ticket)
        return await self._next("poll")

    async def fetch(self, spec: OperationSpec, ticket: object) -> Result:
        return await self._next("fetch")

    async def cancel(self, spec: OperationSpec, ticket: object) -> None:
        if not self.can_cancel:
            raise ConflictError("it cannot be cancelled")
        self.cancelled.append(spec.id)

    @staticmethod
    def dump_request(request: object) -> object:
        return {"request": request}

    @staticmethod
    def load_request(document):
        return document["request"]

    @staticmethod
    def dump_ticket(ticket: object) -> object:
        return {"ticket": ticket}

    @staticmethod
    def load_ticket(document):
        return document["ticket"]

    async def _next(self, what: str):
        self.asked_at.append((what, anyio.current_time()))
        await anyio.sleep(0.01)
        answer = next(self.script)
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class Heard:
    """A hook that remembers."""

    leases: list[TellLease] = field(default_factory=list)
    operations: list[TellOperation] = field(default_factory=list)

    def lease(self, news: TellLease) -> None:
        self.leases.append(news)

    def operation(self, news: TellOperation) -> None:
        self.operations.append(news)

    def of(self, *kinds: LeaseNews) -> list[TellLease]:
        return [news for news in self.leases if news.news in kinds]

    def about(self, *kinds: OperationNews) -> list[TellOperation]:
        return [news for news in self.operations if news.news in kinds]


class Rig:
    """A supervisor over fakes."""

    def __init__(self, clock, broker: FakeBroker | None = None, service: FakeService | None = None, **options) -> None:
        self.heard = Heard()
        self.broker = broker if broker is not None else FakeBroker()
        self.lags: list[float] = []
        self.registry = options.pop("registry", None) or MemoryRegistry()
        self.supervisor = Supervisor(
            clock=clock,
            lease_targets={"servicebus.main": self.broker, **options.pop("other_brokers", {})},
            operation_targets={} if service is None else {"fabric.main": service},
            hooks=[self.heard],
            registry=self.registry,
            on_lag=self.lags.append,
            limits=options.pop("limits", LaneLimits()),
            **options,
        )
        self.registrar = Registrar(
            {"servicebus.main": Namespace(self.broker, RenewalPolicy())},
            {} if service is None else {"fabric.main": Account(service, PollPolicy())},
        )

    def hold(self, name: str = "s", policy: RenewalPolicy | None = None, target: str = "servicebus.main") -> LeaseSpec:
        spec = LeaseSpec(LeaseId(name), target, "orders", session_id=name, policy=policy or RenewalPolicy())
        self.supervisor.post(LeaseRegistered(spec))
        return spec

    def follow(self, name: str = "o", policy: PollPolicy | None = None, **options) -> OperationSpec:
        spec = OperationSpec(OperationId(name), "fabric.main", {}, policy=policy or PollPolicy(), **options)
        self.supervisor.post(OperationRegistered(spec))
        return spec

    def break_link(self, spec: LeaseSpec, epoch: int, reason: LossReason = LossReason.DETACHED) -> None:
        self.supervisor.post(LinkLost(spec.id, epoch, reason, "as told"))

    def lease(self, spec: LeaseSpec):
        return self.supervisor.scheduler.lease(spec.id)

    def operation(self, spec: OperationSpec):
        return self.supervisor.scheduler.operation(spec.id)

    @asynccontextmanager
    async def running(self):
        opened = await self.registry.open()
        self.restored = restore(opened.entries, self.supervisor, self.registrar)
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.broker.run)
            await tasks.start(self.supervisor.run)
            yield tasks
            tasks.cancel_scope.cancel()


class Desk(Rig):
    """A rig with a control in front of it."""

    def __init__(self, clock, *arguments, limits: Limits | None = None, **options) -> None:
        super().__init__(clock, *arguments, **options)
        scheduler, waiting = self.supervisor.scheduler, Waiting()
        stream = EventStream(1, clock, lease=scheduler.lease, operation=scheduler.operation)
        self.supervisor._hooks += [waiting, stream, Forgetting(self.registrar)]
        self.control = DaemonControl(
            self.supervisor,
            clock,
            waiting,
            stream,
            self.registrar,
            limits=limits or Limits(),
            outlook=Outlook(started_at=clock.utc_now()),
        )


async def _maybe(value: object) -> None:
    if hasattr(value, "__await__"):
        await value
