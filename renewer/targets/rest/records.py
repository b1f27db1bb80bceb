"""Requests and parts of tickets as JSON values, for a registry that outlives the process.

What is loaded is what was dumped; whether its host may still see the token is asked when something is sent there.
All of it can hold secrets, so errors name fields and show no values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

from renewer.errors import RegistryError
from renewer.ports import DEFAULT_TERMS, FinalStateVia, FollowProtocol, FollowTerms
from renewer.targets.origins import check_path, split_url
from renewer.targets.rest.cookies import Cookie, Cookies
from renewer.targets.rest.requests import Adopt, Submit

_REQUEST_VERSIONS = (1, 2)
"""What is written is the last one. 1 knew no terms."""

_NO_TEXTS: Mapping[str, str] = {}


def dump_request(request: object) -> dict[str, Any]:
    """A `Submit` or an `Adopt` as JSON values."""
    match request:
        case Submit():
            how: dict[str, Any] = {"how": "submit"}
        case Adopt():
            how = {"how": "adopt", "status": request.status}
        case _:
            raise TypeError(f"not a request of an operation: {type(request).__name__}")
    return {
        "v": _REQUEST_VERSIONS[-1],
        **how,
        "method": request.method,
        "url": request.url,
        "headers": dict(request.headers),
        "body": request.body,
        "terms": {
            "protocol": request.terms.protocol,
            "final_state_via": request.terms.final_state_via,
            "poll_query": dict(request.terms.poll_query),
            "poll_headers": dict(request.terms.poll_headers),
        },
    }


def load_request(document: object) -> Submit | Adopt:
    """What `dump_request` made. Raises `RegistryError` if it cannot be read."""
    fields = fields_of(document, "request", _REQUEST_VERSIONS)
    method, url, headers = text_in(fields, "method"), text_in(fields, "url"), texts_in(fields, "headers")
    terms = DEFAULT_TERMS if fields["v"] == 1 else _terms(fields.get("terms"))
    match fields.get("how"), fields.get("status"):
        case "submit", None:
            return Submit(method, url, headers, fields.get("body"), terms)
        case "adopt", int(status):
            return Adopt(method, url, status, headers, fields.get("body"), terms)
        case _:
            raise RegistryError("the stored request of an operation is neither a submitted nor an adopted one")


def dump_cookies(cookies: Cookies) -> list[dict[str, Any]]:
    """Cookies as JSON values."""
    return [
        {
            "name": cookie.name,
            "value": cookie.value,
            "origin": cookie.origin,
            "path": cookie.path,
            "expires_at": cookie.expires_at,
        }
        for cookie in cookies
    ]


def load_cookies(document: object) -> Cookies:
    """What `dump_cookies` made. Raises `RegistryError` if it cannot be read."""
    if not isinstance(document, list):
        raise damaged("cookies are not a list")
    return tuple(_cookie(entry) for entry in cast("list[object]", document))


def fields_of(document: object, what: str, versions: Sequence[int]) -> Mapping[str, object]:
    """The fields of a stored object of one of these versions. Raises `RegistryError`, calling it `what`."""
    # A dict, as JSON makes it: to ask for any mapping takes several times as long, and there are thousands at a start.
    fields = cast("Mapping[str, object]", document) if isinstance(document, dict) else {}
    version = fields.get("v")
    if isinstance(version, bool) or version not in versions:
        raise RegistryError(
            f"the stored {what} of an operation is not of a form that this version of renewer reads; "
            "go back to the version that wrote it, or forget the operation"
        )
    return fields


def text_in(fields: Mapping[str, object], name: str) -> str:
    """A text that is not empty."""
    text = fields.get(name)
    if not isinstance(text, str) or not text:
        raise damaged(f"{name} is not a text")
    return text


def optional_text_in(fields: Mapping[str, object], name: str) -> str | None:
    """A text that is not empty, or none."""
    return None if fields.get(name) is None else text_in(fields, name)


def texts_in(fields: Mapping[str, object], name: str) -> Mapping[str, str]:
    """Texts by name; the same empty mapping wherever there are none."""
    given = fields.get(name)
    if given == {}:
        return _NO_TEXTS
    if not isinstance(given, dict):
        raise damaged(f"{name} are not names and texts")
    texts = cast("Mapping[object, object]", given)
    read = {key: text for key, text in texts.items() if isinstance(key, str) and isinstance(text, str)}
    if len(read) != len(texts):
        raise damaged(f"{name} are not names and texts")
    return read


def path_in(fields: Mapping[str, object], name: str) -> str:
    """A path with its query, of the kind that is sent."""
    path = text_in(fields, name)
    try:
        if not path.startswith("/"):
            raise ValueError("is no path")
        check_path(path)
    except ValueError as error:
        raise damaged(f"{name} {error}") from None
    return path


def origin_in(fields: Mapping[str, object], name: str) -> str:
    """Scheme, host and port of a server."""
    origin = text_in(fields, name)
    try:
        split_url(origin)
    except ValueError as error:
        raise damaged(f"{name} {error}") from None
    return origin


def damaged(what: str) -> RegistryError:
    """The error for a stored field that nobody can have written."""
    return RegistryError(f"what is stored of an operation is damaged: {what}")


def _terms(document: object) -> FollowTerms:
    if not isinstance(document, Mapping):
        raise damaged("terms are no object")
    fields = cast("Mapping[str, object]", document)
    protocol, via = fields.get("protocol"), fields.get("final_state_via")
    if protocol not in get_args(FollowProtocol) or (via is not None and via not in get_args(FinalStateVia)):
        raise damaged("protocol or final_state_via is not a word for one")
    return FollowTerms(
        cast("FollowProtocol", protocol),
        cast("FinalStateVia | None", via),
        texts_in(fields, "poll_query"),
        texts_in(fields, "poll_headers"),
    )


def _cookie(document: object) -> Cookie:
    if not isinstance(document, Mapping):
        raise damaged("a cookie is no object")
    fields = cast("Mapping[str, object]", document)
    value, expires_at = fields.get("value"), fields.get("expires_at")
    if not isinstance(value, str) or not (expires_at is None or isinstance(expires_at, int | float)):
        raise damaged("a cookie has no value")
    return Cookie(text_in(fields, "name"), value, origin_in(fields, "origin"), text_in(fields, "path"), expires_at)
