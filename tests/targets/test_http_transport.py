"""The transport: what goes out is what was asked for, in httpx's words or in plain ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import httpx
import pytest

from renewer.errors import TransientError, UsageError
from renewer.targets.http import build_transport, exchange
from renewer.targets.transport import PlainRequest
from tests.ports import free_port
from tests.targets.tls_rig import Authority

pytestmark = pytest.mark.anyio

HEADERS = {"Accept": "*/*", "Accept-Encoding": "gzip", "User-Agent": "renewer", "Authorization": "Bearer t"}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Ask = Callable[[str, str, bytes | None], httpx.Request | PlainRequest]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def in_words_of_httpx(method: str, url: str, content: bytes | None) -> httpx.Request:
    return httpx.Request(method, url, headers=HEADERS, content=content)


def plain(method: str, url: str, content: bytes | None) -> PlainRequest:
    return PlainRequest(method, url, HEADERS, content)


both = pytest.mark.parametrize("ask", [in_words_of_httpx, plain])


class Server:
    """Answers everything with ok, and keeps what it was sent, and over how many connections."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.requests: list[bytes] = []
        self.connections = 0

    async def serve(self, connection: anyio.abc.SocketStream) -> None:
        self.connections += 1
        async with connection:
            try:
                while True:
                    self.requests.append(await connection.receive())
                    await connection.send(OK)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass


@asynccontextmanager
async def served() -> AsyncIterator[Server]:
    listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server = Server(listener.extra(anyio.abc.SocketAttribute.local_port))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.serve)
        yield server
        tasks.cancel_scope.cancel()
    await listener.aclose()


@both
@pytest.mark.parametrize(
    "target",
    [
        "/v1/operations/1",
        "/a?sig=ab%2Bcd%3D&x=%7E",
        "/a~b/c%2Fd%2fe?q='1'&r=(2)",
        "/a?b=c?d&e=f/g:h@i,j;k",
        "/a;v=1,2/$count!*",
    ],
)
async def test_a_url_is_sent_as_it_is_for_it_may_be_signed(ask: Ask, target: str) -> None:
    async with served() as server, build_transport() as transport:
        assert (await exchange(transport, ask("GET", server.url + target, None), max_body=10)).body == b"ok"
    assert server.requests[0].split(b" ")[1].decode() == target


@pytest.mark.parametrize("target", ['/a?b="c"', "/a/{b}", "/a?b=%zz", "/a|b?<c>", "/é", "/a/../b", "/./a?b=/.."])
async def test_what_has_to_be_escaped_is_escaped_alike(target: str) -> None:
    async with served() as server, build_transport() as transport:
        for ask in (in_words_of_httpx, plain):
            await exchange(transport, ask("GET", server.url + target, None), max_body=10)
    lines = [request.split(b"\r\n")[0] for request in server.requests]
    assert lines[0] == lines[1]
    assert b'"' not in lines[0]
    assert lines[0].count(b" ") == 2


@pytest.mark.parametrize("content", [None, b'{"a": 1}'])
async def test_both_kinds_of_request_are_the_same_on_the_wire(content: bytes | None) -> None:
    async with served() as server, build_transport() as transport:
        for ask in (in_words_of_httpx, plain):
            await exchange(transport, ask("POST", f"{server.url}/a", content), max_body=10)
    heads = [sorted(request.split(b"\r\n\r\n")[0].lower().split(b"\r\n")) for request in server.requests]
    assert heads[0] == heads[1]


@both
async def test_a_connection_is_used_again_once_its_answer_is_read(ask: Ask) -> None:
    async with served() as server, build_transport() as transport:
        for _ in range(5):
            await exchange(transport, ask("GET", f"{server.url}/a", None), max_body=10)
    assert (server.connections, len(server.requests)) == (1, 5)


