"""Alerts about locks: lost, in danger, not had, renewed badly or not at all."""

from __future__ import annotations

from .shapes import Alert, Case, series

_HELD = series("renewer_leases", kind="session", state="held")
_RENEWED = series("renewer_renewals_total", outcome="success")

LEASE_ALERTS = (
    Alert(
        "LeaseLost",
        'increase(renewer_lease_losses_total{reason!~"owner_gone|max_duration"}[10m]) > 0',
        "critical",
        "A lock was lost: {{ $labels.reason }}",
        "{{ $labels.instance }} lost a lock ({{ $labels.reason }}). Somebody else may work on the same session or"
        " message now. Its owner was told; what it had in flight is delivered again.",
        fires=Case({series("renewer_lease_losses_total", reason="expired"): "0 0 1 1 1"}, "4m", {"reason": "expired"}),
        quiet=(
            Case({series("renewer_lease_losses_total", reason="expired"): "5x20"}, "20m"),
            Case({series("renewer_lease_losses_total", reason="owner_gone"): "0 0 1 2 3"}, "4m"),
        ),
    ),
    Alert(
        "LeaseAtRisk",
        'sum without (kind, state) (renewer_leases{state="at_risk"}) > 0'
        " or increase(renewer_leases_at_risk_total[5m]) > 0",
        "warning",
        "Locks may be gone",
        "On {{ $labels.instance }} the time of a lock passed, or has passed within five minutes, without an answer"
        " from the broker. Owners were told to stop; the broker is asked again until it says what became of the lock.",
        fires=Case(
            {
                series("renewer_leases", kind="session", state="at_risk"): "0 0 3 3",
                series("renewer_leases", kind="message", state="at_risk"): "0 0 0 0",
                series("renewer_leases_at_risk_total"): "0 0 3 3",
            },
            "3m",
        ),
        quiet=(
            Case(
                {
                    series("renewer_leases", kind="session", state="at_risk"): "0x20",
                    _HELD: "9x20",
                    series("renewer_leases_at_risk_total"): "3x20",
                },
                "20m",
            ),
        ),
    ),
    Alert(
        "LeaseNotHeld",
        'sum without (kind, state) (renewer_leases{state="acquiring"}) > 0 and sum without (outcome) '
        '(increase(renewer_acquisitions_total{outcome!~"acquired|reacquired|empty"}[10m])) > 0',
        "warning",
        "Locks that are wanted cannot be had",
        "For ten minutes {{ $labels.instance }} has not been able to acquire {{ $value | humanize }} leases, and"
        " attempts fail. Their workers wait.",
        fires=Case(
            {
                series("renewer_leases", kind="session", state="acquiring"): "2x30",
                series("renewer_acquisitions_total", outcome="busy"): "0+6x30",
            },
            "20m",
            value="2",
        ),
        quiet=(
            # A pool that waits for sessions that are not there has nothing to complain of.
            Case(
                {
                    series("renewer_leases", kind="session", state="acquiring"): "2x30",
                    series("renewer_acquisitions_total", outcome="empty"): "0+6x30",
                },
                "20m",
            ),
            Case(
                {
                    series("renewer_leases", kind="session", state="acquiring"): "0x30",
                    series("renewer_acquisitions_total", outcome="busy"): "0+6x30",
                },
                "20m",
            ),
        ),
        lasts="10m",
    ),
    Alert(
        "MarginLow",
        "instance:renewer_renewals_scarce:ratio_rate10m > 0.01",
        "warning",
        "Renewals are acknowledged late",
        "On {{ $labels.instance }} {{ $value | humanizePercentage }} of renewals were acknowledged with less than a"
        " fifth of the lock left; about a half is left as a rule. The next slow answer costs a lock.",
        fires=Case(
            {
                series("renewer_renewal_margin_ratio_bucket", le="0.2"): "0+1x30",
                series("renewer_renewal_margin_ratio_count"): "0+20x30",
            },
            "20m",
            value="5%",
        ),
        quiet=(
            Case(
                {
                    series("renewer_renewal_margin_ratio_bucket", le="0.2"): "0x30",
                    series("renewer_renewal_margin_ratio_count"): "0+20x30",
                },
                "20m",
            ),
            Case(
                {
                    series("renewer_renewal_margin_ratio_bucket", le="0.2"): "7x30",
                    series("renewer_renewal_margin_ratio_count"): "200x30",
                },
                "20m",
            ),
        ),
        lasts="5m",
    ),
    Alert(
        "RenewalsFailing",
        "instance:renewer_renewals_failed:ratio_rate10m > 0.2",
        "warning",
        "Many renewals fail",
        "On {{ $labels.instance }} {{ $value | humanizePercentage }} of renewals fail or go unanswered. They are made"
        " again in time as long as some succeed.",
        fires=Case(
            {_RENEWED: "0+6x40", series("renewer_renewals_total", outcome="timeout"): "0+2x40"}, "30m", value="25%"
        ),
        quiet=(
            Case({_RENEWED: "0+19x40", series("renewer_renewals_total", outcome="timeout"): "0+1x40"}, "30m"),
            Case({_RENEWED: "100x40", series("renewer_renewals_total", outcome="timeout"): "50x40"}, "30m"),
        ),
        lasts="10m",
    ),
    Alert(
        "RenewalsStopped",
        'sum without (kind, state) (renewer_leases{state="held"}) > 0 and sum without (outcome) '
        '(rate(renewer_renewals_total{outcome="success"}[10m])) == 0',
        "critical",
        "Locks are held, and none is renewed",
        "{{ $labels.instance }} holds {{ $value | humanize }} leases and has renewed none for ten minutes. Every lock"
        " is renewed every four minutes at least.",
        fires=Case({_HELD: "4x30", _RENEWED: "50x30"}, "20m", value="4"),
        quiet=(
            Case({_HELD: "4x30", _RENEWED: "0+1x30"}, "20m"),
            Case({_HELD: "0x30", _RENEWED: "50x30"}, "20m"),
        ),
        lasts="2m",
    ),
    Alert(
        "TargetInTrouble",
        "renewer_target_in_trouble == 1",
        "critical",
        "{{ $labels.target }} cannot be reached, or allows too little",
        "{{ $labels.instance }} cannot reach {{ $labels.target }}, or is allowed fewer connections or sessions there"
        " than it wants. `renewer status` says which.",
        fires=Case(
            {series("renewer_target_in_trouble", target="servicebus.main"): "1x10"}, "5m", {"target": "servicebus.main"}
        ),
        quiet=(
            Case({series("renewer_target_in_trouble", target="servicebus.main"): "0x10"}, "5m"),
            Case({series("renewer_target_in_trouble", target="servicebus.main"): "0 0 0 0 1 1 0"}, "5m"),
        ),
        lasts="2m",
    ),
    Alert(
        "ClockSkewHigh",
        "abs(renewer_clock_skew_seconds) > 5",
        "warning",
        "The clock is not the broker's",
        "The clock of {{ $labels.instance }} and that of {{ $labels.target }} are {{ $value | humanizeDuration }}"
        " apart. Renewer does not go by it, but workers that read `locked_until_utc` do, and tokens may be refused.",
        fires=Case(
            {series("renewer_clock_skew_seconds", target="servicebus.main"): "-30x30"},
            "20m",
            {"target": "servicebus.main"},
            "30s",
        ),
        quiet=(Case({series("renewer_clock_skew_seconds", target="servicebus.main"): "4x30"}, "20m"),),
        lasts="10m",
    ),
)
