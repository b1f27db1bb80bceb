"""`python -m benchmarks gateway`: what the gateway costs a worker, beside the same worker without it.

Everything is done in turns, directly and through the gateway, in many short rounds, and each round is compared with
itself: a noisy moment hits both. Broker, gateway and whoever measures are processes of their own; the workers are
unmodified SDKs, but for the ceiling, where whoever receives only counts bytes. `--only` of `python -m
benchmarks.gateway` runs one piece of it.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from azure.servicebus import (
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceiveMode,
    ServiceBusReceiver,
    ServiceBusSender,
)

from benchmarks.figures import Figure, Wanted, table
from benchmarks.gatewaypeers import blast_for
from benchmarks.processes import cpu_s, first_line, free_port, module, rss_mib, wait_until_listening
from renewer.amqp import Accepted, Attach, Disposition, Flow, Source, Symbol, Target
from tests.gateway.judges.gateway_process import Gateways, gateways_before
from tests.gateway.raw_peers import RawWorker, frame
from tests.targets.tls_rig import Authority

BODY = b"x" * 1024
WINDOW = 65536
COPY = "bare byte copy"
PLAIN = "Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true"
TLS = "Endpoint=sb://localhost:{port};SharedAccessKeyName=local;SharedAccessKey=bG9jYWw="

DELETING = ServiceBusReceiveMode.RECEIVE_AND_DELETE

Values = dict[str, list[float]]
"""By side, one for each round."""


def measure(*, quick: bool, only: str | None = None) -> Iterator[Figure]:
    """All of it, or one piece."""
    with_sdk = {"latency": measure_latency, "throughput": measure_throughput, "kills": measure_kills}
    if only is None or only in with_sdk:
        with emulator() as upstream, gateways_before(upstream) as gateways:
            ways = {"direct": upstream, "gateway": gateways.connection_string()}
            for name, piece in with_sdk.items():
                if only in {None, name}:
                    yield from piece(gateways, ways, quick)
    # Memory first: what was let go of may be used again without being counted.
    without = {"memory": measure_memory, "ceiling": measure_ceiling}
    if only is None or only in without:
        with module("benchmarks.gatewaypeers") as broker:
            port = int(first_line(broker))
            with gateways_before(PLAIN.format(port=port)) as gateways:
                for name, raw_piece in without.items():
                    if only in {None, name}:
                        yield from raw_piece(gateways, port, quick)
    if only in {None, "memory"}:
        yield from measure_memory_over_tls(quick)


@contextmanager
def emulator() -> Iterator[str]:
    """A broker with a queue of each kind; its connection string."""
    amqp, http = free_port(), free_port()
    with module(
        "renewer", "emulator", "--amqp", f"127.0.0.1:{amqp}", "--http", f"127.0.0.1:{http}", "--lock-duration", "30s",
        "--queue", "plain", "--queue", "orders:session", "--log-level", "error",
    ):  # fmt: skip
        wait_until_listening(amqp)
        yield PLAIN.format(port=amqp)


def port_of(connection_string: str) -> int:
    return int(connection_string.partition("127.0.0.1:")[2].partition(";")[0])


def in_turns(sides: Sequence[str]) -> list[str]:
    """The sides in any order: nobody is always the one who comes after another."""
    return random.sample(sides, len(sides))


# One message at a time ------------------------------------------------------------------------------------------------


def measure_latency(gateways: Gateways, ways: Mapping[str, str], quick: bool) -> Iterator[Figure]:
    """Rounds of a few messages each, over connections that last."""
    rounds, count = (4, 30) if quick else (100, 60)
    p50: Values = {"direct": [], "gateway": [], COPY: []}
    cpu: Values = {"gateway": [], COPY: []}
    with module("benchmarks.bytecopy", str(port_of(ways["direct"]))) as copying, contextlib.ExitStack() as stack:
        ways = {**ways, COPY: PLAIN.format(port=first_line(copying))}
        pids = {"gateway": gateways.daemon.pid, COPY: copying.pid}
        # Each takes a second to close: all at once, when they are done.
        pool = stack.enter_context(ThreadPoolExecutor())
        clients = {side: ServiceBusClient.from_connection_string(way) for side, way in ways.items()}
        for client in clients.values():
            stack.callback(pool.submit, client.close)
        receivers = {side: client.get_queue_receiver("plain") for side, client in clients.items()}
        sender = clients["direct"].get_queue_sender("plain")
        fill(sender, 30 * len(receivers))
        for one in receivers.values():
            one_at_a_time(one, 30)
        # What was imported to measure is no part of a worker: it is not to be looked through for garbage.
        gc.collect()
        gc.freeze()
        for _ in range(rounds):
            fill(sender, count * len(receivers))
            for side in in_turns(list(receivers)):
                before = cpu_s(pids[side]) if side in pids else 0.0
                p50[side].append(statistics.median(one_at_a_time(receivers[side], count)))
                if side in pids:
                    cpu[side].append(1e6 * (cpu_s(pids[side]) - before) / count)
    added = {side: [there - here for there, here in zip(p50[side], p50["direct"], strict=True)] for side in cpu}
    work = "SDK, receive + complete"
    yield Figure(work, "p50", "ms", p50["gateway"], "direct", p50["direct"])
    yield Figure(work, "added to p50", "ms", added["gateway"], wanted=Wanted("at most", 0.3))
    yield Figure(work, "added to p50", "ms", added["gateway"], COPY, added[COPY])
    yield Figure(work, "CPU per message", "us", cpu["gateway"], COPY, cpu[COPY])


@contextmanager
def sender_to(way: str) -> Iterator[ServiceBusSender]:
    with ServiceBusClient.from_connection_string(way) as client, client.get_queue_sender("plain") as sender:
        yield sender


def fill(sender: ServiceBusSender, count: int) -> None:
    for first in range(0, count, 200):
        sender.send_messages([ServiceBusMessage(BODY) for _ in range(min(200, count - first))])


def one_at_a_time(one: ServiceBusReceiver, count: int) -> list[float]:
    """Milliseconds of each receive and complete."""
    spans = []
    for _ in range(count):
        began_at = time.perf_counter()
        (message,) = one.receive_messages(1, max_wait_time=10)
        one.complete_message(message)
        spans.append(1000 * (time.perf_counter() - began_at))
    return spans


# As fast as the SDK can -----------------------------------------------------------------------------------------------


def measure_throughput(gateways: Gateways, ways: Mapping[str, str], quick: bool) -> Iterator[Figure]:
    """Messages of 1 KB, fetched ahead and deleted as they are sent, in rounds of a third of a second."""
    rounds, count = (1, 2_000) if quick else (15, 4_000)
    found: Values = {side: [] for side in ways}
    cpu = []
    with sender_to(ways["direct"]) as sender:
        for _ in range(rounds):
            for side in in_turns(list(ways)):
                fill(sender, count)
                before = cpu_s(gateways.daemon.pid)
                found[side].append(in_bulk(ways[side], count))
                if side == "gateway":
                    cpu.append(1e6 * (cpu_s(gateways.daemon.pid) - before) / count)
    work = "SDK, receive and delete, 1 KB"
    ratios = [through / direct for through, direct in zip(found["gateway"], found["direct"], strict=True)]
    yield Figure(work, "throughput", "msg/s", found["gateway"], "direct", found["direct"])
    yield Figure(work, "throughput to direct's of the round", "x", ratios, wanted=Wanted("at least", 0.97))
    yield Figure(work, "CPU per message", "us", cpu)


def in_bulk(way: str, count: int) -> float:
    """Messages per second, with as many fetched ahead as there are."""
    with (
        ServiceBusClient.from_connection_string(way) as client,
        client.get_queue_receiver("plain", receive_mode=DELETING, prefetch_count=1000) as receiver,
    ):
        got = len(receiver.receive_messages(100, max_wait_time=10))
        first, began_at = got, time.perf_counter()
        while got < count:
            got += len(receiver.receive_messages(min(500, count - got), max_wait_time=10))
        return (got - first) / (time.perf_counter() - began_at)


# The ceiling ----------------------------------------------------------------------------------------------------------


def measure_ceiling(gateways: Gateways, port: int, quick: bool) -> Iterator[Figure]:
    """What the gateway passes to somebody who only counts bytes, from a broker that only sends them."""
    rounds, count = (1, 50_000) if quick else (6, 400_000)
    where = {"direct": port, "gateway": gateways.ports["keeping"]}
    for name, settled, wanted in (("deleted", True, Wanted("at least", 250_000)), ("locked", False, None)):
        found: Values = {side: [] for side in where}
        cpu = []
        for _ in range(rounds):
            for side in in_turns(list(where)):
                before = cpu_s(gateways.daemon.pid)
                found[side].append(take_blast(where[side], gateways.keys["local"], count, settled=settled))
                if side == "gateway":
                    cpu.append(1e6 * (cpu_s(gateways.daemon.pid) - before) / count)
        work = f"no SDK, {name}, {blast_for(0, 0, settled=settled).size} bytes"
        yield Figure(work, "throughput", "msg/s", found["gateway"], wanted=wanted)
        yield Figure(work, "throughput", "msg/s", found["gateway"], "direct", found["direct"])
        yield Figure(work, "CPU per message", "us", cpu)


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


# Memory ---------------------------------------------------------------------------------------------------------------


def measure_memory(gateways: Gateways, _: int, quick: bool) -> Iterator[Figure]:
    """The daemon's, for each worker that is connected, let in, and attached to an entity, and idle."""
    yield memory_of_workers(gateways, "plain", quick)


