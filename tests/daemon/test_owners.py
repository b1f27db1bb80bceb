"""Processes that own leases, in real time with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import anyio
import pytest

from renewer.core.effects import LeaseNews, TellLease
from renewer.core.events import OwnerGone
from renewer.core.model import LeaseId, LeaseSpec, Owner
from renewer.core.states import OwnerKind
from renewer.daemon import owners
from renewer.daemon.owners import ProcessOwners, identified
from renewer.errors import UsageError

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


class Watched:
    """A watch, and what it reported."""

    def __init__(self) -> None:
        self.gone: list[OwnerGone] = []
        self.changed = anyio.Event()
        self.owners = ProcessOwners(self.post)

    def post(self, event) -> None:
        self.gone.append(event)
        self.changed.set()

    def tell(self, name: str, owner: Owner, news: LeaseNews = LeaseNews.REGISTERED, *, final: bool = False) -> None:
        spec = LeaseSpec(LeaseId(name), "servicebus.main", "orders", owner=owner)
        self.owners.lease(TellLease(news, spec, 1, 0.0, final=final))

    async def first(self) -> OwnerGone:
        with anyio.fail_after(30):
            await self.changed.wait()
        return self.gone[0]


def owner_of(process: subprocess.Popen[bytes]) -> Owner:
    return identified(Owner(OwnerKind.PID, pid=process.pid))


async def test_the_end_of_a_process_ends_all_its_leases(process):
    watched = Watched()
    async with anyio.create_task_group() as tasks:
        await tasks.start(watched.owners.run)
        for name in ("a", "b"):
            watched.tell(name, owner_of(process))
        await anyio.wait_all_tasks_blocked()
        assert watched.gone == []
        process.kill()
        await watched.first()
        assert sorted(event.lease_id for event in watched.gone) == ["a", "b"]
        assert str(process.pid) in watched.gone[0].detail
        tasks.cancel_scope.cancel()


async def test_a_process_that_has_ended_before_the_watch_begins_is_noticed(process):
    owner, watched = owner_of(process), Watched()
    process.kill()
    process.wait()
    watched.tell("a", owner, LeaseNews.RESTORED)
    async with anyio.create_task_group() as tasks:
        await tasks.start(watched.owners.run)
        assert (await watched.first()).lease_id == "a"
        tasks.cancel_scope.cancel()


async def test_another_process_of_the_same_number_is_not_the_owner(process):
    watched = Watched()
    async with anyio.create_task_group() as tasks:
        await tasks.start(watched.owners.run)
        watched.tell("a", Owner(OwnerKind.PID, pid=os.getpid(), pid_started=1))
        assert (await watched.first()).lease_id == "a"
        tasks.cancel_scope.cancel()


async def test_a_lease_that_has_ended_is_not_watched_for_any_longer(process):
    watched = Watched()
    async with anyio.create_task_group() as tasks:
        await tasks.start(watched.owners.run)
        for name in ("a", "b"):
            watched.tell(name, owner_of(process))
        watched.tell("a", owner_of(process), LeaseNews.RELEASED, final=True)
        process.kill()
        await watched.first()
        assert [event.lease_id for event in watched.gone] == ["b"]
        watched.tell("b", owner_of(process) if process.poll() is None else Owner(), LeaseNews.FORGOTTEN)
        tasks.cancel_scope.cancel()


async def test_without_a_pidfd_the_process_is_looked_for_now_and_then(process, monkeypatch):
    def unknown(_pid):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", unknown)
    monkeypatch.setattr(owners, "_LOOK_AGAIN_S", 0.01)
    watched = Watched()
    async with anyio.create_task_group() as tasks:
        await tasks.start(watched.owners.run)
        watched.tell("a", owner_of(process))
        process.kill()
        assert (await watched.first()).lease_id == "a"
        tasks.cancel_scope.cancel()


async def test_a_process_that_is_not_there_cannot_own_anything(process):
    process.kill()
    process.wait()
    with pytest.raises(UsageError, match=r"owner\.pid"):
        identified(Owner(OwnerKind.PID, pid=process.pid))
    assert identified(Owner(OwnerKind.HEARTBEAT, ttl_s=3.0)) == Owner(OwnerKind.HEARTBEAT, ttl_s=3.0)


async def test_a_process_that_proc_hides_from_us_is_an_owner_like_any_other(process, monkeypatch, tmp_path):
    monkeypatch.setattr(owners, "_PROC", tmp_path)
    owner, watched = owner_of(process), Watched()
    assert owner.pid_started is None
    async with anyio.create_task_group() as tasks:
        await tasks.start(watched.owners.run)
        watched.tell("a", owner)
        watched.tell("b", owner, LeaseNews.RESTORED)
        await anyio.wait_all_tasks_blocked()
        assert watched.gone == []
        process.kill()
        await watched.first()
        assert sorted(event.lease_id for event in watched.gone) == ["a", "b"]
        tasks.cancel_scope.cancel()


def end(process: subprocess.Popen[bytes], options: int) -> None:
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | options)


@pytest.mark.parametrize("options", [0, os.WNOWAIT])
async def test_a_hidden_process_that_has_ended_cannot_own_anything(process, monkeypatch, tmp_path, options):
    monkeypatch.setattr(owners, "_PROC", tmp_path)
    end(process, options)
    with pytest.raises(UsageError, match=r"owner\.pid"):
        owner_of(process)
