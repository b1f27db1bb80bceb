"""How the daemon does, as it sees itself."""

from __future__ import annotations

from types import SimpleNamespace

import anyio
import pytest

from renewer.daemon.health import Health, Lag
from renewer.errors import TransientError
from tests.daemon.daemon_rig import FakeBroker, Rig

pytestmark = pytest.mark.anyio


class Away(FakeBroker):
    async def acquire(self, spec, epoch):
        raise TransientError("cannot connect", kind="network")


def health(rig: Rig, clock, **reloader) -> Health:
    namespace = SimpleNamespace(trouble=None, connections=2, links=7, clock_skew_s=0.5)
    reloads = SimpleNamespace(last_successful=True, restart_needed=(), last_success_at=0.0)
    vars(reloads).update(reloader)
    parts = SimpleNamespace(outcomes={"delivered": 3}, pending=1, readers=2)
    return Health(clock, rig.supervisor, {"servicebus.main": namespace}, ["fabric.main"], reloads, parts, parts)


async def test_nothing_is_wrong_as_a_rule(clock):
    rig = Rig(clock)
    async with rig.running():
        rig.hold()
        await anyio.sleep(60)
        seen = health(rig, clock)
        assert seen.trouble() == []
        assert seen.why_it_cannot_serve() is None
        assert [(target.name, target.links) for target in seen.targets()] == [
            ("servicebus.main", 7),
            ("fabric.main", None),
        ]
        assert (seen.readings().callbacks, seen.readings().registry_backlog) == ({"delivered": 3}, 0)


async def test_a_broker_that_is_away_is_told_with_what_it_costs_and_no_reason_to_start_anew(clock):
    rig = Rig(clock, Away())
    async with rig.running():
        rig.hold("a")
        rig.hold("b")
        await anyio.sleep(60)
        seen = health(rig, clock)
        seen.namespaces["servicebus.main"].trouble = "cannot connect (9 times in a row)"
        assert seen.trouble() == ["servicebus.main: cannot connect (9 times in a row); leases that are not held: 2"]
        assert seen.why_it_cannot_serve() is None


async def test_a_reload_that_failed_and_one_that_needs_a_restart_are_told(clock):
    rig = Rig(clock)
    assert "config check" in health(rig, clock, last_successful=False).trouble()[0]
    assert "api.listen" in health(rig, clock, restart_needed=("api.listen",)).trouble()[0]


async def test_what_is_due_and_not_begun_is_a_reason_to_start_anew(clock):
    rig = Rig(clock)
    async with rig.running():
        rig.hold()
        await anyio.sleep(1)
    assert health(rig, clock).why_it_cannot_serve() is None
    await anyio.sleep(60)
    assert health(rig, clock).why_it_cannot_serve() == "what is due is not begun"


async def test_the_last_and_the_worst_lag_are_known(clock):
    seen: list[float] = []
    lag = Lag(clock, seen.append)
    for lag_s in (0.5, 0.1):
        lag.note(lag_s)
        await anyio.sleep(1)
    assert (lag.last_s, lag.worst_s(), seen) == (0.1, 0.5, [0.5, 0.1])
    await anyio.sleep(58.5)
    assert lag.worst_s() == 0.1
