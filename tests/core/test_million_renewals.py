"""A million renewals, one in a hundred of which fails for the moment: no lease is dropped."""

from __future__ import annotations

import heapq
from random import Random

import pytest

from renewer.core.effects import CancelAttempt, LeaseNews, StartAcquire, StartRenew, TellLease
from renewer.core.events import LeaseAttemptFailed, LeaseGranted, LeaseRegistered
from renewer.core.model import Grant, LeaseId, LeaseSpec, Transient
from renewer.core.scheduler import Scheduler
from renewer.core.states import LeaseState

LEASES = 2_000
LOCK_S = 30.0
FAILS = 0.01
KINDS = ("timeout", "busy", "network", "server")


def renewed(wanted: int, seed: int) -> tuple[int, int, Scheduler, list[TellLease]]:
    """Keep `LEASES` locks until so many renewals were acknowledged; how many were, how many failed, and what was told.

    The broker is true: it renews what has not expired, and a request that fails has not renewed anything.
    """
    random = Random(seed)
    scheduler = Scheduler()
    locked_until: dict[LeaseId, float] = {}
    answers: list[tuple[float, int, StartRenew | StartAcquire, bool]] = []
    told: list[TellLease] = []
    now, acknowledged, failed, number = 0.0, 0, 0, 0

    def perform(effects) -> None:
        nonlocal number
        for effect in effects:
            if isinstance(effect, StartAcquire | StartRenew):
                number += 1
                fails = isinstance(effect, StartRenew) and random.random() < FAILS
                # Time-outs take their time; all other answers come soon.
                latency_s = random.uniform(0.002, 0.05) if random.random() < 0.9 or not fails else 2.0
                heapq.heappush(answers, (now + latency_s, number, effect, fails))
            elif isinstance(effect, TellLease):
                if effect.news not in (LeaseNews.RENEWED, LeaseNews.RENEW_FAILED):
                    told.append(effect)
            else:
                assert isinstance(effect, CancelAttempt)

    for index in range(LEASES):
        spec = LeaseSpec(LeaseId(f"lease-{index}"), "servicebus.main", "orders", session_id=str(index))
        perform(scheduler.handle(LeaseRegistered(spec), now, random.random()))
    while acknowledged < wanted:
        due_at = scheduler.next_due()
        assert due_at is not None
        if answers and answers[0][0] <= due_at:
            now, _, effect, fails = heapq.heappop(answers)
            lease_id = effect.spec.id
            if fails:
                failed += 1
                failure = Transient(random.choice(KINDS), "as it happens")  # type: ignore[arg-type]
                perform(scheduler.handle(LeaseAttemptFailed(lease_id, effect.epoch, effect.attempt, failure), now, 0.5))
                continue
            if isinstance(effect, StartRenew):
                assert locked_until[lease_id] > now, "the lock had expired before it was renewed"
                acknowledged += 1
            locked_until[lease_id] = now + LOCK_S
            grant = Grant(anchored_at=now, duration_s=LOCK_S)
            perform(scheduler.handle(LeaseGranted(lease_id, effect.epoch, effect.attempt, grant), now, random.random()))
        else:
            now = max(now, due_at)
            perform(scheduler.advance(now, random.random))
    return acknowledged, failed, scheduler, told


@pytest.mark.parametrize("renewals", [50_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_no_lease_is_dropped_though_one_renewal_in_a_hundred_fails(renewals: int) -> None:
    acknowledged, failed, scheduler, told = renewed(renewals, seed=renewals)
    assert acknowledged == renewals
    assert failed > renewals * FAILS / 2
    leases = list(scheduler.leases())
    assert len(leases) == LEASES
    assert {(lease.state, lease.epoch, lease.losses) for lease in leases} == {(LeaseState.HELD, 1, 0)}
    assert {news.news for news in told} == {LeaseNews.REGISTERED, LeaseNews.ACQUIRED}
    assert min(lease.min_margin_s or 0.0 for lease in leases) > LOCK_S / 4
