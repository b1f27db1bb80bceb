"""AMQP's byte stream inside a WebSocket: against frames made by hand, and against aiohttp's WebSockets."""

from __future__ import annotations

import base64
import hashlib
import logging
import struct
from contextlib import asynccontextmanager, suppress

import aiohttp
import anyio
import pytest
from aiohttp import web
from anyio import current_time as now
from anyio.abc import SocketAttribute
from hypothesis import given, settings
from hypothesis import strategies as st

from renewer.amqp import AmqpTransport, Connection, ConnectionClosed, ConnectionOpened, SaslAnonymous, SaslServer
from renewer.amqp.websocket import (
    _MAX_OWED,
    MAX_FRAGMENT,
    PATH,
    PIECE,
    SUBPROTOCOL,
    WebSocketRefusedError,
    accept_websocket,
    open_websocket,
)
from tests.targets.scripted_broker import MemoryStream

pytestmark = pytest.mark.anyio

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def frame(opcode, payload=b"", *, fin=True, mask=None, rsv=0):
    """A frame as RFC 6455 5.2 has it."""
    head = bytes([(0x80 if fin else 0) | rsv | opcode])
    bit, size = (0x80 if mask else 0), len(payload)
    if size < 126:
        head += bytes([bit | size])
    elif size < 65536:
        head += bytes([bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", size)
    if mask:
        payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        head += mask
    return head + payload


class Peer:
    """The other end, byte by byte."""

    def __init__(self, stream):
        self.stream = stream
        self.rest = b""

    async def read(self, size):
        while len(self.rest) < size:
            self.rest += await self.stream.receive()
        data, self.rest = self.rest[:size], self.rest[size:]
        return data

    async def head(self):
        while b"\r\n\r\n" not in self.rest:
            self.rest += await self.stream.receive()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        return head

    async def frame(self):
        """The opcode and the unmasked payload of the next frame."""
        first, second = await self.read(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", await self.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.read(8))
        assert second & 0x80, "a client masks its frames"
        mask = await self.read(4)
        payload = await self.read(size)
        return first & 0x0F, bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))

    async def accept(self, *, protocol=SUBPROTOCOL, extra=b""):
        """Answer a request for a WebSocket; returns its head."""
        head = await self.head()
        key = next(line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
        accepted = base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())
        lines = [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade"]
        lines.append(b"Sec-WebSocket-Accept: " + accepted)
        if protocol is not None:
            lines.append(b"Sec-WebSocket-Protocol: " + protocol.encode())
        await self.stream.send(b"\r\n".join(lines) + b"\r\n\r\n" + extra)
        return head

    async def send(self, *pieces):
        for piece in pieces:
            await self.stream.send(piece)


@asynccontextmanager
async def streams():
    """Both ends of a pipe."""
    ours, theirs = MemoryStream.pair()
    with anyio.fail_after(20):
        try:
            yield ours, theirs
        finally:
            ours.cut()
            theirs.cut()


@asynccontextmanager
async def websocket(extra=b""):
    """An open WebSocket of ours, and its other end."""
    async with streams() as (ours, theirs):
        peer, opened = Peer(theirs), []

        async def open_ours():
            opened.append(await open_websocket(ours, host="ns.example", port=443, secure=True))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(open_ours)
            peer.asked = await peer.accept(extra=extra)
        yield opened[0], peer


async def read(stream, size):
    data = bytearray()
    while len(data) < size:
        data += await stream.receive(PIECE - 1)
    return bytes(data)


# Opening --------------------------------------------------------------------------------------------------------------


async def test_a_websocket_is_asked_for_as_service_bus_wants_it():
    async with websocket() as (_, peer):
        request, *lines = peer.asked.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert request == f"GET {PATH} HTTP/1.1"
    assert (headers["host"], headers["upgrade"]) == ("ns.example", "websocket")
    assert headers["sec-websocket-protocol"] == "AMQPWSB10"
    assert "authorization" not in headers


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", 401, "password"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\nno", 407, "proxy"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 403, "IP rules"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404, "no such namespace"),
        (b"HTTP/1.1 302 Found\r\nLocation: wss://evil.example/\r\nContent-Length: 0\r\n\r\n", 302, "not followed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "something else"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", None, "opens no WebSocket"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000, None, "no HTTP, or too much"),
        (b"HTTP/1.1 200 OK\r\na: " + b"b" * 100_000, None, "no HTTP, or too much"),
        (b"AMQP\x00\x01\x00\x00\r\n\r\n", None, "no HTTP"),
        (b"HTTP/1.1 2", None, "closed before"),
        (b"", None, "closed before"),
    ],
)
async def test_an_answer_that_opens_no_websocket_is_told_in_a_line(answer, status, words):
    async def refuse(theirs):
        await Peer(theirs).head()
        await theirs.send(answer)
        theirs.cut()

    async with streams() as (ours, theirs):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(refuse, theirs)
            with pytest.raises(WebSocketRefusedError, match=words) as caught:
                await open_websocket(ours, host="ns.example", port=443, secure=True)
        assert caught.value.status == status
        with pytest.raises(anyio.ClosedResourceError):
            await ours.send(b"x")


