"""What is tried again, what is not, and what the errors say."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest

from renewer.client import (
    AddressError,
    AsyncClient,
    BadRequest,
    Client,
    NotAllowed,
    ProtocolError,
    RemoteFailed,
    RenewerApiError,
    ServerError,
    Timeout,
    Unavailable,
)
from tests.client.rawserver import RawServer, answer
from tests.client.standin import problem

READY = answer(200, b'{"state": "ready"}')
LEASE = answer(201, b'{"id": "lease-1", "state": "held"}')


def test_a_daemon_that_is_not_there_is_told_with_what_to_do(tmp_path):
    with Client(f"unix:{tmp_path / 'none'}", retry_for=0) as client, pytest.raises(Unavailable) as caught:
        client.status()
    text = str(caught.value)
    assert f"unix:{tmp_path / 'none'}" in text
    assert "renewer run" in text
    assert "RENEWER_API" in text
    assert caught.value.status is None


def test_a_daemon_that_comes_back_soon_is_waited_for(standin):
    standin.kill()
    with Client(standin.api, retry_for=60) as client:
        # It starts while the client is at it, or before; both are fine.
        helper = threading.Thread(target=standin.start)
        helper.start()
        assert client.status().state == "ready"
        helper.join()


def test_a_request_whose_answer_never_came_is_sent_again_with_the_same_key():
    with RawServer([None, LEASE]) as server, Client(f"tcp:127.0.0.1:{server.port}") as client:
        assert client.hold("orders", "c").id == "lease-1"
    keys = [
        line for raw in server.requests for line in raw.lower().split(b"\r\n") if line.startswith(b"idempotency-key")
    ]
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert len(keys[0]) > 30


def test_an_answer_that_is_late_is_not_asked_for_again(standin):
    standin.add_operation("op-1")
    with Client(standin.api, timeout=0.2) as client:
        standin.answers["GET", "/v1/status"] = _Never()
        with pytest.raises(Timeout, match="did not answer in time"):
            client.status()
    standin.until(lambda: standin.requests("GET", "/v1/status"))
    assert len(standin.requests("GET", "/v1/status")) == 1


class _Never:
    async def __call__(self, scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (401, NotAllowed),
        (403, NotAllowed),
        (413, BadRequest),
        (415, BadRequest),
        (422, BadRequest),
        (500, ServerError),
        (502, RemoteFailed),
        (503, Unavailable),
        (504, Timeout),
    ],
)
def test_each_problem_is_an_error_of_its_own(standin, status, kind):
    standin.answers["GET", "/v1/status"] = problem(status, "so it is")
    with Client(standin.api, retry_for=0) as client, pytest.raises(kind, match="so it is") as caught:
        client.status()
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert caught.value.problem["detail"] == "so it is"


def test_every_finding_is_told_once():
    document = {
        "detail": "entity: is missing",
        "errors": [{"field": "entity", "message": "is missing"}, {"field": "kind", "message": "is unknown"}],
    }
    body = answer(422, json.dumps(document).encode(), "application/problem+json")
    with (
        RawServer([body]) as server,
        Client(f"tcp:127.0.0.1:{server.port}") as client,
        pytest.raises(BadRequest) as caught,
    ):
        client.hold("orders")
    assert str(caught.value) == "entity: is missing; kind: is unknown"


@pytest.mark.parametrize(
    "raw",
    [
        answer(200, b"<html>"),
        answer(200, b"[1]"),
        answer(200, b'{"no": "state"}'),
        answer(200, b"[" * 100_000),
        answer(404, b"<html>not here</html>", "text/html"),
        answer(302, b"", extra="Location: http://example.com/\r\n"),
    ],
)
def test_something_else_that_answers_is_recognised(raw):
    with (
        RawServer([raw]) as server,
        Client(f"tcp:127.0.0.1:{server.port}") as client,
        pytest.raises(ProtocolError, match="not a renewer"),
    ):
        client.status()


def test_nonsense_in_place_of_http_is_an_error_of_ours():
    with (
        RawServer([b"\x00\x01\x02\r\n\r\n"]) as server,
        Client(f"http://127.0.0.1:{server.port}", retry_for=0) as client,
        pytest.raises(RenewerApiError),
    ):
        client.status()


def test_the_key_is_sent_and_never_shown(monkeypatch):
    with RawServer([READY]) as server:
        monkeypatch.setenv("RENEWER_API", f"http://127.0.0.1:{server.port}/")
        monkeypatch.setenv("RENEWER_API_KEY", "s3cret")
        with Client() as client:
            assert client.status().state == "ready"
            assert "s3cret" not in repr(client) + client.api + repr(vars(client))
    assert b"authorization: bearer s3cret" in server.requests[0].lower()


def test_an_id_stays_one_segment_of_the_path():
    shown = answer(200, b'{"id": "x", "state": "held"}')
    with RawServer([shown]) as server, Client(f"tcp:127.0.0.1:{server.port}") as client:
        client.lease("../status?x#y")
    assert server.requests[0].startswith(b"GET /v1/leases/..%2Fstatus%3Fx%23y HTTP/1.1\r\n")


def test_proxies_of_the_environment_are_left_alone(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with RawServer([READY]) as server, Client(f"tcp:127.0.0.1:{server.port}") as client:
        assert client.status().state == "ready"


def test_a_lock_token_is_in_no_error(tmp_path):
    with Client(f"unix:{tmp_path / 'none'}", retry_for=0) as client, pytest.raises(Unavailable) as caught:
        client.hold("orders", kind="message", lock_token="0ddba11")
    assert "0ddba11" not in repr(caught.value) + str(caught.value)


@pytest.mark.parametrize(
    "api", ["", "unix:", "tcp:host", "http://u:s3cret@host:1", "ftp://host:1", "/run/x.sock", "tcp:h:1:2"]
)
def test_what_is_no_address_is_told_with_the_forms(api):
    for kind in (Client, AsyncClient):
        with pytest.raises(AddressError, match="unix:PATH") as caught:
            kind(api)
        assert "s3cret" not in str(caught.value)


def test_what_is_no_address_is_shown_without_what_may_be_a_secret(monkeypatch):
    for api, shown in [
        ("foo", "'foo'"),
        ("http://u:s3cret@host:1", "'…@host:1'"),
        ("http://host:1/?key=s3cret", "'http://host:1/?…'"),
        ("x" * 1000, f"'{'x' * 100}…'"),
    ]:
        with pytest.raises(AddressError) as caught:
            Client(api)
        assert str(caught.value).startswith(f"api: {shown} is not an address")
    monkeypatch.setenv("RENEWER_API", "foo")
    with pytest.raises(AddressError, match="RENEWER_API: 'foo' is not"):
        Client()


@pytest.mark.parametrize("key", ["with space", "line\n", "ü"])
def test_a_key_that_cannot_be_sent_is_told_without_itself(key):
    with pytest.raises(AddressError, match="printable") as caught:
        Client("tcp:h:1", key=key)
    assert key not in str(caught.value)


def test_the_client_brings_no_more_than_httpx():
    script = (
        "import renewer.client, sys;"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'pydantic','starlette','structlog','aiohttp','typer',"
        "'uvicorn','azure','prometheus_client'}),"
        "[m for m in sys.modules if m.startswith('renewer.') and 'client' not in m])"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[] []"
