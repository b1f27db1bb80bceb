"""The target and the scheduler against the emulated service: in process on literal time, and over real sockets."""

import json
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest

from renewer.core.model import NO_RESULT, StillRunning
from renewer.core.states import OperationState
from renewer.core.timing import PollPolicy
from renewer.emulator.admin import EmulatorAdmin
from renewer.emulator.fabric import BytesResult, Ending, FabricEmulator, JsonResult, NoResult, Scenario
from renewer.emulator.faults import Fault, FaultAction, Faults
from renewer.emulator.http import build_http_app, serve_http
from renewer.errors import TransientError
from renewer.targets.fabric import FabricTarget
from renewer.targets.tokens import StaticToken
from tests.targets.fabric_replay import run_to_end
from tests.targets.fabric_rig import FixedClock, fabric_options, spec_of

pytestmark = pytest.mark.anyio

NOTEBOOKS = "/workspaces/w1/notebooks"
JOBS = "/workspaces/w1/items/i1/jobs/RunNotebook/instances"


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def clock():
    return FixedClock()


@pytest.fixture
def faults(clock):
    return Faults(clock.utc_now)


@pytest.fixture
def fabric(faults, clock):
    return FabricEmulator(faults, clock=clock.now)


class SlowTransport(httpx.ASGITransport):
    """Every exchange takes a moment, on the literal clock."""

    def __init__(self, app, clock):
        super().__init__(app)
        self._clock = clock

    async def handle_async_request(self, request):
        self._clock.pass_s(0.25)
        try:
            return await super().handle_async_request(request)
        finally:
            self._clock.pass_s(0.25)


async def follow(fabric, clock, scenario, url=NOTEBOOKS, *, retry_safe=False, policy=None):
    fabric.script(scenario, times=None)
    target = FabricTarget(
        fabric_options(),
        StaticToken("local"),
        clock,
        httpx.AsyncClient(transport=SlowTransport(fabric.app, clock)),
    )
    prepared = target.prepare("submit", {"method": "POST", "url": url, "body": {"displayName": "nightly"}})
    spec = spec_of(prepared.request, retry_safe=retry_safe, policy=policy)
    operation = await run_to_end(target, spec, prepared.first, clock)
    assert fabric.early_polls == []
    return operation


@pytest.mark.parametrize("name", ["immediate", "polled", "throttled", "slow", "unknown-status", "undefined"])
async def test_an_item_is_created_whatever_the_way(name, fabric, clock):
    operation = await follow(fabric, clock, name)
    assert operation.state is OperationState.SUCCEEDED
    assert operation.error is None
    assert json.loads(operation.result.body)["displayName"] == "nightly"


@pytest.mark.parametrize("name", ["no-result", "has-no-result"])
async def test_no_result_is_a_success_both_ways(name, fabric, clock):
    operation = await follow(fabric, clock, name)
    assert (operation.state, operation.result, operation.error) == (OperationState.SUCCEEDED, NO_RESULT, None)


async def test_a_status_less_answer_is_the_result(fabric, clock):
    operation = await follow(fabric, clock, "status-less")
    assert operation.state is OperationState.SUCCEEDED
    assert operation.result.kind == "json"
    assert "status" not in json.loads(operation.result.body)


async def test_a_failure_shows_its_error_whole(fabric, clock):
    operation = await follow(fabric, clock, "failed")
    assert operation.state is OperationState.FAILED
    assert operation.error["errorCode"] == "ItemCreationFailed"
    assert set(operation.error) == {
        "requestId",
        "errorCode",
        "message",
        "moreDetails",
        "relatedResource",
        "isRetriable",
    }


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(name="bytes", running_polls=1, result=BytesResult(b"\x00\xff" * 1000)),
        Scenario(name="list", running_polls=1, result=JsonResult([1, {"a": None}])),
        Scenario(name="foreign", running_polls=2, location="evil.example"),
        Scenario(name="dated", running_s=30.0, retry_after=7, retry_after_as_date=True),
        Scenario(name="silent", running_polls=2, retry_after=None),
        Scenario(name="nonsense", running_polls=2, retry_after="soon"),
        Scenario(name="zero", running_polls=2, retry_after=0),
        Scenario(name="unplaced", running_polls=1, location=None, result=NoResult("no_location")),
    ],
    ids=lambda scenario: scenario.name,
)
async def test_other_stories_end_well_too(scenario, fabric, clock):
    operation = await follow(fabric, clock, scenario)
    assert operation.state is OperationState.SUCCEEDED
    assert operation.error is None
    match scenario.result:
        case BytesResult(content):
            assert (operation.result.kind, operation.result.body) == ("bytes", content)
        case JsonResult(document):
            assert json.loads(operation.result.body) == document


