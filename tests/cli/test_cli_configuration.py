"""`renewer config show`: what is in effect, and who said so."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.cli.conftest import Run

CONFIG = """\
[daemon]
log_level = "warning"
[servicebus.main]
connection_string = "Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true"
[[session]]
entity = "orders"
labels = { team = "billing" }
[fabric."odd name"]
token = "t0psecret"
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.replace('"odd name"', "other"))
    return str(path)


def test_every_setting_is_shown_with_who_said_so(run: Run, config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENEWER_RENEWAL__DUE_FRACTION", "0.4")
    shown = run("config", "show", config, "--set", "renewal.jitter=0.2")
    assert shown.code == 0
    origins = {line.partition(" = ")[0]: line.rpartition("# ")[2] for line in shown.out.splitlines() if " = " in line}
    assert origins["log_level"] == f"{config}:2"
    assert origins["log_format"] == "default"
    assert origins["due_fraction"] == "environment RENEWER_RENEWAL__DUE_FRACTION"
    assert origins["jitter"] == "flag"


def test_what_is_shown_is_toml_and_holds_no_secret(run: Run, config: str) -> None:
    shown = run("config", "show", config)
    document = tomllib.loads(shown.out)
    assert document["session"] == [{"entity": "orders", "labels": {"team": "billing"}}]
    assert document["servicebus"]["main"]["connection_string"] == document["fabric"]["other"]["token"] == "***"
    assert document["api"]["socket_mode"] == "0660"
    assert document["metrics"]["listen"] == "127.0.0.1:9464"
    assert document["renewal"]["max_interval"] == "4m"
    everything = shown.out + run("config", "show", config, "-o", "json").out
    assert "t0psecret" not in everything
    assert "bG9jYWw" not in everything


def test_programs_get_settings_and_origins(run: Run, config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENEWER_CONFIG", config)
    document = run("config", "show", "-o", "json").json
    assert document["settings"]["daemon"]["log_level"] == "warning"
    assert document["settings"]["session"][0]["entity"] == "orders"
    assert document["origins"]["session[0].entity"] == f"{config}:6"


def test_mistakes_are_listed_and_end_with_78(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[daemon]\nlog_level = 3\n")
    answer = run("config", "show", "bad.toml")
    assert (answer.code, answer.out) == (78, "")
    assert "daemon.log_level" in answer.err


def test_where_workers_find_the_daemon_is_no_setting_of_its_own(
    run: Run, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENEWER_API", "unix:/run/renewer/renewer.sock")
    monkeypatch.setenv("RENEWER_API_KEY", "k")
    assert run("config", "check", config).code == 0


def test_accounts_of_both_kinds_are_counted_and_shown_with_their_limits(run: Run, config: str) -> None:
    path = Path(config)
    path.write_text(path.read_text() + "[azure.main]\nlimits = { reads = '60/60s' }\nallow_hosts = ['*.a.b.c']\n")
    assert "1 Fabric account, 1 Azure account" in run("config", "check", config).out
    assert run("config", "check", config, "-o", "json").json["accounts"] == 2
    document = tomllib.loads(run("config", "show", config).out)
    assert document["azure"]["main"]["limits"] == {"reads": "60/1m", "writes": "off", "deletes": "off"}
    assert document["azure"]["main"]["allow_hosts"] == ["*.a.b.c"]
    assert document["fabric"]["other"]["limits"]["jobs"] == "200/1m"
