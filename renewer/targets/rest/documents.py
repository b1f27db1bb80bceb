"""What JSON answers of services say: state documents, error documents, moments; and errors that say nothing final.

An error document is kept whole, for the owner of the operation. In every form that services have for it, `errorCode`
and `message` stand at its top when we pass it on: Fabric's own `{"errorCode", "message", …}`, `{"error": {"code",
"message", …}}` of Azure and OData, problem documents (RFC 9457), XML with `Code` and `Message`, plain text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import TYPE_CHECKING, cast

from renewer.errors import TransientError, TransientKind
from renewer.targets.http import Answer, parse_json
from renewer.targets.origins import redact
from renewer.targets.retryafter import retry_after_s

if TYPE_CHECKING:
    from renewer.ports import Clock

CLIENT_ERRORS = range(400, 500)

STATUS_MAX = 200
"""Characters of a status that are kept: it is shown, logged and stored with each poll."""

_KINDS: dict[int, TransientKind] = {
    401: "unauthorized",
    403: "unauthorized",
    404: "not_found",
    408: "timeout",
    410: "not_found",
    429: "throttled",
    503: "busy",
    504: "timeout",
}
_REQUEST_ID_HEADERS = ("requestid", "x-ms-request-id", "x-ms-correlation-request-id")
_CODE_HEADERS = ("x-ms-public-api-error-code", "x-ms-error-code")

_MOMENT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,12}))?(?:[Zz]|([+-])(\d\d):?(\d\d))?\Z", re.ASCII
)
_XML_CODE = re.compile(r"<(?:\w+:)?code>\s*([^<]{1,200})<", re.IGNORECASE)
_XML_MESSAGE = re.compile(r"<(?:\w+:)?message(?: [^>]{0,100})?>\s*([^<]{1,2000})<", re.IGNORECASE)


def state_object(answer: Answer, what: str) -> Mapping[str, object]:
    """The JSON object that the answer is. Raises `TransientError`, calling the request `what`, if it is none."""
    try:
        document = parse_json(answer.body)
    except ValueError:
        shown = redact(answer.body[:400].decode("utf-8", "replace"), limit=80)
        raise TransientError(f"{what}: the state document is not JSON: {shown or 'empty'}", kind="garbage") from None
    if not isinstance(document, dict):
        name = "null" if document is None else type(document).__name__
        raise TransientError(f"{what}: the state document is no object but {name}", kind="garbage")
    return cast("Mapping[str, object]", document)


def object_or_none(answer: Answer) -> Mapping[str, object] | None:
    """The JSON object that the answer is; None if it is none."""
    try:
        document = parse_json(answer.body)
    except ValueError:
        return None
    return cast("Mapping[str, object]", document) if isinstance(document, dict) else None


def inner_object(document: Mapping[str, object] | None, name: str) -> Mapping[str, object]:
    """The object under `name`; an empty one if there is none."""
    inner = None if document is None else document.get(name)
    return cast("Mapping[str, object]", inner) if isinstance(inner, dict) else {}


def error_document(answer: Answer) -> dict[str, object]:
    """The service's error document, whole, with `httpStatus` and `requestId` beside it; our own where it sent none."""
    ours: dict[str, object] = {"httpStatus": answer.status}
    request_id = next(filter(None, map(answer.header, _REQUEST_ID_HEADERS)), None)
    if request_id is not None:
        ours["requestId"] = redact(request_id, limit=100)
    if 300 <= answer.status < 400:
        return _redirected(answer)
    theirs = object_or_none(answer)
    code = error_code(answer) or f"Http{answer.status}"
    if theirs is None:
        return {"errorCode": code, "message": _message_in_text(_text(answer)) or "no error document", **ours}
    return {"errorCode": code, "message": _message(theirs) or "no message", **ours, **theirs}


def error_code(answer: Answer) -> str | None:
    """The service's own word for an error, from its document or its headers; None if there is none."""
    document = object_or_none(answer)
    if document is None:
        match = _XML_CODE.search(_text(answer))
        code: object = match[1].strip() if match else None
    else:
        code = document.get("errorCode") or _error_in(document).get("code") or document.get("code")
    if not isinstance(code, str) or not code:
        code = next(filter(None, map(answer.header, _CODE_HEADERS)), None)
    return redact(code, limit=100) if code else None


def transient(answer: Answer, what: str, clock: Clock) -> TransientError:
    """An answer that says nothing final, as an error that says what it was; `what` names the request."""
    document = error_document(answer)
    status = answer.status
    code = error_code(answer)
    if code == "OperationNotFound" and status in CLIENT_ERRORS:
        kind: TransientKind = "not_found"
    else:
        kind = _KINDS.get(status) or _kind(status)
    told = redact(f"{document['errorCode']}: {document['message']}")
    return TransientError(
        f"{what}: HTTP {status} {told}",
        kind=kind,
        retry_after_s=retry_after_s(answer.headers, clock),
        condition=code,
    )


def percent(state: Mapping[str, object] | None, name: str = "percentComplete") -> float | None:
    """How much of it is done, 0 to 100, whatever the number that stands there; None if none does."""
    given = None if state is None else state.get(name)
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    return float(min(max(given, 0), 100))


def moment(text: object) -> float | None:
    """A timestamp (RFC 3339, also without zone, which means UTC) in seconds since the epoch.

    Fractions may have any number of digits. None for everything else, and for the time before the epoch, by which
    services mean that they do not know.
    """
    match = _MOMENT.match(text) if isinstance(text, str) else None
    if match is None:
        return None
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    fraction = float(f"0.{match[7] or 0}")
    try:
        zone = timedelta(hours=int(match[9] or 0), minutes=int(match[10] or 0)) * (-1 if match[8] == "-" else 1)
        whole = datetime(year, month, day, hour, minute, second, tzinfo=UTC) - zone
    except (ValueError, OverflowError):
        return None
    at = whole.timestamp() + fraction
    return at if at > 0 else None


def first_moment(state: Mapping[str, object] | None, *names: str) -> float | None:
    """The first of these fields that can be read as a moment."""
    read = (moment(state.get(name)) for name in names) if state is not None else ()
    return next((at for at in read if at is not None), None)


def _kind(status: int) -> TransientKind:
    if status in CLIENT_ERRORS:
        return "refused"
    return "server" if 300 <= status < 600 else "garbage"


def _redirected(answer: Answer) -> dict[str, object]:
    target = redact(answer.header("location") or "nowhere")
    message = f"the service redirects to {target}; redirects are not followed, for the token is for its host alone"
    return {"errorCode": "Redirected", "message": message, "httpStatus": answer.status}


def _text(answer: Answer) -> str:
    return answer.body[:4000].decode("utf-8", "replace")


def _error_in(document: Mapping[str, object]) -> Mapping[str, object]:
    """The object in which Azure and OData have their error."""
    return inner_object(document, "error") or inner_object(document, "odata.error")


def _message(document: Mapping[str, object]) -> str | None:
    error = _error_in(document)
    for holder, name in (
        (error, "message"),
        (document, "detail"),
        (document, "title"),
        (document, "error_description"),
    ):
        text = holder.get(name)
        if isinstance(text, dict):
            # OData has its messages with their language beside them.
            text = cast("Mapping[str, object]", text).get("value")
        if isinstance(text, str) and text:
            return text
    return None


def _message_in_text(text: str) -> str:
    match = _XML_MESSAGE.search(text)
    return redact(unescape(match[1]) if match else text)
