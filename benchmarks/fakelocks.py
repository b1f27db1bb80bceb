"""Locks that nobody keeps: each renewal takes its time and is granted. Here whoever renews them is watched."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import time
from array import array
from typing import Any

from benchmarks.processes import cpu_s, rss_mib

RENEWAL_S = 0.005
"""How long a renewal takes."""

_PROBE_S = 0.025


class Watch:
    """What is seen of the renewals and of the event loop between `begin` and `report`."""

    def __init__(self) -> None:
        self.renewals = 0
        self.lost = 0
        self._margins = array("d")
        self._lags = array("d")
        self._lateness = array("d")
        self._pauses = array("d")
        self._pause_began_at = 0.0
        self._began_at = 0.0
        self._cpu_s = 0.0
        gc.callbacks.append(self._collecting)

    def renewed(self, margin_s: float) -> None:
        """A lock with so much left was renewed."""
        self.renewals += 1
        self._margins.append(margin_s)

    def late(self, lateness_s: float) -> None:
        """A renewal began so long after it was due."""
        self._lateness.append(lateness_s)

    async def lag(self) -> None:
        """Look, until cancelled, how late the event loop wakes who sleeps."""
        now = asyncio.get_running_loop().time
        while True:
            asked_at = now()
            await asyncio.sleep(_PROBE_S)
            self._lags.append(now() - asked_at - _PROBE_S)

    async def look(self, seconds: float, times: int) -> None:
        """So many times: see what happens in so many seconds, and say it."""
        for _ in range(times):
            self.begin()
            await asyncio.sleep(seconds)
            self.report()

    def begin(self) -> None:
        """Count from now on. What is lost counts from the start."""
        self.renewals = 0
        for seen in (self._margins, self._lags, self._lateness, self._pauses):
            del seen[:]
        self._began_at = asyncio.get_running_loop().time()
        self._cpu_s = cpu_s(os.getpid())

    def report(self) -> None:
        """Say on standard output, as one line of JSON, what was seen since `begin`."""
        cpu = cpu_s(os.getpid()) - self._cpu_s
        passed_s = asyncio.get_running_loop().time() - self._began_at
        said: dict[str, Any] = {
            "cpu_s_per_minute": cpu / passed_s * 60,
            "us_per_renewal": cpu / max(1, self.renewals) * 1e6,
            "renewals": self.renewals,
            "lost": self.lost,
            "margin_p1_s": _at(self._margins, 0.01),
            "lag_p99_ms": _at(self._lags, 0.99) * 1e3,
            "lag_worst_ms": _at(self._lags, 1.0) * 1e3,
            "late_p99_ms": _at(self._lateness, 0.99) * 1e3,
            "late_worst_ms": _at(self._lateness, 1.0) * 1e3,
            "gc_worst_ms": _at(self._pauses, 1.0) * 1e3,
            "rss_mib": rss_mib(os.getpid()),
        }
        print(json.dumps(said), flush=True)

    def _collecting(self, phase: str, _info: object) -> None:
        if phase == "start":
            self._pause_began_at = time.perf_counter()
        else:
            self._pauses.append(time.perf_counter() - self._pause_began_at)


def ages(count: int, oldest_s: float) -> list[float]:
    """How old each lock is at first, so that they fall due as evenly as after hours of work."""
    dice = random.Random(8)
    return [dice.random() * oldest_s for _ in range(count)]


def _at(seen: array[float], share: float) -> float:
    return sorted(seen)[min(len(seen) - 1, int(len(seen) * share))] if seen else 0.0
