"""What connections and AMQP sessions carry is learned from what the broker refuses, and an accident teaches nothing."""

import anyio
import pytest
import structlog.testing

from renewer.amqp import AmqpError
from renewer.errors import TransientError
from renewer.targets.servicebus.acceptance import ATTACHES_AT_ONCE, MOST_TRIED
from renewer.targets.servicebus.capacity import FORGET_S, Capacity
from renewer.targets.servicebus.ceilings import FIRST_PAUSE_S, LONGEST_PAUSE_S
from tests.targets.servicebus_rig import failing, rig, spec
from tests.virtualtime import virtual

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return virtual(request.param)


TOO_MANY = "amqp:resource-limit-exceeded"


class Scene:
    """A rig, how many attaches were refused, and who insists on having sessions."""

    def __init__(self, r):
        self.r = r
        self.refused = 0
        self.epochs = {}

    def refuse(self, ask, why):
        self.refused += 1
        ask.refuse(TOO_MANY, why)

    async def acquire(self, number):
        """Ask for a session as the daemon does: at once if that can be, else in a task."""
        name = f"s{number}"
        epoch = self.epochs[name] = self.epochs.get(name, 0) + 1
        told = anyio.Event()
        pending = self.r.target.begin_acquisition(spec(name), epoch, lambda _: told.set())
        if pending is None:
            return await self.r.target.acquire(spec(name), epoch)
        await told.wait()
        return pending.grant or await pending.finish()

    async def insist(self, number):
        while True:
            try:
                return await self.acquire(number)
            except TransientError as error:
                await anyio.sleep(max(1.0, error.retry_after_s or 0.0))

    async def acquire_all(self, numbers, *, within_s):
        """Have all of them, and those again that are lost meanwhile."""
        with anyio.fail_after(within_s):
            while numbers:
                lost = len(self.r.losses)
                async with anyio.create_task_group() as tasks:
                    for number in numbers:
                        tasks.start_soon(self.insist, number)
                numbers = [int(loss.lease_id.rpartition("s")[2]) for loss in self.r.losses[lost:]]

    async def renew_all(self):
        for name, epoch in self.epochs.items():
            await self.r.target.renew(spec(name), epoch)


def held_on(broker, peer):
    held = set(broker.held.values())
    return sum(ask.link in held for ask in peer.sessions)


def limit_connections(scene, most):
    """No more than so many links on a connection, those for requests counted."""

    def on_session(ask):
        broker = scene.r.broker
        links = held_on(broker, ask.peer) + len(ask.peer.requesters) + len(ask.peer.repliers)
        if links >= most:
            scene.refuse(ask, "links of the connection")
        else:
            broker.grant_if_free(ask)

    scene.r.broker.on_session = on_session


def limit_entity(scene, most):
    def on_session(ask):
        if len(scene.r.broker.held) >= most:
            scene.refuse(ask, "receivers of the entity")
        else:
            scene.r.broker.grant_if_free(ask)

    scene.r.broker.on_session = on_session


def limit_amqp_sessions(scene, most, condition, *, by_detach=False):
    """An AMQP session that has so many links does not survive the next one."""
    falls = []

    def on_session(ask):
        session = ask.link.session
        granted = {link for link in scene.r.broker.held.values() if link.session is session}
        if session in falls:
            return
        if len(granted) < most:
            scene.r.broker.grant_if_free(ask)
            return
        falls.append(session)
        if by_detach:
            for link in granted:
                link.detach(AmqpError(condition, f"no more than {most}: {link.name}"))
                scene.r.broker.on_detached(link)
            falls[-1] = None
            ask.refuse("amqp:internal-error", f"no more than {most}: {ask.link.name}")
        else:
            session.end(AmqpError(condition, f"no more than {most}"))
            ask.peer.transport.flush()

    scene.r.broker.on_session = on_session
    return falls


# Connections --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [25, 60, 300])
async def test_sessions_beyond_what_a_connection_carries_go_over_others(batch):
    async with rig(spread_after=25) as r:
        scene = Scene(r)
        limit_connections(scene, 40)
        for first in range(0, 300, batch):
            await scene.acquire_all(range(first, min(300, first + batch)), within_s=5)
        assert (r.target.links, r.target.trouble, r.losses) == (300, None, [])
        # 36 and four links for requests on each.
        assert r.target.connections == r.broker.connects == 9
        # Those that were on their way while it was learned, and no more for each connection after that.
        assert scene.refused <= 2 * ATTACHES_AT_ONCE
        await scene.renew_all()


