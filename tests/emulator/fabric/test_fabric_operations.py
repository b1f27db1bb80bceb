import re
from datetime import UTC, datetime

import httpx
import pytest

from renewer.emulator.fabric import (
    BytesResult,
    Ending,
    ErrorDetails,
    FabricEmulator,
    JsonResult,
    NoResult,
    Scenario,
)
from renewer.emulator.fabric.wire import timestamp
from renewer.emulator.faults import Faults

pytestmark = pytest.mark.anyio

BEGINS = datetime(2026, 7, 20, 10, 22, 18, 851239, tzinfo=UTC)

NOTEBOOKS = "/v1/workspaces/w1/notebooks"
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


async def create(client, name="nightly", **headers):
    return await client.post(NOTEBOOKS, json={"displayName": name}, headers=headers)


async def test_the_first_answer_is_a_202_with_null_and_the_recorded_headers(client):
    answer = await create(client)
    assert answer.status_code == 202
    assert answer.content == b"null"
    operation_id = answer.headers["x-ms-operation-id"]
    assert re.fullmatch(UUID, operation_id)
    assert answer.headers["location"] == f"http://emu:8323/v1/operations/{operation_id}"
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["date"] == "Mon, 20 Jul 2026 10:22:18 GMT"
    assert re.fullmatch(UUID, answer.headers["requestid"])
    assert answer.headers["home-cluster-uri"] == "http://emu:8323/"
    assert answer.headers["request-redirected"] == "true"


async def test_a_running_operation_tells_no_percentage_and_where_to_ask_again(client, clock):
    accepted = await create(client)
    clock.now_s += 1
    state = await client.get(accepted.headers["location"])
    assert state.status_code == 200
    assert state.json() == {
        "status": "Running",
        "createdTimeUtc": "2026-07-20T10:22:18.8512399",
        "lastUpdatedTimeUtc": "2026-07-20T10:22:18.8512399",
        "percentComplete": None,
        "error": None,
    }
    assert state.headers["location"] == accepted.headers["location"]
    assert state.headers["retry-after"] == "1"
    assert state.headers["x-ms-operation-id"] == accepted.headers["x-ms-operation-id"]
    assert "home-cluster-uri" not in state.headers


async def test_a_finished_operation_leads_to_its_result(client, clock):
    accepted = await create(client)
    clock.now_s += 2
    state = await client.get(accepted.headers["location"])
    assert state.json() == {
        "status": "Succeeded",
        "createdTimeUtc": "2026-07-20T10:22:18.8512399",
        "lastUpdatedTimeUtc": "2026-07-20T10:22:20.8512399",
        "percentComplete": 100,
        "error": None,
    }
    assert state.headers["location"] == accepted.headers["location"] + "/result"
    assert "retry-after" not in state.headers
    result = await client.get(state.headers["location"])
    assert result.status_code == 200
    assert result.headers["content-type"] == "application/json"
    item = result.json()
    assert re.fullmatch(UUID, item.pop("id"))
    assert item == {"type": "Notebook", "displayName": "nightly", "workspaceId": "w1"}


async def test_an_operation_without_result_ends_without_any_operation_header(client, clock):
    accepted = await client.post("/v1/workspaces/w1/deprovisionIdentity")
    clock.now_s += 2
    state = await client.get(accepted.headers["location"])
    assert state.json()["status"] == "Succeeded"
    assert not {"location", "retry-after", "x-ms-operation-id"} & state.headers.keys()
    result = await client.get(accepted.headers["location"] + "/result")
    assert result.status_code == 400
    assert result.headers["x-ms-public-api-error-code"] == "OperationHasNoResult"
    assert result.headers["content-type"] == "application/json; charset=utf-8"
    assert result.json() == {
        "requestId": result.headers["requestid"],
        "errorCode": "OperationHasNoResult",
        "message": "The operation has no result",
    }


