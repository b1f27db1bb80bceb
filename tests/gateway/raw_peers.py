"""AMQP peers that do exactly what they are told, right or wrong: a worker that blocks, and a broker in a thread."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import quote_plus

from renewer.amqp import (
    AMQP_HEADER,
    SASL_HEADER,
    Attach,
    Begin,
    Close,
    Detach,
    End,
    Flow,
    Frame,
    FrameReader,
    FrameType,
    Int,
    Message,
    MessageProperties,
    Open,
    Performative,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    Source,
    Symbol,
    Target,
    Timestamp,
    Transfer,
    Value,
    decode_performative,
    encode_frame,
    encode_performative,
)

P = TypeVar("P")

PATIENCE_S = 25.0
WINDOW = 5000


def frame(performative: Performative, payload: bytes = b"", channel: int = 0) -> bytes:
    return encode_frame(channel, encode_performative(performative) + payload)


def signature(audience: str, key_name: str, key: str, *, lasts_s: float = 3600) -> str:
    """A shared access signature, as SDKs make it."""
    resource, end = quote_plus(audience), str(int(time.time() + lasts_s))
    signed = base64.b64encode(hmac.new(key.encode(), f"{resource}\n{end}".encode(), hashlib.sha256).digest())
    return f"SharedAccessSignature sr={resource}&sig={quote_plus(signed)}&se={end}&skn={key_name}"


class Ended(Exception):  # noqa: N818 - it is no error
    """The other side has ended the connection."""


class RawPeer:
    """One end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.socket.settimeout(PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.seen: list[Performative] = []
        self._frames = FrameReader(0xFFFFFFFF)
        self._headers_to_come = 0

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *what: Performative | bytes, channel: int = 0) -> None:
        """Send bytes as they are, performatives in a frame each."""
        data = b"".join(one if isinstance(one, bytes) else frame(one, channel=channel) for one in what)
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Ended(str(error)) from error

    def read_exactly(self, size: int) -> bytes:
        """Read from the socket itself, before there are frames."""
        data = b""
        while len(data) < size:
            more = self.receive(size - len(data))
            data += more
        return data

    def receive(self, size: int = 1 << 16) -> bytes:
        try:
            data = self.socket.recv(size)
        except TimeoutError as error:
            raise AssertionError(f"nothing came in {PATIENCE_S} s; seen: {self.seen[-3:]}") from error
        except OSError as error:
            raise Ended(str(error)) from error
        if not data:
            raise Ended("end of file")
        return data

    def frames(self) -> Iterator[Frame]:
        """What comes, for ever."""
        while True:
            yield from self._frames
            self._frames.feed(self.receive())

    def performatives(self) -> Iterator[tuple[int, Performative, bytes]]:
        """The same, read: channel, performative, payload."""
        for one in self.frames():
            if one.body:
                performative, size = decode_performative(one.body)
                self.seen.append(performative)
                yield one.channel, performative, one.body[size:]

    def wait_for(self, kind: type[P], matches: Callable[[P], bool] = lambda _: True) -> P:
        """The next performative of a kind; `Ended` if the connection goes before it."""
        for _, performative, _ in self.performatives():
            if isinstance(performative, kind) and matches(performative):
                return performative
        raise AssertionError

    def until_ended(self) -> list[Performative]:
        """Wait for the other side to end the connection; gives what it said meanwhile."""
        with contextlib.suppress(Ended):
            for _ in self.performatives():
                pass
        return self.seen


