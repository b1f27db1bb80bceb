"""Routes of operations, over a daemon that does what it is told."""

from __future__ import annotations

import anyio
import httpx
import pytest

from renewer.api.server import build_api
from renewer.core.model import Result
from renewer.core.states import OperationState
from renewer.errors import ConflictError, RegistryError
from renewer.ports import DEFAULT_TERMS, FollowTerms
from tests.api.scripted_control import ScriptedControl

pytestmark = pytest.mark.anyio

JSON = Result("json", "application/json; charset=utf-8", b'{"id":  1}')


@pytest.fixture
def control():
    return ScriptedControl()


@pytest.fixture
async def client(control):
    transport = httpx.ASGITransport(build_api(control, over_tcp=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://renewer", timeout=None) as client:
        yield client


async def test_everything_that_can_be_asked_for_an_operation_is_passed_on(control, client):
    body = {
        "account": "main",
        "adopt": {"method": "POST", "url": "/x", "status": 202, "headers": {"Location": "/y"}, "body": None},
        "deadline": "1h",
        "labels": {"team": "a"},
        "callback": "http://127.0.0.1:9/hook",
    }
    answer = await client.post("/v1/operations", headers={"Idempotency-Key": "k"}, json=body)
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/operations/{answer.json()['id']}"
    again = await client.post("/v1/operations", headers={"Idempotency-Key": "k"}, json=body)
    assert (again.status_code, again.json()["id"]) == (200, answer.json()["id"])
    asked = control.asked[0]
    assert (asked.account, asked.how, asked.request, asked.deadline_s) == ("main", "adopt", body["adopt"], 3600)
    assert (asked.labels, asked.callback, asked.idempotency.key) == ({"team": "a"}, body["callback"], "k")


async def test_how_an_operation_is_to_be_followed_is_passed_on(control, client):
    body = {
        "submit": {"url": "/x"},
        "protocol": "azure-async-operation",
        "final_state_via": "original-uri",
        "poll_query": {"api-version": "2024-01-01", "with": "a blank & more"},
        "poll_headers": {"X-Ms-Client": "a b", "Empty": ""},
        "early_probe": "2s",
    }
    assert (await client.post("/v1/operations", json=body)).status_code == 201
    asked = control.asked[0]
    assert asked.terms == FollowTerms("azure-async-operation", "original-uri", body["poll_query"], body["poll_headers"])
    assert asked.early_probe_s == 2
    assert "a b" not in repr(asked)


async def test_without_a_word_about_it_it_is_followed_as_its_first_answer_says(control, client):
    await client.post("/v1/operations", json={"submit": {"url": "/x"}})
    await client.post("/v1/operations", json={"submit": {"url": "/x"}, "early_probe": "0s", "protocol": "auto"})
    assert [asked.terms for asked in control.asked] == [DEFAULT_TERMS, DEFAULT_TERMS]
    assert [asked.early_probe_s for asked in control.asked] == [None, 0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("protocol", "polling"),
        ("protocol", None),
        ("final_state_via", "Location"),
        ("poll_query", {"": "x"}),
        ("poll_query", {"a": 1}),
        ("poll_query", {"a": "x\n"}),
        ("poll_query", {"a": "x" * 2049}),
        ("poll_query", {str(number): "" for number in range(21)}),
        ("poll_query", ["a"]),
        ("poll_headers", {"A B": "x"}),
        ("poll_headers", {"A:": "x"}),
        ("poll_headers", {"A\n": "x"}),
        ("poll_headers", {"A": "x\r\nB: y"}),
        ("poll_headers", {"A": " x"}),
        ("poll_headers", {"A": "\u00e9"}),
        ("poll_headers", {"A": "secret" * 400}),
        ("poll_headers", {f"A{number}": "" for number in range(21)}),
        ("early_probe", "6m"),
        ("early_probe", -1),
        ("early_probe", "soon"),
    ],
)
async def test_terms_that_cannot_be_are_refused_by_field_and_their_values_not_shown(control, client, field, value):
    answer = await client.post("/v1/operations", json={"submit": {"url": "/x"}, field: value})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith(field)
    assert "secret" not in answer.text
    assert control.asked == []


async def test_an_operation_is_shown_as_it_stands(control, client):
    operation = control.add_operation(account="azure.main")
    operation.status, operation.polls, operation.poll_errors = "InProgress", 3, 1
    operation.retry_after_s, operation.percent_complete = 20.0, 12.5
    operation.next_attempt_at, operation.held_back_by = control.now() - 5, "azure.main reads"
    operation.service_started_at, operation.service_updated_at = 1_767_225_600.0, float("inf")
    shown = (await client.get(f"/v1/operations/{operation.spec.id}")).json()
    # What was promised of it; more may be there.
    promised = {
        "id": operation.spec.id,
        "account": "azure.main",
        "state": "running",
        "status": "InProgress",
        "polls": 3,
        "poll_errors": 1,
        "retry_after_s": 20.0,
        "percent_complete": 12.5,
        "error": None,
        "result": None,
    }
    assert promised.items() <= shown.items()
    assert {"next_poll_at", "submitted_at"} <= shown.keys()
    assert (shown["limited_by"], shown["next_poll_at"]) == ("azure.main reads", None)
    assert shown["service_started_at"] == "2026-01-01T00:00:00Z"
    assert shown["service_updated_at"] is None
    operation.held_back_by = None
    shown = (await client.get(f"/v1/operations/{operation.spec.id}")).json()
    assert (shown["limited_by"], shown["next_poll_at"] is None) == (None, False)
    control.finish(operation, JSON)
    shown = (await client.get(f"/v1/operations/{operation.spec.id}")).json()
    assert shown["result"].keys() == {"kind", "size", "href"}


async def test_without_wait_a_new_operation_is_answered_with_the_first_answer_of_the_service(control, client):
    control.pending = True
    async with anyio.create_task_group() as tasks:

        async def answer_first():
            await control.until(lambda: len(list(control.operations())) == 1)
            await anyio.sleep(5)
            operation = next(iter(control.operations()))
            control.finish(operation, None, OperationState.REJECTED)

        tasks.start_soon(answer_first)
        answer = await client.post("/v1/operations", json={"submit": {"url": "/x"}})
    assert (answer.status_code, answer.json()["state"]) == (201, "rejected")


async def test_a_wait_of_nothing_is_answered_at_once(control, client):
    control.pending = True
    began_at = anyio.current_time()
    answer = await client.post("/v1/operations?wait=0", json={"submit": {"url": "/x"}})
    assert answer.json()["state"] == "accepted"
    assert anyio.current_time() == began_at


async def test_the_end_can_be_waited_for(control, client):
    operation = control.add_operation()
    async with anyio.create_task_group() as tasks:

        async def end():
            await anyio.sleep(5)
            control.finish(operation, JSON)

        tasks.start_soon(end)
        answer = (await client.get(f"/v1/operations/{operation.spec.id}?wait=60s")).json()
    href = f"/v1/operations/{operation.spec.id}/result"
    assert (answer["state"], answer["result"]) == ("succeeded", {"kind": "json", "size": 10, "href": href})
    result = await client.get(href)
    assert (result.content, result.headers["content-type"]) == (JSON.body, JSON.content_type)
    assert result.headers["x-content-type-options"] == "nosniff"


async def test_a_large_result_arrives_whole(control, client):
    operation = control.add_operation()
    body = bytes(range(256)) * 5000
    control.finish(operation, Result("bytes", None, body))
    answer = await client.get(f"/v1/operations/{operation.spec.id}/result")
    assert (answer.content, answer.headers["content-type"]) == (body, "application/octet-stream")
    assert answer.headers["content-length"] == str(len(body))


@pytest.mark.parametrize("content_type", ["", "text/plain\r\nX-Evil: 1", "täxt/plain", " "])
async def test_a_content_type_that_is_none_is_not_passed_on(control, client, content_type):
    operation = control.add_operation()
    control.finish(operation, Result("bytes", content_type, b"x"))
    answer = await client.get(f"/v1/operations/{operation.spec.id}/result")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")


async def test_there_is_no_result_before_the_end_none_after_a_failure_and_an_empty_one_may_be_a_success(
    control, client
):
    running, failed, empty = (control.add_operation() for _ in range(3))
    control.finish(failed, None, OperationState.FAILED)
    control.finish(empty, Result("none"))
    answers = [await client.get(f"/v1/operations/{one.spec.id}/result") for one in (running, failed, empty)]
    assert [answer.status_code for answer in answers] == [409, 409, 204]
    assert "before it has ended" in answers[0].json()["detail"]
    assert answers[1].json()["state"] == "failed"


async def test_a_result_that_cannot_be_read_is_told(control, client):
    operation = control.add_operation()
    control.finish(operation, JSON)
    control.failures["result"] = RegistryError("/x/results/1: no such file")
    assert (await client.get(f"/v1/operations/{operation.spec.id}/result")).status_code == 503


async def test_an_operation_is_cancelled_if_it_can_be(control, client):
    operation = control.add_operation()
    answer = await client.post(f"/v1/operations/{operation.spec.id}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (202, "running")
    control.failures["cancel"] = ConflictError("Fabric has no way to cancel it")
    assert (await client.post(f"/v1/operations/{operation.spec.id}/cancel")).status_code == 409


async def test_an_operation_is_forgotten(control, client):
    url = f"/v1/operations/{control.add_operation().spec.id}"
    assert (await client.delete(url)).status_code == 204
    assert (await client.get(url)).status_code == 404
    assert (await client.delete(url)).status_code == 404


@pytest.mark.parametrize(("until", "done_at"), [("all", 10), ("any", 5)])
async def test_many_can_be_waited_for_at_once(control, client, until, done_at):
    first, second = control.add_operation(), control.add_operation()
    ids = [second.spec.id, "op-unknown", first.spec.id, second.spec.id]
    async with anyio.create_task_group() as tasks:

        async def end():
            for operation in (first, second):
                await anyio.sleep(5)
                control.finish(operation, JSON)

        tasks.start_soon(end)
        began_at = anyio.current_time()
        answer = (await client.post("/v1/operations/wait?wait=60s", json={"ids": ids, "until": until})).json()
        assert anyio.current_time() - began_at == pytest.approx(done_at)
    assert answer["done"] is True
    assert [item["id"] for item in answer["items"]] == [second.spec.id, first.spec.id]
    assert answer["missing"] == ["op-unknown"]


async def test_a_wait_for_many_that_is_too_short_says_so(control, client):
    operation = control.add_operation()
    body = {"ids": [operation.spec.id], "until": "any"}
    answer = (await client.post("/v1/operations/wait?wait=1s", json=body)).json()
    assert (answer["done"], answer["items"][0]["state"]) == (False, "running")
    unknown = (await client.post("/v1/operations/wait?wait=60s", json={"ids": ["x"]})).json()
    assert (unknown["items"], unknown["missing"]) == ([], ["x"])


async def test_operations_are_filtered_and_paged(control, client):
    for number in range(5):
        control.add_operation(
            labels={"odd": str(number % 2)}, account="fabric.second" if number == 4 else "fabric.main"
        )
    page = (await client.get("/v1/operations?label=odd:0&limit=2")).json()
    rest = (await client.get("/v1/operations", params={"label": "odd:0", "after": page["next"]})).json()
    assert [item["number"] for item in page["items"] + rest["items"]] == [1, 3, 5]
    for account in ("second", "fabric.second"):
        found = (await client.get("/v1/operations", params={"account": account})).json()
        assert [item["number"] for item in found["items"]] == [5]
    assert (await client.get("/v1/operations?state=failed")).json() == {"items": [], "next": None}


def nested(depth):
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize(
    "error",
    [
        {"message": "half a pair \ud83d"},
        {"\udc00": 1},
        {"number": float("nan")},
        {"deep": nested(300)},
        {"big": 10**400},
    ],
)
async def test_whatever_a_service_calls_an_error_can_be_shown(control, client, error):
    operation = control.add_operation()
    operation.error = error
    answer = await client.get(f"/v1/operations/{operation.spec.id}")
    assert answer.status_code == 200
    assert len(answer.json()["error"]) == 1
