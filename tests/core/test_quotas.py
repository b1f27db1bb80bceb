from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.core.effects import StartPoll
from renewer.core.events import (
    ForgetRequested,
    OperationAnswered,
    OperationAttemptFailed,
    OperationRegistered,
    OperationRestored,
)
from renewer.core.model import Ended, OperationId, OperationSpec, StillRunning, Transient
from renewer.core.past import OperationPast
from renewer.core.quotas import (
    FEW,
    LONGEST_PAUSE_S,
    POLL_PATIENCE_S,
    SPREAD_S,
    UNASKED_PAUSE_CAP_S,
    Limit,
    Quota,
    QuotaReading,
    Quotas,
)
from renewer.core.scheduler import Scheduler
from renewer.core.states import OperationState
from renewer.core.timing import PollPolicy

FREE = Quota("free", at_once=10_000)


def starts(quotas: Quotas, until: float, *, ends_at_once: bool = True) -> list[tuple[float, str]]:
    """Let everybody go whose turn comes up to `until`."""
    gone: list[tuple[float, str]] = []
    while (at := quotas.next_due()) is not None and at <= until:
        now = max(at, gone[-1][0] if gone else at)
        for key in quotas.ready(now, 1000):
            gone.append((now, key))
            if ends_at_once:
                quotas.ended(key, now)
    return gone


def test_what_a_quota_allows_begins_at_once() -> None:
    quotas = Quotas()
    assert all(quotas.admit(str(number), Quota("q", Limit(3, 60.0)), "poll", 0.0, 0.0) for number in range(3))
    for number in range(3):
        quotas.ended(str(number), 0.0)
    assert not quotas.admit("3", Quota("q", Limit(3, 60.0)), "poll", 0.0, 59.999)
    assert quotas.next_due() == 60.0


def test_the_window_of_a_limit_moves_with_each_request() -> None:
    quotas, quota = Quotas(), Quota("q", Limit(2, 60.0))
    for at in (0.0, 50.0):
        assert quotas.admit(f"at {at}", quota, "poll", at, at)
        quotas.ended(f"at {at}", at)
    assert not quotas.admit("a", quota, "poll", 55.0, 55.0)
    assert not quotas.admit("b", quota, "poll", 56.0, 56.0)
    assert starts(quotas, 1000.0) == [(60.0, "a"), (110.0, "b")]


def test_a_request_counts_until_so_long_after_its_answer() -> None:
    quotas, quota = Quotas(), Quota("q", Limit(2, 60.0))
    for key in "ab":
        assert quotas.admit(key, quota, "poll", 0.0, 0.0)
    assert not quotas.admit("c", quota, "poll", 0.0, 0.0)
    assert quotas.next_due() is None
    quotas.ended("a", 20.0)
    assert quotas.next_due() == 80.0
    quotas.ended("b", 25.0)
    assert starts(quotas, 1000.0) == [(80.0, "c")]


def test_no_more_are_under_way_than_may_be_at_once() -> None:
    quotas, quota = Quotas(), Quota("q", at_once=2)
    assert [quotas.admit(key, quota, "poll", 0.0, 0.0) for key in "abc"] == [True, True, False]
    assert quotas.next_due() is None
    assert quotas.ready(1.0, 10) == []
    quotas.ended("a", 0.0)
    assert quotas.ready(1.0, 10) == ["c"]


def test_who_fell_due_first_goes_first_but_mere_polls_go_last() -> None:
    quotas, quota = Quotas(), Quota("q", at_once=1)
    quotas.admit("busy", quota, "poll", 0.0, 0.0)
    for key, asking, due_at in (("p2", "poll", 2.0), ("p1", "poll", 1.0), ("f3", "fetch", 3.0), ("s4", "submit", 4.0)):
        assert not quotas.admit(key, quota, asking, due_at, 5.0)
    order = ["busy"]
    while quotas.ended(order[-1], 9.0) or quotas.next_due() is not None:
        order += quotas.ready(9.0, 10)
    assert order == ["busy", "f3", "s4", "p1", "p2"]


