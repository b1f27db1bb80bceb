"""`renewer top`: a screen that shows, second by second, what the daemon does."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console, Group
from rich.live import Live

from renewer.cli.connect import connected
from renewer.cli.exitcodes import CommandError, ExitCode
from renewer.cli.output import print_json
from renewer.cli.topview import Reading, draw
from renewer.cli.views import ENDED
from renewer.errors import UsageError

if TYPE_CHECKING:
    from renewer.cli.call import Call
    from renewer.cli.endpoint import Endpoint
    from renewer.client import Client, Event, Operation

_REFRESH_S = 1.0
_PAGE = 100
_NEWS = 50
_NEWSWORTHY = (
    "lease.lost",
    "lease.reacquired",
    "lease.at_risk",
    "lease.recovered",
    *(f"operation.{state}" for state in sorted(ENDED)),
)
_PAST = datetime.min.replace(tzinfo=UTC)
_FAR = datetime.max.replace(tzinfo=UTC)


def show_top(call: Call, *, once: bool, refresh_s: float = _REFRESH_S) -> None:
    """Show the screen until `q` or Ctrl-C; with `once`, or where there is no terminal, print it one time.

    For programs it is one document: the status, the leases nearest to expiry, the operations under way.
    """
    if call.as_json and not once:
        raise UsageError("-o json goes with --once: a screen is for people")
    endpoint = call.endpoint()
    console = Console(highlight=False, soft_wrap=True)
    if once or not (console.is_terminal and sys.stdin.isatty()):
        with connected(endpoint) as client:
            reading = _read(client)
        if call.as_json:
            print_json({"status": reading.status, "leases": reading.leases, "operations": reading.operations})
            return
        width, height = (console.width, console.height) if console.is_terminal else (160, 60)
        for line in draw(reading, endpoint.url, width, height, hint=""):
            console.print(line)
        return
    watcher = _Watcher(endpoint, refresh_s)
    watcher.start()
    with (
        suppress(KeyboardInterrupt),
        _keys() as pressed,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            live.update(_screen(watcher.reading, endpoint, console), refresh=True)
            if pressed(refresh_s) in ("q", "Q", "\x03", "\x04", "\x1b"):
                break
    # Threads may be waiting for the daemon, for a long time; they own nothing that would have to be put back.
    sys.stdout.flush()
    os._exit(ExitCode.OK)


def _screen(reading: Reading, endpoint: Endpoint, console: Console) -> Group:
    width, height = console.size
    return Group(*draw(reading, endpoint.url, width, height))


def _read(client: Client) -> Reading:
    """One request for each part, and never a whole list."""
    status = client.status()
    leases = client.lease_page(state="living", sort="remaining", limit=_PAGE).items
    operations = client.operation_page(state="living", limit=_PAGE).items
    return Reading(status, leases, sorted(operations, key=_due))


def _due(operation: Operation) -> datetime:
    """When it is its turn; those that wait for a quota have waited for the longest."""
    return _PAST if operation.limited_by is not None else operation.next_poll_at or _FAR


class _Watcher:
    """Asks the daemon in threads of its own, so that the screen and the keys never wait for it."""

    def __init__(self, endpoint: Endpoint, refresh_s: float) -> None:
        self._endpoint = endpoint
        self._refresh_s = refresh_s
        self._news: deque[Event] = deque(maxlen=_NEWS)
        self.reading = Reading()

    def start(self) -> None:
        for work in (self._ask, self._listen):
            threading.Thread(target=work, daemon=True).start()

    def _ask(self) -> None:
        while True:
            began = time.monotonic()
            try:
                with connected(self._endpoint) as client:
                    while True:
                        began = time.monotonic()
                        self.reading = replace(_read(client), news=tuple(self._news))
                        time.sleep(max(0.0, self._refresh_s - (time.monotonic() - began)))
            except CommandError as error:
                self.reading = replace(self.reading, trouble=str(error), news=tuple(self._news))
            time.sleep(max(0.0, self._refresh_s - (time.monotonic() - began)))

    def _listen(self) -> None:
        while True:
            with suppress(CommandError), connected(self._endpoint) as client:
                for event in client.events(types=_NEWSWORTHY):
                    self._news.append(event)
            time.sleep(self._refresh_s)


@contextmanager
def _keys() -> Iterator[Any]:
    """Single keys as they are pressed; the terminal is put back in the end."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed(timeout_s: float) -> str | None:
        ready, _, _ = select.select([descriptor], [], [], timeout_s)
        # Nothing to read where there should be something: the terminal is gone.
        return (os.read(descriptor, 1).decode("latin-1") or "q") if ready else None

    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    try:
        tty.setcbreak(descriptor)
        yield pressed
    finally:
        with suppress(termios.error, OSError):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _leave(number: int, _frame: object) -> NoReturn:
    raise typer.Exit(ExitCode.SIGNALLED + number)
