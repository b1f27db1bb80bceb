"""Connections, channels and tokens: how few there are, what the broker's limits do, and a broker that is away."""

import anyio
import pytest

from renewer.amqp import AmqpError
from renewer.core.states import LossReason
from renewer.errors import LeaseLostError, TransientError
from renewer.targets.servicebus import pool as pool_module
from tests.targets.servicebus_rig import failing, renewed, rig, spec
from tests.virtualtime import virtual

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return virtual(request.param)


async def acquire_all(r, count, *, epoch=1, entity="orders"):
    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(r.target.acquire, spec(f"s{number}", entity=entity), epoch)


def handles(peer):
    return [len(session.links) for session in peer.connection.sessions]


# Limits of the broker -----------------------------------------------------------------------------------------------


async def test_a_small_handle_max_is_honoured_with_more_amqp_sessions():
    def limit(broker):
        broker.handle_max = 9

    async with rig(limit) as r:
        await acquire_all(r, 45)
        assert r.target.connections == 1
        assert max(handles(r.broker.peer)) <= 10
        assert r.target.links == 45
        for number in range(45):
            await r.target.renew(spec(f"s{number}"), 1)
        assert r.losses == []


async def test_no_amqp_session_gets_more_links_than_we_allow_ourselves():
    async with rig(links_per_session=20) as r:
        await acquire_all(r, 90)
        assert max(handles(r.broker.peer)) <= 20
        assert len(handles(r.broker.peer)) == 6


async def test_handles_are_used_again_after_a_release():
    async with rig(links_per_session=5) as r:
        for epoch in range(1, 4):
            await acquire_all(r, 10, epoch=epoch)
            for number in range(10):
                await r.target.release(spec(f"s{number}"), epoch)
        assert len(handles(r.broker.peer)) == 3


async def test_a_small_channel_max_leads_to_another_connection():
    def limit(broker):
        broker.channel_max = 2

    async with rig(limit, links_per_session=10) as r:
        await acquire_all(r, 50)
        assert r.target.links == 50
        assert r.target.connections == 3
        assert max(len(handles(peer)) for peer in r.broker.peers) <= 3


async def test_a_broker_that_is_smaller_than_it_looked_gets_only_what_fits():
    def limit(broker):
        broker.channel_max = 2
        broker.handle_max = 9

    async with rig(limit) as r:
        await acquire_all(r, 50)
        assert r.target.links == 50
        assert r.target.connections == 3
        assert max(count for peer in r.broker.peers for count in handles(peer)) <= 10


async def test_everything_shares_one_amqp_session_if_the_broker_allows_no_more():
    def limit(broker):
        broker.channel_max = 0

    async with rig(limit) as r:
        await acquire_all(r, 20)
        for number in range(20):
            await r.target.renew(spec(f"s{number}"), 1)
        assert len(handles(r.broker.peer)) == 1


async def test_the_least_possible_broker_still_holds_a_session():
    def limit(broker):
        broker.channel_max = 0
        broker.handle_max = 4

    async with rig(limit) as r:
        await r.target.acquire(spec(), 1)
        await r.target.renew(spec(), 1)
        assert handles(r.broker.peer) == [5]


async def test_sessions_that_are_asked_for_at_once_leave_room_for_the_requests_that_renew_them():
    def limit(broker):
        broker.channel_max = 0
        broker.handle_max = 4

    async with rig(limit) as r:
        await acquire_all(r, 3)
        for number in range(3):
            await r.target.renew(spec(f"s{number}"), 1)
        assert [handles(peer) for peer in r.broker.peers] == [[5], [5], [5]]


@pytest.mark.parametrize(("channel_max", "handle_max"), [(0, 3), (5, 0)])
async def test_a_broker_that_allows_too_few_links_is_not_asked_for_connection_after_connection(channel_max, handle_max):
    def limit(broker):
        broker.channel_max = channel_max
        broker.handle_max = handle_max

    async with rig(limit) as r:
        with anyio.fail_after(10):
            with pytest.raises(TransientError, match="too few links"):
                await r.target.acquire(spec(), 1)
        assert len(r.broker.peers) == 1


