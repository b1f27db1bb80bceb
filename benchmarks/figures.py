"""What was measured, as ratios against a peer in the same run: the table and the JSON of `python -m benchmarks`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a figure must reach: its ratio to the peer's, or its own value where it stands alone."""

    which: Literal["at most", "at least"]
    bound: float

    def is_met_by(self, number: float) -> bool:
        """Whether this ratio, or value, is good enough."""
        return number <= self.bound if self.which == "at most" else number >= self.bound

    def __str__(self) -> str:
        return f"{'<=' if self.which == 'at most' else '>='} {_short(self.bound)}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity of one piece of work: a value for each round, ours and those of whoever did the same beside us."""

    work: str
    """Such as ``1,000 sessions, 10 s lock``."""
    quantity: str
    """Such as ``CPU per renewal``."""
    unit: str
    ours: Sequence[float]
    peer: str = ""
    """Who did the same; empty where the figure stands alone."""
    theirs: Sequence[float] = ()
    wanted: Wanted | None = None

    @property
    def ratio(self) -> float | None:
        """Ours to theirs, of the medians. None without a peer, or where the peer's is nothing."""
        theirs = statistics.median(self.theirs) if self.theirs else 0.0
        return statistics.median(self.ours) / theirs if theirs else None

    @property
    def is_good(self) -> bool | None:
        """Whether what was wanted is reached; None where nothing was."""
        if self.wanted is None:
            return None
        return self.wanted.is_met_by(statistics.median(self.ours) if self.ratio is None else self.ratio)

    def brief(self) -> str:
        """One line for people who wait."""
        return "  ".join(cell for cell in _row(self) if cell)

    def as_json(self) -> dict[str, Any]:
        """All of it, with each round's values."""
        return {**asdict(self), "ratio": self.ratio, "is_good": self.is_good}


HEADINGS = ("work", "quantity", "renewer", "peer", "its value", "ratio", "wanted")


def table(figures: Iterable[Figure]) -> str:
    """A Markdown table: medians, with the lowest and the highest of several rounds in brackets."""
    rows = [HEADINGS, *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _row(figure: Figure) -> tuple[str, ...]:
    mark = {True: "", False: " (not reached)", None: ""}[figure.is_good]
    return (
        figure.work,
        figure.quantity,
        _spread(figure.ours, figure.unit),
        figure.peer,
        _spread(figure.theirs, figure.unit) if figure.theirs else "",
        "" if figure.ratio is None else f"{_short(figure.ratio)}",
        "" if figure.wanted is None else f"{figure.wanted}{mark}",
    )


def _spread(values: Sequence[float], unit: str) -> str:
    middle = f"{_short(statistics.median(values))} {unit}".rstrip()
    return middle if len(values) == 1 else f"{middle} ({_short(min(values))} to {_short(max(values))})"


def _short(number: float) -> str:
    """Three digits that say something."""
    if number and abs(number) < 0.001:
        return f"{number:.1e}"
    for limit, form in ((1, ".3f"), (10, ".2f"), (100, ".1f")):
        if abs(number) < limit:
            return f"{number:{form}}"
    return f"{number:,.0f}"
