"""Where the commands look for the daemon, and what they say when it is not there."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from renewer.cli.connect import told
from renewer.cli.endpoint import Endpoint, find
from renewer.cli.exitcodes import CommandError, ExitCode
from renewer.client import (
    BadRequest,
    Conflict,
    LockLost,
    NotAllowed,
    NotFound,
    ProtocolError,
    Refused,
    RemoteFailed,
    RenewerApiError,
    ServerError,
    Timeout,
    Unavailable,
)
from renewer.errors import ConfigError, UsageError
from tests.cli.conftest import Run
from tests.client.standin import StandIn


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("RENEWER_")]:
        monkeypatch.delenv(name)


def found(api: str | None = None, *, key_file: Path | None = None, config: Path | None = None) -> Endpoint:
    return find(api, key_file=key_file, config=config)


def refused(api: str | None = None, *, key_file: Path | None = None, config: Path | None = None) -> CommandError:
    with pytest.raises(CommandError) as caught:
        find(api, key_file=key_file, config=config)
    assert "\n" not in str(caught.value)
    return caught.value


def listen(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)
    return listener


def test_without_a_word_the_socket_in_the_working_directory_is_taken(tmp_path: Path) -> None:
    with listen(tmp_path / "var" / "renewer.sock"):
        assert found().url == f"unix:{tmp_path}/var/renewer.sock"


def test_a_daemon_that_is_not_there_is_told_with_what_was_tried_and_what_to_do() -> None:
    error = refused()
    assert error.code is ExitCode.UNAVAILABLE
    for part in ("./var/renewer.sock", "/run/renewer/renewer.sock", "renewer run", "--api", "RENEWER_API"):
        assert part in str(error)


def test_a_socket_that_nobody_listens_on_is_told_as_such(tmp_path: Path) -> None:
    listen(tmp_path / "stale").close()
    assert "nobody listens" in str(refused("unix:stale"))
    (tmp_path / "file").write_text("")
    assert refused("unix:file").code is ExitCode.UNAVAILABLE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use every socket")
def test_a_socket_that_is_not_ours_to_use_is_a_matter_of_permission(tmp_path: Path) -> None:
    with listen(tmp_path / "closed"):
        (tmp_path / "closed").chmod(0)
        assert refused("unix:closed").code is ExitCode.NO_PERMISSION


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("tcp:127.0.0.1:8321", "http://127.0.0.1:8321"),
        ("http://127.0.0.1:8321/", "http://127.0.0.1:8321"),
        ("https://renewer.example", "https://renewer.example"),
    ],
)
def test_addresses_are_taken_in_every_form(given: str, url: str) -> None:
    assert found(given).url == url


def test_a_path_alone_is_a_socket(tmp_path: Path) -> None:
    with listen(tmp_path / "s"):
        assert found("./s").url == found(str(tmp_path / "s")).url == f"unix:{tmp_path}/s"


def test_what_is_no_address_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="unix:PATH"):
        found("localhost 8321")


def test_the_option_wins_over_the_configuration_and_that_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[api]\nlisten = "tcp:127.0.0.1:2"\nkey = "from-config"\n')
    monkeypatch.setenv("RENEWER_API", "tcp:127.0.0.1:3")
    assert found("tcp:127.0.0.1:1", config=config).url == "http://127.0.0.1:1"
    assert found(config=config) == Endpoint("http://127.0.0.1:2", "from-config")
    assert found().url == "http://127.0.0.1:3"
    monkeypatch.setenv("RENEWER_API__LISTEN", "tcp:127.0.0.1:4")
    assert found(config=config).url == "http://127.0.0.1:4"


def test_only_the_api_section_of_a_configuration_matters_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[servicebus.main]\nconnection_string_file = "not-readable-by-us"\n[api]\nlisten = "tcp:127.0.0.1:2"\n'
        'key_env = "THE_KEY"\n'
    )
    monkeypatch.setenv("THE_KEY", "from-variable")
    assert found(config=config) == Endpoint("http://127.0.0.1:2", "from-variable")


def test_a_configuration_that_cannot_be_used_is_told_by_kind(tmp_path: Path) -> None:
    assert refused(config=tmp_path / "none.toml").code is ExitCode.NOT_FOUND
    broken = tmp_path / "broken.toml"
    broken.write_text("[api")
    assert refused(config=broken).code is ExitCode.CONFIG
    broken.write_text("[api]\nlisten = 3\n")
    with pytest.raises(ConfigError):
        found(config=broken)


def test_the_key_comes_from_its_file_or_the_environment_and_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENEWER_API_KEY", "from-environment")
    assert found("tcp:127.0.0.1:1").key == "from-environment"
    file = tmp_path / "key"
    file.write_text("from-file\n")
    endpoint = found("tcp:127.0.0.1:1", key_file=file)
    assert endpoint.key == "from-file"
    assert "from-file" not in repr(endpoint)


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, ExitCode.NOT_FOUND), (b"", ExitCode.DATA), (b"two words", ExitCode.DATA), (b"\xff", ExitCode.IO)],
)
def test_a_key_file_that_holds_no_key_is_told_without_its_content(
    tmp_path: Path, content: bytes | None, code: ExitCode
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    error = refused("tcp:127.0.0.1:1", key_file=file)
    assert error.code is code
    assert "two words" not in str(error)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotAllowed("x"), 77),
        (BadRequest("x"), 64),
        (NotFound("x"), 66),
        (Conflict("x"), 1),
        (Refused("x", retry_after_s=5), 75),
        (Timeout("x"), 75),
        (RemoteFailed("x"), 75),
        (Unavailable("x"), 69),
        (Unavailable("x", status=503, problem={"title": "Service Unavailable", "status": 503}), 75),
        (ProtocolError("x"), 69),
        (ServerError("x"), 70),
        (LockLost("x", reason="expired"), 1),
        (RenewerApiError("x"), 1),
    ],
)
def test_every_error_of_the_client_has_its_exit_code(error: RenewerApiError, code: int) -> None:
    assert told(error).code == code


def test_who_is_refused_for_now_learns_when_to_try_again() -> None:
    assert str(told(Refused("draining", retry_after_s=5))) == "draining; try again in 5.0 s"


def test_a_command_without_a_daemon_says_so_in_one_line_and_ends_with_69(run: Run) -> None:
    for arguments in (["status"], ["lease", "ls"], ["op", "ls"], ["exec", "--entity", "q", "--", "true"], ["top"]):
        answer = run(*arguments)
        assert (answer.code, answer.out, answer.err.count("\n")) == (69, "", 1)


def test_an_option_in_any_place_finds_the_daemon(run: Run, tmp_path: Path) -> None:
    standin = StandIn(tmp_path / "elsewhere").start()
    try:
        assert run("status", "--api", standin.api).code == 0
        assert run("lease", "--help").code == 0
    finally:
        standin.kill()
