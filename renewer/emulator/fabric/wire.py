"""Fabric's way of writing things down: error documents, timestamps, dates, headers, JSON."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import TYPE_CHECKING

from starlette.responses import Response

from renewer.errors import RenewerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

JSON_UTF8 = "application/json; charset=utf-8"
JSON = "application/json"
OCTETS = "application/octet-stream"


class RefusalError(RenewerError):
    """A request that is answered with an error document; `headers` go out with it."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        more_details: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})
        self.more_details = more_details

    def response(self, request_id: str, home: str) -> Response:
        """Return the answer: as recorded, fields that say nothing are left out of the document."""
        document: dict[str, object] = {"requestId": request_id, "errorCode": self.code}
        if self.more_details:
            document["moreDetails"] = more_details_document(self.more_details)
        document["message"] = self.message
        headers = {**self.headers, **cluster_headers(home), "x-ms-public-api-error-code": self.code}
        return json_response(self.status, document, headers)


def blocked(wait_s: float, utc_now: datetime, retry_after: int | str | None = None) -> RefusalError:
    """Return the 429 of a throttled request; `retry_after` replaces the header's seconds."""
    seconds = math.ceil(wait_s)
    until = utc_now + timedelta(seconds=seconds)
    return RefusalError(
        429,
        "RequestBlocked",
        f"Request is blocked by the upstream service until: {_us_time(until)} (UTC)",
        headers={"Retry-After": str(seconds if retry_after is None else retry_after)},
    )


def error_document(
    *,
    request_id: str,
    code: str,
    message: str,
    more_details: Sequence[tuple[str, str]],
    resource_id: str,
    resource_type: str,
    is_retriable: bool,
) -> dict[str, object]:
    """Return an error document with every field that the API describes."""
    resource = {"resourceId": resource_id, "resourceType": resource_type}
    return {
        "requestId": request_id,
        "errorCode": code,
        "message": message,
        "moreDetails": [{**entry, "relatedResource": resource} for entry in more_details_document(more_details)],
        "relatedResource": resource,
        "isRetriable": is_retriable,
    }


def more_details_document(more_details: Sequence[tuple[str, str]]) -> list[dict[str, object]]:
    """Return the list of further errors inside an error document."""
    return [{"errorCode": code, "message": message} for code, message in more_details]


def cluster_headers(home: str) -> dict[str, str]:
    """Return the headers by which the front door tells which cluster it passed the request to."""
    return {"home-cluster-uri": f"{home}/", "request-redirected": "true"}


def json_response(status: int, document: object, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer with a JSON body; `None` is the literal `null`, as in every recorded 202."""
    return Response(json_bytes(document), status, dict(headers or {}), media_type=JSON_UTF8)


def json_bytes(document: object) -> bytes:
    """Encode a JSON document in ASCII, so that lone surrogates in a name cannot break an answer."""
    return json.dumps(document, separators=(",", ":")).encode()


def json_object(body: bytes) -> dict[str, object]:
    """Decode a request body that must be a JSON object; an empty one counts as `{}`.

    Raises `RefusalError` (400).
    """
    if not body.strip():
        return {}
    try:
        document = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise RefusalError(400, "CorruptedPayload", "The request body is not valid JSON") from None
    if not isinstance(document, dict):
        raise RefusalError(400, "InvalidInput", "The request body must be a JSON object")
    return document


def timestamp(moment: datetime) -> str:
    """Write a UTC time as Fabric does: no zone, up to seven digits of fraction, trailing zeros left out."""
    # The service counts in units of 100 ns; a made-up seventh digit keeps readers honest.
    fraction = f"{moment.microsecond:06d}{moment.microsecond % 10}"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{fraction}".rstrip("0").rstrip(".")


def http_date(moment: datetime) -> str:
    """Write a UTC time as an HTTP-date (RFC 9110 5.6.7); fractions of a second are cut off."""
    return format_datetime(moment, usegmt=True)


def told_wait_s(retry_after: str | None, utc_now: datetime) -> float | None:
    """Return the seconds that a Retry-After asks for, by the answer's own date; None if it says nothing."""
    if retry_after is None:
        return None
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
        return max(0.0, (until - utc_now.replace(microsecond=0)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _us_time(moment: datetime) -> str:
    half = "AM" if moment.hour < 12 else "PM"
    return f"{moment.month}/{moment.day}/{moment.year} {moment.hour % 12 or 12}:{moment:%M:%S} {half}"
