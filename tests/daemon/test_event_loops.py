"""What the daemon relies on holds on whichever event loop it runs: asyncio's, and uvloop's where it is installed."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from importlib.util import find_spec

import anyio
import pytest

from renewer.core.model import Ended, OperationSpec, PollAnswer, StillRunning
from renewer.core.timing import PollPolicy
from renewer.daemon.clock import SystemClock
from renewer.daemon.naps import set_within
from tests.daemon.daemon_rig import FakeService, Rig

Run = Callable[[Callable[[], Awaitable[None]]], None]

POLLS = 20


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a test in real time, on an event loop of this kind."""
    if request.param == "uvloop" and find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")

    def run_test(test: Callable[[], Awaitable[None]]) -> None:
        async def checked() -> None:
            assert type(asyncio.get_running_loop()).__module__.startswith(request.param)
            await test()

        anyio.run(checked, backend_options={"use_uvloop": request.param == "uvloop"})

    return run_test


class Service(FakeService):
    """Asks for pauses of all lengths, and notes by how much each was kept to."""

    def __init__(self, operations: int) -> None:
        super().__init__(iter(()))
        self.living = operations
        self.done = anyio.Event()
        self.pauses = itertools.cycle([0.0011, 0.0103, 0.0249, 0.0006, 0.0177, 0.0035])
        self.asked: dict[str, int] = {}
        self.not_before: dict[str, float] = {}
        self.spare_s: list[float] = []

    async def submit(self, spec: OperationSpec) -> PollAnswer:
        return self._answer(spec)

    async def poll(self, spec: OperationSpec, ticket: object) -> PollAnswer:
        self.spare_s.append(time.monotonic() - self.not_before[spec.id])
        return self._answer(spec)

    def _answer(self, spec: OperationSpec) -> PollAnswer:
        asked = self.asked[spec.id] = self.asked.get(spec.id, 0) + 1
        if asked > POLLS:
            self.living -= 1
            if not self.living:
                self.done.set()
            return Ended("failed")
        pause_s = next(self.pauses)
        self.not_before[spec.id] = time.monotonic() + pause_s
        return StillRunning("Running", retry_after_s=pause_s, ticket="t")


def test_no_poll_is_earlier_than_the_service_asked_for(run: Run) -> None:
    spare_s: list[float] = []

    async def follow() -> None:
        service = Service(20)
        rig = Rig(SystemClock(), service=service)
        async with rig.running():
            for number in range(20):
                rig.follow(f"o{number}", PollPolicy(floor_s=0.0))
            with anyio.fail_after(60):
                await service.done.wait()
        spare_s.extend(service.spare_s)

    run(follow)
    assert len(spare_s) == 20 * POLLS
    assert min(spare_s) >= 0


def test_the_clock_s_instants_are_deadlines_that_no_scope_is_cancelled_before(run: Run) -> None:
    clock = SystemClock()
    early: list[float] = []

    async def wait_until(until: float) -> None:
        with anyio.CancelScope(deadline=until):
            await anyio.sleep_forever()
        early.append(until - clock.now())

    async def wait() -> None:
        loop = asyncio.get_running_loop()
        assert loop.time() <= clock.now()
        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(wait_until, clock.now() + number * 0.00037)

    run(wait)
    assert len(early) == 200
    assert max(early) <= 0


def test_a_nap_ends_by_itself_or_when_something_happens(run: Run) -> None:
    async def nap() -> None:
        assert not await set_within(anyio.Event(), 0.002)
        event = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_set, event)
            assert await set_within(event, 60.0)

    run(nap)


async def _set(event: anyio.Event) -> None:
    event.set()
