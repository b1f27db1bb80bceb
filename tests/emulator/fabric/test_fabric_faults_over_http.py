import anyio
import pytest

from renewer.emulator.faults import Fault, FaultAction

pytestmark = pytest.mark.anyio

NOTEBOOKS = "/v1/workspaces/w1/notebooks"


async def create(client, name="nightly"):
    return await client.post(NOTEBOOKS, json={"displayName": name})


async def test_an_expired_token_is_told_as_fabric_tells_it(client, faults):
    faults.add(Fault(on="fabric.submit", action=FaultAction.UNAUTHORIZED, times=1))
    answer = await create(client)
    assert answer.status_code == 401
    assert answer.headers["x-ms-public-api-error-code"] == "TokenExpired"
    assert answer.json()["errorCode"] == "TokenExpired"
    assert (await create(client)).status_code == 202


async def test_busy_is_a_429_with_the_retry_after_that_was_scripted(client, faults):
    faults.add(Fault(on="fabric.submit", action=FaultAction.BUSY, retry_after=42, times=1))
    answer = await create(client)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "42")
    assert answer.json()["errorCode"] == "RequestBlocked"


async def test_any_status_can_be_scripted_for_a_poll(client, faults):
    accepted = await create(client)
    faults.add(
        Fault(
            on="fabric.poll",
            action=FaultAction.STATUS,
            status=503,
            retry_after="Wed, 21 Oct 2026 07:28:00 GMT",
            condition="ServiceUnavailable",
            message="Later",
            times=1,
        )
    )
    answer = await client.get(accepted.headers["location"])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "Wed, 21 Oct 2026 07:28:00 GMT")
    assert (answer.json()["errorCode"], answer.json()["message"]) == ("ServiceUnavailable", "Later")
    assert (await client.get(accepted.headers["location"])).status_code == 200


@pytest.mark.parametrize(("status", "body"), [(202, b"null"), (204, b""), (200, b"null")])
async def test_a_scripted_status_below_400_has_no_error(client, faults, status, body):
    faults.add(Fault(on="fabric.submit", action=FaultAction.STATUS, status=status))
    answer = await create(client)
    assert (answer.status_code, answer.content) == (status, body)


async def test_a_fault_can_be_meant_for_one_operation_or_name(client, faults):
    faults.add(Fault(on="fabric.submit", action=FaultAction.BUSY, match={"display_name": "b*", "workspace_id": "w1"}))
    assert (await create(client, "a")).status_code == 202
    assert (await create(client, "b")).status_code == 429
    accepted = await create(client, "c")
    operation_id = accepted.headers["x-ms-operation-id"]
    faults.add(Fault(on="fabric.poll", action=FaultAction.BUSY, match={"operation_id": operation_id}))
    assert (await client.get(accepted.headers["location"])).status_code == 429


@pytest.mark.parametrize("action", [FaultAction.LOSE_REPLY, FaultAction.DROP])
async def test_a_lost_reply_is_carried_out_and_a_dropped_request_is_not(client, faults, fabric, action):
    faults.add(Fault(on="fabric.submit", action=action, times=1))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(create, client)
        with anyio.fail_after(5):
            await fabric.wait_for_requests(1)
        tasks.cancel_scope.cancel()
    [record] = fabric.requests
    assert (record.status, record.fault) == (None, action)
    assert fabric.state()["operations"]["kept"] == (1 if action is FaultAction.LOSE_REPLY else 0)


async def test_a_delayed_answer_is_the_true_one(client, faults):
    faults.add(Fault(on="fabric.submit", action=FaultAction.DELAY, delay_s=0.01))
    assert (await create(client)).status_code == 202


async def test_without_a_socket_garbage_is_a_body_that_is_not_json(client, faults):
    faults.add(Fault(on="fabric.submit", action=FaultAction.GARBAGE))
    answer = await create(client)
    assert answer.status_code == 200
    with pytest.raises(ValueError):
        answer.json()


async def test_without_a_socket_a_reset_is_an_exception(client, faults):
    faults.add(Fault(on="fabric.submit", action=FaultAction.RESET))
    with pytest.raises(ConnectionResetError):
        await create(client)
