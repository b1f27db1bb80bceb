"""Which hosts may see a token, and how much of a URL may be shown.

An origin is scheme, host and port, normalised; two URLs belong to the same server only if their origins are equal.
URLs are read by one strict rule instead of a lenient parser: what two parsers could understand differently is refused.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

_DEFAULT_PORTS = {"https": 443, "http": 80}
_MAX_URL = 8192

_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?\Z", re.DOTALL
)
_AUTHORITY = re.compile(r"(?P<host>\*?[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?\Z")
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_-]+)+\Z")
"""What needs no closer look, as most paths do not: thousands are looked at when the daemon starts."""
_PRINTABLE = re.compile(r"[!-~]*\Z")
_NUMERIC_HOST = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\Z")
_DOT_SEGMENT = re.compile(r"/(?:\.|%2e){1,2}(?:/|\Z)", re.IGNORECASE)

_SECRETS = (
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)[^\s/@\"'<>]+@", re.IGNORECASE), r"\1***@"),
    (re.compile(r"(://[^\s?\"'<>]*\?)[^\s\"'<>]+", re.IGNORECASE), r"\1***"),
    (re.compile(r"\b(bearer|basic|sharedaccesssignature)\s+[^\s\"',]+", re.IGNORECASE), r"\1 ***"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*"), "***"),
    (re.compile(r"\b([\w.-]*(?:sig|signature|token|code|key|secret|password))=[^&\s\"']+", re.IGNORECASE), r"\1=***"),
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port of a server, normalised: lower case, no final dot, the port always given."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        """Render as it stands in a URL, without a default port."""
        port = "" if self.port == _DEFAULT_PORTS.get(self.scheme) else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the host can only be this machine: `localhost`, 127.0.0.0/8 or ::1."""
        return self.host == "localhost" or (self.address is not None and self.address.is_loopback)

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The address that the host is; None for a name."""
        try:
            return ipaddress.ip_address(self.host.strip("[]"))
        except ValueError:
            return None

    @property
    def may_see_tokens(self) -> bool:
        """Whether a token can travel there unseen: over TLS, or without leaving the machine."""
        return self.scheme == "https" or (self.scheme == "http" and self.is_loopback)


@dataclass(frozen=True, slots=True)
class HostPattern:
    """An origin that may see tokens, or with `subdomains` every origin below its host."""

    origin: Origin
    subdomains: bool = False

    def matches(self, origin: Origin) -> bool:
        """Whether `origin` is meant."""
        if not self.subdomains:
            return origin == self.origin
        return (
            (origin.scheme, origin.port) == (self.origin.scheme, self.origin.port)
            and origin.host.endswith("." + self.origin.host)
        )  # fmt: skip


def split_url(url: str) -> tuple[Origin, str, str]:
    """Origin, path and query (with its `?`, or empty) of an absolute URL. Raises ValueError saying what is wrong."""
    match = _URL.match(url)
    if match is None:
        raise ValueError("is not an absolute URL without fragment")
    path, query = match["path"] or "/", match["query"] or ""
    check_path(path + query)
    return _origin(match["scheme"], match["authority"]), path, query


def check_path(path: str) -> None:
    """Refuse, with ValueError, a path and query that servers and proxies could understand differently."""
    if len(path) > _MAX_URL:
        raise ValueError(f"is longer than {_MAX_URL} characters")
    if _PLAIN_PATH.match(path):
        return
    if not _PRINTABLE.match(path):
        raise ValueError("holds blanks, control or non-ASCII characters; percent-encode them")
    if "\\" in path or "#" in path:
        raise ValueError("must not hold a backslash or a fragment")
    if path.startswith("//"):
        raise ValueError("must not begin with two slashes")
    if _DOT_SEGMENT.search(path.partition("?")[0]):
        raise ValueError("must not hold . or .. segments")


def parse_host_pattern(text: str, *, labels: int = 3) -> HostPattern:
    """Read `host`, `host:port`, `*.host` or any of these with `https://` (or `http://` for loopback) before it.

    After `*.` at least so many `labels` are asked for. Raises ValueError saying what is wrong.
    """
    scheme, found, authority = text.partition("://")
    if not found:
        scheme, authority = "https", text
    subdomains = authority.startswith("*.")
    origin = _origin(scheme, authority[2:] if subdomains else authority.rstrip("/"))
    if not origin.may_see_tokens:
        raise ValueError("must be https, unless the host is loopback")
    if subdomains and origin.address is not None:
        raise ValueError("must name a host after *., not an address; list addresses one by one")
    if subdomains and origin.host.count(".") < labels - 1:
        raise ValueError(f"must name at least {labels} labels after *.")
    return HostPattern(origin, subdomains)


def redact(text: str, *, limit: int = 300) -> str:
    """Cut `text` for an error message or a log: no queries, no credentials, no control characters, one line."""
    text = text[: 4 * limit]
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


@lru_cache(maxsize=256)
def _origin(scheme: str, authority: str) -> Origin:
    scheme = scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise ValueError("must be https (or http on loopback)")
    if "@" in authority:
        raise ValueError("must not hold a user name or password")
    match = _AUTHORITY.match(authority)
    if match is None or "*" in authority:
        raise ValueError("has no valid host")
    host = match["host"].lower()
    if host.startswith("["):
        host = f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
    host = host.removesuffix(".")
    port = int(match["port"]) if match["port"] else _DEFAULT_PORTS[scheme]
    if not host or ".." in host or host.startswith(".") or not 0 < port < 65536:
        raise ValueError("has no valid host and port")
    origin = Origin(scheme, host, port)
    if _NUMERIC_HOST.match(host) and origin.address is None:
        # 2130706433, 0x7f.1 and 127.1 are addresses to some readers and names to others (WHATWG URL 3.5).
        raise ValueError("has a host that is neither a name nor an address; write addresses as four numbers")
    return origin
