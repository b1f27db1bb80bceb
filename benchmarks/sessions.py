"""`python -m benchmarks sessions`: sessions held over real AMQP by the daemon, beside the official SDK.

In turns, before one broker: the SDK (aio) holds them as its users write it, a receiver for each and one
AutoLockRenewer, as it is and with one `ssl_context` for all; and the daemon is asked for them by its client. Once they
are held, the broker counts renewals for a while, and the kernel the processor time of whoever renews. Then the daemon
alone holds 5,000. Two rounds: opening 1,000 sessions with the SDK takes most of a minute.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.figures import Figure, Wanted
from benchmarks.processes import (
    connections,
    cpu_s,
    first_line,
    free_port,
    module,
    rss_mib,
    wait_until_listening,
)
from benchmarks.scene import broker, daemon
from renewer.client import AsyncClient, Lease

if TYPE_CHECKING:
    from benchmarks.scene import Broker

QUEUE = "orders"
SDK, SHARED = "SDK's AutoLockRenewer", "the same, one ssl_context"

AT_ONCE = "64"
"""Sessions that the SDK is opening at once. One after the other it needs half a second for each; as it is, it reads
certificates for each on its event loop, and beyond some hundreds the first of them have waited too long."""

PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One side in one round."""

    accept_s: float
    """From the first request until all are held."""
    mib: float
    """What its memory has grown by at the end, since before the first request."""
    connections: float
    cpu_us: float
    """Processor time for each renewal."""
    cores: float
    lost: float
    margin: float = 0.0
    """The least that was left of a lock at a renewal, of all but the worst 1 % of leases, as a share of the planned."""


def measure(*, quick: bool) -> Iterator[Figure]:
    """Both sides in turns, and what came of it; then many sessions."""
    count, lock_s, span_s, rounds = (40, 3, 1.5, 1) if quick else (1_000, 10, 12.0, 2)
    seen: dict[str, list[Seen]] = {"": [], SDK: [], SHARED: []}
    one_by_one: list[Seen] = []
    rushed: list[float] = []
    with broker(lock_s, f"{QUEUE}:session") as at:
        for number in range(rounds):
            seen[SHARED].append(_sdk(at, count, lock_s, span_s, f"shared-{number}", "shared"))
            if not quick:
                rushed.append(_sdk_in_a_rush(at, count, f"rush-{number}"))
            seen[""].append(_daemon(at, count, lock_s, span_s, f"daemon-{number}"))
            with _answers_one_by_one(at.port) as port:
                one_by_one.append(_daemon(at, count, lock_s, span_s, f"alone-{number}", port))
            seen[SDK].append(_sdk(at, count, lock_s, span_s, f"sdk-{number}"))
    work = f"{count:,} sessions, {lock_s} s lock"
    yield from _beside(work, seen)
    for peer in (SDK, SHARED):
        ours, theirs = ([one.cpu_us for one in side] for side in (one_by_one, seen[peer]))
        what = "CPU per renewal, each answer alone"
        yield Figure(work, what, "us", ours, peer, theirs, Wanted("at most", 1 / 5))
    if quick:
        yield from _alone(work, *seen[""])
        return
    yield Figure(work, "time to accept", "s", [one.accept_s for one in seen[""]], f"{SHARED}, all at once", rushed)
    with broker(30, f"{QUEUE}:session") as at:
        yield from _alone("5,000 sessions, 30 s lock", _daemon(at, 5_000, 30, 45.0, "many"))


def _beside(work: str, seen: dict[str, list[Seen]]) -> Iterator[Figure]:
    ours = seen[""]
    for name, quantity, unit, wanted, wanted_shared in (
        ("mib", "memory added", "MiB", 1 / 100, 1 / 6),
        ("cpu_us", "CPU per renewal", "us", 1 / 5, 1 / 5),
        ("accept_s", "time to accept", "s", 1 / 50, 1 / 20),
    ):
        for peer, bound in ((SDK, wanted), (SHARED, wanted_shared)):
            values = ([float(getattr(one, name)) for one in side] for side in (ours, seen[peer]))
            yield Figure(work, quantity, unit, next(values), peer, next(values), Wanted("at most", bound))
    yield Figure(work, "TCP connections", "", [one.connections for one in ours], wanted=Wanted("at most", 2))
    theirs = [one.connections for one in seen[SDK]]
    yield Figure(work, "TCP connections", "", [one.connections for one in ours], SDK, theirs)
    theirs = [one.lost for one in seen[SDK]]
    yield Figure(work, "locks lost", "", [one.lost for one in ours], SDK, theirs)


