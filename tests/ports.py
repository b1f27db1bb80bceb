"""Ports for servers that cannot be told 0 and asked what they got.

A port that the system gave and that was let go again may be what it gives the next who asks for any, before the server
is there. These lie below all that the system gives, and each process of pytest-xdist has its own.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path

GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""The first and the last of the ports that the system gives by itself."""
SHARE = 400
"""How many ports one process goes through, before it comes to the first again."""
LOWEST = 10_000
"""Those of well-known servers lie below."""
_turns = count(os.getpid())


def free_port() -> int:
    """One that nobody listens on."""
    return free_ports(1)[0]


def free_ports(number: int) -> list[int]:
    """So many, no two of them the same."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(_listener()) for _ in range(number)]
        return [listener.getsockname()[1] for listener in listeners]


def _listener() -> socket.socket:
    first = _first_given() - (1 + _process()) * SHARE
    if first >= LOWEST:
        for _ in range(SHARE):
            with suppress(OSError):  # Somebody else's.
                return socket.create_server(("127.0.0.1", first + next(_turns) % SHARE))
    return socket.create_server(("127.0.0.1", 0))


def _first_given() -> int:
    try:
        return int(GIVEN.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 49_152  # RFC 6335 section 6, which macOS and Windows follow.


def _process() -> int:
    """Which of the processes of pytest-xdist this is, from 0."""
    digits = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    return int(digits) if digits.isdecimal() else 0
