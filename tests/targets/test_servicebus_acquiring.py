"""Sessions that are asked for while no task waits."""

from dataclasses import replace
from types import SimpleNamespace

import anyio
import pytest

from renewer.core.model import LeaseId, LeaseSpec
from renewer.core.states import LeaseKind, LossReason
from renewer.errors import LeaseLostError, TransientError
from tests.targets.servicebus_rig import failing, rig, spec
from tests.virtualtime import virtual

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return virtual(request.param)


class Begun:
    """What came of asking for one."""

    def __init__(self, r, wanted, epoch=1):
        self._told = anyio.Event()
        self.times_told = 0
        self.pending = r.target.begin_acquisition(wanted, epoch, self._answered)

    def _answered(self, pending):
        assert pending is self.pending
        self.times_told += 1
        self._told.set()

    async def answered(self):
        await self._told.wait()
        return self.pending


async def ready(r):
    """A connection that is open, with a token, and held by one session of its own."""
    await r.target.acquire(spec("first"), 1)


def loads(r):
    return [connection.load for connection in r.target._pool.connections]


async def test_a_session_is_accepted_without_a_task():
    async with rig() as r:
        await ready(r)
        begun = Begun(r, spec("s1"))
        assert begun.pending.grant is None
        grant = (await begun.answered()).grant
        other = await r.target.acquire(spec("s2"), 1)
        assert grant.session_id == "s1"
        assert grant.duration_s == pytest.approx(other.duration_s, abs=0.5)
        assert not grant.renew_now
        assert grant.locked_until == pytest.approx(other.locked_until, abs=5)
        assert r.target.links == 3
        assert loads(r) == [3]
        await r.target.renew(spec("s1"), 1)
        await r.target.release(spec("s1"), 1)
        assert loads(r) == [2]
        assert begun.times_told == 1


@pytest.mark.parametrize(
    "wanted",
    [
        LeaseSpec(LeaseId("m"), "servicebus.main", "orders", LeaseKind.MESSAGE, lock_token="t"),
        spec(None, lease_id="next"),
        spec("s1", entity="entity-without-a-token"),
        spec("first"),
    ],
    ids=["message", "next available", "no token", "held already"],
)
async def test_nothing_is_asked_for_where_something_is_to_be_done_before(wanted):
    async with rig() as r:
        await ready(r)
        asked = len(r.broker.peer.sessions)
        assert Begun(r, wanted).pending is None
        assert loads(r) == [1]
        await r.target.acquire(spec("last"), 1)
        assert len(r.broker.peer.sessions) == asked + 1


async def test_nothing_is_asked_for_without_a_connection():
    async with rig() as r:
        assert Begun(r, spec()).pending is None
        assert r.broker.connects == 0


async def test_a_refusal_is_told_when_it_is_finished_and_leaves_nothing_behind():
    async with rig() as r:
        await ready(r)
        r.broker.on_session = lambda ask: ask.refuse("com.microsoft:session-cannot-be-locked")
        pending = await Begun(r, spec()).answered()
        assert pending.grant is None
        assert loads(r) == [1]
        error = await failing(pending.finish(), TransientError)
        assert str(error) == str(await failing(r.target.acquire(spec(), 1), TransientError))
        assert loads(r) == [1]
        assert r.target.links == 1
        # It was not asked for a second time to find that out.
        assert len(r.broker.peer.sessions) == 3


async def test_what_is_refused_as_unauthorized_is_asked_for_again_with_one_new_token():
    async with rig() as r:
        await ready(r)
        r.broker.on_token = lambda ask: r.broker._tasks.start_soon(answer_later, ask)
        r.broker.on_session = lambda ask: (
            ask.refuse("amqp:unauthorized-access") if len(r.broker.peer.sessions) == 2 else ask.grant()
        )
        pending = await Begun(r, spec()).answered()
        grant = await pending.finish()
        assert grant.session_id == "s1"
        assert len(r.broker.tokens) == 2
        assert loads(r) == [2]
        r.broker.on_session = lambda ask: ask.refuse("amqp:unauthorized-access")
        pending = await Begun(r, spec("s2")).answered()
        error = await failing(pending.finish(), LeaseLostError)
        assert error.reason == LossReason.UNAUTHORIZED
        assert loads(r) == [2]


async def answer_later(ask):
    # A token that was put at the very moment of a refusal counts as the one that was refused.
    await anyio.sleep(0.01)
    ask.answer(200, kebab=True)
    ask.peer.transport.flush()


async def test_one_that_the_connection_has_no_room_for_goes_to_another():
    async with rig() as r:
        await ready(r)
        first = r.broker.peer
        r.broker.on_session = lambda ask: (
            ask.refuse("amqp:resource-limit-exceeded") if ask.peer is first else ask.grant()
        )
        pending = await Begun(r, spec()).answered()
        grant = await pending.finish()
        assert grant.session_id == "s1"
        assert r.target.connections == 2
        assert loads(r) == [1, 1]


