"""`renewer demo`: the emulator and the daemon in one process, and a table of what they do."""

from __future__ import annotations

import json
import signal
import tempfile
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import httpx
import typer
from rich.console import Console
from rich.live import Live

from renewer.asgi import listen_tcp
from renewer.cli.demoview import Story, Views, show
from renewer.cli.exitcodes import ExitCode
from renewer.cli.gateway import connection_string
from renewer.config import load, parse_duration
from renewer.daemon.app import Daemon
from renewer.emulator import SCENARIO_HEADER, Emulator, QueueSpec
from renewer.errors import UsageError
from renewer.observe import configure_logging

if TYPE_CHECKING:
    from renewer.config import Settings

_LOCK_S = 10.0
REFRESH_S = 0.25
_UNDER_WAY = ("not begun", "accepted", "running", "fetching")
_SESSIONS = ("customer-42", "customer-43", "customer-44")
_WORKSPACE = "/workspaces/cfafbeb1-8037-4d0c-896e-a46fb27ff229"
_ITEM = f"{_WORKSPACE}/items/5b218778-e7a5-4d73-8187-f10824047715"


_STORIES = (
    Story("notebook, created at once", f"{_WORKSPACE}/notebooks", "immediate"),
    Story("notebook, created later", f"{_WORKSPACE}/notebooks", "polled"),
    Story(
        "definition, no result",
        f"{_ITEM}/updateDefinition",
        "no-result",
        result="none",
        body={"definition": {"parts": [{"path": "notebook-content.py", "payload": "", "payloadType": "InlineBase64"}]}},
    ),
    Story("lakehouse, throttled", f"{_WORKSPACE}/lakehouses", "throttled"),
    Story("report that fails", f"{_WORKSPACE}/reports", "failed", ends="failed", result=None),
)


@dataclass(frozen=True, slots=True)
class Summary:
    """What the demo saw, in the words of its JSON output. Spans in seconds."""

    sessions_held: int
    renewals: int
    lost: int
    min_margin_s: float | None
    operations_succeeded: int
    operations_failed: int
    max_lateness_s: float


def run_demo(for_: str | None, *, as_json: bool) -> None:
    """Run the demo; raises `typer.Exit` with 1 if something was lost or did not end as scripted."""
    try:
        seconds = None if for_ is None else parse_duration(for_).total_seconds()
    except ValueError as error:
        raise UsageError(f"--for {for_}: {error}") from error
    # The table is the log; in a terminal, lines between would tear it.
    log = configure_logging(level="warning" if as_json else "critical")
    with closing(log), tempfile.TemporaryDirectory(prefix="rn-") as folder:
        summary, complaints = anyio.run(_demo, Path(folder), seconds, as_json)
    if as_json:
        typer.echo(json.dumps(asdict(summary)))
    for complaint in complaints:
        typer.echo(f"renewer demo: {complaint}", err=True)
    if complaints:
        raise typer.Exit(ExitCode.FAILED)


async def _demo(folder: Path, seconds: float | None, as_json: bool) -> tuple[Summary, list[str]]:
    emulator = Emulator([QueueSpec("orders", requires_session=True)], lock_duration_s=_LOCK_S)
    async with anyio.create_task_group() as outer:
        amqp_port, http_port = await outer.start(emulator.run, ("127.0.0.1", 0), ("127.0.0.1", 0))
        settings = _settings(folder, amqp_port, http_port)
        daemon = Daemon(settings)
        async with anyio.create_task_group() as inner:
            await inner.start(daemon.run)
            try:
                views = await _watch(settings, seconds, as_json=as_json)
            finally:
                daemon.stop()
        still_held = emulator.broker.counters.sessions_held
        outer.cancel_scope.cancel()
    complaints = _complaints(views, patient=not as_json)
    if still_held:
        complaints.append(f"{still_held} sessions were still held after the daemon had stopped")
    elif not as_json:
        Console().print("\nStopped: every session was released.")
    return _summary(views, daemon.attempts.max_lateness_s), complaints