def test_nobody_overtakes_those_who_wait() -> None:
    quotas, quota = Quotas(), Quota("q", Limit(1, 10.0))
    quotas.admit("first", quota, "poll", 0.0, 0.0)
    quotas.ended("first", 0.0)
    assert not quotas.admit("second", quota, "poll", 1.0, 1.0)
    assert not quotas.admit("third", quota, "poll", 10.0, 10.0)
    assert quotas.ready(10.0, 10) == ["second"]


def test_who_leaves_is_not_named_any_longer_and_can_come_again() -> None:
    quotas, quota = Quotas(), Quota("q", at_once=1)
    quotas.admit("busy", quota, "poll", 0.0, 0.0)
    for key in "ab":
        quotas.admit(key, quota, "poll", 0.0, 0.0)
    quotas.leave("a", "q", 0.0)
    quotas.leave("a", "no quota", 0.0)
    quotas.leave("never was", "q", 0.0)
    quotas.admit("a", quota, "poll", 9.0, 9.0)
    quotas.ended("busy", 9.0)
    assert quotas.ready(9.0, 10) == ["b"]
    quotas.ended("b", 9.0)
    assert quotas.ready(9.0, 10) == ["a"]
    assert quotas.ready(9.0, 10) == []


def test_those_who_fill_a_limit_are_paced_and_do_not_come_in_bursts() -> None:
    quotas, quota = Quotas(), Quota("q", Limit(60, 60.0))
    for number in range(60):
        assert quotas.admit(f"first {number}", quota, "poll", 0.0, 0.0)
        quotas.ended(f"first {number}", 0.0)
    for number in range(100):
        quotas.admit(f"{number}", quota, "poll", 0.0, 0.0)
    times = [at for at, _ in starts(quotas, 1000.0)]
    assert len(times) == 100
    assert times[0] == 60.0
    assert all(0.9 < later - earlier < 1.1 for earlier, later in itertools.pairwise(times[1:]))


def test_one_throttled_request_pauses_its_quota_and_no_other() -> None:
    quotas = Quotas()
    quotas.admit("a", FREE, "poll", 0.0, 0.0)
    quotas.throttled("a", 30.0, 1.0)
    quotas.ended("a", 1.0)
    assert quotas.admit("other", Quota("other"), "poll", 2.0, 2.0)
    assert not quotas.admit("b", FREE, "poll", 2.0, 2.0)
    assert next(iter(quotas.readings(2.0))) == QuotaReading("free", 1, 0, 31.0, 1)
    assert starts(quotas, 30.999) == []
    assert starts(quotas, 31.0) == [(31.0, "b")]
    assert next(iter(quotas.readings(31.0))) == QuotaReading("free", 0, 0, None, 1)


def test_those_who_waited_out_a_pause_are_spread() -> None:
    quotas = Quotas()
    quotas.admit("a", FREE, "poll", 0.0, 0.0)
    quotas.throttled("a", 30.0, 0.0)
    quotas.ended("a", 0.0)
    for number in range(1000):
        quotas.admit(str(number), FREE, "poll", 0.0, 0.0)
    times = [at for at, _ in starts(quotas, 1000.0)]
    assert len(times) == 1000
    assert times[0] == 30.0
    assert times[-1] == pytest.approx(30.0 + SPREAD_S, abs=0.1)
    assert max(sum(begin <= at < begin + 1.0 for at in times) for begin in range(30, 41)) <= 110
    assert quotas.admit("later", FREE, "poll", 50.0, 50.0)


def test_those_who_come_while_others_are_spread_do_not_wait_at_their_pace() -> None:
    quotas = Quotas()
    assert quotas.admit("first", FREE, "poll", 0.0, 0.0)
    quotas.throttled("first", 30.0, 0.0)
    quotas.ended("first", 0.0)
    for key in ("a", "b"):
        assert not quotas.admit(key, FREE, "poll", 1.0, 1.0)
    assert quotas.ready(30.0, 1000) == ["a"]
    quotas.ended("a", 30.0)
    for number in range(1000):
        assert not quotas.admit(f"late {number}", FREE, "poll", 31.0, 31.0)
    went = starts(quotas, 1000.0)
    assert len(went) == 1001
    assert went[-1][0] == pytest.approx(30.0 + SPREAD_S, abs=0.1)
    assert quotas.admit("later", FREE, "poll", 41.0, 41.0)


