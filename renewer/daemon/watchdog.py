"""What the service manager hears for as long as the daemon runs: how it stands, and that it is alive.

The ping of the watchdog is a promise that locks are renewed in time. It is withheld while the event loop is late, or
while the daemon says that it cannot serve; then the manager ends us and starts us anew. A single stall that is over
costs nothing: after one the loop is looked at again soon, before the manager's patience ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import anyio
import structlog

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from renewer.api.control import StatusReading
    from renewer.daemon.systemd import Notifier
    from renewer.ports import Clock

STATUS_EVERY_S: Final = 5.0
"""How often the status is looked at; it is sent when it has changed."""

_PINGS_PER_PERIOD: Final = 3
_LOOK_AGAIN: Final = 0.1
"""After a late look the next one comes after this part of the period."""
_SLACK_S: Final = 0.01
_TOLERATED: Final = 0.5
"""The part of the period that the loop may be late."""

_log = structlog.get_logger("renewer.systemd")


class Watchdog:
    """Tells the status when it changed and pings in time, until cancelled; nothing where nobody listens.

    `status` gives the line for people, `cannot_serve` why the daemon must not count as alive (None as a rule), and
    `loop_lag_s` how late the supervisor's loop woke last.
    """

    def __init__(
        self,
        notifier: Notifier,
        clock: Clock,
        *,
        status: Callable[[], str],
        cannot_serve: Callable[[], str | None] = lambda: None,
        loop_lag_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._notifier = notifier
        self._clock = clock
        self._status = status
        self._cannot_serve = cannot_serve
        self._loop_lag_s = loop_lag_s
        self._line = ""
        self._looked_at: float | None = None
        self._told: str | None = None
        self.withheld: str | None = None
        """Why the ping is withheld now; None while it is not."""

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Returns at once where there is no service manager."""
        task_status.started()
        period_s = self._notifier.watchdog_s
        late_s = 0.0
        while self._notifier.is_heard:
            wait_s = STATUS_EVERY_S
            if period_s is not None:
                self._judge(late_s, period_s)
                wait_s = min(wait_s, period_s / _PINGS_PER_PERIOD)
                if self.withheld is None:
                    self._notifier.watchdog()
                else:
                    wait_s = min(wait_s, period_s * _LOOK_AGAIN)
            self._tell_status()
            due_at = self._clock.now() + wait_s
            await anyio.sleep(wait_s)
            late_s = self._clock.now() - due_at

    def _judge(self, late_s: float, period_s: float) -> None:
        reason = self._cannot_serve()
        lag_s = max(late_s, self._loop_lag_s())
        if reason is None and lag_s > _TOLERATED * period_s:
            reason = "the event loop is late"
        if reason is not None and self.withheld is None:
            _log.error("watchdog ping withheld", why=reason, lag_s=round(lag_s, 3), watchdog_s=period_s)
        elif reason is None and self.withheld is not None:
            _log.warning("watchdog pinged again", withheld_for=self.withheld)
        self.withheld = reason

    def _tell_status(self) -> None:
        now = self._clock.now()
        if self._looked_at is None or now - self._looked_at > STATUS_EVERY_S - _SLACK_S:
            self._looked_at = now
            self._line = self._status()
        shown = self._line if self.withheld is None else f"watchdog ping withheld: {self.withheld}; {self._line}"
        if shown != self._told:
            self._told = shown
            self._notifier.status(shown)
        else:
            self._notifier.flush()


def status_line(reading: StatusReading) -> str:
    """The daemon in one line: ``12 leases held, 1 at risk, 3 operations running``."""
    leases, operations = reading.leases, reading.operations
    parts = [f"{_count(leases.get('held', 0), 'lease')} held"]
    parts += [f"{leases[state]} {word}" for state, word in _LEASE_WORDS if leases.get(state)]
    parts.append(f"{_count(sum(operations.get(state, 0) for state in _RUNNING), 'operation')} running")
    line = ", ".join(parts)
    if reading.state != "ready":
        line = f"{reading.state}: {line}"
    if reading.trouble:
        more = f" (and {len(reading.trouble) - 1} more)" if len(reading.trouble) > 1 else ""
        line = f"{line}; {reading.trouble[0]}{more}"
    return line


_LEASE_WORDS: Final = (("at_risk", "at risk"), ("acquiring", "acquiring"))
_RUNNING: Final = ("accepted", "running", "fetching")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
