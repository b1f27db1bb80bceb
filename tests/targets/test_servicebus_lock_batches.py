"""Message locks that are renewed together: how many go into a request, and what becomes of the good ones beside bad."""

import uuid
from collections import Counter
from dataclasses import replace

import anyio
import pytest

from renewer.amqp import AmqpArray, Timestamp
from renewer.core.states import LossReason
from renewer.errors import LeaseLostError, TransientError
from renewer.targets.servicebus.lockbatches import Wish
from tests.targets.servicebus_rig import failing, rig
from tests.targets.test_servicebus_messages import TOKEN, message
from tests.uncollected import living, no_collector
from tests.virtualtime import virtual

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return virtual(request.param)


RENEW = "com.microsoft:renew-lock"
LOST = "com.microsoft:message-lock-lost"


def token_of(number):
    return uuid.UUID(int=TOKEN.int + number)


class Renewals:
    """A broker that renews all locks of a request, or none of them if one of `lost` is among them."""

    def __init__(self, *, lost=(), most=None, lock_s=30.0):
        self.lost = {token_of(number) for number in lost}
        self.most = most
        self.lock_s = lock_s
        self.sizes = []
        self.renewed = Counter()
        self.refused = Counter()
        self.refusal = (410, LOST)
        self.held_back = None

    def __call__(self, broker):
        broker.on_management = self.answer

    def answer(self, ask):
        if self.held_back is not None:
            self.held_back.append(ask)
            return
        tokens = ask.message.body.value["lock-tokens"]
        self.sizes.append(len(tokens))
        if self.most is not None and len(tokens) > self.most:
            ask.answer(400, "com.microsoft:argument-error")
        elif self.lost.intersection(tokens):
            self.refused.update(tokens)
            ask.answer(*self.refusal)
        else:
            self.renewed.update(tokens)
            until = Timestamp(int(1000 * (ask.peer.broker.wall() + self.lock_s)))
            ask.answer(body={"expirations": AmqpArray([until] * len(tokens), Timestamp)})


async def acquire_all(r, numbers, epoch=1):
    """What came of each acquisition."""
    came = {}

    async def acquire(number):
        try:
            came[number] = await r.target.acquire(message(number), epoch)
        except (LeaseLostError, TransientError) as error:
            came[number] = error

    async with anyio.create_task_group() as tasks:
        for number in numbers:
            tasks.start_soon(acquire, number)
    return came


async def test_locks_that_are_renewed_at_the_same_time_go_into_one_request():
    renewals = Renewals()
    async with rig(renewals) as r:
        await acquire_all(r, range(40))
        assert renewals.sizes == [40]
        await acquire_all(r, [1], epoch=2)
        assert renewals.sizes == [40, 1]


