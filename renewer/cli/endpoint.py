"""Finding the daemon: where it listens, and the key to show there."""

from __future__ import annotations

import errno
import os
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from renewer.cli.exitcodes import CommandError, ExitCode
from renewer.cli.output import printable
from renewer.errors import UsageError

DEFAULT_SOCKETS = ("./var/renewer.sock", "/run/renewer/renewer.sock")
START_ONE = "start one with `renewer run --config FILE`, or say where it is with --api or RENEWER_API"
_PROBE_S = 2.0
_MAX_KEY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the daemon is: ``unix:/absolute/path`` or ``http://host:port``, and the key to show there."""

    url: str
    key: str | None = field(default=None, repr=False)


def find(api: str | None, *, key_file: Path | None, config: Path | None) -> Endpoint:
    """The daemon that was named, or else the first that answers where daemons are by default.

    Raises `CommandError`, with what was tried and what to do.
    """
    environ = os.environ
    key = _read_key(key_file) if key_file is not None else environ.get("RENEWER_API_KEY") or None
    if api is None and config is not None:
        listen, own_key = _configured(config, environ)
        return _probed(listen, key if key is not None else own_key)
    address = api or environ.get("RENEWER_API")
    if address:
        return _probed(address, key)
    tried: list[str] = []
    for path in DEFAULT_SOCKETS:
        trouble = _socket_trouble(Path(path))
        if trouble is None:
            return Endpoint(f"unix:{Path(path).absolute()}", key)
        if trouble is PermissionError:
            raise _not_permitted(path)
        tried.append(f"{path} ({trouble})")
    raise CommandError(f"no daemon at {' or '.join(tried)}; {START_ONE}", ExitCode.UNAVAILABLE)


def _probed(address: str, key: str | None) -> Endpoint:
    url = _as_url(address)
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        trouble = _socket_trouble(Path(path))
        if trouble is PermissionError:
            raise _not_permitted(path)
        if trouble is not None:
            raise CommandError(f"no daemon at {printable(path)} ({trouble}); {START_ONE}", ExitCode.UNAVAILABLE)
    return Endpoint(url, key)


def _as_url(address: str) -> str:
    address = address.strip()
    if address.startswith("unix:"):
        return f"unix:{Path(address.removeprefix('unix:')).absolute()}"
    if address.startswith(("/", "./", "../", "~")):
        return f"unix:{Path(address).expanduser().absolute()}"
    if address.startswith("tcp:"):
        return f"http://{address.removeprefix('tcp:')}"
    if address.startswith(("http://", "https://")):
        return address.rstrip("/")
    raise UsageError(f"{printable(address)}: where the daemon is must be unix:PATH, tcp:HOST:PORT or http://HOST:PORT")


def _socket_trouble(path: Path) -> str | type[PermissionError] | None:
    """Why nobody can be reached at this socket; None where somebody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return "no such socket"
        except ConnectionRefusedError:
            return "a socket that nobody listens on any longer"
        except PermissionError:
            return PermissionError
        except TimeoutError:
            return "does not take connections"
        except OSError as error:
            if error.errno == errno.ENOTSOCK:
                return "not a socket"
            return error.strerror or str(error)
    return None


def _not_permitted(path: str) -> CommandError:
    return CommandError(
        f"not permitted to use {printable(path)}: ask to be let into the group that its [api] socket_group names, "
        "or use sudo",
        ExitCode.NO_PERMISSION,
    )


def _read_key(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_KEY_BYTES).decode().strip()
    except FileNotFoundError:
        raise CommandError(f"--api-key-file {path}: there is no such file", ExitCode.NOT_FOUND) from None
    except PermissionError:
        raise CommandError(f"--api-key-file {path}: not permitted to read it", ExitCode.NO_PERMISSION) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--api-key-file {path}: cannot be read: {error}", ExitCode.IO) from error
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise CommandError(f"--api-key-file {path}: must hold the key alone, in one line of ASCII", ExitCode.DATA)
    return text


def _configured(path: Path, environ: Mapping[str, str]) -> tuple[str, str | None]:
    """The address and the key in a daemon's configuration.

    Only `[api]` is looked at: the rest may be wrong, or name files that only the daemon can read.
    """
    from renewer.config import load, resolve_secret

    table: dict[str, Any] = {}
    try:
        with path.open("rb") as file:
            table = tomllib.load(file).get("api", {})
    except FileNotFoundError:
        raise CommandError(f"{path}: there is no such file", ExitCode.NOT_FOUND) from None
    except OSError as error:
        raise CommandError(f"{path}: cannot be read: {error.strerror}", ExitCode.IO) from error
    except (ValueError, RecursionError):
        raise CommandError(f"{path}: is not TOML; `renewer config check {path}` says where", ExitCode.CONFIG) from None
    ours = {name.upper(): value for name, value in environ.items() if name.upper().startswith("RENEWER_API__")}
    if isinstance(table, dict):
        # The environment wins over the file.
        table = {key: value for key, value in table.items() if f"RENEWER_API__{key.upper()}" not in ours}
    api = load(None, environ={**ours, **_named(table, environ)}, overrides={"api": table}).api
    source = api.key_source()
    key = None if source is None else resolve_secret(source, environ).get_secret_value()
    return str(api.listen), key


def _named(table: object, environ: Mapping[str, str]) -> dict[str, str]:
    """The variable that holds the key, where the configuration names one."""
    name: object = environ.get("RENEWER_API__KEY_ENV")
    if name is None and isinstance(table, dict):
        name = table.get("key_env")
    return {name: environ[name]} if isinstance(name, str) and name in environ else {}
