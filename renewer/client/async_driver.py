"""Runs plans with httpx's async client, on asyncio or trio."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import anyio.abc
import anyio.to_thread
import httpx

from renewer.client.address import Address
from renewer.client.following import Close, Open, Receive
from renewer.client.plans import Pause, Plan, Save, Send
from renewer.client.saving import PIECE, Saving
from renewer.client.transport import (
    client_options,
    request_options,
    request_timeout,
    stream_timeout,
    transport_options,
)
from renewer.client.watching import Nudge, Tell
from renewer.client.wire import Answer, Request, unanswered

_T = TypeVar("_T")

_CHUNKS = 64


async def drive(plan: Plan[_T], perform: Callable[[Any], Awaitable[object]]) -> _T:
    """Run `plan` to its end; `perform` does its steps. What `perform` raises is raised in the plan."""
    try:
        step = next(plan)
        while True:
            try:
                outcome = await perform(step)
            except Exception as error:
                step = plan.throw(error)
            else:
                step = plan.send(outcome)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        plan.close()


class AsyncStream:
    """One open event stream, on a connection of its own."""

    def __init__(self, client: httpx.AsyncClient, response: httpx.Response, content: bytes) -> None:
        self.answer = Answer(response.status_code, dict(response.headers), content)
        self._client = client
        self._response = response
        self._chunks = response.aiter_raw()

    @classmethod
    async def open(cls, address: Address, request: Request, timeout_s: float) -> AsyncStream:
        """Open it. Raises `Unanswered`."""
        client = _client(address)
        try:
            built = client.build_request(**request_options(request), timeout=stream_timeout(timeout_s))
            try:
                response = await client.send(built, stream=True)
                content = b"" if response.status_code == 200 else await response.aread()
            except (httpx.HTTPError, OSError) as error:
                raise unanswered(error) from error
        except BaseException:
            with anyio.CancelScope(shield=True):
                await client.aclose()
            raise
        return cls(client, response, content)

    async def read(self) -> bytes | None:
        """What comes next; ``b""`` when it has ended, None when it was silent for too long, and so is at an end too."""
        try:
            return await anext(self._chunks, b"")
        except httpx.ReadTimeout:
            return None
        except (httpx.HTTPError, httpx.StreamError, OSError, anyio.ClosedResourceError):
            return b""

    def interrupt(self) -> None:
        """End a `read` that another task is in, as if the daemon had hung up.

        A read of a Unix socket that is cancelled just when something arrives leaves asyncio complaining (anyio 4.16).
        """
        network = self._response.extensions.get("network_stream")
        raw = None if network is None else network.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)

    async def aclose(self) -> None:
        """Close the connection."""
        with anyio.CancelScope() as scope:
            # A cancelled read ends every generator of httpx and httpcore; trio would complain of them otherwise.
            scope.cancel()
            while await self.read():
                pass
        with anyio.CancelScope(shield=True):
            with contextlib.suppress(httpx.HTTPError, httpx.StreamError, OSError):
                await self._response.aclose()
            await self._client.aclose()


class AsyncDriver:
    """Does the steps of plans for one client."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._client = _client(address)

    async def run(self, plan: Plan[_T]) -> _T:
        """Run a plan of requests and pauses."""
        return await drive(plan, self.perform)

    async def perform(self, step: object) -> object:
        """Do one step."""
        match step:
            case Send(request):
                return await self.send(request)
            case Save(request, into):
                return await self.save(request, into)
            case Pause(delay_s):
                await anyio.sleep(delay_s)
                return None
            case _:
                raise TypeError(f"no step for this driver: {type(step).__name__}")

    async def send(self, request: Request) -> Answer:
        """Send one request. Raises `Unanswered`."""
        try:
            response = await self._client.send(self._built(request))
        except (httpx.HTTPError, OSError) as error:
            raise unanswered(error) from error
        return Answer(response.status_code, dict(response.headers), response.content)

    async def save(self, request: Request, into: Saving) -> Answer:
        """Send one request and write the body of a success to a file. Raises `Unanswered` and `Unwritable`."""
        content = b""
        try:
            response = await self._client.send(self._built(request), stream=True)
            async with contextlib.aclosing(response):
                if response.is_success:
                    await anyio.to_thread.run_sync(into.begin)
                    async for piece in response.aiter_bytes(PIECE):
                        await anyio.to_thread.run_sync(into.write, piece)
                    await anyio.to_thread.run_sync(into.finish)
                else:
                    content = await response.aread()
        except (httpx.HTTPError, OSError) as error:
            raise unanswered(error) from error
        return Answer(response.status_code, dict(response.headers), content)

    async def open(self, request: Request) -> AsyncStream:
        """Open an event stream. Raises `Unanswered`."""
        return await AsyncStream.open(self._address, request, self._timeout_s)

    async def aclose(self) -> None:
        """Close all connections but those of streams."""
        await self._client.aclose()

    def _built(self, request: Request) -> httpx.Request:
        timeout = request_timeout(request, self._timeout_s)
        return self._client.build_request(**request_options(request), timeout=timeout)


