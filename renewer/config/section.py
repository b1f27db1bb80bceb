"""What all sections of settings are made of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, SecretStr

from renewer.config.secretsource import SecretSource, parse_env_name


class Section(BaseModel):
    """Base of all sections: nothing unknown, nothing changed later, nothing given away in errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False, defer_build=True
    )


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


def _octal_mode(value: object) -> int:
    # Numbers are refused: the octal 0o660 and a decimal 432 cannot be told apart, and 660 would mean 0o1224.
    if not isinstance(value, str) or re.fullmatch(r"0?[0-7]{3}", value) is None:
        raise ValueError('must be a file mode in octal, as text, such as "0660"')
    mode = int(value, 8)
    if mode & 0o600 != 0o600:
        raise ValueError("must let the owner read and write, such as 0660 or 0600")
    return mode


def _group(value: object) -> str:
    number = isinstance(value, int) and not isinstance(value, bool)
    text = str(value) if number else value
    if not isinstance(text, str) or re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?", text) is None:
        raise ValueError('must be the name or the number of a group, such as "renewer"')
    return text


PathSetting: TypeAlias = Annotated[Path, BeforeValidator(_path)]
EnvName: TypeAlias = Annotated[str, BeforeValidator(parse_env_name)]
ModeSetting: TypeAlias = Annotated[int, BeforeValidator(_octal_mode)]
GroupSetting: TypeAlias = Annotated[str, BeforeValidator(_group)]
