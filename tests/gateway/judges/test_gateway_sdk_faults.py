"""The official SDK, unmodified, when things go wrong: keys, entities, workers that die, brokers that go away."""

from __future__ import annotations

import base64
import gc
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import anyio
import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusClient, ServiceBusMessage, aio
from azure.servicebus.exceptions import (
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from tests.gateway.judges.gateway_process import (
    ALLOWED,
    NEEDS_GATEWAY,
    Gateways,
    JudgedBroker,
    gateways_before,
    judged_broker,
    until,
)
from tests.gateway.judges.keeping_scenarios import receive

# azure-servicebus 7.15 forgets a socket whose other end was closed; it is collected here, where that may be.
pytestmark = [NEEDS_GATEWAY, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]

LOCK_S = 30.0
AT_ONCE_S = 10.0
"""What a refusal may take: no minutes of retries."""
WRONG_KEY = base64.b64encode(b"x" * 32).decode()


@pytest.fixture(scope="module")
def broker() -> Iterator[JudgedBroker]:
    with judged_broker() as broker:
        broker.entity(ALLOWED)
        yield broker


@pytest.fixture(scope="module")
def gateways(broker: JudgedBroker) -> Iterator[Gateways]:
    with gateways_before(broker.connection_string) as gateways:
        yield gateways


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


def client_of(connection_string: str, retry_total: int = 0) -> ServiceBusClient:
    return ServiceBusClient.from_connection_string(connection_string, retry_total=retry_total)


@contextmanager
def worker(connection_string: str, queue: str, *session_ids: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds sessions and is blocked; killed at the end, if not before."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.gateway.judges.session_worker", connection_string, queue, *session_ids],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "holding\n"
            yield process
        finally:
            process.kill()


# Who is let in --------------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_an_authentication_error_at_once(broker: JudgedBroker, gateways: Gateways) -> None:
    queue = broker.queue()
    began_at = time.monotonic()
    with client_of(gateways.connection_string(key=WRONG_KEY)) as client:
        with pytest.raises(ServiceBusAuthenticationError), client.get_queue_receiver(queue):
            pass
        with pytest.raises(ServiceBusAuthenticationError), client.get_queue_sender(queue) as sender:
            sender.send_messages(ServiceBusMessage("m"))
    assert time.monotonic() - began_at < AT_ONCE_S


def test_a_name_that_no_key_has_is_an_authentication_error_at_once(broker: JudgedBroker, gateways: Gateways) -> None:
    wrong = gateways.connection_string(key_name="local").replace("KeyName=local", "KeyName=nobody")
    began_at = time.monotonic()
    with (
        client_of(wrong) as client,
        pytest.raises(ServiceBusAuthenticationError),
        client.get_queue_receiver(broker.queue()),
    ):
        pass
    assert time.monotonic() - began_at < AT_ONCE_S


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncio_sees_a_wrong_key_as_an_authentication_error(broker: JudgedBroker, gateways: Gateways) -> None:
    queue = broker.queue(sessions=True)
    with anyio.fail_after(AT_ONCE_S):
        async with aio.ServiceBusClient.from_connection_string(
            gateways.connection_string(key=WRONG_KEY), retry_total=0
        ) as client:
            with pytest.raises(ServiceBusAuthenticationError):
                await client.get_queue_receiver(queue, session_id="s").__aenter__()


def test_a_key_opens_its_own_entities_and_no_others(broker: JudgedBroker, gateways: Gateways) -> None:
    other = broker.queue()
    with client_of(gateways.connection_string(key_name="narrow")) as client:
        with client.get_queue_sender(ALLOWED) as sender:
            sender.send_messages(ServiceBusMessage("m"))
        with client.get_queue_receiver(ALLOWED) as receiver:
            (message,) = receive(receiver, 1)
            receiver.complete_message(message)
        began_at = time.monotonic()
        refused = pytest.raises((ServiceBusAuthenticationError, ServiceBusAuthorizationError))
        with refused, client.get_queue_receiver(other):
            pass
        with refused, client.get_queue_sender(other) as sender:
            sender.send_messages(ServiceBusMessage("m"))
        assert time.monotonic() - began_at < AT_ONCE_S
    with client_of(broker.connection_string) as past, past.get_queue_receiver(other) as receiver:
        assert receiver.peek_messages(1) == []


# Workers that go ------------------------------------------------------------------------------------------------------


def test_the_session_of_a_killed_worker_is_free_at_once(broker: JudgedBroker, gateways: Gateways) -> None:
    queue = broker.queue(sessions=True, lock_duration_s=LOCK_S)
    with worker(gateways.connection_string(), queue, "s") as process:
        (lease,) = gateways.until_leases(queue, 1, state="held")
        assert broker.call(lambda broker: broker.counters.sessions_held) >= 1
        with (
            client_of(gateways.connection_string()) as client,
            pytest.raises(SessionCannotBeLockedError),
            client.get_queue_receiver(queue, session_id="s"),
        ):
            pass
        process.kill()
        killed_at = time.monotonic()
        until(lambda: (held := broker.call(lambda broker: broker.counters.sessions_held), held == 0), "free", 5.0)
        assert time.monotonic() - killed_at < 5.0
    with (
        client_of(gateways.connection_string()) as client,
        client.get_queue_receiver(queue, session_id="s") as receiver,
    ):
        receiver.session.set_state("mine")
        (mine,) = gateways.until_leases(queue, 1, state="held")
        assert mine["id"] != lease["id"]
    types = gateways.events_of(lease["id"], "lease.lost")
    assert types.count("lease.lost") == 1
    assert types.count("lease.acquired") == 1
    (gone,) = (found for found in gateways.leases(queue) if found["id"] == lease["id"])
    assert (gone["state"], gone["last_loss"]["reason"]) == ("lost", "owner_gone")


def test_every_lease_says_whose_it_is(broker: JudgedBroker, gateways: Gateways) -> None:
    queue = broker.queue(sessions=True)
    with client_of(gateways.connection_string()) as client, client.get_queue_receiver(queue, session_id="s"):
        (lease,) = gateways.until_leases(queue, 1, state="held")
        assert lease["owner"]["kind"] == "connection"
        assert (lease["labels"]["gateway"], lease["labels"]["key"]) == ("keeping", "local")
        assert lease["labels"]["worker"].startswith("SBReceiver")
    (lease,) = gateways.until_leases(queue, 1, state="released")
    assert lease["losses"] == 0


def test_the_end_of_one_worker_is_nothing_to_another(broker: JudgedBroker, gateways: Gateways) -> None:
    queue = broker.queue(sessions=True, lock_duration_s=LOCK_S)
    with (
        client_of(gateways.connection_string()) as client,
        client.get_queue_receiver(queue, session_id="stays") as receiver,
        worker(gateways.connection_string(), queue, "goes", "goes too") as process,
    ):
        gateways.until_leases(queue, 3, state="held")
        process.kill()
        gateways.until_leases(queue, 1, state="held")
        receiver.session.set_state("held")
        assert {lease["session_id"] for lease in gateways.leases(queue, state="lost")} == {"goes", "goes too"}


# Brokers that go ------------------------------------------------------------------------------------------------------


def test_a_session_that_is_taken_away_is_told_to_the_worker_and_to_the_api(
    broker: JudgedBroker, gateways: Gateways
) -> None:
    queue = broker.queue(sessions=True)
    with (
        client_of(gateways.connection_string()) as client,
        client.get_queue_receiver(queue, session_id="s") as receiver,
    ):
        (lease,) = gateways.until_leases(queue, 1, state="held")
        broker.call(lambda broker: broker.detach_session(queue, "s"))
        types = gateways.events_of(lease["id"], "lease.lost")
        assert types.count("lease.lost") == 1
        with pytest.raises((SessionLockLostError, ServiceBusError)):
            receiver.session.set_state("too late")


def test_a_session_whose_lock_the_broker_ends_is_lost(broker: JudgedBroker, gateways: Gateways) -> None:
    queue = broker.queue(sessions=True, lock_duration_s=5.0)
    with (
        client_of(gateways.connection_string()) as client,
        client.get_queue_receiver(queue, session_id="s") as receiver,
    ):
        (lease,) = gateways.until_leases(queue, 1, state="held")
        assert broker.expire(queue, "s")
        assert gateways.events_of(lease["id"], "lease.lost").count("lease.lost") == 1
        with pytest.raises(SessionLockLostError):
            receiver.session.set_state("too late")


def test_workers_come_back_by_themselves_when_the_broker_does(gateways: Gateways, broker: JudgedBroker) -> None:
    queue, sessions = broker.queue(), broker.queue(sessions=True)
    with (
        client_of(gateways.connection_string(), retry_total=10) as client,
        client_of(gateways.connection_string()) as once,
    ):
        sender = client.get_queue_sender(queue)
        receiver = client.get_queue_receiver(queue, max_wait_time=20)
        held = once.get_queue_receiver(sessions, session_id="s")
        with sender, receiver, held:
            sender.send_messages(ServiceBusMessage("before"))
            (message,) = receive(receiver, 1)
            receiver.complete_message(message)
            (lease,) = gateways.until_leases(sessions, 1, state="held")
            broker.stop()
            assert gateways.events_of(lease["id"], "lease.lost").count("lease.lost") == 1
            (lost,) = gateways.leases(sessions)
            assert lost["last_loss"]["reason"] == "connection_lost"
            broker.start()
            with pytest.raises(ServiceBusError):
                held.session.set_state("too late")
            sender.send_messages(ServiceBusMessage("after"))
            (message,) = receive(receiver, 1)
            assert str(message) == "after"
            receiver.complete_message(message)
        with client.get_queue_receiver(sessions, session_id="s") as again:
            again.session.set_state("held again")


def test_a_broker_that_is_not_there_is_an_error_and_not_a_wait_without_end(
    gateways: Gateways, broker: JudgedBroker
) -> None:
    queue = broker.queue()
    broker.stop()
    try:
        with client_of(gateways.connection_string()) as client, pytest.raises(ServiceBusError):
            client.get_queue_receiver(queue).__enter__()
    finally:
        broker.start()
    with client_of(gateways.connection_string()) as client, client.get_queue_receiver(queue) as receiver:
        assert receiver.peek_messages(1) == []


def test_a_worker_that_waits_for_a_session_gets_it_when_it_comes(broker: JudgedBroker, gateways: Gateways) -> None:
    queue = broker.queue(sessions=True)

    def wait_for_next() -> str | None:
        with (
            client_of(gateways.connection_string()) as client,
            client.get_queue_receiver(queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=30) as receiver,
        ):
            (message,) = receive(receiver, 1)
            receiver.complete_message(message)
            return receiver.session.session_id

    with ThreadPoolExecutor(1) as threads, client_of(gateways.connection_string()) as client:
        waiting = threads.submit(wait_for_next)
        until(lambda: (number := broker.call(lambda broker: len(broker.waiting)), number == 1), "a waiter")
        with client.get_queue_sender(queue) as sender:
            sender.send_messages(ServiceBusMessage("m", session_id="late"))
        assert waiting.result(30) == "late"


def test_the_daemon_stops_in_good_form_while_workers_are_there(broker: JudgedBroker) -> None:
    queue, sessions = broker.queue(), broker.queue(sessions=True, lock_duration_s=LOCK_S)
    with gateways_before(broker.connection_string) as gateways, client_of(gateways.connection_string()) as client:
        receiver = client.get_queue_receiver(queue)
        held = client.get_queue_receiver(sessions, session_id="s")
        with receiver, held:
            gateways.until_leases(sessions, 1, state="held")
            began_at = time.monotonic()
            assert gateways.daemon.stop() == 0
            assert time.monotonic() - began_at < AT_ONCE_S
            with pytest.raises(ServiceBusError):
                held.session.set_state("too late")
            with (
                client_of(broker.connection_string) as past,
                past.get_queue_receiver(sessions, session_id="s") as free,
            ):
                free.session.set_state("free")


@pytest.mark.soak
def test_two_hundred_workers_hold_a_session_each_through_a_blocked_minute(broker: JudgedBroker) -> None:
    queue = broker.queue(sessions=True, lock_duration_s=10.0)
    groups = [[f"s{20 * group + number}" for number in range(20)] for group in range(10)]
    with gateways_before(broker.connection_string) as gateways, ThreadPoolExecutor(10) as threads:
        workers = [worker(gateways.connection_string(), queue, *group) for group in groups]
        try:
            processes = list(threads.map(lambda one: one.__enter__(), workers))
            gateways.until_leases(queue, 200, state="held")
            time.sleep(60)
            leases = gateways.leases(queue, state="held")
            assert len(leases) == 200
            assert [lease for lease in leases if lease["losses"] or lease["renewals"] < 10] == []
            for process in processes[:5]:
                process.kill()
            gateways.until_leases(queue, 100, state="held")
            until(lambda: (held := broker.call(lambda broker: broker.counters.sessions_held), held == 100), "half free")
        finally:
            for one in workers:
                one.__exit__(None, None, None)
        gateways.until_leases(queue, 0, state="held")
