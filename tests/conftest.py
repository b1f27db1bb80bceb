"""What all tests share: how hard hypothesis looks. `HYPOTHESIS_PROFILE=deep` is the long run."""

from __future__ import annotations

import os
import random
import signal

import pytest
from hypothesis import HealthCheck, settings

try:
    from trio._core._run import _r as trio_random
except ImportError:  # It is trio's own business; without it, what depends on the order of tasks may fail but once.
    trio_random = random.Random()

# A shell starts what runs in its background with these ignored, nohup the last, and children would inherit that; tests
# send them.
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

# What daemons run on that are tested as processes, so that nobody's installed packages decide. Set it to uvloop to have
# them run on that.
os.environ.setdefault("RENEWER_DAEMON__EVENT_LOOP", "asyncio")

# Jitter is drawn anew in every run of the daemon; in a test it is the same every time, so that what fails, fails again.
# RENEWER_TEST_SEED=17 is another draw.
SEED = os.environ.get("RENEWER_TEST_SEED", "0")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(SEED)
    trio_random.seed(SEED)  # Which of the tasks that can go on goes first.


settings.register_profile("default", max_examples=50, stateful_step_count=40, deadline=None, derandomize=True)
settings.register_profile(
    "deep",
    max_examples=2_000,
    stateful_step_count=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
