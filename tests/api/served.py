"""The API on a real socket, in real time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import httpx

from renewer.api import serve_api
from renewer.asgi import listen_tcp, listen_unix
from tests.api.scripted_control import ScriptedControl

LIMIT_S = 20


@asynccontextmanager
async def served_on_unix(control: ScriptedControl, folder: Path) -> AsyncIterator[str]:
    path = folder / "api.sock"
    with listen_unix(path, mode=0o600) as listener:
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve_api, control, listener)
            yield str(path)
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def served_on_tcp(control: ScriptedControl, key: str | None = None) -> AsyncIterator[int]:
    with listen_tcp("127.0.0.1", 0) as listener:
        async with anyio.create_task_group() as tasks:
            await tasks.start(partial(serve_api, control, listener, key=lambda: key))
            yield listener.getsockname()[1]
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def client_of(path: str) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.AsyncHTTPTransport(uds=path)
    async with httpx.AsyncClient(transport=transport, base_url="http://renewer", timeout=LIMIT_S) as client:
        yield client


async def read_to_end(stream: anyio.abc.ByteReceiveStream) -> bytes:
    whole = b""
    with anyio.fail_after(LIMIT_S):
        try:
            while True:
                whole += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return whole


async def read_until(stream: anyio.abc.ByteReceiveStream, text: bytes) -> bytes:
    whole = b""
    with anyio.fail_after(LIMIT_S):
        while text not in whole:
            whole += await stream.receive()
    return whole