def measure_memory_over_tls(quick: bool) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="rn-") as folder:
        authority = Authority(Path(folder))
        authority.server("localhost")
        (certificate,) = Path(folder).glob("server-*.pem")
        with (
            module("benchmarks.gatewaypeers", str(certificate)) as broker,
            gateways_before(TLS.format(port=first_line(broker)), ca_file=str(authority.file)) as gateways,
        ):
            yield memory_of_workers(gateways, "TLS", quick)


def memory_of_workers(gateways: Gateways, upstream: str, quick: bool) -> Figure:
    count = 100 if quick else 1_000
    with contextlib.ExitStack() as workers:
        idle_worker(gateways, workers)
        # What answers is loaded after the gateways have opened, and belongs to no worker.
        gateways.api.get("/v1/status").raise_for_status()
        before = rss_mib(gateways.daemon.pid)
        for _ in range(count):
            idle_worker(gateways, workers)
        each = 1024 * (rss_mib(gateways.daemon.pid) - before) / count
    return Figure(f"{count:,} workers, {upstream} upstream", "memory each", "KiB", [each], wanted=Wanted("at most", 64))


def idle_worker(gateways: Gateways, stack: contextlib.ExitStack) -> None:
    worker = stack.enter_context(RawWorker(gateways.ports["keeping"]))
    worker.let_in("orders", gateways.keys["local"])
    worker.send(Attach("r", 0, True, source=Source("orders"), target=Target("me")))
    worker.wait_for(Attach)


