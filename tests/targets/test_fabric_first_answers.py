"""The answer to an operation's first request: what it makes of the operation."""

import httpx
import pytest

from renewer.core.model import NO_RESULT, Ended, Result, StillRunning, Succeeded
from renewer.errors import TransientError
from renewer.targets.fabric import Ticket
from renewer.targets.rest import Adopt
from tests.targets.fabric_rig import (
    ACCEPTED,
    BACKEND,
    JOB_PATH,
    OPERATION_ID,
    RESULT_PATH,
    STATE_PATH,
    Rig,
    adopt,
    fabric_options,
    reply,
    spec_of,
    state,
)

pytestmark = pytest.mark.anyio

JSON = "application/json; charset=utf-8"
BY_ID = Ticket(STATE_PATH, RESULT_PATH)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
def rig():
    return Rig()


async def test_a_submission_is_sent_as_asked_with_the_token(rig):
    rig.answers(reply(202, None, ACCEPTED))
    await rig.submit("workspaces/w1/notebooks?beta=true", headers={"X-Extra": "1"}, body={"displayName": "n"})
    [request] = rig.requests
    assert (request.method, rig.urls) == (
        "POST",
        ["https://api.fabric.microsoft.com/v1/workspaces/w1/notebooks?beta=true"],
    )
    assert request.content == b'{"displayName":"n"}'
    assert request.headers["authorization"] == "Bearer token-1"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-extra"] == "1"
    assert request.headers["accept-encoding"] == "gzip"


async def test_a_submission_without_a_body_says_so(rig):
    rig.answers(reply(202, None, ACCEPTED))
    await rig.submit()
    assert rig.requests[0].headers["content-length"] == "0"
    assert "content-type" not in rig.requests[0].headers


async def test_the_caller_may_choose_the_content_type_but_not_the_identity(rig):
    rig.answers(reply(202, None, ACCEPTED))
    headers = {"content-type": "application/merge-patch+json", "AUTHORIZATION": "Bearer evil", "host": "evil.example"}
    await rig.submit(headers=headers, body={})
    sent = rig.requests[0].headers
    assert sent.get_list("content-type") == ["application/merge-patch+json"]
    assert sent.get_list("authorization") == ["Bearer token-1"]
    assert sent.get_list("host") == ["api.fabric.microsoft.com"]


@pytest.mark.parametrize(
    ("headers", "ticket"),
    [
        (ACCEPTED, BY_ID),
        ({"x-ms-operation-id": OPERATION_ID}, BY_ID),
        ({"X-MS-Operation-Id": OPERATION_ID, "Location": "https://evil.example/elsewhere"}, BY_ID),
        ({"Location": f"{BACKEND}{STATE_PATH}"}, BY_ID),
        ({"Location": f"https://api.fabric.microsoft.com/operations/{OPERATION_ID}"}, BY_ID),
        ({"Location": STATE_PATH}, BY_ID),
        ({"Location": f"{BACKEND}{RESULT_PATH}"}, BY_ID),
        ({"x-ms-operation-id": "../../evil", "Location": f"{BACKEND}{STATE_PATH}"}, BY_ID),
        ({"Location": f"https://api.fabric.microsoft.com{JOB_PATH}"}, Ticket(JOB_PATH)),
        ({"Location": f"https://evil.example{JOB_PATH}"}, Ticket(JOB_PATH)),
        ({"Location": f"{BACKEND}/v1/identities/x?t=1&s=2"}, Ticket("/v1/identities/x?t=1&s=2")),
    ],
)
async def test_a_202_is_followed_by_id_or_by_location_on_our_own_host(headers, ticket):
    answer = adopt(headers)
    assert isinstance(answer, StillRunning)
    assert answer.ticket == ticket


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Retry-After": "20"},
        {"x-ms-operation-id": "no-uuid"},
        {"Location": ""},
        {"Location": "//evil.example/x"},
        {"Location": "https://user:pw@evil.example/x"},
        {"Location": "https://evil.example/"},
        {"Location": "https://evil.example/a\nb"},
    ],
)
async def test_a_202_that_names_nothing_to_ask_is_unpollable(headers):
    answer = adopt({**headers, "RequestId": "r-1"}, body=None)
    assert isinstance(answer, Ended)
    assert answer.outcome == "unpollable"
    assert answer.error["errorCode"] == "NotPollable"
    assert "look at the resource" in answer.error["message"]
    assert answer.error["requestId"] == "r-1"


