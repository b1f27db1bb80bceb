"""`make bench`: the core against the bare heap that it is built on.

Rounds are interleaved and medians shown, so that a noisy moment hits both sides. `--quick` runs everything once, small.
"""

from __future__ import annotations

import gc
import heapq
import json
import random
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable

from renewer.core.duequeue import DueQueue
from renewer.core.effects import StartAcquire, StartRenew
from renewer.core.events import LeaseGranted, LeaseRegistered
from renewer.core.model import Grant, LeaseId, LeaseSpec
from renewer.core.scheduler import Scheduler

Spans = dict[str, float]


def bare_heap(size: int) -> Spans:
    """Push, replace and pop tuples on a list: what nobody can go below in CPython."""
    dice = random.Random(1)
    keys = [f"lease-{number:016x}" for number in range(size)]
    heap: list[tuple[float, str]] = []
    spans = {"register": _ns_each(size, lambda: [heapq.heappush(heap, (dice.random(), key)) for key in keys])}
    spans["reschedule"] = _ns_each(
        size, lambda: [heapq.heapreplace(heap, (1 + dice.random(), heap[0][1])) for _ in range(size)]
    )
    spans["pop"] = _ns_each(size, lambda: [heapq.heappop(heap) for _ in range(size)])
    return spans


def due_queue(size: int) -> Spans:
    """The same with the due queue: any key can be rescheduled or cancelled."""
    dice = random.Random(1)
    keys = [f"lease-{number:016x}" for number in range(size)]
    queue: DueQueue[str] = DueQueue()

    def reschedule() -> None:
        for _ in range(size):
            key = queue.pop_due(10.0)
            assert key is not None
            queue.schedule(key, 1 + dice.random())

    spans = {"register": _ns_each(size, lambda: [queue.schedule(key, dice.random()) for key in keys])}
    spans["reschedule"] = _ns_each(size, reschedule)
    spans["pop"] = _ns_each(size, lambda: [queue.pop_due(10.0) for _ in range(size)])
    return spans


def scheduler(size: int) -> Spans:
    """Whole leases: registered, acquired, and each renewed once."""
    world = Scheduler()
    dice = random.Random(1)
    specs = [LeaseSpec(LeaseId(f"lease-{number:016x}"), "servicebus.main", "orders") for number in range(size)]

    def acquire() -> None:
        for effect in world.advance(1.0, dice.random):
            if isinstance(effect, StartAcquire):
                grant = LeaseGranted(effect.spec.id, effect.epoch, effect.attempt, Grant(1.0, 30.0))
                world.handle(grant, 1.0, dice.random())

    def renew() -> None:
        for effect in world.advance(16.0, dice.random):
            if isinstance(effect, StartRenew):
                grant = LeaseGranted(effect.spec.id, effect.epoch, effect.attempt, Grant(16.0, 30.0))
                world.handle(grant, 16.0, dice.random())

    spans = {"register": _ns_each(size, lambda: [world.handle(LeaseRegistered(spec), 0.0, 0.5) for spec in specs])}
    spans["acquire"] = _ns_each(size, acquire)
    spans["renew"] = _ns_each(size, renew)
    return spans


def bytes_each(size: int) -> dict[str, float]:
    """Memory for each entry, keys not counted."""
    keys = [f"lease-{number:016x}" for number in range(size)]

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
            heapq.heappush(entries, (float(number), key))
        return entries

    def queue() -> object:
        filled: DueQueue[str] = DueQueue()
        for number, key in enumerate(keys):
            filled.schedule(key, float(number))
        return filled

    return {"bare heap": of(heap), "due queue": of(queue)}


def main() -> None:
    quick = "--quick" in sys.argv
    size, rounds = (10_000, 1) if quick else (1_000_000, 3)
    lease_size = size if quick else 200_000
    runs: dict[str, list[Spans]] = {"bare heap": [], "due queue": [], "leases": []}
    for _ in range(rounds):
        runs["bare heap"].append(bare_heap(size))
        runs["due queue"].append(due_queue(size))
        runs["leases"].append(scheduler(lease_size))
    medians = {
        name: {work: statistics.median(spans[work] for spans in rounds_of) for work in rounds_of[0]}
        for name, rounds_of in runs.items()
    }
    memory = bytes_each(size)
    print(f"{size:,} entries, {rounds} interleaved rounds, medians\n")
    print(f"{'work':<14}{'bare heap':>14}{'due queue':>14}{'ratio':>8}")
    for work, bare in medians["bare heap"].items():
        ours = medians["due queue"][work]
        print(f"{work:<14}{bare:>11.0f} ns{ours:>11.0f} ns{ours / bare:>8.2f}")
    print(
        f"{'memory':<14}{memory['bare heap']:>12.0f} B{memory['due queue']:>13.0f} B"
        f"{memory['due queue'] / memory['bare heap']:>8.2f}"
    )
    print(f"\nwhole leases ({lease_size:,}), against one pop and push of the bare heap:")
    for work, ours in medians["leases"].items():
        print(f"{work:<14}{ours:>39.0f} ns{ours / medians['bare heap']['reschedule']:>8.2f}")
    print("\n" + json.dumps({"ns": medians, "bytes": memory}))


def _ns_each(count: int, work: Callable[[], object]) -> float:
    gc.collect()
    began_at = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - began_at) / count


if __name__ == "__main__":
    main()
