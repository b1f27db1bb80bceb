"""Settlements whose answers are lost, late or unfriendly, and locks that are over: what is known, and what is told."""

from dataclasses import replace

import anyio
import pytest

from renewer.amqp import AmqpArray, Int, Message, Timestamp, Value
from renewer.core.states import LossReason, MessageFate
from renewer.errors import ConflictError, LeaseLostError, MessageSettledError, TransientError
from renewer.ports import Settlement
from tests.targets.servicebus_rig import failing, rig
from tests.targets.test_servicebus_messages import TOKEN, message
from tests.virtualtime import virtual

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return virtual(request.param)


LOST = "com.microsoft:message-lock-lost"
COMPLETE = Settlement("complete")
PEEK, RENEW, SETTLE = (f"com.microsoft:{name}" for name in ("peek-message", "renew-lock", "update-disposition"))


def numbered(number=77):
    return replace(message(), sequence_number=number)


def brief(spec):
    """Its lock is over by our clock as soon as it is ours."""
    return replace(spec, lock_duration_s=1e-6)


class Broker:
    """Renews every lock until it is `over`. What it makes of other requests is its `answers`, by operation."""

    def __init__(self, **answers):
        self.over = False
        self.lock_s = 30.0
        self.answers = {PEEK: lambda ask: ask.answer(204), SETTLE: lambda ask: ask.answer(body={}), **answers}
        self.asked = []

    def __call__(self, broker):
        broker.on_management = self.answer

    def answer(self, ask):
        self.asked.append(ask.operation)
        if ask.operation != RENEW:
            self.answers[ask.operation](ask)
        elif self.over:
            ask.answer(410, LOST, description=f"the lock {TOKEN} is lost")
        else:
            until = Timestamp(int(1000 * (ask.peer.broker.wall() + self.lock_s)))
            ask.answer(body={"expirations": AmqpArray([until], Timestamp)})


def there(*, number=77, state=0):
    payload = Message(
        message_annotations={"x-opt-sequence-number": number, "x-opt-message-state": Int(state)}, body=Value("m")
    ).encode()
    return lambda ask: ask.answer(body={"messages": [{"message": payload}]})


def lost(ask):
    ask.answer(410, LOST, description=f"the lock {TOKEN} is lost")


def silent(_ask):
    pass


# Locks that are over ------------------------------------------------------------------------------------------------


async def renewing_what_is_over(broker, *, spec=None):
    spec = spec or numbered()
    async with rig(broker) as r:
        await r.target.acquire(spec, 1)
        broker.over = True
        with pytest.raises((LeaseLostError, MessageSettledError)) as caught:
            await r.target.renew(spec, 1)
        assert str(TOKEN) not in str(caught.value)
        return caught.value


async def test_a_message_that_is_no_longer_there_is_settled():
    broker = Broker()
    error = await renewing_what_is_over(broker)
    assert isinstance(error, MessageSettledError)
    assert error.fate == MessageFate.ELSEWHERE
    assert broker.asked == [RENEW, RENEW, PEEK]


async def test_another_message_in_its_place_means_that_it_is_settled():
    assert isinstance(await renewing_what_is_over(Broker(**{PEEK: there(number=78)})), MessageSettledError)


async def test_a_message_that_is_there_is_lost():
    error = await renewing_what_is_over(Broker(**{PEEK: there()}))
    assert isinstance(error, LeaseLostError)
    assert error.reason == LossReason.EXPIRED
    assert "still there, and its lock expired or it was abandoned" in str(error)


async def test_a_deferred_message_whose_lock_cannot_have_expired_was_deferred():
    assert isinstance(await renewing_what_is_over(Broker(**{PEEK: there(state=1)})), MessageSettledError)


async def test_a_deferred_message_whose_lock_may_have_expired_is_lost():
    error = await renewing_what_is_over(Broker(**{PEEK: there(state=1)}), spec=brief(numbered()))
    assert isinstance(error, LeaseLostError)
    assert "still there, as deferred" in str(error)


async def test_without_a_sequence_number_nothing_is_looked_at_and_the_lock_is_lost():
    broker = Broker()
    error = await renewing_what_is_over(broker, spec=message())
    assert isinstance(error, LeaseLostError)
    assert "sequence_number" in str(error)
    assert PEEK not in broker.asked


@pytest.mark.parametrize(
    "answer",
    [
        lambda ask: ask.answer(500, "amqp:internal-error"),
        lambda ask: ask.answer(401, "amqp:unauthorized-access"),
        lambda ask: ask.answer(body={}),
        lambda ask: ask.answer(body={"messages": [{"message": 7}]}),
        lambda ask: ask.answer(404, "amqp:not-found"),
    ],
)
async def test_a_look_that_fails_leaves_it_a_loss_and_says_so(answer):
    error = await renewing_what_is_over(Broker(**{PEEK: answer}))
    assert isinstance(error, LeaseLostError)
    assert "could not be found out" in str(error)


async def test_a_look_that_is_not_answered_is_given_up_soon(monkeypatch):
    monkeypatch.setattr("renewer.targets.servicebus.messagelocks.PEEK_TIMEOUT_S", 0.05)
    error = await renewing_what_is_over(Broker(**{PEEK: silent}))
    assert isinstance(error, LeaseLostError)
    assert "no answer in time" in str(error)


async def test_a_message_that_is_settled_before_its_lock_is_first_renewed_is_told_apart_as_well():
    broker = Broker()
    broker.over = True
    async with rig(broker) as r:
        await failing(r.target.acquire(numbered(), 1), MessageSettledError)
        assert r.target._pool.connections[0].load == 0


