from __future__ import annotations

from typing import get_args

import pytest

from renewer.core.model import NO_RESULT, Ended, Result, StillRunning, Succeeded
from renewer.core.states import OperationState
from renewer.core.timing import PollPolicy
from renewer.errors import TransientKind
from tests.core.playbook import OperationStory

NOT_TAKEN_UP = {"throttled", "busy", "unreachable", "no_token"}
KINDS = get_args(TransientKind)


def test_the_first_request_is_sent_at_once_and_the_first_poll_waits_for_retry_after() -> None:
    story = OperationStory()
    assert story.register(10.0) == ["tell registered accepted"]
    assert story.advance(10.0) == ["submit as #1, due 10, until 70"]
    assert story.answer(10.5, 1, StillRunning(status="NotStarted", retry_after_s=20.0, ticket="T")) == [
        "tell state_changed running"
    ]
    assert story.operation.state is OperationState.RUNNING
    assert (story.operation.status, story.operation.polls) == ("NotStarted", 0)
    assert story.advance(30.499) == []
    assert story.advance(30.5) == ["poll T as #2, due 30.5, until 90.5"]


def test_an_operation_that_was_started_elsewhere_is_never_submitted() -> None:
    story = OperationStory()
    first = StillRunning(status="Running", retry_after_s=20.0, percent_complete=10.0, ticket="T")
    assert story.register(0.0, first) == ["tell registered accepted", "tell state_changed running"]
    assert story.operation.percent_complete == 10.0
    assert story.advance(19.999) == []
    assert story.advance(20.0) == ["poll T as #1, due 20, until 80"]


def test_an_operation_that_was_done_when_it_was_registered_is_over_at_once() -> None:
    story = OperationStory()
    result = Result("json", "application/json", b"{}")
    assert story.register(0.0, Succeeded("Succeeded", result)) == [
        "tell registered accepted",
        "tell state_changed succeeded",
    ]
    assert story.operation.result is result
    assert story.operation.forget_at == 86_400.0
    assert story.advance(0.0) == []


def test_an_operation_whose_result_was_all_that_was_missing_when_it_was_registered_fetches_it_at_once() -> None:
    story = OperationStory()
    assert story.register(0.0, Succeeded("Succeeded", None, "T")) == [
        "tell registered accepted",
        "tell state_changed fetching",
    ]
    assert story.advance(0.0) == ["fetch T as #1, due 0, until 900"]


def test_a_first_request_that_is_answered_with_the_result_is_a_success_without_a_poll() -> None:
    story = OperationStory()
    story.register(0.0)
    story.advance(0.0)
    assert story.answer(1.0, 1, Succeeded()) == ["tell state_changed succeeded"]
    assert story.operation.result is NO_RESULT
    assert story.operation.percent_complete == 100.0


@pytest.mark.parametrize("outcome", ["failed", "canceled", "expired", "unpollable", "rejected"])
def test_a_first_request_can_be_answered_with_every_other_end(outcome: str) -> None:
    story = OperationStory()
    story.register(0.0)
    story.advance(0.0)
    ended = Ended(outcome, status="Bad", error={"errorCode": "X"})  # type: ignore[arg-type]
    assert story.answer(1.0, 1, ended) == [f"tell state_changed {outcome}"]
    assert story.operation.state == outcome
    assert story.operation.status == "Bad"
    assert story.operation.error == {"errorCode": "X"}
    assert story.operation.ended_at == 1.0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in {*NOT_TAKEN_UP, "unauthorized"}])
def test_a_first_request_that_may_have_been_taken_up_is_not_sent_twice(kind: TransientKind) -> None:
    story = OperationStory()
    story.register(0.0)
    story.advance(0.0)
    assert story.fail(1.0, 1, kind, detail="connection reset") == [
        f"tell poll_failed accepted: {kind}",
        "tell state_changed rejected",
    ]
    assert story.operation.error == {
        "errorCode": "FirstRequestFailed",
        "message": "connection reset; the service may or may not have started the operation. "
        "Look there before you send it again.",
    }
    assert story.scheduler.next_due() == 86_401.0


