"""AMQP over WebSocket (the OASIS AMQP WebSocket Binding): binary messages that, put together, are the byte stream.

Where one message ends and the next begins says nothing about AMQP frames, so that messages and their fragments are
taken apart and put together at will. The WebSocket protocol itself is the library `websockets`, without its I/O.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.abc import ByteStream
from websockets.client import ClientProtocol
from websockets.exceptions import (
    InvalidHandshake,
    InvalidMessage,
    InvalidState,
    InvalidStatus,
    NegotiationError,
)
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

if TYPE_CHECKING:
    from websockets.http11 import Response
    from websockets.protocol import Protocol

PATH: Final = "/$servicebus/websocket"
"""Where Service Bus has it (azure-servicebus 7.15 behaviour)."""

SUBPROTOCOL: Final = Subprotocol("AMQPWSB10")
"""The name that Service Bus knows AMQP 1.0 by (azure-servicebus 7.15 behaviour)."""

MAX_FRAGMENT: Final = 4 * 1024 * 1024
"""Bytes of one WebSocket frame, which is in memory as a whole; how many make up a message does not matter."""

PIECE: Final = 64 * 1024
"""Bytes of one WebSocket frame of ours."""

FAREWELL_S: Final = 1.0
"""How long the other side may take to answer our close."""

_READ_SIZE: Final = 65536
_MAX_OWED: Final = 1000
"""So many answers to pings may wait for someone who is writing; then nothing more is read until they are written."""

_SILENT: Final = logging.Logger("websockets", level=logging.CRITICAL)  # noqa: LOG001 - apart from all others
"""For the library, which would show frames, and with them tokens, to whoever turns its debug log on."""

_GONE: Final = (
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.BusyResourceError,  # Somebody reads still: then nobody waits for an answer here.
    OSError,
)


class WebSocketRefusedError(ConnectionError):
    """There is no WebSocket for AMQP to be had. `status` is that of the HTTP answer, where there was one."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


async def open_websocket(stream: ByteStream, *, host: str, port: int, secure: bool, path: str = PATH) -> ByteStream:
    """Ask for a WebSocket on a fresh stream to `host`, which is closed if that fails.

    Raises OSError: WebSocketRefusedError when the answer was no, or was none. Redirects are not followed.
    """
    authority = f"[{host}]" if ":" in host else host
    uri = parse_uri(f"{'wss' if secure else 'ws'}://{authority}:{port}{path}")
    protocol = ClientProtocol(uri, subprotocols=[SUBPROTOCOL], max_size=(None, MAX_FRAGMENT), logger=_SILENT)
    made = _WebSocketStream(stream, protocol)
    try:
        protocol.send_request(protocol.connect())
        await made.handshake()
        if protocol.subprotocol != SUBPROTOCOL:
            raise WebSocketRefusedError(f"the WebSocket does not speak AMQP: it did not take up {SUBPROTOCOL}")
    except BaseException as error:
        await anyio.aclose_forcefully(stream)
        if isinstance(error, InvalidHandshake):
            raise _refusal(error) from error
        if isinstance(error, (anyio.EndOfStream, anyio.BrokenResourceError)):
            raise WebSocketRefusedError("the connection was closed before the WebSocket was open") from error
        raise
    return made


async def accept_websocket(stream: ByteStream, *, path: str = PATH) -> ByteStream:
    """Be the server of a WebSocket on a fresh stream, which is closed if nobody wants one there. Raises OSError."""
    protocol = ServerProtocol(subprotocols=[SUBPROTOCOL], max_size=(None, MAX_FRAGMENT), logger=_SILENT)
    made = _WebSocketStream(stream, protocol)
    try:
        request = await made.handshake()
        if isinstance(request, Request):
            is_here = request.path.partition("?")[0] == path
            response = protocol.accept(request) if is_here else protocol.reject(404, "Nothing is here.\n")
            protocol.send_response(response)
            await made.flush()
        if protocol.state is not State.OPEN:
            raise WebSocketRefusedError("what was asked for is no WebSocket for AMQP")
    except BaseException as error:
        await anyio.aclose_forcefully(stream)
        if isinstance(error, (InvalidHandshake, anyio.EndOfStream, anyio.BrokenResourceError)):
            raise WebSocketRefusedError("nobody asked for a WebSocket") from error
        raise
    return made


