"""The state that a session carries, read and set by whoever holds it, against a broker the test decides about."""

from dataclasses import replace

import anyio
import pytest

from renewer.amqp import AmqpError, Rejected, Uint
from renewer.core.states import LossReason
from renewer.errors import ConflictError, LeaseLostError, TransientError, UsageError
from renewer.targets.servicebus import heldsession
from renewer.targets.servicebus.requests import MAX_REPLY_SIZE
from tests.targets.servicebus_rig import failing, renewed, rig, spec
from tests.virtualtime import virtual

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return virtual(request.param)


GET, SET = "com.microsoft:get-session-state", "com.microsoft:set-session-state"
LOST = "com.microsoft:session-lock-lost"


class Shelf:
    """What the broker keeps for its sessions."""

    def __init__(self, broker):
        self.states = {}
        broker.on_management = self.answer

    def answer(self, ask):
        if ask.operation == GET:
            ask.answer(body={"session-state": self.states.get(ask.session_id)})
        elif ask.operation == SET:
            self.states[ask.session_id] = ask.message.body.value["session-state"]
            ask.answer(body={})
        else:
            ask.renew()


async def test_a_session_has_no_state_at_first_and_then_what_was_set_byte_for_byte():
    async with rig(Shelf) as r:
        await r.target.acquire(spec(), 1)
        assert await r.target.get_state(spec(), 1) is None
        for state in (b"\x00\xff", b"x" * 100_000, b"", None):
            await r.target.set_state(spec(), 1, state)
            assert await r.target.get_state(spec(), 1) == state


async def test_state_is_asked_for_as_the_official_client_does():
    async with rig(Shelf) as r:
        await r.target.acquire(spec(), 1)
        await r.target.set_state(spec(), 1, None)
        await r.target.get_state(spec(), 1)
        setting, getting = r.broker.asks
        assert (setting.operation, getting.operation) == (SET, GET)
        assert setting.message.body.value == {"session-id": "s1", "session-state": None}
        assert getting.message.body.value == {"session-id": "s1"}
        for ask in (setting, getting):
            assert ask.node == "orders/$management"
            assert ask.link_name == r.broker.peer.sessions[0].remote.name
            assert isinstance(ask.message.application_properties["com.microsoft:server-timeout"], Uint)


async def test_the_state_is_that_of_the_session_that_was_granted():
    async with rig(Shelf) as r:
        r.broker.free_sessions["orders"] = ["a"]
        await r.target.acquire(spec(None), 1)
        await r.target.set_state(spec(None), 1, b"of a")
        assert r.broker.asks[0].session_id == "a"
        assert await r.target.get_state(spec(None), 1) == b"of a"


async def test_what_is_not_held_or_not_any_more_as_this_epoch_has_no_state():
    async with rig(Shelf) as r:
        await failing(r.target.get_state(spec(), 1), ConflictError)
        await r.target.acquire(spec(), 2)
        for epoch in (1, 3):
            await failing(r.target.get_state(spec(), epoch), ConflictError)
            await failing(r.target.set_state(spec(), epoch, b"x"), ConflictError)
        await r.target.release(spec(), 2)
        await failing(r.target.set_state(spec(), 2, b"x"), ConflictError)
        assert r.broker.asks == []


async def test_an_answer_without_content_means_no_state():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.answer(204)
        assert await r.target.get_state(spec(), 1) is None


async def test_any_success_means_that_the_state_is_set():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        for status in (200, 202, 204):
            r.broker.on_management = lambda ask, status=status: ask.answer(status)
            await r.target.set_state(spec(), 1, b"x")


@pytest.mark.parametrize("body", [None, {}, [], {"session-state": "text"}, {"session-state": 7}, b"state"])
async def test_an_answer_that_is_no_state_is_garbage(body):
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.answer(body=body)
        assert (await failing(r.target.get_state(spec(), 1), TransientError)).kind == "garbage"


async def test_the_brokers_word_that_the_lock_is_lost_is_reported_as_a_loss_once():
    async with rig() as r:
        await r.target.acquire(spec(), 3)
        r.broker.on_management = lambda ask: ask.answer(410, LOST)
        for _ in range(2):
            error = await failing(r.target.get_state(spec(), 3), LeaseLostError)
            assert error.reason == LossReason.EXPIRED
        await failing(r.target.set_state(spec(), 3, b"x"), LeaseLostError)
        await failing(r.target.renew(spec(), 3), LeaseLostError)
        r.broker.peer.detach(r.broker.link_of("s1"), LOST)
        await r.broker.until(lambda: not r.broker.held)
        await r.target.release(spec(), 3)
        assert [(loss.lease_id, loss.epoch, loss.reason) for loss in r.losses] == [("orders/s1", 3, LossReason.EXPIRED)]
        assert r.target.links == 0


async def test_a_lease_whose_loss_came_with_its_state_is_released_and_acquired_again():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.answer(410, LOST)
        await failing(r.target.set_state(spec(), 1, b"x"), LeaseLostError)
        await r.target.release(spec(), 1)
        assert r.broker.held == {}
        Shelf(r.broker)
        await r.target.acquire(spec(), 2)
        await r.target.set_state(spec(), 2, b"x")
        assert len(r.losses) == 1


async def test_a_loss_that_a_renewal_told_is_not_told_again_with_the_state():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.answer(410, LOST)
        await failing(r.target.renew(spec(), 1), LeaseLostError)
        await failing(r.target.get_state(spec(), 1), LeaseLostError)
        assert r.losses == []


