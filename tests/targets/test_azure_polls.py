"""Polls: what each answer says of the operation, and what it does not."""

import json

import httpx
import pytest

from renewer.core.model import NO_RESULT, Ended, Result, StillRunning, Succeeded
from renewer.errors import TransientError
from tests.targets.azure_rig import (
    FOREIGN,
    HOST,
    MONITOR,
    PRODUCT,
    AzureRig,
    answer,
    azure_options,
    resource,
    says,
    ticket,
)

pytestmark = pytest.mark.anyio

MONITORS = ["operation-location", "azure-async-operation"]
HEADER = {
    "operation-location": "Operation-Location",
    "azure-async-operation": "Azure-AsyncOperation",
    "location": "Location",
}


@pytest.fixture
def rig():
    return AzureRig()


async def failure(awaitable):
    with pytest.raises(TransientError) as caught:
        await awaitable
    return caught.value


@pytest.mark.parametrize("protocol", MONITORS)
@pytest.mark.parametrize(
    ("word", "recognised"),
    [
        ("InProgress", True),
        ("Running", True),
        ("NotStarted", True),
        ("ACCEPTED", True),
        ("Creating", True),
        ("Canceling", True),
        ("PreparingVMDisk", False),
        ("Completed", False),
        ("Succeeded ", False),
        ("partiallySucceeded", False),
    ],
)
async def test_every_word_but_the_final_ones_means_running(protocol, word, recognised, rig):
    rig.answers(says(word, {"Retry-After": "7"}))
    assert await rig.poll(ticket(protocol)) == StillRunning(word, recognised, 7.0)


@pytest.mark.parametrize(
    ("word", "outcome"),
    [("Failed", "failed"), ("FAILED", "failed"), ("Canceled", "canceled"), ("cancelled", "canceled")],
)
@pytest.mark.parametrize("protocol", MONITORS)
async def test_a_failure_has_the_services_reason_whole(protocol, word, outcome, rig):
    error = {"code": "BadArgument", "message": "no", "details": [{"code": "Y"}], "innererror": {"code": "Z"}, "new": 1}
    rig.answers(says(word, {"x-ms-request-id": "r-1"}, error=error))
    ended = await rig.poll(ticket(protocol))
    assert ended == Ended(
        outcome, word, {"errorCode": "BadArgument", "message": "no", "error": error, "requestId": "r-1"}
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"error": {"code": 500, "message": "Internal"}}, {"errorCode": "500", "message": "Internal"}),
        ({"error": {"message": "m"}}, {"errorCode": "Failed", "message": "m"}),
        ({"error": {"code": True}}, {"errorCode": "Failed", "message": "the service gave no reason"}),
        ({"error": "told in a text"}, {"errorCode": "Failed", "message": "told in a text"}),
        ({"properties": {"error": {"code": "X", "message": "m"}}}, {"errorCode": "X", "message": "m"}),
        ({"errors": [{"code": "X"}]}, {"errorCode": "Failed", "message": "the service gave no reason"}),
        ({"error": None}, {"errorCode": "Failed", "message": "the service gave no reason"}),
    ],
)
async def test_code_and_message_are_at_the_top_whatever_the_form(fields, expected, rig):
    rig.answers(says("Failed", **fields))
    error = (await rig.poll(ticket())).error
    assert {name: error[name] for name in ("errorCode", "message")} == expected
    if "errors" in fields:
        assert error["document"] == {"status": "Failed", **fields}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "garbage"),
        (b"null", "garbage"),
        (b"[]", "garbage"),
        (b'{"status": "Succeeded"', "garbage"),
        (b"<html>Succeeded</html>", "garbage"),
        (b"{}", "garbage"),
        (b'{"status": null}', "garbage"),
        (b'{"status": ""}', "garbage"),
        (b'{"status": 200}', "garbage"),
        (b'{"Status": "Succeeded"}', "garbage"),
        (b'{"properties": {"provisioningState": "Succeeded"}}', "garbage"),
        (b"\xff\xfe{", "garbage"),
    ],
)
@pytest.mark.parametrize("code", [200, 201, 204])
@pytest.mark.parametrize("protocol", MONITORS)
async def test_a_monitor_without_a_status_says_nothing(protocol, body, kind, code, rig):
    rig.answers(httpx.Response(code, content=body, headers={"Content-Type": "application/json"}))
    assert (await failure(rig.poll(ticket(protocol)))).kind == kind


