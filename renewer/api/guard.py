"""Who is let in: holders of the key; or, over TCP without one, programs of this machine and no web page."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from renewer.api.problems import Problem
from renewer.config import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import ASGIApp, Receive, Scope, Send

    Headers = Sequence[tuple[bytes, bytes]]


class Guard:
    """Stands before the application. `key` is asked at each request, and may change; None: callers need none.

    With a key, a request must carry it as a bearer token (RFC 6750 2.1); it is compared in constant time.

    Without one, and `over_tcp`, web pages are kept out. A page in a browser of this machine can send requests to this
    port: to a name of its own that it lets point here, so Host must name loopback (DNS rebinding); or across sites,
    which browsers tell by Origin and Sec-Fetch-Site, and which are not allowed to carry application/json without being
    asked first (the Fetch standard's CORS protocol).
    """

    def __init__(self, app: ASGIApp, key: Callable[[], str | None], *, over_tcp: bool) -> None:
        self._app = app
        self._key = key
        self._over_tcp = over_tcp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        problem = self._problem(scope) if scope["type"] == "http" else None
        if problem is not None:
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _problem(self, scope: Scope) -> Problem | None:
        key = self._key()
        if key is not None:
            return _key_problem(scope["headers"], key.encode())
        return _web_page_problem(scope) if self._over_tcp else None


def _key_problem(headers: Headers, key: bytes) -> Problem | None:
    given = _all(headers, b"authorization")
    scheme, _, shown = b"".join(given).partition(b" ")
    if len(given) == 1 and scheme.lower() == b"bearer":
        if hmac.compare_digest(shown.strip(b" "), key):
            return None
        detail = "the key is not the right one: it must be the key of [api] in the daemon's configuration"
    else:
        detail = "the key is missing: send the key of [api] as Authorization: Bearer KEY"
    return Problem(401, detail, headers={"WWW-Authenticate": 'Bearer realm="renewer"'})


def _web_page_problem(scope: Scope) -> Problem | None:
    headers: Headers = scope["headers"]
    hosts = _all(headers, b"host")
    if len(hosts) != 1 or not is_loopback(_host_name(hosts[0])):
        return Problem(403, "without a key the Host header must name loopback, such as 127.0.0.1 or localhost")
    if _all(headers, b"origin") or any(
        site not in (b"none", b"same-origin") for site in _all(headers, b"sec-fetch-site")
    ):
        return Problem(403, "without a key web pages are not let in; set a key for [api]")
    length = _all(headers, b"content-length")
    has_body = bool(_all(headers, b"transfer-encoding")) or (bool(length) and length[0] != b"0")
    if has_body and scope["method"] == "POST":
        kinds = [kind.partition(b";")[0].strip().lower() for kind in _all(headers, b"content-type")]
        if kinds != [b"application/json"]:
            return Problem(415, "without a key a body must come with Content-Type: application/json")
    return None


def _host_name(host: bytes) -> str:
    text = host.decode("latin-1")
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


def _all(headers: Headers, wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if name.lower() == wanted]
