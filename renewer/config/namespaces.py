"""What a Service Bus section must say to be reached and to be let in, and what does not go together there."""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from renewer.config.connectionstring import ConnectionString
from renewer.config.findings import Finding, given_keys, one_of
from renewer.config.identity import DETAIL_KEYS, check_identity
from renewer.config.listen import is_host
from renewer.config.secretsource import resolve_secret
from renewer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from renewer.config.keylines import KeyPath
    from renewer.config.model import ServiceBusSettings

_STRING_KEYS: Final = ("connection_string", "connection_string_file", "connection_string_env")
_WAYS: Final = (*_STRING_KEYS, "fully_qualified_namespace")
_HOST: Final = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]{1,253}))(?::(?P<port>[0-9]{1,5}))?")


def parse_namespace(value: object) -> str:
    """Check ``HOST`` or ``HOST:PORT``; raises `ValueError` that says what would be right."""
    if not isinstance(value, str) or _split(value) is None:
        raise ValueError('must be the host of the namespace, such as "contoso.servicebus.windows.net": no URL')
    return value


def split_namespace(value: str) -> tuple[str, int | None]:
    """Host and port of what `parse_namespace` let through."""
    found = _split(value)
    if found is None:
        raise ValueError("must be HOST or HOST:PORT")
    return found


def parse_proxy(value: object) -> str:
    """Check the URL of a proxy; raises `ValueError` that says what would be right."""
    form = 'must be a proxy such as "http://proxy.example:3128"'
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(form)
    try:
        url = urlsplit(value)
        host, port = url.hostname, url.port
    except ValueError:
        raise ValueError(form) from None
    if "@" in url.netloc:
        raise ValueError(f"{form}; one that wants a password is not supported")
    if url.scheme != "http" or host is None or not is_host(host) or not port or url.path.strip("/") or url.query:
        raise ValueError(f"{form}: http, a host and a port")
    return f"http://{url.netloc}"


def check_namespace(
    name: str, servicebus: ServiceBusSettings, environ: Mapping[str, str], connections: dict[str, ConnectionString]
) -> Iterator[Finding]:
    """Every mistake in ``[servicebus.NAME]``. What its connection string says is added to `connections`."""
    here: KeyPath = ("servicebus", name)
    section = f"servicebus.{name}"
    yield from one_of(section, servicebus, _WAYS, here)
    is_identity = servicebus.fully_qualified_namespace is not None and not given_keys(servicebus, _STRING_KEYS)
    source = servicebus.connection_string_source(name)
    if is_identity:
        yield from check_identity(servicebus, here, environ)
    elif source.value is None and source.file is None and source.env is None:
        yield Finding(here, f"needs one of {', '.join(_WAYS)}", tuple((*here, key) for key in _WAYS))
    else:
        at = (*here, source.setting.rpartition(".")[2])
        try:
            connections[name] = ConnectionString.parse(resolve_secret(source, environ).get_secret_value())
        except ConfigError as error:
            for problem in error.problems:
                from_string = problem.where == "connection string"
                yield Finding(at, f"{problem.key} {problem.remedy}" if from_string else problem.remedy)
        for key in given_keys(servicebus, ("credential", *DETAIL_KEYS)):
            yield Finding(
                (*here, key),
                "has no effect with a connection string, which says itself what lets us in; give "
                "fully_qualified_namespace in its place",
            )
    if servicebus.ca_file is not None:
        yield from _check_ca_file(servicebus.ca_file, (*here, "ca_file"))
        if name in connections and not connections[name].tls:
            yield Finding((*here, "ca_file"), "has no effect with UseDevelopmentEmulator=true, which is without TLS")
    if servicebus.proxy is not None and servicebus.transport != "amqp-websocket":
        yield Finding(
            (*here, "proxy"),
            f'has no effect with transport = "{servicebus.transport}"; set transport = "amqp-websocket"',
            ((*here, "transport"),),
        )
    given = servicebus.model_fields_set
    if "spread_after" in given and servicebus.spread_after > servicebus.sessions_per_connection:
        yield Finding(
            (*here, "spread_after"),
            f"must be at most sessions_per_connection, which is {servicebus.sessions_per_connection}",
            ((*here, "sessions_per_connection"),),
        )


def _split(value: str) -> tuple[str, int | None] | None:
    match = _HOST.fullmatch(value)
    host = (match["v6"] or match["name"]) if match is not None else None
    if match is None or host is None or not is_host(host):
        return None
    port = int(match["port"]) if match["port"] is not None else None
    return (host, port) if port is None or 0 < port < 65_536 else None


def _check_ca_file(path: Path, at: KeyPath) -> Iterator[Finding]:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError:
        yield Finding(at, "must name a file with certificates in PEM")
    except OSError as error:
        yield Finding(at, f"must name a readable file; {error.strerror}")
