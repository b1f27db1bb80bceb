"""The messages of a session: when they may be had, and what is remembered of them, in virtual time."""

from __future__ import annotations

import anyio
import pytest

from renewer.core.states import LeaseKind, LeaseState, LossReason, MessageFate
from renewer.daemon.messages import REMOTE_S, SessionMessages
from renewer.daemon.waiting import Waiting
from renewer.errors import (
    ConflictError,
    LeaseLostError,
    MessageSettledError,
    TransientError,
    UnknownHandleError,
)
from renewer.messages import InFlight, ReceivedMessage
from renewer.ports import Settlement
from tests.daemon.daemon_rig import FakeBroker
from tests.daemon.test_control import TOKEN, desk, held, wish

pytestmark = pytest.mark.anyio

COMPLETE = Settlement("complete")


def message(number: int) -> ReceivedMessage:
    return ReceivedMessage(f"1.{number}", None, sequence_number=number)


async def test_messages_are_received_in_the_epoch_that_is_held(clock):
    async with desk(clock) as (rig, control):
        lease = await held(control, wish())
        rig.broker.messages += [message(1), message(2), message(3)]
        got = await control.receive(lease.spec.id, count=2, wait_s=0)
        assert [one.handle for one in got] == ["1.1", "1.2"]
        assert control.in_flight(lease.spec.id) == [InFlight("1.1", 1), InFlight("1.2", 2)]
        assert len(await control.peek(lease.spec.id, count=5, from_sequence_number=9)) == 1
        assert len(await control.receive_deferred(lease.spec.id, [3])) == 1
        assert rig.broker.asked[0] == ("receive", 1, 2, 0)
        assert rig.broker.asked[1:3] == [("peek", 1, 5, 9), ("receive_deferred", 1, 3)]


async def test_a_receive_waits_longer_than_any_other_request(clock):
    async with desk(clock) as (_, control):
        lease = await held(control, wish())
        assert await control.receive(lease.spec.id, count=1, wait_s=300) == []
        assert lease.state is LeaseState.HELD


async def test_a_broker_that_does_not_answer_is_not_waited_for_for_ever(clock):
    class Silent(FakeBroker):
        async def receive(self, spec, epoch, *, count, wait_s):
            await anyio.sleep_forever()

        async def settle(self, spec, epoch, settlement, handle=None):
            await anyio.sleep_forever()

    async with desk(clock, Silent()) as (_, control):
        lease = await held(control, wish())
        began_at = anyio.current_time()
        with pytest.raises(TransientError, match="no answer") as caught:
            await control.receive(lease.spec.id, count=1, wait_s=60)
        assert (anyio.current_time() - began_at, caught.value.is_unknown) == (pytest.approx(60 + REMOTE_S), False)
        with pytest.raises(TransientError, match="not known") as caught:
            await control.settle_received(lease.spec.id, "1.1", COMPLETE)
        assert caught.value.is_unknown


async def test_no_work_is_begun_while_the_lock_is_at_risk_and_what_was_begun_is_settled(clock):
    async def late(_spec, number):
        if number > 1:
            await anyio.sleep(1000)

    broker = FakeBroker(before=late, messages=[message(1), message(2)])
    async with desk(clock, broker) as (_, control):
        lease = await held(control, wish())
        await control.receive(lease.spec.id, count=1, wait_s=0)
        await control.wait_lease(lease.spec.id, lambda lease: lease.state is LeaseState.AT_RISK, 100)
        for refused in (
            control.receive(lease.spec.id, count=1, wait_s=0),
            control.receive_deferred(lease.spec.id, [1]),
        ):
            with pytest.raises(ConflictError, match="at_risk") as caught:
                await refused
            assert caught.value.state == LeaseState.AT_RISK
        assert await control.peek(lease.spec.id, count=1)
        await control.settle_received(lease.spec.id, "1.1", COMPLETE)
        assert broker.asked[-1] == ("settle", 1, "1.1", COMPLETE)


async def test_who_waits_for_a_message_is_told_at_once_that_the_lock_is_at_risk(clock):
    async def late(_spec, number):
        if number > 1:
            await anyio.sleep(1000)

    async with desk(clock, FakeBroker(before=late)) as (_, control):
        lease = await held(control, wish())
        await control.wait_lease(lease.spec.id, lambda lease: lease.renewals == 1, 100)
        with pytest.raises(ConflictError, match="at_risk") as caught:
            await control.receive(lease.spec.id, count=1, wait_s=300)
        assert caught.value.state == LeaseState.AT_RISK
        assert anyio.current_time() == pytest.approx(lease.expires_at)
        assert lease.state is LeaseState.AT_RISK


