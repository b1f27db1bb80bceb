"""`python -m benchmarks.screens`: how late the daemon's loop is while people look at it, against while nobody does.

A daemon and an emulator as processes of their own hold 100, 1,000 and 10,000 sessions. In turns, nobody looks,
`status` is asked for again and again, and `top` refreshes each second. The lag is what the daemon's own metric says:
the share of wakes within so many milliseconds, and the bucket that the worst of them fell into.
"""

from __future__ import annotations

import argparse
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from renewer.client import Client

SIZES = (100, 1_000, 10_000)
_BUCKET = re.compile(r'renewer_loop_lag_seconds_bucket\{le="([^"]+)"\} ([0-9.e+]+)')


@contextmanager
def process(*arguments: str) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-m", "renewer", *arguments], stderr=subprocess.DEVNULL) as running:
        try:
            yield
        finally:
            running.terminate()
            running.wait()


def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number: int = listener.getsockname()[1]
        return number


class Stage:
    """A daemon that holds so many sessions."""

    def __init__(self, folder: Path) -> None:
        self.api = f"unix:{folder}/renewer.sock"
        self.metrics = f"http://127.0.0.1:{(metrics := port())}/metrics"
        self.amqp = f"127.0.0.1:{port()}"
        self.config = folder / "config.toml"
        self.config.write_text(
            f"""
            daemon = {{ state_dir = "{folder}", log_level = "error" }}
            api.listen = "{self.api}"
            metrics.listen = "127.0.0.1:{metrics}"
            servicebus.main.connection_string = "Endpoint=sb://{self.amqp};SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true"
            """
        )

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        http = f"127.0.0.1:{port()}"
        emulator = (
            "emulator",
            "--amqp",
            self.amqp,
            "--http",
            http,
            "--lock-duration",
            "60s",
            "--queue",
            "orders:session",
        )
        with (
            process(*emulator, "--log-level", "error"),
            process("run", "-c", str(self.config)),
            self.client() as client,
        ):
            for number in range(size):
                client.hold("orders", f"s-{number}", lock_duration="60s")
            while client.status().leases.get("held", 0) < size:
                time.sleep(0.5)
            yield

    @contextmanager
    def client(self) -> Iterator[Client]:
        with Client(self.api, timeout=60, retry_for=60) as client:
            yield client

    def lags(self) -> dict[float, float]:
        text = httpx.get(self.metrics).text
        return {float(bound.replace("+Inf", "inf")): float(count) for bound, count in _BUCKET.findall(text)}

    def measure(self, look: Callable[[float], int], span_s: float) -> str:
        before = self.lags()
        looks = look(span_s)
        after = self.lags()
        counts = {bound: after[bound] - before[bound] for bound in after}
        total = counts[float("inf")] or 1.0
        worst = next(bound for bound, count in counts.items() if count == counts[float("inf")])
        shares = ", ".join(
            f"{100 * counts[bound] / total:.1f} % within {1000 * bound:g} ms" for bound in (0.005, 0.025)
        )
        return f"{looks:4} looks; {shares}; worst within {1000 * worst:g} ms"

    def nobody(self, span_s: float) -> int:
        time.sleep(span_s)
        return 0

    def status(self, span_s: float) -> int:
        return self._again(span_s, 0.0, "status")

    def top(self, span_s: float) -> int:
        return self._again(span_s, 1.0, "top", "--once")

    def _again(self, span_s: float, pause_s: float, *command: str) -> int:
        end, looks = time.monotonic() + span_s, 0
        while time.monotonic() < end:
            subprocess.run(
                [sys.executable, "-m", "renewer", *command, "--api", self.api], stdout=subprocess.DEVNULL, check=True
            )
            looks += 1
            time.sleep(pause_s)
        return looks


def main() -> None:
    """Measure, and say what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="how long each is looked at")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    options = parser.parse_args()
    for size in options.sizes:
        with tempfile.TemporaryDirectory(prefix="rn-") as folder:
            stage = Stage(Path(folder))
            with stage.holding(size):
                for name, look in (("nobody", stage.nobody), ("status", stage.status), ("top", stage.top)):
                    print(f"{size:6} leases, {name:7}: {stage.measure(look, options.seconds)}", flush=True)


if __name__ == "__main__":
    main()