async def test_every_entity_has_one_management_pair_on_a_connection():
    async with rig() as r:
        for entity in ("orders", "topic/Subscriptions/a"):
            await acquire_all(r, 5, entity=entity)
            for number in range(5):
                await r.target.renew(spec(f"s{number}", entity=entity), 1)
        assert sorted(r.broker.peer.requesters) == [
            "$cbs",
            "orders/$management",
            "topic/Subscriptions/a/$management",
        ]
        assert len(r.broker.attach_names) == 6 + 10
        assert len(set(r.broker.attach_names)) == 16
        assert len(r.broker.tokens) == 2


# How many connections -----------------------------------------------------------------------------------------------


async def test_a_second_connection_is_opened_once_the_first_holds_its_share():
    async with rig(spread_after=10) as r:
        await acquire_all(r, 10)
        assert r.target.connections == 1
        await acquire_all(r, 30)
        assert r.target.connections == 2
        assert sorted(peer.connection is not None for peer in r.broker.peers) == [True, True]


async def test_a_full_connection_takes_no_more():
    async with rig(spread_after=5, sessions_per_connection=10) as r:
        await acquire_all(r, 35)
        assert r.target.links == 35
        assert r.target.connections == 4


async def test_the_first_connection_serves_alone_while_a_second_cannot_be_had():
    async with rig(spread_after=5) as r:
        await acquire_all(r, 5)
        r.broker.connect_errors = [ConnectionRefusedError("enough")] * 1000
        await acquire_all(r, 20)
        assert r.target.links == 20
        assert r.target.connections == 1


async def test_a_connection_without_sessions_is_closed(monkeypatch):
    monkeypatch.setattr(pool_module, "LINGER_S", 0.05)
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        await r.target.release(spec(), 1)
        await r.broker.until(lambda: r.broker.peer.closed)
        await r.target.acquire(spec(), 2)
        assert len(r.broker.peers) == 2
        assert r.losses == []


# A broker that is away ----------------------------------------------------------------------------------------------


async def test_a_broker_that_cannot_be_reached_is_transient():
    async with rig() as r:
        r.broker.connect_errors = [ConnectionRefusedError("nobody home")]
        error = await failing(r.target.acquire(spec(), 1), TransientError)
        assert error.kind == "network"
        assert "nobody home" in str(error)
        await r.target.acquire(spec(), 1)


async def test_however_many_leases_wait_one_attempt_to_connect_is_made_at_a_time():
    async with rig() as r:
        r.broker.connect_errors = [ConnectionRefusedError("nobody home")]
        failures = []

        async def acquire(number):
            try:
                await r.target.acquire(spec(f"s{number}"), 1)
            except TransientError as error:
                failures.append(error)

        async with anyio.create_task_group() as tasks:
            for number in range(300):
                tasks.start_soon(acquire, number)
        assert len(failures) == 300
        assert r.broker.connects == 1


async def test_all_sessions_come_back_after_a_broker_restart():
    async with rig() as r:
        await acquire_all(r, 100)
        r.broker.connect_errors = [ConnectionRefusedError("restarting")] * 2
        r.broker.peer.stream.cut()
        await r.until_lost(100)

        async def insist(number):
            while True:
                try:
                    await r.target.acquire(spec(f"s{number}"), 2)
                except TransientError:
                    continue
                return

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(insist, number)
        assert r.target.links == 100
        assert r.broker.connects == 4
        assert len(r.losses) == 100


async def test_a_connection_that_breaks_while_a_session_is_asked_for_is_transient():
    async with rig() as r:
        r.broker.on_session = lambda ask: ask.peer.stream.cut()
        error = await failing(r.target.acquire(spec(), 1), TransientError)
        assert error.kind == "network"
        assert r.losses == []


async def test_a_broker_that_closes_at_once_is_transient():
    async with rig() as r:

        def close(ask):
            ask.peer.connection.close(AmqpError("amqp:resource-limit-exceeded", "too many connections"))
            ask.peer.transport.flush()

        r.broker.on_token = close
        error = await failing(r.target.acquire(spec(), 1), TransientError)
        assert error.kind == "network"
        assert "too many connections" in str(error)


