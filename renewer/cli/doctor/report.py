"""How the findings are told: lines for people, one document for programs, and what is under way meanwhile."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import IO, TYPE_CHECKING, Final

import renewer
from renewer.cli.doctor.findings import Examination, Finding, Verdict, worst
from renewer.cli.output import Style, has_colours, painted, print_json, printable, terminal_width

if TYPE_CHECKING:
    from rich.status import Status

_STYLES: Final[dict[Verdict, Style]] = {Verdict.OK: "good", Verdict.WARN: "warn", Verdict.FAIL: "bad"}
_MAX_SHOWN: Final = 60
_LEAST_WIDTH: Final = 40


class Progress:
    """Says, on a terminal alone and beside the output, which checks are under way."""

    def __init__(self, examinations: Sequence[Examination] = ()) -> None:
        self.examinations = examinations
        self._status: Status | None = None

    def showing(self) -> AbstractContextManager[object]:
        """While this lasts, it is shown."""
        if not sys.stderr.isatty():
            return nullcontext()
        from rich.console import Console

        self._status = Console(stderr=True).status("looking around")
        return self._status

    def changed(self) -> None:
        """A check began or ended."""
        if self._status is not None:
            busy = [f"{each.subject} {each.under_way}" for each in self.examinations if each.under_way]
            self._status.update(printable("checking " + textwrap.shorten(", ".join(busy), _MAX_SHOWN)))


def print_findings(findings: Sequence[Finding], *, out: IO[str] | None = None) -> None:
    """For people: subject by subject, each check on a line, and beneath it what to do."""
    stream = sys.stdout if out is None else out
    colours, width = has_colours(stream), terminal_width(stream)
    indent = 8 + max((len(finding.check) for finding in findings), default=0) + 2
    if width is not None and width - indent < _LEAST_WIDTH:
        indent = 8
    for subject, group in groupby(findings, key=lambda finding: finding.subject):
        stream.write(painted(printable(subject), "bold", colours) + "\n")
        for finding in group:
            verdict = painted(f"{finding.verdict.value:<4}", _STYLES[finding.verdict], colours)
            check = printable(finding.check)
            head = f"  {verdict}  {check}"
            seen = _lines(finding.seen, indent, width)
            if len(check) + 10 > indent:
                stream.write(f"{head}\n{' ' * indent}{seen}\n")
            else:
                stream.write(f"{head}{' ' * (indent - 8 - len(check))}{seen}\n")
            if finding.remedy is not None:
                stream.write(f"{' ' * indent}{_lines(f'→ {finding.remedy}', indent, width)}\n")
    stream.write(f"\n{summary(findings)}\n")


def print_document(findings: Sequence[Finding]) -> None:
    """For programs: one JSON document."""
    print_json({"version": renewer.__version__, "verdict": worst(list(findings)), "checks": list(findings)})


def summary(findings: Sequence[Finding]) -> str:
    """How many checks came out how."""
    counts = {verdict: sum(finding.verdict is verdict for finding in findings) for verdict in Verdict}
    return (
        f"{_count(len(findings), 'check')}: {counts[Verdict.OK]} ok, {_count(counts[Verdict.WARN], 'warning')}, "
        f"{_count(counts[Verdict.FAIL], 'failure')}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _lines(text: str, indent: int, width: int | None) -> str:
    """The text, broken where a terminal would break it anyway, but under its own beginning."""
    text = printable(text)
    if width is None:
        return text
    room = max(width - indent, 20)
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
    return f"\n{' ' * indent}".join(lines)
