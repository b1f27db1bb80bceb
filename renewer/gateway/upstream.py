"""The ways from the gateway to the broker: a socket as a rule; where a proxy or a WebSocket is asked for, a stream."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from contextlib import suppress
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

import anyio

from renewer.gateway.tls import Tls
from renewer.gateway.wire import FAREWELL_S, HIGH_WATER, LOW_WATER, SocketWire
from renewer.targets.servicebus.tcp import USER_TIMEOUT_MS, tls_context
from renewer.targets.servicebus.transports import connector_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import ByteStream

    from renewer.gateway.tls import Scratch
    from renewer.gateway.wire import End
    from renewer.targets.servicebus import NamespaceOptions

_READ_SIZE: Final = 64 * 1024
_EYEBALLS_S: Final = 0.25
"""How long an address is tried alone before the next one is tried beside it (RFC 8305 5)."""
_GONE: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class Dialer:
    """Connects to one namespace. Raises UsageError if its CA file cannot be used."""

    def __init__(self, options: NamespaceOptions, scratch: Scratch) -> None:
        self._options = options
        self._scratch = scratch
        self._tls: ssl.SSLContext | None = None
        self._by_stream = None
        if options.transport == "amqp-websocket" or options.proxy is not None:
            self._by_stream = connector_for(options)
        elif options.tls:
            self._tls = tls_context(options.ca_file)
            # A write that had to wait for a new handshake could not be done in one go.
            self._tls.options |= ssl.OP_NO_RENEGOTIATION

    async def run(self, end: End, give_up: anyio.CancelScope) -> None:
        """Connect for `end`, and carry its bytes for as long as that takes a task. Raises OSError until it is open.

        Cancelling `give_up` ends the attempt to connect, and nothing later.
        """
        options = self._options
        wire: StreamWire | None = None
        with give_up:
            try:
                with anyio.fail_after(options.connect_timeout_s):
                    if self._by_stream is None:
                        await self._connect(end)
                    else:
                        wire = StreamWire(await self._by_stream(options), end)
            except OSError as error:
                if isinstance(error, TimeoutError) and error.errno is None:
                    why = f"it took longer than {options.connect_timeout_s:g} s"
                else:
                    why = str(error) or type(error).__name__
                raise ConnectionError(f"cannot connect to {options.host}:{options.port}: {why}") from error
        if wire is not None:
            await wire.run()

    async def _connect(self, end: End) -> None:
        options = self._options
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[str | None] = loop.create_future()

        def make() -> SocketWire:
            tls = None if self._tls is None else Tls(self._tls, self._scratch, server_hostname=options.hostname)
            return SocketWire(end, self._scratch, tls=tls, opened=opened, user_timeout_ms=USER_TIMEOUT_MS)

        _, wire = await loop.create_connection(make, sock=await _connect(options.host, options.port))
        failure: str | None = "the attempt was given up"
        try:
            failure = await opened
        finally:
            if failure is not None:
                wire.abort()
        if failure is not None:
            raise ConnectionError(failure)


class StreamWire:
    """A wire that is a stream of anyio's, with two tasks."""

    def __init__(self, stream: ByteStream, end: End) -> None:
        self._stream = stream
        self._end = end
        self._queue: deque[bytes | bytearray] = deque()
        self._buffered = 0
        self._is_full = False
        self._is_closing = False
        self._has_ended = False
        self._wake = anyio.Event()
        self._may_read = anyio.Event()
        self._may_read.set()
        self._scope = anyio.CancelScope(shield=True)

    @property
    def buffered(self) -> int:
        """See `Wire`."""
        return self._buffered

    @property
    def peer(self) -> str:
        """See `Wire`."""
        return "stream"

    def send(self, data: bytes | bytearray) -> None:
        """See `Wire`."""
        if self._is_closing or not data:
            return
        self._queue.append(data)
        self._buffered += len(data)
        self._wake.set()
        if self._buffered > HIGH_WATER and not self._is_full:
            self._is_full = True
            self._end.filled()

    @property
    def writer(self) -> Callable[[bytearray], object]:
        """See `Wire`."""
        return self.send

    def pause(self) -> None:
        """See `Wire`."""
        if self._may_read.is_set():
            self._may_read = anyio.Event()

    def resume(self) -> None:
        """See `Wire`."""
        self._may_read.set()

    def close(self) -> None:
        """See `Wire`."""
        if self._is_closing:
            return
        self._is_closing = True
        self._scope.deadline = anyio.current_time() + FAREWELL_S
        self._may_read.set()
        self._wake.set()

    def abort(self) -> None:
        """See `Wire`."""
        self._is_closing = True
        self._scope.cancel()

    async def run(self) -> None:
        """Carry bytes until the wire is closed. Not to be cancelled from outside: `close` and `abort` end it."""
        try:
            with self._scope:
                self._end.opened(self)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._read)
                    await self._write()
                    tasks.cancel_scope.cancel()
                with suppress(*_GONE):
                    await self._stream.aclose()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(self._stream)
            self._finish("the connection was closed")
            self._is_closing = True
            self._end.gone()

    async def _read(self) -> None:
        while True:
            await self._may_read.wait()
            try:
                data = await self._stream.receive(_READ_SIZE)
            except _GONE as error:
                self._finish(str(error) or "the connection was closed")
                return
            if not self._is_closing:
                self._end.received(bytearray(data))

    async def _write(self) -> None:
        while not (self._is_closing and not self._queue):
            await self._wake.wait()
            self._wake = anyio.Event()
            while self._queue:
                data = b"".join(self._queue)
                self._queue.clear()
                try:
                    await self._stream.send(data)
                except _GONE as error:
                    self._queue.clear()
                    self._finish(str(error) or "the connection was closed")
                    return
                self._buffered -= len(data)
                if self._is_full and self._buffered <= LOW_WATER and not self._is_closing:
                    self._is_full = False
                    self._end.drained()

    def _finish(self, detail: str) -> None:
        if not self._has_ended and not self._is_closing:
            self._has_ended = True
            self._end.ended(detail)


async def _connect(host: str, port: int) -> socket.socket:
    """A socket to the first of the host's addresses that answers. Raises OSError.

    asyncio's own race between addresses forgets a socket that was connected just when it is cancelled (CPython 3.11).
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # Of each kind in turn (RFC 8305 4): a machine may have addresses of a kind that leads nowhere.
    first = [one for one in found if one[0] == found[0][0]]
    others = [one for one in found if one[0] != found[0][0]]
    infos = [info for both in zip_longest(first, others) for info in both if info is not None]
    connected: list[socket.socket] = []
    errors: list[OSError] = []

    async def attempt(family: int, address: Any, failed: anyio.Event) -> None:
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setblocking(False)
            await loop.sock_connect(made, address)
        except OSError as error:
            made.close()
            errors.append(error)
            failed.set()
        except BaseException:
            made.close()
            raise
        else:
            connected.append(made)
            tasks.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as tasks:
            for family, _, _, _, address in infos:
                failed = anyio.Event()
                tasks.start_soon(attempt, family, address, failed)
                with anyio.move_on_after(_EYEBALLS_S):
                    await failed.wait()
    except BaseException:
        for one in connected:
            one.close()
        raise
    for late in connected[1:]:
        late.close()
    if not connected:
        raise errors[0] if len(errors) == 1 else OSError("; ".join(str(error) for error in errors))
    return connected[0]
