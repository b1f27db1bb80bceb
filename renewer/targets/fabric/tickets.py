"""Tickets: what is needed to ask about an operation again, in plain strings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from renewer.targets.fabric.places import Place, is_job_instance, operation_id, path_of_location
from renewer.targets.origins import redact, split_url

if TYPE_CHECKING:
    from renewer.targets.fabric.options import FabricOptions
    from renewer.targets.http import Answer


@dataclass(frozen=True, slots=True, repr=False)
class Ticket:
    """Where an operation's state and result are asked for: paths on `origin`, or on the account's host if None.

    Can hold signatures: not for logs, and its repr shows none.
    """

    path: str
    result_path: str | None = None
    origin: str | None = None

    def __repr__(self) -> str:
        host = self.origin or "https://-"
        return f"Ticket({redact(f'{host}{self.path}')!r})"


def ticket_for(options: FabricOptions, asked: Place, answer: Answer) -> Ticket | None:
    """Read a 202's headers: by `x-ms-operation-id`, else by Location; None if they say nowhere to ask."""
    location = answer.header("location")
    path = path_of_location(options, location) if location is not None else None
    found = operation_id(answer.header("x-ms-operation-id")) or operation_id(path)
    origin = None if asked.origin == options.origin else str(asked.origin)
    if found is not None:
        return _operation_ticket(options, found, origin)
    return None if path is None else Ticket(path, origin=origin)


def ticket_of(options: FabricOptions, asked: Place) -> Ticket:
    """The ticket of a state URL that the caller already has."""
    origin = None if asked.origin == options.origin else str(asked.origin)
    found = operation_id(asked.path)
    return Ticket(asked.path, origin=origin) if found is None else _operation_ticket(options, found, origin)


def moved(options: FabricOptions, ticket: Ticket, answer: Answer) -> Ticket | None:
    """The ticket to go on with if the answer names another state URL; None to keep this one.

    Operations and job instances stay where they are; what is behind any other Location may move with it.
    """
    location = answer.header("location")
    if operation_id(ticket.path) is not None or is_job_instance(ticket.path) or location is None:
        return None
    path = path_of_location(options, location)
    if path is None or path == ticket.path:
        return None
    found = operation_id(path)
    return Ticket(path, origin=ticket.origin) if found is None else _operation_ticket(options, found, ticket.origin)


def result_path(options: FabricOptions, ticket: Ticket, answer: Answer) -> str | None:
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


def place_of(options: FabricOptions, ticket: Ticket, path: str) -> Place | None:
    """Where `path` of this ticket is; None if its host may no longer see the token."""
    if ticket.origin is None:
        return Place(options.origin, path)
    origin, _, _ = split_url(ticket.origin)
    return Place(origin, path) if options.allows(origin) else None


def _operation_ticket(options: FabricOptions, found: str, origin: str | None) -> Ticket:
    path = f"{options.base_path}/operations/{found}"
    return Ticket(path, f"{path}/result", origin)
