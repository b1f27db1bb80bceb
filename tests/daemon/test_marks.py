"""In which order things are stored: what somebody waits for first, the rest too, and the last state of each."""

from __future__ import annotations

import pytest

from renewer.daemon.marks import AT_LEISURE, BATCH, Mark, Marks
from renewer.ports import EntryKind

OPERATION = EntryKind.OPERATION


def marks_of(*, routine: int = 0, awaited: int = 0) -> Marks:
    marks = Marks()
    for number in range(routine):
        marks.add(OPERATION, f"routine-{number}")
    for number in range(awaited):
        marks.add(OPERATION, f"awaited-{number}")
        marks.hurry(f"awaited-{number}")
    return marks


def count(taken: dict[str, Mark], what: str) -> int:
    return sum(key.startswith(what) for key in taken)


def test_what_somebody_waits_for_overtakes_thousands_that_nobody_waits_for() -> None:
    marks = marks_of(routine=10_000)
    marks.add(OPERATION, "new")
    marks.hurry("new")
    marks.hurry("routine-9000")
    taken = marks.take()
    assert list(taken)[:2] == ["new", "routine-9000"]
    assert len(taken) == 2 + AT_LEISURE


def test_what_nobody_waits_for_is_stored_all_the_same_however_much_is_awaited() -> None:
    marks = marks_of(routine=1_000, awaited=10_000)
    batches = 0
    while count(taken := marks.take(), "routine"):
        batches += 1
        assert len(taken) == BATCH
        assert count(taken, "awaited") == BATCH - AT_LEISURE
        for number in range(BATCH):
            marks.add(OPERATION, f"awaited-{batches}-{number}")
            marks.hurry(f"awaited-{batches}-{number}")
    assert batches == 1_000 // AT_LEISURE


@pytest.mark.parametrize(
    ("routine", "awaited", "taken"),
    [
        (0, 0, 0),
        (99, 0, 99),
        (400, 0, AT_LEISURE),
        (1_000, 0, 250),
        (10_000, 0, BATCH),
        (0, 600, BATCH),
        (1, 600, BATCH),
        (10_000, 1, 1 + AT_LEISURE),
        (10_000, 10_000, BATCH),
    ],
)
def test_a_batch_is_bounded(routine: int, awaited: int, taken: int) -> None:
    marks = marks_of(routine=routine, awaited=awaited)
    assert len(marks.take()) == taken
    assert len(marks) == routine + awaited - taken


def test_both_are_taken_in_the_order_in_which_they_came() -> None:
    marks = marks_of(routine=3, awaited=3)
    marks.hurry("routine-1")
    keys = ["awaited-0", "awaited-1", "awaited-2", "routine-1", "routine-0", "routine-2"]
    assert list(marks.take()) == keys


def test_a_key_has_one_mark_whoever_waits_for_it() -> None:
    marks = Marks()
    first = marks.add(OPERATION, "a")
    marks.hurry("a")
    marks.hurry("a")
    assert marks.add(OPERATION, "a") is first
    assert marks.get("a") is first
    assert (len(marks), "a" in marks) == (1, True)
    assert marks.take() == {"a": first}
    assert (len(marks), "a" in marks, marks.get("a")) == (0, False, None)
    marks.hurry("a")
    assert len(marks) == 0
    again = marks.add(OPERATION, "a")
    assert again is not first
    assert marks.take_all() == {"a": again}


def test_everything_can_be_hurried_behind_what_is_waited_for_already() -> None:
    marks = marks_of(routine=1_000, awaited=1)
    marks.hurry_all()
    taken = marks.take()
    assert len(taken) == BATCH
    assert next(iter(taken)) == "awaited-0"
    assert len(list(marks)) == len(marks) == 501
