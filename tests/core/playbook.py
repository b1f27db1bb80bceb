"""Stories about leases and operations: an event goes in at a literal time, what follows comes out as lines to compare.

A line is one effect, in words: ``renew epoch 1 as #2, due 2.5, until 10``, ``tell lost epoch 1: expired, final``.
Every effect is checked for carrying the story's own spec, and every piece of news for being told at the present time.
"""

from __future__ import annotations

from typing import Any

from renewer.core.effects import (
    CancelAttempt,
    Effect,
    StartAcquire,
    StartFetch,
    StartPoll,
    StartRelease,
    StartRenew,
    StartSubmit,
    TellLease,
    TellOperation,
)
from renewer.core.events import (
    Event,
    ForgetRequested,
    LeaseAttemptFailed,
    LeaseGranted,
    LeaseNotSettled,
    LeaseParkRequested,
    LeaseRegistered,
    LeaseReleaseRequested,
    LeaseRenewRequested,
    LeaseRestored,
    LeaseSettled,
    LeaseSettling,
    LeaseUnparkRequested,
    LinkLost,
    OperationAnswered,
    OperationAttemptFailed,
    OperationRegistered,
    OperationRestored,
    OwnerGone,
    OwnerSeen,
    ResultFetched,
)
from renewer.core.leases import Lease
from renewer.core.model import (
    NO_OWNER,
    Failure,
    Grant,
    LeaseId,
    LeaseSpec,
    OperationId,
    OperationSpec,
    Owner,
    PollAnswer,
    Result,
    Terminal,
    Transient,
)
from renewer.core.operations import Operation
from renewer.core.past import LeasePast, OperationPast
from renewer.core.quotas import Quota
from renewer.core.scheduler import Scheduler
from renewer.core.states import LeaseKind, LeaseState, LossReason, MessageFate, OperationState
from renewer.core.timing import PollPolicy, RenewalPolicy
from renewer.errors import TransientKind

QUARTERS = RenewalPolicy(attempt_fraction=0.25, max_outstanding=4)
"""What the stories' literal times are reckoned with: each attempt has a quarter of what remains, four overlap."""


class _Story:
    """A scheduler with one thing in it, under a clock that the story sets. Every random fraction is `fraction`."""

    def __init__(self, spec: LeaseSpec | OperationSpec, fraction: float, quota: Quota | None = None) -> None:
        self._spec = spec
        self.scheduler = Scheduler(lambda _spec, _asking, _ticket: quota)
        self.fraction = fraction

    def advance(self, now: float) -> list[str]:
        return self._lines(self.scheduler.advance(now, lambda: self.fraction), now)

    def run(self, until: float) -> list[tuple[float, str]]:
        """Advance whenever something is due, up to and including `until`; what happened, with its time."""
        happened: list[tuple[float, str]] = []
        while (now := self.scheduler.next_due()) is not None and now <= until:
            happened += [(now, line) for line in self.advance(now)]
        return happened

    def handle(self, now: float, event: Event) -> list[str]:
        return self._lines(self.scheduler.handle(event, now, self.fraction), now)

    def _lines(self, effects: list[Effect], now: float) -> list[str]:
        for effect in effects:
            if isinstance(effect, CancelAttempt):
                assert effect.key == self._spec.id
            else:
                assert effect.spec.id == self._spec.id
            if isinstance(effect, TellLease | TellOperation):
                assert effect.at == now
        return [line(effect) for effect in effects]


class LeaseStory(_Story):
    """A story about one lease. Outcomes are those of the attempt `attempt` in the epoch given."""

    def __init__(
        self,
        policy: RenewalPolicy | None = None,
        *,
        fraction: float = 0.0,
        owner: Owner = NO_OWNER,
        kind: LeaseKind = LeaseKind.SESSION,
    ) -> None:
        policy = QUARTERS if policy is None else policy
        self.spec = LeaseSpec(
            LeaseId("lease"), target="servicebus.main", entity="orders", kind=kind, policy=policy, owner=owner
        )
        super().__init__(self.spec, fraction)

    @property
    def lease(self) -> Lease:
        lease = self.scheduler.lease(self.spec.id)
        assert lease is not None
        return lease

    def register(self, now: float) -> list[str]:
        return self.handle(now, LeaseRegistered(self.spec))

    def grant(
        self, now: float, attempt: int, *, sent_at: float, lock_s: float = 5.0, epoch: int = 1, renew_now: bool = False
    ) -> list[str]:
        grant = Grant(anchored_at=sent_at, duration_s=lock_s, renew_now=renew_now)
        return self.handle(now, LeaseGranted(self.spec.id, epoch, attempt, grant))

    def fail(self, now: float, attempt: int, failure: Failure, *, epoch: int = 1) -> list[str]:
        return self.handle(now, LeaseAttemptFailed(self.spec.id, epoch, attempt, failure))

    def link_lost(self, now: float, reason: LossReason = LossReason.DETACHED, *, epoch: int = 1) -> list[str]:
        return self.handle(now, LinkLost(self.spec.id, epoch, reason, "the link is gone"))

    def release(self, now: float) -> list[str]:
        return self.handle(now, LeaseReleaseRequested(self.spec.id))

    def park(self, now: float) -> list[str]:
        return self.handle(now, LeaseParkRequested(self.spec.id))

    def unpark(self, now: float) -> list[str]:
        return self.handle(now, LeaseUnparkRequested(self.spec.id))

    def renew_now(self, now: float) -> list[str]:
        return self.handle(now, LeaseRenewRequested(self.spec.id))

    def settling(self, now: float, *, epoch: int = 1) -> list[str]:
        return self.handle(now, LeaseSettling(self.spec.id, epoch))

    def settled(self, now: float, fate: MessageFate = MessageFate.COMPLETED, *, epoch: int = 1) -> list[str]:
        return self.handle(now, LeaseSettled(self.spec.id, epoch, fate))

    def not_settled(self, now: float, *, epoch: int = 1) -> list[str]:
        return self.handle(now, LeaseNotSettled(self.spec.id, epoch))

    def seen(self, now: float, *, stays: bool = False, is_new: bool = False) -> list[str]:
        return self.handle(now, OwnerSeen(self.spec.id, stays, is_new))

    def owner_gone(self, now: float) -> list[str]:
        return self.handle(now, OwnerGone(self.spec.id, "process 7 has ended"))

    def forget(self, now: float) -> list[str]:
        return self.handle(now, ForgetRequested(self.spec.id))

    def restore(self, now: float, state: LeaseState, **past: Any) -> list[str]:
        """Registered 100 s ago, unless the past says otherwise."""
        past = {"number": 1, "registered_at": now - 100.0, **past}
        return self.handle(now, LeaseRestored(self.spec, LeasePast(state=state, **past)))


