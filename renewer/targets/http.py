"""What targets over HTTP share: the client, and one exchange with bounded bodies.

No redirect is ever followed. Nothing is kept between requests but connections.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from dataclasses import dataclass
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import httpx

from renewer.errors import TransientError, TransientKind
from renewer.targets.origins import redact
from renewer.targets.spool import ArrivingBody
from renewer.targets.transport import TIMEOUT, AiohttpTransport, PlainRequest, check_request

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    import aiohttp
    from aiohttp.abc import AbstractResolver

    from renewer.targets.spool import Spool, SpooledFile

STATE_BODY_MAX = 1024 * 1024
"""Bytes of a state or error document that are read before it counts as garbage."""

RESULT_BODY_MAX = 64 * 1024 * 1024
"""Bytes of a result that are read unless configured otherwise."""

_KEEPALIVE_S = 75.0
_LEAST_STATUS = 100
"""RFC 9110 15: three digits, the first of them 1 to 5. What is above comes from servers, too, and is for who asked."""
_MAX_FIELD = 32 * 1024
_UNPACKED = 64 * 1024
"""Bytes that are unpacked at a time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, read whole; its body without content encoding.

    A large body that was asked for with a spool is in `spooled`, and `body` is empty.
    """

    status: int
    headers: httpx.Headers
    body: bytes
    spooled: SpooledFile | None = None

    @property
    def file(self) -> Path | None:
        """Where the body is, if it is in a file; the file goes with this answer unless `spooled` is taken over."""
        return None if self.spooled is None else self.spooled.path

    @property
    def size(self) -> int:
        """How many bytes the body has, wherever it is."""
        return len(self.body) if self.spooled is None else self.spooled.size

    def header(self, name: str) -> str | None:
        """The first header of this name, without blanks around it; None if it is absent or empty."""
        values = self.headers.get_list(name)
        return (values[0].strip() or None) if values else None


class BodyTooLargeError(TransientError):
    """An answer's body is larger than the reader allowed. `head` is the answer without it."""

    def __init__(self, where: str, limit: int, head: Answer) -> None:
        super().__init__(f"{where}: the answer is larger than {limit} bytes", kind="garbage", condition="BodyTooLarge")
        self.head = head


Sender = httpx.AsyncClient | httpx.AsyncBaseTransport
"""What requests can be sent with. A transport does no more than that, at half the cost of a client around it."""


def build_transport(
    *,
    max_connections: int = 64,
    ssl_context: ssl.SSLContext | None = None,
    resolver: Callable[[], AbstractResolver] | None = None,
) -> httpx.AsyncBaseTransport:
    """Make a transport for asyncio that keeps at most `max_connections` connections to each host.

    `resolver` makes, on the event loop, what looks names up; None leaves it to the system.
    The environment is not trusted: no proxy variables and no .netrc, for a token must not go by way of a host that
    nobody configured. Only SSL_CERT_FILE and SSL_CERT_DIR are heard, which name whom to believe and not whom to tell.
    Cookies are neither kept nor sent: a transport serves many operations that must not see each other's.
    """
    context = ssl_context or _usual_tls(_believed("SSL_CERT_FILE"), _believed("SSL_CERT_DIR"))

    def open_session() -> aiohttp.ClientSession:
        import aiohttp

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=context,
                limit=0,
                limit_per_host=max_connections,
                keepalive_timeout=_KEEPALIVE_S,
                resolver=None if resolver is None else resolver(),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Azure's polling URLs carry signatures and can be long.
            max_line_size=_MAX_FIELD,
            max_field_size=_MAX_FIELD,
            auto_decompress=False,
            trust_env=False,
        )

    return AiohttpTransport(open_session)


def build_client(
    *,
    max_connections: int = 64,
    ssl_context: ssl.SSLContext | None = None,
    resolver: Callable[[], AbstractResolver] | None = None,
) -> httpx.AsyncClient:
    """Make a client around such a transport, as `build_transport` has it, that no more follows or keeps anything."""
    hide_queries_in_logs()
    return httpx.AsyncClient(
        transport=build_transport(max_connections=max_connections, ssl_context=ssl_context, resolver=resolver),
        timeout=TIMEOUT,
        trust_env=False,
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
    )


