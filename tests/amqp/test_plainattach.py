"""The quick way for common attaches says what the general one says, and leaves to it whatever it does not know."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from renewer.amqp import Attach, Source, Symbol, Target, Uint, decode_performative, encode_performative
from renewer.amqp.decoder import MAX_DEPTH
from renewer.amqp.plainattach import decode_plain_attach, encode_plain_attach
from renewer.amqp.types import Described
from renewer.errors import AmqpProtocolError

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

PLAIN = Attach("n", 1, True, 0, 1, Source("orders", filter={Symbol("f"): "s"}), Target("here"), properties={"p": 1})


def reads_alike(body: bytes) -> bool:
    """Whether the quick way read it; then the general way must have read the same."""
    found = decode_plain_attach(body)
    if found is None:
        return False
    assert found == decode_performative(body)
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
