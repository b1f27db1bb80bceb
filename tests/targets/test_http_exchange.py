"""One exchange: what is read, how much, and what each kind of trouble is called."""

import contextlib
import gzip
import logging
import zlib

import aiohttp
import anyio
import anyio.lowlevel
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.errors import TransientError
from renewer.targets.http import BodyTooLargeError, build_client, exchange, hide_queries_in_logs, parse_json
from tests.ports import free_port

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


# trio warns of httpx's generators when a body is not read to its end; the real transport is for asyncio anyway.
on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


class Pieces(httpx.AsyncByteStream):
    """A body in pieces; remembers how many were taken, and whether it was closed."""

    def __init__(self, pieces, error=None):
        self._pieces = pieces
        self._error = error
        self.taken = 0
        self.closed = False

    async def __aiter__(self):
        for piece in self._pieces:
            self.taken += 1
            yield piece
        if self._error is not None:
            raise self._error

    async def aclose(self):
        self.closed = True


def stream(*pieces, headers=None, error=None):
    return httpx.Response(200, headers=headers, stream=Pieces(pieces, error))


async def ask(response, *, max_body=1000, url="https://h.example/a?sig=secret"):
    def handler(request):
        if isinstance(response, Exception):
            raise response
        return response

    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        return await exchange(client, httpx.Request("GET", url), max_body=max_body)


async def trouble(response, **kwargs):
    with pytest.raises(TransientError) as caught:
        await ask(response, **kwargs)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


async def test_an_answer_is_read_whole():
    answer = await ask(stream(b"ab", b"", b"cd", headers={"X-One": "1"}))
    assert (answer.status, answer.body, answer.header("x-one"), answer.header("x-two")) == (200, b"abcd", "1", None)


async def test_the_first_of_several_headers_counts():
    answer = await ask(httpx.Response(200, headers=[("Location", " /one "), ("Location", "/two"), ("Empty", "")]))
    assert answer.header("location") == "/one"
    assert answer.header("empty") is None


@on_asyncio
async def test_a_body_as_large_as_allowed_is_read_and_one_byte_more_is_not(anyio_backend):
    assert len((await ask(stream(b"x" * 1000))).body) == 1000
    response = stream(b"x" * 1000, b"x", b"never taken")
    assert isinstance(await trouble(response), BodyTooLargeError)
    assert response.stream._stream.taken == 2
    assert response.stream._stream.closed


async def test_a_body_announced_as_too_large_is_not_read_at_all():
    for announced in ("1001", "9" * 30):
        response = stream(b"x", headers={"Content-Length": announced})
        assert isinstance(await trouble(response), BodyTooLargeError)
        assert response.stream._stream.taken == 0


async def test_gzip_is_unpacked():
    packed = gzip.compress(b"hello ", mtime=0) + gzip.compress(b"world", mtime=0)
    for size in (1, 7, len(packed)):
        pieces = [packed[start : start + size] for start in range(0, len(packed), size)]
        assert (await ask(stream(*pieces, headers={"Content-Encoding": "gzip"}))).body == b"hello world"
    assert (await ask(httpx.Response(204, headers={"Content-Encoding": "gzip"}))).body == b""


@on_asyncio
async def test_a_gzip_bomb_is_unpacked_no_further_than_allowed(anyio_backend, monkeypatch):
    bomb = gzip.compress(bytes(50_000_000), mtime=0)
    unpacked_in_all = 0
    real = zlib.decompressobj

    class Watched:
        def __init__(self, *args):
            self._real = real(*args)

        def __getattr__(self, name):
            return getattr(self._real, name)

        def decompress(self, data, limit):
            nonlocal unpacked_in_all
            assert limit > 0
            unpacked = self._real.decompress(data, limit)
            unpacked_in_all += len(unpacked)
            return unpacked

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    assert isinstance(await trouble(stream(bomb, headers={"Content-Encoding": "gzip"})), BodyTooLargeError)
    assert 1000 < unpacked_in_all <= 1000 + 64 * 1024


@on_asyncio
async def test_gzip_members_that_hold_nothing_cannot_go_on_for_ever(anyio_backend):
    nothing = gzip.compress(b"", mtime=0) * 100
    response = stream(*[nothing] * 1000, headers={"Content-Encoding": "gzip"})
    assert isinstance(await trouble(response), BodyTooLargeError)
    assert response.stream._stream.taken < 10