# A worker that is killed ----------------------------------------------------------------------------------------------


def measure_kills(_: Gateways, ways: Mapping[str, str], quick: bool) -> Iterator[Figure]:
    """How long after a worker's SIGKILL its session is free."""
    found: Values = {side: [] for side in ways}
    for number in range(1 if quick else 10):
        for side in in_turns(list(ways)):
            found[side].append(free_after(ways["direct"], ways[side], f"{side}-{number}"))
    work = "session of a worker, SIGKILL"
    yield Figure(work, "free after", "ms", found["gateway"], wanted=Wanted("at most", 20))
    yield Figure(work, "free after", "ms", found["gateway"], "direct", found["direct"])


def free_after(upstream: str, way: str, session_id: str) -> float:
    """Milliseconds from SIGKILL of the worker to when its session is granted to somebody else."""
    source = Source("orders", filter={Symbol("com.microsoft:session-filter"): session_id})
    with (
        RawWorker(port_of(upstream)) as other,
        module("tests.gateway.judges.session_worker", way, "orders", session_id) as worker,
    ):
        assert first_line(worker) == "holding"
        other.let_in("orders", "bG9jYWw=")
        time.sleep(0.2)
        killed_at = time.perf_counter()
        os.kill(worker.pid, signal.SIGKILL)
        for handle in range(100_000):
            if other.attach_receiver("orders", 1 + handle % 100, source=source, snd_settle_mode=0) is not None:
                return 1000 * (time.perf_counter() - killed_at)
            time.sleep(0.0005)
    raise AssertionError("never")


def main() -> None:
    """One piece, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="everything once, small")
    parser.add_argument("--only", choices=["latency", "throughput", "kills", "ceiling", "memory"], help="one piece")
    options = parser.parse_args()
    print(table(list(measure(quick=options.quick, only=options.only))))


if __name__ == "__main__":
    main()