def test_a_spread_that_nobody_needed_is_over_when_its_time_is() -> None:
    quotas, narrow = Quotas(), Quota("narrow", at_once=1)
    assert quotas.admit("first", narrow, "poll", 0.0, 0.0)
    quotas.throttled("first", 30.0, 0.0)
    quotas.ended("first", 0.0)
    assert quotas.admit("second", narrow, "poll", 3600.0, 3600.0)
    for key in ("a", "b", "c"):
        assert not quotas.admit(key, narrow, "poll", 3600.0, 3600.0)
    for before, key in itertools.pairwise(("second", "a", "b", "c")):
        quotas.ended(before, 3600.0)
        assert quotas.ready(3600.0, 1000) == [key]


def test_a_pause_is_as_long_as_the_longest_that_was_asked_for() -> None:
    quotas = Quotas()
    for key in "abc":
        quotas.admit(key, FREE, "poll", 0.0, 0.0)
    for key, asked_s in (("a", 10.0), ("b", 50.0), ("c", 20.0)):
        quotas.throttled(key, asked_s, 0.0)
    assert [reading.paused_until for reading in quotas.readings(0.0)] == [50.0]
    assert [reading.pauses for reading in quotas.readings(0.0)] == [1]


@pytest.mark.parametrize("asked_s", [None, 0.0, -5.0, float("nan")])
def test_where_no_time_is_named_pauses_grow_until_a_request_is_answered(asked_s: float | None) -> None:
    quotas, now, lengths = Quotas(), 0.0, []
    for _ in range(9):
        quotas.admit("a", FREE, "poll", now, now)
        quotas.throttled("a", asked_s, now)
        quotas.ended("a", now)
        (until,) = [reading.paused_until for reading in quotas.readings(now)]
        assert until is not None
        lengths.append(until - now)
        now = until
    assert lengths == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0] + [UNASKED_PAUSE_CAP_S] * 3
    quotas.admit("a", FREE, "poll", now, now)
    quotas.answered("a")
    quotas.throttled("a", asked_s, now)
    assert [reading.paused_until for reading in quotas.readings(now)] == [now + 1.0]


def test_no_pause_is_endless() -> None:
    quotas = Quotas()
    quotas.admit("a", FREE, "poll", 0.0, 0.0)
    quotas.throttled("a", float("inf"), 0.0)
    assert [reading.paused_until for reading in quotas.readings(0.0)] == [LONGEST_PAUSE_S]


def test_a_quota_takes_on_what_the_configuration_says_now() -> None:
    quotas = Quotas()
    assert quotas.admit("a", Quota("q", at_once=1), "poll", 0.0, 0.0)
    assert not quotas.admit("b", Quota("q", at_once=1), "poll", 0.0, 0.0)
    assert not quotas.admit("c", Quota("q", at_once=3), "poll", 0.0, 0.0)
    assert quotas.ready(0.0, 10) == ["b", "c"]


def test_quotas_out_of_use_are_not_kept_without_end() -> None:
    quotas = Quotas()
    for number in range(10 * FEW):
        now = 100.0 * number
        quotas.admit("a", Quota(f"host {number}", Limit(5, 60.0)), "poll", now, now)
        quotas.ended("a", now)
    assert len(list(quotas.readings(0.0))) <= FEW