async def test_a_broker_that_never_opens_is_given_up():
    async with rig(connect_timeout_s=0.2) as r:
        r.broker.is_mute = True
        error = await failing(r.target.acquire(spec(), 1), TransientError)
        assert error.kind in ("timeout", "network")
        assert r.target.connections == 0


async def test_a_connection_on_which_nothing_is_answered_gets_no_new_sessions():
    async with rig(connect_timeout_s=0.1) as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_session = lambda ask: None
        for number in range(3):
            await failing(r.target.acquire(spec(f"lost{number}"), 1), TransientError)
        r.broker.on_session = r.broker.grant_if_free
        await r.target.acquire(spec("another"), 1)
        assert len(r.broker.peers) == 2
        await r.target.renew(spec(), 1)
        assert r.losses == []


async def test_an_attach_that_is_never_answered_is_given_up():
    async with rig(connect_timeout_s=0.3) as r:
        r.broker.on_session = lambda ask: None
        error = await failing(r.target.acquire(spec(), 1), TransientError)
        assert error.kind == "timeout"
        assert r.target.links == 0


async def test_a_broker_that_falls_silent_is_noticed():
    async with rig(idle_timeout_s=0.3) as r:
        await r.target.acquire(spec(), 1)
        r.broker.peer.transport.flush = lambda: None
        r.broker.peer.transport._stream.send = _never
        await r.until_lost()
        assert r.losses[0].reason is LossReason.CONNECTION_LOST


async def test_stopping_does_not_wait_for_a_broker_that_is_gone():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.peer.transport._stream.send = _never
        with anyio.fail_after(8):
            r.stop.cancel()
            await r.broker.until(lambda: r.target.connections == 0, within_s=8)
        assert r.losses == []


async def _never(_data):
    await anyio.sleep_forever()


# Tokens -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 202])
async def test_a_token_is_accepted(status):
    async with rig() as r:
        r.broker.on_token = lambda ask: ask.answer(status, kebab=True)
        await r.target.acquire(spec(), 1)


async def test_a_token_that_is_refused_is_made_anew_once_and_lives_longer():
    async with rig() as r:
        r.broker.on_token = lambda ask: ask.answer(401 if len(r.broker.tokens) == 1 else 202, kebab=True)
        await r.target.acquire(spec(), 1)
        first, second = (ask.message.application_properties["expiration"] for ask in r.broker.tokens)
        assert second - first > 1000 * 3600


async def test_a_token_that_is_refused_twice_is_final():
    async with rig() as r:
        r.broker.on_token = lambda ask: ask.answer(401, kebab=True)
        error = await failing(r.target.acquire(spec(), 1), LeaseLostError)
        assert error.reason == LossReason.UNAUTHORIZED
        assert len(r.broker.tokens) == 2
        assert "s3cret" not in str(error)
        assert "sig=" not in str(error)


async def test_a_token_that_nobody_answers_for_is_a_timeout():
    async with rig(connect_timeout_s=0.2) as r:
        r.broker.on_token = lambda ask: None
        error = await failing(r.target.acquire(spec(), 1), TransientError)
        assert error.kind == "timeout"


async def test_one_token_serves_everybody_who_waits_for_it():
    async with rig() as r:
        waiting = []
        r.broker.on_token = waiting.append
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(r.target.acquire, spec(f"s{number}"), 1)
            await r.broker.until(lambda: waiting)
            waiting[0].answer(200, kebab=True)
        assert len(r.broker.tokens) == 1


async def test_one_who_gives_up_does_not_take_the_token_from_the_others():
    async with rig() as r:
        waiting = []
        r.broker.on_token = waiting.append
        first = anyio.CancelScope()

        async def impatient():
            with first:
                await r.target.acquire(spec("impatient"), 1)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(impatient)
            await r.broker.until(lambda: waiting)
            tasks.start_soon(r.target.acquire, spec(), 1)
            await anyio.wait_all_tasks_blocked()
            first.cancel()
            await anyio.wait_all_tasks_blocked()
            waiting[0].answer(200, kebab=True)
        assert r.target.links == 1


