"""First answers: whether there is an operation, and where it will be told how it stands."""

import anyio
import httpx
import pytest

from renewer.core.model import NO_RESULT, Ended, OperationId, Result, StillRunning, Succeeded
from renewer.errors import ConflictError, TransientError, UsageError
from renewer.ports import DEFAULT_TERMS, FollowTerms
from renewer.targets.azure import AzureTarget
from renewer.targets.azure.asides import MOST, Asides
from renewer.targets.rest import Adopt, Submit
from tests.targets.azure_rig import (
    ASKED,
    FOREIGN,
    HOST,
    MONITOR,
    PRODUCT,
    RESULT_AT,
    URL,
    AzureRig,
    answer,
    azure_options,
    located,
    monitored,
    resource,
    spec_of,
    ticket,
)
from tests.targets.fabric_rig import CountedTokens, FixedClock

pytestmark = pytest.mark.anyio

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
ARM_ERROR = {"error": {"code": "Conflict", "message": "busy", "details": [{"code": "D", "target": "t"}]}}


@pytest.fixture
def rig():
    return AzureRig()


async def test_a_first_request_is_sent_as_given_with_the_token(rig):
    rig.answers(monitored())
    await rig.submit("PUT", headers={"x-custom": "1"}, body={"sku": 1})
    [request] = rig.requests
    assert (request.method, str(request.url), request.content) == ("PUT", ASKED, b'{"sku":1}')
    assert request.headers["authorization"] == "Bearer token-1"
    assert request.headers["x-custom"] == "1"


async def test_the_ticket_holds_all_that_later_requests_need(rig):
    rig.answers(monitored(202, None, Location=RESULT_AT, Retry_After="11"))
    running = await rig.submit("POST", terms=FollowTerms(final_state_via="location"))
    assert running.retry_after_s == 11.0
    assert running.ticket == ticket(method="POST", location=RESULT_AT, final_state_via="location")


async def test_neither_ticket_nor_request_shows_a_signature(rig):
    rig.answers(located(202, location=f"{HOST}/o1?t=1&s=SIGNATURE"))
    running = await rig.submit("POST", terms=FollowTerms(poll_headers={"x-key": "SIGNATURE"}))
    assert "SIGNATURE" not in repr(running)


@pytest.mark.parametrize("code", [200, 201, 203, 204])
@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
async def test_a_success_without_any_header_is_done_with_that_body(method, code, rig):
    rig.answers(answer(code, b"[1]"))
    assert await rig.submit(method) == Succeeded(result=Result("json", "application/json", b"[1]"))


async def test_bytes_and_nothing_are_results_of_a_first_answer(rig):
    rig.answers(httpx.Response(200, content=b"\x00", headers={"Content-Type": "image/png"}))
    assert await rig.submit("POST") == Succeeded(result=Result("bytes", "image/png", b"\x00"))
    rig.answers(answer(200))
    assert await rig.submit("POST") == Succeeded(result=NO_RESULT)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize(
    "first",
    [
        lambda: answer(202),
        lambda: answer(201),
        lambda: answer(200, b'{"properties": {"provisioningState": "Creating"}'),
        lambda: answer(200, b'{"properties": {"provisioningState": 1}}'),
        lambda: resource("Anything"),
    ],
)
async def test_what_leaves_the_state_open_is_asked_of_the_resource(method, first, rig):
    rig.answers(first())
    running = await rig.submit(method)
    assert isinstance(running, StillRunning)
    assert running.ticket == ticket("body", method)


@pytest.mark.parametrize("body", [b"[1]", b'"text"', b"1"])
async def test_a_whole_body_that_is_no_resource_is_done(body, rig):
    rig.answers(answer(200, body))
    assert (await rig.submit("PUT")).result.body == body


@pytest.mark.parametrize(("word", "outcome"), [("Failed", "failed"), ("Canceled", "canceled")])
async def test_a_resource_that_failed_at_once_needs_no_monitor(word, outcome, rig):
    rig.answers(resource(word, 201, {"Azure-AsyncOperation": MONITOR}))
    assert (await rig.submit("PUT")).outcome == outcome