async def test_a_lease_that_was_released_while_its_state_was_read_is_not_lost():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        waiting = []
        r.broker.on_management = waiting.append

        async def read():
            await failing(r.target.get_state(spec(), 1), LeaseLostError)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await r.broker.until(lambda: waiting)
            await r.target.release(spec(), 1)
            waiting[0].answer(410, LOST)
        assert r.losses == []


async def test_a_connection_that_breaks_while_the_state_is_read_is_the_loss_it_is():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.peer.stream.cut()
        error = await failing(r.target.get_state(spec(), 1), LeaseLostError)
        assert error.reason == LossReason.CONNECTION_LOST
        assert len(r.losses) == 1


@pytest.mark.parametrize(
    ("status", "condition", "kind"),
    [
        (503, "com.microsoft:server-busy", "busy"),
        (500, None, "server"),
        (401, None, "unauthorized"),
        (401, "amqp:unauthorized-access", "unauthorized"),
        (404, "amqp:not-found", "not_found"),
        (400, "amqp:not-allowed", "server"),
    ],
)
async def test_every_other_refusal_says_nothing_about_the_lock(status, condition, kind):
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.answer(status, condition)
        assert (await failing(r.target.get_state(spec(), 1), TransientError)).kind == kind
        assert (await failing(r.target.set_state(spec(), 1, b"x"), TransientError)).kind == kind
        Shelf(r.broker)
        await r.target.renew(spec(), 1)
        assert r.losses == []


async def test_a_broker_that_does_not_answer_is_waited_for_no_longer_than_is_good(monkeypatch):
    monkeypatch.setattr(heldsession, "ASK_TIMEOUT_S", 0.05)
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: None
        assert (await failing(r.target.get_state(spec(), 1), TransientError)).kind == "timeout"
        error = await failing(r.target.set_state(spec(), 1, b"x"), TransientError)
        assert error.kind == "timeout"
        assert "old or the new" in str(error)


async def test_a_caller_who_gives_up_sooner_is_cancelled():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: None
        with anyio.move_on_after(0.05) as scope:
            await r.target.get_state(spec(), 1)
        assert scope.cancelled_caught


# Sizes --------------------------------------------------------------------------------------------------------------


async def test_a_state_beyond_the_limit_of_the_tier_is_not_even_sent():
    async with rig(Shelf, message_size_limit=1000) as r:
        await r.target.acquire(spec(), 1)
        await r.target.set_state(spec(), 1, b"x" * 1000)
        error = await failing(r.target.set_state(spec(), 1, b"x" * 1001), UsageError)
        assert "1001 bytes" in str(error)
        assert "message_size_limit allows 1000" in str(error)
        assert len(r.broker.asks) == 1
        assert await r.target.get_state(spec(), 1) == b"x" * 1000


async def test_a_state_that_the_broker_has_no_room_for_is_refused_with_its_limit():
    async with rig(Shelf, message_size_limit=MAX_REPLY_SIZE) as r:
        await r.target.acquire(spec(), 1)
        # The scripted broker takes messages of 1 MiB.
        error = await failing(r.target.set_state(spec(), 1, b"x" * 1024 * 1024), UsageError)
        limit = int(str(error).partition("the broker takes ")[2].partition(";")[0])
        assert 1024 * 1024 - 1000 < limit < 1024 * 1024
        assert r.broker.asks == []
        await r.target.set_state(spec(), 1, b"x" * limit)
        await failing(r.target.set_state(spec(), 1, b"x" * (limit + 1)), UsageError)
        await r.target.renew(spec(), 1)


async def test_a_state_that_the_broker_finds_too_large_is_refused():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.answer(400, "amqp:link:message-size-exceeded")
        assert "200000 bytes" in str(await failing(r.target.set_state(spec(), 1, b"x" * 200_000), UsageError))


async def test_a_state_that_the_broker_rejects_as_too_large_is_refused():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.settles_requests = False

        def reject(ask):
            delivery = next(iter(ask.receiver.unsettled.values()))
            ask.receiver.settle(delivery, Rejected(AmqpError("amqp:link:message-size-exceeded", "no")))

        r.broker.on_management = reject
        await failing(r.target.set_state(spec(), 1, b"x" * 200_000), UsageError)


async def test_a_state_of_megabytes_is_read():
    async with rig(Shelf) as r:
        await r.target.acquire(spec(), 1)
        state = bytes(MAX_REPLY_SIZE - 1000)
        r.broker.on_management = lambda ask: ask.answer(body={"session-state": state})
        assert await r.target.get_state(spec(), 1) == state


async def test_a_state_that_is_too_large_to_be_read_is_said_and_costs_no_lease():
    async with rig() as r:
        await r.target.acquire(spec(), 1)

        def overdo(ask):
            replier = ask.peer.repliers[ask.node]
            replier.remote = replace(replier.remote, max_message_size=None)  # Takes no notice of what we allow.
            ask.answer(body={"session-state": bytes(MAX_REPLY_SIZE)})

        r.broker.on_management = overdo
        for _ in range(3):
            error = await failing(r.target.get_state(spec(), 1), ConflictError)
            assert str(MAX_REPLY_SIZE) in str(error)
        Shelf(r.broker)
        await renewed(r)
        assert await r.target.get_state(spec(), 1) is None
        assert r.losses == []
        links = [len(session.links) for session in r.broker.peer.connection.sessions]
        assert sum(links) == 5
