"""A whole broker in virtual time: what we say of the lock is true at every step, and the lock is kept."""

from __future__ import annotations

import os
from random import Random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from renewer.core.effects import LeaseNews
from renewer.core.states import LeaseState
from renewer.core.timing import RenewalPolicy
from tests.core.brokersim import Lock, Weather, World

SEEDS = 2_000 if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else 100


def ten_minutes(seed: int, weather: Weather, *, lock_s: float = 5.0, policy: RenewalPolicy | None = None) -> World:
    world = World(Random(seed), Lock(lock_s), weather, RenewalPolicy() if policy is None else policy)
    world.register()
    world.run(600.0)
    return world


def test_a_five_second_lock_is_kept_with_a_second_to_spare_though_one_answer_in_fifty_is_lost_or_busy() -> None:
    smallest = []
    for seed in range(SEEDS):
        world = ten_minutes(seed, Weather(lost=0.02, busy=0.02))
        assert world.lease.state is LeaseState.HELD
        assert world.news(LeaseNews.LOST, LeaseNews.AT_RISK) == []
        smallest.append(min(world.margins()))
    assert min(smallest) > 1.0


def test_a_lock_is_kept_though_every_fifth_request_or_reply_is_lost() -> None:
    for seed in range(20):
        world = ten_minutes(seed, Weather(lost=0.2), lock_s=30.0)
        assert world.news(LeaseNews.LOST) == []


@pytest.mark.parametrize(("lock_s", "round_trip_s"), [(5.0, 1.0), (5.0, 1.5), (30.0, 6.0), (30.0, 9.0)])
def test_a_broker_with_a_third_of_the_lock_of_latency_costs_nothing(lock_s: float, round_trip_s: float) -> None:
    world = ten_minutes(1, Weather(latency_s=(round_trip_s / 2, round_trip_s / 2)), lock_s=lock_s)
    assert world.news(LeaseNews.LOST, LeaseNews.AT_RISK) == []
    assert min(world.margins()) == pytest.approx(lock_s / 2 - round_trip_s, abs=lock_s / 40)


@pytest.mark.parametrize(("lock_s", "round_trip_s"), [(5.0, 2.0), (5.0, 2.4), (30.0, 12.0), (30.0, 14.4)])
def test_a_broker_with_half_a_lock_of_latency_may_cost_alarms_but_never_the_lock(
    lock_s: float, round_trip_s: float
) -> None:
    world = ten_minutes(1, Weather(latency_s=(round_trip_s / 2, round_trip_s / 2)), lock_s=lock_s)
    assert world.news(LeaseNews.LOST) == []
    alarms, recoveries = len(world.news(LeaseNews.AT_RISK)), len(world.news(LeaseNews.RECOVERED))
    assert alarms - recoveries in (0, 1)


def test_a_broker_that_falls_silent_is_told_at_risk_and_then_lost_and_acquired_again_when_it_is_back() -> None:
    world = ten_minutes(1, Weather())
    world.weather.lost = 1.0
    world.run(60.0)
    world.weather.lost = 0.0
    world.run(120.0)
    assert [news.news for news in world.told if news.news is not LeaseNews.RENEWED and not news.failure] == [
        LeaseNews.REGISTERED,
        LeaseNews.ACQUIRED,
        LeaseNews.AT_RISK,
        LeaseNews.LOST,
        LeaseNews.REACQUIRED,
    ]


class BrokerInBadWeather(RuleBasedStateMachine):
    """Whatever the weather: what we say is true at every step, and when it clears up the lock is ours again."""

    @initialize(seed=st.integers(0, 2**32), lock_s=st.sampled_from([5.0, 30.0, 60.0]))
    def begin(self, seed: int, lock_s: float) -> None:
        self.world = World(Random(seed), Lock(lock_s), Weather())
        self.world.register()

    @rule(span_s=st.floats(0.0, 60.0))
    def time_passes(self, span_s: float) -> None:
        self.world.run(span_s)

    @rule(
        lost=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
        busy=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
        latency_s=st.sampled_from([(0.001, 0.01), (0.1, 0.4), (0.0, 3.0), (2.0, 10.0)]),
    )
    def the_weather_changes(self, lost: float, busy: float, latency_s: tuple[float, float]) -> None:
        self.world.weather = Weather(lost, busy, latency_s)

    @rule()
    def the_broker_drops_the_link(self) -> None:
        self.world.detach()

    @rule(span_s=st.floats(0.0, 100.0))
    def the_daemon_stands_still(self, span_s: float) -> None:
        self.world.stall(span_s)

    @rule(span_s=st.floats(1.0, 40.0))
    def a_rival_takes_the_lock_if_it_is_free(self, span_s: float) -> None:
        lock = self.world.lock
        if lock.epoch is None or lock.locked_until <= self.world.now:
            lock.epoch, lock.locked_until = -1, self.world.now + span_s

    @rule()
    def the_owner_is_done(self) -> None:
        self.world.release()

    @invariant()
    def what_is_told_is_true(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.weather = Weather()
        self.world.run(400.0)
        if self.world.lease.state is LeaseState.RELEASED:
            assert self.world.lock.epoch in (None, -1)
        else:
            assert self.world.lease.state is LeaseState.HELD
            assert self.world.lock.held_by(self.world.lease.epoch, self.world.now)
        lost = [news.epoch for news in self.world.news(LeaseNews.LOST)]
        assert len(lost) == len(set(lost))


TestBrokerInBadWeather = BrokerInBadWeather.TestCase
