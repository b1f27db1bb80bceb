"""Message locks kept by their tokens alone, against a broker whose every answer the test decides."""

import uuid
from dataclasses import replace

import anyio
import pytest

from renewer.amqp import AmqpArray, AmqpError, Int, Message, MessageProperties, Timestamp, Uint
from renewer.core.model import LeaseId, LeaseSpec
from renewer.core.states import LeaseKind, LossReason
from renewer.errors import ConflictError, LeaseLostError, TransientError, UsageError
from renewer.targets.servicebus import parse_lock_token
from renewer.targets.servicebus import pool as pool_module
from tests.targets.servicebus_rig import failing, rig, spec

pytestmark = pytest.mark.anyio

TOKEN = uuid.UUID("9f3b1c0a-5e2d-4a7f-8c61-d2e4b7a90f13")


def message(number=0, *, entity="orders", token=None):
    token = str(uuid.UUID(int=TOKEN.int + number)) if token is None else token
    return LeaseSpec(
        LeaseId(f"{entity}/m{number}"), "servicebus.main", entity, kind=LeaseKind.MESSAGE, lock_token=token
    )


def renew_locks(ask, lock_s=30.0):
    until = Timestamp(int(1000 * (ask.peer.broker.wall() + lock_s)))
    tokens = ask.message.body.value["lock-tokens"]
    ask.answer(body={"expirations": AmqpArray([until] * len(tokens), Timestamp)})


def answer_both(ask):
    renew_locks(ask) if ask.operation == "com.microsoft:renew-lock" else ask.renew()


def keeps_messages(broker):
    broker.on_management = answer_both


async def persist(work):
    """Do it, again and again while that fails for now."""
    while True:
        try:
            return await work()
        except TransientError:
            await anyio.lowlevel.checkpoint()


# Lock tokens --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [str(TOKEN), str(TOKEN).upper(), f" {TOKEN}\n", f"{{{TOKEN}}}"])
def test_a_lock_token_is_read_as_the_sdks_show_it(text):
    assert parse_lock_token(text) == TOKEN


@pytest.mark.parametrize(
    "text", ["", "secret", TOKEN.hex, str(TOKEN)[:-1], f"{TOKEN}0", f"{TOKEN};", f"{{{TOKEN}", TOKEN, TOKEN.bytes, 77]
)
def test_what_is_no_lock_token_is_refused_without_repeating_it(text):
    with pytest.raises(UsageError, match=r"str\(message\.lock_token\)") as caught:
        parse_lock_token(text)
    assert str(text) not in str(caught.value) or not text


def test_the_token_of_a_message_without_a_lock_is_refused():
    with pytest.raises(UsageError, match="peek-lock"):
        parse_lock_token(str(uuid.UUID(int=0)))


def test_a_lock_token_is_not_shown_with_its_lease():
    assert str(TOKEN) not in repr(message())


# Acquiring and renewing ---------------------------------------------------------------------------------------------


async def test_a_message_lock_is_acquired_by_renewing_it_once():
    async with rig(keeps_messages) as r:
        before = r.clock.now()
        grant = await r.target.acquire(message(), 1)
        assert before <= grant.anchored_at <= r.clock.now()
        assert 29 < grant.duration_s <= 30
        assert grant.locked_until == pytest.approx(r.broker.wall() + 30, abs=1)
        assert (grant.session_id, grant.renew_now) == (None, False)
        assert (len(r.broker.asks), len(r.broker.peer.sessions)) == (1, 0)
        assert (r.target.links, r.target.connections) == (0, 1)


async def test_a_message_lock_is_renewed_as_the_official_client_does():
    async with rig(keeps_messages) as r:
        await r.target.acquire(message(), 1)
        grant = await r.target.renew(message(), 1)
        assert 29 < grant.duration_s <= 30
        assert len(r.broker.asks) == 2
        for ask in r.broker.asks:
            assert ask.operation == "com.microsoft:renew-lock"
            assert ask.node == "orders/$management"
            assert ask.message.body.value == {"lock-tokens": AmqpArray([TOKEN], uuid.UUID)}
            assert isinstance(ask.message.application_properties["com.microsoft:server-timeout"], Uint)
            assert "associated-link-name" not in ask.message.application_properties
        assert len(r.broker.tokens) == 1
        assert r.broker.tokens[0].message.application_properties["name"] == "sb://localhost:5672/orders"


@pytest.mark.parametrize("entity", ["orders/$deadletterqueue", "topic/Subscriptions/s", "/orders/"])
async def test_the_entity_may_be_a_subscription_or_a_dead_letter_queue(entity):
    async with rig(keeps_messages) as r:
        await r.target.acquire(message(entity=entity), 1)
        assert r.broker.asks[0].node == f"{entity.strip('/')}/$management"


