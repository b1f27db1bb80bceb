"""`renewer run` and `renewer config check`."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import typer

from renewer.config import load
from renewer.daemon.app import Daemon
from renewer.errors import UsageError
from renewer.observe import LogSink, configure_logging

if TYPE_CHECKING:
    from renewer.config import Settings


def run_daemon(config: Path | None, overrides: list[str]) -> None:
    """Run the daemon until it is told to stop. Raises `ConfigError` or `UsageError`."""
    settings = load(config, environ=os.environ, overrides=_overrides(overrides))
    with closing(configure_logging(level=settings.daemon.log_level, log_format=settings.daemon.log_format)) as sink:
        anyio.run(_serve, settings, sink)


def check_config(file: Path, overrides: list[str]) -> None:
    """Load `file` and say what it holds. Raises `ConfigError` with every mistake."""
    settings = load(file, environ=os.environ, overrides=_overrides(overrides))
    typer.echo(
        f"{file}: no mistakes; {len(settings.session)} sessions on {len(settings.servicebus)} Service Bus "
        f"namespaces, {len(settings.fabric)} Fabric accounts"
    )


async def _serve(settings: Settings, sink: LogSink) -> None:
    daemon = Daemon(settings)
    daemon.metrics.watch_log(sink)
    await daemon.run_until_signalled()


def _overrides(texts: list[str]) -> dict[str, str]:
    overrides: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {key}: must be KEY=VALUE, as in --set daemon.log_level=debug")
        overrides[key.strip()] = value
    return overrides
