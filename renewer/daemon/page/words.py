"""Texts that others wrote, fit to be shown to anybody: no credential, no sign that cannot be seen, and not too long."""

from __future__ import annotations

import json
from collections.abc import Mapping

from renewer.targets.origins import redact

MOST_LABELS = 6

_LONGEST_LABEL = 80


def visible(text: str, limit: int = 300) -> str:
    """An id in one line, cut to `limit`, and otherwise as it is.

    What cannot be seen is written as it would be in JSON: control characters, and the marks that turn the direction of
    whatever stands beside them.
    """
    if not text.isprintable():
        text = "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text[:limit])
    return text if len(text) <= limit else text[: limit - 1] + "…"


def shown(text: str, limit: int = 300) -> str:
    """As `visible`, for words that may hold a credential: what looks like one is taken out."""
    return redact(visible(text, 4 * limit), limit=limit)


def label_words(labels: Mapping[str, str]) -> list[str]:
    """Some of the labels, as ``NAME=VALUE``, and how many more there are."""
    words = [f"{shown(name, _LONGEST_LABEL)}={shown(value, _LONGEST_LABEL)}" for name, value in labels.items()]
    more = len(words) - MOST_LABELS
    return words if more <= 0 else [*words[:MOST_LABELS], f"+{more}"]