class RawWorker(RawPeer):
    """A worker. Raises `Ended` where the gateway ends the connection."""

    def __init__(self, port: int) -> None:
        super().__init__(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S))
        self._ids = 0

    def greet(self) -> None:
        """SASL ANONYMOUS, then the header of AMQP."""
        self.send(SASL_HEADER)
        assert self.read_exactly(8) == SASL_HEADER
        self.wait_for(SaslMechanisms)
        init = SaslInit("ANONYMOUS", b"", "127.0.0.1")
        self.send(encode_frame(0, encode_performative(init), FrameType.SASL))
        assert self.wait_for(SaslOutcome).code == 0
        self.send(AMQP_HEADER)
        assert self.read_exactly(8) == AMQP_HEADER

    def open(self, **fields: Any) -> Open:
        self.greet()
        self.send(Open(**{"container_id": "raw", "hostname": "127.0.0.1", "max_frame_size": 65536, **fields}))
        return self.wait_for(Open)

    def begin(self, channel: int = 0, **fields: Any) -> Begin:
        self.send(
            Begin(
                **{
                    "remote_channel": None,
                    "next_outgoing_id": 0,
                    "incoming_window": WINDOW,
                    "outgoing_window": WINDOW,
                    **fields,
                }
            ),
            channel=channel,
        )
        return self.wait_for(Begin)

    def attach_cbs(self, channel: int = 0, first_handle: int = 200) -> None:
        node = "$cbs"
        self.send(
            Attach("cbs-out", first_handle, False, source=Source(node), target=Target(node), initial_delivery_count=0),
            Attach("cbs-in", first_handle + 1, True, source=Source(node), target=Target("me")),
            channel=channel,
        )
        self.wait_for(Attach)
        self.wait_for(Attach)
        self.send(Flow(0, WINDOW, 0, WINDOW, first_handle + 1, 0, 1000), channel=channel)
        self._cbs = (channel, first_handle)

    def put_token(self, entity: str, key_name: str, key: str) -> int:
        """The status that the token is answered with."""
        audience = f"sb://127.0.0.1/{entity}"
        return self.put(signature(audience, key_name, key), name=audience)

    def put(self, token: object, **properties: Any) -> int:
        channel, handle = self._cbs
        self._ids += 1
        asked = {"operation": "put-token", "type": "servicebus.windows.net:sastoken", **properties}
        asked.setdefault("expiration", Timestamp(int(1000 * (time.time() + 3600))))
        message = Message(Value(token), MessageProperties(message_id=f"m{self._ids}", reply_to="me"), asked)
        transfer = Transfer(handle, self._ids - 1, self._ids.to_bytes(4, "big"), 0, True)
        self.send(frame(transfer, message.encode(), channel))
        for _, performative, payload in self.performatives():
            if isinstance(performative, Transfer) and payload:
                reply = Message.decode(payload)
                return int(reply.application_properties["status-code"])
        raise AssertionError

    def let_in(self, entity: str, key: str, key_name: str = "local") -> None:
        """All that a good worker does before it attaches to an entity."""
        self.open()
        self.begin()
        self.attach_cbs()
        assert self.put_token(entity, key_name, key) in {200, 202}

    def attach_receiver(self, entity: object, handle: int = 0, channel: int = 0, **fields: Any) -> Attach | None:
        """Attach and wait; None if it is refused."""
        source = fields.pop("source", Source(entity))
        self.send(Attach(f"r{handle}", handle, True, source=source, target=Target("me"), **fields), channel=channel)
        return self.answer_to_attach()

    def attach_sender(self, target: object, handle: int = 0, channel: int = 0, **fields: Any) -> Attach | None:
        self.send(
            Attach(f"s{handle}", handle, False, source=Source("me"), target=target, initial_delivery_count=0, **fields),  # type: ignore[arg-type]
            channel=channel,
        )
        return self.answer_to_attach()

    def answer_to_attach(self) -> Attach | None:
        """None where it is refused: by an attach without source or target and a detach, or without a word."""
        for _, performative, _ in self.performatives():
            match performative:
                case Attach(source=None) | Attach(target=None):
                    self.wait_for(Detach)
                    return None
                case Attach():
                    return performative
                case Detach() | End() | Close():
                    return None
                case _:
                    pass
        raise AssertionError

    def credit(self, handle: int, credit: int, channel: int = 0, *, window: int = WINDOW) -> None:
        self.send(Flow(0, window, 0, WINDOW, handle, 0, credit), channel=channel)


