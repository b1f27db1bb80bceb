"""Which polls a run that was killed may have sent."""

from __future__ import annotations

import math
from dataclasses import replace

import anyio
import pytest

from renewer.core.events import OperationRegistered
from renewer.core.model import OperationId, OperationSpec, StillRunning
from renewer.daemon.horizon import KEY, REACH_S, Horizon, read_horizon
from renewer.daemon.records import Timeline
from renewer.ports import Entry, EntryKind
from renewer.registry import MemoryRegistry
from tests.daemon.daemon_rig import FakeService, Rig

pytestmark = pytest.mark.anyio

RUNNING = StillRunning("Running", retry_after_s=20.0, ticket="t")


class Stopped:
    """A clock that stands where it is put."""

    at = 100.0

    def now(self) -> float:
        return self.at


def a_horizon() -> tuple[Horizon, Stopped]:
    clock = Stopped()
    return Horizon(clock, lambda: Timeline("boot", clock.at, 1000.0 + clock.at)), clock  # type: ignore[arg-type]


def test_nothing_is_covered_before_it_is_stored() -> None:
    horizon, _ = a_horizon()
    assert (horizon.covers_now, horizon.is_near) == (False, True)
    horizon.entry()
    assert (horizon.covers_now, horizon.is_near) == (False, True)
    horizon.stored()
    assert (horizon.covers_now, horizon.is_near) == (True, False)


def test_it_is_moved_on_before_it_is_reached() -> None:
    horizon, clock = a_horizon()
    horizon.entry()
    horizon.stored()
    clock.at += REACH_S / 2 + 0.01
    assert (horizon.covers_now, horizon.is_near) == (True, True)
    clock.at = 100.0 + REACH_S
    assert not horizon.covers_now


def test_at_the_end_it_reaches_no_further_than_the_present() -> None:
    horizon, clock = a_horizon()
    horizon.draw_in()
    entry = horizon.entry()
    assert read_horizon(entry, Timeline("boot", 500.0, 1500.0)) == clock.at


@pytest.mark.parametrize(
    "document", [{}, {"v": 2}, {"v": 1, "clock": None, "until": 1}, {"v": 1, "clock": {}, "until": "x"}]
)
def test_one_that_cannot_be_read_covers_everything(document: dict[str, object]) -> None:
    entry = Entry(EntryKind.HORIZON, KEY, 0, document)
    assert read_horizon(entry, Timeline("boot", 0.0, 0.0)) == math.inf


async def after_a_crash(clock, registry: MemoryRegistry, lived_s: float, away_s: float) -> tuple[float, float]:
    """Follow an operation for a while, be killed, start again: when it was begun and then polled first."""
    service = FakeService(iter([RUNNING] * 100))
    rig = Rig(clock, service=service, registry=registry)
    started_at = anyio.current_time()
    async with rig.running():
        spec = OperationSpec(OperationId("o"), "fabric.main", {})
        rig.supervisor.post(OperationRegistered(spec, RUNNING))
        assert await rig.supervisor.keeper.durable("o")
        await anyio.sleep(lived_s)
    await anyio.sleep(away_s)
    restarted_at = anyio.current_time()
    later = FakeService(iter([RUNNING] * 100))
    async with Rig(clock, service=later, registry=registry).running():
        await anyio.sleep(100.0)
    return restarted_at - started_at, later.asked_at[0][1] - started_at


async def test_what_was_not_due_before_the_crash_is_polled_when_it_is_due(clock):
    _, polled = await after_a_crash(clock, MemoryRegistry(), 10.0, 1.0)
    assert polled == pytest.approx(20.0, abs=0.1)


async def test_what_fell_due_while_nobody_was_there_is_polled_at_once(clock):
    restarted, polled = await after_a_crash(clock, MemoryRegistry(), 10.0, 60.0)
    assert polled == pytest.approx(restarted, abs=0.1)


async def test_what_may_have_been_polled_is_left_alone_for_as_long_as_was_asked_for(clock):
    restarted, polled = await after_a_crash(clock, MemoryRegistry(), 20.005, 1.0)
    assert polled == pytest.approx(restarted + 20.0, abs=0.1)


async def test_a_poll_that_was_answered_and_stored_is_known_to_have_been(clock):
    _, polled = await after_a_crash(clock, MemoryRegistry(), 21.0, 1.0)
    assert polled == pytest.approx(40.0, abs=0.1)


async def test_records_from_before_there_was_a_horizon_go_by_what_they_say_themselves(clock):
    class Older(MemoryRegistry):
        async def open(self):
            opened = await super().open()
            return replace(opened, entries=[entry for entry in opened.entries if entry.kind is not EntryKind.HORIZON])

    restarted, polled = await after_a_crash(clock, Older(), 10.0, 60.0)
    assert polled == pytest.approx(restarted, abs=0.1)


async def test_after_a_stop_in_time_nothing_waits_that_was_not_asked(clock):
    registry = MemoryRegistry()
    service = FakeService(iter([RUNNING] * 100))
    rig = Rig(clock, service=service, registry=registry)
    async with rig.running():
        for name, asks_s in (("polled", 1.0), ("soon", 3.0)):
            first = StillRunning(retry_after_s=asks_s, ticket="t")
            rig.supervisor.post(OperationRegistered(OperationSpec(OperationId(name), "fabric.main", {}), first))
        await anyio.sleep(2.0)
        rig.supervisor.keeper.no_more_polls()
        await rig.supervisor.keeper.flush()
    await anyio.sleep(1.5)
    again = Rig(clock, service=FakeService(iter([RUNNING] * 100)), registry=registry)
    async with again.running():
        await anyio.sleep(0.1)
        assert again.supervisor.scheduler.operation(OperationId("soon")).polls == 1
        assert again.supervisor.scheduler.operation(OperationId("polled")).polls == 1
        await anyio.sleep(16.0)
        assert again.supervisor.scheduler.operation(OperationId("polled")).polls == 1
