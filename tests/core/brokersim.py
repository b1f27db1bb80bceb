"""A broker with one lock, and a driver that keeps a lease on it, both in virtual time.

The broker knows the truth: who holds the lock and until when. Requests and replies take time, get lost, or are
answered "busy"; the driver does what the daemon's shell does: it carries out effects and brings outcomes back.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from renewer.core.effects import CancelAttempt, Effect, LeaseNews, StartAcquire, StartRelease, StartRenew, TellLease
from renewer.core.events import LeaseAttemptFailed, LeaseGranted, LeaseRegistered, LeaseReleaseRequested, LinkLost
from renewer.core.leases import Lease
from renewer.core.model import Failure, Grant, LeaseId, LeaseSpec, Terminal, Transient
from renewer.core.scheduler import Scheduler
from renewer.core.states import LeaseState, LossReason
from renewer.core.timing import RenewalPolicy

LEASE = LeaseId("orders/42")


@dataclass(slots=True)
class Weather:
    """What happens to requests on their way. Chances are in [0, 1]; latency is for one direction, in seconds."""

    lost: float = 0.0
    busy: float = 0.0
    latency_s: tuple[float, float] = (0.002, 0.03)


@dataclass(slots=True)
class Lock:
    """The broker's own account of the lock: the epoch that holds it, until when, and for how long it renews."""

    duration_s: float
    epoch: int | None = None
    locked_until: float = -math.inf

    def held_by(self, epoch: int, at: float) -> bool:
        return self.epoch == epoch and at < self.locked_until

    def acquire(self, epoch: int, at: float) -> Failure | None:
        if self.epoch not in (None, epoch) and at < self.locked_until:
            return Transient("busy", "locked by another")
        self.epoch, self.locked_until = epoch, at + self.duration_s
        return None

    def renew(self, epoch: int, at: float) -> Failure | None:
        if not self.held_by(epoch, at):
            return Terminal(LossReason.EXPIRED, "the lock expired")
        self.locked_until = at + self.duration_s
        return None

    def release(self, epoch: int) -> None:
        if self.epoch == epoch:
            self.epoch = None


