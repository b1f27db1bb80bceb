"""What a check finds wrong, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from renewer.config.keylines import KeyPath

NAMES: Final = "*"
"""In a path of `Finding.uses`: which sections there are in the group, whatever is in them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake at `path`. It is worth telling only if nothing was wrong already at or around `path` and `uses`.

    `value` is what to show where the setting was not given, so that its default is at fault.
    """

    path: KeyPath
    remedy: str
    uses: tuple[KeyPath, ...] = ()
    value: str | None = None


def given_keys(settings: Any, keys: tuple[str, ...]) -> list[str]:
    """Those of the keys that somebody set."""
    return [key for key in keys if key in settings.model_fields_set and getattr(settings, key) is not None]


def one_of(section: str, settings: Any, keys: tuple[str, ...], here: KeyPath) -> Iterator[Finding]:
    """Say of each but the first that is set that it is one too many."""
    given = given_keys(settings, keys)
    for extra in given[1:]:
        yield Finding((*here, extra), f"is one too many in {section}: {given[0]} is there already; keep one of them")
