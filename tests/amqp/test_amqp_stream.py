"""The shell on real loopback sockets, plain and TLS, on both event loops."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream, Listener, SocketAttribute, SocketStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from anyio.streams.tls import TLSListener, TLSStream
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from renewer.amqp import (
    AMQP_HEADER,
    AmqpError,
    AmqpTransport,
    AttachRequested,
    Close,
    Connection,
    ConnectionClosed,
    ConnectionOpened,
    ConnectionState,
    DeliveryReceived,
    Event,
    LinkAttached,
    Open,
    ReceiverLink,
    SaslAnonymous,
    SaslServer,
    SenderLink,
    SessionEnded,
    SessionOpened,
    Source,
    Target,
    connect,
    encode_frame,
    encode_performative,
    secure,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A throw-away certificate for localhost, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + built.public_bytes(serialization.Encoding.PEM))
    return path


class Recorder:
    """Keeps the events of one side and lets a test wait for one."""

    def __init__(self, act: Callable[[Event], None] | None = None) -> None:
        self.events: list[Event] = []
        self._act = act
        self._news = anyio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()
        self._news = anyio.Event()
        if self._act is not None:
            self._act(event)

    async def wait_for(self, kind: type, count: int = 1) -> list[Event]:
        with anyio.fail_after(10):
            while len(found := [event for event in self.events if type(event) is kind]) < count:
                await self._news.wait()
        return found


def echo(event: Event) -> None:
    """A server that sends back whatever arrives on the link `to`, on the link `from`."""
    match event:
        case AttachRequested(link=ReceiverLink() as link):
            link.accept(auto_credit=100)
        case AttachRequested(link=SenderLink() as link):
            link.accept()
        case DeliveryReceived(link=link, delivery=delivery):
            back = next(other for other in link.session.links if isinstance(other, SenderLink))
            back.send(delivery.payload, settled=True)


class EchoServer:
    def __init__(self, port: int) -> None:
        self.port = port
        self.recorder = Recorder(echo)
        self.streams: list[ByteStream] = []
        self.transports: list[AmqpTransport] = []


@asynccontextmanager
async def echo_server(
    tls: ssl.SSLContext | None = None, idle_time_out_s: float | None = 60
) -> AsyncIterator[EchoServer]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    server = EchoServer(listener.extra(SocketAttribute.local_port))

    async def serve(stream: ByteStream) -> None:
        connection = Connection(
            role="server",
            container_id="echo",
            sasl=SaslServer(["ANONYMOUS"], required=False),
            idle_time_out_s=idle_time_out_s,
            now=anyio.current_time(),
        )
        transport = AmqpTransport(stream, connection)
        server.streams.append(stream)
        server.transports.append(transport)
        await transport.run(server.recorder)

    wrapped = TLSListener(listener, tls, standard_compatible=False) if tls is not None else listener
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(wrapped.serve, serve)
        try:
            yield server
        finally:
            tasks.cancel_scope.cancel()


def client_connection(**options: object) -> Connection:
    return Connection(role="client", container_id="c", sasl=SaslAnonymous(), now=anyio.current_time(), **options)  # type: ignore[arg-type]


@asynccontextmanager
async def client_of(
    port: int, *, tls: ssl.SSLContext | None = None, **options: object
) -> AsyncIterator[tuple[AmqpTransport, Recorder]]:
    stream = await connect("127.0.0.1", port)
    if tls is not None:
        stream = await secure(stream, tls, "127.0.0.1")
    transport = AmqpTransport(stream, client_connection(**options))
    recorder = Recorder()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(transport.run, recorder)
        await recorder.wait_for(ConnectionOpened)
        try:
            yield transport, recorder
        finally:
            await transport.aclose()


async def links_of(transport: AmqpTransport, recorder: Recorder) -> tuple[SenderLink, ReceiverLink]:
    session = transport.connection.open_session()
    transport.flush()
    await recorder.wait_for(SessionOpened)
    sender = session.attach_sender("to", source=Source("a"), target=Target("b"))
    receiver = session.attach_receiver("from", source=Source("a"), target=Target("b"), auto_credit=100)
    transport.flush()
    await recorder.wait_for(LinkAttached, 2)
    return sender, receiver


async def exchange(transport: AmqpTransport, recorder: Recorder) -> None:
    sender, _ = await links_of(transport, recorder)
    payloads = [bytes([index]) * (index * 5_000) for index in range(40)]
    for payload in payloads:
        sender.send(payload, settled=True)
    transport.flush()
    events = await recorder.wait_for(DeliveryReceived, len(payloads))
    assert [event.delivery.payload for event in events if isinstance(event, DeliveryReceived)] == payloads


async def test_messages_go_there_and_back_over_tcp() -> None:
    async with echo_server() as server, client_of(server.port) as (transport, recorder):
        await exchange(transport, recorder)
        await transport.aclose()
        assert recorder.events[-1] == ConnectionClosed(None, "closed")
        assert (await server.recorder.wait_for(ConnectionClosed)) == [ConnectionClosed(None, "closed")]


async def test_messages_go_there_and_back_over_tls(certificate: Path) -> None:
    server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_tls.load_cert_chain(certificate)
    client_tls = ssl.create_default_context(cafile=certificate)
    async with echo_server(server_tls) as server, client_of(server.port, tls=client_tls) as (transport, recorder):
        await exchange(transport, recorder)
        await transport.aclose()
        assert recorder.events[-1] == ConnectionClosed(None, "closed")


class Gathered(ByteStream):
    """One end of a pipe in memory that gives out all that has come by then, as a socket does."""

    def __init__(self, send: MemoryObjectSendStream[bytes], receive: MemoryObjectReceiveStream[bytes]) -> None:
        self._send, self._receive = send, receive

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = await self._receive.receive()
        with suppress(anyio.WouldBlock, anyio.EndOfStream):
            while True:
                data += self._receive.receive_nowait()
        return data

    async def send(self, item: bytes) -> None:
        await self._send.send(bytes(item))

    async def send_eof(self) -> None:
        self._send.close()

    async def aclose(self) -> None:
        self._send.close()
        self._receive.close()


@asynccontextmanager
async def tls_pair(certificate: Path) -> AsyncIterator[tuple[ByteStream, TLSStream, Gathered]]:
    """The client's end of a TLS connection in memory, the server's, and what that sends over."""
    server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_tls.load_cert_chain(certificate)
    up_send, up_receive = anyio.create_memory_object_stream[bytes](100)
    down_send, down_receive = anyio.create_memory_object_stream[bytes](100)
    below = Gathered(down_send, up_receive)
    served: list[TLSStream] = []

    async def serve() -> None:
        served.append(await TLSStream.wrap(below, server_side=True, ssl_context=server_tls, standard_compatible=False))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        client_tls = ssl.create_default_context(cafile=certificate)
        client = await secure(Gathered(up_send, down_receive), client_tls, "localhost")
    async with client, served[0]:
        yield client, served[0], below


async def test_all_records_of_tls_that_are_there_are_read_at_once(certificate: Path) -> None:
    async with tls_pair(certificate) as (client, server, _):
        for word in (b"one", b"two", b"three"):
            await server.send(word)
        assert await client.receive() == b"onetwothree"
        for word in (b"four", b"five", b"six"):
            await server.send(word)
        assert [await client.receive(6), await client.receive(6)] == [b"fourfi", b"vesix"]


async def test_what_comes_before_the_end_or_garbage_is_read_and_then_that_is_told(certificate: Path) -> None:
    async with tls_pair(certificate) as (client, server, below):
        await server.send(b"last words")
        await below.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        assert await client.receive() == b"last words"
        for _ in range(2):
            with pytest.raises(ssl.SSLError, match=r"(?i)bad record mac|decryption failed"):
                await client.receive()
    async with tls_pair(certificate) as (client, server, below):
        await server.send(b"last words")
        await below.send_eof()
        assert await client.receive() == b"last words"
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await client.receive()


async def test_a_certificate_that_is_not_trusted_is_refused(certificate: Path) -> None:
    server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_tls.load_cert_chain(certificate)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    tls_listener = TLSListener(listener, server_tls)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_serve_quietly, tls_listener)
        stream = await connect("127.0.0.1", _port_of(listener))
        with anyio.fail_after(10), pytest.raises(ssl.SSLError):
            await secure(stream, ssl.create_default_context(), "127.0.0.1")
        tasks.cancel_scope.cancel()
    await listener.aclose()


def _port_of(listener: Listener[SocketStream]) -> int:
    return int(listener.extra(SocketAttribute.local_port))


async def _serve_quietly(listener: TLSListener) -> None:
    async def nothing(stream: ByteStream) -> None:
        await stream.aclose()

    await listener.serve(nothing)


async def test_a_peer_that_hangs_up_during_the_handshake_is_an_os_error() -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)

    async def hang_up(stream: SocketStream) -> None:
        await stream.aclose()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, hang_up)
        stream = await connect("127.0.0.1", _port_of(listener))
        with anyio.fail_after(10), pytest.raises(OSError):
            await secure(stream, ssl.create_default_context(), "127.0.0.1")
        tasks.cancel_scope.cancel()
    await listener.aclose()


async def test_nobody_there_is_an_os_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with anyio.fail_after(10), pytest.raises(OSError):
            await connect("127.0.0.1", unused.getsockname()[1])


async def test_small_frames_do_not_wait_and_the_kernel_watches() -> None:
    async with echo_server() as server, client_of(server.port) as (transport, _):
        for stream in (transport._stream, server.streams[0]):
            raw_socket = stream.extra(SocketAttribute.raw_socket)
            assert raw_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            assert raw_socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0


async def test_the_end_of_the_stream_is_seen_at_once() -> None:
    async with echo_server() as server, client_of(server.port) as (transport, recorder):
        await links_of(transport, recorder)
        await server.streams[0].aclose()
        assert await recorder.wait_for(ConnectionClosed) == [ConnectionClosed(None, "eof")]
        assert [type(event).__name__ for event in recorder.events[-4:]] == [
            "LinkDetached",
            "LinkDetached",
            "SessionEnded",
            "ConnectionClosed",
        ]


async def test_a_reset_is_seen_at_once() -> None:
    async with echo_server() as server, client_of(server.port) as (transport, recorder):
        await links_of(transport, recorder)
        raw_socket = server.streams[0].extra(SocketAttribute.raw_socket)
        raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        await anyio.aclose_forcefully(server.streams[0])
        assert await recorder.wait_for(ConnectionClosed) == [ConnectionClosed(None, "eof")]


async def test_a_server_that_closes_says_why() -> None:
    async with echo_server() as server, client_of(server.port) as (_, recorder):
        server.transports[0].connection.close(AmqpError("amqp:connection:forced", "bye"))
        server.transports[0].flush()
        closed = await recorder.wait_for(ConnectionClosed)
        assert closed == [ConnectionClosed(AmqpError("amqp:connection:forced", "bye"), "closed")]


async def test_garbage_is_answered_and_the_stream_closed() -> None:
    async with echo_server() as server:
        stream = await anyio.connect_tcp("127.0.0.1", server.port)
        async with stream:
            await stream.send(AMQP_HEADER + b"\x00\x00\x00\x07\x02\x00\x00\x00")
            received = bytearray()
            with anyio.fail_after(10):
                while True:
                    try:
                        received += await stream.receive()
                    except (anyio.EndOfStream, anyio.BrokenResourceError):
                        break
        assert received.startswith(AMQP_HEADER)
        assert b"amqp:connection:framing-error" in received
        assert [event.reason for event in await server.recorder.wait_for(ConnectionClosed)] == ["protocol-error"]  # type: ignore[union-attr]


async def test_a_silent_peer_is_given_up() -> None:
    async with echo_server(idle_time_out_s=None) as server:
        stream = await connect("127.0.0.1", server.port)
        recorder = Recorder()
        transport = AmqpTransport(stream, client_connection(idle_time_out_s=0.05))
        connection = transport.connection
        server_side = anyio.Event()

        def freeze(event: Event) -> None:
            recorder(event)
            if isinstance(event, ConnectionOpened):  # The server would keep us happy: make it deaf.
                server.transports[0].connection.next_due = lambda: None  # type: ignore[method-assign]
                server_side.set()

        with anyio.fail_after(10):
            await transport.run(freeze)
        assert recorder.events[-1] == ConnectionClosed(
            AmqpError("amqp:resource-limit-exceeded", "local-idle-timeout"), "idle"
        )
        assert connection.state is ConnectionState.CLOSED


async def test_cancelling_reports_the_end_and_closes_the_stream() -> None:
    async with echo_server() as server:
        stream = await connect("127.0.0.1", server.port)
        recorder = Recorder()
        transport = AmqpTransport(stream, client_connection())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.run, recorder)
            await recorder.wait_for(ConnectionOpened)
            tasks.cancel_scope.cancel()
        assert recorder.events[-1] == ConnectionClosed(None, "eof")
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()
        await server.recorder.wait_for(ConnectionClosed)


async def test_what_the_application_raises_ends_the_connection_and_comes_out() -> None:
    async with echo_server() as server:
        stream = await connect("127.0.0.1", server.port)
        transport = AmqpTransport(stream, client_connection())

        def fail(event: Event) -> None:
            raise LookupError(type(event).__name__)

        with anyio.fail_after(10), pytest.raises(LookupError, match="ConnectionOpened"):
            await transport.run(fail)
        await server.recorder.wait_for(ConnectionClosed)


async def test_closing_may_be_asked_for_in_any_order_and_twice() -> None:
    async with echo_server() as server:
        never_run = AmqpTransport(await connect("127.0.0.1", server.port), client_connection())
        await never_run.aclose()
        await never_run.aclose()
        recorder = Recorder()
        with anyio.fail_after(10):
            await never_run.run(recorder)
        assert recorder.events == [ConnectionClosed(None, "closed")]
        async with client_of(server.port) as (transport, recorder):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(transport.aclose)
                tasks.start_soon(transport.aclose)
            await transport.aclose()
            assert recorder.events[-1] == ConnectionClosed(None, "closed")


async def test_a_peer_that_does_not_answer_close_is_left_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("renewer.amqp.stream.FAREWELL_S", 0.05)
    async with echo_server() as server, client_of(server.port) as (transport, recorder):
        connection = server.transports[0].connection
        connection.receive = lambda data, now: []  # type: ignore[method-assign,assignment]
        with anyio.fail_after(10):
            await transport.aclose()
        assert recorder.events[-1] == ConnectionClosed(None, "closed")


class _Quiet(ByteStream):
    """A stream that only tells when something is written to it."""

    def __init__(self) -> None:
        self.sending = anyio.Event()

    async def send_eof(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()


class _Slow(_Quiet):
    """A stream whose writes wait and whose reads are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.let_write, self.incoming = anyio.Event(), anyio.Event()
        self.read_once, self.read_again = anyio.Event(), anyio.Event()
        self.reads = 0

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await self.incoming.wait()
        self.reads += 1
        (self.read_once if self.reads == 1 else self.read_again).set()
        if self.reads > 1:
            await anyio.sleep_forever()
        return b"A"

    async def send(self, item: bytes) -> None:
        self.sending.set()
        await self.let_write.wait()


