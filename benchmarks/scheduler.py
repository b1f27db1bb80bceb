"""The core and the supervisor over it: a million entries in the due queue, whole leases, fake locks, a herd.

Nobody can go below a heap in CPython that is pushed to and popped from and knows nothing of keys that are rescheduled
or cancelled: that is the peer of the due queue. The peer of the supervisor is azure-servicebus' AutoLockRenewer, over
locks that are the same, at the same time, on a core of its own. Both are watched from inside, alike.
"""

from __future__ import annotations

import gc
import heapq
import json
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from subprocess import Popen

from benchmarks.figures import Figure, Wanted
from benchmarks.processes import first_line, module
from renewer.core.duequeue import DueQueue

Spans = dict[str, float]
Seen = list[dict[str, float]]

LOCK_S = 30.0
BEYOND_NS = 3_000
BYTES = 400
SPREAD_S = LOCK_S / 2
"""Over how long due times are spread: half a lock, as those of leases."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each thing. Locks of a herd fall due within a twentieth of their life.

    `periods` is how often fake locks are looked at, `period_s` for how long each time.
    """

    entries: int
    rounds: int
    pairs: tuple[int, ...]
    alone: int
    herd: int
    herd_lock_s: float
    period_s: float
    periods: int


FULL = Sizes(1_000_000, 2, (10_000, 50_000), alone=100_000, herd=10_000, herd_lock_s=20.0, period_s=5.0, periods=3)
QUICK = Sizes(20_000, 1, (5_000,), alone=0, herd=1_000, herd_lock_s=6.0, period_s=1.5, periods=1)


def measure(quick: bool) -> Iterator[Figure]:
    """The due queue, whole leases, fake locks beside the peer, as many as one core is to bear, and a herd."""
    sizes = QUICK if quick else FULL
    yield from _queue(sizes)
    yield from _leases(sizes)
    for count in sizes.pairs:
        yield from _beside_the_peer(count, sizes)
    if sizes.alone:
        yield from _alone(sizes)
    yield from _herd(sizes)


