from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest

from renewer.core.events import LeaseGranted
from renewer.core.leases import Lease
from renewer.core.model import Grant, LeaseId, LeaseSpec, Transient
from renewer.core.states import LeaseKind, LeaseState, LossReason
from renewer.core.timing import RenewalPolicy, shared_moment
from tests.core.playbook import QUARTERS, busy, held, refused


def test_a_renewal_that_is_acknowledged_moves_the_deadline_and_tells_the_margin() -> None:
    story = held()
    assert story.advance(2.499) == []
    assert story.advance(2.5) == ["renew epoch 1 as #2, due 2.5, until 10"]
    assert story.grant(2.75, 2, sent_at=2.5) == ["tell renewed epoch 1: margin 2.25"]
    assert story.lease.expires_at == 7.5
    assert story.lease.renewals == 1
    assert story.advance(4.999) == []
    assert story.advance(5.0) == ["renew epoch 1 as #3, due 5, until 12.5"]


def test_the_smallest_margin_is_remembered() -> None:
    story = held()
    story.advance(2.5)
    story.grant(3.0, 2, sent_at=2.5)
    story.advance(5.0)
    story.grant(5.25, 3, sent_at=5.0)
    assert story.lease.last_margin_s == 2.25
    assert story.lease.min_margin_s == 2.0


def test_a_renewal_is_drawn_up_to_a_tenth_earlier() -> None:
    story = held(lock_s=30.0, fraction=0.5)
    assert story.scheduler.next_due() == 14.0


def test_a_long_lock_is_renewed_every_four_minutes_all_the_same() -> None:
    story = held(lock_s=3600.0)
    assert story.advance(239.999) == []
    assert story.advance(240.0) == ["renew epoch 1 as #2, due 240, until 7200"]


@pytest.mark.parametrize("kind", LeaseKind)
@pytest.mark.parametrize(("lock_s", "max_interval_s"), [(86_400.0, 240.0), (300.0, 1.0), (300.0, 3.0), (5.0, 240.0)])
def test_a_renewal_is_not_due_much_before_its_time_however_long_the_lock(
    kind: LeaseKind, lock_s: float, max_interval_s: float
) -> None:
    policy = RenewalPolicy(max_interval_s=max_interval_s)
    span_s = min(lock_s / 2, max_interval_s)
    for number in range(100):
        granted_at = 1000.0 + 1.37 * number
        lease = Lease(LeaseSpec(LeaseId("a"), "main", "orders", kind=kind, session_id="s", policy=policy), granted_at)
        lease.granted(LeaseGranted(lease.spec.id, 1, 0, Grant(granted_at, lock_s)), granted_at, number / 100)
        assert lease.next_attempt_at is not None
        assert 0.8 * span_s <= lease.next_attempt_at - granted_at <= span_s + 1e-6


def test_a_lock_that_the_broker_shortens_is_believed() -> None:
    story = held(lock_s=60.0)
    story.advance(30.0)
    assert story.grant(30.0, 2, sent_at=30.0, lock_s=6.0) == ["tell renewed epoch 1: margin 30"]
    assert story.lease.expires_at == 36.0
    assert story.scheduler.next_due() == 33.0


def test_a_daemon_that_wakes_late_says_how_late_in_the_attempt() -> None:
    story = held()
    assert story.advance(4.0) == ["renew epoch 1 as #2, due 2.5, until 10"]


def test_when_no_attempt_is_answered_at_least_four_are_made_and_risk_is_told_at_expiry_and_not_before() -> None:
    story = held()
    assert story.run(4.999) == [
        (2.5, "renew epoch 1 as #2, due 2.5, until 10"),
        (3.125, "tell renew_failed epoch 1: overdue"),
        (3.125, "renew epoch 1 as #3, due 3.125, until 10"),
        (3.59375, "tell renew_failed epoch 1: overdue"),
        (3.59375, "renew epoch 1 as #4, due 3.59375, until 10"),
        (3.9453125, "tell renew_failed epoch 1: overdue"),
        (3.9453125, "renew epoch 1 as #5, due 3.94531, until 10"),
        (4.208984375, "tell renew_failed epoch 1: overdue"),
        (4.208984375, "cancel #3"),
        (4.208984375, "renew epoch 1 as #6, due 4.20898, until 10"),
        (4.458984375, "tell renew_failed epoch 1: overdue"),
        (4.458984375, "cancel #4"),
        (4.458984375, "renew epoch 1 as #7, due 4.45898, until 10"),
        (4.708984375, "tell renew_failed epoch 1: overdue"),
        (4.708984375, "cancel #5"),
        (4.708984375, "renew epoch 1 as #8, due 4.70898, until 10"),
        (4.958984375, "tell renew_failed epoch 1: overdue"),
        (4.958984375, "cancel #6"),
        (4.958984375, "renew epoch 1 as #9, due 4.95898, until 10"),
    ]
    assert story.lease.state is LeaseState.HELD
    assert story.advance(5.0) == ["tell at_risk epoch 1"]
    assert story.lease.state is LeaseState.AT_RISK
    assert story.lease.failures == 7


