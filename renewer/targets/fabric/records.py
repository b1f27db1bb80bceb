"""Requests and tickets as JSON values, for a registry that outlives the process.

What is loaded is what was dumped; whether its host may still see the token is asked when something is sent there.
Both can hold secrets, so errors name fields and show no values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from renewer.errors import RegistryError
from renewer.targets.fabric.requests import Adopt, Submit
from renewer.targets.fabric.tickets import Ticket
from renewer.targets.origins import check_path, split_url

_VERSION = 1


def dump_request(request: object) -> dict[str, Any]:
    """A `Submit` or an `Adopt` as JSON values."""
    match request:
        case Submit():
            how: dict[str, Any] = {"how": "submit"}
        case Adopt():
            how = {"how": "adopt", "status": request.status}
        case _:
            raise TypeError(f"not a request for Fabric: {type(request).__name__}")
    common = {"method": request.method, "url": request.url, "headers": dict(request.headers), "body": request.body}
    return {"v": _VERSION, **how, **common}


def load_request(document: object) -> Submit | Adopt:
    """What `dump_request` made. Raises `RegistryError` if it cannot be read."""
    fields = _fields(document, "request")
    method, url, headers = _text(fields, "method"), _text(fields, "url"), _headers(fields)
    match fields.get("how"), fields.get("status"):
        case "submit", None:
            return Submit(method, url, headers, fields.get("body"))
        case "adopt", int(status):
            return Adopt(method, url, status, headers, fields.get("body"))
        case _:
            raise RegistryError("the stored request of a Fabric operation is neither a submitted nor an adopted one")


def dump_ticket(ticket: object) -> dict[str, Any] | None:
    """A `Ticket` as JSON values; None for none."""
    if ticket is None:
        return None
    if not isinstance(ticket, Ticket):
        raise TypeError(f"not a ticket of Fabric: {type(ticket).__name__}")
    return {"v": _VERSION, "path": ticket.path, "result_path": ticket.result_path, "origin": ticket.origin}


def load_ticket(document: object) -> Ticket | None:
    """What `dump_ticket` made. Raises `RegistryError` if it cannot be read."""
    if document is None:
        return None
    fields = _fields(document, "ticket")
    result_path = _text(fields, "result_path") if fields.get("result_path") is not None else None
    origin = _text(fields, "origin") if fields.get("origin") is not None else None
    ticket = Ticket(_text(fields, "path"), result_path, origin)
    try:
        for path in filter(None, (ticket.path, ticket.result_path)):
            if not path.startswith("/"):
                raise ValueError("is no path")
            check_path(path)
        if origin is not None:
            split_url(origin)
    except ValueError as error:
        raise RegistryError(f"the stored ticket of a Fabric operation is damaged: a place in it {error}") from None
    return ticket


def _fields(document: object, what: str) -> Mapping[str, object]:
    fields = cast("Mapping[str, object]", document) if isinstance(document, Mapping) else {}
    if fields.get("v") != _VERSION:
        raise RegistryError(
            f"the stored {what} of a Fabric operation is not of a form that this version of renewer reads; "
            "go back to the version that wrote it, or forget the operation"
        )
    return fields


def _text(fields: Mapping[str, object], name: str) -> str:
    text = fields.get(name)
    if not isinstance(text, str) or not text:
        raise RegistryError(f"what is stored of a Fabric operation is damaged: {name} is not a text")
    return text


def _headers(fields: Mapping[str, object]) -> dict[str, str]:
    given = fields.get("headers")
    headers = cast("Mapping[object, object]", given) if isinstance(given, Mapping) else {None: None}
    read = {name: text for name, text in headers.items() if isinstance(name, str) and isinstance(text, str)}
    if len(read) != len(headers):
        raise RegistryError("what is stored of a Fabric operation is damaged: headers are not names and texts")
    return read
