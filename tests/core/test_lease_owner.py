from __future__ import annotations

import pytest

from renewer.core.model import Owner
from renewer.core.states import LeaseState, LossReason, OwnerKind
from tests.core.playbook import LeaseStory, held

HEARTBEAT = Owner(OwnerKind.HEARTBEAT, ttl_s=4.0)
CONNECTION = Owner(OwnerKind.CONNECTION, ttl_s=1.0)
PID = Owner(OwnerKind.PID, pid=7)


def test_an_owner_without_a_heartbeat_for_its_time_is_gone_and_the_session_free_at_once() -> None:
    story = held(owner=HEARTBEAT)
    assert story.lease.owner_until == 4.0
    story.run(3.999)
    assert story.lease.state is LeaseState.HELD
    assert story.advance(4.0)[-2:] == ["release epoch 1", "tell lost epoch 1: owner_gone, final"]
    assert story.lease.last_loss is not None
    assert story.lease.last_loss.detail == "no heartbeat for 4 s"
    assert story.lease.owner_until is None


def test_each_heartbeat_counts_from_when_it_came() -> None:
    story = held(owner=HEARTBEAT, lock_s=300.0)
    assert story.seen(3.9) == []
    assert story.advance(4.0) == []
    assert story.advance(7.9) == ["release epoch 1", "tell lost epoch 1: owner_gone, final"]


def test_a_lost_owner_ends_a_lease_that_is_still_being_acquired() -> None:
    story = LeaseStory(owner=HEARTBEAT)
    story.register(0.0)
    story.advance(0.0)
    assert story.advance(4.0) == ["cancel #1", "tell lost epoch 0: owner_gone, final"]


def test_a_lease_whose_owner_is_gone_is_not_acquired_again() -> None:
    story = held(owner=PID)
    assert story.owner_gone(1.0) == ["release epoch 1", "tell lost epoch 1: owner_gone, final"]
    assert story.lease.last_loss is not None
    assert story.lease.last_loss.reason is LossReason.OWNER_GONE
    assert story.run(3600.0) == []


def test_while_its_connection_stands_an_owner_needs_no_other_sign_of_life() -> None:
    story = held(owner=CONNECTION, lock_s=3600.0)
    story.seen(0.5, stays=True)
    assert story.lease.owner_until is None
    assert story.advance(149.0) == []
    story.seen(149.0)
    assert story.advance(149.9) == []
    assert story.advance(150.0)[-1] == "tell lost epoch 1: owner_gone, final"


def test_an_owner_has_half_a_minute_to_connect_first() -> None:
    story = LeaseStory(owner=CONNECTION)
    story.register(0.0)
    story.run(29.9)
    assert story.lease.state is LeaseState.ACQUIRING
    assert story.advance(30.0)[-1] == "tell lost epoch 0: owner_gone, final"


def test_after_the_request_that_registered_it_an_owner_has_half_a_minute_to_connect() -> None:
    story = LeaseStory(owner=CONNECTION)
    story.register(0.0)
    story.seen(0.0, stays=True)
    story.seen(60.0, is_new=True)
    assert story.lease.owner_until == 90.0
    story.seen(61.0, stays=True)
    story.seen(62.0)
    assert story.lease.owner_until == 63.0


def test_an_owner_that_comes_back_in_time_keeps_its_lease() -> None:
    story = held(owner=CONNECTION, lock_s=3600.0)
    story.seen(1.0, stays=True)
    story.seen(2.0)
    story.seen(2.9, stays=True)
    assert story.advance(10.0) == []
    assert story.lease.state is LeaseState.HELD


@pytest.mark.parametrize("owner", [HEARTBEAT, CONNECTION, PID])
def test_signs_of_an_ended_lease_s_owner_change_nothing(owner: Owner) -> None:
    story = held(owner=owner)
    story.release(1.0)
    assert story.seen(2.0) == story.seen(2.0, stays=True) == story.owner_gone(2.0) == []
    assert story.lease.owner_until is None
    assert story.lease.state is LeaseState.RELEASED


def test_an_owner_is_not_blamed_for_a_daemon_that_was_stopped_itself() -> None:
    """Its heartbeat may have come meanwhile, and is read only after the clock is looked at."""
    story = held(owner=HEARTBEAT, lock_s=300.0)
    assert story.advance(60.0) == []
    assert story.lease.owner_until == 62.0
    assert story.seen(60.0) == []
    assert story.advance(63.9) == []
    assert story.advance(64.0)[-1] == "tell lost epoch 1: owner_gone, final"


def test_an_owner_that_gives_no_sign_after_a_stall_either_is_gone() -> None:
    story = held(owner=HEARTBEAT, lock_s=300.0)
    assert story.advance(60.0) == []
    assert story.advance(62.0)[-1] == "tell lost epoch 1: owner_gone, final"