async def test_what_one_connection_carries_is_known_of_the_next():
    async with rig(spread_after=200) as r:
        scene = Scene(r)
        limit_connections(scene, 40)
        for number in range(200):
            await scene.acquire(number)
        assert (r.target.links, r.target.connections, scene.refused) == (200, 6, 1)


async def test_a_limit_of_connections_that_was_raised_is_found():
    async with rig(spread_after=25, max_connections=2) as r:
        scene = Scene(r)
        limit_connections(scene, 40)
        await scene.acquire_all(range(72), within_s=5)
        refused = scene.refused
        # There can be no more: none is asked for, whoever wants one, but now and then.
        for _ in range(50):
            error = await failing(scene.acquire(72), TransientError)
        assert error.kind == "busy"
        assert "2 connections are full; raise max_connections of the namespace, as the broker allows no more" in str(
            error
        )
        assert "links of the connection" in str(error)
        assert scene.refused - refused <= 2
        limit_connections(scene, 100)
        await scene.acquire_all(range(72, 190), within_s=2 * LONGEST_PAUSE_S)
        assert (r.target.links, r.broker.connects, r.losses) == (190, 2, [])


# The entity ---------------------------------------------------------------------------------------------------------


async def test_the_entitys_limit_is_believed_when_a_connection_with_fewer_refuses_as_well():
    async with rig(spread_after=20) as r:
        scene = Scene(r)
        limit_entity(scene, 50)
        await scene.acquire_all(range(50), within_s=5)
        assert r.target.connections == 2
        first = await failing(scene.acquire(50), TransientError)
        assert "receivers of the entity" in str(first)
        assert (scene.refused, r.target.connections) == (3, 3)
        for _ in range(100):
            error = await failing(scene.acquire(50), TransientError)
        assert 0 < error.retry_after_s <= FIRST_PAUSE_S
        assert (scene.refused, r.broker.connects) == (3, 3)
        assert "no more than 50 sessions of orders now: " in r.target.trouble
        # It says nothing of connections: those there are take others, and so does a place that is free again.
        await r.target.release(spec("s0"), 1)
        await scene.acquire(50)
        assert (scene.refused, r.broker.connects, r.losses) == (3, 3, [])


async def test_connections_that_are_there_prove_the_entitys_limit_if_one_has_clearly_fewer():
    async with rig(spread_after=2) as r:
        scene = Scene(r)
        for number in range(40):
            await scene.acquire(number)
        assert r.target.connections == 2
        held = [ask.wanted for ask in r.broker.peers[1].sessions]
        for session_id in held[3:]:
            await r.target.release(spec(session_id), 1)
        links = r.target.links
        assert links > 2 * 3
        limit_entity(scene, links)
        error = await failing(scene.acquire(40), TransientError)
        assert "receivers of the entity" in str(error)
        assert (scene.refused, r.broker.connects, r.target.links) == (2, 2, links)


async def test_many_who_are_refused_at_once_open_one_connection_and_no_storm():
    async with rig(spread_after=1000) as r:
        scene = Scene(r)
        limit_entity(scene, 50)
        failures = []

        async def acquire(number):
            try:
                await scene.acquire(number)
            except TransientError as error:
                failures.append(error)

        async with anyio.create_task_group() as tasks:
            for number in range(600):
                tasks.start_soon(acquire, number)
        assert (r.target.links, len(failures), r.broker.connects) == (50, 550, 2)
        assert scene.refused <= 2 * ATTACHES_AT_ONCE
        assert "no more than 50 sessions of orders" in r.target.trouble


async def test_a_broker_that_refuses_with_an_attach_and_a_detach_is_understood_as_well():
    async with rig(spread_after=1000) as r:
        scene = Scene(r)

        def on_session(ask):
            if len(r.broker.held) < 50:
                r.broker.grant_if_free(ask)
                return
            scene.refused += 1
            ask.link.accept(source=ask.remote.source)
            ask.peer.transport.flush()
            ask.link.detach(AmqpError(TOO_MANY, "receivers of the entity"))
            ask.peer.transport.flush()

        r.broker.on_session = on_session
        await scene.acquire_all(range(50), within_s=5)
        for number in range(50, 60):
            await failing(scene.acquire(number), TransientError)
        assert (r.target.links, r.broker.connects, scene.refused) == (50, 2, 2)
        assert "no more than 50 sessions of orders" in r.target.trouble
        assert r.losses == []


