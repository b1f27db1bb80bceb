"""A broker on loopback, and a client that does one thing at a time and waits for what it is told to wait for."""

from __future__ import annotations

import contextlib
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from renewer.amqp import (
    AmqpError,
    AmqpTransport,
    Attach,
    Connection,
    ConnectionClosed,
    ConnectionOpened,
    Delivery,
    DeliveryReceived,
    DeliveryUpdated,
    LinkAttached,
    LinkDetached,
    Message,
    MessageProperties,
    ReceiverLink,
    SaslAnonymous,
    SenderLink,
    Session,
    SessionEnded,
    SessionOpened,
    Source,
    Symbol,
    Target,
    Uint,
    Value,
)
from renewer.amqp import connect as connect_tcp
from renewer.emulator.broker import Broker, BrokerOptions, QueueSpec
from renewer.emulator.faults import Faults
from tests.targets.scripted_broker import MemoryStream
from tests.virtualtime import VirtualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from anyio.abc import ByteStream

    from renewer.amqp import Event, SaslPlain

E = TypeVar("E")

PATIENCE_S = 10.0
SESSION_FILTER = Symbol("com.microsoft:session-filter")
ORDERS = QueueSpec("orders", requires_session=True)
PLAIN = QueueSpec("plain")


@asynccontextmanager
async def running(
    *specs: QueueSpec,
    lock_duration_s: float = 60.0,
    faults: Faults | None = None,
    options: BrokerOptions | None = None,
) -> AsyncIterator[Rig]:
    """A broker with these queues (orders with sessions and plain without, if none are named)."""
    broker = WatchedBroker(specs or (ORDERS, PLAIN), lock_duration_s=lock_duration_s, faults=faults, options=options)
    async with anyio.create_task_group() as tasks:
        port: int = await tasks.start(broker.serve)
        yield Rig(broker, port)
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def in_memory(
    *specs: QueueSpec, lock_duration_s: float = 60.0, options: BrokerOptions | None = None
) -> AsyncIterator[Rig]:
    """The same without sockets, and with a wall clock that follows the event loop's: for tests in virtual time."""
    faults = Faults(VirtualClock().utc_now)
    broker = WatchedBroker(specs or (ORDERS, PLAIN), lock_duration_s=lock_duration_s, faults=faults, options=options)
    async with anyio.create_task_group() as tasks:

        async def connect_in_memory() -> ByteStream:
            ours, theirs = MemoryStream.pair()
            tasks.start_soon(broker._serve_client, theirs)
            return ours

        tasks.start_soon(broker._keep_time)
        yield Rig(broker, connect=connect_in_memory)
        tasks.cancel_scope.cancel()


async def cut_off(stream: ByteStream) -> None:
    """Wait for the broker to end the connection."""
    with anyio.fail_after(PATIENCE_S), contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            await stream.receive()


class WatchedBroker(Broker):
    """A broker that one can wait for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._changed = anyio.Event()

    def settle_up(self) -> None:
        super().settle_up()
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for something to become true of the broker."""
        with anyio.fail_after(PATIENCE_S):
            while not condition():
                await self._changed.wait()


class Rig:
    """The broker, and clients of it."""

    def __init__(
        self, broker: WatchedBroker, port: int = 0, *, connect: Callable[[], Awaitable[ByteStream]] | None = None
    ) -> None:
        self.broker = broker
        self.port = port
        self.until = broker.until
        self._connect = connect if connect is not None else partial(connect_tcp, "127.0.0.1", port)

    @asynccontextmanager
    async def client(
        self, *entities: str, sasl: SaslAnonymous | SaslPlain | None = None, **options: Any
    ) -> AsyncIterator[Client]:
        """A connection with one AMQP session, and a token for each of these entities."""
        stream = await self._connect()
        connection = Connection(
            role="client", container_id="test", sasl=sasl or SaslAnonymous(), now=anyio.current_time(), **options
        )
        client = Client(AmqpTransport(stream, connection))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.transport.run, client.on_event)
            await client.saw(ConnectionOpened)
            client.session = await client.begin()
            for entity in entities:
                assert await client.put_token(entity) == 202
            yield client
            await client.transport.aclose()
            tasks.cancel_scope.cancel()


