"""Alerts about the daemon itself: gone, late, unable to write, told things that it cannot use; and about gateways."""

from __future__ import annotations

from .shapes import JOB, Alert, Case, series

_UP = series("up")

DAEMON_ALERTS = (
    Alert(
        "RenewerDown",
        f'up{{job="{JOB}"}} == 0',
        "critical",
        "renewer does not answer",
        "{{ $labels.instance }} has not answered for a minute. If it is gone, the sessions that it held are free or"
        " will be when their locks end, message locks run out, and operations are not followed until it is back.",
        fires=Case({_UP: "1 1 0 0 0"}, "4m"),
        quiet=(Case({_UP: "1x10"}, "5m"), Case({_UP: "1 1 0 1 1"}, "4m")),
        lasts="1m",
    ),
    Alert(
        "RenewerAbsent",
        f'absent(up{{job="{JOB}"}})',
        "critical",
        "No renewer is scraped",
        "Prometheus knows no target of the job. Either none runs, or it is not found: nobody watches the locks.",
        fires=Case({'up{job="other", instance="b:1"}': "1x10"}, "10m", {"instance": ""}),
        quiet=(Case({_UP: "1x10"}, "10m"), Case({_UP: "0x10"}, "10m")),
        lasts="5m",
    ),
    Alert(
        "RenewerRestarting",
        f'changes(process_start_time_seconds{{job="{JOB}"}}[30m]) > 2',
        "warning",
        "renewer starts again and again",
        "{{ $labels.instance }} was started {{ $value | humanize }} times in half an hour. Each time its sessions are"
        " acquired anew, as new epochs.",
        fires=Case({series("process_start_time_seconds"): "100x4 200x4 300x4 400x20"}, "25m", value="3"),
        quiet=(Case({series("process_start_time_seconds"): "100x4 200x30"}, "25m"),),
    ),
    Alert(
        "LoopLate",
        "instance:renewer_loop_lag_seconds:p99_rate5m > 0.5",
        "warning",
        "The loop that renews wakes late",
        "On {{ $labels.instance }} one wake-up in a hundred is more than {{ $value | humanizeDuration }} late. Locks"
        " of a few seconds may be lost by that.",
        fires=Case(
            {
                series("renewer_loop_lag_seconds_bucket", le="0.5"): "0+90x30",
                series("renewer_loop_lag_seconds_bucket", le="1.0"): "0+100x30",
                series("renewer_loop_lag_seconds_bucket", le="+Inf"): "0+100x30",
            },
            "20m",
            value="950ms",
        ),
        quiet=(
            Case(
                {
                    series("renewer_loop_lag_seconds_bucket", le="0.5"): "0+100x30",
                    series("renewer_loop_lag_seconds_bucket", le="1.0"): "0+100x30",
                    series("renewer_loop_lag_seconds_bucket", le="+Inf"): "0+100x30",
                },
                "20m",
            ),
        ),
        lasts="5m",
    ),
    Alert(
        "RenewalsLate",
        'instance:renewer_attempt_lateness_seconds:p99_rate5m{kind="renew"} > 1',
        "warning",
        "Renewals begin late",
        "On {{ $labels.instance }} one renewal in a hundred begins more than {{ $value | humanizeDuration }} after it"
        " fell due.",
        fires=Case(
            {
                series("renewer_attempt_lateness_seconds_bucket", kind="renew", le="1.0"): "0+50x30",
                series("renewer_attempt_lateness_seconds_bucket", kind="renew", le="2.5"): "0+100x30",
                series("renewer_attempt_lateness_seconds_bucket", kind="renew", le="+Inf"): "0+100x30",
            },
            "20m",
            {"kind": "renew"},
            "2.47s",
        ),
        quiet=(
            Case(
                {
                    series("renewer_attempt_lateness_seconds_bucket", kind="poll", le="1.0"): "0+50x30",
                    series("renewer_attempt_lateness_seconds_bucket", kind="poll", le="2.5"): "0+100x30",
                    series("renewer_attempt_lateness_seconds_bucket", kind="poll", le="+Inf"): "0+100x30",
                    series("renewer_attempt_lateness_seconds_bucket", kind="renew", le="1.0"): "0+100x30",
                    series("renewer_attempt_lateness_seconds_bucket", kind="renew", le="+Inf"): "0+100x30",
                },
                "20m",
            ),
        ),
        lasts="5m",
    ),
    Alert(
        "RegistryFailing",
        "increase(renewer_registry_write_failures_total[5m]) > 0",
        "critical",
        "What is registered cannot be stored",
        "{{ $labels.instance }} cannot write to its state directory. Locks are kept and operations followed all the"
        " same, but new work is refused, and what changes now does not survive a crash.",
        fires=Case({series("renewer_registry_write_failures_total"): "0+1x10"}, "5m"),
        quiet=(Case({series("renewer_registry_write_failures_total"): "0 0 1 1 1 1 1 1 1 1 1 1 1"}, "12m"),),
        lasts="1m",
    ),
    Alert(
        "RegistrySlow",
        "renewer_registry_backlog > 1000",
        "warning",
        "The disk cannot keep up",
        "On {{ $labels.instance }} {{ $value | humanize }} leases and operations wait to be stored. Answers to"
        " workers wait for that.",
        fires=Case({series("renewer_registry_backlog"): "2500x10"}, "10m", value="2.5k"),
        quiet=(Case({series("renewer_registry_backlog"): "40x10"}, "10m"),),
        lasts="5m",
    ),
    Alert(
        "CallbacksStuck",
        "renewer_callbacks_pending > 0"
        ' and ignoring (outcome) increase(renewer_callbacks_total{outcome="failed"}[15m]) > 0'
        ' unless ignoring (outcome) increase(renewer_callbacks_total{outcome="delivered"}[15m]) > 0',
        "warning",
        "Callbacks are not taken",
        "{{ $value | humanize }} callbacks of {{ $labels.instance }} wait, every attempt fails, and none has been"
        " acknowledged for a quarter of an hour. Owners do not learn of losses and ends by them.",
        fires=Case(
            {
                series("renewer_callbacks_pending"): "3x60",
                series("renewer_callbacks_total", outcome="failed"): "0+1x60",
                series("renewer_callbacks_total", outcome="delivered"): "7x60",
            },
            "40m",
            value="3",
        ),
        quiet=(
            Case(
                {
                    series("renewer_callbacks_pending"): "3x60",
                    series("renewer_callbacks_total", outcome="failed"): "0+1x60",
                    series("renewer_callbacks_total", outcome="delivered"): "0+1x60",
                },
                "40m",
            ),
            Case(
                {
                    series("renewer_callbacks_pending"): "0x60",
                    series("renewer_callbacks_total", outcome="failed"): "0+1x60",
                    series("renewer_callbacks_total", outcome="delivered"): "7x60",
                },
                "40m",
            ),
        ),
        lasts="15m",
    ),
    Alert(
        "CallbacksGivenUp",
        'increase(renewer_callbacks_total{outcome="given_up"}[1h]) > 0',
        "warning",
        "Callbacks were given up",
        "{{ $labels.instance }} gave callbacks up: nobody took them within their time, or their receiver is gone for"
        " good. What they told is in `renewer lease ls` and `renewer op ls`.",
        fires=Case({series("renewer_callbacks_total", outcome="given_up"): "0 0 1 1"}, "3m", {"outcome": "given_up"}),
        quiet=(Case({series("renewer_callbacks_total", outcome="given_up"): "2x90"}, "90m"),),
    ),
    Alert(
        "ReloadFailed",
        "renewer_config_last_reload_successful == 0",
        "warning",
        "The new configuration has mistakes",
        "{{ $labels.instance }} was told to read its configuration again and found mistakes. It goes on with the old"
        " one, and will not start with the new one.",
        fires=Case({series("renewer_config_last_reload_successful"): "1 1 0x10"}, "8m"),
        quiet=(Case({series("renewer_config_last_reload_successful"): "1x10"}, "8m"),),
        lasts="1m",
    ),
    Alert(
        "LogLinesLost",
        "increase(renewer_log_lines_lost_total[10m]) > 0",
        "warning",
        "Lines of the log are lost",
        "{{ $labels.instance }} could not write all of its log: its reader is too slow or gone, or a disk is full.",
        fires=Case({series("renewer_log_lines_lost_total"): "0 0 12 12"}, "3m"),
        quiet=(Case({series("renewer_log_lines_lost_total"): "12x20"}, "20m"),),
    ),
    Alert(
        "FilesRunningOut",
        f'process_open_fds{{job="{JOB}"}} / process_max_fds > 0.8',
        "warning",
        "File descriptors run out",
        "{{ $labels.instance }} uses {{ $value | humanizePercentage }} of the file descriptors that it may have."
        " Beyond them no worker and no broker can be connected to.",
        fires=Case({series("process_open_fds"): "900x20", series("process_max_fds"): "1000x20"}, "15m", value="90%"),
        quiet=(Case({series("process_open_fds"): "50x20", series("process_max_fds"): "1000x20"}, "15m"),),
        lasts="10m",
    ),
)

