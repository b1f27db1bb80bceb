"""Moments and spans in headers: Retry-After in all its forms, and HTTP's dates."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

    from renewer.ports import Clock

_LONGEST_S = 10 * 365 * 86400.0
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]*)?\Z", re.ASCII)
_JOINED = re.compile(r",[ \t]+")

_MONTHS = {
    name: number
    for number, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), start=1)  # noqa: SIM905
}
_TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_DATES = tuple(
    re.compile(pattern + r"\Z", re.ASCII | re.IGNORECASE)
    for pattern in (
        rf"[a-z]{{3}}, (?P<day>\d\d) (?P<month>[a-z]{{3}}) (?P<year>\d{{4}}) {_TIME} GMT",
        rf"[a-z]{{6,9}}, (?P<day>\d\d)-(?P<month>[a-z]{{3}})-(?P<year>\d\d) {_TIME} GMT",
        rf"[a-z]{{3}} (?P<month>[a-z]{{3}}) (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
)


def retry_after_s(headers: httpx.Headers, clock: Clock) -> float | None:
    """How many seconds the service asks us to wait; None if it asks for nothing that can be understood.

    Seconds, whole or decimal, or a date (RFC 9110 10.2.3 and 5.6.7, all three forms), read against the answer's own
    `Date` so that skewed clocks do no harm; also `retry-after-ms` and `x-ms-retry-after-ms`, as azure-core knows
    them. Where there are several, the longest counts. A moment that has passed is 0.
    """
    asked = [_span_s(value, headers, clock) for line in headers.get_list("retry-after") for value in _values(line)]
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        for value in headers.get_list(name):
            span_ms = _number(value.strip())
            asked.append(None if span_ms is None else span_ms / 1000)
    return max((span for span in asked if span is not None), default=None)


def http_date(text: str, clock: Clock) -> datetime | None:
    """A moment as HTTP writes it, in any of the three forms (RFC 9110 5.6.7); None for everything else."""
    match = next(filter(None, (pattern.match(text) for pattern in _DATES)), None)
    if match is None:
        return None
    year, month = int(match["year"]), _MONTHS.get(match["month"].lower(), 0)
    this_year = clock.utc_now().year
    if len(match["year"]) == 2:
        # A year that seems more than 50 years ahead is the latest past one with these digits (RFC 9110 5.6.7).
        year += this_year - this_year % 100
        if year > this_year + 50:
            year -= 100
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"])
    leap = second == 60
    try:
        moment = datetime(year, month, int(match["day"]), hour, minute, 59 if leap else second, tzinfo=UTC)
        return moment + timedelta(seconds=1) if leap else moment
    except (ValueError, OverflowError):
        return None


def _values(line: str) -> list[str]:
    """The values in a line: two if two headers were made one on the way, as some libraries and proxies do."""
    parts = [part.strip() for part in _JOINED.split(line)]
    # A date has a comma of its own, and in 1,5 it is somebody's decimal point.
    return parts if all(map(_SECONDS.match, parts)) else [line.strip()]


def _span_s(value: str, headers: httpx.Headers, clock: Clock) -> float | None:
    seconds = _number(value)
    if seconds is not None:
        return seconds
    moment = http_date(value, clock)
    if moment is None:
        return None
    sent_at = http_date(headers.get("date", "").strip(), clock)
    if sent_at is None:
        # Dates have whole seconds, so ours is cut to one as well: otherwise the span comes out too short.
        sent_at = clock.utc_now().replace(microsecond=0)
    return min(max((moment - sent_at).total_seconds(), 0.0), _LONGEST_S)


def _number(text: str) -> float | None:
    if not _SECONDS.match(text):
        return None
    number = float(text)
    return number if math.isfinite(number) and number < _LONGEST_S else _LONGEST_S
