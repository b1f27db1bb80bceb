"""`renewer health`: whether the daemon answers, for whoever restarts it when it does not.

An orchestrator's own limit is not relied upon: there are some that wait for a check for as long as it hangs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from renewer.cli.exitcodes import ExitCode
from renewer.cli.output import note, print_json, printable
from renewer.cli.words import plural, seconds
from renewer.errors import UsageError

if TYPE_CHECKING:
    from types import FrameType

    from renewer.cli.call import Call


def check_health(call: Call, *, timeout: str) -> None:
    """Ask the daemon how it is, and end within `timeout` whatever it does."""
    timeout_s = seconds("--timeout", timeout)
    if timeout_s <= 0:
        raise UsageError(f"--timeout {timeout}: must be more than nothing")
    with _ended_after(timeout_s), call.client() as client:
        status = client.status()
    if call.as_json:
        print_json({"state": status.state, "trouble": status.trouble})
    else:
        held = plural(status.leases.get("held", 0), "lease")
        sys.stdout.write(printable("; ".join([f"{status.state}, {held} held", *status.trouble])) + "\n")


@contextmanager
def _ended_after(timeout_s: float) -> Iterator[None]:
    """End the process when the time is over, wherever it hangs."""

    def end(_number: int, _frame: FrameType | None) -> None:
        note(f"the daemon did not answer within {timeout_s:g} s")
        # Not by an exception: what hangs might catch it, or hang again while it is cleaned up.
        os._exit(ExitCode.TRY_AGAIN)

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
