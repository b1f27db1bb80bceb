"""A broker and a daemon as processes, as their users run them, for benchmarks over AMQP."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.processes import free_port, module, wait_until_listening

LOCAL = "Endpoint=sb://127.0.0.1:{};SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true"


@dataclass(frozen=True, slots=True)
class Broker:
    """Where it listens, and what it has counted."""

    port: int
    http: httpx.Client

    def counters(self) -> dict[str, Any]:
        """Since it began."""
        state = self.http.get("/_emulator/state").raise_for_status().json()
        found: dict[str, Any] = state["servicebus"]["counters"]
        return found


@dataclass(frozen=True, slots=True)
class Daemon:
    """Its process, and where its API is."""

    pid: int
    api: str


@contextmanager
def broker(lock_s: float, queue: str) -> Iterator[Broker]:
    """A broker with one queue."""
    amqp, http = free_port(), free_port()
    options = ("--amqp", f"127.0.0.1:{amqp}", "--http", f"127.0.0.1:{http}", "--lock-duration", f"{lock_s:g}s")
    with (
        module("renewer", "emulator", *options, "--queue", queue, "--log-level", "error"),
        httpx.Client(base_url=f"http://127.0.0.1:{http}", timeout=60) as admin,
    ):
        wait_until_listening(amqp)
        wait_until_listening(http)
        yield Broker(amqp, admin)


@contextmanager
def daemon(port: int) -> Iterator[Daemon]:
    """A daemon that holds nothing yet, in front of that broker."""
    with tempfile.TemporaryDirectory(prefix="rn-") as folder:
        config, api = Path(folder, "config.toml"), Path(folder, "renewer.sock")
        config.write_text(
            f"""
            daemon = {{ state_dir = "{folder}", log_level = "error" }}
            api.listen = "unix:{api}"
            metrics.listen = "off"
            servicebus.main.connection_string = "{LOCAL.format(port)}"
            """
        )
        with module("renewer", "run", "-c", str(config)) as running:
            _wait_until_ready(api)
            yield Daemon(running.pid, f"unix:{api}")


def _wait_until_ready(socket: Path, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://renewer", timeout=60) as api:
        while True:
            try:
                api.get("/v1/status").raise_for_status()
            except httpx.TransportError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
            else:
                return
