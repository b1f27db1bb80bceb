"""Polls and results: what each answer says of the operation, and what it does not."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest

from renewer.core.model import NO_RESULT, Ended, Result, StillRunning, Succeeded
from renewer.errors import TransientError
from renewer.targets.fabric import Ticket
from renewer.targets.rest.cookies import Cookie
from tests.targets.fabric_rig import BACKEND, HOST, JOB_PATH, RESULT_PATH, STATE_PATH, Rig, fabric_options, reply, state

pytestmark = pytest.mark.anyio

TICKET = Ticket(STATE_PATH, RESULT_PATH)
JOB = Ticket(JOB_PATH)
OTHER = Ticket("/v1/identities/x/status?t=1")
RUNNING = {"Location": f"{BACKEND}{STATE_PATH}", "Retry-After": "20"}
RESULT_THERE = {"Location": f"{BACKEND}{RESULT_PATH}"}


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
def rig():
    return Rig()


async def failure(awaitable):
    with pytest.raises(TransientError) as caught:
        await awaitable
    return caught.value


async def test_a_poll_asks_the_configured_host_with_the_token(rig):
    rig.answers(state("Running", RUNNING))
    await rig.poll(TICKET)
    [request] = rig.requests
    assert (request.method, str(request.url)) == ("GET", f"{HOST}{STATE_PATH}")
    assert request.headers["authorization"] == "Bearer token-1"
    assert "content-type" not in request.headers


@pytest.mark.parametrize("ticket", [TICKET, JOB])
@pytest.mark.parametrize(
    ("status", "recognised"),
    [
        ("NotStarted", True),
        ("Running", True),
        ("InProgress", True),
        ("running", True),
        ("RUNNING", True),
        ("Undefined", False),
        ("undefined", False),
        ("Queued", False),
        ("Disabled", False),
        ("Succeeded ", False),
    ],
)
async def test_words_for_running_and_unknown_words_mean_running(ticket, status, recognised, rig):
    rig.answers(reply(200, {"status": status}, RUNNING))
    assert await rig.poll(ticket) == StillRunning(status, recognised, 20.0)


async def test_a_status_without_end_is_cut(rig):
    rig.answers(reply(200, {"status": "R" * 100_000}, RUNNING))
    assert (await rig.poll(TICKET)).status == "R" * 200


@pytest.mark.parametrize("told_s", ["60", "59", "2", "1", "0"])
async def test_a_job_counts_its_retry_after_down_to_zero(told_s, rig):
    rig.answers(state("InProgress", {"Retry-After": told_s}))
    assert (await rig.poll(JOB)).retry_after_s == float(told_s)


CREATED_AT = datetime(2026, 7, 20, 10, 22, 18, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("fields", "started_at", "updated_at"),
    [
        (
            {"createdTimeUtc": "2026-07-20T10:22:18.5", "lastUpdatedTimeUtc": "2026-07-20T10:22:20.2500000Z"},
            CREATED_AT + 0.5,
            CREATED_AT + 2.25,
        ),
        ({"startTimeUtc": "2026-07-20T10:22:18.0000000", "endTimeUtc": None}, CREATED_AT, None),
        (
            {"startTimeUtc": "2026-07-20T10:22:18+00:00", "endTimeUtc": "2026-07-20T10:22:19Z"},
            CREATED_AT,
            CREATED_AT + 1,
        ),
        ({"createdTimeUtc": "0001-01-01T00:00:00", "lastUpdatedTimeUtc": "yesterday"}, None, None),
        ({"createdTimeUtc": 17, "lastUpdatedTimeUtc": ["2026-07-20T10:22:18"]}, None, None),
        ({}, None, None),
    ],
)
async def test_the_services_times_are_told_and_unreadable_ones_are_not(fields, started_at, updated_at, rig):
    rig.answers(reply(200, {"status": "Running", **fields}, RUNNING))
    answer = await rig.poll(TICKET)
    assert (answer.started_at, answer.updated_at) == (started_at, updated_at)


@pytest.mark.parametrize(
    ("percent", "read"),
    [
        (None, None),
        (0, 0.0),
        (55, 55.0),
        (99.5, 99.5),
        (-3, 0.0),
        (400, 100.0),
        ("7", None),
        (True, None),
        (10**400, 100.0),
    ],
)
async def test_progress_is_read_where_it_is_a_number(percent, read, rig):
    rig.answers(state("Running", RUNNING, percentComplete=percent))
    assert (await rig.poll(TICKET)).percent_complete == read


async def test_success_with_a_location_has_a_result_to_fetch_on_our_host(rig):
    rig.answers(state("Succeeded", RESULT_THERE))
    answer = await rig.poll(TICKET)
    assert answer == Succeeded("Succeeded", None, TICKET)
    rig.answers(reply(200, {"id": 1}, {"Content-Type": "application/json"}))
    assert await rig.fetch(answer.ticket) == Result("json", "application/json", b'{"id": 1}')
    assert rig.urls[-1] == f"{HOST}{RESULT_PATH}"


async def test_success_without_a_location_has_no_result(rig):
    rig.answers(state("Succeeded", percentComplete=100))
    assert await rig.poll(TICKET) == Succeeded("Succeeded", NO_RESULT)


@pytest.mark.parametrize("status", ["Completed", "completed"])
async def test_a_job_instance_that_completed_has_no_result(status, rig):
    rig.answers(state(status, {"Location": f"{HOST}{JOB_PATH}"}))
    assert await rig.poll(JOB) == Succeeded(status, NO_RESULT)


async def test_a_failure_keeps_the_services_document_whole(rig):
    error = {"errorCode": "X", "message": "m", "moreDetails": [{"errorCode": "Y"}], "isRetriable": True, "new": None}
    rig.answers(state("Failed", error=error))
    assert await rig.poll(TICKET) == Ended("failed", "Failed", error)


async def test_a_failed_job_gives_its_failure_reason(rig):
    reason = {"requestId": "r", "errorCode": "NotebookFailed", "message": "division by zero"}
    rig.answers(state("Failed", failureReason=reason))
    assert await rig.poll(JOB) == Ended("failed", "Failed", reason)


@pytest.mark.parametrize(
    ("given", "message"),
    [(None, "gave no reason"), ({}, "gave no reason"), ("disk full", "disk full"), (7, "no reason")],
)
async def test_a_failure_without_a_document_says_so(given, message, rig):
    rig.answers(state("failed", error=given))
    answer = await rig.poll(TICKET)
    assert answer.outcome == "failed"
    assert message in answer.error["message"]


@pytest.mark.parametrize("status", ["Cancelled", "Canceled", "CANCELLED"])
async def test_a_cancelled_job_is_canceled(status, rig):
    rig.answers(state(status, failureReason=None))
    answer = await rig.poll(JOB)
    assert (answer.outcome, answer.status) == ("canceled", status)


async def test_a_deduped_job_is_canceled_and_says_why(rig):
    rig.answers(state("Deduped", failureReason={"errorCode": "D"}))
    answer = await rig.poll(JOB)
    assert (answer.outcome, answer.status) == ("canceled", "Deduped")
    assert "another one of the same job already runs" in answer.error["message"]
    assert answer.error["failureReason"] == {"errorCode": "D"}


async def test_a_document_without_status_where_nothing_more_is_to_come_is_the_result(rig):
    rig.answers(reply(200, {"id": "w", "type": "Warehouse"}, {"Content-Type": "application/json"}))
    answer = await rig.poll(TICKET)
    assert answer == Succeeded(result=Result("json", "application/json", b'{"id": "w", "type": "Warehouse"}'))


@pytest.mark.parametrize("headers", [{"Retry-After": "5"}, {"Location": f"{BACKEND}{STATE_PATH}"}])
async def test_a_document_without_status_that_asks_to_come_back_is_running(headers, rig):
    rig.answers(reply(200, {"id": "w"}, headers))
    answer = await rig.poll(TICKET)
    assert isinstance(answer, StillRunning)
    assert not answer.recognised


async def test_an_error_document_without_status_is_no_result(rig):
    rig.answers(reply(200, {"errorCode": "InternalError", "message": "try later", "requestId": "r"}))
    error = await failure(rig.poll(TICKET))
    assert (error.kind, error.condition) == ("garbage", "InternalError")


@pytest.mark.parametrize("body", [b"", b"null", b"{", b'{"status": "Running"}'])
async def test_a_202_on_a_poll_is_running(body, rig):
    rig.answers(httpx.Response(202, headers={"Retry-After": "9"}, content=body))
    answer = await rig.poll(TICKET)
    assert isinstance(answer, StillRunning)
    assert (answer.recognised, answer.retry_after_s, answer.ticket) == (True, 9.0, None)


async def test_a_location_that_moves_is_followed_on_our_host(rig):
    rig.answers(httpx.Response(202, headers={"Location": "https://evil.example/v1/identities/x/status?t=2"}))
    answer = await rig.poll(OTHER)
    assert answer.ticket == Ticket("/v1/identities/x/status?t=2")
    rig.answers(httpx.Response(202, headers={"Location": f"{BACKEND}{STATE_PATH}"}))
    assert (await rig.poll(answer.ticket)).ticket == TICKET


async def test_operations_and_jobs_do_not_move(rig):
    for ticket in (TICKET, JOB):
        rig.answers(state("Running", {"Location": "https://evil.example/v1/elsewhere", "Retry-After": "1"}))
        assert (await rig.poll(ticket)).ticket is None


async def test_other_locations_end_as_azure_says(rig):
    rig.answers(httpx.Response(204))
    assert await rig.poll(OTHER) == Succeeded()
    rig.answers(state("Succeeded", {"Location": "https://evil.example/v1/identities/x"}))
    answer = await rig.poll(OTHER)
    assert answer == Succeeded("Succeeded", None, Ticket(OTHER.path, "/v1/identities/x"))


@pytest.mark.parametrize(
    ("content_type", "body", "kind"),
    [
        ("application/json", b"[1, 2]", "json"),
        ("application/json; charset=utf-8", b"null", "json"),
        ("application/octet-stream", b"\x00\xff", "bytes"),
        (None, b"", "none"),
    ],
)
async def test_what_stands_behind_another_location_at_the_end_is_the_result(content_type, body, kind, rig):
    rig.answers(
        httpx.Response(200, headers={} if content_type is None else {"Content-Type": content_type}, content=body)
    )
    answer = await rig.poll(OTHER)
    assert isinstance(answer, Succeeded)
    assert (answer.result.kind, answer.result.body) == (kind, body)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html", b"<html>sign in</html>"),
        ("application/xml", b"<Status>Succeeded</Status>"),
        ("application/json", b'{"id'),
        (None, b"\x01\x00 Retry-After: 42"),
    ],
)
async def test_a_page_or_a_fragment_behind_another_location_is_garbage(content_type, body, rig):
    rig.answers(
        httpx.Response(200, headers={} if content_type is None else {"Content-Type": content_type}, content=body)
    )
    assert (await failure(rig.poll(OTHER))).kind == "garbage"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (204, "garbage"),
        (206, "garbage"),
        (302, "server"),
        (400, "refused"),
        (403, "unauthorized"),
        (404, "not_found"),
        (408, "timeout"),
        (409, "refused"),
        (410, "not_found"),
        (429, "throttled"),
        (500, "server"),
        (502, "server"),
        (503, "busy"),
        (504, "timeout"),
        (700, "garbage"),
    ],
)
async def test_a_failed_poll_is_not_a_failed_operation(status, kind, rig):
    rig.answers(reply(status, {"errorCode": "Code", "message": "text"}, {"Retry-After": "3"}))
    error = await failure(rig.poll(TICKET))
    assert (error.kind, error.retry_after_s) == (kind, 3.0)
    assert f"HTTP {status}" in str(error)
    assert status == 302 or "Code: text" in str(error)


@pytest.mark.parametrize("status", [400, 404, 410])
async def test_an_operation_that_is_not_found_is_told_as_that_whatever_the_status(status, rig):
    rig.answers(reply(status, {"errorCode": "OperationNotFound", "message": "gone"}))
    error = await failure(rig.poll(TICKET))
    assert (error.kind, error.condition) == ("not_found", "OperationNotFound")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"Succeeded"',
        b"1",
        b'{"status": "Succ',
        b"<html>busy</html>",
        b"<?xml version='1.0'?><Status>Succeeded</Status>",
        b"\x00\x01\xff",
        b'{"status": 1}',
        b'{"status": null}',
        b'{"status": ""}',
        b'{"status": {"x": 1}}',
        b"[" * 50_000,
    ],
)
async def test_what_is_no_state_document_is_garbage(body, rig):
    rig.answers(httpx.Response(200, headers={"Content-Type": "application/json"}, content=body))
    assert (await failure(rig.poll(TICKET))).kind == "garbage"


async def test_a_state_document_larger_than_a_mebibyte_is_garbage(rig):
    rig.answers(state("Succeeded", padding="x" * 1024 * 1024))
    assert (await failure(rig.poll(TICKET))).kind == "garbage"


async def test_garbage_shows_where_it_came_from_and_no_secrets(rig):
    rig.answers(httpx.Response(200, content=b"see https://h/?sig=secret Bearer abcdefgh"))
    error = await failure(rig.poll(OTHER))
    assert "/v1/identities/x/status:" in str(error)
    for secret in ("secret", "abcdefgh", "t=1"):
        assert secret not in str(error)


async def test_error_texts_show_no_secrets(rig):
    message = "blocked, see https://h.example/x?sig=secret with Bearer abcdefgh" + "x" * 5000
    rig.answers(reply(500, {"errorCode": "E?sig=secret", "message": message}))
    error = await failure(rig.poll(OTHER))
    for secret in ("secret", "abcdefgh", "t=1"):
        assert secret not in str(error)
    assert len(str(error)) < 500


async def test_a_401_on_a_poll_is_answered_once_with_a_fresh_token(rig):
    rig.answers(reply(401), state("Running"))
    assert isinstance(await rig.poll(TICKET), StillRunning)
    rig.answers(reply(401), reply(401))
    assert (await failure(rig.poll(TICKET))).kind == "unauthorized"
    assert [request.headers["authorization"][-1] for request in rig.requests] == ["1", "2", "2", "3"]


@pytest.mark.parametrize(
    ("response", "result"),
    [
        (
            reply(200, {"a": [1]}, {"Content-Type": "application/json"}),
            Result("json", "application/json", b'{"a": [1]}'),
        ),
        (reply(200, [1, 2], {"Content-Type": "text/json"}), Result("json", "text/json", b"[1, 2]")),
        (reply(200, None, {"Content-Type": "application/json"}), Result("json", "application/json", b"null")),
        (reply(200, "x", {"Content-Type": "application/x+json"}), Result("json", "application/x+json", b'"x"')),
        (
            httpx.Response(200, headers={"Content-Type": "application/octet-stream"}, content=b"\x00\x01"),
            Result("bytes", "application/octet-stream", b"\x00\x01"),
        ),
        (httpx.Response(200, content=b"raw"), Result("bytes", None, b"raw")),
        (httpx.Response(200, headers={"Content-Type": "application/json"}), NO_RESULT),
        (httpx.Response(204), NO_RESULT),
        (reply(400, {"errorCode": "OperationHasNoResult", "message": "The operation has no result"}), NO_RESULT),
        (httpx.Response(400, headers={"x-ms-public-api-error-code": "OperationHasNoResult"}), NO_RESULT),
        (reply(404, {"errorCode": "OperationHasNoResult"}), NO_RESULT),
    ],
)
async def test_a_result_is_kept_byte_for_byte_or_is_none(response, result, rig):
    rig.answers(response)
    assert await rig.fetch(TICKET) == result


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (httpx.Response(200, headers={"Content-Type": "application/json"}, content=b'{"a": 1'), "garbage"),
        (httpx.Response(200, headers={"Content-Type": "application/json"}, content=b"<html>"), "garbage"),
        (httpx.Response(202), "server"),
        (reply(400, {"errorCode": "OperationNotSucceeded", "message": "wait"}), "server"),
        (reply(404, {"errorCode": "OperationNotFound"}), "not_found"),
        (reply(429), "throttled"),
        (reply(500), "server"),
        (httpx.Response(307, headers={"Location": "https://evil.example/"}), "server"),
        (httpx.ReadError("reset"), "network"),
    ],
)
async def test_a_result_that_did_not_come_can_be_asked_for_again(response, kind, rig):
    rig.answers(response)
    assert (await failure(rig.fetch(TICKET))).kind == kind


async def test_a_large_json_result_is_judged_by_its_ends(rig):
    whole = json.dumps({"definition": "x" * 2_000_000}).encode()
    headers = {"Content-Type": "application/json"}
    rig.answers(httpx.Response(200, headers=headers, content=whole))
    assert (await rig.fetch(TICKET)).body == whole
    rig.answers(httpx.Response(200, headers=headers, content=whole[:-100]))
    assert (await failure(rig.fetch(TICKET))).kind == "garbage"


@pytest.mark.parametrize("size", [2000, 2 * 1024 * 1024])
async def test_a_result_larger_than_allowed_is_given_up_with_a_clear_account(size):
    rig = Rig(options=fabric_options(max_result_bytes=1000))
    rig.answers(httpx.Response(200, content=b"x" * 1000), httpx.Response(200, content=b"x" * size))
    assert len((await rig.fetch(TICKET)).body) == 1000
    given_up = await rig.fetch(TICKET)
    assert (given_up.kind, given_up.body) == ("none", b"")
    assert given_up.problem_code == "result_too_large"
    assert "max_result of [fabric.main]" in given_up.problem


async def test_an_error_may_be_larger_than_the_results_allowed():
    rig = Rig(options=fabric_options(max_result_bytes=10))
    rig.answers(reply(400, {"errorCode": "OperationHasNoResult", "message": "x" * 1000}))
    assert await rig.fetch(TICKET) == NO_RESULT


async def test_a_ticket_without_result_is_not_fetched(rig):
    assert await rig.fetch(JOB) == NO_RESULT
    assert rig.requests == []


async def test_a_ticket_is_plain_data_and_shows_no_signature():
    cookies = (Cookie("a", "secret", "https://h.example"),)
    hidden = {"x": "secret"}
    ticket = Ticket("/v1/x?sig=secret", "/v1/y?sig=secret", "https://h.example", hidden, hidden, cookies)
    assert "secret" not in repr(ticket)
    assert "secret" not in repr(cookies)
    assert len({ticket, replace(ticket)}) == 1


async def test_what_is_no_ticket_is_a_bug(rig):
    with pytest.raises(TypeError):
        await rig.poll("ticket")
