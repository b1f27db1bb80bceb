"""`renewer health`: whether the daemon answers, for whoever restarts it when it does not.

An orchestrator's own limit is not relied upon: there are some that wait for a check for as long as it hangs. And one
asks every few seconds, so that a daemon that is well is asked with the standard library alone: to import the client
takes longer than all the rest.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from renewer.cli.exitcodes import ExitCode
from renewer.cli.output import note, print_json, printable
from renewer.cli.words import plural, seconds
from renewer.errors import UsageError

if TYPE_CHECKING:
    from types import FrameType

    from renewer.cli.call import Call
    from renewer.cli.endpoint import Endpoint

_MAX_ANSWER_BYTES = 1024 * 1024


def check_health(call: Call, *, timeout: str) -> None:
    """Ask the daemon how it is, and end within `timeout` whatever it does."""
    timeout_s = seconds("--timeout", timeout)
    if timeout_s <= 0:
        raise UsageError(f"--timeout {timeout}: must be more than nothing")
    with _ended_after(timeout_s):
        well = _ask(call.endpoint())
        if well is None:
            # The client says in the usual words what is wrong.
            with call.client() as client:
                status = client.status()
            well = _Well(status.state, status.leases.get("held", 0), list(status.trouble))
    if call.as_json:
        print_json({"state": well.state, "trouble": well.trouble})
    else:
        text = "; ".join([f"{well.state}, {plural(well.held, 'lease')} held", *well.trouble])
        sys.stdout.write(printable(text) + "\n")


@dataclass(frozen=True, slots=True)
class _Well:
    """What a daemon that is well says of itself."""

    state: str
    held: int
    trouble: list[str]


def _ask(endpoint: Endpoint) -> _Well | None:
    """Ask once. None where there is no answer, or not the one that is expected."""
    headers = {} if endpoint.key is None else {"Authorization": f"Bearer {endpoint.key}"}
    try:
        with closing(_connection(endpoint.url)) as connection:
            connection.request("GET", "/v1/status", headers=headers)
            answer = connection.getresponse()
            if answer.status != http.HTTPStatus.OK:
                return None
            document = json.loads(answer.read(_MAX_ANSWER_BYTES))
        trouble = [str(text) for text in document.get("trouble", [])]
        return _Well(str(document["state"]), int(document.get("leases", {}).get("held", 0)), trouble)
    except (OSError, http.client.HTTPException, ValueError, TypeError, KeyError, AttributeError):
        return None


def _connection(url: str) -> http.client.HTTPConnection:
    if url.startswith("unix:"):
        return _UnixConnection(url.removeprefix("unix:"))
    where = urlsplit(url)
    kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
    return kind(where.netloc)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("renewer")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


@contextmanager
def _ended_after(timeout_s: float) -> Iterator[None]:
    """End the process when the time is over, wherever it hangs."""

    def end(_number: int, _frame: FrameType | None) -> None:
        note(f"the daemon did not answer within {timeout_s:g} s")
        # Not by an exception: what hangs might catch it, or hang again while it is cleaned up.
        os._exit(ExitCode.TRY_AGAIN)

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
