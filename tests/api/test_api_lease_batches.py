"""Many leases with one request, over the real control and supervisor."""

from __future__ import annotations

import gc
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest

from renewer.api.models import MAX_LEASES_AT_ONCE, NewLease
from renewer.api.server import build_api
from renewer.daemon.control import Limits
from tests.daemon.daemon_rig import Desk, FakeBroker, FakeService

pytestmark = pytest.mark.anyio

BATCH = "/v1/leases/batch"


class Picky(FakeBroker):
    """Nobody gets the session `taken`."""

    async def acquire(self, spec, epoch):
        if spec.session_id == "taken":
            await anyio.sleep_forever()
        return await super().acquire(spec, epoch)


@asynccontextmanager
async def api(clock, *, limit=100):
    rig = Desk(clock, Picky(), FakeService(iter(())), limits=Limits(leases=limit))
    async with rig.running():
        transport = httpx.ASGITransport(build_api(rig.control, over_tcp=False))
        async with httpx.AsyncClient(transport=transport, base_url="http://renewer", timeout=None) as client:
            client.rig = rig
            yield client


def asking_for(*session_ids, **more):
    return {"leases": [{"entity": "orders", "session_id": session_id, **more} for session_id in session_ids]}


async def test_many_are_held_in_the_order_in_which_they_were_asked_for(clock):
    async with api(clock) as client:
        names = [f"s-{number}" for number in range(80)]
        answer = await client.post(BATCH, params={"wait": "10s"}, json=asking_for(*names))
        assert answer.status_code == 200
        items = answer.json()["items"]
        assert {item["status"] for item in items} == {201}
        assert [item["lease"]["session_id"] for item in items] == names
        assert {item["lease"]["state"] for item in items} == {"held"}
        listed = (await client.get("/v1/leases", params={"limit": 1000})).json()["items"]
        assert [lease["id"] for lease in listed] == [item["lease"]["id"] for item in items]


async def test_what_was_written_is_not_kept_while_the_request_waits(clock):
    async with api(clock) as client, anyio.create_task_group() as tasks:
        gc.collect()
        before = sum(isinstance(one, NewLease) for one in gc.get_objects())
        tasks.start_soon(lambda: client.post(BATCH, params={"wait": "10s"}, json=asking_for("a", "b", "taken")))
        await anyio.wait_all_tasks_blocked()
        assert [lease.state.value for lease in client.rig.control.leases()] == ["held", "held", "acquiring"]
        gc.collect()
        assert sum(isinstance(one, NewLease) for one in gc.get_objects()) == before
        tasks.cancel_scope.cancel()


async def test_what_is_wrong_with_one_keeps_no_other_from_being_held(clock):
    async with api(clock) as client:
        kept = (
            await client.post("/v1/leases", json={"entity": "orders", "session_id": "mine", "labels": {"a": "b"}})
        ).json()
        body = asking_for("first", "mine", "last")
        body["leases"].append({"servicebus": "unknown", "entity": "orders", "session_id": "x"})
        answer = await client.post(BATCH, params={"wait": "10s"}, json=body)
        first, mine, last, unknown = answer.json()["items"]
        assert (first["lease"]["state"], last["lease"]["state"]) == ("held", "held")
        assert (mine["status"], mine["problem"]["status"], mine["problem"]["lease"]) == (409, 409, kept["id"])
        assert unknown["status"] == 422
        assert "name one of those configured" in unknown["problem"]["detail"]


async def test_those_beyond_the_limit_are_refused_one_by_one(clock):
    async with api(clock, limit=2) as client:
        items = (await client.post(BATCH, json=asking_for("a", "b", "c"))).json()["items"]
        assert [item["status"] for item in items] == [201, 201, 429]


async def test_the_answer_comes_when_none_is_being_acquired_or_the_time_is_over(clock):
    async with api(clock) as client:
        began_at = clock.now()
        items = (await client.post(BATCH, params={"wait": "10s"}, json=asking_for("a", "taken", "b"))).json()["items"]
        assert clock.now() - began_at == pytest.approx(10, abs=0.1)
        assert [item["lease"]["state"] for item in items] == ["held", "acquiring", "held"]
        began_at = clock.now()
        await client.post(BATCH, json=asking_for("c"))
        assert clock.now() == pytest.approx(began_at, abs=0.1)


async def test_the_same_key_finds_the_same_leases_whatever_has_become_of_them(clock):
    async with api(clock) as client:
        key = {"Idempotency-Key": "k"}
        first = (await client.post(f"{BATCH}?wait=10s", headers=key, json=asking_for("a", "b"))).json()["items"]
        await client.delete(f"/v1/leases/{first[0]['lease']['id']}")
        again = (await client.post(BATCH, headers=key, json=asking_for("a", "b"))).json()["items"]
        assert [item["status"] for item in again] == [200, 200]
        assert [item["lease"]["id"] for item in again] == [item["lease"]["id"] for item in first]
        assert [item["lease"]["state"] for item in again] == ["released", "held"]
        other = (await client.post(BATCH, headers=key, json=asking_for("a", "z"))).json()["items"]
        assert [item["status"] for item in other] == [422, 422]
        alone = await client.post("/v1/leases", headers=key, json=asking_for("alone")["leases"][0])
        assert alone.status_code == 201


async def test_the_same_session_twice_is_one_lease(clock):
    async with api(clock) as client:
        one, other = (await client.post(BATCH, json=asking_for("a", "a"))).json()["items"]
        assert (one["status"], other["status"]) == (201, 200)
        assert one["lease"]["id"] == other["lease"]["id"]


async def test_while_it_waits_the_request_is_the_connection_of_all_owners(clock):
    async with api(clock) as client:
        owner = {"kind": "connection"}
        items = (await client.post(BATCH, params={"wait": "60s"}, json=asking_for("a", "taken", owner=owner))).json()[
            "items"
        ]
        assert [item["lease"]["state"] for item in items] == ["held", "acquiring"]
        await anyio.sleep(40)
        # Nobody has connected since, and half a minute is what owners have for that.
        shown = [(await client.get(f"/v1/leases/{item['lease']['id']}")).json() for item in items]
        assert [lease["state"] for lease in shown] == ["lost", "lost"]
        assert shown[0]["last_loss"]["reason"] == "owner_gone"


@pytest.mark.parametrize("count", [0, MAX_LEASES_AT_ONCE + 1])
async def test_none_and_too_many_are_refused(clock, count):
    async with api(clock) as client:
        answer = await client.post(BATCH, json=asking_for(*map(str, range(count))))
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "leases"


async def test_a_mistake_in_one_of_them_is_told_with_its_place(clock):
    async with api(clock) as client:
        body = asking_for("a", "b")
        body["leases"][1]["kind"] = "message"
        answer = await client.post(BATCH, json=body)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "leases.1"
        assert (await client.get("/v1/leases")).json()["items"] == []