async def test_many_message_locks_share_one_connection_and_one_pair_of_links():
    async with rig(keeps_messages, spread_after=5, sessions_per_connection=10) as r:
        async with anyio.create_task_group() as tasks:
            for number in range(300):
                tasks.start_soon(r.target.acquire, message(number), 1)
        for number in range(0, 300, 50):
            await r.target.renew(message(number), 1)
        assert r.target.connections == 1
        assert len(r.broker.attach_names) == 4
        assert len(r.broker.tokens) == 1
        asked = {token for ask in r.broker.asks for token in ask.message.body.value["lock-tokens"]}
        assert asked == {uuid.UUID(int=TOKEN.int + number) for number in range(300)}


async def test_message_locks_and_sessions_live_side_by_side():
    async with rig(keeps_messages) as r:
        await r.target.acquire(spec(), 1)
        await r.target.acquire(message(), 1)
        await r.target.renew(spec(), 1)
        await r.target.renew(message(), 1)
        assert (r.target.links, r.target.connections) == (1, 1)
        await r.target.release(spec(), 1)
        await r.target.renew(message(), 1)
        assert r.losses == []


async def test_a_configured_duration_needs_no_clock_for_messages_either():
    async with rig(keeps_messages, lock_duration_s=60.0) as r:
        r.broker.clock_ahead_s = 86400.0
        assert (await r.target.acquire(message(), 1)).duration_s == 60.0
        own = replace(message(1), lock_duration_s=12.0)
        assert (await r.target.acquire(own, 1)).duration_s == 12.0
        assert (await r.target.renew(own, 1)).duration_s == 12.0
        assert r.target.clock_skew_s == pytest.approx(86400, abs=20)


async def test_a_broker_that_lives_in_another_time_gets_the_assumed_duration_for_messages_too():
    async with rig(keeps_messages) as r:
        r.broker.clock_ahead_s = -3600.0
        assert (await r.target.acquire(message(), 1)).duration_s == 5.0
        assert (await r.target.renew(message(), 1)).duration_s == 5.0


async def test_a_renewal_of_a_message_lock_that_is_unauthorized_is_sent_again_with_one_new_token():
    async with rig() as r:
        r.broker.on_management = lambda ask: renew_locks(ask) if len(r.broker.tokens) > 1 else ask.answer(401)
        await r.target.acquire(message(), 1)
        assert (len(r.broker.tokens), len(r.broker.asks)) == (2, 2)


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        [],
        {"expirations": None},
        {"expirations": 1},
        {"expirations": []},
        {"expirations": ["tomorrow"]},
        {"expirations": AmqpArray([Timestamp(1), Timestamp(2)], Timestamp)},
        {"expiration": Timestamp(1)},
    ],
)
async def test_an_answer_that_does_not_say_until_when_is_garbage_and_no_renewal(body):
    async with rig() as r:
        r.broker.on_management = lambda ask: ask.answer(body=body)
        assert (await failing(r.target.acquire(message(), 1), TransientError)).kind == "garbage"


async def test_a_busy_broker_says_nothing_about_a_message_lock():
    async with rig(keeps_messages) as r:
        await r.target.acquire(message(), 1)
        r.broker.on_management = lambda ask: ask.answer(503, "com.microsoft:server-busy")
        assert (await failing(r.target.renew(message(), 1), TransientError)).kind == "busy"
        r.broker.on_management = renew_locks
        await r.target.renew(message(), 1)


async def test_an_old_epoch_of_a_message_lock_can_renew_and_release_nothing():
    async with rig(keeps_messages) as r:
        await r.target.acquire(message(), 2)
        assert (await failing(r.target.renew(message(), 1), LeaseLostError)).reason == LossReason.DETACHED
        await r.target.release(message(), 1)
        await r.target.renew(message(), 2)
        assert (await failing(r.target.acquire(message(), 1), TransientError)).kind == "busy"


async def test_an_acquisition_of_a_message_lock_that_is_cancelled_leaves_nothing_behind():
    async with rig() as r:
        r.broker.on_management = lambda ask: None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(r.target.acquire, message(), 1)
            await r.broker.until(lambda: r.broker.asks)
            tasks.cancel_scope.cancel()
        # The request belongs to the batch, which ends when nobody waits for it any longer.
        while r.target._pool.connections[0].load:
            await anyio.lowlevel.checkpoint()


