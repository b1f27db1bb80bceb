"""What workers hold is kept, and ends when it should: ledger, target, core and broker together, in virtual time."""

from __future__ import annotations

from uuid import UUID, uuid4

import anyio
import pytest

from renewer.amqp import Source, Target, Timestamp
from renewer.core.effects import LeaseNews
from renewer.core.states import LeaseState, LossReason, MessageFate
from renewer.gateway.links import Locked
from renewer.targets.servicebus.envelope import Template
from tests.gateway.ledger_rig import GatewayWorld
from tests.virtualtime import virtual

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return virtual(request.param)


async def test_a_session_is_kept_for_as_long_as_its_worker_is_there():
    async with GatewayWorld(lock_s=10).running() as world:
        worker = await world.worker()
        link = await worker.accept("s1")
        await anyio.sleep(120)
        lease = world.lease(link.kept)
        assert lease.state is LeaseState.HELD
        assert lease.session_id == "s1"
        assert 22 <= lease.renewals <= 28
        assert world.broker.counters.locks_expired == 0
        assert world.story(link.kept) == ["registered", "acquired"]
        assert all(_names(link, frame) for frame in worker.spare_frames if _is_renewal(frame))
        assert lease.spec.labels == {"gateway": "main", "key": "local", "worker": "worker-1"}


async def test_messages_that_take_long_are_kept_and_those_that_do_not_never_become_leases():
    async with GatewayWorld(lock_s=10).running() as world:
        worker = await world.worker()
        world.put(60)
        link = await worker.receive("jobs", 60)
        quick = [*link.locked.values()][:10]
        for locked in quick:
            worker.settle(link, locked)
        await anyio.sleep(60)
        assert len(world.specs) == 50
        assert all(lease.state is LeaseState.HELD for lease in world.leases())
        assert world.broker.counters.message_locks_expired == 0
        assert all(_names(link, frame) for frame in worker.spare_frames if _is_renewal(frame))
        assert world.target._batches.requests < sum(lease.renewals for lease in world.leases()) / 2
        for locked in [*link.locked.values()]:
            worker.settle(link, locked)
        await worker.until(lambda: not link.locked)
        assert {lease.state for lease in world.leases()} == {LeaseState.RELEASED}
        assert {lease.fate for lease in world.leases()} == {MessageFate.COMPLETED}
        assert world.target.leases == 0
        assert not world.of(LeaseNews.LOST, LeaseNews.AT_RISK, LeaseNews.RENEW_FAILED)


async def test_leases_end_as_released_when_the_worker_lets_go_of_its_links():
    async with GatewayWorld(lock_s=10).running() as world:
        worker = await world.worker()
        world.put(3)
        session = await worker.accept("s1")
        messages = await worker.receive("jobs", 3)
        await anyio.sleep(20)
        assert world.target.leases == 4
        worker.detach(session)
        worker.detach(messages)
        assert world.target.leases == 0
        assert {lease.state for lease in world.leases()} == {LeaseState.RELEASED}
        assert not world.of(LeaseNews.LOST)
        # Not renewed any longer: the broker has the messages again when their locks have ended.
        await anyio.sleep(15)
        assert world.broker.counters.message_locks_expired == 3


async def test_a_worker_that_vanishes_loses_its_leases_as_its_own_fault():
    async with GatewayWorld(lock_s=10).running() as world:
        worker = await world.worker()
        link = await worker.accept("s1")
        await anyio.sleep(20)
        await worker.vanish()
        lease = world.lease(link.kept)
        assert lease.last_loss.reason is LossReason.OWNER_GONE
        assert world.target.leases == 0
        assert world.target.connections == 0
        other = await world.worker()
        again = await other.accept("s1")
        assert again.is_attached


async def test_a_worker_that_says_goodbye_has_let_go_of_everything():
    async with GatewayWorld(lock_s=10).running() as world:
        worker = await world.worker()
        link = await worker.accept("s1")
        await anyio.sleep(1)
        worker.said_goodbye()
        assert world.lease(link.kept).state is LeaseState.RELEASED


