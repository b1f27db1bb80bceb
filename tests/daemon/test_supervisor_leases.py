"""The supervisor keeps locks, in virtual time, on both backends."""

from __future__ import annotations

import random

import anyio
import pytest

from renewer.core.effects import LeaseNews
from renewer.core.events import LeaseReleaseRequested
from renewer.core.states import LeaseState, LossReason
from renewer.core.timing import RenewalPolicy
from renewer.daemon.lanes import LaneLimits
from renewer.errors import TransientError
from tests.daemon.daemon_rig import FakeBroker, Rig

pytestmark = pytest.mark.anyio


async def test_a_session_is_renewed_before_half_its_lock_is_over_for_an_hour(clock):
    rig = Rig(clock)
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(3600)
    lease = rig.lease(spec)
    assert lease.state is LeaseState.HELD
    assert lease.epoch == 1
    assert 3600 / 5 - 1 <= lease.renewals <= 3600 / 4.5 + 1
    assert lease.min_margin_s >= 4.9
    assert rig.broker.expired == 0


async def test_an_hour_of_lost_and_refused_replies_loses_nothing(clock):
    dice = random.Random(7)

    async def after(_spec, _number):
        if dice.random() < 0.05:
            await anyio.sleep_forever()

    def before(_spec, _number):
        if dice.random() < 0.05:
            raise TransientError("busy", kind="busy")

    rig = Rig(clock, FakeBroker(duration_s=5.0, before=before, after=after), draw=random.Random(8).random)
    async with rig.running():
        specs = [rig.hold(f"s{i}") for i in range(5)]
        await anyio.sleep(3600)
    assert all(rig.lease(spec).state is LeaseState.HELD for spec in specs)
    assert rig.heard.of(LeaseNews.LOST, LeaseNews.AT_RISK) == []
    assert rig.broker.expired == 0


async def test_an_answer_that_comes_after_its_attempt_was_overdue_still_counts(clock):
    async def after(_spec, _number):
        await anyio.sleep(1.0)

    rig = Rig(clock, FakeBroker(duration_s=5.0, after=after))
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(600)
    assert rig.lease(spec).state is LeaseState.HELD
    assert rig.lease(spec).min_margin_s > 1.0
    assert rig.heard.of(LeaseNews.AT_RISK, LeaseNews.LOST) == []


async def test_a_broker_that_falls_silent_puts_the_lease_at_risk_at_expiry_and_then_it_is_lost(clock):
    async def before(_spec, _number):
        await anyio.sleep_forever()

    rig = Rig(clock, FakeBroker(before=before, latency_s=0.0))
    async with rig.running():
        started_at = anyio.current_time()
        rig.hold(policy=RenewalPolicy(reacquire=False))
        await anyio.sleep(60)
    (at_risk,) = rig.heard.of(LeaseNews.AT_RISK)
    (lost,) = rig.heard.of(LeaseNews.LOST)
    assert at_risk.at - started_at == pytest.approx(10.0, abs=0.01)
    assert lost.at - started_at == pytest.approx(20.0, abs=0.01)
    assert lost.reason is LossReason.EXPIRED


async def test_a_lost_link_is_told_at_once_and_the_session_accepted_again_as_a_new_epoch(clock):
    rig = Rig(clock)
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(1)
        lost_at = anyio.current_time()
        rig.break_link(spec, epoch=1)
        rig.break_link(spec, epoch=1)
        await anyio.sleep(1)
    (lost,) = rig.heard.of(LeaseNews.LOST)
    assert (lost.at, lost.reason, lost.epoch, lost.final) == (lost_at, LossReason.DETACHED, 1, False)
    (again,) = rig.heard.of(LeaseNews.REACQUIRED)
    assert again.epoch == 2
    assert rig.lease(spec).state is LeaseState.HELD


async def test_a_released_lease_is_given_back_before_release_returns(clock):
    rig = Rig(clock)
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(1)
        rig.supervisor.post(LeaseReleaseRequested(spec.id))
        await rig.supervisor.released(spec.id)
        assert rig.broker.releases == [spec.id]
        assert rig.broker.locked_until == {}
    assert rig.lease(spec).state is LeaseState.RELEASED


async def test_when_the_daemon_stops_every_lease_is_given_back_and_left_for_the_next_start(clock):
    rig = Rig(clock)
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(1)
        await rig.supervisor.park_all()
        assert rig.broker.releases == [spec.id]
        assert rig.broker.locked_until == {}
        await anyio.sleep(60)
    assert rig.lease(spec).state is LeaseState.ACQUIRING
    assert rig.broker.locked_until == {}


