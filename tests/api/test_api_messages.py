"""The messages of a held session: how they are received, shown and settled."""

from __future__ import annotations

import uuid

import anyio
import httpx
import pytest
from pydantic import TypeAdapter

from renewer.amqp import AmqpArray, Described, Symbol, Uint, Ulong
from renewer.api.messageviews import InFlightListView, MessagesView
from renewer.api.server import build_api
from renewer.core.states import MessageFate
from renewer.errors import ConflictError, LeaseLostError, MessageSettledError, TransientError
from renewer.messages import DataBody, InFlight, ReceivedMessage, SequenceBody, UnreadableBody, ValueBody
from renewer.ports import Settlement
from tests.api.scripted_control import ScriptedControl
from tests.api.served import client_of, served_on_unix

pytestmark = pytest.mark.anyio

LIMIT_S = 20
WAYS = ["complete", "abandon", "defer", "dead-letter"]
FULL = ReceivedMessage(
    "1.2",
    DataBody((b"\x00\xff", b"\x01")),
    sequence_number=2**54 + 1,
    delivery_count=3,
    state="deferred",
    enqueued_at=1_767_312_000.5,
    enqueued_sequence_number=9,
    scheduled_at=1_767_312_001.0,
    expires_at=1e30,
    message_id=Ulong(2**63),
    correlation_id="c",
    session_id="s",
    content_type="application/json",
    content_encoding="none",
    subject="sub",
    to="t",
    reply_to="r",
    reply_to_session_id="rs",
    partition_key="p",
    dead_letter_source="d",
    application_properties={"n": 2**60, "u": Uint(7), "id": uuid.UUID(int=1)},
    annotations={"x-any": Symbol("y")},
)


@pytest.fixture
def control():
    return ScriptedControl()


@pytest.fixture
async def client(control):
    transport = httpx.ASGITransport(build_api(control, over_tcp=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://renewer", timeout=None) as client:
        yield client


@pytest.fixture
async def path(control):
    return f"/v1/leases/{control.add_lease('s').spec.id}"


def message(handle: str, body: object = None, number: int = 1) -> ReceivedMessage:
    return ReceivedMessage(handle, body, sequence_number=number)  # type: ignore[arg-type]


async def test_a_message_is_shown_with_everything_and_the_types_of_it(control, client, path):
    control.bring(FULL)
    answer = await client.post(f"{path}/receive")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    TypeAdapter(MessagesView).validate_json(answer.content)
    assert answer.json() == {
        "messages": [
            {
                "handle": "1.2",
                "sequence_number": 2**54 + 1,
                "enqueued_sequence_number": 9,
                "message_id": {"type": "ulong", "value": str(2**63)},
                "correlation_id": "c",
                "session_id": "s",
                "delivery_count": 3,
                "state": "deferred",
                "enqueued_at": "2026-01-02T00:00:00.500000Z",
                "scheduled_at": "2026-01-02T00:00:01Z",
                "expires_at": None,
                "content_type": "application/json",
                "content_encoding": "none",
                "subject": "sub",
                "to": "t",
                "reply_to": "r",
                "reply_to_session_id": "rs",
                "partition_key": "p",
                "dead_letter_source": "d",
                "application_properties": {
                    "n": {"type": "long", "value": str(2**60)},
                    "u": {"type": "uint", "value": 7},
                    "id": {"type": "uuid", "value": "00000000-0000-0000-0000-000000000001"},
                },
                "annotations": {"x-any": {"type": "symbol", "value": "y"}},
                "body": {"kind": "data", "base64": "AP8B"},
            }
        ]
    }


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (None, None),
        (DataBody((b"",)), {"kind": "data", "base64": ""}),
        (
            SequenceBody(([1], [])),
            {"kind": "sequence", "sections": [[{"type": "long", "value": "1"}], []]},
        ),
        (
            ValueBody({"k": Described(Symbol("d"), AmqpArray([True], bool))}),
            {
                "kind": "value",
                "value": {
                    "type": "map",
                    "value": [
                        [
                            {"type": "string", "value": "k"},
                            {
                                "type": "described",
                                "descriptor": {"type": "symbol", "value": "d"},
                                "value": {"type": "array", "of": "boolean", "value": [True]},
                            },
                        ]
                    ],
                },
            },
        ),
        (UnreadableBody(b"\xff", "why"), {"kind": "unreadable", "base64": "/w==", "problem": "why"}),
    ],
)
async def test_every_kind_of_body_is_shown(control, client, path, body, shown):
    control.bring(message("1.1", body))
    answer = await client.post(f"{path}/receive")
    TypeAdapter(MessagesView).validate_json(answer.content)
    assert answer.json()["messages"][0]["body"] == shown


