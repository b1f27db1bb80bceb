from datetime import UTC, datetime

import httpx
import pytest

from renewer.emulator.fabric import BUILT_IN, FabricEmulator, Scenario
from renewer.emulator.fabric.scripting import MAX_DEFINED, MAX_SCRIPTS, Director
from renewer.emulator.faults import Faults, ScriptError

pytestmark = pytest.mark.anyio

BEGINS = datetime(2025, 9, 2, 23, 59, 57, tzinfo=UTC)

NOTEBOOKS = "/v1/workspaces/w1/notebooks"


async def create(client, name="nightly", **headers):
    return await client.post(NOTEBOOKS, json={"displayName": name}, headers=headers)


async def follow(client, clock, accepted):
    """Status words (or the number of a status that is not 200) until the operation no longer asks to come again."""
    url = f"/v1/operations/{accepted.headers['x-ms-operation-id']}"
    words = []
    answer = accepted
    while "retry-after" in answer.headers:
        clock.now_s += int(answer.headers["retry-after"])
        answer = await client.get(url)
        words.append(answer.json().get("status") if answer.status_code == 200 else answer.status_code)
    return words, answer


async def test_immediate_is_a_201_with_the_item(client):
    answer = await create(client, "immediate")
    assert answer.status_code == 201
    assert answer.json()["displayName"] == "immediate"
    assert not {"location", "retry-after", "x-ms-operation-id"} & answer.headers.keys()


@pytest.mark.parametrize(
    ("name", "words", "ends_at_result"),
    [
        ("polled", ["Running", "Succeeded"], True),
        ("no-result", ["Running", "Succeeded"], False),
        ("has-no-result", ["Running", "Succeeded"], True),
        ("failed", ["Running", "Failed"], False),
        ("slow", ["Running"] * 5 + ["Succeeded"], True),
        ("unknown-status", ["Queued", "Finalizing", "Succeeded"], True),
        ("undefined", ["Undefined", "Undefined", "Succeeded"], True),
        ("status-less", ["Running", None], False),
    ],
)
async def test_a_built_in_scenario_runs_as_its_name_says(client, clock, name, words, ends_at_result):
    accepted = await create(client, **{"x-emulator-scenario": name})
    assert accepted.status_code == 202
    seen, last = await follow(client, clock, accepted)
    assert seen == words
    assert last.headers.get("location", "").endswith("/result") is ends_at_result


async def test_throttled_puts_off_the_first_request_and_a_poll(client, clock, fabric):
    refused = await create(client, "throttled run")
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["x-ms-public-api-error-code"] == "RequestBlocked"
    assert refused.json() == {
        "requestId": refused.headers["requestid"],
        "errorCode": "RequestBlocked",
        "message": "Request is blocked by the upstream service until: 9/2/2025 11:59:58 PM (UTC)",
    }
    clock.now_s += 1
    accepted = await create(client, "throttled run")
    assert accepted.status_code == 202
    words, _ = await follow(client, clock, accepted)
    assert words == [429, "Running", "Succeeded"]
    assert fabric.early_polls == []


async def test_whoever_comes_before_the_block_is_over_is_put_off_again(client, clock, fabric):
    fabric.script(Scenario(name="blocked", submit_throttles=1, throttle_s=4), times=None)
    await create(client)
    clock.now_s += 1.5
    refused = await create(client)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "3")
    assert "9/3/2025 12:00:01 AM (UTC)" in refused.json()["message"]
    [early] = fabric.early_polls
    assert early.early_s == 2.5
    clock.now_s += 3
    assert (await create(client)).status_code == 202


async def test_a_poll_before_the_told_moment_is_noted_with_how_early_it_came(client, clock, fabric):
    fabric.script(Scenario(name="patient", retry_after=20, running_s=30.0))
    accepted = await create(client)
    for wait_s in (19.5, 20, 20):
        clock.now_s += wait_s
        await client.get(accepted.headers["location"])
    [early] = fabric.early_polls
    assert early.path.startswith("/v1/operations/")
    assert early.early_s == pytest.approx(0.5)


async def test_a_poll_is_never_early_where_no_time_was_told(client, fabric):
    fabric.script(Scenario(name="silent", retry_after=None))
    accepted = await create(client)
    assert "retry-after" not in accepted.headers
    await client.get(accepted.headers["location"])
    assert fabric.early_polls == []


async def test_retry_after_can_be_a_date_by_the_servers_clock(client, clock, fabric):
    fabric.script(Scenario(name="dated", retry_after=30, retry_after_as_date=True))
    accepted = await create(client)
    assert accepted.headers["date"] == "Tue, 02 Sep 2025 23:59:57 GMT"
    assert accepted.headers["retry-after"] == "Wed, 03 Sep 2025 00:00:27 GMT"
    clock.now_s += 29
    await client.get(accepted.headers["location"])
    assert [early.early_s for early in fabric.early_polls] == [1.0]


async def test_retry_after_can_be_nonsense(client, fabric):
    fabric.script(Scenario(name="vague", retry_after="soon"))
    accepted = await create(client)
    assert accepted.headers["retry-after"] == "soon"
    await client.get(accepted.headers["location"])
    assert fabric.early_polls == []


