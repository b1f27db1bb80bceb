from __future__ import annotations

import pytest

from renewer.core.model import Result, StillRunning
from renewer.core.states import OperationState, is_over
from renewer.core.timing import PollPolicy
from tests.core.playbook import OperationStory

ENDED = [state for state in OperationState if is_over(state)]


def test_a_running_operation_is_polled_when_it_was_due() -> None:
    story = OperationStory()
    past = {"status": "Running", "polls": 4, "retry_after_s": 20.0, "next_attempt_at": 7.5}
    assert story.restore(0.0, OperationState.RUNNING, **past) == ["tell restored running"]
    assert story.advance(7.4) == []
    assert story.advance(7.5) == ["poll T as #1, due 7.5, until 67.5"]
    story.answer(8.0, 1, StillRunning("Running", retry_after_s=20.0))
    assert (story.operation.polls, story.operation.status) == (5, "Running")


def test_an_operation_that_fell_due_while_nobody_ran_is_polled_at_once() -> None:
    story = OperationStory()
    story.restore(0.0, OperationState.RUNNING, retry_after_s=20.0, next_attempt_at=-60.0)
    assert story.advance(0.0) == ["poll T as #1, due 0, until 60"]


@pytest.mark.parametrize(("asked_s", "waits_s"), [(20.0, 20.0), (None, 30.0), (0.0, 30.0), (1e9, 3600.0)])
def test_after_a_poll_whose_answer_nobody_read_the_last_retry_after_is_waited_for_again(
    asked_s: float | None, waits_s: float
) -> None:
    story = OperationStory()
    story.restore(0.0, OperationState.RUNNING, retry_after_s=asked_s, next_attempt_at=None, was_asking=True)
    assert story.scheduler.next_due() == waits_s


def test_a_first_request_that_was_not_sent_yet_is_sent() -> None:
    story = OperationStory()
    story.restore(0.0, OperationState.ACCEPTED, ticket=None)
    assert story.advance(0.0) == ["submit as #1, due 0, until 60"]


def test_a_first_request_that_may_have_been_sent_is_not_sent_again() -> None:
    story = OperationStory()
    assert story.restore(0.0, OperationState.ACCEPTED, ticket=None, was_asking=True) == [
        "tell restored accepted",
        "tell poll_failed accepted: network",
        "tell state_changed rejected",
    ]
    assert story.operation.error is not None
    assert "may or may not have started" in str(story.operation.error["message"])


def test_a_first_request_that_may_have_been_sent_is_sent_again_where_that_is_safe() -> None:
    story = OperationStory(retry_safe=True)
    story.restore(0.0, OperationState.ACCEPTED, ticket=None, was_asking=True)
    assert story.advance(0.0) == ["submit as #1, due 0, until 60"]


def test_a_result_that_was_being_fetched_is_fetched() -> None:
    story = OperationStory()
    story.restore(0.0, OperationState.FETCHING, was_asking=True)
    assert story.advance(0.0) == ["fetch T as #1, due 0, until 900"]


@pytest.mark.parametrize("state", ENDED)
def test_an_ended_operation_stays_as_it_ended_until_its_time_is_over(state: OperationState) -> None:
    story = OperationStory(PollPolicy(retention_s=50.0))
    result = Result("json", "application/json", stored_size=7)
    past = {"result": result, "ended_at": -10.0, "error": {"errorCode": "X"}, "percent_complete": 30.0}
    assert story.restore(0.0, state, **past) == []
    assert story.operation.result == result
    assert story.operation.error == {"errorCode": "X"}
    assert story.run(39.9) == []
    assert story.advance(40.0) == [f"tell forgotten {state}"]


def test_its_own_deadline_counts_from_its_registration() -> None:
    story = OperationStory(PollPolicy(deadline_s=120.0))
    story.restore(0.0, OperationState.RUNNING, next_attempt_at=30.0)
    assert story.advance(20.0) == ["tell state_changed timed_out"]


def test_a_forgotten_operation_is_asked_no_more() -> None:
    story = OperationStory()
    story.register(0.0)
    story.advance(0.0)
    assert story.forget(1.0) == ["cancel #1", "tell forgotten accepted"]
    assert story.scheduler.operation(story.spec.id) is None
    assert story.run(1e6) == []


def test_forgetting_an_operation_that_waits_cancels_nothing() -> None:
    story = OperationStory()
    story.register(0.0, StillRunning(retry_after_s=20.0))
    assert story.forget(1.0) == ["tell forgotten running"]


def test_a_request_is_kept_until_it_is_answered_and_no_longer() -> None:
    story = OperationStory()
    story.register(0.0)
    story.advance(0.0)
    assert story.operation.spec.request == "POST"
    story.fail(1.0, 1, "throttled")
    assert story.operation.spec.request == "POST"
    story.advance(10.0)
    story.answer(11.0, 2, StillRunning(retry_after_s=20.0, ticket="T"))
    assert story.operation.spec.request is None


def test_a_probe_that_was_due_and_fails_after_a_restart_does_not_hasten_the_next_poll() -> None:
    story = OperationStory(PollPolicy(early_probe_s=2.0))
    story.restore(1.0, OperationState.RUNNING, next_attempt_at=2.0, retry_after_s=20.0)
    assert story.advance(2.0) == ["poll T as #1, due 2, until 62"]
    story.fail(2.5, 1, "server")
    assert story.scheduler.next_due() == 21.0


def test_a_probe_whose_answer_nobody_read_is_not_repeated() -> None:
    story = OperationStory(PollPolicy(early_probe_s=2.0))
    story.restore(3.0, OperationState.RUNNING, was_asking=True, retry_after_s=20.0)
    assert story.scheduler.next_due() == 23.0