class AsyncWatcher:
    """Runs one plan in a task, with another that reads its stream, so that the plan can mind the time."""

    def __init__(
        self,
        driver: AsyncDriver,
        plan: Plan[None],
        tell: Callable[[Any], Awaitable[None]],
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        self._driver = driver
        self._plan = plan
        self._tell = tell
        self._tasks = tasks
        self._stream: AsyncStream | None = None
        self._inbox: deque[tuple[AsyncStream | None, bytes | Nudge]] = deque()
        self._arrived = anyio.Event()
        self._taken = anyio.Event()
        self._scope = anyio.CancelScope()

    def start(self) -> None:
        """Begin."""
        self._tasks.start_soon(self._run)

    def nudge(self) -> None:
        """Have the plan look how things stand."""
        self._inbox.append((None, Nudge.LOOK))
        self._arrived.set()

    def stop(self) -> None:
        """End it."""
        self._close()
        self._scope.cancel()

    async def _run(self) -> None:
        with self._scope:
            try:
                await drive(self._plan, self._perform)
            finally:
                self._close()

    async def _perform(self, step: object) -> object:
        match step:
            case Tell(notice):
                await self._tell(notice)
                return None
            case Open(request):
                return await self._open(request)
            case Receive(timeout_s):
                return await self._receive(timeout_s)
            case Close():
                self._close()
                return None
            case Send(request):
                return await self._shielded(request)
            case _:
                return await self._driver.perform(step)

    async def _shielded(self, request: Request) -> object:
        outcome: object = None
        # Not for long, and better than to cancel: see AsyncStream.interrupt.
        with anyio.CancelScope(shield=True):
            outcome = await self._driver.send(request)
        return outcome  # noqa: RET504 - to a type checker the scope may end without it

    async def _open(self, request: Request) -> Answer:
        self._close()
        stream = await self._driver.open(request)
        if stream.answer.status != 200:
            await stream.aclose()
            return stream.answer
        self._stream = stream
        self._tasks.start_soon(self._pump, stream)
        return stream.answer

    async def _pump(self, stream: AsyncStream) -> None:
        try:
            while stream is self._stream:
                chunk = await stream.read()
                while len(self._inbox) >= _CHUNKS and stream is self._stream:
                    self._taken = anyio.Event()
                    await self._taken.wait()
                self._inbox.append((stream, chunk or b""))
                self._arrived.set()
                if not chunk:
                    break
        finally:
            await stream.aclose()

    async def _receive(self, timeout_s: float) -> bytes | Nudge | None:
        # The reader goes first: what has arrived while the event loop was kept busy must count before the time does.
        await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(timeout_s):
            while not self._inbox:
                self._arrived = anyio.Event()
                await self._arrived.wait()
        while self._inbox:
            stream, what = self._inbox.popleft()
            self._taken.set()
            if stream is None or stream is self._stream:
                return what
        return None

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        self._taken.set()
        if stream is not None:
            stream.interrupt()


def _client(address: Address) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(**transport_options(address)), **client_options(address)
    )
