"""The metrics: prefix `renewer_`, base units, and labels from short fixed lists only.

No session id, token, entity or URL ever becomes a label: a scrape must stay small at a hundred thousand leases.
Children are looked up once and kept; what can be counted at scrape time is counted then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import prometheus_client

import renewer
from renewer.core.effects import LeaseNews, OperationNews, TellLease, TellOperation
from renewer.core.states import LossReason, OperationState, is_over
from renewer.observe.collectors import (
    DaemonCollector,
    DaemonReadings,
    GatewayCollector,
    GatewayReadings,
    Gauges,
    LogCollector,
    PoolCollector,
    PoolReadings,
    StateCollector,
)
from renewer.observe.histograms import Histogram

if TYPE_CHECKING:
    from renewer.core.scheduler import Scheduler
    from renewer.observe.logsink import LogSink
    from renewer.ports import Clock

ATTEMPT_KINDS = ("renew", "acquire", "submit", "poll", "fetch")
"""What attempts are made for: the labels of their lateness."""

_MARGIN_BUCKETS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 150.0, 300.0)
_SHARE_BUCKETS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
_LATENESS_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_RETRY_AFTER_BUCKETS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 3600.0)


class Metrics:
    """Every metric that renewer exports, registered with the registry given."""

    def __init__(self, registry: prometheus_client.CollectorRegistry) -> None:
        self.registry = registry
        # When each series was made is worth nothing to anybody, and doubles them.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.renewals = prometheus_client.Counter(
            "renewer_renewals",
            "Renewals by outcome: success, why one failed, or overdue (no answer yet when the next one was sent).",
            ["outcome"],
            registry=registry,
        )
        self.renewal_duration = Histogram(
            "renewer_renewal_duration_seconds",
            "Time from sending a renewal to its answer.",
            buckets=_DURATION_BUCKETS,
            registry=registry,
        ).of()
        self.margin = Histogram(
            "renewer_renewal_margin_seconds",
            "What was left of the lock when a renewal was acknowledged.",
            buckets=_MARGIN_BUCKETS,
            registry=registry,
        ).of()
        self.margin_ratio = Histogram(
            "renewer_renewal_margin_ratio",
            "The same as a share of the lock: about a half as a rule, nothing when it was too late.",
            buckets=_SHARE_BUCKETS,
            registry=registry,
        ).of()
        self.lateness = Histogram(
            "renewer_attempt_lateness_seconds",
            "Time from when an attempt fell due to when it was started.",
            buckets=_LATENESS_BUCKETS,
            registry=registry,
            label="kind",
            values=ATTEMPT_KINDS,
        )
        self.losses = prometheus_client.Counter(
            "renewer_lease_losses", "Leases lost, by reason.", ["reason"], registry=registry
        )
        self.acquisitions = prometheus_client.Counter(
            "renewer_acquisitions",
            "Leases acquired, by outcome: acquired, reacquired, or why it failed.",
            ["outcome"],
            registry=registry,
        )
        self.at_risk = prometheus_client.Counter(
            "renewer_leases_at_risk", "Leases whose local deadline passed without an answer.", registry=registry
        )
        self.polls = prometheus_client.Counter(
            "renewer_polls",
            "Requests for operations by outcome: running, or why one failed.",
            ["outcome"],
            registry=registry,
        )
        self.operations_ended = prometheus_client.Counter(
            "renewer_operations_ended", "Operations ended, by final state.", ["state"], registry=registry
        )
        self.retry_after = Histogram(
            "renewer_poll_retry_after_seconds",
            "What services asked us to wait between polls.",
            buckets=_RETRY_AFTER_BUCKETS,
            registry=registry,
        ).of()
        self.loop_lag = Histogram(
            "renewer_loop_lag_seconds",
            "How late the supervisor loop woke.",
            buckets=_LATENESS_BUCKETS,
            registry=registry,
        ).of()
        build = prometheus_client.Gauge(
            "renewer_build_info", "Always 1; the version is in the label.", ["version"], registry=registry
        )
        build.labels(renewer.__version__).set(1)
        # Made now, so that a rate over the first event of a kind has a zero to start from.
        for reason in LossReason:
            self.losses.labels(reason.value)
        for state in OperationState:
            if is_over(state):
                self.operations_ended.labels(state.value)
        self.renewals.labels("success")
        for word in ("acquired", "reacquired"):
            self.acquisitions.labels(word)

    def watch(self, scheduler: Scheduler, gauges: Gauges, clock: Clock) -> None:
        """Count the scheduler's leases and operations, and read the targets' gauges, at each scrape."""
        self.registry.register(StateCollector(scheduler, gauges, clock))

    def watch_daemon(self, read: Callable[[], DaemonReadings]) -> None:
        """Show what the daemon's parts say of themselves at each scrape."""
        self.registry.register(DaemonCollector(read))

    def watch_log(self, sink: LogSink) -> None:
        """Show how many lines of the log could not be written."""
        self.registry.register(LogCollector(sink))

    def watch_gateways(self, read: Callable[[], Iterable[GatewayReadings]]) -> None:
        """Show what the gateways count themselves."""
        self.registry.register(GatewayCollector(read))

    def watch_pools(self, read: Callable[[], Iterable[PoolReadings]]) -> None:
        """Show how the pools of sessions stand."""
        self.registry.register(PoolCollector(read))

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return prometheus_client.generate_latest(self.registry)


