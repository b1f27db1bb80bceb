"""The API on real sockets: peers that are slow, rude or gone."""

from __future__ import annotations

import json
import os
import socket
import stat
from functools import partial

import anyio
import httpx
import pytest

import renewer.asgi
from renewer.api import serve_api
from renewer.api.server import openapi_document
from renewer.asgi import listen_unix, stopping_of
from renewer.core.model import Owner, Result
from renewer.core.states import LeaseState, OwnerKind
from renewer.errors import UsageError
from tests.api.scripted_control import ScriptedControl
from tests.api.served import LIMIT_S, client_of, read_to_end, read_until, served_on_tcp, served_on_unix

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def control():
    return ScriptedControl()


def head(target="/v1/leases", method="GET", **headers):
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode()


async def test_the_api_is_served_on_a_socket_with_its_document(control, tmp_path):
    async with served_on_unix(control, tmp_path) as path, client_of(path) as client:
        assert (await client.get("/v1/status")).status_code == 200
        assert (await client.get("/v1/openapi.json")).json() == openapi_document()


async def test_who_waits_for_the_api_while_the_daemon_stops_is_told(control, tmp_path, monkeypatch):
    waits, answers = anyio.Event(), []

    def noticed(scope):
        waits.set()
        return stopping_of(scope)

    async def ask():
        async with client_of(str(path)) as client:
            answers.append(await client.get("/v1/status"))

    path = tmp_path / "api.sock"
    monkeypatch.setattr("renewer.api.door.stopping_of", noticed)
    with anyio.fail_after(LIMIT_S), listen_unix(path, mode=0o600) as listener:
        async with anyio.create_task_group() as asking, anyio.create_task_group() as tasks:
            await tasks.start(partial(serve_api, control, listener, loaded=anyio.Event()))
            asking.start_soon(ask)
            await waits.wait()
            tasks.cancel_scope.cancel()
    (answer,) = answers
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == "the daemon is stopping; ask again when it runs"


async def test_who_comes_before_the_api_is_loaded_waits_for_it(control, tmp_path):
    loaded, answers = anyio.Event(), []

    async def ask():
        async with client_of(str(tmp_path / "api.sock")) as client:
            answers.append(await client.get("/v1/leases"))
        tasks.cancel_scope.cancel()

    with listen_unix(tmp_path / "api.sock", mode=0o600) as listener, anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as tasks:
            await tasks.start(partial(serve_api, control, listener, loaded=loaded))
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            assert answers == []
            loaded.set()
    assert [answer.status_code for answer in answers] == [200]


async def test_over_tcp_without_a_key_the_rules_for_web_pages_hold(control):
    async with served_on_tcp(control) as port, httpx.AsyncClient(timeout=LIMIT_S) as client:
        url = f"http://127.0.0.1:{port}/v1/leases"
        assert (await client.get(url)).status_code == 200
        assert (await client.get(url, headers={"Host": "evil.example.com"})).status_code == 403
        assert (await client.post(url, content=b"{}", headers={"Content-Type": "text/plain"})).status_code == 415


async def test_over_tcp_with_a_key_it_is_asked_for(control):
    async with served_on_tcp(control, key="k") as port, httpx.AsyncClient(timeout=LIMIT_S) as client:
        url = f"http://127.0.0.1:{port}/v1/leases"
        assert (await client.get(url)).status_code == 401
        assert (await client.get(url, headers={"Authorization": "Bearer k"})).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET /v1/leases\r\n\r\n",
        b"GET /v1/leases HTTP/1.1\r\n\r\n",
        b"GET /v1/leases HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /v1/leases HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n",
        b"GET /v1/\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /" + b"x" * 70_000,
        b"POST /v1/leases HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/leases HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"POST /v1/leases HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
async def test_what_is_not_http_is_answered_with_a_problem(control, tmp_path, sent):
    async with served_on_unix(control, tmp_path) as path, await anyio.connect_unix(path) as stream:
        await stream.send(sent)
        answer = await read_to_end(stream)
        top, _, body = answer.partition(b"\r\n\r\n")
        assert top.startswith(b"HTTP/1.1 400 ")
        assert b"application/problem+json" in top
        assert json.loads(body)["status"] == 400


