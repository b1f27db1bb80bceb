"""The quick way for common attaches says what the general one says, and leaves to it whatever it does not know."""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from renewer.amqp import Attach, Source, Symbol, Target, Uint, decode_performative, encode_performative
from renewer.amqp.decoder import MAX_DEPTH
from renewer.amqp.plainattach import decode_plain_attach, encode_plain_attach
from renewer.amqp.types import Described
from renewer.errors import AmqpProtocolError
from tests.amqp.captured_frames import GRANTS, OTHER_ATTACHES, OTHER_FRAMES, TRANSFERS

uints = st.one_of(st.integers(0, 300), st.integers(0, 2**32 - 1))
ulongs = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
LONG = "of more than 255 bytes" * 12
texts = st.text(max_size=20) | st.just(LONG)
symbols = st.builds(Symbol, st.text("abc:-", min_size=1, max_size=12))
values = st.one_of(st.none(), texts, st.builds(Uint, uints), st.booleans(), symbols, st.lists(texts, max_size=3))
maps = st.dictionaries(symbols, values, min_size=1, max_size=3)
attaches = st.builds(
    Attach,
    name=texts,
    handle=uints,
    role=st.booleans(),
    snd_settle_mode=st.integers(0, 2),
    rcv_settle_mode=st.integers(0, 1),
    source=st.builds(Source, address=texts, filter=maps),
    target=st.builds(Target, address=texts),
    initial_delivery_count=st.none() | uints,
    max_message_size=st.none() | ulongs,
    properties=maps,
)

TELLING_OCTETS = bytes.fromhex("00 01 02 07 08 0e 40 41 42 43 44 45 50 52 53 54 70 71 80 98 a0 a1 a3 b1 c0 c1 d0 d1 ff")
"""Constructors and counts."""

PLAIN = Attach("n", 1, True, 0, 1, Source("orders", filter={Symbol("f"): "s"}), Target("here"), properties={"p": 1})


def reads_alike(body: bytes) -> bool:
    """Whether the quick way read it; then the general way must have read the same."""
    found = decode_plain_attach(body)
    if found is None:
        return False
    general = decode_performative(body)
    assert found == general
    # False is 0 for `==`, and a symbol its string; on the wire they differ.
    assert encode_performative(found[0]) == encode_performative(general[0])
    return True


@given(attaches)
def test_it_writes_what_the_general_way_writes_and_reads_it_again(attach: Attach) -> None:
    general = encode_performative(attach)
    assert encode_plain_attach(attach) == general
    assert reads_alike(general) or LONG.encode() in general


@given(attaches, st.data())
def test_no_change_of_its_bytes_makes_it_raise_or_differ(attach: Attach, data: st.DataObject) -> None:
    body = bytearray(encode_performative(attach))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        if not body:
            return
    reads_alike(bytes(body))


@given(st.binary(max_size=80))
@example(b"")
@example(b"\x00\x53\x12")
def test_no_bytes_make_it_raise_or_differ(noise: bytes) -> None:
    reads_alike(noise)
    reads_alike(b"\x00\x53\x12" + noise)


@pytest.mark.parametrize("grant", GRANTS.values(), ids=GRANTS)
def test_grants_as_others_write_them_are_read(grant: bytes) -> None:
    assert reads_alike(grant)


@pytest.mark.parametrize("name", OTHER_ATTACHES)
def test_attaches_that_are_no_grants_are_read_alike_or_left_to_the_general_way(name: str) -> None:
    reads_alike(OTHER_ATTACHES[name])


@pytest.mark.parametrize("frames", [TRANSFERS, OTHER_FRAMES], ids=["transfers", "others"])
def test_no_other_frame_is_taken_for_an_attach(frames: dict[str, bytes]) -> None:
    assert [name for name, body in frames.items() if decode_plain_attach(body)] == []


@pytest.mark.parametrize("attach", [*GRANTS.values(), *OTHER_ATTACHES.values()], ids=[*GRANTS, *OTHER_ATTACHES])
def test_no_byte_of_what_others_write_makes_it_raise_or_differ(attach: bytes) -> None:
    for at in range(len(attach)):
        octet = attach[at]
        for changed in {*TELLING_OCTETS, octet - 1 & 0xFF, octet + 1 & 0xFF, octet ^ 0x10}:
            reads_alike(attach[:at] + bytes((changed,)) + attach[at + 1 :])
        reads_alike(attach[:at])
        reads_alike(attach[:at] + attach[at + 1 :])
        reads_alike(attach[:at] + b"\x40" + attach[at:])


@given(st.sampled_from(sorted({**GRANTS, **OTHER_ATTACHES}.values())), st.data())
def test_no_changes_of_what_others_write_make_it_raise_or_differ(attach: bytes, data: st.DataObject) -> None:
    body = bytearray(attach)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(3, len(body) - 1))
        some = st.lists(st.sampled_from(TELLING_OCTETS), max_size=3).map(bytes) | st.binary(max_size=3)
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(some)
    reads_alike(bytes(body))


def described(code: int, *fields: bytes, wide: bool) -> bytes:
    """A described list of encoded fields."""
    body = b"".join(fields)
    size = struct.pack(">II", len(body) + 4, len(fields)) if wide else bytes((len(body) + 1, len(fields)))
    return b"\x00\x53" + bytes((code,)) + (b"\xd0" if wide else b"\xc0") + size + body


NULL = b"\x40"
DEFAULTS = (b"\x43", b"\xa3\x0bsession-end", b"\x43", b"\x42", NULL, NULL)
FILTER = b"\xc1\x07\x02\xa3\x01f\xa1\x01s"


