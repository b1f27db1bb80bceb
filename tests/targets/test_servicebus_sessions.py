"""Sessions accepted, renewed, released and lost, against a broker whose every answer the test decides."""

import uuid
from dataclasses import replace

import anyio
import pytest

from renewer.amqp import AmqpError, Described, Rejected, Symbol, Uint, Ulong
from renewer.core.states import LossReason
from renewer.errors import LeaseLostError, TransientError
from renewer.targets.servicebus.heldsession import HeldSession
from tests.targets.scripted_broker import FILTER
from tests.targets.servicebus_rig import failing, renewed, rig, spec
from tests.uncollected import living, no_collector

pytestmark = pytest.mark.anyio


# Accepting ----------------------------------------------------------------------------------------------------------


async def test_a_session_is_accepted_and_its_lock_counts_from_when_it_was_asked_for():
    async with rig() as r:
        before = r.clock.now()
        grant = await r.target.acquire(spec(), 1)
        assert before <= grant.anchored_at <= r.clock.now()
        assert 29 < grant.duration_s <= 30
        assert grant.session_id == "s1"
        assert grant.locked_until == pytest.approx(r.broker.wall() + 30, abs=1)
        assert not grant.renew_now
        assert (r.target.links, r.target.connections) == (1, 1)


async def test_a_session_is_asked_for_as_the_official_client_does():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        remote = r.broker.peer.sessions[0].remote
        assert remote.source.address == "amqps://localhost:5672/orders"
        assert remote.source.filter == {FILTER: "s1"}
        assert (remote.snd_settle_mode, remote.rcv_settle_mode) == (0, 1)
        assert Symbol("com.microsoft:timeout") not in remote.properties
        assert r.broker.peer.connection.remote_open.hostname == "localhost"
        token = r.broker.tokens[0].message
        assert token.application_properties["name"] == "sb://localhost:5672/orders"
        assert token.application_properties["type"] == "servicebus.windows.net:sastoken"
        assert token.body.value.startswith("SharedAccessSignature sr=sb%3A%2F%2Flocalhost%3A5672%2Forders&sig=")


async def test_the_next_available_session_is_asked_for_with_a_timeout_and_renewed_at_once():
    async with rig() as r:
        r.broker.free_sessions["orders"] = ["a", "b"]
        grant = await r.target.acquire(spec(None), 1)
        assert grant.session_id == "a"
        assert grant.renew_now
        remote = r.broker.peer.sessions[0].remote
        assert remote.source.filter == {FILTER: None}
        assert 1000 <= remote.properties["com.microsoft:timeout"] <= 60000
        renewed = await r.target.renew(spec(None), 1)
        assert renewed.session_id == "a"
        assert r.broker.asks[0].session_id == "a"


async def test_the_broker_waits_for_a_session_no_longer_than_the_caller_does():
    async with rig() as r:
        r.broker.free_sessions["orders"] = ["a"]
        with anyio.fail_after(25):
            await r.target.acquire(spec(None), 1)
        assert 10_000 < r.broker.peer.sessions[0].remote.properties["com.microsoft:timeout"] <= 15_000


async def test_no_session_being_free_is_reported_as_empty():
    async with rig() as r:
        error = await failing(r.target.acquire(spec(None), 1), TransientError)
        assert error.kind == "empty"
        assert r.target.links == 0


async def test_a_session_that_another_holds_is_busy():
    async with rig() as r:
        r.broker.on_session = lambda ask: ask.refuse("com.microsoft:session-cannot-be-locked")
        error = await failing(r.target.acquire(spec(), 1), TransientError)
        assert error.kind == "busy"


async def test_another_session_than_the_one_asked_for_is_given_back():
    async with rig() as r:
        r.broker.on_session = lambda ask: ask.grant("other")
        error = await failing(r.target.acquire(spec(), 1), TransientError)
        assert error.kind == "busy"
        await r.broker.until(lambda: not r.broker.held)
        assert r.losses == []


