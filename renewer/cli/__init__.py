"""The commands. Each imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import renewer
from renewer.cli.exitcodes import ExitCode
from renewer.errors import ConfigError, RenewerError, UsageError

app = typer.Typer(
    name="renewer",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Keeps Azure Service Bus locks alive and follows long-running operations to their end.",
)
config_app = typer.Typer(no_args_is_help=True, help="Look at a configuration without running it.")
app.add_typer(config_app, name="config")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="RENEWER_CONFIG", help="The configuration; see config.example.toml."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, as in --set daemon.log_level=debug."),
]


def _print_version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Keeps Azure Service Bus locks alive and follows long-running operations to their end."""


@app.command()
def run(config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    Settings come from the file, then from RENEWER_SECTION__KEY in the environment, then from --set; later ones win.
    Exit code 78 means that the configuration is wrong.
    """
    from renewer.cli.run import run_daemon

    run_daemon(config, overrides or [])


@config_app.command("check")
def config_check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The configuration to check.")],
    overrides: SetOption = None,
) -> None:
    """Check a configuration and list every mistake at once: file, key, value, and what would be right.

    Exit code 0 if there is none, 78 otherwise. Nothing is contacted.
    """
    from renewer.cli.run import check_config

    check_config(file, overrides or [])


@app.command()
def emulator(
    amqp: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where Service Bus listens.")] = "127.0.0.1:5672",
    http: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where Fabric, and the admin API under /_emulator, listen.")
    ] = "127.0.0.1:8323",
    lock_duration: Annotated[str, typer.Option(metavar="DURATION", help="How long locks last.")] = "30s",
    queue: Annotated[
        list[str] | None,
        typer.Option(
            "--queue", metavar="NAME[:session]", help="A queue; with :session its messages have sessions. Repeatable."
        ),
    ] = None,
    token: Annotated[str, typer.Option(help="The bearer token that Fabric accepts; empty for any.")] = "local",  # noqa: S107
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run a Service Bus and a Fabric that misbehave on demand, for development and tests.

    Connection string: Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true
    Faults are scripted with POST http://127.0.0.1:8323/_emulator/faults.
    """
    from renewer.cli.emulator import run_emulator

    run_emulator(amqp, http, lock_duration, queue or [], token or None, log_level=log_level)


@app.command()
def demo(
    for_: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="Stop after this long; else Ctrl-C stops it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="No live table; one JSON object at the end.")] = False,
) -> None:
    """See the daemon at work against the emulator: three sessions held, five Fabric operations followed.

    With --json the exit code is 0 only if nothing was lost and every operation ended as scripted.
    """
    from renewer.cli.demo import run_demo

    run_demo(for_, as_json=as_json)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"renewer {renewer.__version__}")


def main() -> None:
    """Run the command line; errors that are meant for people are told without a traceback."""
    try:
        app()
    except RenewerError as error:
        _tell(error)
    except BaseExceptionGroup as group:
        # Task groups wrap what their tasks raise.
        meant, bugs = group.split(RenewerError)
        if meant is None or bugs is not None:
            raise
        _tell(_first(meant))


def _tell(error: RenewerError) -> NoReturn:
    if isinstance(error, ConfigError):
        from renewer.config import describe_problems

        typer.echo(describe_problems(error), err=True)
        sys.exit(ExitCode.CONFIG)
    typer.echo(f"renewer: {error}", err=True)
    sys.exit(ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.FAILED)


def _first(group: BaseExceptionGroup[RenewerError]) -> RenewerError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
