"""Cancelling: job instances can be, operations cannot."""

from __future__ import annotations

import httpx
import pytest

from renewer.core.model import Ended, StillRunning
from renewer.emulator.fabric import FabricEmulator
from renewer.emulator.faults import Faults
from renewer.errors import ConflictError, TransientError
from renewer.targets.fabric import FabricTarget, Ticket
from renewer.targets.rest import Submit
from renewer.targets.tokens import StaticToken
from tests.targets.fabric_rig import HOST, JOB_PATH, STATE_PATH, FixedClock, Rig, fabric_options, reply, spec_of

pytestmark = pytest.mark.anyio


async def cancel(rig: Rig, ticket: object) -> None:
    await rig.target.cancel(spec_of(None), ticket)


@pytest.mark.parametrize("status", [200, 202, 204])
async def test_a_job_instance_is_asked_to_cancel(status: int) -> None:
    rig = Rig().answers(httpx.Response(status))
    await cancel(rig, Ticket(JOB_PATH))
    [request] = rig.requests
    assert (request.method, str(request.url)) == ("POST", f"{HOST}{JOB_PATH}/cancel")
    assert request.headers["authorization"] == "Bearer token-1"
    assert request.content == b""


async def test_a_query_stays_behind_the_path() -> None:
    rig = Rig().answers(httpx.Response(202))
    await cancel(rig, Ticket(f"{JOB_PATH}/?beta=true"))
    assert rig.urls == [f"{HOST}{JOB_PATH}/cancel?beta=true"]


@pytest.mark.parametrize("path", [STATE_PATH, "/v1/workspaces/w1/elsewhere"])
async def test_an_operation_cannot_be_canceled(path: str) -> None:
    rig = Rig()
    with pytest.raises(ConflictError, match="Forget it to stop following"):
        await cancel(rig, Ticket(path))
    assert rig.requests == []


async def test_a_job_that_has_ended_is_a_conflict() -> None:
    rig = Rig().answers(reply(400, {"errorCode": "JobAlreadyCompleted", "message": "m"}))
    with pytest.raises(ConflictError, match="has ended"):
        await cancel(rig, Ticket(JOB_PATH))


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, "not_found"), (403, "unauthorized"), (409, "refused"), (429, "throttled"), (503, "busy"), (302, "server")],
)
async def test_any_other_answer_decides_nothing(status: int, kind: str) -> None:
    rig = Rig().answers(reply(status, {"errorCode": "X", "message": "m"}, {"Retry-After": "7"}))
    with pytest.raises(TransientError) as failed:
        await cancel(rig, Ticket(JOB_PATH))
    assert (failed.value.kind, failed.value.retry_after_s) == (kind, 7.0)


async def test_a_refused_token_is_fetched_anew_once() -> None:
    rig = Rig().answers(reply(401), httpx.Response(202))
    await cancel(rig, Ticket(JOB_PATH))
    assert [request.headers["authorization"] for request in rig.requests] == ["Bearer token-1", "Bearer token-2"]


async def test_a_host_that_may_not_see_the_token_is_not_asked() -> None:
    rig = Rig()
    with pytest.raises(TransientError, match="may no longer see the token"):
        await cancel(rig, Ticket(JOB_PATH, origin="https://elsewhere.example.com"))
    assert rig.requests == []


async def test_the_emulated_service_cancels_a_job_and_the_next_poll_tells() -> None:
    clock = FixedClock()
    fabric = FabricEmulator(Faults(clock.utc_now), clock=clock.now)
    fabric.script("slow", times=None)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(fabric.app))
    target = FabricTarget(fabric_options(), StaticToken("local"), clock, client)
    first = await target.submit(spec_of(Submit("POST", "/workspaces/w1/items/i1/jobs/RunNotebook/instances")))
    assert isinstance(first, StillRunning)
    spec = spec_of(None)
    await target.cancel(spec, first.ticket)
    for _ in range(10):
        clock.pass_s(120)
        answer = await target.poll(spec, first.ticket)
        if isinstance(answer, Ended):
            break
    assert isinstance(answer, Ended)
    assert answer.outcome == "canceled"
    with pytest.raises(ConflictError, match="has ended"):
        await target.cancel(spec, first.ticket)
    await client.aclose()
