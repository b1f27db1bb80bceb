"""Who is let in."""

from __future__ import annotations

import httpx
import pytest

from renewer.api.server import build_api
from tests.api.scripted_control import ScriptedControl

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}


def client_of(base_url="http://127.0.0.1:8321", **options):
    transport = httpx.ASGITransport(build_api(ScriptedControl(), **options))
    return httpx.AsyncClient(transport=transport, base_url=base_url, timeout=None)


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", "Bearer ", "secret", "Basic secret", "Bearer secret2", b"Bearer \xff", "Bearer"]
)
@pytest.mark.parametrize("path", ["/v1/leases", "/v1/openapi.json", "/v1/events", "/nothing"])
async def test_without_the_key_nothing_is_answered(header, path):
    async with client_of(key=lambda: "secret", over_tcp=True) as client:
        answer = await client.get(path, headers={} if header is None else {"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text.replace("Bearer KEY", "")


@pytest.mark.parametrize("header", ["Bearer secret", "bearer secret", "BEARER  secret "])
async def test_with_the_key_every_host_is_let_in(header):
    async with client_of("http://renewer.example.com", key=lambda: "secret", over_tcp=True) as client:
        answer = await client.get("/v1/leases", headers={"Authorization": header, "Origin": "http://x"})
    assert answer.status_code == 200


async def test_a_key_that_is_given_twice_is_none():
    async with client_of(key=lambda: "secret", over_tcp=True) as client:
        twice = [("Authorization", "Bearer secret"), ("Authorization", "Bearer other")]
        assert (await client.get("/v1/leases", headers=twice)).status_code == 401


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8321", "localhost:1", "LOCALHOST", "[::1]", "[::1]:8321"])
async def test_over_tcp_without_a_key_programs_of_this_machine_are_let_in(host):
    async with client_of(over_tcp=True) as client:
        assert (await client.get("/v1/leases", headers={"Host": host})).status_code == 200
        answer = await client.post("/v1/leases", headers={"Host": host}, json={"entity": "q"})
        assert answer.status_code == 201
        assert (await client.post("/v1/drain", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example.com"}, 403),
        ({"Host": "127.0.0.1.nip.io"}, 403),
        ({"Host": "localhost.evil.example.com:80"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "["}, 403),
        ({"Host": "0.0.0.0"}, 403),
        ({"Origin": "https://evil.example.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/jsonx"}, 415),
        ({}, 415),
    ],
)
async def test_over_tcp_without_a_key_no_web_page_is_let_in(headers, status):
    async with client_of(over_tcp=True) as client:
        answer = await client.post("/v1/leases", headers=headers, content=b'{"entity": "q"}')
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
async def test_json_may_be_called_json_in_any_way(kind):
    async with client_of(over_tcp=True) as client:
        answer = await client.post("/v1/leases", headers={"Content-Type": kind}, content=b'{"entity": "q"}')
        assert answer.status_code == 201


async def test_over_a_unix_socket_every_host_name_will_do():
    async with client_of("http://renewer", over_tcp=False) as client:
        assert (await client.get("/v1/leases")).status_code == 200


async def test_a_key_that_was_changed_counts_at_once():
    key = "old"
    async with client_of(key=lambda: key, over_tcp=True) as client:
        assert (await client.get("/v1/leases", headers={"Authorization": "Bearer old"})).status_code == 200
        key = "new"
        assert (await client.get("/v1/leases", headers={"Authorization": "Bearer old"})).status_code == 401
        assert (await client.get("/v1/leases", headers={"Authorization": "Bearer new"})).status_code == 200
