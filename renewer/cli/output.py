"""What commands print: columns for people, JSON for programs.

Columns fit the terminal; where nobody looks (a pipe, a file) nothing is cut or coloured. Text from elsewhere cannot
move the cursor.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

Style = Literal["", "good", "warn", "bad", "dim", "bold"]
"""What a text means; the terminal's colours follow from it."""

_CODES: Mapping[Style, str] = {"good": "32", "warn": "33", "bad": "1;31", "dim": "2", "bold": "1"}
_GAP = "  "
_DEFAULT_WIDTH = 80


@dataclass(frozen=True, slots=True)
class Cell:
    """One text in a table, and what it means."""

    text: str
    style: Style = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column. Those that are `flexible` give way, with an ellipsis, where a terminal is too narrow."""

    name: str
    right: bool = False
    flexible: bool = False


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]], *, out: IO[str] | None = None) -> None:
    """Print aligned columns with a head. Empty columns are left out, save for the first."""
    stream = sys.stdout if out is None else out
    cells = [[_cell(value) for value in row] for row in rows]
    kept = [number for number in range(len(columns)) if not number or any(row[number].text for row in cells)]
    widths = {number: max((width_of(row[number].text) for row in cells), default=0) for number in kept}
    widths = {number: max(width, len(columns[number].name)) for number, width in widths.items()}
    limit = terminal_width(stream)
    if limit is not None:
        _narrow(widths, columns, limit)
    colours = has_colours(stream)
    head = [Cell(columns[number].name.upper(), "bold") for number in kept]
    lines = [head, *([row[number] for number in kept] for row in cells)]
    for line in lines:
        parts = [
            _fitted(
                cell, columns[number], widths[number], colours=colours, cut=limit is not None, last=number == kept[-1]
            )
            for number, cell in zip(kept, line, strict=True)
        ]
        stream.write(_GAP.join(parts).rstrip() + "\n")


def print_details(pairs: Iterable[tuple[str, Cell | str]], *, out: IO[str] | None = None) -> None:
    """Print names and values below one another; those without a value are left out."""
    stream = sys.stdout if out is None else out
    shown = [(name, _cell(value)) for name, value in pairs]
    shown = [(name, cell) for name, cell in shown if cell.text]
    width = max((len(name) for name, _ in shown), default=0)
    colours = has_colours(stream)
    for name, cell in shown:
        stream.write(f"{painted(name.ljust(width), 'dim', colours)}{_GAP}{painted(cell.text, cell.style, colours)}\n")


def print_json(document: object, *, lines: bool = False) -> None:
    """Print one JSON document; with `lines` on a line of its own, at once."""
    text = json.dumps(plain(document), ensure_ascii=False, indent=None if lines else 2, default=str)
    sys.stdout.write(text + "\n")
    if lines:
        sys.stdout.flush()


def note(text: str) -> None:
    """Say something beside the output: what to do next, what is being waited for."""
    sys.stderr.write(f"renewer: {text}\n")
    sys.stderr.flush()


def plain(value: object) -> Any:
    """What the client returns, as JSON has it: the daemon's own documents where there are any."""
    document = getattr(value, "document", None)
    if document:
        return document
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value) if field.name != "document"}
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def printable(text: str) -> str:
    """Text that cannot move a terminal's cursor or break a line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def painted(text: str, style: Style, colours: bool) -> str:
    """`text` in the colour of `style`, where there are colours."""
    code = _CODES.get(style) if colours and text else None
    return f"\x1b[{code}m{text}\x1b[0m" if code else text


def has_colours(stream: IO[str]) -> bool:
    """Whether colours may be used: on a terminal that knows them, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def terminal_width(stream: IO[str]) -> int | None:
    """The columns of the terminal that `stream` writes to; None where it writes to none."""
    if not stream.isatty():
        return None
    return shutil.get_terminal_size((_DEFAULT_WIDTH, 24)).columns


def width_of(text: str) -> int:
    """How many columns `text` takes on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def shortened(text: str, width: int) -> str:
    """`text` in at most `width` columns, with an ellipsis where something is left out."""
    if width_of(text) <= width:
        return text
    if text.isascii():
        return text[: max(0, width - 1)] + "…"
    from rich.cells import set_cell_size

    return set_cell_size(text, max(0, width - 1)).rstrip() + "…"


def _cell(value: Cell | str) -> Cell:
    if isinstance(value, str):
        return Cell(printable(value))
    return Cell(printable(value.text), value.style)


def _narrow(widths: dict[int, int], columns: Sequence[Column], limit: int) -> None:
    """Take what is too much from the widest flexible columns, but never all of one."""
    too_much = sum(widths.values()) + len(_GAP) * (len(widths) - 1) - limit
    flexible = [number for number in widths if columns[number].flexible]
    while too_much > 0 and flexible:
        widest = max(flexible, key=lambda number: widths[number])
        if widths[widest] <= max(8, len(columns[widest].name)):
            return
        widths[widest] -= 1
        too_much -= 1


def _fitted(cell: Cell, column: Column, width: int, *, colours: bool, cut: bool, last: bool) -> str:
    text = shortened(cell.text, width) if cut and column.flexible else cell.text
    padding = " " * (width - width_of(text))
    shown = painted(text, cell.style, colours)
    if column.right:
        return padding + shown
    return shown if last else shown + padding