@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
async def test_a_202_without_a_url_cannot_be_followed_and_says_so(method, rig):
    rig.answers(answer(202, {"id": "7", "status": "Running"}, {"x-ms-request-id": "r-1"}))
    ended = await rig.submit(method)
    assert ended.outcome == "unpollable"
    assert ended.error["errorCode"] == "NotPollable"
    assert "look at the resource itself" in ended.error["message"]
    assert (ended.error["requestId"], ended.error["id"]) == ("r-1", "7")


@pytest.mark.parametrize("protocol", ["operation-location", "azure-async-operation", "location"])
async def test_a_header_that_the_callers_protocol_needs_is_missed_by_name(protocol, rig):
    names = {"operation-location": "Operation-Location", "azure-async-operation": "Azure-AsyncOperation"}
    name = names.get(protocol, "Location")
    there = {"Location": MONITOR} if protocol != "location" else {"Azure-AsyncOperation": MONITOR}
    for code in (200, 202):
        rig.answers(answer(code, None, there))
        ended = await rig.submit("POST", terms=FollowTerms(protocol=protocol))
        assert ended.outcome == "unpollable"
        assert f"has no {name} header" in ended.error["message"]
        assert f"it has {next(iter(there)).lower()}" in ended.error["message"]
    rig.answers(answer(202))
    ended = await rig.submit("POST", terms=FollowTerms(protocol=protocol))
    assert "none of the others" in ended.error["message"]
    rig.answers(resource("Creating"))
    assert (await rig.submit("PUT", terms=FollowTerms(protocol=protocol))).outcome == "unpollable"


@pytest.mark.parametrize("protocol", ["operation-location", "azure-async-operation", "location"])
async def test_a_success_without_any_header_is_done_by_every_protocol(protocol, rig):
    rig.answers(answer(200, PRODUCT))
    assert isinstance(await rig.submit("POST", terms=FollowTerms(protocol=protocol)), Succeeded)


@pytest.mark.parametrize("protocol", ["operation-location", "azure-async-operation", "location"])
async def test_a_resource_that_failed_did_so_by_every_protocol(protocol, rig):
    rig.answers(resource("Failed"), resource("Creating"))
    assert (await rig.submit("PUT", terms=FollowTerms(protocol=protocol))).outcome == "failed"
    assert (await rig.submit("PUT", terms=FollowTerms(protocol=protocol))).outcome == "unpollable"


@pytest.mark.parametrize(
    ("protocol", "code", "body"),
    [("operation-location", 200, {"status": "Running"}), ("location", 202, None), ("azure-async-operation", 200, None)],
)
async def test_a_state_url_that_the_caller_has_is_followed_by_getting_it(protocol, code, body, rig):
    rig.answers(answer(code, body))
    running = await rig.submit("GET", terms=FollowTerms(protocol=protocol))
    assert running.ticket == ticket(protocol, "GET", poll=ASKED)


async def test_the_resource_is_asked_after_any_method_if_the_caller_says_so(rig):
    rig.answers(answer(202), answer(404))
    running = await rig.submit("DELETE", terms=FollowTerms(protocol="body"))
    assert running.ticket == ticket("body", "DELETE")
    assert await rig.poll(running.ticket) == Succeeded()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("code", [400, 403, 404, 409, 412, 422, 301, 307])
async def test_a_refusal_is_the_end_with_the_services_document_whole(method, code, rig):
    rig.answers(answer(code, ARM_ERROR, {"x-ms-correlation-request-id": "c-1", "Location": f"{FOREIGN}/x"}))
    ended = await rig.submit(method)
    assert ended.outcome == "rejected"
    assert ended.error["httpStatus"] == code
    if code >= 400:
        assert ended.error == {
            "errorCode": "Conflict",
            "message": "busy",
            "httpStatus": code,
            "requestId": "c-1",
            **ARM_ERROR,
        }
    assert len(rig.requests) == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("code", "kind"), [(408, "timeout"), (429, "throttled"), (500, "server"), (503, "busy")])
async def test_an_answer_that_decides_nothing_leaves_it_to_the_core(method, code, kind, rig):
    rig.answers(answer(code, ARM_ERROR, {"Retry-After": "4"}))
    with pytest.raises(TransientError) as caught:
        await rig.submit(method)
    assert (caught.value.kind, caught.value.retry_after_s) == (kind, 4.0)