async def test_location_can_point_at_another_host_as_the_real_one_does(client, fabric):
    host = "wabi-west-europe-redirect.analysis.windows.net"
    fabric.script(Scenario(name="redirected", running_polls=1, location=host))
    accepted = await create(client)
    operation_id = accepted.headers["x-ms-operation-id"]
    assert accepted.headers["location"] == f"https://{host}/v1/operations/{operation_id}"
    assert accepted.headers["home-cluster-uri"] == f"https://{host}/"
    running = await client.get(f"/v1/operations/{operation_id}")
    assert running.headers["location"] == accepted.headers["location"]
    ended = await client.get(f"/v1/operations/{operation_id}")
    assert ended.headers["location"] == accepted.headers["location"] + "/result"


async def test_the_name_of_the_item_chooses_the_scenario_that_it_begins_with(client):
    assert (await create(client, "Immediate-2")).status_code == 201
    assert (await create(client, "immediate")).status_code == 201
    assert (await create(client, "immediately")).status_code == 202


async def test_the_longest_name_wins():
    director = Director()
    director.define(Scenario(name="slow-start"))
    assert director.choose("/", "slow-start 1", None).scenario.name == "slow-start"
    assert director.choose("/", "slow 1", None).scenario.name == "slow"


async def test_the_header_goes_before_a_script_and_a_script_before_the_name(client, fabric):
    fabric.script("polled", times=None)
    assert (await create(client, "immediate")).status_code == 202
    assert (await create(client, **{"x-emulator-scenario": "immediate"})).status_code == 201


async def test_a_script_serves_as_many_requests_as_it_was_made_for(client, fabric):
    fabric.script("immediate", times=2)
    assert [(await create(client)).status_code for _ in range(3)] == [201, 201, 202]


async def test_a_script_is_not_used_up_by_requests_that_are_put_off(client, clock, fabric):
    fabric.script(Scenario(name="twice-blocked", first_status=201, submit_throttles=2), times=1)
    statuses = []
    for _ in range(4):
        statuses.append((await create(client)).status_code)
        clock.now_s += 1
    assert statuses == [429, 429, 201, 202]


async def test_a_script_can_be_meant_for_some_paths_and_names(client, fabric):
    fabric.script("immediate", path="*/lakehouses", display_name="sales*", times=None)
    assert (await create(client, "sales")).status_code == 202
    for name, status in (("sales-2026", 201), ("other", 202)):
        answer = await client.post("/v1/workspaces/w1/lakehouses", json={"displayName": name})
        assert answer.status_code == status


async def test_an_unknown_scenario_is_refused_with_those_that_there_are(client):
    answer = await create(client, **{"x-emulator-scenario": "nope"})
    assert (answer.status_code, answer.json()["errorCode"]) == (400, "InvalidParameter")
    assert all(name in answer.json()["message"] for name in BUILT_IN)


async def test_the_default_can_be_another_scenario(clock):
    fabric = FabricEmulator(Faults(clock.utc_now), clock=clock, default=Scenario(name="default", retry_after=20))
    transport = httpx.ASGITransport(fabric.app)
    headers = {"Authorization": "Bearer local"}
    async with httpx.AsyncClient(transport=transport, base_url="http://emu", headers=headers) as client:
        assert (await create(client)).headers["retry-after"] == "20"


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"name": "No Good"}, "name"),
        ({"name": ""}, "name"),
        ({"first_status": 204}, "first_status"),
        ({"submit_throttles": -1}, "submit_throttles"),
        ({"poll_throttles": -1}, "poll_throttles"),
        ({"throttle_s": 0}, "throttle_s"),
        ({"running_polls": -1}, "running_polls"),
        ({"running_s": float("inf")}, "running_s"),
        ({"running_statuses": ("",)}, "running_statuses"),
        ({"retry_after": -1}, "retry_after"),
        ({"retry_after": "a\nb"}, "retry_after"),
        ({"retry_after": "soon", "retry_after_as_date": True}, "retry_after_as_date"),
        ({"retry_after": 10**11, "retry_after_as_date": True}, "retry_after"),
        ({"location": "evil.example/path"}, "location"),
        ({"location": "user@evil.example"}, "location"),
        ({"location": ""}, "location"),
    ],
)
def test_a_scenario_that_cannot_be_played_is_refused_with_the_field_named(fields, wrong):
    with pytest.raises(ScriptError) as caught:
        Scenario(**{"name": "mine", **fields})
    assert caught.value.field == wrong


def test_built_in_names_are_kept_and_the_number_of_scripts_is_bounded():
    director = Director()
    with pytest.raises(ScriptError, match="built in"):
        director.define(Scenario(name="polled"))
    with pytest.raises(ScriptError, match="none of that name"):
        director.script("nope")
    with pytest.raises(ScriptError, match="times"):
        director.script("polled", times=0)
    for number in range(MAX_DEFINED):
        director.define(Scenario(name=f"mine-{number}"))
    with pytest.raises(ScriptError, match="remove one first"):
        director.define(Scenario(name="one-more"))
    for _ in range(MAX_SCRIPTS):
        director.script("polled")
    with pytest.raises(ScriptError, match="remove some first"):
        director.script("polled")
