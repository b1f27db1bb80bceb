"""`--set KEY=VALUE`, for every command that reads the configuration."""

from __future__ import annotations

from renewer.errors import UsageError


def parse_overrides(texts: list[str]) -> dict[str, str]:
    """The settings that `--set` overrides, as `renewer.config.load` takes them. Raises `UsageError`."""
    overrides: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {key}: must be KEY=VALUE, as in --set daemon.log_level=debug")
        overrides[key.strip()] = value
    return overrides
