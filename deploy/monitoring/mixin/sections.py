"""What both dashboards show: renewals, operations, gateways; and how series are chosen."""

from __future__ import annotations

from typing import Final

from .panels import BAD, GOOD, WARN, Query, Row, curves

S: Final = '{job=~"$job", instance=~"$instance"}'
"""Whatever was chosen at the top of the page."""


def where(matchers: str) -> str:
    """What was chosen, and these matchers."""
    return '{job=~"$job", instance=~"$instance", ' + matchers + "}"


def rate(metric: str, by: str, matchers: str = "") -> str:
    """How much a counter grows each second, summed."""
    return f"sum by ({by}) (rate({metric}{where(matchers) if matchers else S}[$__rate_interval]))"


def quantile(share: float, metric: str, matchers: str = "", kept: str = "") -> str:
    """This share of what a histogram saw was no more than that."""
    by = f"{kept}, le" if kept else "le"
    return f"histogram_quantile({share:g}, {rate(metric + '_bucket', by, matchers)})"


UNDER_WAY: Final = where('state=~"accepted|running|fetching"')
BADLY: Final = where('state!~"succeeded|canceled"')
OURS: Final = where('reason!~"owner_gone|max_duration"')
"""Losses that nobody wanted."""
HELD: Final = where('state="held"')
SESSIONS: Final = where('kind="session", state="held"')
MESSAGES: Final = where('kind="message", state="held"')
AT_RISK: Final = where('state="at_risk"')
ALIVE: Final = where('state!~"lost|released"')
RENEW: Final = where('kind="renew"')

LEASE_COLOURS: Final = {"held": "green", "acquiring": "blue", "at_risk": "orange", "lost": "red", "released": "text"}

IF_ANY: Final = ((None, GOOD), (1, BAD))

RENEWING: Final = (
    curves(
        "Renewals",
        "Renewals each second, by outcome. Anything but success is made again while time is left; `overdue` means"
        " that the next one was sent before this one was answered.",
        "ops",
        Query(rate("renewer_renewals_total", "outcome"), "{{outcome}}"),
        colours={"success": "green"},
    ),
    curves(
        "What was left of the lock",
        "What was left when a renewal was acknowledged, as a share of the lock. A half is normal; under a fifth the"
        " next slow answer costs the lock.",
        "percentunit",
        Query(quantile(0.01, "renewer_renewal_margin_ratio"), "worst 1 %"),
        Query(quantile(0.5, "renewer_renewal_margin_ratio"), "half of them"),
        steps=((None, BAD), (0.2, WARN), (0.35, GOOD)),
    ),
    curves(
        "How long a renewal takes",
        "From sending a renewal to its answer: the broker and the network. An attempt waits for a fifth of what is"
        " left of the lock, then the next one starts beside it.",
        "s",
        Query(quantile(0.5, "renewer_renewal_duration_seconds"), "half of them"),
        Query(quantile(0.99, "renewer_renewal_duration_seconds"), "worst 1 %"),
        steps=((None, GOOD), (1, WARN), (5, BAD)),
    ),
)