class MetricsHook:
    """Turns news into counts."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._renewed = metrics.renewals.labels("success")
        self._polled = metrics.polls.labels("running")

    def lease(self, news: TellLease) -> None:
        """Count one piece of news of a lease."""
        metrics = self._metrics
        match news.news:
            case LeaseNews.RENEWED:
                self.renewed([news])
            case LeaseNews.RENEW_FAILED:
                metrics.renewals.labels(news.failure or "unknown").inc()
            case LeaseNews.LOST if news.reason is not None:
                metrics.losses.labels(news.reason.value).inc()
            case LeaseNews.AT_RISK:
                metrics.at_risk.inc()
            case LeaseNews.ACQUIRED | LeaseNews.REACQUIRED:
                metrics.acquisitions.labels(news.news.value).inc()
            case LeaseNews.ACQUIRE_FAILED:
                metrics.acquisitions.labels(news.failure or "unknown").inc()
            case _:
                pass

    def renewed(self, news: Sequence[TellLease]) -> None:
        """Count renewals."""
        metrics = self._metrics
        self._renewed.inc(len(news))
        metrics.margin.observe_all([one.margin_s for one in news if one.margin_s is not None])
        metrics.margin_ratio.observe_all(
            [one.margin_s / one.lock_s for one in news if one.margin_s is not None and one.lock_s]
        )

    def operation(self, news: TellOperation) -> None:
        """Count one piece of news of an operation."""
        metrics = self._metrics
        match news.news:
            case OperationNews.POLLED:
                self._polled.inc()
                if news.retry_after_s is not None:
                    metrics.retry_after.observe(news.retry_after_s)
            case OperationNews.POLL_FAILED:
                metrics.polls.labels(news.failure or "unknown").inc()
            case OperationNews.STATE_CHANGED if is_over(news.state):
                metrics.operations_ended.labels(news.state.value).inc()
            case _:
                pass


class AttemptMetrics:
    """Measures attempts as the daemon starts and ends them. `max_lateness_s` is the worst seen since the start."""

    def __init__(self, metrics: Metrics) -> None:
        self.max_lateness_s = 0.0
        self._lateness = {kind: metrics.lateness.of(kind) for kind in ATTEMPT_KINDS}
        self._renewal_duration = metrics.renewal_duration

    def attempts_started(self, kind: str, lateness_s: Sequence[float]) -> None:
        """Attempts of this kind began, each so long after it fell due."""
        self._lateness[kind].observe_all([max(0.0, late_s) for late_s in lateness_s])
        self.max_lateness_s = max(self.max_lateness_s, *lateness_s)

    def renewals_answered(self, duration_s: Sequence[float]) -> None:
        """Renewals were answered, well or not, each after so long."""
        self._renewal_duration.observe_all(duration_s)
