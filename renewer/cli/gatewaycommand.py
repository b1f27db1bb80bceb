"""The command line of `renewer gateway`; what it does is in `renewer.cli.gateway`, imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from renewer.cli.later import Group

gateway_app = typer.Typer(cls=Group, no_args_is_help=True, help="What workers need to come in by a gateway.")


@gateway_app.command("connection-string")
def connection_string(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Which gateway, if many.", show_default=False)
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="NAME", help="Which of its keys, if many.", show_default=False)
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", envvar="RENEWER_CONFIG", help="The daemon's configuration.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, as for the daemon.")
    ] = None,
) -> None:
    """Print what a worker connects with: the only thing that it has to change.

    It holds the key: put it where the worker alone can read it. Nothing is contacted.
    """
    from renewer.cli.gateway import print_connection_string

    print_connection_string(config, overrides or [], name=name, key=key)


@gateway_app.command("key")
def new_key(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="Write it there, for its owner alone.", show_default=False),
    ] = None,
) -> None:
    """Make a key for workers: 32 random bytes in base64.

    Name FILE as key_file of the gateway's key. A file that is there already is left as it is.
    """
    from renewer.cli.gateway import make_key

    make_key(file)
