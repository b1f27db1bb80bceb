"""What `renewer top` shows: one screen, however many leases there are, laid out for the terminal that it is on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.text import Text

from renewer.cli.output import printable, shortened, width_of
from renewer.cli.status import counts_by_weight
from renewer.cli.views import (
    ENDED,
    OVER,
    STYLES,
    event_line,
    expiry_text,
    lease_state,
    next_poll,
    outcome_text,
    session_text,
)
from renewer.cli.words import plural, span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from renewer.client import Event, Gateway, Lease, Operation, Status

_RICH = {"good": "green", "warn": "yellow", "bad": "bold red", "dim": "dim", "bold": "bold", "": ""}
_LATE_S = 0.2
_GAP = "  "
_LEAST_WIDTH = 6
_LEAST_ROWS = 4
_WIDE = 120
_MOST_GATEWAYS = 3


@dataclass(frozen=True, slots=True)
class Reading:
    """What the daemon said last. `trouble` is why it says nothing now."""

    status: Status | None = None
    leases: Sequence[Lease] = ()
    operations: Sequence[Operation] = ()
    news: Sequence[Event] = ()
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    trouble: str | None = None


def draw(reading: Reading, where: str, width: int, height: int, *, hint: str = "q leaves") -> list[Text]:
    """The lines of the screen, at most `height` of at most `width` columns."""
    head = _head(reading, where, width)
    foot = [_line([(hint, "dim")], width)] if hint else []
    room = height - len(head) - len(foot)
    status = reading.status
    if status is None or room < 4:
        return [*head, *foot][:height]
    shares = _shares(room, [len(reading.leases), len(reading.operations), len(reading.news)])
    body: list[Text] = []
    body += _section(_leases_title(status, reading.leases, shares[0]), _lease_lines(reading, width), shares[0], width)
    if shares[1]:
        title = _operations_title(status, reading.operations, shares[1])
        body += _section(title, _operation_lines(reading, width), shares[1], width)
    if shares[2]:
        told = [event_line(event, wide=width >= _WIDE) for event in reading.news]
        news = [_line([(text, _RICH[style])], width) for text, style in told]
        body += _section("Lately", news[-(shares[2] - 2) :], shares[2], width)
    if foot:
        body += [Text("")] * (room - len(body))
    return [*head, *body[:room], *foot]


def _head(reading: Reading, where: str, width: int) -> list[Text]:
    status = reading.status
    if status is None:
        return [
            _line([("renewer ", "bold"), (where, "")], width),
            _line([(reading.trouble or "asking …", "yellow")], width),
        ]
    lag = status.loop_lag_s
    lines = [
        _line(
            [
                (f"renewer {status.version} ", "bold"),
                (status.state, _style(status.state))
                if reading.trouble is None
                else (f"does not answer, since {span(_age_s(reading))}", "bold red"),
                (f"  up {span(status.uptime_s)}  {where}", ""),
            ],
            width,
        ),
        _line([("leases      ", "dim"), *_counts(status.leases)], width),
        _line([("operations  ", "dim"), *_counts(status.operations)], width),
        _line(
            [
                ("losses ", "dim"),
                (str(status.losses), "bold red" if status.losses else "green"),
                ("  smallest margin ", "dim"),
                (span(status.min_margin_s) or "-", ""),
                ("  loop lag ", "dim"),
                (span(lag) or "-", "bold red" if lag is not None and lag > _LATE_S else ""),
                ("  registry ", "dim"),
                (status.registry, ""),
            ],
            width,
        ),
    ]
    lines += [_line(_gateway(gateway), width) for gateway in status.gateways[:_MOST_GATEWAYS]]
    lines += [_line([("! ", "bold red"), (text, "bold red")], width) for text in status.trouble[:3]]
    if reading.trouble is not None:
        lines.append(_line([(f"no answer for {span(_age_s(reading))}: {reading.trouble}", "bold yellow")], width))
    return lines


def _gateway(gateway: Gateway) -> list[tuple[str, str]]:
    parts = [
        ("gateway     ", "dim"),
        (f"{gateway.name} ", "bold"),
        (f"at {gateway.listen}  {plural(gateway.connections, 'worker')}  ", ""),
        (f"{plural(gateway.messages, 'message')} passed", ""),
    ]
    if gateway.upstream_failures:
        parts.append((f"  {plural(gateway.upstream_failures, 'upstream failure')}", "yellow"))
    refused = sum(gateway.refusals.values())
    return [*parts, (f"  {refused:,} refused", "yellow")] if refused else parts


def _counts(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    parts: list[tuple[str, str]] = []
    for state, count in counts_by_weight(counts):
        parts += [("  " if parts else "", ""), (f"{count:,}", "bold"), (f" {state}", _style(state))]
    return parts or [("none", "dim")]


def _shares(room: int, wanted: Sequence[int]) -> list[int]:
    """How many lines each section gets, title and head included: what it wants, or its part of what there is."""
    needs = [
        max(1, wanted[0]) + 3,
        *(count + extra if count else 0 for count, extra in zip(wanted[1:], (3, 2), strict=True)),
    ]
    shares = list(needs)
    while sum(shares) > room:
        largest = max(range(len(shares)), key=lambda number: (shares[number] / (1.5, 1, 1)[number], number))
        if shares[largest] <= _LEAST_ROWS:
            # Too little for all: the last ones go without.
            last = max(number for number, share in enumerate(shares) if share)
            shares[last] = 0 if last else room
            continue
        shares[largest] -= 1
    return shares


def _section(title: str, lines: Sequence[Text], share: int, width: int) -> list[Text]:
    """A blank line, a title, and as many lines as there is room for."""
    return [Text(""), _line([(title, "bold")], width), *lines[: share - 2]]


def _leases_title(status: Status, shown: Sequence[Lease], share: int) -> str:
    total = sum(count for state, count in status.leases.items() if state not in OVER)
    rows = max(0, min(len(shown), share - 3))
    return "Leases" if rows >= total else f"Leases: the {rows} of {total:,} nearest to expiry"


def _operations_title(status: Status, shown: Sequence[Operation], share: int) -> str:
    total = sum(count for state, count in status.operations.items() if state not in ENDED)
    rows = max(0, min(len(shown), share - 3))
    return "Operations under way" if rows >= total else f"Operations under way: {rows} of {total:,}"


def _lease_lines(reading: Reading, width: int) -> list[Text]:
    if not reading.leases:
        return [_line([("none; `renewer lease hold ENTITY --session ID` holds one", "dim")], width)]
    rows = [
        (
            lease.id,
            _state(lease),
            f"{lease.entity}/{session_text(lease)}",
            expiry_text(lease),
            span(lease.last_margin_s),
            str(lease.renewals),
            (str(lease.losses) if lease.losses else "", "bold red"),
        )
        for lease in reading.leases
    ]
    names = ("LEASE", "STATE", "ENTITY/SESSION", "EXPIRES", "MARGIN", "RENEWED", "LOST")
    return _columns(names, rows, flexible=2, right=(3, 4, 5, 6), less=(5, 4), width=width)


def _operation_lines(reading: Reading, width: int) -> list[Text]:
    rows = [
        (
            operation.id,
            (str(operation.state), _style(operation.state)),
            operation.account,
            operation.status or outcome_text(operation),
            next_poll(operation, reading.at, wide=False),
            span(operation.elapsed_s),
        )
        for operation in reading.operations
    ]
    names = ("OPERATION", "STATE", "ACCOUNT", "STATUS", "NEXT POLL", "ELAPSED")
    return _columns(names, rows, flexible=3, right=(4, 5), less=(2,), width=width)


def _columns(
    names: Sequence[str],
    rows: Sequence[Sequence[str | tuple[str, str]]],
    *,
    flexible: int,
    right: Sequence[int],
    less: Sequence[int],
    width: int,
) -> list[Text]:
    """Aligned columns. Where they are too wide, those of `less` worth are left out, then the flexible one is cut."""
    cells = [
        [(printable(cell), "") if isinstance(cell, str) else (printable(cell[0]), cell[1]) for cell in row]
        for row in rows
    ]
    widths = [max([len(name), *(width_of(row[number][0]) for row in cells)]) for number, name in enumerate(names)]
    shown = list(range(len(names)))
    for number in less:
        if sum(widths[kept] + len(_GAP) for kept in shown) - len(_GAP) > width:
            shown.remove(number)
    others = sum(widths[kept] + len(_GAP) for kept in shown if kept != flexible)
    widths[flexible] = min(widths[flexible], max(_LEAST_WIDTH, width - others))
    lines = []
    for row in [[(name, "dim") for name in names], *cells]:
        parts: list[tuple[str, str]] = []
        for number in shown:
            text, style = row[number]
            text = shortened(text, widths[number])
            padding = " " * (widths[number] - width_of(text))
            parts += [(padding + text if number in right else text + padding, style), (_GAP, "")]
        lines.append(_line(parts, width))
    return lines


def _age_s(reading: Reading) -> float:
    return (datetime.now(UTC) - reading.at).total_seconds()


def _line(parts: Sequence[tuple[str, str]], width: int) -> Text:
    text = Text.assemble(*((printable(part), style) for part, style in parts), no_wrap=True)
    text.rstrip()
    text.truncate(width, overflow="ellipsis")
    return text


def _state(lease: Lease) -> tuple[str, str]:
    cell = lease_state(lease)
    return cell.text, _RICH[cell.style]


def _style(state: str) -> str:
    return _RICH[STYLES.get(str(state), "")]