async def test_a_described_filter_in_the_answer_is_read_too():
    async with rig() as r:
        described = {FILTER: Described(Ulong(0x137000000C), "s1")}
        r.broker.on_session = lambda ask: ask.grant(answer_filter=described)
        assert (await r.target.acquire(spec(), 1)).session_id == "s1"


async def test_a_link_without_a_session_is_refused():
    async with rig() as r:
        r.broker.on_session = lambda ask: ask.grant("s1", answer_filter=None, ticks=None)
        error = await failing(r.target.acquire(spec(), 1), LeaseLostError)
        assert error.reason == LossReason.REFUSED


async def test_a_grant_without_a_time_counts_with_the_assumed_duration_and_is_renewed_at_once():
    async with rig() as r:
        r.broker.on_session = lambda ask: ask.grant(ticks=None)
        grant = await r.target.acquire(spec(), 1)
        assert (grant.duration_s, grant.locked_until, grant.renew_now) == (5.0, None, True)
        assert 29 < (await r.target.renew(spec(), 1)).duration_s <= 30


@pytest.mark.parametrize("ticks", ["soon", -1, 2**63 - 1, True])
async def test_a_time_that_makes_no_sense_means_the_assumed_duration(ticks):
    async with rig() as r:
        r.broker.on_session = lambda ask: ask.grant(ticks=ticks)
        assert (await r.target.acquire(spec(), 1)).duration_s == 5.0


async def test_a_missing_entity_is_final():
    async with rig() as r:
        r.broker.on_session = lambda ask: ask.refuse("amqp:not-found")
        error = await failing(r.target.acquire(spec(), 1), LeaseLostError)
        assert error.reason == LossReason.ENTITY_GONE


async def test_an_attach_that_is_refused_as_unauthorized_is_tried_again_with_one_new_token():
    async with rig() as r:

        def refuse_first(ask):
            ask.refuse("amqp:unauthorized-access") if len(r.broker.peer.sessions) == 1 else ask.grant()

        r.broker.on_session = refuse_first
        await r.target.acquire(spec(), 1)
        assert len(r.broker.tokens) == 2
        assert r.losses == []


async def test_an_attach_that_stays_unauthorized_is_final():
    async with rig() as r:
        r.broker.on_session = lambda ask: ask.refuse("amqp:unauthorized-access")
        error = await failing(r.target.acquire(spec(), 1), LeaseLostError)
        assert error.reason == LossReason.UNAUTHORIZED
        assert len(r.broker.tokens) == 2


async def test_an_acquisition_that_is_cancelled_leaves_nothing_behind():
    async with rig() as r:
        r.broker.on_session = lambda ask: None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(r.target.acquire, spec(), 1)
            await r.broker.until(lambda: r.broker.peers and r.broker.peer.sessions)
            tasks.cancel_scope.cancel()
        ask = r.broker.peer.sessions[0]
        ask.grant()
        await r.broker.until(lambda: not r.broker.held)
        assert r.target.links == 0
        r.broker.on_session = r.broker.grant_if_free
        await r.target.acquire(spec(), 1)
        assert r.losses == []


async def test_many_sessions_are_accepted_at_once():
    async with rig() as r:
        async with anyio.create_task_group() as tasks:
            for number in range(600):
                tasks.start_soon(r.target.acquire, spec(f"s{number}"), 1)
        assert r.target.links == 600
        assert len(r.broker.held) == 600
        assert r.target.connections == 2
        loads = sorted(len(peer.sessions) for peer in r.broker.peers)
        assert loads[0] >= 250
        assert len(r.broker.tokens) == 2


# Renewing -----------------------------------------------------------------------------------------------------------


