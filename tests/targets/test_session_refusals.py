"""Sessions that are refused otherwise than AMQP 1.0 part 2.6.3 has it: with an attach that has a source."""

import anyio
import pytest

from renewer.amqp import AmqpError
from renewer.amqp.performatives import Detach
from renewer.core.states import LossReason
from renewer.errors import LeaseLostError, RemoteError, TransientError
from renewer.targets.servicebus.sessionlink import ANSWER_S, REASON_S
from tests.targets.servicebus_rig import failing, rig, spec
from tests.virtualtime import virtual

pytestmark = pytest.mark.anyio

SOON = 0.01
"""Seconds that are few beside those that a reason is waited for."""

LOCKED = "com.microsoft:session-cannot-be-locked"
WITHOUT_A_SESSION = "the broker attached the link without a session"

# What an attach that grants nothing may look like: without the filter; with that of another session; with the whole
# source as it was asked for, but without a time.
LOOKS = {
    "no filter": {"answer_filter": None, "ticks": None},
    "another session": {"session_id": "other"},
    "the source as asked": {"ticks": None},
}


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return virtual(request.param)


@pytest.fixture(params=["with a task", "without a task"])
def way(request):
    return request.param


@pytest.fixture(params=LOOKS.values(), ids=LOOKS)
def look(request):
    return request.param


async def ask(r, way, session_id="s1"):
    """Ask for the session one way or the other: a grant, or what is raised."""
    if way == "with a task":
        return await r.target.acquire(spec(session_id), 1)
    told = anyio.Event()
    pending = r.target.begin_acquisition(spec(session_id), 1, lambda _: told.set())
    await told.wait()
    return pending.grant or await pending.finish()


async def refused(r, way):
    """What asking for the session raises, and how long that takes."""
    began_at = anyio.current_time()
    error = await failing(ask(r, way), RemoteError)
    return error, anyio.current_time() - began_at


async def ready(r):
    """A connection that is open, with a token, and held by one session of its own."""
    await r.target.acquire(spec("first"), 1)


def attach(r, look, then=lambda asked: None):
    """Have the broker attach like that to whoever asks, and then do something."""

    def on_session(asked):
        asked.grant(**look)
        r.broker._tasks.start_soon(afterwards, asked)

    async def afterwards(asked):
        done = then(asked)
        if done is not None:
            await done

    r.broker.on_session = on_session


def detach(asked, condition):
    """The broker detaches, in words of its own if it has any; unless that was done."""
    asked.peer.detach(asked.link, condition)


async def detach_after(asked, condition, seconds):
    await anyio.sleep(seconds)
    detach(asked, condition)


def slow_down(r, seconds):
    """What we send after what is under way is that long on its way itself; for ever if it is None."""
    stream = r.broker.peer.stream
    receive = stream.receive

    async def receive_late(max_bytes=65536):
        data = await receive(max_bytes)
        await (anyio.sleep_forever() if seconds is None else anyio.sleep(seconds))
        return data

    stream.receive = receive_late


async def given_up(r):
    """Nothing is left of it here or at the broker, and another session can be had."""
    assert r.target.links == 1
    assert r.losses == []
    await r.broker.until(lambda: set(r.broker.held) == {("orders", "first")})
    r.broker.on_session = r.broker.grant_if_free
    await r.target.acquire(spec("last"), 1)
    assert [connection.load for connection in r.target._pool.connections] == [2]


@pytest.mark.parametrize("after_s", [0.0, SOON, REASON_S - SOON])
async def test_what_the_broker_says_as_it_detaches_is_the_reason(way, look, after_s):
    async with rig() as r:
        await ready(r)
        attach(r, look, lambda asked: detach_after(asked, LOCKED, after_s))
        error, took_s = await refused(r, way)
        assert (type(error), error.kind, error.condition) == (TransientError, "busy", LOCKED)
        assert str(error) == f"the session was not granted: {LOCKED}: scripted"
        assert took_s == pytest.approx(after_s, abs=SOON / 2)
        await given_up(r)


async def test_a_detach_in_the_same_piece_as_the_attach_is_the_reason(way, look):
    async with rig() as r:
        await ready(r)

        def in_one_piece(asked):
            asked.grant(**look)
            detach(asked, LOCKED)

        r.broker.on_session = in_one_piece
        error, took_s = await refused(r, way)
        assert (error.kind, error.condition) == ("busy", LOCKED)
        assert took_s < SOON
        await given_up(r)


async def test_a_grant_that_is_whole_and_taken_back_in_the_same_piece_was_none(way):
    async with rig() as r:
        await ready(r)

        def in_one_piece(asked):
            asked.grant()
            detach(asked, LOCKED)

        r.broker.on_session = in_one_piece
        error, _ = await refused(r, way)
        assert (error.kind, error.condition) == ("busy", LOCKED)
        await given_up(r)


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("amqp:not-found", LossReason.ENTITY_GONE),
        ("com.microsoft:entity-disabled", LossReason.ENTITY_GONE),
        ("amqp:not-allowed", LossReason.REFUSED),
    ],
)
async def test_its_condition_decides_what_is_final(way, look, condition, reason):
    async with rig() as r:
        await ready(r)
        attach(r, look, lambda asked: detach(asked, condition))
        error, _ = await refused(r, way)
        assert (type(error), error.reason, error.condition) == (LeaseLostError, reason, condition)
        await given_up(r)