def test_a_request_that_need_not_be_made_keeps_nobody_waiting() -> None:
    quotas, quota = Quotas(), Quota("q", Limit(4, 60.0))
    assert quotas.is_at_ease(quota, 0.0)
    quotas.admit("a", quota, "poll", 0.0, 0.0)
    assert quotas.is_at_ease(quota, 0.0)
    quotas.admit("b", quota, "poll", 0.0, 0.0)
    assert not quotas.is_at_ease(quota, 0.0)
    quotas.ended("a", 0.0)
    quotas.ended("b", 0.0)
    assert not quotas.is_at_ease(quota, 59.0)
    assert quotas.is_at_ease(quota, 60.0)
    full = Quota("full", at_once=1)
    quotas.admit("c", full, "poll", 0.0, 0.0)
    assert not quotas.is_at_ease(full, 0.0)


@given(
    count=st.integers(1, 5),
    span_s=st.sampled_from([0.5, 1.0, 60.0]),
    arrivals=st.lists(st.tuples(st.floats(0.0, 20.0), st.floats(0.0, 3.0)), max_size=40),
    pauses=st.lists(st.integers(0, 39), max_size=3),
    at_once=st.integers(1, 4),
)
def test_whatever_comes_a_limit_holds_and_everybody_has_their_turn(
    count: int, span_s: float, arrivals: list[tuple[float, float]], pauses: list[int], at_once: int
) -> None:
    quotas, quota = Quotas(), Quota("q", Limit(count, span_s), at_once)
    begun: list[float] = []
    under_way: dict[str, float] = {}
    coming = sorted((at, str(number), takes_s) for number, (at, takes_s) in enumerate(arrivals))
    takes = {key: takes_s for _, key, takes_s in coming}
    now, paused_until = 0.0, 0.0
    while coming or under_way or quotas.next_due() is not None:
        moments = [at for at, _, _ in coming[:1]] + list(under_way.values())
        due_at = quotas.next_due()
        now = max(now, min(moments + ([] if due_at is None else [due_at])))
        for key in [key for key, at in under_way.items() if at <= now]:
            if int(key) in pauses:
                quotas.throttled(key, 5.0, now)
                paused_until = now + 5.0
            quotas.ended(key, now)
            del under_way[key]
        going = quotas.ready(now, 100)
        while coming and coming[0][0] <= now:
            at, key, _ = coming.pop(0)
            if quotas.admit(key, quota, "poll", at, now):
                going.append(key)
        for key in going:
            assert now >= paused_until
            begun.append(now)
            under_way[key] = now + takes[key]
        assert len(under_way) <= at_once
    assert len(begun) == len(arrivals)
    # To the last digit: a request that began at t counts until just before t + span.
    assert all(later >= earlier + span_s for earlier, later in zip(begun, begun[count:], strict=False))


@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 2), st.integers(0, 3), st.none() | st.integers(0, 5)), max_size=40
    ),
    pauses=st.sets(st.integers(0, 39), max_size=3),
)
def test_of_several_quotas_each_lets_its_own_go_and_nobody_who_left(
    arrivals: list[tuple[int, int, int, int | None]], pauses: set[int]
) -> None:
    allows = [Quota("a", Limit(2, 3.0)), Quota("b", at_once=1), Quota("c", Limit(3, 1.0), at_once=2)]
    quotas = Quotas()
    coming = sorted((at, str(number)) for number, (at, _, _, _) in enumerate(arrivals))
    under_way: dict[str, float] = {}
    leaving: dict[str, float] = {}
    gone: set[str] = set()
    now = 0.0
    while coming or under_way or leaving or quotas.next_due() is not None:
        due_at = quotas.next_due()
        moments = [float(at) for at, _ in coming[:1]] + [*under_way.values(), *leaving.values()]
        now = max(now, min(moments + ([] if due_at is None else [due_at])))
        for key in [key for key, at in leaving.items() if at <= now]:
            del leaving[key]
            quotas.leave(key, allows[arrivals[int(key)][1]].name, now)
            gone.add(key)
        for key in [key for key, at in under_way.items() if at <= now]:
            if int(key) in pauses:
                quotas.throttled(key, 5.0, now)
            quotas.ended(key, now)
            del under_way[key]
        going = quotas.ready(now, 100)
        later = quotas.next_due()
        assert later is None or later > now
        while coming and coming[0][0] <= now:
            key = coming.pop(0)[1]
            at, which, _, leaves_after = arrivals[int(key)]
            if quotas.admit(key, allows[which], "poll", at, now):
                going.append(key)
            elif leaves_after is not None:
                leaving[key] = now + leaves_after
        for key in going:
            assert key not in gone
            leaving.pop(key, None)
            gone.add(key)
            under_way[key] = now + arrivals[int(key)][2]
    assert len(gone) == len(arrivals)
    assert not any(reading.waiting or reading.under_way for reading in quotas.readings(now))


