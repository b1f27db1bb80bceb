"""Spans say the same as the decoder, and fail in one way only."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.amqp import (
    AmqpArray,
    AmqpError,
    Attach,
    Begin,
    Detach,
    Disposition,
    Flow,
    Modified,
    Open,
    Performative,
    Received,
    Source,
    Symbol,
    Target,
    Timestamp,
    Transfer,
    Uint,
    decode,
    decode_performative,
    encode,
    encode_performative,
)
from renewer.amqp.composite import schema_of
from renewer.amqp.spans import (
    MAX_FIELDS,
    Fields,
    array_of_fixed,
    descriptor_at,
    is_null,
    items,
    pairs,
    performative_fields,
    skip,
    splice,
    text_at,
)
from renewer.errors import AmqpProtocolError
from tests.amqp.amqp_pair import VALUES, same

PERFORMATIVES: list[Performative] = [
    Open("c", "h", 1024, 7, 60_000, offered_capabilities=["a", "b"], properties={"product": "x"}),
    Begin(None, 0, 65536, 65536),
    Attach("n", 1, True, 0, 1, Source("q", filter={"f": "x"}), Target("t"), properties={"a": Uint(1)}),
    Flow(1, 2, 3, 4, 5, 6, 70_000),
    Transfer(1, 2, b"tag", 0, False),
    Disposition(True, 5, 900, True, Modified(True, False, {"a": 1})),
    Detach(3, True, AmqpError("amqp:not-found", "no such queue", {"code": 7})),
]
BODIES = st.sampled_from([encode_performative(performative) for performative in PERFORMATIVES])


def garbled(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(changed) + 1)
        match draw.randrange(4):
            case 0 if at < len(changed):
                changed[at] = draw.randrange(256)
            case 1 if at < len(changed):
                changed[at] ^= 1 << draw.randrange(8)
            case 2:
                del changed[at : at + draw.randint(1, 8)]
            case _:
                changed[at:at] = draw.randbytes(draw.randint(1, 8))
    return bytes(changed)


def values_of(body: bytes, fields: Fields) -> list[Any]:
    return [decode(body, start)[0] for start, _ in fields.spans]


# Values ---------------------------------------------------------------------------------------------------------------


@given(VALUES, st.binary(max_size=5))
def test_a_value_is_skipped_to_where_the_next_one_starts(value: Any, rest: bytes) -> None:
    data = encode(value)
    assert skip(data + rest, 0) == len(data)
    assert skip(bytearray(b"\x40" + data + rest), 1) == len(data) + 1
    assert skip(memoryview(data + rest), 0, len(data)) == len(data)


@given(VALUES, st.data())
def test_a_value_that_is_cut_off_is_an_error(value: Any, data: st.DataObject) -> None:
    whole = encode(value)
    end = data.draw(st.integers(0, len(whole) - 1))
    for cut in ((whole[:end], None), (whole, end)):
        with pytest.raises(AmqpProtocolError):
            skip(cut[0], 0, cut[1])


@pytest.mark.parametrize("nested", [b"\x00" * 100 + b"\x40" * 101, (b"\x00\x53\x01" * 100) + b"\x40"])
def test_descriptors_of_descriptors_end_somewhere(nested: bytes) -> None:
    with pytest.raises(AmqpProtocolError, match="deeper than 32"):
        skip(nested, 0)


def test_a_described_descriptor_is_skipped() -> None:
    data = b"\x00\x00\x53\x01\x53\x02\x41"  # described(described(1, 2), true)
    assert decode(data)[1] == skip(data, 0) == len(data)
    data = b"\x00\x00\x00\x53\x01\x53\x02\x53\x03\x41"
    assert decode(data)[1] == skip(data, 0) == len(data)


@pytest.mark.parametrize("code", [0x01, 0x3F, 0x46, 0x57, 0x62, 0x75, 0x85, 0x99, 0xA2, 0xC2, 0xD2, 0xE1, 0xFF])
def test_a_constructor_that_nobody_knows_is_an_error(code: int) -> None:
    with pytest.raises(AmqpProtocolError, match="unknown constructor"):
        skip(bytes([code]) + bytes(40), 0)


# Lists, maps, arrays --------------------------------------------------------------------------------------------------


@given(st.lists(VALUES, max_size=5))
def test_the_items_of_a_list_are_found(values: list[Any]) -> None:
    data = encode(values)
    assert same([decode(data, start)[0] for start, _ in items(data, 0)], values)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=5))
def test_the_pairs_of_a_map_are_found(values: dict[str, Any]) -> None:
    data = encode(values)
    found = {decode(data, key[0])[0]: decode(data, value[0])[0] for key, value in pairs(data, 0)}
    assert same(found, values)


def test_a_map_that_is_null_has_no_pairs() -> None:
    assert list(pairs(b"\x40", 0)) == []


def test_a_map_with_a_key_too_many_is_an_error() -> None:
    with pytest.raises(AmqpProtocolError, match="no value"):
        list(pairs(bytes.fromhex("c10403404040"), 0))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x41",
        b"\xc0",
        b"\xc0\x01",
        bytes.fromhex("c005014040"),  # says more bytes than there are
        bytes.fromhex("c0030440"),
        bytes.fromhex("c003034040"),  # more items than bytes
        bytes.fromhex("c003014040"),  # bytes left over
        bytes.fromhex("d00000000440"),
        bytes.fromhex("d0ffffffffffffffff40"),
    ],
)
def test_a_list_whose_size_lies_is_an_error(data: bytes) -> None:
    with pytest.raises(AmqpProtocolError):
        list(items(data, 0))
    with pytest.raises(AmqpProtocolError):
        performative_fields(b"\x00\x53\x14" + data)


def test_the_timestamps_of_an_array_are_found() -> None:
    data = encode(AmqpArray([Timestamp(5), Timestamp(6)], Timestamp))
    code, first, width, count = array_of_fixed(data, 0)
    assert (code, width, count) == (0x83, 8, 2)
    assert data[first : first + 16] == bytes(7) + b"\x05" + bytes(7) + b"\x06"
    assert array_of_fixed(bytes.fromhex("e00a0183") + bytes(8), 0) == (0x83, 4, 8, 1)
    assert array_of_fixed(b"\xe0\x01\x00", 0) == (0x40, 3, 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xe0",
        b"\xf0\x00",
        b"\xc0\x01\x00",
        b"\xe0\x01\x01",
        b"\xe0\x00\x00",
        b"\xe0\x03\x02\x83\x00",
        b"\xe0\x05\x01\xa1\x02hi",
        b"\xe0\x09\x01\x83\x00",
        b"\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x83",
    ],
)
def test_an_odd_array_is_an_error(data: bytes) -> None:
    with pytest.raises(AmqpProtocolError):
        array_of_fixed(data, 0)


def test_texts_of_every_width_are_read() -> None:
    for value in ("a", Symbol("a"), b"a", "a" * 300, Symbol("a" * 300), b"a" * 300):
        data = encode(value)
        assert text_at(data, (0, len(data))) == (value if isinstance(value, bytes) else value.encode())
    assert text_at(b"\x41", (0, 1)) is None


# Performatives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("performative", PERFORMATIVES, ids=lambda performative: type(performative).__name__)
def test_the_fields_of_a_performative_are_those_that_are_decoded(performative: Performative) -> None:
    body = encode_performative(performative) + b"payload"
    fields = performative_fields(body)
    described, end = decode(body)
    assert fields.end == end
    assert fields.code == described.descriptor
    assert same(values_of(body, fields), described.value)
    assert schema_of(described.descriptor) is not None
    assert performative_fields(memoryview(b"xx" + body), 2).end == end + 2
    assert [is_null(body, span) for span in fields.spans] == [value is None for value in described.value]


@pytest.mark.parametrize("performative", PERFORMATIVES, ids=lambda performative: type(performative).__name__)
def test_every_form_of_a_descriptor_is_understood(performative: Performative) -> None:
    body = encode_performative(performative)
    schema = schema_of(decode(body)[0].descriptor)
    assert schema is not None
    for descriptor in (
        b"\x80" + schema.code.to_bytes(8, "big"),
        encode(Symbol(schema.symbol)),
        b"\xb3" + len(schema.symbol).to_bytes(4, "big") + schema.symbol.encode(),
    ):
        other = b"\x00" + descriptor + body[3:]
        fields = performative_fields(other)
        assert fields.code == schema.code
        assert fields.start == 1 + len(descriptor)
        assert same(values_of(other, fields), values_of(body, performative_fields(body)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"\x00\x53",
        b"\x00\x53\x14",
        b"\x53\x14\x45",
        b"\x00\x53\x14\x40",
        b"\x00\x53\x14\xc1\x01\x00",
        b"\x00\x54\x14\x45",
        b"\x00\x80\x00\x00\x45",
        b"\x00\xa3\x09amqp:nope\x45",
        b"\x00\xa3\x40amqp:open:list\x45",
    ],
)
def test_what_is_no_performative_is_an_error(body: bytes) -> None:
    with pytest.raises(AmqpProtocolError):
        performative_fields(body)


def test_an_empty_list_has_no_fields() -> None:
    assert performative_fields(b"\x00\x53\x24\x45") == Fields(0x24, (), 3, 4)
    assert descriptor_at(b"\x00\x44\x45", 0) == (0, 2)


def test_a_list_of_very_many_fields_is_an_error() -> None:
    body = b"\x00\x53\x14\xc0" + bytes([MAX_FIELDS + 2, MAX_FIELDS + 1]) + b"\x40" * (MAX_FIELDS + 1)
    with pytest.raises(AmqpProtocolError, match="too many"):
        performative_fields(body)


def test_nothing_beyond_the_end_belongs_to_a_performative() -> None:
    body = encode_performative(Transfer(1, 2, b"tag"))
    assert performative_fields(body + b"x", 0, len(body)).end == len(body)
    with pytest.raises(AmqpProtocolError):
        performative_fields(body + b"x", 0, len(body) - 1)


# Splicing -------------------------------------------------------------------------------------------------------------


@given(BODIES, st.integers(0, 20), VALUES, st.binary(max_size=10))
def test_a_spliced_field_is_the_only_one_that_changes(body: bytes, index: int, value: Any, payload: bytes) -> None:
    fields = performative_fields(body)
    spliced = splice(body + payload, fields, {index: encode(value)})
    after = performative_fields(spliced)
    assert spliced[after.end :] == payload
    assert spliced[: after.start] == body[: fields.start]
    kept = [body[start:end] for start, end in fields.spans]
    found = [spliced[start:end] for start, end in after.spans]
    kept += [b"\x40"] * (index + 1 - len(kept))
    kept[index] = encode(value)
    assert found == kept


def test_a_list_grows_out_of_its_small_form_and_into_it() -> None:
    body = encode_performative(Open("c", "h"))
    fields = performative_fields(body)
    assert body[fields.start] == 0xC0
    long = splice(body, fields, {1: encode("h" * 300)})
    assert decode_performative(long)[0] == Open("c", "h" * 300)
    short = splice(long, performative_fields(long), {1: encode("h")})
    assert short[performative_fields(short).start] == 0xD0
    assert decode_performative(short)[0] == Open("c", "h")


def test_a_list_without_fields_can_get_some() -> None:
    body = b"\x00\x53\x18\x45rest"
    assert splice(body, performative_fields(body), {1: b"\x41"}) == b"\x00\x53\x18\xc0\x03\x02\x40\x41rest"
    assert splice(body, performative_fields(body), {}) == b"\x00\x53\x18\xc0\x01\x00rest"


# Noise ----------------------------------------------------------------------------------------------------------------


@given(
    st.binary(max_size=60) | BODIES | st.builds(garbled, BODIES | VALUES.map(encode), st.randoms(use_true_random=False))
)
def test_bytes_that_make_no_sense_fail_in_one_way_only(data: bytes) -> None:
    for look in (skip, performative_fields, descriptor_at, array_of_fixed):
        with suppress(AmqpProtocolError):
            look(data, 0)
    for walk in (items, pairs):
        with suppress(AmqpProtocolError):
            list(walk(data, 0))


@given(st.builds(garbled, BODIES, st.randoms(use_true_random=False)))
def test_what_is_decoded_has_spans_and_what_has_none_is_not_decoded(data: bytes) -> None:
    try:
        performative, end = decode_performative(data)
    except AmqpProtocolError:
        return
    fields = performative_fields(data)
    assert fields.end == end
    assert type(performative) is schema_of(decode(data)[0].descriptor).cls  # type: ignore[union-attr]


def test_states_are_described_lists_too() -> None:
    body = encode_performative(Disposition(True, 1, 1, False, Received(1, 2)))
    state = performative_fields(body).spans[4]
    assert performative_fields(body, *state).code == 0x23
