"""What must survive is stored before good news of it is told, in virtual time, on both backends."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import anyio
import pytest

from renewer.core.effects import LeaseNews, OperationNews
from renewer.core.events import ForgetRequested, LeaseRegistered, LeaseReleaseRequested, LeaseRevised
from renewer.core.model import Ended, LeaseId, LeaseSpec, Result, StillRunning, Succeeded
from renewer.core.quotas import Quota
from renewer.core.states import LeaseState, LossReason, OperationState
from renewer.daemon import horizon
from renewer.daemon.lanes import LaneLimits
from renewer.daemon.marks import AT_LEISURE, BATCH
from renewer.errors import RegistryError
from renewer.ports import Batch, Entry, EntryKind
from renewer.registry import MemoryRegistry
from tests.daemon.daemon_rig import FakeBroker, FakeService, Rig

pytestmark = pytest.mark.anyio

RESULT = Result("json", "application/json", b'{"id": 1}')


class SlowRegistry(MemoryRegistry):
    """A registry whose writes take as long, or fail, as told."""

    def __init__(self) -> None:
        super().__init__()
        self.takes_s = 0.0
        self.fails: str | None = None
        self.batches: list[Batch] = []

    async def write(self, batch: Batch) -> None:
        await anyio.sleep(self.takes_s)
        if self.fails is not None:
            raise RegistryError(self.fails)
        self.batches.append(batch)
        await super().write(batch)

    async def documents(self) -> dict[str, dict]:
        return {entry.id: dict(entry.document) for entry in (await self.open()).entries}


@dataclass
class Post:
    """Deliveries that remember."""

    sent: list[str] = field(default_factory=list)

    def entry_for(self, news):
        if news.news not in (LeaseNews.ACQUIRED, LeaseNews.LOST):
            return None
        return Entry(EntryKind.CALLBACK, f"call-{news.spec.id}-{news.news}", 1, {"subject": news.spec.id})

    def send(self, entry):
        self.sent.append(entry.id)


async def test_good_news_is_told_when_it_is_stored_and_in_order(clock):
    registry = SlowRegistry()
    rig = Rig(clock, registry=registry)
    async with rig.running():
        registry.takes_s = 0.25
        spec = rig.hold()
        await anyio.sleep(0.2)
        assert rig.heard.leases == []
        assert rig.lease(spec).state is LeaseState.HELD
        await anyio.sleep(0.1)
        assert [news.news for news in rig.heard.leases] == [LeaseNews.REGISTERED]
        await anyio.sleep(0.25)
        assert [news.news for news in rig.heard.leases] == [LeaseNews.REGISTERED, LeaseNews.ACQUIRED]


async def test_bad_news_is_told_at_once(clock):
    registry = SlowRegistry()
    rig = Rig(clock, registry=registry)
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(1)
        registry.takes_s = 1.0
        rig.break_link(spec, epoch=1)
        assert [news.news for news in rig.heard.leases][-1] is LeaseNews.LOST
        await anyio.sleep(0.5)
        assert [news.news for news in rig.heard.leases][-1] is LeaseNews.LOST
        rig.break_link(spec, epoch=2)
        assert len(rig.heard.of(LeaseNews.LOST)) == 1
        await anyio.sleep(2.5)
        assert [news.epoch for news in rig.heard.of(LeaseNews.REACQUIRED, LeaseNews.LOST)] == [1, 2, 2, 3]


async def test_good_news_waits_for_a_slow_registry_for_two_seconds(clock, capsys):
    registry = SlowRegistry()
    rig = Rig(clock, registry=registry)
    async with rig.running():
        registry.takes_s = 1000.0
        spec = rig.hold()
        await anyio.sleep(1.9)
        assert rig.heard.leases == []
        await anyio.sleep(0.2)
        assert [news.news for news in rig.heard.leases] == [LeaseNews.REGISTERED, LeaseNews.ACQUIRED]
        rig.break_link(spec, epoch=1)
        await anyio.sleep(0.5)
        assert [news.news for news in rig.heard.leases][2:] == [LeaseNews.LOST, LeaseNews.REACQUIRED]


async def test_renewals_are_not_written(clock):
    registry = SlowRegistry()
    rig = Rig(clock, registry=registry)
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(1)
        written = len(registry.batches)
        await anyio.sleep(3600)
    assert rig.lease(spec).renewals > 700
    assert len(registry.batches) == written


async def test_changes_that_come_together_are_written_together(clock):
    registry = SlowRegistry()
    rig = Rig(clock, registry=registry, limits=LaneLimits(acquire=BATCH))
    async with rig.running():
        registry.takes_s = 0.01
        specs = [rig.hold(f"s{number}") for number in range(2 * BATCH)]
        assert all([await rig.supervisor.keeper.durable(spec.id) for spec in specs])
    assert max(len(batch.puts) for batch in registry.batches) == BATCH
    assert len(registry.batches) <= 6


class Noting(FakeService):
    """Looks at what is stored when a request arrives."""

    registry: SlowRegistry

    async def submit(self, spec):
        assert (await self.registry.documents())[spec.id]["was_asking"]
        return await super().submit(spec)

    async def poll(self, spec, ticket):
        assert (await self.registry.documents())[horizon.KEY]["until"] > anyio.current_time()
        return await super().poll(spec, ticket)


async def test_it_is_stored_that_requests_go_out_before_they_do(clock):
    registry = SlowRegistry()
    polls = [StillRunning(retry_after_s=wait_s, ticket="t") for wait_s in (20, 1, 1, 1, 1, 1, 5)]
    service = Noting(iter([*polls, Succeeded("Succeeded", None), RESULT]))
    service.registry = registry
    rig = Rig(clock, service=service, registry=registry)
    async with rig.running():
        registry.takes_s = 0.05
        spec = rig.follow()
        await anyio.sleep(10)
        assert (await registry.documents())[spec.id]["was_asking"] is False
        await anyio.sleep(50)
    assert len(service.asked_at) == 9
    assert rig.operation(spec).state is OperationState.SUCCEEDED


async def test_thousands_of_polls_cost_the_disk_a_few_writes(clock):
    registry = SlowRegistry()
    service = FakeService(itertools.repeat(StillRunning("Running", retry_after_s=1.0)))
    rig = Rig(clock, service=service, registry=registry)
    async with rig.running():
        for number in range(50):
            rig.follow(str(number))
        await anyio.sleep(5)
        written, asked = len(registry.batches), len(service.asked_at)
        await anyio.sleep(60)
    assert len(service.asked_at) - asked >= 50 * 55
    assert len(registry.batches) - written <= 60
    kept = [entry for batch in registry.batches[written:] for entry in batch.puts if entry.kind is EntryKind.OPERATION]
    assert len(kept) <= 50 * 60 / 5 + 50


async def test_a_poll_that_tells_something_new_is_stored_at_once(clock):
    registry = SlowRegistry()
    polls = [StillRunning("Running", retry_after_s=1.0, percent_complete=percent) for percent in (0, 1, 1, 2)]
    service = FakeService(iter([*polls, *itertools.repeat(StillRunning("Running", retry_after_s=100.0), 2)]))
    rig = Rig(clock, service=service, registry=registry)
    async with rig.running():
        spec = rig.follow()
        seen = []
        for _ in range(5):
            await anyio.sleep(1.1)
            document = (await registry.documents())[spec.id]
            seen.append((document["percent_complete"], document["retry_after_s"]))
    assert seen == [(1, 1.0), (1, 1.0), (2, 1.0), (2, 100.0), (2, 100.0)]


async def test_nobody_waits_for_polls_to_be_stored_and_many_are_in_small_batches(clock):
    registry = SlowRegistry()
    answers = [StillRunning(status, retry_after_s=10.0) for status in ("first", "second") for _ in range(250)]
    service = FakeService(iter(answers), allows=Quota("fabric.main", at_once=250))
    rig = Rig(clock, service=service, registry=registry)
    async with rig.running():
        specs = [rig.follow(str(number)) for number in range(250)]
        await anyio.sleep(1)
        registry.takes_s = 0.5
        registry.batches.clear()
        # Half a second goes by until the horizon is stored.
        await anyio.sleep(9.7)
        assert sum(news.news is OperationNews.POLLED for news in rig.heard.operations) == len(specs)
        assert not any(entry.kind is EntryKind.OPERATION for batch in registry.batches for entry in batch.puts)
        await anyio.sleep(5)
    stored = [[entry.id for entry in batch.puts if entry.kind is EntryKind.OPERATION] for batch in registry.batches]
    assert max(map(len, stored)) <= AT_LEISURE
    assert {id_ for batch in stored for id_ in batch} == {spec.id for spec in specs}


async def test_what_somebody_waits_for_is_stored_before_all_polls_that_nobody_waits_for(clock):
    registry = SlowRegistry()
    answers = [StillRunning(status, retry_after_s=10.0) for status in ("first", "second") for _ in range(1_000)]
    service = FakeService(iter(answers), allows=Quota("fabric.main", at_once=1_000))
    rig = Rig(clock, service=service, registry=registry)
    async with rig.running():
        specs = [rig.follow(str(number)) for number in range(1_000)]
        await anyio.sleep(5)
        registry.takes_s = 0.5
        while rig.supervisor.keeper.backlog < len(specs):  # noqa: ASYNC110 - it changes without a sign
            await anyio.sleep(0.1)
        registry.batches.clear()
        lease = rig.hold()
        assert await rig.supervisor.keeper.all_durable([lease.id, specs[-1].id]) == [True, True]
        stored = [{entry.id for entry in batch.puts} for batch in registry.batches]
        # One was under way already.
        assert len(stored) <= 2
        assert {lease.id, specs[-1].id} <= set().union(*stored)
        await anyio.sleep(4.0)
        assert not rig.supervisor.keeper.is_pending(specs[-2].id)
        assert (await registry.documents())[specs[-2].id]["status"] == "second"


async def test_of_a_poll_that_is_to_be_stored_the_last_state_is_stored_once_somebody_waits_for_it(clock):
    registry = SlowRegistry()
    answers = [StillRunning("Running", retry_after_s=10.0) for _ in range(900)]
    service = FakeService(iter(answers), allows=Quota("fabric.main", at_once=300))
    rig = Rig(clock, service=service, registry=registry)
    async with rig.running():
        specs = [rig.follow(str(number)) for number in range(300)]
        await anyio.sleep(1)
        registry.takes_s = 0.5
        await anyio.sleep(10)
        registry.batches.clear()
        last = specs[-1]
        assert rig.supervisor.keeper.is_pending(last.id)
        assert await rig.supervisor.keeper.durable(last.id)
        assert last.id in {entry.id for batch in registry.batches[:2] for entry in batch.puts}
        polls = rig.operation(last).polls
        assert (await registry.documents())[last.id]["polls"] == polls
        await rig.supervisor.keeper.flush()
        assert (await registry.documents())[last.id]["polls"] == rig.operation(last).polls
    written = [entry.document["polls"] for batch in registry.batches for entry in batch.puts if entry.id == last.id]
    assert written == sorted(written)


async def test_a_slow_write_holds_good_news_back_for_two_seconds_whatever_went_before(clock, capsys):
    registry = SlowRegistry()
    rig = Rig(clock, registry=registry)

    def heard_of(spec: LeaseSpec) -> list[LeaseNews]:
        return [news.news for news in rig.heard.leases if news.spec.id == spec.id]

    async with rig.running():
        for number in range(3):
            registry.takes_s = 10.0
            spec = rig.hold(f"s{number}")
            await anyio.sleep(1.99)
            assert heard_of(spec) == []
            await anyio.sleep(0.02)
            assert heard_of(spec) == [LeaseNews.REGISTERED, LeaseNews.ACQUIRED]
            registry.takes_s = 0.0
            await rig.supervisor.keeper.flush()
            # So that the next one begins anywhere in what looks after writes.
            await anyio.sleep(0.7)


async def test_polls_go_out_though_the_horizon_cannot_be_stored(clock):
    registry = SlowRegistry()
    service = FakeService(itertools.repeat(StillRunning("Running", retry_after_s=1.0)))
    rig = Rig(clock, service=service, registry=registry)
    async with rig.running():
        rig.follow()
        await anyio.sleep(5)
        asked = len(service.asked_at)
        registry.fails = "no room"
        await anyio.sleep(60)
    assert len(service.asked_at) - asked >= 20


async def test_the_end_of_an_operation_and_its_result_are_stored_together_before_they_are_told(clock):
    registry = SlowRegistry()
    rig = Rig(clock, service=FakeService(iter([Succeeded("Succeeded", RESULT)])), registry=registry)
    async with rig.running():
        spec = rig.follow()
        await anyio.sleep(0.005)
        registry.takes_s = 5.0
        await anyio.sleep(1)
        assert rig.operation(spec).state is OperationState.SUCCEEDED
        assert rig.heard.about(OperationNews.STATE_CHANGED) == []
        assert await rig.supervisor.keeper.result(spec.id) == RESULT
        await anyio.sleep(10)
        assert len(rig.heard.about(OperationNews.STATE_CHANGED)) == 1
        assert await registry.result(spec.id) == RESULT
    (with_result,) = [batch for batch in registry.batches if batch.results]
    assert [entry.document["state"] for entry in with_result.puts] == ["succeeded"]


async def test_what_is_forgotten_is_deleted(clock):
    registry = SlowRegistry()
    rig = Rig(clock, service=FakeService(iter([Succeeded("Succeeded", RESULT)])), registry=registry)
    async with rig.running():
        lease, operation = rig.hold(), rig.follow()
        await anyio.sleep(1)
        assert set(await registry.documents()) == {lease.id, operation.id}
        for spec in (lease, operation):
            rig.supervisor.post(ForgetRequested(spec.id))
            assert await rig.supervisor.keeper.durable(spec.id)
        assert await registry.documents() == {}
        assert await registry.result(operation.id) is None


async def test_while_the_registry_cannot_be_written_locks_are_kept_and_everything_is_told(clock, capsys):
    registry = SlowRegistry()
    rig = Rig(clock, registry=registry)
    keeper = rig.supervisor.keeper
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(1)
        registry.fails = "the disk is full"
        rig.break_link(spec, epoch=1)
        await anyio.sleep(60)
        assert keeper.trouble == "the disk is full"
        assert rig.lease(spec).state is LeaseState.HELD
        assert [news.epoch for news in rig.heard.of(LeaseNews.REACQUIRED)] == [2]
        assert not await keeper.durable(spec.id)
        registry.fails = None
        await anyio.sleep(15)
        assert keeper.trouble is None
        assert await keeper.durable(spec.id)
        assert (await registry.documents())[spec.id]["epoch"] == 2
    assert keeper.failures > 3


async def test_a_first_request_is_not_sent_while_it_cannot_be_stored(clock, capsys):
    registry = SlowRegistry()
    registry.fails = "the disk is full"
    service = FakeService(iter([StillRunning(retry_after_s=20, ticket="t"), Succeeded("Succeeded", RESULT)]))
    rig = Rig(clock, service=service, registry=registry)
    async with rig.running():
        rig.follow()
        await anyio.sleep(30)
        assert service.asked_at == []
        registry.fails = None
        await anyio.sleep(15)
        assert [what for what, _ in service.asked_at] == ["submit"]
        registry.fails = "the disk is full again"
        await anyio.sleep(60)
        assert [what for what, _ in service.asked_at] == ["submit", "poll"]


async def test_flushing_waits_for_what_is_known_but_not_for_a_registry_that_fails(clock, capsys):
    registry = SlowRegistry()
    rig = Rig(clock, registry=registry)
    async with rig.running():
        registry.takes_s = 0.5
        specs = [rig.hold(f"s{number}") for number in range(3)]
        await anyio.sleep(0.1)
        await rig.supervisor.keeper.flush()
        assert [(await registry.documents())[spec.id]["state"] for spec in specs] == ["held"] * 3
        registry.fails = "the disk is full"
        rig.hold("s4")
        await rig.supervisor.keeper.flush()
        assert rig.supervisor.keeper.backlog == 1


async def test_flushing_ends_although_something_changes_all_the_time(clock):
    registry = SlowRegistry()
    rig = Rig(clock, registry=registry)
    async with rig.running() as tasks:
        spec = rig.hold()
        await anyio.sleep(1)
        registry.takes_s = 0.1

        async def change_and_change():
            while True:
                rig.supervisor.post(LeaseRevised(spec))
                await anyio.sleep(0.01)

        tasks.start_soon(change_and_change)
        await anyio.sleep(1)
        with anyio.fail_after(1):
            await rig.supervisor.keeper.flush()


async def test_a_callback_is_stored_with_the_state_that_it_tells_and_kept_until_it_is_delivered(clock):
    registry, post = SlowRegistry(), Post()
    rig = Rig(clock, registry=registry, deliveries=post)
    async with rig.running():
        registry.takes_s = 0.25
        spec = rig.hold()
        await anyio.sleep(0.4)
        assert post.sent == []
        await anyio.sleep(0.2)
        call = f"call-{spec.id}-acquired"
        assert post.sent == [call]
        stored = [{entry.id for entry in batch.puts} for batch in registry.batches]
        assert {spec.id, call} in stored
        assert call in await registry.documents()
        rig.supervisor.keeper.delivered(call)
        rig.supervisor.keeper.delivered(call)
        await rig.supervisor.keeper.flush()
        assert call not in await registry.documents()


async def test_a_callback_that_is_delivered_before_it_is_stored_is_not_stored(clock):
    registry, post = SlowRegistry(), Post()
    rig = Rig(clock, registry=registry, deliveries=post)
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(1)
        registry.takes_s = 0.25
        rig.break_link(spec, epoch=1, reason=LossReason.DETACHED)
        call = f"call-{spec.id}-lost"
        assert call in post.sent
        rig.supervisor.keeper.delivered(call)
        await rig.supervisor.keeper.flush()
        assert call not in await registry.documents()


async def test_a_lease_that_is_released_while_it_is_stored_ends_up_released(clock):
    registry = SlowRegistry()
    rig = Rig(clock, FakeBroker(latency_s=0.001), registry=registry)
    async with rig.running():
        registry.takes_s = 0.1
        spec = rig.hold()
        await anyio.sleep(0.05)
        rig.supervisor.post(LeaseReleaseRequested(spec.id))
        await rig.supervisor.keeper.flush()
        assert (await registry.documents())[spec.id]["state"] == "released"
    assert [news.news for news in rig.heard.leases] == [
        LeaseNews.REGISTERED,
        LeaseNews.ACQUIRED,
        LeaseNews.RELEASED,
    ]


async def test_what_never_can_be_stored_keeps_nothing_else_from_being_stored(clock, capsys):
    registry = SlowRegistry()
    rig = Rig(clock, registry=registry)
    keeper = rig.supervisor.keeper
    async with rig.running():
        odd = LeaseSpec(LeaseId("odd"), "servicebus.main", "orders", context={"asked": {"x": float("inf")}})
        rig.supervisor.post(LeaseRegistered(odd))
        spec = rig.hold()
        assert not await keeper.durable(odd.id)
        assert await keeper.durable(spec.id)
        assert keeper.trouble is None
        await anyio.sleep(1)
        assert set(await registry.documents()) == {spec.id}
        assert {news.spec.id for news in rig.heard.of(LeaseNews.ACQUIRED)} == {odd.id, spec.id}
        await keeper.flush()
    assert keeper.failures == 0


async def test_an_error_of_the_service_is_stored_even_where_it_is_hardly_json(clock):
    registry = SlowRegistry()
    error = {"code": float("inf"), "text": "\ud800"}
    rig = Rig(clock, service=FakeService(iter([Ended("failed", "Failed", error)])), registry=registry)
    async with rig.running():
        spec = rig.follow()
        await anyio.sleep(1)
        assert await rig.supervisor.keeper.durable(spec.id)
        document = (await registry.documents())[spec.id]
        assert (document["state"], document["error"]) == ("failed", {"code": None, "text": "?"})