@dataclass(slots=True)
class World:
    """One lease, one lock, and the time that passes between them."""

    random: Random
    lock: Lock
    weather: Weather
    policy: RenewalPolicy = field(default_factory=RenewalPolicy)
    now: float = 0.0
    scheduler: Scheduler = field(default_factory=Scheduler)
    told: list[TellLease] = field(default_factory=list)
    links_lost: int = 0
    _open: dict[int, StartAcquire | StartRenew] = field(default_factory=dict)
    _post: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _sequence: itertools.count[int] = field(default_factory=itertools.count)
    _stalled_until: float = -math.inf

    @property
    def lease(self) -> Lease:
        lease = self.scheduler.lease(LEASE)
        assert lease is not None
        return lease

    def register(self) -> None:
        spec = LeaseSpec(LEASE, target="servicebus.main", entity="orders", session_id="42", policy=self.policy)
        self._handle(LeaseRegistered(spec))

    def release(self) -> None:
        self._handle(LeaseReleaseRequested(LEASE))

    def detach(self) -> None:
        """The broker drops the link: the lock is free at once, and we hear of it a moment later."""
        epoch = self.lock.epoch
        if epoch is None:
            return
        self.lock.epoch = None
        self.links_lost += 1
        self._later(self._latency(), lambda: self._link_lost(epoch))

    def stall(self, span_s: float) -> None:
        """The daemon's process stands still: nothing is received and nothing done before it goes on."""
        self._stalled_until = self.now + span_s

    def run(self, span_s: float) -> None:
        """Let time pass, checking after every step that what we say of the lock is true."""
        until = self.now + span_s
        while True:
            due_at = self.scheduler.next_due()
            due_at = math.inf if due_at is None else max(due_at, self._stalled_until)
            post_at = max(self._post[0][0], self._stalled_until) if self._post else math.inf
            if min(due_at, post_at) > until:
                break
            self.now = max(self.now, min(due_at, post_at))
            if post_at < due_at or (post_at == due_at and self.random.random() < 0.5):
                heapq.heappop(self._post)[2]()
            else:
                self._perform(self.scheduler.advance(self.now, self.random.random))
            self.check()
        self.now = until
        self.check()

    def check(self) -> None:
        lease = self.lease
        if lease.state is LeaseState.HELD and self.now < lease.expires_at and not self.links_lost:
            assert self.lock.held_by(lease.epoch, self.now), f"told held at {self.now}, but the broker says {self.lock}"

    def margins(self) -> list[float]:
        return [news.margin_s for news in self.told if news.margin_s is not None and news.news is LeaseNews.RENEWED]

    def news(self, *kinds: LeaseNews) -> list[TellLease]:
        return [news for news in self.told if news.news in kinds]

    def _handle(
        self, event: LeaseRegistered | LeaseReleaseRequested | LeaseGranted | LeaseAttemptFailed | LinkLost
    ) -> None:
        self._perform(self.scheduler.handle(event, self.now, self.random.random()))

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case StartAcquire() | StartRenew():
                    self._ask(effect)
                case CancelAttempt(attempt=attempt):
                    self._hang_up(attempt)
                case StartRelease(epoch=epoch):
                    self._later(self._latency(), lambda epoch=epoch: self.lock.release(epoch))
                case TellLease():
                    self.told.append(effect)
                case _:
                    raise AssertionError(f"nobody asked for {effect}")

    def _ask(self, effect: StartAcquire | StartRenew) -> None:
        self._open[effect.attempt] = effect
        self._later(effect.abandon_at - self.now, lambda: self._abandon(effect))
        sent_at = self.now
        lost_at = self.random.random() / self.weather.lost if self.weather.lost else math.inf
        if lost_at < 0.5:
            return
        self._later(self._latency(), lambda: self._arrive(effect, sent_at, reply_is_lost=lost_at < 1.0))

    def _arrive(self, effect: StartAcquire | StartRenew, sent_at: float, *, reply_is_lost: bool) -> None:
        acquire = isinstance(effect, StartAcquire)
        if acquire and effect.attempt not in self._open:
            return
        if self.random.random() < self.weather.busy:
            failure: Failure | None = Transient("busy", "server busy")
        elif acquire:
            failure = self.lock.acquire(effect.epoch, self.now)
        else:
            failure = self.lock.renew(effect.epoch, self.now)
        if not reply_is_lost:
            self._later(self._latency(), lambda: self._answer(effect, sent_at, failure))

    def _answer(self, effect: StartAcquire | StartRenew, sent_at: float, failure: Failure | None) -> None:
        if self._open.pop(effect.attempt, None) is None:
            return
        if failure is not None:
            self._handle(LeaseAttemptFailed(LEASE, effect.epoch, effect.attempt, failure))
        else:
            self._handle(LeaseGranted(LEASE, effect.epoch, effect.attempt, Grant(sent_at, self.lock.duration_s)))

    def _abandon(self, effect: StartAcquire | StartRenew) -> None:
        if effect.attempt in self._open:
            self._hang_up(effect.attempt)
            timeout = Transient("timeout", "no answer in time")
            self._handle(LeaseAttemptFailed(LEASE, effect.epoch, effect.attempt, timeout))

    def _hang_up(self, attempt: int) -> None:
        effect = self._open.pop(attempt, None)
        if isinstance(effect, StartAcquire):
            # A cancelled acquisition undoes what it began.
            self.lock.release(effect.epoch)

    def _link_lost(self, epoch: int) -> None:
        self.links_lost -= 1
        self._handle(LinkLost(LEASE, epoch, LossReason.DETACHED, "detached by the broker"))

    def _later(self, delay_s: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._post, (self.now + delay_s, next(self._sequence), do))

    def _latency(self) -> float:
        return self.random.uniform(*self.weather.latency_s)
