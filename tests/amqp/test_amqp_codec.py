"""The codec alone: what comes back, what is refused, what it looks like on the wire."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from renewer.amqp import (
    AmqpArray,
    Byte,
    Char,
    Decimal32,
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
    decode,
    encode,
    encode_into,
)
from renewer.amqp.encoder import MAX_DEPTH, MAX_ZERO_WIDTH_ITEMS
from renewer.errors import AmqpProtocolError
from tests.amqp.amqp_pair import VALUES, same


@given(VALUES)
@example(float("nan"))
@example([])
@example({})
@example(AmqpArray([], type(None)))
def test_what_was_encoded_is_decoded_with_its_types(value: Any) -> None:
    data = encode(value)
    decoded, end = decode(data)
    assert end == len(data)
    assert same(decoded, value)


@given(VALUES, st.binary(max_size=8), st.binary(max_size=8))
def test_a_value_is_found_at_its_offset_and_ends_where_it_ends(value: Any, before: bytes, after: bytes) -> None:
    data = before + encode(value) + after
    decoded, end = decode(memoryview(data), len(before))
    assert same(decoded, value)
    assert end == len(data) - len(after)


@given(VALUES)
def test_every_prefix_of_a_value_is_refused(value: Any) -> None:
    data = encode(value)
    for end in {0, 1, len(data) // 2, len(data) - 1} - {len(data)}:
        with pytest.raises(AmqpProtocolError):
            decode(data[:end])


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (None, "40"),
        (True, "41"),
        (False, "42"),
        (Uint(0), "43"),
        (Uint(255), "52ff"),
        (Uint(256), "7000000100"),
        (Ulong(0), "44"),
        (Ulong(1), "5301"),
        (Ulong(256), "800000000000000100"),
        (Ubyte(7), "5007"),
        (Byte(-1), "51ff"),
        (Ushort(258), "600102"),
        (Short(-2), "61fffe"),
        (Int(-1), "54ff"),
        (Int(128), "7100000080"),
        (-1, "55ff"),
        (128, "810000000000000080"),
        (Float32(1.0), "723f800000"),
        (1.0, "823ff0000000000000"),
        (Char("A"), "7300000041"),
        (Timestamp(1), "830000000000000001"),
        (Decimal32(b"abcd"), "7461626364"),
        (UUID(int=1), "98" + "00" * 15 + "01"),
        (b"\x01", "a00101"),
        ("é", "a102c3a9"),
        (Symbol("a"), "a30161"),
        ([], "45"),
        ([None], "c0020140"),
        ({}, "c10100"),
        ({"a": True}, "c10502a1016141"),
        (Described(Ulong(0x70), []), "00537045"),
        (AmqpArray([1, 2], Ubyte), "f000000007000000025001" + "02"),
        (AmqpArray([Symbol("a")]), "f00000000a00000001b30000000161"),
    ],
)
def test_values_have_their_shortest_form(value: Any, wire: str) -> None:
    assert encode(value).hex() == wire


@pytest.mark.parametrize(
    ("wire", "value"),
    [
        ("5601", True),
        ("5600", False),
        ("800000000000000001", Ulong(1)),
        ("810000000000000001", 1),
        ("7000000001", Uint(1)),
        ("b00000000101", b"\x01"),
        ("d000000004" + "00000000", []),
        ("d100000006" + "000000024041", {None: True}),
        ("e0030140" + "", None),
        ("e0020140", AmqpArray([None], type(None))),
        ("e00100", AmqpArray([], type(None))),
        ("e0020043", AmqpArray([], Uint)),
        ("e004025001" + "02", AmqpArray([Ubyte(1), Ubyte(2)], Ubyte)),
        ("e0060200530150" + "01", None),
        ("e0060100530150" + "01", AmqpArray([Ubyte(1)], Ubyte, Ulong(1))),
    ],
)
def test_forms_that_we_never_write_are_read(wire: str, value: Any) -> None:
    if value is None:
        with pytest.raises(AmqpProtocolError):
            decode(bytes.fromhex(wire))
    else:
        assert same(decode(bytes.fromhex(wire))[0], value)


@pytest.mark.parametrize(
    "value",
    [
        Ubyte(256),
        Ubyte(-1),
        Byte(128),
        Ushort(-1),
        Short(1 << 15),
        Uint(-1),
        Uint(1 << 32),
        Int(1 << 31),
        Ulong(1 << 64),
        1 << 63,
        Timestamp(1 << 63),
        Float32(1e300),
        Char("ab"),
        Char("\ud800"),
        "\ud800",
        Symbol("é"),
        Decimal32(b"abc"),
        object(),
        {1, 2},
        [object()],
        {"a": object()},
        AmqpArray([1, "a"]),
        AmqpArray(["a"], Uint),
        AmqpArray([None] * (MAX_ZERO_WIDTH_ITEMS + 1)),
        AmqpArray([1], object),
        AmqpArray([Described(1, 2)]),
    ],
)
def test_what_amqp_cannot_carry_is_refused_and_leaves_the_buffer_as_it_was(value: Any) -> None:
    buffer = bytearray(b"before")
    with pytest.raises(AmqpProtocolError) as caught:
        encode_into(buffer, value)
    assert caught.value.condition == "amqp:invalid-field"
    assert buffer == b"before"


def test_an_error_does_not_show_the_value() -> None:
    with pytest.raises(AmqpProtocolError) as caught:
        encode(Symbol("geheim-é"))
    assert "geheim" not in str(caught.value)


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(AmqpProtocolError):
        encode(loop)


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"k": value}, lambda value: Described(1, value)])
def test_nesting_ends_at_the_limit(wrap: Any) -> None:
    value: Any = "leaf"
    for _ in range(MAX_DEPTH):
        value = wrap(value)
    assert decode(encode(value))[0] == value
    with pytest.raises(AmqpProtocolError):
        encode(wrap(value))


@pytest.mark.parametrize(
    "opening", [b"\x00", b"\xc0\xff\x01", b"\xd0\x00\x00\xff\xff\x00\x00\x00\x01", b"\xe0\xff\x01\xe0"]
)
def test_bytes_that_nest_without_end_are_refused(opening: bytes) -> None:
    with pytest.raises(AmqpProtocolError):
        decode(opening * 10_000)


@pytest.mark.parametrize(
    "claim",
    [
        "b0ffffffff",  # a binary of 4 GiB
        "d0ffffffffffffffff",  # a list of 2^32 items
        "d00000000400ffffff",
        "d1fffffffffffffffe",
        "f0fffffffffffffffe43",
        "f000000005ffffffff40",  # an array of 2^32 nulls, which take no bytes
        "f000000005ffffffff45",
        "f000000005ffffffff41",
        "f00000000600ffffff5000",
        "e002ff43",
    ],
)
def test_sizes_and_counts_are_not_believed(claim: str) -> None:
    data = bytes.fromhex(claim) + bytes(64)
    tracemalloc.start()
    try:
        with pytest.raises(AmqpProtocolError):
            decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize(
    "wire",
    [
        "01",  # no such constructor
        "ff",
        "5602",  # a boolean that is neither
        "a10180",  # not UTF-8
        "a10361eda0",
        "a30180",  # not ASCII
        "730000d800",  # a surrogate
        "7300110000",
        "c0000140",  # a size that leaves no room for its count
        "c0020240",  # more items than bytes
        "c0040140" + "4040",  # bytes left over
        "c1020140",  # a key without a value
        "c1050252014352" + "01",
        "c1090452014352014300",  # the same key twice
        "c1030245" + "40",  # a key that cannot be one
        "c10302c10100",
        "e003014041",
        "e0030100" + "40",
        "e00601005301" + "0040",  # described twice
        "e0020101",
        "0040",
    ],
)
def test_malformed_values_are_refused(wire: str) -> None:
    with pytest.raises(AmqpProtocolError) as caught:
        decode(bytes.fromhex(wire))
    assert caught.value.condition == "amqp:decode-error"


def test_an_offset_beyond_the_end_is_refused() -> None:
    with pytest.raises(AmqpProtocolError):
        decode(b"\x40", 1)


@given(st.integers(0, 5000))
def test_sizes_around_the_borders_of_short_and_long_forms_hold(size: int) -> None:
    for value in (b"x" * size, "x" * size, [None] * size, dict.fromkeys(range(size))):
        assert decode(encode(value))[0] == value


def test_a_subclass_travels_as_its_base() -> None:
    class Name(str):
        __slots__ = ()

    assert encode(Name("a")) == encode("a")
    assert encode(bytearray(b"a")) == encode(memoryview(b"a")) == encode(b"a")
    assert encode((1, 2)) == encode([1, 2])
    assert struct.unpack(">f", encode(Float32(0.1))[1:])[0] == pytest.approx(0.1)
