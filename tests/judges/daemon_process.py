"""The daemon as a user has it: a process of its own, told what to do by a file, spoken to over its socket."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

PATIENCE_S = 60.0
OVER = {"succeeded", "failed", "canceled", "expired", "timed_out", "unpollable", "rejected"}

View = dict[str, Any]


class DaemonProcess:
    """A daemon that can be started, killed and started again; its state stays in between."""

    def __init__(self, folder: Path, accounts: str) -> None:
        self.api = Api(folder / "renewer.sock")
        self.log: deque[str] = deque(maxlen=200)
        self._config = folder / "config.toml"
        self._config.write_text(
            f"""
            daemon = {{ state_dir = "{folder}", log_format = "json" }}
            api.listen = "unix:{folder}/renewer.sock"
            metrics.listen = "off"
            {accounts}
            """
        )
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """Its number; only while it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it says that it is ready."""
        process = subprocess.Popen(
            [sys.executable, "-m", "renewer", "run", "--config", str(self._config)], stderr=subprocess.PIPE, text=True
        )
        ready = threading.Event()
        self._process = process
        self._reader = threading.Thread(target=self._read, args=[process, ready], daemon=True)
        self._reader.start()
        in_time = ready.wait(PATIENCE_S)
        assert in_time, "\n".join(self.log)
        assert process.poll() is None, "\n".join(self.log)

    def kill(self) -> None:
        """End it at once, without a word."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to stop; gives its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int:
        if self._process is None or self._reader is None:
            return 0
        self._process.send_signal(how)
        try:
            code = self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()
            self._process = None
        return code

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                self.log.append(line.rstrip())
                if '"daemon ready"' in line:
                    ready.set()
        process.wait()
        ready.set()


class Api:
    """The control API, as far as operations go."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """A client that may be used by several threads."""
        transport = httpx.HTTPTransport(uds=str(self._socket))
        with httpx.Client(transport=transport, base_url="http://renewer", timeout=PATIENCE_S) as client:
            yield client


def register(
    client: httpx.Client, wish: Mapping[str, object], *, key: str | None = None, wait: str | None = None
) -> View:
    """Have an operation followed; with `wait` the answer comes when it is over."""
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = client.post("/v1/operations", json=wish, headers=headers, params={} if wait is None else {"wait": wait})
    assert answer.status_code in {200, 201}, f"{answer.status_code}: {answer.text}"
    view: View = answer.json()
    return view


def result_of(client: httpx.Client, view: View) -> tuple[str, bytes] | None:
    """Content type and body of the result; None if there is none."""
    answer = client.get(f"/v1/operations/{view['id']}/result")
    if answer.status_code in {204, 409}:
        return None
    answer.raise_for_status()
    return answer.headers["Content-Type"], answer.content


def answer_of(response: httpx.Response) -> dict[str, object]:
    """An answer as a caller hands it over: its status, its headers and its body, verbatim."""
    return {
        "method": response.request.method,
        "url": str(response.request.url),
        "status": response.status_code,
        "headers": dict(response.headers),
        "body": response.text,
    }


def read_json(result: tuple[str, bytes] | None) -> object:
    """The result as JSON; None if there is none."""
    return None if result is None else json.loads(result[1])


@contextmanager
def running(accounts: str) -> Iterator[DaemonProcess]:
    """A daemon with these accounts, in a folder of its own; it ends without being asked at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="rn-") as folder:
        daemon = DaemonProcess(Path(folder), accounts)
        daemon.start()
        try:
            yield daemon
        finally:
            with contextlib.suppress(ProcessLookupError):
                daemon.kill()
