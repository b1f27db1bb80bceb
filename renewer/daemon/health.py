"""How the daemon does, as it sees itself: for `status`, `/readyz`, the metrics and the service manager."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from renewer.api.control import TargetReading
from renewer.core.states import LeaseState
from renewer.daemon.lag import RecentLag
from renewer.observe import DaemonReadings

if TYPE_CHECKING:
    from renewer.daemon.callbacks import Callbacks
    from renewer.daemon.eventstream import EventStream
    from renewer.daemon.reload import Reloader
    from renewer.daemon.supervisor import Supervisor
    from renewer.ports import Clock
    from renewer.targets.servicebus import ServiceBusTarget

_OVERDUE_S = 5.0
"""How long something may be due without being begun before the daemon counts as unable to serve."""


class Lag:
    """How late the supervisor's loop woke: last, and at worst in the last minute. `observe` is told each time."""

    def __init__(self, clock: Clock, observe: Callable[[float], None]) -> None:
        self.last_s = 0.0
        self._clock = clock
        self._observe = observe
        self._recent = RecentLag()

    def note(self, lag_s: float) -> None:
        """The loop woke so late."""
        self.last_s = lag_s
        self._recent.observe(lag_s, self._clock.now())
        self._observe(lag_s)

    def worst_s(self) -> float:
        """The worst of the last minute."""
        return self._recent.worst_s(self._clock.now())


@dataclass(frozen=True, slots=True)
class Health:
    """Looks at the parts when it is asked, and keeps nothing."""

    clock: Clock
    supervisor: Supervisor
    namespaces: Mapping[str, ServiceBusTarget]
    accounts: Iterable[str]
    reloader: Reloader
    callbacks: Callbacks
    stream: EventStream

    def why_it_cannot_serve(self) -> str | None:
        """Why the service manager should start us anew; None as a rule. A broker that is away is no reason."""
        next_due = self.supervisor.scheduler.next_due()
        overdue = next_due is not None and next_due < self.clock.now() - _OVERDUE_S
        return "what is due is not begun" if overdue else None

    def trouble(self) -> list[str]:
        """What is wrong around us, in words for people."""
        trouble: list[str] = []
        for name, namespace in self.namespaces.items():
            if namespace.trouble is not None:
                leases = [lease for lease in self.supervisor.scheduler.leases() if lease.spec.target == name]
                waiting = sum(lease.state is LeaseState.ACQUIRING for lease in leases)
                trouble.append(f"{name}: {namespace.trouble}; leases that are not held: {waiting}")
        if not self.reloader.last_successful:
            trouble.append("the new configuration is not used, for it has mistakes: `renewer config check` lists them")
        if self.reloader.restart_needed:
            trouble.append(f"changed, but used only after a restart: {', '.join(self.reloader.restart_needed)}")
        return trouble

    def targets(self) -> list[TargetReading]:
        """Every namespace and account as it is now."""
        readings = [
            TargetReading(name, namespace.connections, namespace.links, namespace.clock_skew_s)
            for name, namespace in self.namespaces.items()
        ]
        return readings + [TargetReading(name) for name in self.accounts]

    def readings(self) -> DaemonReadings:
        """What the metrics show."""
        return DaemonReadings(
            registry_backlog=self.supervisor.keeper.backlog,
            registry_failures=self.supervisor.keeper.failures,
            callbacks=self.callbacks.outcomes,
            callbacks_pending=self.callbacks.pending,
            event_readers=self.stream.readers,
            reloaded_well=self.reloader.last_successful,
            reloaded_at=self.reloader.last_success_at,
        )
