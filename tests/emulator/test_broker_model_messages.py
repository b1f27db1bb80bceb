from __future__ import annotations

from uuid import UUID

import pytest

from renewer.emulator.broker import QueueSpec, RefusedError
from renewer.emulator.broker.entities import Entity
from renewer.emulator.broker.messages import MessageLock, MessageState, Outcome
from renewer.emulator.broker.namespace import Topic
from renewer.emulator.broker.notices import MessageLockExpired, MessagesReady
from renewer.errors import UsageError
from tests.emulator.broker_model import LOCK_S, UTC_MS, entity, message, namespace, of_kind, send

PLAIN = QueueSpec("plain", max_delivery_count=3)


def lock_one(queue: Entity, now: float = 0.0) -> MessageLock:
    lock = queue.lock_next(now)
    assert lock is not None
    return lock


def contents(queue: Entity | None) -> list[object]:
    assert queue is not None
    return [stored.content for stored in queue.peek(1, 100)]


def test_messages_come_out_in_the_order_in_which_they_went_in() -> None:
    _, plain = entity(PLAIN)
    assert send(plain, "a", "b", "c") == [1, 2, 3]
    assert [lock_one(plain).message.content for _ in range(3)] == ["a", "b", "c"]
    assert plain.lock_next(0.0) is None


def test_a_completed_message_is_gone_and_its_lock_too() -> None:
    _, plain = entity(PLAIN)
    send(plain, "m")
    lock = lock_one(plain)
    plain.settle(lock, Outcome.COMPLETE, 1.0)
    assert plain.size == 0
    with pytest.raises(RefusedError) as caught:
        plain.locks_of([lock.token], 1.0)
    assert (caught.value.condition, caught.value.status) == ("com.microsoft:message-lock-lost", 410)


def test_an_abandoned_message_goes_back_to_its_place_with_a_failed_delivery() -> None:
    _, plain = entity(PLAIN)
    send(plain, "a", "b")
    plain.settle(lock_one(plain), Outcome.ABANDON, 1.0, changes={"why": "tired"})
    again = lock_one(plain, 1.0)
    assert (again.message.content, again.message.delivery_count) == ("a", 1)
    assert again.message.changes == {"why": "tired"}


def test_a_released_message_goes_back_as_it_was() -> None:
    _, plain = entity(PLAIN)
    send(plain, "a")
    plain.settle(lock_one(plain), Outcome.RELEASE, 1.0)
    assert lock_one(plain, 1.0).message.delivery_count == 0


def test_a_lock_that_runs_out_counts_as_a_failed_delivery() -> None:
    space, plain = entity(PLAIN)
    send(plain, "a")
    lock = lock_one(plain)
    assert of_kind(space.advance(LOCK_S - 0.001), MessageLockExpired) == []
    assert of_kind(space.advance(LOCK_S), MessageLockExpired) == [MessageLockExpired(plain, lock)]
    assert lock_one(plain, LOCK_S).message.delivery_count == 1


def test_a_renewed_lock_lasts_longer() -> None:
    space, plain = entity(PLAIN)
    send(plain, "a")
    lock = lock_one(plain)
    space.advance(20.0)
    plain.renew([lock.token], 20.0)
    assert of_kind(space.advance(49.9), MessageLockExpired) == []
    assert of_kind(space.advance(50.0), MessageLockExpired) != []


def test_one_bad_token_fails_the_whole_batch() -> None:
    _, plain = entity(PLAIN)
    send(plain, "a", "b")
    good, other = lock_one(plain), lock_one(plain)
    with pytest.raises(RefusedError):
        plain.renew([good.token, UUID(int=999), other.token], 20.0)
    assert good.ends_at == other.ends_at == LOCK_S


def test_a_lock_is_lost_at_its_end_even_before_anybody_noticed() -> None:
    _, plain = entity(PLAIN)
    send(plain, "a")
    lock = lock_one(plain)
    plain.locks_of([lock.token], LOCK_S - 0.001)
    with pytest.raises(RefusedError):
        plain.locks_of([lock.token], LOCK_S)


def test_after_the_last_failed_delivery_a_message_is_dead_lettered() -> None:
    space, plain = entity(PLAIN)
    send(plain, "a")
    for now in (0.0, 1.0):
        plain.settle(lock_one(plain, now), Outcome.ABANDON, now)
    lock_one(plain, 2.0)
    space.advance(2.0 + LOCK_S)
    assert plain.size == 0
    assert plain.dead_letters is not None
    dead = lock_one(plain.dead_letters, 40.0)
    assert dead.message.delivery_count == 3
    assert dead.message.changes["DeadLetterReason"] == "MaxDeliveryCountExceeded"


def test_a_dead_lettered_message_carries_the_reason() -> None:
    _, plain = entity(PLAIN)
    send(plain, "a")
    plain.settle(lock_one(plain), Outcome.DEAD_LETTER, 1.0, reason="bad", description="very bad", changes={"k": 1})
    assert plain.dead_letters is not None
    (dead,) = plain.dead_letters.peek(1, 10)
    assert dead.changes == {"k": 1, "DeadLetterReason": "bad", "DeadLetterErrorDescription": "very bad"}


def test_a_dead_letter_queue_keeps_its_messages_however_often_they_fail() -> None:
    _, plain = entity(PLAIN)
    send(plain, "a")
    plain.settle(lock_one(plain), Outcome.DEAD_LETTER, 0.0)
    dead = plain.dead_letters
    assert dead is not None
    for _ in range(20):
        dead.settle(lock_one(dead), Outcome.ABANDON, 0.0)
    with pytest.raises(RefusedError):
        dead.settle(lock_one(dead), Outcome.DEAD_LETTER, 0.0)
    assert contents(dead) == ["a"]


