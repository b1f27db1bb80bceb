"""`python -m benchmarks.operations`: how punctually thousands of operations are polled, against azure-core.

A service as a process of its own answers "Running, ask again in 1 s" and measures: how late each poll is, how many
there are, whether any is early. In turns, the daemon follows the operations, and azure-core's AsyncLROPoller does.
`--quick` is small and short.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.pollservice import RETRY_AFTER_S

WARM_UP_S = 3.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Seen:
    """What the service saw of one side."""

    polls_per_s: float
    p50_s: float
    p99_s: float
    max_s: float
    early: int
    cpu: float
    cpu_us_per_poll: float
    rss_mib: float
    first_early: int
    """Polls that came early while the operations were begun."""

    def line(self, name: str) -> str:
        return (
            f"{name:<12}{self.polls_per_s:>9,.0f}{1000 * self.p50_s:>10.1f} ms{1000 * self.p99_s:>9.1f} ms"
            f"{1000 * self.max_s:>9.1f} ms{self.early:>8}{self.first_early:>10}{100 * self.cpu:>8.0f} %"
            f"{self.cpu_us_per_poll:>9.0f} us{self.rss_mib:>8.0f} MiB"
        )


HEADINGS = (
    f"{'':<12}{'polls/s':>9}{'late p50':>13}{'p99':>12}{'max':>12}{'early':>8}{'at first':>10}{'CPU':>10}"
    f"{'per poll':>12}{'memory':>12}"
)


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


@contextmanager
def daemon(base_url: str, count: int) -> Iterator[int]:
    """The daemon, following so many operations; its process id."""
    with tempfile.TemporaryDirectory(prefix="rn-") as folder:
        config = Path(folder, "config.toml")
        config.write_text(
            f"""
            daemon = {{ state_dir = "{folder}", log_level = "error" }}
            api.listen = "unix:{folder}/renewer.sock"
            metrics.listen = "off"
            fabric.main = {{ base_url = "{base_url}/v1", token = "local", concurrency = 256 }}
            """
        )
        with process("renewer", "run", "-c", str(config)) as running:
            transport = httpx.HTTPTransport(uds=f"{folder}/renewer.sock", retries=0)
            with httpx.Client(transport=transport, base_url="http://renewer", timeout=60) as api:
                wait_until_ready(api)
                with ThreadPoolExecutor(16) as pool:
                    list(pool.map(lambda _: adopt(api, base_url), range(count)))
            yield running.pid


def wait_until_ready(api: httpx.Client) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            api.get("/v1/status").raise_for_status()
        except httpx.TransportError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


def adopt(api: httpx.Client, base_url: str) -> None:
    """Hand an operation over that somebody else started."""
    id_ = str(uuid.uuid4())
    first = {
        "method": "POST",
        "url": f"{base_url}/v1/start",
        "status": 202,
        "headers": {
            "x-ms-operation-id": id_,
            "Location": f"{base_url}/v1/operations/{id_}",
            "Retry-After": str(RETRY_AFTER_S),
        },
    }
    api.post("/v1/operations", json={"adopt": first}, params={"wait": "0s"}).raise_for_status()


@contextmanager
def azure_core(base_url: str, count: int) -> Iterator[int]:
    """azure-core, following so many operations; its process id."""
    with process("benchmarks.azurecorepeer", base_url, str(count)) as running:
        yield running.pid


def measure(base_url: str, pid: int, count: int, span_s: float) -> Seen:
    """Look on for so long, once all are followed."""
    with httpx.Client(base_url=base_url, timeout=60) as service:
        end, begun = time.monotonic() + 120, 0
        first_early = 0
        while begun < count:
            seen = service.get("/seen").json()
            begun, first_early = seen["operations"], first_early + sum(late < 0 for late in seen["late_s"])
            if time.monotonic() > end:
                raise TimeoutError(f"only {begun} of {count} operations are followed")
            time.sleep(0.2)
        time.sleep(WARM_UP_S)
        first_early += sum(late < 0 for late in service.get("/seen").json()["late_s"])
        cpu_s = cpu_of(pid)
        time.sleep(span_s)
        seen, cpu_s = service.get("/seen").json(), cpu_of(pid) - cpu_s
    late = sorted(seen["late_s"])
    return Seen(
        polls_per_s=len(late) / seen["seconds"],
        p50_s=statistics.median(late),
        p99_s=late[len(late) * 99 // 100],
        max_s=late[-1],
        early=sum(one < 0 for one in late),
        cpu=cpu_s / seen["seconds"],
        cpu_us_per_poll=1e6 * cpu_s / len(late),
        rss_mib=rss_of(pid),
        first_early=first_early,
    )


def cpu_of(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_of(pid: int) -> float:
    """Resident memory in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Measure, and say what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="200 operations for 3 seconds")
    parser.add_argument("--operations", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each side is watched, in each round")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    count, span_s, rounds = (200, 3.0, 1) if options.quick else (options.operations, options.seconds, options.rounds)
    print(f"{count:,} operations, Retry-After {RETRY_AFTER_S} s, {span_s:g} s each\n\n{HEADINGS}", flush=True)
    seen: dict[str, list[Seen]] = {"renewer": [], "azure-core": []}
    for _ in range(rounds):
        for name, side in (("renewer", daemon), ("azure-core", azure_core)):
            with process("benchmarks.pollservice") as service:
                assert service.stdout is not None
                base_url = service.stdout.readline().strip()
                with side(base_url, count) as pid:
                    seen[name].append(measure(base_url, pid, count, span_s))
            print(seen[name][-1].line(name), flush=True)
    ours, theirs = (min(seen[name], key=lambda one: one.p99_s) for name in seen)
    print(
        f"\nrenewer against azure-core, best of {rounds}: p99 of lateness {ours.p99_s / theirs.p99_s:.2f}, "
        f"processor time per poll {ours.cpu_us_per_poll / theirs.cpu_us_per_poll:.2f}, "
        f"memory {ours.rss_mib / theirs.rss_mib:.2f}"
    )


if __name__ == "__main__":
    main()
