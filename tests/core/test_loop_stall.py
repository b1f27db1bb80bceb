"""Thousands of locks and a daemon that could do nothing for a while: what it does then, and in which order."""

from __future__ import annotations

from random import Random

import pytest

from renewer.core.effects import Effect, LeaseNews, StartAcquire, StartPoll, StartRenew, TellLease
from renewer.core.events import ForgetRequested, LeaseGranted, LeaseRegistered, OperationRegistered
from renewer.core.model import Grant, LeaseId, LeaseSpec, OperationId, OperationSpec, StillRunning
from renewer.core.scheduler import Scheduler
from renewer.core.states import LeaseState

AT_ONCE = 500
RENEWAL_S = 0.0001
"""What one renewal takes of the processor once the daemon goes on."""


class Daemon:
    """A scheduler and a broker that grants every renewal whose lock has not expired; the time is the test's."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.now = 0.0
        self.locked_until: dict[LeaseId, float] = {}
        self.lock_s: dict[LeaseId, float] = {}
        self.told: list[TellLease] = []
        self.dice = Random(5)

    def hold(self, prefix: str, count: int, lock_s: float) -> None:
        """Register so many locks, and acquire them over half of their life."""
        for number in range(count):
            self.now += lock_s / 2 / count
            lease_id = LeaseId(f"{prefix}-{number}")
            self.lock_s[lease_id] = lock_s
            spec = LeaseSpec(lease_id, "servicebus.main", "orders", session_id=str(lease_id))
            self.scheduler.handle(LeaseRegistered(spec), self.now, self.dice.random())
            self.answer(self.scheduler.advance(self.now, self.dice.random, AT_ONCE))

    def answer(self, effects: list[Effect]) -> list[LeaseId]:
        """Grant what is asked; the locks that were renewed, in the order in which they were asked for."""
        renewed: list[LeaseId] = []
        for effect in effects:
            if isinstance(effect, TellLease):
                self.told.append(effect)
            elif isinstance(effect, StartAcquire | StartRenew):
                lease_id = effect.spec.id
                if isinstance(effect, StartRenew):
                    self.now += RENEWAL_S
                    assert self.locked_until[lease_id] > self.now, "the lock had expired before it was renewed"
                    renewed.append(lease_id)
                self.locked_until[lease_id] = self.now + self.lock_s[lease_id]
                event = LeaseGranted(lease_id, effect.epoch, effect.attempt, Grant(self.now, self.lock_s[lease_id]))
                self.told += [
                    news
                    for news in self.scheduler.handle(event, self.now, self.dice.random())
                    if isinstance(news, TellLease)
                ]
        return renewed

    def catch_up(self) -> list[LeaseId]:
        """Go on until nothing is overdue any longer."""
        renewed: list[LeaseId] = []
        while (due_at := self.scheduler.next_due()) is not None and due_at <= self.now:
            renewed += self.answer(self.scheduler.advance(self.now, self.dice.random, AT_ONCE))
        return renewed

    def overdue(self) -> dict[LeaseId, float]:
        """The locks that are to be renewed by now, and when each ends."""
        return {
            lease.spec.id: lease.expires_at
            for lease in self.scheduler.leases()
            if lease.next_attempt_at is not None and lease.next_attempt_at <= self.now
        }

    @property
    def bad_news(self) -> set[LeaseNews]:
        return {told.news for told in self.told} - {LeaseNews.REGISTERED, LeaseNews.ACQUIRED, LeaseNews.RENEWED}


@pytest.mark.parametrize(("stall_s", "lock_s"), [(2.0, 5.0), (2.0, 30.0), (10.0, 30.0)])
def test_a_stall_of_less_than_half_a_lock_loses_none_of_ten_thousand(stall_s: float, lock_s: float) -> None:
    daemon = Daemon()
    daemon.hold("lease", 10_000, lock_s)
    daemon.catch_up()
    daemon.now += stall_s
    renewed = daemon.catch_up()
    assert len(renewed) > 10_000 * stall_s / lock_s
    assert daemon.bad_news == set()
    assert {lease.state for lease in daemon.scheduler.leases()} == {LeaseState.HELD}


def test_after_a_stall_the_lock_that_ends_first_is_renewed_first() -> None:
    daemon = Daemon()
    daemon.hold("lease", 12_000, 30.0)
    daemon.catch_up()
    daemon.now += 10.0
    ends_at = daemon.overdue()
    assert len(ends_at) > 7_000
    deadlines = [ends_at.pop(lease_id) for lease_id in daemon.catch_up() if lease_id in ends_at]
    assert deadlines == sorted(deadlines)
    assert ends_at == {}


def test_short_locks_survive_a_stall_though_ten_thousand_long_ones_have_been_due_for_longer() -> None:
    daemon = Daemon()
    daemon.hold("long", 15_000, 30.0)
    daemon.now -= 3.0
    daemon.hold("short", 500, 5.0)
    daemon.catch_up()
    daemon.now += 2.2
    overdue = daemon.overdue()
    kinds = [lease_id.partition("-")[0] for lease_id in daemon.catch_up() if lease_id in overdue]
    assert kinds.count("short") > 100
    assert kinds.count("long") > 1_000
    assert kinds == sorted(kinds, reverse=True)
    assert daemon.bad_news == set()


def test_what_holds_no_lock_is_not_kept_waiting_by_locks_that_have_time() -> None:
    daemon = Daemon()
    daemon.hold("lease", 2_000, 60.0)
    spec = OperationSpec(OperationId("operation"), account="fabric.main", request="POST")
    daemon.scheduler.handle(OperationRegistered(spec, StillRunning(retry_after_s=5.0)), daemon.now, 0.0)
    daemon.catch_up()
    daemon.now += 20.0
    first = daemon.scheduler.advance(daemon.now, daemon.dice.random, 1)
    assert [type(effect) for effect in first] == [StartPoll]


def test_a_lease_that_is_forgotten_while_it_is_behind_is_not_renewed() -> None:
    daemon = Daemon()
    daemon.hold("lease", 3, 30.0)
    daemon.now += 29.0
    assert daemon.scheduler.advance(daemon.now, daemon.dice.random, 0) == []
    assert (daemon.scheduler.queue_length, daemon.scheduler.next_due()) == (3, daemon.now)
    daemon.scheduler.handle(ForgetRequested(LeaseId("lease-1")), daemon.now, 0.0)
    renewals = daemon.scheduler.advance(daemon.now, daemon.dice.random)
    assert [effect.spec.id for effect in renewals if isinstance(effect, StartRenew)] == ["lease-0", "lease-2"]
    assert daemon.scheduler.queue_length == 2
