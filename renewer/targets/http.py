"""What targets over HTTP share: the client, one exchange with bounded bodies, and Retry-After.

No redirect is ever followed. Nothing is kept between requests but connections.
"""

from __future__ import annotations

import json
import logging
import math
import re
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, NoReturn

import aiohttp
import httpx
from aiohttp.http_exceptions import HttpProcessingError
from httpx_aiohttp import AiohttpTransport

from renewer.errors import TransientError, TransientKind
from renewer.targets.origins import redact

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from aiohttp.abc import AbstractResolver

    from renewer.ports import Clock

STATE_BODY_MAX = 1024 * 1024
"""Bytes of a state or error document that are read before it counts as garbage."""

RESULT_BODY_MAX = 64 * 1024 * 1024
"""Bytes of a result that are read unless configured otherwise."""

TIMEOUT = httpx.Timeout(connect=15.0, read=60.0, write=60.0, pool=None)
"""Bounds for single steps on a connection, in seconds; whoever asks bounds the whole with a cancel scope."""

_KEEPALIVE_S = 75.0
_LONGEST_S = 10 * 365 * 86400.0
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]*)?\Z", re.ASCII)

_MONTHS = {
    name: number
    for number, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), start=1)  # noqa: SIM905
}
_TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_DATES = tuple(
    re.compile(pattern + r"\Z", re.ASCII | re.IGNORECASE)
    for pattern in (
        rf"[a-z]{{3}}, (?P<day>\d\d) (?P<month>[a-z]{{3}}) (?P<year>\d{{4}}) {_TIME} GMT",
        rf"[a-z]{{6,9}}, (?P<day>\d\d)-(?P<month>[a-z]{{3}})-(?P<year>\d\d) {_TIME} GMT",
        rf"[a-z]{{3}} (?P<month>[a-z]{{3}}) (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, read whole; `body` without content encoding."""

    status: int
    headers: httpx.Headers
    body: bytes

    def header(self, name: str) -> str | None:
        """The first header of this name, without blanks around it; None if it is absent or empty."""
        values = self.headers.get_list(name)
        return (values[0].strip() or None) if values else None


class BodyTooLargeError(TransientError):
    """An answer's body is larger than the reader allowed."""

    def __init__(self, where: str, limit: int) -> None:
        super().__init__(f"{where}: the answer is larger than {limit} bytes", kind="garbage", condition="BodyTooLarge")


def build_client(
    *,
    max_connections: int = 64,
    ssl_context: ssl.SSLContext | None = None,
    resolver: Callable[[], AbstractResolver] | None = None,
) -> httpx.AsyncClient:
    """Make a client for asyncio that keeps at most `max_connections` connections to each host.

    `resolver` makes, on the event loop, what looks names up; None leaves it to the system.
    The environment is not trusted: no proxy variables and no .netrc, for a token must not go by way of a host that
    nobody configured. Only SSL_CERT_FILE and SSL_CERT_DIR are heard, which name whom to believe and not whom to tell.
    Cookies are neither kept nor sent: a client serves many operations that must not see each other's.
    """
    hide_queries_in_logs()
    context = ssl_context or httpx.create_ssl_context(trust_env=True)

    def open_session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=context,
                limit=0,
                limit_per_host=max_connections,
                keepalive_timeout=_KEEPALIVE_S,
                resolver=None if resolver is None else resolver(),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    return httpx.AsyncClient(
        # httpx's own pool looks through every waiting request whenever one ends: quadratic with many operations.
        transport=AiohttpTransport(client=open_session, verify=context, trust_env=False),
        timeout=TIMEOUT,
        trust_env=False,
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
    )


def hide_queries_in_logs() -> None:
    """Keep query strings, which can hold signatures, out of the request log of httpx."""
    logging.getLogger("httpx").addFilter(_hide_query)


async def exchange(
    client: httpx.AsyncClient, request: httpx.Request, *, max_body: int | None, shown: str | None = None
) -> Answer:
    """Send `request` and read its answer, at most `max_body` bytes of it after decompression; None: leave the body.

    `shown` is what errors call the request; by default that is its method and its URL without the query.

    Sent as it is: no defaults, no cookies, no credentials of the client are added. Raises `TransientError` of kind
    network, timeout or garbage; `BodyTooLargeError` where the body is too large.
    """
    try:
        response = await client.send(request, stream=True, auth=None, follow_redirects=False)
        try:
            body = b"" if max_body is None else await _read_body(response, max_body)
            if body is None:
                raise BodyTooLargeError(shown or _where(request), max_body or 0)
        finally:
            await response.aclose()
    except (httpx.HTTPError, aiohttp.ClientError, HttpProcessingError, OSError, _BadBodyError) as error:
        # aiohttp's errors hold the request with its token, and their text its URL: nothing of them is passed on.
        raise _failure(error, shown or _where(request)) from None
    return Answer(response.status_code, response.headers, body)


def parse_json(body: bytes) -> object:
    """Read JSON (RFC 8259). Raises ValueError for everything else, however deep or strange."""
    try:
        document: object = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return document


def is_json(content_type: str | None) -> bool:
    """Whether a content type means JSON: application/json, or any +json."""
    media_type = (content_type or "").partition(";")[0].strip().lower()
    return media_type in {"application/json", "text/json"} or media_type.endswith("+json")


def retry_after_s(headers: httpx.Headers, clock: Clock) -> float | None:
    """How many seconds the service asks us to wait; None if it asks for nothing that can be understood.

    Seconds, whole or decimal, or a date (RFC 9110 10.2.3 and 5.6.7, all three forms), read against the answer's own
    `Date` so that skewed clocks do no harm; also `retry-after-ms` and `x-ms-retry-after-ms`, as azure-core knows
    them. Where there are several, the longest counts. A moment that has passed is 0.
    """
    asked = [_span_s(value.strip(), headers, clock) for value in headers.get_list("retry-after")]
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        for value in headers.get_list(name):
            span_ms = _number(value.strip())
            asked.append(None if span_ms is None else span_ms / 1000)
    return max((span for span in asked if span is not None), default=None)


def _span_s(value: str, headers: httpx.Headers, clock: Clock) -> float | None:
    seconds = _number(value)
    if seconds is not None:
        return seconds
    moment = _http_date(value, clock)
    if moment is None:
        return None
    sent_at = _http_date(headers.get("date", "").strip(), clock)
    if sent_at is None:
        # Dates have whole seconds, so ours is cut to one as well: otherwise the span comes out too short.
        sent_at = clock.utc_now().replace(microsecond=0)
    return min(max((moment - sent_at).total_seconds(), 0.0), _LONGEST_S)


def _number(text: str) -> float | None:
    if not _SECONDS.match(text):
        return None
    number = float(text)
    return number if math.isfinite(number) and number < _LONGEST_S else _LONGEST_S


def _http_date(text: str, clock: Clock) -> datetime | None:
    match = next(filter(None, (pattern.match(text) for pattern in _DATES)), None)
    if match is None:
        return None
    year, month = int(match["year"]), _MONTHS.get(match["month"].lower(), 0)
    this_year = clock.utc_now().year
    if len(match["year"]) == 2:
        # A year that seems more than 50 years ahead is the latest past one with these digits (RFC 9110 5.6.7).
        year += this_year - this_year % 100
        if year > this_year + 50:
            year -= 100
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"])
    leap = second == 60
    try:
        moment = datetime(year, month, int(match["day"]), hour, minute, 59 if leap else second, tzinfo=UTC)
        return moment + timedelta(seconds=1) if leap else moment
    except (ValueError, OverflowError):
        return None


class _BadBodyError(Exception):
    """A body that its encoding does not allow."""


async def _read_body(response: httpx.Response, limit: int) -> bytes | None:
    """The whole body, unpacked; None if it is larger than `limit` bytes."""
    # The stream is read raw and unpacked here: httpx's own decoders unpack a whole piece before we could look.
    encoding = response.headers.get("content-encoding", "").strip().lower()
    unpacker = None
    if encoding in {"gzip", "x-gzip"}:
        unpacker = _Gunzip()
    elif encoding not in {"", "identity"}:
        raise _BadBodyError(f"content encoding {redact(encoding, limit=40)} was not asked for")
    else:
        announced = response.headers.get("content-length", "")
        if announced.isdecimal() and (len(announced) > 18 or int(announced) > limit):
            return None
    raw_limit = limit if unpacker is None else limit + limit // 64 + 4096
    raw_size = 0
    body = bytearray()
    async for piece in _stream(response):
        raw_size += len(piece)
        body += piece if unpacker is None else unpacker.feed(piece, limit - len(body))
        if len(body) > limit or raw_size > raw_limit:
            return None
    if unpacker is not None and raw_size and not unpacker.complete:
        raise _BadBodyError("its gzip stream breaks off")
    return bytes(body)


def _stream(response: httpx.Response) -> httpx.AsyncByteStream:
    if not isinstance(response.stream, httpx.AsyncByteStream):
        raise TypeError("the client's transport is not an asynchronous one")
    return response.stream


class _Gunzip:
    """Unpacks gzip (RFC 1952), any number of members, never more than asked for."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)

    @property
    def complete(self) -> bool:
        return self._member.eof

    def feed(self, piece: bytes, room: int) -> bytes:
        """Unpack `piece`, giving at most `room` + 1 bytes: one more than there is room for tells of an overflow."""
        unpacked = bytearray()
        try:
            while piece and len(unpacked) <= room:
                if self._member.eof:
                    self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
                unpacked += self._member.decompress(piece, room + 1 - len(unpacked))
                piece = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        except zlib.error:
            raise _BadBodyError("its gzip stream is broken") from None
        return bytes(unpacked)


def _failure(error: Exception, where: str) -> TransientError:
    # The transport tells every broken connection as a connect timeout; the truth is in the cause.
    cause = error.__cause__
    root = cause if isinstance(error, httpx.HTTPError) and isinstance(cause, aiohttp.ClientError | OSError) else error
    kind: TransientKind
    match root:
        case _BadBodyError():
            kind, what = "garbage", f"the answer cannot be read: {root}"
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
        ):
            kind, what = "garbage", "the answer is not HTTP"
        case aiohttp.ClientPayloadError():
            kind, what = "network", "the answer breaks off"
        case aiohttp.ServerDisconnectedError():
            kind, what = "network", "the connection was closed without an answer"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            kind, what = "unreachable", f"TLS: {redact(str(root), limit=200)}"
        case aiohttp.ClientConnectorError():
            why = root.os_error.strerror or redact(str(root.os_error), limit=200)
            kind, what = "unreachable", f"cannot connect to {root.host}:{root.port}: {why}"
        case OSError():
            kind, what = "network", redact(str(root), limit=200) or type(root).__name__
        case _:
            kind, what = "network", f"the connection failed ({type(root).__name__})"
    return TransientError(f"{where}: {what}", kind=kind)


def _where(request: httpx.Request) -> str:
    return f"{request.method} {redact(str(request.url.copy_with(query=None)))}"


def _hide_query(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(
            arg.copy_with(query=None, username=None, password=None) if isinstance(arg, httpx.URL) else arg
            for arg in record.args
        )
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