class Client:
    """One connection."""

    def __init__(self, transport: AmqpTransport) -> None:
        self.transport = transport
        self.events: list[Event] = []
        self.session: Session
        self._pulse = anyio.Event()
        self._names = count(1)
        self._pairs: dict[str, Pair] = {}

    def on_event(self, event: Event) -> None:
        self.events.append(event)
        self._pulse.set()
        self._pulse = anyio.Event()

    async def saw(self, kind: type[E], matches: Callable[[E], bool] = lambda event: True) -> E:
        """The first event of that kind that matches, seen or yet to come."""
        with anyio.move_on_after(PATIENCE_S):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and matches(event):
                        return event
                await self._pulse.wait()
        raise AssertionError(f"not seen in {PATIENCE_S} s: {kind}; only {[type(e).__name__ for e in self.events]}")

    async def begin(self, **options: Any) -> Session:
        session = self.transport.connection.open_session(**options)
        self.transport.flush()
        await self.saw(SessionOpened, lambda event: event.session is session)
        return session

    async def closed(self) -> ConnectionClosed:
        return await self.saw(ConnectionClosed)

    async def ended(self, session: Session) -> SessionEnded:
        return await self.saw(SessionEnded, lambda event: event.session is session)

    # Links ----------------------------------------------------------------------------------------------------------

    async def attached(self, link: ReceiverLink | SenderLink) -> Attach | AmqpError | None:
        """The broker's attach, or the error that it refused with."""
        self.transport.flush()
        event = await self.saw((LinkAttached, LinkDetached), lambda event: event.link is link)  # type: ignore[arg-type]
        return event.remote if isinstance(event, LinkAttached) else event.error

    async def detached(self, link: ReceiverLink | SenderLink) -> AmqpError | None:
        """The error that the broker detaches with."""
        return (await self.saw(LinkDetached, lambda event: event.link is link)).error

    async def detach(self, link: ReceiverLink | SenderLink) -> None:
        link.detach()
        self.transport.flush()
        await self.detached(link)

    def ask_receiver(self, entity: str, **options: Any) -> ReceiverLink:
        """Ask for a link without waiting for the answer."""
        options = {"snd_settle_mode": 0, "rcv_settle_mode": 1, "name": f"receiver-{next(self._names)}", **options}
        session: Session = options.pop("session", None) or self.session
        filters = {SESSION_FILTER: options.pop("session_id")} if "session_id" in options else None
        source = Source(f"amqps://127.0.0.1:5672/{entity}", filter=filters)
        link = session.attach_receiver(options.pop("name"), source=source, target=Target("here"), **options)
        self.transport.flush()
        return link

    async def receiver(self, entity: str, **options: Any) -> ReceiverLink:
        """A receiver that was accepted, of a session if `session_id` is given (None: the next one)."""
        link = self.ask_receiver(entity, **options)
        answer = await self.attached(link)
        assert isinstance(answer, Attach), answer
        return link

    async def refused(self, entity: str, **options: Any) -> str:
        """The condition that a receiver is refused with."""
        answer = await self.attached(self.ask_receiver(entity, **options))
        assert isinstance(answer, AmqpError)
        return answer.condition

    async def sender(self, entity: str, **options: Any) -> SenderLink:
        link = self.session.attach_sender(
            f"sender-{next(self._names)}", source=Source("here"), target=Target(entity), **options
        )
        answer = await self.attached(link)
        assert isinstance(answer, Attach), answer
        return link

    # Messages -------------------------------------------------------------------------------------------------------

    async def send(self, link: SenderLink, message: Message, message_format: int = 0) -> Any:
        """Send one message and wait for its outcome."""
        delivery = link.send(message.encode(), message_format=message_format)
        self.transport.flush()
        return (await self.saw(DeliveryUpdated, lambda event: event.delivery is delivery)).state

    async def fill(self, entity: str, *bodies: str, session_id: str | None = None) -> None:
        """Have messages in the queue."""
        link = await self.sender(entity)
        for body in bodies:
            await self.send(link, Message(Value(body), MessageProperties(group_id=session_id)))
        await self.detach(link)

    async def deliveries(self, link: ReceiverLink, number: int) -> list[Delivery]:
        """The first `number` deliveries of a link."""
        with anyio.move_on_after(PATIENCE_S):
            while True:
                found = [e.delivery for e in self.events if isinstance(e, DeliveryReceived) and e.link is link]
                if len(found) >= number:
                    return found
                await self._pulse.wait()
        raise AssertionError(f"not {number} deliveries in {PATIENCE_S} s")

    async def receive(self, link: ReceiverLink, credit: int = 1) -> list[Delivery]:
        """As many deliveries as there is credit for."""
        before = len([e for e in self.events if isinstance(e, DeliveryReceived) and e.link is link])
        link.flow(credit)
        self.transport.flush()
        return (await self.deliveries(link, before + credit))[before:]

    async def settle(self, delivery: Delivery, state: Any) -> Any:
        """Settle a delivery and wait for what the broker makes of it."""
        assert isinstance(delivery.link, ReceiverLink)
        delivery.link.settle(delivery, state, settled=False)
        self.transport.flush()
        return (await self.saw(DeliveryUpdated, lambda event: event.delivery is delivery)).state

    # Requests -------------------------------------------------------------------------------------------------------

    async def put_token(self, entity: str, token: str = "any", **properties: Any) -> int:
        """The status that the broker answers a token with."""
        audience = {"operation": "put-token", "type": "jwt", "name": f"sb://127.0.0.1:5672/{entity}", **properties}
        reply = await (await self.pair("$cbs")).ask(Message(Value(token), application_properties=audience))
        return int(reply.application_properties["status-code"])

    async def manage(self, entity: str, operation: str, body: dict[str, Any], *, link: str | None = None) -> Answer:
        """Carry out one operation of `$management`."""
        return Answer(await (await self.pair(f"{entity}/$management")).ask(request(operation, body, link)))

    async def renew(self, entity: str, session_id: str, *, link: str | None = None) -> Answer:
        return await self.manage(entity, "renew-session-lock", {"session-id": session_id}, link=link)

    async def pair(self, node: str) -> Pair:
        """The request-response links to a node; one pair for each."""
        if node not in self._pairs:
            name = f"pair-{next(self._names)}"
            requests = self.session.attach_sender(f"{name}-requests", source=Source(node), target=Target(node))
            replies = self.session.attach_receiver(name, source=Source(node), target=Target(name), auto_credit=100)
            for link in (requests, replies):
                answer = await self.attached(link)
                assert isinstance(answer, Attach), answer
            self._pairs[node] = Pair(self, requests, replies)
        return self._pairs[node]


