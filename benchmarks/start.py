"""How long it takes until renewer says something: `--help`, a health check, and `run` with thousands of operations to
go on with; then, until its API has answered a first request, which waits for what is loaded after READY=1. Beside it,
what whoever is written on the same libraries and loads them all at once cannot go below: importing them.

Everything runs from compiled bytecode, as it does once it is installed, and is configured by a file.
"""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.figures import Figure, Wanted
from benchmarks.processes import cpu_s

_LIMIT_S = 120.0
_SERVICE = "http://127.0.0.1:9/v1"
"""Nobody listens there, and nobody is asked: it is an hour until the first poll."""
_RETRY_AFTER_S = 3_600

_HELP = ("-m", "renewer", "--help")
_TYPER = ("-c", "import typer")
_LIBRARIES = (
    "-c",
    "import aiohttp, anyio, fastapi, httpx, prometheus_client, pydantic_settings, structlog, typer, uvicorn",
)


def measure(quick: bool) -> Iterator[Figure]:
    """The figures, as they come."""
    rounds, count = (1, 500) if quick else (9, 10_000)
    with tempfile.TemporaryDirectory(prefix="rn-") as name:
        folder = Path(name)
        environ = {
            key: value
            for key, value in os.environ.items()
            if key != "PYTHONDONTWRITEBYTECODE" and not key.startswith("RENEWER_")
        }
        environ |= {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "COLUMNS": "100"}
        yield from _help(environ, rounds)
        yield from _run(environ, folder, rounds, count)


@dataclass
class _Runs:
    """What so many runs took."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)


def _help(environ: Mapping[str, str], rounds: int) -> Iterator[Figure]:
    commands = (_HELP, _TYPER)
    seen = {command: _Runs() for command in commands}
    for number in range(rounds + 1):
        for command in commands:
            wall, cpu = _ended(environ, command)
            if number:  # the first one compiles
                seen[command].wall_s.append(wall)
                seen[command].cpu_s.append(cpu)
    ours, typer = seen[_HELP], seen[_TYPER]
    yield Figure("renewer --help", "until it has ended", "s", ours.wall_s, wanted=Wanted("at most", 0.25))
    yield Figure("renewer --help", "CPU", "s", ours.cpu_s, "python -c 'import typer'", typer.cpu_s)


def _run(environ: Mapping[str, str], folder: Path, rounds: int, count: int) -> Iterator[Figure]:
    config = folder / "config.toml"
    loop = os.environ.get("RENEWER_DAEMON__EVENT_LOOP", "auto")
    config.write_text(
        f"""
        daemon = {{ state_dir = "{folder}/state", log_level = "warning", event_loop = "{loop}" }}
        api.listen = "unix:{folder}/renewer.sock"
        metrics.listen = "off"
        fabric.main = {{ base_url = "{_SERVICE}", token = "local" }}
        """
    )
    health = ("-m", "renewer", "health", "--api", f"unix:{folder}/renewer.sock")
    checks, typer, ready, libraries = _Runs(), _Runs(), _Runs(), _Runs()
    with _daemon(environ, folder, config):
        _adopt(folder, count)
        for number in range(rounds + 1):
            for command, runs in ((health, checks), (_TYPER, typer)):
                _, cpu = _ended(environ, command)
                if number:
                    runs.cpu_s.append(cpu)
    yield Figure("renewer health", "CPU", "s", checks.cpu_s, "python -c 'import typer'", typer.cpu_s)
    answered_s: list[float] = []
    for number in range(rounds + 1):
        with _daemon(environ, folder, config) as (pid, wall):
            cpu = cpu_s(pid)
            ready_at = time.perf_counter()
            with _api(folder) as api:
                api.get("/v1/status").raise_for_status()
            answered = wall + time.perf_counter() - ready_at
        other_wall, other_cpu = _ended(environ, _LIBRARIES)
        if number:
            ready.wall_s.append(wall)
            ready.cpu_s.append(cpu)
            answered_s.append(answered)
            libraries.wall_s.append(other_wall)
            libraries.cpu_s.append(other_cpu)
    work = f"renewer run, {count:,} operations to go on with"
    yield Figure(work, "until READY=1", "s", ready.wall_s, wanted=Wanted("at most", 1.0))
    yield Figure(work, "CPU until READY=1", "s", ready.cpu_s, "importing its libraries", libraries.cpu_s)
    yield Figure(work, "until the API answered", "s", answered_s)


def _ended(environ: Mapping[str, str], arguments: tuple[str, ...]) -> tuple[float, float]:
    """Run Python with these arguments to its end: seconds that passed, and processor time."""
    before, began_at = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environ, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - began_at, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextmanager
def _daemon(environ: Mapping[str, str], folder: Path, config: Path) -> Iterator[tuple[int, float]]:
    """The daemon, ready: its process id, and how long that took. It is stopped in good order."""
    path = folder / "notify.sock"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind(str(path))
        notices.settimeout(_LIMIT_S)
        began_at = time.perf_counter()
        command = [sys.executable, "-m", "renewer", "run", "--config", str(config)]
        with subprocess.Popen(command, env={**environ, "NOTIFY_SOCKET": str(path)}) as running:
            try:
                while b"READY=1" not in notices.recv(4096).split(b"\n"):
                    pass
                yield running.pid, time.perf_counter() - began_at
            finally:
                running.terminate()
                try:
                    running.wait(_LIMIT_S)
                except subprocess.TimeoutExpired:
                    running.kill()


def _adopt(folder: Path, count: int) -> None:
    """Hand so many operations over that somebody else started."""
    with _api(folder) as api:

        def adopt(_number: int) -> None:
            id_ = str(uuid.uuid4())
            headers = {
                "x-ms-operation-id": id_,
                "Location": f"{_SERVICE}/operations/{id_}",
                "Retry-After": str(_RETRY_AFTER_S),
            }
            first = {"method": "POST", "url": f"{_SERVICE}/start", "status": 202, "headers": headers}
            api.post("/v1/operations", json={"adopt": first}, params={"wait": "0s"}).raise_for_status()

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(adopt, range(count)))


def _api(folder: Path) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(folder / "renewer.sock"), retries=0)
    return httpx.Client(transport=transport, base_url="http://renewer", timeout=_LIMIT_S)
