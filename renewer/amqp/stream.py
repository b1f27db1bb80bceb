"""The shell: runs a `Connection` on a byte stream (TCP, TLS, anything that anyio calls one)."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSStream

from renewer.amqp.connection import Connection, ConnectionState

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import ByteStream

    from renewer.amqp.events import Event

READ_SIZE: Final = 65536
PIECE_SIZE: Final = 4096
"""So much is taken in at first, and again for as long as it leads to something to be sent: that is sent before the rest
is taken in. Two sides that answer each other otherwise do so in turns, each idle while the other is at work."""
MAX_BACKLOG: Final = 16 * 1024 * 1024
"""With more than this waiting to be sent nothing more is read: a peer that does not read shall not fill the memory."""
FAREWELL_S: Final = 2.0
"""How long a connection that is over may take to say its last words."""
_GONE: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


async def connect(host: str, port: int) -> ByteStream:
    """A TCP stream. Raises OSError; has no time limit."""
    stream = await anyio.connect_tcp(host, port)
    _tune_socket(stream)
    return stream


async def secure(stream: ByteStream, ssl_context: ssl.SSLContext, server_hostname: str) -> ByteStream:
    """TLS inside a stream, which is closed if that fails. Raises OSError; has no time limit."""
    try:
        return await _TlsStream.wrap(
            stream,
            server_side=False,
            hostname=server_hostname,
            ssl_context=ssl_context,
            standard_compatible=False,  # Nobody closes AMQP over TLS with a close_notify.
        )
    except BaseException as error:
        await anyio.aclose_forcefully(stream)
        if isinstance(error, (anyio.EndOfStream, anyio.BrokenResourceError)):
            raise ConnectionAbortedError("the peer ended the TLS handshake") from error
        raise


class _TlsStream(TLSStream):
    """TLS of which a read gives out all that is there, and not a single record: a peer may make one of each frame."""

    _trouble: ssl.SSLError | None = None

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self._trouble is not None:
            raise self._trouble
        data = await super().receive(max_bytes)
        try:
            while len(data) < max_bytes and (more := self._ssl_object.read(max_bytes - len(data))):
                data += more
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._trouble = error  # TLS tells it once; it is for the call after these data.
        return data


class AmqpTransport:
    """Runs one connection, client or server, on a stream that it owns from then on.

    The connection must have been made with `now` from the same `clock`.
    """

    def __init__(
        self, stream: ByteStream, connection: Connection, *, clock: Callable[[], float] = anyio.current_time
    ) -> None:
        self.connection = connection
        self._stream = stream
        self._clock = clock
        self._wake = anyio.Event()  # There may be something to write.
        self._written = anyio.Event()  # Something was written since.
        self._rearm = anyio.Event()  # Something is due earlier than the timer thinks.
        self._timer_at: float | None = None
        self._is_full = False  # Nothing is read until something was written.
        self._is_mute = False
        self._over = anyio.Event()
        self._finished = anyio.Event()
        self._scope: anyio.CancelScope | None = None
        self._on_event: Callable[[Event], None] | None = None
        self._at_rest: Callable[[], None] | None = None
        self._failure: BaseException | None = None

    async def run(self, on_event: Callable[[Event], None], at_rest: Callable[[], None] | None = None) -> None:
        """Run until the connection is over.

        `on_event` is called in order, and last with `ConnectionClosed`, on cancellation too; `at_rest` whenever all
        events that came together were told. What they raise ends the connection and comes out of here.
        """
        self._on_event, self._at_rest = on_event, at_rest
        _tune_socket(self._stream)
        try:
            async with anyio.create_task_group() as tasks:
                self._scope = tasks.cancel_scope
                tasks.start_soon(self._write)
                with anyio.CancelScope() as inner:
                    async with anyio.create_task_group() as inputs:
                        inputs.start_soon(self._read)
                        inputs.start_soon(self._keep_time)
                        self._dispatch(self.connection.advance(self._clock()))
                        await self._over.wait()
                        inner.cancel()
                tasks.cancel_scope.deadline = anyio.current_time() + FAREWELL_S
                self._wake.set()
            with anyio.move_on_after(FAREWELL_S), suppress(*_GONE):
                await self._stream.aclose()
        finally:
            self._dispatch(self.connection.receive_eof(self._clock()))
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(self._stream)
            self._finished.set()
        if self._failure is not None:
            raise self._failure

    def flush(self) -> None:
        """Have everything that was queued in this turn of the event loop written, in one piece."""
        if self.connection.has_output:
            self._wake.set()
        if self.connection.has_news:
            self._rearm.set()

    async def aclose(self) -> None:
        """Close in order, within `FAREWELL_S`; then without asking. `run` returns by then."""
        self.connection.close()
        self.flush()
        if self._scope is None:
            await anyio.aclose_forcefully(self._stream)
            return
        with anyio.move_on_after(FAREWELL_S, shield=True):
            await self._finished.wait()
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._finished.wait()

    async def _read(self) -> None:
        while True:
            while self.connection.output_size > MAX_BACKLOG and not self._is_mute:
                self._is_full, self._written = True, anyio.Event()
                await self._written.wait()
                self._is_full = False
            try:
                data = await self._stream.receive(READ_SIZE)
            except _GONE:
                self._dispatch(self.connection.receive_eof(self._clock()))
                return
            at, end = 0, PIECE_SIZE
            while at < len(data):
                self._dispatch(self.connection.receive(data[at:end], self._clock()))
                at = end
                if not self.connection.has_output:
                    end = len(data)
                elif at < len(data):
                    end += PIECE_SIZE
                    await anyio.lowlevel.checkpoint()

    async def _write(self) -> None:
        while True:
            # Woken in the turn of the event loop after the one that had something to send: all of it is there by now.
            await self._wake.wait()
            self._wake = anyio.Event()
            try:
                while data := self.connection.take_output(self._clock()):
                    await self._stream.send(data)
                    if self._is_full:
                        self._written.set()
            except _GONE:
                await self._hear_out()
            if self._over.is_set():
                return

    async def _hear_out(self) -> None:
        """Nothing can be written any more; what the peer said before it left, perhaps why, may still be read."""
        self._is_mute = True
        self._written.set()
        with anyio.move_on_after(FAREWELL_S):
            await self._over.wait()
        self._dispatch(self.connection.receive_eof(self._clock()))

    async def _keep_time(self) -> None:
        while True:
            self._timer_at = self.connection.next_due()
            self._rearm = anyio.Event()
            wait_s = None if self._timer_at is None else self._timer_at - self._clock()
            with anyio.move_on_after(wait_s):
                await self._rearm.wait()
            self._dispatch(self.connection.advance(self._clock()))

    def _dispatch(self, events: list[Event]) -> None:
        if self._failure is None and self._on_event is not None:
            try:
                for event in events:
                    self._on_event(event)
                if self._at_rest is not None:
                    self._at_rest()
            except Exception as error:
                self._failure = error
        self.flush()
        due_at = self.connection.next_due()
        if due_at is not None and (self._timer_at is None or due_at < self._timer_at):
            self._rearm.set()
        if self.connection.state is ConnectionState.CLOSED or self._failure is not None:
            self._over.set()


def _tune_socket(stream: ByteStream) -> None:
    """Small frames must not wait for each other, and a peer that vanished must be noticed by the kernel too."""
    raw_socket = stream.extra(SocketAttribute.raw_socket, None)  # noqa: S610 - a stream's attribute
    if raw_socket is None or raw_socket.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with suppress(OSError):  # That the stream has gone already shows where it is read.
        raw_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                raw_socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
