"""How one Fabric account is reached."""

from __future__ import annotations

from dataclasses import dataclass, field

from renewer.errors import ConfigError, ConfigProblem
from renewer.targets.http import RESULT_BODY_MAX
from renewer.targets.origins import HostPattern, Origin, parse_host_pattern, redact, split_url

DEFAULT_BASE_URL = "https://api.fabric.microsoft.com/v1"
DEFAULT_SCOPE = "https://api.fabric.microsoft.com/.default"
"""The audience of tokens for Fabric."""


@dataclass(frozen=True, slots=True)
class FabricOptions:
    """One account: a host, and what may be asked of it. Raises ConfigError naming every mistake.

    Only `base_url`'s host and those of `allow_hosts` ever see the token: https, or plain http on loopback. An entry of
    `allow_hosts` is `host`, `host:port` or `*.host`: private links have a host for each workspace.
    """

    name: str
    base_url: str = DEFAULT_BASE_URL
    allow_hosts: tuple[str, ...] = ()
    max_result_bytes: int = RESULT_BODY_MAX
    max_connections: int = 64
    origin: Origin = field(init=False, repr=False, compare=False)
    base_path: str = field(init=False, repr=False, compare=False)
    _further: tuple[HostPattern, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        problems: list[ConfigProblem] = []
        self._read_base_url(problems)
        further = []
        for entry in self.allow_hosts:
            try:
                further.append(parse_host_pattern(entry))
            except ValueError as error:
                problems.append(self._problem("allow_hosts", entry, str(error)))
        object.__setattr__(self, "_further", tuple(further))
        for key, number in (("max_result_bytes", self.max_result_bytes), ("max_connections", self.max_connections)):
            if number < 1:
                problems.append(self._problem(key, str(number), "must be 1 or more"))
        if problems:
            raise ConfigError(problems)

    def allows(self, origin: Origin) -> bool:
        """Whether `origin` may see this account's token."""
        return origin == self.origin or (
            origin.may_see_tokens and any(pattern.matches(origin) for pattern in self._further)
        )

    def _read_base_url(self, problems: list[ConfigProblem]) -> None:
        try:
            origin, path, query = split_url(self.base_url)
            if query:
                raise ValueError("must not hold a query")
            if not origin.may_see_tokens:
                raise ValueError("must be https: plain http would show the token; http is for loopback hosts only")
        except ValueError as error:
            problems.append(self._problem("base_url", self.base_url, f"{error}; such as {DEFAULT_BASE_URL}"))
            return
        object.__setattr__(self, "origin", origin)
        object.__setattr__(self, "base_path", path.rstrip("/"))

    def _problem(self, key: str, value: str, remedy: str) -> ConfigProblem:
        return ConfigProblem(where=f"fabric.{self.name}", key=key, value=redact(value), remedy=remedy)
