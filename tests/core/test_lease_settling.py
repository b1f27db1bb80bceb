"""A message is settled while its lock is kept: no renewal crosses that, and its end is no loss."""

from __future__ import annotations

import pytest

from renewer.core.events import LeaseRegistered
from renewer.core.model import LeaseId, LeaseSpec
from renewer.core.states import LeaseKind, LeaseState, LossReason, MessageFate
from renewer.core.timing import RenewalPolicy, shared_moment
from tests.core.playbook import LeaseStory, busy, held, refused

MESSAGE = LeaseKind.MESSAGE


def test_what_renews_the_lock_is_cancelled_before_the_message_is_settled_and_nothing_more_is_asked() -> None:
    story = held(kind=MESSAGE)
    assert story.run(3.125)[-1][1] == "renew epoch 1 as #3, due 3.1041, until 10"
    assert story.settling(3.25) == ["cancel #2", "cancel #3"]
    assert story.lease.is_settling
    assert story.run(4.99) == []
    assert story.renew_now(4.5) == []
    assert story.advance(4.5) == []


def test_a_message_that_is_settled_ends_its_lease_without_a_loss() -> None:
    story = held(kind=MESSAGE)
    story.settling(1.0)
    assert story.settled(1.1, MessageFate.DEAD_LETTERED) == ["tell released epoch 1: final"]
    lease = story.lease
    assert (lease.state, lease.fate, lease.losses) == (LeaseState.RELEASED, MessageFate.DEAD_LETTERED, 0)
    assert (lease.last_loss, lease.last_error, lease.is_settling) == (None, None, False)
    assert lease.forget_at == 3601.1


def test_a_settlement_that_failed_has_the_lock_renewed_at_once() -> None:
    story = held(kind=MESSAGE)
    story.settling(1.0)
    assert story.not_settled(2.0) == []
    assert story.advance(2.0) == ["renew epoch 1 as #2, due 2, until 10"]
    assert story.grant(2.1, 2, sent_at=2.0) == ["tell renewed epoch 1: margin 2.9"]
    assert story.settling(2.2) == []
    assert story.settled(2.3) == ["tell released epoch 1: final"]


def test_a_renewal_that_is_answered_while_the_message_is_settled_counts_and_starts_no_other() -> None:
    story = held(kind=MESSAGE)
    story.advance(2.5)
    story.settling(2.6)
    assert story.grant(2.7, 2, sent_at=2.5) == ["tell renewed epoch 1: margin 2.3"]
    assert story.lease.expires_at == 7.5
    assert story.fail(2.7, 2, busy()) == []
    assert story.fail(2.7, 2, refused()) == []
    assert story.run(7.4) == []


def test_a_lock_that_expires_while_the_message_is_settled_is_at_risk_and_lost_in_the_end() -> None:
    story = held(RenewalPolicy(reacquire=False), kind=MESSAGE)
    story.settling(4.0)
    assert story.run(20.0) == [
        (5.0, "tell at_risk epoch 1"),
        (10.0, "release epoch 1"),
        (10.0, "tell lost epoch 1: expired, final"),
    ]
    assert not story.lease.is_settling
    assert story.settled(20.0) == []
    assert story.lease.state is LeaseState.LOST


def test_a_broker_that_says_that_the_lock_is_gone_when_the_message_is_to_be_settled_makes_it_a_loss() -> None:
    story = held(RenewalPolicy(reacquire=False), kind=MESSAGE)
    story.settling(1.0)
    assert story.link_lost(1.1, LossReason.EXPIRED) == ["release epoch 1", "tell lost epoch 1: expired, final"]
    assert story.not_settled(1.1) == []
    assert story.lease.forget_at == 3601.1


def test_a_message_that_somebody_else_settled_ends_its_lease_while_it_is_renewed() -> None:
    story = held(kind=MESSAGE)
    story.run(3.125)
    assert story.settled(3.2, MessageFate.ELSEWHERE) == ["cancel #2", "cancel #3", "tell released epoch 1: final"]
    assert story.lease.losses == 0


