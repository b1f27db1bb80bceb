"""What is counted and read at the moment of a scrape, instead of being kept in step with every change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from renewer.core.states import LeaseKind, LeaseState, OperationState

if TYPE_CHECKING:
    from renewer.core.scheduler import Scheduler
    from renewer.ports import Clock

Gauges = Callable[[], Iterable[tuple[str, Mapping[str, float]]]]
"""Yields, at scrape time, a target's name and its readings: `connections`, `links`, `clock_skew_s`."""


@dataclass(frozen=True, slots=True)
class DaemonReadings:
    """What the daemon's parts show at the moment of a scrape."""

    registry_backlog: int
    registry_failures: int
    callbacks: Mapping[str, int]
    callbacks_pending: int
    event_readers: int
    reloaded_well: bool
    reloaded_at: float


class DaemonCollector(Collector):
    """What the daemon's parts count themselves."""

    def __init__(self, read: Callable[[], DaemonReadings]) -> None:
        self._read = read

    def describe(self) -> Iterator[Metric]:
        """Registered without being collected: the parts may not run yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One reading of everything."""
        now = self._read()
        yield GaugeMetricFamily(
            "renewer_registry_backlog", "Leases and operations that wait to be stored.", value=now.registry_backlog
        )
        yield CounterMetricFamily(
            "renewer_registry_write_failures", "Writes to the registry that failed.", value=now.registry_failures
        )
        callbacks = CounterMetricFamily("renewer_callbacks", "Callbacks sent, by outcome.", labels=["outcome"])
        for outcome, count in now.callbacks.items():
            callbacks.add_metric([outcome], count)
        yield callbacks
        yield GaugeMetricFamily(
            "renewer_callbacks_pending", "Callbacks that are not acknowledged yet.", value=now.callbacks_pending
        )
        yield GaugeMetricFamily("renewer_event_readers", "Open event streams.", value=now.event_readers)
        yield GaugeMetricFamily(
            "renewer_config_last_reload_successful",
            "1 if the configuration was read well last time, 0 if it had mistakes.",
            value=now.reloaded_well,
        )
        yield GaugeMetricFamily(
            "renewer_config_last_reload_success_timestamp_seconds",
            "When the configuration was last read well; the start counts.",
            value=now.reloaded_at,
        )


class StateCollector(Collector):
    """What the scheduler and the targets show."""

    def __init__(self, scheduler: Scheduler, gauges: Gauges, clock: Clock) -> None:
        self._scheduler = scheduler
        self._gauges = gauges
        self._clock = clock

    def describe(self) -> Iterator[Metric]:
        """Registered without being collected: the scheduler may not run yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One reading of everything."""
        leases = GaugeMetricFamily("renewer_leases", "Leases by kind and state.", labels=["kind", "state"])
        by_state = Counter((lease.spec.kind, lease.state) for lease in self._scheduler.leases())
        for kind in LeaseKind:
            for state in LeaseState:
                leases.add_metric([kind.value, state.value], by_state[kind, state])
        yield leases
        operations = GaugeMetricFamily("renewer_operations", "Operations by state.", labels=["state"])
        by_operation_state = Counter(operation.state for operation in self._scheduler.operations())
        for operation_state in OperationState:
            operations.add_metric([operation_state.value], by_operation_state[operation_state])
        yield operations
        yield GaugeMetricFamily(
            "renewer_queue_length", "Things that have a due time.", value=self._scheduler.queue_length
        )
        connections = GaugeMetricFamily("renewer_connections", "Open connections, by target.", labels=["target"])
        links = GaugeMetricFamily("renewer_links", "Open session links, by target.", labels=["target"])
        skew = GaugeMetricFamily(
            "renewer_clock_skew_seconds",
            "How far the broker's clock is ahead of ours, estimated from its answers; decides nothing.",
            labels=["target"],
        )
        families = {"connections": connections, "links": links, "clock_skew_s": skew}
        for target, readings in self._gauges():
            for name, value in readings.items():
                families[name].add_metric([target], value)
        yield from families.values()
        yield from self._quotas()

    def _quotas(self) -> Iterator[Metric]:
        labels = ["account", "bucket"]
        waiting = GaugeMetricFamily(
            "renewer_quota_waiting", "Operations whose next request waits for room in a quota.", labels=labels
        )
        paused = GaugeMetricFamily(
            "renewer_quota_paused_seconds", "How long the service still wants no requests.", labels=labels
        )
        pauses = CounterMetricFamily(
            "renewer_quota_pauses", "How often the service said that there were too many requests.", labels=labels
        )
        now = self._clock.now()
        # By account and bucket alone: hosts between them can be many.
        totals: dict[tuple[str, str], list[float]] = {}
        for reading in self._scheduler.quotas(now):
            words = reading.name.split(" ")
            total = totals.setdefault((words[0], words[-1]), [0.0, 0.0, 0.0])
            total[0] += reading.waiting
            total[1] = max(total[1], 0.0 if reading.paused_until is None else reading.paused_until - now)
            total[2] += reading.pauses
        for key, total in totals.items():
            waiting.add_metric(key, total[0])
            paused.add_metric(key, total[1])
            pauses.add_metric(key, total[2])
        yield from (waiting, paused, pauses)
