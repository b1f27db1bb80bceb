"""Our codec against the private one of azure-servicebus: each reads what the other writes.

The SDK decodes string, symbol and binary alike to `bytes`, loses the width of integers and the class of arrays, knows
no char, decimal32 and decimal64, and encodes every plain `int` as an int.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from azure.servicebus._pyamqp import _decode, _encode, message, outcomes, performatives
from azure.servicebus._pyamqp.endpoints import Source as SdkSource
from azure.servicebus._pyamqp.endpoints import Target as SdkTarget
from azure.servicebus._pyamqp.error import AMQPError
from azure.servicebus._pyamqp.types import TYPE, VALUE, AMQPTypes
from hypothesis import given
from hypothesis import strategies as st

from renewer.amqp import (
    Accepted,
    AmqpArray,
    AmqpError,
    Attach,
    Begin,
    Byte,
    Close,
    Data,
    Detach,
    Disposition,
    End,
    Float32,
    Flow,
    Header,
    Int,
    Message,
    MessageProperties,
    Modified,
    Open,
    Performative,
    Rejected,
    Released,
    Role,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    Sequence,
    Short,
    Source,
    Symbol,
    Target,
    Timestamp,
    Transfer,
    Ubyte,
    Uint,
    Ulong,
    Ushort,
    Value,
    decode,
    decode_performative,
    encode,
    encode_performative,
)
from tests.amqp.amqp_pair import SCALARS, same

SDK_TYPES: dict[type, str] = {
    type(None): AMQPTypes.null,
    bool: AMQPTypes.boolean,
    Ubyte: AMQPTypes.ubyte,
    Ushort: AMQPTypes.ushort,
    Uint: AMQPTypes.uint,
    Ulong: AMQPTypes.ulong,
    Byte: AMQPTypes.byte,
    Short: AMQPTypes.short,
    Int: AMQPTypes.int,
    int: AMQPTypes.long,
    Float32: AMQPTypes.float,
    float: AMQPTypes.double,
    Timestamp: AMQPTypes.timestamp,
    UUID: AMQPTypes.uuid,
    bytes: AMQPTypes.binary,
    str: AMQPTypes.string,
    Symbol: AMQPTypes.symbol,
}
COMMON_SCALARS = st.one_of(*(SCALARS[kind] for kind in SDK_TYPES))
COMMON_KEYS = st.one_of(*(SCALARS[kind] for kind in (str, Symbol, Uint)))


def _arrays() -> st.SearchStrategy[AmqpArray]:
    # In arrays the SDK writes null, true, false and zero without a body that a reader could count on.
    kinds = [kind for kind in SDK_TYPES if kind not in (type(None), bool, Uint, Ulong)]
    return st.sampled_from(kinds).flatmap(
        lambda kind: st.builds(AmqpArray, st.lists(SCALARS[kind], min_size=1, max_size=20), st.just(kind))
    )


COMMON_VALUES = st.recursive(
    COMMON_SCALARS | _arrays(),
    lambda children: st.lists(children, max_size=6) | st.dictionaries(COMMON_KEYS, children, max_size=6),
    max_leaves=12,
)


def as_sdk_decodes(value: Any) -> Any:
    """What is left of a value after the SDK has decoded it."""
    match value:
        case None | bool() | UUID():
            return value
        case str():
            return value.encode()
        case bytes():
            return value
        case float():
            return float(value)
        case int():
            return int(value)
        case dict():
            return {as_sdk_decodes(key): as_sdk_decodes(item) for key, item in value.items()}
        case AmqpArray() | list() | tuple():
            return [as_sdk_decodes(item) for item in value]
    raise TypeError(type(value))


def for_sdk(value: Any) -> Any:
    """A value with the type that the SDK's encoder is to use."""
    match value:
        case dict():
            return {TYPE: AMQPTypes.map, VALUE: [(for_sdk(key), for_sdk(item)) for key, item in value.items()]}
        case AmqpArray():
            return {TYPE: AMQPTypes.array, VALUE: [for_sdk(item) for item in value]}
        case list():
            return {TYPE: AMQPTypes.list, VALUE: [for_sdk(item) for item in value]}
    return {TYPE: SDK_TYPES[type(value)], VALUE: value}


def sdk_encode(value: Any) -> bytes:
    buffer = bytearray()
    _encode.encode_value(buffer, value)
    return bytes(buffer)


def sdk_decode(data: bytes) -> Any:
    rest, value = _decode._DECODE_BY_CONSTRUCTOR[data[0]](memoryview(data)[1:])
    assert len(rest) == 0
    return value


def _distinct(value: Any) -> bool:
    """The SDK cannot tell a string key from a symbol key of the same text."""
    match value:
        case dict():
            return len(as_sdk_decodes(value)) == len(value) and all(map(_distinct, value.values()))
        case list():
            return all(map(_distinct, value))
    return True


@given(COMMON_VALUES.filter(_distinct))
def test_the_sdk_reads_what_we_write(value: Any) -> None:
    assert same(sdk_decode(encode(value)), as_sdk_decodes(value))


