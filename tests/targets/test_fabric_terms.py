"""What a caller may say of how an operation is followed, and whose quotas the requests count against."""

from __future__ import annotations

import json

import httpx
import pytest

from renewer.core.model import Ended, StillRunning, Succeeded
from renewer.core.quotas import Limit, Quota
from renewer.errors import TransientError, UsageError
from renewer.ports import FollowTerms
from renewer.targets.fabric import Ticket
from renewer.targets.rest import Adopt, Submit
from tests.targets.fabric_rig import (
    ACCEPTED,
    HOST,
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

TERMS = FollowTerms(poll_query={"beta": "true", "x y": "ä&="}, poll_headers={"x-tenant": "t1", "Accept": "text/plain"})
ADDED = "beta=true&x%20y=%C3%A4%26%3D"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        (FollowTerms(protocol="location"), "protocol"),
        (FollowTerms(protocol="body"), "protocol"),
        (FollowTerms(final_state_via="original-uri"), "final_state_via"),
    ],
)
@pytest.mark.parametrize("how", ["submit", "adopt"])
def test_fabric_has_one_protocol(terms: FollowTerms, field: str, how: str, rig: Rig) -> None:
    document = {"method": "POST", "url": "/x", **({"status": 202} if how == "adopt" else {})}
    with pytest.raises(UsageError, match=rf"^{field}: goes with \[azure\.NAME\] accounts"):
        rig.target.prepare(how, document, terms)


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        (FollowTerms(poll_headers={"Authorization": "Bearer secret"}), "poll_headers.Authorization"),
        (FollowTerms(poll_headers={"cookie": "secret"}), "poll_headers.cookie"),
        (FollowTerms(poll_headers={"HOST": "secret"}), "poll_headers.HOST"),
        (FollowTerms(poll_headers={"x-a": "secret\r\nHost: evil"}), "poll_headers.x-a"),
        (FollowTerms(poll_headers={"x a": "secret"}), "poll_headers.x a"),
        (FollowTerms(poll_query={"": "secret"}), "poll_query."),
        (FollowTerms(poll_query={"a": "secret\n"}), "poll_query.a"),
        (FollowTerms(poll_query={"a": "secret\ud800"}), "poll_query.a"),
        (FollowTerms(poll_query={"a": "secret" * 1000}), "poll_query"),
    ],
)
def test_terms_that_cannot_be_kept_are_refused_naming_the_field(terms: FollowTerms, field: str, rig: Rig) -> None:
    with pytest.raises(UsageError) as caught:
        rig.target.prepare("submit", {"method": "POST", "url": "/x"}, terms)
    assert str(caught.value).startswith(f"{field}: ")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("adopted", [False, True])
async def test_polls_and_the_result_carry_the_query_and_the_headers(adopted: bool, rig: Rig) -> None:
    if adopted:
        first = adopt(ACCEPTED, rig=rig, terms=TERMS)
    else:
        rig.answers(reply(202, None, ACCEPTED))
        first = await rig.submit("/x?beta=false", terms=TERMS)
        assert rig.urls == [f"{HOST}/v1/x?beta=false"]
        assert "x-tenant" not in rig.requests[0].headers
        rig.requests.clear()
    assert isinstance(first, StillRunning)
    rig.answers(state("Succeeded", {"Location": f"{HOST}{RESULT_PATH}"}), reply(200, {"id": 1}))
    done = await rig.poll(first.ticket)
    assert isinstance(done, Succeeded)
    await rig.fetch(done.ticket)
    assert rig.urls == [f"{HOST}{STATE_PATH}?{ADDED}", f"{HOST}{RESULT_PATH}?{ADDED}"]
    for request in rig.requests:
        assert request.headers["x-tenant"] == "t1"
        assert request.headers.get_list("accept") == ["text/plain"]
        assert request.headers["authorization"] == "Bearer token-1"


async def test_a_state_url_itself_is_asked_on_the_same_terms(rig: Rig) -> None:
    rig.answers(state("Running"), state("Running"))
    first = await rig.submit(STATE_PATH, "GET", headers={"x-tenant": "t2"}, terms=TERMS)
    await rig.poll(first.ticket)
    assert rig.urls == [f"{HOST}{STATE_PATH}?{ADDED}"] * 2
    assert [request.headers["x-tenant"] for request in rig.requests] == ["t2", "t1"]


