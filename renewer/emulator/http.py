"""The HTTP listener of the emulator: one server for the Fabric half and the admin API, inside a task group."""

from __future__ import annotations

import contextlib
import socket
import struct
from email.utils import format_datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskStatus
from uvicorn.protocols.http.h11_impl import H11Protocol

from renewer.asgi import listen_tcp, serve
from renewer.errors import RenewerError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from datetime import datetime

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from renewer.emulator.admin import EmulatorAdmin
    from renewer.emulator.fabric import FabricEmulator

MAX_BODY = 4 * 1024 * 1024
"""Bytes of request body that are read before a request is refused."""

ADMIN_PREFIX = "/_emulator"

_TRANSPORT = "renewer.transport"
_STOPPING = "renewer.stopping"
_MAX_DROPPED = 64 * 1024 * 1024


class BodyTooLargeError(RenewerError):
    """A request body is longer than `MAX_BODY`."""


def build_http_app(fabric: FabricEmulator, admin: EmulatorAdmin) -> ASGIApp:
    """Compose the admin API under `/_emulator` and Fabric everywhere else; the admin API then scripts Fabric too."""
    admin.add_routes(fabric.admin_routes())
    admin.add_state("fabric", fabric.state)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        for_admin = path == ADMIN_PREFIX or path.startswith(ADMIN_PREFIX + "/")
        await (admin.app if for_admin else fabric.app)(scope, receive, send)

    return app


async def serve_http(
    app: ASGIApp, host: str, port: int, *, task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serve `app` until cancelled; reports the bound port (0 asks the system for one). Needs anyio on asyncio.

    Requests under way get a second to end. Signals are left alone. Raises `UsageError` if the address cannot be had.
    """
    stopping = anyio.Event()

    async def with_stopping(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("extensions", {})[_STOPPING] = stopping
        await app(scope, receive, send)

    with contextlib.closing(listen_tcp(host, port)) as listener:
        async with anyio.create_task_group() as tasks:
            # The application dates its answers by its own clock, which may be wrong on purpose.
            await tasks.start(partial(serve, with_stopping, listener, protocol=_Protocol, date_header=False))
            task_status.started(listener.getsockname()[1])
            try:
                await anyio.sleep_forever()
            finally:
                stopping.set()


async def read_body(request: Request) -> bytes:
    """Read the request's body; raises `BodyTooLargeError` if it exceeds `MAX_BODY`.

    What is too much is read and dropped, within reason: a client that is still sending does not see an answer.
    """
    body = bytearray()
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= MAX_BODY:
            body += chunk
        elif size > _MAX_DROPPED:
            break
    if size > MAX_BODY:
        raise BodyTooLargeError(f"The body is longer than {MAX_BODY} bytes")
    return bytes(body)


async def client_gone(scope: Scope, receive: Receive) -> None:
    """Wait until the client has closed its connection; a server that stops meanwhile cuts it."""
    stopping: anyio.Event | None = scope.get("extensions", {}).get(_STOPPING)

    async def cut_when_stopping() -> None:
        if stopping is not None:
            await stopping.wait()
            reset_connection(scope)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cut_when_stopping)
        while (await receive())["type"] != "http.disconnect":
            pass
        tasks.cancel_scope.cancel()


def reset_connection(scope: Scope) -> bool:
    """Cut the request's TCP connection by RST; False where there is no socket (an in-process transport)."""
    transport = _transport(scope)
    if transport is None:
        return False
    connection = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        # A zero linger time makes close() send RST instead of FIN, also when all data was read.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    return True


def write_raw(scope: Scope, data: bytes) -> bool:
    """Write bytes past HTTP and close the connection; False where there is no socket."""
    transport = _transport(scope)
    if transport is None:
        return False
    transport.write(data)
    transport.close()
    return True


class DateHeader:
    """ASGI middleware that dates every answer by the server's own clock, which may be wrong on purpose."""

    def __init__(self, app: ASGIApp, utc_now: Callable[[], datetime]) -> None:
        self._app = app
        self._utc_now = utc_now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and the answer back with a Date."""

        async def dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                date = format_datetime(self._utc_now(), usegmt=True)
                message["headers"] = [*message.get("headers", ()), (b"date", date.encode())]
            await send(message)

        await self._app(scope, receive, dated)


class _Protocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, which also hands the application the connection, to cut it on demand."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        inner: Any = self.app

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("extensions", {})[_TRANSPORT] = transport
            await inner(scope, receive, send)

        self.app = with_transport


def _transport(scope: Scope) -> asyncio.Transport | None:
    transport: asyncio.Transport | None = scope.get("extensions", {}).get(_TRANSPORT)
    return transport
