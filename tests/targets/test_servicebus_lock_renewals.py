"""Message locks that are renewed without a task that waits for each."""

from dataclasses import replace

import anyio
import pytest

from renewer.core.model import LeaseId
from renewer.core.states import LossReason, MessageFate
from renewer.errors import LeaseLostError, MessageSettledError, TransientError
from tests.targets.servicebus_rig import Wanted, begin_renewal, failing, rig
from tests.targets.test_servicebus_lock_batches import Renewals, acquire_all, token_of
from tests.targets.test_servicebus_messages import message

pytestmark = pytest.mark.anyio


class Answers:
    """What renewals came to, by the number of the message, in the order of the answers."""

    def __init__(self, r):
        self.r = r
        self.came = {}
        self.together = []
        self.renewals = {}
        self._more = anyio.Event()

    def renew(self, *numbers, spec=message):
        wanted = [Wanted(spec(number), 1) for number in numbers]
        number_of = dict(zip(wanted, numbers, strict=True))
        self.r.target.begin_renewals(wanted, lambda those: self._take({number_of[one]: one.renewal for one in those}))
        self.renewals |= {number_of[one]: one.renewal for one in wanted}

    def _take(self, those):
        assert not self.came.keys() & those.keys()
        self.came |= those
        self.together.append(sorted(those))
        self._more.set()
        self._more = anyio.Event()

    async def until(self, *numbers):
        while not self.came.keys() >= set(numbers):
            await self._more.wait()


async def test_locks_that_are_renewed_at_the_same_time_go_into_one_request_and_each_gets_its_grant():
    renewals = Renewals()
    async with rig(renewals) as r:
        await acquire_all(r, range(40))
        answers = Answers(r)
        answers.renew(*range(40))
        await answers.until(*range(40))
        assert renewals.sizes == [40, 40]
        assert answers.together == [[*range(40)]]
        assert all(answers.came[number] is answers.renewals[number] for number in range(40))
        assert all(29 < it.grant.duration_s <= 30 for it in answers.came.values())


async def test_what_was_cancelled_is_not_answered_and_costs_the_others_nothing():
    renewals = Renewals()
    async with rig(renewals) as r:
        await acquire_all(r, range(4))
        renewals.held_back = []
        answers = Answers(r)
        answers.renew(*range(4))
        answers.renewals[0].cancel()
        await r.broker.until(lambda: renewals.held_back)
        answers.renewals[1].cancel()
        (ask,), renewals.held_back = renewals.held_back, None
        renewals.answer(ask)
        await answers.until(2, 3)
        assert sorted(answers.came) == [2, 3]
        assert renewals.sizes == [4, 3]
        for renewal in answers.renewals.values():
            renewal.cancel()


async def test_a_request_is_given_up_when_all_of_its_locks_are_cancelled():
    renewals = Renewals()
    async with rig(renewals) as r:
        await acquire_all(r, range(2))
        renewals.held_back = []
        answers = Answers(r)
        answers.renew(0, 1)
        await r.broker.until(lambda: renewals.held_back)
        answers.renewals[0].cancel()
        answers.renewals[1].cancel()
        (ask,), renewals.held_back = renewals.held_back, None
        renewals.answer(ask)
        # For nobody: and the next one is answered all the same.
        await r.target.renew(message(1), 1)
        assert not answers.came


async def test_a_second_renewal_of_a_lock_goes_with_the_first_and_stays_when_that_is_cancelled():
    renewals = Renewals()
    async with rig(renewals) as r:
        await acquire_all(r, range(1))
        first, second = Answers(r), Answers(r)
        for answers in (first, second):
            answers.renew(0)
        first.renewals[0].cancel()
        await second.until(0)
        assert renewals.sizes == [1, 1]
        assert not first.came
        assert second.came[0].grant is not None
        third, fourth = Answers(r), Answers(r)
        for answers in (third, fourth):
            answers.renew(0)
            answers.renewals[0].cancel()
        await r.target.renew(message(0), 1)
        assert renewals.sizes == [1, 1, 1]


async def test_a_lost_lock_costs_the_others_nothing_and_is_told_when_it_is_finished():
    renewals = Renewals()
    async with rig(renewals) as r:
        await acquire_all(r, range(20))
        renewals.lost = {token_of(7)}
        answers = Answers(r)
        answers.renew(*range(20))
        await answers.until(*range(20))
        assert [number for number, it in answers.came.items() if it.grant is None] == [7]
        error = await failing(answers.came[7].finish(), LeaseLostError)
        assert error.reason == LossReason.EXPIRED
        # It is not kept any longer, and asked for from the beginning.
        assert begin_renewal(r.target, message(7), 1, lambda _: None) is None


async def test_a_lock_that_is_over_because_its_message_was_settled_is_told_as_that():
    renewals = Renewals()
    async with rig(renewals) as r:

        def numbered(number):
            return replace(message(number), sequence_number=77)

        await r.target.acquire(numbered(0), 1)
        renewals.lost = {token_of(0)}
        answers = Answers(r)
        answers.renew(0, spec=numbered)
        await answers.until(0)
        r.broker.on_management = lambda ask: ask.answer(204)
        error = await failing(answers.came[0].finish(), MessageSettledError)
        assert error.fate is MessageFate.ELSEWHERE


async def test_a_failure_that_is_not_final_leaves_the_lock_kept():
    renewals = Renewals()
    async with rig(renewals) as r:
        await acquire_all(r, range(2))
        renewals.lost, renewals.refusal = {token_of(0)}, (500, "amqp:internal-error")
        answers = Answers(r)
        answers.renew(0, 1)
        await answers.until(0, 1)
        assert (await failing(answers.came[1].finish(), TransientError)).kind == "server"
        renewals.lost = set()
        again = Answers(r)
        again.renew(0, 1)
        await again.until(0, 1)
        assert all(it.grant is not None for it in again.came.values())


async def test_a_lock_that_is_not_kept_so_is_for_a_renewal_with_a_task():
    async with rig(Renewals()) as r:
        await acquire_all(r, [0])
        assert begin_renewal(r.target, message(1), 1, lambda _: None) is None
        assert begin_renewal(r.target, message(0), 2, lambda _: None) is None
        assert begin_renewal(r.target, replace(message(0), id=LeaseId("other")), 1, lambda _: None) is None
        r.stop.cancel()
        await r.broker.until(lambda: begin_renewal(r.target, message(0), 1, lambda _: None) is None)


async def test_whoever_fails_to_take_an_answer_in_costs_the_others_nothing():
    renewals = Renewals()
    async with rig(renewals) as r:
        await acquire_all(r, range(3))
        answers = Answers(r)
        begin_renewal(r.target, message(0), 1, lambda _: 1 / 0)
        answers.renew(1, 2)
        await answers.until(1, 2)
        assert all(it.grant is not None for it in answers.came.values())


async def test_renewals_that_wait_when_the_target_stops_are_told_so():
    renewals = Renewals()
    async with rig(renewals) as r:
        await acquire_all(r, range(3))
        renewals.held_back = []
        answers = Answers(r)
        answers.renew(0, 1)
        await r.broker.until(lambda: renewals.held_back)
        answers.renew(2)
        r.stop.cancel()
        await answers.until(0, 1, 2)
        for it in answers.came.values():
            assert (await failing(it.finish(), TransientError)).kind == "network"
