"""Tickets: what is needed to ask about an operation again, whatever became of the request that started it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from renewer.targets.fabric.places import is_job_instance, operation_id, path_of_location
from renewer.targets.origins import redact, split_url
from renewer.targets.rest.cookies import NO_COOKIES, Cookies
from renewer.targets.rest.places import Place
from renewer.targets.rest.records import (
    dump_cookies,
    fields_of,
    load_cookies,
    optional_text_in,
    origin_in,
    path_in,
    texts_in,
)

if TYPE_CHECKING:
    from renewer.targets.http import Answer
    from renewer.targets.rest.account import AccountOptions

_VERSIONS = (1, 2)
"""What is written is the last one. 1 knew no query, headers and cookies."""

_BENEATH = "./result"
"""An operation's result, beneath its state."""


@dataclass(frozen=True, slots=True, repr=False)
class Ticket:
    """Where an operation's state and result are asked for: paths on `origin`, or on the account's host if None.

    `result` is the result's path, but relative where it is beneath `path`: thousands would keep it for each otherwise.
    `query` and `headers` go with every request, as its owner wished; `cookies` as the service wished. Can hold
    secrets: not for logs, and its repr shows none.
    """

    path: str
    result: str | None = None
    origin: str | None = None
    query: Mapping[str, str] = field(default_factory=dict, hash=False)
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    cookies: Cookies = NO_COOKIES

    def __post_init__(self) -> None:
        if self.result == f"{self.path}/result":
            object.__setattr__(self, "result", _BENEATH)

    @property
    def result_path(self) -> str | None:
        """Where the result is asked for; None if it is not known to have one."""
        return f"{self.path}/result" if self.result == _BENEATH else self.result

    def __repr__(self) -> str:
        host = self.origin or "https://-"
        return f"Ticket({redact(f'{host}{self.path}')!r})"

    def place(self, options: AccountOptions, path: str) -> Place:
        """Where a path of this ticket is, with what its query must have; whether it may be asked is the caller's."""
        origin = options.origin if self.origin is None else split_url(self.origin)[0]
        return Place(origin, path).with_query(self.query)


def ticket_for(options: AccountOptions, asked: Place, answer: Answer) -> Ticket | None:
    """Read a 202's headers: by `x-ms-operation-id`, else by Location; None if they say nowhere to ask."""
    location = answer.header("location")
    path = path_of_location(options, location) if location is not None else None
    found = operation_id(answer.header("x-ms-operation-id")) or operation_id(path)
    ticket = Ticket("/", origin=_origin_of(options, asked))
    if found is not None:
        return _for_operation(options, ticket, found)
    return None if path is None else replace(ticket, path=path)


def ticket_of(options: AccountOptions, asked: Place) -> Ticket:
    """The ticket of a state URL that the caller already has."""
    ticket = Ticket(asked.path, origin=_origin_of(options, asked))
    found = operation_id(asked.path)
    return ticket if found is None else _for_operation(options, ticket, found)


def moved(options: AccountOptions, ticket: Ticket, answer: Answer) -> Ticket | None:
    """The ticket to go on with if the answer names another state URL; None to keep this one.

    Operations and job instances stay where they are; what is behind any other Location may move with it.
    """
    location = answer.header("location")
    if location is None or operation_id(ticket.path) is not None or is_job_instance(ticket.path):
        return None
    path = path_of_location(options, location)
    if path is None or path == ticket.path:
        return None
    found = operation_id(path)
    return replace(ticket, path=path) if found is None else _for_operation(options, ticket, found)


def result_path(options: AccountOptions, ticket: Ticket, answer: Answer) -> str | None:
    """Where the result of an operation that succeeded is; None if the answer names none.

    Whether there is one is told by Location; where it is follows from the id. Job instances have no results.
    """
    location = answer.header("location")
    if location is None or is_job_instance(ticket.path):
        return None
    if ticket.result_path is not None:
        return ticket.result_path
    path = path_of_location(options, location)
    return None if path == ticket.path else path


def dump_ticket(ticket: Ticket) -> dict[str, object]:
    """The ticket as JSON values, for `load_ticket` of this or a later version."""
    return {
        "v": _VERSIONS[-1],
        "path": ticket.path,
        "result_path": ticket.result_path,
        "origin": ticket.origin,
        "query": dict(ticket.query),
        "headers": dict(ticket.headers),
        "cookies": dump_cookies(ticket.cookies),
    }


def load_ticket(document: object) -> Ticket:
    """What `dump_ticket` made. Raises `RegistryError` if it cannot be read."""
    fields = fields_of(document, "ticket", _VERSIONS)
    is_first = fields["v"] == 1
    return Ticket(
        path_in(fields, "path"),
        None if optional_text_in(fields, "result_path") is None else path_in(fields, "result_path"),
        None if optional_text_in(fields, "origin") is None else origin_in(fields, "origin"),
        query={} if is_first else texts_in(fields, "query"),
        headers={} if is_first else texts_in(fields, "headers"),
        cookies=NO_COOKIES if is_first else load_cookies(fields.get("cookies")),
    )


def _origin_of(options: AccountOptions, asked: Place) -> str | None:
    return None if asked.origin == options.origin else str(asked.origin)


def _for_operation(options: AccountOptions, ticket: Ticket, found: str) -> Ticket:
    path = f"{options.base_path}/operations/{found}"
    return replace(ticket, path=path, result=_BENEATH)
