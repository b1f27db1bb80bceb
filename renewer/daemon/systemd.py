"""What the service manager is told, by sd_notify(3): a datagram on the socket that it named, with no helper between.

Nothing here waits, and nothing here raises: a daemon must not stumble over the one that watches it. A message that the
socket has no room for is kept and sent before the next one. Without a socket all of it does nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Final

import structlog

_MAX_KEPT: Final = 16
_MAX_TEXT: Final = 500
_MICROSECONDS: Final = 1_000_000

_log = structlog.get_logger("renewer.systemd")


class Notifier:
    """Speaks to the service manager that `environ` names, and takes its variables out, so that no child speaks too.

    `pid` is ours, against which WATCHDOG_PID is held; `monotonic` is CLOCK_MONOTONIC, on which the manager counts too.
    """

    def __init__(
        self,
        environ: MutableMapping[str, str],
        *,
        pid: int | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        where = environ.pop("NOTIFY_SOCKET", "")
        watchdog_usec = environ.pop("WATCHDOG_USEC", "")
        watchdog_pid = environ.pop("WATCHDOG_PID", "")
        self._monotonic = monotonic
        self._kept: deque[bytes] = deque(maxlen=_MAX_KEPT)
        self._has_complained = False
        self._address = _address(where)
        if where and self._address is None:
            _log.warning("service manager not told", why="NOTIFY_SOCKET is neither a path nor an abstract name (@)")
        is_ours = watchdog_pid in ("", str(os.getpid() if pid is None else pid))
        period_usec = int(watchdog_usec) if watchdog_usec.isascii() and watchdog_usec.isdigit() else 0
        self.watchdog_s: float | None = (
            period_usec / _MICROSECONDS if self._address and is_ours and period_usec else None
        )
        """How long the manager lets us be silent before it ends us; None where it does not watch."""
        self._socket = None if self._address is None else _datagram_socket()

    @property
    def is_heard(self) -> bool:
        """Whether there is a service manager that listens."""
        return self._socket is not None

    def ready(self, status: str = "") -> None:
        """The start, or a reload, is over and the daemon serves."""
        self._send("READY=1", _status(status))

    def status(self, text: str) -> None:
        """How things stand, as one line for people."""
        if self._kept and self._kept[-1].startswith(b"STATUS="):
            self._kept.pop()
        self._send(_status(text))

    def reloading(self) -> None:
        """The configuration is being read again; `ready` says when that is over."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={int(self._monotonic() * _MICROSECONDS)}")

    def stopping(self, status: str = "", *, takes_s: float | None = None) -> None:
        """The daemon stops, for which it may take so long, whatever the manager would have granted."""
        self._send("STOPPING=1", _extension(takes_s), _status(status))

    def extend_timeout(self, span_s: float) -> None:
        """What is under way (start, reload or stop) may take so much longer, counted from now."""
        self._send(_extension(span_s))

    def watchdog(self) -> None:
        """The daemon is alive and well."""
        self.flush()
        if not self._kept:
            # Not kept when there is no room: it would be old news.
            self._transmit(b"WATCHDOG=1")

    def flush(self) -> None:
        """Send what was kept, as far as there is room."""
        while self._kept and self._transmit(self._kept[0]):
            self._kept.popleft()

    def close(self) -> None:
        """Say no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *assignments: str | None) -> None:
        message = "\n".join(filter(None, assignments)).encode()
        if self._socket is not None and message:
            self._kept.append(message)
            self.flush()

    def _transmit(self, message: bytes) -> bool:
        if self._socket is None or self._address is None:
            return False
        try:
            self._socket.sendto(message, self._address)
        except BlockingIOError:
            return False
        except OSError as error:
            self._complain(error)
            return False
        self._has_complained = False
        return True

    def _complain(self, error: OSError) -> None:
        if not self._has_complained:
            self._has_complained = True
            _log.warning("service manager not told", why=error.strerror or type(error).__name__)


def _address(where: str) -> str | None:
    """The socket's address as the kernel has it, None where we cannot speak to it."""
    if where.startswith("@") and len(where) > 1:
        return "\0" + where[1:]
    return where if where.startswith("/") else None


def _datagram_socket() -> socket.socket | None:
    try:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        _log.warning("service manager not told", why=error.strerror or type(error).__name__)
        return None
    made.setblocking(False)
    return made


def _status(text: str) -> str | None:
    """As one line: a line break would begin another assignment."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[:_MAX_TEXT]).split())
    return f"STATUS={line}" if line else None


def _extension(span_s: float | None) -> str | None:
    return None if span_s is None else f"EXTEND_TIMEOUT_USEC={int(span_s * _MICROSECONDS)}"
