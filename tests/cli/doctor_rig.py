"""A whole examination against the emulator, and how to find one finding in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from renewer.cli.doctor import examine
from renewer.cli.doctor.findings import Finding, Verdict
from renewer.config import Settings, load
from renewer.emulator import Broker, BrokerOptions, FabricEmulator, Faults, QueueSpec, build_http_app, serve_http
from renewer.emulator.admin import EmulatorAdmin

QUEUES = [QueueSpec("orders", requires_session=True), QueueSpec("plain")]
KEY = "bG9jYWw="


class Servers:
    """Both halves of the emulator, serving."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.broker = Broker(QUEUES, faults=self.faults, options=BrokerOptions(key_name="local", key=KEY))
        self.fabric = FabricEmulator(self.faults, token="local")
        self.amqp_port = 0
        self.http_port = 0

    def settings(self, folder: Path, *changes: dict[str, Any], key: str = KEY, entities: Iterable[str] = ("orders",)):
        servicebus = {"main": {"connection_string": connection_string(self.amqp_port, key=key)}}
        return settings(
            folder,
            {"servicebus": servicebus} if self.amqp_port else {},
            {"session": [{"entity": entity, "session_id": "a"} for entity in entities]},
            *changes,
        )

    def fabric_settings(self, **changes: Any) -> dict[str, Any]:
        return {"fabric": {"main": {"base_url": f"http://127.0.0.1:{self.http_port}/v1", "token": "local"} | changes}}


def connection_string(port: int, *, key: str = KEY) -> str:
    return f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=local;SharedAccessKey={key};UseDevelopmentEmulator=true"


def settings(folder: Path, *changes: dict[str, Any]) -> Settings:
    """Settings that collide with nothing on this machine."""
    merged: dict[str, Any] = {
        "daemon": {"state_dir": str(folder / "state")},
        "api": {"listen": f"unix:{folder / 'api.sock'}"},
        "metrics": {"listen": "off"},
    }
    for change in changes:
        for section, content in change.items():
            merged[section] = {**merged.get(section, {}), **content} if isinstance(content, dict) else content
    return load(None, environ={}, overrides=merged)


@asynccontextmanager
async def servers() -> AsyncIterator[Servers]:
    made = Servers()
    async with anyio.create_task_group() as tasks:
        made.amqp_port = await tasks.start(made.broker.serve, "127.0.0.1", 0)
        app = build_http_app(made.fabric, EmulatorAdmin(made.faults))
        made.http_port = await tasks.start(serve_http, app, "127.0.0.1", 0)
        yield made
        tasks.cancel_scope.cancel()


async def findings_of(settings: Settings, subject: str) -> dict[str, Finding]:
    """The findings on one subject, by check; each with a remedy, unless all is well."""
    with anyio.fail_after(30):
        findings = await examine(None, settings)
    for finding in findings:
        assert (finding.remedy is None) == (finding.verdict is Verdict.OK), finding
    return {finding.check: finding for finding in findings if finding.subject == subject}