@pytest.mark.parametrize("protocol", [*MONITORS, "location", "body"])
@pytest.mark.parametrize("body", [b"", b"null", b"<html>", b'{"status": 5}', b"[1]", b'{"status": "New"}'])
async def test_a_202_means_running_whatever_its_body(protocol, body, rig):
    rig.answers(httpx.Response(202, content=body, headers={"Retry-After": "3"}))
    running = await rig.poll(ticket(protocol))
    assert isinstance(running, StillRunning)
    assert running.retry_after_s == 3.0


@pytest.mark.parametrize("protocol", [*MONITORS, "location", "body"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
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
    ],
)
async def test_an_error_while_asking_is_not_the_operations_error(protocol, code, kind, rig):
    body = {"status": "Failed", "error": {"code": "C", "message": "m"}}
    rig.answers(answer(code, body, {"Retry-After": "9", "Location": f"{HOST}/elsewhere"}))
    error = await failure(rig.poll(ticket(protocol)))
    assert (error.kind, error.retry_after_s) == (kind, 9.0)


async def test_progress_and_moments_are_passed_on(rig):
    rig.answers(says("Running", percentComplete=33.3, startTime="1970-01-01T00:01:00Z"))
    assert await rig.poll(ticket()) == StillRunning("Running", percent_complete=33.3, started_at=60.0)
    rig.answers(says("Running", createdDateTime="1970-01-01T00:01:00.5", lastUpdatedDateTime="1970-01-01T00:02:00"))
    running = await rig.poll(ticket())
    assert (running.started_at, running.updated_at) == (60.5, 120.0)
    rig.answers(says("Running", startTime="soon", percentComplete="1", properties={"percentComplete": 5}))
    running = await rig.poll(ticket())
    assert (running.started_at, running.percent_complete) == (None, 5.0)


@pytest.mark.parametrize("protocol", [*MONITORS, "location"])
async def test_the_state_may_move_to_where_the_header_of_its_kind_says(protocol, rig):
    others = {header: f"{HOST}/other" for kind, header in HEADER.items() if kind != protocol}
    code = 202 if protocol == "location" else 200
    rig.answers(answer(code, {"status": "Running"}, {HEADER[protocol]: "../next", **others}))
    running = await rig.poll(ticket(protocol))
    assert running.ticket.poll == f"{HOST}/subscriptions/s1/next"
    rig.answers(answer(code, {"status": "Running"}, others))
    assert (await rig.poll(ticket(protocol))).ticket is None


@pytest.mark.parametrize("protocol", [*MONITORS, "location"])
@pytest.mark.parametrize("place", [f"{FOREIGN}/x", "http://management.azure.com/x", "https://u@management.azure.com/x"])
async def test_a_state_that_moves_to_a_host_that_is_not_allowed_is_asked_at_the_old_place(protocol, place, rig):
    rig.answers(answer(202, {"status": "Running"}, {HEADER[protocol]: place, "Retry-After": "5"}))
    error = await failure(rig.poll(ticket(protocol)))
    assert (error.kind, error.retry_after_s) == ("unauthorized", 5.0)
    assert "u@" not in str(error)
    if place == f"{FOREIGN}/x":
        assert f"{FOREIGN}," in str(error)
        assert "add it to allow_hosts of [azure.main]" in str(error)
    assert rig.urls == [MONITOR]


async def test_a_host_that_is_no_longer_allowed_is_not_asked():
    rig = AzureRig(azure_options(allow_hosts=("ops.example.com",))).answers(says("Running"))
    there = ticket(poll="https://ops.example.com/o1")
    await rig.poll(there)
    rig = AzureRig()
    error = await failure(rig.poll(there))
    assert (error.kind, error.condition) == ("unauthorized", "HostNotAllowed")
    assert "https://ops.example.com" in str(error)
    assert rig.urls == []


