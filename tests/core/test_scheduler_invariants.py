"""A scheduler under a rain of events, likely and unlikely, and what must be true of it after every one."""

from __future__ import annotations

from collections import defaultdict
from typing import get_args

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from renewer.core.effects import (
    CancelAttempt,
    Effect,
    LeaseNews,
    OperationNews,
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
    LeaseAttemptFailed,
    LeaseGranted,
    LeaseNotSettled,
    LeaseRegistered,
    LeaseReleaseRequested,
    LeaseSettled,
    LeaseSettling,
    LinkLost,
    OperationAnswered,
    OperationAttemptFailed,
    OperationRegistered,
    ResultFetched,
)
from renewer.core.model import (
    NO_RESULT,
    Ended,
    Failure,
    Grant,
    LeaseId,
    LeaseSpec,
    OperationId,
    OperationSpec,
    PollAnswer,
    Result,
    StillRunning,
    Succeeded,
    Terminal,
    Transient,
)
from renewer.core.scheduler import Scheduler
from renewer.core.states import OPERATION_TRANSITIONS, LeaseState, LossReason, MessageFate, OperationState, is_over
from renewer.core.timing import PollPolicy, RenewalPolicy
from renewer.errors import TransientKind

NAMES = ("a", "b", "c", "d")
"""Used for leases and for operations, one after the other."""

names = st.sampled_from(NAMES)
fractions = st.floats(0.0, 1.0, exclude_max=True)
spans = st.sampled_from([0.0, 0.001, 0.25, 1.0, 2.5, 5.0, 20.0, 75.0, 400.0]) | st.floats(0.0, 100.0)
lock_spans = st.sampled_from([0.5, 5.0, 30.0, 300.0]) | st.floats(0.1, 600.0)
asked_spans = st.none() | st.sampled_from([0.0, -1.0, 3.0, 1e9, float("inf"), float("nan")])
transients = st.builds(
    Transient, kind=st.sampled_from(get_args(TransientKind)), detail=st.just("no"), retry_after_s=asked_spans
)
failures: st.SearchStrategy[Failure] = transients | st.builds(
    Terminal, reason=st.sampled_from(LossReason), detail=st.just("never")
)
answers: st.SearchStrategy[PollAnswer] = (
    st.builds(
        StillRunning,
        status=st.none() | st.just("Running"),
        recognised=st.booleans(),
        retry_after_s=asked_spans,
        percent_complete=st.none() | st.just(50.0),
        ticket=st.none() | st.just("T"),
    )
    | st.builds(Succeeded, result=st.none() | st.just(NO_RESULT), ticket=st.none() | st.just("U"))
    | st.builds(Ended, outcome=st.sampled_from(["failed", "canceled", "expired", "unpollable", "rejected"]))
)
renewal_policies = st.builds(
    RenewalPolicy,
    max_outstanding=st.integers(1, 4),
    reacquire=st.booleans(),
    max_duration_s=st.none() | st.sampled_from([3.0, 100.0]),
    retention_s=st.sampled_from([0.0, 10.0, 3600.0]),
    backoff_base_s=st.sampled_from([0.0, 0.1]),
)
poll_policies = st.builds(
    PollPolicy,
    deadline_s=st.sampled_from([10.0, 500.0, 86_400.0]),
    not_found_grace_s=st.sampled_from([0.0, 10.0, 120.0]),
    retention_s=st.sampled_from([0.0, 10.0, 86_400.0]),
)


class Watcher:
    """What the owner of one lease would have written down of it since it was registered."""

    def __init__(self) -> None:
        self.epoch = 0
        self.attempt = 0
        self.outstanding: list[StartAcquire | StartRenew] = []
        self.lost: set[int] = set()
        self.at_risk = False
        self.ended = False


