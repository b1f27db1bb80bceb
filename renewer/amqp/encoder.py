"""Values to AMQP bytes (AMQP 1.0 part 1.6), each in its shortest form."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias
from uuid import UUID

from renewer.amqp.types import (
    AmqpArray,
    Byte,
    Char,
    Decimal32,
    Decimal64,
    Decimal128,
    Described,
    Float32,
    Int,
    Short,
    Symbol,
    Timestamp,
    Ubyte,
    Uint,
    Ulong,
    Ushort,
)
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DEPTH: Final = 32
"""How deep lists, maps, arrays and descriptors may nest, either way; performatives need 6."""

MAX_ZERO_WIDTH_ITEMS: Final = 32
"""How many items without bytes (null, true, uint0...) an array may have: nothing that was sent bounds their number."""

ENCODE_ERRORS: Final = (struct.error, UnicodeError, TypeError, ValueError, OverflowError, AttributeError)
"""What Python raises for a value that does not fit its AMQP type."""

Put: TypeAlias = "Callable[[bytearray, Any, int], None]"
"""Appends a value to a buffer, at a depth."""


def encode(value: object) -> bytes:
    """`value` as AMQP bytes. AmqpProtocolError (amqp:invalid-field) if it has no AMQP form or is out of range."""
    buffer = bytearray()
    encode_into(buffer, value)
    return bytes(buffer)


def encode_into(buffer: bytearray, value: object) -> None:
    """Append `value` to `buffer`, which is left as it was if that fails."""
    start = len(buffer)
    try:
        _put(buffer, value, 0)
    except ENCODE_ERRORS as error:
        del buffer[start:]
        raise _not_encodable(value) from error
    except AmqpProtocolError:
        del buffer[start:]
        raise


def _not_encodable(value: object) -> AmqpProtocolError:
    # The value itself may be a secret.
    return AmqpProtocolError(
        f"a {type(value).__name__} that AMQP cannot carry, or out of its range", condition="amqp:invalid-field"
    )


def _put(buffer: bytearray, value: Any, depth: int) -> None:
    put = _PUT.get(value.__class__)
    if put is None:
        put = _put_for_subclass(value)
    put(buffer, value, depth)


def _put_for_subclass(value: object) -> Put:
    for base in type(value).__mro__:
        if base in _PUT:
            return _PUT[base]
    raise TypeError(type(value).__name__)


def _put_null(buffer: bytearray, _value: None, _depth: int) -> None:
    buffer.append(0x40)


def _put_boolean(buffer: bytearray, value: bool, _depth: int) -> None:
    buffer.append(0x41 if value else 0x42)


def put_uint(buffer: bytearray, value: int, _depth: int = 0) -> None:
    """Append a uint (0 to 2^32 - 1)."""
    if value == 0:
        buffer.append(0x43)
    elif 0 < value < 256:
        buffer += bytes((0x52, value))
    else:
        buffer += _CODE_U32.pack(0x70, value)


def put_ulong(buffer: bytearray, value: int, _depth: int = 0) -> None:
    """Append a ulong (0 to 2^64 - 1)."""
    if value == 0:
        buffer.append(0x44)
    elif 0 < value < 256:
        buffer += bytes((0x53, value))
    else:
        buffer += _CODE_U64.pack(0x80, value)


def _put_int(buffer: bytearray, value: int, _depth: int) -> None:
    if -128 <= value <= 127:
        buffer += bytes((0x54, value & 0xFF))
    else:
        buffer += _CODE_I32.pack(0x71, value)


def _put_long(buffer: bytearray, value: int, _depth: int) -> None:
    if -128 <= value <= 127:
        buffer += bytes((0x55, value & 0xFF))
    else:
        buffer += _CODE_I64.pack(0x81, value)


def put_binary(buffer: bytearray, value: bytes | bytearray | memoryview, _depth: int = 0) -> None:
    """Append a binary."""
    if isinstance(value, memoryview):
        value = bytes(value)
    _put_sized(buffer, value, 0xA0)


def put_string(buffer: bytearray, value: str, _depth: int = 0) -> None:
    """Append a string."""
    _put_sized(buffer, value.encode(), 0xA1)


def put_symbol(buffer: bytearray, value: str, _depth: int = 0) -> None:
    """Append a symbol (ASCII only)."""
    _put_sized(buffer, value.encode("ascii"), 0xA3)


def _put_sized(buffer: bytearray, raw: bytes | bytearray, code: int) -> None:
    """8-bit sizes have codes 0xA_, 32-bit sizes 0xB_ (AMQP 1.0 part 1.6)."""
    size = len(raw)
    if size < 256:
        buffer += bytes((code, size))
    else:
        buffer += _CODE_U32.pack(code + 0x10, size)
    buffer += raw


def put_compound(buffer: bytearray, code: int, count: int, body: bytes | bytearray) -> None:
    """Append a list (0xC0) or map (0xC1) whose `count` items are encoded in `body`, in its shortest form."""
    size = len(body)
    if size < 255 and count < 256:
        buffer += bytes((code, size + 1, count))
    else:
        buffer += _CODE_U32_U32.pack(code + 0x10, size + 4, count)
    buffer += body


def put_fields(buffer: bytearray, value: dict[Any, Any]) -> None:
    """Append a map whose keys are symbols (AMQP 1.0 part 2.7, `fields`); a plain `str` is written as one."""
    body = bytearray()
    for key, item in value.items():
        if key.__class__ is str:
            put_symbol(body, key)
        else:
            _put(body, key, 1)
        _put(body, item, 1)
    put_compound(buffer, 0xC1, 2 * len(value), body)


def _put_list(buffer: bytearray, value: list[Any] | tuple[Any, ...], depth: int) -> None:
    if not value:
        buffer.append(0x45)
        return
    put_compound(buffer, 0xC0, len(value), _list_body(value, depth))


def _put_map(buffer: bytearray, value: dict[Any, Any], depth: int) -> None:
    put_compound(buffer, 0xC1, 2 * len(value), _map_body(value, depth))


def _list_body(value: list[Any] | tuple[Any, ...], depth: int) -> bytearray:
    _check_depth(depth)
    body = bytearray()
    for item in value:
        _put(body, item, depth + 1)
    return body


def _map_body(value: dict[Any, Any], depth: int) -> bytearray:
    _check_depth(depth)
    body = bytearray()
    for key, item in value.items():
        _put(body, key, depth + 1)
        _put(body, item, depth + 1)
    return body


def _put_described(buffer: bytearray, value: Described, depth: int) -> None:
    _check_depth(depth)
    buffer.append(0x00)
    _put(buffer, value.descriptor, depth + 1)
    _put(buffer, value.value, depth + 1)


def _put_array(buffer: bytearray, value: AmqpArray, depth: int) -> None:
    buffer.append(0xF0)
    _put_array_body(buffer, value, depth)


def _put_array_body(buffer: bytearray, value: AmqpArray, depth: int) -> None:
    _check_depth(depth)
    kind = value.type or (type(value.items[0]) if value.items else type(None))
    if kind is type(None) and len(value.items) > MAX_ZERO_WIDTH_ITEMS:
        raise ValueError("too many nulls in an array")
    code, put_item = ARRAY_ITEM[kind] if kind in ARRAY_ITEM else _no_array_item(kind)
    body = bytearray()
    if value.descriptor is not None:
        body.append(0x00)
        _put(body, value.descriptor, depth + 1)
    body.append(code)
    for item in value.items:
        put_item(body, item, depth + 1)
    buffer += _U32_U32.pack(len(body) + 4, len(value.items))
    buffer += body


def _no_array_item(kind: type) -> NoReturn:
    raise TypeError(kind.__name__)


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise AmqpProtocolError(f"nested deeper than {MAX_DEPTH}", condition="amqp:invalid-field")


def _packed(layout: str) -> Put:
    pack = struct.Struct(layout).pack

    def put(buffer: bytearray, value: Any, _depth: int) -> None:
        buffer += pack(value)

    return put


def _coded(code: int, put_item: Put) -> Put:
    def put(buffer: bytearray, value: Any, depth: int) -> None:
        buffer.append(code)
        put_item(buffer, value, depth)

    return put


def _raw(width: int) -> Put:
    def put(buffer: bytearray, value: Any, _depth: int) -> None:
        if len(value.raw) != width:
            raise ValueError("wrong number of bytes")
        buffer += value.raw

    return put


def _item_char(buffer: bytearray, value: str, _depth: int) -> None:
    raw = value.encode("utf-32-be")
    if len(raw) != 4:
        raise ValueError("not one character")
    buffer += raw


def _item_uuid(buffer: bytearray, value: UUID, _depth: int) -> None:
    buffer += value.bytes


def _item_binary(buffer: bytearray, value: bytes, _depth: int) -> None:
    raw = bytes(memoryview(value))
    buffer += _U32.pack(len(raw))
    buffer += raw


def _item_string(buffer: bytearray, value: str, _depth: int) -> None:
    _item_binary(buffer, value.encode(), 0)


def _item_symbol(buffer: bytearray, value: str, _depth: int) -> None:
    _item_binary(buffer, value.encode("ascii"), 0)


def _item_list(buffer: bytearray, value: list[Any], depth: int) -> None:
    body = _list_body(value, depth)
    buffer += _U32_U32.pack(len(body) + 4, len(value))
    buffer += body


def _item_map(buffer: bytearray, value: dict[Any, Any], depth: int) -> None:
    body = _map_body(value, depth)
    buffer += _U32_U32.pack(len(body) + 4, 2 * len(value))
    buffer += body


def _item_null(_buffer: bytearray, value: None, _depth: int) -> None:
    if value is not None:
        raise TypeError("not null")


_U32: Final = struct.Struct(">I")
_U32_U32: Final = struct.Struct(">II")
_CODE_U32: Final = struct.Struct(">BI")
_CODE_U64: Final = struct.Struct(">BQ")
_CODE_I32: Final = struct.Struct(">Bi")
_CODE_I64: Final = struct.Struct(">Bq")
_CODE_U32_U32: Final = struct.Struct(">BII")

ARRAY_ITEM: Final[dict[type, tuple[int, Put]]] = {
    type(None): (0x40, _item_null),
    bool: (0x56, _packed(">?")),
    Ubyte: (0x50, _packed(">B")),
    Ushort: (0x60, _packed(">H")),
    Uint: (0x70, _packed(">I")),
    Ulong: (0x80, _packed(">Q")),
    Byte: (0x51, _packed(">b")),
    Short: (0x61, _packed(">h")),
    Int: (0x71, _packed(">i")),
    int: (0x81, _packed(">q")),
    Float32: (0x72, _packed(">f")),
    float: (0x82, _packed(">d")),
    Decimal32: (0x74, _raw(4)),
    Decimal64: (0x84, _raw(8)),
    Decimal128: (0x94, _raw(16)),
    Char: (0x73, _item_char),
    Timestamp: (0x83, _packed(">q")),
    UUID: (0x98, _item_uuid),
    bytes: (0xB0, _item_binary),
    str: (0xB1, _item_string),
    Symbol: (0xB3, _item_symbol),
    list: (0xD0, _item_list),
    dict: (0xD1, _item_map),
    AmqpArray: (0xF0, _put_array_body),
}
"""The constructor that an array of each class uses, and how one item is written after it."""

_PUT: Final[dict[type, Put]] = {
    # What follows has no shorter form than in an array; the others replace theirs.
    **{kind: _coded(code, put_item) for kind, (code, put_item) in ARRAY_ITEM.items()},
    type(None): _put_null,
    bool: _put_boolean,
    Uint: put_uint,
    Ulong: put_ulong,
    Int: _put_int,
    int: _put_long,
    bytes: put_binary,
    bytearray: put_binary,
    memoryview: put_binary,
    str: put_string,
    Symbol: put_symbol,
    list: _put_list,
    tuple: _put_list,
    dict: _put_map,
    AmqpArray: _put_array,
    Described: _put_described,
}
