"""The dashboard of all daemons together: what is kept, what went wrong, and where."""

from __future__ import annotations

from typing import Any

from .panels import BAD, GOOD, WARN, Query, Row, curves, dashboard, number, table
from .sections import (
    ALIVE,
    AT_RISK,
    BADLY,
    GATEWAY,
    HELD,
    IF_ANY,
    LEASE_COLOURS,
    MESSAGES,
    OPERATING,
    OURS,
    POOLS,
    RENEWING,
    SESSIONS,
    UNDER_WAY,
    S,
    quantile,
    rate,
)


def fleet() -> dict[str, Any]:
    """All daemons together: what is kept, what went wrong, and where."""
    lost = f"round(sum(increase(renewer_lease_losses_total{OURS}[$__range])))"
    ended = f"round(sum(increase(renewer_operations_ended_total{BADLY}[$__range])))"
    overview = Row(
        "Overview",
        (
            number("Daemons", "Daemons that answer.", "short", 'sum(up{job=~"$job"})', steps=((None, BAD), (1, GOOD))),
            number("Sessions held", "Session locks that are kept.", "short", f"sum(renewer_leases{SESSIONS})"),
            number("Messages held", "Message locks that are kept.", "short", f"sum(renewer_leases{MESSAGES})"),
            number(
                "At risk now",
                "Locks whose time has passed without an answer. Their owners have been told to stop.",
                "short",
                f"sum(renewer_leases{AT_RISK})",
                steps=IF_ANY,
            ),
            number(
                "Lost",
                "Locks lost in the time shown; not counted are those whose owner was gone or whose time was over.",
                "short",
                lost,
                steps=IF_ANY,
            ),
            number(
                "Smallest margin",
                "What was left of the lock at the worst hundredth of renewals, as a share.",
                "percentunit",
                f"histogram_quantile(0.01, sum by (le) (rate(renewer_renewal_margin_ratio_bucket{S}[$__range])))",
                steps=((None, BAD), (0.2, WARN), (0.35, GOOD)),
                decimals=0,
            ),
            number(
                "Operations under way",
                "Operations that are followed.",
                "short",
                f"sum(renewer_operations{UNDER_WAY})",
            ),
            number(
                "Ended badly",
                "Operations that ended otherwise than well in the time shown; canceled ones are not counted.",
                "short",
                ended,
                steps=((None, GOOD), (1, WARN)),
            ),
            number(
                "Targets in trouble",
                "Namespaces that cannot be reached, or allow too little.",
                "short",
                f"sum(renewer_target_in_trouble{S})",
                steps=IF_ANY,
            ),
            number(
                "Tokens failing",
                "Tokens that could not be had, or were not taken, in the time shown.",
                "short",
                f"round(sum(increase(renewer_token_failures_total{S}[$__range])))",
                steps=((None, GOOD), (3, WARN)),
            ),
            number(
                "Callbacks waiting",
                "Callbacks that nobody has acknowledged yet.",
                "short",
                f"sum(renewer_callbacks_pending{S})",
                steps=((None, GOOD), (100, WARN)),
            ),
            number(
                "Alerts",
                "Alerts of these rules that fire.",
                "short",
                'count(ALERTS{component="renewer", alertstate="firing"}) or vector(0)',
                steps=IF_ANY,
            ),
        ),
    )
    leases = Row(
        "Leases",
        (
            curves(
                "Leases",
                "Leases by state. `acquiring` are wanted and not had: normal for a pool that waits for sessions.",
                "short",
                Query(f"sum by (state) (renewer_leases{ALIVE})", "{{state}}"),
                stacked=True,
                colours=LEASE_COLOURS,
            ),
            curves(
                "Lost, by reason",
                "Locks lost in five minutes. What each reason means is in the runbook under LeaseLost.",
                "short",
                Query(f"sum by (reason) (increase(renewer_lease_losses_total{S}[5m]))", "{{reason}}"),
                steps=((None, GOOD), (1, BAD)),
            ),
            curves(
                "Acquired, or why not",
                "Attempts to acquire each second, by outcome. `reacquired` follows a loss, `empty` means that no"
                " session is available.",
                "ops",
                Query(rate("renewer_acquisitions_total", "outcome"), "{{outcome}}"),
                colours={"acquired": "green", "reacquired": "orange", "empty": "text"},
            ),
        ),
    )
    daemons = Row(
        "Daemons",
        (
            table(
                "Daemons",
                "Each daemon, its version, and the leases that it holds.",
                "short",
                Query(
                    f"sum by (job, instance) (renewer_leases{HELD})"
                    f" * on (job, instance) group_left (version) renewer_build_info{S}"
                ),
                width=8,
            ),
            curves(
                "Wakes late",
                "How late the loop that renews wakes, the worst hundredth, by daemon.",
                "s",
                Query(quantile(0.99, "renewer_loop_lag_seconds", kept="instance"), "{{instance}}"),
                steps=((None, GOOD), (0.5, WARN), (2, BAD)),
            ),
            curves(
                "Processor",
                "Processor time each second, by daemon. It is one thread: 1 is all there is.",
                "percentunit",
                Query(f"rate(process_cpu_seconds_total{S}[$__rate_interval])", "{{instance}}"),
                steps=((None, GOOD), (0.8, WARN)),
            ),
            curves(
                "Leases held, by daemon",
                "How leases are spread over daemons.",
                "short",
                Query(f"sum by (instance) (renewer_leases{HELD})", "{{instance}}"),
                stacked=True,
            ),
            curves(
                "Memory, by daemon",
                "Resident memory.",
                "bytes",
                Query(f"process_resident_memory_bytes{S}", "{{instance}}"),
                steps=((None, GOOD), (256 * 1024 * 1024, WARN)),
            ),
            curves(
                "Starts",
                "Restarts within ten minutes. Each one acquires its sessions anew.",
                "short",
                Query(f"changes(process_start_time_seconds{S}[10m])", "{{instance}}"),
                steps=((None, GOOD), (1, WARN)),
            ),
        ),
    )
    return dashboard(
        "renewer-fleet",
        "renewer / fleet",
        "All daemons together: what they keep, what was lost and why, and which of them to look at.",
        (overview, leases, Row("Renewals", RENEWING), Row("Operations", OPERATING), daemons, GATEWAY, POOLS),
        one_instance=False,
    )
