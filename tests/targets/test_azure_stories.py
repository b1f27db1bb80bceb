"""Whole operations: what a service answers, one request after the other, and how that ends.

The first table has the scenarios of the Azure SDKs' common test server for long-running operations.
"""

import json

import pytest

from renewer.ports import FollowTerms
from tests.targets.azure_rig import (
    ASKED,
    HOST,
    MONITOR,
    PRODUCT,
    RESULT_AT,
    AzureRig,
    answer,
    located,
    monitored,
    resource,
    says,
)

pytestmark = pytest.mark.anyio

OP = "Operation-Location"
AAO = "Azure-AsyncOperation"
READY = {"properties": {"provisioningState": "Succeeded"}, **PRODUCT}
DELETING = {"properties": {"provisioningState": "Deleting"}, **PRODUCT}
SKU = {"id": "100", "name": "sku"}
AT_MONITOR = "GET " + MONITOR.partition("?")[0]
AT_RESULT = "GET " + RESULT_AT.partition("?")[0]
AT_RESOURCE = "GET " + ASKED.partition("?")[0]


def stories():
    """(name, method, answers, outcome, what is left, what was asked after the first request)."""
    put_state = {"properties": {"provisioningState": "Accepted"}, **PRODUCT}
    yield "put 200 succeeded", "PUT", [resource("Succeeded")], "succeeded", READY, []
    yield "put 201 succeeded", "PUT", [resource("Succeeded", 201)], "succeeded", READY, []
    yield "put 200 without state", "PUT", [resource(None)], "succeeded", PRODUCT, []
    yield "put 204", "PUT", [answer(204)], "succeeded", None, []
    yield (("put 202 location 200", "PUT", [located(), resource(None)], "succeeded", PRODUCT, [AT_MONITOR]))
    for code, first, last, outcome in (
        (201, "Creating", "Succeeded", "succeeded"),
        (200, "Updating", "Succeeded", "succeeded"),
        (201, "Created", "Failed", "failed"),
        (200, "Accepted", "Canceled", "canceled"),
        (202, "Accepted", "Cancelled", "canceled"),
    ):
        left = READY if outcome == "succeeded" else None
        yield f"put {code} {first} {last}", "PUT", [resource(first, code), resource(last)], outcome, left, [AT_RESOURCE]
    for method in ("PUT", "PATCH"):
        for header in (OP, AAO):
            for code in (200, 201, 202):
                script = [
                    monitored(code, put_state, header=header, Location="somethingBadWhichShouldNotBeUsed"),
                    answer(202, {"status": "Accepted"}, {header: MONITOR}),
                    says("InProgress"),
                    says("Succeeded"),
                    resource("Succeeded"),
                ]
                asked = [AT_MONITOR] * 3 + [AT_RESOURCE]
                yield f"{method} {code} {header}", method, script, "succeeded", READY, asked
    for outcome in ("failed", "canceled"):
        script = [monitored(200, put_state), says(outcome.title())]
        yield f"putasync {outcome}", "PUT", script, outcome, None, [AT_MONITOR]
    ignored = {AAO: f"{HOST}/fakeurl"}
    yield "patch ignoreheaders", "PATCH", [resource("Succeeded", 200, ignored)], "succeeded", READY, []
    yield (
        "patch 202 with a state that is not believed",
        "PATCH",
        [monitored(202, READY, Location=RESULT_AT), says("Succeeded"), resource("Succeeded")],
        "succeeded",
        READY,
        [AT_MONITOR, AT_RESOURCE],
    )
    yield (
        "put noheader",
        "PUT",
        [located(202, put_state), answer(202), resource("Succeeded")],
        "succeeded",
        READY,
        [AT_MONITOR] * 2,
    )
    yield (
        "putnonresource",
        "PUT",
        [located(), answer(202), answer(200, SKU)],
        "succeeded",
        SKU,
        [AT_MONITOR] * 2,
    )
    yield "delete 204", "DELETE", [answer(204)], "succeeded", None, []
    yield "delete noheader", "DELETE", [located(), answer(202), answer(204)], "succeeded", None, [AT_MONITOR] * 2
    yield "delete 202 200", "DELETE", [located(), answer(200)], "succeeded", None, [AT_MONITOR]
    yield (
        "deleteasync",
        "DELETE",
        [monitored(202, Location="somethingBadWhichShouldNotBeUsed"), says("InProgress"), says("Succeeded")],
        "succeeded",
        None,
        [AT_MONITOR] * 2,
    )
    yield "deleteasync failed", "DELETE", [monitored(), says("Failed")], "failed", None, [AT_MONITOR]
    yield (
        "delete provisioning succeeded",
        "DELETE",
        [located(202, DELETING), resource("Succeeded")],
        "succeeded",
        READY,
        [AT_MONITOR],
    )
    # A 200 that comes with the word Failed: the SDK for Go believes the word, that for Python the code.
    yield (
        "delete provisioning failed",
        "DELETE",
        [located(202, DELETING), resource("Failed")],
        "failed",
        None,
        [AT_MONITOR],
    )
    moved = f"{HOST}/lro/post/newuri"
    yield (
        "post that moves",
        "POST",
        [located(202, Retry_After="0"), located(202, location=moved), resource("Succeeded")],
        "succeeded",
        READY,
        [AT_MONITOR, f"GET {moved}"],
    )
    yield "post payload", "POST", [located(), answer(200, SKU)], "succeeded", SKU, [AT_MONITOR]
    yield "post text", "POST", [located(), answer(200, "success")], "succeeded", "success", [AT_MONITOR]
    yield "post 204", "POST", [located(), answer(204)], "succeeded", None, [AT_MONITOR]
    yield (
        "post double headers, final location",
        "POST",
        [monitored(202, Location=RESULT_AT), says("succeeded"), answer(200, PRODUCT)],
        "succeeded",
        PRODUCT,
        [AT_MONITOR, AT_RESULT],
    )
    yield (
        "post list",
        "POST",
        [monitored(202, Location=RESULT_AT), says("Succeeded"), answer(200, [PRODUCT])],
        "succeeded",
        [PRODUCT],
        [AT_MONITOR, AT_RESULT],
    )
    monitor = {"status": "Succeeded", "properties": {"n": 1}}
    yield "postasync", "POST", [monitored(), answer(200, monitor)], "succeeded", monitor, [AT_MONITOR]
    yield "post nolocation", "POST", [answer(202)], "unpollable", None, []
    yield "delete nolocation", "DELETE", [answer(202)], "unpollable", None, []
    yield (
        "post whose monitor says it all at once",
        "POST",
        [answer(202, {"id": "1", "status": "Succeeded", "result": {"n": 1}})],
        "succeeded",
        {"n": 1},
        [],
    )
    yield "post done at once", "POST", [answer(200, SKU)], "succeeded", SKU, []
    for method in ("PUT", "POST", "DELETE", "PATCH"):
        yield f"{method} 400", method, [answer(400, {"message": "Expected bad request message"})], "rejected", None, []
    done = {"status": "Succeeded", "n": 1}
    yield "get of a monitor", "GET", [says("Running"), says("Succeeded", n=1)], "succeeded", done, [AT_RESOURCE]
    yield (
        "get of a resource on its way",
        "GET",
        [resource("Creating"), resource("Succeeded")],
        "succeeded",
        READY,
        [AT_RESOURCE],
    )


