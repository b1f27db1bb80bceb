"""Signals that come at a bad moment: another thread takes them, as if the main one had just begun to wait."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIMIT_S = 60

SETUP = """
import signal, sys, threading
from queue import SimpleQueue
import typer
from renewer.cli.signals import Signals

def strike(*numbers):
    # The main thread is not interrupted by a signal that another thread gets.
    for number in numbers:
        signal.pthread_kill(threading.get_ident(), number)
"""

LEAVING = """
try:
    with Signals(leave_on=[signal.SIGTERM]):
        threading.Thread(target=strike, args=[signal.SIGTERM]).start()
        threading.Event().wait()
except typer.Exit as end:
    sys.exit(end.exit_code)
"""

PASSING_ON = """
queue = SimpleQueue()
with Signals(leave_on=[signal.SIGTERM]) as signals:
    signals.pass_on([signal.SIGTERM, signal.SIGUSR1], queue.put)
    threading.Thread(target=strike, args=[signal.SIGTERM, signal.SIGUSR1]).start()
    got = {queue.get(), queue.get()}
    sys.exit(0 if got == {signal.SIGTERM, signal.SIGUSR1} else 1)
"""

TWICE = """
with Signals(leave_on=[signal.SIGTERM]):
    try:
        threading.Thread(target=strike, args=[signal.SIGTERM]).start()
        threading.Event().wait()
    finally:
        threading.Thread(target=strike, args=[signal.SIGTERM]).start()
        threading.Event().wait()
"""

IGNORED = """
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with Signals(leave_on=[signal.SIGHUP, signal.SIGTERM]) as signals:
    signal.raise_signal(signal.SIGHUP)
    signals.pass_on([signal.SIGHUP], lambda number: sys.exit(1))
    signal.raise_signal(signal.SIGHUP)
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
assert signal.set_wakeup_fd(-1) == -1
"""


@pytest.mark.parametrize(
    ("story", "code"),
    [(LEAVING, 143), (PASSING_ON, 0), (TWICE, 143), (IGNORED, 0)],
    ids=["leaving", "passing_on", "a_second_one_ends_it_at_once", "ignored_ones_stay_ignored"],
)
def test_a_signal_is_heard_at_whatever_moment_it_comes(story: str, code: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SETUP + story], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert (ended.returncode, ended.stderr) == (code, "")
