"""`python -m benchmarks operations`: operations that are pending are polled by the daemon, beside azure-core's poller.

A service as a process of its own answers "Running, ask again in 1 s" and notes how late each poll is, and whether any
is early. In turns, the daemon follows operations that it adopted, azure-core's AsyncLROPoller does, and a loop that
knows no HTTP asks for as many. Nobody can poll 10,000 operations each second on one core: there it counts what a poll
costs. How punctual polls are is measured with as many operations as can be polled in time.
"""

from __future__ import annotations

import http.client
import json
import socket
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.figures import Figure, Wanted
from benchmarks.pollservice import RETRY_AFTER_S
from benchmarks.processes import cpu_s, first_line, module, rss_mib

AZURE_CORE, RAW = "azure-core's AsyncLROPoller", "a raw epoll loop"
PATIENCE_S = 240.0
WARM_UP_S = 3.0
ADOPTERS = 8


@dataclass(frozen=True, slots=True)
class Follower:
    """Whoever follows the operations: its process, its memory before it did, and how long it took to take them on."""

    pid: int
    mib_before: float
    adopted_s: float = 0.0


@dataclass(slots=True)
class Seen:
    """What was seen of one side, a value for each round."""

    per_cpu_s: list[float] = field(default_factory=list)
    kib_each: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    early: list[float] = field(default_factory=list)
    adopted_s: list[float] = field(default_factory=list)


Side = Callable[[str, int], AbstractContextManager[Follower]]


def measure(*, quick: bool) -> Iterator[Figure]:
    """Who polls how much, and how punctually."""
    count, span_s, rounds = (200, 1.5, 1) if quick else (10_000, 10.0, 2)
    sides: dict[str, tuple[Side, Seen]] = {
        "": (daemon, Seen()),
        AZURE_CORE: (azure_core, Seen()),
        RAW: (raw_loop, Seen()),
    }
    for _ in range(rounds):
        for side, seen in sides.values():
            look_on(side, count, span_s, seen)
    ours, theirs, bare = (seen for _, seen in sides.values())
    work = f"{count:,} pending, Retry-After {RETRY_AFTER_S} s"
    yield Figure(
        work,
        "polls per CPU second",
        "",
        ours.per_cpu_s,
        AZURE_CORE,
        theirs.per_cpu_s,
        None if quick else Wanted("at least", 4),
    )
    yield Figure(work, "polls per CPU second", "", ours.per_cpu_s, RAW, bare.per_cpu_s)
    if not quick:
        at_most = Wanted("at most", 1 / 20)
        yield Figure(work, "memory per operation", "KiB", ours.kib_each, AZURE_CORE, theirs.kib_each, at_most)
    yield Figure(work, "time to adopt them", "s", ours.adopted_s)
    early = list(ours.early)
    if not quick:
        count, ours, theirs = 2_000, Seen(), Seen()
        for _ in range(rounds):
            look_on(daemon, count, span_s, ours)
            look_on(azure_core, count, span_s, theirs)
        work = f"{count:,} pending, Retry-After {RETRY_AFTER_S} s"
        early += ours.early
        yield Figure(work, "polls per CPU second", "", ours.per_cpu_s, AZURE_CORE, theirs.per_cpu_s)
        yield Figure(work, "lateness p99, beside", "ms", ours.p99_ms, AZURE_CORE, theirs.p99_ms)
    yield Figure(work, "lateness p99", "ms", ours.p99_ms, wanted=Wanted("at most", 250))
    yield Figure("all of these", "polls that came too early", "", early, wanted=Wanted("at most", 0))


