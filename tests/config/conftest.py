"""A configuration file to write and to load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from renewer.config import Settings, load
from renewer.errors import ConfigError, ConfigProblem

CONNECTION = (
    "Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true"
)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """Loads what it is told to write; relative names in it count from `folder`."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "config.toml"

    def load(
        self, text: str, *, environ: Mapping[str, str] | None = None, overrides: Mapping[str, Any] | None = None
    ) -> Settings:
        self.path.write_text(text.replace("$CONNECTION", CONNECTION), encoding="utf-8")
        return load(Path("config.toml"), environ=environ or {}, overrides=overrides or {})

    def problems(
        self, text: str, *, environ: Mapping[str, str] | None = None, overrides: Mapping[str, Any] | None = None
    ) -> list[ConfigProblem]:
        """What is wrong with `text`, [] for nothing."""
        try:
            self.load(text, environ=environ, overrides=overrides)
        except ConfigError as error:
            return error.problems
        return []


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConfigFile:
    monkeypatch.chdir(tmp_path)
    return ConfigFile(tmp_path)