@pytest.mark.parametrize("protocol", [None, "mqtt", "amqp"])
async def test_a_websocket_for_something_else_is_refused(protocol):
    async with streams() as (ours, theirs), anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: Peer(theirs).accept(protocol=protocol))
        with pytest.raises(WebSocketRefusedError, match="did not take up AMQPWSB10"):
            await open_websocket(ours, host="ns.example", port=443, secure=True)


# Receiving ------------------------------------------------------------------------------------------------------------


async def test_messages_fragments_and_pings_are_one_stream():
    async with websocket(extra=frame(BINARY, b"at once ")) as (ours, peer):
        await peer.send(
            frame(BINARY, b"one ", fin=False),
            frame(PING, b"are you there"),
            frame(CONT, b"", fin=False),
            frame(CONT, b"two ") + frame(BINARY, b"") + frame(PONG, b"?") + frame(BINARY, b"three"),
        )
        assert await read(ours, 21) == b"at once one two three"
        assert await peer.frame() == (PONG, b"are you there")


async def test_a_frame_may_come_byte_by_byte_and_be_read_in_pieces():
    payload = bytes(range(200))
    async with websocket() as (ours, peer), anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: peer.send(*(bytes([byte]) for byte in frame(BINARY, payload))))
        assert b"".join([await ours.receive(7) for _ in range(29)]) == payload


async def test_a_message_may_have_any_number_of_fragments():
    piece = bytes(64 * 1024)
    async with websocket() as (ours, peer):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(
                lambda: peer.send(frame(BINARY, fin=False), *([frame(CONT, piece, fin=False)] * 100), frame(CONT, b"."))
            )
            data = await read(ours, 100 * len(piece) + 1)
        assert data[-1:] == b"."


async def test_the_largest_frame_is_taken_and_a_larger_one_ends_it_before_it_is_in_memory():
    async with websocket() as (ours, peer):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: peer.send(frame(BINARY, bytes(MAX_FRAGMENT))))
            await read(ours, MAX_FRAGMENT)
        await peer.send(b"\x82\x7f" + struct.pack("!Q", MAX_FRAGMENT + 1))
        with pytest.raises(anyio.BrokenResourceError):
            await ours.receive()
        opcode, payload = await peer.frame()
        assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", 1009))


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (frame(BINARY, b"masked", mask=b"abcd"), 1002),
        (frame(CONT, b"of nothing"), 1002),
        (frame(3, b"unknown"), 1002),
        (frame(BINARY, b"x", rsv=0x40), 1002),
        (frame(PING, bytes(126)), 1002),
        (frame(PING, b"", fin=False), 1002),
        (frame(BINARY, b"", fin=False) + frame(BINARY, b""), 1002),
        (b"\x82\x7f" + struct.pack("!Q", 2**63), 1009),
    ],
)
async def test_what_is_no_websocket_frame_ends_it_with_the_right_word(broken, code):
    async with websocket() as (ours, peer):
        await peer.send(broken)
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await ours.receive()
        opcode, payload = await peer.frame()
        assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", code))
        with pytest.raises(anyio.BrokenResourceError):
            await ours.send(b"x")


async def test_text_ends_it():
    async with websocket() as (ours, peer):
        await peer.send(frame(BINARY, b"bytes"), frame(TEXT, b"words"))
        assert await ours.receive() == b"bytes"
        with pytest.raises(anyio.EndOfStream):
            await ours.receive()
        assert (await peer.frame())[1][:2] == struct.pack("!H", 1003)


