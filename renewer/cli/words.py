"""Spans and moments, read from options and shown to people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from renewer.errors import UsageError

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SCALES = ((60, 1, "ms"), (3600, 60, "hm"), (86_400, 3600, "dh"))
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")


def seconds(option: str, text: str) -> float:
    """Read ``500ms``, ``30s``, ``1h30m`` or a number of seconds. Raises `UsageError` that names the option."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        raise UsageError(f"{option} {text}: must be a duration such as 500ms, 30s, 4m or 1h, or a number of seconds")
    return sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))


def span(length_s: float | None) -> str:
    """A span for people: ``350 ms``, ``12.3 s``, ``4 m 10 s``, ``3 h 5 m``, ``2 d 4 h``."""
    if length_s is None:
        return ""
    # What rounds to nothing has no sign.
    sign, length_s = ("-" if length_s <= -0.0005 else ""), abs(length_s)
    if length_s < 1:
        return f"{sign}{length_s * 1000:.0f} ms"
    if length_s < 60:
        return f"{sign}{length_s:.1f} s"
    whole = round(length_s)
    large, small, names = _SCALES[(whole >= 3600) + (whole >= 86_400)]
    count, rest = divmod(whole, large)
    below = f" {rest // small} {names[1]}" if rest // small else ""
    return f"{sign}{count} {names[0]}{below}"


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """How long ago it was, or how long it is until then; empty for no moment."""
    if moment is None:
        return ""
    away_s = (moment - (now or datetime.now(UTC))).total_seconds()
    if abs(away_s) < 1:
        return "now"
    return f"in {span(away_s)}" if away_s > 0 else f"{span(-away_s)} ago"


def clock(moment: datetime | None) -> str:
    """The time of day in UTC, as the lines of a stream show it; the present one if there is none."""
    return f"{(moment or datetime.now(UTC)).astimezone(UTC):%H:%M:%S}Z"


def when(moment: datetime | None, now: datetime | None = None) -> str:
    """A moment in UTC together with how far it is."""
    if moment is None:
        return ""
    shown = moment.astimezone(UTC)
    return f"{shown:%Y-%m-%d %H:%M:%S}Z ({ago(moment, now)})"


def size(count: int) -> str:
    """A number of bytes for people."""
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.1f} KiB" if count < 1024**2 else f"{count / 1024**2:.1f} MiB"


def labels(given: list[str]) -> dict[str, str]:
    """Read ``NAME=VALUE`` of repeatable options. Raises `UsageError`."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--label {text}: must be NAME=VALUE, as in --label team=billing")
        found[name] = value
    return found


def check(option: str, given: Iterable[str], allowed: Sequence[str]) -> None:
    """Raise `UsageError`, with the option, the value and what would be right, for a value that is not allowed."""
    for value in given:
        if value not in allowed:
            raise UsageError(f"{option} {value}: must be {', '.join(allowed[:-1])} or {allowed[-1]}")


def plural(count: int, noun: str) -> str:
    """``1 lease``, ``2 leases``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def optional_seconds(option: str, text: str | None) -> float | None:
    """As `seconds`, for an option that may be absent."""
    return None if text is None else seconds(option, text)