def look_on(side: Side, count: int, span_s: float, seen: Seen) -> None:
    """Have so many operations followed, and once all are, look on for so long."""
    with module("benchmarks.pollservice") as running:
        base_url = first_line(running)
        with httpx.Client(base_url=base_url, timeout=60) as service, side(base_url, count) as follower:
            first, early = _wait_until_all_are_followed(service, count), 0
            time.sleep(WARM_UP_S)
            early += sum(late < 0 for late in [*first, *service.get("/seen").json()["late_s"]])
            used_s = cpu_s(follower.pid)
            time.sleep(span_s)
            late_s = sorted(service.get("/seen").json()["late_s"])
            used_s = cpu_s(follower.pid) - used_s
            seen.per_cpu_s.append(len(late_s) / used_s)
            seen.kib_each.append(1024 * (rss_mib(follower.pid) - follower.mib_before) / count)
            seen.p99_ms.append(1000 * statistics.quantiles(late_s, n=100)[-1])
            seen.early.append(early + sum(late < 0 for late in late_s))
            seen.adopted_s.append(follower.adopted_s)


def _wait_until_all_are_followed(service: httpx.Client, count: int) -> list[float]:
    end, late_s = time.monotonic() + PATIENCE_S, list[float]()
    while True:
        seen = service.get("/seen").json()
        late_s += seen["late_s"]
        if seen["operations"] >= count:
            return late_s
        if time.monotonic() > end:
            raise TimeoutError(f"only {seen['operations']} of {count} operations are followed")
        time.sleep(0.2)


@contextmanager
def azure_core(base_url: str, count: int) -> Iterator[Follower]:
    """azure-core starts so many operations and follows them."""
    with module("benchmarks.azurecorepeer", base_url, str(count)) as running:
        yield Follower(running.pid, float(first_line(running)))


@contextmanager
def raw_loop(base_url: str, count: int) -> Iterator[Follower]:
    """Somebody asks for as many, and reads no answer."""
    with module("benchmarks.rawpoller", base_url, str(count)) as running:
        yield Follower(running.pid, float(first_line(running)))


@contextmanager
def daemon(base_url: str, count: int) -> Iterator[Follower]:
    """The daemon adopts operations that somebody else started, and follows them."""
    with tempfile.TemporaryDirectory(prefix="rn-") as folder:
        config, api = Path(folder, "config.toml"), f"{folder}/renewer.sock"
        config.write_text(
            f"""
            daemon = {{ state_dir = "{folder}", log_level = "error" }}
            api.listen = "unix:{api}"
            metrics.listen = "off"
            fabric.main = {{ base_url = "{base_url}/v1", token = "local" }}
            """
        )
        with module("renewer", "run", "-c", str(config)) as running:
            _wait_until_ready(api)
            mib, began_at = rss_mib(running.pid), time.monotonic()
            # All fall due when the last has been adopted: before, polls would take the time.
            due_at = began_at + 3 * count / 1_000
            with ThreadPoolExecutor(ADOPTERS) as pool:
                adopter = _Adopter(api, base_url, due_at)
                list(pool.map(adopter.adopt, range(count)))
            yield Follower(running.pid, mib, time.monotonic() - began_at)


class _Adopter:
    """Hands operations over that somebody else started; for threads."""

    def __init__(self, api: str, base_url: str, due_at: float) -> None:
        self._api = api
        self._base_url = base_url
        self._due_at = due_at
        self._own = threading.local()

    def adopt(self, _number: int) -> None:
        id_ = str(uuid.uuid4())
        first = {
            "method": "POST",
            "url": f"{self._base_url}/v1/start",
            "status": 202,
            "headers": {
                "x-ms-operation-id": id_,
                "Location": f"{self._base_url}/v1/operations/{id_}",
                "Retry-After": str(max(RETRY_AFTER_S, round(self._due_at - time.monotonic()))),
            },
        }
        connection: _Connection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = _Connection(self._api)
        connection.request("POST", "/v1/operations?wait=0s", json.dumps({"adopt": first}), _JSON)
        answer = connection.getresponse()
        text = answer.read()
        if not 200 <= answer.status < 300:
            raise RuntimeError(f"not adopted: {answer.status} {text.decode()}")


class _Connection(http.client.HTTPConnection):
    """To a Unix socket. httpx would take more processor time than the daemon."""

    def __init__(self, path: str) -> None:
        super().__init__("renewer", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


_JSON = {"Content-Type": "application/json"}


def _wait_until_ready(api: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            connection = _Connection(api)
            connection.request("GET", "/v1/status")
            connection.getresponse().read()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return
