"""`--config` and `--set KEY=VALUE`, for every command that reads the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from renewer.errors import UsageError

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="RENEWER_CONFIG", help="The configuration; see config.example.toml."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, as in --set daemon.log_level=debug."),
]


def parse_overrides(texts: list[str]) -> dict[str, str]:
    """The settings that `--set` overrides, as `renewer.config.load` takes them. Raises `UsageError`."""
    overrides: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {key}: must be KEY=VALUE, as in --set daemon.log_level=debug")
        overrides[key.strip()] = value
    return overrides
