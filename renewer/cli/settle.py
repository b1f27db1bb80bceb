"""`renewer lease complete`, `abandon`, `defer` and `dead-letter`: settle a message.

The one whose lock a lease keeps; or, with its handle, one that was received in the session that a lease keeps.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from renewer.cli.call import Call, add_command
from renewer.cli.lease import LeaseId, lease_app, show
from renewer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.client import Lease
    from renewer.client.messagecalls import Settling

__all__ = ["lease_app"]
"""With the commands of this module."""

HandleArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="HANDLE",
        help="The message, as `renewer lease receive` shows it; none for a lease on the lock of one message.",
        show_default=False,
    ),
]
PropertiesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--property",
        metavar="NAME=TEXT",
        help="An application property to set on the message; NAME:=JSON for another type than text, as in tries:=3 or "
        'size:={"type": "uint", "value": 7}. Repeatable.',
    ),
]


@add_command(lease_app, "complete")
def complete(call: Call, lease_id: LeaseId, handle: HandleArgument = None) -> None:
    """Complete a message: it is done. Without HANDLE the one whose lock is kept, and the lease is over.

    Exit code 0 when that is so, also if it was before. 1 when the lock is lost or the message was settled otherwise. 66
    when there is no such lease or message. 75 when the broker refused it for now, or gave no answer: what is said tells
    whether it may be done. Asking again is safe.
    """
    _settle(call, lease_id, handle, "complete")


@add_command(lease_app, "abandon")
def abandon(call: Call, lease_id: LeaseId, handle: HandleArgument = None, properties: PropertiesOption = None) -> None:
    """Abandon a message: it is delivered again, to whoever receives next. Without HANDLE the one whose lock is kept.

    Exit codes are those of complete.
    """
    _settle(call, lease_id, handle, "abandon", properties=_properties(properties))


@add_command(lease_app, "defer")
def defer(call: Call, lease_id: LeaseId, handle: HandleArgument = None, properties: PropertiesOption = None) -> None:
    """Defer a message: it is only to be had by its sequence number. Without HANDLE the one whose lock is kept.

    Exit codes are those of complete.
    """
    _settle(call, lease_id, handle, "defer", properties=_properties(properties))


@add_command(lease_app, "dead-letter")
def dead_letter(
    call: Call,
    lease_id: LeaseId,
    handle: HandleArgument = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why, in one word or few.")] = None,
    description: Annotated[str | None, typer.Option(metavar="TEXT", help="Why, for people.")] = None,
    properties: PropertiesOption = None,
) -> None:
    """Move a message to the dead-letter queue. Without HANDLE the one whose lock is kept.

    Exit codes are those of complete.
    """
    changes = _properties(properties)
    _settle(call, lease_id, handle, "dead-letter", reason=reason, description=description, properties=changes)


def _settle(call: Call, lease_id: str, handle: str | None, how: Settling, **options: Any) -> None:
    with call.client("lease", lease_id) as client:
        if handle is not None:
            client.settle(lease_id, handle, how, **options)
            return
        ways: dict[Settling, Callable[..., Lease]] = {
            "complete": client.complete,
            "abandon": client.abandon,
            "defer": client.defer,
            "dead-letter": client.dead_letter,
        }
        show(call, ways[how](lease_id, **options))


def _properties(given: list[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        is_json = name.endswith(":")
        name = name.removesuffix(":")
        if not equals or not name:
            raise UsageError(f"--property {text}: must be NAME=TEXT or NAME:=JSON, as in --property tries:=3")
        try:
            found[name] = json.loads(value) if is_json else value
        except ValueError:
            raise UsageError(f"--property {text}: what follows := must be JSON, such as 3, true or null") from None
    return found