@pytest.mark.parametrize(
    ("ending", "state", "status"),
    [
        (Ending.SUCCEEDED, OperationState.SUCCEEDED, "Completed"),
        (Ending.FAILED, OperationState.FAILED, "Failed"),
        (Ending.CANCELLED, OperationState.CANCELED, "Cancelled"),
        (Ending.DEDUPED, OperationState.CANCELED, "Deduped"),
    ],
)
async def test_a_job_instance_is_followed_by_its_location(ending, state, status, fabric, clock):
    scenario = Scenario(name="job-story", running_polls=2, retry_after=60, ending=ending)
    operation = await follow(fabric, clock, scenario, JOBS)
    assert (operation.state, operation.status) == (state, status)
    assert (operation.error is None) is (state is OperationState.SUCCEEDED)


async def test_an_operation_that_never_ends_is_given_up_at_its_own_deadline(fabric, clock):
    scenario = Scenario(name="endless", ending=Ending.NEVER, retry_after=600)
    operation = await follow(fabric, clock, scenario)
    assert operation.state is OperationState.TIMED_OUT
    assert clock.now() >= PollPolicy().deadline_s


@pytest.mark.parametrize("action", [FaultAction.BUSY, FaultAction.UNAUTHORIZED])
@pytest.mark.parametrize("point", ["fabric.poll", "fabric.result"])
async def test_failed_polls_do_not_change_the_end(action, point, fabric, faults, clock):
    faults.add(Fault(on=point, action=action, times=3))
    operation = await follow(fabric, clock, "polled")
    assert operation.state is OperationState.SUCCEEDED
    assert operation.result.kind == "json"
    assert operation.poll_errors > 0


@pytest.mark.parametrize("status", [400, 403, 404, 408, 500, 502, 503, 504])
async def test_error_answers_to_polls_do_not_change_the_end(status, fabric, faults, clock):
    faults.add(Fault(on="fabric.poll", action=FaultAction.STATUS, status=status, times=3))
    operation = await follow(fabric, clock, "polled")
    assert operation.state is OperationState.SUCCEEDED
    assert operation.poll_errors == 3


async def test_an_operation_that_stays_unknown_is_expired(fabric, faults, clock):
    faults.add(Fault(on="fabric.poll", action=FaultAction.STATUS, status=404, condition="OperationNotFound"))
    operation = await follow(fabric, clock, "polled")
    assert operation.state is OperationState.EXPIRED


async def test_a_server_whose_clock_is_off_is_understood_by_its_own_date(fabric, faults, clock):
    faults.clock_offset_s = 86_400.0
    scenario = Scenario(name="skewed", running_polls=2, retry_after=7, retry_after_as_date=True)
    operation = await follow(fabric, clock, scenario)
    assert operation.state is OperationState.SUCCEEDED
    assert 21 <= clock.now() < 40


