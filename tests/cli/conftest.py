"""Commands run in this process, against a control API that does as it is told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from renewer.cli import main
from tests.client.standin import StandIn


@dataclass(frozen=True)
class Answer:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Answer]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command in an empty directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("RENEWER_API", "RENEWER_API_KEY", "RENEWER_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    def run_command(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["renewer", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return Answer(code, out, err)

    return run_command


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[StandIn]:
    """A control API where the commands look for one."""
    (tmp_path / "var").mkdir()
    standin = StandIn(tmp_path / "var" / "renewer.sock").start()
    try:
        yield standin
    finally:
        standin.kill()
