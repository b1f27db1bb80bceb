"""What is read out of documents: errors in every form, progress, moments."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.errors import TransientError
from renewer.targets.http import Answer
from renewer.targets.rest.documents import (
    error_code,
    error_document,
    first_moment,
    moment,
    object_or_none,
    percent,
    state_object,
    transient,
)
from tests.targets.fabric_rig import FixedClock

AT = datetime(2026, 7, 20, 10, 22, 18, tzinfo=UTC).timestamp()
XML = b'<?xml version="1.0"?><Error><Code>AuthFailed</Code><Message>No &lt;way&gt;.\nRequestId:1</Message></Error>'
ODATA = {"odata.error": {"code": "Request_BadRequest", "message": {"lang": "en", "value": "bad"}}}


def answer(status: int, body: object = b"", **headers: str) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, httpx.Headers({name.replace("_", "-"): text for name, text in headers.items()}), content)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-07-20T10:22:18.8512391", AT + 0.8512391),
        ("2026-07-20T10:22:18.851239", AT + 0.851239),
        ("2026-07-20T10:22:18.85123", AT + 0.85123),
        ("2026-07-20T10:22:18.851", AT + 0.851),
        ("2026-07-20T10:22:18.8512391Z", AT + 0.8512391),
        ("2026-07-20T10:22:18.851+00:00", AT + 0.851),
        ("2026-07-20T10:22:18", AT),
        ("2026-07-20T10:22:18Z", AT),
        ("2026-07-20t10:22:18z", AT),
        ("2026-07-20 10:22:18", AT),
        ("2026-07-20T12:22:18+02:00", AT),
        ("2026-07-20T12:22:18+0200", AT),
        ("2026-07-20T04:52:18.5-05:30", AT + 0.5),
        ("9999-12-31T23:59:59.9999999", 253402300799.9999999),
    ],
)
def test_every_form_of_a_timestamp_is_the_same_moment(text: str, at: float) -> None:
    assert moment(text) == pytest.approx(at, abs=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        None,
        17,
        True,
        [],
        "",
        "soon",
        "2026-07-20",
        "10:22:18",
        "9/3/2025 6:54:11 AM",
        "2026-13-20T10:22:18",
        "2026-02-30T10:22:18",
        "2026-07-20T24:22:18",
        "2026-07-20T10:22:18.",
        "2026-07-20T10:22:18 Z",
        "2026-07-20T10:22:18+0",
        "2026-07-20T10:22:18\n",
        "2026-07-20T10:22:18." + "9" * 400,
        "٢٠٢٦-07-20T10:22:18",
        "0001-01-01T00:00:00",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "1969-12-31T23:59:59Z",
        "1601-01-01T00:00:00Z",
    ],
)
def test_what_is_no_moment_is_none(text: object) -> None:
    assert moment(text) is None


@given(st.floats(1, 4e9), st.integers(-14 * 60, 14 * 60))
def test_what_python_writes_is_read(at: float, zone_min: int) -> None:
    written = datetime.fromtimestamp(at, UTC)
    for text in (
        written.isoformat(),
        written.replace(tzinfo=None).isoformat(),
        written.astimezone(timezone(timedelta(minutes=zone_min))).isoformat(),
    ):
        assert moment(text) == pytest.approx(at, abs=1e-5)


def test_the_first_field_that_can_be_read_counts() -> None:
    state = {"a": None, "b": "soon", "c": "2026-07-20T10:22:18", "d": "2026-07-20T10:22:19"}
    assert first_moment(state, "a", "b", "c", "d") == AT
    assert first_moment(state, "a", "missing") is None
    assert first_moment(None, "c") is None


@pytest.mark.parametrize(
    ("given_answer", "code", "message"),
    [
        (answer(400, {"errorCode": "A", "message": "m"}), "A", "m"),
        (answer(400, {"error": {"code": "A", "message": "m", "details": [{"code": "B"}]}}), "A", "m"),
        (answer(400, {"code": "A", "message": "m"}), "A", "m"),
        (answer(400, ODATA), "Request_BadRequest", "bad"),
        (answer(400, {"type": "about:blank", "title": "t", "detail": "d", "status": 400}), "Http400", "d"),
        (answer(400, {"title": "t"}), "Http400", "t"),
        (answer(400, {"error": "invalid_client", "error_description": "d"}), "Http400", "d"),
        (answer(400, XML), "AuthFailed", "No <way>. RequestId:1"),
        (answer(400, XML.replace(b"<Message>", b'<m:message xml:lang="en">')), "AuthFailed", "No <way>. RequestId:1"),
        (answer(502, b"<html><title>Bad Gateway</title></html>"), "Http502", "<html><title>Bad Gateway</title></html>"),
        (answer(500, b""), "Http500", "no error document"),
        (answer(500, b"", x_ms_error_code="ServerBusy"), "ServerBusy", "no error document"),
        (answer(400, [1]), "Http400", "[1]"),
        (answer(400, {}), "Http400", "no message"),
        (answer(400, {"error": {"code": 7, "message": None}}), "Http400", "no message"),
    ],
)
def test_every_form_of_an_error_has_code_and_message_on_top(given_answer: Answer, code: str, message: str) -> None:
    document = error_document(given_answer)
    assert (document["errorCode"], document["message"]) == (code, message)
    assert document["httpStatus"] == given_answer.status
    theirs = object_or_none(given_answer)
    assert theirs is None or {name: document[name] for name in theirs} == theirs


@pytest.mark.parametrize("name", ["RequestId", "x_ms_request_id", "x_ms_correlation_request_id"])
def test_the_request_id_stands_beside_the_error(name: str) -> None:
    assert error_document(answer(500, b"", **{name: "r-1"}))["requestId"] == "r-1"
    theirs = error_document(answer(500, {"requestId": "own"}, **{name: "r-1"}))
    assert theirs["requestId"] == "own"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "refused"),
        (401, "unauthorized"),
        (402, "refused"),
        (403, "unauthorized"),
        (404, "not_found"),
        (405, "refused"),
        (408, "timeout"),
        (409, "refused"),
        (410, "not_found"),
        (429, "throttled"),
        (499, "refused"),
        (500, "server"),
        (503, "busy"),
        (504, "timeout"),
        (599, "server"),
        (302, "server"),
        (206, "garbage"),
        (999, "garbage"),
    ],
)
def test_each_status_has_its_kind(status: int, kind: str) -> None:
    error = transient(answer(status, {}, Retry_After="7"), "GET /x", FixedClock())
    assert (error.kind, error.retry_after_s) == (kind, 7.0)
    assert str(error).startswith(f"GET /x: HTTP {status} ")


def test_an_operation_that_is_not_found_is_told_by_its_code() -> None:
    error = transient(answer(400, {"error": {"code": "OperationNotFound"}}), "GET /x", FixedClock())
    assert (error.kind, error.condition) == ("not_found", "OperationNotFound")


def test_what_is_said_of_an_error_shows_no_secrets() -> None:
    document = {"errorCode": "E", "message": "at https://h.example/x?sig=secret with Bearer secret" + "x" * 9000}
    error = transient(answer(500, document), "GET /x", FixedClock())
    assert "secret" not in str(error)
    assert len(str(error)) < 500
    assert error_document(answer(500, document))["message"] == document["message"]
    assert "secret" not in str(error_document(answer(500, b"see https://h.example/x?sig=secret")))


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_whatever_the_body_an_error_can_be_told(body: object) -> None:
    given_answer = answer(500, body)
    document = error_document(given_answer)
    assert document["errorCode"] is not None
    assert transient(given_answer, "GET /x", FixedClock()).kind == "server"
    code = error_code(given_answer)
    assert code is None or code


@given(st.integers() | st.floats(allow_nan=False) | st.booleans() | st.text() | st.none())
def test_progress_is_between_0_and_100_or_unknown(given_percent: object) -> None:
    read = percent({"percentComplete": given_percent})
    assert read is None or 0 <= read <= 100
    assert percent(None) is None


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"1", b"{", b"\xff", b"NaN", b"[" * 100_000, b'{"a":' * 100_000])
def test_what_is_no_object_is_garbage(body: bytes) -> None:
    with pytest.raises(TransientError, match=r"^GET /x: the state document is n") as caught:
        state_object(answer(200, body), "GET /x")
    assert caught.value.kind == "garbage"
    assert object_or_none(answer(200, body)) is None
