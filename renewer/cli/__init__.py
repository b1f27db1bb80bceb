"""The commands. Each is loaded when it is used, and imports what it needs when it runs: `--help` answers at once."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, Any, NoReturn, cast

import typer

import renewer
from renewer.cli.exitcodes import EXIT_CODES_HELP, CommandError, ExitCode
from renewer.cli.later import Group, Later
from renewer.errors import ConfigError, RegistryError, RenewerError, UsageError

_COMMANDS = (
    Later("run", "Run the daemon until SIGTERM or SIGINT.", "runcommand"),
    Later(
        "status",
        "Say how the daemon is: state, leases, operations, smallest margin, loop lag, trouble.",
        "statuscommand",
    ),
    Later(
        "health",
        "Say whether the daemon answers: for the health check of a container, a probe, a monitor.",
        "statuscommand",
    ),
    Later(
        "top",
        "Watch the daemon on a live screen: leases nearest to expiry, operations under way, what happened lately.",
        "watchcommand",
    ),
    Later(
        "events",
        "Tell what happens, line by line, until Ctrl-C. Renewals and polls are told where --type names them.",
        "watchcommand",
    ),
    Later("exec", "Hold a session while a command runs.", "execcommand"),
    Later("drain", "Take no new work, and wait until every lock has been given back.", "statuscommand"),
    Later(
        "doctor",
        "Look for what is wrong: configuration, disk, sockets, brokers, tokens, clocks, limits, and the running "
        "daemon.",
        "doctorcommand",
    ),
    Later(
        "emulator",
        "Run a Service Bus and a Fabric that misbehave on demand, for development and tests.",
        "emulatorcommand",
    ),
    Later(
        "demo",
        "See the daemon at work against the emulator: three sessions held, five Fabric operations followed.",
        "democommand",
    ),
    Later("version", "Print the version.", "versioncommand"),
    Later("lease", "Locks: look at them, hold, renew, release, watch.", "messages", "lease_app"),
    Later("op", "Long-running operations: submit, adopt, wait for, read.", "op", "op_app"),
    Later("gateway", "What workers need to come in by a gateway.", "gatewaycommand", "gateway_app"),
    Later("config", "Look at a configuration without running it.", "configcommand"),
)


class _Commands(Group):
    """All commands, in the order in which the help shows them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for command in _COMMANDS:
            self.add_command(command)


app = typer.Typer(
    name="renewer",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES_HELP,
)
_MISUSED = cast(type[Exception], typer.BadParameter.__mro__[2])
"""What typer raises where a command line makes no sense: the base of all such exceptions, which it does not export."""


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"renewer {renewer.__version__}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Keeps Azure Service Bus locks alive and follows long-running operations to their end."""


def main() -> None:
    """Run the command line; errors that are meant for people are told without a traceback."""
    try:
        # Not standalone: what is no use of a command at all ends as all other wrong usage does.
        sys.exit(app(prog_name="renewer", standalone_mode=False))
    except _MISUSED as error:
        _tell_misuse(error)
    except typer.Abort:
        sys.exit(ExitCode.SIGNALLED + signal.SIGINT)
    except RenewerError as error:
        _tell(error)
    except BrokenPipeError:
        # Whoever read has enough, as in `renewer events | head`. What is buffered cannot be written either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.SIGNALLED + signal.SIGPIPE)
    except BaseExceptionGroup as group:
        # Task groups wrap what their tasks raise.
        meant, bugs = group.split(RenewerError)
        if meant is None or bugs is not None:
            raise
        _tell(_first(meant))


def _tell_misuse(error: Exception) -> NoReturn:
    """Say in one line what was wrong; who gave nothing at all has been shown the help already."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ != "NoArgsIsHelpError":
        format_message = getattr(error, "format_message", None)
        text = str(error if format_message is None else format_message()).replace("Value error, ", "")
        hint = f" (`{context.command_path} --help` tells more)" if context is not None else ""
        typer.echo(f"renewer: {' '.join(text.split()).rstrip('.')}{hint}", err=True)
    sys.exit(ExitCode.USAGE)


def _tell(error: RenewerError) -> NoReturn:
    if isinstance(error, ConfigError):
        from renewer.config import describe_problems

        typer.echo(describe_problems(error), err=True)
    else:
        typer.echo(f"renewer: {error}", err=True)
    sys.exit(_exit_code(error))


def _exit_code(error: RenewerError) -> int:
    match error:
        case CommandError(code=code):
            return code
        case ConfigError():
            return ExitCode.CONFIG
        case RegistryError():
            return ExitCode.CANNOT_CREATE
        case UsageError():
            # With a cause, what was asked for made sense and the system refused it.
            return ExitCode.CANNOT_CREATE if isinstance(error.__cause__, OSError) else ExitCode.USAGE
        case _:
            return ExitCode.FAILED


def _first(group: BaseExceptionGroup[RenewerError]) -> RenewerError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
