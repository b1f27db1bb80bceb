from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from renewer.core.duequeue import DueQueue

SWEEP_MINIMUM = 64


def drain(queue: DueQueue[str], now: float) -> list[str]:
    keys = []
    while (key := queue.pop_due(now)) is not None:
        keys.append(key)
    return keys


def stale_entries(queue: DueQueue[Any]) -> int:
    held = len(queue._next) + sum(map(len, queue._buckets.values()))
    assert held == queue._entries
    return held - len(queue)


def test_an_empty_queue_has_nothing_due() -> None:
    queue: DueQueue[str] = DueQueue()
    assert queue.next_due() is None
    assert queue.pop_due(float("inf")) is None
    assert len(queue) == 0
    assert "a" not in queue
    assert queue.due_at("a") is None


@pytest.mark.parametrize(("now", "popped"), [(9.999, None), (10.0, "a"), (10.001, "a")])
def test_a_key_comes_out_at_its_due_time_and_not_before(now: float, popped: str | None) -> None:
    queue: DueQueue[str] = DueQueue()
    queue.schedule("a", 10.0)
    assert queue.next_due() == 10.0
    assert queue.pop_due(now) == popped
    assert ("a" in queue) == (popped is None)


def test_a_key_comes_out_once() -> None:
    queue: DueQueue[str] = DueQueue()
    queue.schedule("a", 1.0)
    assert drain(queue, 5.0) == ["a"]
    assert queue.next_due() is None


def test_the_longest_due_comes_first() -> None:
    queue: DueQueue[str] = DueQueue()
    for key, due_at in [("c", 2.0), ("b", 2.5), ("a", 3.0), ("z", 1.0)]:
        queue.schedule(key, due_at)
    assert drain(queue, 3.0) == ["z", "c", "b", "a"]


def test_all_that_are_due_come_out_together_in_the_same_order() -> None:
    queue: DueQueue[str] = DueQueue()
    for number in range(100):
        queue.schedule(f"{number:04}", 7.0 - number / 16)
    queue.schedule("later", 7.5)
    assert queue.pop_all_due(7.0) == [f"{number:04}" for number in reversed(range(100))]
    assert queue.pop_all_due(7.0) == []
    assert queue.next_due() == 7.5


def test_rescheduling_later_leaves_nothing_due_at_the_old_time() -> None:
    queue: DueQueue[str] = DueQueue()
    queue.schedule("a", 1.0)
    queue.schedule("a", 2.0)
    assert queue.next_due() == 2.0
    assert queue.pop_due(1.5) is None
    assert drain(queue, 2.0) == ["a"]


def test_rescheduling_earlier_takes_effect_at_once_and_the_old_time_is_void() -> None:
    queue: DueQueue[str] = DueQueue()
    queue.schedule("a", 5.0)
    queue.schedule("a", 1.0)
    assert drain(queue, 1.0) == ["a"]
    assert drain(queue, 5.0) == []


def test_rescheduling_back_to_an_earlier_choice_still_comes_out_once() -> None:
    queue: DueQueue[str] = DueQueue()
    for due_at in (5.0, 7.0, 5.0):
        queue.schedule("a", due_at)
    assert drain(queue, 10.0) == ["a"]


def test_scheduling_at_the_same_time_again_costs_no_memory() -> None:
    queue: DueQueue[str] = DueQueue()
    for _ in range(1000):
        queue.schedule("a", 5.0)
    assert stale_entries(queue) == 0


def test_a_cancelled_key_never_comes_out_and_cancelling_twice_is_no_error() -> None:
    queue: DueQueue[str] = DueQueue()
    queue.schedule("a", 0.0)
    queue.schedule("b", 1.0)
    queue.cancel("a")
    queue.cancel("a")
    queue.cancel("nobody")
    assert drain(queue, 1.0) == ["b"]


def test_scheduling_for_never_takes_a_key_out() -> None:
    queue: DueQueue[str] = DueQueue()
    queue.schedule("a", 1.0)
    queue.schedule("a", None)
    assert "a" not in queue
    assert queue.next_due() is None


