"""Put-token requests and their replies: the token changes, and nothing else."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.amqp import Data, Header, Int, Message, MessageProperties, Symbol, Timestamp, Ulong, Value
from renewer.emulator.broker.sas import parse_sas
from renewer.errors import AmqpProtocolError
from renewer.gateway.puttoken import correlation, invalid, read_put_token, refusal, reply_status, request_id, rewrite
from tests.gateway import sdk_bytes
from tests.gateway.sdk_bytes import garbled

ID = UUID("01234567-89ab-cdef-0123-456789abcdef")
SECRET = "SharedAccessSignature sr=x&sig=topsecret&se=1&skn=local"
AUDIENCE = "sb://127.0.0.1:5672/orders"
FROM_SDK = sdk_bytes.put_token(SECRET, AUDIENCE, ID, datetime(2027, 1, 1, tzinfo=UTC))


def request(**changes: Any) -> Message:
    fields = {"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": AUDIENCE}
    given = {
        "body": Value(SECRET),
        "properties": MessageProperties(ID, reply_to="cbs"),
        "application_properties": fields,
    }
    return Message(**{**given, **changes})


def reply(message_id: Any = ID, fields: dict[str, Any] | None = None) -> Message:
    fields = {"status-code": Int(202), "status-description": "Accepted"} if fields is None else fields
    return Message(properties=MessageProperties(correlation_id=message_id), application_properties=fields)


def test_the_request_of_the_sdk_is_read() -> None:
    put = read_put_token(FROM_SDK)
    assert put is not None
    assert (put.operation, put.kind, put.audience, put.token) == ("put-token", "jwt", AUDIENCE, SECRET)
    assert request_id(put) == put.key == correlation(reply().encode())
    assert "topsecret" not in repr(put)


def test_a_rewritten_request_of_the_sdk_differs_in_the_token_alone() -> None:
    put = read_put_token(FROM_SDK)
    assert put is not None
    there = rewrite(put, audience="sb://ns/orders", kind="servicebus.windows.net:sastoken", token="ours", expires_at=5)
    before, after = Message.decode(FROM_SDK), Message.decode(there)
    assert after == replace(
        before,
        body=Value("ours"),
        application_properties={
            **before.application_properties,
            "name": "sb://ns/orders",
            "type": "servicebus.windows.net:sastoken",
            "expiration": Timestamp(5000),
        },
    )
    assert type(after.application_properties["expiration"]) is Timestamp
    assert list(after.application_properties) == list(before.application_properties)
    assert b"topsecret" not in there


@pytest.mark.parametrize("message_id", [ID, str(ID), "1", "", 7, ID.bytes, b"x"])
def test_everything_else_in_a_request_keeps_its_type(message_id: Any) -> None:
    message = request(
        properties=MessageProperties(message_id, b"user", reply_to="cbs", to="$cbs", group_sequence=3),
        header=Header(durable=True, ttl=60_000),
        delivery_annotations={Symbol("a"): Symbol("s"), Ulong(3): "t"},
        message_annotations={"b": Timestamp(4)},
        footer={"c": b"d"},
    )
    message.application_properties.update({"x": Int(5), "y": Symbol("z"), "when": Timestamp(9)})
    put = read_put_token(message.encode())
    assert put is not None
    after = Message.decode(rewrite(put, audience="a", kind="jwt", token="ours", expires_at=1.5))
    expected = Message.decode(message.encode())
    expected.body = Value("ours")
    expected.application_properties.update({"name": "a", "type": "jwt", "expiration": Timestamp(1500)})
    assert after == expected
    assert type(after.properties.message_id) is type(expected.properties.message_id)  # type: ignore[union-attr]
    types = {key: type(value) for key, value in after.application_properties.items()}
    assert (types["x"], types["y"], types["when"]) == (Int, Symbol, Timestamp)
    assert [type(value) for value in after.delivery_annotations.values()] == [Symbol, str]


def test_an_invalid_request_holds_nothing_of_the_workers_token() -> None:
    put = read_put_token(FROM_SDK)
    assert put is not None
    there = invalid(put, audience="sb://ns/orders")
    message = Message.decode(there)
    assert isinstance(message.body, Value)
    token = parse_sas(message.body.value)
    assert token is not None
    assert not token.is_genuine("local", "")
    assert b"topsecret" not in there
    assert b"127.0.0.1" not in there
    assert message.application_properties["name"] == "sb://ns/orders"
    assert message.properties == Message.decode(FROM_SDK).properties


@pytest.mark.parametrize(
    "message",
    [
        request(application_properties={"operation": "delete-token", "name": AUDIENCE}),
        request(application_properties={}),
        request(body=None),
        request(body=Value(None)),
        request(body=Value(5)),
        request(body=Data([b"token"])),
        request(application_properties={"operation": 5}),
    ],
)
def test_what_is_no_put_token_is_told(message: Message) -> None:
    assert read_put_token(message.encode()) is None


def test_a_request_that_names_nothing_is_still_read() -> None:
    put = read_put_token(request(application_properties={"operation": Symbol("put-token"), "name": 5}).encode())
    assert put is not None
    assert (put.kind, put.audience) == (None, None)
    put = read_put_token(request(properties=None).encode())
    assert put is not None
    assert request_id(put) is None


# Replies --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message_id", [ID, "plain", "", 7, b"raw"])
def test_a_reply_is_known_by_the_id_of_its_request(message_id: Any) -> None:
    put = read_put_token(request(properties=MessageProperties(message_id)).encode())
    assert put is not None
    assert request_id(put) is not None
    assert correlation(reply(message_id).encode()) == request_id(put)
    for other in (UUID(int=3), "other", 8, b"other", None):
        assert correlation(reply(other).encode()) != request_id(put)


def test_ids_of_different_types_do_not_meet() -> None:
    keys = [correlation(reply(given).encode()) for given in (7, "7", b"7", str(ID), "s7", "u7", ID.hex, b"n7")]
    assert len({*keys}) == len(keys)


def test_a_uuid_is_known_as_text_and_as_bytes() -> None:
    assert len({correlation(reply(given).encode()) for given in (ID, str(ID), str(ID).upper(), ID.bytes)}) == 1


def test_a_reply_without_an_id_answers_nothing() -> None:
    assert correlation(reply(None).encode()) is None
    assert correlation(Message(body=Value(None)).encode()) is None


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"status-code": Int(202)}, 202),
        ({"statusCode": Int(401)}, 401),
        ({"status-code": "202"}, None),
        ({"status-code": True}, None),
        ({}, None),
    ],
)
def test_the_status_of_a_reply_is_read(fields: dict[str, Any], status: int | None) -> None:
    assert reply_status(reply(fields=fields).encode()) == status


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        (
            {"status-code": Int(202), "status-description": "Accepted", "x": Symbol("y")},
            {"status-code": Int(401), "status-description": "no", "x": Symbol("y")},
        ),
        (
            {"statusCode": Int(200), "statusDescription": "OK", "errorCondition": Symbol("")},
            {"statusCode": Int(401), "statusDescription": "no", "errorCondition": Symbol("amqp:unauthorized-access")},
        ),
        ({}, {"status-code": Int(401), "status-description": "no"}),
    ],
)
def test_a_refusal_is_the_reply_with_another_status(fields: dict[str, Any], refused: dict[str, Any]) -> None:
    before = reply(fields=fields)
    after = Message.decode(refusal(before.encode(), 401, "no"))
    assert after == replace(before, application_properties=refused)
    assert all(type(value) is type(refused[key]) for key, value in after.application_properties.items())


@given(
    st.builds(
        garbled,
        st.sampled_from([FROM_SDK, request().encode(), reply().encode()]),
        st.randoms(use_true_random=False),
    )
    | st.binary(max_size=60)
)
def test_a_garbled_message_fails_in_one_way_only(payload: bytes) -> None:
    with suppress(AmqpProtocolError):
        put = read_put_token(payload)
        if put is not None:
            Message.decode(rewrite(put, audience="a", kind="jwt", token="t", expires_at=1))
            Message.decode(invalid(put, audience="a"))
    for look in (correlation, reply_status, lambda payload: refusal(payload, 401, "no")):
        with suppress(AmqpProtocolError):
            look(payload)
