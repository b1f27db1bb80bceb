"""Attach frames in passing: what is in one, and the same with other addresses (AMQP 1.0 part 2.7.3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from renewer.amqp.decoder import decode
from renewer.amqp.encoder import encode
from renewer.amqp.spans import Fields, is_null, pairs, performative_fields, splice, text_at
from renewer.amqp.types import Described, Ubyte, Uint
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from renewer.amqp.spans import Span


@dataclass(frozen=True, slots=True)
class AttachView:
    """What the gateway looks at in an attach.

    `role` is that of its sender: True for a receiver. `source` and `target` are addresses, None where there is none;
    `raw_source` and `raw_target` the same as encoded. `is_refusal`: neither a source nor a target, which is how a link
    is refused (part 2.6.3). `is_session`: it asks for, or grants, a session; without `session_id` any one.
    """

    name: str
    handle: int
    role: bool
    source: str | None
    target: str | None
    is_coordinator: bool
    is_refusal: bool
    is_session: bool
    session_id: str | None
    snd_settle_mode: int
    initial_delivery_count: int | None
    raw_source: bytes | None
    raw_target: bytes | None
    fields: Fields


def read_attach(body: bytes) -> AttachView:
    """The attach in a frame body. AmqpProtocolError for what is none, and for termini of a type that is not known."""
    fields = performative_fields(body)
    if fields.code != _ATTACH or len(fields.spans) > 14:
        raise _malformed("no attach")
    name, handle, role = (_value(body, fields, index) for index in (_NAME, _HANDLE, _ROLE))
    if not isinstance(name, str) or not isinstance(handle, Uint) or not isinstance(role, bool):
        raise _malformed("an attach without name, handle or role")
    settle_mode = _value(body, fields, _SND_SETTLE_MODE)
    count = _value(body, fields, _INITIAL_DELIVERY_COUNT)
    if not isinstance(settle_mode, Ubyte | None) or not isinstance(count, Uint | None):
        raise _malformed("an attach with a field of the wrong type")
    source = _terminus(body, fields, _SOURCE, (_SOURCE_CODE,))
    target = _terminus(body, fields, _TARGET, (_TARGET_CODE, _COORDINATOR_CODE))
    is_coordinator = target is not None and target.code == _COORDINATOR_CODE
    source_text, raw_source = _address(body, source)
    target_text, raw_target = (None, None) if is_coordinator else _address(body, target)
    is_session, session_id = _session(body, source)
    return AttachView(
        name=str(name),
        handle=int(handle),
        role=role,
        source=source_text,
        target=target_text,
        is_coordinator=is_coordinator,
        is_refusal=source is None and target is None,
        is_session=is_session,
        session_id=session_id,
        snd_settle_mode=_MIXED if settle_mode is None else int(settle_mode),
        initial_delivery_count=None if count is None else int(count),
        raw_source=raw_source,
        raw_target=raw_target,
        fields=fields,
    )


def forwards_to(body: bytes) -> str | None:
    """Where what is sent over the link is moved on to, by the broker; None as a rule.

    AmqpProtocolError where that is given as something that is no text, or twice: who knows which one would count.
    """
    span = _given(body, performative_fields(body), _PROPERTIES)
    if span is None:
        return None
    given = [value for key, value in pairs(body, *span) if text_at(body, key) == _DESTINATION]
    if not given:
        return None
    address = decode(body, given[0][0])[0]
    if len(given) > 1 or not isinstance(address, str | None):
        raise _malformed("a transfer-destination-address that is given twice, or is no text")
    return None if address is None else str(address)


def with_addresses(body: bytes, *, source: bytes | None = None, target: bytes | None = None) -> bytes:
    """The attach with these encoded addresses instead of its own; None leaves one as it is.

    AmqpProtocolError if there is no terminus to have the address.
    """
    fields = performative_fields(body)
    changes: dict[int, bytes] = {}
    for index, address in ((_SOURCE, source), (_TARGET, target)):
        if address is None:
            continue
        span = _given(body, fields, index)
        if span is None:
            raise _malformed("an attach without the terminus that an address is for")
        terminus = body[span[0] : span[1]]
        changes[index] = splice(terminus, performative_fields(terminus), {0: address})
    return splice(body, fields, changes) if changes else body


def encode_address(text: str) -> bytes:
    """An address as it stands in a source or target."""
    return encode(text)


def find_session_lock(body: bytes) -> tuple[int, float] | None:
    """Where the 8 bytes are that say until when the granted session is locked, and that moment in epoch seconds.

    None if the attach does not say. The property counts .NET ticks, 100 ns since the year 1.
    """
    span = _given(body, performative_fields(body), _PROPERTIES)
    if span is None:
        return None
    for key, value in pairs(body, *span):
        if text_at(body, key) == _LOCKED_UNTIL and body[value[0]] == 0x81:
            offset = value[0] + 1
            return offset, (_I64.unpack_from(body, offset)[0] - _TICKS_AT_EPOCH) / _TICKS_PER_S
    return None


def ticks(epoch_s: float) -> int:
    """.NET ticks for seconds since the epoch."""
    return _TICKS_AT_EPOCH + round(epoch_s * _TICKS_PER_S)


def _value(body: bytes, fields: Fields, index: int) -> Any:
    span = _given(body, fields, index)
    return None if span is None else decode(body, span[0])[0]


def _given(body: bytes, fields: Fields, index: int) -> Span | None:
    span = fields.spans[index] if index < len(fields.spans) else None
    return None if span is None or is_null(body, span) else span


def _terminus(body: bytes, fields: Fields, index: int, codes: tuple[int, ...]) -> Fields | None:
    span = _given(body, fields, index)
    if span is None:
        return None
    terminus = performative_fields(body, *span)
    if terminus.code not in codes:
        raise AmqpProtocolError("a link to something that is no node", condition="amqp:not-implemented")
    return terminus


def _address(body: bytes, terminus: Fields | None) -> tuple[str | None, bytes | None]:
    span = None if terminus is None else _given(body, terminus, 0)
    if span is None:
        return None, None
    address = decode(body, span[0])[0]
    if not isinstance(address, str):
        raise _malformed("an address that is no text")
    return str(address), body[span[0] : span[1]]


def _session(body: bytes, source: Fields | None) -> tuple[bool, str | None]:
    """Whether the source's filter is for a session, and for which."""
    span = None if source is None else _given(body, source, _FILTER)
    if span is None:
        return False, None
    filters = decode(body, span[0])[0]
    if not isinstance(filters, dict):
        raise _malformed("a filter that is no map")
    if _SESSION_FILTER in filters:
        asked = _bare(filters[_SESSION_FILTER])
    elif _SHARED_SESSION_FILTER in filters:
        asked = _bare(filters[_SHARED_SESSION_FILTER])
        asked = asked[0] if isinstance(asked, list) and asked else None
    else:
        return False, None
    if asked is not None and not isinstance(asked, str):
        raise _malformed("a session filter that is no text")
    return True, None if asked is None else str(asked)


