"""What is kept of past events: all of it, in order, within its bounds, and in little memory."""

from __future__ import annotations

import json
import sys
import tracemalloc
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.daemon.eventpast import EventPast, KeptEvent

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
UNBOUNDED = sys.maxsize


def event(number: int, type_: str = "lease.acquired", text: str = "") -> KeptEvent:
    return KeptEvent(type_, MOMENT + timedelta(microseconds=number), f"a\t{number}\n", json.dumps({"é\n": text}))


def past_of(count: int, *, size: int = UNBOUNDED) -> EventPast:
    past = EventPast(size, UNBOUNDED)
    for number in range(1, count + 1):
        past.append(event(number))
    return past


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 1000])
def test_events_come_back_as_they_were_with_their_numbers(count: int) -> None:
    past = past_of(count)
    assert list(past.after(0)) == [(number, event(number)) for number in range(1, count + 1)]
    assert (past.last, past.gone) == (count, 0)


@given(st.integers(0, 700), st.integers(1, 400), st.integers(0, 800))
def test_what_follows_a_number_is_what_is_kept_and_follows_it(count: int, size: int, after: int) -> None:
    past = past_of(count, size=size)
    assert past.gone == max(0, count - size)
    wanted = range(max(after, past.gone) + 1, count + 1)
    assert [number for number, _ in past.after(after)] == list(wanted)
    assert [found.time for _, found in past.after(after)] == [event(number).time for number in wanted]


def test_the_newest_of_some_types_come_first() -> None:
    past = EventPast(900, UNBOUNDED)
    for number in range(1, 1001):
        past.append(event(number, "lease.lost" if number % 300 == 0 else "lease.acquired"))
    assert [number for number, _ in past.newest_first({"lease.lost"})] == [900, 600, 300]
    assert [found.type for _, found in past.newest_first({"lease.lost"})] == ["lease.lost"] * 3
    assert [number for number, _ in past.newest_first({"lease.acquired"})][:2] == [1000, 999]
    assert list(past.newest_first({"lease.released"})) == []


def test_what_weighs_too_much_is_let_go_oldest_first() -> None:
    long = event(0, text="x" * 10_000)
    past = EventPast(UNBOUNDED, 10 * long.weight)
    for _ in range(25):
        past.append(long)
    assert [number for number, _ in past.after(0)] == list(range(16, 26))
    past.append(event(0, text="x" * 200_000))
    assert (past.last, past.gone, list(past.after(0))) == (26, 26, [])
    past.append(event(27))
    assert list(past.after(0)) == [(27, event(27))]


def test_ten_thousand_events_take_little_memory() -> None:
    tracemalloc.start()
    try:
        past = past_of(10_000)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert past.gone == 0
    assert taken < 60 * 10_000
