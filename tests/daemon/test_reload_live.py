"""A reload from beginning to end: read, apply, tell the service manager; and what a mistake changes: nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from renewer.config import Settings, load
from renewer.daemon.clock import SystemClock
from renewer.daemon.reload import Reloader, ReloadPlan
from renewer.daemon.systemd import Notifier
from renewer.errors import UsageError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Rig:
    """A reloader over a file, and what came of it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "config.toml"
        self.file.write_text('[daemon]\nlog_level = "info"\n')
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(folder / "notify"))
        self.manager.setblocking(False)
        self.notifier = Notifier({"NOTIFY_SOCKET": str(folder / "notify")}, monotonic=lambda: 1.0)
        self.applied: list[ReloadPlan] = []
        self.refusal: UsageError | None = None
        self.reloader = Reloader(self.read(), self.read, self.apply, notifier=self.notifier, clock=SystemClock())

    def read(self) -> Settings:
        return load(self.file, environ={}, overrides={})

    async def apply(self, plan: ReloadPlan) -> None:
        await anyio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal
        self.applied.append(plan)

    def heard(self) -> list[str]:
        heard = []
        while True:
            try:
                heard.append(self.manager.recv(4096).decode())
            except BlockingIOError:
                return heard


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.notifier.close()
    made.manager.close()


async def test_a_change_is_applied_and_told(rig: Rig) -> None:
    rig.file.write_text('[daemon]\nlog_level = "debug"\nstate_dir = "/srv"\n')
    before = rig.reloader.last_success_at
    with capture_logs() as logs:
        plan = await rig.reloader.reload()
    assert plan is not None
    assert rig.applied == [plan]
    assert rig.reloader.settings.daemon.log_level == "debug"
    assert rig.reloader.settings.daemon.state_dir == Path("var")
    assert rig.reloader.last_successful
    assert rig.reloader.last_success_at >= before
    assert rig.heard() == ["RELOADING=1\nMONOTONIC_USEC=1000000", "READY=1\nSTATUS=configuration reloaded"]
    assert [entry["event"] for entry in logs] == [
        "setting changed",
        "setting needs a restart",
        "configuration reloaded",
    ]
    assert logs[1]["key"] == "daemon.state_dir"


async def test_every_mistake_is_logged_and_nothing_changes(rig: Rig) -> None:
    rig.file.write_text('[daemon]\nlog_level = "loud"\nstate_dri = "x"\n')
    before = rig.reloader.settings
    with capture_logs() as logs:
        assert await rig.reloader.reload() is None
    assert rig.reloader.settings is before
    assert rig.applied == []
    assert not rig.reloader.last_successful
    assert [entry["key"] for entry in logs[:-1]] == ["daemon.log_level", "daemon.state_dri"]
    assert logs[-1] == {"event": "configuration not reloaded", "mistakes": 2, "log_level": "error"}
    assert rig.heard()[-1].startswith("READY=1\nSTATUS=the new configuration is not used")


async def test_a_file_that_is_gone_changes_nothing_and_the_next_one_is_taken(rig: Rig) -> None:
    os.unlink(rig.file)
    assert await rig.reloader.reload() is None
    assert not rig.reloader.last_successful
    rig.file.write_text('[daemon]\nlog_level = "error"\n')
    assert await rig.reloader.reload() is not None
    assert rig.reloader.last_successful
    assert rig.reloader.settings.daemon.log_level == "error"


async def test_what_cannot_be_applied_changes_nothing(rig: Rig) -> None:
    rig.file.write_text('[daemon]\nlog_level = "debug"\n')
    rig.refusal = UsageError("no")
    with capture_logs() as logs:
        assert await rig.reloader.reload() is None
    assert logs == [{"event": "configuration not reloaded", "error": "no", "log_level": "error"}]
    assert rig.reloader.settings.daemon.log_level == "info"
    assert not rig.reloader.last_successful
    assert rig.heard()[-1].startswith("READY=1")


async def test_reloads_come_one_after_the_other(rig: Rig) -> None:
    rig.file.write_text('[daemon]\nlog_level = "debug"\n')
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(rig.reloader.reload)
    assert [len(plan.now) for plan in rig.applied] == [1, 0, 0]
    assert [line.partition("=")[0] for line in rig.heard()] == ["RELOADING", "READY"] * 3
