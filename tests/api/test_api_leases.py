"""Routes of leases, over a daemon that does what it is told."""

from __future__ import annotations

from datetime import UTC, datetime

import anyio
import httpx
import pytest

from renewer.api.server import build_api
from renewer.core.model import Owner
from renewer.core.states import LeaseKind, LeaseState, OwnerKind
from renewer.errors import LeaseLostError, RegistryError, TransientError
from tests.api.scripted_control import ScriptedControl

pytestmark = pytest.mark.anyio

TOKEN = "0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.fixture
def control():
    return ScriptedControl()


@pytest.fixture
async def client(control):
    transport = httpx.ASGITransport(build_api(control, over_tcp=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://renewer", timeout=None) as client:
        yield client


async def test_everything_that_can_be_asked_for_a_session_is_passed_on(control, client):
    body = {
        "servicebus": "main",
        "entity": "topic/Subscriptions/a",
        "session_id": "c",
        "lock_duration": "30s",
        "reacquire": False,
        "max_duration": 3600,
        "labels": {"team": "a"},
        "callback": "https://example.com/hook?secret=1",
        "owner": {"kind": "heartbeat", "ttl": "45s"},
    }
    answer = await client.post("/v1/leases", json=body)
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/leases/{answer.json()['id']}"
    [asked] = control.asked
    assert (asked.servicebus, asked.entity, asked.session_id) == ("main", "topic/Subscriptions/a", "c")
    assert (asked.lock_duration_s, asked.reacquire, asked.max_duration_s) == (30, False, 3600)
    assert (asked.labels, asked.callback) == ({"team": "a"}, body["callback"])
    assert (asked.owner, asked.idempotency) == (Owner(OwnerKind.HEARTBEAT, 45), None)
    assert answer.json()["owner"] == {"kind": "heartbeat", "ttl_s": 45, "pid": None, "remaining_s": None}
    assert "secret" not in answer.text


async def test_an_entity_has_one_name_however_it_is_written(control, client):
    for written in ("orders", "/orders", "orders/", " orders "):
        assert (await client.post("/v1/leases", json={"entity": written})).status_code < 300
    assert {asked.entity for asked in control.asked} == {"orders"}


@pytest.mark.parametrize(
    "entity",
    [
        "orders/$deadletterqueue",
        "orders/$Transfer/$DeadLetterQueue",
        "topic/subscriptions/sub",
        "topic/subscriptions/sub/$DeadLetterQueue",
        "a.b/c$d",
    ],
)
async def test_subscriptions_and_dead_letter_queues_are_entities(control, client, entity):
    body = {"entity": entity, "kind": "message", "lock_token": TOKEN}
    assert (await client.post("/v1/leases", json=body)).status_code == 201
    assert [asked.entity for asked in control.asked] == [entity]


async def test_the_lock_of_a_message_is_kept_and_its_token_never_shown(control, client):
    until = "2026-11-22T17:00:00Z"
    body = {"entity": "orders", "kind": "message", "lock_token": TOKEN.upper(), "locked_until_utc": until}
    answer = await client.post("/v1/leases", json=body)
    assert answer.status_code == 201
    [asked] = control.asked
    assert (asked.kind, asked.lock_token) == (LeaseKind.MESSAGE, TOKEN.upper())
    assert asked.locked_until == datetime(2026, 11, 22, 17, tzinfo=UTC).timestamp()
    assert TOKEN not in answer.text.lower()
    assert TOKEN not in repr(asked)


@pytest.mark.parametrize(
    ("given", "owner"),
    [
        ({"kind": "none"}, Owner()),
        ({"kind": "heartbeat"}, Owner(OwnerKind.HEARTBEAT, 30)),
        ({"kind": "connection"}, Owner(OwnerKind.CONNECTION, 1)),
        ({"kind": "connection", "ttl": "1m"}, Owner(OwnerKind.CONNECTION, 60)),
        ({"kind": "pid", "pid": 4711}, Owner(OwnerKind.PID, 0, 4711)),
    ],
)
async def test_the_owner_is_told_by_how_it_shows_that_it_lives(control, client, given, owner):
    assert (await client.post("/v1/leases", json={"entity": "q", "owner": given})).status_code == 201
    assert control.asked[0].owner == owner


async def test_a_session_that_is_held_already_is_found(client):
    first = await client.post("/v1/leases", json={"entity": "orders", "session_id": "c"})
    again = await client.post("/v1/leases", json={"entity": "orders", "session_id": "c"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.headers["location"] == again.headers["location"]


async def test_one_idempotency_key_is_one_lease_however_the_same_is_written(client):
    key = {"Idempotency-Key": "k-1"}
    first = await client.post(
        "/v1/leases", headers=key, json={"entity": "q", "labels": {"a": "1", "b": "2"}, "max_duration": 60}
    )
    body = b' {"max_duration": "1m", "labels": {"b": "2", "a": "1"}, "entity": "q"}'
    again = await client.post("/v1/leases", headers=key, content=body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]


async def test_one_idempotency_key_for_two_requests_is_a_mistake(client):
    key = {"Idempotency-Key": "k-1"}
    assert (await client.post("/v1/leases", headers=key, json={"entity": "q"})).status_code == 201
    answer = await client.post("/v1/leases", headers=key, json={"entity": "p"})
    assert (answer.status_code, answer.json()["status"]) == (422, 422)
    operation = await client.post("/v1/operations", headers=key, json={"submit": {"url": "/x"}})
    assert operation.status_code == 422


async def test_a_new_lease_can_be_waited_for(control, client):
    control.pending = True
    async with anyio.create_task_group() as tasks:

        async def grant():
            await control.until(lambda: len(list(control.leases())) == 1)
            await anyio.sleep(5)
            control.grant(next(iter(control.leases())))

        tasks.start_soon(grant)
        answer = await client.post("/v1/leases?wait=30s", json={"entity": "q"})
    assert answer.json()["state"] == "held"


async def test_a_wait_that_is_too_short_shows_the_lease_as_it_is(control, client):
    control.pending = True
    answer = await client.post("/v1/leases?wait=500ms", json={"entity": "q"})
    assert (answer.status_code, answer.json()["state"]) == (201, "acquiring")


@pytest.mark.parametrize(("until", "state"), [("settled", "held"), ("over", "lost")])
async def test_a_lease_is_waited_for_until_it_is_settled_or_over(control, client, until, state):
    lease = control.add_lease(state=LeaseState.ACQUIRING)
    async with anyio.create_task_group() as tasks:

        async def live():
            await anyio.sleep(5)
            control.grant(lease)
            await anyio.sleep(5)
            control.lose(lease)

        tasks.start_soon(live)
        answer = await client.get(f"/v1/leases/{lease.spec.id}?wait=60&until={until}")
        assert answer.json()["state"] == state


async def test_what_is_answered_is_stored_first(control, client):
    lease_id = (await client.post("/v1/leases", json={"entity": "q"})).json()["id"]
    for ask in (
        client.get(f"/v1/leases/{lease_id}"),
        client.post(f"/v1/leases/{lease_id}/renew"),
        client.delete(f"/v1/leases/{lease_id}"),
    ):
        await ask
    assert control.settled_keys == [lease_id] * 4


async def test_a_lease_is_released_and_forgotten(control, client):
    lease_id = control.add_lease().spec.id
    for _ in range(2):
        assert (await client.delete(f"/v1/leases/{lease_id}")).status_code == 204
    assert (await client.get(f"/v1/leases/{lease_id}")).json()["state"] == "released"
    assert (await client.delete(f"/v1/leases/{lease_id}?forget=true")).status_code == 204
    assert (await client.get(f"/v1/leases/{lease_id}")).status_code == 404
    assert (await client.delete(f"/v1/leases/{lease_id}")).status_code == 404


@pytest.mark.parametrize(
    ("failure", "status", "says", "headers"),
    [
        (TransientError("no answer in time", kind="timeout"), 504, "no answer", {}),
        (TransientError("server busy", kind="busy", retry_after_s=2.1), 502, "busy", {"retry-after": "3"}),
        (LeaseLostError("the lock has expired", reason="expired"), 409, "expired", {}),
        (RegistryError("/x/registry.db: disk full; make room"), 503, "make room", {}),
        (KeyError("lease-1"), 404, "no lease", {}),
    ],
)
async def test_what_the_broker_says_to_a_renewal_is_told(control, client, failure, status, says, headers):
    lease = control.add_lease()
    control.failures["renew_now"] = failure
    answer = await client.post(f"/v1/leases/{lease.spec.id}/renew?wait=5s")
    assert answer.status_code == status
    assert says in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert headers.items() <= dict(answer.headers).items()


async def test_a_lease_is_renewed_at_once_if_it_is_held(control, client):
    held, lost = control.add_lease("a"), control.add_lease("b", state=LeaseState.LOST)
    answer = await client.post(f"/v1/leases/{held.spec.id}/renew")
    assert (answer.status_code, answer.json()["renewals"]) == (200, 1)
    answer = await client.post(f"/v1/leases/{lost.spec.id}/renew")
    assert (answer.status_code, answer.json()["detail"]) == (409, "the lease is lost, not held")


async def test_a_heartbeat_counts_where_heartbeats_do(control, client):
    beating = control.add_lease("a", owner=Owner(OwnerKind.HEARTBEAT, 20))
    answer = await client.post(f"/v1/leases/{beating.spec.id}/heartbeat")
    assert answer.status_code == 200
    assert 19 < answer.json()["owner"]["remaining_s"] <= 20
    silent = control.add_lease("b")
    assert (await client.post(f"/v1/leases/{silent.spec.id}/heartbeat")).status_code == 409


async def test_the_state_of_a_session_is_read_written_and_cleared_byte_for_byte(control, client):
    url = f"/v1/leases/{control.add_lease().spec.id}/state"
    assert (await client.get(url)).status_code == 204
    state = bytes(range(256))
    assert (await client.put(url, content=state)).status_code == 204
    answer = await client.get(url)
    assert (answer.content, answer.headers["content-type"]) == (state, "application/octet-stream")
    assert (await client.delete(url)).status_code == 204
    assert (await client.get(url)).status_code == 204
    lost = control.add_lease("b", state=LeaseState.LOST)
    assert (await client.get(f"/v1/leases/{lost.spec.id}/state")).status_code == 409


async def test_leases_are_filtered(control, client):
    control.add_lease("a", labels={"team": "x", "day": "1"})
    control.add_lease("b", state=LeaseState.LOST, labels={"team": "x"})
    control.add_lease("c", entity="Other", labels={"team": "y:z"})
    control.add_lease(None, kind=LeaseKind.MESSAGE, target="servicebus.second")

    async def found(query):
        answer = await client.get(f"/v1/leases?{query}")
        return [item["session_id"] for item in answer.json()["items"]]

    assert await found("state=lost") == ["b"]
    assert await found("state=lost&state=held") == ["a", "b", "c", "any"]
    assert await found("kind=message") == await found("servicebus=second") == ["any"]
    assert await found("entity=OTHER") == await found("label=team:y:z") == ["c"]
    assert await found("session_id=b") == ["b"]
    assert await found("label=team:x&label=day:1") == ["a"]
    assert await found("label=team:x&label=day:2") == []


async def test_pages_have_no_gaps_also_when_the_item_of_the_cursor_is_gone(control, client):
    leases = [control.add_lease(str(number)) for number in range(25)]
    first = (await client.get("/v1/leases?limit=10")).json()
    assert [item["number"] for item in first["items"]] == list(range(1, 11))
    await control.forget_lease(leases[9].spec.id)
    control.add_lease("new")
    second = (await client.get("/v1/leases", params={"limit": 10, "after": first["next"]})).json()
    third = (await client.get("/v1/leases", params={"limit": 10, "after": second["next"]})).json()
    assert [item["number"] for item in second["items"] + third["items"]] == list(range(11, 27))
    assert third["next"] is None


async def test_a_last_page_that_is_full_has_no_next(control, client):
    for number in range(10):
        control.add_lease(str(number))
    assert (await client.get("/v1/leases?limit=10")).json()["next"] is None


async def test_what_expires_first_can_come_first(control, client):
    for name, state, remaining_s in (
        ("ended", LeaseState.LOST, 0),
        ("late", LeaseState.HELD, 20),
        ("waiting", LeaseState.ACQUIRING, 0),
        ("soon", LeaseState.HELD, 3),
        ("over", LeaseState.AT_RISK, -2),
    ):
        lease = control.add_lease(name, state=state)
        lease.expires_at = control.now() + remaining_s
    page = (await client.get("/v1/leases?sort=remaining&limit=4")).json()
    assert [item["session_id"] for item in page["items"]] == ["over", "soon", "late", "waiting"]
    assert page["next"] is None


async def test_others_get_their_turn_while_a_long_list_is_made(control, client):
    for number in range(3000):
        control.add_lease(str(number))
    turns = 0

    async def count():
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        for query in ("limit=1000", "limit=1000&sort=remaining"):
            before = turns
            assert len((await client.get(f"/v1/leases?{query}")).json()["items"]) == 1000
            assert turns - before >= 10
        tasks.cancel_scope.cancel()


async def test_admission_that_is_refused_says_when_to_come_back(control, client):
    answer = await client.post("/v1/drain", json={})
    assert (answer.status_code, answer.json()["state"]) == (200, "draining")
    for path, body in (("/v1/leases", {"entity": "q"}), ("/v1/operations", {"submit": {"url": "/"}})):
        refused = await client.post(path, json=body)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        assert refused.json()["detail"] == "draining"
    assert (await client.post("/v1/drain", json={"enabled": False})).json()["state"] == "ready"
    assert (await client.post("/v1/leases", json={"entity": "q"})).status_code == 201


async def test_draining_can_park_and_needs_no_body(control, client):
    assert (await client.post("/v1/drain")).json()["state"] == "draining"
    assert control.parked is False
    assert (await client.post("/v1/drain", json={"park": True})).status_code == 200
    assert control.parked is True


async def test_what_cannot_be_stored_is_not_taken_on(control, client):
    control.failures["hold"] = RegistryError("/x/registry.db: disk full; make room")
    answer = await client.post("/v1/leases", json={"entity": "q"})
    assert (answer.status_code, answer.json()["detail"]) == (503, "/x/registry.db: disk full; make room")


async def test_the_status_tells_of_the_daemon(client):
    status = (await client.get("/v1/status")).json()
    assert (status["version"], status["state"], status["started_at"]) == ("1.2.3", "ready", "2026-01-01T00:00:00Z")
    assert status["limits"] == {"leases": 10, "operations": 20}
    assert status["targets"][1] == {"name": "fabric.main", "connections": None, "links": None, "clock_skew_s": 0.123}
    assert status["trouble"] == ["a full disk"]
    (gateway,) = status["gateways"]
    assert (gateway["listen"], gateway["connections"], gateway["logging_in"]) == ("127.0.0.1:5672", 3, 1)
    assert (gateway["keys"], gateway["refusals"], gateway["messages"]) == ({"local": 3}, {"key": 2}, 7)
    assert status["uptime_s"] > 0


async def test_a_bug_of_ours_is_answered_without_its_insides(control):
    control.failures["hold"] = ZeroDivisionError("inside")
    transport = httpx.ASGITransport(build_api(control, over_tcp=False), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://renewer") as client:
        answer = await client.post("/v1/leases", json={"entity": "q"})
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "inside" not in answer.text