STORIES = list(stories())


@pytest.mark.parametrize(
    ("method", "script", "outcome", "left", "asked"), [story[1:] for story in STORIES], ids=[one[0] for one in STORIES]
)
async def test_an_operation_ends_as_its_service_says(method, script, outcome, left, asked):
    followed = await AzureRig().follow(method, *script)
    assert followed.outcome == outcome, followed
    assert followed.left == left
    assert followed.asked == [f"{method} {ASKED.partition('?')[0]}", *asked]


def finals():
    """(final_state_via, method, Location given, resourceLocation given, where the result is)."""
    own, location, original, named, none = "own", RESULT_AT, ASKED, f"{HOST}/named", None
    for via in (None, "location", "operation-location", "azure-async-operation", "original-uri"):
        for has_location in (False, True):
            for has_named in (False, True):
                by_default = {
                    "PUT": named if has_named else original,
                    "PATCH": named if has_named else original,
                    "POST": named if has_named else location if has_location else own,
                    "DELETE": none,
                }
                for method, default in by_default.items():
                    if via == "original-uri":
                        where = original
                    elif via == "location" and has_location:
                        where = location
                    elif via in ("operation-location", "azure-async-operation") and method in ("POST", "DELETE"):
                        where = own
                    else:
                        where = default
                    yield via, method, has_location, has_named, where


