"""Attach frames in passing: what is seen, and that only addresses change."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.amqp import (
    Attach,
    Described,
    Source,
    Symbol,
    Target,
    Timestamp,
    Uint,
    Ulong,
    decode_performative,
    encode_performative,
)
from renewer.errors import AmqpProtocolError
from renewer.gateway.attaching import encode_address, find_session_lock, read_attach, ticks, with_addresses
from tests.gateway import sdk_bytes
from tests.gateway.sdk_bytes import garbled

ENTITY = "amqps://127.0.0.1:5672/orders"
LOCK = "com.microsoft:locked-until-utc"
COORDINATOR = Described(Ulong(0x30), [[Symbol("amqp:local-transactions")]])


def attach(**changes: Any) -> bytes:
    given = {"name": "n", "handle": 3, "role": True, "source": Source(ENTITY), "target": Target("reply")}
    return encode_performative(Attach(**{**given, **changes}))


# Reading --------------------------------------------------------------------------------------------------------------


def test_the_attach_of_a_receiver_of_the_sdk_is_read() -> None:
    body = sdk_bytes.attach(role=True, source=ENTITY, target="receiver-link-n")
    view = read_attach(body)
    assert (view.name, view.handle, view.role) == ("n", 0, True)
    assert (view.source, view.target) == (ENTITY, "receiver-link-n")
    assert (view.snd_settle_mode, view.initial_delivery_count) == (0, 0)
    assert (view.is_session, view.is_refusal, view.is_coordinator) == (False, False, False)
    assert view.raw_source == b"\xa1" + bytes([len(ENTITY)]) + ENTITY.encode()
    assert view.raw_target == b"\xa1\x0freceiver-link-n"


@pytest.mark.parametrize("session_id", ["s1", "", None])
def test_the_attach_of_a_session_receiver_of_the_sdk_is_read(session_id: str | None) -> None:
    view = read_attach(sdk_bytes.attach_session(ENTITY, session_id))
    assert (view.is_session, view.session_id) == (True, session_id)
    assert (view.source, view.handle) == (ENTITY, 2)


@pytest.mark.parametrize(
    ("value", "session_id"),
    [
        (Described(Symbol("com.microsoft:session-filter"), "s1"), "s1"),
        (Described(Ulong(0x137000000C), None), None),
        (Symbol("s1"), "s1"),
    ],
)
def test_a_described_session_filter_is_read(value: Any, session_id: str | None) -> None:
    view = read_attach(attach(source=Source(ENTITY, filter={"com.microsoft:session-filter": value})))
    assert (view.is_session, view.session_id) == (True, session_id)


@pytest.mark.parametrize("session_id", ["s1", None])
def test_a_filter_for_a_session_that_is_shared_is_read(session_id: str | None) -> None:
    shared = Described(Ulong(0x137000000E), [session_id, UUID(int=7)])
    view = read_attach(
        attach(source=Source(ENTITY, filter={"com.microsoft:non-exclusive-session-filter:list": shared}))
    )
    assert (view.is_session, view.session_id) == (True, session_id)


def test_other_filters_are_none_for_a_session() -> None:
    view = read_attach(attach(source=Source(ENTITY, filter={"apache.org:selector-filter:string": "x"})))
    assert (view.is_session, view.session_id) == (False, None)


def test_a_link_without_ends_is_a_refusal() -> None:
    view = read_attach(attach(source=None, target=None))
    assert view.is_refusal
    assert (view.source, view.target, view.raw_source, view.raw_target) == (None, None, None, None)
    assert not read_attach(attach(source=None)).is_refusal
    assert not read_attach(attach(target=None)).is_refusal
    assert not read_attach(attach(source=Source(), target=None)).is_refusal


def test_a_coordinator_is_no_address() -> None:
    view = read_attach(attach(role=False, target=COORDINATOR))
    assert view.is_coordinator
    assert (view.target, view.raw_target) == (None, None)
    named = Described(Symbol("amqp:coordinator:list"), [])
    assert read_attach(attach(role=False, target=named)).is_coordinator


def test_fields_that_are_left_out_have_their_default() -> None:
    body = b"\x00\x53\x12\xc0\x06\x03\xa1\x01n\x43\x41"
    view = read_attach(body)
    assert (view.name, view.handle, view.role, view.snd_settle_mode) == ("n", 0, True, 2)
    assert view.initial_delivery_count is None
    assert view.is_refusal


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00\x53\x14\xc0\x06\x03\xa1\x01n\x43\x41",
        b"\x00\x53\x12\x45",
        b"\x00\x53\x12\xc0\x05\x02\xa1\x01n\x43",
        b"\x00\x53\x12\xc0\x06\x03\xa1\x01n\x43\x40",
        b"\x00\x53\x12\xc0\x06\x03\x40\x40\x40\x43\x41",
        b"\x00\x53\x12\xc0\x07\x04\xa1\x01n\x43\x41\x43",
        attach(source=Described(Ulong(0x29), ["orders"])),
        attach(source=COORDINATOR),
        attach(source=Described(Symbol("acme:list"), [])),
        attach(source=Described(Ulong(0x28), "orders")),
        attach(source=Source(5)),
        attach(source=Source(b"orders")),
        attach(target=Target(["orders"])),
        attach(source=Source(ENTITY, filter={"com.microsoft:session-filter": 5})),
    ],
)
def test_an_attach_that_cannot_be_judged_is_an_error(body: bytes) -> None:
    with pytest.raises(AmqpProtocolError):
        read_attach(body)


# Addresses ------------------------------------------------------------------------------------------------------------

FRAMES = {
    "session": sdk_bytes.attach_session(ENTITY, "s1"),
    "sender": sdk_bytes.attach(role=False, source="sender-link-n", target=ENTITY),
    "ours": attach(properties={LOCK: ticks(1_800_000_000)}, unsettled={}, offered_capabilities=["a"]),
    "wide": attach(source=Source(ENTITY + "/" + "x" * 300), target=Target("y" * 300)),
}


@pytest.mark.parametrize("body", FRAMES.values(), ids=FRAMES)
def test_only_the_addresses_change(body: bytes) -> None:
    before = read_attach(body)
    changed = with_addresses(body, source=encode_address("amqps://ns/a"), target=encode_address("b" * 300))
    view = read_attach(changed)
    assert (view.source, view.target) == ("amqps://ns/a", "b" * 300)
    assert (view.name, view.session_id, view.is_session) == (before.name, before.session_id, before.is_session)
    before_spans, after_spans = before.fields.spans, view.fields.spans
    for index, (start, end) in enumerate(before_spans):
        if index not in (5, 6):
            assert changed[slice(*after_spans[index])] == body[start:end]
    found, _ = decode_performative(changed)
    expected, _ = decode_performative(body)
    assert isinstance(expected, Attach)
    expected.source.address, expected.target.address = "amqps://ns/a", "b" * 300  # type: ignore[union-attr]
    assert found == expected


@pytest.mark.parametrize("body", FRAMES.values(), ids=FRAMES)
def test_what_was_changed_is_restored_byte_for_byte(body: bytes) -> None:
    view = read_attach(body)
    there = with_addresses(body, source=encode_address("amqps://ns/a"), target=encode_address("b"))
    back = with_addresses(there, source=view.raw_source, target=view.raw_target)
    assert read_attach(back).raw_source == view.raw_source
    assert decode_performative(back) == (decode_performative(body)[0], len(back))
    assert len(back) == len(body)
    assert with_addresses(body) == body


def test_a_source_without_an_address_gets_one() -> None:
    body = with_addresses(attach(source=Source(), target=None), source=encode_address("q"))
    assert read_attach(body).source == "q"


def test_there_must_be_an_end_to_have_the_address() -> None:
    with pytest.raises(AmqpProtocolError):
        with_addresses(attach(source=None), source=encode_address("q"))


# Locks ----------------------------------------------------------------------------------------------------------------


def test_the_end_of_a_session_lock_is_found_and_can_be_replaced() -> None:
    body = bytearray(attach(properties={"com.microsoft:other": 1, LOCK: ticks(1_800_000_000.25)}))
    found = find_session_lock(bytes(body))
    assert found is not None
    offset, until = found
    assert until == 1_800_000_000.25
    struct.pack_into(">q", body, offset, ticks(1_900_000_000))
    changed, _ = decode_performative(bytes(body))
    assert isinstance(changed, Attach)
    assert changed.properties == {"com.microsoft:other": 1, LOCK: 640_355_968_000_000_000}


@pytest.mark.parametrize(
    "properties",
    [None, {}, {"other": ticks(1)}, {LOCK: 5}, {LOCK: "x"}, {LOCK: Timestamp(5)}, {"other": {LOCK: ticks(1)}}],
)
def test_an_attach_that_says_nothing_of_a_lock_has_none(properties: Any) -> None:
    assert find_session_lock(attach(properties=properties)) is None


def test_ticks_count_from_the_year_one() -> None:
    assert ticks(0) == 621_355_968_000_000_000
    assert ticks(1_609_459_200) == 637_450_560_000_000_000  # 2021-01-01


@given(
    st.builds(
        garbled,
        st.sampled_from(
            [*FRAMES.values(), attach(target=COORDINATOR), attach(properties={LOCK: ticks(1), "x": Uint(1)})]
        ),
        st.randoms(use_true_random=False),
    )
    | st.binary(max_size=60)
)
def test_a_garbled_attach_fails_in_one_way_only(body: bytes) -> None:
    with suppress(AmqpProtocolError):
        found = find_session_lock(body)
        assert found is None or found[0] + 8 <= len(body)
    with suppress(AmqpProtocolError):
        view = read_attach(body)
        address = encode_address("amqps://ns/a")
        changed = with_addresses(
            body,
            source=None if view.raw_source is None else address,
            target=None if view.raw_target is None else address,
        )
        assert read_attach(changed).session_id == view.session_id
