"""Attaches as nearly all of them are (AMQP 1.0 part 2.7.3): two addresses, a filter, properties, and nothing unusual.

To write and read these by hand, without a judge for each of thirty fields, takes half of the time. Whatever is unusual
is left to `encode_performative` and `decode_performative`, whose results these equal.
"""

from __future__ import annotations

import struct
from itertools import product
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from renewer.amqp.decoder import decode
from renewer.amqp.encoder import ENCODE_ERRORS, put_compound, put_fields, put_string, put_uint, put_ulong
from renewer.amqp.performatives import Attach, Source, Target
from renewer.amqp.wholetransfer import uint_at
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable


def encode_plain_attach(attach: Attach) -> bytes | None:
    """What `encode_performative` makes of it; None if that has to be asked."""
    source, target = attach.source, attach.target
    if not (isinstance(source, Source) and isinstance(target, Target) and _OTHERS_OF(attach) == _NO_OTHERS):
        return None
    if not (source.address.__class__ is target.address.__class__ is str and source.filter and attach.properties):
        return None
    first, last, whole = bytearray(), bytearray(), bytearray()
    try:
        put_string(first, source.address)
        first += _SIX_DEFAULTS
        put_fields(first, source.filter)
        put_string(last, target.address)
        put_string(whole, attach.name)
        put_uint(whole, attach.handle)
        whole += bytes((0x41 if attach.role else 0x42, 0x50, attach.snd_settle_mode, 0x50, attach.rcv_settle_mode))
        whole += _SOURCE
        put_compound(whole, 0xC0, 8, first)
        whole += _TARGET
        put_compound(whole, 0xC0, 1, last)
        whole += _NOTHING_UNSETTLED[0]
        _put_or_null(whole, attach.initial_delivery_count, put_uint)
        _put_or_null(whole, attach.max_message_size, put_ulong)
        whole += _NO_CAPABILITIES
        put_fields(whole, attach.properties)
        body = bytearray(_ATTACH)
        put_compound(body, 0xC0, 14, whole)
    except (*ENCODE_ERRORS, AmqpProtocolError):
        return None
    return bytes(body)


def decode_plain_attach(body: bytes) -> tuple[Attach, int] | None:
    """What `decode_performative` makes of this frame body; None if that has to be asked.

    Known is how we write them, and qpid-proton and rhea do: lists and maps of either width, and whatever has its
    default written, as null, or left out at the end of a source or target.
    """
    if not body.startswith(_ATTACH):
        return None
    try:
        end, count, at = _list_at(body, 3)
        if count != _ALL_FIELDS:
            return None
        name, at = _string_at(body, at)
        handle, at = uint_at(body, at)
        modes = _MODES.get(body[at : at + 5]) or _MODES[body[at : at + 3]]
        source, at = _source_at(body, at + modes.width)
        target, at = _target_at(body, at)
        if body[at : at + 2] not in _NOTHING_UNSETTLED:
            return None
        at += 2
        delivery_count, at = (None, at + 1) if body[at] == _NULL else uint_at(body, at)
        max_message_size, at = (None, at + 1) if body[at] == _NULL else _ulong_at(body, at)
        if not body.startswith(_NO_CAPABILITIES, at):
            return None
        properties, at = decode(body, at + 2, _DEPTH_OF_A_FIELD)
    except _UNUSUAL:
        return None
    if at != end or not (properties is None or properties.__class__ is dict):
        return None
    return Attach(
        name,
        handle,
        modes.role,
        modes.snd_settle_mode,
        modes.rcv_settle_mode,
        source,
        target,
        None,
        False,
        delivery_count,
        max_message_size,
        None,
        None,
        properties,
    ), end


def _put_or_null(buffer: bytearray, value: Any, put: Callable[[bytearray, Any], None]) -> None:
    if value is None:
        buffer.append(_NULL)
    else:
        put(buffer, value)


def _source_at(body: bytes, at: int) -> tuple[Source | None, int]:
    if body[at] == _NULL:
        return None, at + 1
    if not body.startswith(_SOURCE, at):
        raise LookupError
    end, count, at = _list_at(body, at + 3)
    address, at = _string_at(body, at)
    if count < _FIELDS_TO_FILTER:
        _check_defaults(body, at, end, count - 1)
        return Source(address), end
    nulls = _NULLS[count - _FIELDS_TO_FILTER]
    if not body.endswith(nulls, at, end):
        raise LookupError
    filter_at = at + (6 if body[at + 1] == _NULL else len(_SIX_DEFAULTS))
    _check_defaults(body, at, filter_at, 6)
    filter_, at = decode(body, filter_at, _DEPTH_OF_A_FIELD + 2)
    if at + len(nulls) != end or not (filter_ is None or filter_.__class__ is dict):
        raise LookupError
    return Source(address, filter=filter_), end


