"""A result saved to a file, over both clients: all of it or nothing, and never in memory as a whole."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.abc
import anyio.from_thread
import pytest

from renewer.client import AsyncClient, Client, Conflict, SavedResult, Unavailable, saving
from tests.client.rawserver import LIMIT_S, RawServer, answer
from tests.client.standin import StandIn

BODY = bytes(range(256)) * 4_000
Save = Callable[..., SavedResult]


@pytest.fixture(params=["sync", "asyncio", "trio"])
def save(request: pytest.FixtureRequest) -> Save:
    """Saves the result of op-1 with one of the clients."""

    def with_sync(api: str, path: Path, retry_for: float = 0.0) -> SavedResult:
        with Client(api, timeout=LIMIT_S, retry_for=retry_for) as client:
            return client.save_result("op-1", path)

    def with_async(api: str, path: Path, retry_for: float = 0.0) -> SavedResult:
        async def run() -> SavedResult:
            async with AsyncClient(api, timeout=LIMIT_S, retry_for=retry_for) as client:
                return await client.save_result("op-1", path)

        return anyio.run(run, backend=request.param)

    return with_sync if request.param == "sync" else with_async


@pytest.fixture
def out(tmp_path: Path) -> Path:
    directory = tmp_path / "out"
    directory.mkdir()
    return directory / "result.bin"


def finished(standin: StandIn, content: bytes = BODY, content_type: str = "application/x-any") -> str:
    standin.add_operation("op-1")
    standin.end_operation("op-1")
    standin.results["op-1"] = (content_type, content)
    return standin.api


def test_a_result_is_saved_byte_for_byte(standin: StandIn, save: Save, out: Path) -> None:
    assert save(finished(standin), out) == SavedResult("bytes", "application/x-any", len(BODY))
    assert out.read_bytes() == BODY
    assert list(out.parent.iterdir()) == [out]


def test_its_kind_is_told(standin: StandIn, save: Save, out: Path) -> None:
    assert save(finished(standin, b"[]", "application/json; charset=utf-8"), out).kind == "json"


def test_a_success_without_a_result_is_an_empty_file(standin: StandIn, save: Save, out: Path) -> None:
    out.write_bytes(b"of an earlier one")
    standin.add_operation("op-1")
    standin.end_operation("op-1")
    assert save(standin.api, out) == SavedResult("none", None, 0)
    assert out.read_bytes() == b""


def test_an_operation_without_a_result_leaves_what_was_there(standin: StandIn, save: Save, out: Path) -> None:
    out.write_bytes(b"of an earlier one")
    standin.add_operation("op-1")
    with pytest.raises(Conflict):
        save(standin.api, out)
    assert out.read_bytes() == b"of an earlier one"
    assert list(out.parent.iterdir()) == [out]


def test_an_answer_that_breaks_off_leaves_what_was_there(save: Save, out: Path) -> None:
    out.write_bytes(b"of an earlier one")
    with RawServer([answer(200, BODY)[:-1]]) as server, pytest.raises(Unavailable):
        save(f"tcp:127.0.0.1:{server.port}", out)
    assert out.read_bytes() == b"of an earlier one"
    assert list(out.parent.iterdir()) == [out]


def test_an_answer_that_breaks_off_is_asked_for_again(save: Save, out: Path) -> None:
    with RawServer([None, answer(200, BODY)[:-1], answer(200, BODY)]) as server:
        assert save(f"tcp:127.0.0.1:{server.port}", out, LIMIT_S).size == len(BODY)
    assert out.read_bytes() == BODY
    assert list(out.parent.iterdir()) == [out]


def test_a_new_file_has_the_permissions_that_the_umask_leaves_and_an_old_one_keeps_its_own(
    standin: StandIn, save: Save, out: Path
) -> None:
    api = finished(standin)
    before = os.umask(0o027)
    try:
        save(api, out)
    finally:
        os.umask(before)
    assert stat.S_IMODE(out.stat().st_mode) == 0o640
    out.chmod(0o600)
    save(api, out)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_a_link_is_followed(standin: StandIn, save: Save, out: Path) -> None:
    target = out.with_name("target")
    out.symlink_to(target)
    save(finished(standin), out)
    assert target.read_bytes() == BODY
    assert out.is_symlink()


def test_what_is_no_regular_file_is_written_to(standin: StandIn, save: Save, out: Path) -> None:
    os.mkfifo(out)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(out.read_bytes()), daemon=True)
    reader.start()
    save(finished(standin), out)
    reader.join(LIMIT_S)
    assert got == [BODY]
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("where", ["no/way/there", "."])
def test_a_file_that_cannot_be_made_is_the_systems_own_error(
    standin: StandIn, save: Save, out: Path, where: str
) -> None:
    with pytest.raises(OSError, match=r"No such file or directory|Is a directory"):
        save(finished(standin), out.parent / where)
    assert list(out.parent.iterdir()) == []


def test_a_file_that_must_not_be_written_is_not_replaced(
    standin: StandIn, save: Save, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    out.write_bytes(b"precious")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refused)
        with pytest.raises(PermissionError):
            save(finished(standin), out)
    assert out.read_bytes() == b"precious"


# On trio, httpx leaves the generators behind a body that is not read to its end to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("step", ["fsync", "write"])
def test_a_disk_that_is_full_leaves_what_was_there(
    standin: StandIn, save: Save, out: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class Full:
        def __init__(self, file: object) -> None:
            self._file = file

        def __getattr__(self, name: str) -> object:
            return getattr(self._file, name)

        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    api = finished(standin)
    out.write_bytes(b"of an earlier one")
    with monkeypatch.context() as patch:
        if step == "fsync":
            patch.setattr(saving.os, "fsync", full)
        else:
            real = os.fdopen
            patch.setattr(saving.os, "fdopen", lambda *arguments: Full(real(*arguments)))
        with pytest.raises(OSError, match="No space left on device"):
            save(api, out)
    assert out.read_bytes() == b"of an earlier one"
    assert list(out.parent.iterdir()) == [out]


def test_no_more_than_a_piece_is_written_at_a_time(
    standin: StandIn, save: Save, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = saving.Saving.write

    def noted(self: saving.Saving, piece: bytes) -> None:
        sizes.append(len(piece))
        real(self, piece)

    monkeypatch.setattr(saving.Saving, "write", noted)
    save(finished(standin), out)
    assert sum(sizes) == len(BODY)
    assert max(sizes) <= saving.PIECE


@pytest.mark.anyio
async def test_who_gives_up_leaves_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = anyio.Event()
    real = saving.Saving.write

    def noted(self: saving.Saving, piece: bytes) -> None:
        real(self, piece)
        anyio.from_thread.run_sync(begun.set)

    monkeypatch.setattr(saving.Saving, "write", noted)

    async def half_an_answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(answer(200, BODY)[:500_000])
            await anyio.sleep_forever()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, AsyncClient(f"tcp:127.0.0.1:{port}", timeout=LIMIT_S) as client:
        with anyio.fail_after(LIMIT_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, half_an_answer)
                tasks.start_soon(client.save_result, "op-1", out)
                await begun.wait()
                assert len(list(out.parent.iterdir())) == 1
                tasks.cancel_scope.cancel()
    assert list(out.parent.iterdir()) == []
