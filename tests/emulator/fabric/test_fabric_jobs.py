from datetime import UTC, datetime

import pytest

from renewer.emulator.fabric import Ending, Scenario

pytestmark = pytest.mark.anyio

BEGINS = datetime(2026, 4, 27, 6, 50, 18, tzinfo=UTC)

JOBS = "/v1/workspaces/w1/items/i1/jobs/instances"


async def start(client, fabric, **scenario):
    fabric.script(Scenario(**{"name": "minute", "retry_after": 60, "running_s": 110.0, **scenario}))
    return await client.post(JOBS, params={"jobType": "Pipeline"})


async def test_a_job_is_accepted_with_an_empty_body_and_no_operation_id(client, fabric):
    accepted = await start(client, fabric)
    assert accepted.status_code == 202
    assert accepted.content == b""
    assert accepted.headers["retry-after"] == "60"
    assert accepted.headers["location"].startswith(f"http://emu:8323{JOBS}/")
    assert "x-ms-operation-id" not in accepted.headers


async def test_a_job_speaks_its_own_words_and_counts_retry_after_down(client, fabric, clock):
    url = (await start(client, fabric)).headers["location"]
    seen = []
    for moment in (15.5, 59.5, 60, 70, 110):
        clock.now_s = moment
        answer = await client.get(url)
        seen.append((answer.json()["status"], answer.headers.get("retry-after")))
    assert seen == [
        ("NotStarted", "44"),
        ("InProgress", "0"),
        ("InProgress", None),
        ("InProgress", "50"),
        ("Completed", None),
    ]


async def test_a_job_instance_document_has_the_recorded_fields(client, fabric, clock):
    accepted = await start(client, fabric)
    clock.now_s = 110
    document = (await client.get(accepted.headers["location"])).json()
    assert document == {
        "id": accepted.headers["location"].rsplit("/", 1)[1],
        "itemId": "i1",
        "jobType": "Pipeline",
        "invokeType": "Manual",
        "status": "Completed",
        "failureReason": None,
        "rootActivityId": accepted.headers["requestid"],
        "startTimeUtc": "2026-04-27T06:50:18",
        "endTimeUtc": "2026-04-27T06:52:08",
    }


async def test_a_failed_job_gives_its_reason(client, fabric, clock):
    url = (await start(client, fabric, ending=Ending.FAILED)).headers["location"]
    clock.now_s = 110
    document = (await client.get(url)).json()
    assert document["status"] == "Failed"
    assert document["failureReason"]["errorCode"] == "ItemCreationFailed"
    assert document["failureReason"]["isRetriable"] is False


@pytest.mark.parametrize(("ending", "word"), [(Ending.DEDUPED, "Deduped"), (Ending.CANCELLED, "Cancelled")])
async def test_a_job_can_end_in_ways_that_operations_cannot(client, fabric, clock, ending, word):
    url = (await start(client, fabric, ending=ending)).headers["location"]
    clock.now_s = 110
    assert (await client.get(url)).json()["status"] == word


async def test_a_running_job_can_be_cancelled_once(client, fabric):
    url = (await start(client, fabric)).headers["location"]
    cancelled = await client.post(f"{url}/cancel")
    assert cancelled.status_code == 202
    assert cancelled.content == b""
    assert (cancelled.headers["location"], cancelled.headers["retry-after"]) == (url, "60")
    document = (await client.get(url)).json()
    assert (document["status"], document["endTimeUtc"]) == ("Cancelled", None)
    again = await client.post(f"{url}/cancel")
    assert (again.status_code, again.json()["errorCode"]) == (400, "JobAlreadyCompleted")


async def test_a_finished_job_cannot_be_cancelled(client, fabric, clock):
    url = (await start(client, fabric)).headers["location"]
    clock.now_s = 110
    assert (await client.post(f"{url}/cancel")).json()["errorCode"] == "JobAlreadyCompleted"


async def test_the_job_type_may_stand_in_the_path(client, clock):
    accepted = await client.post("/v1/workspaces/w1/lakehouses/i1/jobs/refreshMaterializedLakeViews/instances")
    document = (await client.get(accepted.headers["location"])).json()
    assert document["jobType"] == "refreshMaterializedLakeViews"


async def test_a_job_without_type_is_refused(client):
    answer = await client.post(JOBS)
    assert (answer.status_code, answer.json()["errorCode"]) == (400, "InvalidParameter")


async def test_a_job_is_only_found_under_its_own_item(client, fabric):
    url = (await start(client, fabric)).headers["location"]
    elsewhere = await client.get(url.replace("/i1/", "/i2/"))
    assert (elsewhere.status_code, elsewhere.json()["errorCode"]) == (404, "EntityNotFound")


async def test_the_built_in_job_ends_after_two_polls(client):
    accepted = await client.post(JOBS, params={"jobType": "RunNotebook"}, headers={"x-emulator-scenario": "job"})
    states = [(await client.get(accepted.headers["location"])).json()["status"] for _ in range(3)]
    assert states == ["NotStarted", "InProgress", "Completed"]
