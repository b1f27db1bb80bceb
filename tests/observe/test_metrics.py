"""What Prometheus is told."""

from __future__ import annotations

from datetime import UTC, datetime

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from renewer.core.effects import LeaseNews, OperationNews, StartAcquire, TellLease, TellOperation
from renewer.core.events import (
    LeaseGranted,
    LeaseRegistered,
    OperationAnswered,
    OperationAttemptFailed,
    OperationRegistered,
)
from renewer.core.model import Grant, LeaseId, LeaseSpec, OperationId, OperationSpec, StillRunning, Transient
from renewer.core.quotas import Quota
from renewer.core.scheduler import Scheduler
from renewer.core.states import LossReason, OperationState
from renewer.observe import AttemptMetrics, Metrics, MetricsHook

SPEC = LeaseSpec(LeaseId("lease-1"), "servicebus.main", "orders", session_id="customer-42")
OPERATION = OperationSpec(OperationId("op-1"), "fabric.main", {})


class Still:
    """A clock that stands at 10."""

    def now(self) -> float:
        return 10.0

    def utc_now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(prometheus_client.CollectorRegistry())


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_news_of_leases_are_counted(metrics):
    hook = MetricsHook(metrics)
    hook.lease(TellLease(LeaseNews.ACQUIRED, SPEC, 1, 0.0))
    hook.lease(TellLease(LeaseNews.RENEWED, SPEC, 1, 0.0, margin_s=7.0, lock_s=14.0))
    hook.lease(TellLease(LeaseNews.RENEW_FAILED, SPEC, 1, 0.0, failure="busy"))
    hook.lease(TellLease(LeaseNews.AT_RISK, SPEC, 1, 0.0))
    hook.lease(TellLease(LeaseNews.LOST, SPEC, 1, 0.0, reason=LossReason.CONNECTION_LOST))
    hook.lease(TellLease(LeaseNews.ACQUIRE_FAILED, SPEC, 1, 0.0, failure="refused"))
    assert value(metrics, "renewer_acquisitions_total", outcome="acquired") == 1
    assert value(metrics, "renewer_acquisitions_total", outcome="refused") == 1
    assert value(metrics, "renewer_renewals_total", outcome="success") == 1
    assert value(metrics, "renewer_renewals_total", outcome="busy") == 1
    assert value(metrics, "renewer_renewal_margin_seconds_sum") == 7.0
    assert value(metrics, "renewer_renewal_margin_ratio_sum") == 0.5
    assert value(metrics, "renewer_leases_at_risk_total") == 1
    assert value(metrics, "renewer_lease_losses_total", reason="connection_lost") == 1
    assert value(metrics, "renewer_lease_losses_total", reason="expired") == 0


def test_news_of_operations_are_counted(metrics):
    hook = MetricsHook(metrics)
    hook.operation(TellOperation(OperationNews.POLLED, OPERATION, OperationState.RUNNING, 0.0, retry_after_s=20.0))
    hook.operation(TellOperation(OperationNews.POLL_FAILED, OPERATION, OperationState.RUNNING, 0.0, failure="server"))
    hook.operation(TellOperation(OperationNews.STATE_CHANGED, OPERATION, OperationState.FETCHING, 0.0))
    hook.operation(TellOperation(OperationNews.STATE_CHANGED, OPERATION, OperationState.SUCCEEDED, 0.0))
    assert value(metrics, "renewer_polls_total", outcome="running") == 1
    assert value(metrics, "renewer_polls_total", outcome="server") == 1
    assert value(metrics, "renewer_poll_retry_after_seconds_sum") == 20.0
    assert value(metrics, "renewer_operations_ended_total", state="succeeded") == 1
    assert value(metrics, "renewer_operations_ended_total", state="failed") == 0


def test_attempts_are_measured_and_the_worst_lateness_is_kept(metrics):
    attempts = AttemptMetrics(metrics)
    for lateness_s in ([0.25, 0.5], [0.125]):
        attempts.attempts_started("renew", lateness_s)
    attempts.renewals_answered([0.5])
    assert attempts.max_lateness_s == 0.5
    assert value(metrics, "renewer_attempt_lateness_seconds_count", kind="renew") == 3
    assert value(metrics, "renewer_renewal_duration_seconds_sum") == 0.5


