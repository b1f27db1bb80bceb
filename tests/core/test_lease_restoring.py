from __future__ import annotations

from dataclasses import replace

import pytest

from renewer.core.events import LeaseRevised
from renewer.core.model import Owner
from renewer.core.past import Loss
from renewer.core.states import LeaseKind, LeaseState, LossReason, OwnerKind
from renewer.core.timing import RenewalPolicy
from tests.core.playbook import LeaseStory, held, refused

STAYS_LOST = RenewalPolicy(reacquire=False)
HELD = {"epoch": 3, "duration_s": 5.0, "expires_at": 2.0, "session_id": "s", "losses": 2}


def test_a_session_that_was_held_is_lost_with_the_process_and_acquired_again_as_the_next_epoch() -> None:
    story = LeaseStory()
    assert story.restore(0.0, LeaseState.HELD, **HELD) == [
        "tell restored epoch 3",
        "tell lost epoch 3: connection_lost",
    ]
    assert story.advance(0.0) == ["acquire epoch 4 as #1, due 0, until 75"]
    assert story.grant(0.0, 1, sent_at=0.0, epoch=4) == ["tell reacquired epoch 4"]
    assert story.lease.losses == 3
    assert story.lease.registered_at == -100.0


def test_a_session_that_may_not_be_acquired_again_is_lost_for_good_and_nothing_is_asked() -> None:
    story = LeaseStory(STAYS_LOST)
    assert story.restore(0.0, LeaseState.HELD, **HELD)[-1] == "tell lost epoch 3: connection_lost, final"
    assert story.run(3599.0) == []


def test_a_parked_session_is_acquired_again_without_being_lost() -> None:
    story = LeaseStory()
    assert story.restore(0.0, LeaseState.ACQUIRING, **HELD) == ["tell restored epoch 3"]
    story.advance(0.0)
    assert story.grant(0.0, 1, sent_at=0.0, epoch=4) == ["tell reacquired epoch 4"]
    assert story.lease.losses == 2


def test_a_session_that_was_never_acquired_goes_on_being_acquired() -> None:
    story = LeaseStory()
    assert story.restore(0.0, LeaseState.ACQUIRING) == ["tell restored epoch 0"]
    assert story.advance(0.0) == ["acquire epoch 1 as #1, due 0, until 75"]
    assert story.grant(0.0, 1, sent_at=0.0) == ["tell acquired epoch 1"]


def test_the_time_to_acquire_it_counts_from_its_registration() -> None:
    story = LeaseStory(STAYS_LOST)
    story.restore(0.0, LeaseState.ACQUIRING)
    assert story.advance(0.0) == ["tell lost epoch 0: refused, final"]


@pytest.mark.parametrize("state", [LeaseState.LOST, LeaseState.RELEASED])
def test_an_ended_lease_can_still_be_read_until_its_time_is_over(state: LeaseState) -> None:
    story = LeaseStory()
    loss = Loss(3, LossReason.DETACHED, "gone", -50.0)
    assert story.restore(0.0, state, **HELD, last_loss=loss, forget_at=10.0) == []
    assert story.lease.state is state
    assert story.lease.last_loss == loss
    assert story.run(9.9) == []
    assert story.advance(10.0) == ["tell forgotten epoch 3"]


def test_a_message_lock_still_in_time_goes_on_and_is_renewed_at_once() -> None:
    story = LeaseStory(STAYS_LOST, kind=LeaseKind.MESSAGE)
    assert story.restore(0.0, LeaseState.HELD, **{**HELD, "epoch": 1}) == ["tell restored epoch 1"]
    assert story.lease.state is LeaseState.HELD
    assert story.advance(0.0) == ["renew epoch 1 as #1, due 0, until 7"]
    assert story.grant(0.5, 1, sent_at=0.0) == ["tell renewed epoch 1: margin 1.5"]
    assert story.lease.epoch == 1


def test_a_message_lock_whose_time_is_not_known_is_at_risk_until_the_broker_has_spoken() -> None:
    story = LeaseStory(STAYS_LOST, kind=LeaseKind.MESSAGE)
    story.restore(0.0, LeaseState.HELD, **{**HELD, "epoch": 1, "expires_at": -20.0})
    assert story.advance(0.0) == ["tell at_risk epoch 1", "renew epoch 1 as #1, due 0, until 5"]
    assert story.grant(0.5, 1, sent_at=0.0) == [
        "tell renewed epoch 1: margin -20.5",
        "tell recovered epoch 1: margin -20.5",
    ]
    assert story.lease.losses == 2


def test_a_message_lock_that_is_gone_is_lost() -> None:
    story = LeaseStory(STAYS_LOST, kind=LeaseKind.MESSAGE)
    story.restore(0.0, LeaseState.HELD, **{**HELD, "epoch": 1})
    story.advance(0.0)
    assert story.fail(0.5, 1, refused())[-1] == "tell lost epoch 1: expired, final"