async def test_who_waits_in_a_session_that_is_given_up_hears_that_it_is_lost_and_why(clock):
    class Detaching(FakeBroker):
        """Ends what waits when the link is given back, as a target does that knows no more than that."""

        def __init__(self):
            super().__init__()
            self.released = anyio.Event()

        async def release(self, spec, epoch):
            self.released.set()
            await super().release(spec, epoch)

        async def receive(self, spec, epoch, *, count, wait_s):
            await self.released.wait()
            raise ConflictError("the session was released meanwhile")

        async def settle(self, spec, epoch, settlement, handle=None):
            raise ConflictError("the session was released with the message in flight")

        def in_flight(self, spec):
            return [InFlight("1.1", 1, is_lost=self.released.is_set())]

    async with desk(clock, Detaching()) as (_, control):
        lease = await held(control, wish(max_duration_s=20.0))
        with pytest.raises(LeaseLostError, match="its maximum") as caught:
            await control.receive(lease.spec.id, count=1, wait_s=300)
        assert caught.value.reason == LossReason.MAX_DURATION
        with pytest.raises(LeaseLostError, match=r"its maximum.*delivered again") as caught:
            await control.settle_received(lease.spec.id, "1.1", COMPLETE)
        assert caught.value.reason == LossReason.MAX_DURATION
        with pytest.raises(ConflictError, match="released"):
            await control.settle_received(lease.spec.id, "1.2", COMPLETE)


async def test_what_was_in_flight_when_its_owner_released_the_session_is_not_called_lost(clock):
    class Detaching(FakeBroker):
        async def settle(self, spec, epoch, settlement, handle=None):
            raise ConflictError("the session was released with the message in flight")

        def in_flight(self, spec):
            return [InFlight("1.1", 1, is_lost=True)]

    async with desk(clock, Detaching()) as (_, control):
        lease = await held(control, wish())
        await control.release(lease.spec.id)
        with pytest.raises(ConflictError, match="released with"):
            await control.settle_received(lease.spec.id, "1.1", COMPLETE)


async def test_a_session_that_was_lost_is_told_as_lost(clock):
    async with desk(clock) as (rig, control):
        lease = await held(control, wish(reacquire=False))
        rig.break_link(lease.spec, 1, LossReason.EXPIRED)
        for refused in (
            control.receive(lease.spec.id, count=1, wait_s=0),
            control.peek(lease.spec.id, count=1),
            control.receive_deferred(lease.spec.id, [1]),
        ):
            with pytest.raises(LeaseLostError, match="as told") as caught:
                await refused
            assert caught.value.reason == LossReason.EXPIRED


async def test_a_session_that_was_released_is_not_held(clock):
    async with desk(clock) as (_, control):
        lease = await held(control, wish())
        await control.release(lease.spec.id)
        with pytest.raises(ConflictError, match="released, not held") as caught:
            await control.receive(lease.spec.id, count=1, wait_s=0)
        assert caught.value.state == LeaseState.RELEASED
        assert control.in_flight(lease.spec.id) == []


async def test_to_settle_again_in_the_same_way_is_no_error(clock):
    async with desk(clock) as (rig, control):
        lease = await held(control, wish())
        rig.broker.messages += [message(1)]
        await control.receive(lease.spec.id, count=1, wait_s=0)
        for _ in range(2):
            await control.settle_received(lease.spec.id, "1.1", COMPLETE)
        with pytest.raises(MessageSettledError, match="it was completed") as caught:
            await control.settle_received(lease.spec.id, "1.1", Settlement("abandon"))
        assert caught.value.fate is MessageFate.COMPLETED
        with pytest.raises(UnknownHandleError):
            await control.settle_received(lease.spec.id, "1.9", COMPLETE)
        assert [asked[0] for asked in rig.broker.asked] == ["receive", "settle", "settle"]


async def test_only_the_latest_settlements_are_remembered(clock):
    async with desk(clock) as (rig, control):
        lease = await held(control, wish())
        messages = SessionMessages(lambda _lease: rig.broker, Waiting(), remembered=2)
        for number in range(1, 4):
            rig.broker.received[f"1.{number}"] = InFlight(f"1.{number}", number)
            await messages.settle(lease, f"1.{number}", COMPLETE)
        for number in (2, 3):
            await messages.settle(lease, f"1.{number}", COMPLETE)
        with pytest.raises(UnknownHandleError):
            await messages.settle(lease, "1.1", COMPLETE)


async def test_the_lock_of_one_message_receives_nothing(clock):
    async with desk(clock) as (_, control):
        lease = await held(control, wish(None, kind=LeaseKind.MESSAGE, lock_token=TOKEN))
        for refused in (
            control.receive(lease.spec.id, count=1, wait_s=0),
            control.peek(lease.spec.id, count=1),
            control.receive_deferred(lease.spec.id, [1]),
            control.settle_received(lease.spec.id, "1.1", COMPLETE),
        ):
            with pytest.raises(ConflictError, match="lock of one message"):
                await refused
        with pytest.raises(ConflictError, match="lock of one message"):
            control.in_flight(lease.spec.id)


async def test_a_lease_that_is_not_known_has_no_messages(clock):
    async with desk(clock) as (_, control):
        for refused in (
            control.receive("lease-9", count=1, wait_s=0),
            control.peek("lease-9", count=1),
            control.receive_deferred("lease-9", [1]),
            control.settle_received("lease-9", "1.1", COMPLETE),
        ):
            with pytest.raises(KeyError):
                await refused
