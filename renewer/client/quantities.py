"""Spans of time as callers write them: seconds, a `timedelta`, or a text such as ``500ms``, ``30s``, ``4m``, ``1h``."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Final

from renewer.client.errors import BadRequest

Duration = float | str | timedelta
"""Seconds, a `timedelta`, or a text with a unit: ms, s, m, h, d."""

_FORM: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*(ms|s|m|h|d)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds(name: str, value: Duration) -> float:
    """`value` in seconds. Raises `BadRequest` that names it."""
    remedy = f"{name}: must be seconds (a number), a timedelta, or a text such as 500ms, 30s, 4m, 1h, 1d"
    if isinstance(value, timedelta):
        span_s = value.total_seconds()
    elif isinstance(value, str):
        match = _FORM.fullmatch(value.strip())
        if match is None:
            raise BadRequest(remedy)
        span_s = float(match[1]) * _UNITS[match[2] or "s"]
    else:
        span_s = float(value)
    if not math.isfinite(span_s) or span_s < 0:
        raise BadRequest(remedy)
    return span_s