@pytest.mark.parametrize("verb", ["assignToCapacity", "unassignFromCapacity", "assigntocapacity/"])
async def test_moving_a_workspace_to_a_capacity_says_where_to_look(verb):
    answer = adopt({"RequestId": "r-1"}, url=f"/workspaces/w1/{verb}?x=1")
    assert answer.outcome == "unpollable"
    assert "capacityAssignmentProgress of the workspace (GET /v1/workspaces/w1)" in answer.error["message"]


async def test_a_202_says_when_to_ask_first():
    assert adopt(ACCEPTED).retry_after_s == 20.0
    dated = {**ACCEPTED, "Date": "Mon, 20 Jul 2026 10:00:00 GMT", "Retry-After": "Mon, 20 Jul 2026 10:02:00 GMT"}
    assert adopt(dated).retry_after_s == 120.0
    assert adopt({**ACCEPTED, "Retry-After": "soon"}).retry_after_s is None


@pytest.mark.parametrize("status", [200, 201])
async def test_a_200_or_201_is_the_result_at_once(status, rig):
    rig.answers(httpx.Response(status, headers={"Content-Type": JSON}, content=b'{"id":  "x"}'))
    assert await rig.submit() == Succeeded(result=Result("json", JSON, b'{"id":  "x"}'))


@pytest.mark.parametrize(
    ("response", "result"),
    [
        (httpx.Response(204), NO_RESULT),
        (httpx.Response(200), NO_RESULT),
        (reply(200, None, {"Content-Type": JSON}), Result("json", JSON, b"null")),
        (
            httpx.Response(200, headers={"Content-Type": "application/octet-stream"}, content=b"\x00\xff"),
            Result("bytes", "application/octet-stream", b"\x00\xff"),
        ),
        (httpx.Response(201, headers={"Content-Type": JSON}, content=b'{"id'), Result("bytes", JSON, b'{"id')),
    ],
)
async def test_what_was_carried_out_has_succeeded_whatever_its_body(response, result, rig):
    rig.answers(response)
    assert await rig.submit() == Succeeded(result=result)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 409, 410, 413, 415, 422])
async def test_a_refusal_is_the_end_with_the_services_document_whole(status, rig):
    document = {
        "requestId": "r-1",
        "errorCode": "ItemDisplayNameAlreadyInUse",
        "message": "Requested name is in use",
        "moreDetails": [{"errorCode": "A", "message": "b", "relatedResource": {"resourceId": "c"}}],
        "relatedResource": {"resourceId": "x", "resourceType": "Workspace"},
        "isRetriable": False,
        "unheardOf": [1],
    }
    rig.answers(reply(status, document, {"RequestId": "other"}))
    assert await rig.submit() == Ended("rejected", error={**document, "httpStatus": status})


