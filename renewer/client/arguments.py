"""What callers pass, as it is kept."""

from __future__ import annotations

from renewer.client.calls import Names
from renewer.client.quantities import Duration, seconds


def kept(names: Names) -> Names:
    """Names that may be gone through more than once."""
    return names if isinstance(names, str) else tuple(names)


def limit_s(name: str, span: Duration | None) -> float | None:
    """A span in seconds; None is no limit."""
    return None if span is None else seconds(name, span)
