"""URLs that answers name: made absolute, read by one strict rule, and used only if their host may see the token."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote, urldefrag, urljoin

from renewer.targets.origins import redact, split_url
from renewer.targets.rest.places import Place

if TYPE_CHECKING:
    from renewer.targets.rest.account import AccountOptions

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_AS_IT_IS = "".join(map(chr, range(0x21, 0x7F)))


class RefusedUrlError(Exception):
    """An answer names a URL that nothing is sent to; `code` is our word for why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def resolve(base: Place, reference: str) -> str:
    """The absolute URL that `reference` means in an answer from `base` (RFC 3986 5.2), without its fragment.

    Blanks are percent-encoded, for services put the names of regions into paths as they are. Raises `RefusedUrlError`
    for what is no URL that we would send something to.
    """
    try:
        url = urldefrag(quote(reference, safe=_AS_IT_IS)).url
        if not _SCHEME.match(url):
            url = urljoin(base.url, url)
        split_url(url)
    except ValueError as error:
        raise RefusedUrlError(
            "UrlNotUsable", f"the service names {redact(reference)!r}, which {error}; nothing is sent there"
        ) from None
    return url


def place_of(options: AccountOptions, url: str) -> Place:
    """Where an absolute URL is. Raises `RefusedUrlError` if its host may not see the token."""
    try:
        origin, path, query = split_url(url)
    except ValueError as error:
        raise RefusedUrlError("UrlNotUsable", f"{redact(url)!r} {error}; nothing is sent there") from None
    if not options.allows(origin):
        remedy = (
            f"add it to allow_hosts of [{options.name}] if it is to be trusted"
            if origin.may_see_tokens
            else "a token goes to https hosts only"
        )
        raise RefusedUrlError(
            "HostNotAllowed",
            f"the service names {origin}, which may not see the token of [{options.name}]; {remedy}",
        )
    return Place(origin, path + query)