async def test_a_token_is_refreshed_without_any_traffic():
    async with rig(token_lifetime_s=0.5) as r:
        await r.target.acquire(spec(), 1)
        await r.broker.until(lambda: len(r.broker.tokens) >= 3)
        assert r.losses == []


async def test_a_refresh_that_fails_is_tried_again_while_the_old_token_is_good():
    async with rig(token_lifetime_s=1.0) as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_token = lambda ask: ask.answer(503 if len(r.broker.tokens) < 3 else 200, kebab=True)
        await r.broker.until(lambda: len(r.broker.tokens) >= 3)
        await renewed(r)
        assert r.losses == []


async def test_the_cbs_links_may_be_detached_between_refreshes():
    async with rig(token_lifetime_s=0.5) as r:
        await r.target.acquire(spec(), 1)
        r.broker.peer.detach(r.broker.peer.requesters["$cbs"], "amqp:link:detach-forced")
        await r.broker.until(lambda: len(r.broker.tokens) >= 2)
        assert r.losses == []


async def test_cbs_links_over_which_nothing_comes_back_are_replaced():
    async with rig(token_lifetime_s=1.0, connect_timeout_s=0.3) as r:
        await r.target.acquire(spec(), 1)
        deaf = r.broker.peer.requesters["$cbs"]
        r.broker.on_token = lambda ask: None if ask.receiver is deaf else ask.answer(200, kebab=True)
        await r.broker.until(lambda: r.broker.tokens[-1].receiver is not deaf)
        assert r.losses == []


async def test_a_lost_answer_to_a_token_costs_one_attempt_and_no_acquisition():
    async with rig(connect_timeout_s=0.5) as r:
        r.broker.on_token = lambda ask: None if len(r.broker.tokens) == 1 else ask.answer(200, kebab=True)
        await r.target.acquire(spec(), 1)
        assert len(r.broker.tokens) == 2


# Next available -----------------------------------------------------------------------------------------------------


async def test_sessions_that_are_waited_for_do_not_hold_up_sessions_asked_for_by_name():
    async with rig() as r:
        r.broker.on_session = lambda ask: None if ask.wanted is None else ask.grant()
        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(r.target.acquire, spec(None, lease_id=f"any{number}"), 1)
            await r.broker.until(lambda: sum(len(peer.sessions) for peer in r.broker.peers) == 200)
            await r.target.acquire(spec(), 1)
            tasks.cancel_scope.cancel()
        assert r.target.links == 1


async def test_a_session_granted_late_counts_from_its_answer():
    async with rig() as r:
        waiting = []
        r.broker.on_session = waiting.append
        grants = []

        async def acquire():
            grants.append(await r.target.acquire(spec(None), 1))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(acquire)
            await r.broker.until(lambda: waiting)
            answered_at = r.clock.now()
            waiting[0].grant("a")
        assert grants[0].anchored_at >= answered_at
        assert grants[0].renew_now


async def test_a_broker_that_lets_in_and_throws_out_is_not_stormed():
    async with rig() as r:

        def throw_out(ask):
            ask.peer.stream.cut()

        r.broker.on_token = throw_out
        with anyio.move_on_after(1.5):
            while True:
                await failing(r.target.acquire(spec(), 1), TransientError)
        assert r.broker.connects < 40
        r.broker.on_token = lambda ask: ask.answer(200, kebab=True)
        await r.target.acquire(spec(), 1)
        assert r.target.connections == 1


async def test_a_namespace_that_cannot_be_reached_says_why_until_it_can():
    async with rig() as r:
        assert r.target.trouble is None
        r.broker.connect_errors = [ConnectionRefusedError("nobody listens")]
        await failing(r.target.acquire(spec(), 1), TransientError)
        assert "nobody listens (once)" in r.target.trouble
        await r.target.acquire(spec(), 1)
        assert r.target.trouble is None
