"""What events say of leases and operations."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from renewer.core.effects import LeaseNews, OperationNews, TellLease, TellOperation
from renewer.core.leases import Lease
from renewer.core.model import LeaseId, LeaseSpec, OperationId, OperationSpec, Result
from renewer.core.operations import Operation
from renewer.core.states import LeaseKind, LeaseState, LossReason, OperationState
from renewer.daemon.eventdocs import MAX_ERROR_BYTES, lease_data, lease_type, operation_data, operation_type

LEASE = LeaseSpec(
    LeaseId("lease-1"),
    "servicebus.main",
    "orders",
    kind=LeaseKind.MESSAGE,
    lock_token="lock-token-secret",
    labels={"team": "blue"},
    context={"callback": "https://hooks.example.com/secret-path"},
)
OPERATION = OperationSpec(
    OperationId("op-1"),
    "fabric.main",
    {"url": "https://x/?sig=secret"},
    labels={"team": "red"},
    context={"callback": "https://hooks.example.com/secret-path"},
)


def test_a_loss_says_what_and_why() -> None:
    news = TellLease(LeaseNews.LOST, LEASE, 3, 0.0, LossReason.DETACHED, detail="stolen", final=True, session_id="s")
    assert lease_type(news) == "lease.lost"
    assert lease_data(news) == {
        "kind": "message",
        "servicebus": "main",
        "entity": "orders",
        "session_id": "s",
        "epoch": 3,
        "state": "lost",
        "reason": "detached",
        "detail": "stolen",
        "final": True,
        "labels": {"team": "blue"},
    }


def test_a_loss_that_is_not_final_leaves_the_lease_acquiring() -> None:
    data = lease_data(TellLease(LeaseNews.LOST, LEASE, 3, 0.0, LossReason.EXPIRED))
    assert (data["state"], data["final"]) == ("acquiring", False)


def test_a_failure_says_how_often() -> None:
    data = lease_data(TellLease(LeaseNews.RENEW_FAILED, LEASE, 1, 0.0, failure="busy", failures=2))
    assert (data["failure"], data["failures"]) == ("busy", 2)
    assert "reason" not in data


@pytest.mark.parametrize("what", LeaseNews)
def test_each_piece_of_news_of_a_lease_is_json_with_a_state(what: LeaseNews) -> None:
    news = TellLease(what, LEASE, 1, 0.0, margin_s=1.23456)
    lease = Lease(LEASE, 0.0)
    lease.state = LeaseState.HELD
    data = lease_data(news, lease)
    assert lease_type(news) == f"lease.{what.value}"
    assert data["state"] in set(LeaseState)
    assert data["margin_s"] == 1.235
    assert "secret" not in json.dumps(data)


def test_the_state_is_that_of_the_news_and_not_what_came_of_it_since() -> None:
    lease = Lease(LEASE, 0.0)
    lease.state = LeaseState.RELEASED
    assert lease_data(TellLease(LeaseNews.ACQUIRED, LEASE, 1, 0.0), lease)["state"] == "held"


def test_a_state_that_nobody_knows_is_null() -> None:
    assert lease_data(TellLease(LeaseNews.FORGOTTEN, LEASE, 1, 0.0))["state"] is None


@pytest.mark.parametrize("state", OperationState)
def test_a_change_of_state_is_called_by_the_state(state: OperationState) -> None:
    news = TellOperation(OperationNews.STATE_CHANGED, OPERATION, state, 0.0)
    assert operation_type(news) == f"operation.{state.value}"
    assert operation_type(replace(news, news=OperationNews.POLLED)) == "operation.polled"


def test_an_end_shows_status_error_and_result() -> None:
    operation = Operation(OPERATION, 0.0, status="Succeeded", result=Result("json", "application/json", b"{}"))
    news = TellOperation(OperationNews.STATE_CHANGED, OPERATION, OperationState.SUCCEEDED, 0.0)
    data = operation_data(news, operation)
    assert data == {
        "account": "fabric.main",
        "state": "succeeded",
        "status": "Succeeded",
        "error": None,
        "result": {"kind": "json", "size": 2, "href": "/v1/operations/op-1/result"},
        "labels": {"team": "red"},
    }
    assert "secret" not in json.dumps(data)


def test_no_result_has_no_address() -> None:
    operation = Operation(OPERATION, 0.0, result=Result("none"))
    news = TellOperation(OperationNews.STATE_CHANGED, OPERATION, OperationState.SUCCEEDED, 0.0)
    assert operation_data(news, operation)["result"] == {"kind": "none", "size": 0, "href": None}


def test_an_operation_that_is_not_known_any_more_is_told_by_its_news() -> None:
    news = TellOperation(OperationNews.POLL_FAILED, OPERATION, OperationState.RUNNING, 0.0, "busy", "HTTP 503")
    data = operation_data(news)
    assert (data["status"], data["error"], data["result"]) == (None, None, None)
    assert (data["failure"], data["detail"]) == ("busy", "HTTP 503")


def test_the_services_error_is_told_whole_unless_it_is_very_long() -> None:
    news = TellOperation(OperationNews.STATE_CHANGED, OPERATION, OperationState.FAILED, 0.0)
    error = {"errorCode": "Bad", "message": "m", "moreDetails": [{"errorCode": "Worse"}]}
    assert operation_data(news, Operation(OPERATION, 0.0, error=error))["error"] == error
    long = {"errorCode": "Bad", "message": "m" * 10_000, "moreDetails": ["x" * MAX_ERROR_BYTES]}
    told = operation_data(news, Operation(OPERATION, 0.0, error=long))["error"]
    assert told == {"errorCode": "Bad", "message": "m" * 2_000, "truncated": True}
