"""A lease that goes to another owner as it stands: to that one it is new."""

from __future__ import annotations

from dataclasses import replace

from renewer.core.events import LeaseHandedOver, LeaseRegistered
from renewer.core.model import LeaseId, LeaseSpec, Owner
from renewer.core.scheduler import Scheduler
from renewer.core.states import LeaseKind, LeaseState, OwnerKind
from tests.core.playbook import LeaseStory, held

HEARTBEAT = Owner(OwnerKind.HEARTBEAT, ttl_s=4.0)


def hand_over(story: LeaseStory, now: float, owner: Owner = HEARTBEAT, **terms: object) -> list[str]:
    policy = replace(story.spec.policy, **terms)
    story.spec = story._spec = replace(story.spec, owner=owner, policy=policy)
    return story.handle(now, LeaseHandedOver(story.spec))


def test_a_held_lease_is_registered_and_acquired_for_its_new_owner_and_goes_on() -> None:
    story = held()
    story.link_lost(1.0)
    story.run(2.0)
    story.grant(2.0, 2, sent_at=2.0, epoch=2)
    assert (story.lease.losses, story.lease.epoch) == (1, 2)
    assert hand_over(story, 3.0) == ["tell registered epoch 2", "tell acquired epoch 2"]
    lease = story.lease
    assert (lease.losses, lease.last_loss, lease.renewals) == (0, None, 0)
    assert (lease.registered_at, lease.acquired_at, lease.state) == (3.0, 3.0, LeaseState.HELD)
    assert (lease.expires_at, lease.owner_until) == (7.0, 7.0)


def test_the_time_that_a_new_owner_may_have_it_begins_when_it_is_handed_over() -> None:
    story = held(lock_s=300.0)
    hand_over(story, 100.0, owner=Owner(), max_duration_s=60.0, reacquire=False)
    assert story.advance(120.0) == []
    assert story.run(160.0)[-1] == (160.0, "tell lost epoch 1: max_duration, final")


def test_a_lease_that_is_being_acquired_is_acquired_for_its_new_owner() -> None:
    story = LeaseStory()
    story.register(0.0)
    story.advance(0.0)
    assert hand_over(story, 50.0, owner=Owner(), reacquire=False) == ["tell registered epoch 0"]
    assert story.grant(51.0, 1, sent_at=51.0) == ["tell acquired epoch 1"]


def test_a_lease_that_was_lost_before_is_no_reacquired_one_for_its_new_owner() -> None:
    story = held()
    story.link_lost(1.0)
    story.advance(1.0)
    hand_over(story, 2.0, owner=Owner())
    story.run(3.0)
    assert story.grant(3.0, 2, sent_at=3.0, epoch=2) == ["tell acquired epoch 2"]
    story.link_lost(4.0, epoch=2)
    story.run(5.0)
    assert story.grant(5.0, 3, sent_at=5.0, epoch=3) == ["tell reacquired epoch 3"]


def test_a_lease_that_is_over_is_handed_to_nobody() -> None:
    story = held()
    story.release(1.0)
    assert hand_over(story, 2.0) == []
    assert story.lease.state is LeaseState.RELEASED


def test_living_sessions_are_counted_by_target_and_message_locks_are_not() -> None:
    story = held()
    target = story.spec.target
    scheduler = story.scheduler
    assert (scheduler.living_sessions(target), scheduler.living_sessions("servicebus.other")) == (1, 0)
    token = "3d6c1b1e-7a57-4f2a-9a3f-0e6a7a5b8f10"
    message = LeaseSpec(LeaseId("m"), target, "plain", kind=LeaseKind.MESSAGE, lock_token=token)
    scheduler.handle(LeaseRegistered(message), 1.0, 0.0)
    assert (scheduler.living_sessions(target), scheduler.living_leases) == (1, 2)
    story.release(2.0)
    assert (scheduler.living_sessions(target), scheduler.living_leases) == (0, 1)
    story.forget(3.0)
    assert (scheduler.living_sessions(target), scheduler.living_leases) == (0, 1)


def test_a_session_that_is_forgotten_while_it_lives_does_not_count_any_longer() -> None:
    scheduler = Scheduler()
    spec = LeaseSpec(LeaseId("a"), "servicebus.main", "orders", session_id="a")
    scheduler.handle(LeaseRegistered(spec), 0.0, 0.0)
    assert scheduler.living_sessions("servicebus.main") == 1
    story = held()
    story.forget(1.0)
    assert story.scheduler.living_sessions(story.spec.target) == 0
