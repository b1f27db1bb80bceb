"""Messages: sections there and back, and what is no message."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.amqp import (
    Data,
    Described,
    Header,
    Message,
    MessageProperties,
    Sequence,
    Symbol,
    Timestamp,
    Ubyte,
    Uint,
    Ulong,
    Value,
    encode,
)
from renewer.errors import AmqpProtocolError
from tests.amqp.amqp_pair import SCALARS, TEXT, VALUES, same

MAYBE_TEXT = st.none() | TEXT
UINTS = SCALARS[Uint]
IDS = st.none() | SCALARS[Ulong] | st.uuids() | st.binary(max_size=20) | TEXT
MAPS = st.dictionaries(SCALARS[Symbol] | SCALARS[Ulong], VALUES, max_size=3)
HEADERS = st.builds(Header, st.booleans(), SCALARS[Ubyte], st.none() | UINTS, st.booleans(), UINTS)
PROPERTIES = st.builds(
    MessageProperties,
    IDS,
    st.none() | st.binary(max_size=20),
    MAYBE_TEXT,
    MAYBE_TEXT,
    MAYBE_TEXT,
    IDS,
    st.none() | SCALARS[Symbol],
    st.none() | SCALARS[Symbol],
    st.none() | SCALARS[Timestamp],
    st.none() | SCALARS[Timestamp],
    MAYBE_TEXT,
    st.none() | UINTS,
    MAYBE_TEXT,
)
BODIES = (
    st.none()
    | st.builds(Data, st.lists(st.binary(max_size=300), min_size=1, max_size=3))
    | st.builds(Sequence, st.lists(st.lists(VALUES, max_size=3), min_size=1, max_size=3))
    | st.builds(Value, VALUES)
)
MESSAGES = st.builds(
    Message,
    body=BODIES,
    properties=st.none() | PROPERTIES,
    application_properties=st.dictionaries(TEXT, VALUES, max_size=3),
    message_annotations=MAPS,
    delivery_annotations=MAPS,
    header=st.none() | HEADERS,
    footer=MAPS,
)


def parts(message: Message) -> list[Any]:
    body = message.body
    match body:
        case Data(chunks):
            held: Any = list(chunks)
        case Sequence(lists):
            held = lists
        case Value(value):
            held = value
        case None:
            held = None
    return [
        type(body).__name__,
        held,
        message.application_properties,
        message.message_annotations,
        message.delivery_annotations,
        message.footer,
    ]


@given(MESSAGES)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    again = Message.decode(message.encode())
    assert same(parts(again), parts(message))
    assert again.header == message.header
    assert again.properties == message.properties


def test_an_empty_message_is_no_bytes() -> None:
    assert Message().encode() == b""
    assert Message.decode(b"") == Message()


def test_sections_are_written_in_the_order_of_the_standard() -> None:
    message = Message(
        body=Value(1),
        properties=MessageProperties(message_id="m"),
        application_properties={"a": 1},
        message_annotations={"b": 1},
        delivery_annotations={"c": 1},
        header=Header(),
        footer={"d": 1},
    )
    data = message.encode()
    order = [data.index(b"\x00\x53" + bytes([code])) for code in range(0x70, 0x79) if code not in (0x75, 0x76)]
    assert order == sorted(order)
    assert order[0] == 0


def test_string_keys_of_annotations_are_written_as_symbols() -> None:
    again = Message.decode(Message(message_annotations={"x-opt-a": 1}, application_properties={"x": 1}).encode())
    assert type(next(iter(again.message_annotations))) is Symbol
    assert type(next(iter(again.application_properties))) is str


@pytest.mark.parametrize("identifier", [5, Ulong(5), UUID(int=5), b"5", "5"])
def test_message_ids_keep_their_type(identifier: Any) -> None:
    again = Message.decode(
        Message(properties=MessageProperties(message_id=identifier, correlation_id=identifier)).encode()
    )
    assert again.properties is not None
    assert again.properties.message_id == again.properties.correlation_id == identifier
    assert type(again.properties.message_id) is (Ulong if identifier == 5 else type(identifier))


def test_null_is_a_value_and_an_empty_map_may_be_null() -> None:
    assert Message.decode(Message(body=Value(None)).encode()).body == Value(None)
    assert Message.decode(b"\x00\x53\x74\x40\x00\x53\x72\x40") == Message()


def test_descriptors_are_read_in_every_form() -> None:
    long = b"\x00\x80\x00\x00\x00\x00\x00\x00\x00\x77\x41"
    symbolic = b"\x00" + encode(Symbol("amqp:amqp-value:*")) + b"\x41"
    assert Message.decode(long) == Message.decode(symbolic) == Message(body=Value(True))
    assert Message.decode(memoryview(long)) == Message(body=Value(True))


def test_sections_may_stand_in_any_order() -> None:
    data = b"\x00\x53\x77\x41" + b"\x00\x53\x71\xc1\x05\x02\xa3\x01d\x41"
    assert Message.decode(data) == Message(body=Value(True), delivery_annotations={"d": True})


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x53\x77\x41\x00\x53\x77\x41",  # two values
        b"\x00\x53\x75\xa0\x00\x00\x53\x76\x45",  # a body of two kinds
        b"\x00\x53\x76\x45\x00\x53\x75\xa0\x00",
        b"\x00\x53\x77\x41\x00\x53\x75\xa0\x00",
        b"\x00\x53\x70\x45\x00\x53\x70\x45",  # two headers
        b"\x00\x53\x75\x45",  # data that is a list
        b"\x00\x53\x76\xa0\x00",
        b"\x00\x53\x74\x45",  # properties that are a list
        b"\x00\x53\x73\xc1\x01\x00",
        b"\x00\x53\x79\x41",  # no such section
        b"\x00\x53\x10\x45",
        b"\x00\xa3\x01a\x41",
        b"\x00\x43\x41",
        b"\x41",
        b"\x00",
        b"\x00\x53",
        b"\x00\x53\x77",
        b"\x00\x53\x73\xc0\x02\x01\x41",  # an id that is a boolean
        b"\x00\x53\x70\xc0\x02\x01\x43",  # durable that is a number
        b"\x00\x53\x70\xc0\x07\x06" + b"\x40" * 6,  # too many fields
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(AmqpProtocolError):
        Message.decode(data)


def test_a_body_is_not_shown() -> None:
    assert "geheim" not in repr(Message(body=Value("geheim")))


@pytest.mark.parametrize(
    "message",
    [
        Message(body=Value(object())),
        Message(properties=MessageProperties(message_id=1.5)),
        Message(properties=MessageProperties(message_id=-1)),
        Message(properties=MessageProperties(to=5)),  # type: ignore[arg-type]
        Message(properties=MessageProperties(group_sequence=-1)),
        Message(header=Header(priority=256)),
        Message(application_properties={"a": Described(1, object())}),
        Message(body=Data(["text"])),  # type: ignore[list-item]
        Message(body=Sequence(["text"])),  # type: ignore[list-item]
    ],
)
def test_what_has_no_amqp_form_is_refused(message: Message) -> None:
    with pytest.raises(AmqpProtocolError) as caught:
        message.encode()
    assert caught.value.condition == "amqp:invalid-field"
