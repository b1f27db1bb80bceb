"""The command line of `renewer run`; what it does is in `renewer.cli.run`, imported when it runs."""

from __future__ import annotations

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
    with kept_for_good():
        from renewer.cli.run import run_daemon
    run_daemon(config, overrides or [])
