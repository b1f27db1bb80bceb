import signal
import socket
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest

from renewer.emulator.admin import EmulatorAdmin
from renewer.emulator.fabric import FabricEmulator
from renewer.emulator.faults import Fault, FaultAction, Faults
from renewer.emulator.http import MAX_BODY, build_http_app, serve_http
from renewer.errors import UsageError

pytestmark = pytest.mark.anyio

NOTEBOOKS = "/v1/workspaces/w1/notebooks"


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def faults():
    return Faults()


@pytest.fixture
def fabric(faults):
    return FabricEmulator(faults)


@asynccontextmanager
async def serving(fabric, faults):
    app = build_http_app(fabric, EmulatorAdmin(faults))
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            port = await tasks.start(serve_http, app, "127.0.0.1", 0)
            headers = {"Authorization": "Bearer local"}
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:
                yield client
            tasks.cancel_scope.cancel()


async def create(client, name="nightly"):
    return await client.post(NOTEBOOKS, json={"displayName": name})


async def test_an_operation_is_followed_over_a_real_socket(fabric, faults):
    async with serving(fabric, faults) as client:
        accepted = await create(client, "polled")
        assert accepted.headers["location"].startswith(str(client.base_url))
        assert accepted.headers.get_list("date") == [accepted.headers["date"]]
        assert "server" not in accepted.headers
        words = [(await client.get(accepted.headers["location"])).json()["status"] for _ in range(2)]
        assert words == ["Running", "Succeeded"]
        state = (await client.get("/_emulator/state")).json()
        assert state["requests"] == {"fabric.submit": 1, "fabric.poll": 2}


async def test_the_port_is_free_again_after_the_server_was_cancelled(fabric, faults):
    async with serving(fabric, faults) as client:
        port = client.base_url.port
    with socket.create_server(("127.0.0.1", port)):
        pass
    with pytest.raises(httpx.ConnectError):
        async with httpx.AsyncClient() as client:
            await client.get(f"http://127.0.0.1:{port}/")


async def test_signal_handlers_are_left_alone(fabric, faults):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with serving(fabric, faults) as client:
        await create(client)
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def test_a_reset_cuts_the_connection_without_an_answer(fabric, faults):
    faults.add(Fault(on="fabric.submit", action=FaultAction.RESET, times=1))
    async with serving(fabric, faults) as client:
        with pytest.raises(httpx.ReadError):
            await create(client)
        assert (await create(client)).status_code == 202


async def test_garbage_is_not_http(fabric, faults):
    faults.add(Fault(on="fabric.submit", action=FaultAction.GARBAGE, times=1))
    async with serving(fabric, faults) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await create(client)
        assert (await create(client)).status_code == 202


async def test_a_lost_reply_does_not_keep_the_server_from_ending(fabric, faults):
    faults.add(Fault(on="fabric.submit", action=FaultAction.LOSE_REPLY))
    async with serving(fabric, faults) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(create, client)
        await fabric.wait_for_requests(1)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("action", [FaultAction.LOSE_REPLY, FaultAction.DELAY])
async def test_the_server_ends_while_a_client_still_waits_for_its_answer(fabric, faults, caplog, action):
    faults.add(Fault(on="fabric.submit", action=action, delay_s=600))
    app = build_http_app(fabric, EmulatorAdmin(faults))
    failed = anyio.Event()

    async def wait_in_vain(port):
        async with httpx.AsyncClient(headers={"Authorization": "Bearer local"}, timeout=None) as client:
            with pytest.raises(httpx.ReadError):
                await client.post(f"http://127.0.0.1:{port}{NOTEBOOKS}", json={"displayName": "x"})
            failed.set()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as clients:
            async with anyio.create_task_group() as servers:
                port = await servers.start(serve_http, app, "127.0.0.1", 0)
                clients.start_soon(wait_in_vain, port)
                await fabric.wait_for_requests(1)
                servers.cancel_scope.cancel()
            await failed.wait()
    assert caplog.records == []


async def test_an_oversized_body_is_answered_over_a_socket_too(fabric, faults):
    async with serving(fabric, faults) as client:
        answer = await client.post(NOTEBOOKS, content=b" " * (2 * MAX_BODY))
        assert answer.status_code == 413
        assert (await create(client)).status_code == 202


async def test_an_address_that_is_taken_is_a_usage_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match="choose another"):
            await serve_http(lambda *_: None, "127.0.0.1", port)
    with pytest.raises(UsageError, match="0 to 65535"):
        await serve_http(lambda *_: None, "127.0.0.1", 70_000)