def _target_at(body: bytes, at: int) -> tuple[Target | None, int]:
    if body[at] == _NULL:
        return None, at + 1
    if not body.startswith(_TARGET, at):
        raise LookupError
    end, count, at = _list_at(body, at + 3)
    address, at = (None, at + 1) if body[at] == _NULL else _string_at(body, at)
    _check_defaults(body, at, end, count - 1)
    return Target(address), end


def _check_defaults(body: bytes, at: int, end: int, count: int) -> None:
    if end < at or _DEFAULTS[body[at:end]] != count:
        raise LookupError


def _list_at(body: bytes, at: int) -> tuple[int, int, int]:
    """Where the list ends, how many items it has, and where the first of them is."""
    code = body[at]
    if code == 0xC0:
        return at + 2 + body[at + 1], body[at + 2], at + 3
    if code == 0xD0:
        size, count = _U32_U32.unpack_from(body, at + 1)
        return at + 5 + size, count, at + 9
    raise LookupError


def _string_at(body: bytes, at: int) -> tuple[str, int]:
    if body[at] != 0xA1:
        raise LookupError
    end = at + 2 + body[at + 1]
    return body[at + 2 : end].decode(), end


def _ulong_at(body: bytes, at: int) -> tuple[int, int]:
    code = body[at]
    if code == 0x80:
        return _U64.unpack_from(body, at + 1)[0], at + 9
    if code == 0x53:
        return body[at + 1], at + 2
    if code == 0x44:
        return 0, at + 1
    raise LookupError


class _Modes(NamedTuple):
    """What follows the handle, and how many bytes it has."""

    role: bool
    snd_settle_mode: int
    rcv_settle_mode: int
    width: int


def _plain_modes() -> dict[bytes, _Modes]:
    """The role, and both modes as they are or, where they have their defaults, as nulls."""
    modes: dict[bytes, _Modes] = {}
    for code, role in ((0x41, True), (0x42, False)):
        modes[bytes((code, _NULL, _NULL))] = _Modes(role, 2, 0, 3)
        for snd, rcv in product(range(3), range(2)):
            modes[bytes((code, 0x50, snd, 0x50, rcv))] = _Modes(role, snd, rcv, 5)
    return modes


def _plain_defaults() -> dict[bytes, int]:
    """What may follow the address of a source or target, up to a filter, where it says nothing; and how many it are."""
    null, zero, false, policy = b"\x40", b"\x43", b"\x42", b"\xa3\x0bsession-end"
    fields = ((zero, null), (policy, null), (zero, null), (false, null), (null,), (null,))
    return {b"".join(some): count for count in range(len(fields) + 1) for some in product(*fields[:count])}


_UNUSUAL: Final = (LookupError, UnicodeError, struct.error, AmqpProtocolError)

_OTHERS_OF: Final = attrgetter(
    "unsettled",
    "incomplete_unsettled",
    "offered_capabilities",
    "desired_capabilities",
    *(f"source.{name}" for name in ("durable", "expiry_policy", "timeout", "dynamic", "dynamic_node_properties")),
    *(f"source.{name}" for name in ("distribution_mode", "default_outcome", "outcomes", "capabilities")),
    *(f"target.{name}" for name in ("durable", "expiry_policy", "timeout", "dynamic", "dynamic_node_properties")),
    "target.capabilities",
)
_NO_OTHERS: Final = _OTHERS_OF(Attach("", 0, False, source=Source(), target=Target()))
"""The fields that the plain ones leave at their defaults."""

_DEPTH_OF_A_FIELD: Final = 1
"""In the list of the attach; one of a source or target is described, and in a list, too."""

_NULL: Final = 0x40
_ALL_FIELDS: Final = 14
"""Without properties no session is granted, and they are the last field."""
_FIELDS_TO_FILTER: Final = 8
_ATTACH: Final = b"\x00\x53\x12"
_SOURCE: Final = b"\x00\x53\x28"
_TARGET: Final = b"\x00\x53\x29"
_MODES: Final = _plain_modes()
_SIX_DEFAULTS: Final = b"\x43\xa3\x0bsession-end\x43\x42\x40\x40"
"""What stands between the address and the filter of a source, as we write it."""
_DEFAULTS: Final = _plain_defaults()
_NOTHING_UNSETTLED: Final = (b"\x40\x42", b"\x40\x40")
_NO_CAPABILITIES: Final = b"\x40\x40"
_NULLS: Final = {count: b"\x40" * count for count in range(4)}
"""What may stand behind the filter of a source."""
_U64: Final = struct.Struct(">Q")
_U32_U32: Final = struct.Struct(">II")
