"""What workers do that block their loop, or their only thread, for longer than their locks last."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    AutoLockRenewer,
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceivedMessage,
    ServiceBusReceiveMode,
    ServiceBusReceiver,
    ServiceBusSubQueue,
    aio,
)

from tests.gateway.judges.gateway_process import Gateways, JudgedBroker, View, until

WAIT_S = 10.0


@dataclass(frozen=True)
class Scene:
    """A broker with gateways, and how long locks last and workers block."""

    broker: JudgedBroker
    gateways: Gateways
    lock_s: float
    blocked_s: float
    direct: bool = False
    """Whether workers go past the gateway."""

    def queue(self, *, sessions: bool = False) -> str:
        return self.broker.queue(sessions=sessions, lock_duration_s=self.lock_s)

    def connection_string(self, kind: str = "keeping") -> str:
        return self.broker.connection_string if self.direct else self.gateways.connection_string(kind)

    def client(self, kind: str = "keeping") -> ServiceBusClient:
        return ServiceBusClient.from_connection_string(self.connection_string(kind), retry_total=0)

    def aio_client(self, kind: str = "keeping") -> aio.ServiceBusClient:
        return aio.ServiceBusClient.from_connection_string(self.connection_string(kind), retry_total=0)

    def block(self) -> None:
        """Sit on the thread, and with it on whatever loop runs there."""
        time.sleep(self.blocked_s)

    def leases(self, queue: str, number: int, **only: object) -> list[View]:
        return self.gateways.until_leases(queue, number, state="held", **only)


def fill(scene: Scene, queue: str, *bodies: str, session_id: str | None = None) -> None:
    """Have messages in a queue, sent past the gateway."""
    with (
        ServiceBusClient.from_connection_string(scene.broker.connection_string) as client,
        client.get_queue_sender(queue) as sender,
    ):
        sender.send_messages([ServiceBusMessage(body, session_id=session_id) for body in bodies])


def receive(receiver: ServiceBusReceiver, number: int) -> list[ServiceBusReceivedMessage]:
    messages: list[ServiceBusReceivedMessage] = []
    while len(messages) < number:
        more = receiver.receive_messages(number - len(messages), max_wait_time=WAIT_S)
        assert more, f"only {len(messages)} of {number}"
        messages += more
    return messages


async def receive_aio(receiver: aio.ServiceBusReceiver, number: int) -> list[ServiceBusReceivedMessage]:
    messages: list[ServiceBusReceivedMessage] = []
    while len(messages) < number:
        more = await receiver.receive_messages(number - len(messages), max_wait_time=WAIT_S)
        assert more, f"only {len(messages)} of {number}"
        messages += more
    return messages


def in_the_future(moment: datetime | None, seconds: float) -> bool:
    assert moment is not None
    return moment > datetime.now(UTC) + timedelta(seconds=seconds)


async def a_loop_that_holds_a_session(scene: Scene) -> None:
    queue = scene.queue(sessions=True)
    fill(scene, queue, "m", session_id="s")
    async with scene.aio_client() as client, client.get_queue_receiver(queue, session_id="s") as receiver:
        (message,) = await receive_aio(receiver, 1)
        scene.block()
        await receiver.complete_message(message)
        await receiver.session.set_state("done")
        assert await receiver.session.get_state() == b"done"
        if not scene.direct:
            (lease,) = scene.leases(queue, 1)
            assert (lease["kind"], lease["session_id"], lease["losses"]) == ("session", "s", 0)
            assert lease["renewals"] >= 2 * int(scene.blocked_s / scene.lock_s)
    if not scene.direct:
        scene.gateways.until_leases(queue, 1, state="released")
        types = scene.gateways.events_of(lease["id"], "lease.released")
        assert types.count("lease.acquired") == 1
        assert "lease.lost" not in types


async def a_loop_that_holds_the_next_session(scene: Scene) -> None:
    queue = scene.queue(sessions=True)
    fill(scene, queue, "m", session_id="next")
    async with (
        scene.aio_client() as client,
        client.get_queue_receiver(queue, session_id=NEXT_AVAILABLE_SESSION) as receiver,
    ):
        assert receiver.session.session_id == "next"
        scene.block()
        (message,) = await receive_aio(receiver, 1)
        await receiver.complete_message(message)
        (lease,) = scene.leases(queue, 1)
        assert lease["session_id"] == "next"


def a_thread_that_holds_a_session(scene: Scene) -> None:
    queue = scene.queue(sessions=True)
    fill(scene, queue, "complete", "abandon", "defer", "dead-letter", session_id="s")
    with scene.client() as client, client.get_queue_receiver(queue, session_id="s") as receiver:
        complete, abandon, defer, dead_letter = receive(receiver, 4)
        scene.block()
        receiver.complete_message(complete)
        receiver.abandon_message(abandon)
        receiver.defer_message(defer)
        receiver.dead_letter_message(dead_letter, reason="reason")
        (again,) = receive(receiver, 1)
        assert (str(again), again.delivery_count) == ("abandon", 1)
        receiver.complete_message(again)
        assert defer.sequence_number is not None
        (deferred,) = receiver.receive_deferred_messages(defer.sequence_number)
        receiver.complete_message(deferred)


async def a_loop_that_holds_a_hundred_messages(scene: Scene) -> None:
    queue = scene.queue()
    fill(scene, queue, *(f"m{number}" for number in range(100)))
    async with scene.aio_client() as client, client.get_queue_receiver(queue, prefetch_count=100) as receiver:
        messages = await receive_aio(receiver, 100)
        assert [message.delivery_count for message in messages] == [0] * 100
        scene.block()
        leases = scene.leases(queue, 100, kind="message")
        assert all(lease["losses"] == 0 and lease["renewals"] >= 1 for lease in leases)
        assert {lease["sequence_number"] for lease in leases} == {message.sequence_number for message in messages}
        for message in messages:
            await receiver.complete_message(message)
        assert await receiver.peek_messages(10) == []
    scene.gateways.until_leases(queue, 0, state="held")
    assert {lease["settled"] for lease in scene.gateways.leases(queue)} == {"completed"}


def messages_that_were_fetched_ahead(scene: Scene) -> None:
    queue = scene.queue()
    fill(scene, queue, *(f"m{number}" for number in range(50)))
    with scene.client() as client, client.get_queue_receiver(queue, prefetch_count=50) as receiver:
        first = receive(receiver, 1)
        scene.leases(queue, 50)
        scene.block()
        messages = first + receive(receiver, 49)
        assert [str(message) for message in messages] == [f"m{number}" for number in range(50)]
        assert [message.delivery_count for message in messages] == [0] * 50
        for message in messages:
            receiver.complete_message(message)
        assert receiver.peek_messages(10) == []


def a_dead_letter_queue(scene: Scene) -> None:
    queue = scene.queue()
    fill(scene, queue, "m")
    with scene.client() as client:
        with client.get_queue_receiver(queue) as receiver:
            (message,) = receive(receiver, 1)
            scene.block()
            receiver.dead_letter_message(message, reason="reason")
        with client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
            (dead,) = receive(receiver, 1)
            scene.block()
            receiver.complete_message(dead)


def a_message_that_was_deferred(scene: Scene) -> None:
    queue = scene.queue()
    fill(scene, queue, "m")
    with scene.client() as client, client.get_queue_receiver(queue) as receiver:
        (message,) = receive(receiver, 1)
        receiver.defer_message(message)
        assert message.sequence_number is not None
        (deferred,) = receiver.receive_deferred_messages(message.sequence_number)
        receiver.complete_message(deferred)


def a_worker_that_renews_beside_the_gateway(scene: Scene) -> None:
    sessions, plain = scene.queue(sessions=True), scene.queue()
    fill(scene, sessions, "m", session_id="s")
    fill(scene, plain, "m")
    with (
        scene.client("honest") as client,
        client.get_queue_receiver(sessions, session_id="s") as receiver,
        client.get_queue_receiver(plain) as plain_receiver,
        AutoLockRenewer() as renewer,
    ):
        assert not in_the_future(receiver.session.locked_until_utc, scene.lock_s + 5)
        (message,) = receive(receiver, 1)
        (locked,) = receive(plain_receiver, 1)
        assert not in_the_future(locked.locked_until_utc, scene.lock_s + 5)
        renewer.register(receiver, receiver.session, max_lock_renewal_duration=600)
        renewer.register(plain_receiver, locked, max_lock_renewal_duration=600)
        scene.block()
        assert receiver.session.auto_renew_error is None
        assert locked.auto_renew_error is None
        assert not in_the_future(receiver.session.locked_until_utc, scene.lock_s + 5)
        receiver.complete_message(message)
        plain_receiver.complete_message(locked)


def a_worker_that_renews_what_is_shown_longer(scene: Scene) -> None:
    sessions, plain = scene.queue(sessions=True), scene.queue()
    fill(scene, plain, "m")
    with (
        scene.client() as client,
        client.get_queue_receiver(sessions, session_id="s") as receiver,
        client.get_queue_receiver(plain) as plain_receiver,
        AutoLockRenewer() as renewer,
    ):
        (message,) = receive(plain_receiver, 1)
        renewer.register(receiver, receiver.session, max_lock_renewal_duration=600)
        for moment in (receiver.session.locked_until_utc, message.locked_until_utc):
            assert in_the_future(moment, 3600)
        (lease,) = scene.leases(sessions, 1)
        assert not in_the_future(datetime.fromisoformat(lease["locked_until_utc"]), scene.lock_s + 5)
        assert in_the_future(receiver.session.renew_lock(), 3600)
        assert in_the_future(plain_receiver.renew_message_lock(message), 3600)
        scene.block()
        assert in_the_future(receiver.session.renew_lock(), 3600)
        assert in_the_future(plain_receiver.renew_message_lock(message), 3600)
        (lease,) = scene.leases(sessions, 1)
        assert not in_the_future(datetime.fromisoformat(lease["locked_until_utc"]), scene.lock_s + 5)
        plain_receiver.complete_message(message)
        receiver.session.set_state("held")


def a_subscription(scene: Scene) -> None:
    name = scene.queue()
    path = scene.broker.entity(f"{name}-topic/Subscriptions/all", sessions=True, lock_duration_s=scene.lock_s)
    with scene.client() as client:
        with client.get_topic_sender(f"{name}-topic") as sender:
            sender.send_messages(ServiceBusMessage("m", session_id="s"))
        with client.get_subscription_receiver(f"{name}-topic", "all", session_id="s") as receiver:
            (message,) = receive(receiver, 1)
            scene.block()
            receiver.complete_message(message)
            assert scene.leases(path, 1)


def messages_that_are_deleted_as_they_are_received(scene: Scene) -> None:
    queue = scene.queue()
    fill(scene, queue, *(f"m{number}" for number in range(20)))
    with (
        scene.client() as client,
        client.get_queue_receiver(
            queue, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE, prefetch_count=20
        ) as receiver,
    ):
        assert len(receive(receiver, 20)) == 20
        scene.block()
        assert scene.gateways.leases(queue) == []


def messages_of_a_megabyte(scene: Scene) -> None:
    queue = scene.queue()
    bodies = [bytes([65 + number]) * 1_000_000 for number in range(5)]
    with scene.client() as client, client.get_queue_sender(queue) as sender:
        for body in bodies:
            sender.send_messages(ServiceBusMessage(body))
        with client.get_queue_receiver(queue, prefetch_count=5) as receiver:
            messages = receive(receiver, 5)
            assert [b"".join(message.body) for message in messages] == bodies
            scene.block()
            for message in messages:
                receiver.complete_message(message)
            assert receiver.peek_messages(10) == []


def messages_that_are_settled_at_once(scene: Scene) -> None:
    queue = scene.queue()
    fill(scene, queue, *(f"m{number}" for number in range(30)))
    with scene.client() as client, client.get_queue_receiver(queue) as receiver:
        for _ in range(30):
            (message,) = receive(receiver, 1)
            receiver.complete_message(message)
        until(lambda: (found := scene.gateways.leases(queue, state="held"), not found), "no lease")
        assert receiver.peek_messages(10) == []


def two_workers_with_a_session_each(scene: Scene) -> None:
    queue = scene.queue(sessions=True)
    fill(scene, queue, "a", session_id="a")
    fill(scene, queue, "b", session_id="b")
    with (
        scene.client() as one,
        scene.client() as other,
        one.get_queue_receiver(queue, session_id="a") as a,
        other.get_queue_receiver(queue, session_id="b") as b,
    ):
        held = [(receiver, *receive(receiver, 1)) for receiver in (a, b)]
        scene.block()
        assert {lease["session_id"] for lease in scene.leases(queue, 2)} == {"a", "b"}
        for receiver, message in held:
            receiver.complete_message(message)


async def many_receivers_of_one_loop(scene: Scene) -> None:
    """The SDK has a connection for each receiver."""
    queue = scene.queue(sessions=True)
    async with scene.aio_client() as client:
        receivers = [client.get_queue_receiver(queue, session_id=f"s{number}") for number in range(10)]
        for receiver in receivers:
            await receiver.__aenter__()
        scene.block()
        for receiver in receivers:
            await receiver.session.set_state("held")
        scene.leases(queue, 10)
        for receiver in receivers:
            await receiver.close()


BLOCKING: list[Callable[[Scene], object]] = [
    a_thread_that_holds_a_session,
    messages_that_were_fetched_ahead,
    a_dead_letter_queue,
    a_message_that_was_deferred,
    a_worker_that_renews_beside_the_gateway,
    a_worker_that_renews_what_is_shown_longer,
    a_subscription,
    messages_that_are_deleted_as_they_are_received,
    messages_of_a_megabyte,
    messages_that_are_settled_at_once,
    two_workers_with_a_session_each,
]
ASYNC: list[Callable[[Scene], object]] = [
    a_loop_that_holds_a_session,
    a_loop_that_holds_the_next_session,
    a_loop_that_holds_a_hundred_messages,
    many_receivers_of_one_loop,
]
