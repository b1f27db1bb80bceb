"""AMQP bytes to values (AMQP 1.0 part 1.6).

What a peer sends is believed only as far as its bytes reach: every size and count is checked against what is there
before anything is allocated, nesting ends at `MAX_DEPTH`, and whatever is wrong is an `AmqpProtocolError`.

A decoder gets the bytes, the offset after the constructor and the depth; it returns the value and the offset after it.
Reading past the end is an IndexError or a struct.error, which `decode` translates; a slice must be checked by hand.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias
from uuid import UUID

from renewer.amqp.encoder import MAX_DEPTH, MAX_ZERO_WIDTH_ITEMS
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
    from collections.abc import Callable, Iterable

Take: TypeAlias = "Callable[[bytes, int, int], tuple[Any, int]]"


def decode(data: bytes | bytearray | memoryview, offset: int = 0, depth: int = 0) -> tuple[Any, int]:
    """The value that starts at `offset`, so deep in others, and where the next one would start."""
    if not isinstance(data, bytes):
        data = bytes(data)
    try:
        return _TAKE[data[offset]](data, offset + 1, depth)
    except _DECODE_ERRORS as error:
        raise _malformed(error) from error


_DECODE_ERRORS: Final = (IndexError, struct.error, UnicodeError, TypeError, ValueError, OverflowError)


def _malformed(error: BaseException) -> AmqpProtocolError:
    if isinstance(error, (IndexError, struct.error)):
        return AmqpProtocolError("the bytes end in the middle of a value")
    return AmqpProtocolError("a value that its AMQP type does not allow")


def _take_unknown(data: bytes, at: int, _depth: int) -> NoReturn:
    raise AmqpProtocolError(f"unknown constructor 0x{data[at - 1]:02x}")


def _constant(value: Any) -> Take:
    def take(_data: bytes, at: int, _depth: int) -> tuple[Any, int]:
        return value, at

    return take


def _take_list0(_data: bytes, at: int, _depth: int) -> tuple[list[Any], int]:
    return [], at


def _take_boolean(data: bytes, at: int, _depth: int) -> tuple[bool, int]:
    octet = data[at]
    if octet > 1:
        raise AmqpProtocolError("a boolean that is neither 0 nor 1")
    return octet == 1, at + 1


def _one_byte(values: Iterable[int]) -> Take:
    """The 256 values that one byte can stand for, made beforehand: most integers on the wire are small."""
    table = tuple(values)

    def take(data: bytes, at: int, _depth: int) -> tuple[Any, int]:
        return table[data[at]], at + 1

    return take


def _unsigned(kind: type[int]) -> Take:
    return _one_byte(map(kind, range(256)))


def _signed(kind: type[int]) -> Take:
    return _one_byte(map(kind, (*range(128), *range(-128, 0))))


def _fixed(layout: struct.Struct, kind: type[Any]) -> Take:
    unpack_from, width = layout.unpack_from, layout.size

    def take(data: bytes, at: int, _depth: int) -> tuple[Any, int]:
        return kind(unpack_from(data, at)[0]), at + width

    return take


def _fixed_raw(width: int, make: Callable[[bytes], Any]) -> Take:
    def take(data: bytes, at: int, _depth: int) -> tuple[Any, int]:
        end = at + width
        if end > len(data):
            raise IndexError
        return make(data[at:end]), end

    return take


def _sized8(make: Callable[[bytes], Any]) -> Take:
    def take(data: bytes, at: int, _depth: int) -> tuple[Any, int]:
        start = at + 1
        end = start + data[at]
        if end > len(data):
            raise IndexError
        return make(data[start:end]), end

    return take


def _sized32(make: Callable[[bytes], Any]) -> Take:
    def take(data: bytes, at: int, _depth: int) -> tuple[Any, int]:
        start = at + 4
        end = start + _U32.unpack_from(data, at)[0]
        if end > len(data):
            raise IndexError
        return make(data[start:end]), end

    return take


def _take_list8(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    return _take_items(data, at + 2, at + 1 + data[at], data[at + 1], depth)


def _take_list32(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    size, count = _U32_U32.unpack_from(data, at)
    return _take_items(data, at + 8, at + 4 + size, count, depth)


def _take_map8(data: bytes, at: int, depth: int) -> tuple[dict[Any, Any], int]:
    return _paired(_take_items(data, at + 2, at + 1 + data[at], data[at + 1], depth))


def _take_map32(data: bytes, at: int, depth: int) -> tuple[dict[Any, Any], int]:
    size, count = _U32_U32.unpack_from(data, at)
    return _paired(_take_items(data, at + 8, at + 4 + size, count, depth))


def _take_items(data: bytes, at: int, end: int, count: int, depth: int) -> tuple[list[Any], int]:
    """`count` values that must fill the bytes from `at` to `end`; each takes at least its constructor."""
    if depth >= MAX_DEPTH:
        raise AmqpProtocolError(f"nested deeper than {MAX_DEPTH}")
    if end > len(data) or count > end - at:
        raise IndexError
    items: list[Any] = []
    take, depth = _TAKE, depth + 1
    for _ in range(count):
        code = data[at]
        if code == 0x40:  # Most fields of most frames are null.
            items.append(None)
            at += 1
        else:
            item, at = take[code](data, at + 1, depth)
            items.append(item)
    if at != end:
        raise AmqpProtocolError("the size of a list or map is not that of its items")
    return items, end


def _paired(taken: tuple[list[Any], int]) -> tuple[dict[Any, Any], int]:
    items, end = taken
    if len(items) % 2:
        raise AmqpProtocolError("a map with a key that has no value")
    pairs = dict(zip(items[::2], items[1::2], strict=True))
    if 2 * len(pairs) != len(items):
        raise AmqpProtocolError("a map with two equal keys")  # AMQP 1.0 part 1.6.23
    return pairs, end


def _take_described(data: bytes, at: int, depth: int) -> tuple[Described, int]:
    if depth >= MAX_DEPTH:
        raise AmqpProtocolError(f"nested deeper than {MAX_DEPTH}")
    descriptor, at = _TAKE[data[at]](data, at + 1, depth + 1)
    value, at = _TAKE[data[at]](data, at + 1, depth + 1)
    return Described(descriptor, value), at


def _take_array8(data: bytes, at: int, depth: int) -> tuple[AmqpArray, int]:
    return _take_array(data, at + 2, at + 1 + data[at], data[at + 1], depth)


def _take_array32(data: bytes, at: int, depth: int) -> tuple[AmqpArray, int]:
    size, count = _U32_U32.unpack_from(data, at)
    return _take_array(data, at + 8, at + 4 + size, count, depth)


def _take_array(data: bytes, at: int, end: int, count: int, depth: int) -> tuple[AmqpArray, int]:
    if depth >= MAX_DEPTH:
        raise AmqpProtocolError(f"nested deeper than {MAX_DEPTH}")
    if end > len(data):
        raise IndexError
    if at == end and count == 0:  # Some peers leave out the constructor of an empty array.
        return AmqpArray([], type(None)), end
    code, descriptor = data[at], None
    at += 1
    if code == 0x00:
        descriptor, at = _TAKE[data[at]](data, at + 1, depth + 1)
        code = data[at]
        at += 1
    if code == 0x00 or _TAKE[code] is _take_unknown:
        raise AmqpProtocolError(f"an array of constructor 0x{code:02x}")
    # The high nibble of a constructor tells the width of what follows it (AMQP 1.0 part 1.2).
    if count > (MAX_ZERO_WIDTH_ITEMS if code >> 4 == 0x4 else end - at):
        raise IndexError
    take = _TAKE[code]
    items = []
    for _ in range(count):
        item, at = take(data, at, depth + 1)
        items.append(item)
    if at != end:
        raise AmqpProtocolError("the size of an array is not that of its items")
    return AmqpArray(items, _ARRAY_CLASS[code], descriptor), end


def _text(raw: bytes) -> str:
    return raw.decode()


def _symbol(raw: bytes) -> Symbol:
    return Symbol(raw, "ascii")


def _char(raw: bytes) -> Char:
    return Char(raw, "utf-32-be")


def _uuid(raw: bytes) -> UUID:
    return UUID(bytes=raw)


_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
_I16: Final = struct.Struct(">h")
_I32: Final = struct.Struct(">i")
_I64: Final = struct.Struct(">q")
_F32: Final = struct.Struct(">f")
_F64: Final = struct.Struct(">d")
_U32_U32: Final = struct.Struct(">II")

_TAKE: Final[list[Take]] = [_take_unknown] * 256
_ARRAY_CLASS: Final[dict[int, type]] = {}

for _code, _class, _take in (
    (0x40, type(None), _constant(None)),
    (0x41, bool, _constant(True)),
    (0x42, bool, _constant(False)),
    (0x43, Uint, _constant(Uint(0))),
    (0x44, Ulong, _constant(Ulong(0))),
    (0x45, list, _take_list0),
    (0x50, Ubyte, _unsigned(Ubyte)),
    (0x51, Byte, _signed(Byte)),
    (0x52, Uint, _unsigned(Uint)),
    (0x53, Ulong, _unsigned(Ulong)),
    (0x54, Int, _signed(Int)),
    (0x55, int, _signed(int)),
    (0x56, bool, _take_boolean),
    (0x60, Ushort, _fixed(_U16, Ushort)),
    (0x61, Short, _fixed(_I16, Short)),
    (0x70, Uint, _fixed(_U32, Uint)),
    (0x71, Int, _fixed(_I32, Int)),
    (0x72, Float32, _fixed(_F32, Float32)),
    (0x73, Char, _fixed_raw(4, _char)),
    (0x74, Decimal32, _fixed_raw(4, Decimal32)),
    (0x80, Ulong, _fixed(_U64, Ulong)),
    (0x81, int, _fixed(_I64, int)),
    (0x82, float, _fixed(_F64, float)),
    (0x83, Timestamp, _fixed(_I64, Timestamp)),
    (0x84, Decimal64, _fixed_raw(8, Decimal64)),
    (0x94, Decimal128, _fixed_raw(16, Decimal128)),
    (0x98, UUID, _fixed_raw(16, _uuid)),
    (0xA0, bytes, _sized8(bytes)),
    (0xA1, str, _sized8(_text)),
    (0xA3, Symbol, _sized8(_symbol)),
    (0xB0, bytes, _sized32(bytes)),
    (0xB1, str, _sized32(_text)),
    (0xB3, Symbol, _sized32(_symbol)),
    (0xC0, list, _take_list8),
    (0xC1, dict, _take_map8),
    (0xD0, list, _take_list32),
    (0xD1, dict, _take_map32),
    (0xE0, AmqpArray, _take_array8),
    (0xF0, AmqpArray, _take_array32),
):
    _TAKE[_code] = _take
    _ARRAY_CLASS[_code] = _class
_TAKE[0x00] = _take_described
