"""Messages of a session through the client: received one by one or many, read, settled; and what a loss does."""

from __future__ import annotations

import inspect
import json
import threading
import uuid
from datetime import UTC, datetime

import anyio
import pytest
from anyio import to_thread
from hypothesis import given

from renewer.amqp import Symbol, Timestamp, Uint, encode
from renewer.api.amqpvalues import TypedValue, amqp_value
from renewer.api.jsonpieces import json_pieces
from renewer.api.messageviews import show_message
from renewer.client import (
    AsyncClient,
    AsyncMessageLock,
    AsyncReceivedMessage,
    AsyncSession,
    BadRequest,
    Client,
    Conflict,
    InFlight,
    LockAtRisk,
    LockLost,
    Message,
    MessageLock,
    MessageSettled,
    NotFound,
    ProtocolError,
    ReceivedMessage,
    RemoteFailed,
    Session,
    SessionLost,
    Timeout,
    Unavailable,
    messagecalls,
)
from renewer.client import messages as client_messages
from renewer.messages import DataBody, SequenceBody, UnreadableBody, ValueBody
from renewer.messages import ReceivedMessage as Told
from tests.api.test_api_amqp_values import singles, values
from tests.client.standin import problem

LIMIT_S = 20
WAYS = {"complete": "complete", "abandon": "abandon", "defer": "defer", "dead_letter": "dead-letter"}


@pytest.fixture
def client(standin):
    with Client(standin.api, timeout=5, retry_for=0) as client:
        yield client


def message(number: int, text: str = "hello", **more):
    return shown(Told(f"1.{number}", DataBody((text.encode(),)), sequence_number=number, **more))


def shown(told: Told):
    return json.loads(b"".join(json_pieces(show_message(told))))


def read(told: Told) -> Message:
    return client_messages.message_of(shown(told), Message)


# What a message is --------------------------------------------------------------------------------------------------


def test_a_message_is_read_with_plain_values_and_keeps_their_types():
    number = uuid.UUID(int=7)
    found = read(
        Told(
            "1.2",
            DataBody((b'{"a":', b" 1}")),
            sequence_number=2**60,
            delivery_count=2,
            enqueued_at=1_767_312_000.5,
            message_id=number,
            correlation_id=b"\x00",
            subject="s",
            application_properties={"u": Uint(7), "at": Timestamp(1_767_312_000_000), "id": number, "t": "x"},
            annotations={"x-a": Symbol("y")},
        )
    )
    assert (found.handle, found.sequence_number, found.delivery_count, found.subject) == ("1.2", 2**60, 2, "s")
    assert (found.body, found.text(), found.json()) == (b'{"a": 1}', '{"a": 1}', {"a": 1})
    assert (found.message_id, found.correlation_id) == (number, b"\x00")
    assert found.enqueued_at == datetime(2026, 1, 2, 0, 0, 0, 500_000, UTC)
    assert found.properties == {"u": 7, "at": datetime(2026, 1, 2, tzinfo=UTC), "id": number, "t": "x"}
    assert found.typed_properties["u"] == {"type": "uint", "value": 7}
    assert found.annotations == {"x-a": "y"}
    assert "hello" not in repr(read(Told("1.1", DataBody((b"hello",)))))


def test_every_kind_of_body_is_read():
    assert read(Told(None, None)).body_kind is None
    listed = read(Told(None, SequenceBody(([1, "a"], []))))
    assert (listed.body_kind, listed.sequence, listed.body) == ("sequence", ([1, "a"], []), b"")
    valued = read(Told(None, ValueBody({"k": [Uint(1), b"x"]})))
    assert (valued.body_kind, valued.value) == ("value", {"k": [1, b"x"]})
    assert read(Told(None, ValueBody("text"))).text() == "text"
    broken = read(Told("1.1", UnreadableBody(b"\xff", "why")))
    assert (broken.body_kind, broken.body, broken.problem) == ("unreadable", b"\xff", "why")
    for no_text in (listed, valued, broken):
        with pytest.raises(ValueError, match=r"no text|decode"):
            no_text.text()
    with pytest.raises(ValueError, match="Expecting"):
        read(Told(None, DataBody((b"",)))).json()