@pytest.mark.parametrize(
    ("lost_replies", "margin_s"),
    [(0, 2.45), (1, 1.825), (2, 1.35625), (3, 1.0046875), (4, 0.741015625), (5, 0.491015625)],
)
def test_each_lost_reply_costs_one_attempt_of_a_five_second_lock(lost_replies: int, margin_s: float) -> None:
    story = held()
    story.run(4.999)
    sent_at = [2.5, 3.125, 3.59375, 3.9453125, 4.208984375, 4.458984375][lost_replies]
    story = held()
    story.run(sent_at)
    answered_at = sent_at + 0.05
    assert story.grant(answered_at, 2 + lost_replies, sent_at=sent_at) == [f"tell renewed epoch 1: margin {margin_s:g}"]
    assert story.lease.expires_at == sent_at + 5.0
    assert story.lease.failures == 0
    assert story.scheduler.next_due() == shared_moment(sent_at + 2.5, 5.0, share=20)


def test_one_attempt_is_overdue_exactly_at_its_deadline() -> None:
    story = held()
    story.advance(2.5)
    assert story.advance(3.1249) == []
    assert story.advance(3.125) == [
        "tell renew_failed epoch 1: overdue",
        "renew epoch 1 as #3, due 3.125, until 10",
    ]
    assert story.lease.last_error == "no answer in time"


def test_a_late_answer_counts_and_the_attempt_that_replaced_it_is_not_needed_but_listened_to() -> None:
    story = held()
    story.run(3.125)
    assert story.grant(3.25, 2, sent_at=2.5) == ["tell renewed epoch 1: margin 1.75"]
    assert story.lease.expires_at == 7.5
    assert story.scheduler.next_due() == 5.0
    assert story.grant(3.5, 3, sent_at=3.125) == ["tell renewed epoch 1: margin 4"]
    assert story.lease.expires_at == 8.125
    assert story.scheduler.next_due() == 5.5


def test_the_answer_to_an_attempt_that_was_overtaken_is_no_news_and_does_not_shorten_the_lock() -> None:
    story = held()
    story.run(3.125)
    story.grant(3.25, 3, sent_at=3.125)
    assert story.grant(3.5, 2, sent_at=2.5) == []
    assert story.lease.expires_at == 8.125
    assert story.lease.renewals == 1
    assert story.scheduler.next_due() == 5.5


def test_an_answer_to_the_attempt_under_way_never_leaves_the_lease_without_a_next_one() -> None:
    story = held()
    story.advance(2.5)
    assert story.grant(2.75, 2, sent_at=-1.0) == ["tell renewed epoch 1: margin 2.25"]
    assert story.lease.expires_at == 4.0
    assert story.advance(2.75) == ["renew epoch 1 as #3, due 2.75, until 9"]


def test_the_late_failure_of_an_overdue_attempt_is_not_counted_twice() -> None:
    story = held()
    story.run(3.125)
    assert story.fail(3.25, 2, busy()) == []
    assert story.lease.failures == 1
    assert story.scheduler.next_due() == 3.59375


def test_the_late_last_word_of_the_broker_counts_even_from_an_overdue_attempt() -> None:
    story = held()
    story.run(3.125)
    assert story.fail(3.25, 2, refused()) == ["cancel #3", "release epoch 1", "tell lost epoch 1: expired"]


def test_an_attempt_that_was_cancelled_to_make_room_has_no_say_any_more() -> None:
    story = held()
    story.run(4.208984375)
    assert story.fail(4.25, 3, refused()) == []
    assert story.lease.state is LeaseState.HELD


def test_a_cancelled_attempt_that_was_granted_after_all_is_good_news_all_the_same() -> None:
    story = held()
    story.run(4.208984375)
    assert story.grant(4.25, 3, sent_at=3.125) == ["tell renewed epoch 1: margin 0.75"]


