"""The log: constant event phrases with fields, JSON or console, never a secret.

Renewals and polls are told at debug level only: at tens of thousands of leases an info line each would cost more than
the renewal. Everything that a person would want to know of afterwards is info, everything to act on warning.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Literal, TextIO, cast

import structlog
from structlog.tracebacks import ExceptionDictTransformer

from renewer.core.effects import LeaseNews, OperationNews, TellLease, TellOperation
from renewer.core.states import OPERATION_ENDS, OperationState
from renewer.observe.logsink import LogSink

if TYPE_CHECKING:
    from collections.abc import Sequence

    from structlog.typing import FilteringBoundLogger, Processor

LogFormat = Literal["auto", "json", "console"]

_level = logging.DEBUG
"""What is below is not even put into words: a renewal that nobody reads of costs 0.4 µs instead of 4.5."""

# Both renderers would by default show the local variables of every frame, and with them tokens.
_TRACEBACKS = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))


def configure_logging(*, level: str = "info", log_format: LogFormat = "auto", stream: TextIO | None = None) -> LogSink:
    """Set up structlog for the process. `auto` is console on a terminal, else JSON. By default `stream` is stderr.

    Lines are written by a thread; `close` the sink that is returned to have the last ones written at the end.
    """
    sink = LogSink(sys.stderr if stream is None else stream)
    set_up_logging(sink, level=level, log_format=log_format)
    return sink


def set_up_logging(sink: LogSink, *, level: str, log_format: LogFormat) -> None:
    """Have everything logged to `sink` from now on, in this way. May be called again."""
    global _level
    _level = getattr(logging, level.upper())
    is_terminal = sink.isatty()
    if log_format == "auto":
        log_format = "console" if is_terminal else "json"
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if log_format == "json":
        processors += [_TRACEBACKS, structlog.processors.JSONRenderer()]
    else:
        plain = structlog.dev.plain_traceback
        processors.append(structlog.dev.ConsoleRenderer(colors=is_terminal, exception_formatter=plain))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_level),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", sink)),
        cache_logger_on_first_use=False,
    )
    # Libraries log through the standard library; their warnings belong in the same place, their chatter nowhere.
    logging.basicConfig(level=logging.WARNING, stream=sink, format="%(levelname)s %(name)s: %(message)s", force=True)


class LogHook:
    """Writes news to the log."""

    def __init__(self, log: FilteringBoundLogger | None = None) -> None:
        self._log: FilteringBoundLogger = log if log is not None else structlog.get_logger("renewer")

    def lease(self, news: TellLease) -> None:
        """One line for one piece of news; the phrase is constant, the rest are fields."""
        level, phrase = _LEASE_PHRASES[news.news]
        if news.news in _REPEATED and not _worth_saying(news):
            level = logging.DEBUG
        if level < _level:
            return
        fields: dict[str, object] = {
            "lease": news.spec.id,
            "target": news.spec.target,
            "entity": news.spec.entity,
            "session_id": news.session_id,
            "epoch": news.epoch,
        }
        if news.reason is not None:
            fields["reason"] = news.reason.value
        if news.failure is not None:
            fields["failure"] = news.failure
            fields["failures"] = news.failures
        if news.detail is not None:
            fields["detail"] = news.detail
        if news.margin_s is not None:
            fields["margin_s"] = round(news.margin_s, 3)
        if news.news is LeaseNews.LOST:
            fields["final"] = news.final
        self._log.log(level, phrase, **fields)

    def renewed(self, news: Sequence[TellLease]) -> None:
        """As many lines, where anybody wants them."""
        if _LEASE_PHRASES[LeaseNews.RENEWED][0] >= _level:
            for one in news:
                self.lease(one)

    def operation(self, news: TellOperation) -> None:
        """One line for one piece of news; the phrase is constant, the rest are fields."""
        level, phrase = _OPERATION_PHRASES[news.news]
        if news.news is OperationNews.STATE_CHANGED and news.state in _BAD_ENDS:
            level = logging.WARNING
        if level < _level:
            return
        fields: dict[str, object] = {
            "operation": news.spec.id,
            "account": news.spec.account,
            "state": news.state.value,
        }
        if news.failure is not None:
            fields["failure"] = news.failure
        if news.detail is not None:
            fields["detail"] = news.detail
        if news.retry_after_s is not None:
            fields["retry_after_s"] = news.retry_after_s
        self._log.log(level, phrase, **fields)


def _worth_saying(news: TellLease) -> bool:
    """Whether a failure is told above debug level: the first of many that follow, then each time their number doubles.

    One renewal that is not answered in time is what attempts overlap for, and no news by itself.
    """
    failures = news.failures
    if news.news is LeaseNews.RENEW_FAILED and failures < _RENEWALS_UNSAID:
        return False
    return failures & (failures - 1) == 0


_RENEWALS_UNSAID = 4

_REPEATED = frozenset({LeaseNews.RENEW_FAILED, LeaseNews.ACQUIRE_FAILED})

_LEASE_PHRASES: dict[LeaseNews, tuple[int, str]] = {
    LeaseNews.REGISTERED: (logging.INFO, "lease registered"),
    LeaseNews.RESTORED: (logging.DEBUG, "lease restored"),
    LeaseNews.REVISED: (logging.INFO, "lease revised"),
    LeaseNews.ACQUIRED: (logging.INFO, "lease acquired"),
    LeaseNews.REACQUIRED: (logging.WARNING, "lease reacquired"),
    LeaseNews.ACQUIRE_FAILED: (logging.WARNING, "lease not acquired"),
    LeaseNews.RENEWED: (logging.DEBUG, "lease renewed"),
    LeaseNews.RENEW_FAILED: (logging.WARNING, "lease not renewed"),
    LeaseNews.AT_RISK: (logging.ERROR, "lease at risk"),
    LeaseNews.RECOVERED: (logging.WARNING, "lease recovered"),
    LeaseNews.LOST: (logging.ERROR, "lease lost"),
    LeaseNews.RELEASED: (logging.INFO, "lease released"),
    LeaseNews.PARKED: (logging.INFO, "lease parked"),
    LeaseNews.FORGOTTEN: (logging.DEBUG, "lease forgotten"),
}

_OPERATION_PHRASES: dict[OperationNews, tuple[int, str]] = {
    OperationNews.REGISTERED: (logging.INFO, "operation registered"),
    OperationNews.RESTORED: (logging.DEBUG, "operation restored"),
    OperationNews.POLLED: (logging.DEBUG, "operation polled"),
    OperationNews.POLL_FAILED: (logging.WARNING, "operation request failed"),
    OperationNews.UNKNOWN_STATUS: (logging.WARNING, "operation status unknown"),
    OperationNews.STATE_CHANGED: (logging.INFO, "operation state changed"),
    OperationNews.FORGOTTEN: (logging.DEBUG, "operation forgotten"),
}

_BAD_ENDS = OPERATION_ENDS - {OperationState.SUCCEEDED}
