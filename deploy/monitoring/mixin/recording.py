"""Recording rules: what alerts ask again and again, and what is worth keeping for longer than raw series."""

from __future__ import annotations

from .shapes import Record

RECORDS = (
    Record("instance:renewer_renewals:rate5m", "sum without (outcome) (rate(renewer_renewals_total[5m]))"),
    Record(
        "instance:renewer_renewals_failed:ratio_rate10m",
        'sum without (outcome) (rate(renewer_renewals_total{outcome!="success"}[10m]))'
        " / sum without (outcome) (rate(renewer_renewals_total[10m]))",
    ),
    Record(
        "instance:renewer_renewals_scarce:ratio_rate10m",
        'sum without (le) (rate(renewer_renewal_margin_ratio_bucket{le="0.2"}[10m]))'
        " / rate(renewer_renewal_margin_ratio_count[10m])",
    ),
    Record(
        "instance:renewer_attempt_lateness_seconds:p99_rate5m",
        "histogram_quantile(0.99, rate(renewer_attempt_lateness_seconds_bucket[5m]))",
    ),
    Record(
        "instance:renewer_loop_lag_seconds:p99_rate5m",
        "histogram_quantile(0.99, rate(renewer_loop_lag_seconds_bucket[5m]))",
    ),
    Record(
        "instance:renewer_polls_failed:ratio_rate15m",
        'sum without (outcome) (rate(renewer_polls_total{outcome!="running"}[15m]))'
        " / sum without (outcome) (rate(renewer_polls_total[15m]))",
    ),
    Record("job:renewer_leases:sum", "sum by (job, kind, state) (renewer_leases)"),
    Record("job:renewer_lease_losses:increase1h", "sum by (job, reason) (increase(renewer_lease_losses_total[1h]))"),
    Record("job:renewer_operations:sum", "sum by (job, state) (renewer_operations)"),
    Record(
        "job:renewer_operations_ended:increase1h",
        "sum by (job, state) (increase(renewer_operations_ended_total[1h]))",
    ),
)
