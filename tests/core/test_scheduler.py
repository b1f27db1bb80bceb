from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from renewer.core.effects import CancelAttempt, Effect, StartAcquire, StartRenew, TellLease
from renewer.core.events import (
    Event,
    LeaseAttemptFailed,
    LeaseGranted,
    LeaseRegistered,
    LeaseReleaseRequested,
    LinkLost,
    OperationAnswered,
    OperationAttemptFailed,
    OperationRegistered,
    ResultFetched,
)
from renewer.core.model import (
    NO_RESULT,
    Ended,
    Grant,
    LeaseId,
    LeaseSpec,
    OperationId,
    OperationSpec,
    StillRunning,
    Transient,
)
from renewer.core.scheduler import Scheduler
from renewer.core.states import LeaseKind, LeaseState, LossReason, OperationState
from renewer.core.timing import RenewalPolicy
from tests.core.playbook import OperationStory, held, line


def lease_spec(name: str, policy: RenewalPolicy | None = None) -> LeaseSpec:
    policy = RenewalPolicy() if policy is None else policy
    return LeaseSpec(LeaseId(name), target="servicebus.main", entity="orders", policy=policy)


def operation_spec(name: str) -> OperationSpec:
    return OperationSpec(OperationId(name), account="fabric.main", request="POST")


def with_held_leases(*deadlines: float, lock_s: float = 5.0) -> Scheduler:
    """A scheduler with leases "0", "1", …, acquired by requests sent at these times."""
    scheduler = Scheduler()
    for number, sent_at in enumerate(deadlines):
        name = LeaseId(str(number))
        scheduler.handle(LeaseRegistered(lease_spec(name)), sent_at, 0.0)
        scheduler.advance(sent_at, lambda: 0.0)
        scheduler.handle(LeaseGranted(name, 1, 1, Grant(sent_at, lock_s)), sent_at, 0.0)
    return scheduler


def named(effects: list[Effect]) -> list[tuple[str, str]]:
    return [(str(effect.spec.id), line(effect)) for effect in effects if not isinstance(effect, CancelAttempt)]


def test_a_new_scheduler_has_nothing_to_do() -> None:
    scheduler = Scheduler()
    assert scheduler.next_due() is None
    assert scheduler.queue_length == 0
    assert scheduler.advance(1e9, lambda: 0.0) == []
    assert list(scheduler.leases()) == []
    assert list(scheduler.operations()) == []
    assert scheduler.lease(LeaseId("nobody")) is None
    assert scheduler.operation(OperationId("nobody")) is None


def test_events_reach_the_lease_and_the_operation_that_they_name_and_no_other() -> None:
    scheduler = Scheduler()
    for name in ("a", "b"):
        scheduler.handle(LeaseRegistered(lease_spec(name)), 0.0, 0.0)
        scheduler.handle(OperationRegistered(operation_spec(f"op-{name}")), 0.0, 0.0)
    scheduler.advance(0.0, lambda: 0.0)
    scheduler.handle(LeaseGranted(LeaseId("b"), 1, 1, Grant(0.0, 5.0)), 0.0, 0.0)
    scheduler.handle(OperationAnswered(OperationId("op-b"), 1, StillRunning()), 0.0, 0.0)
    assert [(lease.spec.id, lease.state) for lease in scheduler.leases()] == [
        ("a", LeaseState.ACQUIRING),
        ("b", LeaseState.HELD),
    ]
    assert [(operation.spec.id, operation.state) for operation in scheduler.operations()] == [
        ("op-a", OperationState.ACCEPTED),
        ("op-b", OperationState.RUNNING),
    ]


def test_events_for_the_unknown_are_ignored() -> None:
    scheduler = with_held_leases(0.0)
    nobody, nothing = LeaseId("nobody"), OperationId("nothing")
    failure = Transient("server", "500")
    events: list[Event] = [
        LeaseGranted(nobody, 1, 1, Grant(0.0, 5.0)),
        LeaseAttemptFailed(nobody, 1, 1, failure),
        LinkLost(nobody, 1, LossReason.DETACHED, "gone"),
        LeaseReleaseRequested(nobody),
        OperationAnswered(nothing, 1, Ended("failed")),
        ResultFetched(nothing, 1, NO_RESULT),
        OperationAttemptFailed(nothing, 1, failure),
    ]
    for event in events:
        assert scheduler.handle(event, 1.0, 0.0) == []
    assert scheduler.next_due() == 2.5
    assert scheduler.queue_length == 1


def test_registering_the_same_ids_again_changes_nothing() -> None:
    scheduler = Scheduler()
    for now in (0.0, 1.0):
        lease = scheduler.handle(LeaseRegistered(lease_spec("a")), now, 0.0)
        operation = scheduler.handle(OperationRegistered(operation_spec("o")), now, 0.0)
        assert (len(lease), len(operation)) == ((1, 1) if now == 0.0 else (0, 0))
    assert scheduler.queue_length == 2
    assert scheduler.next_due() == 0.0


