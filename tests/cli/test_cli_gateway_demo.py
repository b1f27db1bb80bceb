"""`renewer demo --gateway`, run as a user runs it: the SDK's own worker with the gateway and without it."""

from __future__ import annotations

import json
import subprocess
import sys


def test_the_worker_keeps_its_lock_through_the_gateway_and_loses_it_without() -> None:
    command = [sys.executable, "-m", "renewer", "demo", "--gateway", "--lock", "4s", "--block", "6s", "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert answer.returncode == 0, answer.stderr
    summary = json.loads(answer.stdout)
    assert summary["as_told"] is True
    assert (summary["gateway"]["outcome"], summary["direct"]["outcome"]) == ("completed", "SessionLockLostError")
    assert summary["gateway"]["renewals"] >= 2
    assert summary["gateway"]["lock_lost_after_s"] is None
    # Counted from when it began to work: by then its lock had run for as long as it takes to receive a message.
    assert summary["direct"]["lock_lost_after_s"] > 0