def test_what_is_there_is_counted_when_it_is_asked_for(metrics):
    scheduler = Scheduler()
    gauges = [("servicebus.main", {"connections": 2, "links": 7, "clock_skew_s": -1.5, "in_trouble": True})]
    gauges += [("fabric.main", {"token_failures": 3})]
    metrics.watch(scheduler, lambda: gauges, Still())
    scheduler.handle(LeaseRegistered(SPEC), 0.0, 0.5)
    assert value(metrics, "renewer_leases", kind="session", state="acquiring") == 1
    (start,) = scheduler.advance(0.0, lambda: 0.5)
    assert isinstance(start, StartAcquire)
    scheduler.handle(LeaseGranted(SPEC.id, 1, start.attempt, Grant(0.0, 10.0)), 0.0, 0.5)
    assert value(metrics, "renewer_leases", kind="session", state="acquiring") == 0
    assert value(metrics, "renewer_leases", kind="session", state="held") == 1
    assert value(metrics, "renewer_queue_length") == 1
    assert value(metrics, "renewer_connections", target="servicebus.main") == 2
    assert value(metrics, "renewer_clock_skew_seconds", target="servicebus.main") == -1.5
    assert value(metrics, "renewer_target_in_trouble", target="servicebus.main") == 1
    assert value(metrics, "renewer_token_failures_total", target="fabric.main") == 3
    assert value(metrics, "renewer_connections", target="fabric.main") is None


def test_no_label_tells_of_a_single_session_and_every_name_has_our_prefix(metrics):
    scheduler = Scheduler()
    scheduler.handle(LeaseRegistered(SPEC), 0.0, 0.5)
    metrics.watch(scheduler, list, Still())
    text = metrics.exposition().decode()
    assert "customer-42" not in text
    assert "lease-1" not in text
    assert "orders" not in text
    families = list(text_string_to_metric_families(text))
    assert families
    assert all(family.name.startswith("renewer_") and family.documentation for family in families)


def test_operations_that_fail_are_counted_and_the_worst_and_the_oldest_are_shown(metrics):
    scheduler = Scheduler()
    metrics.watch(scheduler, list, Still())
    assert value(metrics, "renewer_operation_oldest_age_seconds") == 0
    for number, asked_s in ((1, 2.0), (2, 5.0), (3, 60.0)):
        spec = OperationSpec(OperationId(f"op-{number}"), "fabric.main", {})
        scheduler.handle(OperationRegistered(spec, StillRunning(retry_after_s=asked_s)), float(number), 0.0)
    scheduler.advance(7.0, lambda: 0.0)
    failure = Transient("server", "503")
    scheduler.handle(OperationAttemptFailed(OperationId("op-1"), 1, failure), 7.5, 0.0)
    scheduler.handle(OperationAttemptFailed(OperationId("op-2"), 1, failure), 8.0, 0.0)
    assert value(metrics, "renewer_operations_failing") == 2
    assert value(metrics, "renewer_operation_longest_failing_seconds") == 2.5
    assert value(metrics, "renewer_operation_oldest_age_seconds") == 9.0


def test_lines_that_the_log_lost_are_counted_and_no_series_tells_when_it_was_made(metrics):
    class Sink:
        lost = 3

    metrics.watch_log(Sink())
    assert value(metrics, "renewer_log_lines_lost_total") == 3
    assert "_created" not in metrics.exposition().decode()


def test_quotas_are_shown_by_account_and_bucket_whatever_hosts_there_are(metrics):
    hosts = iter(["", "https://a.example ", "https://b.example "])
    names = {number: f"fabric.main {host}operations" for number, host in enumerate(hosts)}
    scheduler = Scheduler(lambda spec, _asking, _ticket: Quota(names[int(spec.id)], at_once=1))
    metrics.watch(scheduler, list, Still())
    for number in range(3):
        spec = OperationSpec(OperationId(str(number)), "fabric.main", None)
        scheduler.handle(OperationRegistered(spec, StillRunning(retry_after_s=1.0)), 0.0, 0.0)
    scheduler.advance(1.0, lambda: 0.0)
    for number, asked_s in ((0, 12.0), (1, 30.0)):
        failure = Transient("throttled", "429", asked_s)
        scheduler.handle(OperationAttemptFailed(OperationId(str(number)), 1, failure), 5.0, 0.0)
    scheduler.handle(OperationAnswered(OperationId("2"), 1, StillRunning(retry_after_s=1.0)), 6.0, 0.0)
    names[2] = names[1]
    scheduler.advance(7.0, lambda: 0.0)
    labels = {"account": "fabric.main", "bucket": "operations"}
    assert value(metrics, "renewer_quota_paused_seconds", **labels) == 25.0
    assert value(metrics, "renewer_quota_pauses_total", **labels) == 2
    assert value(metrics, "renewer_quota_waiting", **labels) == 1
    assert "example" not in metrics.exposition().decode()
