"""Requests and answers about locks: read where they concern us, and never an error."""

from __future__ import annotations

import struct
from typing import Any
from uuid import UUID

import pytest
from azure.servicebus._transport._pyamqp_transport import PyamqpTransport
from hypothesis import given
from hypothesis import strategies as st

from renewer.amqp import (
    AmqpArray,
    Data,
    Int,
    Message,
    MessageProperties,
    Symbol,
    Timestamp,
    Uint,
    Value,
)
from renewer.core.states import MessageFate
from renewer.gateway.asking import Answer, Ask, LockedMessage, Operation, answer_key, read_answer, read_ask
from tests.gateway import sdk_bytes
from tests.gateway.sdk_bytes import garbled

ID = UUID("01234567-89ab-cdef-0123-456789abcdef")
TOKENS = (UUID(int=1), UUID(int=2))
SESSION = Ask(Operation.RENEW_SESSION, b"k", session_id="s1")
MESSAGES = Ask(Operation.RENEW_MESSAGES, b"k", tokens=TOKENS)
DEFERRED = Ask(Operation.RECEIVE_DEFERRED, b"k", sequence_numbers=(5, 6))
SETTLE = Ask(Operation.SETTLE, b"k", tokens=TOKENS)


def request(operation: object, body: object, message_id: Any = ID, **fields: Any) -> bytes:
    return Message(
        properties=MessageProperties(message_id, reply_to="r"),
        application_properties={"operation": operation, **fields},
        body=Value(body),
    ).encode()


def reply(body: object, status: object = 200, **fields: Any) -> bytes:
    return Message(
        properties=MessageProperties(correlation_id=ID),
        application_properties={
            "statusCode": Int(status) if isinstance(status, int) else status,
            "statusDescription": "OK",
            **fields,
        },
        body=Value(body),
    ).encode()


# Requests -------------------------------------------------------------------------------------------------------------


def test_the_renewal_of_a_session_by_the_sdk_is_read() -> None:
    payload = sdk_bytes.management_request(b"com.microsoft:renew-session-lock", {"session-id": "s1"}, ID)
    assert read_ask(payload) == Ask(Operation.RENEW_SESSION, b"u" + ID.bytes, session_id="s1", link_name="link-1")


def test_the_renewal_of_messages_by_the_sdk_is_read() -> None:
    tokens = PyamqpTransport.AMQP_ARRAY_VALUE(list(TOKENS))
    payload = sdk_bytes.management_request(b"com.microsoft:renew-lock", {"lock-tokens": tokens}, ID)
    ask = read_ask(payload)
    assert ask == Ask(Operation.RENEW_MESSAGES, b"u" + ID.bytes, tokens=TOKENS, link_name="link-1")
    assert str(TOKENS[0]) not in repr(ask)


@pytest.mark.parametrize(
    ("status", "fate"),
    [
        ("completed", MessageFate.COMPLETED),
        ("abandoned", MessageFate.ABANDONED),
        ("defered", MessageFate.DEFERRED),
        ("suspended", MessageFate.DEAD_LETTERED),
        ("unheard of", None),
    ],
)
def test_a_settlement_by_the_sdk_is_read(status: str, fate: MessageFate | None) -> None:
    body = {"disposition-status": status, "lock-tokens": PyamqpTransport.AMQP_ARRAY_VALUE(list(TOKENS))}
    ask = read_ask(sdk_bytes.management_request(b"com.microsoft:update-disposition", body, ID))
    assert ask is not None
    assert (ask.operation, ask.disposition, ask.tokens) == (Operation.SETTLE, fate, TOKENS)


def test_a_request_for_deferred_messages_is_read() -> None:
    body = {
        "sequence-numbers": AmqpArray([5, 6], int),
        "receiver-settle-mode": Uint(1),
        "session-id": "s1",
    }
    ask = read_ask(request("com.microsoft:receive-by-sequence-number", body, "an id"))
    assert ask == Ask(Operation.RECEIVE_DEFERRED, b"san id", session_id="s1", sequence_numbers=(5, 6))


@pytest.mark.parametrize(
    "payload",
    [
        request("com.microsoft:peek-message", {"from-sequence-number": 1}),
        request("com.microsoft:get-session-state", {"session-id": "s1"}),
        request("READ", None),
        request(5, {}),
        request("com.microsoft:renew-lock", None),
        request("com.microsoft:renew-lock", [1]),
        request("com.microsoft:renew-lock", {}, None),
        Message(application_properties={"operation": "com.microsoft:renew-lock"}, body=Data([b"x"])).encode(),
        Message(body=Value({"operation": "com.microsoft:renew-lock"})).encode(),
        b"",
        b"com.microsoft:renew-lock",
    ],
)
def test_requests_that_concern_no_lock_are_let_pass(payload: bytes) -> None:
    assert read_ask(payload) is None


@pytest.mark.parametrize("tokens", [None, 5, "x", [1, 2], {"a": 1}, AmqpArray([1], int), AmqpArray(["x"], str)])
def test_tokens_that_are_none_are_left_out(tokens: Any) -> None:
    ask = read_ask(request("com.microsoft:renew-lock", {"lock-tokens": tokens, "session-id": 5}))
    assert ask is not None
    assert (ask.tokens, ask.session_id) == ((), None)


# Answers --------------------------------------------------------------------------------------------------------------


def replaced(payload: bytes, offset: int) -> Message:
    changed = bytearray(payload)
    struct.pack_into(">q", changed, offset, 42)
    return Message.decode(bytes(changed))


