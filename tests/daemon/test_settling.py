"""Settling a message whose lock is kept, through the supervisor, in virtual time on both backends."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest

from renewer.api.control import HoldRequest
from renewer.core.effects import LeaseNews
from renewer.core.states import LeaseKind, LeaseState, LossReason, MessageFate
from renewer.errors import ConflictError, LeaseLostError, MessageSettledError, TransientError
from renewer.ports import Settlement
from renewer.registry import MemoryRegistry
from tests.daemon.daemon_rig import Desk

pytestmark = pytest.mark.anyio

TOKEN = "3d6c1b1e-7a57-4f2a-9a3f-0e6a7a5b8f10"
WISH = HoldRequest("main", "plain", LeaseKind.MESSAGE, lock_token=TOKEN, sequence_number=9)
COMPLETE = Settlement("complete")
ENDS = (LeaseNews.LOST, LeaseNews.RELEASED)


@asynccontextmanager
async def kept(clock, registry=None):
    """A message lock that is kept, and the rig around it."""
    rig = Desk(clock, registry=registry if registry is not None else MemoryRegistry())
    async with rig.running():
        lease, _ = await rig.control.hold(WISH)
        await rig.control.wait_lease(lease.spec.id, lambda lease: lease.state is LeaseState.HELD, 10)
        yield rig, lease


async def ends(rig):
    await rig.control.settled()
    return [(news.news, news.detail) for news in rig.heard.leases if news.news in ENDS]


async def test_a_renewal_under_way_is_cancelled_before_the_settlement_goes_out(clock):
    async with kept(clock) as (rig, lease):
        under_way = anyio.Event()

        async def hang(_spec, _number):
            under_way.set()
            await anyio.sleep_forever()

        rig.broker.before = hang
        await under_way.wait()
        seen = []
        rig.broker.settling = lambda *_: seen.append(rig.broker.under_way)
        await rig.control.settle(lease.spec.id, COMPLETE)
        assert seen == [0]
        assert (lease.state, lease.fate, lease.losses) == (LeaseState.RELEASED, MessageFate.COMPLETED, 0)
        assert await ends(rig) == [(LeaseNews.RELEASED, "completed")]
        renewals = rig.broker.renewals
        await anyio.sleep(60)
        assert rig.broker.renewals == renewals


async def test_a_settlement_that_is_not_answered_is_given_up_in_time_to_keep_the_lock(clock):
    async with kept(clock) as (rig, lease):
        rig.broker.settling = lambda *_: anyio.sleep_forever()
        with pytest.raises(TransientError, match="it is not known whether the message was completed") as caught:
            await rig.control.settle(lease.spec.id, COMPLETE)
        assert caught.value.kind == "timeout"
        assert not lease.is_settling
        await anyio.sleep(60)
        assert lease.state is LeaseState.HELD
        assert LeaseNews.AT_RISK not in [news.news for news in rig.heard.leases]
        rig.broker.settling = None
        await rig.control.settle(lease.spec.id, COMPLETE)
        assert lease.fate is MessageFate.COMPLETED


async def test_a_settlement_that_is_refused_leaves_the_lock_kept(clock):
    async with kept(clock) as (rig, lease):

        def refuse(*_):
            raise TransientError("the message was not completed: busy", kind="busy")

        rig.broker.settling = refuse
        with pytest.raises(TransientError, match="was not completed"):
            await rig.control.settle(lease.spec.id, COMPLETE)
        await anyio.sleep(60)
        assert lease.state is LeaseState.HELD


async def test_a_lock_that_is_gone_when_its_message_is_settled_is_lost_once(clock):
    async with kept(clock) as (rig, lease):
        rig.broker.locked_until.clear()
        with pytest.raises(LeaseLostError):
            await rig.control.settle(lease.spec.id, COMPLETE)
        assert lease.state is LeaseState.LOST
        assert lease.last_loss.reason is LossReason.EXPIRED
        assert await ends(rig) == [(LeaseNews.LOST, "the lock has expired")]
        with pytest.raises(LeaseLostError, match="the lock is lost"):
            await rig.control.settle(lease.spec.id, COMPLETE)


@pytest.mark.parametrize("by", ["renewal", "settlement"])
async def test_a_message_that_somebody_else_settled_ends_the_lease_without_a_loss(clock, by):
    async with kept(clock) as (rig, lease):
        rig.broker.settled[lease.spec.id] = COMPLETE
        if by == "renewal":
            await anyio.sleep(10)
        else:
            with pytest.raises(MessageSettledError):
                await rig.control.settle(lease.spec.id, COMPLETE)
        assert (lease.state, lease.fate, lease.losses) == (LeaseState.RELEASED, MessageFate.ELSEWHERE, 0)
        assert await ends(rig) == [(LeaseNews.RELEASED, "settled elsewhere")]
        with pytest.raises(MessageSettledError, match="settled elsewhere"):
            await rig.control.settle(lease.spec.id, COMPLETE)


async def test_two_who_settle_one_message_do_not_meet(clock):
    async with kept(clock) as (rig, lease):
        rig.broker.settling = lambda *_: anyio.sleep(1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(rig.control.settle, lease.spec.id, COMPLETE)
            await anyio.sleep(0.5)
            with pytest.raises(ConflictError, match="being settled already"):
                await rig.control.settle(lease.spec.id, Settlement("abandon"))
        assert rig.broker.settled == {lease.spec.id: COMPLETE}


async def test_a_settlement_that_is_cancelled_has_the_lock_kept_on(clock):
    async with kept(clock) as (rig, lease):
        rig.broker.settling = lambda *_: anyio.sleep_forever()
        with anyio.move_on_after(1):
            await rig.control.settle(lease.spec.id, COMPLETE)
        await anyio.sleep(60)
        assert lease.state is LeaseState.HELD


async def test_what_is_not_held_or_not_known_is_not_settled(clock):
    async with kept(clock) as (rig, lease):
        session, _ = await rig.control.hold(HoldRequest("main", "orders", session_id="s"))
        with pytest.raises(ConflictError, match="on a session"):
            await rig.control.settle(session.spec.id, COMPLETE)
        await rig.control.release(lease.spec.id)
        with pytest.raises(ConflictError, match="released, not held"):
            await rig.control.settle(lease.spec.id, COMPLETE)
        with pytest.raises(KeyError):
            await rig.control.settle("lease-0", COMPLETE)


async def test_what_became_of_a_message_is_known_after_a_restart(clock):
    registry = MemoryRegistry()
    async with kept(clock, registry) as (rig, lease):
        await rig.control.settle(lease.spec.id, Settlement("dead-letter"))
        await rig.control.settled(lease.spec.id)
    rig = Desk(clock, registry=registry)
    async with rig.running():
        again = rig.control.lease(lease.spec.id)
        assert (again.fate, again.spec.sequence_number) == (MessageFate.DEAD_LETTERED, 9)


async def test_a_message_lock_that_is_registered_again_after_its_end_is_a_new_lease(clock):
    async with kept(clock) as (rig, lease):
        await rig.control.settle(lease.spec.id, Settlement("abandon"))
        other, created = await rig.control.hold(WISH)
        assert created
        assert other.spec.id != lease.spec.id
