from __future__ import annotations

import math

import pytest

from renewer.core.events import LeaseGranted, LeaseRegistered
from renewer.core.model import Grant, LeaseId, LeaseSpec, Transient
from renewer.core.scheduler import Scheduler
from renewer.core.states import LeaseState, LossReason
from renewer.core.timing import RenewalPolicy
from tests.core.playbook import LeaseStory, busy, held, refused

GIVES_UP = RenewalPolicy(reacquire=False)


def test_a_lease_is_acquired_at_once_and_first_renewed_at_half_its_lock() -> None:
    story = LeaseStory()
    assert story.register(10.0) == ["tell registered epoch 0"]
    assert story.scheduler.next_due() == 10.0
    assert story.advance(10.0) == ["acquire epoch 1 as #1, due 10, until 85"]
    assert story.lease.state is LeaseState.ACQUIRING
    assert story.grant(10.2, 1, sent_at=10.0) == ["tell acquired epoch 1"]
    assert story.lease.state is LeaseState.HELD
    assert story.lease.expires_at == 15.0
    assert story.scheduler.next_due() == 12.5


def test_there_is_no_margin_before_the_lease_is_held() -> None:
    story = LeaseStory()
    story.register(0.0)
    assert story.lease.margin_s(0.0) is None
    story.advance(0.0)
    story.grant(1.0, 1, sent_at=0.0)
    assert story.lease.margin_s(1.0) == 4.0


def test_the_session_that_was_granted_and_the_brokers_own_deadline_are_kept() -> None:
    story = held()
    assert (story.lease.session_id, story.lease.locked_until) == (None, None)
    grant = Grant(anchored_at=5.0, duration_s=5.0, locked_until=1.7e9, session_id="42")
    story.link_lost(4.0)
    story.advance(4.0)
    story.handle(5.0, LeaseGranted(story.spec.id, 2, 2, grant))
    assert (story.lease.session_id, story.lease.locked_until) == ("42", 1.7e9)
    story.link_lost(6.0, epoch=2)
    assert story.lease.locked_until is None


def test_registering_late_counts_from_the_registration_and_not_from_zero() -> None:
    story = LeaseStory()
    story.register(10.0)
    assert story.advance(12.0) == ["acquire epoch 1 as #1, due 10, until 87"]


def test_the_lock_counts_from_when_the_request_was_sent() -> None:
    story = LeaseStory()
    story.register(0.0)
    story.advance(0.0)
    story.grant(2.0, 1, sent_at=1.0)
    assert story.lease.expires_at == 6.0
    assert story.advance(3.499) == []
    assert story.advance(3.5) == ["renew epoch 1 as #2, due 3.5, until 11"]


def test_a_grant_that_is_too_uncertain_to_lean_on_is_renewed_at_once() -> None:
    story = LeaseStory()
    story.register(0.0)
    story.advance(0.0)
    assert story.grant(1.0, 1, sent_at=1.0, renew_now=True) == ["tell acquired epoch 1"]
    assert story.advance(1.0) == ["renew epoch 1 as #2, due 1, until 11"]


def test_a_grant_that_had_expired_when_it_came_is_told_at_risk_and_renewed_at_once() -> None:
    story = LeaseStory()
    story.register(0.0)
    story.advance(0.0)
    assert story.grant(6.0, 1, sent_at=0.0) == ["tell acquired epoch 1"]
    assert story.advance(6.0) == ["tell at_risk epoch 1", "renew epoch 1 as #2, due 6, until 11"]
    assert story.grant(6.1, 2, sent_at=6.0) == [
        "tell renewed epoch 1: margin -1.1",
        "tell recovered epoch 1: margin -1.1",
    ]


def test_a_refused_acquisition_is_tried_again_with_backoff_for_as_long_as_it_takes() -> None:
    story = LeaseStory(fraction=0.5)
    story.register(0.0)
    now = 0.0
    for failures, delay_s in enumerate([0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0], start=1):
        assert story.advance(now) == [f"acquire epoch 1 as #{failures}, due {now:g}, until {now + 75:g}"]
        assert story.fail(now, failures, refused(LossReason.UNAUTHORIZED)) == [
            "tell acquire_failed epoch 0: unauthorized"
        ]
        now += delay_s
        assert story.lease.failures == failures
        assert story.lease.next_attempt_at == story.scheduler.next_due() == now
    assert story.lease.last_error == "the broker's last word"