@given(values)
def test_whatever_the_daemon_shows_can_be_read(value):
    found = read(Told("1.1", ValueBody(value), application_properties={"p": value}))
    assert found.properties.keys() == {"p"}
    assert found.body_kind == "value"


@given(singles)
def test_what_was_received_can_be_given_back_with_its_type(value):
    typed = read(Told("1.1", None, application_properties={"p": value})).typed_properties["p"]
    assert encode(amqp_value(TypedValue.model_validate(typed))) == encode(value)


@pytest.mark.parametrize(
    "document",
    [
        {"body": {"kind": "picture"}},
        {"body": {"kind": "data", "base64": 7}},
        {"body": {"kind": "data", "base64": "A"}},
        {"body": {"kind": "sequence", "sections": 7}},
        {"body": {"kind": "value", "value": {"type": "uuid", "value": "x"}}},
        {"application_properties": {"a": {"type": "long", "value": "x"}}},
        {"application_properties": {"a": {"type": "list", "value": 7}}},
        {"application_properties": {"a": {"type": "map", "value": [[{"type": "list", "value": []}, 1]]}}},
        {"message_id": {"type": "timestamp", "value": "x"}},
    ],
)
def test_what_is_no_message_is_told(document):
    with pytest.raises(ProtocolError):
        client_messages.message_of(document, Message)


def test_both_kinds_of_sessions_and_messages_have_the_same_methods():
    def surface(kind):
        # An annotation names the class of the messages.
        return {
            name.replace("aiter", "iter"): [
                (p.name, p.kind, p.default) for p in inspect.signature(member).parameters.values()
            ]
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_") or "iter" in name
        }

    assert surface(Session) == surface(AsyncSession)
    assert surface(ReceivedMessage) == surface(AsyncReceivedMessage)
    assert surface(MessageLock) == surface(AsyncMessageLock)


# Receiving ----------------------------------------------------------------------------------------------------------


def test_messages_are_received_in_a_session(standin, client):
    with client.session("orders", "c") as session:
        assert session.receive(wait=0) == []
        standin.bring(message(1, "one"), message(2), message(3))
        (one,) = session.receive()
        assert (one.text(), one.handle) == ("one", "1.1")
        assert [found.handle for found in session.receive(5, wait="1m")] == ["1.2", "1.3"]
        assert session.in_flight() == tuple(InFlight(f"1.{number}", 1) for number in (1, 2, 3))
        asked = standin.requests("POST", "/v1/leases/lease-1/receive")
        assert [(seen.json["max"], seen.query) for seen in asked] == [
            (1, [("epoch", "1")]),
            (1, [("wait", "30.000"), ("epoch", "1")]),
            (5, [("wait", "60.000"), ("epoch", "1")]),
        ]


def test_a_receive_waits_for_the_message(standin, client):
    with client.session("orders", "c") as session:
        path = "/v1/leases/lease-1/receive"

        def bring():
            standin.until(lambda: standin.requests("POST", path))
            standin.bring(message(1))

        helper = threading.Thread(target=bring)
        helper.start()
        assert len(session.receive(wait=LIMIT_S)) == 1
        helper.join()


@pytest.mark.parametrize("way", WAYS)
def test_a_message_is_settled_as_itself(standin, client, way):
    with client.session("orders", "c") as session:
        standin.bring(message(1), message(2))
        found = session.receive(2)
        getattr(found[0], way)()
        assert standin.settled == [("1.1", WAYS[way], {})]
        with pytest.raises(NotFound):
            getattr(found[0], way)()
        session.check()


def test_a_message_is_dead_lettered_with_its_own_properties(standin, client):
    with client.session("orders", "c") as session:
        standin.bring(message(1, application_properties={"tries": Uint(3)}))
        (found,) = session.receive()
        properties = {**found.typed_properties, "by": "me"}
        found.dead_letter(reason="poison", description="it breaks", properties=properties)
        body = {
            "reason": "poison",
            "description": "it breaks",
            "properties": {"tries": {"type": "uint", "value": 3}, "by": "me"},
        }
        assert standin.settled == [("1.1", "dead-letter", body)]