@pytest.mark.parametrize(
    "sent",
    [b"GET /v1/leases HTTP/1.1\r\nHost: a", b"G", head(method="POST", Content_Length=9) + b"{"],
    ids=["head", "first byte", "body"],
)
async def test_a_request_that_does_not_arrive_is_not_waited_for_for_ever(control, tmp_path, monkeypatch, sent):
    monkeypatch.setattr(renewer.asgi, "HEAD_S", 0.05)
    monkeypatch.setattr(renewer.asgi, "STALL_S", 0.05)
    async with served_on_unix(control, tmp_path) as path, await anyio.connect_unix(path) as stream:
        await stream.send(sent)
        answer = await read_to_end(stream)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"application/problem+json" in answer


async def test_who_connects_and_says_nothing_is_let_go_without_a_word(control, tmp_path, monkeypatch):
    monkeypatch.setattr(renewer.asgi, "HEAD_S", 0.05)
    async with served_on_unix(control, tmp_path) as path, await anyio.connect_unix(path) as stream:
        assert await read_to_end(stream) == b""


async def test_a_body_that_drips_in_has_an_end(control, tmp_path, monkeypatch):
    monkeypatch.setattr(renewer.asgi, "BODY_S", 0.2)
    async with served_on_unix(control, tmp_path) as path, await anyio.connect_unix(path) as stream:
        await stream.send(head(method="POST", Content_Length=1_000_000))

        async def drip():
            while True:
                await stream.send(b" ")
                await anyio.sleep(0.02)

        async with anyio.create_task_group() as tasks:

            async def read():
                answer = await read_to_end(stream)
                assert answer.startswith(b"HTTP/1.1 408 ")
                tasks.cancel_scope.cancel()

            tasks.start_soon(read)
            try:
                await drip()
            except anyio.BrokenResourceError:
                await anyio.sleep_forever()


async def test_a_body_that_nobody_reads_does_not_keep_a_connection_either(control, tmp_path, monkeypatch):
    monkeypatch.setattr(renewer.asgi, "STALL_S", 0.05)
    async with served_on_unix(control, tmp_path) as path, await anyio.connect_unix(path) as stream:
        await stream.send(head(Content_Length=100))
        answer = await read_to_end(stream)
        assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_connection_serves_one_request_after_another_for_longer_than_a_head_may_take(
    control, tmp_path, monkeypatch
):
    monkeypatch.setattr(renewer.asgi, "HEAD_S", 0.05)
    async with served_on_unix(control, tmp_path) as path, await anyio.connect_unix(path) as stream:
        for _ in range(3):
            await stream.send(head("/v1/leases?limit=1"))
            assert (await read_until(stream, b'"next":null}')).startswith(b"HTTP/1.1 200 ")
            await anyio.sleep(0.1)


async def test_who_does_not_read_a_stream_is_let_go(control, tmp_path, monkeypatch):
    monkeypatch.setattr(renewer.asgi, "STALL_S", 0.05)
    async with served_on_unix(control, tmp_path) as path, await anyio.connect_unix(path) as stream:
        await stream.send(head("/v1/events"))
        await read_until(stream, b"retry")
        for _ in range(500):
            control.tell("lease.lost", "lease-9", text="x" * 10_000)
        with anyio.fail_after(LIMIT_S):
            await control.until(lambda: control.readers == [])


async def test_who_reads_slowly_gets_everything(control, tmp_path, monkeypatch):
    monkeypatch.setattr(renewer.asgi, "STALL_S", 0.3)
    operation = control.add_operation()
    body = b"x" * 2_000_000
    control.finish(operation, Result("bytes", None, body))
    async with served_on_unix(control, tmp_path) as path, await anyio.connect_unix(path) as stream:
        await stream.send(head(f"/v1/operations/{operation.spec.id}/result", Connection="close"))
        size = 0
        with anyio.fail_after(LIMIT_S):
            while True:
                try:
                    size += len(await stream.receive(65_536))
                except anyio.EndOfStream:
                    break
                await anyio.sleep(0.02)
        assert size > len(body)


@pytest.mark.parametrize("farewell", ["close", "half"])
async def test_an_owner_that_goes_is_noticed_while_nothing_is_sent(control, tmp_path, farewell):
    lease = control.add_lease("s", owner=Owner(OwnerKind.CONNECTION, 5))
    async with served_on_unix(control, tmp_path) as path:
        stream = await anyio.connect_unix(path)
        await stream.send(head(f"/v1/leases/{lease.spec.id}/events?owner=true"))
        await read_until(stream, b"event: snapshot")
        assert control.owners_there == {lease.spec.id: 1}
        await (stream.aclose() if farewell == "close" else stream.send_eof())
        with anyio.fail_after(LIMIT_S):
            await control.until(lambda: control.owners_there == {lease.spec.id: 0})
        await stream.aclose()
    assert control.readers == []