async def test_a_renewal_names_the_session_and_the_link_that_holds_it():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        before = r.clock.now()
        grant = await r.target.renew(spec(), 1)
        assert before <= grant.anchored_at <= r.clock.now()
        assert 29 < grant.duration_s <= 30
        ask = r.broker.asks[0]
        assert ask.operation == "com.microsoft:renew-session-lock"
        assert ask.message.body.value == {"session-id": "s1"}
        assert ask.link_name == r.broker.peer.sessions[0].remote.name
        assert isinstance(ask.message.application_properties["com.microsoft:server-timeout"], Uint)
        assert isinstance(ask.message.properties.message_id, uuid.UUID)
        assert ask.message.properties.reply_to == "orders/$management"


async def test_every_renewal_has_a_message_id_of_its_own():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        for _ in range(5):
            await r.target.renew(spec(), 1)
        assert len({ask.message.properties.message_id for ask in r.broker.asks}) == 5


@pytest.mark.parametrize(
    "form", [lambda i: i, str, lambda i: i.bytes, lambda i: str(i).upper(), lambda i: i.hex, lambda i: f"urn:uuid:{i}"]
)
async def test_the_correlation_id_may_come_back_in_any_form(form):
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.renew(correlation_id=form(ask.message.properties.message_id))
        await r.target.renew(spec(), 1)


async def test_a_reply_with_dashed_names_is_read_too():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.renew(kebab=True, settled=True)
        await r.target.renew(spec(), 1)


async def test_a_lost_lock_is_final():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.answer(410, "com.microsoft:session-lock-lost")
        error = await failing(r.target.renew(spec(), 1), LeaseLostError)
        assert error.reason == LossReason.EXPIRED


async def test_a_loss_that_a_renewal_told_is_not_told_again_by_the_detach():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.answer(410, "com.microsoft:session-lock-lost")
        await failing(r.target.renew(spec(), 1), LeaseLostError)
        link = r.broker.link_of("s1")
        r.broker.peer.detach(link, "com.microsoft:session-lock-lost")
        await r.broker.until(lambda: not r.broker.held)
        await r.target.release(spec(), 1)
        assert r.losses == []
        assert r.target.links == 0


async def test_a_busy_broker_is_transient():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.answer(503, "com.microsoft:server-busy")
        error = await failing(r.target.renew(spec(), 1), TransientError)
        assert error.kind == "busy"
        r.broker.on_management = lambda ask: ask.renew()
        await r.target.renew(spec(), 1)


async def test_a_renewal_that_is_unauthorized_is_sent_again_with_one_new_token():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.renew() if len(r.broker.tokens) > 1 else ask.answer(401)
        await r.target.renew(spec(), 1)
        assert (len(r.broker.tokens), len(r.broker.asks)) == (2, 2)


async def test_many_unauthorized_renewals_share_one_new_token():
    async with rig() as r:
        for number in range(20):
            await r.target.acquire(spec(f"s{number}"), 1)
        r.broker.on_management = lambda ask: ask.renew() if len(r.broker.tokens) > 1 else ask.answer(401)
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(r.target.renew, spec(f"s{number}"), 1)
        assert len(r.broker.tokens) == 2


async def test_a_renewal_that_stays_unauthorized_is_final():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.answer(401, "amqp:unauthorized-access")
        error = await failing(r.target.renew(spec(), 1), LeaseLostError)
        assert error.reason == LossReason.UNAUTHORIZED
        assert len(r.broker.asks) == 2


@pytest.mark.parametrize(
    "answer",
    [
        lambda ask: ask.answer(200),
        lambda ask: ask.answer(200, body={"expiration": "tomorrow"}),
        lambda ask: ask.answer(200, body={}),
        lambda ask: ask.answer(200, body=["expiration"]),
        lambda ask: ask.answer("200", body={"expiration": 1}),
        lambda ask: ask.answer(True, body={"expiration": 1}),
        lambda ask: ask.answer(None),
    ],
)
async def test_a_reply_that_says_nothing_is_garbage_and_no_renewal(answer):
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = answer
        error = await failing(r.target.renew(spec(), 1), TransientError)
        assert error.kind == "garbage"


