"""Large bodies on their way into files: what is kept, what is refused, and that nothing is left behind."""

import errno
import gc
import gzip
import os
import random
import stat
import threading

import anyio
import anyio.from_thread
import anyio.lowlevel
import httpx
import pytest

from renewer.errors import TransientError
from renewer.targets import spool as spools
from renewer.targets.http import STATE_BODY_MAX, BodyTooLargeError, exchange
from renewer.targets.spool import KEPT_IN_MEMORY, ArrivingBody, Spool, SpoolError

pytestmark = pytest.mark.anyio

BODY = random.Random(7).randbytes(2_000_000)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


# trio warns of httpx's generators when a body is not read to its end; the real transport is for asyncio anyway.
on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture
def spool(tmp_path):
    directory = tmp_path / "results"
    directory.mkdir()
    return Spool(directory)


class Pieces(httpx.AsyncByteStream):
    """A body in pieces, with an error after them, or with nothing any more."""

    def __init__(self, pieces, error=None, *, hangs=None):
        self._pieces = pieces
        self._error = error
        self._hangs = hangs
        self.taken = 0

    async def __aiter__(self):
        for piece in self._pieces:
            self.taken += 1
            yield piece
        if self._hangs is not None:
            self._hangs.set()
            await anyio.sleep_forever()
        if self._error is not None:
            raise self._error


def in_pieces(body, size=10_000):
    return [body[start : start + size] for start in range(0, len(body), size)]


def answer(body, status=200, *, headers=None, **how):
    return httpx.Response(status, headers=headers, stream=Pieces(in_pieces(body), **how))


async def ask(response, spool, *, max_body=10_000_000):
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: response)) as client:
        request = httpx.Request("GET", "https://h.example/a?sig=secret")
        return await exchange(client, request, max_body=max_body, spool=spool)


def left(spool):
    gc.collect()
    return list(spool.directory.iterdir())


async def test_a_large_body_is_in_a_file_that_nobody_else_may_read(spool):
    before = os.umask(0)
    try:
        got = await ask(answer(BODY), spool)
    finally:
        os.umask(before)
    assert (got.body, got.size) == (b"", len(BODY))
    assert left(spool) == [got.file]
    assert got.file.read_bytes() == BODY
    assert stat.S_IMODE(got.file.stat().st_mode) == 0o600


@pytest.mark.parametrize("size", [0, 1, KEPT_IN_MEMORY - 1, KEPT_IN_MEMORY])
async def test_a_small_body_stays_in_memory(spool, size):
    got = await ask(answer(BODY[:size]), spool)
    assert (got.body, got.size, got.file) == (BODY[:size], size, None)
    assert left(spool) == []


@pytest.mark.parametrize("size", [KEPT_IN_MEMORY + 1, 2 * KEPT_IN_MEMORY, 3 * KEPT_IN_MEMORY + 1])
@pytest.mark.parametrize("piece", [1_000, KEPT_IN_MEMORY, 10 * KEPT_IN_MEMORY])
async def test_a_file_holds_every_byte_however_the_body_arrives(spool, size, piece):
    response = httpx.Response(200, stream=Pieces(in_pieces(BODY[:size], piece)))
    got = await ask(response, spool)
    assert got.file.read_bytes() == BODY[:size]


async def test_without_a_spool_everything_is_in_memory(spool):
    assert (await ask(answer(BODY), None)).body == BODY


async def test_the_file_goes_with_the_answer_unless_somebody_takes_it_over(spool):
    got = await ask(answer(BODY), spool)
    assert left(spool) == [got.file]
    del got
    assert left(spool) == []
    got = await ask(answer(BODY), spool)
    path = got.spooled.take_over()
    del got
    assert left(spool) == [path]


async def test_a_file_can_be_removed_at_once_and_twice(spool):
    got = await ask(answer(BODY), spool)
    got.spooled.remove()
    assert left(spool) == []
    got.spooled.remove()


async def test_gzip_is_unpacked_on_its_way_into_the_file(spool):
    packed = gzip.compress(BODY[:1_000_000]) + gzip.compress(b"") + gzip.compress(BODY[1_000_000:])
    got = await ask(answer(packed, headers={"Content-Encoding": "gzip"}), spool)
    assert got.file.read_bytes() == BODY


