"""`python -m benchmarks.gateway`: what the gateway costs, beside the same work done without it.

Everything is run in pairs, directly and through the gateway, in turns, so that a noisy moment hits both; medians of all
rounds are shown, with the lowest and the highest. Broker, gateway and whoever measures are processes of their own.
`--quick` runs everything once, small.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusReceiveMode

from benchmarks.gatewaypeers import blast_for
from renewer.amqp import Accepted, Attach, Disposition, Flow, Source, Symbol, Target
from tests.gateway.judges.gateway_process import Gateways, free_port, gateways_before, until
from tests.gateway.raw_peers import RawWorker, frame
from tests.targets.tls_rig import Authority

SIDES = ("direct", "gateway")
BODY = b"x" * 1024
WINDOW = 65536
PLAIN = "Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true"
TLS = "Endpoint=sb://localhost:{port};SharedAccessKeyName=local;SharedAccessKey=bG9jYWw="

Values = dict[str, list[float]]
"""What was measured, by side (or by name), one for each round."""


@contextmanager
def process(*arguments: str, says: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process of Python modules, and the first line that it says."""
    with subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            yield running, running.stdout.readline().strip() if says != "nothing" else ""
        finally:
            running.kill()


@contextmanager
def emulator() -> Iterator[str]:
    """A broker with a queue of each kind; its connection string."""
    amqp, http = free_port(), free_port()
    with process(
        "renewer", "emulator", "--amqp", f"127.0.0.1:{amqp}", "--http", f"127.0.0.1:{http}", "--lock-duration", "30s",
        "--queue", "plain", "--queue", "orders:session", "--log-level", "error", says="nothing",
    ):  # fmt: skip
        until(lambda: (None, _listens(amqp)), "the emulator listens")
        yield PLAIN.format(port=amqp)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextmanager
def both_ways(upstream: str, **options: Any) -> Iterator[tuple[Gateways, dict[str, str]]]:
    with gateways_before(upstream, **options) as gateways:
        yield gateways, {"direct": upstream, "gateway": gateways.connection_string()}


def port_of(connection_string: str) -> int:
    return int(connection_string.partition("127.0.0.1:")[2].partition(";")[0])


