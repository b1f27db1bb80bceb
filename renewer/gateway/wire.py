"""One end of the gateway: a socket, with or without TLS, whose bytes go to whoever it belongs to in the same turn."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.gateway.hangups import Hangups
    from renewer.gateway.tls import Scratch, Tls

HIGH_WATER: Final = 256 * 1024
"""With more bytes than this waiting to be taken, a wire is full."""

LOW_WATER: Final = 64 * 1024
"""With no more than this it has room again."""

FAREWELL_S: Final = 2.0
"""How long what was sent last may take to leave, and the other side to answer."""


class End(Protocol):
    """Whom a wire belongs to. Called on the event loop; `filled` also from within `Wire.send`."""

    def opened(self, wire: Wire) -> None:
        """The other side is there, and TLS, where there is any, is agreed."""
        ...

    def received(self, data: bytearray) -> None:
        """Bytes came; they are whose the wire is."""
        ...

    def ended(self, detail: str) -> None:
        """The other side sends no more, or could not be agreed with. Once at most, and not after `Wire.close`."""
        ...

    def gone(self) -> None:
        """Nothing is left of the wire. Once, and last."""
        ...

    def filled(self) -> None:
        """The other side does not take what it is sent as fast as it should."""
        ...

    def drained(self) -> None:
        """There is room again."""
        ...


class Wire(Protocol):
    """A way for bytes that somebody else opens."""

    @property
    def buffered(self) -> int:
        """Bytes that wait to be taken by the other side."""
        ...

    @property
    def peer(self) -> str:
        """Who is at the other side, for the log."""
        ...

    def send(self, data: bytes | bytearray) -> None:
        """Send, now or as soon as there is room; nothing once it was closed."""
        ...

    @property
    def writer(self) -> Callable[[bytearray], object]:
        """The shortest way to do what `send` does, for as long as the wire is open."""
        ...

    def pause(self) -> None:
        """Read no more for now, or until the other side has left. Not everywhere is that noticed meanwhile."""
        ...

    def resume(self) -> None:
        """Read again."""
        ...

    def close(self) -> None:
        """Send what waits, then close, within `FAREWELL_S`. What still comes is dropped."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class SocketWire(asyncio.BufferedProtocol):
    """A wire that is a socket.

    With `opened`, somebody waits for it to be open: then that is told None, or why it cannot be opened, and an end that
    never saw it open hears nothing of it.
    """

    __slots__ = (
        "_end",
        "_hangups",
        "_has_ended",
        "_has_hung_up",
        "_is_closing",
        "_is_deaf",
        "_is_open",
        "_limit",
        "_opened",
        "_pad",
        "_received",
        "_tls",
        "_transport",
        "_user_timeout_ms",
    )

    def __init__(
        self,
        end: End,
        scratch: Scratch,
        *,
        tls: Tls | None = None,
        opened: asyncio.Future[str | None] | None = None,
        user_timeout_ms: int | None = None,
        hangups: Hangups | None = None,
    ) -> None:
        """`hangups` notice that the other side leaves while it is not read.

        `user_timeout_ms`: how long sent bytes may go without acknowledgement, or without room on the other side.
        """
        self._end = end
        self._received = end.received
        self._pad = scratch.pad
        self._tls = tls
        self._opened = opened
        self._user_timeout_ms = user_timeout_ms
        self._transport: asyncio.Transport | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._hangups = hangups
        self._has_hung_up = False
        self._has_ended = False
        self._is_open = False
        self._is_closing = False
        self._is_deaf = False

    # Wire -----------------------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """See `Wire`."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    @property
    def peer(self) -> str:
        """See `Wire`."""
        name = None if self._transport is None else self._transport.get_extra_info("peername")
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "unix"

    def send(self, data: bytes | bytearray) -> None:
        """See `Wire`."""
        transport = self._transport
        if self._is_closing or transport is None:
            return
        if self._tls is None:
            transport.write(data)
            return
        try:
            records = self._tls.encrypt(data)
        except ssl.SSLError as error:
            # Not from within what is sending.
            asyncio.get_running_loop().call_soon(self._fail, error)
            return
        transport.write(records)

    @property
    def writer(self) -> Callable[[bytearray], object]:
        """See `Wire`."""
        return self.send if self._tls is not None or self._transport is None else self._transport.write

    def pause(self) -> None:
        """See `Wire`."""
        if self._is_closing or self._transport is None or self._has_hung_up:
            return
        self._transport.pause_reading()
        if self._hangups is not None:
            self._hangups.watch(self._descriptor(), self._on_hangup)

    def resume(self) -> None:
        """See `Wire`."""
        if not self._is_closing and self._transport is not None:
            self._unwatch()
            self._transport.resume_reading()

    def close(self) -> None:
        """See `Wire`."""
        if self._is_closing:
            return
        transport = self._transport
        if transport is None:
            self.abort()
            return
        self._is_closing = True
        self._unwatch()
        if transport.is_closing():
            return
        if self._tls is not None and (words := self._tls.farewell()):
            transport.write(words)
        if self._is_deaf:
            transport.close()
        else:
            # A socket that is closed with something unread takes back what it sent last: it is read until the end.
            transport.resume_reading()
            try:
                transport.write_eof()
            except OSError:  # The other side has gone already.
                transport.abort()
        self._limit = asyncio.get_running_loop().call_later(FAREWELL_S, transport.abort)

    def abort(self) -> None:
        """See `Wire`."""
        self._is_closing = True
        if self._transport is None:
            self._end.gone()
        else:
            self._transport.abort()

    # asyncio.BufferedProtocol ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, with TLS if there is to be any."""
        self._transport = made = cast("asyncio.Transport", transport)
        if self._is_closing:
            made.abort()
            return
        made.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        _tune(made.get_extra_info("socket"), self._user_timeout_ms)
        if self._tls is None:
            self._open()
            return
        self._tls.begin()
        if words := self._tls.take():
            made.write(words)

    def get_buffer(self, sizehint: int) -> bytearray:
        """The pad that everybody reads into."""
        return self._pad

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes lie in the pad."""
        if self._is_closing:
            return
        if self._tls is None:
            self._received(self._pad[:nbytes])
            return
        tls = self._tls
        was_open = tls.is_open
        try:
            data = tls.receive(nbytes)
        except ssl.SSLError as error:
            self._fail(error)
            return
        if (words := tls.take()) and self._transport is not None:
            self._transport.write(words)
        if tls.is_open and not was_open:
            self._open()
        if data and not self._is_closing:
            self._received(data)
        if tls.has_ended:
            self._finish("the connection was closed")

    def eof_received(self) -> bool:
        """The other side has ended its half: ours is closed by whoever owns the wire."""
        self._is_deaf = True
        self._finish("the connection was closed")
        return not self._is_closing

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is left."""
        if self._limit is not None:
            self._limit.cancel()
        self._unwatch()
        self._finish("the connection was closed" if exc is None else str(exc))
        self._is_closing = True
        if self._is_open or self._opened is None:
            self._end.gone()

    def pause_writing(self) -> None:
        """The transport has as much as it should."""
        if not self._is_closing:
            self._end.filled()

    def resume_writing(self) -> None:
        """The transport got rid of it."""
        if not self._is_closing:
            self._end.drained()

    # ----------------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._is_open = True
        self._end.opened(self)
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)

    def _on_hangup(self) -> None:
        """The other side sends no more: what it has sent is what the system holds of it, and is read now."""
        self._has_hung_up = True
        if self._transport is not None and not self._is_closing:
            self._transport.resume_reading()

    def _unwatch(self) -> None:
        if self._hangups is not None and self._transport is not None:
            self._hangups.forget(self._descriptor())

    def _descriptor(self) -> int:
        descriptor: int = -1 if self._transport is None else self._transport.get_extra_info("socket").fileno()
        return descriptor

    def _finish(self, detail: str) -> None:
        if self._has_ended or self._is_closing:
            return
        self._has_ended = True
        if not self._is_open and self._tls is not None:
            detail = f"the TLS handshake failed: {detail}"
        if self._is_open or self._opened is None:
            self._end.ended(detail)
        elif not self._opened.done():
            self._opened.set_result(detail)

    def _fail(self, error: ssl.SSLError) -> None:
        if self._tls is not None and self._transport is not None and (words := self._tls.take()):
            self._transport.write(words)
        self._finish(str(error))
        self.close()


def _tune(raw_socket: socket.socket | None, user_timeout_ms: int | None) -> None:
    """Small frames do not wait for each other, and the system asks whether a silent peer is still there.

    A worker gets no `user_timeout_ms`: it would be taken for dead as soon as it is blocked with a full buffer.
    """
    if raw_socket is None or raw_socket.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with suppress(OSError):  # That it has gone already shows where it is read.
        raw_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                raw_socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if user_timeout_ms is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            raw_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user_timeout_ms)
