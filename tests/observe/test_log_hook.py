"""What the log says, and how often."""

from __future__ import annotations

import io
import json

import pytest
import structlog

from renewer.core.effects import LeaseNews, OperationNews, TellLease, TellOperation
from renewer.core.model import LeaseId, LeaseSpec, OperationId, OperationSpec
from renewer.core.states import LossReason, OperationState
from renewer.observe import LogHook, configure_logging

SPEC = LeaseSpec(LeaseId("lease-1"), "servicebus.main", "orders")


class Log:
    """A log that is read once it is complete."""

    def __init__(self) -> None:
        self._text = io.StringIO()
        self._sink = configure_logging(level="info", log_format="json", stream=self._text)

    def text(self) -> str:
        self._sink.close(timeout_s=60.0)
        return self._text.getvalue()


@pytest.fixture
def log() -> Log:
    return Log()


def lines(log: Log) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.text().splitlines()]


def test_a_loss_is_an_error_with_its_reason_and_the_session_that_was_accepted(log):
    LogHook().lease(
        TellLease(LeaseNews.LOST, SPEC, 3, 0.0, reason=LossReason.DETACHED, detail="why", session_id="customer-7")
    )
    (line,) = lines(log)
    assert (line["event"], line["level"], line["reason"]) == ("lease lost", "error", "detached")
    assert (line["session_id"], line["epoch"], line["detail"], line["final"]) == ("customer-7", 3, "why", False)


def test_renewals_and_polls_that_go_well_are_not_worth_a_line(log):
    LogHook().lease(TellLease(LeaseNews.RENEWED, SPEC, 1, 0.0, margin_s=5.0))
    spec = OperationSpec(OperationId("op-1"), "fabric.main", {})
    LogHook().operation(TellOperation(OperationNews.POLLED, spec, OperationState.RUNNING, 0.0))
    assert lines(log) == []


@pytest.mark.parametrize(
    ("news", "said"),
    [(LeaseNews.RENEW_FAILED, [4, 8, 16, 32]), (LeaseNews.ACQUIRE_FAILED, [1, 2, 4, 8, 16, 32])],
)
def test_a_failure_that_goes_on_is_said_less_and_less_often(log, news, said):
    for failures in range(1, 33):
        LogHook().lease(TellLease(news, SPEC, 1, 0.0, failure="busy", detail="server busy", failures=failures))
    told = lines(log)
    assert [line["failures"] for line in told] == said
    assert all(line["level"] == "warning" for line in told)


def test_an_operation_that_ends_badly_is_a_warning_and_one_that_ends_well_is_not(log):
    spec = OperationSpec(OperationId("op-1"), "fabric.main", {"secret": "s3cret"})
    for state in (OperationState.SUCCEEDED, OperationState.FAILED):
        LogHook().operation(TellOperation(OperationNews.STATE_CHANGED, spec, state, 0.0))
    assert [line["level"] for line in lines(log)] == ["info", "warning"]
    assert "s3cret" not in log.text()


def test_the_console_form_is_for_people(capsys):
    sink = configure_logging(level="info", log_format="console")
    LogHook().lease(TellLease(LeaseNews.ACQUIRED, SPEC, 1, 0.0))
    sink.close(timeout_s=60.0)
    assert "lease acquired" in capsys.readouterr().err


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_where_it_happened_and_no_variables(log_format):
    text = io.StringIO()
    sink = configure_logging(level="info", log_format=log_format, stream=text)
    fail_with({"Authorization": "Bearer SECRET"})
    sink.close(timeout_s=60.0)
    assert "fail_with" in text.getvalue()
    assert "ZeroDivisionError" in text.getvalue()
    assert "SECRET" not in text.getvalue()


def fail_with(headers):
    try:
        len(headers) // 0
    except ZeroDivisionError:
        structlog.get_logger("renewer").exception("attempt raised an unexpected error")