async def test_replies_that_nobody_can_use_are_ignored():
    async with rig() as r:
        await r.target.acquire(spec(), 1)

        def confuse(ask):
            ask.send(b"\x00\x53")
            ask.send(b"")
            ask.answer(410, "com.microsoft:session-lock-lost", correlation_id=uuid.uuid4())
            ask.answer(410, correlation_id=None)
            ask.answer(410, correlation_id="nobody")
            ask.renew()
            ask.renew()
            ask.answer(410, "com.microsoft:session-lock-lost")

        r.broker.on_management = confuse
        for _ in range(3):
            await r.target.renew(spec(), 1)


async def test_a_late_answer_still_counts_for_its_own_request():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        waiting = []
        r.broker.on_management = waiting.append
        grants = {}

        async def renew(which):
            grants[which] = await r.target.renew(spec(), 1)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(renew, "first")
            await r.broker.until(lambda: len(waiting) == 1)
            tasks.start_soon(renew, "second")
            await r.broker.until(lambda: len(waiting) == 2)
            waiting[1].renew(10.0)
            waiting[0].renew(20.0)
        assert grants["first"].anchored_at < grants["second"].anchored_at
        assert grants["first"].locked_until > grants["second"].locked_until


async def test_a_renewal_whose_answer_is_lost_does_not_hold_up_the_next():
    async with rig(request_window=1) as r:
        await r.target.acquire(spec(), 1)
        await r.target.acquire(spec("s2"), 1)
        r.broker.on_management = lambda ask: ask.renew() if ask.session_id == "s2" else None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(r.target.renew, spec(), 1)
            await r.broker.until(lambda: r.broker.asks)
            await r.target.renew(spec("s2"), 1)
            tasks.cancel_scope.cancel()


