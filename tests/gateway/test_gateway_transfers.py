"""What is looked at of every message: against the decoder, in every encoding, and never fooled."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.amqp import (
    Accepted,
    AmqpArray,
    AmqpError,
    Data,
    DeliveryState,
    Described,
    Disposition,
    Flow,
    Header,
    Int,
    Message,
    MessageProperties,
    Modified,
    Received,
    Rejected,
    Released,
    Symbol,
    Timestamp,
    Transfer,
    Ubyte,
    Uint,
    Ulong,
    Ushort,
    Value,
    decode_performative,
    encode,
    encode_performative,
)
from renewer.amqp.composite import put_composite
from renewer.amqp.spans import performative_fields, splice
from renewer.core.states import MessageFate
from renewer.errors import AmqpProtocolError
from renewer.gateway.dispositions import outcome_of, read_disposition, rejected_error
from renewer.gateway.flows import check_flow, read_flow
from renewer.gateway.layouts import match_delivery, match_sections
from renewer.gateway.transfers import (
    find_locked_until,
    find_sequence_number,
    read_delivery,
    read_transfer,
    transfer_handle,
    usual_lock,
)
from tests.gateway import sdk_bytes
from tests.gateway.sdk_bytes import garbled

TAG = UUID("01234567-89ab-cdef-0123-456789abcdef").bytes_le
LOCKED_UNTIL = Symbol("x-opt-locked-until")
SEQUENCE_NUMBER = Symbol("x-opt-sequence-number")
BROKERS = {
    Symbol("x-opt-enqueued-time"): Timestamp(1_700_000_000_000),
    SEQUENCE_NUMBER: 7_000_000_123,
    Symbol("x-opt-message-state"): Int(0),
    LOCKED_UNTIL: Timestamp(1_700_000_060_000),
}

TRANSFERS = st.builds(
    Transfer,
    handle=st.sampled_from([0, 1, 255, 256, 2**32 - 1]),
    delivery_id=st.sampled_from([None, 0, 1, 255, 256, 2**32 - 1]),
    delivery_tag=st.none() | st.just(TAG) | st.binary(max_size=40) | st.just(bytes(300)),
    message_format=st.sampled_from([None, 0, 1, 0x80013700]),
    settled=st.sampled_from([None, True, False]),
    more=st.booleans(),
    rcv_settle_mode=st.sampled_from([None, 0, 1]),
    state=st.sampled_from([None, Accepted(), Received(0, 0), Described(Ulong(0x34), [b"txn", None])]),
    resume=st.booleans(),
    aborted=st.booleans(),
    batchable=st.booleans(),
)


def brief(transfer: Any) -> bytes:
    """Without the fields at the end that hold their default."""
    buffer = bytearray()
    put_composite(buffer, transfer)
    return bytes(buffer)


def wide(transfer: Transfer) -> bytes:
    """With the widest encodings that the standard has."""
    values = [
        b"\x70" + transfer.handle.to_bytes(4, "big"),
        b"\x40" if transfer.delivery_id is None else b"\x70" + transfer.delivery_id.to_bytes(4, "big"),
        b"\x40"
        if transfer.delivery_tag is None
        else b"\xb0" + len(transfer.delivery_tag).to_bytes(4, "big") + transfer.delivery_tag,
        b"\x40" if transfer.message_format is None else b"\x70" + transfer.message_format.to_bytes(4, "big"),
        b"\x40" if transfer.settled is None else bytes([0x56, transfer.settled]),
        bytes([0x56, transfer.more]),
        b"\x40" if transfer.rcv_settle_mode is None else bytes([0x50, transfer.rcv_settle_mode]),
        b"\x40",
        bytes([0x56, transfer.resume]),
        bytes([0x56, transfer.aborted]),
        bytes([0x56, transfer.batchable]),
    ]
    body = b"".join(values)
    head = b"\x00\x80" + (0x14).to_bytes(8, "big") + b"\xd0"
    return head + (len(body) + 4).to_bytes(4, "big") + len(values).to_bytes(4, "big") + body


def seen(transfer: Transfer, payload_at: int) -> tuple[Any, ...]:
    return (
        transfer.handle,
        transfer.delivery_id,
        transfer.delivery_tag,
        transfer.settled is True,
        transfer.more,
        transfer.aborted,
        payload_at,
    )


# Transfers ------------------------------------------------------------------------------------------------------------


@given(TRANSFERS, st.sampled_from([encode_performative, brief, wide]), st.binary(max_size=30))
def test_a_transfer_reads_as_it_decodes(transfer: Transfer, encoder: Any, payload: bytes) -> None:
    body = encoder(transfer)
    assert read_transfer(body + payload) == seen(transfer, len(body))
    chunk = bytearray(b"12345678" + body + payload + b"next frame")
    end = 8 + len(body) + len(payload)
    for buffer in (chunk, bytes(chunk), memoryview(chunk)):
        assert read_transfer(buffer, 8, end) == seen(transfer, 8 + len(body))
        assert transfer_handle(buffer, 8) == transfer.handle


def test_a_transfer_of_the_sdk_is_read() -> None:
    frame = sdk_bytes.performatives.TransferFrame(3, 70_000, TAG, 0, False, False, None, None, None, None, None, b"hi")
    body = sdk_bytes.frame_body(frame)
    assert read_transfer(body) == (3, 70_000, TAG, False, False, False, len(body) - 2)


@given(TRANSFERS, st.sampled_from([encode_performative, brief, wide]), st.integers(1, 20))
def test_a_transfer_that_reaches_beyond_its_frame_is_an_error(transfer: Transfer, encoder: Any, cut: int) -> None:
    body = encoder(transfer)
    end = max(0, len(body) - cut)
    for buffer, limit in ((body[:end], None), (body, end), (bytearray(body + bytes(50)), end)):
        with pytest.raises(AmqpProtocolError):
            read_transfer(buffer, 0, limit)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00\x53\x14",
        b"\x00\x53\x14\x45",
        b"\x00\x53\x14\xc0\x02\x01\x40",
        b"\x00\x53\x14\xc0\x02\x01\x41",
        b"\x00\x53\x15\xc0\x02\x01\x43",
        b"\x00\x53\x14\xc0\x05\x04\x43\x43\x41\x40",
        b"\x00\x53\x14\xc0\x06\x05\x43\x43\x40\x40\x43",
        b"\x00\x53\x14\xc0\x06\x06\x43\x43\x40\x40\x42",
        b"\x00\x53\x14\xc0\x07\x05\x43\x43\x40\x40\x42\x42",
        b"\x00\x53\x14\xc0\x07\x05\x43\x43\x40\x40\x56\x02",
        b"\x00\x53\x14\xc0\x0d\x0c\x43" + b"\x40" * 11,
        b"\x00\x53\x14\xc0\x08\x04\x43\x43\xa0\x20abcd",
    ],
)
def test_what_is_no_transfer_is_an_error(body: bytes) -> None:
    with pytest.raises(AmqpProtocolError):
        read_transfer(body)


@given(
    st.builds(garbled, TRANSFERS.map(encode_performative) | TRANSFERS.map(brief), st.randoms(use_true_random=False))
    | st.binary(max_size=40)
)
def test_a_garbled_transfer_reads_as_it_decodes_or_not_at_all(body: bytes) -> None:
    with suppress(AmqpProtocolError):
        transfer_handle(body, 0)
    try:
        found = read_transfer(body)
    except AmqpProtocolError:
        found = None
    try:
        transfer, end = decode_performative(body)
    except AmqpProtocolError:
        return  # An odd field that nobody looks at, perhaps.
    if isinstance(transfer, Transfer):
        assert found == seen(transfer, end)


# Annotations ----------------------------------------------------------------------------------------------------------


def message(annotations: dict[Any, Any], **sections: Any) -> bytes:
    given = {"header": Header(delivery_count=3), "properties": MessageProperties("m"), "body": Data([b"x" * 1000])}
    return Message(message_annotations=annotations, **{**given, **sections}).encode()


def test_the_end_of_the_lock_is_found() -> None:
    payload = message(BROKERS)
    at = find_locked_until(payload, 0, len(payload))
    assert int.from_bytes(payload[at : at + 8], "big") == 1_700_000_060_000
    assert find_sequence_number(payload, 0, len(payload)) == 7_000_000_123


ANNOTATIONS = st.dictionaries(
    st.sampled_from([Symbol(f"x-opt-{name}") for name in ("partition-key", "via", "a", "b", "locked-unti", "e")])
    | st.text("abc", max_size=70).map(Symbol)
    | st.integers(0, 999).map(Ulong),
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(0, 70_000).map(Int)
    | st.integers(0, 70_000).map(Uint)
    | st.integers(0, 255).map(Ubyte)
    | st.integers(0, 70_000).map(Ulong)
    | st.integers(0, 65_535).map(Ushort)
    | st.integers(0, 2**40).map(Timestamp)
    | st.uuids()
    | st.floats(allow_nan=False)
    | st.text(max_size=140)
    | st.binary(max_size=40)
    | st.lists(st.text(max_size=4), max_size=3)
    | st.dictionaries(st.text(max_size=4), st.integers(0, 9), max_size=2)
    | st.just(AmqpArray([1, 2], int))
    | st.just(b"\xa3\x12x-opt-locked-until\x83" + bytes(8))
    | st.just("\x12x-opt-locked-until"),
    max_size=6,
)


@given(
    ANNOTATIONS,
    ANNOTATIONS,
    st.none() | st.integers(0, 2**40),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    ANNOTATIONS,
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_the_end_of_the_lock_is_found_wherever_it_is(
    annotations: dict[Any, Any],
    delivery_annotations: dict[Any, Any],
    locked_until: int | None,
    number: int | None,
    properties: dict[Any, Any],
    has_header: bool,
    draw: random.Random,
) -> None:
    entries = [*annotations.items()]
    if locked_until is not None:
        entries.append((LOCKED_UNTIL, Timestamp(locked_until)))
    if number is not None:
        entries.append((SEQUENCE_NUMBER, number))
    draw.shuffle(entries)
    payload = message(
        dict(entries),
        delivery_annotations=delivery_annotations,
        application_properties={str(key): value for key, value in properties.items() if isinstance(value, (int, str))},
        header=Header(durable=True) if has_header else None,
    )
    body = encode_performative(Transfer(1, 2, TAG, 0, False))
    buffer = bytearray(b"12345678" + body + payload + b"the next frame")
    start, end = 8 + len(body), 8 + len(body) + len(payload)
    at = find_locked_until(buffer, start, end)
    if locked_until is None:
        assert at == -1
    else:
        assert int.from_bytes(buffer[at : at + 8], "big") == locked_until
        changed = bytearray(payload)
        changed[at - start : at - start + 8] = (42).to_bytes(8, "big")
        assert Message.decode(bytes(changed)).message_annotations == {**dict(entries), LOCKED_UNTIL: Timestamp(42)}
    assert find_sequence_number(buffer, start, end) == number
    assert read_delivery(buffer, 8, end) == (2, TAG, False, False, False, at, number)


@given(st.integers(0, 400), st.sampled_from([LOCKED_UNTIL, Symbol("x-opt-partition-key")]))
def test_annotations_that_go_on_in_the_next_frame_are_left_alone(cut: int, last: Symbol) -> None:
    annotations = {**BROKERS, Symbol("x-opt-partition-key"): "k" * 100}
    annotations[last] = annotations.pop(last)
    payload = message(annotations)
    buffer = payload[:cut] + payload[cut:]
    at = find_locked_until(buffer, 0, cut)
    whole = find_locked_until(buffer, 0, len(buffer))
    ends = payload.index(b"\x00\x53\x73")  # where properties start
    assert at == (whole if cut >= ends else -1)
    assert find_sequence_number(buffer, 0, cut) == (7_000_000_123 if cut >= ends else None)


@pytest.mark.parametrize(
    "annotations",
    [
        {"x-opt-other": b"\xa3\x12x-opt-locked-until\x83" + bytes(8)},
        {Symbol("x-opt-a"): {LOCKED_UNTIL: Timestamp(1)}},
        {Symbol("x-opt-a"): [LOCKED_UNTIL, Timestamp(1)]},
        {LOCKED_UNTIL: 5},
        {LOCKED_UNTIL: "soon", SEQUENCE_NUMBER: "x" * 40},
        {SEQUENCE_NUMBER: [1] * 20},
        {Symbol("x-opt-locked-until-utc"): Timestamp(1)},
        {},
    ],
)
def test_only_the_annotation_itself_counts(annotations: dict[Any, Any]) -> None:
    payload = message(annotations, application_properties={"x-opt-locked-until": Timestamp(3)})
    assert find_locked_until(payload, 0, len(payload)) == -1
    body = bytearray(encode_performative(Transfer(1, 2, TAG, 0, False)) + payload)
    assert read_delivery(body, 0, len(body)) == (2, TAG, False, False, False, -1, None)


def test_a_map_that_says_it_ends_before_the_lock_does_not_hold_it() -> None:
    payload = bytearray(message({LOCKED_UNTIL: Timestamp(5)}, header=None))
    assert payload[:4] == b"\x00\x53\x72\xc1"
    assert find_locked_until(payload, 0, len(payload)) > 0
    payload[4] -= 8
    assert find_locked_until(payload, 0, len(payload)) == -1


def test_wide_encodings_are_looked_at_value_by_value() -> None:
    entries = b"\xb3\x00\x00\x00\x12x-opt-locked-until\x83" + (9).to_bytes(8, "big")
    entries += b"\xb3\x00\x00\x00\x15x-opt-sequence-number\x53\x07"
    section = b"\xd1" + (len(entries) + 4).to_bytes(4, "big") + (4).to_bytes(4, "big") + entries
    for head in (
        b"\x00\x53\x72",
        b"\x00\x80" + bytes(7) + b"\x72",
        b"\x00" + encode(Symbol("amqp:message-annotations:map")),
    ):
        payload = head + section + b"\x00\x53\x75\xa0\x01x"
        at = find_locked_until(payload, 0, len(payload))
        assert payload[at : at + 8] == (9).to_bytes(8, "big")
        assert find_sequence_number(payload, 0, len(payload)) == 7


@given(
    st.binary(max_size=80) | st.builds(garbled, st.just(message(BROKERS)[:300]), st.randoms(use_true_random=False)),
    st.integers(0, 60),
)
def test_what_is_no_message_has_no_lock(payload: bytes, at: int) -> None:
    for buffer in (payload, bytearray(payload), memoryview(payload)):
        found = find_locked_until(buffer, min(at, len(payload)), len(payload))
        assert found == -1 or at <= found <= len(payload) - 8
        find_sequence_number(buffer, min(at, len(payload)), len(payload))


def test_what_brokers_write_is_found_by_the_expressions() -> None:
    """They are the fast way; without them everything above would hold too, ten times as slow."""
    for entries in (
        BROKERS,
        {Symbol("x-opt-partition-key"): "k" * 128, **BROKERS},
        {**BROKERS, Symbol("x-opt-enqueue-sequence-number"): 5, Symbol("x-opt-deadletter-source"): "orders"},
        {Symbol("x-opt-a"): "x" * 100, Symbol("x-opt-b"): "y" * 100, **BROKERS},
    ):
        for header in (None, Header(), Header(True, 4, 60_000, False, 3)):
            payload = message(entries, header=header)
            assert match_sections(payload)
            for transfer in (
                Transfer(0, 0, TAG, 0, False),
                Transfer(300, 70_000, TAG, 0, False, batchable=True),
                Transfer(1, 5, TAG, 0x80013700, None, more=True, rcv_settle_mode=1),
            ):
                for encoder in (encode_performative, brief):
                    assert match_delivery(encoder(transfer) + payload)


# Deliveries -----------------------------------------------------------------------------------------------------------


@given(TRANSFERS, st.sampled_from([encode_performative, brief, wide]), st.booleans())
def test_a_delivery_is_the_sum_of_what_is_found_one_by_one(transfer: Transfer, encoder: Any, reverse: bool) -> None:
    annotations = dict(reversed(BROKERS.items())) if reverse else BROKERS
    body = encoder(transfer)
    frame = bytearray(b"12345678" + body + message(annotations))
    _, delivery_id, tag, settled, more, aborted, payload_at = read_transfer(frame, 8)
    rest = (
        (-1, None)
        if settled or aborted
        else (find_locked_until(frame, payload_at, len(frame)), find_sequence_number(frame, payload_at, len(frame)))
    )
    assert read_delivery(frame, 8, len(frame)) == (delivery_id, tag, settled, more, aborted, *rest)


def test_the_lock_of_what_the_service_sends_is_found_without_expressions() -> None:
    for entries in (BROKERS, {Symbol("x-opt-partition-key"): "k" * 60, **BROKERS}):
        for header in (None, Header(), Header(True, 4, 60_000, False, 3)):
            for encoder in (encode_performative, brief):
                frame = bytearray(encoder(Transfer(1, 70_000, TAG, 0, False)) + message(entries, header=header))
                *_, offset, _ = read_delivery(frame, 0, len(frame))
                assert usual_lock(frame, 0, len(frame)) == (offset, 1_700_000_060_000, 7_000_000_123)


@given(TRANSFERS, st.sampled_from([encode_performative, brief]), st.booleans())
def test_a_lock_is_where_it_is_found_or_left_to_others(transfer: Transfer, encoder: Any, reverse: bool) -> None:
    body = encoder(transfer)
    frame = bytearray(b"12345678" + body + message(dict(reversed(BROKERS.items())) if reverse else BROKERS))
    lock = usual_lock(frame, 8, len(frame)) if frame[11] == 0xC0 else None
    if lock is not None:
        assert transfer.delivery_tag is not None
        assert (len(transfer.delivery_tag), transfer.settled is True) == (16, False)
        assert lock[0] == find_locked_until(frame, 8 + len(body), len(frame))
        assert lock[1:] == (1_700_000_060_000, None if reverse else 7_000_000_123)


@given(ANNOTATIONS, st.integers(0, 400))
def test_a_lock_is_never_looked_for_inside_another_value(annotations: dict[Any, Any], cut: int) -> None:
    trap = (b"\xa3\x12x-opt-locked-until\x83" + bytes(8)).decode("latin-1")
    body = encode_performative(Transfer(1, 5, TAG, 0, False))
    frame = bytearray(body + message({Symbol("trap"): trap.encode("latin-1"), **annotations, **BROKERS}))
    for end in (len(frame), min(cut, len(frame))):
        lock = usual_lock(frame[:end], 0, end)
        assert lock is None or lock[0] == find_locked_until(frame, len(body), end)


@given(
    st.builds(
        garbled,
        st.builds(lambda transfer: encode_performative(transfer) + message(BROKERS), TRANSFERS),
        st.randoms(use_true_random=False),
    )
)
def test_a_lock_in_a_garbled_frame_lies_within_it_or_is_not_found(frame: bytes) -> None:
    lock = usual_lock(bytearray(frame), 0, len(frame))
    assert lock is None or 0 < lock[0] <= len(frame) - 8


@given(
    st.builds(
        garbled,
        st.builds(lambda transfer: encode_performative(transfer) + message(BROKERS), TRANSFERS),
        st.randoms(use_true_random=False),
    )
)
def test_a_garbled_delivery_fails_in_one_way_only(frame: bytes) -> None:
    with suppress(AmqpProtocolError):
        *_, offset, _ = read_delivery(frame, 0, len(frame))
        assert offset <= len(frame) - 8
    with suppress(AmqpProtocolError):
        read_delivery(frame, 0, min(60, len(frame)))


# Dispositions ---------------------------------------------------------------------------------------------------------

ERROR = AmqpError("com.microsoft:dead-letter", "poison", {"DeadLetterReason": "bad"})
STATES: list[tuple[DeliveryState, int, MessageFate | None]] = [
    (Accepted(), 0x24, MessageFate.COMPLETED),
    (Rejected(ERROR), 0x25, MessageFate.DEAD_LETTERED),
    (Rejected(), 0x25, MessageFate.DEAD_LETTERED),
    (Released(), 0x26, MessageFate.ABANDONED),
    (Modified(), 0x27, MessageFate.ABANDONED),
    (Modified(True, False), 0x27, MessageFate.ABANDONED),
    (Modified(None, True, {"x-opt-a": 1}), 0x27, MessageFate.DEFERRED),
    (Received(1, 2), 0x23, None),
    (Described(Ulong(0x34), [b"txn", Accepted]), 0x34, None),
]
STATES[-1] = (Described(Ulong(0x34), [b"txn", Described(Ulong(0x24), [])]), 0x34, None)


@pytest.mark.parametrize(("state", "code", "fate"), STATES)
def test_a_disposition_says_what_became_of_deliveries(state: Any, code: int, fate: MessageFate | None) -> None:
    body = bytearray(b"12345678" + encode_performative(Disposition(True, 5, 70_000, True, state)) + b"next")
    *found, span = read_disposition(body, 8, len(body) - 4)
    assert found == [True, 5, 70_000, True, code]
    assert span is not None
    assert outcome_of(body, span) == fate
    assert rejected_error(body, span) == (ERROR if state == Rejected(ERROR) else None)


@pytest.mark.parametrize(
    ("state", "fate"),
    [
        (sdk_bytes.COMPLETE, MessageFate.COMPLETED),
        (sdk_bytes.ABANDON, MessageFate.ABANDONED),
        (sdk_bytes.DEFER, MessageFate.DEFERRED),
        (sdk_bytes.DEAD_LETTER, MessageFate.DEAD_LETTERED),
        (sdk_bytes.RELEASE, MessageFate.ABANDONED),
    ],
)
def test_what_the_sdk_settles_with_is_understood(state: Any, fate: MessageFate) -> None:
    body = sdk_bytes.disposition(7, 7, state)
    role, first, last, settled, _, span = read_disposition(body)
    assert (role, first, last, settled) == (True, 7, 7, True)
    assert span is not None
    assert outcome_of(body, span) is fate
    error = rejected_error(body, span)
    assert (error is not None) == (fate is MessageFate.DEAD_LETTERED)
    if error is not None:
        assert error.condition == "com.microsoft:dead-letter"


@given(
    st.booleans(),
    st.sampled_from([0, 1, 255, 256, 2**32 - 1]),
    st.sampled_from([None, 0, 1, 255, 256, 2**32 - 1]),
    st.booleans(),
    st.sampled_from([None, *(state for state, _, _ in STATES)]),
    st.sampled_from([encode_performative, brief]),
)
def test_a_disposition_reads_as_it_decodes(
    role: bool, first: int, last: int | None, settled: bool, state: Any, encoder: Any
) -> None:
    body = encoder(Disposition(role, first, last, settled, state))
    *found, span = read_disposition(body + b"\x40", 0, len(body))
    assert found[:4] == [role, first, first if last is None else last, settled]
    assert (span is None) == (state is None)
    if span is not None:
        assert body[slice(*span)] == (encode(state) if isinstance(state, Described) else brief(state))


def test_what_the_sdk_settles_with_is_read() -> None:
    """Its booleans have two bytes, and it leaves the last id out."""
    for last in (7, None):
        for settled in (True, False):
            body = sdk_bytes.disposition(7, last, sdk_bytes.COMPLETE, settled=settled)
            assert read_disposition(body)[:4] == (True, 7, 7, settled)


def test_a_disposition_without_its_optional_fields_is_about_one_unsettled_delivery() -> None:
    assert read_disposition(b"\x00\x53\x15\xc0\x03\x02\x42\x43") == (False, 0, 0, False, None, None)
    assert read_disposition(b"\x00\x53\x15\xc0\x06\x04\x41\x52\x09\x40\x40") == (True, 9, 9, False, None, None)
    assert read_disposition(encode_performative(Disposition(False, 3))) == (False, 3, 3, False, None, None)


def test_states_named_by_symbols_are_understood() -> None:
    plain = encode_performative(Disposition(True, 1, 1, True, Accepted()))
    state = b"\x00" + encode(Symbol("amqp:accepted:list")) + b"\x45"
    start = plain.index(b"\x00\x53\x24")
    body = bytearray(plain.replace(b"\x00\x53\x24\x45", state))
    body[4] += len(state) - 4
    *_, code, span = read_disposition(body)
    assert (code, span) == (0x24, (start, start + len(state)))
    assert outcome_of(body, span) is MessageFate.COMPLETED


@pytest.mark.parametrize(
    "body",
    [
        b"\x00\x53\x14\xc0\x03\x02\x42\x43",
        b"\x00\x53\x15\xc0\x02\x01\x42",
        b"\x00\x53\x15\xc0\x03\x02\x43\x43",
        b"\x00\x53\x15\xc0\x03\x02\x42\x42",
        b"\x00\x53\x15\xc0\x06\x05\x42\x43\x43\x42\x43",
        b"\x00\x53\x15\xc0\x05\x04\x42\x43\x43\x43",
        b"\x00\x53\x15\xc0\x08\x07\x42\x43\x43\x42\x40\x42\x42",
        b"\x00\x53\x15\xc0\x0b\x05\x56\x02\x52\x01\x40\x42\x00\x53\x24\x45",
        b"\x00\x53\x15\xc0\x0b\x05\x41\x52\x01\x40\x56\x02\x00\x53\x24\x45",
    ],
)
def test_what_is_no_disposition_is_an_error(body: bytes) -> None:
    with pytest.raises(AmqpProtocolError):
        read_disposition(body)


@given(
    st.builds(
        garbled,
        st.sampled_from([encode_performative(Disposition(True, 5, 6, True, state)) for state, _, _ in STATES]),
        st.randoms(use_true_random=False),
    )
    | st.binary(max_size=30)
)
def test_a_garbled_disposition_fails_in_one_way_only(body: bytes) -> None:
    with suppress(AmqpProtocolError):
        *_, span = read_disposition(body)
        if span is not None:
            outcome_of(body, span)
            rejected_error(body, span)


def test_a_message_that_is_a_value_is_walked_too() -> None:
    payload = Message(body=Value({"a": 1}), message_annotations=BROKERS).encode()
    assert find_sequence_number(payload, 0, len(payload)) == 7_000_000_123


# Flows ----------------------------------------------------------------------------------------------------------------

NUMBERS = st.sampled_from([0, 1, 255, 256, 70_000, 2**32 - 1])


@given(
    st.builds(
        Flow,
        st.none() | NUMBERS,
        NUMBERS,
        NUMBERS,
        NUMBERS,
        st.none() | NUMBERS,
        st.none() | NUMBERS,
        st.none() | NUMBERS,
        st.none() | NUMBERS,
        st.booleans(),
        st.booleans(),
    ),
    st.sampled_from([encode_performative, brief]),
)
def test_a_flow_reads_as_it_decodes_or_is_left_to_others(flow: Flow, encoder: Any) -> None:
    body = encoder(flow)
    found = read_flow(b"x" + body, 1, 1 + len(body))
    if found is None:
        return
    handle, next_incoming_id, window, window_at, outgoing_window = found
    assert (handle, next_incoming_id, window) == (flow.handle, flow.next_incoming_id, flow.incoming_window)
    assert outgoing_window == flow.outgoing_window
    assert performative_fields(body).spans[1] == (window_at - 2, window_at + 3)


@pytest.mark.parametrize("number", [1, 200, 300, 70_000])
def test_what_the_sdk_asks_for_messages_with_is_found_by_hand(number: int) -> None:
    body = sdk_bytes.flow(number, 60_000, handle=2, credit=1)
    found = read_flow(body, 0, len(body))
    assert found is not None
    assert found[:3] == (2, number, 60_000)


@given(st.builds(garbled, st.just(sdk_bytes.flow(300, 65_000, handle=2, credit=1)), st.randoms(use_true_random=False)))
def test_a_garbled_flow_is_left_to_others_or_reads_as_it_is_laid_out(body: bytes) -> None:
    found = read_flow(body, 0, len(body))
    if found is not None:
        fields = performative_fields(body)
        assert (fields.code, fields.end) == (0x13, len(body))
        start, end = fields.spans[1]
        assert (body[start], end - start, start + 1) == (0x70, 5, found[3])


@given(
    st.builds(Flow, st.none() | NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.none() | NUMBERS, st.none() | NUMBERS),
    st.sampled_from([encode_performative, brief]),
)
def test_a_flow_that_makes_sense_is_none_to_complain_of(flow: Flow, encoder: Any) -> None:
    check_flow(encoder(flow))
    check_flow(sdk_bytes.flow(1, 60_000, handle=2, credit=1))


@pytest.mark.parametrize(
    ("index", "nonsense"),
    [
        (0, b"\x41"),
        (1, b"\x40"),
        (4, b"\xa1\x01a"),
        (6, b"\x45"),
        (7, b"\x42"),
        (8, b"\x43"),
        (9, b"\x56\x02"),
        (10, b"\x43"),
    ],
)
def test_nonsense_in_a_flow_is_an_error_also_where_nobody_reads_it(index: int, nonsense: bytes) -> None:
    body = encode_performative(Flow(1, 2, 3, 4, 5, 6, 7, 8, False, False))
    with pytest.raises(AmqpProtocolError):
        check_flow(splice(body, performative_fields(body), {index: nonsense}))


def test_a_flow_that_lacks_what_it_must_say_is_an_error() -> None:
    for body in (
        b"\x00\x53\x13\x45",
        b"\x00\x53\x13\xc0\x04\x03\x43\x43\x43",
        b"\x00\x53\x13\xc0\x0d\x0c" + b"\x43" * 12,
    ):
        with pytest.raises(AmqpProtocolError):
            check_flow(body)
