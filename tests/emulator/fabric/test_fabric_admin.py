import httpx
import pytest

from renewer.emulator.admin import EmulatorAdmin
from renewer.emulator.fabric import FabricEmulator
from renewer.emulator.faults import Faults
from renewer.emulator.http import MAX_BODY, build_http_app

pytestmark = pytest.mark.anyio

NOTEBOOKS = "/v1/workspaces/w1/notebooks"
AUTH = {"Authorization": "Bearer local"}


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def faults():
    return Faults()


@pytest.fixture
def admin(faults):
    return EmulatorAdmin(faults)


@pytest.fixture
async def client(faults, admin):
    app = build_http_app(FabricEmulator(faults, clock=lambda: 0.0), admin)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://emu") as client:
        yield client


async def create(client, name="nightly"):
    return await client.post(NOTEBOOKS, json={"displayName": name}, headers=AUTH)


def problem_fields(answer):
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == answer.status_code
    assert document["title"]
    return [error["field"] for error in document.get("errors", [])]


async def test_a_fault_is_added_shown_and_removed(client):
    added = await client.post(
        "/_emulator/faults", json={"on": "fabric.submit", "action": "busy", "retry_after": 7, "match": {"path": "*"}}
    )
    assert added.status_code == 201
    assert (await create(client)).status_code == 429
    [shown] = (await client.get("/_emulator/faults")).json()["faults"]
    assert (shown["id"], shown["action"], shown["seen"], shown["fired"]) == (added.json()["id"], "busy", 1, 1)
    assert (await client.delete(f"/_emulator/faults/{shown['id']}")).status_code == 204
    assert (await client.delete(f"/_emulator/faults/{shown['id']}")).status_code == 404
    assert (await create(client)).status_code == 202


async def test_all_faults_are_removed_at_once(client, faults):
    for _ in range(3):
        await client.post("/_emulator/faults", json={"on": "*", "action": "reset"})
    assert (await client.delete("/_emulator/faults")).status_code == 204
    assert faults.list() == []


async def test_the_clock_is_set(client, faults):
    answer = await client.put("/_emulator/clock", json={"offset_s": -3600})
    assert answer.json()["offset_s"] == -3600
    assert faults.clock_offset_s == -3600


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"action": "busy"}, ["on"]),
        ({"on": "fabric.pol", "action": "busy"}, ["on"]),
        ({"on": "fabric.poll", "action": "explode"}, ["action"]),
        ({"on": "fabric.poll", "action": "detach"}, ["action"]),
        ({"on": "fabric.poll", "action": "delay"}, ["delay_s"]),
        ({"on": "fabric.poll", "action": "busy", "often": 1, "times": "2"}, ["times", "often"]),
        ({"on": "fabric.poll", "action": "busy", "every": True}, ["every"]),
        ([], ["body"]),
    ],
)
async def test_a_bad_fault_is_a_400_that_names_field_and_remedy(client, faults, body, fields):
    answer = await client.post("/_emulator/faults", json=body)
    assert answer.status_code == 400
    assert problem_fields(answer) == fields
    assert all(error["remedy"] for error in answer.json()["errors"])
    assert faults.list() == []


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/_emulator/faults"),
        ("PUT", "/_emulator/clock"),
        ("PUT", "/_emulator/scenarios/x"),
        ("POST", "/_emulator/scripts"),
    ],
)
async def test_a_body_that_is_not_json_is_a_400(client, method, path, body):
    answer = await client.request(method, path, content=body)
    assert answer.status_code == 400
    assert problem_fields(answer) == ["body"]


@pytest.mark.parametrize("offset", ["NaN", "1e400", "1e15", '"3600"', "null"])
async def test_an_impossible_clock_is_a_400(client, faults, offset):
    answer = await client.put("/_emulator/clock", content=f'{{"offset_s": {offset}}}')
    assert answer.status_code == 400
    assert problem_fields(answer) == ["offset_s"]
    assert faults.clock_offset_s == 0


async def test_an_oversized_body_is_a_413(client):
    answer = await client.post("/_emulator/faults", content=b" " * (MAX_BODY + 1))
    assert answer.status_code == 413
    assert problem_fields(answer) == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/_emulator", 404), ("GET", "/_emulator/nope", 404), ("PATCH", "/_emulator/faults", 405)],
)
async def test_unknown_admin_paths_are_problems(client, method, path, status):
    answer = await client.request(method, path)
    assert answer.status_code == status
    problem_fields(answer)


