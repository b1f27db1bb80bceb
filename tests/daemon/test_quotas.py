"""Many operations under one quota, in virtual time."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

import anyio
import pytest

from renewer.core.model import NO_RESULT, OperationId, OperationSpec, PollAnswer, StillRunning, Succeeded
from renewer.core.quotas import Asking, Limit, Quota
from renewer.core.states import OperationState
from renewer.core.timing import PollPolicy
from renewer.errors import TransientError
from tests.daemon.daemon_rig import FakeService, Rig

pytestmark = pytest.mark.anyio


@dataclass
class Strict(FakeService):
    """Takes at most `most` requests in any `window_s`; who sends more is sent away for `away_s`, and so are others."""

    script: object = None
    most: int = 10**9
    window_s: float = 60.0
    away_s: float | None = 30.0
    takes_s: float = 0.01
    polls_needed: int = 2
    taken_at: list[float] = field(default_factory=list)
    refused_at: list[float] = field(default_factory=list)
    polls: Counter[OperationId] = field(default_factory=Counter)
    progress: anyio.Event = field(default_factory=anyio.Event)
    under_way: int = 0
    most_under_way: int = 0

    async def submit(self, spec: OperationSpec) -> PollAnswer:
        await self._take()
        return StillRunning(retry_after_s=5.0)

    async def poll(self, spec: OperationSpec, ticket: object) -> PollAnswer:
        await self._take()
        self.polls[spec.id] += 1
        self.progress.set()
        return (
            Succeeded(result=NO_RESULT) if self.polls[spec.id] >= self.polls_needed else StillRunning(retry_after_s=5.0)
        )

    async def _take(self) -> None:
        now = anyio.current_time()
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await anyio.sleep(self.takes_s)
            if sum(at > now - self.window_s for at in self.taken_at) >= self.most:
                self.refused_at.append(now)
                raise TransientError("429", kind="throttled", retry_after_s=self.away_s)
            self.taken_at.append(now)
        finally:
            self.under_way -= 1

    def all_done(self, count: int) -> bool:
        return sum(polls >= self.polls_needed for polls in self.polls.values()) == count


async def until_all_done(service: Strict, count: int) -> None:
    with anyio.fail_after(24 * 3600):
        while not service.all_done(count):
            service.progress = anyio.Event()
            await service.progress.wait()


async def test_a_known_limit_is_never_overrun(clock):
    service = Strict(most=50, allows=Quota("fabric.main platform", Limit(50, 60.0)))
    rig = Rig(clock, service=service)
    async with rig.running():
        specs = [rig.follow(str(number)) for number in range(200)]
        await until_all_done(service, 200)
    assert service.refused_at == []
    assert all(later - earlier >= 60.0 for earlier, later in zip(service.taken_at, service.taken_at[50:], strict=False))
    assert {rig.operation(spec).state for spec in specs} == {OperationState.SUCCEEDED}


async def test_where_the_limit_is_not_known_few_are_sent_away_and_nobody_is_forgotten(clock):
    service = Strict(most=50, away_s=30.0)
    rig = Rig(clock, service=service)
    async with rig.running():
        for number in range(200):
            rig.follow(str(number))
        await until_all_done(service, 200)
    # Without a pause for all each of the 600 requests would have found out by itself.
    assert len(service.refused_at) < 200
    pauses = [later - earlier for earlier, later in itertools.pairwise(service.refused_at) if later - earlier > 1.0]
    assert pauses
    assert min(pauses) >= 29.9


async def test_no_request_goes_out_while_the_service_wants_none(clock):
    service = Strict(most=100, away_s=120.0, window_s=20.0)
    rig = Rig(clock, service=service)
    async with rig.running():
        for number in range(150):
            rig.follow(str(number))
        await until_all_done(service, 150)
    for first_refusal in (
        at for at, before in itertools.pairwise([*reversed(service.refused_at), -1e9]) if at - before > 1.0
    ):
        # Those on their way already when the first refusal came back are not counted.
        quiet = (first_refusal + 2 * service.takes_s, first_refusal + 119.9)
        assert not [at for at in (*service.taken_at, *service.refused_at) if quiet[0] < at < quiet[1]]


async def test_no_more_requests_are_under_way_than_may_be_and_who_waits_does_not_time_out(clock):
    service = Strict(takes_s=20.0, allows=Quota("fabric.main", at_once=8))
    rig = Rig(clock, service=service)
    async with rig.running():
        specs = [rig.follow(str(number), PollPolicy(attempt_s=30.0)) for number in range(100)]
        await until_all_done(service, 100)
    assert service.most_under_way == 8
    assert [rig.operation(spec).poll_errors for spec in specs] == [0] * 100


async def test_one_quota_that_is_closed_keeps_no_other_waiting(clock):
    def allows(spec: OperationSpec, asking: Asking, ticket: object) -> Quota:
        return Quota("closed", Limit(1, 1e6)) if spec.id.startswith("closed") else Quota("open")

    service = Strict()
    service.quota = allows
    rig = Rig(clock, service=service)
    async with rig.running():
        for number in range(100):
            rig.follow(f"closed {number}")
        for number in range(100):
            rig.follow(f"open {number}")
        await until_all_done(service, 100)
        assert anyio.current_time() < 20.0
        waiting = {reading.name: reading.waiting for reading in rig.supervisor.scheduler.quotas(clock.now())}
    assert waiting == {"closed": 100, "open": 0}
    assert rig.operation(OperationSpec(OperationId("closed 50"), "fabric.main", {})).held_back_by == "closed"
