"""What the answer to an operation's first request means: that there is one, how it will be told how it stands, or not.

The ways in which that is told are looked for in the order in which the Azure SDKs do: a status monitor that
Operation-Location or Azure-AsyncOperation names, Location, the provisioningState of what was put or patched.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from renewer.core.model import Ended, PollAnswer, StillRunning, Succeeded
from renewer.errors import TransientError
from renewer.targets.azure.polls import read_poll, read_resource, read_status
from renewer.targets.azure.reasons import header_missing, not_followed, nowhere_told, rejected
from renewer.targets.azure.replies import Reply, provisioning_state
from renewer.targets.azure.results import RESOURCE_METHODS
from renewer.targets.azure.urls import RefusedUrlError, resolve
from renewer.targets.azure.words import Meaning, is_known, meaning_of
from renewer.targets.http import is_json, parse_json
from renewer.targets.rest.documents import CLIENT_ERRORS, error_document, transient

if TYPE_CHECKING:
    from renewer.ports import FollowProtocol
    from renewer.targets.azure.tickets import Protocol

_UNDECIDED = frozenset({401, 408, 429})
"""Client errors after which the same first request may be accepted another time."""
_HEADERS: dict[Protocol, str] = {
    "operation-location": "Operation-Location",
    "azure-async-operation": "Azure-AsyncOperation",
    "location": "Location",
}


def read_first(reply: Reply, protocol: FollowProtocol, *, repeated: bool = False) -> PollAnswer:
    """Read the answer to an operation's first request; `repeated` says that it was sent before, without an answer.

    Raises `TransientError` for answers that decide nothing: 401, 408, 429, 5xx.
    """
    match reply.answer.status:
        case status if 200 <= status < 300:
            return _read_accepted(reply, protocol)
        case 404 if repeated and reply.method == "DELETE":
            return rejected(reply, "; an earlier sending of this request, whose answer was lost, may have deleted it")
        case status if 300 <= status < 400 or (status in CLIENT_ERRORS and status not in _UNDECIDED):
            return rejected(reply)
        case _:
            raise transient(reply.answer, reply.what, reply.clock)


def read_adopted(reply: Reply, protocol: FollowProtocol) -> PollAnswer:
    """Read a first answer that the caller hands over; the request is not ours to send again, so none is transient."""
    try:
        return read_first(reply, protocol)
    except TransientError as error:
        document = error_document(reply.answer)
        return Ended("rejected", error={**document, "message": f"{document.get('message', error)} (nothing to follow)"})


def _read_accepted(reply: Reply, protocol: FollowProtocol) -> PollAnswer:
    if protocol != "auto":
        return _read_as(reply, protocol)
    if _is_done_at_once(reply):
        # The resource has arrived; where a monitor would tell the same is no matter any more.
        return read_resource(reply)
    for known, header in _HEADERS.items():
        if reply.answer.header(header) is not None:
            return _follow(reply, known)
    return _read_without_headers(reply)


def _read_as(reply: Reply, protocol: Protocol) -> PollAnswer:
    """Read the answer by the protocol that the caller named."""
    if protocol == "body":
        return _read_as_resource(reply)
    if reply.answer.header(_HEADERS[protocol]) is not None:
        return _follow(reply, protocol)
    if reply.method == "GET":
        # Who gets a URL by such a protocol has the state's own, perhaps from another life.
        reply = replace(reply, ticket=replace(reply.ticket, protocol=protocol))
        try:
            return read_poll(reply)
        except TransientError:
            return reply.still_running(None, reply.ticket, None)
    tells_otherwise = any(reply.answer.header(header) is not None for header in _HEADERS.values())
    if reply.answer.status == 202 or tells_otherwise:
        return header_missing(reply, _HEADERS[protocol])
    outcome = _read_without_headers(reply)
    return header_missing(reply, _HEADERS[protocol]) if isinstance(outcome, StillRunning) else outcome


def _follow(reply: Reply, protocol: Protocol) -> PollAnswer:
    """Ask from now on where the header of this protocol says."""
    location = reply.answer.header("location")
    try:
        poll = reply.refers_to(reply.answer.header(_HEADERS[protocol]) or "")
    except RefusedUrlError as error:
        return not_followed(reply, error)
    try:
        at_location = None if location is None else resolve(reply.place, location)
    except RefusedUrlError:
        # It is asked for the result at most, and where it is not the place of that it may be anything.
        at_location = None
    ticket = replace(reply.ticket, protocol=protocol, poll=poll, location=at_location)
    state = reply.document
    word = provisioning_state(state) or (None if state is None else state.get("status"))
    running = reply.still_running(word if isinstance(word, str) else None, ticket, state)
    # What the resource calls its status may be anything; nobody needs to be warned of it.
    return replace(running, recognised=True)


def _read_without_headers(reply: Reply) -> PollAnswer:
    if reply.method in RESOURCE_METHODS:
        return _read_as_resource(reply)
    state = reply.document
    word = None if state is None else state.get("status")
    if state is None or not isinstance(word, str):
        word = ""
    if reply.method == "GET" and reply.answer.status == 200 and state is not None:
        # A state that is asked for by its own URL; or a resource, which may be on its way.
        if _meaning(reply) is None and is_known(word):
            return read_status(_as_monitor(reply), state, word)
        return _read_as_resource(reply)
    if reply.answer.status != 202:
        return Succeeded(result=reply.first_result())
    if state is not None and meaning_of(word) is not Meaning.RUNNING:
        # A monitor without a URL, which nobody needs: it tells of the end already.
        return read_status(_as_monitor(reply), state, word)
    return nowhere_told(reply)


def _read_as_resource(reply: Reply) -> PollAnswer:
    """Read the answer as that of the resource itself, which is asked from now on if it is not done."""
    if reply.answer.status in (202, 204) or _meaning(reply) is not None:
        return read_resource(reply)
    if _leaves_open(reply):
        return reply.still_running(None, reply.ticket, None)
    return Succeeded(result=reply.first_result())


def _leaves_open(reply: Reply) -> bool:
    """Whether a success tells nothing of the state, or nothing that can be read: the resource can be asked once more.

    Without provisioningState a resource is done; but a 201 without any body, as the SDKs have it, is not the resource.
    """
    answer = reply.answer
    if reply.method not in RESOURCE_METHODS or reply.cut:
        return False
    if not answer.size:
        return answer.status == 201
    if reply.document is not None:
        # It has one that is no text.
        return provisioning_state(reply.document) is not None
    is_meant_as_json = is_json(answer.header("content-type")) or answer.body.lstrip()[:1] == b"{"
    return answer.spooled is None and is_meant_as_json and not _is_whole(answer.body)


def _is_whole(body: bytes) -> bool:
    try:
        parse_json(body)
    except ValueError:
        return False
    return True


def _is_done_at_once(reply: Reply) -> bool:
    return (
        reply.method in RESOURCE_METHODS
        and reply.answer.status in (200, 201)
        and _meaning(reply) not in (None, Meaning.RUNNING)
    )


def _meaning(reply: Reply) -> Meaning | None:
    """What the answer's provisioningState says; None if it has none."""
    word = provisioning_state(reply.document)
    return meaning_of(word) if isinstance(word, str) else None


def _as_monitor(reply: Reply) -> Reply:
    return replace(reply, ticket=replace(reply.ticket, protocol="operation-location"))
