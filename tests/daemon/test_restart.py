"""What is registered goes on after a crash: the process ends between any two moments, and another one starts."""

from __future__ import annotations

import random

import anyio
import pytest

from renewer.core.effects import LeaseNews, OperationNews
from renewer.core.events import LeaseRegistered
from renewer.core.model import LeaseId, LeaseSpec, Owner, Result, StillRunning, Succeeded
from renewer.core.states import LeaseKind, LeaseState, LossReason, OperationState, OwnerKind
from renewer.core.timing import PollPolicy, RenewalPolicy
from renewer.daemon.records import Timeline, lease_entry, read_lease
from renewer.ports import Batch, Entry, EntryKind
from renewer.registry import MemoryRegistry
from tests.daemon.daemon_rig import FakeBroker, FakeService, Rig

pytestmark = pytest.mark.anyio

RESULT = Result("json", "application/json", b'{"id": 1}')


class Disk(MemoryRegistry):
    """A registry whose writes take a while; those under way when the process ends are done, or are not."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self._dice = dice

    async def write(self, batch: Batch) -> None:
        early = self._dice.random() < 0.5
        if early:
            await super().write(batch)
        await anyio.sleep(0.02 * self._dice.random())
        if not early:
            await super().write(batch)


class Service(FakeService):
    """An operation that runs for a while. It knows who asked too early, whoever reads its answers."""

    def __init__(self, dice: random.Random, polls: int) -> None:
        super().__init__(iter([]))
        self._dice = dice
        self._left = polls
        self.submits = 0
        self.early: list[float] = []
        self._not_before = 0.0

    async def submit(self, spec):
        self.submits += 1
        await self._network()
        return self._running()

    async def poll(self, spec, ticket):
        assert ticket == "t"
        await self._network()
        now = anyio.current_time()
        if now < self._not_before:
            self.early.append(self._not_before - now)
        self._left -= 1
        answer = self._running() if self._left > 0 else Succeeded("Succeeded", None)
        await self._network()
        return answer

    async def fetch(self, spec, ticket):
        await self._network()
        return RESULT

    def _running(self):
        self._not_before = anyio.current_time() + 2.0
        return StillRunning("Running", retry_after_s=2.0, ticket="t")

    async def _network(self) -> None:
        await anyio.sleep(0.02 * self._dice.random())


async def run_for(rig: Rig, span_s: float) -> None:
    """A life of the daemon that ends without a word."""
    with anyio.move_on_after(span_s):
        async with rig.running():
            await anyio.sleep_forever()


@pytest.mark.parametrize("seed", range(40))
async def test_an_operation_is_followed_to_its_end_through_any_crashes_without_an_early_poll(clock, seed):
    dice = random.Random(seed)
    registry, service = Disk(dice), Service(dice, polls=6)
    spec, told = None, []
    for _ in range(200):
        rig = Rig(clock, service=service, registry=registry)
        with anyio.move_on_after(dice.choice([0.01, 0.1, 1.0, 3.0]) * dice.random()):
            async with rig.running():
                if spec is None:
                    spec = rig.follow("o")
                    if not await rig.supervisor.keeper.durable(spec.id):
                        spec = None
                await anyio.sleep_forever()
        if spec is not None and not await is_known(registry, spec.id):
            spec = None  # the registration was not acknowledged
        told += [news.state for news in rig.heard.about(OperationNews.STATE_CHANGED)]
        if OperationState.SUCCEEDED in told or OperationState.REJECTED in told:
            break
    assert service.early == []
    assert service.submits <= 1 or spec is None
    rig = Rig(clock, service=service, registry=registry)
    async with rig.running():
        operation = rig.operation(spec)
        assert operation.state in (OperationState.SUCCEEDED, OperationState.REJECTED)
        if operation.state is OperationState.SUCCEEDED:
            assert await rig.supervisor.keeper.result(spec.id) == RESULT
        else:
            assert "may or may not have started" in operation.error["message"]
        await anyio.sleep(60)
        told += [news.state for news in rig.heard.about(OperationNews.STATE_CHANGED)]
    # Once, or not at all where the process ended between storing and telling: then it can be read.
    assert told.count(operation.state) <= 1
    assert service.early == []


async def is_known(registry: MemoryRegistry, key: str) -> bool:
    return any(entry.id == key for entry in (await registry.open()).entries)


@pytest.mark.parametrize("seed", range(10))
async def test_no_epoch_is_told_twice_through_any_crashes(clock, seed):
    dice = random.Random(seed)
    registry, told = Disk(dice), []
    spec = None
    for _ in range(30):
        rig = Rig(clock, registry=registry, draw=dice.random)
        with anyio.move_on_after(2.0 * dice.random()):
            async with rig.running():
                if spec is None:
                    spec = rig.hold()
                    if not await rig.supervisor.keeper.durable(spec.id):
                        spec = None
                while True:
                    await anyio.sleep(0.3 * dice.random())
                    rig.break_link(spec, rig.lease(spec).epoch)
        if spec is not None and not await is_known(registry, spec.id):
            spec = None
        told += [news.epoch for news in rig.heard.of(LeaseNews.ACQUIRED, LeaseNews.REACQUIRED)]
    assert len(told) > 20
    assert told == sorted(set(told))


async def test_a_session_is_lost_with_the_process_and_reacquired_by_the_next_one(clock):
    registry = MemoryRegistry()
    await run_for(first := Rig(clock, registry=registry), 0)
    async with first.running():
        spec = first.hold()
        await anyio.sleep(60)
    rig = Rig(clock, registry=registry)
    async with rig.running():
        await anyio.sleep(5)
    (lost,) = rig.heard.of(LeaseNews.LOST)
    (again,) = rig.heard.of(LeaseNews.REACQUIRED)
    assert (lost.epoch, lost.reason, again.epoch) == (1, LossReason.CONNECTION_LOST, 2)
    assert rig.lease(spec).losses == 1


async def test_a_session_that_was_given_back_before_the_stop_is_reacquired_without_a_loss(clock):
    registry = MemoryRegistry()
    first = Rig(clock, registry=registry)
    async with first.running():
        spec = first.hold()
        await anyio.sleep(60)
        await first.supervisor.park_all()
        await first.supervisor.keeper.flush()
    assert first.broker.releases == [spec.id]
    rig = Rig(clock, registry=registry)
    async with rig.running():
        await anyio.sleep(5)
    assert rig.heard.of(LeaseNews.LOST) == []
    assert [news.epoch for news in rig.heard.of(LeaseNews.REACQUIRED)] == [2]


async def test_a_message_lock_still_in_time_goes_on(clock):
    registry, broker = MemoryRegistry(), FakeBroker(duration_s=10.0)
    policy = RenewalPolicy(reacquire=False)
    spec = LeaseSpec(
        LeaseId("m"), "servicebus.main", "plain", kind=LeaseKind.MESSAGE, lock_token="a token", policy=policy
    )
    first = Rig(clock, broker, registry=registry)
    async with first.running():
        first.supervisor.post(LeaseRegistered(spec))
        await anyio.sleep(60)
    rig = Rig(clock, broker, registry=registry)
    async with rig.running():
        await anyio.sleep(60)
        lease = rig.lease(spec)
        assert (lease.state, lease.epoch, lease.losses) == (LeaseState.HELD, 1, 0)
        assert lease.spec.lock_token == "a token"
    assert rig.heard.of(LeaseNews.LOST, LeaseNews.ACQUIRED, LeaseNews.REACQUIRED) == []


async def test_results_and_ends_can_be_read_after_a_restart_for_as_long_as_they_are_kept(clock):
    registry = MemoryRegistry()
    first = Rig(clock, service=FakeService(iter([Succeeded("Succeeded", RESULT)])), registry=registry)
    async with first.running():
        spec = first.follow(policy=PollPolicy())
        await anyio.sleep(100)
    rig = Rig(clock, service=FakeService(iter([])), registry=registry)
    async with rig.running():
        assert rig.operation(spec).result == RESULT.without_body()
        assert await rig.supervisor.keeper.result(spec.id) == RESULT
        await anyio.sleep(PollPolicy().retention_s - 200)
        assert rig.operation(spec) is not None
        await anyio.sleep(200)
        assert rig.operation(spec) is None
        assert await registry.result(spec.id) is None


async def test_an_operation_of_an_account_that_is_not_configured_waits_until_it_is(clock, capsys):
    registry = MemoryRegistry()
    first = Rig(
        clock, service=FakeService(iter([StillRunning("Running", retry_after_s=20, ticket="t")])), registry=registry
    )
    async with first.running():
        spec = first.follow()
        await anyio.sleep(1)
    without = Rig(clock, registry=registry)
    async with without.running():
        await anyio.sleep(100)
        assert without.operation(spec).state is OperationState.RUNNING
        assert "[fabric.main]" in without.operation(spec).last_poll_error
    service = FakeService(iter([Succeeded("Succeeded", RESULT)]))
    rig = Rig(clock, service=service, registry=registry)
    async with rig.running():
        await anyio.sleep(100)
        assert rig.operation(spec).state is OperationState.SUCCEEDED
    assert service.tickets == ["t"]


async def test_a_record_that_cannot_be_read_costs_nobody_else_theirs_and_is_left_where_it_is(clock, capsys):
    registry = MemoryRegistry()
    first = Rig(clock, registry=registry)
    async with first.running():
        spec = first.hold()
        await anyio.sleep(1)
    await registry.open()
    await registry.write(
        Batch([Entry(EntryKind.LEASE, "lease-odd", 7, {"v": 1}), Entry(EntryKind.OPERATION, "op-new", 8, {"v": 99})])
    )
    rig = Rig(clock, registry=registry)
    async with rig.running():
        assert rig.restored.unreadable == 2
        await anyio.sleep(5)
        assert rig.lease(spec).state is LeaseState.HELD
    assert await is_known(registry, "lease-odd")
    assert await is_known(registry, "op-new")


async def test_a_process_that_owned_a_lease_is_gone_after_another_boot(clock):
    rig = Rig(clock)
    async with rig.running():
        spec = LeaseSpec(LeaseId("s"), "servicebus.main", "orders", owner=Owner(OwnerKind.PID, pid=4711))
        rig.supervisor.post(LeaseRegistered(spec))
        await anyio.sleep(1)
        entry = lease_entry(rig.lease(spec), Timeline("boot", now=100.0, wall=1e9))
    for boot, started in (("boot", None), ("", None), ("another", -1)):
        found, _ = read_lease(entry, Timeline(boot, now=160.0, wall=1e9 + 60))
        assert found.owner == Owner(OwnerKind.PID, pid=4711, pid_started=started)


def test_within_one_boot_instants_are_what_they_were_whatever_the_wall_clock_says() -> None:
    before = Timeline("boot", now=100.0, wall=1e9)
    carry = Timeline("boot", now=160.0, wall=1e9 - 3600).carry(before.mark())
    assert carry(170.0) == 170.0
    assert carry(None) is None


def test_after_another_boot_the_wall_clock_says_how_much_time_has_passed() -> None:
    before = Timeline("boot", now=5000.0, wall=1e9)
    carry = Timeline("another", now=10.0, wall=1e9 + 60).carry(before.mark())
    assert carry(5070.0) == 20.0  # was to come in 70 s, and 60 s have passed


@pytest.mark.parametrize(("boot", "now"), [("another", 10.0), ("", 6000.0), ("boot", 4000.0)])
def test_a_wall_clock_that_went_back_counts_as_no_time_at_all(boot: str, now: float) -> None:
    before = Timeline("boot" if boot else "", now=5000.0, wall=1e9)
    carry = Timeline(boot, now=now, wall=1e9 - 3600).carry(before.mark())
    assert carry(5070.0) == now + 70.0
