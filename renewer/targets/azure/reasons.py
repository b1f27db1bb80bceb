"""Why an operation ended in another way than well, as documents for its owner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from renewer.core.model import Ended
from renewer.targets.azure.words import Meaning
from renewer.targets.origins import redact
from renewer.targets.rest.documents import error_document, inner_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from renewer.targets.azure.replies import Reply
    from renewer.targets.azure.urls import RefusedUrlError

_DOCUMENT_MAX = 64 * 1024
_REQUEST_IDS = ("x-ms-request-id", "x-ms-correlation-request-id")
_LOOK = "look at the resource itself"
HEADERS = ("operation-location", "azure-asyncoperation", "location")
"""The headers that say where an operation's state is told, in the order in which they count."""


def ended(reply: Reply, meaning: Meaning, status: str, state: Mapping[str, object]) -> Ended:
    """The service says that the operation failed, or was canceled: its reason whole, or its whole document."""
    outcome: Literal["failed", "canceled"] = "canceled" if meaning is Meaning.CANCELED else "failed"
    otherwise = "canceled at the service" if outcome == "canceled" else "the service gave no reason"
    error: dict[str, Any] = {"errorCode": status, "message": otherwise}
    reason = inner_object(state, "error") or inner_object(inner_object(state, "properties"), "error")
    if reason:
        code, message = reason.get("code"), reason.get("message")
        if isinstance(code, str | int) and not isinstance(code, bool) and code != "":
            error["errorCode"] = str(code)
        if isinstance(message, str) and message:
            error["message"] = message
        error["error"] = reason
    elif isinstance(state.get("error"), str) and state["error"]:
        error["message"] = state["error"]
    elif reply.answer.size <= _DOCUMENT_MAX:
        error["document"] = dict(state)
    elif outcome == "failed":
        error["message"] = "the service gave no reason, or one that is too large to be kept"
    request_id = next(filter(None, map(reply.answer.header, _REQUEST_IDS)), None)
    if request_id is not None:
        error["requestId"] = redact(request_id, limit=100)
    return Ended(outcome, status, error)


def rejected(reply: Reply, further: str = "") -> Ended:
    """The service refused the first request."""
    error = error_document(reply.answer)
    if further:
        error["message"] = f"{error['message']}{further}"
    return Ended("rejected", error=error)


def not_followed(reply: Reply, refused: RefusedUrlError) -> Ended:
    """The service accepted the first request, and tells how it stands where we do not ask."""
    return _unpollable(reply, refused.code, f"the operation was accepted, but {refused}. To learn of its end, {_LOOK}")


def nowhere_told(reply: Reply) -> Ended:
    """The service accepted the first request, and does not say where it tells how it stands."""
    message = (
        f"the service accepted the {reply.method}, but named no URL that tells of its end; {_LOOK}, or hand it over "
        "again with protocol 'body' if the URL that was asked tells"
    )
    return _unpollable(reply, "NotPollable", message)


def header_missing(reply: Reply, wanted: str) -> Ended:
    """The service told where in another way than the caller said it would."""
    there = [name for name in HEADERS if reply.answer.header(name) is not None]
    message = (
        f"the first answer has no {wanted} header, which protocol asks for; "
        f"it has {' and '.join(there) if there else 'none of the others either'}. "
        f"Hand it over again with protocol 'auto', or {_LOOK}"
    )
    return _unpollable(reply, "NotPollable", message)


def _unpollable(reply: Reply, code: str, message: str) -> Ended:
    return Ended("unpollable", error={**error_document(reply.answer), "errorCode": code, "message": message})
