from __future__ import annotations

import pytest

from renewer.core.effects import TellLease
from renewer.core.events import LeaseGranted, LeaseRegistered, LinkLost
from renewer.core.model import Grant, LeaseId, LeaseSpec
from renewer.core.scheduler import Scheduler
from renewer.core.states import LeaseState, LossReason
from renewer.core.timing import RenewalPolicy
from tests.core.playbook import LeaseStory, busy, held, refused

FOR_GOOD = RenewalPolicy(reacquire=False)


OURS = (LossReason.MAX_DURATION, LossReason.OWNER_GONE)
"""Ends that we bring about ourselves: told as losses, and not counted as such."""


@pytest.mark.parametrize("reason", LossReason)
def test_a_lost_link_is_told_at_once_with_its_reason_and_only_once(reason: LossReason) -> None:
    story = held(FOR_GOOD)
    assert story.link_lost(1.0, reason) == ["release epoch 1", f"tell lost epoch 1: {reason}, final"]
    assert story.link_lost(1.0, reason) == []
    assert story.lease.state is LeaseState.LOST
    assert story.lease.losses == (0 if reason in OURS else 1)
    assert story.lease.last_loss is not None


@pytest.mark.parametrize("reason", LossReason)
def test_the_brokers_word_ends_the_lease_at_once_with_its_reason_and_only_once(reason: LossReason) -> None:
    story = held(FOR_GOOD)
    story.advance(2.5)
    assert story.fail(2.6, 2, refused(reason)) == ["release epoch 1", f"tell lost epoch 1: {reason}, final"]
    assert story.fail(2.6, 2, refused(reason)) == []
    assert story.advance(2.6) == []


def test_a_loss_carries_its_account() -> None:
    story = held(FOR_GOOD)
    lost = LinkLost(story.spec.id, 1, LossReason.DETACHED, "amqp:link:detach-forced: idle")
    news = story.scheduler.handle(lost, 1.0, 0.0)[-1]
    assert isinstance(news, TellLease)
    assert news.detail == "amqp:link:detach-forced: idle"
    assert story.lease.last_loss is not None
    assert (story.lease.last_loss.epoch, story.lease.last_loss.reason, story.lease.last_loss.at) == (
        1,
        LossReason.DETACHED,
        1.0,
    )
    assert story.lease.last_error == "amqp:link:detach-forced: idle"


def test_every_attempt_under_way_is_cancelled_when_the_lease_is_lost() -> None:
    story = held()
    story.run(3.59375)
    assert story.link_lost(3.75) == [
        "cancel #2",
        "cancel #3",
        "cancel #4",
        "release epoch 1",
        "tell lost epoch 1: detached",
    ]


def test_there_is_no_margin_on_a_lock_that_is_lost() -> None:
    story = held()
    story.link_lost(1.0)
    assert story.lease.margin_s(1.0) is None


def test_a_lost_lease_is_acquired_again_as_a_new_epoch_and_told_reacquired() -> None:
    story = held(fraction=0.5)
    assert story.link_lost(1.0, LossReason.CONNECTION_LOST) == ["release epoch 1", "tell lost epoch 1: connection_lost"]
    assert story.lease.state is LeaseState.ACQUIRING
    assert story.advance(1.0499) == []
    assert story.advance(1.05) == ["acquire epoch 2 as #2, due 1.05, until 76.05"]
    assert story.grant(1.5, 2, sent_at=1.25, epoch=2) == ["tell reacquired epoch 2"]
    assert story.lease.state is LeaseState.HELD
    assert (story.lease.epoch, story.lease.acquired_at, story.lease.losses) == (2, 1.5, 1)


