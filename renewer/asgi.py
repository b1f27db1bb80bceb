"""An HTTP server for one ASGI application, inside a task group: no signal handlers, no log, a bounded stop.

Slow clients are let go: one whose request does not arrive, and one that does not read what it asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import socket
import stat
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import anyio
import h11
import uvicorn
from anyio.abc import TaskStatus
from uvicorn.protocols.http.h11_impl import H11Protocol

from renewer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

HEAD_S = 10.0
"""How long the head of a request may take from its first byte, and the first byte from connecting."""

STALL_S = 30.0
"""How long a body may pause, and how long a client may take nothing of an answer that waits for it."""

BODY_S = 300.0
"""How long a body may take in all."""

_GRACE_S = 1
_BACKLOG = 1024
_STOPPING = "renewer.stopping"


async def serve(
    app: ASGIApp,
    listener: socket.socket,
    *,
    protocol: type[asyncio.Protocol] | None = None,
    date_header: bool = True,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` on `listener` until cancelled, then give requests under way a second. Needs anyio on asyncio."""
    stopping = anyio.Event()

    async def with_stopping(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("extensions", {})[_STOPPING] = stopping
        await app(scope, receive, send)

    server = _Server(
        uvicorn.Config(
            with_stopping,
            http=PatientProtocol if protocol is None else protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            # What a peer sends that is not HTTP is no news of ours.
            log_level="error",
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
            stopping.set()
            server.stop()


def stopping_of(scope: Scope) -> anyio.Event | None:
    """Set when the server of this request begins to stop: what would go on for long should then come to its end."""
    stopping: anyio.Event | None = scope.get("extensions", {}).get(_STOPPING)
    return stopping


def listen_tcp(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 asks the system for one. Raises `UsageError` if the address cannot be had."""
    if not 0 <= port <= 65_535:
        raise UsageError(f"cannot listen on port {port}: choose one from 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {_reason(error)}; choose another address or port") from error


class UnixListener(socket.socket):
    """A listening Unix socket that knows its file."""

    _file: tuple[Path, tuple[int, int, int]] | None = None

    def note_file(self, path: Path) -> None:
        """It was bound to this one."""
        self._file = path, _identity(path)

    def remove_file(self) -> None:
        """Remove the file, once this is closed; but not one that somebody else has put in its place."""
        if self._file is not None:
            path, identity = self._file
            with contextlib.suppress(OSError):  # What is left is replaced by the next who listens there.
                if _identity(path) == identity:
                    path.unlink()


def listen_unix(path: Path, *, mode: int, group: str | None = None) -> UnixListener:
    """A listening Unix socket with these permissions, and of this group (a name or a number) where one is given.

    A socket that nobody listens on any longer is replaced; one that is in use, or anything else, is left alone and
    raises `UsageError`.
    """
    _clear_stale(path)
    listener = UnixListener(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Nobody may connect between bind and chmod: the socket is born closed to all but the owner.
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        try:
            listener.note_file(path)
            if group is not None:
                _give_to(path, group)
            path.chmod(mode)
            listener.listen(_BACKLOG)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen on {path}: {_reason(error)}") from error
    except BaseException:
        listener.close()
        raise
    return listener


def _reason(error: OSError) -> str:
    # Less what the standard library appends, where the address, which we name ourselves, is told again.
    return (error.strerror or str(error)).partition(" (while ")[0].lower()


def _identity(path: Path) -> tuple[int, int, int]:
    # The time as well, because the number of a file that is gone is given to the next one.
    found = path.lstat()
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _give_to(path: Path, group: str) -> None:
    try:
        shutil.chown(path, group=int(group) if group.isdecimal() else group)
    except LookupError as error:
        raise UsageError(f"cannot give {path} to the group {group!r}: this machine has no such group") from error
    except PermissionError as error:
        raise UsageError(
            f"cannot give {path} to the group {group!r}: only a member of it, or root, may; "
            "run the daemon as one, or choose another socket_group"
        ) from error


def _clear_stale(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"cannot listen on {path}: {_reason(error)}") from error
    if not stat.S_ISSOCK(kind):
        in_the_way = FileExistsError(errno.EEXIST, "something that is not a socket is there")
        raise UsageError(f"cannot listen on {path}: {in_the_way.strerror}") from in_the_way
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            _remove_stale(path)
        except OSError as error:
            raise UsageError(f"cannot listen on {path}: {_reason(error)}") from error
        else:
            in_use = OSError(errno.EADDRINUSE, "another daemon is listening there")
            raise UsageError(f"cannot listen on {path}: {in_use.strerror}") from in_use


def _remove_stale(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot replace {path}, where nobody listens any longer: {_reason(error)}") from error


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would take the process's own away; ended by `stop`."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = anyio.Event()
        self._wake = asyncio.Event()

    def stop(self) -> None:
        """Answer what has been asked, and end."""
        self.should_exit = True
        self._wake.set()

    async def main_loop(self) -> None:
        """Keep the date of answers right until told to stop; uvicorn itself wakes ten times a second to look."""
        while not await self.on_tick(0):
            # Not under a cancel scope: most of what a daemon takes that has nothing to do would be that.
            self._wake = asyncio.Event()
            timer = asyncio.get_running_loop().call_later(1.0, self._wake.set)
            await self._wake.wait()
            timer.cancel()

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


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, whose patience with a peer has an end.

    Two clocks run at most: one for what is still to arrive of a request, one for what the peer is to take of an
    answer. A peer that lets one run out is told so where it can be (408), and let go.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arrival: asyncio.TimerHandle | None = None
        self._arrival_until = 0.0
        self._awaited: object = h11.IDLE
        self._uptake: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        _notice_dead_peers(transport)
        self._expect(HEAD_S)

    def data_received(self, data: bytes) -> None:
        """Take in what arrived, and wait for the rest of it."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Wait for what is left of the request, or for the next one."""
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        super().connection_lost(exc)
        for clock in (self._arrival, self._uptake, self.timeout_keep_alive_task):
            if clock is not None:
                clock.cancel()

    def pause_writing(self) -> None:
        """The peer does not take what there is for it."""
        super().pause_writing()
        self._watch_uptake(None)

    def resume_writing(self) -> None:
        """The peer goes on."""
        super().resume_writing()
        if self._uptake is not None:
            self._uptake.cancel()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _look(self) -> None:
        """Set the clock by what the peer is to send next; `h11` calls that its state."""
        if self.transport.is_closing():
            return
        before, self._awaited = self._awaited, self.conn.their_state
        if self._awaited is h11.SEND_BODY:
            if before is not h11.SEND_BODY:
                self._arrival_until = self.loop.time() + BODY_S
            self._expect(min(STALL_S, self._arrival_until - self.loop.time()))
        elif self._awaited is h11.IDLE and self.timeout_keep_alive_task is None:
            # Counted from the first byte of the head, however it drips in.
            if before is not h11.IDLE or self._arrival is None:
                self._expect(HEAD_S)
        elif self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _expect(self, patience_s: float) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
        self._arrival = self.loop.call_later(patience_s, self._arrival_is_late)

    def _arrival_is_late(self) -> None:
        self._arrival = None
        if self.transport.is_closing():
            return
        if self.flow.read_paused and self.loop.time() < self._arrival_until:
            # It is we who do not read.
            self._expect(STALL_S)
            return
        if self._awaited is h11.IDLE and not self.conn.trailing_data[0]:
            # Nothing was asked, so there is nothing to answer.
            self.transport.close()
            return
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive in time")

    def _watch_uptake(self, waiting: int | None) -> None:
        """Let the peer go if it took nothing since `waiting` bytes waited for it."""
        left = self.transport.get_write_buffer_size()
        if waiting is not None and left >= waiting:
            self.transport.abort()
            return
        self._uptake = self.loop.call_later(STALL_S, self._watch_uptake, left)

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer with a problem document (RFC 9457) if no answer has begun, and close the connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            begun = self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if begun:
                self.transport.abort()
                return
        problem = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
        body = json.dumps(problem).encode()
        headers = [
            ("content-type", "application/problem+json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        with contextlib.suppress(h11.LocalProtocolError):
            head = self.conn.send(h11.Response(status_code=status.value, headers=headers, reason=status.phrase))
            parts = (head, self.conn.send(h11.Data(data=body)), self.conn.send(h11.EndOfMessage()))
            self.transport.write(b"".join(part for part in parts if part is not None))
        self.transport.close()


def _notice_dead_peers(transport: asyncio.Transport) -> None:
    """Have the system ask whether a silent TCP peer is still there: a machine that is gone says no farewell."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000)):
        option = getattr(socket, name, None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