@given(COMMON_VALUES)
def test_we_read_what_the_sdk_writes(value: Any) -> None:
    data = sdk_encode(for_sdk(value))
    decoded, end = decode(data)
    assert end == len(data)
    assert same(decoded, value)


def test_an_empty_array_of_the_sdk_is_read() -> None:
    assert list(decode(sdk_encode({TYPE: AMQPTypes.array, VALUE: []}))[0]) == []


ERROR = AmqpError("amqp:not-found", "no such queue", {Symbol("code"): Uint(7)})


@pytest.mark.parametrize(
    ("performative", "fields"),
    [
        (Open("c", "h", 1024, 7, 60000), [b"c", b"h", 1024, 7, 60000, None, None, None, None, None]),
        (
            Open("c", offered_capabilities=["a", "b"], properties={"product": "x"}),
            [b"c", None, 0xFFFFFFFF, 65535, None, None, None, [b"a", b"b"], None, {b"product": b"x"}],
        ),
        (Begin(1, 2, 3, 4, 255), [1, 2, 3, 4, 255, None, None, None]),
        (Begin(None, 0, 65536, 65536), [None, 0, 65536, 65536, 0xFFFFFFFF, None, None, None]),
        (Flow(1, 2, 3, 4, 5, 6, 7, 8, True, True), [1, 2, 3, 4, 5, 6, 7, 8, True, True, None]),
        (Flow(None, 2, 3, 4), [None, 2, 3, 4, None, None, None, None, False, False, None]),
        (Detach(5, True, ERROR), [5, True, [b"amqp:not-found", b"no such queue", {b"code": 7}]]),
        (End(), [None]),
        (Close(ERROR), [[b"amqp:not-found", b"no such queue", {b"code": 7}]]),
        (SaslMechanisms(["MSSBCBS", "ANONYMOUS"]), [[b"MSSBCBS", b"ANONYMOUS"]]),
        (SaslInit("PLAIN", b"\0u\0p", "h"), [b"PLAIN", b"\0u\0p", b"h"]),
        (SaslOutcome(0), [0, None]),
    ],
)
def test_the_sdk_reads_our_performatives(performative: Performative, fields: list[Any]) -> None:
    code, found = _decode.decode_frame(memoryview(encode_performative(performative)))
    assert code == encode_performative(performative)[2]
    assert found == fields


def test_the_sdk_reads_our_attach() -> None:
    source = Source("amqps://ns/q", filter={Symbol("com.microsoft:session-filter"): "s1"})
    ours = Attach(
        "link",
        3,
        Role.SENDER,
        0,
        1,
        source,
        Target("t"),
        initial_delivery_count=0,
        properties={"until": 638000000000000000},
    )
    _, fields = _decode.decode_frame(memoryview(encode_performative(ours)))
    attach = performatives.AttachFrame(*fields)
    assert (attach.name, attach.handle, attach.role, attach.initial_delivery_count) == (b"link", 3, False, 0)
    assert attach.source[0] == b"amqps://ns/q"
    assert attach.source[7] == {b"com.microsoft:session-filter": b"s1"}
    assert attach.properties == {b"until": 638000000000000000}


@pytest.mark.parametrize(
    ("state", "name"),
    [
        (Accepted(), b"accepted"),
        (Released(), b"released"),
        (Rejected(ERROR), b"rejected"),
        (Modified(True, False, {"x-opt-a": 1}), b"modified"),
    ],
)
def test_the_sdk_reads_our_outcomes(state: Any, name: bytes) -> None:
    _, fields = _decode.decode_frame(memoryview(encode_performative(Disposition(Role.SENDER, 1, 2, True, state))))
    assert fields[:4] == [False, 1, 2, True]
    assert name.decode() in str(fields[4])


def test_the_sdk_reads_our_transfer() -> None:
    body = encode_performative(Transfer(1, 2, b"tag", 0, True)) + b"payload"
    _, fields = _decode.decode_frame(memoryview(body))
    transfer = performatives.TransferFrame(*fields)
    assert (transfer.handle, transfer.delivery_id, transfer.delivery_tag, transfer.settled) == (1, 2, b"tag", True)
    assert (transfer.more, bytes(transfer.payload)) == (False, b"payload")


SDK_ERROR = AMQPError(condition=b"amqp:not-found", description="no such queue", info={b"code": 7})