async def test_credit_is_waited_for_and_a_renewal_given_up_meanwhile_is_never_sent():
    def stingy(broker):
        broker.request_credit = None

    async with rig(stingy) as r:
        acquired = anyio.Event()

        async def acquire():
            await r.target.acquire(spec(), 1)
            acquired.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(acquire)
            await r.broker.until(lambda: r.broker.peers and "$cbs" in r.broker.peer.requesters)
            r.broker.peer.requesters["$cbs"].flow(5)
            r.broker.peer.transport.flush()
            with anyio.fail_after(5):
                await acquired.wait()
        with anyio.move_on_after(0.05):
            await r.target.renew(spec(), 1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(r.target.renew, spec(), 1)
            await r.broker.until(lambda: "orders/$management" in r.broker.peer.requesters)
            r.broker.peer.requesters["orders/$management"].flow(1)
            r.broker.peer.transport.flush()
        assert len(r.broker.asks) == 1


async def test_credit_for_replies_never_runs_dry():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        for _ in range(12):
            async with anyio.create_task_group() as tasks:
                for _ in range(200):
                    tasks.start_soon(r.target.renew, spec(), 1)
        assert len(r.broker.asks) == 2400


async def test_a_broker_that_settles_no_request_costs_no_memory():
    async with rig() as r:
        r.broker.settles_requests = False
        await r.target.acquire(spec(), 1)
        for _ in range(50):
            await r.target.renew(spec(), 1)
        pair = r.target._sessions._held["orders/s1"].link.carrier.management("orders")._pair
        assert len(pair._sender.unsettled) == 0
        assert (len(pair._sent), len(pair._deliveries), len(pair._queue)) == (0, 0, 0)


async def test_renewals_go_on_after_the_management_links_were_detached():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        await r.target.renew(spec(), 1)
        for links in (r.broker.peer.repliers, r.broker.peer.requesters):
            r.broker.peer.detach(links["orders/$management"], "amqp:link:detach-forced")
            await renewed(r)
        assert r.losses == []


async def test_a_renewal_under_way_when_its_links_are_detached_fails_for_now():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: r.broker.peer.detach(ask.receiver, "amqp:link:detach-forced")
        error = await failing(r.target.renew(spec(), 1), TransientError)
        assert error.kind == "server"
        r.broker.on_management = lambda ask: ask.renew()
        await r.target.renew(spec(), 1)


async def test_a_refused_management_node_says_nothing_about_the_lock():
    async with rig() as r:
        r.broker.refused_nodes["orders/$management"] = AmqpError("amqp:not-found")
        await r.target.acquire(spec(), 1)
        error = await failing(r.target.renew(spec(), 1), TransientError)
        assert error.kind == "not_found"
        r.broker.refused_nodes.clear()
        await r.target.renew(spec(), 1)
        assert r.losses == []


async def test_a_management_node_that_is_unauthorized_gets_a_new_token():
    async with rig() as r:
        r.broker.refused_nodes["orders/$management"] = AmqpError("amqp:unauthorized-access")
        await r.target.acquire(spec(), 1)
        error = await failing(r.target.renew(spec(), 1), TransientError)
        assert error.kind == "unauthorized"
        r.broker.refused_nodes.clear()
        await r.target.renew(spec(), 1)
        assert len(r.broker.tokens) > 1


async def test_a_renewal_is_sent_settled_and_needs_no_disposition():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        unsettled = []

        def renew(ask):
            unsettled.extend(ask.receiver.unsettled)
            ask.renew()

        r.broker.settles_requests = False
        r.broker.on_management = renew
        await r.target.renew(spec(), 1)
        assert unsettled == []


async def test_a_request_that_the_broker_rejects_fails_for_now():
    async with rig() as r:
        r.broker.settles_requests = False
        r.broker.takes_unsettled_requests_only = True
        r.broker.on_token = lambda ask: ask.answer(200)
        await r.target.acquire(spec(), 1)

        def reject(ask):
            delivery = next(iter(ask.receiver.unsettled.values()))
            ask.receiver.settle(delivery, Rejected(AmqpError("amqp:internal-error", "no")))

        r.broker.on_management = reject
        assert (await failing(r.target.renew(spec(), 1), TransientError)).kind == "server"


async def test_an_old_epoch_can_renew_and_release_nothing():
    async with rig() as r:
        await r.target.acquire(spec(), 2)
        error = await failing(r.target.renew(spec(), 1), LeaseLostError)
        assert error.reason == LossReason.DETACHED
        await r.target.release(spec(), 1)
        assert r.target.links == 1
        await r.target.renew(spec(), 2)


async def test_what_is_not_held_cannot_be_renewed():
    async with rig() as r:
        error = await failing(r.target.renew(spec(), 1), LeaseLostError)
        assert error.reason == LossReason.DETACHED


# Releasing ----------------------------------------------------------------------------------------------------------


async def test_a_release_returns_when_the_session_is_free():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        await r.target.release(spec(), 1)
        assert r.broker.held == {}
        assert r.target.links == 0
        await r.target.acquire(spec(), 2)
        assert r.losses == []


async def test_releasing_what_is_not_held_is_no_error():
    async with rig() as r:
        await r.target.release(spec(), 1)


async def test_a_leftover_of_an_earlier_attempt_makes_way():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        await r.target.acquire(spec(), 1)
        assert r.target.links == 1
        await r.target.acquire(spec(), 2)
        assert r.target.links == 1
        assert r.losses == []


# Losing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("com.microsoft:session-lock-lost", LossReason.EXPIRED),
        ("amqp:link:detach-forced", LossReason.DETACHED),
        ("amqp:link:stolen", LossReason.SUPERSEDED),
        ("amqp:unauthorized-access", LossReason.UNAUTHORIZED),
        ("amqp:not-found", LossReason.ENTITY_GONE),
        (None, LossReason.DETACHED),
    ],
)
async def test_a_detach_is_told_at_once_and_once(condition, reason):
    async with rig() as r:
        await r.target.acquire(spec(), 3)
        await r.target.acquire(spec("other"), 1)
        r.broker.peer.detach(r.broker.link_of("s1"), condition)
        await r.until_lost()
        assert [(loss.lease_id, loss.epoch, loss.reason) for loss in r.losses] == [("orders/s1", 3, reason)]
        await failing(r.target.renew(spec(), 3), LeaseLostError)
        await r.target.release(spec(), 3)
        await r.target.renew(spec("other"), 1)
        assert len(r.losses) == 1
        assert r.target.links == 1


