"""An HTTP answer of whatever library, as the daemon takes it over: httpx, requests, azure-core, or alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from renewer.client.errors import BadRequest

_SENDABLE: Final = re.compile(r"[\t -~]{0,8192}")
_NOT_HANDED_OVER: Final = frozenset(
    # They describe a body that is decoded by now, or belong to the connection; cookies are secrets of the caller.
    {"content-encoding", "content-length", "transfer-encoding", "connection", "keep-alive", "set-cookie"}
)


def adoption_of(response: object) -> dict[str, object]:
    """The fields of ``adopt``: method, url, status, headers, body. Raises `BadRequest` if `response` is no answer."""
    request = _of(response, "request")
    method = _of(request, "method") or _of(response, "method")
    url = _of(request, "url") or _of(response, "url")
    status = _of(response, "status_code")
    if status is None:
        status = _of(response, "status")
    headers = _of(response, "headers")
    if not isinstance(method, str) or url is None or not isinstance(status, int) or not isinstance(headers, Mapping):
        raise BadRequest(
            "this is no HTTP answer that can be taken over: it needs status_code, headers, request.method and"
            " request.url, as those of httpx, requests and azure-core have; or call adopt() with the parts"
        )
    return {
        "method": method,
        "url": str(url),
        "status": status,
        "headers": _headers(headers),
        "body": _body(response),
    }


def _of(thing: object, name: str) -> Any:
    try:
        return getattr(thing, name, None)
    except RuntimeError:  # httpx's word for a response that has no request, azure-core's for one that is not read
        return None


def _headers(headers: Mapping[Any, Any]) -> dict[str, str]:
    given = {str(name): str(value) for name, value in headers.items()}
    return {
        name: value
        for name, value in given.items()
        if name.lower() not in _NOT_HANDED_OVER and _SENDABLE.fullmatch(value) is not None
    }


def _body(response: object) -> str | None:
    content = _of(response, "content")
    if isinstance(content, bytes | bytearray):
        return bytes(content).decode("utf-8", "replace") or None
    body = _of(response, "body")
    if callable(body):  # azure-core's older responses
        content = body()
        if isinstance(content, bytes | bytearray):
            return bytes(content).decode("utf-8", "replace") or None
    text = _of(response, "text")
    if callable(text):
        text = text()
    return text or None if isinstance(text, str) else None
