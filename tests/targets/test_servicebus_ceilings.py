"""What the broker lets us have no more of: our own settings, what it refuses, and how gently it is asked again."""

import anyio
import pytest

from renewer.amqp import AmqpError
from renewer.errors import TransientError
from renewer.targets.servicebus.ceilings import FIRST_PAUSE_S, LONGEST_PAUSE_S, Ceiling
from tests.targets.servicebus_rig import failing, rig, spec
from tests.virtualtime import virtual

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return virtual(request.param)


TOO_MANY = "amqp:resource-limit-exceeded"


class HandClock:
    def __init__(self):
        self.at = 1000.0

    def now(self):
        return self.at


async def acquire_all(r, count, *, first=0):
    """Ask for so many sessions at once; what those heard that did not get theirs."""
    failures = []

    async def acquire(number):
        try:
            await r.target.acquire(spec(f"s{number}"), 1)
        except TransientError as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        for number in range(first, first + count):
            tasks.start_soon(acquire, number)
    return failures


def refuse_beyond(broker, most):
    """Grant no more than so many sessions in all."""

    def on_session(ask):
        if len(broker.held) >= most:
            ask.refuse(TOO_MANY, "QuotaExceeded")
        else:
            broker.grant_if_free(ask)

    broker.on_session = on_session


# Connections --------------------------------------------------------------------------------------------------------


async def test_there_are_no_more_connections_than_allowed_and_who_finds_no_room_is_told_what_to_raise():
    async with rig(spread_after=3, sessions_per_connection=5, max_connections=2) as r:
        assert await acquire_all(r, 10) == []
        (failure,) = await acquire_all(r, 1, first=10)
        assert (failure.kind, failure.retry_after_s) == ("busy", 1.0)
        assert "2 connections are full; raise max_connections" in str(failure)
        assert (r.target.connections, r.broker.connects, r.target.session_room) == (2, 2, 10)
        await r.target.release(spec("s0"), 1)
        assert await acquire_all(r, 1, first=10) == []
        assert (r.losses, r.target.trouble) == ([], None)


async def test_one_connection_serves_alone_where_no_second_is_allowed():
    async with rig(spread_after=3, sessions_per_connection=20, max_connections=1) as r:
        assert await acquire_all(r, 20) == []
        assert r.broker.connects == 1


async def test_connections_that_the_broker_refuses_are_not_asked_for_again_and_again():
    def limit(broker):
        broker.max_connections = 2

    async with rig(limit, spread_after=3, sessions_per_connection=5) as r:
        failures = await acquire_all(r, 15)
        assert len(failures) == 5
        connects = r.broker.connects
        for _ in range(20):
            (failure,) = await acquire_all(r, 1, first=99)
        assert r.broker.connects == connects == 3
        assert (failure.kind, "no more than 2 connections" in str(failure)) == ("busy", True)
        assert 0 < failure.retry_after_s <= FIRST_PAUSE_S
        assert "no more than 2 connections now: " in r.target.trouble
        assert "too many connections" in r.target.trouble
        assert (r.target.session_room, r.target.links, r.losses) == (10, 10, [])
        # What is released can be had again, without a further connection.
        await r.target.release(spec("s0"), 1)
        assert r.broker.connects == 3


async def test_a_broker_that_lets_nobody_in_because_there_are_too_many_is_left_alone_for_a_while():
    def limit(broker):
        broker.max_connections = 0

    async with rig(limit) as r:
        for _ in range(20):
            await failing(r.target.acquire(spec(), 1), TransientError)
        assert r.broker.connects == 1
        assert "too many connections" in r.target.trouble


# Sessions -----------------------------------------------------------------------------------------------------------


async def test_sessions_that_the_broker_refuses_are_not_asked_for_lease_by_lease():
    async with rig(lambda broker: refuse_beyond(broker, 10)) as r:
        assert await acquire_all(r, 10) == []
        await acquire_all(r, 1, first=10)
        asked = len(r.broker.attach_names)
        failures = await acquire_all(r, 200, first=10)
        assert len(failures) == 200
        assert len(r.broker.attach_names) == asked
        assert all(0 < failure.retry_after_s <= FIRST_PAUSE_S for failure in failures)
        assert "no more than 10 sessions of orders now: " in r.target.trouble
        assert "QuotaExceeded" in r.target.trouble
        # A place that became free is given to whoever asks, and other entities are not concerned.
        await r.target.release(spec("s0"), 1)
        assert await acquire_all(r, 1, first=10) == []
        refuse_beyond(r.broker, 11)
        await r.target.acquire(spec(entity="invoices"), 1)
        for number in range(1, 11):
            await r.target.renew(spec(f"s{number}"), 1)
        assert r.losses == []


