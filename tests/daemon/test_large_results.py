"""A result of 64 MiB on its whole way, service to disk to caller, over real sockets: it is never in memory."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import httpx
import pytest

from renewer.client import AsyncClient
from renewer.core.timing import PollPolicy
from renewer.daemon.clock import SystemClock
from renewer.daemon.registrar import Account
from renewer.registry import SqliteRegistry
from renewer.targets.fabric import FabricTarget
from renewer.targets.rest.account import AccountOptions
from renewer.targets.spool import Spool
from renewer.targets.tokens import StaticToken
from tests.api.served import served_on_unix
from tests.daemon.daemon_rig import Desk

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
SIZE = 64 * MIB
ALLOWED = 8 * MIB
LIMIT_S = 60
OPERATION = "0acd697c-1550-43cd-b998-91bfbfbd47c6"
PIECE = bytes(range(256)) * 256


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Service:
    """A Fabric whose one operation is done, and has left a result of `size` bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, self._serve)
            yield
            tasks.cancel_scope.cancel()

    async def _serve(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            while True:
                asked = b""
                while b"\r\n\r\n" not in asked:
                    try:
                        asked += await stream.receive()
                    except (anyio.EndOfStream, anyio.BrokenResourceError):
                        return
                try:
                    await self._answer(stream, asked.split(b" ", 2)[1].decode())
                except anyio.BrokenResourceError:
                    return

    async def _answer(self, stream: anyio.abc.SocketStream, path: str) -> None:
        place = f"/v1/operations/{OPERATION}"
        if path == place:
            state = b'{"status": "Succeeded", "percentComplete": 100}'
            return await stream.send(_head(200, len(state), f"Location: {place}/result") + state)
        if path == "/v1/start":
            return await stream.send(_head(202, 0, f"Location: {place}\r\nx-ms-operation-id: {OPERATION}"))
        await stream.send(_head(200, self.size, "Content-Type: application/octet-stream"))
        for _ in range(self.size // len(PIECE)):
            await stream.send(PIECE)
        return None


def _head(status: int, size: int, headers: str) -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {size}\r\n{headers}\r\n\r\n".encode()


@asynccontextmanager
async def daemon(tmp_path, size=SIZE, **options):
    service, clock = Service(size), SystemClock()
    registry = SqliteRegistry(tmp_path / "state")
    async with service.running(), anyio.create_task_group() as tasks:
        target = FabricTarget(
            AccountOptions("fabric.main", f"http://127.0.0.1:{service.port}/v1", **options),
            StaticToken("t"),
            clock,
            spool=Spool(registry.spool_dir()),
        )
        await tasks.start(target.run)
        desk = Desk(clock, service=target, registry=registry)
        policy = PollPolicy(floor_s=0.01, default_interval_s=0.01)
        desk.registrar.accounts["fabric.main"] = Account(target, policy)
        try:
            async with (
                desk.running(),
                served_on_unix(desk.control, tmp_path) as path,
                AsyncClient(f"unix:{path}", timeout=LIMIT_S) as client,
            ):
                desk.client, desk.socket = client, path
                with anyio.fail_after(LIMIT_S):
                    yield desk
        finally:
            await registry.close()
        tasks.cancel_scope.cancel()


def kept(tmp_path):
    return list((tmp_path / "state" / "results").iterdir())


def digest_of(size):
    digest = hashlib.sha256()
    for _ in range(size // len(PIECE)):
        digest.update(PIECE)
    return digest.hexdigest()


def digest_in(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("url", ["/start", "/resource"], ids=["fetched", "first answer"])
async def test_a_large_result_is_never_in_memory(tmp_path, url):
    async with daemon(tmp_path) as desk:
        await desk.client.status()
        tracemalloc.start()
        try:
            operation = await desk.client.submit("POST", url, wait=LIMIT_S)
            assert (operation.state, operation.result.size) == ("succeeded", SIZE)
            fetched = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            saved = await desk.client.save_result(operation.id, tmp_path / "saved")
            read = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert saved.size == SIZE
        assert digest_in(tmp_path / "saved") == digest_of(SIZE)
        assert len(kept(tmp_path)) == 1
        assert fetched < ALLOWED
        assert read < ALLOWED
        await desk.client.forget(operation.id)
        assert kept(tmp_path) == []


async def test_many_large_results_at_once_are_not_in_memory_either(tmp_path):
    count, size = 16, 8 * MIB
    async with daemon(tmp_path, size) as desk:
        await desk.client.status()
        tracemalloc.start()
        try:
            started = [await desk.client.submit("POST", "/start") for _ in range(count)]
            ended = await desk.client.wait_all([operation.id for operation in started], timeout=LIMIT_S)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert [(operation.state, operation.result.size) for operation in ended] == [("succeeded", size)] * count
        assert len(kept(tmp_path)) == count
        assert peak < count * MIB


async def test_forgetting_an_operation_does_no_harm_to_who_reads_its_result(tmp_path):
    async with daemon(tmp_path) as desk:
        operation = await desk.client.submit("POST", "/start", wait=LIMIT_S)
        transport = httpx.AsyncHTTPTransport(uds=desk.socket)
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://renewer", timeout=LIMIT_S) as client,
            client.stream("GET", f"/v1/operations/{operation.id}/result") as answer,
        ):
            pieces = answer.aiter_bytes()
            digest = hashlib.sha256(await anext(pieces))
            await desk.client.forget(operation.id)
            assert kept(tmp_path) == []
            async for piece in pieces:
                digest.update(piece)
        assert digest.hexdigest() == digest_of(SIZE)


async def test_a_result_that_is_too_large_is_a_success_that_says_so_and_leaves_no_file(tmp_path):
    async with daemon(tmp_path, max_result_bytes=SIZE - 1) as desk:
        operation = await desk.client.submit("POST", "/start", wait=LIMIT_S)
        assert operation.state == "succeeded"
        assert operation.error["errorCode"] == "result_too_large"
        assert f"{SIZE - 1} bytes; raise max_result of [fabric.main]" in operation.error["message"]
        assert kept(tmp_path) == []


async def test_who_forgets_an_operation_while_its_result_arrives_leaves_no_file(tmp_path):
    async with daemon(tmp_path, 1024 * MIB, max_result_bytes=2048 * MIB) as desk:
        operation = await desk.client.submit("POST", "/start")
        while not kept(tmp_path):
            await anyio.lowlevel.checkpoint()
        assert (await desk.client.operation(operation.id)).state == "fetching"
        await desk.client.forget(operation.id)
        while kept(tmp_path):
            await anyio.lowlevel.checkpoint()