async def test_a_missing_result_may_only_show_at_the_result_url(client, fabric):
    fabric.script(Scenario(name="quiet", running_polls=0, result=NoResult("has_no_result")))
    accepted = await create(client)
    state = await client.get(accepted.headers["location"])
    assert state.headers["location"] == accepted.headers["location"] + "/result"
    assert (await client.get(state.headers["location"])).json()["errorCode"] == "OperationHasNoResult"


async def test_a_failed_operation_carries_the_whole_error(client, fabric):
    error = ErrorDetails(
        code="ItemDisplayNameAlreadyInUse",
        message="The name is taken",
        more_details=(("Inner", "More"),),
        resource_id="w1",
        is_retriable=True,
    )
    fabric.script(Scenario(name="bad", running_polls=0, ending=Ending.FAILED, error=error))
    accepted = await create(client)
    state = await client.get(accepted.headers["location"])
    document = state.json()
    assert document["status"] == "Failed"
    assert document["percentComplete"] is None
    resource = {"resourceId": "w1", "resourceType": "Workspace"}
    assert document["error"] == {
        "requestId": state.headers["requestid"],
        "errorCode": "ItemDisplayNameAlreadyInUse",
        "message": "The name is taken",
        "moreDetails": [{"errorCode": "Inner", "message": "More", "relatedResource": resource}],
        "relatedResource": resource,
        "isRetriable": True,
    }
    assert "location" not in state.headers
    result = await client.get(accepted.headers["location"] + "/result")
    assert (result.status_code, result.json()["errorCode"]) == (400, "OperationNotSucceeded")


async def test_the_result_cannot_be_had_before_the_end(client, clock):
    accepted = await create(client)
    result = await client.get(accepted.headers["location"] + "/result")
    assert (result.status_code, result.json()["errorCode"]) == (400, "OperationNotSucceeded")
    clock.now_s += 2
    assert (await client.get(accepted.headers["location"] + "/result")).status_code == 200


@pytest.mark.parametrize("suffix", ["", "/result"])
async def test_an_unknown_operation_is_not_found(client, suffix):
    answer = await client.get(f"/v1/operations/00000000-0000-0000-0000-000000000000{suffix}")
    assert (answer.status_code, answer.json()["errorCode"]) == (404, "OperationNotFound")


async def test_an_operation_can_be_scripted_by_the_number_of_polls(client, fabric):
    fabric.script(Scenario(name="thrice", running_polls=3, running_statuses=("NotStarted", "Running")))
    accepted = await create(client)
    states = [(await client.get(accepted.headers["location"])).json()["status"] for _ in range(5)]
    assert states == ["NotStarted", "Running", "Running", "Succeeded", "Succeeded"]


async def test_an_operation_that_never_ends_keeps_running(client, fabric, clock):
    fabric.script(Scenario(name="endless", running_polls=1, ending=Ending.NEVER))
    accepted = await create(client)
    for _ in range(5):
        clock.now_s += 86400
        assert (await client.get(accepted.headers["location"])).json()["status"] == "Running"


async def test_bytes_come_as_an_octet_stream(client, fabric):
    fabric.script(Scenario(name="file", running_polls=0, result=BytesResult(b"\x00\xff" * 1000)))
    accepted = await create(client)
    await client.get(accepted.headers["location"])
    result = await client.get(accepted.headers["location"] + "/result")
    assert result.headers["content-type"] == "application/octet-stream"
    assert result.content == b"\x00\xff" * 1000


async def test_the_state_url_may_answer_with_the_resource_itself(client, fabric):
    scenario = Scenario(
        name="odd", running_polls=1, ending=Ending.STATUS_LESS, result=JsonResult({"id": "x"}), location=None
    )
    fabric.script(scenario)
    accepted = await create(client)
    assert "location" not in accepted.headers
    url = f"/v1/operations/{accepted.headers['x-ms-operation-id']}"
    assert (await client.get(url)).json()["status"] == "Running"
    answer = await client.get(url)
    assert answer.json() == {"id": "x"}
    assert not {"location", "retry-after"} & answer.headers.keys()


