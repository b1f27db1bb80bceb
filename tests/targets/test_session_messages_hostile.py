"""What a broker may send as messages, out of malice or by mistake: a clean error, bounded memory, others unharmed."""

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from renewer.amqp import Data, Message, MessageProperties, Transfer, Value, encode_frame, encode_performative
from renewer.amqp.performatives import Disposition, Role
from renewer.core.states import LossReason
from renewer.errors import ConflictError, LeaseLostError, RenewerError
from renewer.messages import ReceivedMessage, UnreadableBody
from renewer.ports import Settlement
from renewer.targets.servicebus.messages import read_message
from tests.targets.servicebus_rig import failing, rig, spec

pytestmark = pytest.mark.anyio

COMPLETE = Settlement("complete")


def transfer(link, payload=b"", **fields):
    """Send a frame on the link that its endpoint knows nothing of."""
    session = link.session
    body = encode_performative(Transfer(link.handle, **fields)) + payload
    session._outlet.output += encode_frame(session.channel, body)


def encoded(text="hello"):
    return Message(Data([text.encode()]), message_annotations={"x-opt-sequence-number": 1}).encode()


async def two_sessions(r):
    """One on each of two connections, the first of which misbehaves, and another on the same as the first."""
    await r.target.acquire(spec("s1"), 1)
    await r.target.acquire(spec("other"), 1)
    assert r.target.connections == 2
    return r.broker.link_of("s1"), r.broker.peers[0]


async def other_is_well(r):
    await r.target.renew(spec("other"), 1)
    link = r.broker.link_of("other")
    link.send(encoded("well"), delivery_tag=bytes(16))
    r.broker.peers[1].transport.flush()
    (message,) = await r.target.receive(spec("other"), 1, count=1, wait_s=5)
    assert message.body.data == b"well"
    await r.target.settle(spec("other"), 1, COMPLETE, message.handle)


async def receiving(r, link, misbehave):
    """The error of a receive during which the broker misbehaves."""
    errors = []

    async def receive():
        errors.append(await failing(r.target.receive(spec("s1"), 1, count=3, wait_s=60), RenewerError))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await r.broker.until(lambda: link.credit)
        misbehave()
        r.broker.peers[0].transport.flush()
    return errors[0]


# Payloads -----------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
KNOWN = st.sampled_from(
    [
        "x-opt-sequence-number",
        "x-opt-enqueued-time",
        "x-opt-enqueue-sequence-number",
        "x-opt-scheduled-enqueue-time",
        "x-opt-message-state",
        "x-opt-partition-key",
        "x-opt-deadletter-source",
        "x-opt-lock-token",
        "x-opt-locked-until",
    ]
)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_said_to_be_none(payload):
    message = read_message(payload)
    assert isinstance(message, ReceivedMessage)
    if isinstance(message.body, UnreadableBody):
        assert message.body.payload == payload


@given(
    st.dictionaries(KNOWN | st.text("abc", max_size=3), VALUES, max_size=6), VALUES, st.dictionaries(st.text(), VALUES)
)
def test_annotations_of_any_type_are_read(annotations, value, properties):
    payload = Message(
        Value(value), MessageProperties(message_id="m"), properties, message_annotations=annotations
    ).encode()
    message = read_message(payload)
    assert not isinstance(message.body, UnreadableBody)
    assert message.sequence_number is None or isinstance(message.sequence_number, int)
    assert message.partition_key is None or isinstance(message.partition_key, str)


@given(st.data())
def test_a_message_with_some_bytes_changed_is_a_message_or_said_to_be_none(data):
    payload = bytearray(
        Message(
            Value([1, "a", None, {"k": b"x"}]),
            MessageProperties(message_id="m", content_type="t"),
            {"p": 1.5},
            {"x-opt-sequence-number": 1},
        ).encode()
    )
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(read_message(bytes(payload)), ReceivedMessage)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payloads=st.lists(st.binary(max_size=200), min_size=1, max_size=5))
async def test_any_bytes_as_messages_are_received_and_settled_and_cost_nobody_a_session(anyio_backend, payloads):
    async with rig() as r:
        await r.target.acquire(spec("s1"), 1)
        await r.target.acquire(spec("other"), 1)
        link = r.broker.link_of("s1")
        for payload in payloads:
            link.send(payload)
        r.broker.peer.transport.flush()
        got = []
        while len(got) < len(payloads):
            got += await r.target.receive(spec("s1"), 1, count=10, wait_s=5)
        for message in got:
            await r.target.settle(spec("s1"), 1, Settlement("dead-letter"), message.handle)
        await r.target.renew(spec("other"), 1)
        await r.target.renew(spec("s1"), 1)
        assert r.losses == []


@pytest.mark.parametrize("tag", [b"", b"x", bytes(15), bytes(17), bytes(32)])
async def test_a_tag_that_is_no_lock_token_does_as_long_as_the_link_does(tag):
    async with rig() as r:
        await r.target.acquire(spec("s1"), 1)
        r.broker.link_of("s1").send(encoded(), delivery_tag=tag)
        r.broker.peer.transport.flush()
        (message,) = await r.target.receive(spec("s1"), 1, count=1, wait_s=5)
        await r.target.settle(spec("s1"), 1, COMPLETE, message.handle)


