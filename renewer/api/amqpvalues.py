"""AMQP values as JSON, and back (AMQP 1.0 part 1.6).

Every value has a form that names its type: ``{"type": "uint", "value": 7}``; nothing is lost on the way there and back.
From callers JSON's own scalars are taken as well, for the types that most programs use: text for string, a whole number
for long, any other for double, true and false for boolean, null for null.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, get_args
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
)

from renewer.amqp import (
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
    encode,
)
from renewer.errors import AmqpProtocolError

TypeName = Literal[
    "null",
    "boolean",
    "ubyte",
    "ushort",
    "uint",
    "ulong",
    "byte",
    "short",
    "int",
    "long",
    "float",
    "double",
    "decimal32",
    "decimal64",
    "decimal128",
    "char",
    "string",
    "symbol",
    "binary",
    "uuid",
    "timestamp",
    "list",
    "map",
    "array",
    "described",
]

MAX_DEPTH: Final = 40
"""How deep values may be nested; deeper than AMQP's own are read (`renewer.amqp`)."""

_LONG = 2**63
_WHOLE = re.compile(r"-?[0-9]{1,20}")


class TypedValue(BaseModel):
    """A value of a named AMQP type, in the form in which messages show theirs.

    A long or ulong may be a number too, a timestamp a date with its zone or milliseconds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)

    type: TypeName
    value: JsonValue = Field(None, repr=False)
    of: TypeName | None = Field(None, description="What an array is of.")
    descriptor: JsonValue = Field(None, repr=False, description="What describes a described value.")


def amqp_value(given: object) -> Any:
    """The AMQP value that this JSON means. ValueError, which does not repeat it, if there is none."""
    if isinstance(given, TypedValue):
        given = given.model_dump(exclude_unset=True)
    value = _read(given, 0)
    try:
        encode(value)
    except AmqpProtocolError:
        what = given.get("type") if isinstance(given, dict) else "value that AMQP has a type for"
        raise ValueError(f"is no {what}, or out of its range") from None
    return value


def typed_json(value: object) -> dict[str, Any]:
    """An AMQP value in the form that names its type, for `json_pieces`: what is in it is made while it is written."""
    kind = type(value)
    match value:
        case list() | tuple():
            return {"type": "list", "value": map(typed_json, value)}
        case dict():
            return {"type": "map", "value": ([typed_json(key), typed_json(item)] for key, item in value.items())}
        case Described(descriptor, inner):
            return {"type": "described", "descriptor": typed_json(descriptor), "value": typed_json(inner)}
        case AmqpArray(items, of, descriptor):
            name = _NAMES[of if of is not None else type(items[0]) if items else type(None)]
            shown = {"type": "array", "of": name, "value": map(typed_json if name in _COMPOUND else _shown, items)}
            return shown if descriptor is None else {**shown, "descriptor": typed_json(descriptor)}
        case _:
            return {"type": _NAMES[kind], "value": _shown(value)}


def _property(given: object) -> object:
    amqp_value(given)
    return given


PropertyValue = Annotated[
    StrictStr | StrictBool | StrictInt | StrictFloat | TypedValue | None, AfterValidator(_property)
]
PropertyName = Annotated[str, Field(min_length=1, max_length=256)]
Properties = Annotated[dict[PropertyName, PropertyValue], Field(max_length=100)]


def amqp_properties(properties: dict[str, Any]) -> dict[str, Any]:
    """The properties of a body as AMQP values."""
    return {name: amqp_value(value) for name, value in properties.items()}


# Showing ------------------------------------------------------------------------------------------------------------


def _shown(value: object) -> object:
    """What stands in `value` of a type that holds no others."""
    match value:
        case None | bool() | bytes():
            return value
        case Timestamp():
            return _date(value)
        case Ulong():
            return str(int(value))
        case int():
            return str(value) if type(value) is int else int(value)
        case float():
            return float(value) if math.isfinite(value) else _BEYOND[str(float(value))]
        case Decimal32(raw) | Decimal64(raw) | Decimal128(raw):
            return raw
        case _:
            return str(value)


def _date(value: int) -> object:
    try:
        return (_EPOCH + timedelta(milliseconds=value)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except OverflowError:
        return int(value)


# Reading ------------------------------------------------------------------------------------------------------------


def _read(given: object, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("is nested too deeply")
    if isinstance(given, int) and not isinstance(given, bool) and not -_LONG <= given < _LONG:
        raise ValueError("a whole number beyond 64 bits has no AMQP type; write it as text")
    if isinstance(given, list):
        raise ValueError('a list must be typed, as in {"type": "list", "value": []}')  # noqa: TRY004
    if not isinstance(given, dict):
        return given
    name, value = given.get("type"), given.get("value")
    if not isinstance(name, str) or name not in _TYPE_NAMES:
        raise ValueError("must name its type")
    if name != "array" and "of" in given:
        raise ValueError("of goes with an array")
    if name not in ("array", "described") and "descriptor" in given:
        raise ValueError("descriptor goes with a described value, or an array of such")
    match name:
        case "list":
            return [_read(item, depth + 1) for item in _items(value)]
        case "map":
            return _map(value, depth)
        case "described":
            return Described(_read(given.get("descriptor"), depth + 1), _read(value, depth + 1))
        case "array":
            return _array(given, depth)
        case _:
            return _READERS[name](value)


def _items(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("must be a list")  # noqa: TRY004
    return value


def _map(value: object, depth: int) -> dict[Any, Any]:
    pairs = _items(value)
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ValueError("must be a list of pairs")
    try:
        made = {_read(key, depth + 1): _read(item, depth + 1) for key, item in pairs}
    except TypeError:
        raise ValueError("has a key that is a list or a map") from None
    if len(made) != len(pairs):
        raise ValueError("has two equal keys")
    return made


def _array(given: dict[str, Any], depth: int) -> AmqpArray:
    name = given.get("of")
    if not isinstance(name, str) or name not in _CLASSES:
        raise ValueError("must say what the array is of")
    values = _items(given.get("value"))
    items = [_read(item, depth + 1) if name in _COMPOUND else _READERS[name](item) for item in values]
    if not all(type(item) is _CLASSES[name] for item in items):
        raise ValueError(f"must be of {name} alone")
    descriptor = _read(given["descriptor"], depth + 1) if "descriptor" in given else None
    return AmqpArray(items, _CLASSES[name], descriptor)


def _whole(kind: type[int], *, may_be_text: bool = False) -> Callable[[object], Any]:
    def read(value: object) -> int:
        if may_be_text and isinstance(value, str) and _WHOLE.fullmatch(value):
            return kind(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("must be a whole number")  # noqa: TRY004 - pydantic makes a finding of ValueError
        return kind(value)

    return read


def _number(kind: type[float]) -> Callable[[object], Any]:
    def read(value: object) -> float:
        if isinstance(value, str) and value in _BEYOND.values():
            return kind(value)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError("must be a number")  # noqa: TRY004
        try:
            return kind(value)
        except OverflowError:
            raise ValueError("is too large a number") from None

    return read


def _text(kind: type[str]) -> Callable[[object], Any]:
    def read(value: object) -> str:
        if not isinstance(value, str):
            raise ValueError("must be text")  # noqa: TRY004
        return kind(value)

    return read


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004
    return value


def _null(value: object) -> None:
    if value is not None:
        raise ValueError("must be null")


def _binary(value: object) -> bytes:
    try:
        return base64.b64decode(_text(str)(value), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be base64") from None


def _decimal(kind: Callable[[bytes], Any], width: int) -> Callable[[object], Any]:
    def read(value: object) -> object:
        raw = _binary(value)
        if len(raw) != width:
            raise ValueError(f"must be {width} bytes in base64")
        return kind(raw)

    return read


def _uuid(value: object) -> UUID:
    try:
        return UUID(_text(str)(value))
    except ValueError:
        raise ValueError("must be a UUID") from None


def _timestamp(value: object) -> Timestamp:
    if isinstance(value, int) and not isinstance(value, bool):
        return Timestamp(value)
    try:
        at = datetime.fromisoformat(_text(str)(value))
    except ValueError:
        raise ValueError("must be a date such as 2026-01-31T12:00:00Z, or milliseconds") from None
    if at.tzinfo is None:
        raise ValueError("must say its time zone, as in 2026-01-31T12:00:00Z")
    return Timestamp((at - _EPOCH) // timedelta(milliseconds=1))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BEYOND = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

_READERS: dict[str, Callable[[object], Any]] = {
    "null": _null,
    "boolean": _boolean,
    "ubyte": _whole(Ubyte),
    "ushort": _whole(Ushort),
    "uint": _whole(Uint),
    "ulong": _whole(Ulong, may_be_text=True),
    "byte": _whole(Byte),
    "short": _whole(Short),
    "int": _whole(Int),
    "long": _whole(int, may_be_text=True),
    "float": _number(Float32),
    "double": _number(float),
    "decimal32": _decimal(Decimal32, 4),
    "decimal64": _decimal(Decimal64, 8),
    "decimal128": _decimal(Decimal128, 16),
    "char": _text(Char),
    "string": _text(str),
    "symbol": _text(Symbol),
    "binary": _binary,
    "uuid": _uuid,
    "timestamp": _timestamp,
}

_NAMES: dict[type, TypeName] = {
    type(None): "null",
    bool: "boolean",
    Ubyte: "ubyte",
    Ushort: "ushort",
    Uint: "uint",
    Ulong: "ulong",
    Byte: "byte",
    Short: "short",
    Int: "int",
    int: "long",
    Float32: "float",
    float: "double",
    Decimal32: "decimal32",
    Decimal64: "decimal64",
    Decimal128: "decimal128",
    Char: "char",
    str: "string",
    Symbol: "symbol",
    bytes: "binary",
    UUID: "uuid",
    Timestamp: "timestamp",
    list: "list",
    dict: "map",
    AmqpArray: "array",
}
_CLASSES: dict[str, type] = {name: kind for kind, name in _NAMES.items()}
_COMPOUND = frozenset(("list", "map", "array"))
_TYPE_NAMES = frozenset(get_args(TypeName))