def cpu_s(pid: int) -> float:
    """Processor time of a process, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


# The SDK --------------------------------------------------------------------------------------------------------------


def fill(connection_string: str, count: int) -> None:
    client = ServiceBusClient.from_connection_string(connection_string)
    with client, client.get_queue_sender("plain") as sender:
        for first in range(0, count, 200):
            sender.send_messages([ServiceBusMessage(BODY) for _ in range(first, min(first + 200, count))])


def one_at_a_time(connection_string: str, count: int) -> list[float]:
    """Milliseconds of each receive and complete, sorted; what is slow because it is the first is left out."""
    spans = []
    client = ServiceBusClient.from_connection_string(connection_string)
    with client, client.get_queue_receiver("plain", prefetch_count=0) as receiver:
        for _ in range(count):
            began_at = time.perf_counter()
            (message,) = receiver.receive_messages(1, max_wait_time=10)
            receiver.complete_message(message)
            spans.append(1000 * (time.perf_counter() - began_at))
    return sorted(spans[10:])


def in_bulk(connection_string: str, count: int, mode: ServiceBusReceiveMode) -> float:
    """Messages per second, with as many fetched ahead as there are."""
    client = ServiceBusClient.from_connection_string(connection_string)
    with client, client.get_queue_receiver("plain", receive_mode=mode, prefetch_count=1000) as receiver:
        got = len(receiver.receive_messages(100, max_wait_time=10))
        first, began_at = got, time.perf_counter()
        while got < count:
            got += len(receiver.receive_messages(min(500, count - got), max_wait_time=10))
        return (got - first) / (time.perf_counter() - began_at)


def measure_sdk(rounds: int, singles: int, bulk: int) -> dict[str, Values]:
    found: dict[str, Values] = {
        "p50 ms": {side: [] for side in (*SIDES, "bare copy")},
        "p99 ms": {side: [] for side in (*SIDES, "bare copy")},
        "msg/s, deleted": {side: [] for side in SIDES},
        "msg/s, locked": {side: [] for side in SIDES},
    }
    found["CPU us/msg"] = {"one at a time": [], "in bulk": []}
    with (
        emulator() as upstream,
        both_ways(upstream) as (gateways, ways),
        process("benchmarks.bytecopy", str(port_of(upstream))) as (_, copying),
    ):
        pid = gateways.daemon.pid
        ways["bare copy"] = PLAIN.format(port=copying)
        for number in range(rounds):
            for side in (*in_turns(number), "bare copy"):
                fill(upstream, singles)
                before = cpu_s(pid)
                spans = one_at_a_time(ways[side], singles)
                used = cpu_s(pid) - before
                found["p50 ms"][side].append(statistics.median(spans))
                found["p99 ms"][side].append(spans[len(spans) * 99 // 100])
                if side == "gateway":
                    found["CPU us/msg"]["one at a time"].append(1e6 * used / singles)
            for name, mode in (
                ("msg/s, deleted", ServiceBusReceiveMode.RECEIVE_AND_DELETE),
                ("msg/s, locked", ServiceBusReceiveMode.PEEK_LOCK),
            ):
                for side in in_turns(number):
                    drain(upstream)
                    fill(upstream, bulk)
                    before = cpu_s(pid)
                    found[name][side].append(in_bulk(ways[side], bulk, mode))
                    if side == "gateway" and mode is ServiceBusReceiveMode.RECEIVE_AND_DELETE:
                        found["CPU us/msg"]["in bulk"].append(1e6 * (cpu_s(pid) - before) / bulk)
    return found


def drain(connection_string: str) -> None:
    client = ServiceBusClient.from_connection_string(connection_string)
    mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
    with client, client.get_queue_receiver("plain", receive_mode=mode, prefetch_count=1000) as receiver:
        while receiver.receive_messages(500, max_wait_time=0.3):
            pass


def in_turns(number: int) -> Sequence[str]:
    return SIDES if number % 2 == 0 else SIDES[::-1]


# The ceiling ----------------------------------------------------------------------------------------------------------


def take_blast(port: int, key: str, count: int, *, settled: bool) -> float:
    """Messages per second that a worker gets who only counts bytes, and settles a hundred at a time."""
    with RawWorker(port) as worker:
        worker.open(max_frame_size=65536)
        worker.begin(incoming_window=WINDOW)
        worker.attach_cbs()
        assert worker.put_token("orders", "local", key) == 202
        mode = 1 if settled else 0
        worker.send(
            Attach("r", 0, True, mode, 1 - mode, Source("orders"), Target("me")),
        )
        worker.wait_for(Attach)
        first, size = 1, blast_for(0, 0, settled=settled).size
        began_at = time.perf_counter()
        worker.send(Flow(first, WINDOW, 1, WINDOW, 0, 0, count))
        got, told, buffer = 0, 0, bytearray(1 << 20)
        while got < count * size:
            got += worker.socket.recv_into(buffer)
            if got // size - told >= 1000:
                now = got // size
                data = frame(Flow(first + now, WINDOW, 1, WINDOW))
                if not settled:
                    data += b"".join(
                        frame(Disposition(True, first + at, first + at + 99, True, Accepted()))
                        for at in range(told // 100 * 100, now // 100 * 100, 100)
                    )
                worker.send(data)
                told = now
        return count / (time.perf_counter() - began_at)


def measure_ceiling(rounds: int, count: int) -> dict[str, Values]:
    names = ("raw msg/s, deleted", "raw msg/s, locked")
    found: dict[str, Values] = {name: {side: [] for side in SIDES} for name in names}
    found["raw CPU us/msg"] = {"deleted": [], "locked": []}
    with process("benchmarks.gatewaypeers") as (_, port), both_ways(PLAIN.format(port=port)) as (gateways, _ways):
        where = {"direct": int(port), "gateway": gateways.ports["keeping"]}
        pid = gateways.daemon.pid
        for number in range(rounds):
            for name, settled in zip(names, (True, False), strict=True):
                for side in in_turns(number):
                    before = cpu_s(pid)
                    found[name][side].append(take_blast(where[side], gateways.keys["local"], count, settled=settled))
                    if side == "gateway":
                        kind = "deleted" if settled else "locked"
                        found["raw CPU us/msg"][kind].append(1e6 * (cpu_s(pid) - before) / count)
    return found


# Memory ---------------------------------------------------------------------------------------------------------------


def measure_memory(count: int) -> dict[str, Values]:
    """KiB of the daemon for each worker that is connected, let in, and attached to an entity, and idle."""
    found: Values = {}
    with tempfile.TemporaryDirectory(prefix="rn-") as folder:
        authority = Authority(Path(folder))
        authority.server("localhost")
        (certificate,) = Path(folder).glob("server-*.pem")
        for name, form, arguments, options in (
            ("plain", PLAIN, (), {}),
            ("TLS", TLS, (str(certificate),), {"ca_file": str(authority.file)}),
        ):
            with (
                process("benchmarks.gatewaypeers", *arguments) as (_, port),
                gateways_before(form.format(port=port), **options) as gateways,
                contextlib.ExitStack() as workers,
            ):
                idle_worker(gateways, workers)
                before = gateways.rss_mib()
                for _ in range(count):
                    idle_worker(gateways, workers)
                found[name] = [1024 * (gateways.rss_mib() - before) / count]
    return {"KiB per worker": found}


def idle_worker(gateways: Gateways, stack: contextlib.ExitStack) -> None:
    worker = stack.enter_context(RawWorker(gateways.ports["keeping"]))
    worker.let_in("orders", gateways.keys["local"])
    worker.send(Attach("r", 0, True, source=Source("orders"), target=Target("me")))
    worker.wait_for(Attach)


# A worker that is killed ----------------------------------------------------------------------------------------------


def free_after(upstream: str, way: str, session_id: str) -> float:
    """Milliseconds from SIGKILL of the worker to when its session is granted to somebody else."""
    source = Source("orders", filter={Symbol("com.microsoft:session-filter"): session_id})
    with (
        RawWorker(port_of(upstream)) as other,
        process("tests.gateway.judges.session_worker", way, "orders", session_id) as (worker, said),
    ):
        assert said == "holding"
        other.let_in("orders", "bG9jYWw=")
        time.sleep(0.2)
        killed_at = time.perf_counter()
        os.kill(worker.pid, signal.SIGKILL)
        for handle in range(100_000):
            if other.attach_receiver("orders", 1 + handle % 100, source=source, snd_settle_mode=0) is not None:
                return 1000 * (time.perf_counter() - killed_at)
            time.sleep(0.0005)
    raise AssertionError("never")


def measure_kills(rounds: int) -> dict[str, Values]:
    found: Values = {side: [] for side in SIDES}
    with emulator() as upstream, both_ways(upstream) as (_, ways):
        for number in range(rounds):
            for side in in_turns(number):
                found[side].append(free_after(upstream, ways[side], f"{side}-{number}"))
    return {"free after SIGKILL, ms": found}


# What is said ---------------------------------------------------------------------------------------------------------


def show(name: str, values: Values) -> str:
    def of(numbers: list[float]) -> str:
        middle = statistics.median(numbers)
        form = ",.0f" if middle >= 1000 else ".2f"
        return f"{middle:>10{form}} ({min(numbers):{form}} to {max(numbers):{form}})"

    line = f"{name:<24}" + "".join(f"{side:>14}{of(numbers):<34}" for side, numbers in values.items())
    if set(values) >= set(SIDES):
        line += f"x {statistics.median(values['gateway']) / statistics.median(values['direct']):.3f}"
    return line


def main() -> None:
    """Measure, and say what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="everything once, small")
    parser.add_argument("--only", choices=["sdk", "ceiling", "memory", "kills"], help="one part of it")
    options = parser.parse_args()
    quick: bool = options.quick
    parts: dict[str, Callable[[], dict[str, Values]]] = {
        "sdk": lambda: measure_sdk(*((1, 200, 2_000) if quick else (5, 2_000, 20_000))),
        "ceiling": lambda: measure_ceiling(*((1, 50_000) if quick else (5, 1_000_000))),
        "memory": lambda: measure_memory(100 if quick else 1_000),
        "kills": lambda: measure_kills(2 if quick else 10),
    }
    found: dict[str, Values] = {}
    print("medians (lowest to highest)", flush=True)
    for name, measure in parts.items():
        if options.only in {None, name}:
            for what, values in measure().items():
                found[what] = values
                print(show(what, values), flush=True)
    if "p50 ms" in found:
        for side in ("gateway", "bare copy"):
            pairs = zip(found["p50 ms"]["direct"], found["p50 ms"][side], strict=True)
            added = statistics.median(there - direct for direct, there in pairs)
            print(f"{'added to p50, ms':<24}{side:>14}{added:>10.2f}")
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
