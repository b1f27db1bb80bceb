"""Lists of hosts as people write them: who may be called back, and who may see a token."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Final, TypeAlias

from renewer.config.listen import is_host, is_loopback

_Judge: TypeAlias = Callable[[str], str | None]
"""Says what is wrong with an entry, as it follows its number; "" for one of another form, None for a good one."""

_HOST_ENTRY: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<any>\*\.)?(?P<name>[A-Za-z0-9._-]{1,253}))(?::(?P<port>[0-9]{1,5}))?"
)
_TOKEN_LABELS: Final = 3
"""After ``*.`` of a host that may see a token. Under shorter names strangers can have hosts of their own."""

_CALLABLE: Final = 'a host such as "hooks.example.com", "hooks.example.com:8443" or "*.example.com"'
_TRUSTED: Final = (
    'a host such as "api.example.com", "api.example.com:8443" or "*.api.example.com", or a network such as "10.0.0.0/8"'
)
_MAX_NAMED: Final = 10


def callable_hosts(value: object) -> tuple[str, ...]:
    """Hosts that may be called: ``host``, ``host:port``, ``*.host``. Raises `ValueError`."""
    return _entries(value, _CALLABLE, _why_not_callable)


def trusted_hosts(value: object) -> tuple[str, ...]:
    """Hosts that may see a token, and networks that names of theirs may lead into. Raises `ValueError`.

    As `callable_hosts`, and with ``https://`` before it, or ``http://`` where the host is loopback.
    """
    return _entries(value, _TRUSTED, _why_not_trusted)


def _entries(value: object, form: str, problem_of: _Judge) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be a list, each entry {form}")  # noqa: TRY004 - pydantic makes a finding of ValueError
    wrong = [
        f"{number}{problem}"
        for number, entry in enumerate(value, start=1)
        if (problem := problem_of(entry) if isinstance(entry, str) else "") is not None
    ]
    if wrong:
        raise ValueError(f"must be a list, each entry {form}; wrong: number {', '.join(wrong[:_MAX_NAMED])}")
    return tuple(str(entry).lower() for entry in value)


def _why_not_callable(entry: str) -> str | None:
    match = _host_entry(entry)
    # A whole top-level domain is nobody's.
    return "" if match is None or (match["any"] and "." not in match["name"]) else None


def _why_not_trusted(entry: str) -> str | None:
    if "/" in entry and "://" not in entry:
        return _why_no_network(entry)
    scheme, found, host = entry.rpartition("://")
    match = _host_entry(host)
    if match is None or (found and scheme.lower() not in {"https", "http"}):
        return ""
    if scheme.lower() == "http" and (match["any"] or not is_loopback(match["v6"] or match["name"])):
        return " (plain http would show the token to the network: it is for loopback alone)"
    if match["any"] and match["name"].count(".") < _TOKEN_LABELS - 1:
        return f" (after *. there must be {_TOKEN_LABELS} names or more: strangers may have hosts under fewer)"
    return None


def _why_no_network(entry: str) -> str | None:
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return ""
    if str(network.network_address) != str(ipaddress.ip_interface(entry).ip):
        return f" (the network is {network})"
    if network.is_link_local or network.is_loopback or network.is_multicast or network.is_unspecified:
        return " (no name may lead there)"
    return None


def _host_entry(entry: str) -> re.Match[str] | None:
    """The parts of an entry, None where it is none."""
    match = _HOST_ENTRY.fullmatch(entry)
    if match is None or not is_host(match["v6"] or match["name"]) or not 0 < int(match["port"] or 443) < 65_536:
        return None
    # An address has no subdomains.
    return None if match["any"] and match["name"].replace(".", "").isdigit() else match
