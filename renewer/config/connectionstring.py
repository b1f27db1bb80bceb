"""Service Bus connection strings: ``Endpoint=sb://HOST[:PORT];SharedAccessKeyName=…;SharedAccessKey=…``.

In place of name and key there may be a signature that was made with them (``SharedAccessSignature=…``).

Keys are matched without regard to case, values may contain ``=``, a trailing ``;`` is fine. Nothing of the text is
ever repeated in an error: any part of a mistyped string may be the key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_plus, urlsplit

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
_SIGNATURE_FORM: Final = "a signature as it was made, SharedAccessSignature sr=…&sig=…&se=…&skn=…"
_MAX_EXPIRY_DIGITS: Final = 11
"""Enough for three thousand years."""


@dataclass(frozen=True, slots=True)
class ConnectionString:
    """What a connection string says: where the broker is, how to speak to it, and what lets us in.

    That is `key`, to sign tokens with, or `signature`, a token that is signed already and good until
    `signature_ends_at` (seconds since the epoch). `port` is that of AMQP unless one is named (`is_port_given`).
    `emulator` is UseDevelopmentEmulator: AMQP without TLS. `entity_path`, where given, is the one entity that the key
    or the signature is good for.
    """

    host: str
    port: int
    key_name: str
    key: SecretStr | None
    signature: SecretStr | None = None
    signature_ends_at: int = 0
    is_port_given: bool = False
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
        key_name, ends_at = parts.get("SharedAccessKeyName", ""), 0
        if "SharedAccessSignature" in parts:
            problems.extend(
                _problem(name, "is one too many: SharedAccessSignature says it already; keep one of them")
                for name in ("SharedAccessKeyName", "SharedAccessKey")
                if name in parts
            )
            try:
                key_name, ends_at = _signature(parts["SharedAccessSignature"])
            except ValueError as error:
                problems.append(_problem("SharedAccessSignature", str(error)))
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
            host, port = _endpoint(parts)
        except ValueError as error:
            problems.append(_problem("Endpoint", str(error)))
            host, port = "", None
        if problems:
            raise ConfigError(problems)
        return cls(
            host=host,
            port=port or (_PLAIN_PORT if emulator == "true" else _TLS_PORT),
            key_name=key_name,
            key=SecretStr(parts["SharedAccessKey"]) if "SharedAccessKey" in parts else None,
            signature=SecretStr(parts["SharedAccessSignature"]) if "SharedAccessSignature" in parts else None,
            signature_ends_at=ends_at,
            is_port_given=port is not None,
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


def _endpoint(parts: Mapping[str, str]) -> tuple[str, int | None]:
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
    return host, port


def _signature(text: str) -> tuple[str, int]:
    """The policy of a ready signature, and when it ends."""
    prefix, _, rest = text.partition(" ")
    fields: dict[str, str] = {}
    for part in rest.split("&"):
        name, _, value = part.partition("=")
        fields[name] = value
    if prefix != "SharedAccessSignature" or not all(fields.get(name) for name in ("sr", "sig", "se", "skn")):
        raise ValueError(f"must be {_SIGNATURE_FORM}, all of it")
    if not fields["se"].isascii() or not fields["se"].isdigit() or len(fields["se"]) > _MAX_EXPIRY_DIGITS:
        raise ValueError(f"must be {_SIGNATURE_FORM}, se in seconds since 1970")
    return unquote_plus(fields["skn"]), int(fields["se"])


def _problem(key: str, remedy: str) -> ConfigProblem:
    return ConfigProblem(where="connection string", key=key, value=None, remedy=remedy)
