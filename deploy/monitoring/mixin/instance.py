"""The dashboard of one daemon, from near."""

from __future__ import annotations

from typing import Any

from .panels import BAD, GOOD, WARN, Query, Row, curves, dashboard, heat, number
from .sections import (
    ALIVE,
    AT_RISK,
    GATEWAY,
    HELD,
    IF_ANY,
    OPERATING,
    POOLS,
    RENEW,
    RENEWING,
    UNDER_WAY,
    S,
    quantile,
    rate,
)


def instance() -> dict[str, Any]:
    """One daemon from near."""
    now = Row(
        "Now",
        (
            number(
                "Held",
                "Locks that are kept.",
                "short",
                f"sum(renewer_leases{HELD})",
            ),
            number(
                "At risk",
                "Locks whose time has passed without an answer, and how often that has happened in the time shown.",
                "short",
                f"sum(renewer_leases{AT_RISK})",
                steps=IF_ANY,
            ),
            number(
                "Operations under way",
                "Operations that are followed.",
                "short",
                f"sum(renewer_operations{UNDER_WAY})",
            ),
            number(
                "Running for",
                "Time since the start of the daemon.",
                "s",
                f"time() - process_start_time_seconds{S}",
                steps=((None, WARN), (600, GOOD)),
            ),
            number(
                "Configuration",
                "Whether the configuration could be used when it was last read.",
                "none",
                f"renewer_config_last_reload_successful{S}",
                steps=((None, BAD), (1, GOOD)),
                mappings={"0": ("has mistakes", BAD), "1": ("in use", GOOD)},
            ),
            number(
                "Configuration read",
                "When the configuration was last read well; the start counts.",
                "dateTimeFromNow",
                f"renewer_config_last_reload_success_timestamp_seconds{S} * 1000",
            ),
        ),
    )
    leases = Row(
        "Leases",
        (
            curves(
                "Leases",
                "Leases by kind and state, but for those that have ended.",
                "short",
                Query(f"sum by (kind, state) (renewer_leases{ALIVE})", "{{kind}} {{state}}"),
                width=6,
            ),
            curves(
                "At risk",
                "How many leases came to be at risk in five minutes.",
                "short",
                Query(f"increase(renewer_leases_at_risk_total{S}[5m])", "at risk"),
                steps=((None, GOOD), (1, BAD)),
                width=6,
            ),
            curves(
                "Lost, by reason",
                "Locks lost in five minutes.",
                "short",
                Query(f"sum by (reason) (increase(renewer_lease_losses_total{S}[5m]))", "{{reason}}"),
                steps=((None, GOOD), (1, BAD)),
                width=6,
            ),
            curves(
                "Acquired, or why not",
                "Attempts to acquire each second, by outcome.",
                "ops",
                Query(rate("renewer_acquisitions_total", "outcome"), "{{outcome}}"),
                width=6,
            ),
            *RENEWING,
            heat(
                "What was left of the lock, in seconds",
                "How many renewals were acknowledged with so much left of the lock.",
                "s",
                f"sum by (le) (increase(renewer_renewal_margin_seconds_bucket{S}[$__rate_interval]))",
                width=12,
            ),
            heat(
                "Lateness of renewals",
                "From when a renewal fell due to when it was begun: the daemon's own delay.",
                "s",
                f"sum by (le) (increase(renewer_attempt_lateness_seconds_bucket{RENEW}[$__rate_interval]))",
                width=12,
            ),
        ),
    )
    targets = Row(
        "Targets",
        (
            curves(
                "Connections",
                "Open connections, by namespace.",
                "short",
                Query(f"renewer_connections{S}", "{{target}}"),
                width=6,
            ),
            curves(
                "Session links",
                "Sessions that are held over these connections.",
                "short",
                Query(f"renewer_links{S}", "{{target}}"),
                width=6,
            ),
            curves(
                "In trouble",
                "1 while a namespace cannot be reached, or allows less than is wanted. `renewer status` says why.",
                "bool_yes_no",
                Query(f"renewer_target_in_trouble{S}", "{{target}}"),
                steps=((None, GOOD), (1, BAD)),
                width=6,
            ),
            curves(
                "Clock skew",
                "How far the broker's clock is ahead of ours. Renewer does not go by it, but tokens and workers may.",
                "s",
                Query(f"renewer_clock_skew_seconds{S}", "{{target}}"),
                steps=((None, WARN), (-5, GOOD), (5, WARN)),
                width=6,
            ),
            curves(
                "Tokens failing",
                "Tokens that could not be had, or were not taken, in five minutes.",
                "short",
                Query(f"increase(renewer_token_failures_total{S}[5m])", "{{target}}"),
                steps=((None, GOOD), (1, WARN)),
                width=8,
            ),
            curves(
                "Throttled",
                "How often services said in five minutes that there were too many requests.",
                "short",
                Query(f"increase(renewer_quota_pauses_total{S}[5m])", "{{account}} {{bucket}}"),
                steps=((None, GOOD), (1, WARN)),
                width=8,
            ),
            curves(
                "Attempts, and how late",
                "The worst hundredth of each kind of attempt, from when it fell due to when it was begun.",
                "s",
                Query(quantile(0.99, "renewer_attempt_lateness_seconds", kept="kind"), "{{kind}}"),
                steps=((None, GOOD), (1, BAD)),
                width=8,
            ),
        ),
    )
    inside = Row(
        "Inside",
        (
            heat(
                "Lag of the loop",
                "How late the loop that renews wakes.",
                "s",
                f"sum by (le) (increase(renewer_loop_lag_seconds_bucket{S}[$__rate_interval]))",
                width=8,
            ),
            curves(
                "Things that have a due time",
                "Leases and operations in the queue; what has ended stays in it until it is forgotten.",
                "short",
                Query(f"renewer_queue_length{S}", "queue"),
                width=8,
            ),
            curves(
                "Waiting to be stored",
                "Leases and operations whose change is not on disk yet. Answers to workers wait for that.",
                "short",
                Query(f"renewer_registry_backlog{S}", "backlog"),
                steps=((None, GOOD), (1000, WARN)),
                width=8,
            ),
            curves(
                "Writes that failed",
                "Writes to the state directory that failed in five minutes.",
                "short",
                Query(f"increase(renewer_registry_write_failures_total{S}[5m])", "failed"),
                steps=((None, GOOD), (1, BAD)),
                width=6,
            ),
            curves(
                "Callbacks",
                "Callbacks in five minutes, by outcome, and how many wait.",
                "short",
                Query(f"sum by (outcome) (increase(renewer_callbacks_total{S}[5m]))", "{{outcome}}"),
                Query(f"renewer_callbacks_pending{S}", "waiting"),
                colours={"delivered": "green", "failed": "orange", "given_up": "red"},
                width=6,
            ),
            curves(
                "Readers of events",
                "Open event streams.",
                "short",
                Query(f"renewer_event_readers{S}", "readers"),
                width=6,
            ),
            curves(
                "Log lines lost",
                "Lines of the log that could not be written, in five minutes.",
                "short",
                Query(f"increase(renewer_log_lines_lost_total{S}[5m])", "lost"),
                steps=((None, GOOD), (1, WARN)),
                width=6,
            ),
        ),
    )
    process = Row(
        "Process",
        (
            curves(
                "Processor",
                "Processor time each second. It is one thread: 1 is all there is.",
                "percentunit",
                Query(f"rate(process_cpu_seconds_total{S}[$__rate_interval])", "processor"),
                steps=((None, GOOD), (0.8, WARN)),
                width=6,
            ),
            curves(
                "Memory",
                "Resident memory.",
                "bytes",
                Query(f"process_resident_memory_bytes{S}", "resident"),
                steps=((None, GOOD), (256 * 1024 * 1024, WARN)),
                width=6,
            ),
            curves(
                "File descriptors",
                "Open ones, as a share of those that it may have.",
                "percentunit",
                Query(f"process_open_fds{S} / process_max_fds{S}", "open"),
                steps=((None, GOOD), (0.8, BAD)),
                width=6,
            ),
            curves(
                "Collections of garbage",
                "Collections each second, by generation.",
                "ops",
                Query(f"rate(python_gc_collections_total{S}[$__rate_interval])", "generation {{generation}}"),
                width=6,
            ),
        ),
    )
    return dashboard(
        "renewer-instance",
        "renewer / instance",
        "One daemon from near: its leases, its operations, its targets, and how it is itself.",
        (now, leases, Row("Operations", OPERATING), targets, inside, process, GATEWAY, POOLS),
        one_instance=True,
    )