class _LastWords(_Quiet):
    """A stream that cannot be written to any more but still has something to read."""

    def __init__(self, words: bytes) -> None:
        super().__init__()
        self._words = [words]

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await self.sending.wait()
        if not self._words:
            raise anyio.EndOfStream
        return self._words.pop()

    async def send(self, item: bytes) -> None:
        self.sending.set()
        raise anyio.BrokenResourceError


async def test_the_last_words_of_a_peer_that_left_are_heard() -> None:
    error = AmqpError("amqp:connection:forced", "bye")
    words = b"".join(encode_frame(0, encode_performative(p)) for p in (Open("peer"), Close(error)))
    connection = Connection(role="client", container_id="c", now=anyio.current_time())
    recorder = Recorder()
    with anyio.fail_after(10):
        await AmqpTransport(_LastWords(AMQP_HEADER + words), connection).run(recorder)
    assert recorder.events[-1] == ConnectionClosed(error, "closed")


async def test_a_peer_that_left_without_a_word_is_gone() -> None:
    connection = Connection(role="client", container_id="c", now=anyio.current_time())
    recorder = Recorder()
    with anyio.fail_after(10):
        await AmqpTransport(_LastWords(b""), connection).run(recorder)
    assert recorder.events == [ConnectionClosed(None, "eof")]


