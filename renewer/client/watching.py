"""Watching over one held lock: what its event stream, or the silence of it, means for whoever works under the lock.

`Watch` knows where the lock stands and is told everything with the time it was heard at; `watching` is the plan that
keeps it informed. Rules:

1. The lock is ours from the first time that the daemon shows it as held, and for that epoch alone.
2. A loss is told once. After it nothing is. A message that is settled, by whomever, is no loss: nothing is told.
3. A daemon that cannot be reached is asked again until the lock's time is over; then the lock counts as lost
   (``daemon_gone``). Meanwhile a session is at risk, and that from the moment that the stream breaks: its lock belongs
   to the daemon's link, which may have ended with it. A message's lock outlives the daemon.
4. The same holds when renewals are due to have been heard of and were not: the daemon is asked, and if it does not
   answer, the lock is lost. Until it has answered, nobody may rely on the lock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

from renewer.client import leasecalls
from renewer.client.documents import Reader
from renewer.client.errors import LockAtRisk, LockError, LockLost, NotFound, RenewerApiError, SessionLost
from renewer.client.following import SILENCE_S, Close, Open, Receive, check_stream, read_event
from renewer.client.models import Event, Lease
from renewer.client.plans import Pause, Plan, Send, Terms, backoff_s
from renewer.client.sse import EventParser
from renewer.client.wire import Answer, Call, Unanswered

LOOK_LIMIT_S: Final = 2.0
"""How long the daemon may take to say how a lock stands whose time is over as far as we know."""

_LOOK_AGAIN_S: Final = 1.0
_SHORT_S: Final = 1.0
_PARKED: Final = "the daemon gave the lock back, and is to have it again later"


@dataclass(frozen=True, slots=True)
class Acquired:
    """The lock is ours."""


@dataclass(frozen=True, slots=True)
class AtRisk:
    """The lock may be gone; side effects should stop. `detail` is for people."""

    detail: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The lock is not ours any more, or will not be."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Looked:
    """The daemon was asked how the lock stands, as a `Nudge` wanted."""


Notice = Acquired | AtRisk | Lost | Looked


@dataclass(frozen=True, slots=True)
class Tell:
    """A step: tell the owner."""

    notice: Notice


class Nudge(Enum):
    """What a stream's reader may hand in besides bytes."""

    LOOK = "look"


