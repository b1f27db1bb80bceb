"""The watchdog's ping and the status line, in virtual time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from renewer.api.control import StatusReading
from renewer.daemon.watchdog import Watchdog, status_line
from tests.virtualtime import VirtualClock

pytestmark = pytest.mark.anyio


class Ear:
    """Stands in for the notifier, and writes down what is said when."""

    def __init__(self, watchdog_s: float | None, clock: VirtualClock) -> None:
        self.watchdog_s = watchdog_s
        self.is_heard = True
        self.clock = clock
        self.started_at = clock.now()
        self.pings: list[float] = []
        self.said: list[tuple[float, str]] = []

    def watchdog(self) -> None:
        self.pings.append(round(self.clock.now() - self.started_at, 3))

    def status(self, text: str) -> None:
        self.said.append((round(self.clock.now() - self.started_at, 3), text))

    def flush(self) -> None:
        pass


class LateClock(VirtualClock):
    """A clock that shows, from a moment on, that the loop stood still."""

    stalled_s = 0.0

    def now(self) -> float:
        return super().now() + self.stalled_s


async def watched(ear: Ear, clock: VirtualClock, span_s: float, **options: Any) -> Watchdog:
    watchdog = Watchdog(ear, clock, **({"status": lambda: "fine"} | options))  # type: ignore[arg-type]
    with anyio.move_on_after(span_s):
        await watchdog.run()
    return watchdog


async def test_it_pings_at_a_third_of_the_period(clock: VirtualClock) -> None:
    ear = Ear(30.0, clock)
    await watched(ear, clock, 35)
    assert ear.pings == [0, 5, 10, 15, 20, 25, 30, 35][: len(ear.pings)]
    assert len(ear.pings) >= 7
    ear = Ear(3.0, clock)
    await watched(ear, clock, 4.5)
    assert ear.pings == [0, 1, 2, 3, 4]


async def test_without_a_watchdog_the_status_alone_is_told(clock: VirtualClock) -> None:
    ear = Ear(None, clock)
    lines = iter(["one", "one", "two", "two", "three"])
    await watched(ear, clock, 20.5, status=lambda: next(lines))
    assert ear.pings == []
    assert ear.said == [(0, "one"), (10, "two"), (20, "three")]


async def test_without_a_manager_it_returns_at_once(clock: VirtualClock) -> None:
    ear = Ear(None, clock)
    ear.is_heard = False
    with anyio.fail_after(1):
        await Watchdog(ear, clock, status=lambda: "fine").run()  # type: ignore[arg-type]
    assert ear.said == []


async def test_a_daemon_that_cannot_serve_is_not_called_alive_and_says_why_once(clock: VirtualClock) -> None:
    ear = Ear(9.0, clock)
    trouble: str | None = None
    watchdog = Watchdog(ear, clock, status=lambda: "fine", cannot_serve=lambda: trouble)  # type: ignore[arg-type]
    with capture_logs() as logs:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watchdog.run)
            await anyio.sleep(4)
            trouble = "the registry cannot be written"
            await anyio.sleep(20)
            assert ear.pings == [0, 3]
            assert watchdog.withheld == trouble
            trouble = None
            await anyio.sleep(3)
            tasks.cancel_scope.cancel()
    assert ear.pings[2] > 24
    assert [entry["event"] for entry in logs] == ["watchdog ping withheld", "watchdog pinged again"]
    assert logs[0]["why"] == "the registry cannot be written"
    assert [text for _, text in ear.said] == [
        "fine",
        "watchdog ping withheld: the registry cannot be written; fine",
        "fine",
    ]


async def test_a_supervisor_that_is_late_is_not_called_alive(clock: VirtualClock) -> None:
    ear = Ear(10.0, clock)
    lag_s = 5.0
    watchdog = await watched(ear, clock, 5, loop_lag_s=lambda: lag_s)
    assert len(ear.pings) == 2
    assert watchdog.withheld is None
    lag_s = 5.1
    ear = Ear(10.0, clock)
    watchdog = await watched(ear, clock, 30, loop_lag_s=lambda: lag_s)
    assert ear.pings == []
    assert watchdog.withheld == "the event loop is late"


async def test_one_stall_that_is_over_does_not_cost_the_daemon_its_life() -> None:
    clock = LateClock()
    ear = Ear(30.0, clock)
    watchdog = Watchdog(ear, clock, status=lambda: "fine")  # type: ignore[arg-type]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watchdog.run)
        await anyio.sleep(7)
        clock.stalled_s = 16
        await anyio.sleep(10)
        tasks.cancel_scope.cancel()
    gaps = [later - earlier for earlier, later in zip(ear.pings, ear.pings[1:], strict=False)]
    assert max(gaps) < 30
    assert 26 not in ear.pings
    assert 29 in ear.pings


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "0 leases held, 0 operations running"),
        (
            {"leases": {"held": 12, "at_risk": 1, "lost": 4}, "operations": {"running": 2, "fetching": 1, "failed": 9}},
            "12 leases held, 1 at risk, 3 operations running",
        ),
        (
            {"leases": {"held": 1, "acquiring": 2}, "operations": {"accepted": 1}, "state": "draining"},
            "draining: 1 lease held, 2 acquiring, 1 operation running",
        ),
        (
            {"trouble": ["the disk is full", "b", "c"]},
            "0 leases held, 0 operations running; the disk is full (and 2 more)",
        ),
    ],
)
def test_the_status_line_says_how_many_and_what_is_wrong(changes: dict[str, Any], line: str) -> None:
    fields: dict[str, Any] = {
        "version": "1",
        "state": "ready",
        "started_at": datetime(2026, 1, 1, tzinfo=UTC),
        "leases": {},
        "operations": {},
        "losses": 0,
        "max_leases": 1,
        "max_operations": 1,
        "loop_lag_s": 0.0,
        "registry": "memory",
    }
    assert status_line(StatusReading(**(fields | changes))) == line
