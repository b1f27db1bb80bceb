"""Durations, sizes and bounded numbers as people write them in settings.

Every parser takes what TOML, an environment variable or a flag can hold and raises `ValueError` whose text says what
would be right, never what was given. The `between` helpers make them into pydantic validators.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Final

from pydantic import BeforeValidator

_DURATION_UNITS: Final = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_SIZE_UNITS: Final = {
    "B": 1,
    "kB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}
_DURATION_PART: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(ms|s|m|h|d)")
_PLAIN_NUMBER: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,15})?")
_SIZE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]{1,3})?")
_DURATION_FORM: Final = 'a duration such as "500ms", "10s", "4m", "1h" or "1d", or a number of seconds'
_SIZE_FORM: Final = 'a size such as "512KiB" or "64MiB", or a number of bytes'


def parse_duration(value: object) -> timedelta:
    """A span of time: ``"500ms"``, ``"1h30m"``, or a number of seconds (also as text, as the environment has it)."""
    if isinstance(value, timedelta):
        return value
    seconds = _plain_number(value)
    try:
        if seconds is None:
            span = _united_span(value.strip()) if isinstance(value, str) else None
        else:
            span = timedelta(seconds=seconds) if math.isfinite(seconds) else None
    except OverflowError:
        raise ValueError(f"must be {_DURATION_FORM}, and far shorter") from None
    if span is None or span < timedelta(0):
        raise ValueError(f"must be {_DURATION_FORM}")
    return span


def format_duration(span: timedelta) -> str:
    """Write a span as `parse_duration` reads it, in the largest unit that holds it in whole numbers."""
    if not span:
        return "0s"
    for unit, length in reversed(_DURATION_UNITS.items()):
        whole, rest = divmod(span, length)
        if not rest:
            return f"{whole}{unit}"
    return f"{span / _DURATION_UNITS['ms']:g}ms"


def parse_size(value: object) -> int:
    """A number of bytes: ``"64MiB"``, ``"10MB"``, or a plain number."""
    number = _plain_number(value)
    unit: str | None = None
    if number is None and isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        number, unit = float(match[1]), match[2]
    scale = 1 if unit is None else _SIZE_UNITS.get(unit)
    if number is None or scale is None or not math.isfinite(number) or number < 0 or number * scale % 1:
        raise ValueError(f"must be {_SIZE_FORM}")
    return int(number * scale)


def duration_between(low: str, high: str) -> BeforeValidator:
    """Accept a duration from `low` to `high`, both included."""
    least, most = parse_duration(low), parse_duration(high)

    def check(value: object) -> timedelta:
        span = parse_duration(value)
        if not least <= span <= most:
            raise ValueError(f"must be a duration from {low} to {high}")
        return span

    return BeforeValidator(check)


def size_between(low: str, high: str) -> BeforeValidator:
    """Accept a size from `low` to `high`, both included."""
    least, most = parse_size(low), parse_size(high)

    def check(value: object) -> int:
        size = parse_size(value)
        if not least <= size <= most:
            raise ValueError(f"must be a size from {low} to {high}")
        return size

    return BeforeValidator(check)


def number_between(low: float, high: float) -> BeforeValidator:
    """Accept a number from `low` to `high`, both included."""

    def check(value: object) -> float:
        number = _plain_number(value)
        if number is None or not low <= number <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return number

    return BeforeValidator(check)


def count_between(low: int, high: int) -> BeforeValidator:
    """Accept a whole number from `low` to `high`, both included."""

    def check(value: object) -> int:
        number = _plain_number(value)
        if number is None or not low <= number <= high or number % 1:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(number)

    return BeforeValidator(check)


def _plain_number(value: object) -> float | None:
    """A number, or text that is one; a truth value is none, though Python counts it among them."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return float(value) if _PLAIN_NUMBER.fullmatch(value := value.strip()) else None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    return None


def _united_span(text: str) -> timedelta | None:
    """The span that ``1h30m`` and the like mean: units must fall, each at most once."""
    span, pos, last = timedelta(0), 0, timedelta.max
    while pos < len(text):
        match = _DURATION_PART.match(text, pos)
        if match is None or _DURATION_UNITS[match[2]] >= last:
            return None
        last = _DURATION_UNITS[match[2]]
        span += last * float(match[1]) if "." in match[1] else last * int(match[1])
        pos = match.end()
    return span if pos else None