async def test_cancelling_is_asked_on_the_same_terms(rig: Rig) -> None:
    rig.answers(httpx.Response(202))
    await rig.target.cancel(spec_of(None), Ticket(JOB_PATH, query={"beta": "true"}, headers={"x-tenant": "t1"}))
    assert rig.urls == [f"{HOST}{JOB_PATH}/cancel?beta=true"]
    assert rig.requests[0].headers["x-tenant"] == "t1"


async def test_a_parameter_that_a_location_has_already_is_not_added_again(rig: Rig) -> None:
    first = adopt({"Location": f"{HOST}/v1/identities/x?BETA=1&t=2"}, terms=FollowTerms(poll_query={"beta": "true"}))
    rig.answers(httpx.Response(202, headers={"Location": f"{HOST}/v1/identities/y"}), httpx.Response(204))
    second = await rig.poll(first.ticket)
    await rig.poll(second.ticket)
    assert rig.urls == [f"{HOST}/v1/identities/x?BETA=1&t=2", f"{HOST}/v1/identities/y?beta=true"]


async def test_cookies_are_kept_for_one_operation_and_seen_by_no_other(rig: Rig) -> None:
    rig.answers(
        reply(202, None, {**ACCEPTED, "Set-Cookie": "lane=a; Path=/; HttpOnly"}),
        reply(202, None, ACCEPTED),
        state("Running", {"Set-Cookie": "lane=b; Path=/"}),
        state("Running"),
        state("Succeeded", {"Location": f"{HOST}{RESULT_PATH}"}),
        reply(200, {}),
        state("Running"),
    )
    mine, other = await rig.submit(), await rig.submit()
    moved = await rig.poll(mine.ticket)
    same = await rig.poll(moved.ticket)
    assert same.ticket is None
    done = await rig.poll(moved.ticket)
    await rig.fetch(done.ticket)
    await rig.poll(other.ticket)
    assert [request.headers.get("cookie") for request in rig.requests] == [
        None,
        None,
        "lane=a",
        "lane=b",
        "lane=b",
        "lane=b",
        None,
    ]


def test_cookies_of_an_adopted_answer_are_kept_though_they_came_joined() -> None:
    headers = {**ACCEPTED, "Set-Cookie": "a=1; Expires=Wed, 21 Oct 2099 07:28:00 GMT; Path=/, b=2; Path=/, c=3,d"}
    answer = adopt(headers)
    assert [(cookie.name, cookie.value) for cookie in answer.ticket.cookies] == [("a", "1"), ("b", "2"), ("c", "3,d")]


async def test_what_a_ticket_carries_survives_being_stored(rig: Rig) -> None:
    answer = adopt({**ACCEPTED, "Set-Cookie": "lane=a; Path=/"}, terms=TERMS, rig=rig)
    ticket = rig.target.load_ticket(json.loads(json.dumps(rig.target.dump_ticket(answer.ticket))))
    rig.answers(state("Running"))
    await rig.poll(ticket)
    [request] = rig.requests
    assert (str(request.url), request.headers["cookie"]) == (f"{HOST}{STATE_PATH}?{ADDED}", "lane=a")


@pytest.mark.parametrize("operation_id", ["../../admin", "x", f"{OPERATION_ID}/../..", f"{OPERATION_ID}?a=b", "%2e%2e"])
def test_an_operation_id_that_is_no_uuid_ends_up_in_no_url(operation_id: str) -> None:
    answer = adopt({"x-ms-operation-id": operation_id})
    assert isinstance(answer, Ended)
    followed = adopt({"x-ms-operation-id": operation_id, "Location": f"{HOST}/v1/identities/x"})
    assert followed.ticket == Ticket("/v1/identities/x")


