"""What the caller asks: a first request for us to send, or the answer to one that the caller sent.

Values of `OperationSpec.request`, plain data, read from plain documents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import httpx

from renewer.errors import UsageError
from renewer.ports import DEFAULT_TERMS, FollowTerms
from renewer.targets.http import Answer, is_json, parse_json
from renewer.targets.origins import redact
from renewer.targets.rest.places import locate

if TYPE_CHECKING:
    from renewer.targets.rest.account import AccountOptions

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

_MAX_HEADERS = 100
_MAX_VALUE = 8192
_MAX_QUERY = 4096
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}\Z")
_VALUE = re.compile(r"[\t -~]*\Z")

OUR_HEADERS = frozenset(
    {
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "te",  # codespell:ignore te
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that belong to the connection, or to whoever holds the token."""

_REPEATABLE_METHODS = frozenset({"GET", "PUT", "DELETE"})
_REPEATABLE_HEADERS = frozenset({"operation-id", "repeatability-request-id"})
_JOINED_COOKIES = re.compile(r",[ \t]*(?=[!#$%&'*+.^_`|~0-9A-Za-z-]+=)")


@dataclass(frozen=True, slots=True, repr=False)
class Submit:
    """A first request for us to send. `url` is on the account's host or relative to its base URL, `body` any JSON."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = None
    terms: FollowTerms = DEFAULT_TERMS

    def __repr__(self) -> str:
        return f"Submit({self.method} {redact(self.url)})"


@dataclass(frozen=True, slots=True, repr=False)
class Adopt:
    """A first request that the caller sent, and its answer. `body` is text as it came, or JSON already read."""

    method: str
    url: str
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = None
    terms: FollowTerms = DEFAULT_TERMS

    def __repr__(self) -> str:
        return f"Adopt({self.method} {redact(self.url)} {self.status})"


def parse_submit(document: object, options: AccountOptions, terms: FollowTerms = DEFAULT_TERMS) -> Submit:
    """Read `{"method", "url", "headers", "body"}`; headers and body may be absent. Raises UsageError, naming the field.

    A body of null is none.
    """
    fields = _fields(document, "submit", {"method", "url", "headers", "body"})
    method, url = _method(fields, "submit"), _url(fields, "submit", options)
    headers = _sendable(fields.get("headers"), "submit.headers")
    request = Submit(method, url, headers, fields.get("body"), _checked(terms))
    content_of(request)
    return request


def parse_adopt(document: object, options: AccountOptions, terms: FollowTerms = DEFAULT_TERMS) -> Adopt:
    """Read `{"method", "url", "status", "headers", "body"}`; headers and body may be absent.

    Raises UsageError, naming the field.
    """
    fields = _fields(document, "adopt", {"method", "url", "status", "headers", "body"})
    method, url = _method(fields, "adopt"), _url(fields, "adopt", options)
    status = fields.get("status")
    if not isinstance(status, int) or isinstance(status, bool) or not 100 <= status <= 599:
        raise UsageError("adopt.status: must be the HTTP status of the first answer, such as 202")
    headers = _headers(fields.get("headers"), "adopt.headers")
    request = Adopt(method, url, status, headers, fields.get("body"), _checked(terms))
    answer_of(request)
    return request


def is_retry_safe(request: Submit) -> bool:
    """Whether the first request may be sent again although it is not known what became of it.

    By its method (RFC 9110 9.2.2), or because it carries an id of the caller's own by which the service knows it again:
    `Operation-Id` (Azure REST API guidelines) or `Repeatability-Request-ID` (OASIS Repeatable Requests 1.0).
    """
    return request.method in _REPEATABLE_METHODS or any(name.lower() in _REPEATABLE_HEADERS for name in request.headers)


def content_of(request: Submit) -> bytes | None:
    """The body as it is sent. Raises UsageError if it is not JSON."""
    return None if request.body is None else _dump(request.body, "submit.body")


def answer_of(request: Adopt) -> Answer:
    """The answer that the caller hands over, as if we had received it. Raises UsageError if its body is not JSON."""
    headers = httpx.Headers(
        [
            (name.encode("ascii"), part.encode("utf-8", "replace"))
            for name, text in request.headers.items()
            # Set-Cookie is the one header that comes several times and cannot be joined (RFC 9110 5.3).
            for part in (_JOINED_COOKIES.split(text) if name.lower() == "set-cookie" else (text,))
        ]
    )
    body = request.body
    if body is not None and not isinstance(body, str) and "content-type" not in headers:
        # Whoever hands the body over as JSON has read it as JSON.
        headers["Content-Type"] = "application/json"
    answer = Answer(request.status, headers, b"")
    # A text is taken as it came; where it is to be JSON and is none, it was read from JSON, unless it broke off.
    if isinstance(body, str) and (
        not is_json(answer.header("content-type")) or body.lstrip()[:1] in ("{", "[") or _is_json_text(body)
    ):
        content = body.encode("utf-8", "replace")
    else:
        content = b"" if body is None else _dump(body, "adopt.body")
    return Answer(request.status, headers, content)


def _fields(document: object, what: str, known: set[str]) -> Mapping[str, object]:
    if not isinstance(document, Mapping):
        raise UsageError(f"{what}: must be an object with {', '.join(sorted(known))}")
    fields = cast("Mapping[str, object]", document)
    for name in fields:
        if name not in known:
            raise UsageError(
                f"{what}.{redact(str(name), limit=60)}: is not known; known are {', '.join(sorted(known))}"
            )
    return fields


def _method(fields: Mapping[str, object], what: str) -> str:
    method = fields.get("method")
    if not isinstance(method, str) or method.upper() not in METHODS:
        raise UsageError(f"{what}.method: must be one of {', '.join(METHODS)}")
    return method.upper()


def _url(fields: Mapping[str, object], what: str, options: AccountOptions) -> str:
    url = fields.get("url")
    if not isinstance(url, str) or not url:
        raise UsageError(f"{what}.url: must be a path such as /workspaces/…/notebooks, or an absolute URL")
    locate(options, url, field=f"{what}.url")
    return url


def _checked(terms: FollowTerms) -> FollowTerms:
    headers = _sendable(terms.poll_headers, "poll_headers")
    for name, value in terms.poll_query.items():
        if not name or not (name + value).isprintable():
            raise UsageError(f"poll_query.{redact(name, limit=60)}: must be a name and a text of printable characters")
    if sum(len(name) + len(value) for name, value in terms.poll_query.items()) > _MAX_QUERY:
        raise UsageError(f"poll_query: must have at most {_MAX_QUERY} characters in all")
    if not terms.poll_query and not headers:
        # As with almost all: two empty dicts for each would take a tenth of what an operation does.
        return replace(terms, poll_query=DEFAULT_TERMS.poll_query, poll_headers=DEFAULT_TERMS.poll_headers)
    return replace(terms, poll_query=dict(terms.poll_query), poll_headers=headers)


def _sendable(given: object, where: str) -> dict[str, str]:
    headers = _headers(given, where)
    for name, text in headers.items():
        if name.lower() in OUR_HEADERS:
            raise UsageError(f"{where}.{name}: is set by us; leave it out")
        if not _VALUE.match(text):
            raise _bad_header(where, name)
    return headers


def _headers(given: object, where: str) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or len(cast("Mapping[object, object]", given)) > _MAX_HEADERS:
        raise UsageError(f"{where}: must be an object of at most {_MAX_HEADERS} names and values")
    headers: dict[str, str] = {}
    for name, value in cast("Mapping[object, object]", given).items():
        if not isinstance(name, str) or not _NAME.match(name):
            raise UsageError(f"{where}.{redact(str(name), limit=60)}: is not a header name")
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15
        text = str(value) if number else value
        if not isinstance(text, str) or len(text) > _MAX_VALUE:
            raise _bad_header(where, name)
        headers[name] = text
    return headers


def _bad_header(where: str, name: str) -> UsageError:
    return UsageError(f"{where}.{name}: must be a text of at most {_MAX_VALUE} ASCII characters, one line")


def _dump(body: object, name: str) -> bytes:
    try:
        return json.dumps(body, allow_nan=False, separators=(",", ":")).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{name}: must be JSON ({type(error).__name__})") from error


def _is_json_text(text: str) -> bool:
    try:
        parse_json(text.encode("utf-8"))
    except ValueError:
        return False
    return True
