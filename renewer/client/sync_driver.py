"""Runs plans with blocking I/O: httpx's sync client, and threads where something must be listened to meanwhile."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

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


def drive(plan: Plan[_T], perform: Callable[[Any], object]) -> _T:
    """Run `plan` to its end; `perform` does its steps. What `perform` raises is raised in the plan."""
    try:
        step = next(plan)
        while True:
            try:
                outcome = perform(step)
            except Exception as error:
                step = plan.throw(error)
            else:
                step = plan.send(outcome)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        plan.close()


class Stream:
    """One open event stream, on a connection of its own."""

    def __init__(self, address: Address, request: Request, timeout_s: float) -> None:
        self._client = _client(address)
        try:
            built = self._client.build_request(**request_options(request), timeout=stream_timeout(timeout_s))
            try:
                response = self._client.send(built, stream=True)
                content = b"" if response.status_code == 200 else response.read()
            except (httpx.HTTPError, OSError) as error:
                raise unanswered(error) from error
        except BaseException:
            self._client.close()
            raise
        self.answer = Answer(response.status_code, dict(response.headers), content)
        self._response = response
        self._chunks = response.iter_raw()

    def read(self) -> bytes | None:
        """What comes next; ``b""`` when it has ended, None when it was silent for too long, and so is at an end too."""
        try:
            return next(self._chunks, b"")
        except httpx.ReadTimeout:
            return None
        except (httpx.HTTPError, httpx.StreamError, OSError):
            return b""

    def interrupt(self) -> None:
        """End a `read` that another thread is in."""
        network = self._response.extensions.get("network_stream")
        raw = None if network is None else network.get_extra_info("socket")
        if isinstance(raw, socket.socket):
            with contextlib.suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(httpx.HTTPError, httpx.StreamError, OSError):
            self._response.close()
        self._client.close()


class Driver:
    """Does the steps of plans for one client."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._client = _client(address)

    def run(self, plan: Plan[_T]) -> _T:
        """Run a plan of requests and pauses."""
        return drive(plan, self.perform)

    def perform(self, step: object) -> object:
        """Do one step."""
        match step:
            case Send(request):
                return self.send(request)
            case Save(request, into):
                return self.save(request, into)
            case Pause(delay_s):
                time.sleep(delay_s)
                return None
            case _:
                raise TypeError(f"no step for this driver: {type(step).__name__}")

    def send(self, request: Request) -> Answer:
        """Send one request. Raises `Unanswered`."""
        try:
            response = self._client.send(self._built(request))
        except (httpx.HTTPError, OSError) as error:
            raise unanswered(error) from error
        return Answer(response.status_code, dict(response.headers), response.content)

    def save(self, request: Request, into: Saving) -> Answer:
        """Send one request and write the body of a success to a file. Raises `Unanswered` and `Unwritable`."""
        content = b""
        try:
            response = self._client.send(self._built(request), stream=True)
            with contextlib.closing(response):
                if response.is_success:
                    into.begin()
                    for piece in response.iter_bytes(PIECE):
                        into.write(piece)
                    into.finish()
                else:
                    content = response.read()
        except (httpx.HTTPError, OSError) as error:
            raise unanswered(error) from error
        return Answer(response.status_code, dict(response.headers), content)

    def open(self, request: Request) -> Stream:
        """Open an event stream. Raises `Unanswered`."""
        return Stream(self._address, request, self._timeout_s)

    def close(self) -> None:
        """Close all connections but those of streams."""
        self._client.close()

    def _built(self, request: Request) -> httpx.Request:
        timeout = request_timeout(request, self._timeout_s)
        return self._client.build_request(**request_options(request), timeout=timeout)


class Stopped(BaseException):
    """Whoever runs a plan in a thread of its own wants it to end."""


class Watcher:
    """Runs one plan in a thread of its own, with another that reads its stream, so that the plan can mind the time."""

    def __init__(self, driver: Driver, plan: Plan[None], tell: Callable[[Any], None], name: str) -> None:
        self._driver = driver
        self._plan = plan
        self._tell = tell
        self._stream: Stream | None = None
        self._inbox: deque[tuple[Stream | None, bytes | Nudge | None]] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def nudge(self) -> None:
        """Have the plan look how things stand."""
        with self._changed:
            self._inbox.append((None, Nudge.LOOK))
            self._changed.notify_all()

    def stop(self, timeout_s: float) -> None:
        """End it, and wait for that; not for ever, for the daemon may not answer."""
        with self._changed:
            self._stopped = True
            stream = self._stream
            self._changed.notify_all()
        if stream is not None:
            stream.interrupt()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            drive(self._plan, self._perform)
        except Stopped:
            pass
        finally:
            self._close()

    def _perform(self, step: object) -> object:
        match step:
            case Tell(notice):
                self._tell(notice)
                return None
            case Open(request):
                return self._open(request)
            case Receive(timeout_s):
                return self._receive(timeout_s)
            case Close():
                self._close()
                return None
            case Pause(delay_s):
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, delay_s)
                self._check()
                return None
            case _:
                self._check()
                return self._driver.perform(step)

    def _open(self, request: Request) -> Answer:
        self._close()
        self._check()
        stream = self._driver.open(request)
        if stream.answer.status != 200:
            stream.close()
            return stream.answer
        with self._changed:
            self._stream = stream
        threading.Thread(target=self._pump, args=(stream,), name=self._thread.name + "-reader", daemon=True).start()
        self._check()
        return stream.answer

    def _pump(self, stream: Stream) -> None:
        while True:
            chunk = stream.read()
            with self._changed:
                self._changed.wait_for(lambda: len(self._inbox) < _CHUNKS or self._stream is not stream)
                if self._stream is not stream:
                    break
                self._inbox.append((stream, chunk or b""))
                self._changed.notify_all()
            if not chunk:
                break
        stream.close()

    def _receive(self, timeout_s: float) -> bytes | Nudge | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._inbox, timeout_s)
            self._check()
            while self._inbox:
                stream, what = self._inbox.popleft()
                self._changed.notify_all()
                if stream is None or stream is self._stream:
                    return what
            return None

    def _close(self) -> None:
        with self._changed:
            stream, self._stream = self._stream, None
            self._changed.notify_all()
        if stream is not None:
            stream.interrupt()

    def _check(self) -> None:
        if self._stopped:
            raise Stopped


def _client(address: Address) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(**transport_options(address)), **client_options(address))
