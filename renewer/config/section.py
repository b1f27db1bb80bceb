"""What all sections of settings are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, SecretStr

from renewer.config.secretsource import SecretSource, parse_env_name


class Section(BaseModel):
    """Base of all sections: nothing unknown, nothing changed later, nothing given away in errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


def lowered(value: object) -> object:
    """Text in lower case without blanks around it, for words of a fixed list; anything else as it is."""
    return value.strip().lower() if isinstance(value, str) else value


def secret_source(key: str, value: SecretStr | None, file: Path | None, env: str | None) -> SecretSource | None:
    """Where the secret called `key` comes from; None where nothing says."""
    if value is None and file is None and env is None:
        return None
    return SecretSource(key, value, file, env)


def _path(value: object) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("must be a path, as text")
    return Path(value)


PathSetting: TypeAlias = Annotated[Path, BeforeValidator(_path)]
EnvName: TypeAlias = Annotated[str, BeforeValidator(parse_env_name)]
