"""The frame bodies of AMQP 1.0: performatives (part 2.7), SASL frames (part 5.3.3), and what they carry.

Fields have the names, the order and the defaults of the standard; times on the wire are milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from renewer.amqp.codec import decode
from renewer.amqp.composite import (
    ANY,
    BINARY,
    BOOLEAN,
    MAP,
    STRING,
    SYMBOL,
    SYMBOLS,
    UBYTE,
    UINT,
    ULONG,
    USHORT,
    build,
    composite,
    must,
    one_of,
    put_composite,
    schema_by_code,
    schema_of,
)
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from renewer.amqp.types import Described

Properties: TypeAlias = "dict[Any, Any] | None"
"""A map with symbol keys; `str` keys are written as symbols."""


class Role:
    """Which end of a link speaks (part 2.8.1)."""

    SENDER: Final = False
    RECEIVER: Final = True


def encode_performative(performative: Performative) -> bytes:
    """The frame body, without payload. Every field is written, nulls too: older peers index without looking."""
    buffer = bytearray()
    put_composite(buffer, performative, whole=True)
    return bytes(buffer)


def decode_performative(data: bytes | memoryview) -> tuple[Performative, int]:
    """The performative at the start of a frame body, and the offset of the payload after it."""
    if not isinstance(data, bytes):
        data = bytes(data)
    if data[:2] == b"\x00\x53":  # smallulong: what everybody sends
        schema = schema_by_code(data[2]) if len(data) > 2 else None
        offset = 3
    elif data[:1] == b"\x00":
        descriptor, offset = decode(data, 1)
        schema = schema_of(descriptor)
    else:
        schema, offset = None, 0
    if schema is None or schema.code not in _PERFORMATIVE_CODES:
        raise AmqpProtocolError("a frame body that is no performative")
    fields, offset = decode(data, offset)
    return build(schema, fields), offset


# What performatives carry -------------------------------------------------------------------------------------------


@composite(0x1D, "amqp:error:list", must(SYMBOL), STRING, MAP)
@dataclass(slots=True)
class AmqpError:
    """Why something was closed, ended, detached or rejected (part 2.8.14)."""

    condition: str
    description: str | None = None
    info: Properties = None


ERROR: Final = one_of("error", AmqpError)


@composite(0x23, "amqp:received:list", must(UINT), must(ULONG))
@dataclass(slots=True)
class Received:
    """How far a delivery came; not terminal (part 3.4.1)."""

    section_number: int
    section_offset: int


@composite(0x24, "amqp:accepted:list")
@dataclass(slots=True)
class Accepted:
    """Processed (part 3.4.2)."""


@composite(0x25, "amqp:rejected:list", ERROR)
@dataclass(slots=True)
class Rejected:
    """Invalid and not processable (part 3.4.3); Service Bus dead-letters it."""

    error: AmqpError | None = None


@composite(0x26, "amqp:released:list")
@dataclass(slots=True)
class Released:
    """Not processed, may go to anybody (part 3.4.4)."""


@composite(0x27, "amqp:modified:list", BOOLEAN, BOOLEAN, MAP)
@dataclass(slots=True)
class Modified:
    """Not processed, may go to anybody after this change (part 3.4.5)."""

    delivery_failed: bool | None = None
    undeliverable_here: bool | None = None
    message_annotations: Properties = None


STATE: Final = one_of("delivery state", Accepted, Rejected, Released, Modified, Received, others=True)
DeliveryState: TypeAlias = "Accepted | Rejected | Released | Modified | Received | Described"
"""A state that is not of the core standard, such as a transactional one, is kept as `Described`."""


@composite(0x28, "amqp:source:list", ANY, UINT, SYMBOL, UINT, BOOLEAN, MAP, SYMBOL, MAP, STATE, SYMBOLS, SYMBOLS)
@dataclass(slots=True)
class Source:
    """Where messages come from (part 3.5.3). `filter` maps symbols to filters, described or, for Service Bus, bare."""

    address: Any = None
    durable: int = 0
    expiry_policy: str = "session-end"
    timeout: int = 0
    dynamic: bool = False
    dynamic_node_properties: Properties = None
    distribution_mode: str | None = None
    filter: Properties = None
    default_outcome: DeliveryState | None = None
    outcomes: Sequence[str] | None = None
    capabilities: Sequence[str] | None = None


@composite(0x29, "amqp:target:list", ANY, UINT, SYMBOL, UINT, BOOLEAN, MAP, SYMBOLS)
@dataclass(slots=True)
class Target:
    """Where messages go (part 3.5.4)."""

    address: Any = None
    durable: int = 0
    expiry_policy: str = "session-end"
    timeout: int = 0
    dynamic: bool = False
    dynamic_node_properties: Properties = None
    capabilities: Sequence[str] | None = None


# Performatives ------------------------------------------------------------------------------------------------------


@composite(0x10, "amqp:open:list", must(STRING), STRING, UINT, USHORT, UINT, SYMBOLS, SYMBOLS, SYMBOLS, SYMBOLS, MAP)
@dataclass(slots=True)
class Open:
    """Start of a connection (part 2.7.1). `idle_time_out` in milliseconds."""

    container_id: str
    hostname: str | None = None
    max_frame_size: int = 0xFFFFFFFF
    channel_max: int = 0xFFFF
    idle_time_out: int | None = None
    outgoing_locales: Sequence[str] | None = None
    incoming_locales: Sequence[str] | None = None
    offered_capabilities: Sequence[str] | None = None
    desired_capabilities: Sequence[str] | None = None
    properties: Properties = None


@composite(0x11, "amqp:begin:list", USHORT, must(UINT), must(UINT), must(UINT), UINT, SYMBOLS, SYMBOLS, MAP)
@dataclass(slots=True)
class Begin:
    """Start of a session (part 2.7.2). `remote_channel` is null in the first of the two begins."""

    remote_channel: int | None
    next_outgoing_id: int
    incoming_window: int
    outgoing_window: int
    handle_max: int = 0xFFFFFFFF
    offered_capabilities: Sequence[str] | None = None
    desired_capabilities: Sequence[str] | None = None
    properties: Properties = None


@composite(
    0x12,
    "amqp:attach:list",
    must(STRING),
    must(UINT),
    must(BOOLEAN),
    UBYTE,
    UBYTE,
    one_of("source", Source, others=True),
    one_of("target", Target, others=True),
    MAP,
    BOOLEAN,
    UINT,
    ULONG,
    SYMBOLS,
    SYMBOLS,
    MAP,
)
@dataclass(slots=True)
class Attach:
    """Start of a link (part 2.7.3). A target that is no `Target`, such as a transaction coordinator, is `Described`."""

    name: str
    handle: int
    role: bool
    snd_settle_mode: int = 2
    rcv_settle_mode: int = 0
    source: Source | Described | None = None
    target: Target | Described | None = None
    unsettled: Properties = None
    incomplete_unsettled: bool = False
    initial_delivery_count: int | None = None
    max_message_size: int | None = None
    offered_capabilities: Sequence[str] | None = None
    desired_capabilities: Sequence[str] | None = None
    properties: Properties = None


@composite(
    0x13, "amqp:flow:list", UINT, must(UINT), must(UINT), must(UINT), UINT, UINT, UINT, UINT, BOOLEAN, BOOLEAN, MAP
)
@dataclass(slots=True)
class Flow:
    """Windows of a session and, with a `handle`, the credit of a link (part 2.7.4)."""

    next_incoming_id: int | None
    incoming_window: int
    next_outgoing_id: int
    outgoing_window: int
    handle: int | None = None
    delivery_count: int | None = None
    link_credit: int | None = None
    available: int | None = None
    drain: bool = False
    echo: bool = False
    properties: Properties = None


@composite(
    0x14,
    "amqp:transfer:list",
    must(UINT),
    UINT,
    BINARY,
    UINT,
    BOOLEAN,
    BOOLEAN,
    UBYTE,
    STATE,
    BOOLEAN,
    BOOLEAN,
    BOOLEAN,
)
@dataclass(slots=True)
class Transfer:
    """A message or a part of one; the payload follows (part 2.7.5)."""

    handle: int
    delivery_id: int | None = None
    delivery_tag: bytes | None = None
    message_format: int | None = None
    settled: bool | None = None
    more: bool = False
    rcv_settle_mode: int | None = None
    state: DeliveryState | None = None
    resume: bool = False
    aborted: bool = False
    batchable: bool = False


@composite(0x15, "amqp:disposition:list", must(BOOLEAN), must(UINT), UINT, BOOLEAN, STATE, BOOLEAN)
@dataclass(slots=True)
class Disposition:
    """What became of the deliveries `first` to `last` (part 2.7.6). `role` is that of its sender."""

    role: bool
    first: int
    last: int | None = None
    settled: bool = False
    state: DeliveryState | None = None
    batchable: bool = False


@composite(0x16, "amqp:detach:list", must(UINT), BOOLEAN, ERROR)
@dataclass(slots=True)
class Detach:
    """End of a link, for good if `closed` (part 2.7.7)."""

    handle: int
    closed: bool = False
    error: AmqpError | None = None


@composite(0x17, "amqp:end:list", ERROR)
@dataclass(slots=True)
class End:
    """End of a session (part 2.7.8)."""

    error: AmqpError | None = None


@composite(0x18, "amqp:close:list", ERROR)
@dataclass(slots=True)
class Close:
    """End of a connection (part 2.7.9)."""

    error: AmqpError | None = None


@composite(0x40, "amqp:sasl-mechanisms:list", must(SYMBOLS))
@dataclass(slots=True)
class SaslMechanisms:
    """What a server offers (part 5.3.3.1)."""

    sasl_server_mechanisms: Sequence[str]


@composite(0x41, "amqp:sasl-init:list", must(SYMBOL), BINARY, STRING)
@dataclass(slots=True)
class SaslInit:
    """What a client chose (part 5.3.3.2). The response may be a password and is not shown."""

    mechanism: str
    initial_response: bytes | None = None
    hostname: str | None = None

    def __repr__(self) -> str:
        return f"SaslInit(mechanism={self.mechanism!r}, hostname={self.hostname!r})"


@composite(0x42, "amqp:sasl-challenge:list", must(BINARY))
@dataclass(slots=True)
class SaslChallenge:
    """Part 5.3.3.3."""

    challenge: bytes


@composite(0x43, "amqp:sasl-response:list", must(BINARY))
@dataclass(slots=True)
class SaslResponse:
    """Part 5.3.3.4."""

    response: bytes

    def __repr__(self) -> str:
        return "SaslResponse()"


@composite(0x44, "amqp:sasl-outcome:list", must(UBYTE), BINARY)
@dataclass(slots=True)
class SaslOutcome:
    """0 is ok, 1 wrong credentials, 2 to 4 system trouble (part 5.3.3.5)."""

    code: int
    additional_data: bytes | None = None


Performative: TypeAlias = (
    Open
    | Begin
    | Attach
    | Flow
    | Transfer
    | Disposition
    | Detach
    | End
    | Close
    | SaslMechanisms
    | SaslInit
    | SaslChallenge
    | SaslResponse
    | SaslOutcome
)
_PERFORMATIVE_CODES: Final = frozenset((*range(0x10, 0x19), *range(0x40, 0x45)))