def held(
    policy: RenewalPolicy | None = None,
    *,
    lock_s: float = 5.0,
    fraction: float = 0.0,
    owner: Owner = NO_OWNER,
    kind: LeaseKind = LeaseKind.SESSION,
) -> LeaseStory:
    """A story that begins with a lease acquired at 0 by attempt 1, its request sent and answered in the same moment."""
    story = LeaseStory(policy, fraction=fraction, owner=owner, kind=kind)
    assert story.register(0.0) == ["tell registered epoch 0"]
    assert story.advance(0.0) == ["acquire epoch 1 as #1, due 0, until 75"]
    assert story.grant(0.0, 1, sent_at=0.0, lock_s=lock_s) == ["tell acquired epoch 1"]
    return story


class OperationStory(_Story):
    """A story about one operation."""

    def __init__(
        self,
        policy: PollPolicy | None = None,
        *,
        retry_safe: bool = False,
        fraction: float = 0.0,
        quota: Quota | None = None,
    ) -> None:
        policy = PollPolicy() if policy is None else policy
        self.spec = OperationSpec(
            OperationId("op"), account="fabric.main", request="POST", retry_safe=retry_safe, policy=policy
        )
        super().__init__(self.spec, fraction, quota)

    @property
    def operation(self) -> Operation:
        operation = self.scheduler.operation(self.spec.id)
        assert operation is not None
        return operation

    def register(self, now: float, first: PollAnswer | None = None) -> list[str]:
        return self.handle(now, OperationRegistered(self.spec, first))

    def forget(self, now: float) -> list[str]:
        return self.handle(now, ForgetRequested(self.spec.id))

    def restore(self, now: float, state: OperationState, **past: Any) -> list[str]:
        """Registered 100 s ago, unless the past says otherwise."""
        past = {"number": 1, "registered_at": now - 100.0, "ticket": "T", **past}
        return self.handle(now, OperationRestored(self.spec, OperationPast(state=state, **past)))

    def answer(self, now: float, attempt: int, answer: PollAnswer) -> list[str]:
        return self.handle(now, OperationAnswered(self.spec.id, attempt, answer))

    def fetched(self, now: float, attempt: int, result: Result) -> list[str]:
        return self.handle(now, ResultFetched(self.spec.id, attempt, result))

    def fail(
        self, now: float, attempt: int, kind: TransientKind, *, retry_after_s: float | None = None, detail: str = "no"
    ) -> list[str]:
        return self.handle(now, OperationAttemptFailed(self.spec.id, attempt, Transient(kind, detail, retry_after_s)))


def at_once(operation: Operation, now: float, *, may_wait: bool) -> str | None:
    """Every request may begin."""


def busy(retry_after_s: float | None = None) -> Transient:
    return Transient("busy", "server busy", retry_after_s)


def refused(reason: LossReason = LossReason.EXPIRED) -> Terminal:
    return Terminal(reason, "the broker's last word")


def line(effect: Effect) -> str:
    """One effect in words."""
    match effect:
        case StartAcquire(_, epoch, attempt, due_at, abandon_at):
            return f"acquire epoch {epoch} as #{attempt}, due {due_at:g}, until {abandon_at:g}"
        case StartRenew(_, epoch, attempt, due_at, abandon_at):
            return f"renew epoch {epoch} as #{attempt}, due {due_at:g}, until {abandon_at:g}"
        case StartRelease(_, epoch):
            return f"release epoch {epoch}"
        case CancelAttempt(_, attempt):
            return f"cancel #{attempt}"
        case StartSubmit(_, attempt, due_at, abandon_at):
            return f"submit as #{attempt}, due {due_at:g}, until {abandon_at:g}"
        case StartPoll(_, ticket, attempt, due_at, abandon_at):
            return f"poll {ticket} as #{attempt}, due {due_at:g}, until {abandon_at:g}"
        case StartFetch(_, ticket, attempt, due_at, abandon_at):
            return f"fetch {ticket} as #{attempt}, due {due_at:g}, until {abandon_at:g}"
        case TellLease():
            words = [effect.reason, effect.failure, "final" if effect.final else None]
            if effect.margin_s is not None:
                words.append(f"margin {effect.margin_s:g}")
            return _told(f"tell {effect.news} epoch {effect.epoch}", words)
        case TellOperation():
            words = [effect.failure]
            if effect.retry_after_s is not None:
                words.append(f"retry after {effect.retry_after_s:g}")
            return _told(f"tell {effect.news} {effect.state}", words)


def _told(what: str, words: list[str | None]) -> str:
    said = [word for word in words if word]
    return f"{what}: {', '.join(said)}" if said else what