async def test_a_stream_that_can_neither_be_written_nor_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(_LastWords):
        async def receive(self, max_bytes: int = 65536) -> bytes:
            await anyio.sleep_forever()

    monkeypatch.setattr("renewer.amqp.stream.FAREWELL_S", 0.05)
    connection = Connection(role="client", container_id="c", now=anyio.current_time())
    recorder = Recorder()
    with anyio.fail_after(10):
        await AmqpTransport(Stuck(b""), connection).run(recorder)
    assert recorder.events == [ConnectionClosed(None, "eof")]


async def test_a_peer_that_does_not_read_is_not_read_from_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("renewer.amqp.stream.MAX_BACKLOG", 1000)
    monkeypatch.setattr("renewer.amqp.stream.FAREWELL_S", 0.05)
    slow = _Slow()
    connection = client_connection()
    transport = AmqpTransport(slow, connection)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(transport.run, Recorder())
        with anyio.fail_after(10):
            await slow.sending.wait()
            connection._outlet.output += bytes(2000)
            slow.incoming.set()
            await slow.read_once.wait()
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            assert slow.reads == 1
            slow.let_write.set()
            await slow.read_again.wait()
        tasks.cancel_scope.cancel()


async def test_what_is_queued_in_one_turn_is_written_in_one_piece() -> None:
    async with echo_server() as server, client_of(server.port) as (transport, recorder):
        sender, _ = await links_of(transport, recorder)
        pieces: list[int] = []
        send = transport._stream.send

        async def counting(item: bytes) -> None:
            pieces.append(len(item))
            await send(item)

        transport._stream.send = counting  # type: ignore[method-assign]
        for _ in range(50):
            sender.send(b"x" * 10, settled=True)
            transport.flush()
        await recorder.wait_for(DeliveryReceived, 50)
        assert pieces[0] > 50 * 10


async def test_events_that_calls_cause_are_reported_without_the_peers_help() -> None:
    async with echo_server() as server, client_of(server.port) as (transport, recorder):
        await links_of(transport, recorder)
        transport.connection._fail(_error(), "protocol-error")
        transport.flush()
        assert len(await recorder.wait_for(ConnectionClosed)) == 1
        assert len(await recorder.wait_for(SessionEnded)) == 1


def _error() -> Exception:
    from renewer.errors import AmqpProtocolError

    return AmqpProtocolError("made up")
