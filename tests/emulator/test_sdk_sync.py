"""The official SDK, in its blocking form, against the broker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceivedMessage,
    ServiceBusReceiveMode,
    ServiceBusReceiver,
    ServiceBusSubQueue,
)
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessageNotFoundError,
    MessagingEntityNotFoundError,
    OperationTimeoutError,
    ServiceBusAuthenticationError,
    ServiceBusError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from renewer.emulator.broker import BrokerOptions
from tests.emulator.sdk_holders import HOLDERS, PATIENCE_S, holding
from tests.emulator.sdk_rig import SdkRig, sdk_rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

WAIT_S = 5


@pytest.fixture(scope="module")
def rig() -> Iterator[SdkRig]:
    with sdk_rig() as rig:
        yield rig


@pytest.fixture(scope="module")
def client(rig: SdkRig) -> Iterator[ServiceBusClient]:
    with ServiceBusClient.from_connection_string(rig.connection_string, retry_total=0) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def holders() -> Iterator[dict[str, Future[None]]]:
    """They hold while the other tests run, on a broker of their own."""
    with sdk_rig() as rig, holding(rig) as holders:
        yield holders
        assert rig.expired() == 0


def send(client: ServiceBusClient, queue: str, *bodies: str, session_id: str | None = None) -> None:
    with client.get_queue_sender(queue) as sender:
        sender.send_messages([ServiceBusMessage(body, session_id=session_id) for body in bodies])


def receive(receiver: ServiceBusReceiver, number: int) -> list[ServiceBusReceivedMessage]:
    messages: list[ServiceBusReceivedMessage] = []
    while len(messages) < number:
        more = receiver.receive_messages(number - len(messages), max_wait_time=WAIT_S)
        assert more, f"only {len(messages)} of {number}"
        messages += more
    return messages


def near(moment: datetime | None, seconds: float) -> bool:
    assert moment is not None
    return abs(moment - datetime.now(UTC) - timedelta(seconds=seconds)) < timedelta(seconds=5)


def test_messages_are_sent_one_by_one_and_in_batches_and_received(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue()
    large = "x" * 200_000
    with client.get_queue_sender(queue) as sender:
        sender.send_messages(
            ServiceBusMessage("first", message_id="id", application_properties={"n": 1}, subject="subject")
        )
        batch = sender.create_message_batch()
        for body in ("a", "b", "c"):
            batch.add_message(ServiceBusMessage(body))
        sender.send_messages(batch)
        sender.send_messages(ServiceBusMessage(large))
    with client.get_queue_receiver(queue) as receiver:
        messages = receive(receiver, 5)
        assert [str(message) for message in messages] == ["first", "a", "b", "c", large]
        first = messages[0]
        assert (first.message_id, first.subject, first.delivery_count) == ("id", "subject", 0)
        assert first.application_properties == {b"n": 1}
        assert [message.sequence_number for message in messages] == [1, 2, 3, 4, 5]
        assert near(first.enqueued_time_utc, 0)
        assert near(first.locked_until_utc, 60)
        assert near(receiver.renew_message_lock(first), 60)
        for message in messages:
            receiver.complete_message(message)
        assert receiver.peek_messages(10) == []


def test_a_session_is_accepted_renewed_and_keeps_its_state(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True)
    with client.get_queue_receiver(queue, session_id="s") as receiver:
        session = receiver.session
        assert session.session_id == "s"
        assert near(session.locked_until_utc, 60)
        before = session.locked_until_utc
        assert session.renew_lock() >= before
        assert session.get_state() is None
        for state, kept in ((b"\x00\xff", b"\x00\xff"), ("text", b"text"), ("", b""), (None, None)):
            session.set_state(state)
            assert session.get_state() == kept
        session.set_state("stays")
    with client.get_queue_receiver(queue, session_id="s") as receiver:
        assert receiver.session.get_state() == b"stays"
    assert list(client.list_queue_sessions(queue)) == ["s"]


def test_messages_of_a_session_are_settled_in_every_way(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True)
    send(client, queue, "complete", "abandon", "defer", "dead-letter", session_id="s")
    with client.get_queue_receiver(queue, session_id="s") as receiver:
        complete, abandon, defer, dead_letter = receive(receiver, 4)
        receiver.complete_message(complete)
        receiver.abandon_message(abandon)
        receiver.defer_message(defer)
        receiver.dead_letter_message(dead_letter, reason="reason", error_description="description")
        (again,) = receive(receiver, 1)
        assert (str(again), again.delivery_count) == ("abandon", 1)
        receiver.complete_message(again)
        assert defer.sequence_number is not None
        (deferred,) = receiver.receive_deferred_messages(defer.sequence_number)
        assert str(deferred) == "defer"
        receiver.complete_message(deferred)
        with pytest.raises(MessageNotFoundError):
            receiver.receive_deferred_messages(defer.sequence_number)
    with client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
        (dead,) = receive(receiver, 1)
        assert str(dead) == "dead-letter"
        assert (dead.dead_letter_reason, dead.dead_letter_error_description) == ("reason", "description")
        receiver.complete_message(dead)


def test_a_plain_queue_settles_in_every_way(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(max_delivery_count=2)
    send(client, queue, "abandon", "defer", "dead-letter")
    with client.get_queue_receiver(queue) as receiver:
        abandon, defer, dead_letter = receive(receiver, 3)
        receiver.abandon_message(abandon)
        receiver.defer_message(defer)
        receiver.dead_letter_message(dead_letter, reason="reason")
        (again,) = receive(receiver, 1)
        receiver.abandon_message(again)
        assert defer.sequence_number is not None
        (deferred,) = receiver.receive_deferred_messages([defer.sequence_number])
        assert near(receiver.renew_message_lock(deferred), 60)
        receiver.complete_message(deferred)
    with client.get_queue_receiver(queue, sub_queue="deadletter", receive_mode="receiveanddelete") as receiver:
        reasons = [message.dead_letter_reason for message in receive(receiver, 2)]
        assert sorted(map(str, reasons)) == ["MaxDeliveryCountExceeded", "reason"]


def test_the_next_session_is_the_one_with_messages(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True)
    send(client, queue, "m", session_id="full")
    with client.get_queue_receiver(queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=WAIT_S) as receiver:
        assert receiver.session.session_id == "full"
        assert [str(message) for message in receive(receiver, 1)] == ["m"]
        with (
            pytest.raises(OperationTimeoutError),
            client.get_queue_receiver(queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=0.2),
        ):
            pass


def test_a_second_holder_is_refused(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True)
    with client.get_queue_receiver(queue, session_id="s"):
        with (
            pytest.raises(SessionCannotBeLockedError, match="locked by another receiver"),
            client.get_queue_receiver(queue, session_id="s"),
        ):
            pass
        with client.get_queue_receiver(queue, session_id="other"):
            pass
    with client.get_queue_receiver(queue, session_id="s"):
        pass


def test_a_lock_that_ran_out_is_lost(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue(sessions=True)
    send(client, queue, "m", session_id="s")
    with client.get_queue_receiver(queue, session_id="s") as receiver:
        (message,) = receive(receiver, 1)
        assert rig.expire(queue, "s")
        with pytest.raises(SessionLockLostError):
            receiver.session.renew_lock()
        with pytest.raises(SessionLockLostError):
            receiver.complete_message(message)
    with client.get_queue_receiver(queue, session_id="s") as receiver:
        (again,) = receive(receiver, 1)
        assert (str(again), again.delivery_count) == ("m", 1)
        receiver.complete_message(again)


def test_the_lock_of_a_message_runs_out(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue()
    send(client, queue, "m")
    with client.get_queue_receiver(queue) as receiver:
        (first,) = receive(receiver, 1)
        rig.expire_messages(queue)
        (second,) = receive(receiver, 1)
        assert second.delivery_count == 1
        with pytest.raises(MessageLockLostError):
            receiver.renew_message_lock(first)
        with pytest.raises(MessageLockLostError):
            receiver.complete_message(first)
        receiver.complete_message(second)


def test_receive_and_delete_peek_and_schedule(rig: SdkRig, client: ServiceBusClient) -> None:
    queue = rig.queue()
    with client.get_queue_sender(queue) as sender:
        later = datetime.now(UTC) + timedelta(hours=1)
        numbers = sender.schedule_messages([ServiceBusMessage("a"), ServiceBusMessage("b")], later)
        sender.cancel_scheduled_messages(numbers[0])
        sender.schedule_messages(ServiceBusMessage("soon"), datetime.now(UTC) + timedelta(milliseconds=300))
        sender.send_messages(ServiceBusMessage("now"))
    with client.get_queue_receiver(queue, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE) as receiver:
        assert [str(message) for message in receive(receiver, 2)] == ["now", "soon"]
        (peeked,) = receiver.peek_messages(10, sequence_number=1)
        assert (str(peeked), peeked.state.name) == ("b", "SCHEDULED")


def test_subscriptions_get_what_is_sent_to_their_topic(rig: SdkRig, client: ServiceBusClient) -> None:
    rig.entity("news/Subscriptions/plain")
    rig.entity("news/Subscriptions/sessions", sessions=True)
    with client.get_topic_sender("news") as sender:
        sender.send_messages(ServiceBusMessage("m", session_id="s"))
    with client.get_subscription_receiver("news", "plain") as receiver:
        (message,) = receive(receiver, 1)
        receiver.complete_message(message)
    with client.get_subscription_receiver("news", "sessions", session_id="s") as receiver:
        assert receiver.session.renew_lock()
        (message,) = receive(receiver, 1)
        receiver.complete_message(message)


def test_what_is_not_there_or_does_not_fit_is_said(rig: SdkRig, client: ServiceBusClient) -> None:
    sessions, plain = rig.queue(sessions=True), rig.queue()
    with pytest.raises(MessagingEntityNotFoundError), client.get_queue_receiver("nowhere"):
        pass
    with pytest.raises(ServiceBusError, match="amqp:not-allowed"), client.get_queue_receiver(sessions):
        pass
    with pytest.raises(ServiceBusError, match="amqp:not-allowed"), client.get_queue_receiver(plain, session_id="s"):
        pass
    with pytest.raises(ServiceBusError, match="amqp:not-allowed"):
        send(client, sessions, "no session")


@pytest.mark.parametrize("key", ["bG9jYWw=", "b3RoZXI="])
def test_keys_are_verified_if_they_shall_be(key: str) -> None:
    with sdk_rig(BrokerOptions(key_name="local", key=key)) as rig:
        queue = rig.queue()
        with ServiceBusClient.from_connection_string(rig.connection_string, retry_total=0) as client:
            if key == "bG9jYWw=":
                send(client, queue, "m")
            else:
                with pytest.raises(ServiceBusAuthenticationError):
                    send(client, queue, "m")


@pytest.mark.parametrize("name", HOLDERS)
def test_what_auto_lock_renewers_hold_outlasts_its_lock(holders: dict[str, Future[None]], name: str) -> None:
    holders[name].result(PATIENCE_S)
