"""What news, and silence, mean for a held lock: literal times, no I/O."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from renewer.client.address import Address
from renewer.client.errors import LockAtRisk, LockLost, SessionLost
from renewer.client.following import SILENCE_S, Close, Open, Receive
from renewer.client.models import Event, Lease, Loss, event_of
from renewer.client.plans import Pause, Send, Terms
from renewer.client.watching import LOOK_LIMIT_S, Acquired, AtRisk, Looked, Lost, Nudge, Tell, Watch, watching
from renewer.client.wire import Answer, Unanswered

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def lease(state="held", epoch=1, remaining_s=30.0, **fields):
    return Lease(
        "lease-1", state, entity="orders", epoch=epoch, remaining_s=remaining_s, lock_duration_s=30.0, **fields
    )


def event(type_, epoch=1, **data):
    return Event(type_, "lease-1", "1-1", AT, {"epoch": epoch, **data})


def held(kind="session"):
    watch = Watch(lease("acquiring", 0, None, kind=kind))
    assert watch.on_lease(lease(kind=kind), 100.0) == [Acquired()]
    return watch


def test_a_lock_is_ours_once_the_daemon_shows_it_as_held():
    watch = Watch(lease("acquiring", 0, None))
    assert not watch.is_settled
    assert watch.on_lease(lease("acquiring", 0, None), 1.0) == []
    assert watch.wants_look(event("lease.acquired"))
    assert watch.on_lease(lease(), 100.0) == [Acquired()]
    assert (watch.epoch, watch.over_at, watch.is_settled) == (1, 130.0, True)


def test_a_lease_that_ends_before_it_was_held_could_not_be_had():
    watch = Watch(lease("acquiring", 0, None))
    assert watch.on_event(event("lease.lost", 0, reason="refused", detail="d", final=False), 1.0) == []
    assert watch.on_event(event("lease.lost", 0, reason="refused", detail="d", final=True), 1.0) == [
        Lost("refused", "d")
    ]
    assert str(watch.error()) == "the session of orders cannot be had: d"
    assert isinstance(watch.error(), SessionLost)


def test_a_loss_is_told_once_and_nothing_after_it():
    watch = held()
    assert watch.on_event(event("lease.lost", reason="detached", detail="d", final=True), 101.0) == [
        Lost("detached", "d")
    ]
    assert watch.on_event(event("lease.lost", reason="expired", final=True), 101.0) == []
    assert watch.on_event(event("lease.at_risk"), 101.0) == []
    assert watch.on_lease(lease(), 102.0) == []
    assert watch.on_unknown() == []
    assert watch.on_unreachable("x", 1000.0) == []


def test_news_of_earlier_epochs_means_nothing():
    watch = Watch(lease("acquiring", 1, None))
    watch.on_lease(lease(epoch=2), 100.0)
    assert watch.on_event(event("lease.lost", 1, reason="detached"), 101.0) == []
    assert watch.on_event(event("lease.renewed", 1), 110.0) == []
    assert watch.over_at == 130.0


def test_a_renewal_moves_the_lock_on():
    watch = held()
    watch.on_event(event("lease.renewed", margin_s=14.0), 115.0)
    assert watch.over_at == 145.0
    assert watch.lease.renewals == 1
    assert watch.lease.last_margin_s == 14.0
    assert watch.lease.locked_until_utc == datetime(2026, 1, 2, 3, 4, 35, tzinfo=UTC)


def test_a_renewal_that_says_until_when_is_believed():
    watch = held()
    watch.on_event(event("lease.renewed", remaining_s=29.5, locked_until_utc="2026-01-02T03:04:36Z"), 115.0)
    assert watch.over_at == 144.5
    assert watch.lease.locked_until_utc == datetime(2026, 1, 2, 3, 4, 36, tzinfo=UTC)


def test_risk_is_told_once_until_it_is_over():
    watch = held()
    assert watch.on_event(event("lease.at_risk", detail="d"), 131.0) == [AtRisk("d")]
    assert watch.on_lease(lease("at_risk", remaining_s=-1.0, last_error="e"), 132.0) == []
    assert watch.on_event(event("lease.recovered"), 133.0) == []
    assert not (watch.risk is not None)
    assert watch.on_lease(lease("at_risk", remaining_s=-1.0, last_error="e"), 140.0) == [AtRisk("e")]


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        (lease(epoch=2), Lost("connection_lost", "it was acquired anew, as epoch 2")),
        (lease("acquiring", 1), Lost("connection_lost", "the daemon let go of it; the lease is acquiring")),
        (lease("lost", last_loss=Loss("expired", "d", 1)), Lost("expired", "d")),
        (lease(epoch=3, last_loss=Loss("detached", "d", 2)), Lost("detached", "d")),
        (
            lease(epoch=2, last_loss=Loss("detached", "d", 0)),
            Lost("connection_lost", "it was acquired anew, as epoch 2"),
        ),
        (lease("released"), Lost("released", "somebody else asked the daemon to let it go")),
    ],
)
def test_a_lease_that_is_shown_otherwise_than_held_in_our_epoch_is_lost(shown, told):
    assert held().on_lease(shown, 101.0) == [told]


def test_a_daemon_that_is_away_puts_a_session_at_risk_and_then_has_lost_it():
    watch = held()
    assert watch.on_unreachable("gone", 100.0) == [AtRisk("gone")]
    assert watch.on_unreachable("gone", 129.9) == []
    assert watch.on_unreachable("gone", 130.0) == [Lost("daemon_gone", "gone")]


def test_a_stream_that_breaks_puts_a_session_at_risk_until_it_is_shown_again():
    watch = held()
    assert watch.on_broken("gone") == [AtRisk("gone")]
    assert watch.on_broken("gone") == []
    error = watch.doubt(110.0)
    assert type(error) is LockAtRisk
    assert str(error) == "the session of orders is at risk: gone"
    assert watch.on_lease(lease(remaining_s=25.0), 110.0) == []
    assert watch.doubt(110.0) is None
    assert held("message").on_broken("gone") == []
    assert Watch(lease("acquiring", 0, None)).on_broken("gone") == []


def test_a_lock_whose_time_is_over_as_far_as_is_known_is_not_to_be_relied_on():
    watch = held("message")
    assert watch.doubt(129.9) is None
    assert type(watch.doubt(130.0)) is LockAtRisk
    watch.on_lease(lease(kind="message"), 130.0)
    assert watch.doubt(130.0) is None


def test_a_lease_that_is_parked_is_lost_to_whoever_used_it():
    assert held().on_event(event("lease.parked"), 101.0) == [
        Lost("parked", "the daemon gave the lock back, and is to have it again later")
    ]
    assert held().on_lease(lease("acquiring", 1, parked=True), 101.0) == [
        Lost("parked", "the daemon gave the lock back, and is to have it again later")
    ]


def test_a_message_is_safe_until_its_lock_is_over_while_the_daemon_is_away():
    watch = held("message")
    assert watch.on_unreachable("gone", 129.9) == []
    assert watch.on_unreachable("gone", 130.0) == [Lost("daemon_gone", "gone")]
    assert type(watch.error()) is LockLost


class Story:
    """Runs the plan by hand: each step is looked at, and the clock is set."""

    def __init__(self, beat_every_s=None, watch=None):
        self.now = 100.0
        self.watch = watch or held()
        terms = Terms(Address("http://renewer", "s"), 0.0, lambda: self.now)
        self.plan = watching(self.watch, terms, owner=True, beat_every_s=beat_every_s)
        self.step = next(self.plan)

    def send(self, outcome, now=None):
        self.now = self.now if now is None else now
        self.step = self.plan.send(outcome)
        return self.step

    def fail(self, now=None, late=False):
        self.now = self.now if now is None else now
        self.step = self.plan.throw(Unanswered(OSError("gone"), delivered=False, late=late))
        return self.step

    def opened(self):
        assert isinstance(self.step, Open)
        return self.send(Answer(200, {"Content-Type": "text/event-stream; charset=utf-8"}))


def shown(state="held", remaining_s=30.0, epoch=1):
    text = f'{{"id":"lease-1","state":"{state}","remaining_s":{remaining_s},"lock_duration_s":30,"epoch":{epoch}}}'
    return Answer(200, {}, text.encode())


def test_a_stream_is_read_until_it_has_been_silent_for_too_long_and_opened_again():
    story = Story(watch=Watch(lease("acquiring", 0, None)))
    assert story.opened() == Receive(SILENCE_S)
    assert story.send(b": keep-alive\n\n", 110.0) == Receive(SILENCE_S)
    assert story.send(None, 120.0) == Receive(15.0)
    assert story.send(None, 135.0) == Close()
    assert isinstance(story.send(None), Pause)
    assert isinstance(story.send(None), Open)


def test_a_lock_whose_time_is_over_without_news_is_asked_about_and_lost_if_nobody_answers():
    story = Story()
    assert story.opened() == Receive(SILENCE_S)
    assert story.send(b": keep-alive\n\n", 120.0) == Receive(10.0)
    look = story.send(None, 130.0)
    assert isinstance(look, Send)
    assert (look.request.path, look.request.limit_s) == ("/v1/leases/lease-1", LOOK_LIMIT_S)
    told = story.fail(132.0, late=True)
    assert isinstance(told, Tell)
    assert isinstance(told.notice, Lost)
    assert told.notice.reason == "daemon_gone"
    assert story.send(None) == Close()
    with pytest.raises(StopIteration):
        story.send(None)


def test_a_lock_that_was_asked_about_goes_on():
    story = Story()
    story.opened()
    story.send(b": keep-alive\n\n", 130.0)
    assert isinstance(story.step, Send)
    assert story.send(shown(remaining_s=20.0), 130.5) == Receive(20.0 - 0.5)


def test_a_lock_at_risk_is_asked_about_once_a_second():
    story = Story()
    story.opened()
    story.send(b": keep-alive\n\n", 130.0)
    told = story.send(shown("at_risk", -0.5), 130.0)
    assert isinstance(told, Tell)
    assert isinstance(told.notice, AtRisk)
    assert story.send(None) == Receive(1.0)


def test_a_look_that_was_asked_for_is_told_of():
    story = Story()
    story.opened()
    assert isinstance(story.send(Nudge.LOOK, 110.0), Send)
    assert story.send(shown()) == Tell(Looked())
    assert story.send(None) == Receive(SILENCE_S - 10.0)


def test_the_stream_of_a_session_that_ends_is_told_as_a_risk_before_it_is_opened_again():
    story = Story()
    story.opened()
    told = story.send(b"", 110.0)
    assert isinstance(told, Tell)
    assert isinstance(told.notice, AtRisk)
    assert story.send(None) == Close()
    assert isinstance(story.send(None), Pause)
    story.send(None)
    story.opened()
    snapshot = b'event: snapshot\ndata: {"id":"lease-1","state":"held","epoch":1,"remaining_s":20}\n\n'
    assert isinstance(story.send(snapshot, 111.0), Receive)
    assert story.watch.doubt(111.0) is None


def test_heartbeats_go_on_while_the_stream_is_silent():
    story = Story(beat_every_s=10.0)
    assert story.opened() == Receive(0.0)
    for now in (100.0, 110.0, 120.0):
        beat = story.send(None, now)
        assert isinstance(beat, Send)
        assert (beat.request.method, beat.request.path) == ("POST", "/v1/leases/lease-1/heartbeat")
        assert isinstance(story.send(shown()), Receive)


def test_a_heartbeat_that_is_refused_leads_to_the_reason():
    story = Story(beat_every_s=10.0)
    story.opened()
    story.send(None)
    look = story.send(Answer(409, {}, b'{"detail": "it has ended"}'))
    assert isinstance(look, Send)
    assert look.request.method == "GET"
    told = story.send(Answer(200, {}, b'{"id":"lease-1","state":"lost","epoch":1}'))
    assert isinstance(told, Tell)
    assert isinstance(told.notice, Lost)


def test_a_stream_that_is_refused_as_the_lease_has_ended_leads_to_the_reason():
    story = Story()
    look = story.send(Answer(409, {}, b'{"detail": "it has ended"}'))
    assert isinstance(look, Send)
    told = story.send(Answer(200, {}, b'{"id":"lease-1","state":"released","epoch":1}'))
    assert isinstance(told, Tell)
    assert told.notice == Lost("released", "somebody else asked the daemon to let it go")


def test_pauses_between_attempts_end_with_the_lock():
    story = Story()
    risk = story.fail(129.99)
    assert isinstance(risk, Tell)
    assert story.send(None) == Close()
    pause = story.send(None)
    assert isinstance(pause, Pause)
    assert pause.delay_s <= 0.011


def test_an_event_may_come_with_or_without_an_envelope():
    enveloped = {
        "id": "1-2",
        "type": "lease.lost",
        "time": "2026-01-02T03:04:05Z",
        "subject": "s",
        "data": {"epoch": 3},
    }
    read = event_of(enveloped, type="lease.lost", id="1-2")
    assert (read.id, read.type, read.time, read.subject, read.data) == ("1-2", "lease.lost", AT, "s", {"epoch": 3})
    bare = event_of({"id": "lease-1", "state": "held"}, type="snapshot")
    assert (bare.type, bare.id, bare.subject, bare.lease.state) == ("snapshot", "", "lease-1", "held")
