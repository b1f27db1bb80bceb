"""Where callbacks may be sent: hosts that the configuration lists, and this machine.

A caller chooses the URL, and the daemon can reach what the caller perhaps cannot. So the host must be listed as it
stands in the URL, and what a listed name resolves to is looked at before it is connected to: addresses that only this
machine or its host answer on, the metadata services of clouds above all, are not connected to by way of a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from renewer.errors import ConfigError, ConfigProblem, UsageError
from renewer.targets.addresses import Address, is_local, means_this_machine
from renewer.targets.origins import HostPattern, Origin, parse_host_pattern, redact, split_url

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_URL = 4096


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


def address_problem(host: str, port: int, address: Address | None) -> str | None:
    """What speaks against calling `address` by way of this name: a `renewer.targets.addresses.Judge`."""
    if means_this_machine(host):
        return None if address is not None and address.is_loopback else f"{host} does not lead to this machine"
    if is_local(address):
        return f"{host} resolves to an address that callbacks may not go to; list the address itself"
    return None
