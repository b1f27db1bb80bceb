"""The fault matrix: what goes wrong between daemon and broker, with which lock, and what must come of it.

The daemon's supervisor, the target, the protocol and the emulator's broker are the real ones, in virtual time. What can
be kept is kept: nothing is told but renewals, and the broker has seen no lock expire. What is lost is told once for
each session, within a second of the moment from which it could be known, with its reason; then it is held again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import pytest

from renewer.core.effects import LeaseNews
from renewer.core.states import LeaseState, LossReason
from tests.targets.virtual_broker import World, stall
from tests.virtualtime import virtual

pytestmark = pytest.mark.anyio

SESSIONS = 12
TOKEN_S = 20.0


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return virtual(request.param)


def now() -> float:
    return anyio.current_time()


# What goes wrong; where a loss follows, each returns the moment from which that could be known. ----


async def every_third_reply_is_lost(world: World) -> None:
    world.fault("lose_reply", every=3)
    await anyio.sleep(60)


async def every_third_request_is_lost(world: World) -> None:
    world.fault("drop", every=3)
    await anyio.sleep(60)


async def no_reply_for_a_third_of_the_lock(world: World) -> None:
    world.fault("lose_reply")
    await anyio.sleep(world.lock_s / 3)
    world.faults.clear()
    await anyio.sleep(30)


async def busy_for_three_seconds(world: World) -> None:
    # Half of a 5 s lock is gone when it is renewed: such a one can be kept if it is fresh when the broker is busy.
    for _ in range(3 if world.lock_s > 6 else 1):
        world.fault("busy")
        await anyio.sleep(3)
        world.faults.clear()
        await anyio.sleep(17.3)


async def replies_a_second_late(world: World) -> None:
    world.fault("delay", delay_s=1.0)
    await anyio.sleep(60)


async def network_silent_for_two_seconds(world: World) -> None:
    for _ in range(5):
        world.freeze()
        await anyio.sleep(2)
        world.thaw()
        await anyio.sleep(5.7)


async def network_silent_for_good(world: World) -> float:
    world.freeze()
    until = max(lease.expires_at for lease in world.supervisor.scheduler.leases())
    await anyio.sleep(until - now() + 1.0)
    # It is known that nobody answers, and not that the lock is gone: it may be ours again.
    assert len(world.of(LeaseNews.AT_RISK)) == SESSIONS
    assert world.of(LeaseNews.LOST) == []
    await anyio.sleep(world.lock_s + 30)
    return until + world.lock_s


async def connection_reset(world: World) -> float:
    await world.cut()
    at = now()
    await anyio.sleep(30)
    return at


async def broker_restart(world: World) -> float:
    world.is_down = True
    await world.cut()
    at = now()
    await anyio.sleep(3)
    assert len(world.of(LeaseNews.LOST)) == SESSIONS
    world.is_down = False
    await anyio.sleep(30)
    return at


async def connection_closed_in_good_form(world: World) -> float:
    world.fault("close", times=1)
    (rule,) = world.faults.list()
    while not rule.fired:  # noqa: ASYNC110 - in virtual time, and nobody else is told
        await anyio.sleep(0.01)
    at = now()
    await anyio.sleep(30)
    return at


async def links_detached(world: World) -> float:
    for spec in world.specs:
        world.broker.detach_session("orders", spec.session_id, condition="amqp:link:detach-forced")
    at = now()
    await anyio.sleep(30)
    return at


async def locks_taken_away(world: World) -> float:
    for spec in world.specs:
        world.broker.expire("orders", spec.session_id)
    at = now()
    await anyio.sleep(30)
    return at


async def token_expires_and_is_replaced(world: World) -> None:
    await anyio.sleep(6 * TOKEN_S)
    assert world.faults.seen["servicebus.cbs"] >= 6


async def token_expires_and_no_other_is_taken(world: World) -> float:
    world.fault("unauthorized", on="servicebus.cbs")
    (client,) = world.broker._clients
    ends_at = client._claims["orders"].ends_at
    await anyio.sleep(ends_at - now() + 5)
    world.faults.clear()
    await anyio.sleep(60)
    return ends_at


async def our_wall_clock_jumps_by_an_hour(world: World) -> None:
    for hours in (1, -1, 0):
        world.clocks.offset_s = 3600.0 * hours
        await anyio.sleep(20.3)


async def the_brokers_wall_clock_jumps_by_an_hour(world: World) -> None:
    for hours in (1, -1, 0):
        world.faults.clock_offset_s = 3600.0 * hours
        await anyio.sleep(20.3)


async def daemon_stalls_for_two_seconds(world: World) -> None:
    for _ in range(10):
        await anyio.sleep(3.37)
        stall(2.0)
    await anyio.sleep(5)


async def daemon_stalls_beyond_the_lock(world: World) -> float:
    await anyio.sleep(3.37)
    stall(world.lock_s + 3.0)
    at = now()
    await anyio.sleep(30)
    return at


# What must come of it ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A fault, and why everything is lost by it; None where everything is kept. `options` are the namespace's."""

    play: Callable[[World], Awaitable[float | None]]
    lost: LossReason | None = None
    locks: tuple[float, ...] = (5.0, 10.0)
    options: dict[str, object] = field(default_factory=dict)