def test_a_key_due_at_infinity_is_scheduled_but_never_due_before() -> None:
    queue: DueQueue[str] = DueQueue()
    queue.schedule("a", float("inf"))
    assert queue.next_due() == float("inf")
    assert queue.pop_due(1e300) is None


def test_memory_stays_proportional_while_one_key_is_rescheduled_for_ever() -> None:
    queue: DueQueue[str] = DueQueue()
    for instant in range(10_000):
        queue.schedule("a", float(instant))
        assert stale_entries(queue) <= len(queue) + SWEEP_MINIMUM


def test_memory_stays_proportional_when_the_live_entries_are_popped_from_above_the_stale_ones() -> None:
    queue: DueQueue[str] = DueQueue()
    for number in range(1000):
        queue.schedule(f"{number:04}", 1e6 + number)
    for number in range(1000):
        queue.schedule(f"{number:04}", float(number))
    for number in range(1000):
        assert queue.pop_due(1000.0) == f"{number:04}"
        assert stale_entries(queue) <= len(queue) + SWEEP_MINIMUM


def test_a_hundred_thousand_keys_rescheduled_at_random_come_out_in_order() -> None:
    queue: DueQueue[int] = DueQueue()
    chance = random.Random(7)
    for _ in range(2):
        for key in range(100_000):
            queue.schedule(key, chance.random() * 1000)
    assert len(queue) == 100_000
    assert stale_entries(queue) <= len(queue) + SWEEP_MINIMUM
    last, popped = -1.0, 0
    while (next_due := queue.next_due()) is not None:
        assert next_due >= last
        last = next_due
        assert queue.pop_due(next_due) is not None
        popped += 1
    assert popped == 100_000


class QueueAgainstADict(RuleBasedStateMachine):
    """The queue does what a dict of due times does, and stays small."""

    keys = st.sampled_from("abcdefgh")
    instants = st.integers(0, 40).map(lambda eighths: eighths / 8)

    @initialize()
    def begin(self) -> None:
        self.queue: DueQueue[str] = DueQueue()
        self.model: dict[str, float] = {}

    @rule(key=keys, due_at=instants)
    def schedule(self, key: str, due_at: float) -> None:
        self.queue.schedule(key, due_at)
        self.model[key] = due_at

    @rule(key=keys, first=instants, times=st.integers(1, 200))
    def schedule_often(self, key: str, first: float, times: int) -> None:
        for step in range(times):
            self.schedule(key, first + step / 8)

    @rule(key=keys)
    def schedule_for_never(self, key: str) -> None:
        self.queue.schedule(key, None)
        self.model.pop(key, None)

    @rule(key=keys)
    def cancel(self, key: str) -> None:
        self.queue.cancel(key)
        self.model.pop(key, None)

    @rule(now=instants)
    def pop_one(self, now: float) -> None:
        popped = self.queue.pop_due(now)
        if popped is None:
            assert min(self.model.values(), default=now + 1) > now
        else:
            # Of those that have been due for as long, any.
            due_at = self.model.pop(popped)
            assert due_at <= min([now, *self.model.values()])

    @rule(now=instants)
    def pop_all(self, now: float) -> None:
        expected = sorted(due_at for due_at in self.model.values() if due_at <= now)
        assert [self.model.pop(key) for key in self.queue.pop_all_due(now)] == expected

    @precondition(lambda self: self.model)
    @rule()
    def pop_the_next(self) -> None:
        self.pop_one(min(self.model.values()))

    @invariant()
    def says_the_same(self) -> None:
        assert self.queue.next_due() == min(self.model.values(), default=None)
        assert len(self.queue) == len(self.model)
        for key in "abcdefgh":
            assert (key in self.queue) == (key in self.model)
            assert self.queue.due_at(key) == self.model.get(key)

    @invariant()
    def stays_small(self) -> None:
        assert stale_entries(self.queue) <= len(self.queue) + SWEEP_MINIMUM


TestQueueAgainstADict = QueueAgainstADict.TestCase