def _queue(sizes: Sizes) -> Iterator[Figure]:
    work = f"{sizes.entries:,} entries in the due queue"
    ours: list[Spans] = []
    bare: list[Spans] = []
    for _ in range(sizes.rounds):
        bare.append(_bare_heap(sizes.entries))
        ours.append(_due_queue(sizes.entries))
    for step in bare[0]:
        mine, theirs = [spans[step] for spans in ours], [spans[step] for spans in bare]
        yield Figure(work, step, "ns", mine, "heapq", theirs)
        beyond = [a - b for a, b in zip(mine, theirs, strict=True)]
        yield Figure(work, f"{step}, beyond heapq", "ns", beyond, wanted=Wanted("at most", BEYOND_NS))
    filled, heap = _bytes_each(sizes.entries // 5)
    yield Figure(work, "memory of each", "B", [filled], "heapq", [heap])


def _leases(sizes: Sizes) -> Iterator[Figure]:
    work = f"{sizes.entries:,} whole leases in the core"
    with module("benchmarks.coreleases", str(sizes.entries)) as running:
        seen: Spans = json.loads(first_line(running))
    for step in ("register", "acquire", "renew"):
        yield Figure(work, step, "ns", [seen[f"{step}_ns"]])
    yield Figure(work, "memory of one registered", "B", [seen["register_bytes"]], wanted=Wanted("at most", BYTES))
    yield Figure(work, "memory of one held and renewed", "B", [seen["renew_bytes"]])
    yield Figure(work, "memory of its spec and id", "B", [seen["spec_bytes"]])


def _beside_the_peer(count: int, sizes: Sizes) -> Iterator[Figure]:
    work, peer = f"{count:,} fake locks of {LOCK_S:.0f} s", "AutoLockRenewer"
    with ExitStack() as both:
        running = [
            both.enter_context(_holder(holder, count, sizes))
            for holder in ("benchmarks.supervisedlocks", "benchmarks.autolockrenewerpeer")
        ]
        ours, theirs = (_seen(each, sizes.periods) for each in running)
    for name, unit, quantity, wanted in (
        ("cpu_s_per_minute", "s", "CPU per minute", Wanted("at most", 1.0)),
        ("us_per_renewal", "us", "CPU per renewal", None),
        ("lag_p99_ms", "ms", "loop lag p99", None),
        ("margin_p1_s", "s", "margin p1", None),
        ("rss_mib", "MiB", "memory", None),
    ):
        yield Figure(work, quantity, unit, _of(ours, name), peer, _of(theirs, name), wanted)
    yield Figure(work, "lost", "", _of(ours, "lost"), peer, _of(theirs, "lost"), wanted=Wanted("at most", 0))


def _alone(sizes: Sizes) -> Iterator[Figure]:
    work = f"{sizes.alone:,} fake locks of {LOCK_S:.0f} s on one core"
    with _holder("benchmarks.supervisedlocks", sizes.alone, sizes) as running:
        seen = _seen(running, sizes.periods)
    cores = [each["cpu_s_per_minute"] / 60 for each in seen]
    yield Figure(work, "processor", "cores", cores, wanted=Wanted("at most", 0.5))
    yield Figure(work, "CPU per renewal", "us", _of(seen, "us_per_renewal"))
    yield Figure(work, "lateness p99", "ms", _of(seen, "late_p99_ms"), wanted=Wanted("at most", 50))
    yield Figure(work, "loop lag p99", "ms", _of(seen, "lag_p99_ms"))
    yield Figure(work, "longest garbage collection", "ms", _of(seen, "gc_worst_ms"))
    yield Figure(work, "margin p1", "s", _of(seen, "margin_p1_s"))
    yield Figure(work, "memory", "MiB", _of(seen, "rss_mib"))
    yield Figure(work, "lost", "", _of(seen, "lost"), wanted=Wanted("at most", 0))


def _herd(sizes: Sizes) -> Iterator[Figure]:
    work = f"a herd of {sizes.herd:,} due in one second"
    lock_s = str(sizes.herd_lock_s)
    with module("benchmarks.supervisedlocks", str(sizes.herd), lock_s, "3", "1", "herd") as running:
        seen = _seen(running, 1)
    yield Figure(work, "renewed", "", _of(seen, "renewals"))
    yield Figure(work, "worst lateness", "ms", _of(seen, "late_worst_ms"), wanted=Wanted("at most", 250))
    yield Figure(work, "CPU per renewal", "us", _of(seen, "us_per_renewal"))
    yield Figure(work, "lost", "", _of(seen, "lost"), wanted=Wanted("at most", 0))


def _holder(name: str, count: int, sizes: Sizes) -> AbstractContextManager[Popen[str]]:
    return module(name, str(count), str(LOCK_S), str(sizes.period_s), str(sizes.periods))


def _seen(running: Popen[str], times: int) -> Seen:
    return [json.loads(first_line(running)) for _ in range(times)]


def _of(seen: Seen, name: str) -> list[float]:
    return [each[name] for each in seen]


def _bare_heap(size: int) -> Spans:
    """Push, replace and pop tuples on a list: what nobody can go below."""
    dice = random.Random(1)
    keys = _keys(size)
    heap: list[tuple[float, str]] = []

    def register() -> None:
        for key in keys:
            heapq.heappush(heap, (SPREAD_S * dice.random(), key))

    def reschedule() -> None:
        for _ in keys:
            heapq.heapreplace(heap, (SPREAD_S * (1 + dice.random()), heap[0][1]))

    def pop() -> None:
        for _ in keys:
            heapq.heappop(heap)

    return {"register": _ns_each(size, register), "reschedule": _ns_each(size, reschedule), "pop": _ns_each(size, pop)}


def _due_queue(size: int) -> Spans:
    """The same with the due queue: any key can be rescheduled or cancelled."""
    dice = random.Random(1)
    keys = _keys(size)
    queue: DueQueue[str] = DueQueue()

    def register() -> None:
        for key in keys:
            queue.schedule(key, SPREAD_S * dice.random())

    def reschedule() -> None:
        for _ in keys:
            key = queue.pop_due(2 * SPREAD_S)
            assert key is not None
            queue.schedule(key, SPREAD_S * (1 + dice.random()))

    def pop() -> None:
        for _ in keys:
            queue.pop_due(2 * SPREAD_S)

    return {"register": _ns_each(size, register), "reschedule": _ns_each(size, reschedule), "pop": _ns_each(size, pop)}


def _bytes_each(size: int) -> tuple[float, float]:
    """Memory for each entry of the due queue, and of a heap; keys are not counted."""
    keys = _keys(size)

    def of(fill: Callable[[], object]) -> float:
        gc.collect()
        tracemalloc.start()
        kept = fill()
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        del kept
        return used / size

    def heap() -> object:
        entries: list[tuple[float, str]] = []
        for number, key in enumerate(keys):
            heapq.heappush(entries, (SPREAD_S * number / size, key))
        return entries

    def queue() -> object:
        filled: DueQueue[str] = DueQueue()
        for number, key in enumerate(keys):
            filled.schedule(key, SPREAD_S * number / size)
        return filled

    return of(queue), of(heap)


def _keys(size: int) -> list[str]:
    return [f"lease-{number:016x}" for number in range(size)]


def _ns_each(count: int, work: Callable[[], None]) -> float:
    gc.collect()
    began_at = time.process_time_ns()
    work()
    return (time.process_time_ns() - began_at) / count
