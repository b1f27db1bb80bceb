"""Results in files, on their way out over a real socket: whole, whatever happens to the operation meanwhile."""

from __future__ import annotations

import os
import random

import anyio
import httpx
import pytest

from renewer.api import bodies
from renewer.core.model import Result
from tests.api.scripted_control import ScriptedControl
from tests.api.served import LIMIT_S, client_of, read_until, served_on_unix

pytestmark = pytest.mark.anyio

BODY = random.Random(7).randbytes(3 * bodies.PIECE + 1)


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Control(ScriptedControl):
    """Its results are given out as told: one after the other, the last for ever."""

    def __init__(self, directory):
        super().__init__()
        self.directory = directory
        self.given = []
        self.asked_for = 0

    def in_file(self, name="result", body=BODY, content_type="application/x-any"):
        path = self.directory / name
        path.write_bytes(body)
        return Result("bytes", content_type, stored_size=len(body), file=str(path))

    def done(self, *results):
        self.given = list(results)
        operation = self.add_operation()
        self.finish(operation, results[0])
        return f"/v1/operations/{operation.spec.id}/result"

    async def result(self, operation_id):
        self.asked_for += 1
        if self.operation(operation_id) is None:
            raise KeyError(operation_id)
        return self.given.pop(0) if len(self.given) > 1 else self.given[0]


@pytest.fixture
def control(tmp_path):
    return Control(tmp_path)


def open_files(directory):
    names = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_there(name)]
    return [name for name in names if name.startswith(f"{directory}/result")]


def _is_there(name):
    return os.path.lexists(f"/proc/self/fd/{name}")


@pytest.mark.parametrize("size", [1, bodies.PIECE - 1, bodies.PIECE, bodies.PIECE + 1, len(BODY)])
async def test_a_result_in_a_file_arrives_whole_with_its_length_and_type(control, tmp_path, size):
    href = control.done(control.in_file(body=BODY[:size]))
    async with served_on_unix(control, tmp_path) as path, client_of(path) as client:
        for _ in range(2):
            answer = await client.get(href)
            assert (answer.status_code, answer.content) == (200, BODY[:size])
            assert answer.headers["content-length"] == str(size)
            assert answer.headers["content-type"] == "application/x-any"
            assert answer.headers["x-content-type-options"] == "nosniff"
    assert open_files(tmp_path) == []


async def test_forgetting_the_operation_does_a_download_no_harm(control, tmp_path):
    href = control.done(control.in_file(body=BODY * 10))
    async with served_on_unix(control, tmp_path) as path, client_of(path) as client:
        async with client.stream("GET", href) as answer:
            pieces = answer.aiter_bytes()
            got = bytearray(await anext(pieces))
            await client.delete(href.removesuffix("/result"))
            (tmp_path / "result").unlink()
            assert (await client.get(href)).status_code == 404
            async for piece in pieces:
                got += piece
        assert got == BODY * 10
    assert open_files(tmp_path) == []


async def test_a_file_that_was_stored_under_another_name_meanwhile_is_asked_for_again(control, tmp_path):
    before, after = control.in_file("result-before"), control.in_file("result-after")
    (tmp_path / "result-before").unlink()
    href = control.done(before, after)
    async with served_on_unix(control, tmp_path) as path, client_of(path) as client:
        assert (await client.get(href)).content == BODY
    assert control.asked_for == 2


async def test_a_file_that_is_gone_for_good_is_told(control, tmp_path):
    href = control.done(control.in_file())
    (tmp_path / "result").unlink()
    async with served_on_unix(control, tmp_path) as path, client_of(path) as client:
        answer = await client.get(href)
    assert answer.status_code == 503
    assert f"{tmp_path}/result: the result is gone, somebody removed its file" in answer.json()["detail"]


async def test_an_operation_that_was_forgotten_in_that_moment_is_not_found(control, tmp_path):
    href = control.done(control.in_file("result-gone"), None)
    (tmp_path / "result-gone").unlink()
    async with served_on_unix(control, tmp_path) as path, client_of(path) as client:
        assert (await client.get(href)).status_code == 404


async def test_a_file_of_another_length_is_not_given_out(control, tmp_path):
    href = control.done(control.in_file())
    (tmp_path / "result").write_bytes(BODY[:-1])
    async with served_on_unix(control, tmp_path) as path, client_of(path) as client:
        answer = await client.get(href)
    assert answer.status_code == 503
    assert f"damaged (it should be {len(BODY)} bytes long" in answer.json()["detail"]
    assert open_files(tmp_path) == []


async def test_a_file_that_cannot_be_read_is_told(control, tmp_path):
    result = control.in_file()
    (tmp_path / "result").unlink()
    (tmp_path / "result").mkdir()
    href = control.done(result)
    async with served_on_unix(control, tmp_path) as path, client_of(path) as client:
        answer = await client.get(href)
    assert answer.status_code == 503
    assert "the result cannot be read: Is a directory" in answer.json()["detail"]


async def test_a_file_cut_short_while_it_is_sent_breaks_the_answer_off(control, tmp_path):
    size = 20_000_000
    href = control.done(control.in_file(body=bytes(size)))
    async with served_on_unix(control, tmp_path) as path, client_of(path) as client:
        async with client.stream("GET", href) as answer:
            os.truncate(tmp_path / "result", 1_000_000)
            with pytest.raises(httpx.RemoteProtocolError):
                await answer.aread()
        assert (await client.get("/v1/status")).status_code == 200
    assert open_files(tmp_path) == []


async def test_a_reader_who_goes_away_leaves_no_file_open(control, tmp_path, monkeypatch):
    closed = anyio.Event()
    real = bodies.FileIO

    class Watched(real):
        def close(self):
            was_open = not self.closed
            super().close()
            if was_open:
                anyio.from_thread.run_sync(closed.set)

    monkeypatch.setattr(bodies, "FileIO", Watched)
    href = control.done(control.in_file(body=bytes(20_000_000)))
    async with served_on_unix(control, tmp_path) as path:
        async with await anyio.connect_unix(path) as stream:
            await stream.send(f"GET {href} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await read_until(stream, b"\r\n\r\n")
        with anyio.fail_after(LIMIT_S):
            await closed.wait()
    assert open_files(tmp_path) == []


async def test_a_slow_reader_gets_a_little_at_a_time(control, tmp_path, monkeypatch):
    read = 0
    real = bodies.FileIO

    class Counted(real):
        def read(self, size=-1):
            nonlocal read
            piece = super().read(size)
            read += len(piece)
            assert len(piece) <= bodies.PIECE
            return piece

    monkeypatch.setattr(bodies, "FileIO", Counted)
    size = 20_000_000
    href = control.done(control.in_file(body=bytes(size)))
    async with served_on_unix(control, tmp_path) as path, await anyio.connect_unix(path) as stream:
        await stream.send(f"GET {href} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = await read_until(stream, b"\r\n\r\n")
        async with client_of(path) as client:
            for _ in range(20):
                assert (await client.get("/v1/status")).status_code == 200
        assert read < 8 * bodies.PIECE
        left = size - len(head.partition(b"\r\n\r\n")[2])
        with anyio.fail_after(LIMIT_S):
            while left:
                left -= len(await stream.receive())