_REFUSED = {"gateway": "main", "why": "key"}
_GATEWAY = {"gateway": "main"}

GATEWAY_ALERTS = (
    Alert(
        "GatewayRefusing",
        "increase(renewer_gateway_refusals_total[10m]) > 3",
        "warning",
        "Gateway {{ $labels.gateway }} refuses workers: {{ $labels.why }}",
        "Gateway {{ $labels.gateway }} of {{ $labels.instance }} keeps refusing connections ({{ $labels.why }}).",
        fires=Case({series("renewer_gateway_refusals_total", **_REFUSED): "0+2x20"}, "15m", _REFUSED),
        quiet=(
            Case({series("renewer_gateway_refusals_total", **_REFUSED): "0 0 1 1x20"}, "15m"),
            Case({series("renewer_gateway_refusals_total", **_REFUSED): "80x20"}, "15m"),
        ),
        lasts="2m",
    ),
    Alert(
        "GatewayUpstreamFailing",
        "increase(renewer_gateway_upstream_failures_total[10m]) > 2",
        "critical",
        "Gateway {{ $labels.gateway }} cannot reach its namespace",
        "Connections of gateway {{ $labels.gateway }} of {{ $labels.instance }} to the namespace fail or break off."
        " Workers behind it lose their sessions, or get none.",
        fires=Case({series("renewer_gateway_upstream_failures_total", **_GATEWAY): "0+1x20"}, "15m", _GATEWAY),
        quiet=(Case({series("renewer_gateway_upstream_failures_total", **_GATEWAY): "0 0 1 1x20"}, "15m"),),
        lasts="2m",
    ),
    Alert(
        "GatewayBacklogged",
        "min_over_time(renewer_gateway_buffered_bytes[5m]) > 16777216",
        "warning",
        "Gateway {{ $labels.gateway }} has more than is taken from it",
        "For five minutes {{ $value | humanize1024 }}B have waited in gateway {{ $labels.gateway }} of"
        " {{ $labels.instance }} to be taken by workers, or by the namespace. Locks are renewed meanwhile.",
        fires=Case({series("renewer_gateway_buffered_bytes", **_GATEWAY): "33554432x20"}, "15m", _GATEWAY, "32Mi"),
        quiet=(Case({series("renewer_gateway_buffered_bytes", **_GATEWAY): "33554432x1 0 0 33554432 0x20"}, "5m"),),
    ),
)
