"""Columns, colours, spans: what commands print."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest

from renewer.cli.output import Cell, Column, print_details, print_table, printable
from renewer.cli.words import ago, clock, labels, seconds, size, span
from renewer.errors import UsageError

COLUMNS = (Column("id"), Column("name", flexible=True), Column("left", right=True))
ESC = "\x1b"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_columns_are_aligned_and_nothing_is_cut_or_coloured_where_no_terminal_is() -> None:
    out = io.StringIO()
    print_table(COLUMNS, [["a", Cell("x" * 100, "bad"), "1 s"], ["bb", "y", "10 s"]], out=out)
    assert lines(out) == [
        "ID  " + "NAME".ljust(100) + "  LEFT",
        "a   " + "x" * 100 + "   1 s",
        "bb  " + "y".ljust(100) + "  10 s",
    ]


def test_a_terminal_that_is_too_narrow_cuts_what_is_flexible_and_never_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    identity = "lease-0123456789abcdef"
    print_table(COLUMNS, [[identity, "x" * 100, "1 s"]], out=out)
    assert lines(out)[1] == f"{identity}  {'x' * 9}…   1 s"
    assert max(map(len, lines(out))) == 40


def test_a_terminal_has_colours_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = Terminal()
    print_details([("state", Cell("lost", "bad"))], out=coloured)
    assert f"{ESC}[1;31mlost{ESC}[0m" in coloured.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    print_details([("state", Cell("lost", "bad"))], out=plain)
    assert plain.getvalue() == "state  lost\n"


def test_columns_that_nobody_filled_are_left_out_and_details_too() -> None:
    out = io.StringIO()
    print_table(COLUMNS, [["a", "", "1 s"]], out=out)
    assert lines(out)[0].split() == ["ID", "LEFT"]
    out = io.StringIO()
    print_details([("kept", "x"), ("gone", "")], out=out)
    assert lines(out) == ["kept  x"]


def test_text_from_elsewhere_cannot_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\nc") == "a\\u001b[2Jb\\nc"
    out = io.StringIO()
    print_table(COLUMNS, [["a", f"{ESC}]0;gotcha\x07", ""]], out=out)
    assert ESC not in out.getvalue()


def test_wide_letters_count_twice() -> None:
    out = io.StringIO()
    print_table(COLUMNS, [["注文", "x", "1 s"], ["ab", "y", "2 s"]], out=out)
    assert lines(out)[1].startswith("注文  x")
    assert lines(out)[2].startswith("ab    y")


@pytest.mark.parametrize(
    ("length_s", "shown"),
    [
        *((-0.0, "0 ms"), (-0.0004, "0 ms"), (-0.0006, "-1 ms")),
        *((0, "0 ms"), (0.35, "350 ms"), (12.34, "12.3 s"), (-12.34, "-12.3 s"), (60, "1 m"), (250, "4 m 10 s")),
        *((3599.9, "1 h"), (11_100, "3 h 5 m"), (86_400, "1 d"), (187_200, "2 d 4 h"), (None, "")),
    ],
)
def test_spans_are_shown_in_two_units_at_most(length_s: float | None, shown: str) -> None:
    assert span(length_s) == shown


def test_moments_are_shown_by_their_distance() -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert ago(now + timedelta(seconds=5), now) == "in 5.0 s"
    assert ago(now - timedelta(minutes=5), now) == "5 m ago"
    assert ago(now, now) == "now"
    assert ago(None) == ""
    assert clock(now) == "12:00:00Z"


@pytest.mark.parametrize(
    ("text", "length_s"), [("500ms", 0.5), ("30s", 30), ("1h30m", 5400), ("1.5", 1.5), ("0", 0), ("2d", 172_800)]
)
def test_durations_are_read_as_in_the_configuration(text: str, length_s: float) -> None:
    assert seconds("--wait", text) == length_s


@pytest.mark.parametrize("text", ["", "x", "-1", "1w", "1h 30m", "nan", "inf", "9" * 40])
def test_what_is_no_duration_is_refused_by_the_name_of_its_option(text: str) -> None:
    with pytest.raises(UsageError, match="--wait"):
        seconds("--wait", text)


def test_labels_are_names_and_values() -> None:
    assert labels(["a=b", "c=d=e", "f="]) == {"a": "b", "c": "d=e", "f": ""}
    for wrong in ("a", "=b"):
        with pytest.raises(UsageError, match="--label"):
            labels([wrong])


def test_sizes_are_shown_in_a_unit_that_fits() -> None:
    assert [size(n) for n in (0, 1023, 1536, 5 * 1024**2)] == ["0 B", "1023 B", "1.5 KiB", "5.0 MiB"]
