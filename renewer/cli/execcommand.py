"""The command line of `renewer exec`; what it does is in `renewer.cli.exec`, imported when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from renewer.cli.call import Call, add_command
from renewer.errors import UsageError

app = typer.Typer()


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
    wait: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="How long to wait for the session. Nobody is queued for a pool whose sessions are all taken.",
        ),
    ] = "60s",
) -> None:
    """Hold a session while a command runs.

    renewer exec --entity orders --session customer-42 -- ./work.sh

    CMD finds RENEWER_LEASE, RENEWER_ENTITY, RENEWER_SESSION_ID, RENEWER_EPOCH, RENEWER_LOCKED_UNTIL_UTC and RENEWER_API
    in its environment. When the lock is in danger or lost, its process group gets SIGTERM, and after --grace SIGKILL.
    Signals are passed on, and the session is given back when CMD has ended.

    The exit code is that of CMD, 128+N if signal N ended it. 75: the session was not to be had in time, or all sessions
    of a pool are taken. 76: CMD was stopped because the lock was in danger or lost. 69: the session can never be had
    (no such queue, a queue without sessions, no permission). 126: CMD is not executable; 127: it is not there.
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