async def test_the_definition_of_an_item_is_an_operation_with_parts(client, clock):
    accepted = await client.post("/v1/workspaces/w1/items/i1/getDefinition?format=ipynb")
    clock.now_s += 2
    result = await client.get(accepted.headers["location"] + "/result")
    parts = result.json()["definition"]["parts"]
    assert {part["payloadType"] for part in parts} == {"InlineBase64"}


async def test_a_definition_is_updated_without_result(client, clock):
    body = {"definition": {"parts": [{"path": "a", "payload": "", "payloadType": "InlineBase64"}]}}
    accepted = await client.post("/v1/workspaces/w1/items/i1/updateDefinition?updateMetadata=True", json=body)
    assert accepted.status_code == 202
    clock.now_s += 2
    state = await client.get(accepted.headers["location"])
    assert state.json()["status"] == "Succeeded"
    assert "location" not in state.headers


@pytest.mark.parametrize("path", ["assignToCapacity", "unassignFromCapacity"])
async def test_a_capacity_is_assigned_without_anything_to_poll(client, path):
    answer = await client.post(f"/v1/workspaces/w1/{path}", json={"capacityId": "c1"})
    assert answer.status_code == 202
    assert answer.content == b""
    assert not {"location", "retry-after", "x-ms-operation-id"} & answer.headers.keys()


@pytest.mark.parametrize(
    ("collection", "item_type"),
    [
        ("lakehouses", "Lakehouse"),
        ("sqlDatabases", "SQLDatabase"),
        ("mlExperiments", "MLExperiment"),
        ("kqlQuerysets", "KQLQueryset"),
        ("cosmosDbDatabases", "CosmosDBDatabase"),
        ("variableLibraries", "VariableLibrary"),
    ],
)
async def test_every_collection_of_items_makes_items_of_its_type(client, clock, collection, item_type):
    accepted = await client.post(f"/v1/workspaces/w1/{collection}", json={"displayName": "x"})
    clock.now_s += 2
    result = await client.get(accepted.headers["location"] + "/result")
    assert result.json()["type"] == item_type


async def test_the_general_collection_takes_the_type_from_the_body(client, clock):
    body = {"displayName": "x", "type": "Eventhouse", "description": "", "folderId": "f1"}
    accepted = await client.post("/v1/workspaces/w1/items", json=body)
    clock.now_s += 2
    item = (await client.get(accepted.headers["location"] + "/result")).json()
    assert [*item] == ["id", "type", "displayName", "description", "workspaceId", "folderId"]
    assert item["type"] == "Eventhouse"


@pytest.mark.parametrize(
    ("microsecond", "text"),
    [(851239, "18.8512399"), (96720, "18.09672"), (500000, "18.5"), (0, "18"), (20, "18.00002")],
)
def test_trailing_zeros_of_a_timestamp_are_left_out(microsecond, text):
    moment = datetime(2026, 7, 20, 10, 22, 18, microsecond, tzinfo=UTC)
    assert timestamp(moment) == f"2026-07-20T10:22:{text}"


async def test_the_shifted_clock_shows_in_date_and_documents(client, clock):
    emulated = FabricEmulator(faults := Faults(clock.utc_now), clock=clock)
    faults.clock_offset_s = 3600
    transport = httpx.ASGITransport(emulated.app)
    headers = {"Authorization": "Bearer local"}
    async with httpx.AsyncClient(transport=transport, base_url="http://emu", headers=headers) as shifted:
        accepted = await create(shifted)
        assert accepted.headers["date"] == "Mon, 20 Jul 2026 11:22:18 GMT"
        state = await shifted.get(accepted.headers["location"])
        assert state.json()["createdTimeUtc"] == "2026-07-20T11:22:18.8512399"