@pytest.mark.parametrize("most", [1, 7, 100])
async def test_no_request_has_more_locks_than_configured(most):
    renewals = Renewals()
    async with rig(renewals, message_batch=most) as r:
        await acquire_all(r, range(250))
        assert max(renewals.sizes) <= most
        assert sum(renewals.sizes) == 250
        assert len(renewals.sizes) == -(-250 // most)


async def test_locks_of_different_entities_go_into_different_requests():
    renewals = Renewals()
    async with rig(renewals) as r, anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(r.target.acquire, message(number, entity=f"orders{number % 2}"), 1)
    assert sorted(renewals.sizes) == [3, 3]


async def test_a_lost_lock_does_not_cost_the_others_theirs_and_is_lost_once():
    bad = {3, 57, 98}
    renewals = Renewals(lost=bad)
    async with rig(renewals) as r:
        came = await acquire_all(r, range(100))
        assert {number for number, what in came.items() if isinstance(what, LeaseLostError)} == bad
        assert {came[number].reason for number in bad} == {LossReason.EXPIRED}
        assert all(renewals.renewed[token_of(number)] == 1 for number in set(range(100)) - bad)
        # Ten of ten, and three times ten at most: two rounds of requests after the first answer.
        assert len(renewals.sizes) <= 1 + 10 + 30
        assert max(renewals.refused.values()) == 3


async def test_a_batch_in_which_every_lock_is_lost_tells_each_of_its_own_loss():
    renewals = Renewals(lost=range(100))
    async with rig(renewals) as r:
        came = await acquire_all(r, range(100))
        assert all(isinstance(what, LeaseLostError) for what in came.values())
        assert len({id(what) for what in came.values()}) == 100
        assert len(renewals.sizes) == 111


async def test_a_broker_that_takes_fewer_locks_at_once_is_given_fewer_from_then_on():
    renewals = Renewals(most=30)
    async with rig(renewals) as r:
        came = await acquire_all(r, range(100))
        assert not [what for what in came.values() if isinstance(what, Exception)]
        assert renewals.sizes == [100, 25, 25, 25, 25]
        await acquire_all(r, range(100), epoch=2)
        assert renewals.sizes[5:] == [25, 25, 25, 25]


async def test_a_broker_that_answers_for_fewer_locks_than_were_asked_for_is_asked_one_by_one():
    def answer_for_one(ask):
        until = Timestamp(int(1000 * (ask.peer.broker.wall() + 30)))
        ask.answer(body={"expirations": AmqpArray([until], Timestamp)})

    async with rig(lambda broker: setattr(broker, "on_management", answer_for_one)) as r:
        came = await acquire_all(r, range(10))
        assert not [what for what in came.values() if isinstance(what, Exception)]
        assert len(r.broker.asks) == 11


async def test_a_busy_broker_is_not_asked_again_for_a_batch():
    renewals = Renewals(lost=[0])
    renewals.refusal = (503, "com.microsoft:internal-server-error")
    async with rig(renewals) as r:
        came = await acquire_all(r, range(50))
        assert all(isinstance(what, TransientError) for what in came.values())
        assert renewals.sizes == [50]


async def test_an_answer_that_comes_late_counts_for_all_who_still_wait():
    renewals = Renewals()
    async with rig(renewals) as r:
        await acquire_all(r, range(3))
        renewals.held_back = []
        grants, given_up = {}, []

        async def renew(number, patience_s):
            with anyio.move_on_after(patience_s):
                grants[number] = await r.target.renew(message(number), 1)
            if number not in grants:
                given_up.append(number)
                r.broker.changed()

        async with anyio.create_task_group() as tasks:
            for number, patience_s in ((0, 0.05), (1, 10), (2, 10)):
                tasks.start_soon(renew, number, patience_s)
            await r.broker.until(lambda: renewals.held_back)
            await r.broker.until(lambda: given_up)
            (ask,), renewals.held_back = renewals.held_back, None
            renewals.answer(ask)
        assert sorted(grants) == [1, 2]


async def test_a_request_is_given_up_when_nobody_waits_for_any_of_its_locks():
    renewals = Renewals()
    async with rig(renewals) as r:
        await acquire_all(r, range(3))
        renewals.held_back = []
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(r.target.renew, message(number), 1)
            await r.broker.until(lambda: renewals.held_back)
            tasks.cancel_scope.cancel()
        (ask,), renewals.held_back = renewals.held_back, None
        renewals.answer(ask)
        # For nobody: and the next one is answered all the same.
        await r.target.renew(message(1), 1)


async def test_a_second_attempt_for_a_lock_that_waits_to_be_sent_goes_with_the_first():
    renewals = Renewals()
    async with rig(renewals) as r:
        await acquire_all(r, range(2))
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(r.target.renew, message(0), 1)
        assert renewals.sizes == [2, 1]


async def test_no_token_of_a_batch_is_in_what_is_told_of_it():
    def repeat(ask):
        tokens = ask.message.body.value["lock-tokens"]
        words = " ".join(f"{token} {token.hex.upper()} {token.bytes_le.hex()} {uuid.UUID(int=7)}" for token in tokens)
        ask.answer(500, "amqp:internal-error", description=words)

    async with rig(lambda broker: setattr(broker, "on_management", repeat)) as r:
        came = await acquire_all(r, range(3))
        for what in came.values():
            text = str(what).lower()
            assert "redacted" in text
            assert str(uuid.UUID(int=7)) in text
            for number in range(3):
                assert str(token_of(number)) not in text
                assert token_of(number).hex not in text
                assert token_of(number).bytes_le.hex() not in text


async def test_renewals_that_wait_when_the_target_stops_are_told_so():
    renewals = Renewals()
    renewals.held_back = []
    async with rig(renewals) as r:
        async with anyio.create_task_group() as tasks:

            async def fail():
                error = await failing(r.target.acquire(message(), 1), TransientError)
                assert error.kind == "network"

            tasks.start_soon(fail)
            await r.broker.until(lambda: renewals.held_back)
            r.stop.cancel()
        assert (await failing(r.target.acquire(message(1), 1), TransientError)).kind == "network"


async def test_a_lock_with_a_shorter_duration_bounds_the_time_that_the_broker_is_given():
    async with rig(Renewals()) as r:
        async with anyio.create_task_group() as tasks:
            for number, lock_s in ((0, 30.0), (1, 7.0)):
                tasks.start_soon(r.target.acquire, replace(message(number), lock_duration_s=lock_s), 1)
        (ask,) = r.broker.asks
        assert ask.message.application_properties["com.microsoft:server-timeout"] == 7000


async def test_a_fault_of_ours_costs_the_renewals_of_one_batch_and_no_more(monkeypatch):
    async with rig(Renewals()) as r:
        await acquire_all(r, range(3))
        with monkeypatch.context() as patch:
            patch.setattr("renewer.targets.servicebus.lockbatches.read_expirations", lambda *_: 1 / 0)
            error = await failing(r.target.renew(message(1), 1), TransientError)
            assert error.kind == "garbage"
        await r.target.renew(message(1), 1)


async def test_locks_that_should_have_ended_do_not_share_a_request_with_those_that_stand():
    renewals = Renewals(lost=[0, 1])
    async with rig(renewals) as r:
        late = [replace(message(number), lock_duration_s=1e-6) for number in (0, 1)]
        renewals.lost = set()
        await acquire_all(r, range(2, 6))
        for spec in late:
            await r.target.acquire(spec, 1)
        renewals.lost = {token_of(0), token_of(1)}
        renewals.sizes.clear()
        async with anyio.create_task_group() as tasks:
            for spec in late:
                tasks.start_soon(failing, r.target.renew(spec, 1), LeaseLostError)
            for number in range(2, 6):
                tasks.start_soon(r.target.renew, message(number), 1)
        assert sorted(renewals.sizes) == [1, 1, 2, 4]


async def test_what_was_asked_for_together_is_no_work_for_the_garbage_collector():
    async with rig(Renewals()) as r:
        with no_collector():
            await acquire_all(r, range(40))
            await anyio.wait_all_tasks_blocked()
            assert not living(Wish)