# In the scheduler ---------------------------------------------------------------------------------------------------


def follow(scheduler: Scheduler, count: int, now: float, policy: PollPolicy | None = None) -> list[OperationSpec]:
    """Operations found running, to be polled in a second."""
    specs = [
        OperationSpec(OperationId(f"op-{number}"), "fabric.main", None, policy=policy or PollPolicy())
        for number in range(count)
    ]
    for spec in specs:
        scheduler.handle(OperationRegistered(spec, StillRunning(retry_after_s=1.0)), now, 0.0)
    return specs


def started(scheduler: Scheduler, now: float) -> list[OperationId]:
    return [effect.spec.id for effect in scheduler.advance(now, lambda: 0.0) if isinstance(effect, StartPoll)]


def test_an_operation_waits_for_its_quota_without_its_time_running() -> None:
    quota = Quota("fabric.main operations", Limit(1, 100.0))
    scheduler = Scheduler(lambda _spec, _asking, _ticket: quota)
    first, second = follow(scheduler, 2, 0.0)
    assert started(scheduler, 1.0) == [first.id]
    waiting = scheduler.operation(second.id)
    assert waiting is not None
    assert (waiting.held_back_by, waiting.next_attempt_at, waiting.is_asking) == (quota.name, 1.0, False)
    scheduler.handle(OperationAnswered(first.id, 1, StillRunning(retry_after_s=1000.0)), 2.0, 0.0)
    assert scheduler.next_due() == 102.0
    assert scheduler.advance(102.0, lambda: 0.0) == [StartPoll(second, None, 1, 102.0, 162.0)]
    assert waiting.held_back_by is None
    assert waiting.poll_errors == 0


def test_an_operation_that_waits_for_its_quota_still_has_its_deadline() -> None:
    scheduler = Scheduler(lambda _spec, _asking, _ticket: Quota("q", Limit(1, 1e6)))
    _, second = follow(scheduler, 2, 0.0, PollPolicy(deadline_s=50.0))
    started(scheduler, 1.0)
    scheduler.advance(50.0, lambda: 0.0)
    operation = scheduler.operation(second.id)
    assert operation is not None
    assert (operation.state, operation.held_back_by) == ("timed_out", None)
    assert [reading.waiting for reading in scheduler.quotas(50.0)] == [0]


def test_a_throttled_poll_holds_back_every_operation_of_its_quota() -> None:
    scheduler = Scheduler(lambda _spec, _asking, _ticket: Quota("q", at_once=2))
    specs = follow(scheduler, 5, 0.0)
    assert started(scheduler, 1.0) == [spec.id for spec in specs[:2]]
    scheduler.handle(OperationAttemptFailed(specs[0].id, 1, Transient("throttled", "429", 30.0)), 2.0, 0.0)
    scheduler.handle(OperationAnswered(specs[1].id, 1, StillRunning(retry_after_s=1.0)), 2.0, 0.0)
    assert started(scheduler, 31.999) == []
    assert [reading.waiting for reading in scheduler.quotas(31.999)] == [4]
    assert started(scheduler, 32.0)[0] == specs[2].id
    seen = set()
    now = 32.0
    while len(seen) < 5:
        now += 0.5
        for key in started(scheduler, now):
            seen.add(key)
            attempt = 2 if key in (specs[0].id, specs[1].id) else 1
            scheduler.handle(OperationAnswered(key, attempt, Ended("failed")), now, 0.0)
        if now > 32.5:
            scheduler.handle(OperationAnswered(specs[2].id, 1, Ended("failed")), now, 0.0)
            seen.add(specs[2].id)
    assert [(reading.waiting, reading.under_way) for reading in scheduler.quotas(now)] == [(0, 0)]


