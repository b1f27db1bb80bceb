"""One lease: what each event and each passing instant does to it.

Every method takes the time and returns effects; `wake_at` says when `advance` has something to do. The table of
`states` says what may follow what; this module says when, and what is to be done about it.

Attempts overlap on purpose. When an answer is late the next attempt starts, but the earlier one is still listened to:
a broker with a second of latency then costs nothing, where cancelling and asking again would never get an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from renewer.core.effects import Effect, LeaseNews, StartAcquire, StartRelease, StartRenew, TellLease
from renewer.core.leaserecord import ACQUIRING, AT_RISK, HELD, LeaseRecord
from renewer.core.model import Grant, LeaseSpec, Terminal, Transient
from renewer.core.outstanding import Outstanding, make_room
from renewer.core.ownership import first_sign_by, next_sign_by, silence, without_blame
from renewer.core.past import LeasePast
from renewer.core.states import LeaseKind, LeaseSignal, LossReason, MessageFate, is_over
from renewer.core.timing import (
    full_jitter_s,
    gathered_due_at,
    renewal_attempt_s,
    renewal_due_at,
    renewal_retry_s,
    shared_moment,
)

if TYPE_CHECKING:
    from renewer.core.events import LeaseAttemptFailed, LeaseGranted, LinkLost

_EMPTY_RETRY_S = 1.0
"""How long to wait after "no session is free": the broker has already waited before it said so."""

_LONGEST_PAUSE_S = 300.0
"""How long a broker can make us wait before we ask for a lock again, whatever number it sends."""

_ACQUIRE_GRACE_S = 1.0
"""How long the shell may take to report an acquisition that it cancelled at its deadline."""

_MOMENTS = 20
"""Sessions are renewed earlier by less than this part of the lock, so that several share a moment (30 s: 1 s)."""

_CROWD_OF_A_MOMENT = 60
"""Where there are more sessions the part is smaller, so that about this many, twice as many at most, share a moment."""

_MESSAGE, _RENEWED = LeaseKind.MESSAGE, LeaseNews.RENEWED  # Looked up once, as the states are.


@dataclass(slots=True)
class Lease(LeaseRecord):
    """A lease, kept by what is known of it (`LeaseRecord`): acquired, renewed, lost, given back."""

    def register(self, now: float) -> list[Effect]:
        """Begin: the first acquisition is due at once."""
        self.next_attempt_at = now
        self.owner_until = first_sign_by(self.spec.owner, now)
        return [self._tell(LeaseNews.REGISTERED, now)]

    def restore(self, past: LeasePast, now: float, fraction: float) -> list[Effect]:
        """Go on from what is known of an earlier run.

        A message lock belongs to its token and goes on: the broker is asked at once whether it still stands. The link
        of a session is gone with the process that had it: told as lost, and acquired again where the policy says so.
        """
        self.epoch = past.epoch
        self.losses = past.losses
        self.last_loss = past.last_loss
        self.last_error = past.last_error
        self.fate = past.fate
        if is_over(past.state):
            self.state = past.state
            self.session_id = past.session_id
            self.forget_at = now + self.spec.policy.retention_s if past.forget_at is None else past.forget_at
            return []
        effects: list[Effect] = [self._tell(LeaseNews.RESTORED, now)]
        self.owner_until = next_sign_by(self.spec.owner, now, is_new=True)
        self.next_attempt_at = now
        if past.epoch == 0:
            return effects
        self.duration_s = past.duration_s
        self.acquired_at = past.registered_at
        was_held = past.state is not ACQUIRING
        if self.spec.kind is LeaseKind.MESSAGE and was_held:
            # Valid for what is known to be left of it, and then at risk until the broker has spoken.
            self.expires_at = now if past.expires_at is None else past.expires_at
            self.state = HELD
            return effects
        if was_held or not self.spec.policy.reacquire:
            self.session_id = past.session_id
            self.state = past.state
            detail = "the daemon was started anew"
            effects += self._lose(LossReason.CONNECTION_LOST, detail, now, fraction, release=False)
        return effects

    def revise(self, spec: LeaseSpec, now: float) -> list[Effect]:
        """Keep it on other terms from now on: what is under way and what is due stay as they are."""
        if is_over(self.state):
            return []
        self.spec = spec
        return [self._tell(LeaseNews.REVISED, now)]

    def hand_over(self, spec: LeaseSpec, now: float) -> list[Effect]:
        """Keep it for another owner, to whom it is new: registered now, and acquired if it is held."""
        if is_over(self.state):
            return []
        self.spec = spec
        self.registered_at = now
        self.renewals = self.losses = 0
        self.last_loss = self.last_margin_s = self.min_margin_s = None
        self.owner_until = first_sign_by(spec.owner, now)
        effects: list[Effect] = [self._tell(LeaseNews.REGISTERED, now)]
        if self._is_ours:
            self.acquired_at = now
            effects.append(self._tell(LeaseNews.ACQUIRED, now))
        else:
            self.acquired_at = None
        return effects

    def seen(self, now: float, *, stays: bool, is_new: bool) -> list[Effect]:
        """The owner gave a sign of life."""
        if not is_over(self.state):
            self.owner_until = next_sign_by(self.spec.owner, now, stays=stays, is_new=is_new)
        return []

    def owner_gone(self, detail: str, now: float) -> list[Effect]:
        """The owner is known to have ended."""
        return [] if is_over(self.state) else self._lose(LossReason.OWNER_GONE, detail, now, 0.0)

    def renew_now(self, now: float) -> list[Effect]:
        """Renew without waiting for the due time; a renewal that is under way will do."""
        if self._is_ours and self._attempt_until is None and not self.is_settling:
            self.next_attempt_at = now
        return []

    def advance(self, now: float, fraction: float) -> list[Effect]:
        """Do what has fallen due at `now`."""
        effects: list[Effect] = []
        if is_over(self.state):
            return effects
        if self.owner_until is not None and self.owner_until <= now:
            self.owner_until = without_blame(self.owner_until, now)
            if self.owner_until <= now:
                return self._lose(LossReason.OWNER_GONE, silence(self.spec.owner), now, fraction)
        give_up_at = self._give_up_at()
        if give_up_at is not None and give_up_at <= now:
            return self._give_up(now)
        if self.state is HELD and self.expires_at <= now:
            self._move(LeaseSignal.OVERDUE)
            self._at_risk_since = now
            effects.append(self._tell(LeaseNews.AT_RISK, now, detail="no renewal was acknowledged in time"))
        if self._attempt_until is not None and self._attempt_until <= now:
            effects += self._attempt_overran(now, fraction)
        if self.next_attempt_at is not None and self.next_attempt_at <= now:
            effects += self._start_attempt(now)
        return effects

    def granted(self, event: LeaseGranted, now: float, fraction: float, crowd: int = 1) -> list[Effect]:
        """An acquisition or a renewal succeeded. `crowd` is how many can be renewed together, this one included."""
        acquiring = self.state is ACQUIRING
        if self.is_parked and acquiring:
            return [StartRelease(self.spec, event.epoch)]
        if not self._concerns(event.epoch):
            # Acquired after we gave up: give it back, or it stays locked with nobody to use it.
            stray = is_over(self.state) and event.epoch > self.epoch
            return [StartRelease(self.spec, event.epoch)] if stray else []
        current = self._close_attempt(event.attempt)
        if acquiring:
            return self._acquired(event.grant, now, fraction, crowd)
        if not current and event.grant.anchored_at < self.expires_at - self.duration_s:
            # The answer to an attempt that was overtaken by a later one: true, but no news.
            return []
        return self._renewed(event.grant, now, fraction, crowd)

    def failed(self, event: LeaseAttemptFailed, now: float, fraction: float) -> list[Effect]:
        """An acquisition or a renewal failed."""
        if not self._concerns(event.epoch) or event.attempt not in self._outstanding:
            # A cancelled attempt has no say: an acquisition that came second is refused because the first one holds.
            return []
        current = self._close_attempt(event.attempt)
        self.last_error = event.failure.detail
        if self.state is ACQUIRING:
            return self._acquire_failed(event.failure, now, fraction) if current else []
        match event.failure:
            case Terminal(reason, detail):
                return self._lose(reason, detail, now, fraction)
            case Transient() as failure:
                if not current:
                    # An overdue attempt was counted when its time ran out.
                    return []
                self._plan_retry(failure, now, fraction)
                return [self._tell(LeaseNews.RENEW_FAILED, now, failure=failure.kind, detail=failure.detail)]
            case _:
                assert_never(event.failure)

    def link_lost(self, event: LinkLost, now: float, fraction: float) -> list[Effect]:
        """What carried the lease is gone."""
        if not self._concerns(event.epoch):
            return []
        if self.state is not ACQUIRING:
            return self._lose(event.reason, event.detail, now, fraction)
        if self._attempt_until is None:
            return []
        # The news can overtake the grant that it makes worthless.
        self.last_error = event.detail
        return [*self._cancel_attempts(), *self._acquire_failed(Transient("network", event.detail), now, fraction)]

    def settling(self, epoch: int) -> list[Effect]:
        """The message is about to be settled: what renews its lock is cancelled, and nothing more is asked."""
        if epoch != self.epoch or not self._is_ours or self.is_parked:
            return []
        self.is_settling = True
        return self._cancel_attempts()

    def settled(self, epoch: int, fate: MessageFate, now: float) -> list[Effect]:
        """The message is settled, and its lock over by that."""
        if not self._concerns(epoch):
            return []
        effects = self._cancel_attempts()
        self.fate = fate
        self.last_error = None
        self._move(LeaseSignal.RELEASED)
        self._end(now)
        return [*effects, self._tell(LeaseNews.RELEASED, now, detail=fate.value, final=True)]

    def not_settled(self, epoch: int, now: float) -> list[Effect]:
        """The message is not settled, or perhaps it is: ask at once how its lock stands."""
        if epoch == self.epoch and self.is_settling:
            self.is_settling = False
            self.next_attempt_at = None if self.is_parked else now
        return []

    def release(self, now: float) -> list[Effect]:
        """The owner is done."""
        if is_over(self.state):
            return []
        effects = self._cancel_attempts()
        if self.state is not ACQUIRING:
            effects.append(StartRelease(self.spec, self.epoch))
        self._move(LeaseSignal.RELEASED)
        self._end(now)
        return [*effects, self._tell(LeaseNews.RELEASED, now, final=True)]

    def park(self, now: float) -> list[Effect]:
        """The daemon stops. What may be acquired again is left for whoever starts next; the rest is lost."""
        if is_over(self.state):
            return []
        if self.epoch and not self.spec.policy.reacquire:
            if self.spec.kind is LeaseKind.SESSION:
                return self._lose(LossReason.CONNECTION_LOST, "the daemon stops", now, 0.0)
            # Nothing holds a message lock but its token: it stands, and whoever starts in time renews it.
            return [*self._cancel_attempts(), *self._rest(now)]
        effects = self._cancel_attempts()
        if self.state is not ACQUIRING:
            effects.append(StartRelease(self.spec, self.epoch))
        self._move(LeaseSignal.PARKED)
        return [*effects, *self._rest(now)]

    def unpark(self, now: float) -> list[Effect]:
        """The daemon goes on after all: a session is acquired again at once, a message lock renewed."""
        if self.is_parked and not is_over(self.state):
            self.is_parked = False
            self.next_attempt_at = now
            self.owner_until = next_sign_by(self.spec.owner, now, is_new=True)
        return []

    def _rest(self, now: float) -> list[Effect]:
        self.owner_until = None
        self.is_parked = True
        return [self._tell(LeaseNews.PARKED, now)]

    # --- acquiring ---------------------------------------------------------------------------------------------

    def _acquired(self, grant: Grant, now: float, fraction: float, crowd: int) -> list[Effect]:
        effects = self._cancel_attempts()
        # Whatever came before its present owner is no break for that one.
        first = self.acquired_at is None
        self.epoch += 1
        self.acquired_at = now
        self.session_id = grant.session_id
        self.failures = 0
        self.last_error = None
        self._move(LeaseSignal.GRANTED)
        self._take(grant, now, fraction, crowd)
        if grant.renew_now:
            self.next_attempt_at = now
        return [*effects, self._tell(LeaseNews.ACQUIRED if first else LeaseNews.REACQUIRED, now)]

    def _acquire_failed(self, failure: Transient | Terminal, now: float, fraction: float) -> list[Effect]:
        policy = self.spec.policy
        if isinstance(failure, Terminal) and not policy.reacquire:
            return self._lose(failure.reason, failure.detail, now, fraction)
        self.failures += 1
        cap_s = policy.backoff_cap_s
        if self.duration_s:
            # Where a broker keeps the lock of a link that broke, it is free again after one lock: be there soon.
            cap_s = min(cap_s, self.duration_s / 2)
        delay = full_jitter_s(self.failures, fraction, base_s=10 * policy.backoff_base_s, cap_s=cap_s)
        if isinstance(failure, Transient):
            if failure.kind == "empty":
                delay = _EMPTY_RETRY_S * fraction
            delay = max(delay, min(failure.retry_after_s or 0.0, _LONGEST_PAUSE_S))
        self.next_attempt_at = now + delay
        word = failure.kind if isinstance(failure, Transient) else failure.reason.value
        return [self._tell(LeaseNews.ACQUIRE_FAILED, now, failure=word, detail=failure.detail)]

    # --- renewing ----------------------------------------------------------------------------------------------

    def _renewed(self, grant: Grant, now: float, fraction: float, crowd: int) -> list[Effect]:
        margin, lock_s = self.expires_at - now, self.duration_s
        self.renewals += 1
        self.last_margin_s = margin
        if self.min_margin_s is None or margin < self.min_margin_s:
            self.min_margin_s = margin
        self.failures = 0
        self.last_error = None
        self._take(grant, now, fraction, crowd)
        recovered = self.state is AT_RISK and self.expires_at > now
        if recovered:
            self._move(LeaseSignal.GRANTED)
            self._at_risk_since = None
        spec = self.spec
        session_id = spec.session_id if self.session_id is None else self.session_id
        # Written out: there are thousands a second.
        told = TellLease(_RENEWED, spec, self.epoch, now, None, None, None, margin, False, session_id, 0, lock_s)
        if recovered:
            return [told, self._tell(LeaseNews.RECOVERED, now, margin_s=margin)]
        return [told]

    def _take(self, grant: Grant, now: float, fraction: float, crowd: int) -> None:
        self.duration_s = grant.duration_s
        self.expires_at = grant.anchored_at + grant.duration_s
        if grant.locked_until is not None:
            self.locked_until = grant.locked_until
        policy, anchored_at, duration_s = self.spec.policy, grant.anchored_at, grant.duration_s
        if self.spec.kind is _MESSAGE:
            # The locks of an entity's messages can be renewed together, in one request.
            due_at = gathered_due_at(
                policy, anchored_at=anchored_at, duration_s=duration_s, fraction=fraction, crowd=crowd
            )
        else:
            # Of sessions, what falls due within some milliseconds wakes the daemon once, and goes to the broker and
            # comes back in one piece.
            due_at = renewal_due_at(policy, anchored_at=anchored_at, duration_s=duration_s, fraction=fraction)
            # A lock may last for days, and be renewed every second: a moment is short beside either.
            span_s = min(duration_s, 2.0 * policy.max_interval_s)
            due_at = shared_moment(due_at, span_s, share=max(_MOMENTS, crowd // _CROWD_OF_A_MOMENT))
        if due_at < now:
            due_at = now
        self.next_attempt_at = None if self.is_settling else due_at
        self._attempt_until = None

    def _plan_retry(self, failure: Transient, now: float, fraction: float) -> None:
        self.failures += 1
        self.next_attempt_at = now + renewal_retry_s(
            self.spec.policy,
            failures=self.failures,
            fraction=fraction,
            remaining_s=self.expires_at - now,
            duration_s=self.duration_s,
            asked_s=failure.retry_after_s,
        )

    def _start_attempt(self, now: float) -> list[Effect]:
        policy = self.spec.policy
        due_at = self.next_attempt_at if self.next_attempt_at is not None else now
        self.next_attempt_at = None
        if self.state is ACQUIRING:
            attempt, abandon_at = self._open_attempt(), now + policy.acquire_attempt_s
            self._attempt_until = abandon_at + _ACQUIRE_GRACE_S
            return [StartAcquire(self.spec, self.epoch + 1, attempt, due_at, abandon_at)]
        in_the_way: Outstanding = ()
        if self._outstanding:
            self._outstanding, in_the_way = make_room(self._outstanding, policy.max_outstanding)
        attempt = self._open_attempt()
        span = renewal_attempt_s(policy, remaining_s=self.expires_at - now, duration_s=self.duration_s)
        self._attempt_until = now + span
        # For as long as an answer can save the lease: a slow broker must not be hung up on when the lock expires.
        abandon_at = max(self._patience_ends_at(), now + span)
        start = StartRenew(self.spec, self.epoch, attempt, due_at, abandon_at, span, self.expires_at)
        return [*self._cancelled(in_the_way), start] if in_the_way else [start]

    def _attempt_overran(self, now: float, fraction: float) -> list[Effect]:
        """The current attempt had its time. A renewal is still listened to; the next one starts without a pause."""
        self._attempt_until = None
        self.last_error = "no answer in time"
        if self.state is ACQUIRING:
            effects = self._cancel_attempts()
            return [*effects, *self._acquire_failed(Transient("timeout", self.last_error), now, fraction)]
        self.failures += 1
        self.next_attempt_at = now
        return [self._tell(LeaseNews.RENEW_FAILED, now, failure="overdue", detail=self.last_error)]