async def test_release_does_not_wait_for_ever_for_a_broker_that_does_not_answer(clock):
    rig = Rig(clock, FakeBroker(latency_s=0.0))
    async with rig.running():
        rig.hold()
        await anyio.sleep(1)
        rig.broker.latency_s = 1e6
        with anyio.fail_after(30):
            await rig.supervisor.park_all()


async def test_no_more_renewals_are_under_way_at_once_than_allowed(clock):
    rig = Rig(clock, FakeBroker(duration_s=30.0, latency_s=0.1), limits=LaneLimits(renew=10))
    async with rig.running():
        specs = [rig.hold(f"s{i}") for i in range(500)]
        await anyio.sleep(300)
    assert rig.broker.most_under_way == 10
    assert all(rig.lease(spec).state is LeaseState.HELD for spec in specs)
    assert rig.broker.expired == 0


async def test_a_namespace_that_answers_nothing_does_not_cost_another_one_its_locks(clock):
    silent = FakeBroker(duration_s=5.0, before=_never)
    rig = Rig(
        clock, FakeBroker(duration_s=5.0), other_brokers={"servicebus.silent": silent}, limits=LaneLimits(renew=16)
    )
    async with rig.running():
        for number in range(16):
            rig.hold(f"silent-{number}", target="servicebus.silent")
        specs = [rig.hold(f"s{number}") for number in range(3)]
        await anyio.sleep(60)
    assert all(rig.lease(spec).min_margin_s >= 2.4 for spec in specs)
    assert rig.broker.expired == 0


async def test_sessions_that_are_not_answered_do_not_cost_others_of_their_namespace_their_locks(clock):
    async def before(spec, number):
        if spec.id.startswith("silent"):
            await _never(spec, number)

    rig = Rig(clock, FakeBroker(duration_s=20.0, before=before), limits=LaneLimits(renew=20))
    async with rig.running():
        for number in range(20):
            rig.hold(f"silent-{number}", RenewalPolicy(reacquire=False))
        specs = [rig.hold(f"s{number}") for number in range(3)]
        await anyio.sleep(60)
    assert all(rig.lease(spec).losses == 0 for spec in specs)
    assert rig.heard.of(LeaseNews.LOST) != []
    assert rig.broker.expired == 0


async def test_those_who_wait_for_a_grant_do_not_keep_others_from_acquiring(clock):
    class Reluctant(FakeBroker):
        async def acquire(self, spec, epoch):
            if spec.id.startswith("waiting"):
                await anyio.sleep_forever()
            return await super().acquire(spec, epoch)

    rig = Rig(clock, Reluctant(), limits=LaneLimits(acquire=10))
    async with rig.running():
        for number in range(10):
            rig.hold(f"waiting-{number}")
        await anyio.sleep(0.1)
        spec = rig.hold()
        await anyio.sleep(3)
        assert rig.lease(spec).state is LeaseState.HELD


async def test_a_bug_in_a_target_costs_one_attempt_and_not_the_daemon(clock, capsys):
    def before(_spec, number):
        if number == 3:
            raise ZeroDivisionError

    rig = Rig(clock, FakeBroker(before=before))
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(60)
    (failed,) = rig.heard.of(LeaseNews.RENEW_FAILED)
    assert failed.failure == "garbage"
    assert rig.lease(spec).state is LeaseState.HELD


async def test_a_hook_that_raises_stops_nobody(clock, capsys):
    rig = Rig(clock)

    class Broken:
        def lease(self, news):
            raise ZeroDivisionError

        operation = lease

    rig.supervisor._hooks.insert(0, Broken())
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(60)
    assert rig.lease(spec).state is LeaseState.HELD
    assert len(rig.heard.of(LeaseNews.RENEWED)) > 10


async def test_the_wall_clock_moved_by_an_hour_changes_nothing(clock):
    rig = Rig(clock)
    async with rig.running():
        spec = rig.hold()
        for hours in (1, -1, 0):
            clock.offset = type(clock.offset)(hours=hours)
            await anyio.sleep(60)
    assert rig.lease(spec).min_margin_s >= 4.9
    assert rig.lease(spec).losses == 0


async def _never(_spec, _number):
    await anyio.sleep_forever()