async def test_a_401_is_tried_again_with_a_fresh_token_once(rig):
    rig.answers(answer(401), monitored())
    assert isinstance(await rig.submit("PUT"), StillRunning)
    assert [request.headers["authorization"] for request in rig.requests] == ["Bearer token-1", "Bearer token-2"]
    rig.answers(answer(401), answer(401))
    with pytest.raises(TransientError) as caught:
        await rig.submit("PUT")
    assert caught.value.kind == "unauthorized"


async def test_a_repeated_delete_that_finds_nothing_says_that_an_earlier_one_may_have_done_it(rig):
    rig.answers(answer(500))
    with pytest.raises(TransientError):
        await rig.submit("DELETE")
    rig.answers(answer(404, ARM_ERROR))
    ended = await rig.submit("DELETE")
    assert ended.outcome == "rejected"
    assert "may have deleted it" in ended.error["message"]
    rig.answers(answer(404, ARM_ERROR))
    assert "may have" not in (await rig.submit("DELETE")).error["message"]


async def test_a_delete_that_could_not_even_be_sent_is_no_earlier_sending(rig):
    rig.answers(httpx.ConnectError("no"))
    with pytest.raises(TransientError) as caught:
        await rig.submit("DELETE")
    rig.answers(answer(404, ARM_ERROR))
    was_sent = caught.value.kind not in ("unreachable", "unauthorized")
    assert ("may have" in (await rig.submit("DELETE")).error["message"]) is was_sent


async def test_a_cookie_that_comes_with_an_error_goes_back_with_the_next_attempt(rig):
    sets = {"Set-Cookie": "scenario=1; Path=/"}
    rig.answers(answer(500, None, sets))
    with pytest.raises(TransientError):
        await rig.submit("PUT")
    rig.answers(monitored(202))
    running = await rig.submit("PUT")
    assert rig.requests[1].headers["cookie"] == "scenario=1"
    rig.answers(answer(500, None, {"Set-Cookie": "scenario=2; Path=/"}))
    with pytest.raises(TransientError):
        await rig.poll(running.ticket)
    rig.answers(answer(202))
    after = await rig.poll(running.ticket)
    assert rig.requests[3].headers["cookie"] == "scenario=2"
    assert [cookie.value for cookie in after.ticket.cookies] == ["2"]


async def test_operations_do_not_see_each_others_cookies(rig):
    rig.answers(answer(500, None, {"Set-Cookie": "scenario=1; Path=/"}), monitored())
    with pytest.raises(TransientError):
        await rig.submit("PUT")
    other = spec_of(Submit("PUT", URL))
    await rig.target.submit(type(other)(OperationId("op-2"), other.account, other.request))
    assert "cookie" not in rig.requests[1].headers


def test_what_is_noted_between_attempts_is_bounded():
    asides = Asides()
    for number in range(MOST + 5):
        asides.note(OperationId(f"op-{number}"), ())
    assert [OperationId(f"op-{number}") in asides for number in (0, 4, 5, MOST + 4)] == [False, False, True, True]


# Adopting


def test_an_adopted_answer_is_read_like_a_received_one(rig):
    headers = {"azure-asyncoperation": MONITOR, "location": RESULT_AT, "retry-after": "5", "Set-Cookie": "a=1; Path=/"}
    running = rig.adopt("POST", 202, headers)
    assert running.retry_after_s == 5.0
    assert (running.ticket.poll, running.ticket.location) == (MONITOR, RESULT_AT)
    assert [cookie.name for cookie in running.ticket.cookies] == ["a"]
    assert rig.requests == []


@pytest.mark.parametrize("code", [401, 408, 429, 500, 503])
def test_an_adopted_answer_that_decides_nothing_is_nothing_to_follow(code, rig):
    ended = rig.adopt("POST", code)
    assert ended.outcome == "rejected"
    assert "nothing to follow" in ended.error["message"]


def test_a_put_whose_adopted_answer_breaks_off_is_asked_of_the_resource(rig):
    body = '{"properties": {"provisioningState": "Crea'
    running = rig.adopt("PUT", 200, {"Content-Type": "application/json"}, body=body)
    assert isinstance(running, StillRunning)


