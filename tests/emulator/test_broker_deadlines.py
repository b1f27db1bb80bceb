from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from renewer.emulator.broker.deadlines import Deadlines, Ending


class Thing(Ending):
    __slots__ = ("name",)

    def __init__(self, name: str, ends_at: float | None) -> None:
        self.name = name
        self.ends_at = ends_at

    def end(self, now: float) -> None:
        raise AssertionError("the heap only finds what has ended")


def ended(deadlines: Deadlines, now: float) -> list[str]:
    return [thing.name for thing in deadlines.pop_due(now) if isinstance(thing, Thing)]


def test_what_ends_comes_out_in_order_and_not_before_its_time() -> None:
    deadlines = Deadlines()
    for name, ends_at in (("late", 9.0), ("early", 1.0), ("middle", 5.0)):
        deadlines.add(Thing(name, ends_at))
    assert deadlines.next_due() == 1.0
    assert ended(deadlines, 0.999) == []
    assert ended(deadlines, 5.0) == ["early", "middle"]
    assert ended(deadlines, 100.0) == ["late"]
    assert deadlines.next_due() is None


def test_of_two_that_end_together_the_first_added_comes_first() -> None:
    deadlines = Deadlines()
    for name in "cab":
        deadlines.add(Thing(name, 1.0))
    assert ended(deadlines, 1.0) == ["c", "a", "b"]


def test_what_is_prolonged_ends_later_and_only_once() -> None:
    deadlines = Deadlines()
    thing = Thing("lock", 1.0)
    deadlines.add(thing)
    thing.ends_at = 7.0
    assert ended(deadlines, 6.9) == []
    assert deadlines.next_due() == 7.0
    assert ended(deadlines, 7.0) == ["lock"]
    assert ended(deadlines, 99.0) == []


def test_what_is_cancelled_does_not_end() -> None:
    deadlines = Deadlines()
    thing = Thing("lock", 1.0)
    deadlines.add(thing)
    deadlines.cancel(thing)
    deadlines.cancel(thing)
    assert ended(deadlines, 99.0) == []


def test_what_never_ends_takes_no_room() -> None:
    deadlines = Deadlines()
    deadlines.add(Thing("for ever", None))
    assert len(deadlines) == 0


def test_the_cancelled_ones_are_swept_out() -> None:
    deadlines = Deadlines()
    for number in range(10_000):
        thing = Thing(str(number), 1000.0 + number)
        deadlines.add(thing)
        deadlines.cancel(thing)
    assert len(deadlines) < 1000


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 100)),
            st.tuples(st.just("prolong"), st.integers(0, 30)),
            st.tuples(st.just("cancel"), st.integers(0, 1000)),
            st.tuples(st.just("pass"), st.integers(0, 40)),
        ),
        max_size=80,
    )
)
def test_it_does_what_a_plain_dictionary_of_ends_does(steps: list[tuple[str, int]]) -> None:
    deadlines, plain, now = Deadlines(), dict[Thing, float](), 0.0
    for step, number in steps:
        living = [*plain]
        match step:
            case "add":
                thing = Thing("", now + number)
                plain[thing] = now + number
                deadlines.add(thing)
            case "prolong" if living:
                thing = living[number % len(living)]
                plain[thing] = thing.ends_at = max(plain[thing], now + number)
            case "cancel" if living:
                thing = living[number % len(living)]
                del plain[thing]
                deadlines.cancel(thing)
            case "pass":
                now += number
                expected = {thing for thing, ends_at in plain.items() if ends_at <= now}
                assert set(deadlines.pop_due(now)) == expected
                plain = {thing: ends_at for thing, ends_at in plain.items() if thing not in expected}
        next_due = deadlines.next_due()
        if plain:
            assert next_due is not None
            assert next_due <= min(plain.values())