# Location


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("code", [200, 201, 203])
async def test_a_success_at_location_has_the_result(method, code, rig):
    rig.answers(answer(code, b'{"n":1.0}'))
    assert await rig.poll(ticket("location", method)) == Succeeded(
        result=Result("json", "application/json", b'{"n":1.0}')
    )


async def test_a_204_at_location_has_no_result(rig):
    rig.answers(answer(204))
    assert await rig.poll(ticket("location", "DELETE")) == Succeeded(result=NO_RESULT)


async def test_a_result_at_location_that_breaks_off_is_asked_for_again(rig):
    rig.answers(answer(200, b'{"n":'))
    assert (await failure(rig.poll(ticket("location", "POST")))).kind == "garbage"


@pytest.mark.parametrize("header", ["Retry-After", "Location"])
async def test_a_monitor_at_location_that_says_it_runs_is_no_result(header, rig):
    text = "20" if header == "Retry-After" else MONITOR
    rig.answers(says("Running", {header: text}, percentComplete=5))
    running = await rig.poll(ticket("location", "POST"))
    assert isinstance(running, StillRunning)
    assert (running.status, running.percent_complete) == ("Running", 5.0)


@pytest.mark.parametrize("status", ["Running", "Active", "Succeeded", "Failed"])
async def test_a_result_at_location_may_have_a_status_of_its_own(status, rig):
    rig.answers(says(status, n=1))
    assert json.loads((await rig.poll(ticket("location", "POST"))).result.body) == {"status": status, "n": 1}


async def test_a_monitor_at_location_that_failed_with_an_error_failed(rig):
    rig.answers(says("Failed", error={"code": "X", "message": "m"}))
    assert (await rig.poll(ticket("location", "POST"))).outcome == "failed"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    ("word", "expected"),
    [("Succeeded", Succeeded), ("Updating", StillRunning), ("Odd", StillRunning), ("Failed", Ended)],
)
async def test_a_resource_at_location_is_believed_before_the_code(method, word, expected, rig):
    rig.answers(resource(word))
    assert isinstance(await rig.poll(ticket("location", method)), expected)


async def test_what_a_post_leaves_behind_may_be_a_resource_in_whatever_state(rig):
    rig.answers(resource("Failed"))
    assert isinstance(await rig.poll(ticket("location", "POST")), Succeeded)


# The resource itself


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_a_resource_without_state_is_done_and_is_the_result(method, rig):
    rig.answers(resource(None))
    done = await rig.poll(ticket("body", method))
    assert json.loads(done.result.body) == PRODUCT


async def test_a_state_at_the_top_of_a_resource_counts_too(rig):
    rig.answers(answer(200, {"provisioningState": "Updating"}), answer(200, {"provisioningState": "Failed"}))
    assert (await rig.poll(ticket("body"))).status == "Updating"
    assert (await rig.poll(ticket("body"))).outcome == "failed"


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'{"properties":', b'{"properties": {"provisioningState": 1}}'])
async def test_a_resource_that_cannot_be_read_says_nothing(body, rig):
    rig.answers(answer(200, body))
    assert (await failure(rig.poll(ticket("body")))).kind == "garbage"


async def test_a_resource_that_failed_shows_its_document(rig):
    rig.answers(resource("Failed"))
    ended = await rig.poll(ticket("body"))
    assert (ended.status, ended.error["errorCode"], ended.error["document"]["id"]) == ("Failed", "Failed", "100")


@pytest.mark.parametrize("code", [404, 410])
async def test_a_resource_that_was_to_be_deleted_and_is_gone_is_a_success(code, rig):
    rig.answers(answer(code))
    assert await rig.poll(ticket("body", "DELETE")) == Succeeded()
    rig.answers(answer(code))
    assert (await failure(rig.poll(ticket("body", "PUT")))).kind == "not_found"


@pytest.mark.parametrize("protocol", [*MONITORS, "location", "body"])
async def test_a_part_of_an_answer_says_nothing(protocol, rig):
    rig.answers(answer(206, {"status": "Succeeded"}))
    with pytest.raises(TransientError) as caught:
        await rig.poll(ticket(protocol, "POST"))
    assert caught.value.kind == "garbage"


async def test_a_status_without_end_is_cut(rig):
    rig.answers(says("R" * 100_000))
    assert (await rig.poll(ticket())).status == "R" * 200
