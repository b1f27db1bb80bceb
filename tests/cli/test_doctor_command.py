"""The command itself: what it prints, and how it ends."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import typer
from typer.testing import CliRunner, Result

from renewer.cli.doctor.findings import Finding, Verdict
from renewer.cli.doctor.report import print_findings
from renewer.cli.doctorcommand import doctor

app = typer.Typer()
app.command()(doctor)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"RENEWER_CONFIG": None})


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The command sets logging up for its process, which here is that of all tests."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(
        f'[daemon]\nstate_dir = "{tmp_path}/state"\n[api]\nlisten = "unix:{tmp_path}/api.sock"\n'
        '[metrics]\nlisten = "off"\n'
    )
    return file


def test_all_is_told_in_lines_and_ends_with_0(config: Path) -> None:
    result = run("-c", str(config))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "configuration"
    assert lines[1].startswith("  ok    settings")
    assert "0 failures" in lines[-1]
    assert "\x1b" not in result.stdout


def test_all_is_told_as_one_document(config: Path) -> None:
    result = run("--config", str(config), "-o", "json")
    document = json.loads(result.stdout)
    assert document["verdict"] in ("ok", "warn")
    assert set(document["checks"][0]) == {"subject", "check", "verdict", "seen", "remedy"}


def test_a_failure_ends_with_1(config: Path, tmp_path: Path) -> None:
    (tmp_path / "api.sock").write_text("in the way")
    result = run("-c", str(config))
    assert result.exit_code == 1
    assert "→ move it away" in result.stdout


def test_mistakes_in_the_configuration_are_all_told_and_end_with_78(config: Path) -> None:
    config.write_text('[daemon]\nlog_levle = "x"\n[renewal]\njitter = 7\n')
    result = run("-c", str(config))
    assert result.exit_code == 78
    for words in ("daemon.log_levle", f"{config}:2", "did you mean log_level?", "renewal.jitter", "2 failures"):
        assert words in result.stdout
    assert json.loads(run("-c", str(config), "-o", "json").stdout)["verdict"] == "fail"
    assert run("-c", str(config.parent / "none.toml")).exit_code == 78


def test_settings_can_be_overridden(config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("-c", str(config), "--set", f"api.listen=unix:{tmp_path}/file")
    assert result.exit_code == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_long_texts_stay_under_their_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Terminal()
    print_findings(
        [
            Finding("daemon", "socket", Verdict.OK, "there"),
            Finding("daemon", "files", Verdict.WARN, "word " * 20, "do " * 20 + "\x1b[2J"),
        ],
        out=screen,
    )
    lines = screen.getvalue().splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert lines[1] == "  ok    socket  there"
    assert lines[3].startswith(" " * 16 + "word")
    assert "\x1b" not in screen.getvalue()
