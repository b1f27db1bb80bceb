from __future__ import annotations

from renewer.core.states import LeaseState
from renewer.core.timing import RenewalPolicy
from tests.core.playbook import LeaseStory, busy, held, refused


def test_a_held_lease_is_given_back_at_once() -> None:
    story = held()
    assert story.release(1.0) == ["release epoch 1", "tell released epoch 1: final"]
    assert story.lease.state is LeaseState.RELEASED


def test_a_renewal_under_way_is_cancelled_before_the_lock_is_given_back() -> None:
    story = held()
    story.run(3.125)
    assert story.release(3.25) == ["cancel #2", "cancel #3", "release epoch 1", "tell released epoch 1: final"]


def test_a_lease_at_risk_is_given_back_too_for_it_may_still_be_ours() -> None:
    story = held()
    story.advance(5.0)
    assert story.release(5.5) == ["cancel #2", "release epoch 1", "tell released epoch 1: final"]


def test_a_lease_being_acquired_is_released_by_cancelling_the_acquisition() -> None:
    story = LeaseStory()
    story.register(0.0)
    story.advance(0.0)
    assert story.release(1.0) == ["cancel #1", "tell released epoch 0: final"]


def test_a_lease_is_released_before_it_was_ever_asked_for() -> None:
    story = LeaseStory()
    story.register(0.0)
    assert story.release(0.0) == ["tell released epoch 0: final"]
    assert story.advance(0.0) == []


def test_a_lease_waiting_to_be_acquired_again_is_released_without_giving_back_what_is_gone() -> None:
    story = held(fraction=0.5)
    story.link_lost(1.0)
    assert story.release(1.01) == ["tell released epoch 1: final"]


def test_a_second_release_changes_nothing() -> None:
    story = held()
    story.release(1.0)
    assert story.release(2.0) == []
    assert story.lease.forget_at == 3601.0


def test_a_grant_that_arrives_after_the_release_is_given_back() -> None:
    story = LeaseStory()
    story.register(0.0)
    story.advance(0.0)
    story.release(1.0)
    assert story.grant(1.1, 1, sent_at=0.0) == ["release epoch 1"]
    assert story.lease.state is LeaseState.RELEASED


def test_a_grant_of_a_new_epoch_that_arrives_after_the_release_is_given_back() -> None:
    story = held()
    story.link_lost(1.0)
    story.advance(1.0)
    story.release(1.5)
    assert story.grant(1.6, 2, sent_at=1.0, epoch=1) == []
    assert story.grant(1.6, 2, sent_at=1.0, epoch=2) == ["release epoch 2"]


def test_a_grant_that_arrives_after_the_acquisition_was_given_up_is_given_back() -> None:
    story = LeaseStory(RenewalPolicy(reacquire=False))
    story.register(0.0)
    story.advance(0.0)
    story.advance(60.0)
    assert story.lease.state is LeaseState.LOST
    assert story.grant(60.5, 1, sent_at=0.0, lock_s=300.0) == ["release epoch 1"]


def test_a_renewal_that_is_answered_after_the_release_changes_nothing() -> None:
    story = held()
    story.advance(2.5)
    story.release(2.6)
    assert story.grant(2.7, 2, sent_at=2.5) == []
    assert story.fail(2.7, 2, busy()) == []
    assert story.fail(2.7, 2, refused()) == []
    assert story.link_lost(2.7) == []


def test_a_released_lease_is_looked_after_no_more_and_forgotten_after_its_retention() -> None:
    story = held(RenewalPolicy(retention_s=30.0))
    story.release(1.0)
    assert story.run(30.999) == []
    assert story.advance(31.0) == ["tell forgotten epoch 1"]
