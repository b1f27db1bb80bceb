"""A foreign server receives nothing: no token, no request at all, whatever the service's answers name."""

import anyio
import httpx
import pytest

from renewer.core.model import StillRunning, Succeeded
from renewer.errors import TransientError
from renewer.targets.fabric import FabricTarget, Ticket
from renewer.targets.http import build_client
from renewer.targets.rest import Submit
from tests.targets.fabric_rig import (
    JOB_PATH,
    OPERATION_ID,
    STATE_PATH,
    CountedTokens,
    FixedClock,
    Rig,
    adopt,
    fabric_options,
    reply,
    spec_of,
    state,
)

pytestmark = pytest.mark.anyio

EVIL = [
    "https://evil.example",
    "http://api.fabric.microsoft.com",
    "https://api.fabric.microsoft.com:8443",
    "https://api.fabric.microsoft.com.evil.example",
    "https://api.fabric.microsoft.com@evil.example",
    "https://169.254.169.254",
    "http://127.0.0.1:8080",
    "https://[::1]",
    "//evil.example",
    "https:\\\\evil.example",
    "HTTPS://EVIL.EXAMPLE",
]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


def only_our_host(rig):
    return {(request.url.scheme, request.url.host, request.url.port) for request in rig.requests} == {
        ("https", "api.fabric.microsoft.com", None)
    }


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("path", [STATE_PATH, JOB_PATH, "/v1/x"])
async def test_a_foreign_location_is_never_contacted(evil, path):
    rig = Rig().answers(reply(202, None, {"Location": f"{evil}{path}", "Retry-After": "1"}))
    first = await rig.submit()
    if isinstance(first, StillRunning):
        rig.answers(state("Running", {"Location": f"{evil}{path}", "Retry-After": "1"}))
        second = await rig.poll(first.ticket)
        rig.answers(state("Succeeded", {"Location": f"{evil}{path}/result"}))
        third = await rig.poll(second.ticket or first.ticket)
        assert isinstance(third, Succeeded)
        if third.result is None:
            rig.answers(reply(200, {}))
            await rig.fetch(third.ticket)
    assert only_our_host(rig)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["https://evil.example/", "/v1/elsewhere", "https://api.fabric.microsoft.com/x"])
async def test_no_redirect_is_followed_not_even_on_our_host(status, location):
    rig = Rig()
    ticket = adopt({"x-ms-operation-id": OPERATION_ID}).ticket
    rig.answers(*[httpx.Response(status, headers={"Location": location}) for _ in range(3)])
    assert (await rig.submit()).error["errorCode"] == "Redirected"
    for ask in (rig.poll, rig.fetch):
        with pytest.raises(TransientError, match="not followed"):
            await ask(ticket)
    assert len(rig.requests) == 3
    assert only_our_host(rig)


async def test_private_link_hosts_that_are_listed_serve_their_own_operations():
    host = "https://abc.zab.w.api.fabric.microsoft.com"
    rig = Rig(options=fabric_options(allow_hosts=("*.w.api.fabric.microsoft.com",)))
    rig.answers(reply(202, None, {"x-ms-operation-id": OPERATION_ID, "Location": f"https://evil.example{STATE_PATH}"}))
    first = await rig.submit(f"{host}/v1/workspaces/w1/notebooks")
    assert first.ticket.origin == host
    rig.answers(state("Succeeded", {"Location": f"https://evil.example{STATE_PATH}/result"}))
    done = await rig.poll(first.ticket)
    rig.answers(reply(200, {}))
    await rig.fetch(done.ticket)
    assert rig.urls[1:] == [f"{host}{STATE_PATH}", f"{host}{STATE_PATH}/result"]


@pytest.mark.parametrize("origin", ["https://evil.example", "http://abc.w.api.fabric.microsoft.com"])
async def test_a_host_that_is_no_longer_listed_sees_no_token(origin):
    rig = Rig()
    with pytest.raises(TransientError, match="allow_hosts") as caught:
        await rig.poll(Ticket(STATE_PATH, origin=origin))
    assert caught.value.kind == "unauthorized"
    assert rig.requests == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_over_real_sockets_a_foreign_server_receives_nothing(anyio_backend):
    touched = []

    async def foreign(connection):
        touched.append(True)
        await connection.aclose()

    async def serve_home(connection):
        async with connection:
            while True:
                try:
                    head = await connection.receive()
                except anyio.EndOfStream:
                    return
                if head.startswith(b"POST"):
                    where = f"http://127.0.0.1:{ports[1]}{STATE_PATH}"
                    answer = f"HTTP/1.1 202 Accepted\r\nLocation: {where}\r\nContent-Length: 4\r\n\r\nnull"
                elif b"/result" in head.split(b"\r\n")[0]:
                    answer = f"HTTP/1.1 307 R\r\nLocation: http://127.0.0.1:{ports[1]}/\r\nContent-Length: 0\r\n\r\n"
                else:
                    body = '{"status": "Succeeded"}'
                    where = f"http://127.0.0.1:{ports[1]}{STATE_PATH}/result"
                    answer = (
                        f"HTTP/1.1 200 OK\r\nLocation: {where}\r\nSet-Cookie: a=1\r\n"
                        f"Content-Length: {len(body)}\r\n\r\n{body}"
                    )
                await connection.send(answer.encode())

    with anyio.fail_after(20):
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as home,
            await anyio.create_tcp_listener(local_host="127.0.0.1") as other,
            anyio.create_task_group() as tasks,
            build_client() as client,
        ):
            ports = [listener.extra(anyio.abc.SocketAttribute.local_port) for listener in (home, other)]
            tasks.start_soon(home.serve, serve_home)
            tasks.start_soon(other.serve, foreign)
            options = fabric_options(f"http://127.0.0.1:{ports[0]}/v1")
            target = FabricTarget(options, CountedTokens(), FixedClock(), client)
            first = await target.submit(spec_of(Submit("POST", "/workspaces/w1/notebooks")))
            done = await target.poll(spec_of(None), first.ticket)
            with pytest.raises(TransientError, match="not followed"):
                await target.fetch(spec_of(None), done.ticket)
            tasks.cancel_scope.cancel()
    assert touched == []