@pytest.mark.parametrize("allowed", [1, 2, 3])
def test_no_more_attempts_overlap_than_allowed_and_the_oldest_is_kept(allowed: int) -> None:
    story = held(RenewalPolicy(max_outstanding=allowed))
    outstanding: list[str] = []
    for _, line in story.run(9.999):
        if line.startswith("cancel"):
            assert line == f"cancel {outstanding.pop(min(1, allowed - 1))}"
        elif line.startswith("renew"):
            outstanding.append(line.split()[4].rstrip(","))
        assert len(outstanding) <= allowed
    assert len(outstanding) == allowed


def test_a_broker_whose_every_answer_takes_longer_than_half_the_lock_is_still_heard() -> None:
    story = held()
    asked = [line for _, line in story.run(5.5) if line.startswith("renew")]
    assert len(asked) > 5
    told = story.grant(5.5, 2, sent_at=2.5)
    assert "tell recovered epoch 1" in " ".join(told)
    assert story.lease.expires_at == 7.5


def test_busy_is_asked_again_soon_and_the_more_often_the_later() -> None:
    story = held(fraction=0.5)
    assert story.advance(2.25) == ["renew epoch 1 as #2, due 2.25, until 10"]
    assert story.fail(2.25, 2, busy()) == ["tell renew_failed epoch 1: busy"]
    assert story.scheduler.next_due() == pytest.approx(2.3)
    assert story.advance(2.5) == ["renew epoch 1 as #3, due 2.3, until 10"]
    assert story.fail(2.5, 3, busy()) == ["tell renew_failed epoch 1: busy"]
    assert story.scheduler.next_due() == pytest.approx(2.6)
    assert story.lease.last_error == "server busy"


@pytest.mark.parametrize(("asked_s", "tried_again_at"), [(0.5, 3.0), (0.625, 3.125), (4.0, 3.125), (3600.0, 3.125)])
def test_a_broker_that_asks_for_patience_gets_as_much_as_the_lock_allows(asked_s: float, tried_again_at: float) -> None:
    story = held()
    story.advance(2.5)
    story.fail(2.5, 2, busy(retry_after_s=asked_s))
    assert story.scheduler.next_due() == tried_again_at


def test_a_broker_that_is_always_busy_is_asked_at_least_four_times_before_expiry() -> None:
    story = held()
    asked = 0
    while (now := story.scheduler.next_due()) is not None and now < 5.0:
        for line in story.advance(now):
            assert line.startswith("renew epoch 1")
            asked += 1
            story.fail(now, 1 + asked, busy(retry_after_s=60.0))
    assert asked >= 4


def test_a_failure_of_any_kind_that_says_nothing_of_the_lock_is_told_and_tried_again() -> None:
    story = held()
    story.advance(2.5)
    assert story.fail(2.5, 2, Transient("network", "connection reset")) == ["tell renew_failed epoch 1: network"]
    assert story.advance(2.5) == ["renew epoch 1 as #3, due 2.5, until 10"]


def test_a_lease_at_risk_is_asked_for_with_a_quarter_of_the_lock_for_each_attempt_and_recovers() -> None:
    story = held()
    story.run(5.0)
    assert story.run(6.5) == [
        (5.208984375, "tell renew_failed epoch 1: overdue"),
        (5.208984375, "cancel #7"),
        (5.208984375, "renew epoch 1 as #10, due 5.20898, until 10"),
        (6.458984375, "tell renew_failed epoch 1: overdue"),
        (6.458984375, "cancel #8"),
        (6.458984375, "renew epoch 1 as #11, due 6.45898, until 10"),
    ]
    assert story.grant(6.75, 10, sent_at=5.25) == [
        "tell renewed epoch 1: margin -1.75",
        "tell recovered epoch 1: margin -1.75",
    ]
    assert story.lease.state is LeaseState.HELD
    assert story.lease.epoch == 1
    assert story.scheduler.next_due() == 7.75


def test_a_lease_that_recovered_is_renewed_as_if_nothing_had_been() -> None:
    story = held()
    story.run(5.0)
    story.grant(5.5, 9, sent_at=5.0)
    assert (story.lease.failures, story.lease.last_error) == (0, None)
    assert story.advance(7.5) == ["renew epoch 1 as #10, due 7.5, until 15"]


def test_a_lease_that_recovered_can_be_at_risk_again_and_is_told_so_again() -> None:
    story = held()
    story.run(5.0)
    story.grant(5.5, 9, sent_at=5.0)
    assert [line for _, line in story.run(10.0) if "at_risk" in line] == ["tell at_risk epoch 1"]
    assert story.lease.state is LeaseState.AT_RISK
    assert [line for _, line in story.run(14.999) if "lost" in line] == []
    assert [line for _, line in story.run(15.0) if "lost" in line] == ["tell lost epoch 1: expired"]


