"""Where callbacks may be sent: hosts that the configuration lists, and this machine.

A caller chooses the URL, and the daemon can reach what the caller perhaps cannot. So the host must be listed as it
stands in the URL, and what a listed name resolves to is looked at before it is connected to: addresses that only this
machine or its host answer on, the metadata services of clouds above all, are not connected to by way of a name.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver

from renewer.errors import ConfigError, ConfigProblem, UsageError
from renewer.targets.origins import HostPattern, Origin, parse_host_pattern, redact, split_url

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_URL = 4096

_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            "168.63.129.16",  # Azure: the host's own services
            "100.100.100.200",  # Alibaba Cloud
            "192.0.0.192",  # Oracle Cloud
            "fd00:ec2::254",  # AWS
            "fd20:ce::254",  # Google Cloud
        ),
    )
)
"""Metadata services outside the link-local ranges, where all the others are."""


class Destinations:
    """The hosts that callbacks may go to: loopback, and those of the patterns `host`, `host:port` and `*.host`.

    Without a port 443 is meant. Raises `ConfigError` naming every mistake.
    """

    def __init__(self, allow_hosts: Iterable[str]) -> None:
        self._patterns: list[HostPattern] = []
        problems: list[ConfigProblem] = []
        for entry in allow_hosts:
            try:
                self._patterns.append(parse_host_pattern(entry, labels=2))
            except ValueError as error:
                problems.append(ConfigProblem("callback", "allow_hosts", redact(entry), str(error)))
        if problems:
            raise ConfigError(problems)

    def check(self, url: str) -> Origin:
        """The origin of a URL that may be called. Raises `UsageError`, which shows no more of it than that."""
        try:
            if len(url) > MAX_URL:
                raise ValueError(f"is longer than {MAX_URL} characters")
            origin, _, _ = split_url(url)
        except ValueError as error:
            raise UsageError(f"callback: {error}; give a URL such as https://hooks.example.com/renewer") from None
        if origin.is_loopback:
            return origin
        if origin.scheme != "https":
            raise UsageError(f"callback: {origin} must be https, unless the host is loopback")
        if not any(pattern.matches(origin) for pattern in self._patterns):
            raise UsageError(
                f"callback: {origin} is not among the hosts that may be called; add it to allow_hosts of [callback]"
            )
        return origin


class GuardedResolver(AbstractResolver):
    """Looks names up, and leaves out the addresses that no name may lead to. Addresses in URLs do not come here."""

    def __init__(self, inner: AbstractResolver | None = None) -> None:
        """To be made on the event loop."""
        self._inner = inner if inner is not None else DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses that may be connected to. Raises `OSError` if there are none."""
        found = await self._inner.resolve(host, port, family)
        if Origin("http", host.lower().removesuffix("."), port).is_loopback:
            return found
        fit = [result for result in found if not _is_local(result["host"])]
        if found and not fit:
            raise OSError(None, f"{host} resolves to an address that callbacks may not go to; list the address itself")
        return fit

    async def close(self) -> None:
        """Let go of what it holds."""
        await self._inner.close()


def _is_local(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return True
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return (
        address.is_link_local
        or address.is_loopback
        or address.is_multicast
        or address.is_unspecified
        or address in _METADATA
    )
