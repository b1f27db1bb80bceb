"""Service Bus connection strings: ``Endpoint=sb://HOST[:PORT];SharedAccessKeyName=…;SharedAccessKey=…``.

Keys are matched without regard to case, values may contain ``=``, a trailing ``;`` is fine. Nothing of the text is
ever repeated in an error: any part of a mistyped string may be the key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from renewer.config.listen import is_host
from renewer.config.suggest import closest
from renewer.errors import ConfigError, ConfigProblem

if TYPE_CHECKING:
    from collections.abc import Mapping

_TLS_PORT: Final = 5671
_PLAIN_PORT: Final = 5672
_MAX_LENGTH: Final = 4096
_NAMES: Final = {
    name.lower(): name
    for name in (
        "Endpoint",
        "SharedAccessKeyName",
        "SharedAccessKey",
        "SharedAccessSignature",
        "EntityPath",
        "UseDevelopmentEmulator",
    )
}
_ENDPOINT_FORM: Final = "must be sb://HOST or sb://HOST:PORT"


@dataclass(frozen=True, slots=True)
class ConnectionString:
    """What a connection string says: where the broker is, how to speak to it, and the key to sign tokens with.

    `emulator` is UseDevelopmentEmulator: AMQP without TLS. `entity_path`, where given, is the one entity that the key
    is good for.
    """

    host: str
    port: int
    key_name: str
    key: SecretStr
    emulator: bool = False
    entity_path: str | None = None

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted: always, but for the emulator."""
        return not self.emulator

    @classmethod
    def parse(cls, text: str) -> ConnectionString:
        """Read a connection string; raises `ConfigError` with every mistake in it."""
        problems: list[ConfigProblem] = []
        parts = _split(text, problems)
        if "SharedAccessSignature" in parts:
            problems.append(
                _problem("SharedAccessSignature", "is not supported yet: use SharedAccessKeyName and SharedAccessKey")
            )
        else:
            problems.extend(
                _problem(name, "is missing" if name not in parts else "must not be empty")
                for name in ("SharedAccessKeyName", "SharedAccessKey")
                if not parts.get(name)
            )
        if parts.get("EntityPath") == "":
            problems.append(_problem("EntityPath", "must name an entity, or be left out"))
        emulator = parts.get("UseDevelopmentEmulator", "false").lower()
        if emulator not in {"true", "false"}:
            problems.append(_problem("UseDevelopmentEmulator", "must be true or false"))
        try:
            host, port = _endpoint(parts, _PLAIN_PORT if emulator == "true" else _TLS_PORT)
        except ValueError as error:
            problems.append(_problem("Endpoint", str(error)))
            host, port = "", 0
        if problems:
            raise ConfigError(problems)
        return cls(
            host=host,
            port=port,
            key_name=parts["SharedAccessKeyName"],
            key=SecretStr(parts["SharedAccessKey"]),
            emulator=emulator == "true",
            entity_path=parts.get("EntityPath"),
        )


def _split(text: str, problems: list[ConfigProblem]) -> dict[str, str]:
    parts: dict[str, str] = {}
    if len(text) > _MAX_LENGTH:
        problems.append(_problem("connection string", f"must be at most {_MAX_LENGTH} characters long"))
        return parts
    for number, part in enumerate(text.split(";"), start=1):
        if not part.strip():
            continue
        key, equals, value = part.partition("=")
        name = _NAMES.get(key.strip().lower())
        if not equals:
            problems.append(_problem(f"part {number}", "must be KEY=VALUE, parts set apart by ';'"))
        elif name is None:
            near = closest(key.strip().lower(), _NAMES)
            hint = f"; did you mean {_NAMES[near]}?" if near else f": known are {', '.join(_NAMES.values())}"
            problems.append(_problem(f"part {number}", f"has a key that connection strings do not have{hint}"))
        elif name in parts:
            problems.append(_problem(name, "is given twice"))
        elif not value.isprintable():
            problems.append(_problem(name, "must not contain control characters"))
        else:
            parts[name] = value.strip()
    return parts


def _endpoint(parts: Mapping[str, str], default_port: int) -> tuple[str, int]:
    if "Endpoint" not in parts:
        raise ValueError("is missing: sb://HOST, such as sb://NAMESPACE.servicebus.windows.net")
    try:
        url = urlsplit(parts["Endpoint"])
        host, port = url.hostname, url.port
    except ValueError:
        raise ValueError(_ENDPOINT_FORM) from None
    whole = url.path in {"", "/"} and not url.query and not url.fragment and "@" not in url.netloc
    # urlsplit takes "sb://host:" for a host without a port.
    if url.scheme != "sb" or not whole or host is None or not is_host(host) or re.search(r":\Z", url.netloc):
        raise ValueError(_ENDPOINT_FORM)
    if port == 0:
        raise ValueError(f"{_ENDPOINT_FORM}, with a port from 1 to 65535")
    return host, default_port if port is None else port


def _problem(key: str, remedy: str) -> ConfigProblem:
    return ConfigProblem(where="connection string", key=key, value=None, remedy=remedy)