# Settlements that are not answered well -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda ask: ask.answer(503, "com.microsoft:server-busy"), "was not completed"),
        (lambda ask: ask.answer(429), "was not completed"),
        (lambda ask: ask.answer(500, "amqp:internal-error"), "it is not known whether the message was completed"),
        (lambda ask: ask.answer(408, "com.microsoft:timeout"), "it is not known whether the message was completed"),
        (lambda ask: ask.answer(None), "it is not known whether the message was completed"),
        (lambda ask: ask.peer.stream.cut(), "it is not known whether the message was completed"),
    ],
)
async def test_a_settlement_that_fails_says_whether_it_may_be_done_and_the_lock_is_kept_on(answer, says):
    async with rig(Broker(**{SETTLE: answer})) as r:
        await r.target.acquire(message(), 1)
        error = await failing(r.target.settle(message(), 1, COMPLETE), TransientError)
        assert says in str(error)
        while True:
            try:
                await r.target.renew(message(), 1)
                break
            except TransientError:
                await anyio.lowlevel.checkpoint()


async def test_a_settlement_that_makes_no_sense_there_is_a_conflict():
    async with rig(Broker(**{SETTLE: lambda ask: ask.answer(400, "amqp:not-allowed")})) as r:
        await r.target.acquire(message(), 1)
        await failing(r.target.settle(message(), 1, COMPLETE), ConflictError)


async def test_a_refusal_that_repeats_the_token_is_told_without_it():
    def repeat(ask):
        ask.answer(500, "amqp:internal-error", description=f"{TOKEN} {TOKEN.bytes_le.hex()}")

    async with rig(Broker(**{SETTLE: repeat})) as r:
        await r.target.acquire(message(), 1)
        text = str(await failing(r.target.settle(message(), 1, COMPLETE), TransientError))
        assert str(TOKEN) not in text
        assert TOKEN.bytes_le.hex() not in text


@pytest.mark.parametrize("spec", [message(), numbered()])
async def test_what_was_settled_without_an_answer_and_is_settled_again_is_settled(spec):
    broker = Broker(**{SETTLE: silent})
    async with rig(broker) as r:
        await r.target.acquire(spec, 1)
        with anyio.move_on_after(0.05):
            await r.target.settle(spec, 1, COMPLETE)
        broker.answers[SETTLE] = lost
        await r.target.settle(spec, 1, COMPLETE)


async def test_what_may_be_completed_and_is_abandoned_then_is_told_to_be_completed():
    broker = Broker(**{SETTLE: silent})
    async with rig(broker) as r:
        await r.target.acquire(message(), 1)
        with anyio.move_on_after(0.05):
            await r.target.settle(message(), 1, COMPLETE)
        broker.answers[SETTLE] = lost
        error = await failing(r.target.settle(message(), 1, Settlement("abandon")), MessageSettledError)
        assert error.fate == MessageFate.COMPLETED


async def test_a_lock_that_is_over_after_a_settlement_without_an_answer_was_settled_by_it():
    broker = Broker(**{SETTLE: silent})
    async with rig(broker) as r:
        await r.target.acquire(message(), 1)
        with anyio.move_on_after(0.05):
            await r.target.settle(message(), 1, Settlement("dead-letter"))
        broker.over = True
        error = await failing(r.target.renew(message(), 1), MessageSettledError)
        assert error.fate == MessageFate.DEAD_LETTERED


async def test_a_settlement_that_was_refused_is_not_taken_for_one_that_was_made():
    broker = Broker(**{SETTLE: lambda ask: ask.answer(503, "com.microsoft:internal-server-error")})
    async with rig(broker) as r:
        await r.target.acquire(message(), 1)
        broker.answers[SETTLE] = lambda ask: ask.answer(503)
        await failing(r.target.settle(message(), 1, COMPLETE), TransientError)
        broker.over = True
        await failing(r.target.renew(message(), 1), LeaseLostError)


async def test_long_after_a_settlement_without_an_answer_only_a_look_can_tell():
    for spec, expected in ((message(), LeaseLostError), (numbered(), MessageSettledError)):
        broker = Broker(**{SETTLE: silent})
        async with rig(broker) as r:
            await r.target.acquire(brief(spec), 1)
            with anyio.move_on_after(0.05):
                await r.target.settle(brief(spec), 1, COMPLETE)
            broker.over = True
            error = await failing(r.target.renew(brief(spec), 1), expected)
            assert getattr(error, "fate", None) in (None, MessageFate.COMPLETED)


async def test_a_renewal_that_waits_to_be_sent_does_not_follow_a_settlement():
    broker = Broker()
    async with rig(broker) as r:
        await r.target.acquire(message(), 1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(failing, r.target.renew(message(), 1), TransientError)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            await r.target.settle(message(), 1, COMPLETE)
        assert broker.asked == [RENEW, SETTLE]


async def test_a_token_of_another_shape_is_refused_without_a_request():
    async with rig(Broker()) as r:
        error = await failing(r.target.settle(message(token="no"), 1, COMPLETE), LeaseLostError)
        assert error.reason == LossReason.REFUSED
        assert not r.broker.asks


@pytest.mark.parametrize(
    ("condition", "reason"),
    [("amqp:unauthorized-access", LossReason.UNAUTHORIZED), ("amqp:not-found", LossReason.ENTITY_GONE)],
)
async def test_an_entity_that_is_gone_or_shut_is_told_for_what_it_is(condition, reason):
    async with rig(Broker(**{SETTLE: lambda ask: ask.answer(404, condition, description=str(TOKEN))})) as r:
        await r.target.acquire(message(), 1)
        error = await failing(r.target.settle(message(), 1, COMPLETE), LeaseLostError)
        assert error.reason == reason
        assert str(TOKEN) not in str(error)
