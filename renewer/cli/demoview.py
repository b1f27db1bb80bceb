"""What the demo shows: leases, operations, and where to look next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Story:
    """One operation of the demo: what is asked for, what the emulator does with it, and how it must end."""

    name: str
    path: str
    scenario: str
    ends: str = "succeeded"
    result: str | None = "json"
    body: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(slots=True)
class Views:
    """The latest answers of the control API."""

    leases: list[dict[str, Any]]
    operations: dict[Story, dict[str, Any]]


def show(views: Views, hints: list[str]) -> RenderableType:
    """The whole screen; it fits into 80 columns and 24 lines."""
    commands = Text("\n".join(hints), style="cyan", no_wrap=True)
    how_to_stop = Text("Ctrl-C stops and releases the sessions. Look closer with:", style="dim")
    return Group(_leases(views), _operations(views), how_to_stop, commands)


def _leases(views: Views) -> Table:
    shown = table("Session locks", "session", "state")
    for name in ("left s", "margin s", "worst", "renewals", "lost"):
        shown.add_column(name, justify="right")
    for lease in views.leases:
        shown.add_row(
            f"{lease['entity']} / {lease['session_id']}",
            _styled(lease["state"]),
            _seconds(lease["remaining_s"]),
            _seconds(lease["last_margin_s"]),
            _seconds(lease["min_margin_s"]),
            str(lease["renewals"]),
            str(lease["losses"]),
        )
    return shown


def _operations(views: Views) -> Table:
    shown = table("Long-running operations", "operation", "state", "next poll")
    shown.add_column("elapsed s", justify="right", no_wrap=True)
    # In 80 columns it is the last one that gives way, by taking more lines.
    for column, width in zip(shown.columns, (25, 9, 9, 9), strict=True):
        column.min_width = width
    shown.add_column("result", overflow="fold")
    for story, operation in sorted(views.operations.items(), key=lambda item: item[1]["submitted_at"]):
        next_poll = operation["next_poll_at"]
        shown.add_row(
            story.name,
            _styled(operation["state"]),
            f"{next_poll[11:19]}Z" if next_poll else "",
            _seconds(operation["elapsed_s"]),
            _outcome(operation),
        )
    return shown


def table(title: str, *columns: str) -> Table:
    """A table as the demos draw them."""
    drawn = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False
    )
    for name in columns:
        drawn.add_column(name, no_wrap=True)
    return drawn


def _outcome(operation: dict[str, Any]) -> str:
    error, result = operation["error"], operation["result"]
    if error:
        return f"{error.get('errorCode', 'error')}: {error.get('message', '')}"
    if result is None:
        return ""
    return "none" if result["kind"] == "none" else f"{result['kind']}, {result['size']} B"


def _styled(state: str) -> Text:
    return Text(state, style=_STYLES.get(state, "yellow"))


def _seconds(span_s: float | None) -> str:
    return "" if span_s is None else f"{span_s:.1f}"


_STYLES = {"held": "green", "succeeded": "green", "lost": "bold red", "failed": "red", "at_risk": "bold yellow"}
