"""Performatives and what they carry: there and back, in every form that a peer may choose, and what is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.amqp import (
    Accepted,
    AmqpArray,
    AmqpError,
    Attach,
    Begin,
    Close,
    Described,
    Detach,
    Disposition,
    End,
    Flow,
    Modified,
    Open,
    Performative,
    Received,
    Rejected,
    Released,
    Role,
    SaslChallenge,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    SaslResponse,
    Source,
    Symbol,
    Target,
    Transfer,
    Ubyte,
    Uint,
    Ulong,
    Ushort,
    decode_performative,
    encode,
    encode_performative,
)
from renewer.errors import AmqpProtocolError
from tests.amqp.amqp_pair import SCALARS, TEXT, VALUES

BOOLEANS = st.booleans()
UBYTES, USHORTS, UINTS, ULONGS = (SCALARS[kind] for kind in (Ubyte, Ushort, Uint, Ulong))
SYMBOLS = SCALARS[Symbol]
BINARIES = SCALARS[bytes]
PLAIN_VALUES = VALUES.filter(lambda value: value == value)  # NaN is not
MAPS = st.none() | st.dictionaries(SYMBOLS, PLAIN_VALUES, max_size=2).filter(lambda value: value == value)
MANY = st.none() | st.lists(SYMBOLS, max_size=3)
ERRORS = st.builds(AmqpError, SYMBOLS, st.none() | TEXT, MAPS)
STATES = (
    st.builds(Accepted)
    | st.builds(Rejected, st.none() | ERRORS)
    | st.builds(Released)
    | st.builds(Modified, st.none() | BOOLEANS, st.none() | BOOLEANS, MAPS)
    | st.builds(Received, UINTS, ULONGS)
    | st.just(Described(Ulong(0x34), [b"transaction", None]))
)
SOURCES = st.builds(
    Source,
    st.none() | TEXT,
    UINTS,
    SYMBOLS,
    UINTS,
    BOOLEANS,
    MAPS,
    st.none() | SYMBOLS,
    MAPS,
    st.none() | STATES,
    MANY,
    MANY,
)
TARGETS = st.builds(Target, st.none() | TEXT, UINTS, SYMBOLS, UINTS, BOOLEANS, MAPS, MANY)
PERFORMATIVES: st.SearchStrategy[Any] = st.one_of(
    st.builds(Open, TEXT, st.none() | TEXT, UINTS, USHORTS, st.none() | UINTS, MANY, MANY, MANY, MANY, MAPS),
    st.builds(Begin, st.none() | USHORTS, UINTS, UINTS, UINTS, UINTS, MANY, MANY, MAPS),
    st.builds(
        Attach,
        TEXT,
        UINTS,
        BOOLEANS,
        UBYTES,
        UBYTES,
        st.none() | SOURCES,
        st.none() | TARGETS | st.just(Described(Ulong(0x30), [])),
        MAPS,
        BOOLEANS,
        st.none() | UINTS,
        st.none() | ULONGS,
        MANY,
        MANY,
        MAPS,
    ),
    st.builds(Flow, st.none() | UINTS, UINTS, UINTS, UINTS, *[st.none() | UINTS] * 4, BOOLEANS, BOOLEANS, MAPS),
    st.builds(
        Transfer,
        UINTS,
        st.none() | UINTS,
        st.none() | BINARIES,
        st.none() | UINTS,
        st.none() | BOOLEANS,
        BOOLEANS,
        st.none() | UBYTES,
        st.none() | STATES,
        BOOLEANS,
        BOOLEANS,
        BOOLEANS,
    ),
    st.builds(Disposition, BOOLEANS, UINTS, st.none() | UINTS, BOOLEANS, st.none() | STATES, BOOLEANS),
    st.builds(Detach, UINTS, BOOLEANS, st.none() | ERRORS),
    st.builds(End, st.none() | ERRORS),
    st.builds(Close, st.none() | ERRORS),
    st.builds(SaslMechanisms, st.lists(SYMBOLS, max_size=3)),
    st.builds(SaslInit, SYMBOLS, st.none() | BINARIES, st.none() | TEXT),
    st.builds(SaslChallenge, BINARIES),
    st.builds(SaslResponse, BINARIES),
    st.builds(SaslOutcome, UBYTES, st.none() | BINARIES),
)


@given(PERFORMATIVES, st.binary(max_size=5))
def test_a_performative_comes_back_as_it_was_and_the_payload_is_found(
    performative: Performative, payload: bytes
) -> None:
    body = encode_performative(performative)
    assert body[:2] == b"\x00\x53"
    assert decode_performative(body + payload) == (performative, len(body))
    assert decode_performative(memoryview(body + payload)) == (performative, len(body))


@given(PERFORMATIVES)
def test_a_performative_is_read_under_any_form_of_its_descriptor(performative: Performative) -> None:
    body = encode_performative(performative)
    name = "sasl-" if body[2] >= 0x40 else ""
    name += type(performative).__name__.removeprefix("Sasl").lower()
    for descriptor in (b"\x80" + bytes(7) + body[2:3], encode(Symbol(f"amqp:{name}:list"))):
        assert decode_performative(b"\x00" + descriptor + body[3:])[0] == performative


def test_missing_fields_and_nulls_have_the_defaults_of_the_standard() -> None:
    assert decode_performative(b"\x00\x53\x10\xc0\x04\x01\xa1\x01c")[0] == Open("c", None, 0xFFFFFFFF, 0xFFFF)
    nulls = b"\x00\x53\x10\xc0\x0d\x0a\xa1\x01c" + b"\x40" * 9
    assert decode_performative(nulls)[0] == Open("c", None, 0xFFFFFFFF, 0xFFFF)
    assert decode_performative(b"\x00\x53\x16\xc0\x02\x01\x43")[0] == Detach(0, False)
    assert decode_performative(b"\x00\x53\x18\x45")[0] == Close()
    attach = decode_performative(b"\x00\x53\x12\xc0\x06\x03\xa1\x01n\x43\x42")[0]
    assert attach == Attach("n", 0, Role.SENDER, 2, 0)


def test_one_symbol_may_stand_for_an_array_of_one() -> None:
    one = b"\x00\x53\x40\xc0\x0c\x01\xa3\x09ANONYMOUS"
    assert decode_performative(one)[0] == SaslMechanisms(["ANONYMOUS"])
    none = b"\x00\x53\x40\xc0\x05\x01\xe0\x02\x00\xa3"
    assert decode_performative(none)[0] == SaslMechanisms([])


def test_strings_and_symbols_may_stand_for_each_other() -> None:
    error = b"\x00\x53\x1d\xc0\x09\x02\xa1\x01c\xa3\x03why"
    assert decode_performative(b"\x00\x53\x18\xc0\x0f\x01" + error)[0] == Close(AmqpError("c", "why"))


def fields(code: int, *values: Any) -> bytes:
    return encode(Described(Ulong(code), list(values)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"\x00\x53",
        b"\x00\x53\x10",
        b"\x00\x53\x10\x40",
        b"\x00\x53\x10\xc1\x01\x00",
        b"\x45",
        fields(0x28),  # a source is no performative
        fields(0x99),
        b"\x00\xa3\x01a\x45",
        b"\x00\x52\x10\x45",  # a uint is no descriptor of ours
        fields(0x10),  # no container-id
        fields(0x10, None),
        fields(0x10, b"binary"),
        fields(0x10, "c", None, "big"),
        fields(0x10, "c", None, 5),  # a long where a uint belongs
        fields(0x10, "c", None, None, Uint(5)),
        fields(0x10, "c", *[None] * 10),  # a field too many
        fields(0x10, "c", *[None] * 6, "capability"),
        fields(0x10, "c", *[None] * 6, AmqpArray(["capability"])),
        fields(0x10, "c", *[None] * 8, []),
        fields(0x12, "n", Uint(0), Uint(1)),
        fields(0x12, "n", Uint(0), True, Uint(0)),
        fields(0x12, "n", Uint(0), True, None, None, "q"),
        fields(0x12, "n", Uint(0), True, None, None, Described(Ulong(0x28), None)),
        fields(0x12, "n", Uint(0), True, None, None, Described(Ulong(0x28), ["a", 5])),
        fields(0x14, Uint(0), None, "tag"),
        fields(0x14, Uint(0), None, None, None, None, None, None, 5),
        fields(0x15, True),
        fields(0x16, Uint(0), True, Described(Ulong(0x24), [])),
        fields(0x16, Uint(0), True, Described(Ulong(0x1D), [])),
        fields(0x18, Described("error", [])),
    ],
)
def test_what_is_no_performative_is_refused(body: bytes) -> None:
    with pytest.raises(AmqpProtocolError) as caught:
        decode_performative(body)
    assert caught.value.condition == "amqp:decode-error"


@pytest.mark.parametrize(
    "performative",
    [
        Open(None),  # type: ignore[arg-type]
        Open("c", channel_max=65536),
        Open("c", max_frame_size=-1),
        Open("c", properties=["a"]),  # type: ignore[arg-type]
        Open("c", offered_capabilities="a"),
        Open("c", offered_capabilities=["é"]),
        Attach("n", 0, True, 256),
        Attach("n", 0, True, source=Target("t")),  # type: ignore[arg-type]
        Attach("n", 0, True, source="q"),  # type: ignore[arg-type]
        Transfer(0, 1, "tag"),  # type: ignore[arg-type]
        Transfer(0, state=AmqpError("a")),  # type: ignore[arg-type]
        Close(Accepted()),  # type: ignore[arg-type]
        Close(AmqpError("é")),
        "no performative",
    ],
)
def test_what_has_no_amqp_form_is_refused(performative: Any) -> None:
    with pytest.raises(AmqpProtocolError) as caught:
        encode_performative(performative)
    assert caught.value.condition == "amqp:invalid-field"


def test_an_error_names_the_field() -> None:
    with pytest.raises(AmqpProtocolError, match="amqp:open:list: max-frame-size is not uint"):
        decode_performative(fields(0x10, "c", None, "big"))