@on_asyncio
@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"not gzip", "gzip"),
        (gzip.compress(b"x" * 500, mtime=0)[:-9], "gzip"),
        (gzip.compress(b"x", mtime=0) + b"junk", "gzip"),
        (b"x", "br"),
        (gzip.compress(gzip.compress(b"x", mtime=0), mtime=0), "gzip, gzip"),
        (zlib.compress(b"x"), "deflate"),
    ],
)
async def test_a_body_that_cannot_be_unpacked_is_garbage(anyio_backend, body, encoding):
    assert (await trouble(stream(body, headers={"Content-Encoding": encoding}))).kind == "garbage"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ConnectError("refused"), "network"),
        (httpx.ReadError("reset"), "network"),
        (httpx.ConnectTimeout("slow"), "timeout"),
        (httpx.ReadTimeout("slow"), "timeout"),
        (httpx.PoolTimeout("slow"), "timeout"),
        (httpx.RemoteProtocolError("Server said nonsense ?sig=secret"), "garbage"),
        (httpx.DecodingError("bad"), "garbage"),
        (aiohttp.ServerDisconnectedError(), "network"),
        (aiohttp.ClientPayloadError("secret"), "network"),
        (aiohttp.ServerTimeoutError("secret"), "timeout"),
        (ConnectionResetError(104, "Connection reset by peer"), "network"),
        (TimeoutError(), "timeout"),
        (OSError("token=secret"), "network"),
    ],
)
async def test_each_trouble_has_its_kind_and_shows_no_secrets(error, kind):
    assert (await trouble(error)).kind == kind
    assert (await trouble(stream(b"x", error=error))).kind == kind


async def test_a_status_that_http_does_not_have_is_garbage_and_its_body_is_left():
    response = httpx.Response(0, stream=Pieces([b"x"]))
    assert (await trouble(response)).kind == "garbage"
    assert (response.stream._stream.taken, response.stream._stream.closed) == (0, True)


async def test_a_redirect_is_an_answer_like_any_other():
    answer = await ask(httpx.Response(307, headers={"Location": "https://evil.example/"}))
    assert answer.status == 307


async def test_the_clients_own_headers_cookies_and_credentials_are_not_sent():
    seen = []

    def handler(request):
        seen.append(request)
        return httpx.Response(200, headers={"Set-Cookie": "a=1"})

    transport = httpx.MockTransport(handler)
    async with httpx.AsyncClient(
        transport=transport, auth=("u", "p"), cookies={"b": "2"}, headers={"X-Own": "1"}
    ) as client:
        for _ in range(2):
            await exchange(client, httpx.Request("GET", "https://h.example/"), max_body=10)
    assert all(set(request.headers) == {"host"} for request in seen)


async def test_the_request_log_of_httpx_shows_no_query(caplog):
    hide_queries_in_logs()
    hide_queries_in_logs()
    with caplog.at_level(logging.INFO, logger="httpx"):
        await ask(httpx.Response(200))
    assert "https://h.example/a" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b"[Infinity]", b"[" * 100_000, b"\xff", b"{'a': 1}", b"1" * 5000])
def test_what_is_not_json_is_a_value_error(body):
    with pytest.raises(ValueError):
        parse_json(body)


@given(st.binary(max_size=50))
def test_no_bytes_raise_anything_else(body):
    with contextlib.suppress(ValueError):
        parse_json(body)


# From here on the real client, which needs asyncio, and a server that sends bytes.


class Server:
    """Answers each connection with the next of `scripts`, whatever it is asked; keeps what it was sent."""

    def __init__(self, listener, scripts):
        self._listener = listener
        self._scripts = list(scripts)
        self.url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/a?sig=secret"
        self.requests = []
        self.open = 0
        self.most_open = 0

    async def run(self):
        await self._listener.serve(self._serve)

    async def _serve(self, connection):
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            async with connection:
                self.requests.append(await connection.receive())
                if script is None:
                    await connection.receive()
                for piece in script or ():
                    await connection.send(piece)
        except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
            pass
        finally:
            self.open -= 1


