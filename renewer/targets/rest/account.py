"""How one account is reached: its host, further hosts that may see its token, and what may be asked of it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from renewer.core.quotas import Limit, Quota
from renewer.core.values import shared
from renewer.errors import ConfigError, ConfigProblem
from renewer.targets.addresses import AddressRules, Network
from renewer.targets.http import RESULT_BODY_MAX
from renewer.targets.origins import HostPattern, Origin, parse_host_pattern, redact, split_url

_NETWORK = re.compile(r"[0-9A-Fa-f:.]+/[0-9]{1,3}\Z")


@dataclass(frozen=True, slots=True)
class AccountOptions:
    """One account, by the name of its whole section (``fabric.main``). Raises ConfigError naming every mistake.

    Only `base_url`'s host and those of `allow_hosts` ever see the token: https, or plain http on loopback. An entry of
    `allow_hosts` is `host`, `host:port` or `*.host`, or a network (``10.0.0.0/8``) into which the hosts of such a
    pattern may lead. `identity` names whose quotas requests count against; accounts share one only if they have their
    token and their host in common. `limits` are the quotas' by bucket.
    """

    name: str
    base_url: str
    allow_hosts: tuple[str, ...] = ()
    identity: str = ""
    max_result_bytes: int = RESULT_BODY_MAX
    max_connections: int = 64
    limits: Mapping[str, Limit | None] = field(default_factory=dict, hash=False)
    origin: Origin = field(init=False, repr=False, compare=False)
    base_path: str = field(init=False, repr=False, compare=False)
    addresses: AddressRules = field(init=False, repr=False, compare=False)
    _further: tuple[HostPattern, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        problems: list[ConfigProblem] = []
        self._read_base_url(problems)
        networks = self._read_allow_hosts(problems)
        for key, number in (("max_result_bytes", self.max_result_bytes), ("max_connections", self.max_connections)):
            if number < 1:
                problems.append(self._problem(key, str(number), "must be 1 or more"))
        if problems:
            raise ConfigError(problems)
        if not self.identity:
            object.__setattr__(self, "identity", self.name)
        listed = [self.origin, *(pattern.origin for pattern in self._further if not pattern.subdomains)]
        rules = AddressRules(self.name, frozenset((origin.host, origin.port) for origin in listed), networks)
        object.__setattr__(self, "addresses", rules)

    def allows(self, origin: Origin) -> bool:
        """Whether `origin` may see this account's token."""
        return origin == self.origin or (
            origin.may_see_tokens and any(pattern.matches(origin) for pattern in self._further)
        )

    def quota(self, bucket: str, origin: Origin | None = None) -> Quota:
        """What a request to `origin` counts against, by default to the account's own host."""
        host = "" if origin in (None, self.origin) else f" {str(origin).partition('://')[2]}"
        return Quota(shared(f"{self.identity}{host} {bucket}"), self.limits.get(bucket), self.max_connections)

    def _read_base_url(self, problems: list[ConfigProblem]) -> None:
        try:
            origin, path, query = split_url(self.base_url)
            if query:
                raise ValueError("must not hold a query")
            if not origin.may_see_tokens:
                raise ValueError("must be https: plain http would show the token; http is for loopback hosts only")
        except ValueError as error:
            remedy = f"{error}; give one such as https://api.fabric.microsoft.com/v1 or https://management.azure.com"
            problems.append(self._problem("base_url", self.base_url, remedy))
            return
        object.__setattr__(self, "origin", origin)
        object.__setattr__(self, "base_path", path.rstrip("/"))

    def _read_allow_hosts(self, problems: list[ConfigProblem]) -> tuple[Network, ...]:
        further: list[HostPattern] = []
        networks: list[Network] = []
        for entry in self.allow_hosts:
            try:
                if _NETWORK.match(entry):
                    networks.append(ipaddress.ip_network(entry))
                else:
                    further.append(parse_host_pattern(entry))
            except ValueError as error:
                problems.append(self._problem("allow_hosts", entry, str(error)))
        object.__setattr__(self, "_further", tuple(further))
        return tuple(networks)

    def _problem(self, key: str, value: str, remedy: str) -> ConfigProblem:
        return ConfigProblem(where=self.name, key=key, value=redact(value), remedy=remedy)
