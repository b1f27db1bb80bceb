import httpx
import pytest

from renewer.emulator.fabric import FabricEmulator, Scenario
from renewer.emulator.fabric.operations import Operation, Progress, Store
from renewer.emulator.fabric.scenario import NoResult
from renewer.emulator.faults import Faults
from renewer.emulator.http import MAX_BODY

pytestmark = pytest.mark.anyio

NOTEBOOKS = "/v1/workspaces/w1/notebooks"
AUTH = {"Authorization": "Bearer local"}


@pytest.fixture
async def client(fabric):
    transport = httpx.ASGITransport(fabric.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://emu:8323") as client:
        yield client


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "TokenIsMissing"),
        ({"Authorization": "Bearer stolen"}, "InvalidToken"),
        ({"Authorization": "Bearer"}, "InvalidToken"),
        ({"Authorization": "Basic local"}, "InvalidToken"),
        ({"Authorization": "Bearer löcal".encode()}, "InvalidToken"),
    ],
)
async def test_nobody_is_let_in_without_the_token(client, faults, fabric, headers, code):
    answer = await client.post(NOTEBOOKS, json={"displayName": "x"}, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["x-ms-public-api-error-code"] == code
    assert answer.json()["errorCode"] == code
    assert answer.json()["requestId"] == answer.headers["requestid"]
    assert fabric.state()["unauthorized"] == 1
    assert not faults.seen


async def test_the_word_bearer_may_be_written_in_any_case(client):
    answer = await client.post(NOTEBOOKS, json={"displayName": "x"}, headers={"Authorization": "bearer local"})
    assert answer.status_code == 202


async def test_everybody_is_let_in_where_no_token_is_asked_for():
    transport = httpx.ASGITransport(FabricEmulator(Faults(), token=None).app)
    async with httpx.AsyncClient(transport=transport, base_url="http://emu") as client:
        assert (await client.post(NOTEBOOKS, json={"displayName": "x"})).status_code == 202


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "CorruptedPayload"),
        (b"\xff\xfe\x00", "CorruptedPayload"),
        (b'{"displayName": NaN}', "CorruptedPayload"),
        (b"[" * 100_000, "CorruptedPayload"),
        (b'{"displayName": ' + b"9" * 5000 + b"}", "CorruptedPayload"),
        (b"null", "InvalidInput"),
        (b"[]", "InvalidInput"),
        (b"", "InvalidInput"),
        (b"{}", "InvalidInput"),
        (b'{"displayName": 7}', "InvalidInput"),
        (b'{"displayName": ""}', "InvalidInput"),
        (b'{"displayName": "x", "description": 7}', "InvalidInput"),
        (b'{"displayName": "x", "folderId": []}', "InvalidInput"),
        (b'{"displayName": "x", "definition": []}', "InvalidInput"),
        (b'{"displayName": "x", "definition": {"parts": [7]}}', "InvalidInput"),
        (b'{"displayName": "' + b"x" * 257 + b'"}', "InvalidInput"),
    ],
)
async def test_a_broken_body_is_a_400_in_fabrics_words(client, body, code):
    answer = await client.post(NOTEBOOKS, content=body, headers=AUTH)
    assert answer.status_code == 400
    assert answer.json()["errorCode"] == code
    assert answer.headers["x-ms-public-api-error-code"] == code


async def test_a_refusal_names_the_field(client):
    answer = await client.post("/v1/workspaces/w1/items", json={"displayName": "x"}, headers=AUTH)
    [detail] = answer.json()["moreDetails"]
    assert detail["message"].startswith("type must be a string")


@pytest.mark.parametrize("host", ["[", "a b", "user@evil.example", "évil".encode(), ""])
async def test_a_host_that_is_none_does_not_get_into_location(client, host):
    answer = await client.post(NOTEBOOKS, json={"displayName": "x"}, headers={**AUTH, "Host": host})
    assert answer.headers["location"].startswith("http://emu:8323/v1/operations/")


@pytest.mark.parametrize("body", [{}, {"definition": "x"}, {"definition": {"parts": {}}}])
async def test_a_definition_without_parts_is_refused(client, body):
    answer = await client.post("/v1/workspaces/w1/items/i1/updateDefinition", json=body, headers=AUTH)
    assert (answer.status_code, answer.json()["errorCode"]) == (400, "InvalidInput")


async def test_a_capacity_must_be_named(client):
    answer = await client.post("/v1/workspaces/w1/assignToCapacity", json={"capacityId": 1}, headers=AUTH)
    assert answer.json()["moreDetails"][0]["message"].startswith("capacityId")


async def test_a_name_with_a_lone_surrogate_comes_back_as_it_was(client):
    body = b'{"displayName": "immediate \\ud800"}'
    answer = await client.post(NOTEBOOKS, content=body, headers=AUTH)
    assert answer.status_code == 201
    assert b"\\ud800" in answer.content


async def test_a_body_over_the_limit_is_a_413(client):
    answer = await client.post(NOTEBOOKS, content=b" " * (MAX_BODY + 1), headers=AUTH)
    assert answer.status_code == 413
    assert answer.json()["errorCode"] == "RequestEntityTooLarge"
    assert answer.headers["connection"] == "close"


async def test_a_body_at_the_limit_is_read(client):
    body = b'{"displayName": "x"}'.ljust(MAX_BODY)
    assert (await client.post(NOTEBOOKS, content=body, headers=AUTH)).status_code == 202


async def test_a_body_of_unknown_length_is_limited_too(client):
    async def chunks():
        for _ in range(MAX_BODY // 65536 + 1):
            yield b" " * 65536

    assert (await client.post(NOTEBOOKS, content=chunks(), headers=AUTH)).status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("POST", "/v1/workspaces/w1/nonsense1", 404),
        ("DELETE", NOTEBOOKS, 405),
        ("POST", "/v1/operations/x", 405),
        ("GET", "/v1/operations/x/", 404),
    ],
)
async def test_an_unknown_endpoint_is_answered_in_fabrics_words(client, method, path, status):
    answer = await client.request(method, path, headers=AUTH)
    assert answer.status_code == status
    assert answer.json()["errorCode"] in {"EndpointNotFound", "BadRequest"}
    assert "date" in answer.headers


async def test_the_oldest_operation_is_forgotten_when_there_are_too_many():
    store = Store(limit=2)
    for name in ("a", "b", "c"):
        progress = Progress(Scenario(name="x"), Faults().utc_now(), 0.0)
        store.add(Operation(name, progress, NoResult(), "w1"))
    assert len(store) == 2
    assert store.get("a") is None
    assert store.get("c") is not None


async def test_requests_are_recorded_without_their_token(client, fabric):
    await client.post(NOTEBOOKS, json={"displayName": "x"}, headers=AUTH)
    await client.get("/v1/operations/nope?secret=1")
    first, second = fabric.requests
    assert (first.method, first.path, first.point, first.status) == ("POST", NOTEBOOKS, "fabric.submit", 202)
    assert first.token_present
    assert (second.path, second.status, second.token_present) == ("/v1/operations/nope", 401, False)
    assert "local" not in repr(fabric.requests)
