"""The commands. Each imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn, cast

import typer

import renewer
from renewer.cli.call import Call, Format, add_command, flowing
from renewer.cli.democommand import demo
from renewer.cli.doctorcommand import doctor
from renewer.cli.exitcodes import EXIT_CODES_HELP, CommandError, ExitCode
from renewer.cli.gatewaycommand import gateway_app
from renewer.cli.messages import lease_app
from renewer.cli.op import op_app
from renewer.errors import ConfigError, RegistryError, RenewerError, UsageError

app = typer.Typer(
    name="renewer",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES_HELP,
)
_MISUSED = cast(type[Exception], typer.BadParameter.__mro__[2])
"""What typer raises where a command line makes no sense: the base of all such exceptions, which it does not export."""

config_app = typer.Typer(no_args_is_help=True, help="Look at a configuration without running it.")
app.add_typer(lease_app, name="lease")
app.add_typer(op_app, name="op")
app.add_typer(gateway_app, name="gateway")
app.add_typer(config_app, name="config")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="RENEWER_CONFIG", help="The configuration; see config.example.toml."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, as in --set daemon.log_level=debug."),
]


AnswerOption = Annotated[Format, typer.Option("--output", "-o", help="table for people, json for programs.")]


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
    format_: AnswerOption = Format.TABLE,
) -> None:
    """Check a configuration and list every mistake at once: file, key, value, and what would be right.

    Exit code 0 if there is none, 78 otherwise. Nothing is contacted.
    """
    from renewer.cli.configuration import check_config

    check_config(file, overrides or [], as_json=format_ is Format.JSON)


@config_app.command("show")
def config_show(
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


@add_command(app)
def status(call: Call) -> None:
    """Say how the daemon is: state, leases, operations, smallest margin, loop lag, trouble."""
    from renewer.cli.status import show_status

    show_status(call)


@add_command(app)
def health(
    call: Call,
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="How long it may take to answer.")] = "3s",
) -> None:
    """Say whether the daemon answers: for the health check of a container, a probe, a monitor.

    What is wrong around it, such as a broker that is away, is shown and changes nothing: to restart the daemon would
    not help, and cost the sessions that it holds.

    Exit code 0 when it answers, 69 when there is none, 75 when it does not answer in time.
    """
    from renewer.cli.health import check_health

    check_health(call, timeout=timeout)


@add_command(app)
def top(
    call: Call,
    once: Annotated[bool, typer.Option("--once", help="Print one screen and exit.")] = False,
) -> None:
    """Watch the daemon on a live screen: leases nearest to expiry, operations under way, what happened lately.

    --once -o json prints one document: status, leases, operations.
    """
    from renewer.cli.top import show_top

    show_top(call, once=once)


@add_command(app)
def events(
    call: Call,
    type_: Annotated[
        list[str] | None,
        typer.Option(
            "--type", metavar="TYPE", help="lease.lost, operation.failed, or lease for all of those; repeatable."
        ),
    ] = None,
    subject: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only those of this lease or operation; repeatable.")
    ] = None,
    after: Annotated[str | None, typer.Option(metavar="EVENT", help="Begin after the event with this id.")] = None,
) -> None:
    """Tell what happens, line by line, until Ctrl-C. Renewals and polls are told where --type names them.

    A daemon that goes away is waited for; stderr says so, and when it is back, and which --subject is not known.

    With -o json each line is one JSON document.
    """
    from renewer.cli.events import follow

    follow(call, type_ or [], subject or [], after)


@add_command(app, "exec", answers=False, context_settings={"allow_interspersed_args": False})
def exec_(
    call: Call,
    command: Annotated[list[str], typer.Argument(metavar="-- CMD [ARGS]...", help="What to run.")],
    entity: Annotated[str, typer.Option(metavar="NAME", help="A queue or topic/Subscriptions/name.")],
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="Which session; else the next available one.", show_default=False)
    ] = None,
    servicebus: Annotated[str | None, typer.Option(metavar="NAME", help="Which namespace, if many.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="A word of your own; repeatable.")
    ] = None,
    on_lost: Annotated[
        str,
        typer.Option(metavar="term|warn", help="When the lock is in danger or lost: stop CMD, or only say so."),
    ] = "term",
    grace: Annotated[
        str, typer.Option(metavar="DURATION", help="How long CMD has from SIGTERM until SIGKILL.")
    ] = "10s",
    wait: Annotated[str, typer.Option(metavar="DURATION", help="How long to wait for the session.")] = "60s",
) -> None:
    """Hold a session while a command runs.

    renewer exec --entity orders --session customer-42 -- ./work.sh

    CMD finds RENEWER_LEASE, RENEWER_ENTITY, RENEWER_SESSION_ID, RENEWER_EPOCH, RENEWER_LOCKED_UNTIL_UTC and RENEWER_API
    in its environment. When the lock is in danger or lost, its process group gets SIGTERM, and after --grace SIGKILL.
    Signals are passed on, and the session is given back when CMD has ended.

    The exit code is that of CMD, 128+N if signal N ended it. 75: the session was not to be had in time. 76: CMD was
    stopped because the lock was in danger or lost. 69: the session can never be had (no such queue, a queue without
    sessions, no permission). 126: CMD is not executable; 127: it is not there.
    """
    from renewer.cli import words
    from renewer.cli.exec import OnLost, Plan, execute

    if on_lost not in tuple(OnLost):
        raise UsageError(f"--on-lost {on_lost}: must be term or warn")
    execute(
        call,
        Plan(
            entity=entity,
            session_id=session,
            servicebus=servicebus,
            labels=words.labels(label or []),
            wait_s=words.seconds("--wait", wait),
            on_lost=OnLost(on_lost),
            grace_s=words.seconds("--grace", grace),
            command=command,
        ),
    )


@add_command(app)
def drain(
    call: Call,
    park: Annotated[
        bool,
        typer.Option("--park", help="Give every lock back now; the next start, or --off, has them held again."),
    ] = False,
    off: Annotated[bool, typer.Option("--off", help="Take new work again.")] = False,
    wait: Annotated[str, typer.Option(metavar="DURATION", help="How long to wait until no lock is held.")] = "60s",
) -> None:
    """Take no new work, and wait until every lock has been given back.

    Locks are given back by those who asked for them, or when their owners end. Those of the sessions that the
    configuration names have nobody else: only --park gives them back.

    Exit code 0 when none is held any longer, 75 when some are left.
    """
    from renewer.cli.status import drain as drain_daemon

    if park and off:
        raise UsageError("--park and --off exclude each other")
    drain_daemon(call, park=park, off=off, wait=wait)


app.command(help=flowing(doctor.__doc__))(doctor)


def emulator(
    amqp: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where Service Bus listens.")] = "127.0.0.1:5672",
    http: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where Fabric, and the admin API under /_emulator, listen.")
    ] = "127.0.0.1:8323",
    websocket: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where Service Bus listens for AMQP over WebSocket, too.")
    ] = None,
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

    Connection string:

    Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true

    What goes wrong is scripted at the address of --http:

    Answers, links and connections: `on` is fabric.submit, .poll, .result, .cancel or servicebus.connect, .cbs, .attach,
    .management, .transfer, .disposition; `action` is lose_reply, drop, delay (delay_s), busy (retry_after),
    unauthorized, status (status, condition), detach, close, reset or garbage; `times` is how often. DELETE ends them.

    curl 127.0.0.1:8323/_emulator/faults -d '{"on": "fabric.poll", "action": "status", "status": 503, "times": 3}'

    How Fabric operations go: GET /_emulator/scenarios lists what a script can name. The next operation fails with

    curl 127.0.0.1:8323/_emulator/scripts -d '{"scenario": "failed"}'

    A clock that is off: curl -X PUT 127.0.0.1:8323/_emulator/clock -d '{"offset_s": 30}'

    GET /_emulator/state shows what is there and has been seen.
    """
    from renewer.cli.emulator import run_emulator

    run_emulator(amqp, http, lock_duration, queue or [], token or None, websocket=websocket, log_level=log_level)


app.command(help=flowing(emulator.__doc__))(emulator)


app.command(help=flowing(demo.__doc__))(demo)


@app.command()
def version(format_: AnswerOption = Format.TABLE) -> None:
    """Print the version."""
    if format_ is Format.JSON:
        from renewer.cli.output import print_json

        print_json({"version": renewer.__version__})
    else:
        typer.echo(f"renewer {renewer.__version__}")


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