@both
async def test_a_connection_whose_answer_is_left_is_not_used_again(ask: Ask) -> None:
    async with served() as server, build_transport() as transport:
        for _ in range(2):
            with pytest.raises(TransientError, match="larger than 1 bytes"):
                await exchange(transport, ask("GET", f"{server.url}/a", None), max_body=1)
    assert len(server.requests) == 2


@both
async def test_a_transport_that_was_closed_opens_new_connections(ask: Ask) -> None:
    async with served() as server:
        transport = build_transport()
        for _ in range(2):
            await exchange(transport, ask("GET", f"{server.url}/a", None), max_body=10)
            await transport.aclose()
    assert server.connections == 2


@both
async def test_trouble_is_told_alike_and_without_the_query(ask: Ask) -> None:
    port = free_port()
    async with build_transport() as transport:
        with pytest.raises(TransientError) as caught:
            await exchange(transport, ask("GET", f"http://127.0.0.1:{port}/a?sig=secret", None), max_body=10)
    assert caught.value.kind == "unreachable"
    assert str(caught.value).startswith(f"GET http://127.0.0.1:{port}/a: cannot connect to 127.0.0.1:{port}")


async def test_who_takes_requests_of_httpx_alone_is_given_one() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b"ok")

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        await exchange(client, plain("POST", "https://h.example/a?b=c", b"{}"), max_body=10)
    assert (seen[0].method, str(seen[0].url), seen[0].content) == ("POST", "https://h.example/a?b=c", b"{}")
    assert seen[0].headers["authorization"] == "Bearer t"


async def test_whom_to_believe_is_read_anew_when_the_file_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old, new, believed = Authority(tmp_path / "old"), Authority(tmp_path / "new"), tmp_path / "believed.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(believed))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()
        writer.close()

    async def ask() -> bytes | None:
        async with build_transport() as transport:
            return (await exchange(transport, plain("GET", f"https://localhost:{port}/", None), max_body=10)).body

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=new.server("localhost"))
    async with server:
        port = server.sockets[0].getsockname()[1]
        believed.write_bytes(old.file.read_bytes())
        with pytest.raises(TransientError):
            await ask()
        believed.unlink()
        believed.write_bytes(new.file.read_bytes())
        assert await ask() == b"ok"


@pytest.mark.parametrize("of_httpx", [True, False])
@pytest.mark.parametrize(
    ("method", "headers", "key"),
    [
        ("GET", {"X-One": "a\r\nsecret: b"}, "headers.x-one: "),
        ("GET", {"X-One": "secret\0"}, "headers.x-one: "),
        ("GET", {"X-One": "secret\x01"}, "headers.x-one: "),
        ("GET", {"X-One": "secret\x7f"}, "headers.x-one: "),
        ("GET", {"X-Two": "fine", "X One": "secret"}, "headers.x one: "),
        ("GET", {"X-One\n": "secret"}, "headers.x-one: "),
        ("GET", {"": "secret"}, "headers.: "),
        ("GE secret", {}, "method: "),
        ("GET\r\nsecret: x", {}, "method: "),
        ("", {}, "method: "),
    ],
)
async def test_what_cannot_be_sent_is_named_and_not_repeated_and_nothing_is_sent(
    method: str, headers: dict[str, str], key: str, *, of_httpx: bool
) -> None:
    async with served() as server, build_transport() as transport:
        request = (
            httpx.Request(method, server.url, headers=headers)
            if of_httpx
            else PlainRequest(method, server.url, headers)
        )
        with pytest.raises(UsageError) as caught:
            await exchange(transport, request, max_body=10)
        assert str(caught.value).lower().startswith(key)
        assert "secret" not in str(caught.value).lower()
        assert server.connections == 0


async def test_a_header_that_is_not_ascii_is_named_and_not_repeated() -> None:
    async with build_transport() as transport:
        request = PlainRequest("GET", "http://127.0.0.1:9/", {"X-One": "gehëim"})
        with pytest.raises(UsageError, match=r"headers.X-One: must be one line of ASCII text"):
            await exchange(transport, request, max_body=10)