async def _watch(settings: Settings, seconds: float | None, *, as_json: bool) -> Views:
    """Start the operations and look on until the time is over or someone stops the demo."""
    transport = httpx.AsyncHTTPTransport(uds=str(settings.api.listen).removeprefix("unix:"))
    async with httpx.AsyncClient(transport=transport, base_url="http://renewer", timeout=60) as api:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with anyio.create_task_group() as tasks:
                views = Views(leases=[], operations={})
                for story in _STORIES:
                    tasks.start_soon(_begin, api, story, views)
                if not as_json:
                    tasks.start_soon(_draw, api, views, settings)
                with anyio.move_on_after(seconds):
                    async for _ in signals:
                        break
                tasks.cancel_scope.cancel()
        await _refresh(api, views)
    return views


async def _begin(api: httpx.AsyncClient, story: Story, views: Views) -> None:
    body = {
        "account": "fabric.demo",
        "submit": {
            "method": "POST",
            "url": story.path,
            "headers": {SCENARIO_HEADER: story.scenario},
            "body": {"displayName": story.name, **story.body},
        },
        "labels": {"story": story.name},
    }
    answer = await api.post("/v1/operations", json=body)
    views.operations[story] = answer.raise_for_status().json()


async def _draw(api: httpx.AsyncClient, views: Views, settings: Settings) -> None:
    metrics = settings.metrics.listen.authority if settings.metrics.listen else ""
    hints = [f"curl --unix-socket {_socket(settings)} http://renewer/v1/leases", f"curl http://{metrics}/metrics"]
    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            await _refresh(api, views)
            live.update(show(views, hints))
            live.refresh()
            await anyio.sleep(REFRESH_S)


async def _refresh(api: httpx.AsyncClient, views: Views) -> None:
    leases = await api.get("/v1/leases")
    views.leases = leases.raise_for_status().json()["items"]
    for story, operation in list(views.operations.items()):
        answer = await api.get(f"/v1/operations/{operation['id']}")
        views.operations[story] = answer.raise_for_status().json()


def _settings(folder: Path, amqp_port: int, http_port: int) -> Settings:
    return load(
        None,
        environ={},
        overrides={
            "daemon": {"state_dir": str(folder)},
            "api": {"listen": f"unix:{folder}/renewer.sock"},
            "metrics": {"listen": f"127.0.0.1:{free_port()}"},
            "servicebus": {
                "demo": {"connection_string": connection_string(f"127.0.0.1:{amqp_port}", "local", "bG9jYWw=")}
            },
            "session": [{"entity": "orders", "session_id": session_id} for session_id in _SESSIONS],
            "fabric": {"demo": {"base_url": f"http://127.0.0.1:{http_port}/v1", "token": "local"}},
        },
    )


def free_port() -> int:
    """A port that was free a moment ago, so that the address can be shown before anything listens there."""
    with listen_tcp("127.0.0.1", 0) as listener:
        port: int = listener.getsockname()[1]
    return port


def _socket(settings: Settings) -> str:
    return str(settings.api.listen).removeprefix("unix:")


def _complaints(views: Views, *, patient: bool) -> list[str]:
    """What did not go as it should have; empty if the daemon did its work.

    Who is `patient` and stops the demo early does not complain of what had no time to happen.
    """
    complaints = [
        f"session {lease['session_id']} is {lease['state']}, lost {lease['losses']} times"
        for lease in views.leases
        if lease["losses"] or (lease["state"] != "held" and not (patient and lease["state"] == "acquiring"))
    ]
    if len(views.leases) != len(_SESSIONS):
        complaints.append(f"{len(views.leases)} sessions are known instead of {len(_SESSIONS)}")
    for story in _STORIES:
        operation = views.operations.get(story)
        state = operation["state"] if operation else "not begun"
        if patient and state in _UNDER_WAY:
            continue
        result = (operation["result"] or {}).get("kind") if operation else None
        if (state, result) != (story.ends, story.result):
            complaints.append(
                f"operation '{story.name}' is {state} with result {result} instead of {story.ends} with {story.result}"
            )
    return complaints


def _summary(views: Views, max_lateness_s: float) -> Summary:
    margins = [lease["min_margin_s"] for lease in views.leases if lease["min_margin_s"] is not None]
    states = [operation["state"] for operation in views.operations.values()]
    return Summary(
        sessions_held=sum(lease["state"] == "held" for lease in views.leases),
        renewals=sum(lease["renewals"] for lease in views.leases),
        lost=sum(lease["losses"] for lease in views.leases),
        min_margin_s=min(margins, default=None),
        operations_succeeded=states.count("succeeded"),
        operations_failed=states.count("failed"),
        max_lateness_s=round(max_lateness_s, 3),
    )