@pytest.mark.parametrize(
    ("response", "code", "message"),
    [
        (httpx.Response(400), "Http400", "no error document"),
        (httpx.Response(403, content=b"<html>no</html>"), "Http403", "<html>no</html>"),
        (httpx.Response(403, headers={"x-ms-public-api-error-code": "NoWay"}, content=b"{"), "NoWay", "{"),
        (reply(403, {"error": {"code": "TokenAudience", "message": "wrong"}}), "TokenAudience", "wrong"),
        (reply(403, [1]), "Http403", "[1]"),
        (reply(403, {}), "Http403", "no message"),
    ],
)
async def test_a_refusal_without_a_document_gets_one(response, code, message, rig):
    rig.answers(response)
    answer = await rig.submit()
    assert answer.outcome == "rejected"
    assert answer.error["errorCode"] == code
    assert answer.error["message"] == message
    assert answer.error["httpStatus"] == response.status_code


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
async def test_a_redirect_is_not_followed_but_told(status, rig):
    rig.answers(httpx.Response(status, headers={"Location": "https://evil.example/x?sig=secret"}))
    answer = await rig.submit()
    assert answer.outcome == "rejected"
    assert answer.error["errorCode"] == "Redirected"
    assert "evil.example" in answer.error["message"]
    assert "secret" not in answer.error["message"]
    assert len(rig.requests) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (408, "timeout"),
        (429, "throttled"),
        (500, "server"),
        (501, "server"),
        (502, "server"),
        (503, "busy"),
        (504, "timeout"),
        (599, "server"),
        (999, "garbage"),
    ],
)
async def test_what_decides_nothing_is_transient_and_says_when_to_come_back(status, kind, rig):
    rig.answers(reply(status, {"errorCode": "RequestBlocked", "message": "later"}, {"Retry-After": "42"}))
    with pytest.raises(TransientError) as caught:
        await rig.submit("/x?sig=secret")
    error = caught.value
    assert (error.kind, error.retry_after_s, error.condition) == (kind, 42.0, "RequestBlocked")
    assert str(error) == (f"POST https://api.fabric.microsoft.com/v1/x?***: HTTP {status} RequestBlocked: later")


async def test_a_401_is_answered_once_with_a_fresh_token(rig):
    rig.answers(reply(401, {"errorCode": "TokenExpired"}), reply(202, None, ACCEPTED))
    assert isinstance(await rig.submit(body={"a": 1}), StillRunning)
    assert [request.headers["authorization"] for request in rig.requests] == ["Bearer token-1", "Bearer token-2"]
    assert [request.content for request in rig.requests] == [b'{"a":1}'] * 2


async def test_a_second_401_is_transient_and_says_what_to_look_at(rig):
    rig.answers(*[reply(401, {"errorCode": "TokenExpired", "message": "expired"})] * 2)
    with pytest.raises(TransientError, match="TokenExpired: expired: the token was refused") as caught:
        await rig.submit()
    assert caught.value.kind == "unauthorized"
    assert len(rig.requests) == 2
    assert "token-" not in str(caught.value)


@pytest.mark.parametrize("size", [20, 2 * 1024 * 1024])
async def test_a_first_answer_larger_than_results_may_be_is_a_success_without_one(size):
    rig = Rig(options=fabric_options(max_result_bytes=10)).answers(httpx.Response(201, content=b"x" * size))
    answer = await rig.submit()
    assert isinstance(answer, Succeeded)
    assert (answer.result.kind, answer.result.body) == ("none", b"")
    assert answer.result.problem.startswith("it is larger than 10 bytes; raise max_result")


async def test_a_202_is_followed_however_large_its_body():
    rig = Rig(options=fabric_options(max_result_bytes=10)).answers(
        httpx.Response(202, headers=ACCEPTED, content=b"x" * (2 * 1024 * 1024))
    )
    assert (await rig.submit()).ticket == BY_ID


async def test_a_state_that_is_larger_than_it_can_be_is_garbage(rig):
    rig.answers(httpx.Response(200, content=b"x" * (2 * 1024 * 1024)))
    with pytest.raises(TransientError) as caught:
        await rig.submit(STATE_PATH, "GET")
    assert caught.value.kind == "garbage"


async def test_a_network_error_is_passed_on(rig):
    rig.answers(httpx.ConnectError("refused"))
    with pytest.raises(TransientError) as caught:
        await rig.submit()
    assert caught.value.kind == "network"


@pytest.mark.parametrize("url", [STATE_PATH, f"/operations/{OPERATION_ID}", JOB_PATH])
async def test_a_state_url_can_be_followed_itself(url, rig):
    rig.answers(state("Running", {"Retry-After": "7", "Location": f"{BACKEND}{STATE_PATH}"}))
    answer = await rig.submit(url, "GET")
    assert isinstance(answer, StillRunning)
    assert (answer.status, answer.retry_after_s) == ("Running", 7.0)
    assert answer.ticket == (Ticket(JOB_PATH) if url == JOB_PATH else BY_ID)


