"""Where requests go: a path, with its query, on a host of the account."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_plus

from renewer.errors import UsageError
from renewer.targets.origins import Origin, check_path, redact, split_url

if TYPE_CHECKING:
    from renewer.targets.rest.account import AccountOptions


@dataclass(frozen=True, slots=True, repr=False)
class Place:
    """A path, with its query, on a server. The query can hold a signature: neither str nor repr show it."""

    origin: Origin
    path: str

    @property
    def url(self) -> str:
        """The absolute URL."""
        return f"{self.origin}{self.path}"

    @property
    def bare_path(self) -> str:
        """The path without its query."""
        return self.path.partition("?")[0]

    def with_query(self, more: Mapping[str, str]) -> Place:
        """The same place with these parameters added, but for those that its query has already, in any case."""
        if not more:
            return self
        path, _, query = self.path.partition("?")
        there = {unquote_plus(pair.partition("=")[0]).lower() for pair in query.split("&")}
        added = [
            f"{quote(name, safe='$')}={quote(value, safe='')}"
            for name, value in more.items()
            if name.lower() not in there
        ]
        if not added:
            return self
        return Place(self.origin, f"{path}?{'&'.join([query, *added] if query else added)}")

    def __str__(self) -> str:
        """Render for people: without the query."""
        return redact(self.url)

    __repr__ = __str__


def locate(options: AccountOptions, url: str, *, field: str = "url") -> Place:
    """Find the place that a caller's URL means: absolute on an allowed host, or relative to the base URL.

    Raises UsageError, naming `field`, for every other host.
    """
    try:
        if "://" not in url.partition("?")[0]:
            return Place(options.origin, rebase(options, url if url.startswith("/") else f"/{url}"))
        origin, path, query = split_url(url)
    except ValueError as error:
        raise UsageError(f"{field}: {redact(url)!r} {error}") from error
    if not options.allows(origin):
        raise UsageError(
            f"{field}: {origin} is not the host of {options.name} ({options.origin}), and no other may see its "
            f"token; give a path, or add the host to allow_hosts of [{options.name}]"
        )
    return Place(origin, path + query)


def rebase(options: AccountOptions, path: str) -> str:
    """Put a path below the base path, unless it is there; `/v1` in it and at the base's end are the same.

    Raises ValueError for a path that could be understood differently elsewhere.
    """
    check_path(path)
    base = options.base_path
    if path.startswith(f"{base}/"):
        return path
    return base + (path[3:] if base.endswith("/v1") and path.startswith("/v1/") else path)