async def test_no_more_than_a_few_connections_are_tried_for_one_session():
    async with rig(spread_after=2, sessions_per_connection=4) as r:
        scene = Scene(r)
        for number in range(40):
            await scene.acquire(number)
        for peer in r.broker.peers:
            await r.target.release(spec(peer.sessions[0].wanted), 1)
        limit_entity(scene, 30)
        error = await failing(scene.acquire(40), TransientError)
        assert "receivers of the entity" in str(error)
        assert (scene.refused, r.broker.connects, r.target.links) == (MOST_TRIED + 1, 10, 30)


async def test_a_connection_that_goes_after_it_refused_says_nothing_of_the_entity():
    async with rig() as r:
        scene = Scene(r)
        await scene.acquire_all(range(5), within_s=5)
        r.broker.on_session = lambda ask: scene.refuse(ask, "it is ending")
        told = anyio.Event()
        pending = r.target.begin_acquisition(spec("s5"), 1, lambda _: told.set())
        await told.wait()
        r.broker.on_session = r.broker.grant_if_free
        r.broker.peer.stream.cut()
        await r.until_lost(5)
        assert (await pending.finish()).session_id == "s5"
        assert (r.target.links, r.target.trouble, r.broker.connects, scene.refused) == (1, None, 2, 1)


async def test_grants_that_were_on_their_way_when_another_was_refused_count():
    async with rig() as r:
        scene = Scene(r)
        asks = []
        r.broker.on_session = asks.append
        async with anyio.create_task_group() as tasks:
            for number in range(9):
                tasks.start_soon(scene.acquire, number)
            tasks.start_soon(failing, scene.acquire(9), TransientError)
            await r.broker.until(lambda: len(asks) == 10)
            (last,) = [ask for ask in asks if ask.wanted == "s9"]
            last.refuse(TOO_MANY, "enough")
            await anyio.wait_all_tasks_blocked()
            for ask in asks:
                if ask is not last:
                    ask.grant()
        assert r.target.links == 9
        assert r.target.trouble is not None
        r.broker.on_session = r.broker.grant_if_free
        await anyio.sleep(FIRST_PAUSE_S)
        await scene.acquire_all(range(9, 60), within_s=1 + LONGEST_PAUSE_S)
        assert (r.target.links, r.target.trouble) == (60, None)


# AMQP sessions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_detach", [False, True], ids=["end", "detach"])
@pytest.mark.parametrize("condition", [TOO_MANY, "amqp:not-allowed", "amqp:internal-error", "vendor:too-many-links"])
async def test_what_an_amqp_session_carries_is_learned_when_it_falls(condition, by_detach):
    async with rig(spread_after=1000) as r:
        scene = Scene(r)
        falls = limit_amqp_sessions(scene, 15, condition, by_detach=by_detach)
        with structlog.testing.capture_logs() as logs:
            for first in range(0, 100, 5):
                await scene.acquire_all(range(first, first + 5), within_s=10)
        assert r.target.links == 100
        assert len(falls) == 1
        assert len(r.losses) <= 15
        # Where it is said link by link, one of them may have been attached only to be refused.
        learned = 14 if by_detach else 15
        (log,) = [log for log in logs if log["event"] == "amqp session ended for its links"]
        assert (log["log_level"], log["links_per_session"]) == ("warning", learned)
        assert f"set links_per_session = {learned} in [servicebus.main]" in log["remedy"]
        # A new connection knows.
        lost = len(r.losses)
        r.broker.peer.stream.cut()
        await r.until_lost(lost + 100)
        await scene.acquire_all(range(100), within_s=30)
        assert (len(falls), r.target.links) == (1, 100)
        await scene.renew_all()
        assert len(r.losses) == lost + 100


async def test_a_broker_that_ends_it_before_it_answers_is_found_out_by_halves():
    async with rig(spread_after=1000) as r:
        scene = Scene(r)
        asked, falls = {}, []

        def on_session(ask):
            session = ask.link.session
            waiting = asked.setdefault(session, [])
            waiting.append(ask)
            if len(waiting) == 31:
                falls.append(session)
                session.end(AmqpError("amqp:internal-error", "no more than 30"))
                ask.peer.transport.flush()

        async def answer():
            while True:
                await anyio.sleep(0.1)
                for session, waiting in asked.items():
                    for ask in [] if session in falls else waiting:
                        if ask.link not in r.broker.held.values():
                            ask.grant()

        r.broker.on_session = on_session
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            await scene.acquire_all(range(200), within_s=60)
            tasks.cancel_scope.cancel()
        assert r.target.links == 200
        assert len(falls) <= 6
        assert len(r.losses) <= 30