# Losing and releasing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "condition", "reason"),
    [
        (410, "com.microsoft:message-lock-lost", LossReason.EXPIRED),
        (410, "com.microsoft:session-lock-lost", LossReason.EXPIRED),
        (404, "com.microsoft:message-not-found", LossReason.EXPIRED),
        (410, None, LossReason.EXPIRED),
        (404, "amqp:not-found", LossReason.ENTITY_GONE),
        (401, "amqp:unauthorized-access", LossReason.UNAUTHORIZED),
    ],
)
async def test_the_brokers_word_that_a_message_lock_is_lost_is_final(status, condition, reason):
    async with rig(keeps_messages) as r:
        await r.target.acquire(message(), 1)
        r.broker.on_management = lambda ask: ask.answer(status, condition)
        assert (await failing(r.target.renew(message(), 1), LeaseLostError)).reason == reason
        await r.target.release(message(), 1)
        assert (await failing(r.target.acquire(message(1), 1), LeaseLostError)).reason == reason
        assert r.losses == []
        assert r.target._pool.connections[0].load == 0


@pytest.mark.parametrize("condition", ["amqp:not-allowed", "com.microsoft:argument-error", "amqp:not-implemented"])
async def test_an_entity_that_renews_no_message_locks_is_refused_at_once_and_never_later(condition):
    async with rig(keeps_messages) as r:
        await r.target.acquire(message(), 1)
        r.broker.on_management = lambda ask: ask.answer(400, condition)
        assert (await failing(r.target.acquire(message(1), 1), LeaseLostError)).reason == LossReason.REFUSED
        assert (await failing(r.target.renew(message(), 1), TransientError)).kind == "server"
        r.broker.on_management = renew_locks
        await r.target.renew(message(), 1)


async def test_the_token_that_a_broker_repeats_is_not_passed_on():
    async with rig() as r:

        def repeat(ask):
            reply = Message(
                properties=MessageProperties(correlation_id=ask.message.properties.message_id),
                application_properties={
                    "statusCode": Int(410),
                    "statusDescription": f"lock {str(TOKEN).upper()} and {TOKEN.bytes_le.hex()} are lost",
                },
            )
            ask.send(reply.encode())

        r.broker.on_management = repeat
        error = await failing(r.target.acquire(message(), 1), LeaseLostError)
        assert "lock <redacted> and <redacted> are lost" in str(error)
        assert str(TOKEN) not in str(error).lower()


@pytest.mark.parametrize("token", [None, "", "secret", str(uuid.UUID(int=0))])
async def test_a_lease_whose_token_is_none_is_refused_without_asking(token):
    async with rig(keeps_messages) as r:
        lease = replace(message(), lock_token=token)
        assert (await failing(r.target.acquire(lease, 1), LeaseLostError)).reason == LossReason.REFUSED
        assert r.broker.peers == []


async def test_releasing_a_message_lock_sends_nothing_and_may_be_done_twice():
    async with rig(keeps_messages) as r:
        await r.target.acquire(message(), 1)
        for _ in range(2):
            await r.target.release(message(), 1)
        assert len(r.broker.asks) == 1
        assert r.target._pool.connections[0].load == 0
        await r.target.acquire(message(), 2)


async def test_a_message_lock_of_an_earlier_run_is_renewed_by_its_token():
    async with rig(keeps_messages) as r:
        grant = await r.target.renew(message(), 3)
        assert 29 < grant.duration_s <= 30
        assert (await failing(r.target.renew(message(), 2), LeaseLostError)).reason == LossReason.DETACHED
        await r.target.renew(message(), 3)
        await r.target.release(message(), 3)
        assert r.target._pool.connections[0].load == 0
        assert {ask.operation for ask in r.broker.asks} == {"com.microsoft:renew-lock"}
        assert len(r.broker.asks) == 2


async def test_the_brokers_word_about_a_message_lock_of_an_earlier_run_is_final():
    async with rig() as r:
        r.broker.on_management = lambda ask: ask.answer(status=410, condition="com.microsoft:message-lock-lost")
        assert (await failing(r.target.renew(message(), 1), LeaseLostError)).reason == LossReason.EXPIRED
        assert r.target._pool.connections[0].load == 0


async def test_a_message_lock_has_no_session_state():
    async with rig(keeps_messages) as r:
        await r.target.acquire(message(), 1)
        await failing(r.target.get_state(message(), 1), ConflictError)
        await failing(r.target.set_state(message(), 1, b"x"), ConflictError)
        assert len(r.broker.asks) == 1


# Connections --------------------------------------------------------------------------------------------------------


async def test_a_connection_is_kept_for_message_locks_alone_and_closed_after_the_last(monkeypatch):
    monkeypatch.setattr(pool_module, "LINGER_S", 0.05)
    async with rig(keeps_messages) as r:
        await r.target.acquire(message(), 1)
        await r.target.acquire(message(1), 1)
        await r.target.acquire(spec(), 1)
        await r.target.release(spec(), 1)
        await r.target.release(message(1), 1)
        assert [connection.load for connection in r.target._pool.connections] == [1]
        await r.target.renew(message(), 1)
        await r.target.release(message(), 1)
        await r.broker.until(lambda: r.broker.peer.closed)