class SchedulerUnderFire(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.scheduler = Scheduler()
        self.now = 0.0
        self.advanced_at = 0.0
        self.watchers: dict[LeaseId, Watcher] = {}
        self.states: dict[OperationId, OperationState] = {}
        self.asked: dict[OperationId, StartSubmit | StartPoll | StartFetch] = {}
        self.wait_until: defaultdict[OperationId, float] = defaultdict(float)

    # --- what happens ------------------------------------------------------------------------------------------

    @rule(name=names, policy=renewal_policies)
    def register_a_lease(self, name: str, policy: RenewalPolicy) -> None:
        spec = LeaseSpec(LeaseId(name), target="servicebus.main", entity="orders", policy=policy)
        known = self.scheduler.lease(spec.id) or self.scheduler.operation(OperationId(name))
        effects = self.scheduler.handle(LeaseRegistered(spec), self.now, 0.5)
        assert bool(effects) == (known is None)
        if known is None:
            self.watchers[spec.id] = Watcher()
        self.watch(effects)

    @rule(name=names, policy=poll_policies, retry_safe=st.booleans(), first=st.none() | answers)
    def register_an_operation(self, name: str, policy: PollPolicy, retry_safe: bool, first: PollAnswer | None) -> None:
        spec = OperationSpec(
            OperationId(name), account="fabric.main", request="POST", retry_safe=retry_safe, policy=policy
        )
        known = self.scheduler.operation(spec.id) or self.scheduler.lease(LeaseId(name))
        effects = self.scheduler.handle(OperationRegistered(spec, first), self.now, 0.5)
        assert bool(effects) == (known is None)
        if known is None:
            assert isinstance(effects[0], TellOperation)
            self.states[spec.id] = effects[0].state
            self.wait_until.pop(spec.id, None)
        self.watch(effects)

    @rule(span_s=spans, fraction=fractions)
    def let_time_pass_and_wake_late(self, span_s: float, fraction: float) -> None:
        self.now += span_s
        self.advance(fraction)

    @rule(fraction=fractions)
    def wake_when_something_is_due(self, fraction: float) -> None:
        self.now = max(self.now, min(self.scheduler.next_due() or self.now, self.now + 1e5))
        self.advance(fraction)

    @rule(fraction=fractions, times=st.integers(1, 30))
    def wake_often(self, fraction: float, times: int) -> None:
        for _ in range(times):
            self.wake_when_something_is_due(fraction)

    @rule(span_s=spans)
    def let_time_pass_asleep(self, span_s: float) -> None:
        self.now += span_s

    @rule(data=st.data(), lock_s=lock_spans, late_s=spans, fraction=fractions, renew_now=st.booleans())
    def an_attempt_is_granted(
        self, data: st.DataObject, lock_s: float, late_s: float, fraction: float, renew_now: bool
    ) -> None:
        effect = self.draw_attempt(data)
        if effect is not None:
            grant = Grant(anchored_at=self.now - min(late_s, self.now), duration_s=lock_s, renew_now=renew_now)
            self.handle(LeaseGranted(effect.spec.id, effect.epoch, effect.attempt, grant), fraction)

    @rule(data=st.data(), failure=failures, fraction=fractions)
    def an_attempt_fails(self, data: st.DataObject, failure: Failure, fraction: float) -> None:
        effect = self.draw_attempt(data)
        if effect is not None:
            self.handle(LeaseAttemptFailed(effect.spec.id, effect.epoch, effect.attempt, failure), fraction)

    @rule(
        name=names,
        epoch=st.integers(-1, 6),
        attempt=st.integers(-1, 20),
        outcome=failures | st.builds(Grant, anchored_at=st.floats(0.0, 1e4), duration_s=lock_spans),
        fraction=fractions,
    )
    def a_strange_outcome_arrives(
        self, name: str, epoch: int, attempt: int, outcome: Failure | Grant, fraction: float
    ) -> None:
        if isinstance(outcome, Grant):
            self.handle(LeaseGranted(LeaseId(name), epoch, attempt, outcome), fraction)
        else:
            self.handle(LeaseAttemptFailed(LeaseId(name), epoch, attempt, outcome), fraction)

    @rule(name=names, reason=st.sampled_from(LossReason), behind=st.sampled_from([-1, 0, 0, 0, 1]), fraction=fractions)
    def a_link_is_lost(self, name: str, reason: LossReason, behind: int, fraction: float) -> None:
        lease = self.scheduler.lease(LeaseId(name))
        epoch = 1 if lease is None else lease.epoch - behind
        self.handle(LinkLost(LeaseId(name), epoch, reason, "gone"), fraction)

    @rule(name=names, fraction=fractions)
    def a_lease_is_released(self, name: str, fraction: float) -> None:
        lease = self.scheduler.lease(LeaseId(name))
        self.handle(LeaseReleaseRequested(LeaseId(name)), fraction)
        assert lease is None or is_over(lease.state)

    @rule(name=names, behind=st.sampled_from([-1, 0, 0, 0, 1]))
    def a_message_is_about_to_be_settled(self, name: str, behind: int) -> None:
        lease = self.scheduler.lease(LeaseId(name))
        self.handle(LeaseSettling(LeaseId(name), 1 if lease is None else lease.epoch - behind), 0.5)

    @rule(name=names, fate=st.none() | st.sampled_from(MessageFate), behind=st.sampled_from([-1, 0, 0, 0, 1]))
    def a_message_is_settled_or_not(self, name: str, fate: MessageFate | None, behind: int) -> None:
        lease = self.scheduler.lease(LeaseId(name))
        epoch = 1 if lease is None else lease.epoch - behind
        self.handle(
            LeaseNotSettled(LeaseId(name), epoch) if fate is None else LeaseSettled(LeaseId(name), epoch, fate), 0.5
        )

    @rule(name=names, answer=answers, off=st.sampled_from([0, 0, 0, -1, 1]))
    def an_operation_is_answered(self, name: str, answer: PollAnswer, off: int) -> None:
        asked = self.asked.get(OperationId(name))
        attempt = (asked.attempt if asked else 0) + off
        self.handle(OperationAnswered(OperationId(name), attempt, answer), 0.5)

    @rule(name=names, off=st.sampled_from([0, 0, -1, 1]))
    def a_result_arrives(self, name: str, off: int) -> None:
        asked = self.asked.get(OperationId(name))
        self.handle(ResultFetched(OperationId(name), (asked.attempt if asked else 0) + off, Result("none")), 0.5)

    @rule(name=names, failure=transients, off=st.sampled_from([0, 0, 0, -1, 1]), fraction=fractions)
    def a_request_fails(self, name: str, failure: Transient, off: int, fraction: float) -> None:
        asked = self.asked.get(OperationId(name))
        attempt = (asked.attempt if asked else 0) + off
        self.handle(OperationAttemptFailed(OperationId(name), attempt, failure), fraction)

    @precondition(lambda self: self.scheduler.queue_length > 0)
    @rule(failure=failures)
    def something_happens_to_nobody(self, failure: Failure) -> None:
        before = self.scheduler.next_due(), self.scheduler.queue_length
        nobody, nothing = LeaseId("nobody"), OperationId("nothing")
        for event in (
            LeaseAttemptFailed(nobody, 1, 1, failure),
            LeaseGranted(nobody, 1, 1, Grant(self.now, 5.0)),
            LinkLost(nobody, 1, LossReason.DETACHED, "gone"),
            LeaseReleaseRequested(nobody),
            LeaseSettling(nobody, 1),
            LeaseSettled(nobody, 1, MessageFate.COMPLETED),
            LeaseNotSettled(nobody, 1),
            OperationAnswered(nothing, 1, Ended("failed")),
            ResultFetched(nothing, 1, NO_RESULT),
            OperationAttemptFailed(nothing, 1, Transient("server", "500")),
        ):
            assert self.scheduler.handle(event, self.now, 0.5) == []
        assert before == (self.scheduler.next_due(), self.scheduler.queue_length)

    # --- what must be true -------------------------------------------------------------------------------------

    @invariant()
    def everything_known_has_a_due_time(self) -> None:
        leases, operations = list(self.scheduler.leases()), list(self.scheduler.operations())
        assert self.scheduler.queue_length == len(leases) + len(operations)
        wakes = [item.wake_at() for item in (*leases, *operations)]
        assert None not in wakes
        assert self.scheduler.next_due() == min((wake for wake in wakes if wake is not None), default=None)

    @invariant()
    def a_living_lease_is_always_about_to_ask_or_waiting_for_an_answer(self) -> None:
        for lease in self.scheduler.leases():
            waiting, planned = lease._attempt_until is not None, lease.next_attempt_at is not None
            assert (waiting + planned) == (0 if is_over(lease.state) or lease.is_settling else 1)
            assert not (lease.is_settling and self.watchers[lease.spec.id].outstanding)

    @invariant()
    def a_living_operation_is_always_about_to_ask_or_waiting_for_an_answer(self) -> None:
        for operation in self.scheduler.operations():
            waiting, planned = operation._attempt_until is not None, operation.next_attempt_at is not None
            assert (waiting + planned) == (0 if is_over(operation.state) else 1)

    @invariant()
    def a_held_lease_has_time_left_or_is_about_to_be_told_at_risk(self) -> None:
        for lease in self.scheduler.leases():
            wake_at = lease.wake_at()
            if lease.state is LeaseState.HELD:
                assert lease.expires_at > self.advanced_at or (wake_at is not None and wake_at <= self.now)
                assert wake_at is not None
                assert wake_at <= lease.expires_at

    @invariant()
    def no_more_attempts_overlap_than_allowed(self) -> None:
        for lease in self.scheduler.leases():
            outstanding = self.watchers[lease.spec.id].outstanding
            acquiring = [effect for effect in outstanding if isinstance(effect, StartAcquire)]
            assert len(outstanding) <= lease.spec.policy.max_outstanding
            assert len(acquiring) <= 1
            assert not (acquiring and lease.state is not LeaseState.ACQUIRING)
            assert not (outstanding and is_over(lease.state))

    # --- how it is watched -------------------------------------------------------------------------------------

    def draw_attempt(self, data: st.DataObject) -> StartAcquire | StartRenew | None:
        choices = [effect for watcher in self.watchers.values() for effect in watcher.outstanding]
        return data.draw(st.sampled_from(choices)) if choices else None

    def handle(self, event: Event, fraction: float) -> None:
        if isinstance(event, LeaseGranted | LeaseAttemptFailed) and event.lease_id in self.watchers:
            watcher = self.watchers[event.lease_id]
            watcher.outstanding = [
                effect
                for effect in watcher.outstanding
                if (effect.epoch, effect.attempt) != (event.epoch, event.attempt)
            ]
        self.watch(self.scheduler.handle(event, self.now, fraction))

    def advance(self, fraction: float) -> None:
        """Advance until nothing is due: that must come soon, or the daemon's loop would never sleep again."""
        for _ in range(4):
            self.watch(self.scheduler.advance(self.now, lambda: fraction))
            self.advanced_at = self.now
            next_due = self.scheduler.next_due()
            if next_due is None or next_due > self.now:
                return
        raise AssertionError(f"something is still due at {self.now}")

    def watch(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case StartAcquire() | StartRenew():
                    self.watch_start(effect)
                case StartRelease():
                    # Given back is what was held, or granted too late; never what is held now.
                    lease = self.scheduler.lease(effect.spec.id)
                    assert lease is None or is_over(lease.state) or lease.state is LeaseState.ACQUIRING
                case CancelAttempt():
                    self.watch_cancel(effect)
                case TellLease():
                    self.watch_lease_news(effect)
                case StartSubmit() | StartPoll() | StartFetch():
                    assert effect.due_at <= self.now < effect.abandon_at
                    assert self.now >= self.wait_until[effect.spec.id]
                    previous = self.asked.get(effect.spec.id)
                    if previous is not None and previous.spec is effect.spec:
                        assert effect.attempt == previous.attempt + 1
                    state = self.states[effect.spec.id]
                    expected = {OperationState.ACCEPTED: StartSubmit, OperationState.FETCHING: StartFetch}
                    assert isinstance(effect, expected.get(state, StartPoll))
                    assert not is_over(state)
                    self.asked[effect.spec.id] = effect
                case TellOperation():
                    self.watch_operation_news(effect)

    def watch_start(self, effect: StartAcquire | StartRenew) -> None:
        watcher, lease = self.watchers[effect.spec.id], self.scheduler.lease(effect.spec.id)
        assert lease is not None
        assert not watcher.ended
        assert effect.due_at <= self.now < effect.abandon_at
        assert effect.attempt == watcher.attempt + 1
        watcher.attempt = effect.attempt
        if isinstance(effect, StartAcquire):
            assert lease.state is LeaseState.ACQUIRING
            assert effect.epoch == watcher.epoch + 1
        else:
            assert lease.state in (LeaseState.HELD, LeaseState.AT_RISK)
            assert effect.epoch == watcher.epoch
        watcher.outstanding.append(effect)

    def watch_cancel(self, effect: CancelAttempt) -> None:
        if self.scheduler.lease(LeaseId(effect.key)) is not None:
            watcher = self.watchers[LeaseId(effect.key)]
            assert effect.attempt <= watcher.attempt
            watcher.outstanding = [other for other in watcher.outstanding if other.attempt != effect.attempt]

    def watch_lease_news(self, news: TellLease) -> None:
        watcher, lease = self.watchers[news.spec.id], self.scheduler.lease(news.spec.id)
        assert news.at == self.now
        assert not watcher.ended or news.news is LeaseNews.FORGOTTEN
        match news.news:
            case LeaseNews.ACQUIRED | LeaseNews.REACQUIRED:
                assert news.epoch == watcher.epoch + 1
                assert (news.news is LeaseNews.ACQUIRED) == (news.epoch == 1)
                watcher.epoch, watcher.at_risk = news.epoch, False
            case LeaseNews.AT_RISK:
                assert lease is not None
                assert lease.expires_at <= self.now
                assert not watcher.at_risk
                watcher.at_risk = True
            case LeaseNews.RECOVERED:
                assert watcher.at_risk
                assert lease is not None
                assert lease.expires_at > self.now
                watcher.at_risk = False
            case LeaseNews.LOST:
                assert news.reason is not None
                assert news.epoch not in watcher.lost
                assert news.epoch > 0 or news.final
                watcher.lost.add(news.epoch)
                watcher.ended, watcher.at_risk = news.final, False
            case LeaseNews.RELEASED:
                assert news.final
                watcher.ended = True
            case LeaseNews.RENEWED:
                assert news.margin_s is not None
            case LeaseNews.FORGOTTEN:
                assert watcher.ended
                assert lease is None
        assert news.epoch == watcher.epoch

    def watch_operation_news(self, news: TellOperation) -> None:
        assert news.at == self.now
        operation = self.scheduler.operation(news.spec.id)
        if news.news is OperationNews.STATE_CHANGED:
            assert news.state in OPERATION_TRANSITIONS[self.states[news.spec.id]]
            self.states[news.spec.id] = news.state
        elif news.news is OperationNews.FORGOTTEN:
            assert is_over(news.state)
            assert operation is None
            self.asked.pop(news.spec.id, None)
        else:
            assert news.state == self.states[news.spec.id]
            assert not is_over(news.state)
        if news.news in (OperationNews.POLLED, OperationNews.STATE_CHANGED) and news.state is OperationState.RUNNING:
            assert operation is not None
            asked_s = operation.retry_after_s
            if asked_s is not None and 0 < asked_s < 3600:
                self.wait_until[news.spec.id] = self.now + asked_s
            else:
                self.wait_until.pop(news.spec.id, None)
        elif news.state is not OperationState.RUNNING:
            self.wait_until.pop(news.spec.id, None)


TestSchedulerUnderFire = SchedulerUnderFire.TestCase
