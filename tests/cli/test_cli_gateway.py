"""`renewer gateway`, and what `renewer status` and `renewer config` say of gateways."""

from __future__ import annotations

import base64
import stat
from typing import TYPE_CHECKING

import pytest
from starlette.responses import JSONResponse

from renewer.cli.demoworker import main as run_worker
from renewer.cli.exitcodes import ExitCode
from renewer.cli.gatewaydemoview import Contest, Worker, show
from renewer.config import ConnectionString
from tests.config.test_config_namespaces import write_pem

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run
    from tests.client.standin import StandIn

KEY = "c2VjcmV0LW9mLXdvcmtlcnM="
NAMESPACE = "[servicebus.main]\nfully_qualified_namespace = 'contoso.servicebus.windows.net'\n"


def gateway(listen: str, *lines: str, name: str = "near") -> str:
    keys = "".join(f"[[gateway.key]]\nname = '{each}'\nkey = '{each}{KEY}'\nentities = ['*']\n" for each in ("a", "b"))
    return "\n".join(["[[gateway]]", f"listen = '{listen}'", f"name = '{name}'", *lines, keys])


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_pem(tmp_path / "gateway.pem")
    tls = "tls_cert_file = 'gateway.pem'"
    config = tmp_path / "config.toml"
    config.write_text(
        NAMESPACE
        + gateway("127.0.0.1:5673")
        + gateway("0.0.0.0:5674", tls, name="far")
        + gateway("unix:a.sock", name="sock")
        + gateway("127.0.0.1:0", name="somewhere")
    )
    monkeypatch.chdir(tmp_path)
    return config


def test_the_connection_string_of_a_worker_is_printed_and_nothing_else_on_stdout(run: Run, configured: Path) -> None:
    answer = run("gateway", "connection-string", "near", "--key", "b", "-c", str(configured))
    assert answer.code == 0
    read = ConnectionString.parse(answer.out.removesuffix("\n"))
    assert (read.host, read.port, read.emulator, read.key_name) == ("127.0.0.1", 5673, True, "b")
    assert read.key is not None
    assert read.key.get_secret_value() == f"b{KEY}"
    assert "holds the key" in answer.err
    assert KEY not in answer.err


def test_with_tls_the_namespace_is_named_and_the_address_goes_beside_it(run: Run, configured: Path) -> None:
    answer = run("gateway", "connection-string", "far", "--key", "a", "-c", str(configured))
    read = ConnectionString.parse(answer.out.removesuffix("\n"))
    assert (read.host, read.tls) == ("contoso.servicebus.windows.net", True)
    assert "sb://HOST:5674" in answer.err


def test_which_gateway_and_which_key_is_asked_where_there_are_many(run: Run, configured: Path) -> None:
    for arguments, told in (
        ((), "near, far, sock, somewhere"),
        (("neer",), "did you mean near?"),
        (("near",), "by --key: a, b"),
        (("near", "--key", "c"), "there are a, b"),
        (("sock", "--key", "a"), "no SDK connects"),
        (("somewhere", "--key", "a"), "set one"),
    ):
        answer = run("gateway", "connection-string", *arguments, "-c", str(configured))
        assert (answer.code, answer.out) == (ExitCode.USAGE, "")
        assert told in answer.err
    configured.write_text(NAMESPACE)
    assert "no [[gateway]]" in run("gateway", "connection-string", "-c", str(configured)).err


def test_a_key_is_made_and_written_for_its_owner_alone(run: Run, tmp_path: Path) -> None:
    first, second = run("gateway", "key").out, run("gateway", "key").out
    assert len(base64.b64decode(first)) == len(base64.b64decode(second)) == 32
    assert first != second
    file = tmp_path / "gateway.key"
    made = run("gateway", "key", str(file))
    assert (made.code, made.out) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    written = file.read_text()
    assert len(base64.b64decode(written)) == 32
    assert written == written.strip()  # it can be put into a connection string as it is
    again = run("gateway", "key", str(file))
    assert again.code == ExitCode.CANNOT_CREATE
    assert "there already" in again.err
    assert file.read_text() == written
    assert run("gateway", "key", str(tmp_path / "none" / "key")).code == ExitCode.CANNOT_CREATE


def test_the_help_of_a_command_has_no_holes_where_a_section_is_named(run: Run) -> None:
    told = run("gateway", "key", "--help").out
    assert "key_file of the gateway's key" in " ".join(told.split())
    assert "[]" not in told
    assert "[[" not in told