def test_messages_are_looked_at_and_deferred_ones_received(standin, client):
    with client.session("orders", "c") as session:
        standin.bring(message(1), message(2))
        seen = session.peek(5, from_sequence_number=2**60)
        assert [type(one) for one in seen] == [Message, Message]
        assert [one.handle for one in seen] == [None, None]
        assert standin.requests("GET", "/v1/leases/lease-1/peek")[0].query == [
            ("max", "5"),
            ("from", str(2**60)),
            ("epoch", "1"),
        ]
        (one,) = session.receive_deferred([7])
        one.complete()
        with pytest.raises(Conflict, match="not all"):
            session.receive_deferred([1, 2, 3])
        session.check()


def test_a_session_gives_one_message_after_the_other_until_it_is_stopped(standin, client):
    with client.session("orders", "c") as session:
        standin.bring(*(message(number) for number in range(1, 4)))
        handled = []
        for found in session:
            handled.append(found.handle)
            found.complete()
            if len(handled) == 3:
                session.stop()
        assert handled == ["1.1", "1.2", "1.3"]
        assert list(session) == []


def test_a_session_that_is_idle_for_long_ends_its_messages(standin, client):
    with client.session("orders", "c") as session:
        standin.bring(message(1), message(2))
        assert [found.handle for found in session.messages(idle=0.05)] == ["1.1", "1.2"]
        assert list(session.messages(idle=0)) == []


def test_an_iteration_waits_while_the_session_is_at_risk(standin, client):
    with client.session("orders", "c") as session:
        standin.tell("lease-1", "lease.at_risk", detail="late")
        standin.bring(message(1))
        wait_for_risk(session)
        with pytest.raises(LockAtRisk):
            session.receive(wait=0)
        helper = threading.Timer(0.05, standin.tell, ("lease-1", "lease.recovered"))
        helper.start()
        assert next(iter(session)).handle == "1.1"
        helper.join()


def wait_for_risk(session, condition=lambda session: session.is_at_risk):
    with session._changed:
        assert session._changed.wait_for(lambda: condition(session), LIMIT_S)


# Losing -------------------------------------------------------------------------------------------------------------


def test_a_session_that_is_lost_ends_a_receive_and_settles_nothing(standin, client):
    with (  # noqa: PT012
        pytest.raises(SessionLost, match="expired"),
        client.session("orders", "c") as session,
    ):
        standin.bring(message(1))
        (found,) = session.receive()
        path = "/v1/leases/lease-1/receive"

        def lose():
            standin.until(lambda: len(standin.requests("POST", path)) == 2)
            standin.tell("lease-1", "lease.lost", reason="expired")

        helper = threading.Thread(target=lose)
        helper.start()
        with pytest.raises(SessionLost):
            next(iter(session))
        helper.join()
        for way in WAYS:
            with pytest.raises(SessionLost):
                getattr(found, way)()
        assert standin.settled == []
        assert [one.handle for one in session.in_flight()] == [found.handle]


def test_what_the_broker_said_to_a_settlement_is_told_at_once(standin, client):
    with client.session("orders", "c") as session:
        standin.bring(message(1))
        (found,) = session.receive()
        path = ("POST", "/v1/leases/lease-1/messages/1.1/complete")
        for answer, kind, outcome in (
            (problem(409, "again", extra={"state": "lost", "reason": "detached"}), LockLost, None),
            (problem(409, "done", extra={"state": "settled", "settled": "deferred"}), MessageSettled, None),
            (problem(409, "just now"), Conflict, None),
            (problem(504, "nobody knows", extra={"outcome": "unknown"}), Timeout, "unknown"),
            (problem(502, "busy", extra={"outcome": "not_done"}), RemoteFailed, "not_done"),
        ):
            standin.answers[path] = answer
            with pytest.raises(kind) as caught:
                found.complete()
            assert type(caught.value) is kind
            assert caught.value.outcome == outcome
            # The session is as it was.
            session.check()
        del standin.answers[path]
        found.complete()


def test_a_settlement_may_be_asked_for_twice_but_a_receive_may_not():
    settlement = messagecalls.Settlement("complete")
    assert messagecalls.settle_received("lease-1", "1.1", settlement).repeatable
    assert messagecalls.peek("lease-1", count=1, from_sequence_number=0).repeatable
    assert not messagecalls.receive("lease-1", count=1, wait_s=0).repeatable
    assert not messagecalls.receive_deferred("lease-1", [1]).repeatable