def request(operation: str, body: dict[str, Any], link: str | None = None) -> Message:
    properties: dict[str, Any] = {
        "operation": f"com.microsoft:{operation}",
        "com.microsoft:server-timeout": Uint(5000),
    }
    if link is not None:
        properties["associated-link-name"] = link
    return Message(Value(body), application_properties=properties)


class Pair:
    """Request-response links."""

    def __init__(self, client: Client, requests: SenderLink, replies: ReceiverLink) -> None:
        self.requests = requests
        self.replies = replies
        self._client = client
        self._ids = count(1)

    def post(self, message: Message) -> int:
        """Send a request; the id that its answer has."""
        message_id = next(self._ids)
        message.properties = MessageProperties(message_id=message_id, reply_to=self.replies.name)
        self.requests.send(message.encode())
        self._client.transport.flush()
        return message_id

    async def ask(self, message: Message) -> Message:
        """Send a request and wait for its answer."""
        return await self.reply(self.post(message))

    async def reply(self, message_id: int) -> Message:
        found: list[Message] = []

        def answers(event: DeliveryReceived) -> bool:
            if event.link is self.replies:
                message = Message.decode(event.delivery.payload)
                if message.properties is not None and message.properties.correlation_id == message_id:
                    found.append(message)
            return bool(found)

        await self._client.saw(DeliveryReceived, answers)
        return found[0]


class Answer:
    """An answer of `$management`."""

    def __init__(self, message: Message) -> None:
        self.message = message
        self.status: int = message.application_properties["statusCode"]
        self.condition: str | None = message.application_properties.get("errorCondition")
        self.description: str = message.application_properties["statusDescription"]
        self.body: Any = message.body.value if isinstance(message.body, Value) else None
