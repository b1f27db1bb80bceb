"""`renewer run`."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from renewer.cli.overrides import parse_overrides
from renewer.config import load
from renewer.daemon.app import Daemon
from renewer.observe import LogSink, configure_logging

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.config import Settings


def run_daemon(config: Path | None, overrides: list[str]) -> None:
    """Run the daemon until it is told to stop. Raises `ConfigError` or `UsageError`."""

    def read_settings() -> Settings:
        return load(config, environ=os.environ, overrides=parse_overrides(overrides))

    settings = read_settings()
    _allow_many_files()
    _collect_garbage_seldom()
    with closing(configure_logging(level=settings.daemon.log_level, log_format=settings.daemon.log_format)) as sink:
        anyio.run(_serve, settings, read_settings, sink)


def _allow_many_files() -> None:
    """Each owner that is connected needs an open file, and the usual soft limit is 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _collect_garbage_seldom() -> None:
    """What is here by now stays, and what comes is most often freed without a collector's help.

    Left as it is, collecting takes a seventh of the time under thousands of polls a second, and a full collection holds
    the loop for a tenth of a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)


async def _serve(settings: Settings, read_settings: Callable[[], Settings], sink: LogSink) -> None:
    await Daemon(settings, read_settings=read_settings, log_sink=sink).run_until_signalled()
