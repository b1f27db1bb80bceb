"""The command line of `renewer version`."""

from __future__ import annotations

import typer

import renewer
from renewer.cli.call import AnswerOption, Format

app = typer.Typer()


@app.command()
def version(format_: AnswerOption = Format.TABLE) -> None:
    """Print the version."""
    if format_ is Format.JSON:
        from renewer.cli.output import print_json

        print_json({"version": renewer.__version__})
    else:
        typer.echo(f"renewer {renewer.__version__}")
