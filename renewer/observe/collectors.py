"""What is counted and read at the moment of a scrape, instead of being kept in step with every change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from renewer.core.states import LeaseKind, LeaseState, OperationState, is_over

if TYPE_CHECKING:
    from renewer.core.scheduler import Scheduler
    from renewer.observe.logsink import LogSink
    from renewer.ports import Clock

Gauges = Callable[[], Iterable[tuple[str, Mapping[str, float]]]]
"""Yields, at scrape time, a target's name and its readings: those of `connections`, `links`, `in_trouble`,
`token_failures` and `clock_skew_s` that it has."""


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


class GatewayReadings(Protocol):
    """What a gateway shows at the moment of a scrape. Counters count since the start."""

    @property
    def name(self) -> str:
        """What it is called in the configuration."""
        ...

    @property
    def connections(self) -> int:
        """Workers that are let in."""
        ...

    @property
    def refusals(self) -> Mapping[str, int]:
        """What workers were refused, by why."""
        ...

    @property
    def upstream_failures(self) -> int:
        """Connections to the namespace that could not be made, or were lost."""
        ...

    @property
    def messages(self) -> int:
        """Messages that were passed to workers."""
        ...

    @property
    def buffered_bytes(self) -> int:
        """What waits to be taken by workers and by the namespace."""
        ...


REFUSALS: Final = ("key", "entity", "protocol", "timeout", "full")
"""Why a gateway refuses something; all of them are there from the start, so that their increase can be told."""


class GatewayCollector(Collector):
    """What the gateways count themselves; nothing where there are none."""

    def __init__(self, read: Callable[[], Iterable[GatewayReadings]]) -> None:
        self._read = read

    def describe(self) -> Iterator[Metric]:
        """Registered without being collected: the gateways may not run yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One reading of each."""
        readings = list(self._read())
        if not readings:
            return
        labels = ["gateway"]
        connections = GaugeMetricFamily(
            "renewer_gateway_connections", "Connections of workers that are let in.", labels=labels
        )
        refusals = CounterMetricFamily(
            "renewer_gateway_refusals", "What workers were refused, by why.", labels=["gateway", "why"]
        )
        failures = CounterMetricFamily(
            "renewer_gateway_upstream_failures",
            "Connections to the namespace that could not be made, or were lost.",
            labels=labels,
        )
        messages = CounterMetricFamily(
            "renewer_gateway_messages", "Messages that were passed to workers.", labels=labels
        )
        buffered = GaugeMetricFamily(
            "renewer_gateway_buffered_bytes",
            "Bytes that wait to be taken by workers and by the namespace.",
            labels=labels,
        )
        for now in readings:
            connections.add_metric([now.name], now.connections)
            for why in dict.fromkeys((*REFUSALS, *now.refusals)):
                refusals.add_metric([now.name, why], now.refusals.get(why, 0))
            failures.add_metric([now.name], now.upstream_failures)
            messages.add_metric([now.name], now.messages)
            buffered.add_metric([now.name], now.buffered_bytes)
        yield from (connections, refusals, failures, messages, buffered)


class PoolReadings(Protocol):
    """What a pool of sessions shows at the moment of a scrape."""

    @property
    def target(self) -> str:
        """The namespace that it is on."""
        ...

    @property
    def sessions(self) -> int:
        """How many it is for."""
        ...

    @property
    def held(self) -> int:
        """Those that are free and can be taken."""
        ...

    @property
    def acquiring(self) -> int:
        """Those that are free and still on their way."""
        ...

    @property
    def taken(self) -> int:
        """Those that are with workers."""
        ...


class PoolCollector(Collector):
    """How the pools of each namespace stand, together: which entity a pool is of is no label. Nothing without any."""

    def __init__(self, read: Callable[[], Iterable[PoolReadings]]) -> None:
        self._read = read

    def describe(self) -> Iterator[Metric]:
        """Registered without being collected: the pools may not be open yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One reading of each namespace that has pools."""
        totals: dict[str, Counter[str]] = {}
        for now in self._read():
            total = totals.setdefault(now.target, Counter(dict.fromkeys(("free", "acquiring", "taken"), 0)))
            total.update(free=now.held, acquiring=now.acquiring, taken=now.taken)
            total.update(size=now.sessions, full=now.taken >= now.sessions and not now.held + now.acquiring)
        if not totals:
            return
        size = GaugeMetricFamily(
            "renewer_pool_size", "How many sessions the pools of a namespace are for.", labels=["target"]
        )
        sessions = GaugeMetricFamily(
            "renewer_pool_sessions",
            "Sessions of pools: free for a worker to take, acquiring, or taken by one; none that nobody can take.",
            labels=["target", "state"],
        )
        full = GaugeMetricFamily(
            "renewer_pools_full",
            "Pools all of whose sessions are with workers: who asks for one more is refused.",
            labels=["target"],
        )
        for target, total in totals.items():
            size.add_metric([target], total["size"])
            full.add_metric([target], total["full"])
            for state in ("free", "acquiring", "taken"):
                sessions.add_metric([target, state], total[state])
        yield from (size, sessions, full)


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


class LogCollector(Collector):
    """What the log counts itself."""

    def __init__(self, sink: LogSink) -> None:
        self._sink = sink

    def describe(self) -> Iterator[Metric]:
        """Registered without being collected."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One reading."""
        yield CounterMetricFamily(
            "renewer_log_lines_lost", "Lines of the log that could not be written.", value=self._sink.lost
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
        yield from self._under_way()
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
        trouble = GaugeMetricFamily(
            "renewer_target_in_trouble",
            "1 while a namespace cannot be reached, or allows less than is wanted; `renewer status` says why.",
            labels=["target"],
        )
        tokens = CounterMetricFamily(
            "renewer_token_failures", "Tokens that could not be had, or were not taken, by target.", labels=["target"]
        )
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {
            "connections": connections,
            "links": links,
            "in_trouble": trouble,
            "token_failures": tokens,
            "clock_skew_s": skew,
        }
        for target, readings in self._gauges():
            for name, value in readings.items():
                families[name].add_metric([target], value)
        yield from families.values()
        yield from self._quotas()

    def _under_way(self) -> Iterator[Metric]:
        now = self._clock.now()
        under_way = [operation for operation in self._scheduler.operations() if not is_over(operation.state)]
        failing = [operation.failing_since for operation in under_way if operation.failing_since is not None]
        yield GaugeMetricFamily(
            "renewer_operations_failing",
            "Operations under way whose last request failed.",
            value=len(failing),
        )
        yield GaugeMetricFamily(
            "renewer_operation_longest_failing_seconds",
            "For how long all requests for the worst of those have failed; 0 without any.",
            value=max((now - since for since in failing), default=0.0),
        )
        yield GaugeMetricFamily(
            "renewer_operation_oldest_age_seconds",
            "The age of the oldest operation under way; 0 without any.",
            value=max((now - operation.registered_at for operation in under_way), default=0.0),
        )

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
