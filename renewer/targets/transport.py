"""httpx's interface over aiohttp's connections, for thousands of requests under way.

httpx's own pool looks through all that wait whenever one ends: quadratic. The adapter that is published for aiohttp
(httpx-aiohttp) takes as long for a small request as aiohttp itself, and so do httpx's objects for a request and its
URL: whoever asks thousands of times a second has `send_plain`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import httpx
from multidict import CIMultiDict
from yarl import URL

from renewer.errors import UsageError
from renewer.targets.origins import redact

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    import aiohttp

TIMEOUT = httpx.Timeout(connect=15.0, read=60.0, write=60.0, pool=None)
"""Bounds for single steps on a connection, in seconds; whoever asks bounds the whole with a cancel scope."""

_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]+)?(?!.*/\.)/[A-Za-z0-9._~:/?@!$&'()*+,;=-]*\Z")
"""URLs that httpx leaves as they are: nothing in them is escaped, or would have to be, and no `..` leads upwards."""


_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
"""RFC 9110 5.6.2: what a method and the name of a header are."""

_VALUE = re.compile(r"[\t -~]*\Z")


class PlainRequest:
    """A request that is not of httpx: its URL as text, and its headers, none of which is about the connection.

    `are_headers_checked`: by `check_headers`, as whoever sends the same ones thousands of times does once.
    """

    __slots__ = ("are_headers_checked", "content", "headers", "method", "url")

    def __init__(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        content: bytes | None = None,
        *,
        are_headers_checked: bool = False,
    ) -> None:
        self.method = method
        self.url = url
        self.headers = headers
        self.content = content
        self.are_headers_checked = are_headers_checked

    def for_httpx(self) -> httpx.Request:
        """The same for whoever takes no other."""
        return httpx.Request(self.method, self.url, headers=self.headers, content=self.content)


def check_headers(headers: Iterable[tuple[str, str]]) -> None:
    """Raise UsageError, which names the header and not its value, where one is none that HTTP has, or more than one."""
    for name, value in headers:
        if not _TOKEN.match(name):
            raise UsageError(f"headers.{redact(name, limit=60)}: is not a header name")
        if not _VALUE.match(value):
            raise UsageError(f"headers.{name}: must be one line of ASCII text, without control characters")


def check_request(request: httpx.Request | PlainRequest) -> None:
    """Raise UsageError where the method or a header is none that HTTP has; nothing of it must be sent then."""
    if not _TOKEN.match(request.method):
        raise UsageError("method: must be a word such as GET")
    if isinstance(request, httpx.Request):
        check_headers(request.headers.multi_items())
    elif not request.are_headers_checked:
        check_headers(request.headers.items())


class ReceivedHeaders(httpx.Headers):
    """Headers of an answer, which nobody changes: most that are asked for are not there, and that is known at once."""

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        super().__init__(raw)
        self._names = frozenset(name.lower() for name, _ in raw)

    def get(self, key: str, default: Any = None) -> Any:
        """As httpx has it."""
        return super().get(key, default) if key.lower().encode("ascii", "replace") in self._names else default

    def get_list(self, key: str, split_commas: bool = False) -> list[str]:
        """As httpx has it."""
        return super().get_list(key, split_commas) if key.lower().encode("ascii", "replace") in self._names else []


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends requests as they are, and follows nothing. Its errors are aiohttp's. For asyncio.

    The session is opened with the first request, on the event loop that sends it, and is the transport's to close.
    """

    def __init__(self, open_session: Callable[[], aiohttp.ClientSession]) -> None:
        self._open_session = open_session
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it, with a body that is at hand; return its answer once the headers are there, to be read and closed."""
        steps: dict[str, float | None] = request.extensions.get("timeout", {})
        headers = CIMultiDict(request.headers.multi_items())
        timeout = _timeout(steps.get("pool"), steps.get("connect"), steps.get("read"))
        return await self._send(request.method, str(request.url), headers, request.content, timeout)

    async def send_plain(self, request: PlainRequest) -> httpx.Response:
        """The same in half the time, within `TIMEOUT`."""
        url = request.url if _PLAIN_URL.match(request.url) else str(httpx.URL(request.url))
        return await self._send(request.method, url, request.headers, request.content, _timeout(*_TIMEOUT))

    async def aclose(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None, timeout: aiohttp.ClientTimeout
    ) -> httpx.Response:
        if self._session is None:
            self._session = self._open_session()
        answer = await self._session.request(
            method,
            # Escaped once more, what is signed would not be what is sent.
            URL(url, encoded=True),
            headers=headers,
            data=content or None,
            allow_redirects=False,
            timeout=timeout,
        )
        response = httpx.Response(answer.status, stream=_Body(answer))
        response.headers = ReceivedHeaders(answer.raw_headers)
        return response


class _Body(httpx.AsyncByteStream):
    """The body as it came, in pieces of no more than the connection buffers."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content = self._answer.content
        while piece := await content.readany():
            yield piece

    async def aclose(self) -> None:
        # What is not read whole takes its connection with it.
        self._answer.release()
        await self._answer.wait_for_close()


@lru_cache(maxsize=64)
def _timeout(pool_s: float | None, connect_s: float | None, read_s: float | None) -> aiohttp.ClientTimeout:
    import aiohttp

    return aiohttp.ClientTimeout(total=None, connect=pool_s, sock_connect=connect_s, sock_read=read_s)


_TIMEOUT = (TIMEOUT.pool, TIMEOUT.connect, TIMEOUT.read)
