from __future__ import annotations

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.core.effects import StartFetch
from renewer.core.model import NO_RESULT, Ended, OperationId, OperationSpec, Result, StillRunning, Succeeded
from renewer.core.operations import Operation
from renewer.core.quotas import Limit, Quota
from renewer.core.states import OperationState
from renewer.core.timing import PollPolicy
from renewer.errors import TransientKind
from tests.core.playbook import OperationStory, at_once

KINDS = get_args(TransientKind)


def running(
    policy: PollPolicy | None = None, *, fraction: float = 0.0, retry_after_s: float | None = 20.0
) -> OperationStory:
    """A story that begins with an operation found running at 0, with ticket T."""
    story = OperationStory(policy, fraction=fraction)
    first = StillRunning(status="Running", retry_after_s=retry_after_s, ticket="T")
    assert story.register(0.0, first) == ["tell registered accepted", "tell state_changed running"]
    return story


def test_each_answer_names_the_time_of_the_next_poll() -> None:
    story = running()
    assert story.advance(20.0) == ["poll T as #1, due 20, until 80"]
    assert story.answer(20.5, 1, StillRunning("Running", retry_after_s=5.0, percent_complete=40.0)) == [
        "tell polled running: retry after 5"
    ]
    assert (story.operation.polls, story.operation.percent_complete) == (1, 40.0)
    assert story.operation.retry_after_s == 5.0
    assert story.advance(25.499) == []
    assert story.advance(25.5) == ["poll T as #2, due 25.5, until 85.5"]
    assert story.answer(26.0, 2, StillRunning("Running")) == ["tell polled running"]
    assert story.operation.percent_complete == 40.0
    assert story.operation.retry_after_s is None
    assert story.scheduler.next_due() == 56.0


def test_a_new_ticket_replaces_the_old_one_and_no_ticket_keeps_it() -> None:
    story = running(retry_after_s=1.0)
    story.advance(1.0)
    story.answer(1.0, 1, StillRunning(retry_after_s=1.0))
    assert story.advance(2.0) == ["poll T as #2, due 2, until 62"]
    story.answer(2.0, 2, StillRunning(retry_after_s=1.0, ticket="U"))
    assert story.advance(3.0) == ["poll U as #3, due 3, until 63"]
    story.answer(3.0, 3, Succeeded(result=None, ticket="V"))
    assert story.advance(3.0) == ["fetch V as #4, due 3, until 903"]


def test_looking_after_an_operation_before_anything_is_due_does_nothing() -> None:
    assert running().operation.advance(19.999, 0.0, at_once) == []


def test_a_daemon_that_wakes_late_polls_at_once_and_says_how_late() -> None:
    story = running()
    assert story.advance(1000.0) == ["poll T as #1, due 20, until 1060"]


@given(
    asked_s=st.floats(1.0, 3600.0),
    answered_at=st.floats(0.0, 10_000.0),
    kind=st.none() | st.sampled_from(KINDS),
)
def test_no_poll_is_ever_earlier_than_the_service_asked(
    asked_s: float, answered_at: float, kind: TransientKind | None
) -> None:
    story = running(retry_after_s=1.0)
    story.advance(1.0)
    now = 1.0 + min(answered_at, 60.0)
    if kind is None:
        story.answer(now, 1, StillRunning(retry_after_s=asked_s))
    else:
        story.fail(now, 1, kind, retry_after_s=asked_s)
    next_poll = story.scheduler.next_due()
    assert next_poll is not None
    assert next_poll >= now + asked_s
    assert story.advance(math.nextafter(next_poll, 0.0)) == []


def test_a_status_that_we_do_not_know_means_running_and_is_told_every_time() -> None:
    story = OperationStory()
    story.register(0.0)
    story.advance(0.0)
    assert story.answer(0.0, 1, StillRunning("Pondering", recognised=False, retry_after_s=5.0)) == [
        "tell state_changed running",
        "tell unknown_status running",
    ]
    story.advance(5.0)
    assert story.answer(5.0, 2, StillRunning("Brooding", recognised=False, retry_after_s=5.0)) == [
        "tell polled running: retry after 5",
        "tell unknown_status running",
    ]
    assert story.operation.status == "Brooding"