async def test_a_broken_connection_to_the_broker_is_told_once_for_each_lock():
    async with GatewayWorld(lock_s=10).running() as world:
        worker = await world.worker()
        world.put(5)
        await worker.accept("s1")
        await worker.receive("jobs", 5)
        await anyio.sleep(5)
        await worker.wire.server.aclose()
        await anyio.sleep(1)
        losses = world.of(LeaseNews.LOST)
        assert len(losses) == 6
        assert {news.reason for news in losses} == {LossReason.CONNECTION_LOST}
        assert world.target.leases == 0


async def test_a_session_that_the_broker_takes_away_is_lost_with_the_reason_that_it_gives():
    async with GatewayWorld(lock_s=10).running() as world:
        worker = await world.worker()
        link = await worker.accept("s1")
        await anyio.sleep(12)
        world.broker.detach_session("orders", "s1")
        await anyio.sleep(0.1)
        lease = world.lease(link.kept)
        assert lease.last_loss.reason is LossReason.EXPIRED
        assert len(world.of(LeaseNews.LOST)) == 1


async def test_a_session_that_goes_before_the_core_has_asked_for_it_is_told_as_lost_all_the_same():
    async with GatewayWorld(lock_s=10).running() as world:
        worker = await world.worker()
        link = await worker.accept("s1")
        world.broker.detach_session("orders", "s1")
        await anyio.sleep(5)
        assert world.lease(link.kept).last_loss.reason is LossReason.EXPIRED
        assert world.target.leases == 0


async def test_renewals_outlive_lost_answers_and_an_amqp_session_of_ours_that_the_broker_ends():
    async with GatewayWorld(lock_s=10).running() as world:
        worker = await world.worker()
        link = await worker.accept("s1")
        world.fault("lose_reply", every=3)
        await anyio.sleep(60)
        world.faults.clear()
        for client in world.broker._clients:
            client.connection.sessions[-1].end()
            client.wake()
        world.broker.settle_up()
        await anyio.sleep(60)
        assert world.lease(link.kept).state is LeaseState.HELD
        assert sum(frame[2] == 0x11 for frame in worker.spare_frames) == 2
        assert not world.of(LeaseNews.LOST, LeaseNews.AT_RISK)


async def test_a_lock_that_the_broker_refuses_to_renew_is_lost_and_costs_the_others_nothing():
    async with GatewayWorld(lock_s=10).running() as world:
        worker = await world.worker()
        world.put(20)
        link = await worker.receive("jobs", 20)
        await anyio.sleep(1)
        entity = world.broker.namespace.find("jobs")
        taken = [*link.locked.values()][7]
        lock = entity._locks[UUID(bytes_le=taken.tag)]
        entity.give_back(lock, anyio.current_time(), counted=False)
        await anyio.sleep(40)
        lost = world.of(LeaseNews.LOST)
        assert [(news.spec.id, news.reason) for news in lost] == [(taken.kept, LossReason.EXPIRED)]
        assert world.target.leases == 19


async def test_the_policy_of_the_entity_decides_what_is_renewed():
    async with GatewayWorld(lock_s=10).running() as world:
        worker = await world.worker(sessions=False)
        other = await world.worker(messages=False)
        world.put(2)
        await worker.accept("s1")
        await other.receive("jobs", 2)
        await anyio.sleep(3)
        assert not world.specs
        await worker.receive("jobs", 0, credit=1)
        await other.accept("s2")
        await anyio.sleep(3)
        assert [spec.session_id for spec in world.specs] == ["s2"]


async def test_messages_of_a_session_never_become_leases():
    async with GatewayWorld(lock_s=10).running() as world:
        worker = await world.worker(sessions=False)
        link = await worker.accept("s1")
        link.locked[0] = Locked(0, bytes(range(16)), None, anyio.current_time())
        await anyio.sleep(5)
        assert not world.specs


