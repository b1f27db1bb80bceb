"""One environment variable as pydantic-settings reads it."""

from __future__ import annotations

from typing import Any

from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from renewer.config.model import Settings


class _Environment(Settings, BaseSettings):
    """The settings as pydantic-settings wants to see them; never made, only asked for its shape."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, defer_build=True)


def read_variable(variable: str, value: str, *, prefix: str, delimiter: str) -> dict[str, Any]:
    """What a variable says, as nested tables. Raises ValueError where it should be JSON and is not."""
    source = EnvSettingsSource(_Environment, env_prefix=prefix, env_nested_delimiter=delimiter)
    # It begins with the variables of the process; here it is asked about one variable at a time, so that a mistake
    # in one hides none in another.
    source.env_vars = {variable.lower(): value}
    try:
        return source()
    except SettingsError as error:
        raise ValueError from error