def test_a_refused_acquisition_is_final_when_the_lease_is_not_to_be_reacquired() -> None:
    story = LeaseStory(GIVES_UP)
    story.register(0.0)
    story.advance(0.0)
    assert story.fail(1.0, 1, refused(LossReason.ENTITY_GONE)) == ["tell lost epoch 0: entity_gone, final"]
    assert story.lease.state is LeaseState.LOST
    assert story.lease.last_loss is not None
    assert (story.lease.last_loss.epoch, story.lease.last_loss.detail) == (0, "the broker's last word")


def test_a_transient_failure_to_acquire_ends_nothing_even_when_the_lease_is_not_to_be_reacquired() -> None:
    story = LeaseStory(GIVES_UP, fraction=0.5)
    story.register(0.0)
    story.advance(0.0)
    assert story.fail(1.0, 1, busy()) == ["tell acquire_failed epoch 0: busy"]
    assert story.advance(1.5) == ["acquire epoch 1 as #2, due 1.5, until 76.5"]


def test_an_acquisition_that_fails_for_too_long_is_given_up_when_it_is_not_to_be_reacquired() -> None:
    story = LeaseStory(GIVES_UP, fraction=0.5)
    story.register(0.0)
    story.advance(0.0)
    story.fail(1.0, 1, busy(retry_after_s=58.5))
    assert story.advance(59.5) == ["acquire epoch 1 as #2, due 59.5, until 134.5"]
    assert story.advance(59.999) == []
    assert story.advance(60.0) == ["cancel #2", "tell lost epoch 0: refused, final"]
    assert story.lease.last_error == "could not be acquired within 60 s: server busy"


def test_an_acquisition_that_was_never_answered_is_given_up_without_an_invented_cause() -> None:
    story = LeaseStory(GIVES_UP)
    story.register(0.0)
    story.advance(0.0)
    assert story.advance(60.0) == ["cancel #1", "tell lost epoch 0: refused, final"]
    assert story.lease.last_error == "could not be acquired within 60 s"


def test_an_acquisition_that_may_go_on_is_not_given_up() -> None:
    story = LeaseStory(fraction=0.5)
    story.register(0.0)
    story.advance(0.0)
    assert story.advance(60.0) == []
    assert story.lease.state is LeaseState.ACQUIRING


def test_an_acquisition_without_an_answer_is_cancelled_a_moment_after_the_shell_should_have_done_so() -> None:
    story = LeaseStory(fraction=0.5)
    story.register(0.0)
    story.advance(0.0)
    assert story.advance(75.999) == []
    assert story.advance(76.0) == ["cancel #1", "tell acquire_failed epoch 0: timeout"]
    assert story.advance(76.5) == ["acquire epoch 1 as #2, due 76.5, until 151.5"]


def test_the_broker_saying_how_long_to_wait_before_acquiring_is_honoured() -> None:
    story = LeaseStory(fraction=0.5)
    story.register(0.0)
    story.advance(0.0)
    story.fail(1.0, 1, busy(retry_after_s=20.0))
    assert story.advance(20.999) == []
    assert story.advance(21.0) == ["acquire epoch 1 as #2, due 21, until 96"]


@pytest.mark.parametrize(
    ("asked_s", "delay_s"),
    [
        (0.0, 0.5),
        (-5.0, 0.5),
        (math.nan, 0.5),
        (-math.inf, 0.5),
        (300.0, 300.0),
        (301.0, 300.0),
        (1e12, 300.0),
        (math.inf, 300.0),
    ],
)
def test_no_number_that_a_broker_sends_keeps_a_lease_from_being_acquired_ever_again(
    asked_s: float, delay_s: float
) -> None:
    story = LeaseStory(fraction=0.5)
    story.register(0.0)
    story.advance(0.0)
    story.fail(1.0, 1, busy(retry_after_s=asked_s))
    assert story.scheduler.next_due() == 1.0 + delay_s


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.75])
def test_no_free_session_is_asked_for_again_within_a_second_however_often_there_was_none(fraction: float) -> None:
    story = LeaseStory(fraction=fraction)
    story.register(0.0)
    for attempt in range(1, 20):
        now = story.scheduler.next_due()
        assert now is not None
        story.advance(now)
        empty = Transient("empty", "no session is free")
        assert story.fail(now, attempt, empty) == ["tell acquire_failed epoch 0: empty"]
        assert story.scheduler.next_due() == now + fraction


