"""An HTTP server for one ASGI application, inside a task group: no signal handlers, no log, a bounded stop."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import TYPE_CHECKING

import anyio
import uvicorn
from anyio.abc import TaskStatus

from renewer.errors import UsageError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Generator
    from pathlib import Path

    from starlette.types import ASGIApp

_GRACE_S = 1
_BACKLOG = 1024


async def serve(
    app: ASGIApp,
    listener: socket.socket,
    *,
    protocol: type[asyncio.Protocol] | None = None,
    date_header: bool = True,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` on `listener` until cancelled, then give requests under way a second. Needs anyio on asyncio."""
    server = _Server(
        uvicorn.Config(
            app,
            http="h11" if protocol is None else protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="warning",
            access_log=False,
            date_header=date_header,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run_shielded, listener)
        try:
            await server.listening.wait()
            task_status.started()
            await anyio.sleep_forever()
        finally:
            server.should_exit = True


def listen_tcp(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 asks the system for one. Raises `UsageError` if the address cannot be had."""
    if not 0 <= port <= 65_535:
        raise UsageError(f"cannot listen on port {port}: choose one from 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error}; choose another address or port") from error


def listen_unix(path: Path, *, mode: int) -> socket.socket:
    """A listening Unix socket with these permissions.

    A socket that nobody listens on any longer is replaced; one that is in use, or anything else, is left alone and
    raises `UsageError`.
    """
    _clear_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Nobody may connect between bind and chmod: the socket is born closed to all but the owner.
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        path.chmod(mode)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen on {path}: {error}") from error
    return listener


def _clear_stale(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"cannot listen on {path}: {error}") from error
    if not stat.S_ISSOCK(kind):
        raise UsageError(f"cannot listen on {path}: something that is not a socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"cannot listen on {path}: {error}") from error
        else:
            raise UsageError(f"cannot listen on {path}: another daemon is listening there")


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would take the process's own away."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def run_shielded(self, listener: socket.socket) -> None:
        # uvicorn ends well when told by should_exit, and leaves sockets behind when cancelled.
        with anyio.CancelScope(shield=True):
            await self.serve(sockets=[listener])
