"""Addresses to listen on, as settings write them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HOSTNAME: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*")
_HOST_PORT: Final = re.compile(r"(?:\[([0-9A-Fa-f:.%]{2,64})\]|([^\[\]:/]{1,253})):([0-9]{1,5})")
_MAX_SOCKET_PATH_BYTES: Final = 107  # sun_path of Linux less its closing NUL; other systems allow less
_API_FORM: Final = 'must be "unix:PATH" or "tcp:HOST:PORT"'
_GATEWAY_FORM: Final = 'must be "HOST:PORT" such as "127.0.0.1:5672", or "unix:PATH"'
_METRICS_FORM: Final = 'must be "HOST:PORT" such as "127.0.0.1:9464", or "off"'


@dataclass(frozen=True, slots=True)
class UnixListen:
    """A Unix socket at `path`; a relative path counts from the working directory."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpListen:
    """A TCP port; `port` 0 lets the system choose. `host` is a name or an address, IPv6 without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp:{self.authority}"

    @property
    def authority(self) -> str:
        """``host:port`` as a URL writes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    def collides_with(self, other: TcpListen) -> bool:
        """Whether both cannot be open at once, as far as the addresses alone tell."""
        if self.port != other.port or self.port == 0:
            return False
        if self.host.lower() == other.host.lower() or _is_wildcard(self.host) or _is_wildcard(other.host):
            return True
        return "localhost" in {self.host.lower(), other.host.lower()} and self.is_loopback and other.is_loopback


def parse_api_listen(value: object) -> UnixListen | TcpListen:
    """Read ``unix:PATH`` or ``tcp:HOST:PORT``; raises `ValueError` that says what would be right."""
    if isinstance(value, UnixListen | TcpListen):
        return value
    if not isinstance(value, str):
        raise ValueError(_API_FORM)  # noqa: TRY004 - pydantic makes a finding of ValueError alone
    scheme, _, rest = value.strip().partition(":")
    if scheme == "unix":
        return _parse_socket_path(rest, _API_FORM)
    if scheme == "tcp":
        return _parse_host_port(rest, _API_FORM)
    raise ValueError(_API_FORM)


def parse_gateway_listen(value: object) -> UnixListen | TcpListen:
    """Read ``HOST:PORT`` or ``unix:PATH``; raises `ValueError` that says what would be right."""
    if isinstance(value, UnixListen | TcpListen):
        return value
    if not isinstance(value, str):
        raise ValueError(_GATEWAY_FORM)  # noqa: TRY004 - as above
    text = value.strip()
    if text.startswith("unix:"):
        return _parse_socket_path(text.removeprefix("unix:"), _GATEWAY_FORM)
    return _parse_host_port(text.removeprefix("tcp:"), _GATEWAY_FORM)


def parse_metrics_listen(value: object) -> TcpListen | None:
    """Read ``HOST:PORT``; ``""`` and ``"off"`` mean nowhere. Raises `ValueError` that says what would be right."""
    if value is None or isinstance(value, TcpListen):
        return value
    if not isinstance(value, str):
        raise ValueError(_METRICS_FORM)  # noqa: TRY004 - as above
    text = value.strip()
    if text in {"", "off"}:
        return None
    return _parse_host_port(text, _METRICS_FORM)


def is_loopback(host: str) -> bool:
    """Whether `host` is ``localhost`` or a loopback address; other names are not looked up and count as foreign."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_host(host: str) -> bool:
    """Whether `host` could be the name or the address of a machine."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # Digits and dots alone are a mistyped address, not a name.
        return _HOSTNAME.fullmatch(host) is not None and re.fullmatch(r"[0-9.]+", host) is None
    return True


def _parse_socket_path(path: str, form: str) -> UnixListen:
    if not path or not path.isprintable() or path.endswith("/"):
        raise ValueError(f'{form}; after "unix:" comes the path of a socket')
    if len(path.encode()) > _MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"must be a path of at most {_MAX_SOCKET_PATH_BYTES} bytes, the system's limit for sockets")
    return UnixListen(Path(path))


def _parse_host_port(text: str, form: str) -> TcpListen:
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        raise ValueError(form)
    host, port = match[1] or match[2], int(match[3])
    if not is_host(host):
        raise ValueError(f"{form}; the host must be a name or an address")
    if port > 65_535:
        raise ValueError(f"{form}; the port must be from 0 to 65535")
    return TcpListen(host, port)


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
