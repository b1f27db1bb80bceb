"""Pools of next available sessions: handed to whoever asks, given back when nobody does; in virtual time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import timedelta

import anyio
import pytest

from renewer.api.control import HoldRequest, Idempotency
from renewer.config import SessionSettings
from renewer.core.effects import LeaseNews
from renewer.core.events import LeaseReleaseRequested
from renewer.core.model import Owner
from renewer.core.states import LeaseState, LossReason, OwnerKind, is_over
from renewer.daemon.pools import SessionPools
from renewer.errors import AdmissionError, ConflictError
from renewer.registry import MemoryRegistry
from tests.daemon.daemon_rig import Desk, FakeBroker

pytestmark = pytest.mark.anyio


class Shelf(FakeBroker):
    """Gives each acquisition a session of its own, for as long as there are any."""

    def __init__(self, sessions: int = 1000) -> None:
        super().__init__()
        self.left = sessions
        self.given = 0
        self.takes_back = True

    async def acquire(self, spec, epoch):
        while not self.left:  # noqa: ASYNC110 - as a broker does that looks again
            await anyio.sleep(0.1)
        self.left -= 1
        grant = await super().acquire(spec, epoch)
        self.given += 1
        return type(grant)(grant.anchored_at, grant.duration_s, session_id=f"s{self.given}")

    async def release(self, spec, epoch):
        await super().release(spec, epoch)
        self.left += self.takes_back


class PoolDesk(Desk):
    def __init__(self, clock, broker=None, **options):
        super().__init__(clock, broker or Shelf(), **options)
        self.pools = SessionPools(
            self.supervisor, self.registrar, clock, may_begin=lambda: self.control.state == "ready"
        )
        self.supervisor._hooks.append(self.pools)
        self.control._pools = self.pools

    def counts(self):
        (reading,) = self.pools.readings()
        return reading.held, reading.acquiring, reading.taken

    def living(self):
        return [lease for lease in self.supervisor.scheduler.leases() if not is_over(lease.state)]


def pool(sessions: int = 2, **terms) -> SessionSettings:
    return SessionSettings(servicebus="main", entity="orders", sessions=sessions, **terms)


def wish(**more) -> HoldRequest:
    return HoldRequest("main", "Orders", **more)


@asynccontextmanager
async def desk(clock, *sections: SessionSettings, **options):
    rig = PoolDesk(clock, **options)
    async with rig.running() as tasks:
        rig.pools.apply(sections, rig.restored.configured)
        await tasks.start(rig.pools.run)
        await anyio.sleep(1)
        yield rig, rig.control


async def test_a_worker_is_given_the_session_that_has_waited_longest_at_once_and_on_its_own_terms(clock):
    async with desk(clock, pool(2, labels={"of": "pool"}, max_duration=timedelta(seconds=90))) as (rig, control):
        assert rig.counts() == (2, 0, 0)
        oldest = min(rig.living(), key=lambda lease: lease.acquired_at)
        await anyio.sleep(5)
        owner = Owner(OwnerKind.HEARTBEAT, ttl_s=30.0)
        lease, created = await control.hold(wish(owner=owner, labels={"of": "worker"}, reacquire=False))
        assert (lease, created, lease.state) == (oldest, True, LeaseState.HELD)
        assert (lease.spec.owner, lease.spec.labels) == (owner, {"of": "worker"})
        assert (lease.spec.policy.reacquire, lease.spec.policy.max_duration_s) == (False, 90.0)
        assert (lease.registered_at, lease.acquired_at) == (clock.now(), clock.now())
        assert rig.counts() == (1, 0, 1)
        told = [news.news for news in rig.heard.leases if news.spec.owner == owner]
        assert told == [LeaseNews.REGISTERED, LeaseNews.ACQUIRED]


async def test_when_none_is_held_yet_the_worker_gets_one_that_is_on_its_way(clock):
    shelf = Shelf(0)
    async with desk(clock, pool(1), broker=shelf) as (rig, control):
        lease, _ = await control.hold(wish(owner=Owner(OwnerKind.HEARTBEAT, ttl_s=600.0)))
        assert (lease.state, rig.counts()) == (LeaseState.ACQUIRING, (0, 0, 1))
        shelf.left = 1
        await control.wait_lease(lease.spec.id, lambda lease: lease.state is LeaseState.HELD, 10)
        assert (lease.state, lease.session_id) == (LeaseState.HELD, "s1")
        assert rig.heard.of(LeaseNews.REACQUIRED) == []


async def test_when_all_are_taken_the_next_worker_is_told_so(clock):
    async with desk(clock, pool(2)) as (_, control):
        first, _ = await control.hold(wish())
        second, _ = await control.hold(wish())
        assert first is not second
        with pytest.raises(AdmissionError, match="all 2 sessions of the pool for orders are taken") as refused:
            await control.hold(wish())
        assert refused.value.retry_after_s > 0
        await control.release(first.spec.id)
        third, _ = await control.hold(wish())
        assert third not in (first, second)


async def test_what_a_worker_releases_goes_back_to_the_broker_and_the_pool_accepts_the_next(clock):
    async with desk(clock, pool(1)) as (rig, control):
        lease, _ = await control.hold(wish())
        await control.release(lease.spec.id)
        assert rig.broker.releases == [lease.spec.id]
        await anyio.sleep(1)
        (free,) = rig.living()
        assert (free.spec.id == lease.spec.id, free.session_id, rig.counts()) == (False, "s2", (1, 0, 0))


async def test_the_session_of_a_worker_that_is_gone_makes_room_for_the_next(clock):
    async with desk(clock, pool(1)) as (rig, control):
        lease, _ = await control.hold(wish(owner=Owner(OwnerKind.HEARTBEAT, ttl_s=5.0)))
        await anyio.sleep(4)
        assert lease.state is LeaseState.HELD
        await anyio.sleep(3)
        assert (lease.state, lease.last_loss.reason) == (LeaseState.LOST, LossReason.OWNER_GONE)
        assert (rig.counts(), rig.broker.releases) == ((1, 0, 0), [lease.spec.id])


async def test_a_session_that_nobody_takes_is_given_back_and_the_next_one_accepted(clock):
    async with desk(clock, pool(1, idle_timeout=timedelta(seconds=20))) as (rig, control):
        (idle,) = rig.living()
        await anyio.sleep(18)
        assert rig.broker.releases == []
        await anyio.sleep(3)
        assert (idle.state, rig.broker.releases) == (LeaseState.RELEASED, [idle.spec.id])
        (free,) = rig.living()
        assert free.state is LeaseState.HELD
        assert rig.heard.of(LeaseNews.LOST) == []
        taken, _ = await control.hold(wish())
        await anyio.sleep(3600)
        assert (taken, taken.state, taken.epoch) == (free, LeaseState.HELD, 1)
        assert len(list(rig.supervisor.scheduler.leases())) == 1


async def test_a_free_session_that_is_lost_is_accepted_again_and_is_no_break_for_who_takes_it_then(clock):
    shelf = Shelf(1)
    async with desk(clock, pool(1, reacquire=False), broker=shelf) as (rig, control):
        (free,) = rig.living()
        shelf.takes_back = False
        rig.break_link(free.spec, 1)
        await anyio.sleep(1)
        assert free.state is LeaseState.ACQUIRING
        lease, _ = await control.hold(wish())
        assert (lease, lease.losses, lease.last_loss) == (free, 0, None)
        shelf.left = 1
        await anyio.sleep(20)
        assert lease.state is LeaseState.HELD
        assert rig.heard.of(LeaseNews.REACQUIRED) == []
        rig.break_link(lease.spec, lease.epoch)
        await anyio.sleep(1)
        assert (lease.state, lease.losses) == (LeaseState.LOST, 1)


async def test_with_one_idempotency_key_a_worker_takes_one_session(clock):
    async with desk(clock, pool(2)) as (rig, control):
        key = Idempotency("k", "same")
        first, created = await control.hold(wish(idempotency=key))
        again, created_again = await control.hold(wish(idempotency=key))
        assert (created, created_again, again) == (True, False, first)
        assert rig.counts() == (1, 0, 1)


async def test_who_asks_by_name_for_a_session_that_is_free_in_the_pool_is_given_it(clock):
    async with desk(clock, pool(3)) as (rig, control):
        lease, created = await control.hold(HoldRequest("main", "orders", session_id="s2", labels={"of": "worker"}))
        assert (created, lease.state, lease.session_id) == (True, LeaseState.HELD, "s2")
        assert (lease.spec.session_id, rig.counts()) == ("s2", (2, 0, 1))
        with pytest.raises(ConflictError, match="'s2' of orders is kept already"):
            await control.hold(HoldRequest("main", "orders", session_id="s2"))
        await control.release(lease.spec.id)
        await anyio.sleep(1)
        assert rig.counts() == (3, 0, 0)


async def test_a_request_for_a_session_by_name_or_for_another_entity_is_not_the_pools(clock):
    async with desk(clock, pool(1)) as (rig, control):
        await control.hold(HoldRequest("main", "orders", session_id="a"))
        await control.hold(HoldRequest("main", "invoices"))
        assert rig.counts() == (1, 0, 0)


async def test_after_a_restart_the_taken_is_still_the_workers_and_the_free_the_pools(clock):
    registry = MemoryRegistry()
    key = Idempotency("k", "same")
    async with desk(clock, pool(3), registry=registry) as (rig, control):
        taken, _ = await control.hold(wish(labels={"of": "worker"}, idempotency=key))
        known = {lease.spec.id for lease in rig.living()}
        await rig.supervisor.keeper.flush()
    async with desk(clock, pool(3), registry=registry) as (rig, control):
        assert {lease.spec.id for lease in rig.living()} == known
        await anyio.sleep(10)
        assert rig.counts() == (2, 0, 1)
        found, created = await control.hold(wish(labels={"of": "worker"}, idempotency=key))
        assert (created, found.spec.id, found.spec.labels) == (False, taken.spec.id, {"of": "worker"})
        assert {news.spec.id for news in rig.heard.of(LeaseNews.LOST)} == {taken.spec.id}


async def test_after_a_restart_with_a_smaller_pool_or_none_the_rest_is_forgotten(clock):
    registry = MemoryRegistry()
    async with desk(clock, pool(3), registry=registry) as (rig, control):
        taken, _ = await control.hold(wish())
        await rig.supervisor.keeper.flush()
    async with desk(clock, pool(2), registry=registry) as (rig, _):
        await anyio.sleep(10)
        assert rig.counts() == (1, 0, 1)
        await rig.supervisor.keeper.flush()
    async with desk(clock, registry=registry) as (rig, _):
        await anyio.sleep(10)
        assert [lease.spec.id for lease in rig.living()] == [taken.spec.id]


async def test_a_reload_grows_a_pool_and_shrinks_it_by_what_is_free(clock):
    async with desk(clock, pool(2)) as (rig, control):
        taken = [(await control.hold(wish()))[0] for _ in range(2)]
        rig.pools.apply([pool(4, labels={"new": "1"})])
        await anyio.sleep(1)
        assert rig.counts() == (2, 0, 2)
        free = [lease for lease in rig.living() if lease not in taken]
        rig.pools.apply([pool(3, labels={"new": "2"})])
        await anyio.sleep(1)
        assert rig.counts() == (1, 0, 2)
        kept = next(lease for lease in free if lease.state is LeaseState.HELD)
        assert (kept.spec.labels, kept.epoch, taken[0].spec.labels) == ({"new": "2"}, 1, {})
        rig.pools.apply([pool(1)])
        await anyio.sleep(1)
        assert rig.counts() == (0, 0, 2)
        await control.release(taken[0].spec.id)
        await anyio.sleep(10)
        assert rig.living() == [taken[1]]
        rig.pools.apply([])
        await anyio.sleep(10)
        assert (rig.living(), rig.pools.readings()) == ([taken[1]], [])


async def test_a_daemon_that_drains_hands_out_none_and_gives_back_what_is_free(clock):
    async with desk(clock, pool(2)) as (rig, control):
        taken, _ = await control.hold(wish())
        await control.drain(enabled=True, park=False)
        with pytest.raises(AdmissionError, match="draining"):
            await control.hold(wish())
        await anyio.sleep(10)
        assert rig.living() == [taken]
        await control.drain(enabled=False, park=False)
        await anyio.sleep(10)
        assert rig.counts() == (1, 0, 1)


async def test_what_is_parked_is_handed_to_nobody_and_is_the_pools_again_after_that(clock):
    async with desk(clock, pool(1, idle_timeout=timedelta(seconds=5))) as (rig, control):
        await control.drain(enabled=True, park=True)
        await anyio.sleep(30)
        (parked,) = rig.living()
        assert parked.is_parked
        assert rig.counts() == (0, 0, 0)
        await control.drain(enabled=False, park=False)
        await anyio.sleep(1)
        assert rig.counts() == (1, 0, 0)


async def test_what_is_at_risk_is_handed_to_nobody_and_counts_as_free_again_when_it_is_held(clock):
    answering = anyio.Event()
    shelf = Shelf(1)
    async with desk(clock, pool(1, reacquire=False), broker=shelf) as (rig, control):
        (lease,) = rig.living()
        shelf.after = lambda spec, number: answering.wait()
        await control.wait_lease(lease.spec.id, lambda lease: lease.state is LeaseState.AT_RISK, 100)
        assert (lease.state, rig.counts()) == (LeaseState.AT_RISK, (0, 0, 0))
        with pytest.raises(AdmissionError, match=r"^0 of the 1 sessions .* still held is not known"):
            await control.hold(wish())
        answering.set()
        await control.wait_lease(lease.spec.id, lambda lease: lease.state is LeaseState.HELD, 100)
        assert (lease.state, rig.counts()) == (LeaseState.HELD, (1, 0, 0))


async def test_many_workers_at_once_get_a_session_each_and_no_one_the_same(clock):
    async with desk(clock, pool(50)) as (rig, control):
        got = []

        async def work() -> None:
            lease, _ = await control.hold(wish(owner=Owner(OwnerKind.HEARTBEAT, ttl_s=600.0)))
            got.append(lease.spec.id)
            await anyio.sleep(2)
            await control.release(lease.spec.id)

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(work)
        assert len(set(got)) == 50
        await anyio.sleep(1)
        assert rig.counts() == (50, 0, 0)
        assert rig.broker.under_way == 0


async def test_a_lease_that_somebody_lets_go_of_by_hand_is_replaced(clock):
    async with desk(clock, pool(1)) as (rig, _):
        (free,) = rig.living()
        rig.supervisor.post(LeaseReleaseRequested(free.spec.id))
        await anyio.sleep(1)
        assert rig.counts() == (1, 0, 0)
        assert free not in rig.living()