def _bare(value: object) -> object:
    """Clients write the filter's value bare, as the service does, or described, as AMQP 1.0 part 3.5.8 has it."""
    return value.value if isinstance(value, Described) else value


def _malformed(what: str) -> AmqpProtocolError:
    return AmqpProtocolError(what)


_ATTACH: Final = 0x12
_SOURCE_CODE: Final = 0x28
_TARGET_CODE: Final = 0x29
_COORDINATOR_CODE: Final = 0x30
_NAME, _HANDLE, _ROLE, _SND_SETTLE_MODE, _SOURCE, _TARGET = 0, 1, 2, 3, 5, 6
_INITIAL_DELIVERY_COUNT, _PROPERTIES = 9, 13
_FILTER: Final = 7
_MIXED: Final = 2
_SESSION_FILTER: Final = "com.microsoft:session-filter"
_SHARED_SESSION_FILTER: Final = "com.microsoft:non-exclusive-session-filter:list"
_DESTINATION: Final = b"com.microsoft:transfer-destination-address"
_LOCKED_UNTIL: Final = b"com.microsoft:locked-until-utc"
_TICKS_AT_EPOCH: Final = 621_355_968_000_000_000
_TICKS_PER_S: Final = 10_000_000
_I64: Final = struct.Struct(">q")
