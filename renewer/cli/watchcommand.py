"""The command lines of `renewer top` and `renewer events`; what they do is imported when they run."""

from __future__ import annotations

from typing import Annotated

import typer

from renewer.cli.call import Call, add_command

app = typer.Typer()


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