def test_a_lease_that_was_lost_at_risk_begins_its_new_epoch_with_a_clean_slate() -> None:
    story = held(fraction=0.5)
    story.run(10.0)
    assert story.lease.failures == 0
    assert story.fail(10.0, story.lease._attempt, busy(), epoch=2) == ["tell acquire_failed epoch 1: busy"]
    story.advance(10.5)
    assert story.grant(10.5, story.lease._attempt, sent_at=10.5, epoch=2) == ["tell reacquired epoch 2"]
    assert (story.lease.failures, story.lease.last_error) == (0, None)
    assert story.scheduler.next_due() == 12.75
    assert story.advance(12.75)[-1].endswith("until 20.5")


def test_each_epoch_that_is_lost_is_told_once() -> None:
    story = held()
    for epoch in (1, 2, 3):
        assert story.link_lost(float(epoch), epoch=epoch)[-1] == f"tell lost epoch {epoch}: detached"
        assert story.link_lost(float(epoch), epoch=epoch) == []
        assert story.link_lost(float(epoch), epoch=epoch + 1) == []
        assert story.link_lost(float(epoch), epoch=epoch + 2) == []
        story.advance(float(epoch))
        assert story.grant(float(epoch), epoch + 1, sent_at=float(epoch), epoch=epoch + 1) == [
            f"tell reacquired epoch {epoch + 1}"
        ]
    assert story.lease.losses == 3


def test_a_lease_at_risk_can_be_lost_by_the_brokers_word() -> None:
    story = held(FOR_GOOD)
    story.run(5.0)
    attempt = story.lease._attempt
    assert story.fail(5.1, attempt, refused())[-1] == "tell lost epoch 1: expired, final"


def test_a_lease_at_risk_can_be_lost_with_its_link() -> None:
    story = held()
    story.run(5.0)
    assert story.link_lost(5.1)[-1] == "tell lost epoch 1: detached"
    assert story.lease.state is LeaseState.ACQUIRING


def test_silence_for_a_whole_lock_after_expiry_loses_the_lease_and_not_a_moment_earlier() -> None:
    story = held()
    story.run(9.999)
    assert story.lease.state is LeaseState.AT_RISK
    told = story.run(10.0)
    assert told[-1] == (10.0, "acquire epoch 2 as #14, due 10, until 85")
    assert [line for _, line in told if line.startswith("tell")] == ["tell lost epoch 1: expired"]
    assert story.lease.last_loss is not None
    assert story.lease.last_loss.detail == "could not be renewed for a whole lock after expiry: no answer in time"


def test_a_loss_after_being_put_off_for_a_whole_lock_does_not_claim_that_the_broker_was_silent() -> None:
    story = held(FOR_GOOD)
    story.advance(5.0)
    story.fail(5.5, 2, busy(retry_after_s=1.0))
    story.advance(6.5)
    story.fail(9.5, 3, busy())
    assert story.advance(10.0)[-1] == "tell lost epoch 1: expired, final"
    assert story.lease.last_loss is not None
    assert story.lease.last_loss.detail == "could not be renewed for a whole lock after expiry: server busy"


def test_a_lease_is_let_go_when_it_has_been_held_for_its_maximum_and_is_not_taken_again() -> None:
    story = held(RenewalPolicy(max_duration_s=60.0), lock_s=300.0)
    assert story.scheduler.next_due() == 60.0
    assert story.advance(59.999) == []
    assert story.advance(60.0) == ["release epoch 1", "tell lost epoch 1: max_duration, final"]
    assert story.lease.state is LeaseState.LOST
    assert story.lease.last_error == "held for its maximum of 60 s"


def test_a_maximum_ends_a_lease_at_risk_too_and_names_the_maximum() -> None:
    story = held(RenewalPolicy(max_duration_s=7.0))
    story.run(6.999)
    assert story.lease.state is LeaseState.AT_RISK
    assert story.advance(7.0)[-1] == "tell lost epoch 1: max_duration, final"


def test_a_lease_with_a_maximum_that_is_farther_than_the_end_of_patience_is_lost_as_expired() -> None:
    story = held(RenewalPolicy(max_duration_s=60.0, reacquire=False))
    assert story.run(10.0)[-1] == (10.0, "tell lost epoch 1: expired, final")