def test_an_attempt_given_up_or_an_operation_forgotten_gives_its_place_back() -> None:
    scheduler = Scheduler(lambda _spec, _asking, _ticket: Quota("q", at_once=1))
    first, second, third = follow(scheduler, 3, 0.0)
    assert started(scheduler, 1.0) == [first.id]
    scheduler.handle(ForgetRequested(second.id), 2.0, 0.0)
    scheduler.handle(ForgetRequested(first.id), 3.0, 0.0)
    assert started(scheduler, 3.0) == [third.id]
    scheduler.advance(3.0 + 61.0, lambda: 0.0)
    assert [(reading.waiting, reading.under_way) for reading in scheduler.quotas(64.0)] == [(0, 0)]


def test_ten_thousand_that_wait_for_one_quota_cost_no_more_than_their_turns() -> None:
    scheduler = Scheduler(lambda _spec, _asking, _ticket: Quota("q", Limit(200, 60.0), at_once=1000))
    follow(scheduler, 10_000, 0.0)
    turns = looks = 0
    while (at := scheduler.next_due()) is not None and at < 181.0:
        for key in started(scheduler, at):
            scheduler.handle(OperationAnswered(key, 1, Ended("failed")), at, 0.0)
            turns += 1
        looks += 1
    assert turns == 600
    assert looks <= 1000


def test_polls_are_not_starved_by_what_brings_something_home() -> None:
    quotas, quota = Quotas(), Quota("q", at_once=1)
    quotas.admit("busy", quota, "poll", 0.0, 0.0)
    quotas.admit("poll", quota, "poll", 0.0, 0.0)
    quotas.admit("soon", quota, "submit", POLL_PATIENCE_S - 1.0, POLL_PATIENCE_S - 1.0)
    quotas.admit("late", quota, "submit", POLL_PATIENCE_S + 1.0, POLL_PATIENCE_S + 1.0)
    order = ["busy"]
    while quotas.ended(order[-1], 99.0) or quotas.next_due() is not None:
        order += quotas.ready(99.0, 10)
    assert order == ["busy", "soon", "poll", "late"]


def test_a_pause_outlives_the_daemon() -> None:
    quota = Quota("q")
    before = Scheduler(lambda _spec, _asking, _ticket: quota)
    first, second = follow(before, 2, 0.0)
    started(before, 1.0)
    before.handle(OperationAttemptFailed(first.id, 1, Transient("throttled", "429", 30.0)), 1.5, 0.0)
    throttled = before.operation(first.id)
    assert throttled is not None
    assert throttled.throttled_until == 31.5
    after = Scheduler(lambda _spec, _asking, _ticket: quota)
    past = OperationPast(1, OperationState.RUNNING, 0.0, throttled_until=31.5, next_attempt_at=31.5)
    after.handle(OperationRestored(first, past), 5.0, 0.0)
    after.handle(
        OperationRestored(second, OperationPast(2, OperationState.RUNNING, 0.0, next_attempt_at=6.0)), 5.0, 0.0
    )
    assert started(after, 31.499) == []
    assert started(after, 31.5)


def test_a_pause_of_before_that_is_over_or_of_what_has_ended_closes_nothing() -> None:
    scheduler = Scheduler(lambda _spec, _asking, _ticket: Quota("q"))
    (spec,) = follow(Scheduler(), 1, 0.0)
    past = OperationPast(1, OperationState.RUNNING, 0.0, throttled_until=4.0, next_attempt_at=6.0)
    scheduler.handle(OperationRestored(spec, past), 5.0, 0.0)
    ended = OperationPast(2, OperationState.FAILED, 0.0, throttled_until=100.0, ended_at=4.0)
    scheduler.handle(OperationRestored(replace(spec, id=OperationId("ended")), ended), 5.0, 0.0)
    assert started(scheduler, 6.0) == [spec.id]
