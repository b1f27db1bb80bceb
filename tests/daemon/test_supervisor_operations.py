"""The supervisor follows operations, in virtual time, on both backends."""

from __future__ import annotations

import itertools

import anyio
import pytest

from renewer.core.effects import OperationNews
from renewer.core.model import NO_RESULT, Ended, Result, StillRunning, Succeeded
from renewer.core.states import OperationState
from renewer.core.timing import PollPolicy
from renewer.errors import TransientError
from tests.daemon.daemon_rig import FakeService, Rig

pytestmark = pytest.mark.anyio

RESULT = Result("json", "application/json", b'{"id": 1}')


async def test_an_operation_is_polled_at_retry_after_and_its_result_fetched_at_once(clock):
    service = FakeService(
        iter(
            [
                StillRunning(retry_after_s=20, ticket="t"),
                StillRunning("Running", retry_after_s=30),
                Succeeded("Succeeded", result=None),
                RESULT,
            ]
        )
    )
    rig = Rig(clock, service=service)
    async with rig.running():
        spec = rig.follow()
        await anyio.sleep(120)
    operation = rig.operation(spec)
    assert operation.state is OperationState.SUCCEEDED
    assert operation.result == RESULT.without_body()
    assert await rig.supervisor.keeper.result(spec.id) == RESULT
    (submit, first, second, fetch) = service.asked_at
    assert [what for what, _ in service.asked_at] == ["submit", "poll", "poll", "fetch"]
    assert first[1] - submit[1] >= 20
    assert second[1] - first[1] >= 30
    assert fetch[1] - second[1] == pytest.approx(0.01, abs=0.01)


async def test_a_failed_poll_is_not_a_failed_operation(clock):
    errors = [TransientError("no", kind=kind) for kind in ("server", "timeout", "network", "garbage", "unauthorized")]
    script = [StillRunning(retry_after_s=1), *errors, Succeeded("Succeeded", NO_RESULT)]
    service = FakeService(iter(script))
    rig = Rig(clock, service=service)
    async with rig.running():
        spec = rig.follow()
        await anyio.sleep(600)
    assert rig.operation(spec).state is OperationState.SUCCEEDED
    assert rig.operation(spec).poll_errors == len(errors)
    assert len(rig.heard.about(OperationNews.POLL_FAILED)) == len(errors)


async def test_a_throttled_poll_waits_for_as_long_as_it_was_told(clock):
    service = FakeService(
        iter(
            [
                StillRunning(retry_after_s=1),
                TransientError("slow down", kind="throttled", retry_after_s=57),
                Succeeded("Succeeded", NO_RESULT),
            ]
        )
    )
    rig = Rig(clock, service=service)
    async with rig.running():
        rig.follow()
        await anyio.sleep(120)
    (_, throttled, again) = service.asked_at
    assert again[1] - throttled[1] >= 57


async def test_an_operation_that_never_ends_times_out_and_says_that_it_may_still_run(clock):
    service = FakeService(itertools.repeat(StillRunning("Running", retry_after_s=60)))
    rig = Rig(clock, service=service)
    async with rig.running():
        spec = rig.follow(policy=PollPolicy(deadline_s=3600))
        await anyio.sleep(7200)
    assert rig.operation(spec).state is OperationState.TIMED_OUT
    assert "may still be" in rig.operation(spec).error["message"]


async def test_a_request_that_hangs_is_given_up_and_tried_again(clock):
    class Hanging(FakeService):
        async def poll(self, spec, ticket):
            if len(self.asked_at) == 1:
                self.asked_at.append(("hang", anyio.current_time()))
                await anyio.sleep_forever()
            return await super().poll(spec, ticket)

    service = Hanging(iter([StillRunning(retry_after_s=1), Succeeded("Succeeded", NO_RESULT)]))
    rig = Rig(clock, service=service)
    async with rig.running():
        spec = rig.follow(policy=PollPolicy(attempt_s=30))
        await anyio.sleep(120)
    assert rig.operation(spec).state is OperationState.SUCCEEDED
    assert rig.operation(spec).poll_errors == 1


async def test_a_refused_first_request_ends_the_operation_as_rejected(clock):
    error = {"errorCode": "InsufficientPrivileges", "message": "no"}
    rig = Rig(clock, service=FakeService(iter([Ended("rejected", error=error)])))
    async with rig.running():
        spec = rig.follow()
        await anyio.sleep(5)
    assert rig.operation(spec).state is OperationState.REJECTED
    assert rig.operation(spec).error == error
