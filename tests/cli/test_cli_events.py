"""`renewer events` as a process: what it tells of a stream that has no end."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from renewer.cli.views import event_line
from renewer.client import Event
from tests.cli.conftest import Run
from tests.client.standin import StandIn

LIMIT_S = 60


@contextmanager
def following(daemon: StandIn, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "renewer", "events", "--api", daemon.api, *arguments]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def told(daemon: StandIn, process: subprocess.Popen[str], kind: str) -> str:
    """The first line of output; the event happens again until somebody is told."""
    heard = threading.Event()

    def happen() -> None:
        while not heard.wait(0.02):
            daemon.tell("lease-1", kind)

    thread = threading.Thread(target=happen)
    thread.start()
    assert process.stdout is not None
    line = process.stdout.readline()
    heard.set()
    thread.join()
    return line


def test_a_daemon_that_goes_away_is_told_and_that_it_is_back(run: Run, daemon: StandIn) -> None:
    run("lease", "hold", "orders", "--session", "s")
    with following(daemon, "--subject", "lease-1", "--subject", "op-9") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "renewer: op-9: not known; waiting for what happens to it all the same\n"
        assert "lease.at_risk" in told(daemon, process, "lease.at_risk")
        daemon.kill()
        assert process.stderr.readline() == "renewer: the daemon has gone away; waiting for it\n"
        daemon.start()
        assert process.stderr.readline() == "renewer: the daemon is back\n"
        while "lease.recovered" not in told(daemon, process, "lease.recovered"):
            pass


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("too_old", "too long ago"),
        ("too_slow", "faster than they were read"),
        ("unknown", "started anew"),
        ("x", "miss"),
    ],
)
def test_a_gap_is_explained(reason: str, words: str) -> None:
    text, style = event_line(Event("stream.gap", "", "1-5", datetime.now(UTC), {"reason": reason}))
    assert words in text
    assert style == "bad"
