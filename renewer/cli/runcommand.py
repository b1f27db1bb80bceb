"""The command line of `renewer run`; what it does is in `renewer.cli.run`, imported when it runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from renewer.cli.overrides import ConfigOption, SetOption
from renewer.daemon.garbage import kept_for_good

app = typer.Typer()


@app.command()
def run(config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    Settings come from the file, then from RENEWER_SECTION__KEY in the environment, then from --set; later ones win.
    Exit code 78 means that the configuration is wrong.
    """
    with kept_for_good(), _as_if_without("rich"):
        from renewer.cli.run import run_daemon
    run_daemon(config, overrides or [])


@contextmanager
def _as_if_without(package: str) -> Iterator[None]:
    """Whoever would import this package if it is installed does without it.

    structlog and httpx load rich, for tracebacks in colour and for a command line of their own. The daemon shows
    neither, and it takes 40 of the 700 ms until the daemon is ready.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
