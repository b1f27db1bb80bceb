"""The quick reading of plain replies says what reading the whole message says, or nothing."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.amqp import AmqpArray, Data, Header, Int, Message, MessageProperties, Timestamp, Value, decode_performative
from renewer.errors import AmqpProtocolError
from renewer.targets.servicebus.envelope import read_reply
from renewer.targets.servicebus.plainreply import read_plain_reply
from tests.amqp.captured_frames import TRANSFERS

ID = UUID("0123456789abcdef0123456789abcdef")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
ids = st.none() | st.uuids() | st.binary(max_size=20) | texts
values = st.none() | texts | st.binary(max_size=20) | st.integers(-5, 700).map(Int) | st.booleans() | st.just([1, "x"])


OK = Int(200)


def reply(status: Any = OK, *, body: Any = None, name: str = "statusCode", **more: Any) -> bytes:
    message = Message(
        properties=MessageProperties(correlation_id=ID),
        application_properties={name: status, **more},
        body=Value({"expiration": Timestamp(1)} if body is None else body),
    )
    return message.encode()


def payload_of(transfer: bytes) -> bytes:
    return transfer[decode_performative(transfer)[1] :]


def as_whole(payload: bytes) -> tuple[bytes, int, object]:
    """What reading the whole message says."""
    whole = Message.decode(payload)
    assert whole.properties is not None
    assert whole.body is None or isinstance(whole.body, Value)
    fields = whole.application_properties
    status = fields.get("statusCode", fields.get("status-code"))
    return whole.properties.correlation_id.bytes, status, whole.body and whole.body.value


def test_a_renewal_is_read() -> None:
    assert read_plain_reply(reply(Int(202))) == (ID.bytes, 202, {"expiration": 1})


def test_what_else_the_broker_says_does_not_hinder() -> None:
    more = {"statusDescription": "OK", "com.microsoft:tracking-id": "x" * 100, "errorCondition": None}
    assert read_plain_reply(reply(**more)) == (ID.bytes, 200, {"expiration": 1})


def test_both_names_of_the_status_are_known() -> None:
    assert read_plain_reply(reply(name="status-code")) == (ID.bytes, 200, {"expiration": 1})


@pytest.mark.parametrize("header", [b"\x45", b"\xc0\x02\x01\x42", b"\xd0\x00\x00\x00\x05\x00\x00\x00\x01\x41"])
@pytest.mark.parametrize("annotations", [b"", b"\x00\x53\x71\xc1\x01\x00\x00\x53\x72\xc1\x05\x02\xa3\x01x\x41"])
def test_a_header_and_annotations_do_not_hinder(header: bytes, annotations: bytes) -> None:
    payload = b"\x00\x53\x70" + header + annotations + reply()
    assert read_plain_reply(payload) == (ID.bytes, 200, {"expiration": 1})
    whole = Message.decode(payload)
    assert whole.properties is not None
    assert whole.properties.correlation_id == ID


def test_sizes_of_four_bytes_are_read() -> None:
    body = bytes.fromhex("005377 c1 16 02 a10a") + b"expiration" + b"\x83" + bytes(8)
    properties = b"\x40" * 5 + b"\x98" + ID.bytes
    status = b"\xa1\x01x\x41" + b"\xa1\x0astatusCode\x71" + struct.pack(">i", 200)
    payload = b"".join(
        (
            b"\x00\x53\x73\xd0" + struct.pack(">II", 4 + len(properties), 6) + properties,
            b"\x00\x53\x74\xd1" + struct.pack(">II", 4 + len(status), 4) + status,
            body,
        )
    )
    assert read_plain_reply(payload) == (ID.bytes, 200, {"expiration": 0})


@pytest.mark.parametrize("code", ["71000000c8", "8100000000000000c8", "52c8"], ids=["int", "long", "small uint"])
def test_a_status_is_read_as_whatever_whole_number_it_comes(code: str) -> None:
    payload = reply().replace(bytes.fromhex("71000000c8"), bytes.fromhex(code))
    length = payload.index(b"\x00\x53\x74\xc1") + 4
    payload = payload[:length] + bytes((payload[length] + len(code) // 2 - 5,)) + payload[length + 1 :]
    assert read_plain_reply(payload) == (ID.bytes, 200, {"expiration": 1})
    assert read_reply(payload) == (ID.bytes, (200, None, None, {"expiration": 1}))


def test_a_reply_without_a_body_is_read() -> None:
    message = Message(None, MessageProperties(correlation_id=ID), {"status-code": Int(202)})
    assert read_plain_reply(message.encode()) == (ID.bytes, 202, None)
    assert read_plain_reply(message.encode() + b"\x00") is None
    assert read_plain_reply(Message(Data([b""]), message.properties, {"status-code": Int(202)}).encode()) is None


@pytest.mark.parametrize("name", [name for name in TRANSFERS if "message" not in name])
def test_replies_as_others_write_them_are_read(name: str) -> None:
    payload = payload_of(TRANSFERS[name])
    plain = read_plain_reply(payload)
    assert plain is not None
    assert plain == as_whole(payload)


@pytest.mark.parametrize("name", TRANSFERS)
def test_no_octet_of_what_others_write_makes_it_raise_or_say_something_else(name: str) -> None:
    payload = payload_of(TRANSFERS[name])
    for at, octet in enumerate(payload):
        for changed in {octet ^ 1 << bit for bit in range(8)} | set(bytes.fromhex("00404345527181a1c1d1")):
            broken = payload[:at] + bytes((changed,)) + payload[at + 1 :]
            plain = read_plain_reply(broken)
            if plain is not None:
                with suppress(AmqpProtocolError):  # Something in what is passed over.
                    assert plain == as_whole(broken)
        read_plain_reply(payload[:at])


@pytest.mark.parametrize("status", [Int(199), Int(300), Int(410), Int(-200), "200", None, True])
def test_what_is_no_success_is_read_whole(status: object) -> None:
    assert read_plain_reply(reply(status)) is None


@given(
    properties=st.builds(
        MessageProperties, ids, st.none() | st.binary(max_size=9), texts, texts, texts, st.one_of(st.just(ID), ids)
    ),
    more=st.dictionaries(texts, values, max_size=4),
    status=st.sampled_from([Int(200), Int(299), Int(404)]),
    name=st.sampled_from(["statusCode", "status-code", "state"]),
    body=values | st.just(AmqpArray([Timestamp(5)], Timestamp)),
    header=st.none() | st.just(Header(durable=True)),
    cut=st.just(0) | st.integers(0, 9),
)
def test_it_says_what_the_whole_message_says(
    properties: MessageProperties,
    more: dict[str, Any],
    status: int,
    name: str,
    body: Any,
    header: Header | None,
    cut: int,
) -> None:
    message = Message(Value(body), properties, {**more, name: status}, header=header)
    payload = message.encode()
    payload = payload[: len(payload) - cut]
    plain = read_plain_reply(payload)
    if plain is None:
        return
    assert plain == as_whole(payload)


@given(st.binary(max_size=80), st.sampled_from([b"", b"\x00\x53\x73\xc0", reply()[:-30], reply()]))
def test_no_bytes_make_it_raise(noise: bytes, head: bytes) -> None:
    read_plain_reply(head + noise)


def test_a_flipped_byte_never_gives_another_request_or_status() -> None:
    payload = reply(statusDescription="OK", body={"expiration": Timestamp(1_700_000_000_000)})
    for at in range(len(payload)):
        for bit in range(8):
            broken = bytearray(payload)
            broken[at] ^= 1 << bit
            plain = read_plain_reply(bytes(broken))
            if plain is None:
                continue
            try:
                whole = Message.decode(bytes(broken))
            except AmqpProtocolError:
                continue  # Something in what is passed over.
            assert whole.properties is not None
            assert plain[0] == whole.properties.correlation_id.bytes
            assert plain[1] == whole.application_properties["statusCode"]


def test_of_what_is_not_plain_the_words_are_kept() -> None:
    key, said = read_reply(reply(Int(410), statusDescription="gone", errorCondition="com.microsoft:session-lock-lost"))
    assert key == ID.bytes
    assert said[:3] == (410, "com.microsoft:session-lock-lost", "gone")


def test_a_reply_to_another_kind_of_id_is_read_whole() -> None:
    named = uuid4()
    message = Message(Value({}), MessageProperties(correlation_id=str(named)), {"statusCode": Int(200)})
    assert read_plain_reply(message.encode()) is None
    assert read_reply(message.encode()) == (named.bytes, (200, None, None, {}))
