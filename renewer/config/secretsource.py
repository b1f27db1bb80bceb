"""Where a secret comes from, and how to read it: again on each demand, for files are rotated under us."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from renewer.errors import ConfigError, ConfigProblem

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_FILE_BYTES: Final = 64 * 1024
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


@dataclass(frozen=True, slots=True)
class SecretSource:
    """One secret, named in settings by `key` (``api.key``): written in place, in a file or in a variable.

    Exactly one of `value`, `file` and `env` is set.
    """

    key: str
    value: SecretStr | None = None
    file: Path | None = None
    env: str | None = None

    @property
    def setting(self) -> str:
        """The setting that says it: ``api.key``, ``api.key_file`` or ``api.key_env``."""
        suffix = "_file" if self.file is not None else "_env" if self.env is not None else ""
        return self.key + suffix


def resolve_secret(source: SecretSource, environ: Mapping[str, str]) -> SecretStr:
    """Read the secret now, less white space around it; raises `ConfigError` where it cannot be had or is empty.

    A file is read by blocking calls; it must be a regular one of at most 64 KiB.
    """
    try:
        return SecretStr(_read(source, environ))
    except ValueError as error:
        shown = str(source.file) if source.file is not None else None
        remedy = str(error)
    raise ConfigError([ConfigProblem("settings", source.setting, shown, remedy)])


def parse_env_name(value: object) -> str:
    """Check the name of an environment variable; raises `ValueError` that says what would be right."""
    if not isinstance(value, str) or _ENV_NAME.fullmatch(value) is None:
        raise ValueError("must be the name of an environment variable (letters, digits, _), not the secret itself")
    return value


def _read(source: SecretSource, environ: Mapping[str, str]) -> str:
    if source.file is not None:
        secret = _read_file(source.file)
        empty = "must name a file that holds the secret; this one is empty"
    elif source.env is not None:
        if source.env not in environ:
            raise ValueError("must name an environment variable that is set; this one is not")
        secret = environ[source.env]
        empty = "must name an environment variable that holds the secret; this one is empty"
    else:
        secret = source.value.get_secret_value() if source.value is not None else ""
        empty = "must not be empty"
    secret = secret.strip()
    if not secret:
        raise ValueError(empty)
    if not secret.isprintable():
        raise ValueError("must be one line of text")
    return secret


def _read_file(path: Path) -> str:
    try:
        # Looked at before it is opened: opening a pipe would wait for its other end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("must name a regular file, so that it can be read again")
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"must name a readable file; {error.strerror or 'this one is not'}") from None
    if len(raw) > _MAX_FILE_BYTES:
        raise ValueError(f"must name a file of at most {_MAX_FILE_BYTES // 1024} KiB")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("must name a text file in UTF-8") from None
