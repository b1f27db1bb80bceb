"""`python -m benchmarks.coreleases COUNT`: whole leases in the core alone, registered, acquired and renewed.

One line of JSON says what each took: nanoseconds each, and resident bytes each when it was done. Specs and
their ids, which the caller brings, are counted apart.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable

from benchmarks.processes import rss_mib
from renewer.core.effects import Effect, StartAcquire, StartRenew
from renewer.core.events import LeaseGranted, LeaseRegistered
from renewer.core.model import Grant, LeaseId, LeaseSpec
from renewer.core.scheduler import Scheduler
from renewer.daemon.garbage import collect_seldom
from renewer.daemon.supervisor import AT_ONCE

_LOCK_S = 30.0
_ANSWER_S = 0.005


class World:
    """A scheduler with so many leases, under a clock that is moved on to whatever is due next."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._dice = random.Random(1).random
        self._now = 0.0
        self._scheduler = Scheduler()

    def register(self, specs: list[LeaseSpec]) -> None:
        """Register each at a moment of its own."""
        for spec in specs:
            self._now += _LOCK_S / 2 / self._count
            self._scheduler.handle(LeaseRegistered(spec), self._now, self._dice())

    def go_on(self, asking: type[StartAcquire | StartRenew]) -> None:
        """Until each has asked once, and been granted what it asked for; as many at once as the daemon does."""
        left = self._count
        while left:
            due_at = self._scheduler.next_due()
            assert due_at is not None
            self._now = max(self._now, due_at)
            for effect in self._scheduler.advance(self._now, self._dice, min(AT_ONCE, left)):
                left -= isinstance(effect, asking)
                self._answer(effect)

    def _answer(self, effect: Effect) -> None:
        if isinstance(effect, StartAcquire | StartRenew):
            grant = Grant(self._now, _LOCK_S)
            event = LeaseGranted(effect.spec.id, effect.epoch, effect.attempt, grant)
            self._scheduler.handle(event, self._now + _ANSWER_S, self._dice())


def main() -> None:
    """Measure, and say it."""
    collect_seldom()
    count = int(sys.argv[1])
    bare = _resident()
    specs = [LeaseSpec(LeaseId(f"lease-{number:016x}"), "servicebus.main", "orders") for number in range(count)]
    said = {"spec_bytes": (_resident() - bare) / count}
    bare = _resident()
    world = World(count)
    steps: dict[str, Callable[[], None]] = {
        "register": lambda: world.register(specs),
        "acquire": lambda: world.go_on(StartAcquire),
        "renew": lambda: world.go_on(StartRenew),
    }
    for name, work in steps.items():
        began_at = time.process_time_ns()
        work()
        said[f"{name}_ns"] = (time.process_time_ns() - began_at) / count
        said[f"{name}_bytes"] = (_resident() - bare) / count
    print(json.dumps(said), flush=True)


def _resident() -> float:
    gc.collect()
    return rss_mib(os.getpid()) * 2**20


if __name__ == "__main__":
    main()
