"""What the answers to polls mean, in each of the ways in which Azure's services tell how an operation stands.

An answer that is an error says that *reading the state* failed, never that the operation did (Azure Resource Manager
RPC, "Azure-AsyncOperation Resource format"). Success takes a word or a status code that says so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from renewer.core.model import PollAnswer, StillRunning, Succeeded
from renewer.errors import TransientError
from renewer.targets.azure.reasons import ended
from renewer.targets.azure.replies import Reply, provisioning_state
from renewer.targets.azure.results import PARTIAL, succeeded
from renewer.targets.azure.words import Meaning, is_known_running, meaning_of
from renewer.targets.rest.documents import inner_object, transient

if TYPE_CHECKING:
    from collections.abc import Mapping

    from renewer.targets.azure.tickets import Ticket

_GONE = (404, 410)


def read_poll(reply: Reply) -> PollAnswer:
    """Read the answer of a state URL. Raises `TransientError` for everything that says nothing of the operation."""
    ticket = reply.ticket
    if reply.answer.status in _GONE and ticket.protocol == "body" and ticket.method == "DELETE":
        # The resource itself was asked, and that it is there no more is what was wanted.
        return Succeeded()
    if not 200 <= reply.answer.status < 300 or reply.answer.status == PARTIAL:
        raise transient(reply.answer, reply.what, reply.clock)
    match ticket.protocol:
        case "operation-location" | "azure-async-operation":
            return _read_monitor(reply)
        case "location":
            return _read_location(reply)
        case "body":
            return read_resource(reply)
        case _:
            assert_never(ticket.protocol)


def read_resource(reply: Reply) -> PollAnswer:
    """Read a resource that tells of itself: one without provisioningState is done."""
    match reply.answer.status:
        case 202:
            return _going_on(reply, _word(provisioning_state(reply.document)), reply.ticket)
        case 204:
            return Succeeded()
        case _:
            state = reply.state()
    word = provisioning_state(state)
    if word is None:
        return Succeeded(result=reply.document_result())
    if not isinstance(word, str):
        raise TransientError(f"{reply.what}: provisioningState is not a text", kind="garbage")
    match meaning_of(word):
        case Meaning.SUCCEEDED:
            return Succeeded(word, result=reply.document_result())
        case Meaning.RUNNING:
            return _going_on(reply, word, reply.ticket)
        case failed:
            return ended(reply, failed, word, state)


def read_status(reply: Reply, state: Mapping[str, object], word: str) -> PollAnswer:
    """Read the `status` of a status monitor."""
    match meaning_of(word):
        case Meaning.SUCCEEDED:
            return succeeded(reply, word, state)
        case Meaning.RUNNING:
            return _going_on(reply, word, _moved_monitor(reply))
        case failed:
            return ended(reply, failed, word, state)


def _read_monitor(reply: Reply) -> PollAnswer:
    if reply.answer.status == 202:
        state = reply.document
        word = None if state is None else _word(state.get("status"))
        if state is None or word is None:
            return _going_on(reply, None, _moved_monitor(reply))
        return read_status(reply, state, word)
    state = reply.state()
    word = _word(state.get("status"))
    if word is None:
        raise TransientError(f"{reply.what}: the status monitor has no status that is a text", kind="garbage")
    return read_status(reply, state, word)


def _read_location(reply: Reply) -> PollAnswer:
    state = reply.document
    if reply.answer.status == 202:
        word = _word(provisioning_state(state)) or (_word(state.get("status")) if state is not None else None)
        # The status code says that it runs, whatever the document calls that.
        return replace(_going_on(reply, word, reply.moved("location")), recognised=True)
    return (state is not None and _contradiction(reply, state)) or Succeeded(result=reply.result())


def _contradiction(reply: Reply, state: Mapping[str, object]) -> PollAnswer | None:
    """What a document says against the status code that it came with; None if nothing."""
    status = _word(state.get("status"))
    if status is not None:
        # A monitor at Location, as Fabric has it: azure-core takes its first answer for the result of a success.
        meaning = meaning_of(status)
        named = reply.answer.header("location") or reply.answer.header("retry-after")
        if is_known_running(status) and named is not None:
            return _going_on(reply, status, reply.moved("location"))
        if meaning in (Meaning.FAILED, Meaning.CANCELED) and inner_object(state, "error"):
            return ended(reply, meaning, status, state)
    word = _word(provisioning_state(state))
    if word is None or reply.ticket.method not in ("PUT", "PATCH", "DELETE"):
        # What a POST leaves behind may be a resource in whatever state.
        return None
    match meaning_of(word):
        case Meaning.SUCCEEDED:
            return None
        case Meaning.RUNNING:
            return _going_on(reply, word, reply.moved("location"))
        case failed:
            return ended(reply, failed, word, state)


def _going_on(reply: Reply, word: str | None, ticket: Ticket) -> StillRunning:
    return reply.still_running(word, ticket, reply.document)


def _moved_monitor(reply: Reply) -> Ticket:
    """The ticket to go on with after a monitor's answer: only its own header moves it."""
    header = "operation-location" if reply.ticket.protocol == "operation-location" else "azure-asyncoperation"
    return reply.moved(header)


def _word(word: object) -> str | None:
    return word if isinstance(word, str) and word else None