def test_an_operation_cannot_take_the_place_of_a_lease_that_has_its_id() -> None:
    scheduler = with_held_leases(0.0)
    assert scheduler.handle(OperationRegistered(operation_spec("0")), 1.0, 0.0) == []
    assert scheduler.operation(OperationId("0")) is None
    assert scheduler.queue_length == 1
    assert named(scheduler.advance(2.5, lambda: 0.0)) == [("0", "renew epoch 1 as #2, due 2.5, until 10")]


def test_a_lease_cannot_take_the_place_of_an_operation_that_has_its_id() -> None:
    scheduler = Scheduler()
    scheduler.handle(OperationRegistered(operation_spec("o"), StillRunning(retry_after_s=20.0)), 0.0, 0.0)
    assert scheduler.handle(LeaseRegistered(lease_spec("o")), 1.0, 0.0) == []
    assert scheduler.lease(LeaseId("o")) is None
    assert named(scheduler.advance(20.0, lambda: 0.0)) == [("o", "poll None as #1, due 20, until 80")]


def test_of_all_that_is_due_the_lock_that_ends_first_goes_first() -> None:
    scheduler = with_held_leases(0.0, 0.25, 0.5)
    scheduler.handle(OperationRegistered(operation_spec("o"), StillRunning(retry_after_s=2.0)), 0.625, 0.0)
    assert named(scheduler.advance(4.0, lambda: 0.0)) == [
        ("0", "renew epoch 1 as #2, due 2.5, until 10"),
        ("1", "renew epoch 1 as #2, due 2.75, until 10.25"),
        ("2", "renew epoch 1 as #2, due 3, until 10.5"),
        ("o", "poll None as #1, due 2.625, until 64"),
    ]


def test_nothing_is_done_before_it_is_due_and_everything_that_is_due_is_done_in_one_go() -> None:
    scheduler = with_held_leases(0.0, 1.0)
    assert scheduler.advance(2.499, lambda: 0.0) == []
    assert len(scheduler.advance(3.5, lambda: 0.0)) == 2
    assert scheduler.advance(3.5, lambda: 0.0) == []


def test_what_is_due_again_at_once_waits_for_the_next_call_and_does_not_hold_up_the_rest() -> None:
    scheduler = with_held_leases(0.0, 1.0)
    scheduler.handle(LeaseRegistered(lease_spec("x")), 1.0, 0.0)
    scheduler.advance(1.0, lambda: 0.0)
    scheduler.handle(LeaseGranted(LeaseId("x"), 1, 1, Grant(1.0, 0.25)), 1.0, 0.0)
    first = named(scheduler.advance(1.5, lambda: 0.0))
    assert first == [("x", "tell at_risk epoch 1"), ("x", "renew epoch 1 as #2, due 1.125, until 1.75")]
    # A quarter of a second of silence later the lease is lost, due to be acquired at once, and the others are due.
    second = named(scheduler.advance(4.0, lambda: 0.0))
    assert second == [
        ("x", "release epoch 1"),
        ("x", "tell lost epoch 1: expired"),
        ("0", "renew epoch 1 as #2, due 2.5, until 10"),
        ("1", "renew epoch 1 as #2, due 3.5, until 11"),
    ]
    assert scheduler.next_due() == 4.0
    assert named(scheduler.advance(4.0, lambda: 0.0)) == [("x", "acquire epoch 2 as #3, due 4, until 79")]


def test_each_item_draws_its_own_random_number() -> None:
    scheduler = Scheduler()
    for name in ("a", "b"):
        scheduler.handle(LeaseRegistered(lease_spec(name)), 0.0, 0.0)
    scheduler.advance(0.0, lambda: 0.0)
    drawn = iter([0.25, 0.5])
    scheduler.advance(76.0, lambda: next(drawn))
    assert [lease.next_attempt_at for lease in scheduler.leases()] == [76.25, 76.5]


def test_leases_and_operations_are_listed_in_the_order_of_their_registration() -> None:
    scheduler = Scheduler()
    for name in ("c", "a", "b"):
        scheduler.handle(LeaseRegistered(lease_spec(name)), 0.0, 0.0)
        scheduler.handle(OperationRegistered(operation_spec(f"op-{name}")), 0.0, 0.0)
    assert [lease.spec.id for lease in scheduler.leases()] == ["c", "a", "b"]
    assert [operation.spec.id for operation in scheduler.operations()] == ["op-c", "op-a", "op-b"]


def test_the_queue_holds_ended_things_until_they_are_forgotten_and_not_longer() -> None:
    scheduler = with_held_leases(0.0)
    scheduler.handle(OperationRegistered(operation_spec("o"), Ended("failed")), 0.0, 0.0)
    scheduler.handle(LeaseReleaseRequested(LeaseId("0")), 1.0, 0.0)
    assert scheduler.queue_length == 2
    assert named(scheduler.advance(1e6, lambda: 0.0)) == [
        ("0", "tell forgotten epoch 1"),
        ("o", "tell forgotten failed"),
    ]
    assert scheduler.queue_length == 0
    assert scheduler.next_due() is None
    assert list(scheduler.leases()) == []
    assert list(scheduler.operations()) == []


