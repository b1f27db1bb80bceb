"""`renewer events`: what happens, line by line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from renewer.cli.output import has_colours, painted, print_json, printable
from renewer.cli.views import event_line

if TYPE_CHECKING:
    from renewer.cli.call import Call
    from renewer.client import Event, EventStream


def follow(call: Call, types: list[str], subjects: list[str], after: str | None) -> None:
    """Tell events for as long as someone wants to read them."""
    with call.client() as client:
        tell_all(call, client.events(types=types, subjects=subjects, after=after))


def tell_all(call: Call, events: EventStream) -> str:
    """Tell events as they come; returns the type of the last one."""
    last = ""
    with events:
        for event in events:
            tell(call, event)
            last = event.type
    return last


def tell(call: Call, event: Event) -> None:
    """One event: a line for people, a JSON document in a line for programs."""
    if call.as_json:
        print_json(
            {"id": event.id, "type": event.type, "time": event.time, "subject": event.subject, "data": event.data},
            lines=True,
        )
        return
    text, style = event_line(event)
    sys.stdout.write(painted(printable(text), style, has_colours(sys.stdout)) + "\n")
    sys.stdout.flush()
