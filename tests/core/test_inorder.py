"""A sorted list and a heap beside it come out as one."""

from __future__ import annotations

from itertools import count

from hypothesis import example, given
from hypothesis import strategies as st

from renewer.core.inorder import InOrder

times = st.integers(0, 20).map(float)
adds = st.lists(st.tuples(times, st.integers(0, 9)), max_size=40).map(lambda pairs: ("add", pairs))
takes = st.integers(0, 25).map(lambda most: ("take", most))
until = times.map(lambda time: ("until", time))


@given(st.lists(st.one_of(adds, takes, until), max_size=30))
def test_what_comes_out_is_what_a_list_that_is_always_sorted_gives(steps) -> None:
    queue: InOrder[int] = InOrder()
    model: list[tuple[float, int]] = []
    for what, value in steps:
        if what == "add":
            queue.add(list(value))
            model = sorted(model + value)
        else:
            if what == "take":
                taken, expected = queue.take(value), model[:value]
            else:
                taken, expected = queue.take_until(value), [pair for pair in model if pair[0] <= value]
            # Of those with one time it is left open which is taken.
            assert [time for time, _ in taken] == [time for time, _ in expected]
            for pair in taken:
                model.remove(pair)
        assert len(queue) == len(model)
        assert (None if queue.first is None else queue.first[0]) == (model[0][0] if model else None)
    queue.clear()
    assert (len(queue), queue.first) == (0, None)


@given(st.lists(st.one_of(adds, takes, until), max_size=30))
@example([("add", [(1.0, 0)] * 5), ("add", [(1.0, 0)]), ("add", [(1.0, 0)] * 10), ("take", 16)])
def test_those_with_one_time_that_are_numbered_come_as_they_were_put_in(steps) -> None:
    queue: InOrder[int] = InOrder()
    model: list[tuple[float, int]] = []
    numbers = count()
    for what, value in steps:
        if what == "add":
            numbered = [(time, next(numbers)) for time, _ in value]
            queue.add(list(numbered))
            model = sorted(model + numbered)
        elif what == "take":
            assert queue.take(value) == model[:value]
            model = model[value:]
        else:
            assert queue.take_until(value) == [pair for pair in model if pair[0] <= value]
            model = [pair for pair in model if pair[0] > value]


def test_one_that_comes_late_among_many_costs_no_new_order_of_all() -> None:
    class Counted(float):
        compared = 0

        def __lt__(self, other: float) -> bool:
            Counted.compared += 1
            return float.__lt__(self, other)

    queue: InOrder[int] = InOrder()
    queue.add([(Counted(number), number) for number in range(10_000)])
    Counted.compared = 0
    for number in range(100):
        queue.add([(Counted(20_000 + number), number)])
        assert len(queue.take(1)) == 1
    assert Counted.compared < 10_000
