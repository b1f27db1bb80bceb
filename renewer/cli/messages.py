"""`renewer lease receive`, `peek` and `messages`: what is in a session that a lease keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from renewer.cli.call import Call, add_command
from renewer.cli.lease import LeaseId
from renewer.cli.settle import lease_app
from renewer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from renewer.client import Message

__all__ = ["lease_app"]
"""With the commands of this module."""

MaxOption = Annotated[int, typer.Option("--max", metavar="N", min=1, max=100, help="At most so many.")]

_DEFAULT_WAIT = "30s"


@add_command(lease_app, "receive")
def receive(
    call: Call,
    lease_id: LeaseId,
    most: MaxOption = 1,
    wait: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="How long to wait for the first; 0 for not at all. Without it 30s.",
            show_default=False,
        ),
    ] = None,
    deferred: Annotated[
        list[int] | None,
        typer.Option(
            "--deferred", metavar="NUMBER", min=0, help="A deferred message by its sequence number; repeatable."
        ),
    ] = None,
) -> None:
    """Receive messages of the session that a lease keeps. -o json shows all of them, bodies too.

    They are in flight until they are settled with their HANDLE, as in `renewer lease complete LEASE HANDLE`, and go
    back as they were when the lease is released.

    Exit code 0 when there are some, 75 when none came in that time. 1 when the session is lost, or not held.
    """
    from renewer.cli import words
    from renewer.cli.exitcodes import ExitCode
    from renewer.cli.output import note

    if deferred and wait is not None:
        raise UsageError("--wait and --deferred exclude each other: a deferred message is there, or is not")
    wait_s = words.seconds("--wait", _DEFAULT_WAIT if wait is None else wait)
    with call.client("lease", lease_id) as client:
        if deferred:
            messages = client.receive_deferred(lease_id, deferred)
        else:
            messages = client.receive(lease_id, most, wait=wait_s)
    _show(call, messages)
    if not messages:
        note(f"no message came in {words.span(wait_s)}" if wait_s else "there is no message now")
        raise typer.Exit(ExitCode.TRY_AGAIN)


@add_command(lease_app, "peek")
def peek(
    call: Call,
    lease_id: LeaseId,
    most: MaxOption = 10,
    first: Annotated[
        int, typer.Option("--from", metavar="NUMBER", min=0, help="The sequence number to begin with.")
    ] = 0,
) -> None:
    """Look at messages of the session that a lease keeps, deferred and scheduled ones too, without receiving them."""
    from renewer.cli.output import note

    with call.client("lease", lease_id) as client:
        messages = client.peek(lease_id, most, from_sequence_number=first)
    _show(call, messages)
    if not messages and not call.as_json:
        note("there is no message" + (" from that one on" if first else ""))


@add_command(lease_app, "messages")
def messages_(call: Call, lease_id: LeaseId) -> None:
    """List what was received over a lease and is not settled, also what was lost with its session."""
    from renewer.cli.output import Cell, Column, note, print_json, print_table

    with call.client("lease", lease_id) as client:
        flying = client.in_flight(lease_id)
    if call.as_json:
        print_json(flying)
    elif not flying:
        note("no message is in flight")
    else:
        columns = (Column("handle"), Column("number", right=True), Column("state"))
        lost = Cell("lost: it will be delivered again", "bad")
        print_table(
            columns,
            [[one.handle, _number(one.sequence_number), lost if one.is_lost else "in flight"] for one in flying],
        )


def _show(call: Call, messages: Sequence[Message]) -> None:
    from renewer.cli.output import Column, print_json, print_table
    from renewer.cli.words import ago

    if call.as_json:
        print_json(messages)
        return
    columns = (
        Column("number", right=True),
        Column("handle"),
        Column("state"),
        Column("failed", right=True),
        Column("enqueued", right=True),
        Column("id", flexible=True),
        Column("subject", flexible=True),
        Column("body", flexible=True),
    )
    rows = [
        [
            _number(message.sequence_number),
            message.handle or "",
            "" if message.state == "active" else message.state,
            str(message.delivery_count) if message.delivery_count else "",
            ago(message.enqueued_at),
            "" if message.message_id is None else str(message.message_id),
            message.subject or "",
            _body(message),
        ]
        for message in messages
    ]
    if rows:
        print_table(columns, rows)


def _number(sequence_number: int | None) -> str:
    return "" if sequence_number is None else str(sequence_number)


def _body(message: Message) -> str:
    """The beginning of the body, or what it is."""
    from renewer.cli.words import size

    match message.body_kind:
        case "data":
            try:
                text = message.text()
            except ValueError:
                return f"({size(len(message.body))})"
        case "value":
            text = str(message.value)
        case "sequence":
            text = str([item for section in message.sequence for item in section])
        case "unreadable":
            return f"(cannot be read: {message.problem})"
        case _:
            return ""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


_LONGEST = 200