class Watch:
    """Where one lock stands. `now` is monotonic everywhere."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.epoch: int | None = None
        self.over_at: float | None = None
        self.loss: Lost | None = None
        self.risk: AtRisk | None = None
        self.settled: str | None = None

    def has_ended(self) -> bool:
        """Whether nothing more will be told."""
        return self.loss is not None or self.settled is not None

    @property
    def is_settled(self) -> bool:
        """Whether it is known if the lock could be had."""
        return self.epoch is not None or self.loss is not None

    def error(self) -> LockLost:
        """The loss as an exception."""
        loss = self.loss or Lost("lost", "")
        if self.epoch is None:
            message = f"{self.what} cannot be had: {loss.detail or loss.reason}"
        else:
            message = f"{self.what} was lost: {loss.reason}" + (f" ({loss.detail})" if loss.detail else "")
        kind = SessionLost if self.lease.kind == "session" else LockLost
        return kind(message, reason=loss.reason, detail=loss.detail)

    def doubt(self, now: float) -> LockError | None:
        """Why the lock cannot be relied on; None if it can, or need not be."""
        if self.loss is not None:
            return self.error()
        if self.settled is not None:
            return None
        if self.risk is not None:
            detail = self.risk.detail
        elif self.is_stale(now):
            detail = "its time is over, and no renewal was heard of yet"
        else:
            return None
        message = f"{self.what} is at risk" + (f": {detail}" if detail else "")
        return LockAtRisk(message, reason="at_risk", detail=detail)

    def is_stale(self, now: float) -> bool:
        """Whether what is known of the lock is too old to go by."""
        return not self.has_ended() and self.over_at is not None and now >= self.over_at

    @property
    def what(self) -> str:
        """What is locked, for people."""
        if self.lease.kind == "session" and self.lease.session_id is not None:
            return f"session {self.lease.session_id!r} of {self.lease.entity}"
        return f"the {self.lease.kind} of {self.lease.entity}"

    def on_lease(self, lease: Lease, now: float) -> list[Notice]:
        """The daemon showed the lease; `now` is when it was asked."""
        if self.has_ended():
            return []
        if self.epoch is None:
            if not lease.is_held:
                self.lease = lease
                return self._lose(lease) if lease.is_over else []
            self.epoch = lease.epoch
            self._take(lease, now)
            return [Acquired()]
        if lease.settled is not None:
            return self.on_settled(lease)
        if lease.epoch != self.epoch or not lease.is_held:
            return self._lose(lease)
        self._take(lease, now)
        return self._risk(lease.last_error or "") if lease.state == "at_risk" else self._safe()

    def on_event(self, event: Event, now: float) -> list[Notice]:
        """The daemon told of an event. `wants_look` says when it must be asked for more."""
        if event.type == "snapshot":
            return self.on_lease(event.lease, now)
        epoch = event.data.get("epoch")
        if self.has_ended() or (isinstance(epoch, int) and self.epoch is not None and epoch < self.epoch):
            return []
        detail = str(event.data.get("detail") or event.data.get("failure") or "")
        match event.type:
            case "lease.renewed" | "lease.recovered" if self.epoch is not None and epoch == self.epoch:
                self._extend(event, now)
                return self._safe()
            case "lease.at_risk" if self.epoch is not None:
                return self._risk(detail)
            case "lease.lost" if self.epoch is not None or event.data.get("final") is True:
                return self._lost(str(event.data.get("reason") or "lost"), detail)
            case "lease.parked" if self.epoch is not None:
                return self._lost("parked", detail or _PARKED)
            case "lease.released" if self.epoch is not None and event.data.get("settled") is not None:
                return self.on_settled(replace(self.lease, state="released", settled=str(event.data["settled"])))
            case "lease.released" | "lease.forgotten":
                return self._lost(event.type.partition(".")[2], detail or "somebody else asked the daemon to let it go")
            case _:
                return []

    def on_settled(self, lease: Lease) -> list[Notice]:
        """The message is settled, and its lock over by that: nothing is lost."""
        if not self.has_ended():
            self.lease = lease
            self.settled = lease.settled or "settled elsewhere"
            self.risk = None
        return []

    def wants_look(self, event: Event) -> bool:
        """Whether the event says less than must be known."""
        return not self.has_ended() and event.type in {"lease.acquired", "lease.reacquired", "lease.restored"}

    def on_unknown(self) -> list[Notice]:
        """The daemon does not know the lease."""
        return self._lost("forgotten", "the daemon does not know the lease any more")

    def on_unreachable(self, detail: str, now: float) -> list[Notice]:
        """The daemon could not be asked."""
        if self.epoch is None or self.has_ended():
            return []
        if self.over_at is None or now >= self.over_at:
            return self._lost("daemon_gone", detail)
        return self.on_broken(detail)

    def on_broken(self, detail: str) -> list[Notice]:
        """The daemon's stream is at an end, and nothing was said of the lock."""
        if self.epoch is None or self.has_ended() or self.lease.kind != "session":
            return []
        return self._risk(detail)

    def _take(self, lease: Lease, now: float) -> None:
        self.lease = lease
        span_s = lease.remaining_s if lease.remaining_s is not None else lease.lock_duration_s
        self.over_at = now + (SILENCE_S if span_s is None else span_s)

    def _extend(self, event: Event, now: float) -> None:
        told = Reader(event.data, "an event")
        remaining_s = told.number("remaining_s")
        span_s = remaining_s if remaining_s is not None else self.lease.lock_duration_s
        if span_s is None:
            return
        self.over_at = now + span_s
        margin_s = told.number("margin_s")
        self.lease = replace(
            self.lease,
            state="held",
            remaining_s=span_s,
            locked_until_utc=told.moment("locked_until_utc")
            or (event.time or datetime.now(UTC)) + timedelta(seconds=span_s),
            renewals=self.lease.renewals + 1,
            last_margin_s=margin_s if margin_s is not None else self.lease.last_margin_s,
        )

    def _risk(self, detail: str) -> list[Notice]:
        if self.risk is not None:
            return []
        self.risk = AtRisk(detail)
        return [self.risk]

    def _safe(self) -> list[Notice]:
        self.risk = None
        return []

    def _lose(self, lease: Lease) -> list[Notice]:
        """The lease as it is shown is not what we hold; its last loss says why, if it was of our epoch."""
        last = lease.last_loss
        if last is not None and (self.epoch is None or last.epoch >= self.epoch):
            notices = self._lost(last.reason, last.detail)
        elif lease.settled is not None:
            notices = self._lost("settled", "somebody else settled the message")
        elif lease.state == "released":
            notices = self._lost("released", "somebody else asked the daemon to let it go")
        elif lease.parked:
            notices = self._lost("parked", _PARKED)
        elif lease.epoch == self.epoch or lease.state == "acquiring":
            notices = self._lost("connection_lost", f"the daemon let go of it; the lease is {lease.state}")
        else:
            notices = self._lost("connection_lost", f"it was acquired anew, as epoch {lease.epoch}")
        self.lease = lease
        return notices

    def _lost(self, reason: str, detail: str) -> list[Notice]:
        if self.has_ended():
            return []
        self.loss = Lost(reason, detail)
        return [self.loss]


