"""Tasks that take on one piece of work after another."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from renewer.daemon.workers import MOST_IDLE, Workers

pytestmark = pytest.mark.anyio


class Job:
    """Work that begins, and ends when it is told to."""

    begun = 0

    def __init__(self) -> None:
        self.done = anyio.Event()

    async def carry_out(self) -> None:
        type(self).begun += 1
        await self.done.wait()


@pytest.fixture(autouse=True)
def nothing_begun() -> None:
    Job.begun = 0


async def test_all_work_is_under_way_at_once() -> None:
    workers = Workers(Job.carry_out)
    jobs = [Job() for _ in range(MOST_IDLE + 50)]
    async with anyio.create_task_group() as tasks:
        for round_number in (1, 2):
            for job in jobs:
                workers.put(tasks, job)
            await anyio.wait_all_tasks_blocked()
            assert Job.begun == round_number * len(jobs)
            for job in jobs:
                job.done.set()
            await anyio.wait_all_tasks_blocked()
            jobs = [Job() for _ in jobs]
        tasks.cancel_scope.cancel()


async def test_a_task_takes_on_one_piece_of_work_after_another() -> None:
    seen: list[anyio.TaskInfo] = []

    async def note(_work: int) -> None:
        seen.append(anyio.get_current_task())

    workers = Workers(note)
    async with anyio.create_task_group() as tasks:
        for number in range(3):
            workers.put(tasks, number)
            await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert len({task.id for task in seen}) == 1


async def test_work_that_was_cancelled_leaves_its_task_to_others() -> None:
    scopes: list[anyio.CancelScope] = []

    async def wait(_work: int) -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await anyio.sleep_forever()

    workers = Workers(wait)
    async with anyio.create_task_group() as tasks:
        for number in (1, 2, 3):
            workers.put(tasks, number)
            await anyio.wait_all_tasks_blocked()
            assert len(scopes) == number
            scopes[-1].cancel()
            await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()


async def test_tasks_that_ended_are_given_no_work() -> None:
    done: list[int] = []

    async def note(work: int) -> None:
        done.append(work)

    workers = Workers(note)
    for number in (1, 2):
        async with anyio.create_task_group() as tasks:
            workers.put(tasks, number)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert done == [1, 2]


async def test_no_more_tasks_stay_idle_than_may() -> None:
    workers = Workers(Job.carry_out, most_idle=3)
    jobs = [Job() for _ in range(10)]
    async with anyio.create_task_group() as tasks:
        others = len(anyio.get_running_tasks())
        for job in jobs:
            workers.put(tasks, job)
        await anyio.wait_all_tasks_blocked()
        assert len(anyio.get_running_tasks()) == others + len(jobs)
        for job in jobs:
            job.done.set()
        await anyio.wait_all_tasks_blocked()
        assert len(anyio.get_running_tasks()) == others + 3
        tasks.cancel_scope.cancel()
