"""AMQP values as JSON: nothing is lost on the way there and back, whatever a broker sends."""

from __future__ import annotations

import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    decode,
    encode,
)
from renewer.api.amqpvalues import TypedValue, amqp_value, typed_json
from renewer.api.jsonpieces import Members, json_pieces
from renewer.errors import AmqpProtocolError

WHOLE = {
    Ubyte: (0, 2**8 - 1),
    Ushort: (0, 2**16 - 1),
    Uint: (0, 2**32 - 1),
    Ulong: (0, 2**64 - 1),
    Byte: (-(2**7), 2**7 - 1),
    Short: (-(2**15), 2**15 - 1),
    Int: (-(2**31), 2**31 - 1),
    int: (-(2**63), 2**63 - 1),
    Timestamp: (-(2**63), 2**63 - 1),
}
SINGLE = {
    type(None): st.none(),
    bool: st.booleans(),
    str: st.text(),
    float: st.floats(allow_nan=False),
    Float32: st.floats(width=32, allow_nan=False).map(Float32),
    bytes: st.binary(),
    uuid.UUID: st.uuids(),
    Char: st.characters(codec="utf-8").map(Char),
    Symbol: st.text(st.characters(max_codepoint=127)).map(Symbol),
    Decimal32: st.binary(min_size=4, max_size=4).map(Decimal32),
    Decimal64: st.binary(min_size=8, max_size=8).map(Decimal64),
    Decimal128: st.binary(min_size=16, max_size=16).map(Decimal128),
    **{kind: st.integers(*bounds).map(kind) for kind, bounds in WHOLE.items()},
}
singles = st.one_of(*SINGLE.values())


def arrays(inner):
    of_one_kind = st.sampled_from(list(SINGLE)).flatmap(
        lambda kind: st.lists(SINGLE[kind], max_size=4).map(lambda items: AmqpArray(items, kind))
    )
    described = st.lists(SINGLE[Uint], max_size=3).map(lambda items: AmqpArray(items, Uint, Symbol("a:b")))
    of_lists = st.lists(st.lists(inner, max_size=3), max_size=3).map(lambda items: AmqpArray(items, list))
    nested = st.lists(of_one_kind, max_size=3).map(lambda items: AmqpArray(items, AmqpArray))
    return of_one_kind | described | of_lists | nested


values = st.recursive(
    singles,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(singles, inner, max_size=4)
        | st.builds(Described, SINGLE[Ulong] | SINGLE[Symbol], inner)
        | arrays(inner)
    ),
    max_leaves=20,
)


def written(value) -> object:
    """The JSON of a value, as whoever reads it has it."""
    return json.loads(b"".join(json_pieces(typed_json(value), piece=50)))


@given(values)
def test_a_value_comes_back_from_json_as_it_went(value):
    sent = encode(value)
    value = decode(sent)[0]
    assert encode(amqp_value(written(value))) == encode(value)


@given(singles)
def test_what_was_received_can_be_sent_again_as_a_property(value):
    assert encode(amqp_value(TypedValue.model_validate(written(value)))) == encode(value)


@given(st.binary(max_size=200))
def test_whatever_can_be_decoded_is_shown_and_read_again(data):
    try:
        value = decode(data)[0]
    except AmqpProtocolError:
        return
    try:
        again = encode(value)
    except AmqpProtocolError:
        # Read with its descriptor one level deeper than it may be written.
        return
    if "NaN" not in json.dumps(written(value)):  # Of these there are many, and JSON tells of one.
        assert encode(amqp_value(written(value))) == again


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (7, {"type": "long", "value": "7"}),
        (Ulong(2**64 - 1), {"type": "ulong", "value": "18446744073709551615"}),
        (Uint(7), {"type": "uint", "value": 7}),
        (True, {"type": "boolean", "value": True}),
        (None, {"type": "null", "value": None}),
        (float("nan"), {"type": "double", "value": "NaN"}),
        (Float32("-inf"), {"type": "float", "value": "-Infinity"}),
        (b"\x00\xff", {"type": "binary", "value": "AP8="}),
        (Timestamp(1_767_312_000_005), {"type": "timestamp", "value": "2026-01-02T00:00:00.005Z"}),
        (Timestamp(2**62), {"type": "timestamp", "value": 2**62}),
        (uuid.UUID(int=1), {"type": "uuid", "value": "00000000-0000-0000-0000-000000000001"}),
        (Decimal32(b"\x00\x00\x00\x00"), {"type": "decimal32", "value": "AAAAAA=="}),
        ([1, "a"], {"type": "list", "value": [{"type": "long", "value": "1"}, {"type": "string", "value": "a"}]}),
        (
            {Symbol("k"): Ubyte(1)},
            {"type": "map", "value": [[{"type": "symbol", "value": "k"}, {"type": "ubyte", "value": 1}]]},
        ),
        (AmqpArray([1, 2], int), {"type": "array", "of": "long", "value": ["1", "2"]}),
        (
            Described(Ulong(5), "x"),
            {
                "type": "described",
                "descriptor": {"type": "ulong", "value": "5"},
                "value": {"type": "string", "value": "x"},
            },
        ),
    ],
)
def test_a_value_names_its_type(value, shown):
    assert written(value) == shown


@pytest.mark.parametrize(
    "given_",
    [
        {"type": "secret", "value": 1},
        {"value": 1},
        {"type": []},
        [1],
        2**63,
        {"type": "long", "value": "9" * 30},
        {"type": "long", "value": "secret"},
        {"type": "ubyte", "value": "7"},
        {"type": "double", "value": "secret"},
        {"type": "double", "value": 10**400},
        {"type": "decimal64", "value": "AAAA"},
        {"type": "list", "value": "secret"},
        {"type": "list", "value": [[1]]},
        {"type": "map", "value": [[1]]},
        {"type": "map", "value": [[1, 2], [1, 3]]},
        {"type": "map", "value": [[{"type": "list", "value": []}, 3]]},
        {"type": "array", "value": []},
        {"type": "array", "of": "described", "value": []},
        {"type": "array", "of": "list", "value": [1]},
        {"type": "array", "of": "uint", "value": [-1]},
        {"type": "uint", "value": 1, "of": "uint"},
        {"type": "uint", "value": 1, "descriptor": 1},
    ],
)
def test_what_means_no_value_is_refused_without_being_repeated(given_):
    with pytest.raises(ValueError, match=r"must|is no|has|goes|beyond|too") as caught:
        amqp_value(given_)
    assert "secret" not in str(caught.value)


def test_values_that_are_nested_for_ever_are_refused():
    value: object = 1
    for _ in range(500):
        value = {"type": "list", "value": [value]}
    with pytest.raises(ValueError, match="deep"):
        amqp_value(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values, st.integers(1, 100))
def test_json_in_pieces_is_json(document, piece):
    assert json.loads(b"".join(json_pieces(document, piece=piece))) == document


def test_what_is_large_is_written_in_pieces():
    long, raw = "é" * 200_000, bytes(range(256)) * 1000
    document = Members([("text", long), ("raw", raw), ("many", (number for number in range(50_000))), ("nan", 1e400)])
    pieces = list(json_pieces(document))
    assert max(map(len, pieces)) < 256 * 1024
    assert len(pieces) > 8
    read = json.loads(b"".join(pieces))
    assert (read["text"], read["many"][-1], read["nan"]) == (long, 49_999, None)
    assert amqp_value({"type": "binary", "value": read["raw"]}) == raw
