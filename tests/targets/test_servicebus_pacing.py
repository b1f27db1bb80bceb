"""Turns in a namespace that is throttled, in virtual time."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from renewer.errors import LeaseLostError, TransientError
from renewer.targets.servicebus.pacing import OVERDUE_S, PAUSE_S, SLOWEST_PER_S, Pace, is_throttled
from tests.virtualtime import VirtualClock, virtual

pytestmark = pytest.mark.anyio

REFUSAL = TransientError("the request was answered with 503", kind="busy", condition="com.microsoft:server-busy")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return virtual("asyncio")


class Line:
    """Those who wait for turns, and when theirs came."""

    def __init__(self, pace, tasks) -> None:
        self.pace = pace
        self.came = {}
        self._tasks = tasks

    def ask(self, name, within_s):
        self._tasks.start_soon(self._wait, name, anyio.current_time() + within_s)

    async def _wait(self, name, deadline):
        asked_at = anyio.current_time()
        await self.pace.turn(deadline)
        self.came[name] = anyio.current_time() - asked_at


@asynccontextmanager
async def paced():
    pace = Pace(VirtualClock(), "servicebus.main")
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda task_status: pace.serve(task_status=task_status))
        yield pace, Line(pace, tasks)
        tasks.cancel_scope.cancel()


async def test_nobody_waits_while_the_broker_answers():
    async with paced() as (pace, line):
        for number in range(100):
            line.ask(number, 1)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        assert set(line.came.values()) == {0.0}
        pace.admit_newcomer()
        assert (pace.is_slowed, pace.refusals) == (False, 0)


async def test_after_a_refusal_all_come_in_the_first_half_of_their_time_and_no_faster_than_that_takes():
    async with paced() as (pace, line):
        pace.note(REFUSAL)
        for number in range(200):
            line.ask(number, 4)
        await anyio.sleep(1)
        assert 80 <= len(line.came) <= 120
        await anyio.sleep(1.2)
        assert len(line.came) == 200
        assert max(line.came.values()) < 2.2


async def test_whose_lock_ends_first_comes_first():
    async with paced() as (pace, line):
        pace.note(REFUSAL)
        for number in range(20):
            line.ask(number, 20 - number)
        await anyio.sleep(10)
        assert [*line.came] == [*reversed(range(20))]


async def test_those_whose_locks_should_have_ended_come_last_but_soon():
    async with paced() as (pace, line):
        pace.note(REFUSAL)
        for number in range(50):
            line.ask(f"late {number}", -1)
            line.ask(number, 2)
        await anyio.sleep(OVERDUE_S + 1)
        assert len(line.came) == 100
        order = [*line.came]
        assert all(isinstance(name, int) for name in order[:50])


async def test_a_few_are_let_go_soon_so_that_it_is_known_when_the_broker_answers_again():
    async with paced() as (pace, line):
        pace.note(REFUSAL)
        line.ask("one", 240)
        await anyio.sleep(2 / SLOWEST_PER_S)
        assert "one" in line.came
        await anyio.sleep(5)
        line.ask("two", 240)
        await anyio.sleep(0.01)
        assert line.came["two"] < 0.01


async def test_ten_seconds_after_the_last_refusal_everybody_goes():
    async with paced() as (pace, line):
        pace.note(REFUSAL)
        await anyio.sleep(6)
        pace.note(REFUSAL)
        await anyio.sleep(6)
        assert pace.is_slowed
        for number in range(1000):
            line.ask(number, 240)
        await anyio.sleep(PAUSE_S - 6 + 0.1)
        assert len(line.came) == 1000
        assert not pace.is_slowed
        assert pace.refusals == 2


async def test_a_broker_that_asks_for_a_longer_pause_gets_it_within_reason():
    for asked_s, calm_s in ((30.0, 30.0), (3600.0, 60.0), (1.0, PAUSE_S), (None, PAUSE_S)):
        async with paced() as (pace, _):
            pace.note(TransientError("busy", kind="throttled", retry_after_s=asked_s))
            await anyio.sleep(calm_s - 0.1)
            assert pace.is_slowed
            await anyio.sleep(0.2)
            assert not pace.is_slowed


async def test_newcomers_are_told_to_come_back_each_at_another_time():
    async with paced() as (pace, _):
        pace.note(REFUSAL)
        waits = []
        for _ in range(3):
            with pytest.raises(TransientError, match="new sessions wait") as caught:
                pace.admit_newcomer()
            assert not is_throttled(caught.value)
            waits.append(caught.value.retry_after_s)
        assert waits == [pytest.approx(PAUSE_S + number / 20) for number in (1, 2, 3)]


async def test_who_waits_already_is_told_so_and_one_who_gave_up_is_passed_over():
    async with paced() as (pace, line):
        pace.note(REFUSAL)
        far = anyio.current_time() + 100
        with anyio.move_on_after(0.01):
            await pace.turn(far, key="a")
        async with anyio.create_task_group() as tasks:
            # The first one comes at once, so that the second one has to wait.
            line.ask("first", 1)
            tasks.start_soon(pace.turn, far, "a")
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            with pytest.raises(TransientError, match="already") as caught:
                await pace.turn(far, key="a")
            assert not is_throttled(caught.value)


@pytest.mark.parametrize(
    ("error", "is_so"),
    [
        (REFUSAL, True),
        (TransientError("429", kind="throttled"), True),
        (TransientError("503", kind="busy"), True),
        (TransientError("x: Error code : 50009.", kind="server", condition="amqp:internal-error"), True),
        (TransientError("x. SubCode=50009.", kind="server", condition="amqp:internal-error"), True),
        (TransientError("id 50009aa", kind="server", condition="amqp:internal-error"), False),
        (TransientError("held", kind="busy", condition="com.microsoft:session-cannot-be-locked"), False),
        (TransientError("no answer", kind="timeout"), False),
        (LeaseLostError("gone", reason="expired"), False),
    ],
)
def test_a_refusal_for_too_many_requests_is_told_from_others(error, is_so):
    assert is_throttled(error) == is_so