@pytest.mark.parametrize("kind", [OwnerKind.HEARTBEAT, OwnerKind.CONNECTION])
def test_an_owner_has_half_a_minute_to_come_back(kind: OwnerKind) -> None:
    story = LeaseStory(owner=Owner(kind, ttl_s=1.0))
    story.restore(0.0, LeaseState.HELD, **HELD)
    assert story.lease.owner_until == 30.0


def test_an_owner_that_may_be_silent_for_longer_still_may() -> None:
    story = LeaseStory(owner=Owner(OwnerKind.HEARTBEAT, ttl_s=120.0))
    story.restore(0.0, LeaseState.HELD, **HELD)
    assert story.lease.owner_until == 120.0


def test_what_is_known_already_is_not_restored_over() -> None:
    story = held()
    assert story.restore(1.0, LeaseState.HELD, **HELD) == []
    assert story.lease.epoch == 1


def test_numbers_go_on_after_those_that_were_restored() -> None:
    story = LeaseStory()
    story.restore(0.0, LeaseState.HELD, **{**HELD, "number": 41})
    other = LeaseStory()
    other.scheduler = story.scheduler
    other.spec = other._spec = type(other.spec)(id="other", target="servicebus.main", entity="orders")
    other.register(0.0)
    assert (story.lease.number, other.lease.number) == (41, 42)


def test_a_parked_lease_is_given_back_and_then_rests() -> None:
    story = held()
    story.run(2.5)
    assert story.park(3.0) == ["cancel #2", "release epoch 1", "tell parked epoch 1"]
    assert story.lease.state is LeaseState.ACQUIRING
    assert story.run(3600.0) == []


def test_a_session_that_may_not_be_acquired_again_is_lost_when_the_daemon_stops() -> None:
    story = held(STAYS_LOST)
    assert story.park(1.0) == ["release epoch 1", "tell lost epoch 1: connection_lost, final"]


def test_a_parked_message_lock_stands_for_as_long_as_the_broker_keeps_it() -> None:
    story = held(STAYS_LOST, kind=LeaseKind.MESSAGE)
    assert story.park(1.0) == ["tell parked epoch 1"]
    assert story.lease.state is LeaseState.HELD
    assert story.run(3600.0) == []


def test_a_lease_being_acquired_is_parked_too() -> None:
    story = LeaseStory(STAYS_LOST)
    story.register(0.0)
    story.advance(0.0)
    assert story.park(1.0) == ["cancel #1", "tell parked epoch 0"]
    assert story.run(3600.0) == []


def test_parking_what_has_ended_changes_nothing() -> None:
    story = held()
    story.release(1.0)
    assert story.park(2.0) == []
    assert story.lease.state is LeaseState.RELEASED


def test_a_renewal_that_is_asked_for_is_due_at_once() -> None:
    story = held(lock_s=300.0)
    assert story.renew_now(1.0) == []
    assert story.advance(1.0) == ["renew epoch 1 as #2, due 1, until 600"]
    assert story.renew_now(1.5) == []
    assert story.advance(1.5) == []


def test_a_lease_that_is_not_held_cannot_be_renewed_now() -> None:
    story = held(fraction=0.5)
    story.link_lost(1.0)
    assert story.renew_now(1.0) == []
    assert story.advance(1.0) == []


def test_a_forgotten_lease_is_given_back_and_not_known_any_longer() -> None:
    story = held()
    assert story.forget(1.0) == ["release epoch 1", "tell released epoch 1: final", "tell forgotten epoch 1"]
    assert story.scheduler.lease(story.spec.id) is None
    assert story.scheduler.queue_length == 0
    assert story.forget(2.0) == []


def test_a_lease_goes_on_unchanged_on_its_new_terms() -> None:
    story = held()
    story.spec = story._spec = replace(story.spec, policy=replace(story.spec.policy, max_duration_s=4.0))
    assert story.handle(1.0, LeaseRevised(story.spec)) == ["tell revised epoch 1"]
    assert story.run(4.0)[-1] == (4.0, "tell lost epoch 1: max_duration, final")
    assert story.handle(5.0, LeaseRevised(story.spec)) == []


def test_a_parked_session_is_acquired_again_when_the_daemon_goes_on_after_all() -> None:
    story = held()
    story.park(1.0)
    assert story.unpark(5.0) == []
    assert story.advance(5.0) == ["acquire epoch 2 as #2, due 5, until 80"]
    assert story.grant(5.0, 2, sent_at=5.0, epoch=2) == ["tell reacquired epoch 2"]
    assert story.unpark(6.0) == []
    assert story.advance(6.0) == []


def test_a_parked_message_lock_is_renewed_at_once_when_the_daemon_goes_on_after_all() -> None:
    story = held(STAYS_LOST, kind=LeaseKind.MESSAGE)
    story.park(1.0)
    story.unpark(2.0)
    assert story.advance(2.0) == ["renew epoch 1 as #2, due 2, until 10"]


def test_a_grant_that_arrives_after_the_lease_was_parked_is_given_back() -> None:
    story = LeaseStory()
    story.register(0.0)
    story.advance(0.0)
    story.park(1.0)
    assert story.grant(1.0, 1, sent_at=0.0) == ["release epoch 1"]
    assert story.lease.state is LeaseState.ACQUIRING
