"""Every mistake is answered with a problem document that says what is right."""

from __future__ import annotations

import httpx
import pytest

from renewer.api.server import build_api
from tests.api.scripted_control import ScriptedControl

pytestmark = pytest.mark.anyio

LEASE = {"entity": "q"}
TOKEN = "0f8fad5b-d9cb-469f-a165-70867728950e"
MIB = 1024 * 1024


@pytest.fixture
async def client():
    transport = httpx.ASGITransport(build_api(ScriptedControl(), over_tcp=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://renewer", timeout=None) as client:
        yield client


def body_of(**extra):
    return {"json": {**LEASE, **extra}}


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "says"),
    [
        ("GET", "/v1/leases/lease-unknown", {}, 404, "no lease"),
        ("DELETE", "/v1/leases/lease-unknown", {}, 404, "no lease"),
        ("POST", "/v1/leases/lease-unknown/renew", {}, 404, "no lease"),
        ("POST", "/v1/leases/lease-unknown/heartbeat", {}, 404, "no lease"),
        ("GET", "/v1/leases/lease-unknown/state", {}, 404, "no lease"),
        ("PUT", "/v1/leases/lease-unknown/state", {"content": b"x"}, 404, "no lease"),
        ("DELETE", "/v1/leases/lease-unknown/state", {}, 404, "no lease"),
        ("GET", "/v1/leases/lease-unknown/events", {}, 404, "no lease"),
        ("GET", "/v1/operations/op-unknown", {}, 404, "no operation"),
        ("GET", "/v1/operations/op-unknown/result", {}, 404, "no operation"),
        ("POST", "/v1/operations/op-unknown/cancel", {}, 404, "no operation"),
        ("DELETE", "/v1/operations/op-unknown", {}, 404, "no operation"),
        ("GET", "/v1/operations/wait", {}, 404, "no operation"),
        ("GET", "/v1/nothing", {}, 404, "nothing is at /v1/nothing"),
        ("GET", "/v1/leases/", {}, 404, "nothing is at"),
        ("GET", "/%ff%00", {}, 404, "nothing is at"),
        ("PUT", "/v1/leases", {}, 405, "GET, POST would be"),
        ("TRACE", "/v1/status", {}, 405, "GET would be"),
        ("OPTIONS", "/v1/leases", {}, 405, "not allowed"),
        ("GET", "/v1/leases?limit=0", {}, 400, "limit: "),
        ("GET", "/v1/leases?limit=x", {}, 400, "limit: "),
        ("GET", "/v1/leases?limit=1001", {}, 400, "1000"),
        ("GET", "/v1/leases?limit=" + "9" * 5000, {}, 400, "limit: "),
        ("GET", "/v1/leases?after=gone", {}, 400, "start again"),
        ("GET", "/v1/leases?after=bm5ubg", {}, 400, "start again"),
        ("GET", "/v1/leases?after=%F0%9F%98%80", {}, 400, "start again"),
        ("GET", "/v1/leases?after=bjE&sort=remaining", {}, 400, "one page"),
        ("GET", "/v1/leases?state=helt", {}, 400, "'held'"),
        ("GET", "/v1/leases?label=team", {}, 400, "NAME:VALUE"),
        ("GET", "/v1/leases?labels=team:a", {}, 400, "labels"),
        ("GET", "/v1/operations?state=held", {}, 400, "'running'"),
        ("GET", "/v1/events?type=lease.losst", {}, 400, "lease.lost"),
        ("GET", "/v1/events?after=yesterday", {}, 400, "after: "),
        ("GET", "/v1/events", {"headers": {"Last-Event-ID": "x"}}, 400, "Last-Event-ID: "),
        ("POST", "/v1/leases", {}, 400, "there is none"),
        ("POST", "/v1/leases", {"content": b"{"}, 400, "JSON object"),
        ("POST", "/v1/leases", {"content": b"\xff\xfe"}, 400, "JSON object"),
        ("POST", "/v1/leases", {"content": b'{"entity": "\xff"}'}, 400, "JSON object"),
        ("POST", "/v1/leases", {"content": b"[" * 100_000}, 400, "nested too deeply"),
        ("POST", "/v1/leases", {"content": b'{"entity": "q", "max_duration": NaN}'}, 400, "NaN is not JSON"),
        ("POST", "/v1/leases", {"content": b'{"max_duration": 1' + b"0" * 5000 + b"}"}, 400, "JSON object"),
        ("POST", "/v1/leases", {"json": []}, 400, "JSON object"),
        ("POST", "/v1/leases", {"json": None}, 400, "JSON object"),
        ("POST", "/v1/leases", {"content": b" " * (4 * MIB + 1)}, 413, "at most"),
        ("PUT", "/v1/leases/lease-1/state", {"content": b" " * (4 * MIB + 1)}, 404, "no lease"),
        ("POST", "/v1/leases", {"json": {}}, 422, "entity"),
        ("POST", "/v1/leases", body_of(sesion_id="x"), 422, "sesion_id"),
        ("POST", "/v1/leases", body_of(entity=""), 422, "entity"),
        ("POST", "/v1/leases", body_of(entity="q\n"), 422, "printable"),
        ("POST", "/v1/leases", body_of(session_id="x" * 129), 422, "session_id"),
        ("POST", "/v1/leases", {"content": b'{"entity": "q", "session_id": "\\ud800"}'}, 422, "session_id"),
        ("POST", "/v1/leases", body_of(servicebus="nope"), 422, "main"),
        ("POST", "/v1/leases", body_of(max_duration="soon"), 422, "max_duration"),
        ("POST", "/v1/leases", body_of(max_duration=0), 422, "max_duration"),
        ("POST", "/v1/leases", body_of(max_duration=10**400), 422, "max_duration"),
        ("POST", "/v1/leases", body_of(labels={"": "x"}), 422, "labels"),
        ("POST", "/v1/leases", body_of(labels={f"l{n}": "" for n in range(33)}), 422, "labels"),
        ("POST", "/v1/leases", body_of(labels={"a": 1}), 422, "labels.a"),
        ("POST", "/v1/leases", body_of(kind="message"), 422, "lock_token"),
        ("POST", "/v1/leases", body_of(kind="message", lock_token=TOKEN, session_id="x"), 422, "session_id"),
        ("POST", "/v1/leases", body_of(kind="message", lock_token=TOKEN, reacquire=True), 422, "reacquire"),
        ("POST", "/v1/leases", body_of(lock_token=TOKEN), 422, "kind message"),
        (
            "POST",
            "/v1/leases",
            body_of(kind="message", lock_token=TOKEN, locked_until_utc="2026-01-01T00:00:00"),
            422,
            "timezone",
        ),
        (
            "POST",
            "/v1/leases",
            body_of(kind="message", lock_token=TOKEN, locked_until_utc="0001-01-01T00:00:00Z"),
            422,
            "near to now",
        ),
        (
            "POST",
            "/v1/leases",
            body_of(kind="message", lock_token=TOKEN, locked_until_utc="0001-01-01T00:00:00+14:00"),
            422,
            "near to now",
        ),
        ("POST", "/v1/leases", body_of(entity="orders\x00"), 422, "printable"),
        ("POST", "/v1/leases", body_of(entity=" / "), 422, "must be a queue"),
        ("POST", "/v1/leases", body_of(entity="orders/../others"), 422, "must be a queue"),
        ("POST", "/v1/leases", body_of(entity="topic//name"), 422, "must be a queue"),
        ("POST", "/v1/leases", body_of(entity="orders/ $management"), 422, "must be a queue"),
        ("POST", "/v1/leases", body_of(entity="orders /$deadletterqueue"), 422, "must be a queue"),
        ("POST", "/v1/leases", body_of(entity="/ $cbs"), 422, "must be a queue"),
        ("POST", "/v1/leases", body_of(entity="topic/Subscriptions/ name"), 422, "must be a queue"),
        ("POST", "/v1/leases", body_of(entity="$cbs"), 422, "no other node with a $"),
        ("POST", "/v1/leases", body_of(entity="$CBS/"), 422, "no other node with a $"),
        ("POST", "/v1/leases", body_of(entity="orders/$management"), 422, "no other node with a $"),
        ("POST", "/v1/leases", body_of(entity="orders/$transfer"), 422, "no other node with a $"),
        ("POST", "/v1/leases", body_of(entity="$deadletterqueue"), 422, "no other node with a $"),
        ("POST", "/v1/leases", body_of(entity="$x/$deadletterqueue"), 422, "no other node with a $"),
        ("POST", "/v1/leases", body_of(entity="orders/$deadletterqueue/$management"), 422, "no other node with a $"),
        ("POST", "/v1/leases", body_of(kind="message", lock_token=TOKEN, entity="a/$management"), 422, "entity: "),
        ("POST", "/v1/leases/batch", {"json": {"leases": [{"entity": "$cbs"}]}}, 422, "leases.0.entity: "),
        ("POST", "/v1/leases", body_of(callback="ftp://h"), 422, "http or https"),
        ("POST", "/v1/leases", body_of(callback="http://user@h/"), 422, "without user"),
        ("POST", "/v1/leases", body_of(callback="http://[::1"), 422, "http or https"),
        ("POST", "/v1/leases", body_of(callback="http://h:99999/"), 422, "http or https"),
        ("POST", "/v1/leases", body_of(owner={}), 422, "owner.kind"),
        ("POST", "/v1/leases", body_of(owner={"kind": "pid"}), 422, "owner: pid"),
        ("POST", "/v1/leases", body_of(owner={"kind": "pid", "pid": 0}), 422, "owner.pid"),
        ("POST", "/v1/leases", body_of(owner={"kind": "pid", "pid": True}), 422, "owner.pid: must be a number"),
        ("POST", "/v1/leases", body_of(owner={"kind": "heartbeat", "ttl": True}), 422, "owner.ttl"),
        ("POST", "/v1/leases", body_of(max_duration=True), 422, "max_duration"),
        ("POST", "/v1/leases", body_of(kind="message", lock_token=TOKEN, sequence_number=True), 422, "no truth value"),
        ("POST", "/v1/leases/lease-1/receive", {"json": {"max": True}}, 422, "max: must be a number"),
        ("POST", "/v1/leases/lease-1/receive-deferred", {"json": {"sequence_numbers": [True]}}, 422, "no truth value"),
        ("POST", "/v1/leases", body_of(owner={"kind": "none", "ttl": 5}), 422, "ttl goes with"),
        ("POST", "/v1/leases", body_of(owner={"kind": "heartbeat", "ttl": "10ms"}), 422, "owner.ttl"),
        ("POST", "/v1/leases?wait=soon", {"json": LEASE}, 400, "wait: "),
        ("POST", "/v1/leases?wait=1d", {"json": LEASE}, 400, "300"),
        ("POST", "/v1/leases?wait=-1", {"json": LEASE}, 400, "wait: "),
        ("POST", "/v1/leases", {"json": LEASE, "headers": {"Idempotency-Key": "x" * 256}}, 400, "Idempotency-Key"),
        ("POST", "/v1/leases", {"json": LEASE, "headers": {"Idempotency-Key": b"\xe4"}}, 400, "Idempotency-Key"),
        ("POST", "/v1/leases", {"json": LEASE, "headers": {"Idempotency-Key": ""}}, 400, "Idempotency-Key"),
        ("POST", "/v1/operations", {"json": {}}, 422, "exactly one"),
        ("POST", "/v1/operations", {"json": {"submit": {}, "adopt": {}}}, 422, "exactly one"),
        ("POST", "/v1/operations", {"json": {"submit": {}}}, 422, "submit.url"),
        ("POST", "/v1/operations", {"json": {"submit": {"url": "/"}, "deadline": -1}}, 422, "deadline"),
        ("POST", "/v1/operations/wait", {"json": {"ids": []}}, 422, "ids"),
        ("POST", "/v1/operations/wait", {"json": {"ids": ["x"] * 1001}}, 422, "ids"),
        ("POST", "/v1/operations/wait", {"json": {"ids": ["x"], "until": "some"}}, 422, "until"),
        ("POST", "/v1/drain", {"json": {"park": True, "enabled": False}}, 422, "park"),
        ("POST", "/v1/drain", {"json": {"enabled": "perhaps"}}, 422, "enabled"),
    ],
)
async def test_a_mistake_is_answered_with_a_problem_that_says_what_is_right(
    client, method, path, options, status, says
):
    answer = await client.request(method, path, **options)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert {"type", "title", "status", "detail"} <= problem.keys()
    assert problem["status"] == status
    assert says in problem["detail"]
    assert "top-secret" not in answer.text


async def test_all_mistakes_of_a_body_are_told_each_with_its_field(client):
    answer = await client.post("/v1/leases", json={"session_id": 1, "owner": {"kind": "x"}, "labels": []})
    found = {item["field"]: item["message"] for item in answer.json()["errors"]}
    assert found.keys() == {"entity", "session_id", "owner.kind", "labels"}


async def test_a_body_that_is_nested_deeper_than_it_can_be_passed_on_is_refused(client):
    deep = b'{"submit": {"url": "/", "body": ' + b"[" * 900 + b"]" * 900 + b"}}"
    assert (await client.post("/v1/operations", content=deep)).status_code == 422


async def test_what_may_be_done_with_a_path_is_told_for_all_of_it(client):
    answer = await client.patch("/v1/leases/lease-1/state")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, PUT")


async def test_a_body_is_json_whatever_curl_calls_it(client):
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await client.post("/v1/leases", content=b'{"entity": "q"}', headers=form)).status_code == 201


async def test_a_body_that_grows_too_large_is_refused_before_it_ends(client):
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            sent += MIB
            yield b" " * MIB

    assert (await client.post("/v1/leases", content=endless())).status_code == 413
    assert sent <= 6 * MIB