def test_the_end_of_a_session_lock_is_found() -> None:
    payload = reply({"other": 1, "expiration": Timestamp(1_700_000_000_500)})
    answer = read_answer(payload, SESSION)
    assert answer is not None
    assert (answer.status, answer.condition) == (200, None)
    ((offset, until),) = answer.expirations
    assert until == 1_700_000_000.5
    assert replaced(payload, offset).body == Value({"other": 1, "expiration": Timestamp(42)})


@pytest.mark.parametrize("wrap", [lambda items: AmqpArray(items, Timestamp), list])
def test_the_ends_of_message_locks_are_found(wrap: Any) -> None:
    ends = [Timestamp(1_700_000_000_000), Timestamp(1_700_000_001_000)]
    payload = reply({"expirations": wrap(ends)})
    answer = read_answer(payload, MESSAGES)
    assert answer is not None
    assert [until for _, until in answer.expirations] == [1_700_000_000, 1_700_000_001]
    assert replaced(payload, answer.expirations[1][0]).body == Value({"expirations": wrap([ends[0], Timestamp(42)])})


def test_deferred_messages_come_with_their_locks() -> None:
    first = Message(
        message_annotations={
            Symbol("x-opt-sequence-number"): 5,
            Symbol("x-opt-locked-until"): Timestamp(1_700_000_000_000),
        },
        body=Data([b"x-opt-locked-until"]),
    ).encode()
    second = Message(body=Data([b"y" * 300])).encode()
    messages = [
        {"message": first, "lock-token": TOKENS[0]},
        {"message": second, "lock-token": TOKENS[1]},
        {"message": b"", "lock-token": TOKENS[1]},
        {"message": first},
        {"lock-token": TOKENS[0]},
        {"message": 5, "lock-token": TOKENS[0]},
    ]
    payload = reply({"messages": messages})
    answer = read_answer(payload, DEFERRED)
    assert answer is not None
    locked, *others = answer.locked
    assert others == [LockedMessage(TOKENS[1], None, -1, None)] * 2
    assert (locked.token, locked.locked_until, locked.sequence_number) == (TOKENS[0], 1_700_000_000, 5)
    assert str(TOKENS[0]) not in repr(answer)
    body = replaced(payload, locked.offset).body
    assert isinstance(body, Value)
    changed = Message.decode(body.value["messages"][0]["message"])
    assert changed.message_annotations["x-opt-locked-until"] == 42
    assert body.value["messages"][1:] == messages[1:]


@pytest.mark.parametrize("ask", [SESSION, MESSAGES, DEFERRED, SETTLE])
@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "x",
        {},
        {"expiration": 5, "expirations": AmqpArray([5], int), "messages": []},
        {"expiration": None, "expirations": [], "messages": [{}]},
        {"expiration": Symbol("x"), "expirations": [1, None], "messages": AmqpArray([], dict)},
    ],
)
def test_an_answer_that_gives_no_end_has_none(ask: Ask, body: Any) -> None:
    answer = read_answer(reply(body), ask)
    assert answer is None or answer == Answer(200, None)


def test_a_refusal_has_a_condition() -> None:
    payload = reply(None, 410, errorCondition=Symbol("com.microsoft:session-lock-lost"))
    assert read_answer(payload, SESSION) == Answer(410, "com.microsoft:session-lock-lost")
    payload = Message(application_properties={"status-code": Int(401), "error-condition": "x"}).encode()
    assert read_answer(payload, SESSION) == Answer(401, "x")
    assert read_answer(reply({"expiration": Timestamp(5)}, "OK"), SESSION) == Answer(None, None)


@pytest.mark.parametrize("correlation_id", [ID, str(ID), ID.bytes])
def test_an_answer_is_known_whatever_type_its_id_has(correlation_id: Any) -> None:
    ask = read_ask(request("com.microsoft:renew-session-lock", {"session-id": "s"}))
    assert ask is not None
    assert answer_key(Message(properties=MessageProperties(correlation_id=correlation_id)).encode()) == ask.key
    assert answer_key(Message(properties=MessageProperties(correlation_id="other")).encode()) != ask.key
    assert answer_key(b"\x00") is None
    assert answer_key(b"") is None


WHOLE = [
    request("com.microsoft:renew-lock", {"lock-tokens": AmqpArray([*TOKENS], UUID)}),
    request("com.microsoft:update-disposition", {"lock-tokens": AmqpArray([*TOKENS], UUID)}),
    request("com.microsoft:receive-by-sequence-number", {"sequence-numbers": AmqpArray([5], int)}),
    reply({"expiration": Timestamp(5)}),
    reply({"expirations": AmqpArray([Timestamp(5)], Timestamp)}),
    reply({"messages": [{"message": Message(message_annotations={"x-opt-locked-until": Timestamp(1)}).encode()}]}),
    reply({"messages": [{"message": b"x", "lock-token": TOKENS[0]}]}),
]


@given(st.builds(garbled, st.sampled_from(WHOLE), st.randoms(use_true_random=False)) | st.binary(max_size=60))
def test_odd_messages_are_none_of_our_business(payload: bytes) -> None:
    read_ask(payload)
    answer_key(payload)
    for ask in (SESSION, MESSAGES, DEFERRED, SETTLE):
        answer = read_answer(payload, ask)
        offsets = [] if answer is None else [offset for offset, _ in answer.expirations]
        offsets += [] if answer is None else [message.offset for message in answer.locked]
        assert all(offset <= len(payload) - 8 for offset in offsets)
