from __future__ import annotations

import heapq
import math
from collections import Counter
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from renewer.core.timing import (
    MAX_BACKOFF_EXPONENT,
    TOGETHER,
    PollPolicy,
    RenewalPolicy,
    full_jitter_s,
    gathered_due_at,
    poll_delay_s,
    poll_retry_s,
    renewal_attempt_s,
    renewal_due_at,
    renewal_retry_s,
)
from tests.core.playbook import QUARTERS

POLICY = QUARTERS
POLLING = PollPolicy()

fractions = st.floats(0.0, 1.0, exclude_max=True)
locks = st.floats(5.0, 300.0)
numbers = st.floats(allow_nan=True, allow_infinity=True)


@pytest.mark.parametrize(
    ("duration_s", "fraction", "due_at"),
    [
        (5.0, 0.0, 102.5),
        (5.0, 0.5, 102.375),
        (30.0, 0.0, 115.0),
        (300.0, 0.0, 250.0),
        (480.0, 0.0, 340.0),
        (481.0, 0.0, 340.0),
        (86_400.0, 0.0, 340.0),
        (86_400.0, 0.5, 328.0),
        (math.inf, 0.0, 340.0),
    ],
)
def test_a_renewal_is_due_at_half_the_lock_and_at_the_latest_every_four_minutes(
    duration_s: float, fraction: float, due_at: float
) -> None:
    assert renewal_due_at(POLICY, anchored_at=100.0, duration_s=duration_s, fraction=fraction) == due_at


@given(anchored_at=st.floats(0.0, 1e9), duration_s=st.floats(0.5, 1e6), fraction=fractions)
def test_a_renewal_is_never_due_after_expiry_nor_before_the_jitter_allows(
    anchored_at: float, duration_s: float, fraction: float
) -> None:
    due_at = renewal_due_at(POLICY, anchored_at=anchored_at, duration_s=duration_s, fraction=fraction)
    span = min(duration_s / 2, 240.0)
    assert anchored_at + 0.9 * span - 1e-6 <= due_at <= anchored_at + span + 1e-6
    assert due_at < anchored_at + duration_s


@given(anchored_at=st.floats(0.0, 1e8), duration_s=locks, fraction=fractions, crowd=st.integers(1, 200_000))
@example(anchored_at=0.0, duration_s=30.0, fraction=0.0, crowd=1)
def test_a_lock_that_is_renewed_with_others_is_due_within_the_bounds_of_any_other(
    anchored_at: float, duration_s: float, fraction: float, crowd: int
) -> None:
    due_at = gathered_due_at(
        RenewalPolicy(), anchored_at=anchored_at, duration_s=duration_s, fraction=fraction, crowd=crowd
    )
    assert 0.45 * duration_s - 1e-6 <= due_at - anchored_at <= 0.5 * duration_s + 1e-6


def test_without_jitter_a_lock_may_still_be_due_a_hundredth_of_it_earlier_to_be_renewed_with_others() -> None:
    policy = RenewalPolicy(jitter=0.0)
    due_at = gathered_due_at(policy, anchored_at=1000.0, duration_s=30.0, fraction=0.5, crowd=10_000)
    assert 14.7 < due_at - 1000.0 <= 15.0


def groups(count: int, lock_s: float, *, taken_within_s: float) -> list[int]:
    """How many locks are renewed at each moment of about one lock, after many renewals."""
    random = Random(7)

    def following(anchored_at: float) -> float:
        return gathered_due_at(
            RenewalPolicy(),
            anchored_at=anchored_at + 0.01 * random.random(),
            duration_s=lock_s - 0.02 * random.random(),
            fraction=random.random(),
            crowd=count,
        )

    due = [(following(1000.0 + taken_within_s * random.random()), number) for number in range(count)]
    heapq.heapify(due)
    end_at = due[0][0] + 8 * lock_s
    found: Counter[float] = Counter()
    while due[0][0] < end_at:
        due_at, number = due[0]
        if due_at >= end_at - lock_s:
            found[due_at] += 1
        heapq.heapreplace(due, (following(due_at), number))
    return sorted(found.values())


