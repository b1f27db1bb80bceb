"""Credit for those who wait and nobody else; what comes is given out in turn and never lost."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from renewer.amqp import Delivery
from renewer.errors import LeaseLostError
from renewer.targets.servicebus import intake as intake_module
from renewer.targets.servicebus.intake import Intake
from renewer.targets.servicebus.sharing import MESSAGE_BYTES, Sharing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.anyio

LARGEST = 1000


class Broker:
    """The other end of the link: sends what it has for the credit that it gets, when the test lets it."""

    def __init__(self, sharing: Sharing | None = None, *, deaf: bool = False, largest: int = LARGEST) -> None:
        self.credit = 0
        self.flows: list[tuple[int, bool]] = []
        self.shelf: list[bytes] = []
        self.deaf = deaf
        self.to_tell: list[Callable[[], None]] = []
        self.sharing = sharing or Sharing()
        self.intake = Intake(self, self.sharing, largest=largest)

    def flow(self, credit: int, *, drain: bool = False) -> None:
        self.credit = credit
        self.flows.append((credit, drain))

    def tell_together(self, tell: Callable[[], None]) -> None:
        self.to_tell.append(tell)

    def send(self, *payloads: bytes) -> None:
        """Whether there is credit or not, as what was under way when it was taken back.

        They come with one read of the connection: the link has counted all of them before the first is told.
        """
        self.credit = max(0, self.credit - len(payloads))
        for payload in payloads:
            self.intake.on_arrival(Delivery(None, b"", 0, False, payload))  # type: ignore[arg-type]
        while self.to_tell:
            self.to_tell.pop()()

    def work(self) -> None:
        """Answer what was asked for."""
        while self.shelf and self.credit:
            together, self.shelf = self.shelf[: self.credit], self.shelf[self.credit :]
            self.send(*together)
        if self.credit and self.flows and self.flows[-1][1] and not self.deaf:
            self.credit = 0
            self.intake.on_drained()

    async def take(self, count: int = 10, wait_s: float = 60.0) -> list[bytes]:
        got = await self.intake.take(count, wait_s)
        self.intake.done_with(got)
        return [arrival.delivery.payload for arrival in got]


async def settled() -> None:
    """Let all tasks run until they wait."""
    await anyio.wait_all_tasks_blocked()


class Taking:
    """A call under way."""

    def __init__(self, call: Callable[[], Awaitable[Any]]) -> None:
        self.call = call
        self.scope = anyio.CancelScope()
        self.got: Any = None
        self.error: Exception | None = None
        self.is_done = False

    async def run(self) -> None:
        with self.scope:
            try:
                self.got = await self.call()
            except LeaseLostError as error:
                self.error = error
            self.is_done = True


async def test_no_credit_is_given_before_somebody_waits_nor_after() -> None:
    broker = Broker()
    assert broker.flows == []
    assert await broker.take(3, wait_s=0) == []
    assert broker.credit == 0


async def test_a_call_has_as_much_credit_as_it_asks_for() -> None:
    broker = Broker()
    async with anyio.create_task_group() as tasks:
        call = Taking(lambda: broker.take(7))
        tasks.start_soon(call.run)
        await settled()
        assert broker.flows == [(7, False)]
        broker.send(*[b"%d" % n for n in range(7)])
        await settled()
        assert call.got == [b"%d" % n for n in range(7)]
    assert broker.flows == [(7, False)]


async def test_messages_that_come_together_are_no_reason_for_more_credit() -> None:
    broker = Broker()
    broker.shelf += [b"%d" % n for n in range(12)]
    async with anyio.create_task_group() as tasks:
        call = Taking(lambda: broker.take(7))
        tasks.start_soon(call.run)
        await settled()
        broker.work()
    assert call.got == [b"%d" % n for n in range(7)]
    assert broker.flows == [(7, False)]
    assert len(broker.shelf) == 5


async def test_messages_that_come_together_while_the_link_is_drained_are_no_reason_for_more_credit() -> None:
    broker = Broker()
    async with anyio.create_task_group() as tasks:
        call = Taking(lambda: broker.take(7))
        tasks.start_soon(call.run)
        await settled()
        broker.send(b"0")
        await settled()
        broker.shelf += [b"%d" % n for n in range(1, 12)]
        broker.work()
    assert call.got == [b"%d" % n for n in range(7)]
    assert broker.flows == [(7, False), (6, True)]


async def test_after_the_first_message_a_call_takes_what_is_there_and_waits_no_longer() -> None:
    broker = Broker()
    async with anyio.create_task_group() as tasks:
        call = Taking(lambda: broker.take(10))
        tasks.start_soon(call.run)
        await settled()
        broker.send(b"a")
        await settled()
        assert broker.flows[-1] == (9, True)
        assert not call.is_done
        broker.shelf += [b"b", b"c"]
        broker.work()
        await settled()
        assert call.got == [b"a", b"b", b"c"]
        assert broker.credit == 0


async def test_a_call_that_does_not_wait_gets_what_is_there() -> None:
    broker = Broker()
    broker.shelf += [b"a", b"b"]
    async with anyio.create_task_group() as tasks:
        call = Taking(lambda: broker.take(10, wait_s=0))
        tasks.start_soon(call.run)
        await settled()
        broker.work()
        await settled()
        assert call.got == [b"a", b"b"]


async def test_a_broker_that_never_says_that_it_was_all_costs_some_patience_and_no_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake_module, "DRAIN_PATIENCE_S", 0.05)
    broker = Broker(deaf=True)
    async with anyio.create_task_group() as tasks:
        call = Taking(lambda: broker.take(10))
        tasks.start_soon(call.run)
        await settled()
        broker.send(b"a")
    assert call.got == [b"a"]
    assert broker.flows[-1] == (0, False)
    broker.send(b"late")
    assert await broker.take(10) == [b"late"]


async def test_two_calls_at_once_get_messages_in_turn() -> None:
    broker = Broker()
    async with anyio.create_task_group() as tasks:
        first, second = Taking(lambda: broker.take(3)), Taking(lambda: broker.take(3))
        tasks.start_soon(first.run)
        await settled()
        tasks.start_soon(second.run)
        await settled()
        assert broker.credit == 6
        broker.send(*(b"%d" % n for n in range(6)))
        await settled()
    assert (first.got, second.got) == ([b"0", b"2", b"4"], [b"1", b"3", b"5"])


async def test_one_call_having_taken_what_is_there_the_other_waits_on_with_credit_of_its_own() -> None:
    broker = Broker()
    async with anyio.create_task_group() as tasks:
        first, second = Taking(lambda: broker.take(5)), Taking(lambda: broker.take(4))
        tasks.start_soon(first.run)
        await settled()
        tasks.start_soon(second.run)
        await settled()
        broker.send(b"only")
        await settled()
        broker.work()
        await settled()
        assert first.got == [b"only"]
        assert not second.is_done
        assert (broker.credit, broker.flows[-1]) == (4, (4, False))
        broker.send(b"next")
        await settled()
        broker.work()
    assert second.got == [b"next"]


async def test_what_comes_when_nobody_waits_is_kept_for_the_next_call_in_order() -> None:
    broker = Broker()
    async with anyio.create_task_group() as tasks:
        call = Taking(lambda: broker.take(3))
        tasks.start_soon(call.run)
        await settled()
        call.scope.cancel()
    assert broker.flows[-1] == (0, False)
    broker.send(b"a", b"b", b"c")
    assert await broker.take(2) == [b"a", b"b"]
    assert await broker.take(2) == [b"c"]
    assert broker.credit == 0


async def test_what_a_cancelled_call_had_got_goes_to_the_next_one_in_its_place() -> None:
    broker = Broker()
    async with anyio.create_task_group() as tasks:
        call = Taking(lambda: broker.take(4))
        tasks.start_soon(call.run)
        await settled()
        broker.send(b"a", b"b")
        call.scope.cancel()
        broker.send(b"c")
    assert await broker.take(10) == [b"a", b"b", b"c"]


async def test_what_a_cancelled_call_had_got_goes_to_one_that_waits() -> None:
    broker = Broker()
    async with anyio.create_task_group() as tasks:
        first, second = Taking(lambda: broker.take(4)), Taking(lambda: broker.take(1))
        tasks.start_soon(first.run)
        await settled()
        tasks.start_soon(second.run)
        await settled()
        broker.send(b"a")
        first.scope.cancel()
        await settled()
        assert second.got == [b"a"]


async def test_a_call_during_a_drain_that_nobody_answers_has_credit_once_the_other_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake_module, "DRAIN_PATIENCE_S", 60)
    broker = Broker(deaf=True)
    async with anyio.create_task_group() as tasks:
        first, second = Taking(lambda: broker.take(4, wait_s=0)), Taking(lambda: broker.take(1))
        tasks.start_soon(first.run)
        await settled()
        tasks.start_soon(second.run)
        await settled()
        assert broker.flows == [(4, True)]
        first.scope.cancel()
        await settled()
        assert broker.flows[-1] == (1, False)
        broker.send(b"a")
    assert second.got == [b"a"]


async def test_credit_that_comes_back_late_for_a_drain_that_was_called_off_is_given_anew() -> None:
    broker = Broker(deaf=True)
    async with anyio.create_task_group() as tasks:
        first, second = Taking(lambda: broker.take(4, wait_s=0)), Taking(lambda: broker.take(2))
        tasks.start_soon(first.run)
        await settled()
        first.scope.cancel()
        tasks.start_soon(second.run)
        await settled()
        assert broker.flows[-1] == (2, False)
        broker.credit = 0  # By the broker's count those two were among the four that it gave back.
        broker.intake.on_drained()
        assert broker.flows[-1] == (2, False)
        assert broker.credit == 2
        flows = len(broker.flows)
        broker.credit = 0
        broker.intake.on_drained()
        assert len(broker.flows) == flows
        second.scope.cancel()


async def test_when_the_link_is_gone_all_who_wait_are_told_and_nothing_is_kept() -> None:
    broker = Broker()
    broker.send(b"kept")

    def gone() -> LeaseLostError:
        return LeaseLostError("gone", reason="detached")

    async with anyio.create_task_group() as tasks:
        assert await broker.take(1) == [b"kept"]
        calls = [Taking(lambda: broker.take(2)) for _ in range(2)]
        for call in calls:
            tasks.start_soon(call.run)
        await settled()
        broker.send(b"had")
        broker.intake.end(gone)
    assert all(isinstance(call.error, LeaseLostError) for call in calls)
    assert calls[0].error is not calls[1].error
    broker.send(b"too late")
    with pytest.raises(LeaseLostError):
        await broker.take(1)
    assert broker.sharing.room == MESSAGE_BYTES


async def test_a_message_that_the_broker_takes_back_is_not_given_out() -> None:
    broker = Broker()
    broker.send(b"a", b"b", b"c")
    (middle,) = [arrival.delivery for arrival in broker.intake._kept if arrival.delivery.payload == b"b"]
    broker.intake.drop(middle)
    broker.intake.drop(middle)
    assert await broker.take(10) == [b"a", b"c"]
    assert broker.sharing.room == MESSAGE_BYTES


async def test_a_call_ends_when_it_has_enough_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "MAX_CALL_BYTES", 250)
    broker = Broker()
    broker.send(*(bytes(100) for _ in range(5)))
    assert len(await broker.take(10)) == 3
    assert len(await broker.take(10)) == 2


async def test_each_call_has_credit_for_one_message_and_more_only_as_far_as_there_is_room() -> None:
    sharing = Sharing()
    half = MESSAGE_BYTES // 2
    brokers = [Broker(sharing, largest=half) for _ in range(4)]
    async with anyio.create_task_group() as tasks:
        calls = [Taking(lambda broker=broker: broker.take(10)) for broker in brokers]  # type: ignore[misc]
        for call in calls:
            tasks.start_soon(call.run)
            await settled()
        assert [broker.credit for broker in brokers] == [3, 1, 1, 1]
        brokers[1].send(bytes(10))
        await settled()
        assert brokers[1].flows[-1] == (1, True)
        brokers[1].work()
        await settled()
        assert calls[1].got == [bytes(10)]
        for call in calls:
            call.scope.cancel()
    assert sharing.room == MESSAGE_BYTES


async def test_with_little_room_a_call_still_gets_all_that_it_asked_for_one_after_the_other() -> None:
    sharing = Sharing()
    sharing.use(MESSAGE_BYTES * 2)
    broker = Broker(sharing)
    broker.shelf += [b"%d" % n for n in range(9)]
    async with anyio.create_task_group() as tasks:
        call = Taking(lambda: broker.take(5))
        tasks.start_soon(call.run)
        for _ in range(20):
            await settled()
            broker.work()
    assert call.got == [b"0", b"1", b"2", b"3", b"4"]
    assert broker.shelf[0] == b"5"
    assert max(credit for credit, _ in broker.flows) == 1


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_comes_in_between_every_message_is_given_out_once_and_in_order(seed: int) -> None:
    rng = random.Random(seed)
    broker = Broker(deaf=rng.random() < 0.2)
    sent, got = 0, []

    async def call() -> None:
        with anyio.move_on_after(rng.choice((0.0, 0.001, 0.003))) as scope:
            arrivals = await broker.intake.take(rng.randrange(1, 6), rng.choice((0.0, 0.001, 10.0)))
        if not scope.cancelled_caught:
            if rng.random() < 0.3:
                broker.intake.put_back(arrivals)
            else:
                broker.intake.done_with(arrivals)
                got.extend((arrival.number, arrival.delivery.payload) for arrival in arrivals)

    async with anyio.create_task_group() as tasks:
        for _ in range(60):
            for _ in range(rng.randrange(3)):
                tasks.start_soon(call)
            for _ in range(rng.randrange(3)):
                broker.shelf.append(b"%d" % sent)
                sent += 1
            if rng.random() < 0.7:
                broker.work()
            await anyio.sleep(rng.choice((0.0, 0.0, 0.001)))
    broker.deaf = False
    while True:
        async with anyio.create_task_group() as tasks:
            last = Taking(lambda: broker.intake.take(100, 0))
            tasks.start_soon(last.run)
            await settled()
            broker.work()
        if not last.got:
            break
        got.extend((arrival.number, arrival.delivery.payload) for arrival in last.got)
        broker.intake.done_with(last.got)
    assert sorted(payload for _, payload in got) == sorted(b"%d" % n for n in range(sent))
    assert [payload for _, payload in sorted(got)] == [b"%d" % n for n in range(sent)]
    assert broker.sharing.room == MESSAGE_BYTES
