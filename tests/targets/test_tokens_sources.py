import os

import pytest

from renewer.errors import TransientError, UsageError
from renewer.targets.tokens import EnvToken, FileToken, StaticToken

pytestmark = pytest.mark.anyio

SECRET = "eyJhbGciOi.secret"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


async def refusal(source, **kwargs):
    with pytest.raises(TransientError) as caught:
        await source.token(**kwargs)
    assert caught.value.kind == "unauthorized"
    return str(caught.value)


async def test_a_static_token_is_always_the_same_and_never_shown():
    source = StaticToken(SECRET)
    assert await source.token() == await source.token(fresh=True) == SECRET
    assert SECRET not in repr(source)


@pytest.mark.parametrize("token", ["", "Bearer abc", "abc\r\nX-Evil: 1", "abc\n", "tökén", "x" * 70_000])
async def test_what_cannot_be_a_token_is_refused_without_showing_it(token):
    with pytest.raises(UsageError) as caught:
        StaticToken(token)
    assert not token or token not in str(caught.value)


async def test_a_token_file_is_read_without_the_line_break_at_its_end(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    source = FileToken(path)
    assert await source.token() == SECRET
    assert SECRET not in repr(source)


async def test_a_token_file_is_read_again_when_it_changed(tmp_path):
    path = tmp_path / "token"
    path.write_text("first")
    source = FileToken(path)
    assert await source.token() == "first"
    path.write_text("second")
    assert await source.token() == "second"


async def test_a_token_file_replaced_by_renaming_is_read_again(tmp_path):
    path, other = tmp_path / "token", tmp_path / "other"
    path.write_text("older")
    source = FileToken(path)
    assert await source.token() == "older"
    other.write_text("newer")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.rename(path)
    assert await source.token() == "newer"


async def test_a_fresh_token_is_read_even_if_the_file_looks_the_same(tmp_path):
    path = tmp_path / "token"
    path.write_text("older")
    source = FileToken(path)
    about = path.stat()
    assert await source.token() == "older"
    path.write_text("newer")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert await source.token(fresh=True) == "newer"


@pytest.mark.parametrize("content", ["", "  \n", "two words", "x" * 70_000])
async def test_a_file_without_a_token_says_what_to_do(tmp_path, content):
    path = tmp_path / "token"
    path.write_text(content)
    told = await refusal(FileToken(path))
    assert str(path) in told
    assert "two words" not in told


async def test_a_missing_file_is_named_and_found_once_it_is_there(tmp_path):
    path = tmp_path / "token"
    source = FileToken(path)
    assert str(path) in await refusal(source)
    path.write_text(SECRET)
    assert await source.token() == SECRET


@pytest.mark.parametrize("has_writer", [False, True])
async def test_a_pipe_that_nobody_writes_to_holds_up_nobody(tmp_path, has_writer):
    path = tmp_path / "token"
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR) if has_writer else None
    try:
        assert "is empty" in await refusal(FileToken(path))
    finally:
        if end is not None:
            os.close(end)


async def test_a_token_file_that_went_bad_does_not_give_the_old_token(tmp_path):
    path = tmp_path / "token"
    path.write_text(SECRET)
    source = FileToken(path)
    await source.token()
    path.write_text("")
    await refusal(source)
    await refusal(source)


async def test_an_environment_variable_is_read_each_time(monkeypatch):
    source = EnvToken("RENEWER_TEST_TOKEN")
    monkeypatch.delenv("RENEWER_TEST_TOKEN", raising=False)
    assert "RENEWER_TEST_TOKEN" in await refusal(source)
    monkeypatch.setenv("RENEWER_TEST_TOKEN", SECRET)
    assert await source.token() == SECRET
    assert SECRET not in repr(source)
