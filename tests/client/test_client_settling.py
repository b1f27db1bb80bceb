"""Messages settled through the client, inside the block that keeps their locks and outside."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import anyio
import pytest

from renewer.client import (
    AsyncClient,
    BadRequest,
    Client,
    Conflict,
    LockLost,
    MessageSettled,
    NotFound,
    RemoteFailed,
    Timeout,
)
from renewer.client.watching import Acquired, Lost
from tests.client.standin import problem
from tests.client.test_client_watch import event, held, lease

WAYS = {"complete": "completed", "abandon": "abandoned", "defer": "deferred", "dead_letter": "dead-lettered"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def client(standin):
    with Client(standin.api) as client:
        yield client


def keep(client, **more):
    return client.hold("orders", kind="message", lock_token="0ddba11", **more)


# Outside a block ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("way", "settled"), WAYS.items())
def test_a_message_is_settled_by_its_lease(standin, client, way, settled):
    kept = keep(client, sequence_number=77)
    assert standin.requests("POST", "/v1/leases")[0].json["sequence_number"] == 77
    ended = getattr(client, way)(kept.id)
    assert (ended.state, ended.settled) == ("released", settled)
    assert getattr(client, way)(kept.id).settled == settled
    (seen, _) = standin.requests("POST", f"/v1/leases/{kept.id}/{way.replace('_', '-')}")
    assert seen.json == {}


def test_properties_go_as_json_where_that_says_what_they_are_and_with_their_type_where_not(standin, client):
    at = datetime(2026, 1, 2, tzinfo=UTC)
    kept = keep(client)
    client.dead_letter(
        kept.id,
        reason="poison",
        description="it breaks",
        properties={
            "a": "text",
            "b": 7,
            "c": 0.5,
            "d": True,
            "e": None,
            "f": b"\x00\xff",
            "g": uuid.UUID(int=5),
            "h": at,
            "i": {"type": "uint", "value": 7},
        },
    )
    (seen,) = standin.requests("POST", f"/v1/leases/{kept.id}/dead-letter")
    assert seen.json == {
        "reason": "poison",
        "description": "it breaks",
        "properties": {
            "a": "text",
            "b": 7,
            "c": 0.5,
            "d": True,
            "e": None,
            "f": {"type": "binary", "value": "AP8="},
            "g": {"type": "uuid", "value": str(uuid.UUID(int=5))},
            "h": {"type": "timestamp", "value": "2026-01-02T00:00:00+00:00"},
            "i": {"type": "uint", "value": 7},
        },
    }


def test_properties_that_cannot_be_written_are_refused(client):
    with pytest.raises(BadRequest, match="time zone"):
        client.abandon("lease-1", properties={"at": datetime(2026, 1, 2)})  # noqa: DTZ001
    with pytest.raises(BadRequest):
        client.abandon("lease-1", properties={"what": object()})


def test_settled_and_lost_are_told_apart(standin, client):
    kept = keep(client)
    client.abandon(kept.id)
    with pytest.raises(MessageSettled) as caught:
        client.complete(kept.id)
    assert caught.value.settled == "abandoned"
    assert isinstance(caught.value, Conflict)
    other = keep(client)
    standin.tell(other.id, "lease.lost", reason="expired")
    with pytest.raises(LockLost):
        client.complete(other.id)
    standin.answers["POST", f"/v1/leases/{other.id}/complete"] = problem(504, "it is not known whether")
    with pytest.raises(Timeout, match="not known"):
        client.complete(other.id)
    standin.answers["POST", f"/v1/leases/{other.id}/complete"] = problem(502, "was not completed")
    with pytest.raises(RemoteFailed, match="not completed"):
        client.complete(other.id)


# Inside a block -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_message_that_is_settled_inside_its_block_is_no_loss(standin, client, way):
    losses = []
    with client.message_lock("orders", "0ddba11", on_lost=lambda *loss: losses.append(loss)) as lock:
        getattr(lock, way)()
        assert lock.is_settled
        lock.check()
        assert (lock.is_lost, lock.is_at_risk) == (False, False)
        getattr(lock, way)()
    assert losses == []
    assert standin.only_lease()["settled"] == WAYS[way]


def test_a_message_that_is_settled_over_its_own_link_is_no_loss(standin, client):
    losses = []
    with client.message_lock("orders", "0ddba11", sequence_number=9, on_lost=lambda *loss: losses.append(loss)) as lock:
        assert standin.requests("POST", "/v1/leases")[0].json["sequence_number"] == 9
        standin.change(lock.lease_id, settled="settled elsewhere")
        standin.tell(lock.lease_id, "lease.released", settled="settled elsewhere")
        with pytest.raises(MessageSettled):
            lock.complete()
        assert lock.is_settled
        lock.check()
    assert losses == []


def test_a_lock_that_is_lost_cannot_be_used_to_settle(standin, client):
    def work():
        with client.message_lock("orders", "0ddba11") as lock:
            standin.tell(lock.lease_id, "lease.lost", reason="expired")
            lock.complete()

    with pytest.raises(LockLost):
        work()


def test_a_session_is_not_settled_as_a_whole(client):
    with client.session("orders", "c") as session:
        assert not hasattr(session, "complete")


@pytest.mark.anyio
@pytest.mark.parametrize("way", WAYS)
async def test_async_blocks_and_calls_settle_as_well(standin, way):
    async with AsyncClient(standin.api) as client:
        async with client.message_lock("orders", "0ddba11", sequence_number=9) as lock:
            await getattr(lock, way)()
            assert lock.is_settled
            await anyio.lowlevel.checkpoint()
            lock.check()
        kept = await client.hold("orders", kind="message", lock_token="1ddba11")
        assert (await getattr(client, way)(kept.id)).settled == WAYS[way]


@pytest.mark.anyio
async def test_an_async_block_whose_message_is_settled_elsewhere_goes_on(standin):
    async with AsyncClient(standin.api) as client:
        async with client.message_lock("orders", "0ddba11") as lock:
            standin.change(lock.lease_id, settled="settled elsewhere")
            standin.tell(lock.lease_id, "lease.released", settled="settled elsewhere")
            with pytest.raises(MessageSettled):
                await lock.complete()
            assert lock.is_settled
        with pytest.raises(NotFound):
            await client.complete("lease-77")


# The watch ----------------------------------------------------------------------------------------------------------


def test_a_settlement_ends_the_watch_without_a_loss():
    watch = held("message")
    assert watch.on_event(event("lease.released", settled="completed"), 101.0) == []
    assert (watch.settled, watch.loss, watch.has_ended()) == ("completed", None, True)
    assert watch.doubt(1000.0) is None
    assert watch.on_lease(lease("released", kind="message"), 102.0) == []
    assert watch.on_event(event("lease.lost", reason="expired", final=True), 102.0) == []
    assert watch.on_unreachable("gone", 1000.0) == []
    assert watch.on_unknown() == []
    assert not watch.is_stale(1000.0)


def test_a_lease_that_is_shown_as_settled_ends_the_watch_too():
    watch = held("message")
    assert watch.on_lease(lease("released", kind="message", settled="deferred"), 101.0) == []
    assert (watch.settled, watch.lease.state) == ("deferred", "released")


def test_a_release_that_is_no_settlement_is_a_loss_still():
    watch = held("message")
    (lost,) = watch.on_event(event("lease.released"), 101.0)
    assert isinstance(lost, Lost)


def test_a_message_that_is_settled_before_its_lock_was_ours_cannot_be_had():
    watch = held("message")
    fresh = type(watch)(lease("acquiring", 0, None, kind="message"))
    assert fresh.on_lease(lease("released", 0, None, kind="message", settled="settled elsewhere"), 1.0) == [
        Lost("settled", "somebody else settled the message")
    ]
    fresh = type(watch)(lease("acquiring", 0, None, kind="message"))
    (lost,) = fresh.on_event(event("lease.released", 0, settled="settled elsewhere"), 1.0)
    assert isinstance(lost, Lost)
    assert fresh.on_lease(lease(kind="message"), 2.0) != [Acquired()]
