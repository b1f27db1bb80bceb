from __future__ import annotations

import pytest

from renewer.emulator.broker import QueueSpec, RefusedError
from renewer.emulator.broker.messages import Outcome
from renewer.emulator.broker.notices import (
    MessagesReady,
    SessionGranted,
    SessionLockExpired,
    SessionWaitTimedOut,
)
from renewer.emulator.broker.sessions import MAX_SESSION_ID_LENGTH, Holder
from tests.emulator.broker_model import ANNA, BORIS, LOCK_S, UTC_MS, entity, message, of_kind, send

ORDERS = QueueSpec("orders", requires_session=True, max_delivery_count=3)


def test_a_session_is_held_by_one_link_at_a_time() -> None:
    _, orders = entity(ORDERS)
    lock = orders.sessions.accept("s", ANNA, 0.0)
    with pytest.raises(RefusedError) as caught:
        orders.sessions.accept("s", BORIS, 1.0)
    assert caught.value.condition == "com.microsoft:session-cannot-be-locked"
    orders.sessions.release(lock, 2.0)
    assert orders.sessions.accept("s", BORIS, 2.0).holder == BORIS


def test_any_free_session_can_be_accepted_even_the_empty_id() -> None:
    _, orders = entity(ORDERS)
    assert orders.sessions.accept("", ANNA, 0.0).session.id == ""
    assert orders.sessions.accept("never heard of", BORIS, 0.0).session.id == "never heard of"


def test_an_id_that_is_too_long_is_refused() -> None:
    _, orders = entity(ORDERS)
    orders.sessions.accept("x" * MAX_SESSION_ID_LENGTH, ANNA, 0.0)
    with pytest.raises(RefusedError, match="128 characters"):
        orders.sessions.accept("x" * (MAX_SESSION_ID_LENGTH + 1), ANNA, 0.0)


def test_a_lock_ends_one_lock_duration_after_the_last_renewal() -> None:
    space, orders = entity(ORDERS)
    lock = orders.sessions.accept("s", ANNA, 0.0)
    orders.sessions.renew(lock, 29.0)
    assert of_kind(space.advance(58.999), SessionLockExpired) == []
    assert of_kind(space.advance(59.0), SessionLockExpired) == [SessionLockExpired(orders, "s", ANNA)]
    assert orders.sessions.accept("s", BORIS, 59.0).ends_at == 59.0 + LOCK_S


def test_renewing_does_not_add_up() -> None:
    _, orders = entity(ORDERS)
    lock = orders.sessions.accept("s", ANNA, 0.0)
    for now in (1.0, 2.0, 3.0):
        orders.sessions.renew(lock, now)
    assert lock.ends_at == 33.0


@pytest.mark.parametrize(
    ("connection", "link", "now"),
    [
        pytest.param(2, ANNA.link, 1.0, id="the link of that name on another connection"),
        pytest.param(2, None, 1.0, id="another connection that names no link"),
        pytest.param(1, "other", 1.0, id="another link on the same connection"),
        pytest.param(1, ANNA.link, 30.0, id="at the very end of the lock"),
        pytest.param(1, ANNA.link, 31.0, id="after it, though nobody has noticed yet"),
    ],
)
def test_a_session_counts_as_held_only_for_its_link_on_its_connection_in_time(
    connection: int, link: str | None, now: float
) -> None:
    _, orders = entity(ORDERS)
    orders.sessions.accept("s", ANNA, 0.0)
    with pytest.raises(RefusedError) as caught:
        orders.sessions.check_held("s", connection, link, now)
    assert caught.value.condition == "com.microsoft:session-lock-lost"
    assert caught.value.status == 410


@pytest.mark.parametrize("link", [ANNA.link, None])
def test_the_holder_may_name_its_link_or_none(link: str | None) -> None:
    _, orders = entity(ORDERS)
    lock = orders.sessions.accept("s", ANNA, 0.0)
    assert orders.sessions.check_held("s", 1, link, 29.999) is lock


def test_a_session_that_nobody_holds_is_held_by_nobody() -> None:
    _, orders = entity(ORDERS)
    with pytest.raises(RefusedError):
        orders.sessions.check_held("s", 1, None, 0.0)


