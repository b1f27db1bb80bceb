"""`renewer run`."""

from __future__ import annotations

import contextlib
import os
import resource
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from renewer.cli.overrides import parse_overrides
from renewer.config import load
from renewer.daemon.app import Daemon
from renewer.daemon.garbage import collect_seldom
from renewer.observe import LogSink, configure_logging

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.config import Settings


def run_daemon(config: Path | None, overrides: list[str]) -> None:
    """Run the daemon until it is told to stop. Raises `ConfigError` or `UsageError`."""

    def read_settings() -> Settings:
        return load(config, environ=os.environ, overrides=parse_overrides(overrides))

    _fill_standard_streams()
    settings = read_settings()
    _allow_many_files()
    collect_seldom()
    with closing(configure_logging(level=settings.daemon.log_level, log_format=settings.daemon.log_format)) as sink:
        options = {"use_uvloop": settings.daemon.uses_uvloop()}
        anyio.run(_serve, settings, read_settings, sink, backend_options=options)


def _fill_standard_streams() -> None:
    """Where one is closed a socket would get its number: libuv aborts over that, and what is printed would go there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest number that is free: this one.
            os.open(os.devnull, os.O_RDWR)


def _allow_many_files() -> None:
    """Each owner that is connected needs an open file, and the usual soft limit is 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(settings: Settings, read_settings: Callable[[], Settings], sink: LogSink) -> None:
    await Daemon(settings, read_settings=read_settings, log_sink=sink).run_until_signalled()