class Served:
    def __init__(self, *scripts, **client):
        self._scripts = scripts
        self._settings = client

    async def __aenter__(self):
        self._listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self.server = Server(self._listener, self._scripts)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self.server.run)
        self.client = build_client(**self._settings)
        return self

    async def ask(self, max_body=1000):
        with anyio.fail_after(20):
            return await exchange(self.client, httpx.Request("GET", self.server.url), max_body=max_body)

    async def __aexit__(self, *exc):
        await self.client.aclose()
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(*exc)
        await self._listener.aclose()


HEAD = b"HTTP/1.1 200 OK\r\n"


@on_asyncio
async def test_the_real_client_reads_an_answer_and_keeps_no_cookies(anyio_backend):
    whole = HEAD + b"Set-Cookie: a=1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    async with Served([whole]) as served:
        assert (await served.ask()).body == b"ok"
        assert (await served.ask()).body == b"ok"
        assert not any(b"cookie" in request.lower() for request in served.server.requests)
        assert not served.client.cookies


@on_asyncio
async def test_the_environment_names_no_proxy(anyio_backend, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with Served([HEAD + b"Content-Length: 2\r\n\r\nok"]) as served:
        assert (await served.ask()).body == b"ok"


@on_asyncio
@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        ([b"\x01\x00\x00VRetry-After: 42\r\n\r\n"], "garbage"),
        ([b"SSH-2.0-OpenSSH_9\r\n\r\n"], "garbage"),
        ([b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n"], "garbage"),
        ([b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n"], "garbage"),
        ([HEAD + b"Content-Length: nonsense\r\n\r\n"], "garbage"),
        ([HEAD + b"X: " + b"y" * 100_000 + b"\r\n\r\n"], "garbage"),
        ([HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello"], "garbage"),
        ([HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel"], "network"),
        ([HEAD + b"Content-Length: 10\r\n\r\nhel"], "network"),
        ([b"HTTP/1.1 200"], "network"),
        ([], "network"),
    ],
)
async def test_what_a_broken_server_sends_has_its_kind(anyio_backend, sent, kind):
    async with Served(sent) as served:
        with pytest.raises(TransientError) as caught:
            await served.ask()
    assert caught.value.kind == kind
    assert "secret" not in str(caught.value)


@on_asyncio
async def test_where_nobody_listens_nothing_was_sent(anyio_backend):
    port = free_port()
    async with build_client() as client:
        with pytest.raises(TransientError) as caught:
            await exchange(client, httpx.Request("GET", f"http://127.0.0.1:{port}/?sig=secret"), max_body=10)
    assert caught.value.kind == "unreachable"
    assert f"cannot connect to 127.0.0.1:{port}: Conn" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["xn--", "xn--a", "[::1", "⒈", "é" * 70])
async def test_a_redirect_to_what_is_no_host_name_is_garbage(host):
    location = f"http://{host}/".encode()
    error = await trouble(httpx.Response(307, headers=[(b"Location", location)]))
    assert error.kind == "garbage"


@on_asyncio
async def test_a_redirect_is_not_followed_by_the_real_client(anyio_backend):
    redirect = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"
    async with Served([redirect]) as served:
        assert (await served.ask()).status == 302
        assert len(served.server.requests) == 1


@on_asyncio
async def test_requests_given_up_leave_no_connection_behind(anyio_backend):
    async with Served(*[None] * 20, [HEAD + b"Content-Length: 2\r\n\r\nok"], max_connections=2) as served:
        for _ in range(20):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    seen = len(served.server.requests)
                    tasks.start_soon(served.ask)
                    with anyio.fail_after(10):
                        while len(served.server.requests) == seen:
                            await anyio.lowlevel.checkpoint()
                    scope.cancel()
        assert (await served.ask()).body == b"ok"


@on_asyncio
async def test_a_body_cut_off_for_its_size_leaves_no_connection_behind(anyio_backend):
    large = [HEAD + b"Content-Length: 5000\r\n\r\n" + b"x" * 5000]
    async with Served(large, max_connections=1) as served:
        for _ in range(5):
            with pytest.raises(BodyTooLargeError):
                await served.ask()


@on_asyncio
async def test_there_are_never_more_connections_than_allowed(anyio_backend):
    answer = [HEAD + b"Content-Length: 2\r\nConnection: close\r\n\r\nok"]
    async with Served(answer, max_connections=3) as served:
        async with anyio.create_task_group() as tasks:
            for _ in range(60):
                tasks.start_soon(served.ask)
        assert len(served.server.requests) == 60
        assert served.server.most_open <= 4  # the server learns of an end a moment after the client