@pytest.mark.parametrize(
    ("sdk", "ours"),
    [
        (
            performatives.OpenFrame("c", "h", 1024, 7, 60, None, None, ["a"], None, {"product": "x"}),
            Open("c", "h", 1024, 7, 60, offered_capabilities=["a"], properties={"product": "x"}),
        ),
        (performatives.BeginFrame(None, 0, 65536, 65536, 0xFFFFFFFF, None, None, None), Begin(None, 0, 65536, 65536)),
        (
            performatives.AttachFrame(
                "n",
                0,
                True,
                0,
                1,
                SdkSource(address="amqps://h/q", filters={"com.microsoft:session-filter": None}),
                SdkTarget(address="t"),
                None,
                None,
                None,
                1048576,
                None,
                ["cap"],
                {b"com.microsoft:timeout": {TYPE: AMQPTypes.uint, VALUE: 5000}},
            ),
            Attach(
                "n",
                0,
                True,
                0,
                1,
                Source("amqps://h/q", filter={"com.microsoft:session-filter": None}),
                Target("t"),
                max_message_size=1048576,
                desired_capabilities=["cap"],
                properties={"com.microsoft:timeout": 5000},
            ),
        ),
        (
            performatives.FlowFrame(1, 2, 3, 4, 0, 0, 10000, None, None, None, None),
            Flow(1, 2, 3, 4, 0, 0, 10000),
        ),
        (
            performatives.TransferFrame(
                payload=b"",
                handle=1,
                delivery_id=2,
                delivery_tag=b"t",
                message_format=0x80013700,
                settled=False,
                more=False,
                rcv_settle_mode=None,
                state=None,
                resume=None,
                aborted=None,
                batchable=None,
            ),
            Transfer(1, 2, b"t", 0x80013700, False),
        ),
        (
            performatives.DispositionFrame(True, 5, 9, True, outcomes.Accepted(), None),
            Disposition(True, 5, 9, True, Accepted()),
        ),
        (
            performatives.DispositionFrame(True, 5, 5, False, outcomes.Rejected(error=SDK_ERROR), None),
            Disposition(True, 5, 5, False, Rejected(AmqpError("amqp:not-found", "no such queue", {"code": Int(7)}))),
        ),
        (
            performatives.DispositionFrame(True, 5, 5, True, outcomes.Modified(True, None, None), None),
            Disposition(True, 5, 5, True, Modified(True)),
        ),
        (performatives.DetachFrame(3, True, None), Detach(3, True)),
        (performatives.EndFrame(SDK_ERROR), End(AmqpError("amqp:not-found", "no such queue", {"code": Int(7)}))),
        (performatives.CloseFrame(None), Close()),
        (performatives.SASLInit("ANONYMOUS", b"", "h"), SaslInit("ANONYMOUS", b"", "h")),
    ],
)
def test_we_read_the_sdks_performatives(sdk: Any, ours: Performative) -> None:
    _, body = _encode.encode_frame(sdk)
    assert decode_performative(bytes(body))[0] == ours


@pytest.mark.parametrize(
    "ours",
    [
        Message(body=Data([b"one", b"two"]), message_annotations={"x-opt-locked-until": Timestamp(5)}),
        Message(body=Sequence([[1, 2], ["a"]]), footer={"f": 1}),
        Message(body=Value({"expirations": AmqpArray([Timestamp(1), Timestamp(2)])})),
        Message(
            body=Value({"session-id": "s"}),
            header=Header(durable=True, ttl=1000, delivery_count=3),
            properties=MessageProperties(message_id=UUID(int=5), reply_to="here", group_id="s", creation_time=7),
            application_properties={"operation": "x", "n": Uint(60000)},
            delivery_annotations={"d": 1},
        ),
    ],
)
def test_the_sdk_reads_our_messages(ours: Message) -> None:
    theirs = _decode.decode_payload(memoryview(ours.encode()))
    match ours.body:
        case Data(chunks):
            assert [bytes(chunk) for chunk in theirs.data] == chunks
        case Sequence(lists):
            assert theirs.sequence == as_sdk_decodes(lists)
        case Value(value):
            assert theirs.value == as_sdk_decodes(value)
    for section in ("application_properties", "message_annotations", "delivery_annotations", "footer"):
        assert (getattr(theirs, section) or {}) == as_sdk_decodes(getattr(ours, section))
    if ours.properties is not None:
        assert theirs.properties.message_id == ours.properties.message_id
        assert theirs.properties.group_id == b"s"
        assert theirs.header.delivery_count == 3


def test_we_read_the_sdks_messages() -> None:
    theirs = message.Message(
        header=message.Header(durable=True, priority=None, ttl=1000, first_acquirer=None, delivery_count=None),
        delivery_annotations={"d": 1},
        message_annotations={b"x-opt-partition-key": "k"},
        properties=message.Properties(message_id=UUID(int=5), reply_to="here", group_id="s", correlation_id="c"),
        application_properties={"operation": "com.microsoft:renew-lock"},
        value={"lock-tokens": {TYPE: AMQPTypes.array, VALUE: [UUID(int=1), UUID(int=2)]}},
    )
    ours = Message.decode(bytes(_encode.encode_payload(bytearray(), theirs)))
    assert ours == Message(
        body=Value({"lock-tokens": AmqpArray([UUID(int=1), UUID(int=2)], UUID)}),
        header=Header(durable=True, ttl=1000),
        properties=MessageProperties(message_id=UUID(int=5), reply_to="here", group_id="s", correlation_id="c"),
        application_properties={"operation": "com.microsoft:renew-lock"},
        message_annotations={"x-opt-partition-key": "k"},
        delivery_annotations={"d": Int(1)},
    )


def test_the_data_of_a_message_may_come_in_pieces() -> None:
    theirs = message.Message(data=[b"one", b"two"])
    body = Message.decode(bytes(_encode.encode_payload(bytearray(), theirs))).body
    assert isinstance(body, Data)
    assert body.joined() == b"onetwo"
