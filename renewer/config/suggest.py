"""Did you mean …? The nearest known name to a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MAX_NAME_LENGTH = 64


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` is most likely a misspelling of, if it is near to any."""
    if len(name) > _MAX_NAME_LENGTH:
        return None
    by_form = {_form(word): word for word in known}
    near = difflib.get_close_matches(_form(name), by_form, n=1, cutoff=0.65)
    return by_form[near[0]] if near else None


def _form(name: str) -> str:
    return name.lower().replace("-", "_")
