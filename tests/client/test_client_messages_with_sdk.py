"""A worker receives and settles through the daemon; the official SDK, at the same broker, sees what became of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import anyio
import httpx
import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusMessageState, ServiceBusSubQueue
from azure.servicebus.amqp import AmqpAnnotatedMessage

from renewer.client import AsyncClient, Client, Conflict, LockLost, SessionLost
from tests.client.test_client_with_daemon import running

LIMIT_S = 60
WAIT_S = 10


@dataclass
class Rig:
    """A daemon and a broker, each a process of its own."""

    api: str
    broker: str
    admin: str

    def sdk(self) -> ServiceBusClient:
        return ServiceBusClient.from_connection_string(self.broker, retry_total=0)

    def send(self, session_id: str, *messages: ServiceBusMessage | str) -> None:
        made = [ServiceBusMessage(one) if isinstance(one, str) else one for one in messages]
        with self.sdk() as sdk, sdk.get_queue_sender("orders") as sender:
            for message in made:
                if isinstance(message, ServiceBusMessage):
                    message.session_id = session_id
                sender.send_messages(message)

    def peeked(self, session_id: str) -> list[tuple[str, int, ServiceBusMessageState]]:
        """The messages of a free session: their text, how many deliveries failed, and their state."""
        with self.sdk() as sdk, sdk.get_queue_receiver("orders", session_id=session_id) as receiver:
            return [(str(one), one.delivery_count, one.state) for one in receiver.peek_messages(100)]

    def lose(self, session_id: str) -> None:
        body = {"entity": "orders", "session_id": session_id}
        httpx.post(f"{self.admin}/_emulator/servicebus/detach-session", json=body).raise_for_status()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("d")
    ports = ["--amqp", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    with running("emulator", *ports, "--lock-duration", "5s", "--queue", "orders:session") as emulator:
        ready = emulator.event("emulator ready")
        keys = "SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true"
        broker = f"Endpoint=sb://{ready['amqp']};{keys}"
        config: Path = folder / "config.toml"
        config.write_text(
            f'[daemon]\nstate_dir = "{folder}"\n[api]\nlisten = "unix:{folder}/s"\n[metrics]\nlisten = "off"\n'
            f'[servicebus.main]\nconnection_string = "{broker}"\n'
        )
        with running("run", "--config", str(config)) as daemon:
            daemon.event("daemon ready")
            yield Rig(f"unix:{folder}/s", broker, f"http://{ready['http']}")


def test_each_way_to_settle_a_message_is_what_the_sdk_sees(rig: Rig) -> None:
    rig.send("ways", "complete", "abandon", "defer", "dead-letter", "leave")
    with Client(rig.api) as client, client.session("orders", "ways") as session:
        found = session.receive(10, wait=WAIT_S)
        assert [one.text() for one in found] == ["complete", "abandon", "defer", "dead-letter", "leave"]
        assert [one.delivery_count for one in found] == [0] * 5
        completed, abandoned, deferred, dead, left = found
        completed.complete()
        completed.complete()
        with pytest.raises(Conflict, match="completed"):
            completed.abandon()
        deferred.defer(properties={"by": "us"})
        dead.dead_letter(reason="poison", description="it breaks", properties={"tries": {"type": "int", "value": 3}})
        abandoned.abandon()
        assert [one.handle for one in session.in_flight()] == [left.handle]
        (again,) = session.receive(wait=WAIT_S)
        assert (again.text(), again.delivery_count, again.sequence_number) == ("abandon", 1, abandoned.sequence_number)
        (once_more,) = session.receive_deferred([deferred.sequence_number or 0])
        assert (once_more.text(), once_more.properties) == ("defer", {"by": "us"})
        states = {one.text(): one.state for one in session.peek(100)}
        assert states == {"abandon": "active", "defer": "deferred", "leave": "active"}
        once_more.complete()
    # What was in flight is back, and has failed no more often than before.
    active = ServiceBusMessageState.ACTIVE
    assert sorted(rig.peeked("ways")) == [("abandon", 1, active), ("leave", 0, active)]
    with rig.sdk() as sdk, sdk.get_queue_receiver("orders", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as dead_letters:
        (buried,) = dead_letters.receive_messages(1, max_wait_time=WAIT_S)
        assert (str(buried), buried.dead_letter_reason, buried.dead_letter_error_description) == (
            "dead-letter",
            "poison",
            "it breaks",
        )
        assert buried.application_properties[b"tries"] == 3
        dead_letters.complete_message(buried)


def test_what_the_sdk_sends_is_what_a_worker_reads(rig: Rig) -> None:
    number = uuid.UUID(int=7)
    rig.send(
        "values",
        ServiceBusMessage(
            '{"a": [1, "ü"]}',
            application_properties={"t": "x", "n": 2**30, "r": 0.5, "b": True, "id": number},
            message_id="m-1",
            correlation_id="c-1",
            content_type="application/json",
            subject="sub",
            to="t",
            reply_to="r",
            reply_to_session_id="rs",
        ),
    )
    with rig.sdk() as sdk, sdk.get_queue_sender("orders") as sender:
        for more in ({"value_body": {"k": [1, True]}}, {"sequence_body": [[1, "a"]]}):
            sender.send_messages(AmqpAnnotatedMessage(**more, properties={"group_id": "values"}))
    before = datetime.now(UTC)
    with Client(rig.api) as client, client.session("orders", "values") as session:
        first, valued, listed = session.receive(10, wait=WAIT_S)
        assert first.json() == {"a": [1, "ü"]}
        assert first.properties == {"t": "x", "n": 2**30, "r": 0.5, "b": True, "id": number}
        assert first.typed_properties["n"] == {"type": "int", "value": 2**30}
        assert (first.message_id, first.correlation_id, first.content_type) == ("m-1", "c-1", "application/json")
        assert (first.subject, first.to, first.reply_to, first.reply_to_session_id) == ("sub", "t", "r", "rs")
        assert (first.session_id, first.state) == ("values", "active")
        assert first.enqueued_at is not None
        assert abs((first.enqueued_at - before).total_seconds()) < LIMIT_S
        assert (valued.body_kind, valued.value) == ("value", {"k": [1, True]})
        assert (listed.body_kind, list(listed.sequence)) == ("sequence", [[1, "a"]])
        for one in (first, valued, listed):
            one.complete()
    assert rig.peeked("values") == []


def test_what_was_in_flight_when_the_session_was_lost_is_delivered_again(rig: Rig) -> None:
    rig.send("lost", "first", "second")
    with Client(rig.api) as client:
        with (  # noqa: PT012 - leaving the block raises, too
            pytest.raises(SessionLost, match=r"expired .* 1 message in flight will be delivered again"),
            client.session("orders", "lost") as session,
        ):
            first, second = session.receive(2, wait=WAIT_S)
            first.complete()
            rig.lose("lost")
            with pytest.raises(SessionLost):
                next(iter(session))
            with pytest.raises(SessionLost):
                second.complete()
            lease_id = session.lease_id
        # Also past the block, and past the client's own knowledge: never a silent success.
        (gone,) = client.in_flight(lease_id)
        assert (gone.handle, gone.is_lost) == (second.handle, True)
        with pytest.raises(LockLost, match="delivered again"):
            client.settle(lease_id, gone.handle, "complete")
        client.settle(lease_id, first.handle or "", "complete")
    with rig.sdk() as sdk, sdk.get_queue_receiver("orders", session_id="lost") as receiver:
        (again,) = receiver.receive_messages(1, max_wait_time=WAIT_S)
        assert str(again) == "second"
        receiver.complete_message(again)


def test_what_did_not_reach_who_asked_for_it_is_not_lost(rig: Rig) -> None:
    with Client(rig.api) as client, client.session("orders", "away") as session:
        path = f"http://renewer/v1/leases/{session.lease_id}/receive"
        transport = httpx.HTTPTransport(uds=rig.api.removeprefix("unix:"))
        with httpx.Client(transport=transport) as impatient, pytest.raises(httpx.ReadTimeout):
            impatient.post(path, params={"wait": "60s"}, timeout=0.2)
        rig.send("away", "a", "b")
        # Nobody waited for it any longer.
        (first,) = session.receive(wait=WAIT_S)
        assert (first.text(), first.delivery_count) == ("a", 0)
        first.complete()
        # An answer that nobody read: the message is in flight, and goes back to the head of its session.
        client.receive(session.lease_id, wait=WAIT_S)
        (unread,) = session.in_flight()
        client.settle(session.lease_id, unread.handle, "abandon")
        (second,) = session.receive(wait=WAIT_S)
        assert (second.text(), second.delivery_count) == ("b", 1)
        second.complete()
    assert rig.peeked("away") == []


@pytest.mark.anyio
async def test_an_async_worker_takes_what_the_sdk_sends_while_it_waits(rig: Rig) -> None:
    handled = []
    with anyio.fail_after(LIMIT_S):
        async with AsyncClient(rig.api) as client, client.session("orders", "later") as session:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, rig.send, "later", "a", "b", "c")
                async for message in session:
                    handled.append(message.text())
                    await message.complete()
                    if len(handled) == 3:
                        session.stop()
            assert await session.peek(10) == []
    assert handled == ["a", "b", "c"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