def test_a_thousand_leases_are_renewed_for_a_minute_each_on_time() -> None:
    scheduler = with_held_leases(*(number / 1024 for number in range(1024)), lock_s=10.0)
    renewed = dict.fromkeys((lease.spec.id for lease in scheduler.leases()), 0)
    while (now := scheduler.next_due()) is not None and now <= 60.0:
        for effect in scheduler.advance(now, lambda: 0.0):
            assert isinstance(effect, StartRenew)
            assert effect.due_at == now
            grant = LeaseGranted(effect.spec.id, effect.epoch, effect.attempt, Grant(now, 10.0))
            (told,) = scheduler.handle(grant, now, 0.0)
            assert isinstance(told, TellLease)
            assert told.margin_s is not None
            assert 5.0 <= told.margin_s <= 5.0 + 10.0 / 20
            renewed[effect.spec.id] += 1
    assert set(renewed.values()) == {11, 12}


@pytest.mark.parametrize("count", [100, 1_000, 20_000])
def test_sessions_share_their_moments_unless_that_would_be_too_many(count: int) -> None:
    scheduler = with_held_leases(*(13.5 * number / count for number in range(count)), lock_s=30.0)
    # Those of the second half: the first were granted while there were few.
    moments = Counter(lease.next_attempt_at for lease in list(scheduler.leases())[count // 2 :])
    assert max(moments.values()) <= 200
    assert len(moments) <= max(128, count // 100)


def test_acquisitions_of_a_thousand_leases_start_in_one_go() -> None:
    scheduler = Scheduler()
    for number in range(1000):
        scheduler.handle(LeaseRegistered(lease_spec(f"{number:04}")), 0.0, 0.0)
    started = scheduler.advance(0.0, lambda: 0.0)
    assert all(isinstance(effect, StartAcquire) for effect in started)
    assert len(started) == 1000


def test_what_lives_is_counted_apart_from_what_has_ended() -> None:
    story = held()
    scheduler = story.scheduler
    assert (scheduler.living_leases, scheduler.living_operations) == (1, 0)
    story.release(1.0)
    assert (scheduler.living_leases, len(list(scheduler.leases()))) == (0, 1)
    operation = OperationStory()
    operation.scheduler = scheduler
    operation.register(2.0)
    assert scheduler.living_operations == 1
    operation.forget(3.0)
    assert scheduler.living_operations == 0
    story.run(1e6)
    assert (scheduler.living_leases, list(scheduler.leases())) == (0, [])


def test_what_is_due_together_can_be_done_in_parts_longest_due_first() -> None:
    scheduler = Scheduler()
    for number in range(5):
        scheduler.handle(LeaseRegistered(lease_spec(f"lease-{number}")), float(number), 0.0)
    started = [[effect.spec.id for effect in scheduler.advance(10.0, lambda: 0.0, 2)] for _ in range(4)]
    assert started == [["lease-0", "lease-1"], ["lease-2", "lease-3"], ["lease-4"], []]


def renewed_at(scheduler: Scheduler, names: list[str], granted_at: float) -> Counter[float]:
    """When these leases are to be renewed, after a grant at this time."""
    random = Random(3)
    for name in names:
        scheduler.handle(LeaseGranted(LeaseId(name), 1, 1, Grant(granted_at, 30.0)), granted_at, random.random())
    leases = (scheduler.lease(LeaseId(name)) for name in names)
    return Counter(lease.next_attempt_at for lease in leases if lease is not None and lease.next_attempt_at is not None)


def test_the_locks_of_an_entitys_messages_are_renewed_together_by_the_hundred_however_many_there_are() -> None:
    scheduler = Scheduler()

    def with_messages(entity: str, count: int) -> list[str]:
        names = [f"{entity}-{number}" for number in range(count)]
        for name in names:
            spec = replace(lease_spec(name), entity=entity, kind=LeaseKind.MESSAGE)
            scheduler.handle(LeaseRegistered(spec), 0.0, 0.0)
        scheduler.advance(0.0, lambda: 0.0)
        return names

    few, many = with_messages("few", 200), with_messages("many", 20_000)
    assert [*renewed_at(scheduler, few, 1.0).values()] == [200]
    moments = renewed_at(scheduler, many, 1.0)
    assert max(moments.values()) < 20_000 / 5
    assert min(moments) >= 1.0 + 13.5
    assert max(moments) <= 1.0 + 15.0
    # Those that have ended are no crowd.
    for name in many[200:]:
        scheduler.handle(LeaseReleaseRequested(LeaseId(name)), 2.0, 0.0)
    assert [*renewed_at(scheduler, many[:200], 3.0).values()] == [200]