def test_what_is_prepared_knows_whether_it_may_be_sent_twice(rig):
    def prepared(method, **headers):
        request = {"method": method, "url": URL, "headers": {name.replace("_", "-"): v for name, v in headers.items()}}
        return rig.target.prepare("submit", request, DEFAULT_TERMS)

    assert [prepared(method).retry_safe for method in METHODS] == [True, False, True, False, True]
    assert prepared("POST", Operation_Id="1").retry_safe
    assert prepared("POST").first is None
    adopted = rig.target.prepare("adopt", {"method": "POST", "url": URL, "status": 202}, DEFAULT_TERMS)
    assert isinstance(adopted.first, Ended)
    with pytest.raises(UsageError, match="allow_hosts"):
        rig.target.prepare("submit", {"method": "PUT", "url": f"{FOREIGN}/x"}, DEFAULT_TERMS)


async def test_the_terms_of_what_is_prepared_are_followed(rig):
    terms = FollowTerms(protocol="location", final_state_via="original-uri", poll_query={"a": "1"})
    prepared = rig.target.prepare("submit", {"method": "POST", "url": URL}, terms)
    rig.answers(monitored(202, None, Location=RESULT_AT))
    running = await rig.target.submit(spec_of(prepared.request))
    assert running.ticket.protocol == "location"
    assert (running.ticket.final_state_via, dict(running.ticket.query)) == ("original-uri", {"a": "1"})


async def test_there_is_no_way_to_cancel(rig):
    with pytest.raises(ConflictError, match="no general way to cancel"):
        await rig.target.cancel(spec_of(None), ticket())
    assert rig.requests == []


async def test_what_was_adopted_is_read_when_it_falls_due(rig):
    running = await rig.target.submit(spec_of(Adopt("POST", URL, 202, {"Location": RESULT_AT})))
    assert running.ticket.poll == RESULT_AT
    assert rig.requests == []


async def test_a_request_whose_host_is_no_longer_allowed_is_not_sent(rig):
    ended = await rig.submit("PUT", f"{FOREIGN}/x")
    assert (ended.outcome, ended.error["errorCode"]) == ("rejected", "NotSent")
    assert rig.adopt("PUT", 202, url=f"{FOREIGN}/x").error["errorCode"] == "NotSent"
    assert rig.requests == []


async def test_what_is_not_ours_is_a_mistake_in_the_program(rig):
    with pytest.raises(TypeError):
        await rig.target.submit(spec_of("a request"))
    with pytest.raises(TypeError):
        await rig.poll("a ticket")


async def test_without_a_place_there_is_no_result(rig):
    assert await rig.fetch(ticket()) == NO_RESULT


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_running_ends_with_its_cancellation_and_closes_its_connections(anyio_backend):
    target = AzureTarget(azure_options(), CountedTokens(), FixedClock())
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: target.run(task_status=task_status))
        tasks.cancel_scope.cancel()


# Quotas


@pytest.mark.parametrize(
    ("method", "bucket"),
    [("GET", "reads"), ("PUT", "writes"), ("PATCH", "writes"), ("POST", "writes"), ("DELETE", "deletes")],
)
def test_first_requests_count_by_their_method_and_all_others_as_reads(method, bucket, rig):
    spec = spec_of(Submit(method, URL))
    assert rig.target.quota(spec, "submit", None).name == f"azure.main {bucket}"
    assert rig.target.quota(spec, "poll", ticket()).name == "azure.main reads"
    assert rig.target.quota(spec, "fetch", ticket(result=RESULT_AT)).name == "azure.main reads"


def test_another_host_has_quotas_of_its_own():
    rig = AzureRig(azure_options(allow_hosts=("ops.example.com",), identity="us"))
    elsewhere = ticket(poll="https://ops.example.com/1")
    assert rig.target.quota(spec_of(None), "poll", elsewhere).name == "us ops.example.com reads"
    assert rig.target.quota(spec_of(None), "fetch", elsewhere).name == "us ops.example.com reads"
    assert rig.target.quota(spec_of(None), "poll", None).name == "us reads"