def test_the_next_session_is_the_one_that_has_been_free_longest_and_has_messages() -> None:
    _, orders = entity(ORDERS)
    orders.sessions.set_state(orders.sessions.make("only state"), b"x", 0.0, UTC_MS)
    send(orders, "m", session_id="first")
    send(orders, "m", session_id="second")
    first, second = (orders.sessions.accept_next(holder, 1.0) for holder in (ANNA, BORIS))
    assert first is not None
    assert second is not None
    assert (first.session.id, second.session.id) == ("first", "second")
    assert orders.sessions.accept_next(Holder(3, "third"), 1.0) is None


def test_who_waits_gets_the_session_that_messages_arrive_for() -> None:
    space, orders = entity(ORDERS)
    anna, boris = orders.sessions.wait(ANNA, 60.0), orders.sessions.wait(BORIS, 35.0)
    send(orders, "m", session_id="s", now=10.0)
    (granted,) = of_kind(space.take_notices(), SessionGranted)
    assert (granted.waiter, granted.lock.session.id) == (anna, "s")
    assert granted.lock.ends_at == 10.0 + LOCK_S
    send(orders, "more", session_id="s", now=11.0)
    assert of_kind(space.take_notices(), SessionGranted) == []
    assert of_kind(space.advance(35.0), SessionWaitTimedOut) == [SessionWaitTimedOut(boris)]


def test_who_waits_gets_a_session_that_another_gives_up_or_loses() -> None:
    space, orders = entity(ORDERS)
    send(orders, "m", session_id="s")
    lock = orders.sessions.accept("s", ANNA, 0.0)
    orders.sessions.wait(BORIS, 60.0)
    orders.sessions.release(lock, 5.0)
    (granted,) = of_kind(space.take_notices(), SessionGranted)
    assert granted.lock.holder == BORIS
    orders.sessions.wait(ANNA, 60.0)
    notices = space.advance(35.0)
    kinds = [type(notice) for notice in notices if not isinstance(notice, MessagesReady)]
    assert kinds == [SessionLockExpired, SessionGranted]


def test_who_has_left_the_line_gets_nothing() -> None:
    space, orders = entity(ORDERS)
    waiter = orders.sessions.wait(ANNA, 60.0)
    orders.sessions.cancel_wait(waiter)
    orders.sessions.cancel_wait(waiter)
    send(orders, "m", session_id="s")
    assert of_kind(space.advance(99.0), SessionGranted | SessionWaitTimedOut) == []  # type: ignore[arg-type]


def test_a_released_session_gives_its_messages_back_uncounted() -> None:
    _, orders = entity(ORDERS)
    send(orders, "m", session_id="s")
    lock = orders.sessions.accept("s", ANNA, 0.0)
    message_lock = orders.lock_next(0.0, lock)
    assert message_lock is not None
    orders.sessions.release(lock, 1.0)
    again = orders.lock_next(1.0, orders.sessions.accept("s", BORIS, 1.0))
    assert again is not None
    assert (again.message.content, again.message.delivery_count) == ("m", 0)


def test_an_expired_session_gives_its_messages_back_with_a_failed_delivery() -> None:
    space, orders = entity(ORDERS)
    send(orders, "a", "b", session_id="s")
    lock = orders.sessions.accept("s", ANNA, 0.0)
    taken = orders.lock_next(0.0, lock)
    assert taken is not None
    space.advance(30.0)
    with pytest.raises(RefusedError):
        orders.locks_of([taken.token], 30.0)
    messages = orders.peek(1, 10)
    assert [(m.content, m.delivery_count) for m in messages] == [("a", 1), ("b", 0)]


def test_nobody_gets_the_session_while_its_messages_are_still_being_given_back() -> None:
    space, orders = entity(QueueSpec("orders", requires_session=True, max_delivery_count=1))
    send(orders, "a", "b", "c", session_id="s")
    lock = orders.sessions.accept("s", ANNA, 0.0)
    orders.lock_next(0.0, lock)
    orders.lock_next(0.0, lock)
    orders.sessions.wait(BORIS, 60.0)
    (granted,) = of_kind(space.advance(30.0), SessionGranted)
    next_lock = orders.lock_next(30.0, granted.lock)
    assert next_lock is not None
    assert next_lock.message.content == "c"
    assert orders.dead_letters is not None
    assert orders.dead_letters.size == 2


