"""Where the result of an operation that succeeded is, and what the answer there means.

By `final_state_via` as the Azure API specifications have it, and where that is not given as the Azure SDKs do: a
resource that a status monitor names, what was put or patched, Location after a POST, else what the monitor itself says.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from renewer.core.model import NO_RESULT, Result, Succeeded
from renewer.errors import TransientError
from renewer.targets.azure.urls import RefusedUrlError, resolve
from renewer.targets.rest.documents import transient

if TYPE_CHECKING:
    from collections.abc import Mapping

    from renewer.targets.azure.replies import Reply

RESOURCE_METHODS = ("PUT", "PATCH")
"""Methods whose result is the resource itself."""
PARTIAL = 206
"""A part of a result is none."""
_VIA_MONITOR = ("operation-location", "azure-async-operation")
_GONE = (404, 410)


def succeeded(reply: Reply, status: str, state: Mapping[str, object]) -> Succeeded:
    """The monitor says that it is done: the result is at hand, or its place is known."""
    try:
        place = _place(reply, state)
    except RefusedUrlError as error:
        return Succeeded(status, result=no_result_from(error))
    if place is not None:
        return Succeeded(status, result=None, ticket=replace(reply.ticket, result=place))
    if reply.ticket.method == "DELETE" and reply.ticket.final_state_via not in _VIA_MONITOR:
        return Succeeded(status)
    return Succeeded(status, result=reply.monitor_result())


def no_result_from(refused: RefusedUrlError) -> Result:
    """There is a result where nothing may be sent."""
    return Result(kind="none", problem=str(refused))


def read_result(reply: Reply) -> Result:
    """Read the answer of a result URL. Raises `TransientError` where the result may still be had."""
    match reply.answer.status:
        case 202:
            raise TransientError(
                f"{reply.what}: the result is not there yet", kind="server", retry_after_s=reply.retry_after_s
            )
        case 204:
            return NO_RESULT
        case status if 200 <= status < 300 and status != PARTIAL:
            return reply.result()
        case status if status in _GONE and reply.ticket.method == "DELETE":
            return NO_RESULT
        case _:
            raise transient(reply.answer, reply.what, reply.clock)


def _place(reply: Reply, state: Mapping[str, object]) -> str | None:
    """The URL of the result; None if it is at hand, or there is none."""
    ticket = reply.ticket
    changes_a_resource = ticket.method in RESOURCE_METHODS
    match ticket.final_state_via:
        case "location" if ticket.location is not None:
            return ticket.location
        case "original-uri":
            return ticket.asked
        case via if via in _VIA_MONITOR and not changes_a_resource:
            return None
        case _:
            pass
    if ticket.method == "DELETE":
        return None
    named = state.get("resourceLocation")
    if isinstance(named, str) and named:
        return resolve(reply.place, named)
    if changes_a_resource:
        return ticket.asked
    return ticket.location if ticket.method == "POST" else None