async def test_what_came_before_a_close_is_read_and_the_close_is_answered():
    async with websocket() as (ours, peer):
        await peer.send(frame(BINARY, b"last words") + frame(CLOSE, struct.pack("!H", 1001)) + b"garbage")
        assert await ours.receive() == b"last words"
        for _ in range(2):
            with pytest.raises(anyio.EndOfStream):
                await ours.receive()
        assert await peer.frame() == (CLOSE, struct.pack("!H", 1001))
        with pytest.raises(anyio.BrokenResourceError):
            await ours.send(b"x")


async def test_a_connection_that_is_cut_in_the_middle_of_a_frame_is_an_end():
    async with websocket() as (ours, peer):
        await peer.send(frame(BINARY, b"half of it")[:6])
        peer.stream.cut()
        with pytest.raises(anyio.EndOfStream):
            await ours.receive()
        await ours.aclose()


async def test_pings_without_end_from_somebody_who_does_not_read_fill_no_memory():
    async with websocket() as (ours, peer), anyio.create_task_group() as tasks:
        tasks.start_soon(ours.send, bytes(100 * PIECE))
        tasks.start_soon(ours.receive)
        tasks.start_soon(peer.send, *([frame(PING, b"x" * 100) * 100] * 500))
        await anyio.wait_all_tasks_blocked()
        assert _MAX_OWED <= len(ours._protocol.writes) < 2 * _MAX_OWED
        tasks.cancel_scope.cancel()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.binary(max_size=300), st.booleans(), st.booleans()), max_size=8), st.data())
def test_however_it_is_cut_up_the_stream_is_the_same(messages, data):
    wire, payload, is_open = b"", b"", False
    for content, fin, ping in messages:
        wire += frame(CONT if is_open else BINARY, content, fin=fin) + (frame(PING, b"?") if ping else b"")
        payload, is_open = payload + content, not fin
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))
    pieces = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True) if a != b]

    async def run():
        async with websocket() as (ours, peer):
            await peer.send(*pieces)
            assert await read(ours, len(payload)) == payload

    anyio.run(run)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=400))
def test_whatever_comes_it_is_bytes_or_an_end(noise):
    async def run():
        async with websocket() as (ours, peer):
            await peer.send(noise)
            peer.stream.cut()
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while await ours.receive():
                    pass
            await ours.aclose()

    anyio.run(run)


# Sending and closing --------------------------------------------------------------------------------------------------


async def test_much_is_sent_in_pieces_of_a_moderate_size():
    data = bytes(range(256)) * 1024
    async with websocket() as (ours, peer):
        got = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ours.send, data)
            while sum(map(len, got)) < len(data):
                opcode, payload = await peer.frame()
                assert opcode == BINARY
                got.append(payload)
        assert b"".join(got) == data
        assert max(map(len, got)) == PIECE


async def test_closing_says_so_and_waits_for_the_answer():
    async with websocket() as (ours, peer):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ours.aclose)
            assert await peer.frame() == (CLOSE, struct.pack("!H", 1000))
            await anyio.wait_all_tasks_blocked()
            await peer.send(frame(BINARY, b"too late"), frame(CLOSE, struct.pack("!H", 1000)))
        with pytest.raises(anyio.EndOfStream):
            await peer.read(1)


async def test_closing_waits_for_no_answer_without_end():
    async with websocket() as (ours, peer):
        await ours.aclose()
        assert (await peer.frame())[0] == CLOSE


async def test_closing_by_force_says_nothing():
    async with websocket() as (ours, peer):
        await anyio.aclose_forcefully(ours)
        with pytest.raises(anyio.EndOfStream):
            await peer.read(1)


class Recorder(MemoryStream):
    """Keeps what it received."""

    seen = b""

    async def receive(self, max_bytes=65536):
        data = await super().receive(max_bytes)
        self.seen += data
        return data