def _alone(work: str, seen: Seen) -> Iterator[Figure]:
    yield Figure(work, "locks lost", "", [seen.lost], wanted=Wanted("at most", 0))
    yield Figure(work, "margin, p1 to planned", "", [seen.margin], wanted=Wanted("at least", 0.95))
    yield Figure(work, "cores used", "", [seen.cores], wanted=Wanted("at most", 0.1))
    yield Figure(work, "CPU per renewal", "us", [seen.cpu_us])
    yield Figure(work, "memory added", "MiB", [seen.mib])
    yield Figure(work, "time to accept", "s", [seen.accept_s])
    yield Figure(work, "TCP connections", "", [seen.connections])


@contextmanager
def _answers_one_by_one(upstream: int) -> Iterator[int]:
    """A port by way of which the broker's answers come each by itself. So they do for the SDK in any case."""
    port = free_port()
    with module("benchmarks.onebyone", str(port), str(upstream)):
        wait_until_listening(port)
        yield port


def _daemon(at: Broker, count: int, lock_s: float, span_s: float, prefix: str, port: int | None = None) -> Seen:
    with daemon(at.port if port is None else port) as running:
        before_mib = rss_mib(running.pid)
        accept_s = asyncio.run(_accept(running.api, [f"{prefix}-{number}" for number in range(count)]))
        window = _watch(at, running.pid, lock_s, span_s)
        mib = rss_mib(running.pid) - before_mib
        margins, lost = asyncio.run(_margins(running.api))
        margin = sorted(margins)[len(margins) // 100] / (lock_s / 2)
        return Seen(accept_s, mib, connections(running.pid), *window, lost=lost, margin=margin)


def _sdk(at: Broker, count: int, lock_s: float, span_s: float, prefix: str, *how: str) -> Seen:
    lost = at.counters()["locks_expired"]
    with module("benchmarks.sdksessionspeer", str(at.port), str(count), prefix, AT_ONCE, *how) as running:
        before_mib = json.loads(first_line(running))["rss_mib"]
        accept_s = json.loads(first_line(running))["accept_s"]
        window = _watch(at, running.pid, lock_s, span_s)
        mib = rss_mib(running.pid) - before_mib
        return Seen(accept_s, mib, connections(running.pid), *window, lost=at.counters()["locks_expired"] - lost)


def _sdk_in_a_rush(at: Broker, count: int, prefix: str) -> float:
    """How fast it accepts all at once. As it is, it cannot: the broker does not wait so long for each one's token."""
    with module("benchmarks.sdksessionspeer", str(at.port), str(count), prefix, str(count), "shared") as running:
        first_line(running)
        return float(json.loads(first_line(running))["accept_s"])


async def _accept(api: str, session_ids: list[str]) -> float:
    async with AsyncClient(api, timeout=PATIENCE_S) as client:
        began_at = time.monotonic()
        found = await client.hold_all(QUEUE, session_ids, wait=PATIENCE_S)
        accept_s = time.monotonic() - began_at
    assert all(isinstance(lease, Lease) and lease.state == "held" for lease in found)
    return accept_s


async def _margins(api: str) -> tuple[list[float], int]:
    """The least margin of each lease, from its first renewal on, and how many losses there were."""
    async with AsyncClient(api, timeout=PATIENCE_S) as client:
        leases = [lease async for lease in client.leases(page_size=1_000)]
    return [lease.min_margin_s or 0.0 for lease in leases], sum(lease.losses for lease in leases)


def _watch(at: Broker, pid: int, lock_s: float, span_s: float) -> tuple[float, float]:
    """Microseconds of processor time per renewal, and cores kept busy, once each lock was renewed."""
    time.sleep(lock_s / 2)
    first, first_cpu_s, began_at = at.counters()["renewals"], cpu_s(pid), time.monotonic()
    time.sleep(span_s)
    last, used_s, took_s = at.counters()["renewals"], cpu_s(pid) - first_cpu_s, time.monotonic() - began_at
    return 1e6 * used_s / (last - first), used_s / took_s