def test_an_answer_without_a_status_keeps_the_last_one() -> None:
    story = running()
    story.advance(20.0)
    story.answer(20.0, 1, StillRunning())
    assert story.operation.status == "Running"


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_poll_is_not_a_failed_operation(kind: TransientKind) -> None:
    story = running(fraction=0.5)
    story.advance(20.0)
    assert story.fail(21.0, 1, kind, detail="503") == [f"tell poll_failed running: {kind}"]
    assert story.operation.state is OperationState.RUNNING
    assert (story.operation.polls, story.operation.poll_errors) == (0, 1)
    assert story.operation.last_poll_error == "503"
    assert story.advance(22.0) == ["poll T as #2, due 22, until 82"]


def test_failed_polls_back_off_and_an_answer_ends_the_row() -> None:
    story = running(fraction=0.5)
    story.advance(20.0)
    now, attempt, delays = 20.0, 1, []
    for _ in range(9):
        story.fail(now, attempt, "server")
        due_at = story.scheduler.next_due()
        assert due_at is not None
        delays.append(due_at - now)
        now, attempt = due_at, attempt + 1
        story.advance(now)
    assert delays == [1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    story.answer(now, attempt, StillRunning(retry_after_s=5.0))
    assert story.operation.last_poll_error is None
    story.advance(now + 5.0)
    story.fail(now + 5.0, attempt + 1, "server")
    assert story.scheduler.next_due() == now + 6.0


def test_it_is_known_since_when_requests_fail_in_a_row() -> None:
    story = running()
    assert story.operation.failing_since is None
    story.advance(20.0)
    story.fail(21.0, 1, "server")
    story.advance(30.0)
    story.fail(31.0, 2, "network")
    assert story.operation.failing_since == 21.0
    story.advance(90.0)
    story.answer(91.0, 3, StillRunning())
    assert story.operation.failing_since is None


def test_a_poll_without_an_answer_is_cancelled_and_made_again() -> None:
    story = running()
    story.advance(20.0)
    assert story.advance(80.999) == []
    assert story.advance(81.0) == ["cancel #1", "tell poll_failed running: timeout"]
    assert story.operation.last_poll_error == "no answer in time"
    assert story.advance(82.0) == ["poll T as #2, due 82, until 142"]


def test_an_operation_that_is_not_found_gets_its_grace_and_then_counts_as_expired() -> None:
    story = running(PollPolicy(not_found_grace_s=10.0))
    story.advance(20.0)
    assert story.fail(20.0, 1, "not_found") == ["tell poll_failed running: not_found"]
    story.advance(21.0)
    assert story.fail(29.999, 2, "not_found") == ["tell poll_failed running: not_found"]
    story.advance(30.999)
    assert story.fail(30.999, 3, "not_found", detail="404 OperationNotFound") == [
        "tell poll_failed running: not_found",
        "tell state_changed expired",
    ]
    assert story.operation.error == {
        "errorCode": "OperationExpired",
        "message": "404 OperationNotFound, for 10 s: the service does not know this operation any longer. "
        "Look at the resource itself for its outcome.",
    }


def test_the_grace_ends_exactly_when_it_ends() -> None:
    story = running(PollPolicy(not_found_grace_s=10.0))
    story.advance(20.0)
    story.fail(20.0, 1, "not_found")
    story.advance(21.0)
    assert story.fail(30.0, 2, "not_found")[-1] == "tell state_changed expired"


def test_an_operation_without_grace_is_expired_with_the_first_not_found() -> None:
    story = running(PollPolicy(not_found_grace_s=0.0))
    story.advance(20.0)
    assert story.fail(20.0, 1, "not_found")[-1] == "tell state_changed expired"


def test_an_operation_that_is_found_again_gets_its_whole_grace_anew() -> None:
    story = running(PollPolicy(not_found_grace_s=10.0))
    story.advance(20.0)
    story.fail(20.0, 1, "not_found")
    story.advance(21.0)
    story.answer(21.0, 2, StillRunning(retry_after_s=9.0))
    story.advance(30.0)
    assert story.fail(30.0, 3, "not_found") == ["tell poll_failed running: not_found"]


def test_only_not_found_without_a_break_uses_up_the_grace() -> None:
    story = running(PollPolicy(not_found_grace_s=10.0))
    story.advance(20.0)
    story.fail(20.0, 1, "not_found")
    story.advance(21.0)
    story.fail(21.0, 2, "server")
    story.advance(30.0)
    assert story.fail(30.0, 3, "not_found") == ["tell poll_failed running: not_found"]


def test_an_operation_that_does_not_end_by_its_deadline_is_timed_out_and_not_a_moment_earlier() -> None:
    story = running(PollPolicy(deadline_s=100.0), retry_after_s=60.0)
    story.advance(60.0)
    assert story.advance(99.999) == []
    assert story.advance(100.0) == ["cancel #1", "tell state_changed timed_out"]
    assert story.operation.error is not None
    assert story.operation.error["errorCode"] == "DeadlineExceeded"
    assert "deadline of 100 s" in str(story.operation.error["message"])


def test_the_deadline_comes_before_a_poll_that_is_due_at_the_same_time() -> None:
    story = running(PollPolicy(deadline_s=20.0))
    assert story.advance(20.0) == ["tell state_changed timed_out"]


def test_the_deadline_does_not_wait_for_a_service_that_asks_for_more_patience() -> None:
    story = running(PollPolicy(deadline_s=20.0), retry_after_s=3000.0)
    assert story.scheduler.next_due() == 20.0
    story.advance(20.0)
    assert story.operation.next_attempt_at is None


@pytest.mark.parametrize("outcome", ["failed", "canceled", "expired", "unpollable"])
def test_the_services_word_ends_the_operation_with_its_error_whole(outcome: str) -> None:
    story = running()
    story.advance(20.0)
    error = {"errorCode": "X", "moreDetails": [{"errorCode": "Y"}]}
    ended = Ended(outcome, status="Ended", error=error)  # type: ignore[arg-type]
    assert story.answer(20.5, 1, ended) == [f"tell state_changed {outcome}"]
    assert story.operation.state == outcome
    assert story.operation.error is error
    assert story.operation.polls == 1
    assert story.operation.result is None


def test_an_operation_that_is_running_can_no_longer_be_rejected_only_fail() -> None:
    story = running()
    story.advance(20.0)
    assert story.answer(20.5, 1, Ended("rejected", error={"errorCode": "X"})) == ["tell state_changed failed"]


def test_a_success_without_a_result_is_a_success() -> None:
    story = running()
    story.advance(20.0)
    assert story.answer(20.5, 1, Succeeded("Succeeded")) == ["tell state_changed succeeded"]
    assert story.operation.result is NO_RESULT
    assert story.operation.error is None
    assert story.operation.percent_complete == 100.0


def test_a_result_is_fetched_at_once_and_kept_byte_for_byte() -> None:
    story = running()
    story.advance(20.0)
    assert story.answer(20.5, 1, Succeeded("Succeeded", result=None)) == ["tell state_changed fetching"]
    assert story.advance(20.5) == ["fetch T as #2, due 20.5, until 920.5"]
    result = Result("bytes", "application/octet-stream", b"\x00\xff")
    assert story.fetched(21.0, 2, result) == ["tell state_changed succeeded"]
    assert story.operation.result is result
    assert (story.operation.status, story.operation.ended_at) == ("Succeeded", 21.0)


def fetching(policy: PollPolicy | None = None) -> OperationStory:
    """A story whose operation began to fetch its result at 20, as attempt 2."""
    story = running(policy)
    story.advance(20.0)
    story.answer(20.0, 1, Succeeded("Succeeded", result=None))
    assert story.advance(20.0) == ["fetch T as #2, due 20, until 920"]
    return story


def test_fetching_the_result_is_tried_again_after_a_failure_as_late_as_asked() -> None:
    story = fetching()
    assert story.fail(20.0, 2, "throttled", retry_after_s=30.0) == ["tell poll_failed fetching: throttled"]
    assert story.advance(49.999) == []
    assert story.advance(50.0) == ["fetch T as #3, due 50, until 950"]
    assert story.advance(951.0) == ["cancel #3", "tell poll_failed fetching: timeout"]
    assert story.advance(952.0) == ["fetch T as #4, due 952, until 1852"]


def test_a_result_that_is_gone_leaves_a_success_that_says_so() -> None:
    story = fetching(PollPolicy(not_found_grace_s=5.0))
    story.fail(20.0, 2, "not_found")
    story.advance(21.0)
    assert story.fail(25.0, 3, "not_found", detail="404") == [
        "tell poll_failed fetching: not_found",
        "tell state_changed succeeded",
    ]
    assert story.operation.result is NO_RESULT
    assert story.operation.error == {
        "errorCode": "ResultNotFetched",
        "message": "the operation succeeded, but its result could not be fetched: 404",
    }


def test_a_result_that_cannot_be_fetched_by_the_deadline_leaves_a_success_that_says_why() -> None:
    story = fetching(PollPolicy(deadline_s=100.0))
    story.fail(20.0, 2, "server", detail="502", retry_after_s=79.0)
    assert story.advance(99.0) == ["fetch T as #3, due 99, until 999"]
    assert story.advance(100.0) == ["cancel #3", "tell state_changed succeeded"]
    assert story.operation.error is not None
    assert str(story.operation.error["message"]).endswith("could not be fetched: 502")


def test_a_result_that_was_never_answered_for_by_the_deadline_leaves_a_success_that_says_so() -> None:
    story = fetching(PollPolicy(deadline_s=50.0))
    assert story.advance(50.0) == ["cancel #2", "tell state_changed succeeded"]
    assert story.operation.error is not None
    assert str(story.operation.error["message"]).endswith("could not be fetched: no answer in time")


def test_an_operation_whose_result_is_being_fetched_does_not_run_or_fail_any_more() -> None:
    story = fetching()
    assert story.answer(21.0, 2, StillRunning(retry_after_s=5.0)) == []
    assert story.answer(21.0, 2, Ended("failed")) == []
    assert story.operation.state is OperationState.FETCHING
    assert story.fetched(22.0, 2, NO_RESULT) == ["tell state_changed succeeded"]


def test_a_result_that_nobody_asked_for_ends_nothing() -> None:
    story = running()
    story.advance(20.0)
    assert story.fetched(21.0, 1, NO_RESULT) == []
    assert story.answer(21.0, 1, StillRunning()) == ["tell polled running"]


def test_late_early_and_strange_outcomes_are_ignored() -> None:
    story = running()
    assert story.answer(1.0, 0, Ended("failed")) == []
    assert story.answer(1.0, 1, Ended("failed")) == []
    story.advance(20.0)
    story.advance(81.0)
    story.advance(82.0)
    for attempt in (-1, 0, 1, 3):
        assert story.answer(83.0, attempt, Ended("failed")) == []
        assert story.fetched(83.0, attempt, NO_RESULT) == []
        assert story.fail(83.0, attempt, "server") == []
    assert story.operation.poll_errors == 1
    assert story.scheduler.next_due() == 143.0


@pytest.mark.parametrize("late", ["answer", "fail", "fetched", "advance"])
def test_an_operation_ends_once_whatever_comes_after_it(late: str) -> None:
    story = running(PollPolicy(deadline_s=100.0))
    story.advance(20.0)
    assert story.answer(21.0, 1, Ended("canceled")) == ["tell state_changed canceled"]
    match late:
        case "answer":
            assert story.answer(22.0, 1, Succeeded()) == []
        case "fail":
            assert story.fail(22.0, 1, "not_found") == []
        case "fetched":
            assert story.fetched(22.0, 1, NO_RESULT) == []
        case _:
            assert story.advance(100.0) == []
            assert story.operation.advance(100.0, 0.0, at_once) == []
    assert story.operation.state is OperationState.CANCELED
    assert story.operation.ended_at == 21.0


def test_an_ended_operation_is_forgotten_after_its_retention() -> None:
    story = running(PollPolicy(retention_s=50.0))
    assert story.operation.forget_at is None
    story.advance(20.0)
    story.answer(21.0, 1, Succeeded())
    assert story.operation.forget_at == 71.0
    assert story.advance(70.999) == []
    assert story.advance(71.0) == ["tell forgotten succeeded"]
    assert story.scheduler.operation(story.spec.id) is None
    assert story.scheduler.next_due() is None
    assert story.answer(72.0, 1, Succeeded()) == []


def test_a_result_that_cannot_be_had_is_given_up_at_once_with_its_problem() -> None:
    operation = Operation(OperationSpec(OperationId("o"), "fabric.main", {}), 0.0)
    operation.register(Succeeded("Succeeded", result=None, ticket="t"), 0.0)
    (fetch,) = operation.advance(0.0, 0.5, at_once)
    assert isinstance(fetch, StartFetch)
    operation.fetched(fetch.attempt, Result("none", problem="result_too_large: 5 bytes"), 1.0)
    assert operation.state is OperationState.SUCCEEDED
    assert operation.result == NO_RESULT
    assert operation.error is not None
    assert operation.error["errorCode"] == "ResultNotFetched"
    assert "result_too_large: 5 bytes" in str(operation.error["message"])


def test_a_first_answer_whose_result_cannot_be_had_is_a_success_that_says_so() -> None:
    operation = Operation(OperationSpec(OperationId("o"), "fabric.main", {}), 0.0)
    operation.register(Succeeded(result=Result("none", problem="result_too_large: 5 bytes")), 0.0)
    assert (operation.state, operation.result) == (OperationState.SUCCEEDED, NO_RESULT)
    assert operation.error is not None
    assert "result_too_large: 5 bytes" in str(operation.error["message"])


# The early probe ------------------------------------------------------------------------------------------------------

PROBE = PollPolicy(early_probe_s=2.0)


def test_with_an_early_probe_there_is_one_poll_before_the_service_asked_for_it() -> None:
    story = running(PROBE)
    assert story.advance(2.0) == ["poll T as #1, due 2, until 62"]
    story.answer(2.5, 1, StillRunning("Running", retry_after_s=20.0))
    assert story.scheduler.next_due() == 22.5
    story.advance(22.5)
    story.answer(23.0, 2, StillRunning("Running", retry_after_s=20.0))
    assert story.scheduler.next_due() == 43.0


def test_an_early_probe_that_finds_the_end_is_all_that_is_needed() -> None:
    story = running(PROBE)
    story.advance(2.0)
    assert story.answer(2.5, 1, Succeeded("Succeeded")) == ["tell state_changed succeeded"]


def test_after_an_early_probe_that_failed_the_service_is_left_alone_for_as_long_as_it_asked() -> None:
    story = running(PROBE)
    story.advance(2.0)
    story.fail(2.5, 1, "server")
    assert story.scheduler.next_due() == 20.0
    story.advance(20.0)
    story.fail(20.5, 2, "server")
    assert story.scheduler.next_due() == 21.5


def test_an_early_probe_that_was_never_answered_does_not_hasten_the_next_poll() -> None:
    story = running(PollPolicy(early_probe_s=2.0, attempt_s=5.0))
    story.advance(2.0)
    assert story.advance(8.0) == ["cancel #1", "tell poll_failed running: timeout"]
    assert story.scheduler.next_due() == 20.0


@pytest.mark.parametrize("asked_s", [1.0, 2.0])
def test_there_is_no_early_probe_where_the_service_asks_to_be_asked_as_soon(asked_s: float) -> None:
    story = running(PROBE, retry_after_s=asked_s)
    assert story.advance(asked_s) == [f"poll T as #1, due {asked_s:g}, until {asked_s + 60:g}"]
    story.answer(3.0, 1, StillRunning(retry_after_s=20.0))
    assert story.scheduler.next_due() == 23.0


def test_an_early_probe_is_left_out_where_it_would_keep_others_waiting() -> None:
    story = OperationStory(PROBE, quota=Quota("q", Limit(1, 10.0)))
    story.register(0.0)
    story.advance(0.0)
    story.answer(0.0, 1, StillRunning(retry_after_s=20.0, ticket="T"))
    assert story.advance(2.0) == []
    assert story.operation.held_back_by is None
    assert story.advance(20.0) == ["poll T as #2, due 20, until 80"]


# Polls that are refused -----------------------------------------------------------------------------------------------


def test_polls_that_are_refused_for_long_end_as_unpollable_and_say_that_it_may_still_run() -> None:
    story = running(PollPolicy(refused_grace_s=30.0))
    story.advance(20.0)
    assert story.fail(20.0, 1, "refused", detail="HTTP 400") == ["tell poll_failed running: refused"]
    assert story.advance(21.0) == ["poll T as #2, due 21, until 81"]
    assert story.fail(50.0, 2, "refused", detail="HTTP 400")[-1] == "tell state_changed unpollable"
    error = story.operation.error or {}
    assert error["errorCode"] == "PollRefused"
    assert str(error["message"]).startswith("HTTP 400; refused for 30 s. The operation may still be running")


@pytest.mark.parametrize("between", sorted(set(KINDS) - {"refused"}))
def test_only_refusals_in_a_row_count(between: TransientKind) -> None:
    story = running(PollPolicy(refused_grace_s=30.0))
    for number, (kind, at) in enumerate((("refused", 20.0), (between, 60.0), ("refused", 190.0)), start=1):
        story.advance(at)
        story.fail(at, number, kind)
    assert story.operation.state is OperationState.RUNNING


def test_a_result_that_is_refused_leaves_a_success_that_says_so() -> None:
    story = fetching(PollPolicy(refused_grace_s=0.0))
    assert story.fail(20.0, 2, "refused", detail="HTTP 400")[-1] == "tell state_changed succeeded"
    assert story.operation.error is not None


def test_what_the_service_says_of_its_times_is_kept() -> None:
    story = running()
    story.advance(20.0)
    story.answer(20.0, 1, StillRunning(started_at=1000.0, updated_at=1010.0))
    story.advance(50.0)
    story.answer(50.0, 2, StillRunning(updated_at=1040.0))
    assert (story.operation.service_started_at, story.operation.service_updated_at) == (1000.0, 1040.0)
