"""`python -m benchmarks messages`: message locks kept by the daemon, beside the official SDK's AutoLockRenewer.

In turns, each with a broker of its own, as processes: a worker on the official SDK receives messages under peek-lock.
Either it registers each with an AutoLockRenewer, or the daemon is given their lock tokens. When all are kept, the
broker counts requests and renewals for a while, and the kernel the processor time of whoever renews. The lock lasts
20 s, which both renew when half of it is gone, so that both have as many renewals to make. What the SDK takes without
its AutoLockRenewer, to call `renew_message_lock` in a loop and do nothing else, is measured as well.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from benchmarks.figures import Figure, Wanted
from benchmarks.messagelockspeer import QUEUE
from benchmarks.processes import cpu_s, first_line, module, rss_mib
from benchmarks.scene import Broker, Daemon, broker, daemon

FEWER_REQUESTS = Wanted("at most", 1 / 20)
LESS_CPU = Wanted("at most", 1 / 10)


@dataclass(frozen=True, slots=True)
class Watched:
    """What the broker counts and the kernel."""

    requests: int
    renewals: int
    lost: int
    cpu_s: float

    def since(self, before: Watched) -> Watched:
        """What was added. Of locks that are lost all count."""
        return Watched(
            self.requests - before.requests, self.renewals - before.renewals, self.lost, self.cpu_s - before.cpu_s
        )

    @property
    def requests_each(self) -> float:
        """Requests for each lock renewed."""
        return self.requests / self.renewals

    @property
    def cpu_us_each(self) -> float:
        """Microseconds of processor time for each lock renewed."""
        return 1e6 * self.cpu_s / self.renewals


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of one side in one round."""

    steady: Watched
    mib: float
    """What its memory has grown by since before the first message."""
    margin_s: float = 0.0
    """The least that was left of a lock when its renewal was acknowledged; the daemon alone says."""
    loop_us_each: float = 0.0
    """Processor time of one renewal in a loop that does nothing else; the SDK alone."""


def measure(*, quick: bool) -> Iterator[Figure]:
    """Both sides in turns, and what came of it."""
    count, lock_s, span_s, rounds = (200, 3.0, 2.0, 1) if quick else (2_000, 20.0, 20.0, 3)
    ours: list[Seen] = []
    theirs: list[Seen] = []
    for _ in range(rounds):
        ours.append(_daemon(count, lock_s, span_s))
        theirs.append(_sdk(count, lock_s, span_s))
    work, peer = f"{count:,} message locks of {lock_s:g} s", "SDK's AutoLockRenewer"
    yield Figure(
        work,
        "requests per renewal",
        "",
        [seen.steady.requests_each for seen in ours],
        peer,
        [seen.steady.requests_each for seen in theirs],
        FEWER_REQUESTS,
    )
    cpu_us = [seen.steady.cpu_us_each for seen in ours]
    # With few locks it is mostly what a daemon takes that does nothing.
    wanted = None if quick else LESS_CPU
    yield Figure(work, "CPU per renewal", "us", cpu_us, peer, [seen.steady.cpu_us_each for seen in theirs], wanted)
    bare = "SDK's renew_message_lock in a loop"
    yield Figure(work, "CPU per renewal", "us", cpu_us, bare, [seen.loop_us_each for seen in theirs], wanted)
    yield Figure(work, "memory for the locks", "MiB", [seen.mib for seen in ours], peer, [seen.mib for seen in theirs])
    yield Figure(work, "locks lost", "", [seen.steady.lost for seen in ours], wanted=Wanted("at most", 0.0))
    margins = [seen.margin_s for seen in ours]
    yield Figure(work, "least margin", "s", margins, wanted=Wanted("at least", 0.95 * lock_s / 2))


def _daemon(count: int, lock_s: float, span_s: float) -> Seen:
    with (
        broker(lock_s, QUEUE) as there,
        module("benchmarks.messagelockspeer", str(there.port), str(count), "hand-over") as worker,
        daemon(there.port) as ours,
        _api(ours) as api,
    ):
        before_mib = rss_mib(ours.pid)
        first_line(worker)
        tokens = json.loads(first_line(worker))["tokens"]
        with ThreadPoolExecutor(8) as callers:
            list(callers.map(lambda token: _keep(api, token), tokens))
        steady = _watch(there, ours.pid, lock_s, span_s)
        mib = rss_mib(ours.pid) - before_mib
        return Seen(steady, mib, margin_s=_least_margin_s(api))


def _sdk(count: int, lock_s: float, span_s: float) -> Seen:
    with (
        broker(lock_s, QUEUE) as there,
        module("benchmarks.messagelockspeer", str(there.port), str(count), "renew") as worker,
    ):
        before_mib = json.loads(first_line(worker))["rss_mib"]
        first_line(worker)
        steady = _watch(there, worker.pid, lock_s, span_s)
        mib = rss_mib(worker.pid) - before_mib
        worker.send_signal(signal.SIGUSR1)
        return Seen(steady, mib, loop_us_each=json.loads(first_line(worker))["loop_us_each"])


@contextmanager
def _api(ours: Daemon) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=ours.api.removeprefix("unix:"))
    with httpx.Client(transport=transport, base_url="http://renewer", timeout=60) as api:
        yield api


def _keep(api: httpx.Client, token: str) -> None:
    lease = {"kind": "message", "entity": QUEUE, "lock_token": token}
    api.post("/v1/leases", json=lease).raise_for_status()


def _least_margin_s(api: httpx.Client) -> float:
    margins: list[float] = []
    after: dict[str, str] = {}
    while True:
        page = api.get("/v1/leases", params={"limit": 500, **after}).raise_for_status().json()
        margins += [lease["min_margin_s"] for lease in page["items"]]
        if page["next"] is None:
            return min(margins)
        after = {"after": page["next"]}


def _watch(there: Broker, pid: int, lock_s: float, span_s: float) -> Watched:
    """What is counted in so many seconds, once each lock was renewed."""
    time.sleep(lock_s / 2)
    before = _count(there, pid)
    time.sleep(span_s)
    return _count(there, pid).since(before)


def _count(there: Broker, pid: int) -> Watched:
    state = there.http.get("/_emulator/state").raise_for_status().json()
    counters = state["servicebus"]["counters"]
    return Watched(
        state["requests"].get("servicebus.management", 0),
        counters["message_renewals"],
        counters["message_locks_expired"],
        cpu_s(pid),
    )