async def test_a_wait_ends_when_its_caller_goes(control, tmp_path):
    lease = control.add_lease(state=LeaseState.ACQUIRING)
    ended = anyio.Event()
    wait_lease = control.wait_lease

    async def watched(*arguments):
        control.tell("wait.began", "")
        try:
            await wait_lease(*arguments)
        finally:
            ended.set()

    control.wait_lease = watched
    async with served_on_unix(control, tmp_path) as path:
        stream = await anyio.connect_unix(path)
        began = control.changed
        await stream.send(head(f"/v1/leases/{lease.spec.id}?wait=300"))
        with anyio.fail_after(LIMIT_S):
            await began.wait()
            await stream.aclose()
            await ended.wait()


async def test_a_server_that_stops_ends_streams_and_answers_waits(control, tmp_path):
    lease = control.add_lease(state=LeaseState.ACQUIRING)
    async with served_on_unix(control, tmp_path) as path:
        reader, waiter = await anyio.connect_unix(path), await anyio.connect_unix(path)
        await reader.send(head("/v1/events"))
        await read_until(reader, b"retry")
        await waiter.send(head(f"/v1/leases/{lease.spec.id}?wait=300"))
        # One more answer, so that the one before is being waited for.
        async with client_of(path) as client:
            assert (await client.get("/v1/status")).status_code == 200
    async with reader, waiter:
        assert (await read_to_end(reader)).endswith(b"0\r\n\r\n")
        assert b'"state":"acquiring"' in await read_to_end(waiter)


async def test_a_socket_can_be_given_to_a_group(tmp_path):
    group = tmp_path.stat().st_gid
    path = tmp_path / "s.sock"
    with listen_unix(path, mode=0o660, group=str(group)):
        assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_gid) == (0o660, group)


async def test_a_socket_is_closed_to_others_until_it_is_as_it_should_be(tmp_path, monkeypatch):
    path, modes = tmp_path / "s.sock", []
    monkeypatch.setattr("shutil.chown", lambda *_args, **_options: modes.append(stat.S_IMODE(path.stat().st_mode)))
    with listen_unix(path, mode=0o660, group="1"), pytest.raises(UsageError, match="another daemon"):
        listen_unix(path, mode=0o660)
    assert modes == [0o600]


@pytest.mark.parametrize(
    ("error", "says"), [(PermissionError(1, "no"), "a member of it, or root"), (LookupError(), "no such group")]
)
async def test_a_group_that_cannot_be_given_leaves_no_socket_behind(tmp_path, monkeypatch, error, says):
    def refuse(*_args, **_options):
        raise error

    monkeypatch.setattr("shutil.chown", refuse)
    path = tmp_path / "s.sock"
    with pytest.raises(UsageError, match=says):
        listen_unix(path, mode=0o660, group="staff")
    assert not path.exists()


async def test_a_file_that_somebody_else_has_put_in_the_place_of_ours_is_left(tmp_path):
    path = tmp_path / "s.sock"
    ours = listen_unix(path, mode=0o660)
    os.utime(path, (1.0, 1.0))  # The number of a file that is gone may be the next one's, but not the time.
    ours.note_file(path)
    ours.close()
    with listen_unix(path, mode=0o660) as theirs, socket.socket(socket.AF_UNIX) as caller:
        ours.remove_file()
        caller.connect(str(path))
    theirs.remove_file()
    assert not path.exists()


async def test_a_file_that_nobody_listens_on_and_that_cannot_be_removed_is_named(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "s.sock"
    listen_unix(path, mode=0o660).close()
    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    with pytest.raises(UsageError, match=r"cannot replace .*s\.sock.*permission denied"):
        listen_unix(path, mode=0o660)


async def test_a_tcp_peer_that_vanishes_is_asked_after(control, monkeypatch):
    seen = []
    notice = renewer.asgi._notice_dead_peers

    def watched(transport):
        notice(transport)
        seen.append(transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    monkeypatch.setattr(renewer.asgi, "_notice_dead_peers", watched)
    async with served_on_tcp(control) as port, httpx.AsyncClient(timeout=LIMIT_S) as client:
        assert (await client.get(f"http://127.0.0.1:{port}/v1/status")).status_code == 200
    assert seen == [1]
