"""Callbacks over real sockets: what stands on the wire, and names that lead where they must not."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import pytest
import structlog

from renewer.core.effects import LeaseNews, TellLease
from renewer.core.model import LeaseId, LeaseSpec
from renewer.daemon.callbacks import CallbackOptions, Callbacks
from renewer.daemon.clock import SystemClock
from renewer.daemon.destinations import address_problem
from renewer.targets.http import build_client
from renewer.targets.resolver import GuardedResolver

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Receiver:
    """A small HTTP server: one answer for each request, as scripted."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.port = 0

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            buffer = b""
            while b"\r\n\r\n" not in buffer:
                buffer += await stream.receive()
            head, _, body = buffer.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            while len(body) < int(headers["content-length"]):
                body += await stream.receive()
            self.requests.append((first, headers, body))
            # Answers are not read to their end.
            with contextlib.suppress(anyio.BrokenResourceError):
                await stream.send(self.answers.pop(0))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, self.serve)
            yield
            tasks.cancel_scope.cancel()


class LoopbackNames:
    """A resolver for which every name is this machine."""

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET):
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": family, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        pass


def answer(status: str, headers: str = "", body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}Connection: close\r\n\r\n".encode() + body


def lost(url: str) -> TellLease:
    spec = LeaseSpec(LeaseId("lease-1"), "servicebus.main", "orders", context={"callback": url})
    return TellLease(LeaseNews.LOST, spec, 1, 0.0)


async def deliver(callbacks: Callbacks, url: str, *, outcome: str) -> None:
    """Send one, and wait until there is an attempt with this outcome."""
    done = anyio.Event()
    callbacks.on_done = lambda _: done.set()
    callbacks.check_url(url)
    entry = callbacks.entry_for(lost(url))
    assert entry is not None
    callbacks.send(entry)
    async with anyio.create_task_group() as tasks:
        await tasks.start(callbacks.run)
        with anyio.fail_after(30):
            if outcome == "failed":
                await callbacks.caught_up()
            else:
                await done.wait()
        tasks.cancel_scope.cancel()
    assert callbacks.outcomes[outcome] == 1


async def test_a_callback_arrives_signed_and_is_repeated_until_it_is_acknowledged() -> None:
    receiver = Receiver(
        answer("500 Broken", body=b"x" * 100_000),
        answer("307 Elsewhere", "Location: /other\r\n"),
        b"no HTTP at all\r\n\r\n",
        answer("202 Accepted", body=b"y" * 5_000_000),
    )
    callbacks = Callbacks(CallbackOptions(key="k"), SystemClock(), draw=lambda: 0.0)
    async with receiver.running():
        await deliver(callbacks, f"http://127.0.0.1:{receiver.port}/secret?sig=secret", outcome="delivered")
    assert [first for first, _, _ in receiver.requests] == ["POST /secret?sig=secret HTTP/1.1"] * 4
    assert len({body for _, _, body in receiver.requests}) == 1
    _, headers, body = receiver.requests[-1]
    assert headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert headers["renewer-signature"].startswith("t=")
    assert json.loads(body)["type"] == "renewer.lease.lost"
    assert callbacks.outcomes == {"delivered": 1, "failed": 3, "given_up": 0}


async def test_a_receiver_that_is_not_there_is_told_by_its_host_alone() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        callbacks = Callbacks(CallbackOptions(), SystemClock(), draw=lambda: 1.0)
        with structlog.testing.capture_logs() as lines:
            await deliver(callbacks, f"http://127.0.0.1:{port}/secret?sig=secret", outcome="failed")
    [line] = lines
    assert f"http://127.0.0.1:{port}" in line["detail"]
    assert "secret" not in str(line)
    assert callbacks.pending == 1


async def test_a_listed_name_that_leads_to_this_machine_is_not_connected_to() -> None:
    receiver = Receiver()
    client = build_client(resolver=lambda: GuardedResolver(LoopbackNames(), judge=address_problem))
    async with receiver.running(), client:
        host = f"hooks.example.com:{receiver.port}"
        callbacks = Callbacks(CallbackOptions(allow_hosts=(host,)), SystemClock(), client=client, draw=lambda: 1.0)
        with structlog.testing.capture_logs() as lines:
            await deliver(callbacks, f"https://{host}/secret", outcome="failed")
    [line] = lines
    assert "callbacks may not go to" in line["detail"]
    assert "secret" not in str(line)
    assert receiver.requests == []
