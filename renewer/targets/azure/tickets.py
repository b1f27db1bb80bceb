"""Tickets: all that later requests of an operation need, once its first one has been answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast, get_args

from renewer.ports import FinalStateVia, FollowTerms
from renewer.targets.origins import redact, split_url
from renewer.targets.rest.cookies import NO_COOKIES, Cookies
from renewer.targets.rest.records import (
    damaged,
    dump_cookies,
    fields_of,
    load_cookies,
    optional_text_in,
    text_in,
    texts_in,
)
from renewer.targets.rest.requests import METHODS

if TYPE_CHECKING:
    from collections.abc import Mapping

Protocol = Literal["operation-location", "azure-async-operation", "location", "body"]
"""Where the state is told: by a status monitor that one of two headers names, at Location, or by the resource."""

_VERSION = 1


@dataclass(frozen=True, slots=True, repr=False)
class Ticket:
    """Where an operation's state and result are asked for, and how. URLs are absolute.

    `method` and `asked` are those of the first request. `location` is what its answer called so, `result` where the
    result of an operation that succeeded is. URLs can hold signatures: not for logs, and the repr shows none.
    """

    protocol: Protocol
    method: str
    asked: str
    poll: str
    location: str | None = None
    result: str | None = None
    final_state_via: FinalStateVia | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: Cookies = NO_COOKIES

    def __repr__(self) -> str:
        return f"Ticket({self.protocol} {self.method} {redact(self.poll)!r})"


def new_ticket(method: str, asked: str, terms: FollowTerms, cookies: Cookies = NO_COOKIES) -> Ticket:
    """What is known before the first answer says where the state is told: the state of what was asked for."""
    return Ticket(
        "body",
        method,
        asked,
        asked,
        final_state_via=terms.final_state_via,
        query=terms.poll_query,
        headers=terms.poll_headers,
        cookies=cookies,
    )


def dump_ticket(ticket: Ticket) -> dict[str, object]:
    """The ticket as JSON values, for `load_ticket` of this or a later version."""
    return {
        "v": _VERSION,
        "protocol": ticket.protocol,
        "method": ticket.method,
        "asked": ticket.asked,
        "poll": ticket.poll,
        "location": ticket.location,
        "result": ticket.result,
        "final_state_via": ticket.final_state_via,
        "query": dict(ticket.query),
        "headers": dict(ticket.headers),
        "cookies": dump_cookies(ticket.cookies),
    }


def load_ticket(document: object) -> Ticket:
    """What `dump_ticket` made. Raises `RegistryError` if it cannot be read."""
    fields = fields_of(document, "ticket", (_VERSION,))
    protocol, method, via = fields.get("protocol"), fields.get("method"), fields.get("final_state_via")
    if protocol not in get_args(Protocol) or not isinstance(method, str) or method not in METHODS:
        raise damaged("protocol or method is not a word for one")
    if via is not None and via not in get_args(FinalStateVia):
        raise damaged("final_state_via is not a word for one")
    return Ticket(
        cast("Protocol", protocol),
        method,
        _url_in(fields, "asked"),
        _url_in(fields, "poll"),
        _optional_url_in(fields, "location"),
        _optional_url_in(fields, "result"),
        cast("FinalStateVia | None", via),
        texts_in(fields, "query"),
        texts_in(fields, "headers"),
        load_cookies(fields.get("cookies")),
    )


def _url_in(fields: Mapping[str, object], name: str) -> str:
    url = text_in(fields, name)
    try:
        split_url(url)
    except ValueError as error:
        raise damaged(f"{name} {error}") from None
    return url


def _optional_url_in(fields: Mapping[str, object], name: str) -> str | None:
    return None if optional_text_in(fields, name) is None else _url_in(fields, name)