def grant(*, source: list[bytes], target: list[bytes], modes: bytes, unsettled: bytes = b"\x42", wide: bool) -> bytes:
    fields = (b"\xa1\x01n", b"\x43", b"\x42", *modes.split(b"|"))
    source_and_target = described(0x28, *source, wide=wide), described(0x29, *target, wide=wide)
    return described(
        0x12, *fields, *source_and_target, NULL, unsettled, b"\x43", b"\x44", NULL, NULL, FILTER, wide=not wide
    )


@pytest.mark.parametrize("wide", [False, True], ids=["list8", "list32"])
@pytest.mark.parametrize("modes", [b"\x40|\x40", b"\x50\x00|\x50\x01"], ids=["null", "written"])
def test_a_default_may_be_written_or_null_or_left_out_at_the_end(modes: bytes, *, wide: bool) -> None:
    for nulls in product((False, True), repeat=4):
        fields = [NULL if null else written for null, written in zip(nulls, DEFAULTS, strict=False)] + [NULL, NULL]
        for left_out, behind in product(range(7), range(4)):
            source = [b"\xa1\x01q", *fields, FILTER] + [NULL] * behind
            target = [NULL if left_out % 2 else b"\xa1\x01t", *fields[: 6 - left_out]]
            unsettled = NULL if behind % 2 else b"\x42"
            assert reads_alike(grant(source=source, target=target, modes=modes, unsettled=unsettled, wide=wide))
            without_filter = [b"\xa1\x01q", *fields[: 6 - left_out]]
            assert reads_alike(grant(source=without_filter, target=target, modes=modes, wide=wide))


@pytest.mark.parametrize("where", ["source", "target"])
@pytest.mark.parametrize(
    ("index", "other"),
    [(1, b"\x42"), (1, b"\x52\x01"), (2, b"\xa3\x05never"), (3, b"\x42"), (3, b"\x52\x07"), (4, b"\x41"), (4, b"\x43")],
)
def test_what_is_no_default_is_left_to_the_general_way(where: str, index: int, other: bytes) -> None:
    source, target = [b"\xa1\x01q", *DEFAULTS, FILTER], [b"\xa1\x01t", *DEFAULTS]
    (source if where == "source" else target)[index] = other
    assert not reads_alike(grant(source=source, target=target, modes=b"\x40|\x40", wide=False))


def test_what_refuses_a_session_is_read() -> None:
    assert reads_alike(encode_performative(replace(PLAIN, source=None, target=None, properties=None)))


@pytest.mark.parametrize("which", [b"\x00\x53\x28", b"\x00\x53\x29"])
@pytest.mark.parametrize("by", [-3, -1, 1, 3])
def test_a_list_in_it_that_ends_elsewhere_than_its_items_is_left_to_the_general_way(which: bytes, by: int) -> None:
    body = bytearray(encode_performative(PLAIN))
    body[body.index(which) + 4] += by
    assert not reads_alike(bytes(body))


def test_what_is_nested_too_deep_for_the_general_way_is_left_to_it() -> None:
    def nested(levels: int) -> Attach:
        value: object = "s"
        for _ in range(levels):
            value = [value]
        return replace(PLAIN, source=Source("orders", filter={Symbol("f"): value}))

    def readable(levels: int) -> bool:
        # By hand, because the encoder has a limit of its own.
        body = encode_performative(nested(0))
        item = b"\xa1\x01s"
        for _ in range(levels):
            item = b"\xc0" + bytes((len(item) + 1, 1)) + item
        grown = bytearray(body.replace(b"\xa1\x01s", item))
        for at in (4, grown.index(b"\x00\x53\x28") + 4, grown.index(b"\xa3\x01f") - 2):
            grown[at] += len(item) - 3
        try:
            decode_performative(bytes(grown))
        except AmqpProtocolError:
            assert decode_plain_attach(bytes(grown)) is None
            return False
        assert reads_alike(bytes(grown))
        return True

    depths = [readable(levels) for levels in range(MAX_DEPTH)]
    assert True in depths
    assert False in depths


@pytest.mark.parametrize(
    "unusual",
    [
        replace(PLAIN, properties=None),
        replace(PLAIN, properties={}),
        replace(PLAIN, source=None),
        replace(PLAIN, source=Source("orders")),
        replace(PLAIN, source=Source(Symbol("orders"), filter={Symbol("f"): "s"})),
        replace(PLAIN, source=Source("orders", durable=1, filter={Symbol("f"): "s"})),
        replace(PLAIN, source=Source("orders", filter={Symbol("f"): "s"}, outcomes=["amqp:accepted:list"])),
        replace(PLAIN, target=None),
        replace(PLAIN, target=Target(None)),
        replace(PLAIN, target=Target(Symbol("here"))),
        replace(PLAIN, target=Target("here", dynamic=True)),
        replace(PLAIN, target=Described(Symbol("coordinator"), [])),
        replace(PLAIN, desired_capabilities=["shared"]),
        replace(PLAIN, unsettled={b"t": None}),
        replace(PLAIN, incomplete_unsettled=True),
    ],
)
def test_whatever_is_unusual_is_left_to_the_general_way(unusual: Attach) -> None:
    assert encode_plain_attach(unusual) is None
    reads_alike(encode_performative(unusual))


@pytest.mark.parametrize(
    "wrong",
    [
        replace(PLAIN, handle=-1),
        replace(PLAIN, handle=2**32),
        replace(PLAIN, snd_settle_mode=256),
        replace(PLAIN, max_message_size=2**64),
        replace(PLAIN, name="\ud800"),
    ],
)
def test_what_has_no_form_is_left_to_the_general_way_to_refuse(wrong: Attach) -> None:
    assert encode_plain_attach(wrong) is None
    with pytest.raises(AmqpProtocolError):
        encode_performative(wrong)