async def test_an_eof_is_told_for_every_session_on_the_connection():
    async with rig() as r:
        for number in range(10):
            await r.target.acquire(spec(f"s{number}"), 1)
        r.broker.peer.stream.cut()
        await r.until_lost(10)
        assert {loss.reason for loss in r.losses} == {LossReason.CONNECTION_LOST}
        assert len({loss.lease_id for loss in r.losses}) == 10
        assert r.target.links == 0


async def test_a_close_is_told_as_a_lost_connection_with_its_reason():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.peer.connection.close(AmqpError("amqp:connection:forced", "moving house"))
        r.broker.peer.transport.flush()
        await r.until_lost()
        assert r.losses[0].reason is LossReason.CONNECTION_LOST
        assert "moving house" in r.losses[0].detail


async def test_the_end_of_an_amqp_session_is_told_for_its_links_and_no_others():
    async with rig(links_per_session=4) as r:
        for number in range(8):
            await r.target.acquire(spec(f"s{number}"), 1)
        session = r.broker.link_of("s0").session
        gone = {name for (_, name), link in r.broker.held.items() if link.session is session}
        session.end(AmqpError("amqp:internal-error", "oops"))
        r.broker.peer.transport.flush()
        await r.until_lost(4)
        assert {loss.lease_id for loss in r.losses} == {f"orders/{name}" for name in gone}
        assert {loss.reason for loss in r.losses} == {LossReason.DETACHED}
        for name in gone:
            await r.target.acquire(spec(name), 2)
        assert r.target.links == 8


async def test_the_end_of_the_control_session_costs_no_lease():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        await r.target.renew(spec(), 1)
        r.broker.peer.requesters["$cbs"].session.end(AmqpError("amqp:internal-error"))
        r.broker.peer.transport.flush()
        await r.broker.until(lambda: not r.broker.peer.requesters["$cbs"].is_attached)
        await renewed(r)
        assert r.losses == []


async def test_a_renewal_under_way_when_the_connection_breaks_learns_why():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.peer.stream.cut()
        error = await failing(r.target.renew(spec(), 1), LeaseLostError)
        assert error.reason == LossReason.CONNECTION_LOST
        assert len(r.losses) == 1


async def test_garbage_from_the_broker_loses_the_connection_and_nothing_else():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        await r.broker.peer.stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await r.until_lost()
        assert r.losses[0].reason is LossReason.CONNECTION_LOST
        await r.target.acquire(spec(), 2)


async def test_a_session_that_is_granted_and_taken_at_once_is_not_held():
    async with rig() as r:

        def give_and_take(ask):
            ask.grant()
            ask.peer.detach(ask.link, "com.microsoft:session-lock-lost")

        r.broker.on_session = give_and_take
        error = await failing(r.target.acquire(spec(), 1), TransientError)
        assert (error.kind, error.condition) == ("busy", "com.microsoft:session-lock-lost")
        assert r.losses == []
        assert r.target.links == 0


# Clocks -------------------------------------------------------------------------------------------------------------


async def test_a_step_of_the_wall_clock_changes_no_duration():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        for offset_s in (7200.0, -7200.0):
            r.clock.offset_s = offset_s
            assert 29 < (await r.target.renew(spec(), 1)).duration_s <= 30
            assert r.skews[-1] == pytest.approx(-offset_s, abs=1)
        assert 29 < (await r.target.acquire(spec("s2"), 1)).duration_s <= 30