async def test_a_state_url_that_says_succeeded_leads_to_the_result(rig):
    rig.answers(state("Succeeded", {"Location": f"{BACKEND}{RESULT_PATH}"}))
    assert await rig.submit(STATE_PATH, "GET") == Succeeded("Succeeded", None, BY_ID)


@pytest.mark.parametrize("status", [404, 410])
async def test_a_state_url_that_is_not_found_may_be_found_later(status, rig):
    rig.answers(reply(status, {"errorCode": "OperationNotFound", "message": "m"}))
    with pytest.raises(TransientError) as caught:
        await rig.submit(STATE_PATH, "GET")
    assert caught.value.kind == "not_found"


async def test_a_state_url_answers_202_for_as_long_as_it_likes(rig):
    rig.answers(httpx.Response(202, headers={"Retry-After": "4"}))
    answer = await rig.submit(STATE_PATH, "GET")
    assert answer == StillRunning(retry_after_s=4.0, ticket=BY_ID)


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
async def test_an_adopted_state_url_is_followed_although_it_failed_to_tell(status):
    answer = adopt({"Retry-After": "9"}, status=status, method="GET", url=STATE_PATH)
    assert answer == StillRunning(retry_after_s=9.0, ticket=BY_ID)


@pytest.mark.parametrize("body", [{"status": "Succeeded"}, '{"status": "Succeeded"}'])
async def test_an_adopted_success_whose_headers_are_missing_may_have_a_result(body):
    answer = adopt(status=200, body=body, method="GET", url=STATE_PATH)
    assert answer == Succeeded("Succeeded", None, BY_ID)
    dated = adopt({"Date": "Mon, 20 Jul 2026 10:00:00 GMT"}, status=200, body=body, method="GET", url=STATE_PATH)
    assert dated == Succeeded("Succeeded")
    job = adopt(status=200, body='{"status": "Completed"}', method="GET", url=JOB_PATH)
    assert job == Succeeded("Completed")


async def test_a_get_can_start_an_operation_as_well(rig):
    rig.answers(reply(202, None, ACCEPTED))
    assert (await rig.submit("/workspaces/w1/git/status", "GET")).ticket == BY_ID


async def test_adopting_sends_nothing(rig):
    answer = await rig.target.submit(spec_of(Adopt("POST", "/x", 202, ACCEPTED, "null")))
    assert answer == StillRunning(retry_after_s=20.0, ticket=BY_ID)
    assert rig.requests == []


@pytest.mark.parametrize("status", [401, 408, 429, 500, 503])
async def test_an_adopted_answer_that_started_nothing_is_rejected(status):
    answer = adopt(status=status, body={"errorCode": "RequestBlocked", "message": "later"}, headers={"RequestId": "r"})
    assert answer.outcome == "rejected"
    assert answer.error == {
        "errorCode": "RequestBlocked",
        "message": "later (nothing to follow)",
        "httpStatus": status,
        "requestId": "r",
    }


async def test_an_adopted_201_is_the_result():
    answer = adopt(status=201, body='{"id":  1}', headers={"Content-Type": JSON})
    assert answer == Succeeded(result=Result("json", JSON, b'{"id":  1}'))


async def test_a_request_that_may_not_be_sent_is_rejected_unsent(rig):
    answer = await rig.submit("https://evil.example/v1/x")
    assert answer.outcome == "rejected"
    assert "evil.example" in answer.error["message"]
    assert rig.requests == []


async def test_an_answer_of_another_host_is_not_adopted():
    answer = adopt(ACCEPTED, url="https://evil.example/v1/x")
    assert (answer.outcome, answer.error["errorCode"]) == ("rejected", "NotSent")


async def test_what_is_no_request_is_a_bug(rig):
    with pytest.raises(TypeError):
        await rig.target.submit(spec_of({"url": "/x"}))