def test_a_maximum_counts_from_the_acquisition() -> None:
    story = LeaseStory(RenewalPolicy(max_duration_s=60.0))
    story.register(0.0)
    story.advance(0.0)
    story.grant(50.0, 1, sent_at=50.0, lock_s=300.0)
    assert story.advance(109.999) == []
    assert story.advance(110.0)[-1] == "tell lost epoch 1: max_duration, final"


def test_a_lease_whose_owner_is_gone_is_not_taken_again() -> None:
    story = held()
    assert story.link_lost(1.0, LossReason.OWNER_GONE) == [
        "release epoch 1",
        "tell lost epoch 1: owner_gone, final",
    ]
    assert story.lease.state is LeaseState.LOST


def test_a_lost_lease_is_forgotten_after_its_retention_and_can_then_be_registered_anew() -> None:
    story = held(FOR_GOOD)
    assert story.lease.forget_at is None
    story.link_lost(1.0)
    assert story.lease.forget_at == 3601.0
    assert story.register(2.0) == []
    assert story.advance(3600.999) == []
    assert story.advance(3601.0) == ["tell forgotten epoch 1"]
    assert story.scheduler.lease(story.spec.id) is None
    assert story.scheduler.next_due() is None
    assert story.link_lost(3601.0) == []
    assert story.register(3602.0) == ["tell registered epoch 0"]


def test_a_lease_without_retention_is_forgotten_in_the_moment_it_ends() -> None:
    story = held(RenewalPolicy(reacquire=False, retention_s=0.0, max_duration_s=1.0))
    assert story.advance(1.0) == [
        "release epoch 1",
        "tell lost epoch 1: max_duration, final",
        "tell forgotten epoch 1",
    ]


def test_looking_after_a_lost_lease_before_it_is_forgotten_does_nothing() -> None:
    story = held(FOR_GOOD)
    story.link_lost(1.0)
    assert story.lease.advance(2.0, 0.0) == []


def test_nothing_reaches_a_lost_lease() -> None:
    story = held(FOR_GOOD)
    story.advance(2.5)
    story.link_lost(3.0)
    assert story.grant(3.1, 2, sent_at=2.5) == []
    assert story.fail(3.1, 2, refused()) == []
    assert story.fail(3.1, 2, busy()) == []
    assert story.release(3.1) == []
    assert story.lease.state is LeaseState.LOST


def test_a_session_that_is_taken_away_again_and_again_is_accepted_less_and_less_eagerly() -> None:
    story = held(fraction=1.0)
    waits = []
    now = 1.0
    for epoch in range(1, 6):
        story.link_lost(now, epoch=epoch)
        due_at = story.lease.next_attempt_at
        assert due_at is not None
        waits.append(round(due_at - now, 6))
        story.advance(due_at)
        story.grant(due_at, story.lease._attempt, sent_at=due_at, epoch=epoch + 1)
        now = due_at + 0.5
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6]
    story.link_lost(now + 5.0, epoch=6)
    assert story.lease.next_attempt_at == pytest.approx(now + 5.1)


def test_a_lease_on_any_session_forgets_which_one_it_had_when_that_is_lost() -> None:
    scheduler = Scheduler()
    spec = LeaseSpec(LeaseId("any"), "servicebus.main", "orders")
    scheduler.handle(LeaseRegistered(spec), 0.0, 0.0)
    scheduler.advance(0.0, lambda: 0.0)
    scheduler.handle(LeaseGranted(spec.id, 1, 1, Grant(0.0, 5.0, session_id="fresh-1")), 0.0, 0.0)
    lease = scheduler.lease(spec.id)
    assert lease is not None
    assert lease.session_id == "fresh-1"
    told = scheduler.handle(LinkLost(spec.id, 1, LossReason.DETACHED, "why"), 1.0, 0.0)
    assert [effect.session_id for effect in told if isinstance(effect, TellLease)] == ["fresh-1"]
    assert lease.session_id is None
