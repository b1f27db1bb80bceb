"""The broker's ends of request-response links: `$management` of an entity, and `$cbs`."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from renewer.amqp import Accepted, AmqpArray, Int, Message, MessageProperties, Rejected, Symbol, Value
from renewer.emulator.broker import refusals
from renewer.emulator.broker.addresses import entity_path
from renewer.emulator.broker.cbs import judge_token
from renewer.emulator.broker.ends import REQUEST_CREDIT, LinkEnd
from renewer.emulator.broker.management import RENEW_LOCK, RENEW_SESSION_LOCK, Request, answer
from renewer.emulator.broker.refusals import RefusedError
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from renewer.amqp import Delivery, ReceiverLink, SenderLink
    from renewer.emulator.broker.addresses import Address
    from renewer.emulator.broker.client import ClientConnection
    from renewer.emulator.broker.entities import Entity
    from renewer.emulator.broker.management import Answer
    from renewer.emulator.broker.namespace import Topic

MAX_QUEUED_REPLIES = 10_000
"""Answers kept for a client that gives no credit; what comes after them is dropped."""

TRACKING_ID = "com.microsoft:tracking-id"
ASSOCIATED_LINK = "associated-link-name"


class ReplyEnd(LinkEnd):
    """Takes answers to the client."""

    idles = False
    link: SenderLink

    def __init__(self, client: ClientConnection, link: SenderLink, address: Address) -> None:
        super().__init__(client, link, address.path)
        self.node = address.folded

    def accept(self) -> None:
        """Let the peer have the link."""
        self.link.accept(max_message_size=self.broker.options.max_message_size)

    @property
    def reply_to(self) -> object:
        """The address that requests name to be answered here."""
        return getattr(self.link.remote.target, "address", None) if self.link.remote is not None else None

    def send(self, reply: bytes) -> None:
        """Send an answer as soon as there is credit, settled: clients do not settle answers."""
        if self.link.queued >= MAX_QUEUED_REPLIES:
            self.broker.counters.replies_dropped += 1
            return
        try:
            self.link.send(reply, settled=True)
        except AmqpProtocolError:
            self.broker.counters.replies_dropped += 1  # Larger than the client takes.


class RequestEnd(LinkEnd):
    """Takes requests and answers each with a message to the client's reply link for the same node."""

    idles = False
    link: ReceiverLink

    def __init__(self, client: ClientConnection, link: ReceiverLink, address: Address) -> None:
        super().__init__(client, link, address.path)
        self.node = address.folded

    def accept(self) -> None:
        """Let the peer have the link, with credit."""
        self.link.accept(auto_credit=REQUEST_CREDIT, max_message_size=self.broker.options.max_message_size)

    def on_delivery(self, delivery: Delivery) -> None:
        """Take a request; it is accepted if it can be read at all, whatever the answer."""
        try:
            message = Message.decode(delivery.payload)
        except AmqpProtocolError as error:
            refusal = RefusedError("amqp:decode-error", 400, f"The request cannot be read: {error}")
            self.link.settle(delivery, Rejected(self.broker.error(refusal)))
            return
        self.link.settle(delivery, Accepted())
        delivery.payload = b""
        self.on_request(message)

    @abstractmethod
    def on_request(self, message: Message) -> None:
        """Carry out a request."""

    def reply(self, request: Message, delay_s: float, properties: dict[str, Any], body: object) -> None:
        """Answer with a status and a body."""
        asked = request.properties or MessageProperties()
        reply = Message(
            body=Value(body),
            properties=MessageProperties(correlation_id=asked.message_id),
            application_properties=properties,
        ).encode()

        def send() -> None:
            end = self.client.find_reply_end(self, asked.reply_to)
            if end is None:
                self.broker.counters.replies_dropped += 1
            else:
                end.send(reply)

        self.client.later(delay_s, send)


class ManagementEnd(RequestEnd):
    """`$management` of a queue, a subscription, a dead-letter queue or a topic."""

    def __init__(self, client: ClientConnection, link: ReceiverLink, address: Address, entity: Entity | Topic) -> None:
        super().__init__(client, link, address)
        self.entity = entity

    def on_request(self, message: Message) -> None:
        """Carry out one operation."""
        properties = message.application_properties
        operation = properties.get("operation")
        link = properties.get(ASSOCIATED_LINK)
        body = message.body.value if isinstance(message.body, Value) else None
        request = Request(
            operation if isinstance(operation, str) else "",
            body if isinstance(body, dict) else {},
            self.client.number,
            link if isinstance(link, str) else None,
            self.broker.now(),
            self.broker.utc_ms(),
        )
        if request.link is not None:
            self.client.touch_receiver(request.link)
        session_id = request.body.get("session-id")
        play = self.client.play(
            "servicebus.management", self, operation=request.operation, entity=self.path, session_id=session_id
        )
        if play.is_ignored:
            return
        try:
            if play.refusal is not None:
                raise play.refusal
            self.client.check_authorized(self.path, management=True)
            done = answer(self.entity, request)
        except RefusedError as refusal:
            if not play.is_silent:
                self._refuse(message, play.delay_s, refusal)
            return
        self._count(request, done)
        if not play.is_silent:
            status = {"statusCode": Int(done.status), "statusDescription": done.text}
            if done.condition is not None:
                status["errorCondition"] = Symbol(done.condition)
            self._answer(message, play.delay_s, status, done.body)

    def _refuse(self, message: Message, delay_s: float, refusal: RefusedError) -> None:
        error = self.broker.error(refusal)
        status = {
            "statusCode": Int(refusal.status),
            "statusDescription": error.description,
            "errorCondition": Symbol(refusal.condition),
        }
        self._answer(message, delay_s, status, None)

    def _answer(self, message: Message, delay_s: float, status: dict[str, Any], body: object) -> None:
        tracking_id = message.application_properties.get(TRACKING_ID)
        if tracking_id is not None:
            status[TRACKING_ID] = tracking_id
        self.reply(message, delay_s, status, body)

    def _count(self, request: Request, done: Answer) -> None:
        if request.operation == RENEW_SESSION_LOCK:
            self.broker.counters.renewals += 1
        elif request.operation == RENEW_LOCK and done.body is not None:
            expirations: AmqpArray = done.body["expirations"]
            self.broker.counters.message_renewals += len(expirations)


class CbsEnd(RequestEnd):
    """`$cbs`, where tokens are put."""

    def on_request(self, message: Message) -> None:
        """Judge a token, and let the connection do what it is good for."""
        properties = message.application_properties
        play = self.client.play("servicebus.cbs", self, entity=entity_path(str(properties.get("name"))))
        if play.is_ignored:
            return
        code, text = 202, "Accepted"
        try:
            if play.refusal is not None:
                raise play.refusal
            token = message.body.value if isinstance(message.body, Value) else None
            if not isinstance(token, str):
                raise refusals.argument_error("The body of a put-token request is the token, a string.")
            self.client.grant(judge_token(token, properties, self.broker.options, self.broker.true_utc_s()))
        except RefusedError as refusal:
            code, text = refusal.status, self.broker.error(refusal).description or ""
        if not play.is_silent:
            self.reply(message, play.delay_s, {"status-code": Int(code), "status-description": text}, None)
