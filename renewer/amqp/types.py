"""The AMQP 1.0 types that Python has no type for (AMQP 1.0 part 1.6).

Plain Python values stand for their nearest AMQP type: None (null), bool (boolean), int (long), float (double), str
(string), bytes (binary), uuid.UUID (uuid), list and tuple (list), dict (map). Every other type has a class here, so
that what was decoded is encoded again as the same type. Values are checked when they are encoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Symbol(str):
    """A name from a constrained domain, ASCII only. Equal to, and hashed like, the `str` of the same text."""

    __slots__ = ()


class Ubyte(int):
    """0 to 2^8 - 1."""

    __slots__ = ()


class Ushort(int):
    """0 to 2^16 - 1."""

    __slots__ = ()


class Uint(int):
    """0 to 2^32 - 1."""

    __slots__ = ()


class Ulong(int):
    """0 to 2^64 - 1."""

    __slots__ = ()


class Byte(int):
    """-2^7 to 2^7 - 1."""

    __slots__ = ()


class Short(int):
    """-2^15 to 2^15 - 1."""

    __slots__ = ()


class Int(int):
    """-2^31 to 2^31 - 1."""

    __slots__ = ()


Long = int
"""-2^63 to 2^63 - 1: what a plain `int` is encoded as."""


class Timestamp(int):
    """Milliseconds since 1970-01-01 00:00 UTC."""

    __slots__ = ()


class Float32(float):
    """An IEEE 754 binary32; a plain `float` is a double."""

    __slots__ = ()


class Char(str):
    """One Unicode character."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Decimal32:
    """An IEEE 754 decimal32 as its 4 raw bytes."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class Decimal64:
    """An IEEE 754 decimal64 as its 8 raw bytes."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class Decimal128:
    """An IEEE 754 decimal128 as its 16 raw bytes."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class Described:
    """A value with a descriptor in front of it: a type that this layer does not know (AMQP 1.0 part 1.2)."""

    descriptor: Any
    value: Any


@dataclass(frozen=True, slots=True)
class AmqpArray:
    """Values of one type, written with one constructor (AMQP 1.0 part 1.6.24).

    `type` is the class of the items (`Symbol`, `uuid.UUID`, `int` for long, `type(None)`...); without it that of the
    first item. With `descriptor` every item is a described value.
    """

    items: Sequence[Any]
    type: type | None = None
    descriptor: Any = None

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]