async def test_a_result_larger_than_allowed_ends_as_succeeded_with_an_account(fabric, clock, monkeypatch):
    scenario = Scenario(name="large", running_polls=1, result=BytesResult(b"x" * 2_000_000))
    fabric.script(scenario)
    client = httpx.AsyncClient(transport=SlowTransport(fabric.app, clock))
    target = FabricTarget(fabric_options(max_result_bytes=1000), StaticToken("local"), clock, client)
    prepared = target.prepare("submit", {"method": "POST", "url": NOTEBOOKS, "body": {"displayName": "nightly"}})
    operation = await run_to_end(target, spec_of(prepared.request), None, clock)
    assert operation.state is OperationState.SUCCEEDED
    assert operation.result == NO_RESULT
    assert operation.error["errorCode"] == "result_too_large"
    assert sum(request.point == "fabric.result" for request in fabric.requests) == 1


async def test_a_wrong_token_is_refused_and_says_what_to_look_at(fabric, clock):
    client = httpx.AsyncClient(transport=httpx.ASGITransport(fabric.app))
    target = FabricTarget(fabric_options(), StaticToken("wrong"), clock, client)
    prepared = target.prepare("submit", {"method": "POST", "url": NOTEBOOKS, "body": {"displayName": "n"}})
    operation = await run_to_end(target, spec_of(prepared.request), None, clock)
    assert operation.state is OperationState.REJECTED
    assert "what this identity may do" in operation.error["message"]
    assert "wrong" not in operation.error["message"]


# From here on the real client over real sockets.


@asynccontextmanager
async def served(faults):
    fabric = FabricEmulator(faults)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            port = await tasks.start(serve_http, build_http_app(fabric, EmulatorAdmin(faults)), "127.0.0.1", 0)
            options = fabric_options(f"http://127.0.0.1:{port}/v1")
            target = FabricTarget(options, StaticToken("local"), FixedClock())
            await tasks.start(target.run)
            yield fabric, target
            tasks.cancel_scope.cancel()


async def submit(target, **fields):
    prepared = target.prepare("submit", {"method": "POST", "url": NOTEBOOKS, "body": {"displayName": "n"}, **fields})
    return await target.submit(spec_of(prepared.request))


async def test_an_operation_is_followed_over_a_real_connection():
    async with served(Faults()) as (fabric, target):
        fabric.script("polled")
        first = await submit(target)
        assert isinstance(first, StillRunning)
        words = [await target.poll(spec_of(None), first.ticket) for _ in range(2)]
        assert [answer.status for answer in words] == ["Running", "Succeeded"]
        result = await target.fetch(spec_of(None), words[-1].ticket)
        assert json.loads(result.body)["displayName"] == "n"


@pytest.mark.parametrize(
    ("action", "kind"),
    [(FaultAction.RESET, "network"), (FaultAction.GARBAGE, "garbage"), (FaultAction.BUSY, "throttled")],
)
async def test_trouble_on_the_wire_has_its_kind(action, kind):
    faults = Faults()
    async with served(faults) as (fabric, target):
        fabric.script("polled")
        first = await submit(target)
        # Twice, for the client itself repeats a GET once when a connection that it kept turns out to be dead.
        faults.add(Fault(on="fabric.poll", action=action, times=2))
        with pytest.raises(TransientError) as caught:
            await target.poll(spec_of(None), first.ticket)
        assert caught.value.kind == kind


async def test_an_answer_that_never_comes_is_the_callers_to_give_up():
    faults = Faults()
    async with served(faults) as (fabric, target):
        fabric.script("polled")
        first = await submit(target)
        faults.add(Fault(on="fabric.poll", action=FaultAction.LOSE_REPLY, times=1))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(target.poll, spec_of(None), first.ticket)
            await fabric.wait_for_requests(2)
            tasks.cancel_scope.cancel()
        assert (await target.poll(spec_of(None), first.ticket)).status


async def test_a_thousand_polls_at_once_share_few_connections():
    async with served(Faults()) as (fabric, target):
        fabric.script(Scenario(name="endless", ending=Ending.NEVER))
        first = await submit(target)
        answers = []

        async def ask():
            answers.append(await target.poll(spec_of(None), first.ticket))

        async with anyio.create_task_group() as tasks:
            for _ in range(1000):
                tasks.start_soon(ask)
        assert [answer.status for answer in answers] == ["Running"] * 1000
