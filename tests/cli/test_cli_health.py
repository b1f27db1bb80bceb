"""`renewer health`: an answer, or an end, in time."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from renewer.cli.exitcodes import ExitCode
from tests.cli.conftest import Run
from tests.client.standin import StandIn


def test_a_daemon_that_answers_is_healthy(run: Run, daemon: StandIn) -> None:
    answer = run("health")
    assert (answer.code, answer.out) == (0, "ready, 1 lease held\n")
    assert run("health", "-o", "json").json == {"state": "ready", "trouble": []}


def test_no_daemon_is_69(run: Run, tmp_path: Path) -> None:
    answer = run("health", "--api", str(tmp_path / "none.sock"))
    assert answer.code == ExitCode.UNAVAILABLE
    assert "no daemon" in answer.err


def test_a_daemon_that_hangs_is_given_up_in_time(tmp_path: Path) -> None:
    path = tmp_path / "hung.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        command = [sys.executable, "-m", "renewer", "health", "--api", str(path), "--timeout", "200ms"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == ExitCode.TRY_AGAIN
    assert ended.stderr == "renewer: the daemon did not answer within 0.2 s\n"


def test_no_time_at_all_is_wrong_usage(run: Run, daemon: StandIn) -> None:
    assert run("health", "--timeout", "0").code == ExitCode.USAGE
    assert run("health", "--timeout", "soon").code == ExitCode.USAGE
