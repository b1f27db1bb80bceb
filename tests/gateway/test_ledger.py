"""What the ledger of one connection makes of what it is told, and what it tells the core; without a broker."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import anyio
import pytest

from renewer.amqp import AmqpError
from renewer.core.events import (
    LeaseGranted,
    LeaseNotSettled,
    LeaseRegistered,
    LeaseReleaseRequested,
    LeaseSettled,
    LeaseSettling,
    LinkLost,
    OwnerGone,
    OwnerSeen,
)
from renewer.core.scheduler import Scheduler
from renewer.core.states import LeaseKind, LeaseState, LossReason, MessageFate, OwnerKind
from renewer.errors import ConflictError, LeaseLostError
from renewer.gateway import ledger as ledger_module
from renewer.gateway.links import LinkKind, Locked, WorkerLink
from renewer.gateway.options import EntityPolicy
from renewer.gateway.target import MOST_AT_ONCE, GatewayTarget
from renewer.ports import Settlement
from tests.gateway.ledger_rig import options

pytestmark = pytest.mark.anyio

NOW = 1000.0
WALL = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


class StoppedClock:
    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> float:
        return self.at

    def utc_now(self) -> datetime:
        return datetime.fromtimestamp(WALL + self.at - NOW, UTC)


class Way:
    """A spare channel over which nothing comes back."""

    def __init__(self, channel=7):
        self.channel = channel
        self.max_frame_size = self.our_max_frame_size = 65536
        self.on_frame = None
        self.sent = []

    def send(self, frames):
        self.sent.append(frames)


class Rig:
    def __init__(self, **changes):
        self.clock = StoppedClock()
        self.specs = []
        self.posted = []
        self.target = GatewayTarget(
            options(**changes),
            self.clock,
            NoTokens(),
            register=self.specs.append,
            post=self.posted.append,
            rng=random.Random(7),
        )
        self.ledger = self.target.connection(key_name=lambda: "local", worker="worker-1")
        self.links = 0

    def link(self, entity="jobs", *, is_session=False, session_id=None, **policy):
        self.links += 1
        name = f"link-{self.links}"
        link = WorkerLink(
            LinkKind.RECEIVER, name, entity, channel=0, handle=self.links, role=True, policy=EntityPolicy(**policy)
        )
        link.is_session, link.session_id, link.locks, link.is_attached = is_session, session_id, True, True
        return link

    def session(self, session_id="s1", *, lock_s=60.0, took_s=0.0, **policy):
        link = self.link("orders", is_session=True, session_id=session_id, **policy)
        self.ledger.session_held(
            link, locked_until=self.wall() + lock_s, sent_at=self.clock.at - took_s, received_at=self.clock.at
        )
        self.ledger.link_opened(link)
        return link

    def receiver(self, **policy):
        link = self.link(**policy)
        self.ledger.link_opened(link)
        return link

    def message(self, link, number, *, lock_s=60.0):
        locked = Locked(number, token(number).bytes_le, self.wall() + lock_s, self.clock.at)
        locked.sequence_number = number
        link.locked[number] = locked
        return locked

    def wall(self):
        return WALL + self.clock.at - NOW

    def later(self, seconds):
        self.clock.at += seconds

    def tick(self, most=MOST_AT_ONCE):
        return self.ledger.tick(self.clock.at, most)

    def told(self):
        """What was posted since the last look, but for signs of life."""
        posted = [event for event in self.posted if not isinstance(event, OwnerSeen)]
        self.posted.clear()
        return posted


class NoTokens:
    remedy = "look at the key"
    trouble = None


def token(number):
    return UUID(int=0x1234 << 96 | number)


@dataclass
class Deferred:
    token: UUID
    locked_until: float | None
    sequence_number: int | None
    offset: int = -1


async def grant(rig, spec=None):
    return await rig.target.acquire(spec or rig.specs[-1], 1)


# Sessions -----------------------------------------------------------------------------------------------------------


async def test_a_session_counts_from_when_it_was_asked_for_if_the_answer_came_promptly():
    rig = Rig()
    link = rig.session(lock_s=60.0, took_s=0.2)
    (spec,) = rig.specs
    assert (spec.id, spec.target, spec.entity, spec.session_id) == (link.kept, "gateway.main", "orders", "s1")
    assert spec.kind is LeaseKind.SESSION
    assert spec.owner.kind is OwnerKind.CONNECTION
    assert spec.labels == {"gateway": "main", "key": "local", "worker": "worker-1"}
    assert spec.context == {"origin": "gateway", "asked": {"reacquire": False, "max_duration_s": None}}
    assert not spec.policy.reacquire
    assert rig.posted == [OwnerSeen(spec.id, stays=True)]
    given = await grant(rig)
    assert given.anchored_at == pytest.approx(NOW - 0.2)
    assert given.duration_s == pytest.approx(60.0)
    assert given.session_id == "s1"
    assert not given.renew_now


async def test_a_session_that_was_waited_for_counts_from_the_answer_and_is_renewed_at_once():
    rig = Rig()
    rig.session(lock_s=60.0, took_s=50.0)
    given = await grant(rig)
    assert given.anchored_at == NOW
    assert given.renew_now


async def test_a_session_of_whose_end_nothing_was_said_is_renewed_at_once():
    rig = Rig()
    link = rig.link("orders", is_session=True, session_id="s1")
    rig.ledger.session_held(link, locked_until=None, sent_at=NOW, received_at=NOW)
    assert (await grant(rig)).renew_now


async def test_the_configured_duration_counts_whatever_the_broker_says():
    rig = Rig(namespace={"lock_duration_s": 30.0})
    rig.session(lock_s=3000.0)
    given = await grant(rig)
    assert given.duration_s == 30.0
    link = rig.receiver()
    rig.message(link, 1, lock_s=3000.0)
    rig.later(2)
    rig.tick()
    given = await grant(rig)
    assert (given.anchored_at, given.duration_s, given.renew_now) == (NOW, 30.0, False)


async def test_maximum_and_policy_of_the_entity_go_with_the_lease():
    rig = Rig()
    rig.session(max_duration_s=60.0)
    assert rig.specs[0].policy.max_duration_s == 60.0
    assert rig.specs[0].context["asked"]["max_duration_s"] == 60.0
    rig.session("s2", sessions=False)
    assert len(rig.specs) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, LossReason.DETACHED),
        (AmqpError("com.microsoft:session-lock-lost", "gone"), LossReason.EXPIRED),
        (AmqpError("amqp:link:detach-forced", "idle"), LossReason.DETACHED),
        (AmqpError("amqp:not-found"), LossReason.ENTITY_GONE),
        (AmqpError("amqp:unauthorized-access"), LossReason.UNAUTHORIZED),
    ],
)
async def test_a_link_that_the_broker_detaches_is_a_loss_with_its_reason(error, reason):
    rig = Rig()
    link = rig.session()
    await grant(rig)
    rig.told()
    rig.ledger.link_gone(link, by_worker=False, error=error, now=NOW)
    (event,) = rig.told()
    assert isinstance(event, LinkLost)
    assert (event.lease_id, event.epoch, event.reason) == (link.kept, 1, reason)
    with pytest.raises(LeaseLostError) as caught:
        await rig.target.renew(rig.specs[0], 1)
    assert caught.value.reason == reason
    await rig.target.release(rig.specs[0], 1)
    assert rig.target.leases == 0


async def test_a_link_that_the_worker_detaches_is_let_go_of():
    rig = Rig()
    link = rig.session()
    rig.told()
    rig.ledger.link_gone(link, by_worker=True, error=None, now=NOW)
    assert rig.told() == [LeaseReleaseRequested(link.kept)]
    assert rig.target.leases == 0


async def test_a_session_that_is_lost_before_it_was_asked_for_is_told_when_it_is():
    rig = Rig()
    link = rig.session()
    rig.ledger.link_gone(link, by_worker=False, error=None, now=NOW)
    with pytest.raises(LeaseLostError, match="detached"):
        await grant(rig)
    assert rig.target.leases == 0


@pytest.mark.parametrize(
    ("how", "event"),
    [
        ({"worker_gone": True, "by_worker": False}, OwnerGone),
        ({"worker_gone": False, "by_worker": True}, LeaseReleaseRequested),
        ({"worker_gone": False, "by_worker": False}, LinkLost),
    ],
)
async def test_the_end_of_the_connection_is_told_for_every_lock_once(how, event):
    rig = Rig()
    session, link = rig.session(), rig.receiver()
    locked = rig.message(link, 1)
    rig.later(2)
    rig.tick()
    rig.told()
    rig.ledger.closed(**how, detail="it is over", now=rig.clock.at)
    told = rig.told()
    assert [type(one) for one in told] == [event, event]
    assert {one.lease_id for one in told} == {session.kept, locked.kept}
    rig.ledger.link_gone(session, by_worker=False, error=None, now=rig.clock.at)
    rig.ledger.settled(link, locked, MessageFate.COMPLETED, None)
    rig.ledger.closed(**how, detail="again", now=rig.clock.at)
    assert not rig.told()
    assert rig.target.connections == 0


# Messages -----------------------------------------------------------------------------------------------------------


async def test_a_message_becomes_a_lease_after_two_seconds():
    rig = Rig()
    link = rig.receiver()
    locked = rig.message(link, 5)
    rig.later(1.99)
    assert rig.tick() == 0
    rig.later(0.01)
    assert rig.tick() == 1
    assert rig.tick() == 0
    (spec,) = rig.specs
    assert (spec.id, spec.kind, spec.sequence_number) == (locked.kept, LeaseKind.MESSAGE, 5)
    assert (spec.policy.retention_s, spec.context["asked"]["retention_s"]) == (60.0, 60.0)
    # The token is a secret, and no use to whoever comes later.
    assert spec.lock_token is None
    given = await grant(rig)
    assert (given.anchored_at, given.duration_s, given.renew_now) == (NOW, pytest.approx(60.0), False)


async def test_a_message_with_a_short_lock_becomes_a_lease_after_a_tenth_of_it():
    rig = Rig()
    link = rig.receiver()
    rig.message(link, 1, lock_s=2.0)
    rig.later(0.19)
    assert rig.tick() == 0
    rig.later(0.02)
    assert rig.tick() == 1


async def test_a_message_that_is_being_settled_does_not_become_a_lease():
    rig = Rig()
    link = rig.receiver()
    first, _second = rig.message(link, 1), rig.message(link, 2)
    first.is_settling = True
    rig.later(2)
    assert rig.tick() == 1
    assert first.kept is None
    # It is looked at again: the settlement may be refused.
    first.is_settling = False
    assert rig.tick() == 1


async def test_newer_messages_are_found_though_older_ones_are_kept():
    rig = Rig()
    link = rig.receiver()
    for number in range(10):
        rig.message(link, number)
        rig.later(0.3)
        rig.tick()
    rig.later(2)
    rig.tick()
    assert len(rig.specs) == 10


async def test_so_many_leases_are_begun_in_one_tick_and_the_rest_in_the_next():
    rig = Rig()
    link = rig.receiver()
    for number in range(25):
        rig.message(link, number)
    rig.later(2)
    assert [rig.tick(10) for _ in range(4)] == [10, 10, 5, 0]
    # Oldest first.
    assert [spec.sequence_number for spec in rig.specs] == [*range(25)]


async def test_so_many_messages_of_a_connection_are_kept_and_others_as_they_end(monkeypatch):
    monkeypatch.setattr(ledger_module, "MOST_MESSAGES", 10)
    rig = Rig()
    link = rig.receiver()
    messages = [rig.message(link, number) for number in range(15)]
    rig.later(2)
    assert [rig.tick(), rig.tick()] == [10, 0]
    for locked in messages[:3]:
        del link.locked[locked.delivery_id]
        rig.ledger.settled(link, locked, MessageFate.COMPLETED, None)
    assert rig.tick() == 3


@pytest.mark.parametrize("left_s", [-20.0, 0.2, 400.0])
async def test_where_the_clocks_are_apart_a_message_is_renewed_at_once(left_s):
    rig = Rig()
    link = rig.receiver()
    rig.message(link, 1, lock_s=left_s)
    rig.later(2.1)
    rig.tick()
    given = await grant(rig)
    assert (given.duration_s, given.renew_now) == (5.0, True)


async def test_a_settlement_is_told_before_and_after():
    rig = Rig()
    link = rig.receiver()
    locked = rig.message(link, 1)
    rig.later(2)
    rig.tick()
    await grant(rig)
    rig.told()
    rig.ledger.settling(link, locked)
    rig.ledger.settled(link, locked, MessageFate.DEAD_LETTERED, None)
    lease_id = locked.kept
    assert rig.told() == [LeaseSettling(lease_id, 1), LeaseSettled(lease_id, 1, MessageFate.DEAD_LETTERED)]
    assert rig.target.leases == 0


async def test_a_settlement_of_an_unknown_kind_ends_the_lease_as_released():
    rig = Rig()
    link = rig.receiver()
    locked = rig.message(link, 1)
    rig.later(2)
    rig.tick()
    rig.told()
    rig.ledger.settled(link, locked, None, None)
    assert rig.told() == [LeaseReleaseRequested(locked.kept)]


async def test_a_settlement_that_is_refused_because_the_lock_is_lost_is_a_loss_without_the_token_in_its_words():
    rig = Rig()
    link = rig.receiver()
    locked = rig.message(link, 1)
    rig.later(2)
    rig.tick()
    rig.told()
    error = AmqpError("com.microsoft:message-lock-lost", f"the lock {token(1)} is gone")
    rig.ledger.settled(link, locked, None, error)
    (event,) = rig.told()
    assert event.reason is LossReason.EXPIRED
    assert str(token(1)) not in event.detail


async def test_a_settlement_that_is_refused_for_now_has_the_lock_kept_on():
    rig = Rig()
    link = rig.receiver()
    locked = rig.message(link, 1)
    rig.later(2)
    rig.tick()
    rig.told()
    rig.ledger.settled(link, locked, None, AmqpError("com.microsoft:server-busy"))
    assert rig.told() == [LeaseNotSettled(locked.kept, 1)]
    rig.ledger.settled_by_token("jobs", [token(1)], MessageFate.COMPLETED)
    assert rig.told() == [LeaseSettled(locked.kept, 1, MessageFate.COMPLETED)]


async def test_messages_go_with_their_link_whoever_detached_it():
    rig = Rig()
    first, second = rig.receiver(), rig.receiver()
    by_worker, by_broker = rig.message(first, 1), rig.message(second, 2)
    rig.later(2)
    rig.tick()
    rig.told()
    rig.ledger.link_gone(first, by_worker=True, error=None, now=NOW)
    rig.ledger.link_gone(second, by_worker=False, error=AmqpError("amqp:link:detach-forced"), now=NOW)
    released, lost = rig.told()
    assert released == LeaseReleaseRequested(by_worker.kept)
    assert (lost.lease_id, lost.reason) == (by_broker.kept, LossReason.DETACHED)
    rig.message(first, 3)
    rig.later(2)
    assert rig.tick() == 0


async def test_deferred_messages_are_leases_until_they_are_settled_by_their_tokens():
    rig = Rig()
    link = rig.link()
    rig.ledger.locked_by_token(link, [Deferred(token(1), WALL + 60, 11), Deferred(token(2), None, 12)], received_at=NOW)
    assert [spec.sequence_number for spec in rig.specs] == [11, 12]
    first, second = [await grant(rig, spec) for spec in rig.specs]
    assert (first.renew_now, second.renew_now) == (False, True)
    rig.told()
    rig.ledger.locked_by_token(link, [Deferred(token(1), WALL + 60, 11)], received_at=NOW)
    assert len(rig.specs) == 2
    rig.ledger.settled_by_token("jobs", [token(1), token(2), token(3)], MessageFate.ABANDONED)
    assert [type(event) for event in rig.told()] == [LeaseSettled, LeaseSettled]
    rig.ledger.locked_by_token(rig.link(messages=False), [Deferred(token(4), None, 1)], received_at=NOW)
    assert len(rig.specs) == 2


async def test_a_tag_that_is_no_lock_token_is_left_alone():
    rig = Rig()
    link = rig.receiver()
    link.locked[1] = Locked(1, b"short", None, NOW)
    rig.message(link, 2)
    rig.later(2)
    assert rig.tick() == 1


# The worker's own renewals ------------------------------------------------------------------------------------------


async def test_renewals_of_the_worker_count_for_sessions_and_messages():
    rig = Rig()
    session, link = rig.session(lock_s=60.0), rig.receiver()
    locked = rig.message(link, 1)
    rig.later(20)
    rig.tick()
    rig.told()
    until = rig.wall() + 60
    rig.ledger.renewed_by_worker("ORDERS", "s1", [], [until], sent_at=rig.clock.at - 0.1, received_at=rig.clock.at)
    rig.ledger.renewed_by_worker(
        "jobs", None, [token(9), token(1)], [until, until], sent_at=rig.clock.at - 0.1, received_at=rig.clock.at
    )
    rig.ledger.renewed_by_worker("orders", "other", [], [until], sent_at=rig.clock.at, received_at=rig.clock.at)
    first, second = rig.told()
    assert isinstance(first, LeaseGranted)
    assert isinstance(second, LeaseGranted)
    assert (first.lease_id, second.lease_id) == (session.kept, locked.kept)
    assert first.grant.anchored_at == second.grant.anchored_at == pytest.approx(rig.clock.at - 0.1)
    assert first.grant.locked_until == until
    # What the core has yet to ask for is as fresh.
    assert (await grant(rig, rig.specs[0])).anchored_at == pytest.approx(rig.clock.at - 0.1)


async def test_the_core_takes_a_renewal_of_the_workers_as_one_and_an_older_one_as_no_news():
    rig = Rig()
    rig.session(lock_s=60.0)
    core = Scheduler()
    (spec,) = rig.specs
    core.handle(LeaseRegistered(spec), NOW, 0.0)
    core.handle(OwnerSeen(spec.id, stays=True), NOW, 0.0)
    core.advance(NOW, lambda: 0.0)
    core.handle(LeaseGranted(spec.id, 1, 1, await grant(rig)), NOW, 0.0)
    lease = core.lease(spec.id)
    assert lease.state is LeaseState.HELD
    rig.told()
    rig.later(20)
    rig.ledger.renewed_by_worker("orders", "s1", [], [rig.wall() + 60], sent_at=rig.clock.at, received_at=rig.clock.at)
    core.handle(rig.told()[0], rig.clock.at, 0.0)
    assert (lease.renewals, lease.expires_at) == (1, pytest.approx(NOW + 80))
    assert lease.owner_until is None
    rig.ledger.renewed_by_worker("orders", "s1", [], [rig.wall() + 50], sent_at=NOW + 5, received_at=rig.clock.at)
    core.handle(rig.told()[0], rig.clock.at, 0.0)
    assert (lease.renewals, lease.expires_at) == (1, pytest.approx(NOW + 80))


# The target ---------------------------------------------------------------------------------------------------------


async def test_a_lease_of_an_earlier_run_is_lost_with_its_connection():
    before, after = Rig(), Rig()
    link = before.receiver()
    before.message(link, 1)
    before.later(2)
    before.tick()
    with pytest.raises(LeaseLostError) as caught:
        await after.target.renew(before.specs[0], 1)
    assert caught.value.reason == LossReason.CONNECTION_LOST


async def test_releasing_stops_the_renewal_and_touches_nothing_else():
    rig = Rig()
    way = Way()
    rig.ledger.opened(way, NOW)
    link = rig.session()
    await grant(rig)
    rig.told()
    await rig.target.release(rig.specs[0], 1)
    await rig.target.release(rig.specs[0], 1)
    assert not rig.told()
    assert not way.sent
    assert rig.target.leases == 0
    rig.ledger.link_gone(link, by_worker=True, error=None, now=NOW)
    assert not rig.told()


async def test_a_message_whose_lease_ended_early_is_not_kept_again():
    rig = Rig()
    link = rig.receiver()
    rig.message(link, 1)
    rig.later(2)
    rig.tick()
    await rig.target.release(rig.specs[0], 1)
    rig.message(link, 2)
    rig.later(2)
    assert rig.tick() == 1
    assert [spec.sequence_number for spec in rig.specs] == [1, 2]


async def test_what_the_worker_has_in_hand_cannot_be_used_from_elsewhere():
    rig = Rig()
    rig.session()
    spec = rig.specs[0]
    asked = (
        rig.target.get_state(spec, 1),
        rig.target.set_state(spec, 1, b""),
        rig.target.settle(spec, 1, Settlement("complete"), "handle"),
        rig.target.receive(spec, 1, count=1, wait_s=0),
        rig.target.receive_deferred(spec, 1, [1]),
        rig.target.peek(spec, 1, count=1),
    )
    for one in asked:
        with pytest.raises(ConflictError, match="through the gateway"):
            await one
    assert rig.target.in_flight(spec) == ()


async def test_what_a_worker_calls_itself_is_shortened_and_made_printable():
    rig = Rig()
    rig.ledger.worker = "w\n" + 100 * "x"
    rig.session()
    assert rig.specs[0].labels["worker"] == "w " + 62 * "x"


async def test_a_target_that_does_not_run_does_nothing_when_its_time_comes():
    rig = Rig()
    link = rig.receiver()
    rig.message(link, 1)
    rig.later(2)
    rig.target.tick(rig.clock.at)
    assert not rig.specs
    async with anyio.create_task_group() as tasks:
        await tasks.start(rig.target.run)
        rig.target.tick(rig.clock.at)
        assert len(rig.specs) == 1
        tasks.cancel_scope.cancel()