@pytest.mark.parametrize(("via", "method", "has_location", "has_named", "where"), list(finals()))
@pytest.mark.parametrize("header", [OP, AAO])
async def test_the_result_is_where_final_state_via_says_or_else_custom(
    via, method, has_location, has_named, where, header
):
    document = {"status": "Succeeded", **({"resourceLocation": "/named"} if has_named else {})}
    first = monitored(202, None, header=header, **({"Location": RESULT_AT} if has_location else {}))
    rig = AzureRig()
    script = [first, answer(200, document)]
    if where not in ("own", None):
        script.append(answer(200, PRODUCT))
    followed = await rig.follow(method, *script, terms=FollowTerms(final_state_via=via))
    assert followed.outcome == "succeeded"
    assert followed.left == {"own": document, None: None}.get(where, PRODUCT)
    assert rig.urls[2:] == ([] if where in ("own", None) else [where])


@pytest.mark.parametrize("protocol", ["operation-location", "azure-async-operation", "location", "body"])
async def test_the_protocol_that_the_caller_names_is_used_whatever_else_is_there(protocol):
    places = {"Operation-Location": f"{HOST}/op", AAO: f"{HOST}/aao", "Location": f"{HOST}/loc"}
    wanted = {"operation-location": "/op", "azure-async-operation": "/aao", "location": "/loc"}
    rig = AzureRig().answers(answer(202, None, places), answer(202))
    running = await rig.submit("PUT", terms=FollowTerms(protocol=protocol))
    await rig.poll(running.ticket)
    assert rig.urls[1] == (ASKED if protocol == "body" else HOST + wanted[protocol])


async def test_auto_prefers_operation_location_then_azure_async_operation_then_location():
    places = {"Location": f"{HOST}/loc", AAO: f"{HOST}/aao", "Operation-Location": f"{HOST}/op"}
    for expected in ("op", "aao", "loc"):
        rig = AzureRig()
        running = rig.adopt("POST", 202, places)
        assert running.ticket.poll == f"{HOST}/{expected}"
        places.pop({"op": "Operation-Location", "aao": AAO, "loc": "Location"}[expected])


async def test_polls_carry_the_headers_and_the_query_of_the_operation():
    terms = FollowTerms(
        poll_query={"api-version": "2030-01-01", "tenant": "a b&c"}, poll_headers={"x-ms-client-request-id": "r1"}
    )
    rig = AzureRig().answers(
        answer(202, None, {"Operation-Location": "/bare"}),
        says("Running", {"Operation-Location": f"{HOST}/next?API-Version=2026-01-01"}),
        says("Succeeded", resourceLocation="/named"),
        answer(200, PRODUCT),
    )
    running = await rig.submit("POST", terms=terms, headers={"x-first": "1"})
    running = await rig.poll(running.ticket)
    done = await rig.poll(running.ticket)
    await rig.fetch(done.ticket)
    assert rig.urls[1:] == [
        f"{HOST}/bare?api-version=2030-01-01&tenant=a%20b%26c",
        f"{HOST}/next?API-Version=2026-01-01&tenant=a%20b%26c",
        f"{HOST}/named?api-version=2030-01-01&tenant=a%20b%26c",
    ]
    assert [request.headers.get("x-ms-client-request-id") for request in rig.requests] == [None, "r1", "r1", "r1"]
    assert [request.headers.get("x-first") for request in rig.requests] == ["1", None, None, None]
    assert {request.headers["authorization"] for request in rig.requests} == {"Bearer token-1"}


async def test_the_cookies_of_an_operation_come_back_with_each_of_its_requests():
    rig = AzureRig()
    await rig.follow(
        "POST",
        monitored(202, None, Location=RESULT_AT, Set_Cookie="node=7; Path=/"),
        says("Running", {"Set-Cookie": "scenario=x; Path=/"}),
        says("Succeeded", {"Set-Cookie": "scenario=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT"}),
        answer(200, PRODUCT),
    )
    cookies = [request.headers.get("cookie") for request in rig.requests]
    assert [sorted((text or "").split("; ")) for text in cookies] == [
        [""],
        ["node=7"],
        ["node=7", "scenario=x"],
        ["node=7"],
    ]


async def test_the_result_member_of_a_monitor_is_kept_byte_for_byte():
    document = b'{"id":"1","result" : {"n": 1.00, "big":12345678901234567890e400,"t":"\\u00e4"} ,"status":"Succeeded"}'
    followed = await AzureRig().follow("POST", monitored(202), answer(200, document))
    assert followed.result.body == b'{"n": 1.00, "big":12345678901234567890e400,"t":"\\u00e4"}'
    assert json.loads(followed.result.body)["t"] == "ä"


async def test_a_monitor_without_a_result_is_the_result_itself():
    document = {"status": "Succeeded", "analyzeResult": {"pages": 3}, "result": None}
    followed = await AzureRig().follow("POST", monitored(202, header=OP), answer(200, document))
    assert followed.left == document
