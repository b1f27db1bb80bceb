"""SIGHUP may come at any moment, while the daemon is still reading what it kept, too."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from renewer.config import Settings, load
from renewer.daemon.app import Daemon

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_reload_before_the_start_is_done_takes_no_session_for_a_new_one(tmp_path: Path) -> None:
    first, second = Daemon(settings(tmp_path)), Daemon(settings(tmp_path))
    async with running(first):
        before = [(lease.spec.id, lease.number) for lease in first.control.leases()]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(second.reload)
        await anyio.wait_all_tasks_blocked()
        async with running(second):
            await anyio.wait_all_tasks_blocked()
            assert [(lease.spec.id, lease.number) for lease in second.control.leases()] == before
    assert len(before) == 1


class running:  # noqa: N801
    """The daemon runs."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._tasks = anyio.create_task_group()

    async def __aenter__(self) -> None:
        await self._tasks.__aenter__()
        await self._tasks.start(self._daemon.run)

    async def __aexit__(self, *error: object) -> None:
        self._daemon.stop()
        await self._tasks.__aexit__(None, None, None)


def settings(folder: Path, *, more: str = "") -> Settings:
    file = folder / "config.toml"
    file.write_text(
        f"""
        daemon.state_dir = "{folder}/state"
        api.listen = "unix:{folder}/renewer.sock"
        metrics.listen = "off"
        {more}
        [servicebus.main]
        connection_string = "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=k;SharedAccessKey=a2V5;UseDevelopmentEmulator=true"
        [[session]]
        entity = "orders"
        session_id = "s"
        """
    )
    return load(file, environ={}, overrides={})
