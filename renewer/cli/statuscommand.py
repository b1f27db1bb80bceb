"""The command lines of `renewer status`, `health` and `drain`; what they do is imported when they run."""

from __future__ import annotations

from typing import Annotated

import typer

from renewer.cli.call import Call, add_command
from renewer.errors import UsageError

app = typer.Typer()


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
