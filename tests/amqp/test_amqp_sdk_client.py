"""The AMQP client inside azure-servicebus against our server side, over a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import ByteStream, SocketAttribute
from azure.servicebus._pyamqp.aio import ReceiveClientAsync, SendClientAsync
from azure.servicebus._pyamqp.authentication import SASLPlainAuth
from azure.servicebus._pyamqp.error import AMQPLinkError, RetryPolicy
from azure.servicebus._pyamqp.message import Message as SdkMessage

from renewer.amqp import (
    Accepted,
    AmqpError,
    AmqpTransport,
    AttachRequested,
    Connection,
    ConnectionClosed,
    Data,
    DeliveryReceived,
    DeliveryUpdated,
    Event,
    LinkDetached,
    Message,
    ReceiverLink,
    SaslServer,
    SenderLink,
    SessionEnded,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # The SDK knows no other.


class Broker:
    """One queue in memory; what arrives is kept until somebody gives credit."""

    def __init__(self) -> None:
        self.port = 0
        self.logins: list[tuple[str, str, str]] = []
        self.messages: list[Message] = []
        self.payloads: list[bytes] = []
        self.events: list[Event] = []
        self.connections_closed = 0
        self.closed = anyio.Event()

    def authenticate(self, mechanism: str, user: str, password: str) -> bool:
        self.logins.append((mechanism, user, password))
        return True

    def on_event(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case AttachRequested(link=ReceiverLink() as link):
                link.accept(auto_credit=10, max_message_size=10_000_000)
            case AttachRequested(link=SenderLink() as link, remote=remote) if b"missing" in str(remote.source).encode():
                link.refuse(AmqpError("amqp:not-found", "no such queue", {"x": 1}))
            case AttachRequested(link=SenderLink() as link):
                link.accept(max_message_size=10_000_000)
                for payload in self.payloads:
                    link.send(payload)
            case DeliveryReceived(link=link, delivery=delivery):
                self.payloads.append(delivery.payload)
                self.messages.append(Message.decode(delivery.payload))
                link.settle(delivery, Accepted())
            case ConnectionClosed():
                self.connections_closed += 1
                self.closed.set()
                self.closed = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Broker]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        self.port = listener.extra(SocketAttribute.local_port)

        async def serve(stream: ByteStream) -> None:
            sasl = SaslServer(["MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL"], self.authenticate)
            connection = Connection(
                role="server", container_id="broker", sasl=sasl, idle_time_out_s=240, now=anyio.current_time()
            )
            await AmqpTransport(stream, connection).run(self.on_event)

        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            yield self
            tasks.cancel_scope.cancel()

    def options(self) -> dict[str, object]:
        return {"auth": SASLPlainAuth("rule", "key"), "use_tls": False, "retry_policy": RetryPolicy(retry_total=0)}


async def test_the_sdk_sends_and_receives_messages_of_many_frames() -> None:
    async with Broker().running() as broker:
        host = f"127.0.0.1:{broker.port}"
        texts = [bytes([index]) * size for index, size in enumerate((1, 1000, 200_000, 3))]
        with anyio.fail_after(30):
            async with SendClientAsync(host, "queue", **broker.options()) as sender:
                for text in texts:
                    await sender.send_message_async(SdkMessage(data=[text], properties=None))
            async with ReceiveClientAsync(host, "queue", max_message_size=10_000_000, **broker.options()) as receiver:
                received: list[bytes] = []
                while len(received) < len(texts):
                    batch = await receiver.receive_message_batch_async(max_batch_size=4)
                    received += [bytes(next(iter(message.data))) for message in batch]
            while broker.connections_closed < 2:
                await broker.closed.wait()
        assert [message.body for message in broker.messages] == [Data([text]) for text in texts]
        assert received == texts
        assert broker.logins == [("PLAIN", "rule", "key")] * 2
        closed = [event for event in broker.events if isinstance(event, ConnectionClosed)]
        assert {event.reason for event in closed} <= {"closed", "eof"}
        names = [type(event) for event in broker.events]
        assert names.count(LinkDetached) == names.count(AttachRequested) == 2
        assert names.count(SessionEnded) == 2
        updates = [event for event in broker.events if isinstance(event, DeliveryUpdated)]
        assert all(isinstance(event.state, Accepted) for event in updates)


async def test_the_sdk_hears_why_a_link_was_refused() -> None:
    async with Broker().running() as broker:
        with anyio.fail_after(30):
            receiver = ReceiveClientAsync(f"127.0.0.1:{broker.port}", "missing", **broker.options())
            await receiver.open_async()
            try:
                with pytest.raises(AMQPLinkError) as caught:
                    await _until_ready(receiver)
            finally:
                await receiver.close_async()
        assert caught.value.condition == b"amqp:not-found"
        assert caught.value.info == {b"x": 1}


async def _until_ready(receiver: ReceiveClientAsync) -> None:
    while not await receiver.client_ready_async():
        await anyio.lowlevel.checkpoint()
