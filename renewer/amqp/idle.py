"""Idle time-outs, both ways (AMQP 1.0 part 2.4.5)."""

from __future__ import annotations

from typing import Final

MIN_KEEP_ALIVE_S: Final = 0.05
"""However short the time-out that a peer asks for, it gets empty frames no faster than this."""


class IdleTimes:
    """When we owe the peer a sign of life, and when the peer's silence has lasted too long."""

    def __init__(self, idle_time_out_s: float | None, open_time_out_s: float | None, now: float) -> None:
        self._patience_s = idle_time_out_s
        self._open_due_at = None if open_time_out_s is None else now + open_time_out_s
        self._keep_alive_s: float | None = None
        self._received_at = now
        self._sent_at = now

    def received(self, now: float) -> None:
        """Something arrived."""
        self._received_at = now

    def sent(self, now: float) -> None:
        """Something was sent."""
        self._sent_at = now

    def opened(self, remote_idle_time_out_ms: int | None) -> None:
        """The peer's open arrived with its time-out, which we undercut by half."""
        self._open_due_at = None
        if remote_idle_time_out_ms:
            self._keep_alive_s = max(MIN_KEEP_ALIVE_S, remote_idle_time_out_ms / 2000)

    @property
    def keep_alive_at(self) -> float | None:
        """When an empty frame is due."""
        return None if self._keep_alive_s is None else self._sent_at + self._keep_alive_s

    @property
    def give_up_at(self) -> float | None:
        """When the peer's silence, or its failure to open, is no longer bearable."""
        silent_at = None if self._patience_s is None else self._received_at + self._patience_s
        if silent_at is None or self._open_due_at is None:
            return silent_at if self._open_due_at is None else self._open_due_at
        return min(silent_at, self._open_due_at)

    def next_due(self) -> float | None:
        """The earlier of the two."""
        keep_alive_at, give_up_at = self.keep_alive_at, self.give_up_at
        if keep_alive_at is None or give_up_at is None:
            return give_up_at if keep_alive_at is None else keep_alive_at
        return min(keep_alive_at, give_up_at)
