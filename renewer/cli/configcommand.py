"""The command line of `renewer config`; what it does is in `renewer.cli.configuration`, imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from renewer.cli.call import AnswerOption, Format
from renewer.cli.later import Group
from renewer.cli.overrides import ConfigOption, SetOption

app = typer.Typer(cls=Group, no_args_is_help=True, help="Look at a configuration without running it.")


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The configuration to check.")],
    overrides: SetOption = None,
    format_: AnswerOption = Format.TABLE,
) -> None:
    """Check a configuration and list every mistake at once: file, key, value, and what would be right.

    Exit code 0 if there is none, 78 otherwise. Nothing is contacted.
    """
    from renewer.cli.configuration import check_config

    check_config(file, overrides or [], as_json=format_ is Format.JSON)


@app.command("show")
def show(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="The configuration.", show_default=False)] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    format_: Annotated[
        Format, typer.Option("--output", "-o", help="table, which reads as TOML; or json.")
    ] = Format.TABLE,
) -> None:
    """Show every setting as it is in effect, and who said so: file and line, environment, flag, or default.

    Secrets are not shown. Exit code 78 if there are mistakes.
    """
    from renewer.cli.configuration import show_config

    show_config(file if file is not None else config, overrides or [], as_json=format_ is Format.JSON)