class _WebSocketStream(ByteStream):
    """The byte stream inside a WebSocket. One task may read and one may write, at the same time."""

    def __init__(self, stream: ByteStream, protocol: Protocol) -> None:
        self._stream = stream
        self._protocol = protocol
        self._writing = anyio.Lock()
        self._unread = memoryview(b"")
        self._is_over = False

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Those of the stream below."""
        return self._stream.extra_attributes

    async def handshake(self) -> Request | Response:
        """Send what there is to send, and wait for what the other side says first. Raises InvalidHandshake."""
        await self.flush()
        while True:
            self._protocol.receive_data(await self._stream.receive(_READ_SIZE))
            if self._protocol.handshake_exc is not None:
                raise self._protocol.handshake_exc
            if events := self._protocol.events_received():
                first, *frames = events
                self._take(frames)
                assert not isinstance(first, Frame)  # noqa: S101 - frames come after the handshake
                return first

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Some bytes. Raises EndOfStream when the other side has closed, in order or not; else BrokenResourceError."""
        while not self._unread:
            if self._is_over:
                raise anyio.EndOfStream
            self._protocol.receive_data(await self._stream.receive(_READ_SIZE))
            self._take(self._protocol.events_received())
            await self.flush(patiently=False)
            if self._protocol.parser_exc is not None and not self._unread:
                raise anyio.BrokenResourceError from self._protocol.parser_exc
        data, self._unread = bytes(self._unread[:max_bytes]), self._unread[max_bytes:]
        return data

    async def send(self, item: bytes) -> None:
        """Send bytes. Raises BrokenResourceError once one of the sides has closed."""
        async with self._writing:
            rest = memoryview(item)
            while rest:
                try:
                    self._protocol.send_binary(rest[:PIECE])
                except InvalidState as error:
                    raise anyio.BrokenResourceError from error
                rest = rest[PIECE:]
                await self._write()

    async def send_eof(self) -> None:
        """Close: a WebSocket has no half."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close in order, within `FAREWELL_S`."""
        try:
            if self._protocol.state is State.OPEN:
                with anyio.move_on_after(FAREWELL_S):
                    self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
                    await self.flush()
                    while not self._is_over:
                        self._protocol.receive_data(await self._stream.receive(_READ_SIZE))
                        self._take(self._protocol.events_received())
        except _GONE:
            pass
        finally:
            self._is_over = True
            await self._stream.aclose()

    async def flush(self, *, patiently: bool = True) -> None:
        """Write what the protocol has to say; if not `patiently`, leave it to someone who is writing already."""
        if not patiently and self._writing.locked() and len(self._protocol.writes) < _MAX_OWED:
            return
        if self._protocol.writes:
            async with self._writing:
                await self._write()

    async def _write(self) -> None:
        # The library marks the end of what it has to say by an empty piece: that is told by closing.
        while data := b"".join(self._protocol.data_to_send()):
            await self._stream.send(data)

    def _take(self, events: list[Any]) -> None:
        pieces = []
        for event in events:
            match event.opcode:
                case Opcode.BINARY | Opcode.CONT:
                    pieces.append(event.data)
                case Opcode.TEXT:
                    self._protocol.fail(CloseCode.UNSUPPORTED_DATA, "AMQP is binary")
                    self._is_over = True
                    break
                case Opcode.CLOSE:
                    self._is_over = True
                    break
                case _:
                    pass
        if pieces:
            self._unread = memoryview(b"".join((self._unread, *pieces)))


def _refusal(error: InvalidHandshake) -> WebSocketRefusedError:
    """Say in a line what the answer to our request for a WebSocket was."""
    match error:
        case InvalidStatus(response=response):
            status = response.status_code
            hint = _HINTS.get(status, "something else than a Service Bus answers there")
            return WebSocketRefusedError(f"the WebSocket was refused with HTTP status {status}: {hint}", status=status)
        case NegotiationError():
            return WebSocketRefusedError(f"the WebSocket does not speak AMQP: it did not take up {SUBPROTOCOL}")
        case InvalidMessage():
            return WebSocketRefusedError("what answers there speaks no HTTP, or too much of it")
        case _:
            return WebSocketRefusedError(f"what answers there opens no WebSocket ({type(error).__name__})")


_HINTS: Final = {
    301: "redirects are not followed",
    302: "redirects are not followed",
    307: "redirects are not followed",
    308: "redirects are not followed",
    401: "something in between wants a password",
    403: "something in between, or the namespace's IP rules, forbids it",
    407: "a proxy in between wants a password",
    404: "there is no such namespace, or no Service Bus",
    426: "a proxy in between does not let WebSockets through",
    429: "too many at once",
    502: "a proxy in between cannot reach it",
    503: "it is overloaded, or a proxy in between cannot reach it",
}
