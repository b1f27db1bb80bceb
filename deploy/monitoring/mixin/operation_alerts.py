"""Alerts about operations: ended badly, not heard of, held up by quotas or tokens."""

from __future__ import annotations

from .shapes import Alert, Case, series

_QUOTA = {"account": "fabric.main", "bucket": "platform"}

OPERATION_ALERTS = (
    Alert(
        "OperationFailed",
        'increase(renewer_operations_ended_total{state!~"succeeded|canceled"}[10m]) > 0',
        "warning",
        "An operation ended as {{ $labels.state }}",
        "An operation that {{ $labels.instance }} followed ended as {{ $labels.state }}. Why, and what to do, is in"
        " `renewer op get`.",
        fires=Case({series("renewer_operations_ended_total", state="failed"): "0 0 1 1"}, "3m", {"state": "failed"}),
        quiet=(
            Case({series("renewer_operations_ended_total", state="succeeded"): "0+1x20"}, "20m"),
            Case({series("renewer_operations_ended_total", state="failed"): "2x20"}, "20m"),
        ),
    ),
    Alert(
        "OperationStuck",
        "renewer_operation_longest_failing_seconds > 900",
        "warning",
        "Nothing is heard of an operation",
        "For {{ $value | humanizeDuration }} every request of {{ $labels.instance }} about an operation has failed."
        " It may have ended long ago; its caller waits.",
        fires=Case({series("renewer_operation_longest_failing_seconds"): "0+60x30"}, "20m", value="20m 0s"),
        quiet=(Case({series("renewer_operation_longest_failing_seconds"): "0+60x10 0x20"}, "25m"),),
        lasts="1m",
    ),
    Alert(
        "OperationOld",
        "renewer_operation_oldest_age_seconds > 72000",
        "info",
        "An operation runs for very long",
        "{{ $labels.instance }} has followed an operation for {{ $value | humanizeDuration }}. Unless its deadline"
        " was set otherwise it counts as timed out after a day.",
        fires=Case({series("renewer_operation_oldest_age_seconds"): "75600x30"}, "20m", value="21h 0m 0s"),
        quiet=(Case({series("renewer_operation_oldest_age_seconds"): "3600x30"}, "20m"),),
        lasts="10m",
    ),
    Alert(
        "PollsFailing",
        "instance:renewer_polls_failed:ratio_rate15m > 0.5",
        "warning",
        "Most polls fail",
        "On {{ $labels.instance }} {{ $value | humanizePercentage }} of requests for operations fail. A failed poll"
        " is no failed operation, but ends are learned late.",
        fires=Case(
            {
                series("renewer_polls_total", outcome="running"): "0+1x50",
                series("renewer_polls_total", outcome="server"): "0+3x50",
            },
            "40m",
            value="75%",
        ),
        quiet=(
            Case(
                {
                    series("renewer_polls_total", outcome="running"): "0+3x50",
                    series("renewer_polls_total", outcome="server"): "0+1x50",
                },
                "40m",
            ),
        ),
        lasts="15m",
    ),
    Alert(
        "Throttled",
        "increase(renewer_quota_pauses_total[15m]) > 3",
        "warning",
        "{{ $labels.account }} is throttled",
        "{{ $labels.account }} keeps answering 429 to {{ $labels.instance }} ({{ $labels.bucket }}). Requests are"
        " paused for as long as it asks; operations end later than they could.",
        fires=Case({series("renewer_quota_pauses_total", **_QUOTA): "0+1x40"}, "30m", _QUOTA),
        quiet=(Case({series("renewer_quota_pauses_total", **_QUOTA): "0x5 1x5 2x30"}, "30m"),),
        lasts="5m",
    ),
    Alert(
        "QuotaFull",
        "min_over_time(renewer_quota_waiting[15m]) > 0",
        "info",
        "Requests wait for the quota of {{ $labels.account }}",
        "For a quarter of an hour requests of {{ $labels.instance }} have always been waiting for room in the quota"
        " of {{ $labels.account }} ({{ $labels.bucket }}).",
        fires=Case({series("renewer_quota_waiting", **_QUOTA): "4x60"}, "50m", _QUOTA),
        quiet=(Case({series("renewer_quota_waiting", **_QUOTA): "4x10 0 4x10 0 4x10 0 4x10 0"}, "40m"),),
        lasts="15m",
    ),
    Alert(
        "TokenRefreshFailing",
        "increase(renewer_token_failures_total[15m]) > 2",
        "warning",
        "Tokens for {{ $labels.target }} cannot be had",
        "{{ $labels.instance }} cannot get tokens for {{ $labels.target }}, or the service does not take them. What"
        " is held goes on for as long as the present token is good; then sessions are lost and polls fail.",
        fires=Case(
            {series("renewer_token_failures_total", target="fabric.main"): "0+1x40"}, "30m", {"target": "fabric.main"}
        ),
        quiet=(
            Case({series("renewer_token_failures_total", target="fabric.main"): "0x10 1x30"}, "30m"),
            Case({series("renewer_token_failures_total", target="fabric.main"): "9x40"}, "30m"),
        ),
        lasts="5m",
    ),
)
