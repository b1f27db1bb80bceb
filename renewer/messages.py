"""Messages as a worker gets them from a session that is held for it: plain values, without a link behind them.

Values inside keep their AMQP type: they are what `renewer.amqp` decodes to, plain Python where that has the type
(str, bytes, bool, UUID, int for long, float for double), else a class of `renewer.amqp.types` such as `Uint`.
Moments are epoch seconds by the broker's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

MessageState: TypeAlias = Literal["active", "deferred", "scheduled"]


@dataclass(frozen=True, slots=True)
class DataBody:
    """Bytes, in one section or several (AMQP 1.0 part 3.2.6)."""

    sections: tuple[bytes, ...] = field(repr=False)

    @property
    def data(self) -> bytes:
        """All sections as one, which is what they mean."""
        return self.sections[0] if len(self.sections) == 1 else b"".join(self.sections)


@dataclass(frozen=True, slots=True)
class SequenceBody:
    """Lists of AMQP values, in one section or several (AMQP 1.0 part 3.2.7)."""

    sections: tuple[list[Any], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ValueBody:
    """One AMQP value (AMQP 1.0 part 3.2.8)."""

    value: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class UnreadableBody:
    """The whole message as it came, because it is none that can be read. It can be settled as any other."""

    payload: bytes = field(repr=False)
    problem: str


Body: TypeAlias = "DataBody | SequenceBody | ValueBody | UnreadableBody"


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """One message. Whoever has a `handle` may settle it by that; a message that was peeked at has none.

    `delivery_count` is how many deliveries have failed before this one (AMQP 1.0 part 3.2.1): 0 at the first. Ids are
    str, int (ulong), UUID or bytes. `body` is None where the message has no section for one. `sequence_number` is
    None where the broker gave none, as with what cannot be read. `annotations` are those of the broker and of the
    sender that have no field here.
    """

    handle: str | None
    body: Body | None
    sequence_number: int | None = None
    delivery_count: int = 0
    state: MessageState = "active"
    enqueued_at: float | None = None
    enqueued_sequence_number: int | None = None
    scheduled_at: float | None = None
    expires_at: float | None = None
    message_id: object = None
    correlation_id: object = None
    session_id: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    subject: str | None = None
    to: str | None = None
    reply_to: str | None = None
    reply_to_session_id: str | None = None
    partition_key: str | None = None
    dead_letter_source: str | None = None
    application_properties: Mapping[str, Any] = field(default_factory=dict, repr=False)
    annotations: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class InFlight:
    """A message that was received over a lease and is not settled.

    `is_lost`: the session went, or the broker took the message back, before it was settled; it will be delivered again.
    """

    handle: str
    sequence_number: int | None
    is_lost: bool = False