async def test_as_many_are_received_as_are_wanted_and_none_is_no_error(control, client, path):
    control.bring(*(message(f"1.{number}", number=number) for number in range(1, 5)))
    assert [one["handle"] for one in (await client.post(f"{path}/receive")).json()["messages"]] == ["1.1"]
    more = await client.post(f"{path}/receive?wait=30s", json={"max": 100})
    assert [one["sequence_number"] for one in more.json()["messages"]] == [2, 3, 4]
    assert (await client.post(f"{path}/receive", json={})).json() == {"messages": []}
    assert control.wanted_messages == [("receive", (1, 0.0)), ("receive", (100, 30.0)), ("receive", (1, 0.0))]


async def test_a_receive_waits_for_a_message(control, client, path):
    answers = []

    async def receive():
        answers.append(await client.post(f"{path}/receive?wait=5m"))

    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await control.until(lambda: control.wanted_messages)
            control.bring(message("1.1"))
    assert answers[0].json()["messages"][0]["handle"] == "1.1"


async def test_who_goes_away_while_it_waits_leaves_the_messages_to_the_next(control, tmp_path):
    lease = control.add_lease("s")
    path = f"/v1/leases/{lease.spec.id}/receive"
    with anyio.fail_after(LIMIT_S):
        async with served_on_unix(control, tmp_path) as socket:
            async with await anyio.connect_unix(socket) as stream:
                await stream.send(f"POST {path}?wait=5m HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await control.until(lambda: control.receivers == 1)
            await control.until(lambda: control.receivers == 0)
            control.bring(message("1.1"))
            assert control.received == {}
            async with client_of(socket) as client:
                answer = await client.post(path)
    assert answer.json()["messages"][0]["handle"] == "1.1"


async def test_deferred_messages_are_received_and_others_looked_at(control, client, path):
    control.bring(message("1.1", number=5), message("1.2", number=6))
    seen = await client.get(f"{path}/peek?max=2&from={2**62}")
    assert [one["handle"] for one in seen.json()["messages"]] == [None, None]
    got = await client.post(f"{path}/receive-deferred", json={"sequence_numbers": [5, 2**62]})
    assert [one["handle"] for one in got.json()["messages"]] == ["1.1", "1.2"]
    assert control.wanted_messages == [("peek", (2, 2**62)), ("deferred", [5, 2**62])]


@pytest.mark.parametrize(
    ("method", "path_", "body", "status"),
    [
        ("POST", "/receive", {"max": 0}, 422),
        ("POST", "/receive", {"max": 101}, 422),
        ("POST", "/receive", {"count": 1}, 422),
        ("POST", "/receive?wait=1h", {}, 400),
        ("GET", "/peek?max=101", None, 400),
        ("GET", "/peek?from=-1", None, 400),
        ("GET", f"/peek?from={2**63}", None, 400),
        ("GET", "/peek?from_=1", None, 400),
        ("POST", "/receive-deferred", {}, 422),
        ("POST", "/receive-deferred", None, 400),
        ("POST", "/receive-deferred", {"sequence_numbers": []}, 422),
        ("POST", "/receive-deferred", {"sequence_numbers": [-1]}, 422),
        ("POST", "/receive-deferred", {"sequence_numbers": [1] * 101}, 422),
        ("POST", "/messages/1.1/abandon", {"reason": "x"}, 422),
        ("POST", "/messages/1.1/dead-letter", {"properties": {"a": [1]}}, 422),
        ("POST", "/messages/1.1/forget", {}, 404),
    ],
)
async def test_what_cannot_be_asked_is_refused(control, client, path, method, path_, body, status):
    answer = await client.request(method, path + path_, **({} if body is None else {"json": body}))
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert control.wanted_messages == []


@pytest.mark.parametrize("how", WAYS)
async def test_a_message_is_settled_by_its_handle(control, client, path, how):
    control.bring(message("1.1"), message("1.2"))
    await client.post(f"{path}/receive", json={"max": 2})
    flying = await client.get(f"{path}/messages")
    TypeAdapter(InFlightListView).validate_json(flying.content)
    assert flying.json()["messages"][0] == {"handle": "1.1", "sequence_number": 1, "is_lost": False}
    answer = await client.post(f"{path}/messages/1.1/{how}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert control.settlements == [Settlement(how)]
    assert list(control.received) == ["1.2"]


async def test_a_settlement_takes_properties_and_reasons_as_for_a_message_lock(control, client, path):
    control.received["1.1"] = InFlight("1.1", 1)
    body = {
        "reason": "poison",
        "description": "it breaks",
        "properties": {"n": {"type": "long", "value": "7"}, "t": "text"},
    }
    assert (await client.post(f"{path}/messages/1.1/dead-letter", json=body)).status_code == 204
    assert control.settlements == [Settlement("dead-letter", {"n": 7, "t": "text"}, "poison", "it breaks")]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(
    ("error", "status", "extra"),
    [
        (LeaseLostError("will be delivered again", reason="expired"), 409, {"state": "lost", "reason": "expired"}),
        (MessageSettledError("done", fate=MessageFate.DEFERRED), 409, {"state": "settled", "settled": "deferred"}),
        (ConflictError("just now"), 409, {}),
        (TransientError("nobody knows", kind="timeout", is_unknown=True), 504, {"outcome": "unknown"}),
        (TransientError("busy", kind="busy", retry_after_s=3), 502, {"outcome": "not_done", "failure": "busy"}),
    ],
)
async def test_what_came_of_a_settlement_is_told(control, client, path, how, error, status, extra):
    control.failures["settle_received"] = error
    answer = await client.post(f"{path}/messages/1.1/{how}")
    assert answer.status_code == status
    assert answer.json()["detail"] == str(error)
    assert {name: answer.json().get(name) for name in extra} == extra
    assert answer.headers.get("retry-after") == ("3" if status == 502 else None)


async def test_what_is_not_there_is_not_found(control, client, path):
    assert (await client.post(f"{path}/messages/9.9/complete")).status_code == 404
    for method, rest in (("POST", "/receive"), ("GET", "/peek"), ("GET", "/messages"), ("POST", "/messages/1/defer")):
        assert (await client.request(method, f"/v1/leases/lease-9{rest}")).status_code == 404
    for name in ("receive", "peek", "in_flight", "settle_received"):
        # Forgotten while it was asked.
        control.failures[name] = KeyError("lease-1")
    for method, rest in (("POST", "/receive"), ("GET", "/peek"), ("GET", "/messages"), ("POST", "/messages/1/defer")):
        assert (await client.request(method, path + rest)).status_code == 404


async def test_a_receive_says_in_which_state_the_lease_is(control, client, path):
    control.failures["receive"] = ConflictError("not now", state="at_risk")
    refused = await client.post(f"{path}/receive")
    assert (refused.status_code, refused.json()["state"]) == (409, "at_risk")
    control.failures["receive"] = LeaseLostError("gone", reason="expired")
    assert (await client.post(f"{path}/receive")).json()["reason"] == "expired"


async def test_a_large_answer_leaves_the_loop_to_others_while_it_is_written(control, tmp_path):
    lease = control.add_lease("s")
    body = bytes(range(256)) * 1024
    control.bring(*(message(f"1.{number}", DataBody((body,)), number) for number in range(1, 33)))
    turns = 0
    done = anyio.Event()

    async def others():
        nonlocal turns
        while not done.is_set():
            await anyio.lowlevel.checkpoint()
            turns += 1

    with anyio.fail_after(LIMIT_S):
        async with served_on_unix(control, tmp_path) as socket, client_of(socket) as client:
            receive = client.stream("POST", f"/v1/leases/{lease.spec.id}/receive", json={"max": 32})
            async with anyio.create_task_group() as tasks, receive as answer:
                tasks.start_soon(others)
                size = 0
                async for chunk in answer.aiter_raw():
                    size += len(chunk)
                done.set()
    assert size > 32 * len(body) * 4 / 3
    # Ten megabytes in pieces of 64 KiB.
    assert turns > 100


@pytest.mark.parametrize(
    ("method", "verb"),
    [
        ("POST", "/receive"),
        ("GET", "/peek"),
        ("GET", "/state"),
        ("PUT", "/state"),
        ("DELETE", "/state"),
    ],
)
async def test_who_holds_an_epoch_that_is_over_can_use_the_session_no_longer(control, client, path, method, verb):
    (lease,) = control.leases()
    url = f"{path}{verb}"
    body = {"json": {}} if method == "POST" else {}
    refused = await client.request(method, url, params={"epoch": lease.epoch + 1}, **body)
    assert refused.status_code == 409
    assert refused.json()["state"] == "lost"
    assert (await client.request(method, url, params={"epoch": lease.epoch}, **body)).status_code in (200, 204)
    assert (await client.request(method, url, params={"epoch": 0}, **body)).status_code == 400