# Transfers ----------------------------------------------------------------------------------------------------------


async def test_a_message_without_end_costs_its_own_session_and_no_other():
    async with rig() as r:
        await r.target.acquire(spec("s1"), 1)
        await r.target.acquire(spec("other"), 1)
        link = r.broker.link_of("s1")

        def endless():
            chunk = bytes(30_000)
            transfer(link, chunk, delivery_id=0, delivery_tag=b"t", more=True)
            for _ in range(60):
                transfer(link, chunk, more=True)

        error = await receiving(r, link, endless)
        assert isinstance(error, LeaseLostError)
        assert [(loss.lease_id, loss.reason) for loss in r.losses] == [("orders/s1", LossReason.DETACHED)]
        assert "message-size-exceeded" in r.losses[0].detail
        assert "1048576 bytes" in r.losses[0].detail
        assert "message_size_limit" in r.losses[0].detail
        await r.target.renew(spec("other"), 1)
        assert r.target.connections == 1


async def test_frames_without_bytes_that_never_end_a_message_are_no_message():
    async with rig() as r:
        await r.target.acquire(spec("s1"), 1)
        link = r.broker.link_of("s1")

        async def send():
            await r.broker.until(lambda: link.credit)
            transfer(link, delivery_id=0, delivery_tag=b"t", more=True)
            for _ in range(20):
                transfer(link, more=True)
            r.broker.peer.transport.flush()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            assert await r.target.receive(spec("s1"), 1, count=1, wait_s=0.1) == []
        await r.target.renew(spec("s1"), 1)


def more_than_credit(link):
    for number in range(5):
        transfer(link, encoded(), delivery_id=number, delivery_tag=b"t%d" % number)


def one_id_twice(link):
    for _ in range(2):
        transfer(link, encoded(), delivery_id=0, delivery_tag=b"t")


def no_id(link):
    transfer(link, encoded())


def no_link(link):
    session = link.session
    session._outlet.output += encode_frame(session.channel, encode_performative(Transfer(77, 0, b"t")) + encoded())


def one_inside_another(link):
    transfer(link, encoded(), delivery_id=0, delivery_tag=b"a", more=True)
    transfer(link, encoded(), delivery_id=1, delivery_tag=b"b")


def too_large_a_frame(link):
    transfer(link, bytes(70_000), delivery_id=0, delivery_tag=b"a")


@pytest.mark.parametrize(
    "misbehave", [more_than_credit, one_id_twice, no_id, no_link, one_inside_another, too_large_a_frame]
)
async def test_what_breaks_the_protocol_costs_its_connection_and_no_other(misbehave):
    async with rig(sessions_per_connection=1) as r:
        link, peer = await two_sessions(r)
        assert isinstance(await receiving(r, link, lambda: misbehave(link)), LeaseLostError)
        await r.until_lost()
        assert [(loss.lease_id, loss.reason) for loss in r.losses] == [("orders/s1", LossReason.CONNECTION_LOST)]
        await r.broker.until(lambda: peer.closed)
        await other_is_well(r)


async def test_messages_that_nobody_gave_credit_for_cost_their_connection_and_no_other():
    async with rig(sessions_per_connection=1) as r:
        link, peer = await two_sessions(r)
        transfer(link, encoded(), delivery_id=0, delivery_tag=b"t")
        peer.transport.flush()
        await r.until_lost()
        assert r.losses[0].reason == LossReason.CONNECTION_LOST
        await other_is_well(r)


async def test_settled_messages_are_given_out_and_an_aborted_one_is_not():
    async with rig() as r:
        await r.target.acquire(spec("s1"), 1)
        link = r.broker.link_of("s1")

        async def send():
            await r.broker.until(lambda: link.credit)
            transfer(link, b"half", delivery_id=0, delivery_tag=b"a", more=True)
            transfer(link, aborted=True)
            transfer(link, encoded("one"), delivery_id=1, delivery_tag=b"b", settled=True)
            transfer(link, encoded("two"), delivery_id=1, delivery_tag=b"b", settled=True)
            r.broker.peer.transport.flush()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            messages = await r.target.receive(spec("s1"), 1, count=3, wait_s=5)
        assert [message.body.data for message in messages] == [b"one", b"two"]
        for message in messages:
            await failing(r.target.settle(spec("s1"), 1, COMPLETE, message.handle), ConflictError)


async def test_dispositions_for_anything_and_everything_change_what_they_may():
    async with rig() as r:
        await r.target.acquire(spec("s1"), 1)
        link = r.broker.link_of("s1")
        link.send(encoded(), delivery_tag=bytes(16))
        r.broker.peer.transport.flush()
        (message,) = await r.target.receive(spec("s1"), 1, count=1, wait_s=5)
        link.session.send(Disposition(Role.SENDER, 5, 2**31, True))
        link.session.send(Disposition(Role.SENDER, 0, 0, False))
        r.broker.peer.transport.flush()
        await r.target.settle(spec("s1"), 1, COMPLETE, message.handle)
        link.session.send(Disposition(Role.SENDER, 0, 2**31 - 2, True))
        r.broker.peer.transport.flush()
        await r.target.renew(spec("s1"), 1)
        assert r.losses == []