def test_a_first_request_that_was_not_let_in_is_rejected_without_a_doubt_about_it() -> None:
    story = OperationStory()
    story.register(0.0)
    story.advance(0.0)
    story.fail(1.0, 1, "unauthorized", detail="the token was refused")
    assert story.operation.state is OperationState.REJECTED
    assert story.operation.error == {"errorCode": "Unauthorized", "message": "the token was refused"}


@pytest.mark.parametrize("kind", sorted(NOT_TAKEN_UP))
def test_a_first_request_that_was_put_off_is_sent_again_and_not_before_it_may(kind: TransientKind) -> None:
    story = OperationStory(fraction=0.5)
    story.register(0.0)
    story.advance(0.0)
    assert story.fail(1.0, 1, kind, retry_after_s=42.0) == [f"tell poll_failed accepted: {kind}"]
    assert story.operation.poll_errors == 1
    assert story.advance(42.999) == []
    assert story.advance(43.0) == ["submit as #2, due 43, until 103"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_first_request_that_is_safe_to_repeat_is_sent_again_after_any_failure(kind: TransientKind) -> None:
    story = OperationStory(retry_safe=True)
    story.register(0.0)
    story.advance(0.0)
    assert story.fail(1.0, 1, kind) == [f"tell poll_failed accepted: {kind}"]
    assert story.advance(2.0) == ["submit as #2, due 2, until 62"]


def test_a_first_request_without_an_answer_is_not_sent_twice() -> None:
    story = OperationStory()
    story.register(0.0)
    story.advance(0.0)
    assert story.advance(60.999) == []
    assert story.advance(61.0) == [
        "cancel #1",
        "tell poll_failed accepted: timeout",
        "tell state_changed rejected",
    ]


def test_a_first_request_without_an_answer_is_sent_again_when_it_is_safe_to_repeat() -> None:
    story = OperationStory(retry_safe=True)
    story.register(0.0)
    story.advance(0.0)
    assert story.advance(61.0) == ["cancel #1", "tell poll_failed accepted: timeout"]
    assert story.advance(62.0) == ["submit as #2, due 62, until 122"]
    assert story.answer(62.5, 1, StillRunning()) == []
    assert story.answer(62.5, 2, StillRunning()) == ["tell state_changed running"]


def test_a_repeated_first_request_that_finds_nothing_for_the_whole_grace_ends_as_expired() -> None:
    story = OperationStory(PollPolicy(not_found_grace_s=2.0), retry_safe=True)
    story.register(0.0)
    story.advance(0.0)
    story.fail(1.0, 1, "not_found")
    story.advance(2.0)
    story.fail(2.5, 2, "not_found")
    story.advance(3.5)
    assert story.fail(3.5, 3, "not_found") == [
        "tell poll_failed accepted: not_found",
        "tell state_changed expired",
    ]


def test_a_first_request_that_is_put_off_until_the_deadline_ends_as_timed_out() -> None:
    story = OperationStory(PollPolicy(deadline_s=100.0))
    story.register(0.0)
    story.advance(0.0)
    story.fail(1.0, 1, "throttled", retry_after_s=3600.0)
    assert story.advance(99.999) == []
    assert story.advance(100.0) == ["tell state_changed timed_out"]


def test_registering_the_same_operation_twice_changes_nothing() -> None:
    story = OperationStory()
    story.register(0.0)
    story.advance(0.0)
    story.answer(1.0, 1, StillRunning(retry_after_s=20.0))
    assert story.register(2.0) == []
    assert story.register(2.0, Ended("failed")) == []
    assert story.operation.state is OperationState.RUNNING
    assert story.scheduler.next_due() == 21.0