@pytest.mark.parametrize("fill", [b"\0", b"abc" * 85])
async def test_gzip_that_holds_a_thousandfold_comes_out_whole(spool, fill):
    body = fill * (3_000_001 // len(fill))
    got = await ask(answer(gzip.compress(body), headers={"Content-Encoding": "gzip"}), spool)
    assert got.file.read_bytes() == body


@on_asyncio
@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_that_is_too_large_leaves_nothing(anyio_backend, spool, announced):
    headers = {"Content-Length": str(len(BODY))} if announced else {}
    response = answer(BODY, headers=headers)
    with pytest.raises(BodyTooLargeError, match="larger than 1000000 bytes"):
        await ask(response, spool, max_body=1_000_000)
    assert left(spool) == []
    assert response.stream._stream.taken == (0 if announced else 101)


async def test_a_body_as_large_as_allowed_is_kept(spool):
    assert (await ask(answer(BODY), spool, max_body=len(BODY))).size == len(BODY)


@on_asyncio
async def test_a_gzip_bomb_is_unpacked_no_further_than_allowed_and_leaves_nothing(anyio_backend, spool, monkeypatch):
    bomb = gzip.compress(bytes(200_000_000))
    written = 0
    real = os.write

    def counted(descriptor, piece):
        nonlocal written
        written += len(piece)
        return real(descriptor, piece)

    monkeypatch.setattr(os, "write", counted)
    with pytest.raises(BodyTooLargeError):
        await ask(answer(bomb, headers={"Content-Encoding": "gzip"}), spool, max_body=1_000_000)
    assert 0 < written <= 1_000_000
    assert left(spool) == []


@on_asyncio
@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (lambda: answer(BODY, error=httpx.ReadError("reset")), "network"),
        (lambda: answer(BODY, error=httpx.ReadTimeout("slow")), "timeout"),
        (lambda: answer(gzip.compress(BODY)[:-9], headers={"Content-Encoding": "gzip"}), "garbage"),
        (lambda: answer(gzip.compress(BODY) + b"junk", headers={"Content-Encoding": "gzip"}), "garbage"),
    ],
)
async def test_a_body_that_breaks_off_leaves_nothing(anyio_backend, spool, response, kind):
    with pytest.raises(TransientError) as caught:
        await ask(response(), spool)
    assert caught.value.kind == kind
    del caught
    assert left(spool) == []


@on_asyncio
async def test_who_gives_up_while_the_body_arrives_leaves_nothing(anyio_backend, spool):
    hangs = anyio.Event()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, answer(BODY, hangs=hangs), spool)
            await hangs.wait()
            assert len(left(spool)) == 1
            tasks.cancel_scope.cancel()
    assert left(spool) == []


@pytest.mark.parametrize("step", ["open", "write", "fsync"])
async def test_who_gives_up_while_the_disk_is_busy_leaves_nothing(spool, monkeypatch, step):
    busy, scope = anyio.Event(), anyio.CancelScope()
    real = getattr(os, step)

    def slow(*arguments):
        anyio.from_thread.run_sync(busy.set)
        anyio.from_thread.run_sync(scope.cancel)
        return real(*arguments)

    monkeypatch.setattr(os, step, slow)
    with anyio.fail_after(20), scope:
        async with ArrivingBody(spool) as body:
            for piece in in_pieces(BODY):
                await body.add(piece)
                await anyio.lowlevel.checkpoint_if_cancelled()
            await body.finish()
        pytest.fail("it was cancelled")
    assert busy.is_set()
    assert left(spool) == []


@on_asyncio
@pytest.mark.parametrize("step", ["open", "write", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_a_disk_that_takes_no_more_is_told_with_its_directory(anyio_backend, spool, monkeypatch, step, code):
    real = getattr(os, step)
    calls = 0

    def failing(first, *arguments):
        nonlocal calls
        calls += 1
        if step == "write" and calls < 3:
            return real(first, *arguments)
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, failing)
        with pytest.raises(SpoolError) as caught:
            await ask(answer(BODY), spool)
    assert str(spool.directory) in str(caught.value)
    assert os.strerror(code) in str(caught.value)
    assert ("make room" in str(caught.value)) == (code == errno.ENOSPC)
    assert "secret" not in str(caught.value)
    # Whoever sent a first request must not take this for one that was not taken up.
    assert caught.value.kind == "storage"
    assert left(spool) == []


@on_asyncio
async def test_a_directory_that_is_not_there_is_told(anyio_backend, tmp_path):
    with pytest.raises(SpoolError, match=f"{tmp_path}/nowhere .No such file or directory.: look after that directory"):
        await ask(answer(BODY), Spool(tmp_path / "nowhere"))


@on_asyncio
@pytest.mark.parametrize("status", [202, 301, 400, 404, 500])
async def test_what_cannot_be_a_result_stays_in_memory(anyio_backend, spool, status):
    body = BODY[:500_000]
    got = await ask(answer(body, status), spool, max_body=1_000)
    assert (got.body, got.file) == (body[:1_000], None)
    got = await ask(answer(body, status), spool)
    assert (got.status, got.body, got.file) == (status, body, None)
    assert left(spool) == []


@on_asyncio
@pytest.mark.parametrize("packed", [True, False])
async def test_a_long_error_is_read_as_far_as_a_document_may_go(anyio_backend, spool, packed):
    body = gzip.compress(BODY) if packed else BODY
    headers = {"Content-Encoding": "gzip"} if packed else {"Content-Length": str(len(BODY))}
    got = await ask(answer(body, 500, headers=headers), spool)
    assert (got.status, got.body) == (500, BODY[:STATE_BODY_MAX])


async def test_no_more_threads_work_on_files_than_allowed(spool, monkeypatch):
    real = os.write
    counting = threading.Lock()
    at_once = most = 0

    def counted(descriptor, piece):
        nonlocal at_once, most
        with counting:
            at_once += 1
            most = max(most, at_once)
        try:
            return real(descriptor, piece)
        finally:
            with counting:
                at_once -= 1

    monkeypatch.setattr(os, "write", counted)
    async with anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(ask, answer(BODY), spool)
    assert 1 <= most <= spools._THREADS


async def test_a_body_is_no_more_than_a_piece_in_memory(spool):
    async with ArrivingBody(spool) as body:
        for piece in in_pieces(BODY, 50_000):
            await body.add(piece)
            assert len(body._buffer) <= KEPT_IN_MEMORY
        file = await body.finish()
    assert file.size == len(BODY)