def test_a_message_that_was_settled_before_its_lock_could_be_acquired_ends_its_lease() -> None:
    story = LeaseStory(kind=MESSAGE)
    story.register(0.0)
    story.advance(0.0)
    assert story.settled(0.1, MessageFate.ELSEWHERE) == ["cancel #1", "tell released epoch 0: final"]


def test_a_lease_that_is_not_held_or_of_another_epoch_is_not_being_settled() -> None:
    story = LeaseStory(kind=MESSAGE)
    story.register(0.0)
    assert story.settling(0.0, epoch=0) == []
    assert not story.lease.is_settling
    story = held(kind=MESSAGE)
    assert story.settling(1.0, epoch=2) == []
    assert not story.lease.is_settling
    assert story.not_settled(1.0) == []
    assert story.settled(1.0, epoch=2) == []
    assert [what for _, what in story.run(2.5)] == ["renew epoch 1 as #2, due 2.47214, until 10"]


def test_a_lease_that_is_released_while_its_message_is_settled_is_released_once() -> None:
    story = held(kind=MESSAGE)
    story.settling(1.0)
    assert story.release(1.1) == ["release epoch 1", "tell released epoch 1: final"]
    assert story.settled(1.2) == []
    assert story.not_settled(1.2) == []
    assert story.lease.fate is None


def test_a_daemon_that_stops_while_a_message_is_settled_still_hears_of_it() -> None:
    story = held(RenewalPolicy(reacquire=False), kind=MESSAGE)
    story.settling(1.0)
    assert story.park(1.1) == ["tell parked epoch 1"]
    assert story.not_settled(1.2) == []
    assert story.lease.next_attempt_at is None
    assert story.settling(1.3) == []
    assert story.settled(1.4) == ["tell released epoch 1: final"]
    assert not story.lease.is_parked


def test_what_became_of_a_message_is_known_after_a_restart() -> None:
    story = LeaseStory(kind=MESSAGE)
    assert story.restore(10.0, LeaseState.RELEASED, epoch=1, fate=MessageFate.COMPLETED, forget_at=20.0) == []
    assert story.lease.fate is MessageFate.COMPLETED


def test_message_locks_that_were_taken_at_about_the_same_time_fall_due_at_once() -> None:
    story = held(kind=MESSAGE, lock_s=30.0)
    due = set()
    for sent_at in (0.01, 0.1, 0.2):
        story.renew_now(sent_at)
        story.advance(sent_at)
        story.grant(sent_at, story.lease._attempt, sent_at=sent_at, lock_s=30.0)
        assert story.lease.next_attempt_at is not None
        due.add(story.lease.next_attempt_at)
    (due_at,) = due
    assert 13.7 < due_at < 15.0


@pytest.mark.parametrize("duration_s", [0.1, 0.5, 5.0, 29.98, 30.0, 60.0, 300.0])
@pytest.mark.parametrize("due_at", [0.0, 0.013, 17.5, 123_456.789, 1e9 + 0.377])
def test_a_shared_moment_is_less_than_its_share_of_the_lock_earlier(due_at: float, duration_s: float) -> None:
    assert 0.0 <= due_at - shared_moment(due_at, duration_s) <= duration_s / 100
    assert 0.0 <= due_at - shared_moment(due_at, duration_s, share=40) <= duration_s / 40


def test_locks_whose_durations_are_measured_a_little_differently_share_their_moments() -> None:
    assert len({shared_moment(17.3, duration_s) for duration_s in (29.97, 29.99, 30.0, 30.02)}) == 1


def test_a_spec_has_a_place_for_the_message_in_its_entity() -> None:
    spec = LeaseSpec(LeaseId("m"), "servicebus.main", "orders", MESSAGE, lock_token="secret", sequence_number=77)
    assert spec.sequence_number == 77
    assert "secret" not in repr(LeaseRegistered(spec))
