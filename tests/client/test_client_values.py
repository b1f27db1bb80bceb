"""What is read out of bytes and documents: events, leases, answers of other libraries, spans of time."""

from __future__ import annotations

import contextlib
import json
import string
from datetime import timedelta
from types import SimpleNamespace

import httpx
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from renewer.client.address import find
from renewer.client.adoption import adoption_of
from renewer.client.daemonstatus import status_of
from renewer.client.errors import BadRequest, ProtocolError
from renewer.client.models import lease_of, operation_of
from renewer.client.quantities import seconds
from renewer.client.sse import MAX_EVENT_BYTES, EventParser, ServerSent


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_events_are_read_whatever_ends_their_lines(newline):
    text = newline.join(
        [": hi", "", "id: 1-2", "event: a.b", "data: {", "data:}", "retry: 5", "unknown", "", "data: x", "", ""]
    )
    assert EventParser().feed(text.encode()) == [ServerSent("a.b", "{\n}", "1-2"), ServerSent("message", "x")]


@given(st.lists(st.text(alphabet=string.ascii_letters + "é: ", min_size=1), min_size=1), st.lists(st.integers(1, 20)))
def test_events_are_read_however_their_bytes_are_cut(texts, cuts):
    raw = b"".join(f"event: e\r\ndata: {text}\r\n\r\n: keep-alive\r\n\r\n".encode() for text in texts)
    parser, found, at = EventParser(), [], 0
    for size in [*cuts, len(raw)]:
        found += parser.feed(raw[at : at + size])
        at += size
    assert [event.data for event in found] == texts


def test_an_event_without_end_is_refused():
    for chunk in (b"x" * 65_536, b"data: " + b"x" * 65_529 + b"\n"):
        parser, fits = EventParser(), MAX_EVENT_BYTES // 65_536
        for _ in range(fits):
            parser.feed(chunk)
        with pytest.raises(ProtocolError):
            parser.feed(chunk * 2)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "id",
                        "state",
                        "epoch",
                        "last_loss",
                        "owner",
                        "labels",
                        "result",
                        "error",
                        "targets",
                        "leases",
                        "registered_at",
                        "trouble",
                    ]
                ),
                inner,
            )
        ),
    )
)
def test_no_document_breaks_the_reader(document):
    for read in (lease_of, operation_of, status_of):
        with contextlib.suppress(ProtocolError):
            read(document)


def test_what_is_missing_or_of_another_type_counts_as_absent():
    lease = lease_of(
        {"id": "l", "state": "new-state", "epoch": "7", "remaining_s": True, "registered_at": "x", "labels": [1]}
    )
    assert (lease.state, lease.epoch, lease.remaining_s, lease.registered_at, lease.labels) == (
        "new-state",
        0,
        None,
        None,
        {},
    )
    assert not lease.is_held
    assert not lease.is_over


@pytest.mark.parametrize(
    ("value", "span_s"),
    [
        (1, 1.0),
        (0.5, 0.5),
        ("500ms", 0.5),
        ("30s", 30.0),
        ("4m", 240.0),
        ("1h", 3600.0),
        ("1d", 86_400.0),
        ("2", 2.0),
        (timedelta(minutes=1), 60.0),
    ],
)
def test_spans_are_written_in_several_ways(value, span_s):
    assert seconds("x", value) == span_s


@pytest.mark.parametrize("value", ["", "soon", "-1s", "1w", "1e3", "٣s", -1, float("nan"), float("inf"), timedelta(-1)])
def test_what_is_no_span_is_told_by_its_name(value):
    with pytest.raises(BadRequest, match="timeout: must be"):
        seconds("timeout", value)


@pytest.mark.parametrize(
    ("api", "base_url", "uds"),
    [
        ("unix:/run/renewer.sock", "http://renewer", "/run/renewer.sock"),
        ("unix:./var/renewer.sock", "http://renewer", "./var/renewer.sock"),
        ("tcp:127.0.0.1:8321", "http://127.0.0.1:8321", None),
        ("tcp:[::1]:8321", "http://[::1]:8321", None),
        ("https://host.example:8321/", "https://host.example:8321", None),
    ],
)
def test_addresses_have_the_forms_of_the_configuration(api, base_url, uds):
    address = find(api)
    assert (address.base_url, address.uds) == (base_url, uds)


def test_an_address_that_is_not_given_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("RENEWER_API", raising=False)
    assert str(find()) == "unix:./var/renewer.sock"
    monkeypatch.setenv("RENEWER_API", "tcp:h:1")
    assert str(find()) == "http://h:1"
    assert str(find("unix:/x")) == "unix:/x"


HEADERS = {
    "Location": "https://x/y",
    "Retry-After": "20",
    "Set-Cookie": "secret=1",
    "Content-Length": "3",
    "X-Long": "x" * 9000,
}
ADOPTED = {"method": "POST", "url": "https://h/x?sig=1", "status": 202}


def headers_of(adopted):
    return {name.lower(): value for name, value in adopted["headers"].items()}


def of_httpx():
    return httpx.Response(202, headers=HEADERS, content=b"{} ", request=httpx.Request("POST", "https://h/x?sig=1"))


def of_requests():
    response = requests.Response()
    response.status_code = 202
    response.headers.update(HEADERS)
    response._content = b"{} "
    response.request = requests.Request("POST", "https://h/x?sig=1").prepare()
    return response


def of_azure_core():
    return SimpleNamespace(
        status_code=202,
        headers=dict(HEADERS),
        request=SimpleNamespace(method="POST", url="https://h/x?sig=1"),
        content=b"{} ",
        text=lambda: "{} ",
    )


def of_azure_core_before_rest():
    return SimpleNamespace(
        status_code=202,
        headers=dict(HEADERS),
        request=SimpleNamespace(method="POST", url="https://h/x?sig=1"),
        body=lambda: b"{} ",
    )


@pytest.mark.parametrize("make", [of_httpx, of_requests, of_azure_core, of_azure_core_before_rest])
def test_answers_of_several_libraries_are_handed_over_alike(make):
    adopted = adoption_of(make())
    assert {name: adopted[name] for name in ADOPTED} == ADOPTED
    assert headers_of(adopted) == {"location": "https://x/y", "retry-after": "20"}
    assert adopted["body"] == "{} "
    json.dumps(adopted)


@pytest.mark.parametrize("thing", [None, 1, "x", httpx.Request("GET", "http://h/"), httpx.Response(200)])
def test_what_is_no_answer_is_refused(thing):
    with pytest.raises(BadRequest, match="no HTTP answer"):
        adoption_of(thing)