def test_config_check_counts_gateways_and_show_writes_them_as_they_can_be_read(run: Run, configured: Path) -> None:
    assert "4 gateways" in run("config", "check", str(configured)).out
    assert run("config", "check", str(configured), "-o", "json").json["gateways"] == 4
    shown = run("config", "show", str(configured)).out
    assert 'listen = "127.0.0.1:5673"' in shown
    assert 'listen = "unix:a.sock"' in shown
    assert 'key = [{ name = "a", key = "***", entities = ["*"] }' in shown
    assert KEY not in shown
    again = configured.with_name("again.toml")
    # What is hidden is too short for a key; all else is as it was.
    again.write_text(shown.replace("***", KEY, 1).replace("***", "b" + KEY, 1).split("\n[[gateway]]\n")[0])
    assert run("config", "check", str(again)).code == 0


def test_status_shows_gateways(run: Run, daemon: StandIn) -> None:
    told = {
        "name": "main",
        "servicebus": "contoso",
        "listen": "127.0.0.1:5672",
        "connections": 3,
        "logging_in": 1,
        "keys": {"local": 2, "audit": 1},
        "refusals": {"key": 2, "entity": 0},
        "upstream_failures": 1,
        "messages": 7,
        "buffered_bytes": 0,
    }
    daemon.answers["GET", "/v1/status"] = JSONResponse({"state": "ready", "gateways": [told]})
    out = run("status").out
    assert "main at 127.0.0.1:5672 on contoso" in out
    assert "3 worker connections (2 local, 1 audit), 7 messages passed, 1 logging in, refused: key 2" in out
    assert "1 upstream failure" in out


def test_the_demo_of_the_gateway_says_what_makes_no_sense(run: Run) -> None:
    assert "--gateway" in run("demo", "--lock", "5s").err
    answer = run("demo", "--gateway", "--lock", "10s", "--block", "5s")
    assert answer.code == ExitCode.USAGE
    assert "nothing to lose" in answer.err
    assert "--lock x" in run("demo", "--gateway", "--lock", "x").err


def test_without_the_sdk_the_demo_says_how_to_get_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("renewer.cli.gatewaydemo.find_spec", lambda _name: None)
    answer = run("demo", "--gateway")
    assert answer.code == ExitCode.USAGE
    assert "renewer[demo]" in answer.err


def test_the_demo_judges_by_what_the_workers_tell() -> None:
    contest = Contest(10, 30, gateway=Worker("through", "a"), direct=Worker("alone", "b"))
    assert not contest.is_as_told
    for worker in (contest.gateway, contest.direct):
        worker.told({"event": "working"}, 100.0)
        worker.lock_left_s = 3.0
        worker.held_at(105.0)
    contest.direct.lock_left_s = None
    contest.direct.held_at(110.2)
    contest.gateway.told({"event": "completing"}, 130.0)
    contest.gateway.told({"event": "completed"}, 130.1)
    contest.direct.told({"event": "failed", "error": "SessionLockLostError", "message": "gone"}, 130.0)
    for worker in (contest.gateway, contest.direct):
        worker.ended(131.0, 0)
    summary = contest.summary()
    assert summary.as_told
    assert (summary.gateway.outcome, summary.gateway.blocked_s, summary.gateway.lock_lost_after_s) == (
        "completed",
        30.0,
        None,
    )
    assert (summary.direct.outcome, summary.direct.lock_lost_after_s) == ("SessionLockLostError", 10.2)
    assert show(contest) is not None
    assert "processed twice" in contest.verdict()
    contest.gateway.told({"event": "failed", "error": "SessionLockLostError", "message": "gone"}, 130.0)
    assert not contest.is_as_told
    assert "instead of completed" in contest.verdict()


def test_a_worker_that_is_refused_says_so(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("renewer.cli.demoworker.work", _refuse)
    monkeypatch.setenv("SERVICEBUS_CONNECTION", "Endpoint=sb://x")
    assert run_worker(["orders", "a", "1"]) == 1
    assert '"error": "ServiceBusConnectionError"' in capfd.readouterr().out


async def _refuse(*_arguments: object) -> None:
    from azure.servicebus.exceptions import ServiceBusConnectionError

    raise ServiceBusConnectionError(message="nobody there")