async def test_where_one_connection_is_full_for_the_broker_another_is_opened():
    def limit(broker):
        def on_session(ask):
            if sum(link in broker.held.values() for link in (known.link for known in ask.peer.sessions)) >= 4:
                ask.refuse(TOO_MANY, "links of the connection")
            else:
                broker.grant_if_free(ask)

        broker.on_session = on_session

    async with rig(limit) as r:
        for number in range(20):
            await r.target.acquire(spec(f"s{number}"), 1)
        assert (r.target.links, r.target.connections) == (20, 5)
        assert (r.target.trouble, r.losses) == (None, [])


async def test_links_for_which_the_broker_ended_an_amqp_session_are_not_asked_for_again():
    def limit(broker):
        def on_session(ask):
            if len(ask.link.session.links) > 10:
                ask.link.session.end(AmqpError(TOO_MANY, "handles"))
                ask.peer.transport.flush()
            else:
                broker.grant_if_free(ask)

        broker.on_session = on_session

    async with rig(limit) as r:
        for number in range(10):
            await r.target.acquire(spec(f"s{number}"), 1)
        await failing(r.target.acquire(spec("s10"), 1), TransientError)
        await r.until_lost(10)
        for number in range(40):
            await r.target.acquire(spec(f"s{number}"), 2)
        # The next connection knows, too.
        r.broker.peer.stream.cut()
        await r.until_lost(50)
        for number in range(40):
            await r.target.acquire(spec(f"s{number}"), 3)
        assert (len(r.losses), r.target.links) == (50, 40)
        assert max(len(session.links) for session in r.broker.peer.connection.sessions) == 10


async def test_the_smallest_frames_that_a_broker_may_ask_for_will_do():
    def limit(broker):
        broker.max_frame_size = 512
        broker.channel_max = 0

    async with rig(limit) as r:
        assert await acquire_all(r, 30) == []
        for number in range(30):
            await r.target.renew(spec(f"s{number}"), 1)
        r.broker.on_management = lambda ask: ask.answer(200, body={"session-state": b"s" * 5000})
        assert await r.target.get_state(spec("s1"), 1) == b"s" * 5000
        assert (r.losses, r.target.connections) == ([], 1)


# How a ceiling is learned -------------------------------------------------------------------------------------------


def test_a_ceiling_is_our_own_until_the_broker_lowers_it():
    clock = HandClock()
    assert Ceiling(clock, 5).value() == 5
    ceiling = Ceiling(clock)
    ceiling.check(10_000, "of them")
    ceiling.refused(7, "enough")
    assert (ceiling.value(), ceiling.is_lowered, ceiling.why) == (7, True, "enough")
    with pytest.raises(TransientError, match="no more than 7 of them now: enough") as refused:
        ceiling.check(7, "of them")
    assert (refused.value.kind, refused.value.retry_after_s) == ("busy", FIRST_PAUSE_S)
    ceiling.check(6, "of them")


def test_after_a_pause_one_more_is_tried_and_then_twice_as_many_each_time():
    clock = HandClock()
    ceiling = Ceiling(clock)
    ceiling.refused(7, "enough")
    clock.at += FIRST_PAUSE_S
    assert ceiling.value() == 8
    tried = []
    have = 7
    while ceiling.is_lowered:
        have = int(ceiling.value())
        tried.append(have)
        ceiling.granted(have)
    assert tried == [8, 10, 14, 22, 38, 70, 134]


def test_each_refusal_makes_the_pause_longer_up_to_a_minute_and_many_at_once_count_as_one():
    clock = HandClock()
    ceiling = Ceiling(clock, 100)
    pauses = []
    for _ in range(5):
        for _ in range(50):
            ceiling.refused(7, "enough")
        pauses.append(ceiling.pause_s())
        clock.at += ceiling.pause_s()
    assert pauses == [10.0, 20.0, 40.0, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_a_ceiling_at_which_nobody_has_knocked_for_long_is_forgotten():
    clock = HandClock()
    ceiling = Ceiling(clock, 100)
    ceiling.refused(7, "enough")
    clock.at += 3600
    assert (ceiling.is_lowered, ceiling.value(), ceiling.why) == (False, 100, "")