BRIEF_TOKENS: dict[str, object] = {"token_lifetime_s": TOKEN_S, "verifies": True}

MATRIX = [
    Case(every_third_reply_is_lost),
    Case(every_third_request_is_lost),
    Case(no_reply_for_a_third_of_the_lock),
    Case(busy_for_three_seconds),
    Case(replies_a_second_late),
    Case(network_silent_for_two_seconds),
    Case(network_silent_for_good, LossReason.EXPIRED),
    Case(connection_reset, LossReason.CONNECTION_LOST),
    Case(broker_restart, LossReason.CONNECTION_LOST),
    Case(connection_closed_in_good_form, LossReason.CONNECTION_LOST),
    Case(links_detached, LossReason.DETACHED),
    Case(locks_taken_away, LossReason.EXPIRED),
    Case(token_expires_and_is_replaced, options=BRIEF_TOKENS),
    Case(token_expires_and_no_other_is_taken, LossReason.UNAUTHORIZED, options=BRIEF_TOKENS),
    Case(our_wall_clock_jumps_by_an_hour),
    Case(the_brokers_wall_clock_jumps_by_an_hour),
    Case(daemon_stalls_for_two_seconds),
    Case(daemon_stalls_beyond_the_lock, LossReason.EXPIRED),
]

ROWS = [
    pytest.param(case, lock_s, id=f"{case.play.__name__}-{lock_s:g}s-{case.lost or 'kept'}")
    for case in MATRIX
    for lock_s in case.locks
]


@pytest.mark.parametrize(("case", "lock_s"), ROWS)
async def test_what_can_be_kept_is_kept_and_what_is_lost_is_told_at_once(case: Case, lock_s: float) -> None:
    world = World(lock_s, SESSIONS, **case.options)
    async with world.running():
        knowable_at = await case.play(world)
        if case.lost is None:
            assert [world.story(n) for n in range(SESSIONS)] == [["registered", "acquired"]] * SESSIONS
            assert (world.broker.counters.locks_expired, world.broker.counters.sessions_held) == (0, SESSIONS)
            return
        assert knowable_at is not None
        losses = world.of(LeaseNews.LOST)
        assert sorted(news.spec.id for news in losses) == sorted(spec.id for spec in world.specs)
        assert {(news.reason, news.final) for news in losses} == {(case.lost, False)}
        assert max(world.times(LeaseNews.LOST)) - knowable_at <= 1.0
        for number in range(SESSIONS):
            assert [word for word in world.story(number) if word != "at_risk"] == [
                "registered",
                "acquired",
                "lost",
                "reacquired",
            ]
            lease = world.lease(number)
            assert (lease.state, lease.epoch, lease.losses) == (LeaseState.HELD, 2, 1)
        assert world.broker.counters.sessions_held == SESSIONS
