"""The commands, run as processes of their own, as a user runs them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from queue import Queue
from threading import Thread

import httpx
import pytest

COMMAND = [sys.executable, "-m", "renewer"]
LIMIT_S = 60


def renewer(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=LIMIT_S, env={**os.environ, **environment}
    )


class Running:
    """A command that is under way; its log is read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: Queue[str | None] = Queue()
        self.seen: list[str] = []
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.put(line)
        self.lines.put(None)

    def event(self, phrase: str) -> dict[str, object]:
        """Wait for a line of the log with this event."""
        while (line := self.lines.get(timeout=LIMIT_S)) is not None:
            self.seen.append(line)
            document = json.loads(line)
            if document["event"] == phrase:
                return document
        raise AssertionError(f"ended without {phrase!r}:\n{''.join(self.seen)}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(LIMIT_S)


@contextmanager
def running(*arguments: str, cwd: Path) -> Iterator[Running]:
    with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True, cwd=cwd) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


@contextmanager
def emulator(cwd: Path) -> Iterator[tuple[str, str]]:
    arguments = ["emulator", "--amqp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--lock-duration", "5s"]
    with running(*arguments, "--queue", "orders:session", "--queue", "plain", cwd=cwd) as process:
        ready = process.event("emulator ready")
        yield str(ready["amqp"]), str(ready["http"])
        assert process.stop() == 0


def write_config(folder: Path, amqp: str, http: str) -> Path:
    config = folder / "config.toml"
    config.write_text(
        f"""
        [metrics]
        listen = "off"
        [servicebus.main]
        connection_string = "Endpoint=sb://{amqp};SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true"
        [[session]]
        entity = "orders"
        session_id = "customer-42"
        [fabric.main]
        base_url = "http://{http}/v1"
        token = "local"
        """
    )
    return config


@contextmanager
def client(folder: Path) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=str(folder / "var" / "renewer.sock"))
    with httpx.Client(transport=transport, base_url="http://renewer", timeout=LIMIT_S) as api:
        yield api


def sessions_held(http: str) -> int:
    state = httpx.get(f"http://{http}/_emulator/state").raise_for_status().json()
    return int(state["servicebus"]["counters"]["sessions_held"])


def wait_for(probe: Callable[[], bool]) -> None:
    """Poll another process, which has no event to wait on."""
    end = time.monotonic() + LIMIT_S
    while not probe():
        assert time.monotonic() < end, "it did not come to pass in time"
        time.sleep(0.05)


def test_help_and_version_answer() -> None:
    for arguments in (["--help"], ["run", "--help"], ["demo", "--help"], ["emulator", "--help"], ["config", "--help"]):
        answer = renewer(*arguments)
        assert answer.returncode == 0
        assert "Usage" in answer.stdout
    for asked in ("version", "--version"):
        assert re.fullmatch(r"renewer \d+\.\d+\.\d+\n", renewer(asked).stdout)
    assert set(json.loads(renewer("version", "-o", "json").stdout)) == {"version"}


def test_config_check_lists_every_mistake_at_once_and_ends_with_78(tmp_path: Path) -> None:
    config = tmp_path / "bad.toml"
    config.write_text('[renewal]\ndue_fraction = 2\n[daemon]\nlog_levle = "x"\n[[session]]\nentity = ""\n')
    for arguments in (["config", "check", str(config)], ["run", "--config", str(config)]):
        answer = renewer(*arguments)
        assert answer.returncode == 78
        for key in ("renewal.due_fraction", "daemon.log_levle", "session[0].entity"):
            assert key in answer.stderr
        assert f"{config}:2" in answer.stderr
        assert "Traceback" not in answer.stderr
    answer = renewer("config", "check", str(config), "-o", "json")
    assert answer.returncode == 78
    mistakes = json.loads(answer.stdout)["mistakes"]
    assert {mistake["key"] for mistake in mistakes} >= {"renewal.due_fraction", "daemon.log_levle"}


def test_the_example_configuration_is_valid() -> None:
    example = Path(__file__).parents[2] / "config.example.toml"
    assert renewer("config", "check", str(example)).returncode == 0
    document = json.loads(renewer("config", "check", str(example), "-o", "json").stdout)
    assert (document["mistakes"], document["sessions"] >= 0) == ([], True)


