"""The command line of `renewer doctor`; what it does is in `renewer.cli.doctor`, imported when it runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from renewer.cli.call import flowing

app = typer.Typer()


class Output(StrEnum):
    """How findings are told."""

    TABLE = "table"
    JSON = "json"


def doctor(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", envvar="RENEWER_CONFIG", help="The daemon's configuration."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, as in --set daemon.state_dir=/srv."),
    ] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="Lines for people, or one JSON document.")] = (
        Output.TABLE
    ),
) -> None:
    """Look for what is wrong: configuration, disk, sockets, brokers, tokens, clocks, limits, and the running daemon.

    Each check has a verdict (ok, warn, fail) and, where something is wrong, a remedy. It takes no lock and changes
    nothing; run it as the daemon's user, with the daemon's configuration.

    Exit code 0 if nothing failed, 1 if something did, 78 if the configuration has mistakes.
    """
    from renewer.cli.doctor import run_doctor

    raise typer.Exit(run_doctor(config, overrides or [], output.value))


app.command(help=flowing(doctor.__doc__))(doctor)