async def test_an_amqp_connection_that_ends_in_order_ends_its_websocket_in_order():
    async with streams() as (ours, theirs):
        recorder = Recorder(theirs._send, theirs._receive)
        closed = []

        async def be_the_server():
            stream = await accept_websocket(recorder)
            connection = Connection(role="server", container_id="s", sasl=SaslServer(["ANONYMOUS"]), now=now())
            await AmqpTransport(stream, connection).run(lambda event: None)

        def on_event(event):
            if isinstance(event, ConnectionOpened):
                client.connection.close()
            if isinstance(event, ConnectionClosed):
                closed.append(event.reason)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(be_the_server)
            stream = await open_websocket(ours, host="h", port=80, secure=False)
            connection = Connection(role="client", container_id="c", hostname="h", sasl=SaslAnonymous(), now=now())
            client = AmqpTransport(stream, connection)
            await client.run(on_event)
        assert closed == ["closed"]
        # A masked close with a code and nothing else, as the last thing said.
        assert recorder.seen[-8:-6] == b"\x88\x82"


# Being the server -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        (f"GET {PATH} HTTP/1.1", "Upgrade: websocket\r\nConnection: Upgrade\r\n", b" 400 "),
        ("GET / HTTP/1.1", "Upgrade: websocket\r\nConnection: Upgrade\r\n", b" 404 "),
        (f"GET {PATH} HTTP/1.1", "", b" 426 "),
    ],
)
async def test_a_request_for_anything_else_is_answered_with_a_no(request_line, headers, status):
    key = "Sec-WebSocket-Key: " + base64.b64encode(bytes(16)).decode()
    async with streams() as (ours, theirs):
        await theirs.send(f"{request_line}\r\nHost: x\r\n{headers}{key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        with pytest.raises(WebSocketRefusedError):
            await accept_websocket(ours)
        assert status in await theirs.receive()


async def test_both_ends_of_ours_understand_each_other():
    async def echo(theirs):
        stream = await accept_websocket(theirs)
        for _ in range(3):
            await stream.send(await stream.receive())
        await stream.aclose()

    async with streams() as (ours, theirs), anyio.create_task_group() as tasks:
        tasks.start_soon(echo, theirs)
        stream = await open_websocket(ours, host="::1", port=8080, secure=False)
        for word in (b"a", b"b", b"c"):
            await stream.send(word)
            assert await stream.receive() == word
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        await stream.aclose()


# Judged by aiohttp ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def aiohttp_server(handler):
    app = web.Application()
    app.router.add_get(PATH, handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_aiohttps_server_takes_what_we_send_and_we_what_it_sends():
    closed = []

    async def echo(request):
        server = web.WebSocketResponse(protocols=[SUBPROTOCOL], max_msg_size=0)
        await server.prepare(request)
        await server.ping(b"?")
        async for message in server:
            assert message.type is aiohttp.WSMsgType.BINARY
            await server.send_bytes(message.data)
        closed.append(server.close_code)
        return server

    data = bytes(range(256)) * 12_000
    with anyio.fail_after(30):
        async with aiohttp_server(echo) as port:
            stream = await open_websocket(
                await anyio.connect_tcp("127.0.0.1", port), host="127.0.0.1", port=port, secure=False
            )
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.send, data)
                assert await read(stream, len(data)) == data
            await stream.aclose()
        assert closed == [1000]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_aiohttps_client_takes_what_our_server_sends():
    async def echo(stream):
        accepted = await accept_websocket(stream)
        with suppress(anyio.EndOfStream):
            while True:
                await accepted.send(await accepted.receive())
        await accepted.aclose()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, echo)
        url = f"ws://127.0.0.1:{listener.extra(SocketAttribute.local_port)}{PATH}"
        with anyio.fail_after(30):
            async with aiohttp.ClientSession() as session, session.ws_connect(url, protocols=[SUBPROTOCOL]) as client:
                assert client.protocol == SUBPROTOCOL
                await client.ping()
                await client.send_bytes(b"hello")
                assert (await client.receive_bytes()) == b"hello"
                await client.close()
                assert client.close_code == 1000
        tasks.cancel_scope.cancel()


async def test_nothing_of_what_passes_is_logged(caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("websockets").setLevel(logging.DEBUG)
    async with websocket() as (ours, peer):
        await ours.send(b"TOPSECRET")
        await peer.frame()
        await peer.send(frame(BINARY, b"TOPSECRET"))
        await ours.receive()
        await peer.send(frame(CONT, b"TOPSECRET"))
        with pytest.raises(anyio.BrokenResourceError):
            await ours.receive()
    assert [record for record in caplog.records if "websocket" in record.name] == []