def test_a_lock_that_is_left_behind_keeps_the_session_until_its_end() -> None:
    space, orders = entity(ORDERS)
    lock = orders.sessions.accept("s", ANNA, 0.0)
    orders.sessions.leave_to_expire(lock)
    with pytest.raises(RefusedError):
        orders.sessions.check_held("s", ANNA.connection, None, 1.0)
    with pytest.raises(RefusedError):
        orders.sessions.accept("s", BORIS, 29.0)
    assert of_kind(space.advance(30.0), SessionLockExpired) == [SessionLockExpired(orders, "s", None)]
    orders.sessions.accept("s", BORIS, 30.0)


def test_state_stays_until_it_is_cleared_and_empty_is_not_cleared() -> None:
    _, orders = entity(ORDERS)
    lock = orders.sessions.accept("s", ANNA, 0.0)
    orders.sessions.set_state(lock.session, b"", 0.0, UTC_MS)
    orders.sessions.release(lock, 1.0)
    lock = orders.sessions.accept("s", ANNA, 1.0)
    assert lock.session.state == b""
    orders.sessions.set_state(lock.session, None, 1.0, UTC_MS)
    orders.sessions.release(lock, 2.0)
    assert len(orders.sessions) == 0


def test_a_session_without_messages_state_and_holder_is_forgotten() -> None:
    space, orders = entity(ORDERS)
    for number in range(1000):
        orders.sessions.release(orders.sessions.accept(str(number), ANNA, 0.0), 0.0)
    assert len(orders.sessions) == 0
    orders.sessions.accept("s", ANNA, 0.0)
    space.advance(30.0)
    assert len(orders.sessions) == 0


def test_sessions_are_listed_by_activity_or_by_when_their_state_was_set() -> None:
    _, orders = entity(ORDERS)
    send(orders, "m", session_id="with messages")
    for session_id, set_ms in (("early", 1000), ("late", 2000)):
        orders.sessions.set_state(orders.sessions.make(session_id), b"state", 0.0, set_ms)
    send(orders, "m", session_id="deferred only")
    lock = orders.sessions.accept("deferred only", ANNA, 0.0)
    taken = orders.lock_next(0.0, lock)
    assert taken is not None
    orders.settle(taken, Outcome.DEFER, 0.0)
    assert set(orders.sessions.ids(updated_after_ms=None)) == {"with messages", "early", "late"}
    assert orders.sessions.ids(updated_after_ms=1000) == ["late"]


def test_a_message_must_name_its_session_and_none_of_the_batch_is_taken_if_one_does_not() -> None:
    _, orders = entity(ORDERS)
    with pytest.raises(RefusedError) as caught:
        orders.send([message("a", "s"), message("b")], 0.0, UTC_MS)
    assert caught.value.condition == "amqp:not-allowed"
    assert orders.size == 0
    assert len(orders.sessions) == 0


def test_the_lock_of_a_message_in_a_session_is_not_renewed_by_itself() -> None:
    _, orders = entity(ORDERS)
    send(orders, "m", session_id="s")
    taken = orders.lock_next(0.0, orders.sessions.accept("s", ANNA, 0.0))
    assert taken is not None
    with pytest.raises(RefusedError) as caught:
        orders.renew([taken.token], 1.0)
    assert caught.value.condition == "amqp:not-allowed"


def test_a_message_in_a_session_can_be_settled_as_long_as_the_session_is_renewed() -> None:
    space, orders = entity(ORDERS)
    send(orders, "m", session_id="s")
    session = orders.sessions.accept("s", ANNA, 0.0)
    taken = orders.lock_next(0.0, session)
    assert taken is not None
    for now in (20.0, 40.0, 60.0):
        space.advance(now)
        orders.sessions.renew(session, now)
    (lock,) = orders.locks_of([taken.token], 80.0)
    orders.settle(lock, Outcome.COMPLETE, 80.0)
    assert orders.size == 0