async def test_a_broker_that_lives_in_another_time_gets_the_assumed_duration():
    async with rig() as r:
        r.broker.clock_ahead_s = -3600.0
        grant = await r.target.acquire(spec(), 1)
        assert grant.duration_s == 5.0
        assert (await r.target.renew(spec(), 1)).duration_s == 5.0
        assert r.target.clock_skew_s == pytest.approx(-3600 + 25, abs=1)


async def test_a_configured_duration_needs_no_clock():
    async with rig(lock_duration_s=30.0) as r:
        r.broker.clock_ahead_s = 86400.0
        assert (await r.target.acquire(spec(), 1)).duration_s == 30.0
        assert (await r.target.renew(spec(), 1)).duration_s == 30.0
        assert r.target.clock_skew_s == pytest.approx(86400, abs=1)


async def test_a_lease_that_brings_its_own_lock_duration_is_believed():
    async with rig(lock_duration_s=30.0) as r:
        own = replace(spec(), lock_duration_s=12.0)
        assert (await r.target.acquire(own, 1)).duration_s == 12.0
        assert (await r.target.renew(own, 1)).duration_s == 12.0


async def test_a_lock_that_ended_early_is_not_trusted_that_long_again():
    async with rig(assumed_lock_duration_s=2.0) as r:
        await r.target.acquire(spec(), 1)
        r.broker.peer.detach(r.broker.link_of("s1"), "com.microsoft:session-lock-lost")
        await r.until_lost()
        assert (await r.target.acquire(spec(), 2)).duration_s == pytest.approx(2.0, abs=0.5)
        assert (await r.target.acquire(spec("s2"), 1)).duration_s > 29


# Stopping -----------------------------------------------------------------------------------------------------------


async def test_stopping_gives_every_session_back_and_closes_the_connection():
    async with rig() as r:
        for number in range(5):
            await r.target.acquire(spec(f"s{number}"), 1)
        peer = r.broker.peer
        links = [ask.link for ask in peer.sessions]
        r.stop.cancel()
        await r.broker.until(lambda: peer.closed)
        assert all(link.state.value == "detached" for link in links)
        assert r.losses == []
        assert (await failing(r.target.acquire(spec(), 2), TransientError)).kind == "network"


# Links that have gone deaf ------------------------------------------------------------------------------------------


async def test_links_over_which_nothing_comes_back_are_replaced():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        await r.target.renew(spec(), 1)
        deaf = r.broker.peer.requesters["orders/$management"]
        r.broker.on_management = lambda ask: None if ask.receiver is deaf else ask.renew()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(r.target.renew, spec(), 1)
            await r.broker.until(lambda: r.broker.peer.requesters["orders/$management"] is not deaf)
            await r.target.renew(spec(), 1)
            tasks.cancel_scope.cancel()
        await r.broker.until(lambda: not deaf.is_attached)
        await r.target.renew(spec(), 1)
        assert r.losses == []


async def test_an_answer_over_replaced_links_still_counts():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        await r.target.renew(spec(), 1)
        waiting = []
        r.broker.on_management = waiting.append
        old_replier = r.broker.peer.repliers["orders/$management"]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(r.target.renew, spec(), 1)
            await r.broker.until(lambda: r.broker.peer.repliers["orders/$management"] is not old_replier)
            new_replier = r.broker.peer.repliers["orders/$management"]
            tasks.start_soon(r.target.renew, spec(), 1)
            await r.broker.until(lambda: len(waiting) == 2)
            # The broker mixes the two up.
            waiting[0].renew()
            r.broker.peer.repliers["orders/$management"] = old_replier
            waiting[1].renew()
        assert new_replier is not old_replier
        assert r.losses == []


async def test_a_session_that_was_released_is_no_work_for_the_garbage_collector():
    async with rig() as r:
        with no_collector():
            await r.target.acquire(spec(), 1)
            assert len(living(HeldSession)) == 1
            await r.target.release(spec(), 1)
            await anyio.wait_all_tasks_blocked()
            assert not living(HeldSession)
