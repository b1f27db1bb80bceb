"""The control API, over the real control and supervisor, with fake targets."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import datetime

import anyio
import httpx
import pytest

from renewer.api.server import build_api
from renewer.core.model import Ended, Result, StillRunning, Succeeded
from renewer.core.states import LossReason
from renewer.daemon.control import Limits
from renewer.errors import LeaseLostError, UsageError
from renewer.ports import PreparedOperation
from tests.daemon.daemon_rig import Desk, FakeBroker, FakeService

pytestmark = pytest.mark.anyio

RESULT = Result("json", "application/json; charset=utf-8", b'{"id":  1}')


class Service(FakeService):
    def prepare(self, how, request, terms):
        if "url" not in request:
            raise UsageError("submit.url: is missing")
        return PreparedOperation(request, request.get("first"), retry_safe=False)


@asynccontextmanager
async def api(clock, script=(), broker=None):
    service = Service(iter(script))
    rig = Desk(clock, broker if broker is not None else FakeBroker(), service, limits=Limits(leases=100))
    async with rig.running():
        transport = httpx.ASGITransport(build_api(rig.control, over_tcp=False))
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


async def test_an_account_may_be_called_by_its_name_alone(clock):
    async with api(clock, [Succeeded("Succeeded")]) as client:
        created = await client.post("/v1/operations", json={"account": "main", "submit": {"url": "/x"}})
        assert (created.status_code, created.json()["account"]) == (201, "fabric.main")


async def test_a_new_operation_can_be_waited_for_at_once(clock):
    script = [StillRunning(retry_after_s=20), Succeeded("Succeeded")]
    async with api(clock, script) as client:
        created = await client.post("/v1/operations?wait=60s", json={"submit": {"url": "/x"}})
        assert created.json()["state"] == "succeeded"


@pytest.mark.parametrize(
    "token", ["top-secret", "0123456789abcdef0123456789abcdef", "00000000-0000-0000-0000-000000000000"]
)
async def test_a_lock_token_that_is_none_is_refused_and_not_repeated(clock, token):
    async with api(clock) as client:
        answer = await client.post("/v1/leases", json={"entity": "plain", "kind": "message", "lock_token": token})
        assert answer.status_code == 422
        assert "lock_token" in answer.json()["detail"]
        assert token not in answer.text


async def test_whoever_asks_again_is_told_whether_it_is_what_they_asked_for_before(clock):
    async with api(clock) as client:
        body, key = {"entity": "orders", "session_id": "c"}, {"Idempotency-Key": "k"}
        answers = [
            await client.post("/v1/leases", json=body, headers=headers)
            for headers in (key, key, {"Idempotency-Key": "another"}, {})
        ]
        assert [answer.status_code for answer in answers] == [201, 200, 200, 200]
        assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true", None, None]


async def test_an_owner_that_waits_for_its_lease_is_there_and_has_time_to_connect_after_it(clock):
    class Slow(FakeBroker):
        async def acquire(self, spec, epoch):
            await anyio.sleep(50)
            return await super().acquire(spec, epoch)

    async with api(clock, broker=Slow()) as client:
        body = {"entity": "orders", "session_id": "c", "owner": {"kind": "connection"}}
        lease = (await client.post("/v1/leases?wait=60s", json=body)).json()
        assert lease["state"] == "held"
        assert 29 < lease["owner"]["remaining_s"] <= 30
        await anyio.sleep(31)
        assert (await client.get(f"/v1/leases/{lease['id']}")).json()["last_loss"]["reason"] == "owner_gone"


async def test_a_renewal_of_a_lock_that_is_gone_says_that_it_is_lost_and_why(clock):
    async with api(clock, broker=FakeBroker(duration_s=300.0)) as client:
        lease = (await client.post("/v1/leases?wait=1s", json={"entity": "orders", "session_id": "c"})).json()
        client.rig.broker.locked_until.clear()
        answer = await client.post(f"/v1/leases/{lease['id']}/renew")
        assert answer.status_code == 409
        assert (answer.json()["state"], answer.json()["reason"]) == ("lost", "expired")


async def test_who_wants_a_session_that_another_keeps_is_told_who_keeps_it(clock):
    async with api(clock) as client:
        body = {"entity": "orders", "session_id": "c", "owner": {"kind": "heartbeat"}}
        first = (await client.post("/v1/leases", json=body)).json()
        for other in (body, {"entity": "orders", "session_id": "c"}, {**body, "owner": {"kind": "connection"}}):
            answer = await client.post("/v1/leases", json=other)
            assert answer.status_code == 409
            assert answer.json()["lease"] == first["id"]
            assert first["id"] in answer.json()["detail"]


async def test_what_lives_and_what_has_ended_can_be_listed_apart(clock):
    async with api(clock) as client:
        kept, ended = [
            (await client.post("/v1/leases", json={"entity": "orders", "session_id": name})).json()["id"]
            for name in ("a", "b")
        ]
        await client.delete(f"/v1/leases/{ended}")

        async def ids(state):
            return [item["id"] for item in (await client.get("/v1/leases", params={"state": state})).json()["items"]]

        assert (await ids("living"), await ids("ended")) == ([kept], [ended])
        assert await ids(["living", "released"]) == [kept, ended]
        assert (await client.get("/v1/operations?state=living")).json()["items"] == []