def test_a_socket_that_cannot_be_made_names_the_setting_to_change(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for setting, value, other in (
            ("metrics.listen", address, f"api.listen=unix:{tmp_path}/s"),
            ("api.listen", f"tcp:{address}", "metrics.listen=off"),
        ):
            others = ["--set", f"daemon.state_dir={tmp_path}", "--set", other]
            answer = renewer("run", "--set", f"{setting}={value}", *others)
            assert answer.returncode == 73
            section, _, name = setting.partition(".")
            assert f"[{section}] {name}" in answer.stderr


def test_a_missing_configuration_is_told_as_such(tmp_path: Path) -> None:
    answer = renewer("run", "--config", str(tmp_path / "none.toml"))
    assert answer.returncode == 78
    assert "none.toml" in answer.stderr


WITH_UVLOOP = pytest.mark.skipif(find_spec("uvloop") is None, reason="uvloop is not installed")


@pytest.mark.parametrize(
    ("how", "loop"),
    [
        (signal.SIGTERM, "asyncio"),
        (signal.SIGINT, "asyncio"),
        pytest.param(signal.SIGTERM, "uvloop", marks=WITH_UVLOOP),
        pytest.param(signal.SIGINT, "uvloop", marks=WITH_UVLOOP),
    ],
)
def test_the_daemon_holds_a_session_follows_an_operation_and_stops_in_good_order(
    tmp_path: Path, how: signal.Signals, loop: str
) -> None:
    with emulator(tmp_path) as (amqp, http):
        config = write_config(tmp_path, amqp, http)
        with running("run", "--config", str(config), "--set", f"daemon.event_loop={loop}", cwd=tmp_path) as daemon:
            assert daemon.event("daemon ready")["event_loop"] == loop
            daemon.event("lease acquired")
            mode = stat.S_IMODE((tmp_path / "var" / "renewer.sock").stat().st_mode)
            assert mode == 0o660
            assert sessions_held(http) == 1
            with client(tmp_path) as api:
                (lease,) = api.get("/v1/leases").json()["items"]
                assert (lease["state"], lease["entity"], lease["session_id"]) == ("held", "orders", "customer-42")
                submit = {"method": "POST", "url": "/workspaces/cfafbeb1-8037-4d0c-896e-a46fb27ff229/notebooks"}
                body = {"submit": {**submit, "body": {"displayName": "n"}}}
                created = api.post("/v1/operations", json=body)
                assert created.status_code == 201
                ended = api.get(f"/v1/operations/{created.json()['id']}?wait=30s").json()
                assert ended["state"] == "succeeded"
                assert api.get(ended["result"]["href"]).json()["displayName"] == "n"
            assert daemon.stop(how) == 0
            assert not (tmp_path / "var" / "renewer.sock").exists()
            assert sessions_held(http) == 0
            daemon.event("daemon stopped")
            assert "bG9jYWw=" not in "".join(daemon.seen)


def test_a_second_daemon_on_the_same_state_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with emulator(tmp_path) as (amqp, http):
        config = write_config(tmp_path, amqp, http)
        with running("run", "--config", str(config), cwd=tmp_path) as first:
            first.event("daemon ready")
            second = subprocess.run(
                [*COMMAND, "run", "--config", str(config)],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                timeout=LIMIT_S,
            )
            assert second.returncode == 73
            assert "another renewer" in second.stderr
            assert "state_dir" in second.stderr
            assert "Traceback" not in second.stderr
            with client(tmp_path) as api:
                assert api.get("/v1/leases").status_code == 200
            assert first.stop() == 0


def test_a_daemon_that_was_killed_leaves_a_socket_that_the_next_one_replaces(tmp_path: Path) -> None:
    with emulator(tmp_path) as (amqp, http):
        config = write_config(tmp_path, amqp, http)
        with running("run", "--config", str(config), cwd=tmp_path) as first:
            first.event("lease acquired")
            first.stop(signal.SIGKILL)
        with running("run", "--config", str(config), cwd=tmp_path) as second:
            second.event("lease reacquired")
            assert second.stop() == 0


def test_the_demo_ends_as_scripted() -> None:
    answer = renewer("demo", "--for", "10s", "--json")
    assert answer.returncode == 0, answer.stderr
    summary = json.loads(answer.stdout)
    assert summary["sessions_held"] == 3
    assert summary["renewals"] >= 3
    assert summary["lost"] == 0
    assert summary["min_margin_s"] > 3
    assert (summary["operations_succeeded"], summary["operations_failed"]) == (4, 1)
    assert set(summary) == {
        "sessions_held", "renewals", "lost", "min_margin_s", "operations_succeeded", "operations_failed",
        "max_lateness_s",
    }  # fmt: skip


def test_a_daemon_whose_log_nobody_reads_any_longer_goes_on_and_stops_in_good_order(tmp_path: Path) -> None:
    with emulator(tmp_path) as (amqp, http):
        config = write_config(tmp_path, amqp, http)
        reads, writes = os.pipe()
        command = [*COMMAND, "run", "--config", str(config), "--set", "daemon.log_format=json"]
        with subprocess.Popen(command, stderr=writes, cwd=tmp_path) as daemon:
            try:
                os.close(writes)
                with os.fdopen(reads) as log:
                    assert any(json.loads(line)["event"] == "lease acquired" for line in log)
                with client(tmp_path) as api:
                    created = api.post("/v1/leases?wait=30s", json={"entity": "orders", "session_id": "customer-43"})
                    assert (created.status_code, created.json()["state"]) == (201, "held")
                daemon.send_signal(signal.SIGTERM)
                assert daemon.wait(LIMIT_S) == 0
            finally:
                daemon.kill()
        assert sessions_held(http) == 0


@pytest.mark.parametrize("loop", ["asyncio", pytest.param("uvloop", marks=WITH_UVLOOP)])
@pytest.mark.parametrize("sink", ["2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_a_daemon_without_a_log_to_write_to_runs_all_the_same(tmp_path: Path, sink: str, loop: str) -> None:
    with emulator(tmp_path) as (amqp, http):
        config = write_config(tmp_path, amqp, http)
        command = f"exec {sys.executable} -m renewer run --config {config} --set daemon.event_loop={loop} {sink}"
        with subprocess.Popen(["/bin/sh", "-c", command], cwd=tmp_path) as daemon:
            try:
                wait_for(lambda: sessions_held(http) == 1)
                daemon.send_signal(signal.SIGTERM)
                assert daemon.wait(LIMIT_S) == 0
            finally:
                daemon.kill()