def test_the_answer_to_an_acquisition_that_was_given_up_for_dead_counts_when_it_comes_late() -> None:
    story = LeaseStory(fraction=0.5)
    story.register(0.0)
    story.advance(0.0)
    story.advance(76.0)
    story.advance(76.5)
    assert story.grant(76.6, 1, sent_at=74.0) == ["cancel #2", "tell acquired epoch 1"]
    assert story.lease.expires_at == 79.0


def test_the_failure_of_an_acquisition_that_was_cancelled_changes_nothing() -> None:
    story = LeaseStory(fraction=0.5)
    story.register(0.0)
    story.advance(0.0)
    story.advance(76.0)
    story.advance(76.5)
    assert story.fail(76.6, 1, refused()) == []
    assert story.lease.last_error == "no answer in time"
    assert story.scheduler.next_due() == 152.5


def test_a_held_lease_is_not_lost_because_a_second_acquisition_of_it_was_refused() -> None:
    story = LeaseStory(fraction=0.5)
    story.register(0.0)
    story.advance(0.0)
    story.advance(76.0)
    story.advance(76.5)
    story.grant(76.6, 1, sent_at=76.0)
    assert story.fail(76.7, 2, refused(LossReason.REFUSED)) == []
    assert story.lease.state is LeaseState.HELD


def test_a_link_that_is_lost_before_its_grant_was_reported_costs_the_acquisition_and_nothing_more() -> None:
    story = LeaseStory(GIVES_UP, fraction=0.5)
    story.register(0.0)
    story.advance(0.0)
    assert story.link_lost(1.0, LossReason.CONNECTION_LOST) == ["cancel #1", "tell acquire_failed epoch 0: network"]
    assert story.lease.last_error == "the link is gone"
    assert story.link_lost(1.0, LossReason.CONNECTION_LOST) == []
    assert story.fail(1.0, 1, busy()) == []
    assert story.advance(1.5) == ["acquire epoch 1 as #2, due 1.5, until 76.5"]


@pytest.mark.parametrize("epoch", [-1, 0, 2, 99])
def test_outcomes_for_another_epoch_do_not_acquire_and_do_not_fail(epoch: int) -> None:
    story = LeaseStory()
    story.register(0.0)
    story.advance(0.0)
    assert story.grant(1.0, 1, sent_at=0.0, epoch=epoch) == []
    assert story.fail(1.0, 1, refused(), epoch=epoch) == []
    assert story.link_lost(1.0, epoch=epoch) == []
    assert story.lease.state is LeaseState.ACQUIRING


def test_registering_the_same_lease_twice_changes_nothing() -> None:
    story = held()
    assert story.register(1.0) == []
    other = LeaseSpec(LeaseId("lease"), target="elsewhere", entity="else")
    assert story.scheduler.handle(LeaseRegistered(other), 1.0, 0.0) == []
    assert story.lease.spec is story.spec
    assert story.lease.registered_at == 0.0
    assert story.scheduler.next_due() == 2.5


def test_an_outcome_for_an_unknown_lease_is_ignored() -> None:
    scheduler = Scheduler()
    grant = Grant(anchored_at=0.0, duration_s=5.0)
    assert scheduler.handle(LeaseGranted(LeaseId("nobody"), 1, 1, grant), 1.0, 0.0) == []
    assert scheduler.next_due() is None


def test_a_session_that_was_ours_is_asked_for_again_within_half_a_lock_however_often_it_is_refused() -> None:
    story = held(lock_s=5.0, fraction=1.0)
    story.link_lost(1.0)
    now = story.lease.next_attempt_at
    for _ in range(12):
        assert now is not None
        story.advance(now)
        story.fail(now, story.lease._attempt, refused(), epoch=2)
        due_at = story.lease.next_attempt_at
        assert due_at is not None
        assert due_at - now <= 2.5 + 1e-9
        now = due_at