async def test_what_is_cancelled_is_given_back_and_nothing_is_told():
    asks = []
    async with rig() as r:
        await ready(r)
        r.broker.on_session = asks.append
        begun = Begun(r, spec())
        await r.broker.until(lambda: asks)
        begun.pending.cancel()
        begun.pending.cancel()
        assert loads(r) == [1]
        asks[0].grant()
        r.broker.on_session = r.broker.grant_if_free
        await r.broker.until(lambda: ("orders", "s1") not in r.broker.held)
        await r.target.acquire(spec(), 1)
        assert begun.times_told == 0
        assert loads(r) == [2]


async def test_one_that_is_never_answered_is_given_up():
    async with rig(connect_timeout_s=0.3) as r:
        await ready(r)
        r.broker.on_session = lambda ask: None
        pending = await Begun(r, spec()).answered()
        error = await failing(pending.finish(), TransientError)
        assert error.kind == "timeout"
        assert loads(r) == [1]


async def test_one_whose_connection_breaks_is_told():
    asks = []
    async with rig() as r:
        await ready(r)
        r.broker.on_session = asks.append
        begun = Begun(r, spec())
        await r.broker.until(lambda: asks)
        r.broker.peer.stream.cut()
        error = await failing((await begun.answered()).finish(), TransientError)
        assert error.kind == "network"
        assert r.target.links == 0


async def test_a_session_that_another_epoch_holds_by_then_is_given_back():
    asks = []
    async with rig() as r:
        await ready(r)
        r.broker.on_session = asks.append
        begun = Begun(r, spec("s1", lease_id="one"))
        await r.broker.until(lambda: asks)
        r.broker.on_session = r.broker.grant_if_free
        await r.target.acquire(spec("s2", lease_id="one"), 2)
        asks[0].grant()
        pending = await begun.answered()
        assert pending.grant is None
        error = await failing(pending.finish(), TransientError)
        assert "meanwhile" in str(error)
        await r.broker.until(lambda: ("orders", "s1") not in r.broker.held)
        assert loads(r) == [2]


async def test_links_have_names_of_their_own_on_all_connections():
    async with rig(spread_after=5) as r:
        for number in range(20):
            await r.target.acquire(replace(spec(f"s{number}"), id=LeaseId(f"l{number}")), 1)
        assert r.target.connections == 2
        named = [ask.remote.name for peer in r.broker.peers for ask in peer.sessions]
        assert len(set(named)) == len(named) == 20


async def test_the_next_channel_is_open_by_the_time_that_one_is_full():
    async with rig(links_per_session=100, spread_after=1000) as r:
        await ready(r)
        for number in range(300):
            begun = Begun(r, spec(f"s{number}"))
            assert begun.pending is not None
            assert (await begun.answered()).grant is not None
        assert r.target.connections == 1


async def test_the_first_connection_serves_a_while_longer_when_a_second_is_being_opened():
    async with rig(spread_after=8) as r, anyio.create_task_group() as tasks:
        for number in range(8):
            await r.target.acquire(spec(f"s{number}"), 1)
        r.broker.is_mute = True
        # Who comes for the second connection does not wait for it either.
        await r.target.acquire(spec("s8"), 1)
        await r.broker.until(lambda: r.broker.connects == 2)
        assert (await Begun(r, spec("s9")).answered()).grant is not None
        assert Begun(r, spec("s10")).pending is None
        tasks.cancel_scope.cancel()


async def test_a_turn_that_others_queue_for_is_not_taken(monkeypatch):
    async with rig() as r:
        await ready(r)

        def has_none(_borrower):
            raise anyio.WouldBlock

        # Until anyio 4.13 a turn that is given back counts as available while others are about to take it.
        stub = SimpleNamespace(available_tokens=1, acquire_on_behalf_of_nowait=has_none)
        monkeypatch.setattr(r.target._sessions._acceptance, "_turns", stub)
        assert Begun(r, spec("s1")).pending is None
        assert loads(r) == [1]
        assert len(r.broker.held) == 1


async def test_what_fails_while_it_is_asked_for_leaves_nothing_behind(monkeypatch):
    async with rig() as r:
        await ready(r)
        (connection,) = r.target._pool.connections

        def fails(*_args):
            raise TransientError("no", kind="network")

        with monkeypatch.context() as patched:
            patched.setattr(connection, "ask_for_session", fails)
            with pytest.raises(TransientError):
                Begun(r, spec("s1"))
        assert loads(r) == [1]
        assert r.target._sessions._acceptance._turns.borrowed_tokens == 0
        assert (await Begun(r, spec("s1")).answered()).grant is not None
