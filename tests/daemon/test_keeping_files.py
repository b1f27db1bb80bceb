"""Results in files, between the target that fetched them and the registry: in virtual time, on both backends."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from renewer.core.events import ForgetRequested
from renewer.core.model import Result, StillRunning, Succeeded
from renewer.core.states import OperationState
from renewer.errors import RegistryError, TransientError
from renewer.ports import Batch, EntryKind
from renewer.registry import MemoryRegistry
from tests.daemon.daemon_rig import FakeService, Rig

pytestmark = pytest.mark.anyio

BODY = json.dumps({"large": "x" * 1000}).encode()


class Registry(MemoryRegistry):
    """A registry whose writes take as long, or fail, as told, or fail although they were made."""

    def __init__(self) -> None:
        super().__init__()
        self.takes_s = 0.0
        self.fails = False
        self.lies = False
        self.stored = anyio.Event()

    async def write(self, batch: Batch) -> None:
        await anyio.sleep(self.takes_s)
        if self.fails and not self.lies:
            raise RegistryError("the disk is full")
        await super().write(batch)
        if batch.results:
            self.stored.set()
        if self.fails:
            raise RegistryError("it was written, but nobody knows")

    def arrived(self, name: str = "first", body: bytes = BODY) -> Result:
        path = self.spool_dir() / name
        path.write_bytes(body)
        return Result("json", "application/json", stored_size=len(body), file=str(path))

    def files(self) -> list[str]:
        return sorted(path.name for path in self.spool_dir().iterdir())


@pytest.fixture
def registry():
    return Registry()


def rig_of(clock, registry, *script):
    return Rig(clock, service=FakeService(iter(script)), registry=registry)


async def read(rig, key):
    result = await rig.supervisor.keeper.result(key)
    return Path(result.file).read_bytes()  # noqa: ASYNC240 - there are no threads in virtual time


async def test_the_core_knows_the_size_of_a_result_and_not_its_file(clock, registry):
    rig = rig_of(clock, registry, Succeeded("Succeeded", None), registry.arrived())
    async with rig.running():
        spec = rig.follow()
        await anyio.sleep(10)
        operation = rig.operation(spec)
        assert operation.state is OperationState.SUCCEEDED
        assert operation.result == Result("json", "application/json", stored_size=len(BODY))
        stored = await registry.result(spec.id)
        assert (stored.size, stored.body) == (len(BODY), b"")
        assert await read(rig, spec.id) == BODY


async def test_the_first_answer_may_be_a_result_in_a_file(clock, registry):
    rig = rig_of(clock, registry, Succeeded("Succeeded", registry.arrived()))
    async with rig.running():
        spec = rig.follow()
        await anyio.sleep(10)
        assert await read(rig, spec.id) == BODY
        assert registry.files() == ["first"]


async def test_a_result_can_be_read_before_it_is_stored(clock, registry):
    rig = rig_of(clock, registry, Succeeded("Succeeded", registry.arrived()))
    async with rig.running():
        spec = rig.follow()
        await anyio.sleep(0.005)
        registry.takes_s = 5.0
        await anyio.sleep(1)
        assert await registry.result(spec.id) is None
        assert await read(rig, spec.id) == BODY


@pytest.mark.parametrize("lies", [False, True])
async def test_a_registry_that_failed_gets_the_same_file_again(clock, registry, capsys, lies):
    rig = rig_of(clock, registry, Succeeded("Succeeded", registry.arrived()))
    async with rig.running():
        spec = rig.follow()
        await anyio.sleep(0.005)
        registry.fails, registry.lies = True, lies
        await anyio.sleep(30)
        assert rig.operation(spec).state is OperationState.SUCCEEDED
        assert await read(rig, spec.id) == BODY
        registry.fails = False
        await anyio.sleep(30)
        assert await read(rig, spec.id) == BODY
        assert registry.files() == ["first"]


async def test_a_result_that_is_forgotten_before_it_was_stored_leaves_no_file(clock, registry, capsys):
    rig = rig_of(clock, registry, Succeeded("Succeeded", registry.arrived()))
    async with rig.running():
        spec = rig.follow()
        await anyio.sleep(0.005)
        registry.fails = True
        await anyio.sleep(30)
        rig.supervisor.post(ForgetRequested(spec.id))
        await anyio.sleep(30)
        assert registry.files() == ["first"]
        registry.fails = False
        await anyio.sleep(30)
        assert registry.files() == []


async def test_a_result_that_is_forgotten_while_it_is_stored_leaves_no_file(clock, registry):
    rig = rig_of(clock, registry, Succeeded("Succeeded", registry.arrived()))
    async with rig.running():
        spec = rig.follow()
        await anyio.sleep(0.005)
        registry.takes_s = 1.0
        await anyio.sleep(0.5)
        rig.supervisor.post(ForgetRequested(spec.id))
        await anyio.sleep(30)
        assert registry.files() == []
        assert await registry.result(spec.id) is None


async def test_with_an_operation_goes_the_file_of_its_result(clock, registry):
    rig = rig_of(clock, registry, Succeeded("Succeeded", registry.arrived()))
    async with rig.running():
        spec = rig.follow()
        await anyio.sleep(1)
        assert registry.files() == ["first"]
        rig.supervisor.post(ForgetRequested(spec.id))
        await anyio.sleep(1)
        assert registry.files() == []


async def test_a_later_result_takes_the_place_of_an_earlier_one_and_no_file_is_left(clock, registry):
    rig = rig_of(clock, registry, StillRunning("Running", retry_after_s=20))
    keeper = rig.supervisor.keeper
    async with rig.running():
        spec = rig.follow()
        await anyio.sleep(1)
        # An attempt that was given up and one that was not: the first came home all the same.
        keeper.keep_result(spec.id, registry.arrived("first", b"[1]"))
        keeper.keep_result(spec.id, registry.arrived("second", b"[2]"))
        assert await read(rig, spec.id) == b"[2]"
        await anyio.sleep(1)
        assert registry.files() == ["second"]
        keeper.keep_result(spec.id, Result("none", problem="gone"))
        await anyio.sleep(1)
        assert registry.files() == []


async def test_a_result_that_came_while_an_earlier_one_was_stored_is_not_lost(clock, registry):
    rig = rig_of(clock, registry, Succeeded("Succeeded", registry.arrived("first", b"[1]")))
    keeper = rig.supervisor.keeper
    async with rig.running():
        spec = rig.follow()
        await anyio.sleep(0.005)
        registry.takes_s = 1.0
        await anyio.sleep(0.5)
        keeper.keep_result(spec.id, registry.arrived("second", b"[2]"))
        await keeper.note_submitting(spec.id)
        assert await read(rig, spec.id) == b"[2]"
        await anyio.sleep(5)
        assert registry.files() == ["second"]


async def test_a_restart_between_storing_and_telling_keeps_end_and_result(clock, registry):
    first = rig_of(clock, registry, Succeeded("Succeeded", None), registry.arrived())
    async with first.running() as tasks:
        spec = first.follow()

        async def die_when_stored():
            await registry.stored.wait()
            tasks.cancel_scope.cancel()

        tasks.start_soon(die_when_stored)
        await anyio.sleep(100)
    rig = rig_of(clock, registry)
    async with rig.running():
        assert rig.operation(spec).result == Result("json", "application/json", stored_size=len(BODY))
        assert await read(rig, spec.id) == BODY
        assert registry.files() == ["first"]


async def test_a_disk_that_is_full_costs_tries_and_not_the_result(clock, registry):
    full = TransientError("the answer cannot be kept in /x (No space left on device): make room there", kind="network")
    rig = rig_of(clock, registry, Succeeded("Succeeded", None), full, full, registry.arrived())
    async with rig.running():
        spec = rig.follow()
        await anyio.sleep(600)
        operation = rig.operation(spec)
        assert (operation.state, operation.poll_errors, operation.error) == (OperationState.SUCCEEDED, 2, None)
        assert await read(rig, spec.id) == BODY


async def test_what_is_kept_of_an_operation_never_names_a_file(clock, registry):
    rig = rig_of(clock, registry, Succeeded("Succeeded", registry.arrived("telltale")))
    async with rig.running():
        rig.follow()
        await anyio.sleep(10)
        (entry,) = [entry for entry in (await registry.open()).entries if entry.kind is EntryKind.OPERATION]
        assert "telltale" not in json.dumps(dict(entry.document))
