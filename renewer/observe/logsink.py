"""Where log lines go: through a thread of its own, so that whoever reads them can never hold up the event loop.

A log collector that restarts, a full disk or a pipe that nobody empties must not cost a lock: lines that cannot be
written, or that come faster than they are taken, are dropped and counted.
"""

from __future__ import annotations

import queue
import threading
from typing import TextIO

_MAX_WAITING = 10_000
"""Lines that wait to be written."""


class LogSink:
    """Takes text like a stream does, never blocks and never raises. `lost` counts what could not be written."""

    def __init__(self, stream: TextIO | None) -> None:
        """Write to `stream`, or nowhere if it is None (the process was started with it closed)."""
        self.lost = 0
        self._stream = stream
        self._waiting: queue.Queue[str | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def isatty(self) -> bool:
        """Whether a person reads along."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:
            return False

    def write(self, text: str) -> int:
        """Have `text` written soon."""
        try:
            self._waiting.put_nowait(text)
        except queue.Full:
            self.lost += 1
        return len(text)

    def flush(self) -> None:
        """Do nothing: what was taken is written as soon as it can be."""

    def close(self, timeout_s: float = 1.0) -> None:
        """Wait until everything is written, but no longer than this."""
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _write_all(self) -> None:
        while (text := self._waiting.get()) is not None:
            try:
                if self._stream is None:
                    raise OSError("there is no stream")
                self._stream.write(text)
                if self._waiting.empty():
                    self._stream.flush()
            except (OSError, ValueError):
                self.lost += 1