def test_a_daemon_that_goes_away_puts_a_session_in_doubt(standin, client):
    with pytest.raises(SessionLost), client.session("orders", "c", owner="none") as session:  # noqa: PT012
        standin.kill()
        with pytest.raises((Unavailable, LockAtRisk)):
            session.receive(wait=0)
        standin.leases.clear()
        standin.start()
        next(iter(session))


# Outside a block ----------------------------------------------------------------------------------------------------


def test_a_lease_without_a_block_gives_messages_that_are_settled_by_handle(standin, client):
    lease = client.hold("orders", "c", wait=5)
    standin.bring(message(1), message(2), message(3))
    (one,) = client.receive(lease.id)
    assert (type(one), one.handle) == (Message, "1.1")
    assert [found.handle for found in client.peek(lease.id, 9)] == [None, None]
    assert [found.handle for found in client.receive_deferred(lease.id, [2])] == ["1.2"]
    client.settle(lease.id, "1.1", "abandon", properties={"n": 1})
    client.settle(lease.id, "1.2", "dead-letter", reason="r", description="d")
    assert standin.settled == [
        ("1.1", "abandon", {"properties": {"n": 1}}),
        ("1.2", "dead-letter", {"reason": "r", "description": "d"}),
    ]
    assert client.in_flight(lease.id) == ()
    with pytest.raises(BadRequest, match="handle"):
        client.settle(lease.id, "", "complete")


# Async --------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("way", WAYS)
async def test_async_sessions_do_the_same(standin, way):
    with anyio.fail_after(LIMIT_S):
        async with AsyncClient(standin.api) as client, client.session("orders", "c") as session:
            standin.bring(*(message(number) for number in range(1, 5)))
            (first,) = await session.receive(wait="1s")
            await getattr(first, way)()
            assert [one.handle for one in await session.peek(9)] == [None, None, None]
            (second,) = await session.receive_deferred([2])
            await second.complete()
            handles = []
            async for found in session:
                handles.append(found.handle)
                await found.complete()
                if len(handles) == 2:
                    session.stop()
            assert handles == ["1.3", "1.4"]
            assert [one async for one in session.messages(idle=0)] == []
            assert await session.in_flight() == ()
            with pytest.raises(NotFound):
                await first.complete()
            assert [(handle, how) for handle, how, _ in standin.settled] == [
                ("1.1", WAYS[way]),
                ("1.2", "complete"),
                ("1.3", "complete"),
                ("1.4", "complete"),
            ]


@pytest.mark.anyio
async def test_async_calls_do_the_same(standin):
    with anyio.fail_after(LIMIT_S):
        async with AsyncClient(standin.api) as client:
            lease = await client.hold("orders", "c", wait=5)
            standin.bring(message(1), message(2))
            assert len(await client.peek(lease.id, 2)) == 2
            (one,) = await client.receive(lease.id, wait=0)
            (other,) = await client.receive_deferred(lease.id, [2])
            await client.settle(lease.id, one.handle, "complete")
            assert [found.handle for found in await client.in_flight(lease.id)] == [other.handle]


@pytest.mark.anyio
async def test_an_async_iteration_waits_while_the_session_is_at_risk_and_ends_when_it_is_lost(standin):
    async with AsyncClient(standin.api) as client:
        with anyio.fail_after(LIMIT_S), pytest.raises(SessionLost, match="expired"):  # noqa: PT012
            async with client.session("orders", "c") as session:
                await to_thread.run_sync(lambda: standin.tell("lease-1", "lease.at_risk", detail="late"))
                await session._hear(lambda: session.is_at_risk, LIMIT_S)
                standin.bring(message(1))
                handled = []
                path = "/v1/leases/lease-1/receive"
                async with anyio.create_task_group() as tasks:

                    async def work():
                        async for found in session:
                            handled.append(found.handle)  # noqa: PERF401 - told one by one

                    tasks.start_soon(work)
                    with pytest.raises(LockAtRisk):
                        await session.receive(wait=0)
                    assert handled == []
                    standin.tell("lease-1", "lease.recovered")
                    await to_thread.run_sync(standin.until, lambda: len(standin.requests("POST", path)) == 2)
                    standin.tell("lease-1", "lease.lost", reason="expired")
    assert handled == ["1.1"]
