"""Where the daemon is: forms of addresses, and where to look when none is given."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Final

from renewer.client.errors import AddressError

DEFAULT_API: Final = "unix:./var/renewer.sock"
API_VARIABLE: Final = "RENEWER_API"
KEY_VARIABLE: Final = "RENEWER_API_KEY"

_FORMS: Final = 'give "unix:PATH", "tcp:HOST:PORT" or "http://HOST:PORT"'
_HOST_PORT: Final = re.compile(r"(?:\[[0-9A-Fa-f:.%]{2,64}\]|[A-Za-z0-9._-]{1,253}):[0-9]{1,5}")
_URL: Final = re.compile(r"(https?)://((?:\[[0-9A-Fa-f:.%]{2,64}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?)/?")
_LONGEST_SHOWN: Final = 100
_KEY: Final = re.compile(r"[!-~]{1,4096}")


@dataclass(frozen=True, slots=True)
class Address:
    """One daemon: `base_url` for requests, `uds` the path of its socket if it has one, `key` the bearer key."""

    base_url: str
    uds: str | None = None
    key: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.base_url if self.uds is None else f"unix:{self.uds}"

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}


def find(api: str | None = None, key: str | None = None) -> Address:
    """The daemon at `api`; without one at RENEWER_API, else at ``unix:./var/renewer.sock``. The key may come from
    RENEWER_API_KEY. Raises `AddressError`.
    """
    given = api if api is not None else os.environ.get(API_VARIABLE) or DEFAULT_API
    key = key if key is not None else os.environ.get(KEY_VARIABLE) or None
    if key is not None and _KEY.fullmatch(key) is None:
        raise AddressError("the API key must be printable ASCII without spaces; was a line break read from its file?")
    text = given.strip()
    scheme, _, rest = text.partition(":")
    if scheme == "unix" and rest and rest.isprintable():
        return Address("http://renewer", uds=rest, key=key)
    if scheme == "tcp" and _HOST_PORT.fullmatch(rest):
        return Address(f"http://{rest}", key=key)
    url = _URL.fullmatch(text)
    if url is not None:
        return Address(f"{url[1]}://{url[2]}", key=key)
    source = "api" if api is not None else API_VARIABLE
    raise AddressError(f"{source}: {_shown(text)} is not an address of a daemon; {_FORMS}")


def _shown(text: str) -> str:
    """What was given, without what may be a password or a key in a URL."""
    _, at, rest = text.rpartition("@")
    text = f"…@{rest}" if at else text
    text = re.sub(r"[?#].*", "?…", text, flags=re.DOTALL)
    return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…")
