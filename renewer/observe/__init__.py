"""What people and machines see: the log and the metrics, both fed by the same news (`renewer.ports.Hook`)."""

from renewer.observe.collectors import DaemonReadings
from renewer.observe.log import LogHook, configure_logging, set_up_logging
from renewer.observe.logsink import LogSink
from renewer.observe.metrics import AttemptMetrics, Metrics, MetricsHook

__all__ = [
    "AttemptMetrics",
    "DaemonReadings",
    "LogHook",
    "LogSink",
    "Metrics",
    "MetricsHook",
    "configure_logging",
    "set_up_logging",
]