async def test_one_refused_so_as_unauthorized_is_asked_for_again_with_one_new_token(way, look):
    async with rig() as r:
        await ready(r)

        def once(asked):
            r.broker.on_session = r.broker.grant_if_free
            asked.grant(**look)
            detach(asked, "amqp:unauthorized-access")

        async def answer_later(put):
            await anyio.sleep(SOON)
            put.answer(202, kebab=True)

        r.broker.on_token = lambda put: r.broker._tasks.start_soon(answer_later, put)
        r.broker.on_session = once
        assert (await ask(r, way)).session_id == "s1"
        assert len(r.broker.tokens) == 2


async def test_no_next_session_being_free_is_reported_as_empty():
    async with rig() as r:
        attach(r, {"session_id": "", "answer_filter": None}, lambda asked: detach(asked, "com.microsoft:timeout"))
        error = await failing(r.target.acquire(spec(None), 1), TransientError)
        assert error.kind == "empty"


# Where the broker detaches late, or never ---------------------------------------------------------------------------


async def test_a_detach_that_crosses_ours_is_the_reason(way):
    async with rig() as r:
        await ready(r)
        slow_down(r, 0.1)
        attach(r, LOOKS["no filter"], lambda asked: detach_after(asked, LOCKED, REASON_S + SOON))
        error, took_s = await refused(r, way)
        assert (error.kind, error.condition) == ("busy", LOCKED)
        assert took_s == pytest.approx(REASON_S + SOON, abs=SOON / 2)
        await given_up(r)


async def test_an_answer_to_our_detach_that_has_an_error_is_the_reason(way):
    async with rig() as r:
        await ready(r)

        def answer_with_an_error(asked):
            session = asked.link.session
            send = session.send

            def send_with_error(frame):
                if isinstance(frame, Detach):
                    frame.error = AmqpError(LOCKED, "scripted")
                send(frame)

            session.send = send_with_error

        attach(r, LOOKS["no filter"], answer_with_an_error)
        error, took_s = await refused(r, way)
        assert (error.kind, error.condition) == ("busy", LOCKED)
        assert took_s == pytest.approx(REASON_S, abs=SOON)


async def test_without_a_reason_it_ends_once_our_own_detach_is_answered(way):
    async with rig() as r:
        await ready(r)
        slow_down(r, 0.1)
        attach(r, LOOKS["no filter"])
        error, took_s = await refused(r, way)
        assert (type(error), error.reason, str(error)) == (LeaseLostError, LossReason.REFUSED, WITHOUT_A_SESSION)
        assert took_s == pytest.approx(REASON_S + 0.1, abs=SOON)
        await given_up(r)


async def test_a_detach_that_says_nothing_is_no_reason(way):
    async with rig() as r:
        await ready(r)
        attach(r, LOOKS["no filter"], lambda asked: detach_after(asked, None, SOON))
        error, _ = await refused(r, way)
        assert (error.reason, str(error)) == (LossReason.REFUSED, WITHOUT_A_SESSION)
        await given_up(r)


async def test_a_broker_that_never_detaches_is_not_waited_for(way):
    async with rig() as r:
        await ready(r)

        def fall_deaf(asked):
            asked.grant(answer_filter=None, ticks=None)
            slow_down(r, None)

        r.broker.on_session = fall_deaf
        error, took_s = await refused(r, way)
        assert (error.reason, str(error)) == (LossReason.REFUSED, WITHOUT_A_SESSION)
        assert took_s == pytest.approx(REASON_S + ANSWER_S, abs=SOON)
        assert r.target.links == 1


async def test_a_connection_that_breaks_meanwhile_says_nothing_of_the_session(way):
    async with rig() as r:
        await ready(r)
        attach(r, LOOKS["no filter"], lambda asked: asked.peer.stream.cut())
        error, _ = await refused(r, way)
        assert (type(error), error.kind) == (TransientError, "network")


async def test_an_amqp_session_that_ends_meanwhile_says_nothing_of_the_session(way):
    async with rig() as r:
        await ready(r)

        def end(asked):
            asked.link.session.end()
            asked.peer.transport.flush()

        attach(r, LOOKS["no filter"], end)
        error, _ = await refused(r, way)
        assert (type(error), error.kind) == (TransientError, "network")


async def test_a_grant_without_a_time_is_held_once_no_detach_has_come(way):
    async with rig() as r:
        await ready(r)
        attach(r, {"ticks": None})
        began_at = anyio.current_time()
        grant = await ask(r, way)
        assert anyio.current_time() - began_at == pytest.approx(REASON_S, abs=SOON)
        assert grant.anchored_at == pytest.approx(began_at, abs=SOON)
        assert r.target.links == 2
        await r.target.renew(spec(), 1)
        await r.target.release(spec(), 1)


async def test_who_is_cancelled_meanwhile_leaves_nothing_behind(look):
    async with rig() as r:
        await ready(r)
        attach(r, look)
        with anyio.move_on_after(REASON_S / 2) as scope:
            await r.target.acquire(spec(), 1)
        assert scope.cancelled_caught
        await given_up(r)


async def test_one_that_is_given_up_meanwhile_says_what_is_known():
    async with rig(connect_timeout_s=1.0) as r:
        await ready(r)

        def late(asked):
            r.broker._tasks.start_soon(attach_late, asked)

        async def attach_late(asked):
            await anyio.sleep(1.0 - SOON)
            asked.grant(answer_filter=None, ticks=None)

        r.broker.on_session = late
        error, took_s = await refused(r, "with a task")
        assert (error.reason, str(error)) == (LossReason.REFUSED, WITHOUT_A_SESSION)
        assert took_s == pytest.approx(1.0, abs=SOON / 2)
        await given_up(r)
