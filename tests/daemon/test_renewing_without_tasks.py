"""Renewals that have no task of their own go as all others do, and stalls of the event loop cost no lock."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import anyio
import pytest

from renewer.core.effects import CancelAttempt, LeaseNews, StartRenew
from renewer.core.events import LeaseNotSettled, LeaseReleaseRequested, LeaseRenewRequested, LeaseSettling
from renewer.core.model import Grant
from renewer.core.states import LeaseState, LossReason
from renewer.core.timing import RenewalPolicy
from renewer.daemon.lanes import LaneLimits
from renewer.errors import LeaseLostError, TransientError
from tests.daemon.daemon_rig import FakeBroker, PendingBroker, Rig
from tests.virtualtime import stall

pytestmark = pytest.mark.anyio

# Renewals of a 10 s lock begin at multiples of 0.25 s and are answered 5 ms later: none is under way then.
BETWEEN_RENEWALS = 60.1


class Measured:
    """Counts what is measured."""

    def __init__(self) -> None:
        self.lateness_s: list[float] = []
        self.durations_s: list[float] = []

    def attempts_started(self, kind: str, lateness_s: Sequence[float]) -> None:
        if kind == "renew":
            self.lateness_s += lateness_s

    def renewals_answered(self, duration_s: Sequence[float]) -> None:
        self.durations_s += duration_s


async def test_a_lease_is_renewed_at_half_its_lock_and_measured(clock):
    measured = Measured()
    rig = Rig(clock, PendingBroker(), observer=measured)
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(BETWEEN_RENEWALS)
        assert rig.lease(spec).state is LeaseState.HELD
        assert rig.lease(spec).min_margin_s >= 4.9
    renewed = len(rig.heard.of(LeaseNews.RENEWED))
    assert 11 <= renewed <= 14
    assert rig.broker.begun == len(measured.lateness_s) == len(measured.durations_s) == renewed
    assert max(measured.lateness_s) == pytest.approx(0.0, abs=1e-6)
    assert measured.durations_s == pytest.approx([0.005] * renewed)


async def test_what_fails_is_told_and_tried_again(clock):
    def before(_spec, number):
        if number == 2:
            raise TransientError("server busy", kind="busy")

    measured = Measured()
    rig = Rig(clock, PendingBroker(before=before), observer=measured)
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(BETWEEN_RENEWALS)
        assert rig.lease(spec).state is LeaseState.HELD
    (failed,) = rig.heard.of(LeaseNews.RENEW_FAILED)
    assert (failed.failure, failed.detail) == ("busy", "server busy")
    assert rig.broker.begun == len(measured.lateness_s) == len(measured.durations_s)


async def test_the_brokers_final_word_is_the_end_of_the_epoch(clock):
    def before(_spec, number):
        if number == 2:
            raise LeaseLostError("the lock is gone", reason=LossReason.EXPIRED)

    rig = Rig(clock, PendingBroker(before=before))
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(30)
        assert rig.lease(spec).epoch == 2
    (lost,) = rig.heard.of(LeaseNews.LOST)
    assert (lost.reason, lost.detail) == (LossReason.EXPIRED, "the lock is gone")


async def test_answers_that_come_after_the_next_attempt_began_count(clock):
    rig = Rig(clock, PendingBroker(duration_s=5.0, latency_s=1.5))
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(60)
        assert rig.lease(spec).losses == 0
        # A renewal is due at half the lock, up to a tenth of that earlier, and is answered 1.5 s later.
        assert 0.99 <= rig.lease(spec).min_margin_s <= 1.3
    assert rig.heard.of(LeaseNews.AT_RISK) == []


async def test_a_renewal_that_nobody_wants_any_longer_is_cancelled(clock):
    rig = Rig(clock, PendingBroker(latency_s=2.0))
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(5.2)
        assert rig.broker.under_way == 1
        rig.supervisor.post(LeaseReleaseRequested(spec.id))
        await rig.supervisor.released(spec.id)
        assert rig.broker.under_way == 0
        assert rig.broker.cancelled == 1
        await anyio.sleep(10)
    assert rig.heard.of(LeaseNews.RENEWED) == []
    assert rig.lease(spec).state is LeaseState.RELEASED


async def test_a_renewal_that_is_never_answered_is_given_up_when_it_can_save_nothing_any_longer(clock):
    async def before(_spec, number):
        if number == 1:
            await anyio.sleep_forever()

    rig = Rig(clock, PendingBroker(before=before))
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(18)
        assert rig.broker.cancelled == 0
        await anyio.sleep(5)
        assert rig.broker.cancelled == 1
        assert rig.lease(spec).state is LeaseState.HELD
        assert rig.lease(spec).losses == 0


async def test_renewals_without_tasks_are_bounded_like_those_with(clock):
    rig = Rig(clock, PendingBroker(duration_s=30.0, latency_s=0.1), limits=LaneLimits(renew=10))
    async with rig.running():
        specs = [rig.hold(f"s{number}") for number in range(500)]
        await anyio.sleep(300)
        assert all(rig.lease(spec).state is LeaseState.HELD for spec in specs)
    assert rig.broker.most_under_way == 10
    assert rig.broker.expired == 0


async def test_where_nothing_can_be_asked_without_a_task_there_is_one(clock):
    class Choosy(PendingBroker):
        def begin_renewal(self, spec, epoch, answered):
            return None if self.renewals % 2 else super().begin_renewal(spec, epoch, answered)

    rig = Rig(clock, Choosy())
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(60)
        assert rig.lease(spec).min_margin_s >= 4.9
    assert 0 < rig.broker.begun < rig.broker.renewals


async def test_a_bug_there_costs_nobody_anything(clock, capsys):
    class Broken(PendingBroker):
        def begin_renewal(self, spec, epoch, answered):
            raise ZeroDivisionError

    rig = Rig(clock, Broken())
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(60)
        assert rig.lease(spec).min_margin_s >= 4.9
    assert rig.heard.of(LeaseNews.RENEW_FAILED) == []


async def test_an_answer_that_is_there_at_once_is_taken_in(clock):
    class Prompt(PendingBroker):
        def begin_renewal(self, spec, epoch, answered):
            self.begun += 1
            renewal = Answered(Grant(anyio.current_time(), self.duration_s))
            answered(renewal)
            return renewal

    rig = Rig(clock, Prompt())
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(60)
        assert rig.lease(spec).min_margin_s >= 4.9
    assert rig.broker.begun == len(rig.heard.of(LeaseNews.RENEWED)) > 10


async def test_what_was_cancelled_while_it_waited_for_a_place_does_not_keep_the_next_attempt_from_it(clock):
    class Noting(PendingBroker):
        def begin_renewal(self, spec, epoch, answered):
            self.asked_for.append(spec.id)
            return super().begin_renewal(spec, epoch, answered)

    rig = Rig(clock, Noting(latency_s=0.4), limits=LaneLimits(renew=1))
    rig.broker.asked_for = []
    async with rig.running():
        first, second = rig.hold("a"), rig.hold("b")
        await anyio.sleep(4)
        for spec in (first, second):
            rig.supervisor.post(LeaseRenewRequested(spec.id))
        await anyio.sleep(0.1)
        assert (rig.broker.begun, rig.broker.under_way) == (1, 1)
        # Who wanted to settle its message was refused, and asks at once how the lock stands.
        waiting = second if rig.broker.asked_for == ["a"] else first
        rig.supervisor.post(LeaseSettling(waiting.id, 1))
        rig.supervisor.post(LeaseNotSettled(waiting.id, 1))
        await anyio.sleep(0.8)
        assert rig.lease(waiting).renewals == 1


async def test_whatever_becomes_of_renewals_all_places_are_free_again_and_nothing_is_remembered(clock, capsys):
    random = Random(7)

    async def before(_spec, _number):
        fate = random.random()
        if fate < 0.05:
            await anyio.sleep_forever()
        if fate < 0.2:
            raise TransientError("server busy", kind="busy")
        if fate < 0.25:
            raise LeaseLostError("the lock is gone", reason=LossReason.EXPIRED)
        await anyio.sleep(3 * random.random())

    class Fickle(PendingBroker):
        def begin_renewal(self, spec, epoch, answered):
            fate = random.random()
            if fate < 0.01:
                raise ZeroDivisionError
            if fate < 0.1:
                return None
            if fate < 0.2:
                answered(renewal := Answered(Grant(anyio.current_time(), self.duration_s)))
                return renewal
            return super().begin_renewal(spec, epoch, answered)

    rig = Rig(clock, Fickle(duration_s=5.0, before=before), limits=LaneLimits(renew=5))
    async with rig.running():
        specs = [rig.hold(f"s{number}") for number in range(20)]
        for _ in range(200):
            await anyio.sleep(0.5 * random.random())
            lease = rig.lease(random.choice(specs))
            if random.random() < 0.3:
                rig.break_link(lease.spec, lease.epoch)
            else:
                rig.supervisor.post(LeaseSettling(lease.spec.id, lease.epoch))
                rig.supervisor.post(LeaseNotSettled(lease.spec.id, lease.epoch))
        for spec in specs:
            rig.supervisor.post(LeaseReleaseRequested(spec.id))
        await anyio.sleep(30)
        runner = rig.supervisor._runner
        assert rig.broker.begun > 200
        assert rig.broker.under_way == 0
        assert not any((runner._pending, runner._scopes, runner._waiting, runner._releases))
        assert all(lane.is_idle for lane in runner._lanes.values())
    lost = [(news.spec.id, news.epoch) for news in rig.heard.of(LeaseNews.LOST)]
    assert len(lost) == len(set(lost)) > 20


async def test_what_is_started_and_cancelled_in_one_go_is_not_begun(clock):
    rig = Rig(clock, PendingBroker())
    async with rig.running():
        spec = rig.hold()
        await anyio.sleep(1)
        until = anyio.current_time() + 5
        start = StartRenew(spec, 1, 77, abandon_at=until, patience_s=1.0, due_at=0.0, expires_at=until)
        rig.supervisor._perform([start, CancelAttempt(spec.id, 77)])
        await anyio.sleep(1)
        assert rig.broker.begun == 0


class Answered:
    """A renewal that was granted."""

    def __init__(self, grant: Grant) -> None:
        self.grant = grant

    async def finish(self) -> Grant:
        raise AssertionError

    def cancel(self) -> None:
        raise AssertionError


# Stalls -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lock_s", "stall_s"), [(5.0, 2.0), (30.0, 10.0)])
@pytest.mark.parametrize("kind", [FakeBroker, PendingBroker])
async def test_stalls_of_the_event_loop_that_half_a_lock_allows_lose_none_of_a_thousand(clock, kind, lock_s, stall_s):
    rig = Rig(clock, kind(duration_s=lock_s))
    async with rig.running():
        specs = [rig.hold(f"s{number}") for number in range(1_000)]
        for _ in range(2):
            await anyio.sleep(1.17 * lock_s)
            stall(stall_s)
        await anyio.sleep(lock_s / 2)
        assert all(rig.lease(spec).losses == 0 for spec in specs)
        # Due at half the lock, and a little for the way to the broker and back.
        assert min(rig.lease(spec).min_margin_s for spec in specs) > lock_s / 2 - stall_s - 0.05
    assert rig.heard.of(LeaseNews.AT_RISK, LeaseNews.LOST) == []
    assert rig.broker.expired == 0


@pytest.mark.parametrize("kind", [FakeBroker, PendingBroker])
async def test_after_a_stall_the_lock_that_ends_first_is_renewed_first(clock, kind):
    class Mixed(kind):
        """Locks of 5 s and of 30 s; notes in which order they are asked for."""

        def __init__(self) -> None:
            super().__init__()
            self.asked_for: list[float] = []

        async def acquire(self, spec, epoch):
            grant = await super().acquire(spec, epoch)
            return Grant(grant.anchored_at, self._lock_s(spec), session_id=grant.session_id)

        def begin_renewal(self, spec, epoch, answered):
            if kind is FakeBroker:
                return None
            self.asked_for.append(rig.lease(spec).expires_at)
            return super().begin_renewal(spec, epoch, answered)

        async def renew(self, spec, epoch):
            if kind is FakeBroker:
                self.asked_for.append(rig.lease(spec).expires_at)
            grant = await super().renew(spec, epoch)
            return Grant(grant.anchored_at, self._lock_s(spec))

        def _lock_s(self, spec) -> float:
            return 5.0 if spec.id.startswith("short") else 30.0

    rig = Rig(clock, Mixed())
    async with rig.running():
        for number in range(100):
            rig.hold(f"short-{number}", RenewalPolicy(jitter=0.3))
            rig.hold(f"long-{number}", RenewalPolicy(jitter=0.3))
            await anyio.sleep(0.1)
        await anyio.sleep(31.7)
        rig.broker.asked_for.clear()
        stall(2.0)
        await anyio.sleep(0.001)
        asked_for = list(rig.broker.asked_for)
    assert len(asked_for) > 60
    assert asked_for == sorted(asked_for)
    assert max(asked_for) - min(asked_for) > 5.0
