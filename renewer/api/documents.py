"""Values as JSON. Whatever the daemon holds can be told, also what a remote system made up."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic_core import PydanticSerializationError
from pydantic_core import to_json as _to_json
from starlette.responses import JSONResponse

_DEEPEST = 64


def to_json(document: object) -> bytes:
    """JSON in UTF-8, without line breaks; dates in ISO 8601. Never raises for what consists of JSON values and dates.

    A number that JSON has no word for becomes null, half a surrogate pair a question mark, and what is nested too
    deeply is cut off: such things come from services whose documents we only pass on.
    """
    try:
        return _to_json(document, inf_nan_mode="null")
    except (PydanticSerializationError, ValueError):
        return _to_json(_cleaned(document, 0), inf_nan_mode="null")


class JsonResponse(JSONResponse):
    """An answer in JSON: what `to_json` takes, or bytes that are JSON already."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return content if isinstance(content, bytes) else to_json(content)


def _cleaned(value: object, depth: int) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping | list | tuple) and depth >= _DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        return {_cleaned(str(name), depth): _cleaned(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item, depth + 1) for item in value]
    return value if isinstance(value, int | float | datetime | None) else str(value)
