"""What requests and replies look like: one message with an amqp-value body each, and application-properties."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from uuid import UUID, uuid4

from renewer.amqp import Message, MessageProperties, Value
from renewer.core.values import value
from renewer.targets.servicebus.plainreply import read_plain_reply

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLACEHOLDER: Final = uuid4()


@dataclass(frozen=True, slots=True)
class Template:
    """An encoded request with a hole for its message-id: encoding anew costs as much as all the rest of a renewal.

    May hold a token, and is not shown. With `is_settled` it is sent settled: its reply alone tells what became of it,
    and the broker's disposition, which costs as much to read as a reply, does not come.
    """

    head: bytes = field(repr=False)
    tail: bytes = field(repr=False)
    is_settled: bool = False

    @classmethod
    def of(
        cls, body: object, application_properties: Mapping[str, object], *, reply_to: str, is_settled: bool = False
    ) -> Template:
        """The request with this amqp-value body."""
        message = Message(
            properties=MessageProperties(message_id=_PLACEHOLDER, reply_to=reply_to),
            application_properties=dict(application_properties),
            body=Value(body),
        )
        head, hole, tail = message.encode().partition(_PLACEHOLDER.bytes)
        if not hole:
            raise AssertionError("the message-id is not in the encoded message")
        return cls(head, tail, is_settled)

    @property
    def size(self) -> int:
        """How many bytes one request has."""
        return len(self.head) + len(_PLACEHOLDER.bytes) + len(self.tail)

    def render(self, message_id: bytes) -> bytes:
        """The payload of one request; the id is the bytes of a UUID."""
        return b"".join((self.head, message_id, self.tail))


Said: TypeAlias = "tuple[int | None, str | None, str | None, object]"
"""The first four fields of a `Reply`."""


@value
class Reply:
    """What came back. Moments are monotonic; `sent_at` is when the request left the queue.

    Of a success no words are kept, nor read.
    """

    status: int | None
    condition: str | None
    description: str | None
    body: object
    sent_at: float
    received_at: float

    @property
    def is_success(self) -> bool:
        """Whether the broker did what was asked."""
        return self.status is not None and 200 <= self.status < 300


def correlation_key(value: object) -> bytes | None:
    """The message-id that a correlation-id repeats, whatever type the broker gave it: uuid, its text, or its bytes."""
    if isinstance(value, UUID):
        return value.bytes
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return UUID(value).bytes
        except ValueError:
            return None
    return None


def read_reply(payload: bytes) -> tuple[bytes | None, Said]:
    """Whom a reply is for (see `correlation_key`), and what it says. AmqpProtocolError if it is no message.

    Names are those that `$management` uses and those that `$cbs` does.
    """
    plain = read_plain_reply(payload)
    if plain is not None:
        key, status, body = plain
        return key, (status, None, None, body)
    message = Message.decode(payload)
    return correlation_key(message.properties.correlation_id if message.properties else None), _said_by(message)


def _said_by(message: Message) -> Said:
    fields = message.application_properties
    status = _either(fields, "statusCode", "status-code")
    condition = _either(fields, "errorCondition", "error-condition")
    description = _either(fields, "statusDescription", "status-description")
    return (
        int(status) if isinstance(status, int) and not isinstance(status, bool) else None,
        str(condition) if isinstance(condition, str) and condition else None,
        str(description) if isinstance(description, str) and description else None,
        message.body.value if isinstance(message.body, Value) else None,
    )


def _either(fields: Mapping[str, Any], name: str, other_name: str) -> object:
    value = fields.get(name)
    return fields.get(other_name) if value is None else value