def _believed(variable: str) -> tuple[str | None, int]:
    """What names whom to believe, and when that was changed."""
    path = os.environ.get(variable)
    try:
        return path, 0 if path is None else Path(path).stat().st_mtime_ns
    except OSError:
        return path, 0


@lru_cache(maxsize=1)
def _usual_tls(_file: tuple[str | None, int], _dir: tuple[str | None, int]) -> ssl.SSLContext:
    """One for all transports: to read whom the machine believes takes 30 ms each time."""
    return httpx.create_ssl_context(trust_env=True)


def load_aiohttp() -> None:
    """Import what the first request would import otherwise: 0.1 s, which nothing before it has to wait for."""
    import renewer.targets.resolver  # noqa: F401


def hide_queries_in_logs() -> None:
    """Keep query strings, which can hold signatures, out of the request log of httpx."""
    logging.getLogger("httpx").addFilter(_hide_query)


async def exchange(
    sender: Sender,
    request: httpx.Request | PlainRequest,
    *,
    max_body: int | None,
    shown: str | None = None,
    spool: Spool | None = None,
) -> Answer:
    """Send `request` and read its answer, at most `max_body` bytes of it after decompression; None: leave the body.

    `shown` is what errors call the request; by default that is its method and its URL without the query. With a `spool`
    a body of more than 256 KiB that may be a result (a success other than 202) goes into a file as it arrives; of any
    other no more than the first `STATE_BODY_MAX` bytes are read.

    Sent as it is: no defaults, no cookies, no credentials of a client are added. Raises `TransientError` of kind
    network, timeout or garbage; `BodyTooLargeError` where the body is too large, `SpoolError` where it cannot be
    written; `UsageError` where method or headers are such as cannot be sent, and then nothing is.
    """
    check_request(request)
    try:
        response = await _send(sender, request)
        is_spooled = spool is not None and _may_be_result(response.status_code)
        async with ArrivingBody(spool if is_spooled else None) as arriving:
            try:
                if response.status_code < _LEAST_STATUS:
                    raise httpx.RemoteProtocolError("a status below 100")
                cut = spool is not None and not is_spooled
                if max_body is not None and not await _receive(response, max_body, arriving, cut=cut):
                    head = Answer(response.status_code, response.headers, b"")
                    raise BodyTooLargeError(shown or _where(request), max_body, head)
            finally:
                await _stream(response).aclose()
            body = await arriving.finish()
    except _errors() as error:
        # aiohttp's errors hold the request with its token, and their text its URL: nothing of them is passed on.
        raise _failure(error, shown or _where(request)) from None
    if isinstance(body, bytes):
        return Answer(response.status_code, response.headers, body)
    return Answer(response.status_code, response.headers, b"", body)


async def _send(sender: Sender, request: httpx.Request | PlainRequest) -> httpx.Response:
    if isinstance(request, PlainRequest):
        if isinstance(sender, AiohttpTransport):
            return await sender.send_plain(request)
        request = request.for_httpx()
    if isinstance(sender, httpx.AsyncClient):
        return await sender.send(request, stream=True, auth=None, follow_redirects=False)
    request.extensions.setdefault("timeout", TIMEOUT.as_dict())
    return await sender.handle_async_request(request)


