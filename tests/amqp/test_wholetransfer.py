"""The quick way for common transfers says what the general one says, and leaves to it whatever it does not know."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.amqp import Accepted, Transfer, decode_performative, encode_performative
from renewer.amqp.wholetransfer import decode_whole_transfer, encode_whole_transfer
from renewer.errors import AmqpProtocolError
from tests.amqp.captured_frames import GRANTS, OTHER_FRAMES, TRANSFERS

uints = st.one_of(st.integers(0, 300), st.integers(0, 2**32 - 1))
tags = st.binary(max_size=32)
flags = st.sampled_from([0x40, 0x41, 0x42, 0x43, 0x56, 0x45])


@given(handle=uints, delivery_id=uints, tag=tags, settled=st.booleans())
def test_it_writes_what_the_general_way_writes(handle: int, delivery_id: int, tag: bytes, settled: bool) -> None:
    general = encode_performative(Transfer(handle, delivery_id, tag, 0, settled))
    assert encode_whole_transfer(handle, delivery_id, tag, settled=settled) == general


@given(handle=uints, delivery_id=uints, tag=tags, settled=st.booleans(), payload=st.binary(max_size=40))
def test_it_reads_what_it_writes(handle: int, delivery_id: int, tag: bytes, settled: bool, payload: bytes) -> None:
    body = encode_whole_transfer(handle, delivery_id, tag, settled=settled) + payload
    assert decode_whole_transfer(body) == (Transfer(handle, delivery_id, tag, 0, settled), len(body) - len(payload))


@given(
    head=st.sampled_from(["43", "5207", "7000000107", "40", "5007", ""]),
    delivery_id=st.sampled_from(["43", "5209", "70000f0000", "40"]),
    tag=st.sampled_from(["a00101", "a000", "40", "b00000000101", "a0ff01"]),
    tail=st.lists(flags, max_size=9),
    wrong_count=st.sampled_from([0, 0, 0, 1, -1]),
    wrong_size=st.sampled_from([0, 0, 0, 1, -1, 200]),
    payload=st.binary(max_size=4),
)
def test_what_it_reads_is_what_the_general_way_reads(
    head: str, delivery_id: str, tag: str, tail: list[int], wrong_count: int, wrong_size: int, payload: bytes
) -> None:
    fields = bytes.fromhex(head + delivery_id + tag) + bytes(tail)
    count = max(0, 3 + len(tail) + wrong_count)
    short = b"\xc0" + bytes((len(fields) + 1 + wrong_size & 0xFF, count))
    long = b"\xd0" + struct.pack(">II", len(fields) + 4 + wrong_size, count)
    for size in (short, long):
        body = b"\x00\x53\x14" + size + fields + payload
        found = decode_whole_transfer(body)
        if found is not None:
            assert found == decode_performative(body)


@given(st.sampled_from([b"\xc0", b"\xd0", b"\xd0\x00\x00\x00"]), st.binary(max_size=60))
def test_no_bytes_make_it_raise_or_differ(size: bytes, noise: bytes) -> None:
    body = b"\x00\x53\x14" + size + noise
    found = decode_whole_transfer(body)
    if found is not None:
        assert found == decode_performative(body)


@pytest.mark.parametrize("name", TRANSFERS)
def test_transfers_as_others_write_them_are_read(name: str) -> None:
    assert decode_whole_transfer(TRANSFERS[name]) == decode_performative(TRANSFERS[name])


@pytest.mark.parametrize("frames", [GRANTS, OTHER_FRAMES], ids=["attaches", "others"])
def test_no_other_frame_is_taken_for_a_transfer(frames: dict[str, bytes]) -> None:
    assert [name for name, body in frames.items() if decode_whole_transfer(body)] == []


@pytest.mark.parametrize(
    "unusual",
    [
        Transfer(0),
        Transfer(0, 1, b"t", 7, True),
        Transfer(0, 1, b"t", 0, False, more=True),
        Transfer(0, 1, b"t", 0, False, aborted=True),
        Transfer(0, 1, b"t", 0, False, resume=True),
        Transfer(0, 1, b"t", 0, False, state=Accepted()),
        Transfer(0, 1, b"t", 0, False, rcv_settle_mode=1),
    ],
)
def test_whatever_is_unusual_is_left_to_the_general_way(unusual: Transfer) -> None:
    assert decode_whole_transfer(encode_performative(unusual)) is None


def test_a_batchable_transfer_is_usual() -> None:
    batchable = Transfer(0, 1, b"t", 0, False, batchable=True)
    found = decode_whole_transfer(encode_performative(batchable))
    assert found is not None
    assert found[0] == batchable


def test_it_reads_a_list_with_a_size_of_four_bytes() -> None:
    short = encode_whole_transfer(3, 700, b"tag", settled=True)
    body = b"\x00\x53\x14\xd0" + struct.pack(">II", short[4] + 3, short[5]) + short[6:]
    assert decode_whole_transfer(body + b"payload") == (Transfer(3, 700, b"tag", 0, True), len(body))


def test_cut_off_bytes_are_refused_by_the_general_way() -> None:
    whole = encode_whole_transfer(3, 4, b"tag", settled=False)
    for length in range(4, len(whole)):
        assert decode_whole_transfer(whole[:length]) is None
        with pytest.raises(AmqpProtocolError):
            decode_performative(whole[:length])