OPERATING: Final = (
    curves(
        "Operations under way",
        "Operations by state. `accepted` are not answered yet, `fetching` are done and their result is on its way.",
        "short",
        Query(f"sum by (state) (renewer_operations{UNDER_WAY})", "{{state}}"),
        stacked=True,
        width=6,
    ),
    curves(
        "Operations that ended",
        "How many ended in five minutes, by how. Expired, timed out and unpollable ones may still run at the service.",
        "short",
        Query(f"sum by (state) (increase(renewer_operations_ended_total{S}[5m]))", "{{state}}"),
        colours={"succeeded": "green", "failed": "red", "canceled": "text"},
        width=6,
    ),
    curves(
        "Requests for operations",
        "Polls and first requests each second: `running` is a good answer, all else is why one failed. A failed poll"
        " is no failed operation.",
        "ops",
        Query(rate("renewer_polls_total", "outcome"), "{{outcome}}"),
        colours={"running": "green", "throttled": "orange"},
        width=6,
    ),
    curves(
        "What services ask us to wait",
        "Retry-After, as services say it. Nothing is asked earlier than that.",
        "s",
        Query(quantile(0.5, "renewer_poll_retry_after_seconds"), "half of them"),
        Query(quantile(0.99, "renewer_poll_retry_after_seconds"), "longest 1 %"),
        width=6,
    ),
    curves(
        "Operations that fail to be polled",
        "Operations whose last request failed, and for how long the worst of them has had no good answer.",
        "short",
        Query(f"sum(renewer_operations_failing{S})", "operations"),
        steps=((None, GOOD), (1, WARN)),
        width=6,
    ),
    curves(
        "Failing for, and oldest",
        "For how long all requests for the worst operation have failed, and the age of the oldest one under way.",
        "s",
        Query(f"max(renewer_operation_longest_failing_seconds{S})", "failing for"),
        Query(f"max(renewer_operation_oldest_age_seconds{S})", "oldest"),
        steps=((None, GOOD), (900, WARN), (72000, BAD)),
        width=6,
    ),
    curves(
        "Waiting for a quota",
        "Operations whose next request waits for room in the quota of their account.",
        "short",
        Query(f"sum by (account, bucket) (renewer_quota_waiting{S})", "{{account}} {{bucket}}"),
        width=6,
    ),
    curves(
        "Paused by 429",
        "For how long a service that was asked too often still wants no requests.",
        "s",
        Query(f"max by (account, bucket) (renewer_quota_paused_seconds{S})", "{{account}} {{bucket}}"),
        steps=((None, GOOD), (60, WARN)),
        width=6,
    ),
)

POOLS: Final = Row(
    "Pools",
    (
        curves(
            "Sessions of pools",
            "`taken` are with workers, `free` wait for one, `acquiring` are not had yet: no session is available. Those"
            " with nobody that are at risk or parked cannot be taken, and are not shown. Empty without a [[session]]"
            " that has `sessions`.",
            "short",
            Query(f"sum by (state) (renewer_pool_sessions{S})", "{{state}}"),
            Query(f"sum(renewer_pool_size{S})", "size"),
            colours={"free": "green", "acquiring": "blue", "taken": "orange"},
            width=12,
        ),
        curves(
            "Pools that are full",
            "Pools all of whose sessions are with workers: who asks for one more is answered with 429. As many"
            " `sessions` as there are workers are enough.",
            "short",
            Query(f"sum by (target) (renewer_pools_full{S})", "{{target}}"),
            steps=((None, GOOD), (1, WARN)),
            width=12,
        ),
    ),
)

GATEWAY: Final = Row(
    "Gateway",
    (
        curves(
            "Workers connected",
            "Connections of workers that showed a key and were let in. Empty without a [[gateway]].",
            "short",
            Query(f"sum by (gateway) (renewer_gateway_connections{S})", "{{gateway}}"),
            width=8,
        ),
        curves(
            "Refused",
            "Connections and links refused in five minutes, by why: a wrong key, an entity that the key is not for,"
            " no AMQP, too slow, no room.",
            "short",
            Query(f"sum by (gateway, why) (increase(renewer_gateway_refusals_total{S}[5m]))", "{{gateway}} {{why}}"),
            steps=((None, GOOD), (3, WARN)),
            width=8,
        ),
        curves(
            "Upstream failures",
            "Connections to the namespace that could not be made, or broke off, in five minutes. Workers lose their"
            " sessions by that.",
            "short",
            Query(f"sum by (gateway) (increase(renewer_gateway_upstream_failures_total{S}[5m]))", "{{gateway}}"),
            steps=((None, GOOD), (1, BAD)),
            width=8,
        ),
        curves(
            "Messages passed",
            "Messages passed to workers each second.",
            "ops",
            Query(rate("renewer_gateway_messages_total", "gateway"), "{{gateway}}"),
            width=12,
        ),
        curves(
            "Waiting to be taken",
            "Bytes that workers, or the namespace, have yet to take. The broker is slowed before this grows large.",
            "bytes",
            Query(f"sum by (gateway) (renewer_gateway_buffered_bytes{S})", "{{gateway}}"),
            steps=((None, GOOD), (16 * 1024 * 1024, WARN)),
            width=12,
        ),
    ),
)
