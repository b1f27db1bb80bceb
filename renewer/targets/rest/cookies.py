"""The cookies of one operation: kept for the server that set them, and never seen by another operation.

Services use them to lead the polls of an operation to the machine that runs it. A value is a tuple, so that a ticket
can hold it. The rules are those of RFC 6265 5.2 to 5.4, but for one: a cookie goes back to the very origin that set
it, whatever its Domain says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from renewer.ports import Clock
    from renewer.targets.http import Answer
    from renewer.targets.rest.places import Place

MAX_COOKIES = 50
MAX_SIZE = 8192
"""Bytes of all names, values and paths together; what came first goes first."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}\Z")
_VALUE = re.compile(r"[ -:<-~]{0,4096}\Z")
_PATH = re.compile(r"/[!-:<-~]{0,1023}\Z")
_MAX_AGE = re.compile(r"-?[0-9]{1,12}\Z")


@dataclass(frozen=True, slots=True)
class Cookie:
    """One cookie, for the paths at or below `path` of `origin`; `expires_at` is in seconds since the epoch."""

    name: str
    value: str = field(repr=False)
    origin: str
    path: str = "/"
    expires_at: float | None = None

    @property
    def size(self) -> int:
        """How much of the bound it takes."""
        return len(self.name) + len(self.value) + len(self.path)

    def is_for(self, place: Place, now_at: float) -> bool:
        """Whether it is sent there now."""
        path = place.bare_path
        below = path == self.path or path.startswith(self.path if self.path.endswith("/") else f"{self.path}/")
        return self.origin == str(place.origin) and below and (self.expires_at is None or self.expires_at > now_at)


Cookies = tuple[Cookie, ...]
NO_COOKIES: Cookies = ()


def updated(cookies: Cookies, answer: Answer, place: Place, clock: Clock) -> Cookies:
    """The cookies as they stand after an answer from `place`."""
    set_cookies = answer.headers.get_list("set-cookie")
    if not set_cookies:
        return cookies
    now_at = clock.utc_now().timestamp()
    jar = {(cookie.name, cookie.origin, cookie.path): cookie for cookie in cookies}
    for text in set_cookies[-MAX_COOKIES:]:
        cookie = _parse(text, place, clock)
        if cookie is not None:
            jar.pop((cookie.name, cookie.origin, cookie.path), None)
            jar[cookie.name, cookie.origin, cookie.path] = cookie
    kept: list[Cookie] = []
    size = 0
    for cookie in reversed(jar.values()):
        if cookie.expires_at is not None and cookie.expires_at <= now_at:
            continue
        size += cookie.size
        if len(kept) == MAX_COOKIES or size > MAX_SIZE:
            break
        kept.append(cookie)
    return tuple(reversed(kept))


def header(cookies: Cookies, place: Place, clock: Clock) -> str | None:
    """The Cookie header of a request to `place`; None if it has none. Longer paths come first."""
    if not cookies:
        return None
    now_at = clock.utc_now().timestamp()
    fit = sorted((cookie for cookie in cookies if cookie.is_for(place, now_at)), key=lambda cookie: -len(cookie.path))
    return "; ".join(f"{cookie.name}={cookie.value}" for cookie in fit) or None


def _parse(text: str, place: Place, clock: Clock) -> Cookie | None:
    pair, *attributes = text.split(";")
    name, equals, value = (part.strip(" \t") for part in pair.partition("="))
    if not equals or not _NAME.match(name) or not _VALUE.match(value):
        return None
    path = place.bare_path.rpartition("/")[0] or "/"
    expires_at: float | None = None
    has_max_age = False
    for attribute in attributes:
        key, _, given = (part.strip(" \t") for part in attribute.partition("="))
        match key.lower():
            case "path" if _PATH.match(given):
                path = given
            case "max-age" if _MAX_AGE.match(given):
                has_max_age = True
                expires_at = clock.utc_now().timestamp() + int(given)
            case "expires" if not has_max_age:
                expires_at = _date(given)
            case _:
                pass
    return Cookie(name, value, str(place.origin), path, expires_at)


def _date(text: str) -> float | None:
    """A date in any of the forms that cookies have; None if it is none."""
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