async def test_the_state_counts_requests_and_early_polls_and_holds_other_parts(client, admin):
    admin.add_state("servicebus", lambda: {"sessions": 3})
    accepted = await create(client)
    await client.get(accepted.headers["location"], headers=AUTH)
    await client.get("/v1/operations/x")
    state = (await client.get("/_emulator/state")).json()
    assert state["requests"] == {"fabric.submit": 1, "fabric.poll": 1}
    assert state["servicebus"] == {"sessions": 3}
    assert state["clock"]["offset_s"] == 0
    fabric = state["fabric"]
    assert (fabric["requests"], fabric["unauthorized"]) == (3, 1)
    assert fabric["operations"] == {"kept": 1, "ended": 0}
    assert fabric["early_polls"]["count"] == 1
    assert fabric["early_polls"]["latest"][0]["early_s"] == 1.0


async def test_the_requests_that_were_seen_can_be_read(client):
    await create(client)
    [seen] = (await client.get("/_emulator/requests")).json()["requests"]
    assert (seen["path"], seen["status"], seen["point"]) == (NOTEBOOKS, 202, "fabric.submit")


async def test_a_scenario_is_defined_scripted_and_removed(client):
    body = {"running_polls": 0, "result": {"json": {"answer": 42}}, "retry_after": 20}
    assert (await client.put("/_emulator/scenarios/mine", json=body)).status_code == 200
    names = [scenario["name"] for scenario in (await client.get("/_emulator/scenarios")).json()["scenarios"]]
    assert {"mine", "polled", "default"} <= set(names)
    script = await client.post("/_emulator/scripts", json={"scenario": "mine", "path": "*/notebooks"})
    assert script.status_code == 201
    [shown] = (await client.get("/_emulator/scripts")).json()["scripts"]
    assert (shown["id"], shown["scenario"], shown["times"]) == (script.json()["id"], "mine", 1)
    accepted = await create(client)
    assert accepted.headers["retry-after"] == "20"
    ended = await client.get(accepted.headers["location"], headers=AUTH)
    assert (await client.get(ended.headers["location"], headers=AUTH)).json() == {"answer": 42}
    assert (await client.get("/_emulator/scripts")).json()["scripts"] == []
    assert (await client.delete("/_emulator/scenarios/mine")).status_code == 204
    assert (await client.delete("/_emulator/scenarios/mine")).status_code == 404


@pytest.mark.parametrize(
    ("result", "status", "content"),
    [
        ({"base64": "AP8="}, 200, b"\x00\xff"),
        ({"json": None}, 200, b"null"),
        ({"none": "no_location"}, 400, None),
        ("path", 200, None),
    ],
)
async def test_every_kind_of_result_can_be_scripted(client, result, status, content):
    await client.put("/_emulator/scenarios/mine", json={"running_polls": 0, "result": result})
    accepted = await create(client, "mine")
    await client.get(accepted.headers["location"], headers=AUTH)
    answer = await client.get(accepted.headers["location"] + "/result", headers=AUTH)
    assert answer.status_code == status
    assert content is None or answer.content == content


async def test_a_failure_can_be_scripted_in_full(client):
    error = {"code": "Broken", "message": "No", "more_details": [["Inner", "Why"]], "is_retriable": True}
    body = {"running_polls": 0, "ending": "failed", "error": error}
    await client.put("/_emulator/scenarios/mine", json=body)
    accepted = await create(client, "mine")
    document = (await client.get(accepted.headers["location"], headers=AUTH)).json()["error"]
    assert (document["errorCode"], document["isRetriable"]) == ("Broken", True)
    assert document["moreDetails"][0]["errorCode"] == "Inner"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/_emulator/scenarios/polled", {}, "name"),
        ("/_emulator/scenarios/mine", {"ending": "exploded"}, "ending"),
        ("/_emulator/scenarios/mine", {"running_polls": -1}, "running_polls"),
        ("/_emulator/scenarios/mine", {"result": {"base64": "!"}}, "result.base64"),
        ("/_emulator/scenarios/mine", {"first_status": 204}, "first_status"),
    ],
)
async def test_a_bad_scenario_is_a_400_that_names_the_field(client, path, body, field):
    answer = await client.put(path, json=body)
    assert answer.status_code == 400
    assert problem_fields(answer) == [field]


async def test_scripts_are_taken_back(client):
    first = (await client.post("/_emulator/scripts", json={"scenario": "immediate", "times": None})).json()["id"]
    await client.post("/_emulator/scripts", json={"scenario": "immediate", "times": None})
    assert (await client.delete(f"/_emulator/scripts/{first}")).status_code == 204
    assert (await client.delete(f"/_emulator/scripts/{first}")).status_code == 404
    assert (await client.delete("/_emulator/scripts")).status_code == 204
    assert (await create(client)).status_code == 202


async def test_a_script_for_an_unknown_scenario_is_a_400(client):
    answer = await client.post("/_emulator/scripts", json={"scenario": "nope"})
    assert answer.status_code == 400
    assert problem_fields(answer) == ["scenario"]
