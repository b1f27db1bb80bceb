"""`renewer demo --gateway`: one worker, run twice, with the gateway and without it, and what becomes of its lock."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from contextlib import closing, suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import httpx
import typer
from anyio.streams.buffered import BufferedByteReceiveStream
from rich.console import Console
from rich.live import Live

from renewer.cli.demo import REFRESH_S, free_port
from renewer.cli.exitcodes import ExitCode
from renewer.cli.gateway import connection_string
from renewer.cli.gatewaydemoview import Contest, Worker, show
from renewer.config import load, parse_duration
from renewer.daemon.app import Daemon
from renewer.emulator import Emulator, QueueSpec
from renewer.errors import UsageError
from renewer.observe import configure_logging

if TYPE_CHECKING:
    from anyio.abc import ByteReceiveStream, Process

    from renewer.config import Settings

LOCK: Final = "10s"
BLOCK: Final = "30s"

_QUEUE: Final = "orders"
_KEY: Final = "a-key-for-the-demo-alone"
_MARGIN_S: Final = 60.0
"""How long the workers may take beside what they block for, until the demo gives up on them."""
_LONGEST_LINE: Final = 64 * 1024


def run_gateway_demo(for_: str | None, lock: str, block: str, *, as_json: bool) -> None:
    """Run the demo; raises `typer.Exit` with 1 unless the gateway's worker kept its lock and the other one lost it.

    Raises `UsageError` where it cannot be run.
    """
    lock_s, block_s = _seconds("--lock", lock), _seconds("--block", block)
    limit_s = block_s + _MARGIN_S if for_ is None else _seconds("--for", for_)
    if block_s <= lock_s:
        raise UsageError(f"--block {block}: must be longer than --lock {lock}, or there is nothing to lose")
    if not _has_sdk():
        raise UsageError("its workers use azure-servicebus, which is not installed: pip install 'renewer[demo]'")
    log = configure_logging(level="error" if as_json else "critical")
    contest = Contest(
        lock_s,
        block_s,
        gateway=Worker("through the gateway", "with-gateway"),
        direct=Worker("on its own", "on-its-own"),
    )
    with closing(log), tempfile.TemporaryDirectory(prefix="rn-") as folder:
        finished = anyio.run(_demo, Path(folder), contest, limit_s, as_json)
    if as_json:
        typer.echo(json.dumps(asdict(contest.summary())))
    if not finished:
        typer.echo(f"renewer demo: stopped, at the latest after {limit_s:g} s, before the workers had ended", err=True)
    if not contest.is_as_told:
        if as_json:
            typer.echo(f"renewer demo: {contest.verdict()}", err=True)
        raise typer.Exit(ExitCode.FAILED)


async def _demo(folder: Path, contest: Contest, limit_s: float, as_json: bool) -> bool:
    """Whether both workers have ended in time."""
    emulator = Emulator([QueueSpec(_QUEUE, requires_session=True)], lock_duration_s=contest.lock_s)
    finished = False
    async with anyio.create_task_group() as outer:
        amqp_port, _ = await outer.start(emulator.run, ("127.0.0.1", 0), ("127.0.0.1", 0))
        settings = _settings(folder, amqp_port, contest)
        daemon = Daemon(settings)
        async with anyio.create_task_group() as inner:
            await inner.start(daemon.run)
            try:
                finished = await _watch(settings, emulator, contest, limit_s, as_json=as_json)
            finally:
                daemon.stop()
        outer.cancel_scope.cancel()
    return finished


async def _watch(settings: Settings, emulator: Emulator, contest: Contest, limit_s: float, *, as_json: bool) -> bool:
    """Run the workers and look on until both have ended, the time is over or someone stops the demo."""
    transport = httpx.AsyncHTTPTransport(uds=str(settings.api.listen).removeprefix("unix:"))
    workers = (contest.gateway, contest.direct)
    async with httpx.AsyncClient(transport=transport, base_url="http://renewer", timeout=60) as api:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals, anyio.move_on_after(limit_s):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_look, api, emulator, contest)
                if not as_json:
                    tasks.start_soon(_draw, contest)
                tasks.start_soon(_end_on_signal, signals, tasks.cancel_scope)
                async with anyio.create_task_group() as running:
                    for worker in workers:
                        running.start_soon(_work, worker, contest.block_s)
                tasks.cancel_scope.cancel()
        if not as_json:
            Console().print(show(contest))
    return all(worker.has_ended for worker in workers)


async def _end_on_signal(signals: Any, scope: anyio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


async def _work(worker: Worker, block_s: float) -> None:
    """Run one worker, and note what it tells."""
    command = [sys.executable, "-m", "renewer.cli.demoworker", _QUEUE, worker.session_id, str(block_s)]
    environ = {**os.environ, "SERVICEBUS_CONNECTION": worker.connection_string}
    # Out of reach of Ctrl-C, which is for the demo: it ends them.
    process = await anyio.open_process(command, env=environ, stderr=None, start_new_session=True)
    try:
        if process.stdout is not None:
            await _listen(worker, process.stdout)
        await process.wait()
    finally:
        await _end(process)
    worker.ended(anyio.current_time(), process.returncode)


async def _listen(worker: Worker, stdout: ByteReceiveStream) -> None:
    lines = BufferedByteReceiveStream(stdout)
    with suppress(anyio.EndOfStream, anyio.IncompleteRead, anyio.DelimiterNotFound):
        while True:
            line = await lines.receive_until(b"\n", _LONGEST_LINE)
            worker.told(json.loads(line), anyio.current_time())


async def _end(process: Process) -> None:
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            # It blocks its loop: nothing gentler would be heard.
            with suppress(ProcessLookupError):
                process.kill()
        await process.aclose()


async def _draw(contest: Contest) -> None:
    with Live(console=Console(), auto_refresh=False, transient=True) as live:
        while True:
            live.update(show(contest))
            live.refresh()
            await anyio.sleep(REFRESH_S)


async def _look(api: httpx.AsyncClient, emulator: Emulator, contest: Contest) -> None:
    """Ask the broker how the locks stand, and the daemon how often it has renewed."""
    while True:
        contest.now = anyio.current_time()
        for worker in (contest.gateway, contest.direct):
            worker.lock_left_s = emulator.broker.lock_left_s(_QUEUE, worker.session_id)
            worker.held_at(contest.now)
        answer = await api.get("/v1/leases", params={"session_id": contest.gateway.session_id})
        for lease in answer.raise_for_status().json()["items"]:
            contest.gateway.renewals = max(contest.gateway.renewals, lease["renewals"])
            contest.gateway.min_margin_s = lease["min_margin_s"]
        await anyio.sleep(REFRESH_S)


def _settings(folder: Path, amqp_port: int, contest: Contest) -> Settings:
    """The daemon's, with a gateway; the workers are told where to connect."""
    broker, gateway = f"127.0.0.1:{amqp_port}", f"127.0.0.1:{free_port()}"
    contest.direct.connection_string = connection_string(broker, "local", "bG9jYWw=")
    contest.gateway.connection_string = connection_string(gateway, "local", _KEY)
    return load(
        None,
        environ={},
        overrides={
            "daemon": {"state_dir": str(folder)},
            "api": {"listen": f"unix:{folder}/renewer.sock"},
            "metrics": {"listen": "off"},
            "servicebus": {"demo": {"connection_string": contest.direct.connection_string}},
            "gateway": [{"listen": gateway, "key": [{"name": "local", "key": _KEY, "entities": [_QUEUE]}]}],
        },
    )


def _seconds(option: str, text: str) -> float:
    try:
        return parse_duration(text).total_seconds()
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}") from error


def _has_sdk() -> bool:
    try:
        return find_spec("azure.servicebus") is not None
    except ModuleNotFoundError:
        return False