@pytest.mark.parametrize("sent_at", [0.5, 0.999, 1.0])
def test_an_answer_whose_lock_is_over_by_now_does_not_recover_the_lease(sent_at: float) -> None:
    story = held()
    story.run(5.0)
    assert story.grant(6.0, 9, sent_at=sent_at) == ["tell renewed epoch 1: margin -1"]
    assert story.lease.state is LeaseState.AT_RISK
    assert story.advance(6.0) == ["renew epoch 1 as #10, due 6, until 10"]


def test_an_answer_whose_lock_lasts_a_moment_longer_recovers_the_lease() -> None:
    story = held()
    story.run(5.0)
    assert story.grant(6.0, 9, sent_at=1.001) == [
        "tell renewed epoch 1: margin -1",
        "tell recovered epoch 1: margin -1",
    ]
    assert story.scheduler.next_due() == 6.0


def test_a_broker_that_is_busy_after_expiry_too_is_asked_until_it_answers() -> None:
    story = held(fraction=0.5)
    story.run(5.0)
    attempt = story.lease._attempt
    assert story.fail(5.1, attempt, busy(retry_after_s=9.0)) == ["tell renew_failed epoch 1: busy"]
    assert story.scheduler.next_due() == pytest.approx(6.35)
    assert story.lease.state is LeaseState.AT_RISK


def test_a_daemon_that_was_stalled_past_expiry_asks_once_more_before_it_gives_up() -> None:
    story = held()
    assert story.advance(100.0) == ["tell at_risk epoch 1", "renew epoch 1 as #2, due 2.5, until 105"]
    assert story.grant(100.25, 2, sent_at=100.0) == [
        "tell renewed epoch 1: margin -95.25",
        "tell recovered epoch 1: margin -95.25",
    ]


def test_a_daemon_that_was_stalled_past_expiry_gives_up_a_whole_lock_after_it_woke() -> None:
    story = held()
    story.advance(100.0)
    assert [line for _, line in story.run(104.999) if "lost" in line] == []
    assert (105.0, "tell lost epoch 1: expired") in story.run(105.0)


def test_a_daemon_that_was_stalled_with_an_attempt_under_way_asks_once_more_too() -> None:
    story = held()
    story.advance(2.5)
    assert story.advance(100.0) == [
        "tell at_risk epoch 1",
        "tell renew_failed epoch 1: overdue",
        "renew epoch 1 as #3, due 100, until 105",
    ]


def test_an_answer_that_was_waiting_while_the_daemon_stalled_past_expiry_keeps_the_lease_without_alarm() -> None:
    story = held()
    story.advance(2.5)
    assert story.grant(5.5, 2, sent_at=2.5) == ["tell renewed epoch 1: margin -0.5"]
    assert story.advance(5.5) == ["renew epoch 1 as #3, due 5.5, until 12.5"]
    assert story.lease.state is LeaseState.HELD


def test_a_broker_that_answers_after_expiry_is_listened_to_for_as_long_as_its_answer_can_save_the_lease() -> None:
    story = held(replace(QUARTERS, reacquire=False))
    asked = [line for _, line in story.run(9.999) if line.startswith("renew")]
    assert len(asked) == 12
    assert all(float(line.rpartition(" ")[2]) >= 10.0 for line in asked)
    assert story.run(10.0)[-2:] == [(10.0, "release epoch 1"), (10.0, "tell lost epoch 1: expired, final")]


def test_with_a_wider_policy_an_attempt_may_outlast_the_patience_with_the_broker() -> None:
    story = held(RenewalPolicy(min_attempt_s=8.0))
    assert story.advance(2.5) == ["renew epoch 1 as #2, due 2.5, until 10.5"]


def test_old_epochs_write_nothing() -> None:
    story = held()
    story.link_lost(1.0, LossReason.CONNECTION_LOST)
    story.advance(1.0)
    story.grant(1.5, 2, sent_at=1.0, epoch=2)
    before = deepcopy(story.lease)
    assert story.grant(2.0, 1, sent_at=1.9, epoch=1, lock_s=300.0) == []
    assert story.fail(2.0, 1, refused(), epoch=1) == []
    assert story.fail(2.0, 1, busy(), epoch=1) == []
    assert story.link_lost(2.0, epoch=1) == []
    assert story.lease == before


def test_epochs_that_never_were_write_nothing_either() -> None:
    story = held()
    assert story.grant(1.0, 1, sent_at=0.9, epoch=2, lock_s=300.0) == []
    assert story.fail(1.0, 1, refused(), epoch=2) == []
    assert story.link_lost(1.0, epoch=2) == []
    assert story.lease.expires_at == 5.0
