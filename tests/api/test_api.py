"""The control API, over the real control and supervisor, with fake targets."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import datetime

import anyio
import httpx
import pytest

from renewer.api import build_api
from renewer.core.model import Ended, Result, StillRunning, Succeeded
from renewer.core.states import LossReason
from renewer.core.timing import PollPolicy, RenewalPolicy
from renewer.daemon.control import Account, DaemonControl
from renewer.daemon.waiting import Waiting
from renewer.errors import LeaseLostError, UsageError
from renewer.ports import PreparedOperation
from tests.daemon.daemon_rig import FakeBroker, FakeService, Rig

pytestmark = pytest.mark.anyio

RESULT = Result("json", "application/json; charset=utf-8", b'{"id":  1}')


class Service(FakeService):
    def prepare(self, how, request):
        if "url" not in request:
            raise UsageError("submit.url: is missing")
        return PreparedOperation(request, request.get("first"), retry_safe=False)


@asynccontextmanager
async def api(clock, script=(), broker=None, key=None):
    service = Service(iter(script))
    rig = Rig(clock, broker if broker is not None else FakeBroker(), service)
    waiting = Waiting()
    rig.supervisor._hooks.append(waiting)
    control = DaemonControl(
        rig.supervisor,
        clock,
        waiting,
        namespaces={"main": RenewalPolicy()},
        accounts={"fabric.main": Account(service, PollPolicy())},
    )
    async with rig.running():
        transport = httpx.ASGITransport(build_api(control, key=key))
        async with httpx.AsyncClient(transport=transport, base_url="http://renewer", timeout=None) as client:
            client.rig = rig
            yield client


async def test_a_lease_is_created_shown_and_released(clock):
    async with api(clock) as client:
        created = await client.post("/v1/leases?wait=10s", json={"entity": "orders", "session_id": "c"})
        assert created.status_code == 201
        lease = created.json()
        assert created.headers["location"] == f"/v1/leases/{lease['id']}"
        assert (lease["state"], lease["epoch"], lease["session_id"], lease["servicebus"]) == ("held", 1, "c", "main")
        await anyio.sleep(60)
        shown = (await client.get(created.headers["location"])).json()
        assert shown["renewals"] >= 12
        assert 4.9 < shown["last_margin_s"] < 10
        assert 0 < shown["remaining_s"] <= 10
        assert (await client.delete(created.headers["location"])).status_code == 204
        assert client.rig.broker.releases == [lease["id"]]
        assert (await client.get(created.headers["location"])).json()["state"] == "released"
        assert (await client.delete(created.headers["location"])).status_code == 204


async def test_asking_twice_for_a_session_gives_the_lease_that_lives(clock):
    async with api(clock) as client:
        first = await client.post("/v1/leases", json={"entity": "orders", "session_id": "c"})
        again = await client.post("/v1/leases", json={"entity": "Orders", "session_id": "c"})
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json()["id"] == again.json()["id"]
        await client.delete(first.headers["location"])
        anew = await client.post("/v1/leases", json={"entity": "orders", "session_id": "c"})
        assert anew.status_code == 201
        assert anew.json()["id"] != first.json()["id"]


async def test_two_requests_for_the_next_session_are_two_leases(clock):
    async with api(clock) as client:
        answers = [await client.post("/v1/leases", json={"entity": "orders"}) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [201, 201]


async def test_a_loss_is_shown_with_its_reason_and_the_new_epoch(clock):
    async with api(clock) as client:
        lease = (await client.post("/v1/leases?wait=1s", json={"entity": "orders", "session_id": "c"})).json()
        spec = client.rig.supervisor.scheduler.lease(lease["id"]).spec
        client.rig.break_link(spec, 1)
        await anyio.sleep(1)
        shown = (await client.get(f"/v1/leases/{lease['id']}")).json()
        assert (shown["state"], shown["epoch"], shown["losses"]) == ("held", 2, 1)
        assert (shown["last_loss"]["reason"], shown["last_loss"]["epoch"]) == ("detached", 1)


async def test_a_refused_session_that_must_not_be_reacquired_is_lost_at_once(clock):
    class Refusing(FakeBroker):
        async def acquire(self, spec, epoch):
            raise LeaseLostError("held by another receiver", reason=LossReason.REFUSED)

    async with api(clock, broker=Refusing()) as client:
        body = {"entity": "orders", "session_id": "c", "reacquire": False}
        lease = (await client.post("/v1/leases?wait=10s", json=body)).json()
        assert lease["state"] == "lost"
        assert lease["last_loss"]["reason"] == "refused"


async def test_an_operation_is_followed_to_its_result(clock):
    script = [StillRunning("Running", retry_after_s=20), Succeeded("Succeeded", result=None), RESULT]
    async with api(clock, script) as client:
        created = await client.post(
            "/v1/operations", json={"account": "fabric.main", "submit": {"url": "/x"}, "labels": {"team": "a"}}
        )
        assert created.status_code == 201
        operation = created.json()
        assert (operation["state"], operation["retry_after_s"], operation["result"]) == ("running", 20, None)
        assert datetime.fromisoformat(operation["next_poll_at"]) > datetime.fromisoformat(operation["submitted_at"])
        early = await client.get(f"{created.headers['location']}/result")
        assert early.status_code == 409
        ended = (await client.get(created.headers["location"], params={"wait": "60s"})).json()
        assert (ended["state"], ended["status"], ended["polls"]) == ("succeeded", "Succeeded", 1)
        assert ended["result"] == {"kind": "json", "size": 10, "href": f"{created.headers['location']}/result"}
        result = await client.get(ended["result"]["href"])
        assert (result.content, result.headers["content-type"]) == (RESULT.body, RESULT.content_type)


async def test_a_wait_that_ends_too_early_shows_the_operation_as_it_is(clock):
    async with api(clock, [StillRunning(retry_after_s=60)]) as client:
        created = await client.post("/v1/operations", json={"submit": {"url": "/x"}})
        began_at = anyio.current_time()
        shown = await client.get(created.headers["location"], params={"wait": "5s"})
        assert anyio.current_time() - began_at == pytest.approx(5)
        assert shown.json()["state"] == "running"


async def test_an_operation_without_a_result_has_an_empty_result(clock):
    async with api(clock, [Succeeded("Succeeded")]) as client:
        created = await client.post("/v1/operations", json={"submit": {"url": "/x"}})
        assert created.json()["result"] == {"kind": "none", "size": 0, "href": None}
        assert (await client.get(f"{created.headers['location']}/result")).status_code == 204


async def test_a_failed_operation_shows_the_error_of_the_service_whole(clock):
    error = {"errorCode": "X", "moreDetails": [{"errorCode": "Y"}], "isRetriable": False}
    async with api(clock, [Ended("failed", "Failed", error)]) as client:
        created = await client.post("/v1/operations", json={"submit": {"url": "/x"}})
        assert created.json()["error"] == error
        answer = await client.get(f"{created.headers['location']}/result")
        assert answer.status_code == 409
        assert answer.json()["state"] == "failed"


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "says"),
    [
        ("GET", "/v1/leases/lease-unknown", {}, 404, "no lease"),
        ("DELETE", "/v1/leases/lease-unknown", {}, 404, "no lease"),
        ("GET", "/v1/operations/op-unknown", {}, 404, "no operation"),
        ("GET", "/v1/operations/op-unknown/result", {}, 404, "no operation"),
        ("GET", "/v1/nothing", {}, 404, "nothing is at"),
        ("PUT", "/v1/leases", {}, 405, "not allowed"),
        ("GET", "/v1/leases?limit=0", {}, 400, "limit must be"),
        ("GET", "/v1/leases?limit=x", {}, 400, "limit must be"),
        ("GET", "/v1/leases?after=gone", {}, 400, "start again"),
        ("POST", "/v1/leases", {"content": b"{"}, 400, "JSON object"),
        ("POST", "/v1/leases", {"content": b"\xff\xfe"}, 400, "JSON object"),
        ("POST", "/v1/leases", {"content": b"[" * 100_000}, 400, "JSON object"),
        ("POST", "/v1/leases", {"json": []}, 400, "JSON object"),
        ("POST", "/v1/leases", {"json": {}}, 422, "entity"),
        ("POST", "/v1/leases", {"json": {"entity": "q", "sesion_id": "x"}}, 422, "sesion_id"),
        ("POST", "/v1/leases", {"json": {"entity": "q", "session_id": "x" * 129}}, 422, "session_id"),
        ("POST", "/v1/leases", {"json": {"entity": "q", "servicebus": "nope"}}, 422, "main"),
        ("POST", "/v1/leases", {"json": {"entity": "q", "max_duration": "soon"}}, 422, "max_duration"),
        ("POST", "/v1/leases?wait=soon", {"json": {"entity": "q"}}, 400, "wait"),
        ("POST", "/v1/leases?wait=1d", {"json": {"entity": "q"}}, 400, "wait"),
        ("POST", "/v1/operations", {"json": {}}, 422, "exactly one"),
        ("POST", "/v1/operations", {"json": {"submit": {}, "adopt": {}}}, 422, "exactly one"),
        ("POST", "/v1/operations", {"json": {"submit": {}}}, 422, "submit.url"),
        ("POST", "/v1/operations", {"json": {"account": "x", "submit": {"url": "/"}}}, 422, "fabric.main"),
        ("POST", "/v1/operations", {"json": {"submit": {"url": "/"}, "deadline": -1}}, 422, "deadline"),
        ("POST", "/v1/operations", {"content": b" " * (4 * 1024 * 1024 + 1)}, 413, "at most"),
    ],
)
async def test_a_mistake_is_answered_with_a_problem_that_says_what_is_right(clock, method, path, options, status, says):
    async with api(clock) as client:
        answer = await client.request(method, path, **options)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert says in problem["detail"]


async def test_lists_are_paged_without_gaps(clock):
    async with api(clock) as client:
        ids = [
            (await client.post("/v1/leases", json={"entity": "q", "session_id": str(number)})).json()["id"]
            for number in range(25)
        ]
        seen, after = [], {}
        while True:
            page = (await client.get("/v1/leases", params={"limit": 10, **after})).json()
            seen += [item["id"] for item in page["items"]]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        assert seen == ids


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", "secret", "Basic secret", "Bearer secret2"])
async def test_without_the_key_nothing_is_answered(clock, header):
    async with api(clock, key="secret") as client:
        headers = {} if header is None else {"Authorization": header}
        answer = await client.get("/v1/leases", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert "secret" not in answer.text.replace("Bearer KEY", "")
        assert (await client.get("/v1/leases", headers={"Authorization": "Bearer secret"})).status_code == 200


async def test_an_account_may_be_called_by_its_name_alone(clock):
    async with api(clock, [Succeeded("Succeeded")]) as client:
        created = await client.post("/v1/operations", json={"account": "main", "submit": {"url": "/x"}})
        assert (created.status_code, created.json()["account"]) == (201, "fabric.main")


async def test_a_new_operation_can_be_waited_for_at_once(clock):
    script = [StillRunning(retry_after_s=20), Succeeded("Succeeded")]
    async with api(clock, script) as client:
        created = await client.post("/v1/operations?wait=60s", json={"submit": {"url": "/x"}})
        assert created.json()["state"] == "succeeded"


async def test_the_word_bearer_may_be_written_in_any_case(clock):
    async with api(clock, key="secret") as client:
        assert (await client.get("/v1/leases", headers={"Authorization": "bearer secret"})).status_code == 200