async def test_a_connection_that_breaks_costs_no_message_lock():
    async with rig(keeps_messages) as r:
        for number in range(20):
            await r.target.acquire(message(number), 1)
        r.broker.peer.stream.cut()
        await r.broker.until(lambda: r.broker.peer.closed)
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(persist, lambda number=number: r.target.renew(message(number), 1))
        assert r.losses == []
        assert len(r.broker.peers) == 2
        assert r.target._pool.connections[0].load == 1


async def test_a_renewal_under_way_when_the_connection_breaks_fails_for_now_only():
    async with rig(keeps_messages) as r:
        await r.target.acquire(message(), 1)
        r.broker.on_management = lambda ask: ask.peer.stream.cut()
        assert (await failing(r.target.renew(message(), 1), TransientError)).kind == "network"
        r.broker.on_management = renew_locks
        await persist(lambda: r.target.renew(message(), 1))
        assert r.losses == []


async def test_a_connection_that_nobody_can_make_is_transient_for_all_who_wait():
    async with rig(keeps_messages) as r:
        r.broker.connect_errors = [ConnectionRefusedError("nobody home")]
        failures = []

        async def acquire(number):
            failures.append(await failing(r.target.acquire(message(number), 1), TransientError))

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(acquire, number)
        assert len(failures) == 100
        assert r.broker.connects == 1


async def test_a_connection_on_which_nothing_is_answered_is_left_for_another(monkeypatch):
    monkeypatch.setattr("renewer.targets.servicebus.requests.UNANSWERED_S", 0.0)
    async with rig(keeps_messages) as r:
        await r.target.acquire(spec(), 1)
        await r.target.acquire(message(), 1)
        deaf = r.broker.peer
        r.broker.on_management = lambda ask: None if ask.peer is deaf else renew_locks(ask)
        for _ in range(3):
            with anyio.move_on_after(0.02):
                await r.target.renew(message(), 1)
        await r.target.renew(message(), 1)
        assert len(r.broker.peers) == 2
        assert (r.losses, r.target.links) == ([], 1)


async def test_message_locks_find_a_connection_with_room_for_their_links():
    def limit(broker):
        keeps_messages(broker)
        broker.channel_max = 0
        broker.handle_max = 4

    async with rig(limit) as r:
        await r.target.acquire(spec(), 1)
        for entity in ("orders", "bills", "orders/$deadletterqueue"):
            await r.target.acquire(message(entity=entity), 1)
            await r.target.renew(message(entity=entity), 1)
        await r.target.renew(spec(), 1)
        assert max(len(session.links) for peer in r.broker.peers for session in peer.connection.sessions) <= 5


async def test_a_route_whose_connection_turns_out_full_goes_over_another():
    def limit(broker):
        keeps_messages(broker)
        broker.channel_max = 0
        broker.handle_max = 19

    async with rig(limit) as r:
        connection = await r.target._pool.reserve()
        # Others have taken what looked free.
        taken = await connection.channels.place(19, control=True)
        assert connection.has_room
        await r.target.acquire(message(), 1)
        await r.target.renew(message(), 1)
        assert [len(peer.repliers) for peer in r.broker.peers] == [0, 2]
        taken.free(19)
        r.target._pool.give_back(connection)


async def test_stopping_with_message_locks_closes_the_connection_and_loses_nothing():
    async with rig(keeps_messages) as r:
        await r.target.acquire(message(), 1)
        peer = r.broker.peer
        r.stop.cancel()
        await r.broker.until(lambda: peer.closed)
        assert r.losses == []
        assert (await failing(r.target.renew(message(), 1), TransientError)).kind == "network"


async def test_the_management_links_may_be_detached_between_renewals_of_message_locks():
    async with rig(keeps_messages) as r:
        await r.target.acquire(message(), 1)
        for links in (r.broker.peer.repliers, r.broker.peer.requesters):
            r.broker.peer.detach(links["orders/$management"], "amqp:link:detach-forced")
            await persist(lambda: r.target.renew(message(), 1))


async def test_a_refused_management_node_says_nothing_about_a_message_lock():
    async with rig(keeps_messages) as r:
        r.broker.refused_nodes["orders/$management"] = AmqpError("amqp:not-found")
        assert (await failing(r.target.acquire(message(), 1), TransientError)).kind == "not_found"
        r.broker.refused_nodes.clear()
        await r.target.acquire(message(), 1)
        assert len(r.broker.peers) == 1