class RawBroker:
    """A broker in a thread: each connection is given to `serve`, in a thread of its own."""

    def __init__(self, serve: Callable[[RawPeer], None]) -> None:
        self.serve = serve
        self.connections: list[RawPeer] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        for peer in self.connections:
            peer.socket.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            peer = RawPeer(sock)
            self.connections.append(peer)
            threading.Thread(target=self._run, args=[peer], daemon=True).start()

    def _run(self, peer: RawPeer) -> None:
        with peer, contextlib.suppress(Ended, OSError, AssertionError):
            self.serve(peer)


@contextmanager
def raw_broker(serve: Callable[[RawPeer], None]) -> Iterator[RawBroker]:
    broker = RawBroker(serve)
    try:
        yield broker
    finally:
        broker.close()


def greet_as_broker(peer: RawPeer) -> None:
    """SASL, as Service Bus does it, and the header of AMQP."""
    header = peer.read_exactly(8)
    if header == SASL_HEADER:
        mechanisms = SaslMechanisms([Symbol(name) for name in ("MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL")])
        peer.send(SASL_HEADER, encode_frame(0, encode_performative(mechanisms), FrameType.SASL))
        peer.wait_for(SaslInit)
        peer.send(encode_frame(0, encode_performative(SaslOutcome(0)), FrameType.SASL))
        header = peer.read_exactly(8)
    assert header == AMQP_HEADER
    peer.send(AMQP_HEADER)


def play_broker(
    peer: RawPeer, on: Callable[[RawPeer, int, Performative, bytes], bool] = lambda *_: False, **opens: Any
) -> None:
    """A broker that grants everything, for as long as the connection lasts; `on` says True where it has answered."""
    greet_as_broker(peer)
    numbers = iter(range(1 << 32))
    for channel, performative, payload in peer.performatives():
        if on(peer, channel, performative, payload):
            continue
        match performative:
            case Open():
                peer.send(Open(**{"container_id": "raw", "max_frame_size": 65536, "channel_max": 255, **opens}))
            case Begin():
                peer.send(Begin(channel, 0, WINDOW, WINDOW, handle_max=255), channel=channel)
            case Attach(role=True):  # It receives: we send.
                peer.send(_mirrored(performative, initial_delivery_count=0), channel=channel)
            case Attach():
                peer.send(
                    _mirrored(performative), Flow(0, WINDOW, 0, WINDOW, performative.handle, 0, 1000), channel=channel
                )
            case Transfer() if payload:
                _answer(peer, channel, payload, next(numbers))
            case Detach():
                peer.send(Detach(performative.handle, True), channel=channel)
            case End():
                peer.send(End(), channel=channel)
            case Close():
                peer.send(Close())
                return
            case _:
                pass


def _mirrored(attach: Attach, **fields: Any) -> Attach:
    return Attach(
        attach.name,
        attach.handle,
        not attach.role,
        source=attach.source,
        target=attach.target,
        max_message_size=1 << 20,
        **fields,
    )


def _answer(peer: RawPeer, channel: int, payload: bytes, number: int) -> None:
    """Answer a put-token: every one is good. The reply goes to the latest receiver of `$cbs` on that channel."""
    request = Message.decode(payload)
    if request.application_properties.get("operation") != "put-token" or request.properties is None:
        return
    handle = max(
        one.handle
        for one in peer.seen
        if isinstance(one, Attach) and one.role and isinstance(one.source, Source) and one.source.address == "$cbs"
    )
    status = {"status-code": Int(202), "status-description": "Accepted"}
    reply = Message(Value(None), MessageProperties(correlation_id=request.properties.message_id), status)
    peer.send(frame(Transfer(handle, number, number.to_bytes(4, "big"), 0, True), reply.encode(), channel))