async def test_renewing_ends_at_the_maximum_and_the_link_stays_the_workers():
    async with GatewayWorld(lock_s=10).running() as world:
        worker = await world.worker(max_duration_s=30.0)
        link = await worker.accept("s1")
        await anyio.sleep(25)
        assert world.lease(link.kept).state is LeaseState.HELD
        await anyio.sleep(6)
        assert world.lease(link.kept).last_loss.reason is LossReason.MAX_DURATION
        assert link.is_attached
        assert world.target.leases == 0
        await anyio.sleep(15)
        # The broker has taken it away since; that is no second loss.
        assert not link.is_attached
        assert len(world.of(LeaseNews.LOST)) == 1


async def test_without_a_free_channel_nothing_is_renewed_and_that_is_said():
    async with GatewayWorld(lock_s=10).running() as world:
        worker = await world.worker(channel=None)
        link = await worker.accept("s1")
        await anyio.sleep(30)
        lease = world.lease(link.kept)
        assert lease.state is LeaseState.LOST
        assert any("no AMQP channel free" in (news.detail or "") for news in world.of(LeaseNews.RENEW_FAILED))
        assert not worker.spare_frames


async def test_tokens_are_put_anew_beside_a_worker_that_does_not_do_it():
    settings = {"key_name": "rule", "key": "bG9jYWw="}
    async with GatewayWorld(lock_s=10, broker=settings, namespace={"token_lifetime_s": 30.0}).running() as world:
        worker = await world.worker(plain=False)
        token = await world.provider.token("orders")
        await _put_token(worker, world, token)
        worker.ledger.token_put("orders", token, anyio.current_time())
        link = await worker.accept("s1")
        await anyio.sleep(120)
        assert world.lease(link.kept).state is LeaseState.HELD
        assert link.is_attached


async def test_when_tokens_can_no_longer_be_had_the_loss_says_so():
    settings = {"key_name": "rule", "key": "bG9jYWw="}
    async with GatewayWorld(lock_s=10, broker=settings, namespace={"token_lifetime_s": 30.0}).running() as world:
        worker = await world.worker(plain=False)
        token = await world.provider.token("orders")
        await _put_token(worker, world, token)
        worker.ledger.token_put("orders", token, anyio.current_time())
        link = await worker.accept("s1")
        world.fault("unauthorized", on="servicebus.cbs")
        await anyio.sleep(60)
        loss = world.lease(link.kept).last_loss
        assert loss.reason is LossReason.UNAUTHORIZED
        assert "policy 'rule'" in loss.detail


async def test_a_clean_stop_asks_for_nothing_more_and_loses_what_was_held():
    async with GatewayWorld(lock_s=10).running() as world:
        worker = await world.worker()
        link = await worker.accept("s1")
        await anyio.sleep(7)
        world.scope.cancel()
        await anyio.sleep(1)
        sent = len(worker.spare_frames)
        world.target.tick(anyio.current_time())
        await anyio.sleep(1)
        assert len(worker.spare_frames) == sent
        worker.ledger.closed(worker_gone=False, by_worker=False, detail="the daemon stops", now=anyio.current_time())
        worker._is_over = True
        assert world.lease(link.kept).last_loss.reason is LossReason.CONNECTION_LOST


async def _put_token(worker, world, token):
    """What a worker does first, with the gateway's own token already in place of its own."""
    node = {"source": Source(address="$cbs"), "target": Target(address="$cbs"), "snd_settle_mode": 0}
    replies = worker.session.attach_receiver("cbs-in", auto_credit=10, **node)
    requests = worker.session.attach_sender("cbs-out", **node)
    worker.flush()
    fields = {
        "operation": "put-token",
        "type": token.kind,
        "name": world.options.namespace.audience("orders"),
        "expiration": Timestamp(1000 * token.expires_at),
    }
    await worker.until(lambda: requests.credit > 0 and replies.is_attached)
    requests.send(Template.of(token.text, fields, reply_to="$cbs").render(uuid4().bytes))
    worker.flush()
    await worker.until(lambda: replies.delivery_count > 0)


def _is_renewal(frame):
    return frame[2] == 0x14 and b"put-token" not in frame


def _names(link, frame):
    """Whether a request is made on behalf of this link: one that nobody names is detached after ten minutes."""
    return b"associated-link-name" in frame and link.name.encode() in frame
