"""A namespace that is throttled: 1,000 locks over real AMQP in memory, in virtual time."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import asynccontextmanager

import anyio
import pytest

from renewer.amqp import AmqpArray, Timestamp
from renewer.core.events import LeaseRegistered
from renewer.core.model import LeaseId, LeaseSpec
from renewer.core.states import LeaseKind, LeaseState
from renewer.core.timing import RenewalPolicy
from renewer.daemon.supervisor import Supervisor
from renewer.registry import MemoryRegistry
from renewer.targets.servicebus import NamespaceOptions, ServiceBusTarget, SharedAccessKey
from tests.daemon.daemon_rig import Heard
from tests.targets.scripted_broker import scripted_broker
from tests.virtualtime import VirtualClock, virtual

pytestmark = pytest.mark.anyio

BUSY = "com.microsoft:server-busy"
BUSY_S = 3.0
LATENCY_S = 0.02
COUNT = 1000


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return virtual("asyncio")


class Throttled:
    """Keeps locks truly; refuses everything while `is_busy`, and all but the first `per_s` requests of each second."""

    def __init__(self, broker, tasks, lock_s, clock) -> None:
        self.lock_s = lock_s
        self.is_busy = False
        self.per_s = None
        self.ends = {}
        self.expired = []
        self.asked = Counter()
        self.refused = 0
        self.attached_at = []
        self._tasks = tasks
        self._answers = {}
        broker.wall = lambda: clock.utc_now().timestamp()
        broker.lock_s = lock_s
        broker.on_management = lambda ask: tasks.start_soon(self._answer, ask)
        broker.on_session = lambda ask: tasks.start_soon(self._attach, ask)
        self._broker = broker

    async def _attach(self, ask):
        self.attached_at.append(anyio.current_time())
        await anyio.sleep(LATENCY_S)
        if self._refuses():
            ask.refuse(BUSY)
        else:
            self.ends[ask.wanted] = anyio.current_time() + self.lock_s
            self._broker.grant_if_free(ask)

    async def _answer(self, ask):
        await anyio.sleep(LATENCY_S)
        body = ask.message.body.value
        names = [*body["lock-tokens"]] if "lock-tokens" in body else [body["session-id"]]
        now = anyio.current_time()
        if self._refuses():
            ask.answer(503, BUSY)
            return
        over = [name for name in names if self.ends.get(name, now + 1) <= now]
        if over:
            self.expired += over
            ask.answer(410, "com.microsoft:message-lock-lost")
            return
        for name in names:
            self.ends[name] = now + self.lock_s
        until = Timestamp(int(1000 * (self._broker.wall() + self.lock_s)))
        many = {"expirations": AmqpArray([until] * len(names), Timestamp)}
        ask.answer(body=many if "lock-tokens" in body else {"expiration": until})

    def _refuses(self) -> bool:
        second = int(anyio.current_time())
        self.asked[second] += 1
        is_refused = self.is_busy or (self.per_s is not None and self.asked[second] > self.per_s)
        self.refused += is_refused
        return is_refused


@asynccontextmanager
async def thousand(kind, lock_s, clock):
    """A thousand locks of one kind, all held."""
    async with scripted_broker() as broker, anyio.create_task_group() as tasks:
        throttled = Throttled(broker, tasks, lock_s, clock)
        options = NamespaceOptions(
            "localhost", "localhost", 5672, SharedAccessKey("rule", "s3cret"), tls=False, emulator=True
        )
        target = ServiceBusTarget(options, clock, report, rng=random.Random(5), connect=broker.connect)
        heard = Heard()
        supervisor = Supervisor(
            clock=clock,
            lease_targets={"servicebus.main": target},
            operation_targets={},
            hooks=[heard],
            registry=MemoryRegistry(),
            draw=random.Random(6).random,
        )
        await supervisor.keeper._registry.open()
        await tasks.start(lambda task_status: target.run(task_status=task_status))
        await tasks.start(supervisor.run)
        for number in range(COUNT):
            supervisor.post(LeaseRegistered(spec_of(kind, number)))
            if number % 100 == 99:
                # So that they do not all fall due at once.
                await anyio.sleep(lock_s / 25)
        await anyio.sleep(1)
        assert len(held(supervisor)) == COUNT
        yield throttled, supervisor, target, heard
        tasks.cancel_scope.cancel()


def report(loss):
    raise AssertionError(f"no link is lost here: {loss}")


def spec_of(kind, number):
    policy = RenewalPolicy(reacquire=False)
    if kind is LeaseKind.MESSAGE:
        token = f"9f3b1c0a-5e2d-4a7f-8c61-{number:012x}"
        return LeaseSpec(LeaseId(f"m{number}"), "servicebus.main", "plain", kind, lock_token=token, policy=policy)
    return LeaseSpec(LeaseId(f"s{number}"), "servicebus.main", "orders", kind, session_id=f"s{number}", policy=policy)


def held(supervisor):
    return [lease for lease in supervisor.scheduler.leases() if lease.state is LeaseState.HELD]


@pytest.mark.parametrize(
    ("kind", "lock_s"),
    [
        (LeaseKind.MESSAGE, 5.0),
        (LeaseKind.MESSAGE, 10.0),
        (LeaseKind.SESSION, 5.0),
        (LeaseKind.SESSION, 8.0),
    ],
)
async def test_no_lock_is_lost_that_could_be_kept_while_a_broker_is_too_busy_for_three_seconds(kind, lock_s):
    clock = VirtualClock()
    async with thousand(kind, lock_s, clock) as (throttled, supervisor, _, _):
        throttled.asked.clear()
        throttled.is_busy = True
        await anyio.sleep(BUSY_S)
        while_busy = throttled.asked.total()
        throttled.is_busy = False
        now = anyio.current_time()
        # Whoever has a lock for the blink of an eye longer, in which its renewal gets there, keeps it.
        could_be_kept = {name for name, end in throttled.ends.items() if end > now + 0.25}
        await anyio.sleep(1.2 * lock_s)
        assert not could_be_kept.intersection(throttled.expired)
        assert len(held(supervisor)) >= len(could_be_kept)
        if lock_s >= 8.0:
            assert len(held(supervisor)) == COUNT
        # Without a pace it would be many times as many: each of those that fell due would ask again and again.
        assert while_busy < (50 if kind is LeaseKind.MESSAGE else 2.5 * COUNT)


async def test_a_namespace_that_takes_fewer_requests_than_there_are_locks_loses_none_of_them():
    clock = VirtualClock()
    async with thousand(LeaseKind.SESSION, 10.0, clock) as (throttled, supervisor, _, _):
        # A thousand locks of ten seconds need a hundred renewals a second if they come late, two hundred if early.
        throttled.per_s = 180
        await anyio.sleep(20)
        assert len(held(supervisor)) == COUNT
        assert throttled.refused > 0


async def test_new_sessions_wait_until_the_broker_answers_again_and_then_come_one_after_the_other():
    clock = VirtualClock()
    async with thousand(LeaseKind.MESSAGE, 10.0, clock) as (throttled, supervisor, _, heard):
        throttled.is_busy = True
        await anyio.sleep(BUSY_S)
        throttled.is_busy = False
        attaches = throttled.attached_at
        began = anyio.current_time()
        for number in range(100):
            spec = spec_of(LeaseKind.SESSION, number)
            supervisor.post(LeaseRegistered(spec))
        await anyio.sleep(5)
        assert attaches == []
        last = supervisor.scheduler.lease(LeaseId("s99"))
        assert "throttled" in last.last_error
        await anyio.sleep(40)
        assert len(held(supervisor)) == COUNT + 100
        assert min(attaches) > began + 5
        assert max(attaches) - min(attaches) > 3
        assert not [news for news in heard.leases if news.final]
