"""`renewer events` and `renewer lease watch`: what happens, line by line, for as long as someone wants to read it."""

from __future__ import annotations

import re
import sys
import time
from typing import TYPE_CHECKING

from renewer.cli.output import has_colours, note, painted, print_json, printable
from renewer.cli.views import event_line
from renewer.client import NotFound, Timeout, Unavailable
from renewer.core.effects import LeaseNews, OperationNews
from renewer.core.states import OperationState
from renewer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from renewer.cli.call import Call
    from renewer.client import Client, Event, EventStream

_EVENT_ID = re.compile(r"[0-9]{1,18}-[0-9]{1,18}")
_LOOK_S = 0.5


def follow(call: Call, types: list[str], subjects: list[str], after: str | None) -> None:
    """Tell events until Ctrl-C. Raises `UsageError`, `CommandError`."""
    for unknown in [kind for kind in types if kind not in _types()]:
        raise UsageError(
            f"--type {unknown}: must be a type of event such as lease.lost or operation.failed, or lease or operation "
            "for all of those"
        )
    if after is not None and not _EVENT_ID.fullmatch(after):
        raise UsageError(
            f"--after {after}: must be the id of an event, such as 3-120; `renewer events -o json` tells it"
        )
    with call.client() as client:
        client.status()
        for subject in subjects:
            if not _is_known(client, subject):
                note(f"{printable(subject)}: not known; waiting for what happens to it all the same")
        for event in _all(
            client, lambda last: client.events(types=types, subjects=subjects, after=last or after, reconnect_for=0)
        ):
            tell(call, event)


def watch(call: Call, client: Client, lease_id: str) -> str:
    """Tell what happens to one lease until it is over; returns whether it was `lost` or `released`."""
    state = ""
    for event in _all(client, lambda _last: client.watch(lease_id, reconnect_for=0)):
        tell(call, event)
        if event.type == "snapshot":
            state = event.lease.state
        elif event.type in ("lease.lost", "lease.released"):
            state = event.type.partition(".")[2]
    return state


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


def _all(client: Client, begin_after: Callable[[str | None], EventStream]) -> Iterator[Event]:
    """The events of one stream after another. When the daemon goes away it is said, and when it is back."""
    last: str | None = None
    while True:
        try:
            with begin_after(last) as stream:
                for event in stream:
                    last = event.id or last
                    yield event
                return
        except Unavailable:
            note("the daemon has gone away; waiting for it")
        while not _is_back(client):
            pass
        note("the daemon is back")


def _is_back(client: Client) -> bool:
    # One that is about to stop still answers.
    time.sleep(_LOOK_S)
    try:
        return client.status().state != "stopping"
    except (Unavailable, Timeout):
        return False


def _is_known(client: Client, any_id: str) -> bool:
    try:
        _ = client.operation(any_id) if any_id.startswith("op-") else client.lease(any_id)
    except NotFound:
        return False
    return True


def _types() -> tuple[str, ...]:
    """Every type of event, and the families of them."""
    return (
        "lease",
        "operation",
        *(f"lease.{news}" for news in LeaseNews),
        *(f"operation.{news}" for news in OperationNews if news is not OperationNews.STATE_CHANGED),
        *(f"operation.{state}" for state in OperationState if state is not OperationState.ACCEPTED),
    )