async def fall(r, scene, condition, *, asked):
    """Have the AMQP session with all sessions end, while another one is asked for or not; how long it may then be."""
    r.broker.on_session = lambda ask: None
    session = next(iter(r.broker.held.values())).session
    async with anyio.create_task_group() as tasks:
        if asked:
            tasks.start_soon(failing, scene.acquire(99), TransientError)
            await r.broker.until(lambda: r.broker.peer.sessions[-1].wanted == "s99")
        session.end(AmqpError(condition, "as it is") if condition else None)
        r.broker.peer.transport.flush()
        await r.until_lost(12)
    limit_amqp_sessions(scene, 1000, TOO_MANY)
    await scene.acquire_all(range(40), within_s=10)
    return max(len(session.links) for session in r.broker.peer.connection.sessions)


@pytest.mark.parametrize(
    ("condition", "asked"),
    [
        (TOO_MANY, False),
        ("amqp:internal-error", False),
        (None, True),
        ("amqp:connection:forced", True),
        ("amqp:link:detach-forced", True),
        ("amqp:unauthorized-access", True),
        ("amqp:session:window-violation", True),
        ("com.microsoft:server-busy", True),
        ("com.microsoft:entity-disabled", True),
    ],
)
async def test_an_end_that_has_other_causes_teaches_nothing(condition, asked):
    async with rig() as r:
        scene = Scene(r)
        await scene.acquire_all(range(12), within_s=5)
        assert await fall(r, scene, condition, asked=asked) == 40


async def test_an_end_with_such_an_error_while_one_is_asked_for_does():
    async with rig() as r:
        scene = Scene(r)
        await scene.acquire_all(range(12), within_s=5)
        assert await fall(r, scene, TOO_MANY, asked=True) == 12


@pytest.mark.parametrize("error", [None, AmqpError(TOO_MANY, "links"), AmqpError("amqp:internal-error", "restart")])
async def test_a_connection_that_goes_teaches_nothing(error):
    async with rig() as r:
        scene = Scene(r)
        await scene.acquire_all(range(12), within_s=5)
        r.broker.on_session = lambda ask: None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(failing, scene.acquire(99), TransientError)
            await r.broker.until(lambda: r.broker.peer.sessions[-1].wanted == "s99")
            if error is None:
                r.broker.peer.stream.cut()
            else:
                r.broker.peer.connection.close(error)
                r.broker.peer.transport.flush()
            await r.until_lost(12)
        r.broker.on_session = r.broker.grant_if_free
        await scene.acquire_all(range(40), within_s=10)
        assert max(len(session.links) for session in r.broker.peer.connection.sessions) == 40


async def test_one_link_that_is_taken_away_while_another_is_asked_for_teaches_nothing():
    async with rig() as r:
        scene = Scene(r)
        await scene.acquire_all(range(12), within_s=5)
        r.broker.on_session = lambda ask: None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(failing, scene.acquire(99), TransientError)
            await r.broker.until(lambda: r.broker.peer.sessions[-1].wanted == "s99")
            r.broker.peer.detach(r.broker.link_of("s3"), "amqp:internal-error")
            await r.until_lost(1)
        r.broker.on_session = r.broker.grant_if_free
        await scene.acquire_all(range(12, 40), within_s=10)
        assert max(len(session.links) for session in r.broker.peer.connection.sessions) >= 39


class HandClock:
    def __init__(self):
        self.at = 1000.0

    def now(self):
        return self.at


def test_a_limit_met_once_is_forgotten_after_a_day_and_one_met_again_is_kept():
    clock = HandClock()
    capacity = Capacity(clock, "servicebus.main", 200)
    error = AmqpError(TOO_MANY, "links")
    capacity.fell(150, 50, error)
    clock.at += FORGET_S - 1
    # That it falls again with fewer meanwhile does not count as another time: they may have fallen together.
    capacity.fell(140, 10, error)
    assert capacity.links == 140
    clock.at += 1
    assert capacity.links == 200
    capacity.fell(150, 50, error)
    clock.at += 1000 * FORGET_S
    assert capacity.links == 150


@pytest.mark.parametrize(("carried", "asked", "learned"), [(150, 50, 150), (5, 1, 5), (4, 1, 200), (3, 125, 64)])
def test_what_is_learned_is_what_was_carried_or_half_of_what_was_asked_for(carried, asked, learned):
    capacity = Capacity(HandClock(), "servicebus.main", 200)
    capacity.fell(carried, asked, AmqpError(TOO_MANY, "links"))
    assert capacity.links == learned


def test_more_than_our_own_setting_is_not_learned():
    capacity = Capacity(HandClock(), "servicebus.main", 20)
    capacity.fell(150, 50, AmqpError(TOO_MANY, "links"))
    assert capacity.links == 20
