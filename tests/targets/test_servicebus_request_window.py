"""A broker that leaves requests without an answer for a while: what asks for the same again must not hold up others."""

from __future__ import annotations

import anyio
import pytest

from tests.targets.virtual_broker import World
from tests.virtualtime import virtual

pytestmark = pytest.mark.anyio

LOCK_S = 10.0


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return virtual(request.param)


@pytest.mark.parametrize("sessions", [100, 1000])
async def test_locks_are_kept_by_a_broker_that_answers_again_just_before_they_end(sessions: int) -> None:
    world = World(LOCK_S, sessions)
    async with world.running():
        await anyio.sleep(3.9)
        world.fault("drop")
        await anyio.sleep(5.0)
        world.faults.clear()
        await anyio.sleep(20)
        counters = world.broker.counters
        assert (counters.locks_expired, counters.sessions_held) == (0, sessions)
        assert {*world.story(0)} == {"registered", "acquired"}
