"""Composite types: dataclasses whose fields, in order, are the items of a described list (AMQP 1.0 part 1.4).

`@composite(code, name, KIND, KIND, ...)` above a dataclass gives one kind for each field. A kind says how a value is
written and what is accepted when it is read. A null or missing field reads as the dataclass default; `must(KIND)` marks
a field that may not be null.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

from renewer.amqp.encoder import (
    ENCODE_ERRORS,
    encode_into,
    put_binary,
    put_compound,
    put_fields,
    put_string,
    put_symbol,
    put_uint,
    put_ulong,
)
from renewer.amqp.types import AmqpArray, Described, Symbol, Timestamp, Ubyte, Uint, Ulong, Ushort
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind:
    """One type of field: `put` writes a value; a decoded value of class `exact` is right, any other `take` judges."""

    name: str
    put: Callable[[bytearray, Any], None]
    exact: type | None
    take: Callable[[Any], Any]
    mandatory: bool = False


@dataclass(frozen=True, slots=True)
class Schema:
    """How one composite type lies on the wire."""

    cls: type
    code: int
    symbol: Symbol
    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    defaults: tuple[Any, ...]
    exact: tuple[type | None, ...]
    mandatory: tuple[int, ...]
    values_of: Callable[[Any], tuple[Any, ...]]


def composite(code: int, symbol: str, *kinds: Kind) -> Callable[[type[T]], type[T]]:
    """Register the dataclass below as the composite type with that descriptor."""

    def register(cls: type[T]) -> type[T]:
        names = tuple(field.name for field in fields(cls))  # type: ignore[arg-type]
        defaults = tuple(None if f.default is MISSING else f.default for f in fields(cls))  # type: ignore[arg-type]
        if len(names) != len(kinds):
            raise TypeError(f"{cls.__name__} has {len(names)} fields and {len(kinds)} kinds")
        exact = tuple(kind.exact for kind in kinds)
        mandatory = tuple(index for index, kind in enumerate(kinds) if kind.mandatory)
        schema = Schema(cls, code, Symbol(symbol), names, kinds, defaults, exact, mandatory, _reader_of(names))
        _BY_CLASS[cls] = schema
        _BY_CODE[code] = schema
        _BY_SYMBOL[symbol] = schema
        return cls

    return register


def schema_of(descriptor: object) -> Schema | None:
    """The schema that a decoded descriptor names, by number or by symbol; None if it is not one of ours."""
    if isinstance(descriptor, Ulong):
        return _BY_CODE.get(descriptor)
    if isinstance(descriptor, Symbol):
        return _BY_SYMBOL.get(descriptor)
    return None


def schema_by_code(code: int) -> Schema | None:
    """The schema of a numeric descriptor."""
    return _BY_CODE.get(code)


def schema_for(cls: type) -> Schema:
    """The schema of one of our classes."""
    return _BY_CLASS[cls]


def put_composite(buffer: bytearray, value: object, *, whole: bool = False) -> None:
    """Append a composite value. Trailing fields that hold their default are left out unless `whole`."""
    schema = _BY_CLASS.get(type(value))
    if schema is None:
        raise AmqpProtocolError(f"{type(value).__name__} is no composite type", condition="amqp:invalid-field")
    items = schema.values_of(value)
    count = len(items)
    if not whole:
        while count and (items[count - 1] is None or items[count - 1] == schema.defaults[count - 1]):
            count -= 1
    body = bytearray()
    for index in range(count):
        item, kind = items[index], schema.kinds[index]
        if item is not None:
            try:
                kind.put(body, item)
            except ENCODE_ERRORS as error:
                raise _bad_field(schema, index, "out of range or not") from error
        elif kind.mandatory:
            raise _bad_field(schema, index, "missing, must be")
        else:
            body.append(0x40)
    # Always the one-byte ulong form: some peers look at the third byte only.
    buffer += bytes((0x00, 0x53, schema.code))
    if count:
        put_compound(buffer, 0xC0, count, body)
    else:
        buffer.append(0x45)


def build(schema: Schema, items: object) -> Any:
    """The dataclass for the decoded list `items`, which is used up."""
    if not isinstance(items, list):
        raise AmqpProtocolError(f"{schema.symbol} is not a list")
    values: list[Any] = items
    given = len(values)
    if given > len(schema.exact):
        raise AmqpProtocolError(f"{schema.symbol} has too many fields")
    for index in schema.mandatory:
        if index >= given or values[index] is None:
            raise _bad_field(schema, index, "missing, must be", condition="amqp:decode-error")
    exact, defaults = schema.exact, schema.defaults
    for index, value in enumerate(values):
        if value is None:
            values[index] = defaults[index]
        elif value.__class__ is not exact[index]:
            values[index] = _judged(schema, index, value)
    return schema.cls(*values, *defaults[given:])


def _judged(schema: Schema, index: int, value: object) -> Any:
    try:
        return schema.kinds[index].take(value)
    except (TypeError, ValueError) as error:
        raise _bad_field(schema, index, "not", condition="amqp:decode-error") from error


def build_described(value: object) -> Any:
    """The dataclass for a described value of ours; any other value as it is."""
    if isinstance(value, Described):
        schema = schema_of(value.descriptor)
        if schema is not None:
            return build(schema, value.value)
    return value


def must(kind: Kind) -> Kind:
    """`kind`, and null is refused."""
    return replace(kind, mandatory=True)


def one_of(name: str, *classes: type, others: bool = False) -> Kind:
    """A field that holds one of these composite types, or with `others` any described value, kept as it is."""

    def put(buffer: bytearray, value: Any) -> None:
        if isinstance(value, classes):
            put_composite(buffer, value)
        elif others and isinstance(value, Described):
            encode_into(buffer, value)
        else:
            raise TypeError

    def take(value: object) -> Any:
        built = build_described(value)
        if isinstance(built, classes) or (others and isinstance(built, Described)):
            return built
        raise TypeError

    return Kind(name, put, None, take)


# The kinds ----------------------------------------------------------------------------------------------------------


def _refuse(_value: object) -> Any:
    raise TypeError


def _put_boolean(buffer: bytearray, value: bool) -> None:
    buffer.append(0x41 if value else 0x42)


def _put_ubyte(buffer: bytearray, value: int) -> None:
    buffer += bytes((0x50, value))


def _put_ushort(buffer: bytearray, value: int) -> None:
    buffer += b"\x60" + value.to_bytes(2, "big")


def _put_timestamp(buffer: bytearray, value: int) -> None:
    buffer += b"\x83" + value.to_bytes(8, "big", signed=True)


def _put_map(buffer: bytearray, value: dict[Any, Any]) -> None:
    if not isinstance(value, dict):
        raise TypeError
    put_fields(buffer, value)


def _put_symbols(buffer: bytearray, value: Any) -> None:
    if not isinstance(value, (list, tuple)):
        raise TypeError
    encode_into(buffer, AmqpArray([Symbol(item) for item in value], Symbol))


def _take_symbols(value: object) -> list[Symbol]:
    """`multiple` fields: an array, or one value without an array (AMQP 1.0 part 1.4)."""
    if isinstance(value, AmqpArray) and (value.type is Symbol or not value.items):
        return list(value.items)
    if isinstance(value, Symbol):
        return [value]
    raise TypeError


def _take_text(value: object) -> str:
    """Strings and symbols are mixed up by several clients; nothing is lost by taking either."""
    if isinstance(value, str):
        return value
    raise TypeError


def _put_message_id(buffer: bytearray, value: Any) -> None:
    if isinstance(value, int) and not isinstance(value, Ulong):
        put_ulong(buffer, value)
    elif isinstance(value, (Ulong, UUID, bytes, str)):
        encode_into(buffer, value)
    else:
        raise TypeError


def _take_message_id(value: object) -> object:
    if isinstance(value, (Ulong, UUID, bytes, str)):
        return value
    raise TypeError


def _take_any(value: object) -> object:
    return value


BOOLEAN: Final = Kind("boolean", _put_boolean, bool, _refuse)
UBYTE: Final = Kind("ubyte", _put_ubyte, Ubyte, _refuse)
USHORT: Final = Kind("ushort", _put_ushort, Ushort, _refuse)
UINT: Final = Kind("uint", put_uint, Uint, _refuse)
ULONG: Final = Kind("ulong", put_ulong, Ulong, _refuse)
TIMESTAMP: Final = Kind("timestamp", _put_timestamp, Timestamp, _refuse)
STRING: Final = Kind("string", put_string, str, _take_text)
SYMBOL: Final = Kind("symbol", put_symbol, Symbol, _take_text)
SYMBOLS: Final = Kind("symbols", _put_symbols, None, _take_symbols)
BINARY: Final = Kind("binary", put_binary, bytes, _refuse)
MAP: Final = Kind("map", _put_map, dict, _refuse)
MESSAGE_ID: Final = Kind("message-id", _put_message_id, None, _take_message_id)
ANY: Final = Kind("any", encode_into, None, _take_any)

_BY_CLASS: Final[dict[type, Schema]] = {}
_BY_CODE: Final[dict[int, Schema]] = {}
_BY_SYMBOL: Final[dict[str, Schema]] = {}


def _reader_of(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """A function that reads these attributes as a tuple."""
    match names:
        case ():
            return lambda _value: ()
        case (name,):
            return lambda value: (getattr(value, name),)
        case _:
            return attrgetter(*names)


def _bad_field(schema: Schema, index: int, what: str, *, condition: str = "amqp:invalid-field") -> AmqpProtocolError:
    name = schema.names[index].replace("_", "-")
    return AmqpProtocolError(f"{schema.symbol}: {name} is {what} {schema.kinds[index].name}", condition=condition)