def parse_json(body: bytes) -> object:
    """Read JSON (RFC 8259). Raises ValueError for everything else, however deep or strange."""
    try:
        document: object = _JSON.decode(body.decode(json.detect_encoding(body), "surrogatepass"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return document


def is_json(content_type: str | None) -> bool:
    """Whether a content type means JSON: application/json, or any +json."""
    media_type = (content_type or "").partition(";")[0].strip().lower()
    return media_type in {"application/json", "text/json"} or media_type.endswith("+json")


class _BadBodyError(Exception):
    """A body that its encoding does not allow."""


async def _receive(response: httpx.Response, limit: int, body: ArrivingBody, *, cut: bool) -> bool:
    """Read the whole body, unpacked; False as soon as it is larger than `limit` bytes.

    With `cut` it is read as far as an error document may go, and the rest is left.
    """
    if cut:
        limit = min(limit, STATE_BODY_MAX)
    # The stream is read raw and unpacked here: httpx's own decoders unpack a whole piece before we could look.
    encoding = response.headers.get("content-encoding", "").strip().lower()
    unpacker = None
    if encoding in {"gzip", "x-gzip"}:
        unpacker = _Gunzip()
    elif encoding not in {"", "identity"}:
        raise _BadBodyError(f"content encoding {redact(encoding, limit=40)} was not asked for")
    elif not cut:
        announced = response.headers.get("content-length", "")
        if announced.isdecimal() and (len(announced) > 18 or int(announced) > limit):
            return False
    raw_limit = limit if unpacker is None else limit + limit // 64 + 4096
    raw_size = 0
    async for raw in _stream(response):
        raw_size += len(raw)
        for piece in (raw,) if unpacker is None else unpacker.unpack(raw):
            room = limit - body.size
            if len(piece) > room:
                if cut:
                    await body.add(piece[:room])
                return cut
            await body.add(piece)
        if raw_size > raw_limit:
            return cut
    if unpacker is not None and raw_size and not unpacker.complete:
        raise _BadBodyError("its gzip stream breaks off")
    return True


def _may_be_result(status: int) -> bool:
    return 200 <= status < 300 and status != 202


def _stream(response: httpx.Response) -> httpx.AsyncByteStream:
    if not isinstance(response.stream, httpx.AsyncByteStream):
        raise TypeError("the client's transport is not an asynchronous one")
    return response.stream


class _Gunzip:
    """Unpacks gzip (RFC 1952), any number of members, in pieces of bounded size."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)

    @property
    def complete(self) -> bool:
        return self._member.eof

    def unpack(self, packed: bytes) -> Iterator[bytes]:
        """What `packed` holds. A thousandfold of its size, maybe: whoever has enough stops asking."""
        is_full = False
        try:
            while packed or is_full:
                if self._member.eof:
                    self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
                piece = self._member.decompress(packed, _UNPACKED)
                # A full piece may be followed by more, even when all that was packed has been taken in.
                is_full = len(piece) == _UNPACKED and not self._member.eof
                packed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
                yield piece
        except zlib.error:
            raise _BadBodyError("its gzip stream is broken") from None


def _errors() -> tuple[type[Exception], ...]:
    """What a request can fail with. Asked for only then: it needs aiohttp."""
    import aiohttp
    from aiohttp.http_exceptions import HttpProcessingError

    return (
        httpx.HTTPError,
        httpx.InvalidURL,  # in a Location that nobody follows, but that httpx reads all the same,
        UnicodeError,  # and its host name, too
        aiohttp.ClientError,
        HttpProcessingError,
        OSError,
        _BadBodyError,
    )


def _failure(error: Exception, where: str) -> TransientError:
    import aiohttp
    from aiohttp.http_exceptions import HttpProcessingError

    kind: TransientKind
    match error:
        case _BadBodyError():
            kind, what = "garbage", f"the answer cannot be read: {error}"
        case aiohttp.ConnectionTimeoutError():
            kind, what = "unreachable", "cannot connect in time"
        case TimeoutError() | httpx.TimeoutException():
            kind, what = "timeout", "no answer in time"
        case (
            aiohttp.ClientResponseError()
            | HttpProcessingError()
            | aiohttp.InvalidURL()
            | httpx.RemoteProtocolError()
            | httpx.DecodingError()
            | httpx.InvalidURL()
            | UnicodeError()
        ):
            kind, what = "garbage", "the answer is not HTTP"
        case aiohttp.ClientPayloadError():
            kind, what = "network", "the answer breaks off"
        case aiohttp.ServerDisconnectedError():
            kind, what = "network", "the connection was closed without an answer"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            kind, what = "unreachable", f"TLS: {redact(str(error), limit=200)}"
        case aiohttp.ClientConnectorError():
            why = error.os_error.strerror or redact(str(error.os_error), limit=200)
            kind, what = "unreachable", f"cannot connect to {error.host}:{error.port}: {why}"
        case OSError():
            kind, what = "network", redact(str(error), limit=200) or type(error).__name__
        case _:
            kind, what = "network", f"the connection failed ({type(error).__name__})"
    return TransientError(f"{where}: {what}", kind=kind)


def _where(request: httpx.Request | PlainRequest) -> str:
    return f"{request.method} {redact(str(request.url).partition('?')[0])}"


def _hide_query(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(
            arg.copy_with(query=None, username=None, password=None) if isinstance(arg, httpx.URL) else arg
            for arg in record.args
        )
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)
