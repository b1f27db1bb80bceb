"""What `make bench` says of a figure."""

from __future__ import annotations

import json

import pytest

from benchmarks.figures import Figure, Wanted, table


def figure(ours: list[float], theirs: list[float], wanted: Wanted | None = None) -> Figure:
    return Figure("1,000 sessions", "CPU per renewal", "us", ours, "SDK", theirs, wanted)


def test_the_ratio_is_that_of_the_medians() -> None:
    assert figure([1, 2, 90], [10, 20, 21]).ratio == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("which", "bound", "is_good"),
    [("at most", 0.1, True), ("at most", 0.09, False), ("at least", 0.1, True), ("at least", 0.11, False)],
)
def test_a_bound_holds_for_the_ratio(which: str, bound: float, is_good: bool) -> None:
    assert figure([2], [20], Wanted(which, bound)).is_good is is_good  # type: ignore[arg-type]


def test_a_bound_holds_for_the_value_where_there_is_no_peer() -> None:
    alone = Figure("5,000 sessions", "lost", "", [0], wanted=Wanted("at most", 0))
    assert alone.ratio is None
    assert alone.is_good


def test_nothing_is_said_of_what_nobody_asked_for() -> None:
    assert figure([1], [2]).is_good is None


def test_the_table_says_what_was_not_reached() -> None:
    lines = table([figure([300, 320, 280], [1000, 900, 1100], Wanted("at most", 0.2))]).splitlines()
    assert [cell.strip() for cell in lines[-1].split("|")[1:-1]] == [
        "1,000 sessions", "CPU per renewal", "300 us (280 to 320)", "SDK", "1,000 us (900 to 1,100)", "0.300",
        "<= 0.200 (not reached)",
    ]  # fmt: skip


def test_each_row_of_the_table_is_as_wide_as_the_next() -> None:
    rows = table([figure([1], [2]), Figure("a", "b", "", [0.00001])]).splitlines()
    assert len({len(row) for row in rows}) == 1


def test_each_round_is_written_down() -> None:
    said = json.loads(json.dumps(figure([1, 3], [2, 2], Wanted("at most", 2)).as_json()))
    assert said["ours"] == [1, 3]
    assert said["ratio"] == 1.0
    assert said["is_good"] is True
