"""`renewer gateway`: connection strings and keys for workers."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from renewer.cli.output import note
from renewer.cli.overrides import parse_overrides
from renewer.config import UnixListen, load
from renewer.config.suggest import closest
from renewer.daemon.buildgateways import gateway_keys
from renewer.daemon.buildnamespaces import namespace_options
from renewer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from renewer.config import GatewaySettings, Settings, TcpListen

_KEY_BYTES: Final = 32


def print_connection_string(config: Path | None, overrides: list[str], *, name: str | None, key: str | None) -> None:
    """Print the connection string, and beside it what else is to be known. Raises `ConfigError` or `UsageError`."""
    settings = load(config, environ=os.environ, overrides=parse_overrides(overrides))
    number, gateway = _gateway(settings, name)
    keys = {each.name: each.key for each in gateway_keys(f"gateway[{number}]", gateway, os.environ)}
    key = _one_of("--key", key, keys, "key")
    listen = gateway.listen
    if isinstance(listen, UnixListen):
        raise UsageError(f"gateway {settings.gateway_name(gateway)} listens on {listen}: no SDK connects to a socket")
    if listen.port == 0:
        raise UsageError("the system chooses the port at each start: set one, for workers have to know it")
    has_tls = gateway.tls_cert_file is not None
    host = _namespace_host(settings, gateway) if has_tls else listen.authority
    typer.echo(connection_string(host, key, keys[key], has_tls=has_tls))
    note("this holds the key: put it where the worker alone can read it")
    if has_tls:
        note(f"the worker also needs the custom endpoint address {_endpoint(listen)}, and to trust the certificate")


def connection_string(authority: str, name: str, key: str, *, has_tls: bool = False) -> str:
    """What an SDK takes to reach a gateway at `authority` (``HOST:PORT``)."""
    plain = "" if has_tls else ";UseDevelopmentEmulator=true"
    return f"Endpoint=sb://{authority};SharedAccessKeyName={name};SharedAccessKey={key}{plain}"


def make_key(file: Path | None) -> None:
    """Print a new key, or write it to `file`. Raises `UsageError` where that cannot be."""
    key = base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode("ascii")
    if file is None:
        typer.echo(key)
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise UsageError(f"{file} is there already: remove it, or name another") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as writer:
            # No end of line: as a Secret of Kubernetes it becomes a part of a connection string, byte for byte.
            writer.write(key)
    except OSError as error:
        # Half a key would be taken for one.
        with contextlib.suppress(OSError):
            file.unlink()
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error
    note(f"made {file}: name it as key_file in [[gateway.key]]")


def _gateway(settings: Settings, name: str | None) -> tuple[int, GatewaySettings]:
    by_name = {settings.gateway_name(gateway) or "": number for number, gateway in enumerate(settings.gateway)}
    if not by_name:
        raise UsageError("the configuration has no [[gateway]]; config.example.toml shows one")
    number = by_name[_one_of("NAME", name, by_name, "gateway")]
    return number, settings.gateway[number]


def _one_of(what: str, wanted: str | None, known: Iterable[str], noun: str) -> str:
    names = list(known)
    if wanted is None:
        if len(names) == 1:
            return names[0]
        raise UsageError(f"there are many: say which {noun} by {what}: {', '.join(names)}")
    if wanted not in names:
        near = closest(wanted, names)
        hint = f"did you mean {near}?" if near is not None else f"there are {', '.join(names)}"
        raise UsageError(f"there is no {noun} {wanted}; {hint}")
    return wanted


def _namespace_host(settings: Settings, gateway: GatewaySettings) -> str:
    name = settings.servicebus_name(gateway) or ""
    return namespace_options(name, settings.servicebus[name], os.environ).hostname


def _endpoint(listen: TcpListen) -> str:
    wildcards = {"0.0.0.0", "::"}  # noqa: S104 - nothing listens here
    return f"sb://HOST:{listen.port}" if listen.host in wildcards else f"sb://{listen.authority}"
