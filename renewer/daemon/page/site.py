"""The page's routes, and who may have what they tell."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from renewer.api.streams import EventStream
from renewer.config import is_loopback
from renewer.daemon.page.feed import Feed
from renewer.daemon.page.snapshot import take_snapshot

if TYPE_CHECKING:
    from starlette.requests import Request

    from renewer.api.control import Control, EventDocument

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Page:
    """The page, where there is to be one.

    With `is_local` the listener is on loopback, and nobody but programs of this machine may read it: web pages in its
    browsers could otherwise do so by a name of their own that they let point here (DNS rebinding).
    """

    def __init__(self, control: Control, latest: Callable[[int], Sequence[EventDocument]], *, is_local: bool) -> None:
        self._feed = Feed(partial(take_snapshot, control, latest))
        self._is_local = is_local
        self._document, self._policy = _document()

    def routes(self) -> list[Route]:
        """Where it stands."""
        return [
            Route("/", self._show, methods=["GET"]),
            Route("/snapshots", self._stream, methods=["GET"]),
        ]

    async def _show(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        headers = {**HEADERS, "Content-Security-Policy": self._policy}
        return Response(self._document, media_type="text/html", headers=headers)

    async def _stream(self, request: Request) -> Response:
        refusal = self._refusal(request) or _foreign_refusal(request)
        if refusal is not None:
            return refusal
        if request.method == "HEAD":
            return Response(media_type="text/event-stream", headers=HEADERS)
        if self._feed.is_full:
            text = "the page is open too often; close it somewhere\n"
            return PlainTextResponse(text, 503, {**HEADERS, "Retry-After": "5"})
        stream = EventStream(self._frames)
        stream.headers.update(HEADERS)
        return stream

    @asynccontextmanager
    async def _frames(self) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        async with self._feed.read() as snapshots:
            yield _as_frames(snapshots)

    def _refusal(self, request: Request) -> Response | None:
        hosts = request.headers.getlist("host")
        if not self._is_local or (len(hosts) == 1 and is_loopback(_name_of(hosts[0]))):
            return None
        text = "the Host header must name loopback, such as 127.0.0.1 or localhost\n"
        return PlainTextResponse(text, 403, HEADERS)


async def say_there_is_no_page(_request: Request) -> Response:
    """The answer at ``/`` where the page is off."""
    text = "no page here; page = true in [metrics] shows one. /metrics, /livez and /readyz are here.\n"
    return PlainTextResponse(text, 404)


async def _as_frames(snapshots: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async for snapshot in snapshots:
        # JSON in UTF-8 has no line breaks in it.
        yield b"event: snapshot\ndata: " + snapshot + b"\n\n"


def _foreign_refusal(request: Request) -> Response | None:
    """Browsers say where a request comes from (Fetch Metadata); curl and the like do not."""
    sites = request.headers.getlist("sec-fetch-site")
    if "origin" not in request.headers and all(site in ("none", "same-origin") for site in sites):
        return None
    return PlainTextResponse("other web pages are not let in\n", 403, HEADERS)


def _document() -> tuple[bytes, str]:
    """The page with its style and script in it, and the policy that lets nothing else be used (CSP level 3)."""
    files = Path(__file__).parent
    style, script = (files.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    html = files.joinpath("page.html").read_text(encoding="utf-8")
    whole = html.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script)
    policy = (
        "default-src 'none'",
        f"style-src {_hash_of(style)}",
        f"script-src {_hash_of(script)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # Nothing in the script makes markup of text; with these two the browser would not let it.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return whole.encode(), "; ".join(policy)


def _hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _name_of(host: str) -> str:
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