@pytest.mark.parametrize("lock_s", [5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 300.0])
def test_locks_that_were_taken_one_after_the_other_come_together_and_stay_so(lock_s: float) -> None:
    assert len(groups(100, lock_s, taken_within_s=lock_s / 2)) <= 20
    assert len(groups(100, lock_s, taken_within_s=lock_s / 200)) <= 6


def test_very_many_locks_that_were_taken_at_once_are_spread_over_moments_of_some_hundred() -> None:
    sizes = groups(10_000, 30.0, taken_within_s=0.1)
    assert sizes[-1] < 8 * TOGETHER
    assert sizes[len(sizes) // 2] > TOGETHER / 5


@pytest.mark.parametrize(
    ("remaining_s", "duration_s", "attempt_s"),
    [
        (2.5, 5.0, 0.625),
        (1.0, 5.0, 0.25),
        (0.99, 5.0, 0.25),
        (0.01, 5.0, 0.25),
        (0.0, 5.0, 1.25),
        (-3.0, 5.0, 1.25),
        (15.0, 30.0, 3.75),
        (40.0, 300.0, 10.0),
        (150.0, 300.0, 10.0),
        (-0.1, 300.0, 10.0),
        (math.inf, math.inf, 10.0),
    ],
)
def test_an_attempt_has_a_quarter_of_what_remains_within_bounds_and_of_a_whole_lock_after_expiry(
    remaining_s: float, duration_s: float, attempt_s: float
) -> None:
    assert renewal_attempt_s(POLICY, remaining_s=remaining_s, duration_s=duration_s) == attempt_s


@given(duration_s=locks, fraction=fractions)
@example(duration_s=5.0, fraction=0.0)
@example(duration_s=300.0, fraction=0.0)
def test_at_least_four_attempts_end_before_expiry_even_if_every_one_times_out(
    duration_s: float, fraction: float
) -> None:
    now = renewal_due_at(POLICY, anchored_at=0.0, duration_s=duration_s, fraction=fraction)
    ended_in_time = 0
    while now < duration_s:
        now += renewal_attempt_s(POLICY, remaining_s=duration_s - now, duration_s=duration_s)
        ended_in_time += now <= duration_s
    assert ended_in_time >= 4


@given(duration_s=locks, remaining_s=st.floats(0.75, 300.0))
def test_no_attempt_takes_more_than_a_third_of_what_remains(duration_s: float, remaining_s: float) -> None:
    assert renewal_attempt_s(POLICY, remaining_s=remaining_s, duration_s=duration_s) <= remaining_s / 3


@pytest.mark.parametrize(
    ("failures", "delay_s"),
    [(0, 0.05), (1, 0.05), (2, 0.1), (3, 0.2), (4, 0.4), (8, 5.0), (1_000_000, 5.0)],
)
def test_backoff_doubles_up_to_its_cap_and_takes_a_random_share(failures: int, delay_s: float) -> None:
    assert full_jitter_s(failures, 0.5, base_s=0.1, cap_s=10.0) == pytest.approx(delay_s)


@given(failures=st.integers(-5, 10**9), fraction=fractions, base_s=st.floats(0.0, 60.0), cap_s=st.floats(0.0, 3600.0))
def test_backoff_is_never_negative_and_never_past_its_cap(
    failures: int, fraction: float, base_s: float, cap_s: float
) -> None:
    assert 0.0 <= full_jitter_s(failures, fraction, base_s=base_s, cap_s=cap_s) <= cap_s


def test_the_exponent_is_clamped_before_it_is_raised() -> None:
    clamped = full_jitter_s(MAX_BACKOFF_EXPONENT + 1, 0.5, base_s=1.0, cap_s=math.inf)
    assert clamped == 0.5 * 2.0**MAX_BACKOFF_EXPONENT
    assert full_jitter_s(10**9, 0.5, base_s=1.0, cap_s=math.inf) == clamped


@pytest.mark.parametrize(
    ("asked_s", "delay_s"),
    [
        (None, 0.05),
        (0.0, 0.05),
        (0.3, 0.3),
        (0.625, 0.625),
        (0.626, 0.625),
        (60.0, 0.625),
        (math.inf, 0.625),
        (math.nan, 0.05),
        (-1.0, 0.05),
    ],
)
def test_a_refused_renewal_waits_as_asked_but_no_longer_than_one_attempts_share_of_the_lock(
    asked_s: float | None, delay_s: float
) -> None:
    delay = renewal_retry_s(POLICY, failures=1, fraction=0.5, remaining_s=2.5, duration_s=5.0, asked_s=asked_s)
    assert delay == pytest.approx(delay_s)


@given(
    failures=st.integers(1, 100),
    fraction=fractions,
    remaining_s=st.floats(-300.0, 300.0),
    duration_s=locks,
    asked_s=st.none() | numbers,
)
def test_a_refused_renewal_is_tried_again_within_the_share_whatever_was_asked(
    failures: int, fraction: float, remaining_s: float, duration_s: float, asked_s: float | None
) -> None:
    share = renewal_attempt_s(POLICY, remaining_s=remaining_s, duration_s=duration_s)
    delay = renewal_retry_s(
        POLICY,
        failures=failures,
        fraction=fraction,
        remaining_s=remaining_s,
        duration_s=duration_s,
        asked_s=asked_s,
    )
    assert 0.0 <= delay <= share


@pytest.mark.parametrize(
    ("retry_after_s", "delay_s"),
    [
        (None, 30.0),
        (0.0, 30.0),
        (-0.0, 30.0),
        (-5.0, 30.0),
        (math.nan, 30.0),
        (math.inf, 30.0),
        (-math.inf, 30.0),
        (5e-324, 1.0),
        (0.999, 1.0),
        (1.0, 1.0),
        (20.0, 20.0),
        (3600.0, 3600.0),
        (3600.001, 3600.0),
        (9_999_999_999.0, 3600.0),
        (1e308, 3600.0),
    ],
)
def test_the_delay_before_a_poll_is_what_was_asked_clamped_and_the_default_for_what_cannot_be_used(
    retry_after_s: float | None, delay_s: float
) -> None:
    assert poll_delay_s(POLLING, retry_after_s) == delay_s


@given(retry_after_s=st.none() | numbers)
def test_the_delay_before_a_poll_is_always_between_floor_and_ceiling(retry_after_s: float | None) -> None:
    assert POLLING.floor_s <= poll_delay_s(POLLING, retry_after_s) <= POLLING.ceiling_s


def test_the_default_delay_is_clamped_too() -> None:
    assert poll_delay_s(PollPolicy(default_interval_s=0.1), None) == 1.0
    assert poll_delay_s(PollPolicy(default_interval_s=9000.0), None) == 3600.0


@pytest.mark.parametrize(
    ("failures", "asked_s", "delay_s"),
    [
        (1, None, 1.0),
        (2, None, 1.0),
        (3, None, 2.0),
        (4, None, 4.0),
        (7, None, 30.0),
        (10_000, None, 30.0),
        (1, 17.0, 17.0),
        (10_000, 17.0, 30.0),
        (1, 1e9, 3600.0),
        (1, math.inf, 1.0),
        (1, math.nan, 1.0),
        (1, -4.0, 1.0),
        (1, 0.0, 1.0),
    ],
)
def test_a_failed_poll_backs_off_and_never_undercuts_what_was_asked(
    failures: int, asked_s: float | None, delay_s: float
) -> None:
    assert poll_retry_s(POLLING, failures=failures, fraction=0.5, asked_s=asked_s) == delay_s


@given(failures=st.integers(1, 10**6), fraction=fractions, asked_s=st.none() | numbers)
def test_a_failed_poll_waits_at_least_the_floor_and_at_most_the_ceiling(
    failures: int, fraction: float, asked_s: float | None
) -> None:
    delay = poll_retry_s(POLLING, failures=failures, fraction=fraction, asked_s=asked_s)
    assert POLLING.floor_s <= delay <= POLLING.ceiling_s
    if asked_s is not None and 0 < asked_s <= POLLING.ceiling_s:
        assert delay >= asked_s