@pytest.mark.parametrize(
    ("method", "headers", "safe"),
    [
        ("GET", {}, True),
        ("PUT", {}, True),
        ("DELETE", {}, True),
        ("PATCH", {}, False),
        ("POST", {}, False),
        ("POST", {"OPERATION-ID": "1"}, True),
        ("PATCH", {"repeatability-request-id": "1"}, True),
        ("POST", {"x-operation-id": "1"}, False),
    ],
)
def test_what_may_be_sent_twice(method: str, headers: dict[str, str], safe: bool, rig: Rig) -> None:
    document = {"method": method, "url": "/x", "headers": headers}
    assert rig.target.prepare("submit", document).retry_safe is safe
    assert rig.target.prepare("adopt", {**document, "status": 202}).retry_safe is False


# Quotas.

PRIVATE = "https://abc.zab.w.api.fabric.microsoft.com"
LIMIT = Limit(200, 60.0)


@pytest.fixture
def counted() -> Rig:
    limits = {"platform": LIMIT, "jobs": LIMIT, "operations": None}
    return Rig(options=fabric_options(allow_hosts=("*.w.api.fabric.microsoft.com",), limits=limits, max_connections=7))


@pytest.mark.parametrize(
    ("url", "bucket"),
    [
        ("/workspaces/w1/notebooks", "platform"),
        ("https://api.fabric.microsoft.com/v1/workspaces", "platform"),
        ("/workspaces/w1/items/i1/jobs/RunNotebook/instances?jobs=1", "jobs"),
        (JOB_PATH, "jobs"),
        ("/workspaces/w1/items/i1/Jobs/instances?jobType=x", "jobs"),
        ("/workspaces/w1?next=/jobs/", "platform"),
        (STATE_PATH, "operations"),
        (f"/operations/{OPERATION_ID}/result", "operations"),
        ("/operations/x", "platform"),
        ("https://evil.example/x", "platform"),
    ],
)
def test_a_first_request_counts_against_the_bucket_of_its_path(url: str, bucket: str, counted: Rig) -> None:
    quota = counted.target.quota(spec_of(Submit("POST", url)), "submit", None)
    assert quota == Quota(f"fabric.main {bucket}", None if bucket == "operations" else LIMIT, 7)
    assert counted.target.quota(spec_of(Adopt("POST", url, 202)), "submit", None) == quota


@pytest.mark.parametrize(
    ("asking", "ticket", "name"),
    [
        ("poll", Ticket(STATE_PATH, RESULT_PATH), "fabric.main operations"),
        ("fetch", Ticket(STATE_PATH, RESULT_PATH), "fabric.main operations"),
        ("poll", Ticket(JOB_PATH), "fabric.main jobs"),
        ("fetch", Ticket(JOB_PATH), "fabric.main jobs"),
        ("poll", Ticket("/v1/identities/x"), "fabric.main platform"),
        ("fetch", Ticket("/v1/identities/x", "/v1/jobs/y"), "fabric.main jobs"),
        ("poll", Ticket(STATE_PATH, origin=PRIVATE), "fabric.main abc.zab.w.api.fabric.microsoft.com operations"),
        ("poll", Ticket(STATE_PATH, origin="https://h.example:8443"), "fabric.main h.example:8443 operations"),
        ("poll", Ticket(STATE_PATH, origin="nonsense"), "fabric.main platform"),
        ("poll", None, "fabric.main platform"),
        ("poll", "ticket", "fabric.main platform"),
    ],
)
def test_later_requests_count_against_the_bucket_of_their_place(
    asking: str, ticket: object, name: str, counted: Rig
) -> None:
    assert counted.target.quota(spec_of(None), asking, ticket).name == name


def test_accounts_of_one_identity_share_their_quotas() -> None:
    rig = Rig(options=fabric_options(identity="fabric.first"))
    assert rig.target.quota(spec_of(Submit("POST", "/x")), "submit", None) == Quota("fabric.first platform", None, 64)


async def test_a_refusal_to_tell_is_told_as_such(rig: Rig) -> None:
    rig.answers(reply(400, {"errorCode": "InvalidWorkloadId", "message": "m"}))
    with pytest.raises(TransientError) as caught:
        await rig.poll(Ticket(STATE_PATH))
    assert (caught.value.kind, caught.value.condition) == ("refused", "InvalidWorkloadId")
