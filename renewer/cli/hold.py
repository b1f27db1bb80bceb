"""`renewer lease hold`: a session is asked for, once or until it is free, and what came of that is told."""

from __future__ import annotations

import contextlib
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import typer

from renewer.cli.events import watch
from renewer.cli.exitcodes import CommandError, ExitCode
from renewer.cli.lease import show
from renewer.cli.output import note, printable
from renewer.cli.signals import ENDING, Signals
from renewer.cli.words import span
from renewer.client import Conflict, LockLost, NotFound

if TYPE_CHECKING:
    from renewer.cli.call import Call
    from renewer.client import Client, Lease

_AGAIN_S = 0.2
_AT_ONCE_S = 1.0
_JUST_NOW = timedelta(seconds=0.5)
_NEVER = ("refused", "entity_gone", "unauthorized")
"""Reasons that asking again does not change."""


def hold_lease(call: Call, wish: dict[str, Any], wait_s: float, *, again: bool) -> None:
    """Have a session held that this command does not own, and tell what came of it."""
    with call.client() as client:
        began, end = datetime.now(UTC) - _JUST_NOW, time.monotonic() + wait_s
        lease = _ask(client, wish, end, again=again)
        is_found = lease.registered_at is not None and lease.registered_at < began
        never = _why_never(lease)
        if lease.state == "acquiring" and time.monotonic() < end:
            never = _watch_until(client, lease, end)
            lease = client.lease(lease.id)
        if never is not None and lease.epoch == 0:
            if not is_found:
                client.forget(lease.id)
            if call.as_json:
                show(call, lease)
            what = f"session {lease.session_id!r}" if lease.session_id is not None else "a session"
            raise CommandError(f"{what} of {lease.entity} cannot be had: {printable(never)}", ExitCode.UNAVAILABLE)
    _tell_what_came_of_it(call, lease, wait_s, is_found=is_found)


def hold_while_watched(call: Call, wish: dict[str, Any], wait_s: float) -> None:
    """Hold a session that this command owns, tell what happens, and give it back in the end, however that comes."""
    if wish["reacquire"] is None:
        del wish["reacquire"]
    held = False
    with Signals(leave_on=ENDING), call.client() as client:
        try:
            with client.session(**wish, wait=wait_s) as session:
                held = True
                if watch(call, client, session.lease.id) == "lost":
                    raise typer.Exit(ExitCode.FAILED)
        except LockLost as error:
            code = ExitCode.FAILED if held else ExitCode.UNAVAILABLE
            raise CommandError(printable(str(error)), code) from error


def _ask(client: Client, wish: dict[str, Any], end: float, *, again: bool) -> Lease:
    """Have it held. One that another lease keeps is asked for `again` when that one is over, until the time is."""
    told = False
    while True:
        try:
            return client.hold(**wish, wait=max(0.0, min(_AT_ONCE_S, end - time.monotonic())))
        except Conflict as error:
            keeper = (error.problem or {}).get("lease")
            if not isinstance(keeper, str):
                raise
            # What the daemon says to do about it is said here in the words of commands.
            who_keeps_it = printable(str(error)).partition("; release that")[0]
            rest_s = end - time.monotonic()
            if not again or rest_s <= 0:
                remedy = "wait longer" if again else "wait for it with --wait 1m"
                raise CommandError(
                    f"{who_keeps_it}; {remedy}, or release that one: `renewer lease release {keeper}`",
                    ExitCode.TRY_AGAIN,
                ) from error
        if not told:
            note(f"{who_keeps_it}; waiting for that to end")
            told = True
        with contextlib.suppress(NotFound):
            client.lease(keeper, wait=rest_s, until="over")
        time.sleep(max(0.0, min(_AGAIN_S, end - time.monotonic())))


def _watch_until(client: Client, lease: Lease, end: float) -> str | None:
    """Wait until it is held, or over, or the time is; or the broker says why it can never be had, which is returned.

    The daemon would go on trying then: the queue may be made later. Who waits for a command wants to know.
    """
    stream = client.watch(lease.id)
    timer = threading.Timer(end - time.monotonic(), stream.close)
    timer.daemon = True
    timer.start()
    try:
        with stream:
            for event in stream:
                if event.type == "lease.acquire_failed" and event.data.get("failure") in _NEVER:
                    return str(event.data.get("detail") or event.data["failure"])
                if event.type == "snapshot" and event.lease.state != "acquiring":
                    return _why_never(event.lease)
                if event.type in ("lease.acquired", "lease.reacquired"):
                    return None
    finally:
        timer.cancel()
    return _why_never(client.lease(lease.id))


def _why_never(lease: Lease) -> str | None:
    loss = lease.last_loss
    if not lease.is_over or lease.epoch or loss is None or loss.reason not in _NEVER:
        return None
    return loss.detail or loss.reason


def _tell_what_came_of_it(call: Call, lease: Lease, wait_s: float, *, is_found: bool) -> None:
    loss = lease.last_loss
    show(call, lease)
    if lease.is_over:
        note(f"it could not be had: {loss.reason}: {loss.detail}" if loss is not None else f"it is {lease.state}")
        raise typer.Exit(ExitCode.FAILED)
    if not lease.is_held:
        why = f" ({lease.last_error})" if lease.last_error else ""
        note(
            f"not held after {span(wait_s)}{why}; the daemon goes on trying. Look with `renewer lease get {lease.id}`, "
            f"give up with `renewer lease release {lease.id}`"
        )
        raise typer.Exit(ExitCode.TRY_AGAIN)
    if call.as_json:
        return
    since = lease.acquired_at or lease.registered_at
    already = f" already since {span((datetime.now(UTC) - since).total_seconds())}" if is_found and since else ""
    note(f"held{already}; `renewer lease release {lease.id}` gives it back")