def watching(watch: Watch, terms: Terms, *, owner: bool, beat_every_s: float | None) -> Plan[None]:
    """Keep `watch` informed until the lock is lost. With `owner` the stream is the owner's sign of life."""
    now = terms.clock
    lease_id = watch.lease.id
    attempt = 0
    beat_at = None if beat_every_s is None else now()
    while not watch.has_ended():
        began_at = now()
        try:
            answer: Answer = yield Open(leasecalls.lease_events(lease_id, owner=owner))
            if answer.status == 409:
                # It has ended, or is not kept for us: the lease itself says which.
                yield from _look(watch, terms)
            if not watch.has_ended():
                check_stream(answer)
                yield from _stream(watch, terms, beat_at, beat_every_s)
                yield from _tell(watch.on_broken(f"the event stream of the daemon at {terms.address} broke off"))
        except NotFound:
            yield from _tell(watch.on_unknown())
        except Unanswered as failure:
            silence = "did not answer in time" if failure.late else "does not answer"
            yield from _tell(watch.on_unreachable(f"the daemon at {terms.address} {silence}", now()))
        except RenewerApiError as error:
            yield from _tell(watch.on_unreachable(str(error), now()))
        yield Close()
        if watch.has_ended():
            return
        attempt = attempt + 1 if now() - began_at < _SHORT_S else 0
        delay_s = backoff_s(attempt)
        if watch.over_at is not None:
            delay_s = min(delay_s, max(0.0, watch.over_at - now()))
        yield Pause(delay_s)


def _stream(watch: Watch, terms: Terms, beat_at: float | None, beat_every_s: float | None) -> Plan[None]:
    """Read one stream until it ends or is silent for too long, or the lock is lost."""
    now = terms.clock
    parser = EventParser()
    heard_at, look_at = now(), now()
    while not watch.has_ended():
        wake_at = heard_at + SILENCE_S
        if beat_at is not None:
            wake_at = min(wake_at, beat_at)
        if watch.over_at is not None:
            wake_at = min(wake_at, max(watch.over_at, look_at))
        chunk: bytes | Nudge | None = yield Receive(max(0.0, wake_at - now()))
        look = chunk is Nudge.LOOK
        if isinstance(chunk, bytes):
            if not chunk:
                return
            heard_at = now()
            for sent in parser.feed(chunk):
                event = read_event(sent)
                yield from _tell(watch.on_event(event, heard_at))
                look = look or watch.wants_look(event)
        elif chunk is None and now() >= heard_at + SILENCE_S:
            return
        if beat_at is not None and beat_every_s is not None and now() >= beat_at and not watch.has_ended():
            yield from _beat(watch, terms)
            beat_at = now() + beat_every_s
        if watch.has_ended():
            return
        if look or (watch.over_at is not None and now() >= max(watch.over_at, look_at)):
            yield from _look(watch, terms)
            look_at = now() + _LOOK_AGAIN_S
            if chunk is Nudge.LOOK:
                yield Tell(Looked())


def _look(watch: Watch, terms: Terms) -> Plan[None]:
    """Ask how the lease stands."""
    yield from _ask(watch, terms, leasecalls.lease(watch.lease.id))


def _beat(watch: Watch, terms: Terms) -> Plan[None]:
    """Give a sign of life."""
    try:
        yield from _ask(watch, terms, leasecalls.heartbeat(watch.lease.id))
    except RenewerApiError:
        yield from _look(watch, terms)


def _ask(watch: Watch, terms: Terms, call: Call[Lease]) -> Plan[None]:
    asked_at = terms.clock()
    answer: Answer = yield Send(call.within(LOOK_LIMIT_S).request)
    yield from _tell(watch.on_lease(call.read(answer), asked_at))


def _tell(notices: list[Notice]) -> Plan[None]:
    for notice in notices:
        yield Tell(notice)
