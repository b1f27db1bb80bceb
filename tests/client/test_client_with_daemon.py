"""The client, the daemon and the emulator together, each a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from renewer.client import AsyncClient, Client, SessionLost, Timeout

LIMIT_S = 60
COMMAND = [sys.executable, "-m", "renewer"]

OWNER = """
import sys
from renewer.client import Client
with Client(sys.argv[1]) as client, client.session("orders", "shared") as session:
    print(session.lease.id, flush=True)
    sys.stdin.read()
"""


class Running:
    """A command that is under way; its log is waited on, and read to the end."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True)
        self._reader: threading.Thread | None = None

    def event(self, phrase: str) -> dict[str, Any]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            document: dict[str, Any] = json.loads(line)
            if document["event"] == phrase:
                self._reader = threading.Thread(target=self.process.stderr.read)
                self._reader.start()
                return document
        raise AssertionError(f"ended without {phrase!r}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(LIMIT_S)
        if self._reader is not None:
            self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextmanager
def running(*arguments: str) -> Iterator[Running]:
    command = Running(*arguments)
    try:
        yield command
    finally:
        command.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("d")
    ports = ["--amqp", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    with running("emulator", *ports, "--lock-duration", "4s", "--queue", "orders:session") as emulator:
        ready = emulator.event("emulator ready")
        keys = "SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true"
        file = folder / "config.toml"
        file.write_text(
            f'[daemon]\nstate_dir = "{folder}"\n[api]\nlisten = "unix:{folder}/s"\n[metrics]\nlisten = "off"\n'
            f'[servicebus.main]\nconnection_string = "Endpoint=sb://{ready["amqp"]};{keys}"\n'
            f'[fabric.main]\nbase_url = "http://{ready["http"]}/v1"\ntoken = "local"\n'
        )
        yield file


@pytest.fixture
def daemon(config: Path) -> Iterator[Running]:
    with running("run", "--config", str(config)) as daemon:
        daemon.event("daemon ready")
        yield daemon


@pytest.fixture
def api(config: Path) -> str:
    return f"unix:{config.parent}/s"


@pytest.mark.usefixtures("daemon")
def test_a_session_is_held_beyond_its_lock_and_carries_state(api):
    with Client(api) as client, client.session("orders", "a") as session:
        session.set_state(b"\x00state")
        with client.watch(session.lease.id) as events:
            for _ in zip(range(3), (event for event in events if event.type == "lease.renewed"), strict=False):
                session.check()
        shown = client.lease(session.lease.id)
        assert shown.renewals >= 3
        assert (shown.epoch, shown.losses) == (1, 0)
        assert session.get_state() == b"\x00state"
        assert session.renew_lock(timeout=5) == session.locked_until_utc
    with Client(api) as client:
        assert client.lease(session.lease.id).state == "released"


@pytest.mark.usefixtures("daemon")
def test_many_sessions_are_held_at_once(api):
    names = [f"many-{number}" for number in range(150)]
    with Client(api) as client:
        found = client.hold_all("orders", names, labels={"a": "b"}, wait=LIMIT_S)
    assert [(lease.session_id, lease.state) for lease in found] == [(name, "held") for name in names]

    async def again():
        async with AsyncClient(api) as client:
            return await client.hold_all("orders", names, labels={"a": "b"})

    assert [lease.id for lease in anyio.run(again)] == [lease.id for lease in found]


@pytest.mark.usefixtures("daemon")
def test_a_worker_that_is_killed_leaves_its_session_to_the_next(api):
    with subprocess.Popen([sys.executable, "-c", OWNER, api], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        first = owner.stdout.readline().decode().strip()
        with Client(api) as client:
            with pytest.raises(Timeout, match=f"kept already, by {first}"):
                client.session("orders", "shared", wait=0.5).__enter__()
            owner.kill()
            with client.session("orders", "shared", wait=LIMIT_S) as session:
                assert session.lease.id != first
            assert client.lease(first).last_loss.reason == "owner_gone"


def test_a_daemon_that_was_killed_and_comes_back_has_lost_the_session(api, config, daemon):
    told = []
    lost = threading.Event()

    def on_lost(_session, reason, _detail):
        told.append(reason)
        lost.set()

    with Client(api, retry_for=LIMIT_S) as client:
        session = client.session("orders", "b", on_lost=on_lost)
        session.__enter__()
        daemon.stop(signal.SIGKILL)
        with running("run", "--config", str(config)):
            assert lost.wait(LIMIT_S)
            with pytest.raises(SessionLost):
                session.__exit__(None, None, None)
        assert len(told) == 1


@pytest.mark.usefixtures("daemon")
def test_an_operation_is_followed_to_its_result(api):
    with Client(api) as client:
        operation = client.submit("POST", "/workspaces/w/notebooks", body={"displayName": "n"}, wait="60s")
        assert operation.succeeded
        assert client.result(operation.id).json()["displayName"] == "n"
        assert operation.id in [item.id for item in client.operations()]


@pytest.mark.anyio
@pytest.mark.usefixtures("daemon")
async def test_a_session_released_by_somebody_else_cancels_the_block(api):
    other = Client(api)
    async with AsyncClient(api) as client:
        with anyio.fail_after(LIMIT_S), pytest.raises(SessionLost, match="released"):  # noqa: PT012 - the block raises
            async with client.session("orders", "c") as session:
                # Not the block's own request: its cancellation would meet the answer; see AsyncStream.interrupt.
                await to_thread.run_sync(other.release, session.lease.id)
                await anyio.sleep_forever()
    other.close()