def test_a_deferred_message_is_only_to_be_had_by_its_number() -> None:
    space, plain = entity(PLAIN)
    send(plain, "a", "b")
    plain.settle(lock_one(plain), Outcome.DEFER, 0.0)
    assert lock_one(plain).message.content == "b"
    (deferred,) = plain.lock_deferred([1], 0.0)
    assert deferred.message.delivery_count == 0
    with pytest.raises(RefusedError) as caught:
        plain.lock_deferred([1], 0.0)
    assert (caught.value.condition, caught.value.status) == ("com.microsoft:message-not-found", 404)
    space.advance(LOCK_S)
    assert lock_one(plain, LOCK_S).message.content == "b"
    (again,) = plain.lock_deferred([1], LOCK_S)
    assert (again.message.state, again.message.delivery_count) == (MessageState.DEFERRED, 1)
    plain.settle(again, Outcome.COMPLETE, LOCK_S)


@pytest.mark.parametrize("numbers", [[1, 2], [1, 99]])
def test_of_deferred_messages_one_gets_all_or_none(numbers: list[int]) -> None:
    _, plain = entity(PLAIN)
    send(plain, "deferred", "active")
    plain.settle(lock_one(plain), Outcome.DEFER, 0.0)
    with pytest.raises(RefusedError):
        plain.lock_deferred(numbers, 0.0)
    assert [stored.content for stored in plain.take_deferred([1], 0.0)] == ["deferred"]
    assert contents(plain) == ["active"]


def test_peeking_shows_messages_in_every_state_and_changes_nothing() -> None:
    _, plain = entity(PLAIN)
    send(plain, "locked", "deferred", "active")
    lock_one(plain)
    plain.settle(lock_one(plain), Outcome.DEFER, 0.0)
    plain.schedule_messages([message("scheduled", scheduled_ms=UTC_MS + 5000)], 0.0, UTC_MS)
    assert contents(plain) == ["locked", "deferred", "active", "scheduled"]
    assert [stored.sequence_number for stored in plain.peek(2, 2)] == [2, 3]
    assert [stored.state for stored in plain.peek(4, 2)] == [MessageState.SCHEDULED]


def test_a_scheduled_message_comes_at_its_time_under_a_new_number() -> None:
    space, plain = entity(PLAIN)
    (number,) = plain.schedule_messages([message("later", scheduled_ms=UTC_MS + 5000)], 10.0, UTC_MS)
    send(plain, "now", now=10.0)
    assert of_kind(space.advance(14.999), MessagesReady) == [MessagesReady(plain, None)]
    assert of_kind(space.advance(15.0), MessagesReady) == [MessagesReady(plain, None)]
    assert [lock_one(plain, 15.0).message.content for _ in range(2)] == ["now", "later"]
    (stored,) = plain.peek(number + 1, 10)[-1:]
    assert (stored.content, stored.sequence_number, stored.enqueued_ms) == ("later", 3, UTC_MS + 5000)


def test_a_message_sent_for_later_waits_too_and_one_for_earlier_does_not() -> None:
    _, plain = entity(PLAIN)
    plain.send([message("later", scheduled_ms=UTC_MS + 1), message("now", scheduled_ms=UTC_MS)], 0.0, UTC_MS)
    assert lock_one(plain).message.content == "now"
    assert plain.lock_next(0.0) is None


def test_scheduled_messages_are_cancelled_all_or_none() -> None:
    space, plain = entity(PLAIN)
    batch = [message(name, scheduled_ms=UTC_MS + 1000) for name in "ab"]
    numbers = plain.schedule_messages(batch, 0.0, UTC_MS)
    with pytest.raises(RefusedError):
        plain.schedule.cancel([numbers[0], 99])
    plain.schedule.cancel(numbers)
    space.advance(99.0)
    assert plain.size == 0


def test_every_subscription_gets_a_copy_of_its_own() -> None:
    space = namespace(
        QueueSpec("news/Subscriptions/plain"), QueueSpec("News/subscriptions/sessions", requires_session=True)
    )
    topic, plain, sessions = (
        space.find(path) for path in ("NEWS", "news/subscriptions/PLAIN", "news/subscriptions/sessions")
    )
    assert isinstance(topic, Topic)
    assert isinstance(plain, Entity)
    assert isinstance(sessions, Entity)
    topic.send([message("a", "s"), message("b")], 0.0, UTC_MS)
    topic.schedule_messages([message("c", "s", scheduled_ms=UTC_MS + 1000)], 0.0, UTC_MS)
    space.advance(1.0)
    assert contents(plain) == ["a", "b", "c"]
    assert contents(sessions) == ["a", "c"]
    assert contents(sessions.dead_letters) == ["b"]
    plain.settle(lock_one(plain), Outcome.ABANDON, 1.0)
    assert [stored.delivery_count for stored in sessions.peek(1, 1)] == [0]


def test_names_are_found_whatever_their_case() -> None:
    space = namespace(QueueSpec("Orders"))
    assert space.find("oRDERS") is not None
    assert space.find("ORDERS/$DeadLetterQueue") is space.find("orders/$deadletterqueue")
    assert space.find("nothing") is None


@pytest.mark.parametrize(
    "specs",
    [
        pytest.param([QueueSpec("a"), QueueSpec("A")], id="twice the same name"),
        pytest.param([QueueSpec("a"), QueueSpec("a/Subscriptions/s")], id="a queue as topic"),
    ],
)
def test_names_that_clash_are_refused(specs: list[QueueSpec]) -> None:
    with pytest.raises(UsageError):
        namespace(*specs)
