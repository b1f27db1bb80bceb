from __future__ import annotations

from uuid import UUID

import pytest

from renewer.amqp import (
    Accepted,
    AmqpArray,
    Described,
    Message,
    Modified,
    Received,
    Rejected,
    Source,
    Symbol,
    Target,
    Timestamp,
    Uint,
    Ulong,
    Value,
)
from renewer.emulator.broker import QueueSpec, entities, nodes
from renewer.emulator.faults import Fault, FaultAction
from renewer.errors import UsageError
from tests.emulator.broker_rig import PLAIN, SESSION_FILTER, request, running

pytestmark = pytest.mark.anyio

QUOTA = "amqp:resource-limit-exceeded"


def condition_of(outcome: object) -> str:
    assert isinstance(outcome, Rejected)
    assert outcome.error is not None
    return outcome.error.condition


async def test_a_full_queue_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entities, "MAX_MESSAGES", 2)
    async with running() as rig, rig.client("plain") as client:
        await client.fill("plain", "a", "b")
        assert condition_of(await client.send(await client.sender("plain"), Message(Value("c")))) == QUOTA


async def test_a_queue_has_so_many_sessions_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entities, "MAX_SESSIONS", 1)
    async with running() as rig, rig.client("orders") as client:
        await client.receiver("orders", session_id="s")
        assert await client.refused("orders", session_id="t") == QUOTA


@pytest.mark.parametrize("deletes", [True, False])
async def test_a_message_that_is_too_large_for_its_receiver_costs_the_link_and_stays(deletes: bool) -> None:
    async with running() as rig, rig.client("plain") as client:
        await client.fill("plain", "x" * 2000)
        link = await client.receiver("plain", max_message_size=1000, snd_settle_mode=int(deletes))
        link.flow(1)
        client.transport.flush()
        error = await client.detached(link)
        assert error is not None
        assert error.condition == "amqp:link:message-size-exceeded"
        (delivery,) = await client.receive(await client.receiver("plain"), 1)
        assert await client.settle(delivery, Accepted()) == Accepted()


async def test_answers_that_nobody_wants_are_dropped_at_some_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "MAX_QUEUED_REPLIES", 3)
    async with running() as rig, rig.client("plain") as client:
        pair = await client.pair("plain/$management")
        pair.replies.auto_credit = None
        pair.replies.flow(0)
        for _ in range(5):
            pair.post(request("peek-message", {"from-sequence-number": 1, "message-count": 1}))
        await rig.until(lambda: rig.broker.counters.replies_dropped == 2)
        pair.replies.flow(10)
        client.transport.flush()
        assert len(await client.deliveries(pair.replies, 3)) == 3


async def test_an_answer_that_is_too_large_for_the_client_is_dropped() -> None:
    async with running() as rig, rig.client("plain") as client:
        await client.fill("plain", "x" * 2000)
        node = "plain/$management"
        requests = client.session.attach_sender("p", source=Source(node), target=Target(node))
        replies = client.session.attach_receiver(
            "p", source=Source(node), target=Target(node), auto_credit=10, max_message_size=1000
        )
        for link in (requests, replies):
            await client.attached(link)
        peek = request("peek-message", {"from-sequence-number": 1, "message-count": 1})
        await client.send(requests, peek)
        await rig.until(lambda: rig.broker.counters.replies_dropped == 1)


async def test_a_request_without_a_way_back_is_carried_out() -> None:
    async with running() as rig, rig.client("orders") as client:
        link = await client.receiver("orders", session_id="s")
        requests = await client.sender("orders/$management")
        asked = request("renew-session-lock", {"session-id": "s"}, link.name)
        assert await client.send(requests, asked) == Accepted()
        await rig.until(lambda: rig.broker.counters.replies_dropped == 1)
        assert rig.broker.counters.renewals == 1


async def test_an_answer_of_messages_is_cut_where_it_gets_too_large() -> None:
    async with running() as rig, rig.client("plain") as client:
        await client.fill("plain", *["x" * 100_000] * 4)
        answer = await client.manage("plain", "peek-message", {"from-sequence-number": 1, "message-count": 4})
        assert len(answer.body["messages"]) == 2


async def test_what_is_not_final_settles_nothing() -> None:
    async with running() as rig, rig.client("plain") as client:
        await client.fill("plain", "m")
        link = await client.receiver("plain")
        (delivery,) = await client.receive(link, 1)
        link.settle(delivery, Received(0, 0), settled=False)
        assert await client.settle(delivery, Accepted()) == Accepted()


async def test_there_are_no_transactions() -> None:
    async with running() as rig, rig.client("plain") as client:
        await client.fill("plain", "m")
        (delivery,) = await client.receive(await client.receiver("plain"), 1)
        transactional = Described(Ulong(0x34), [b"txn", Described(Ulong(0x24), [])])
        assert condition_of(await client.settle(delivery, transactional)) == "amqp:not-implemented"
        coordinator = Described(Ulong(0x30), [AmqpArray([Symbol("amqp:local-transactions")])])
        link = client.session.attach_sender("txn", source=Source("here"), target=coordinator)
        error = await client.attached(link)
        assert getattr(error, "condition", None) == "amqp:not-implemented"


async def test_a_dead_letter_queue_has_no_dead_letter_queue() -> None:
    async with running() as rig, rig.client("plain") as client:
        await client.fill("plain", "m")
        (delivery,) = await client.receive(await client.receiver("plain"), 1)
        await client.settle(delivery, Rejected())
        (dead,) = await client.receive(await client.receiver("plain/$DeadLetterQueue"), 1)
        assert condition_of(await client.settle(dead, Rejected())) == "amqp:not-allowed"


@pytest.mark.parametrize("address", [None, "", "amqps://host/", 7])
async def test_a_link_to_nowhere_is_refused(address: object) -> None:
    async with running() as rig, rig.client("") as client:
        link = client.session.attach_receiver("r", source=Source(address), target=Target("here"))
        error = await client.attached(link)
        assert getattr(error, "condition", None) == "amqp:invalid-field"


async def test_a_described_session_filter_is_understood_too() -> None:
    async with running() as rig, rig.client("orders") as client:
        described = Described(Symbol("com.microsoft:session-filter"), "s")
        link = client.session.attach_receiver(
            "r", source=Source("orders", filter={SESSION_FILTER: described}), target=Target("here")
        )
        await client.attached(link)
        assert (await client.renew("orders", "s", link="r")).status == 200


async def test_a_topic_schedules_and_cancels_and_does_nothing_else() -> None:
    async with running(QueueSpec("news/Subscriptions/s")) as rig, rig.client("news") as client:
        due_ms = rig.broker.utc_ms() + 100
        encoded = Message(Value("m"), message_annotations={"x-opt-scheduled-enqueue-time": Timestamp(due_ms)}).encode()
        body = {"messages": [{"message": encoded}, {"message": encoded}]}
        numbers = (await client.manage("news", "schedule-message", body)).body["sequence-numbers"]
        cancel = {"sequence-numbers": AmqpArray([numbers[0]], int)}
        assert (await client.manage("news", "cancel-scheduled-message", cancel)).status == 200
        assert (await client.manage("news", "peek-message", {})).condition == "amqp:not-allowed"
        assert await client.refused("news") == "amqp:not-allowed"
        (delivery,) = await client.receive(await client.receiver("news/Subscriptions/s"), 1)
        assert Message.decode(delivery.payload).body == Value("m")


async def test_a_message_sent_to_a_topic_for_later_waits() -> None:
    async with running(QueueSpec("news/Subscriptions/s")) as rig, rig.client("news") as client:
        annotations = {"x-opt-scheduled-enqueue-time": Timestamp(rig.broker.utc_ms() + 3_600_000)}
        message = Message(Value("m"), message_annotations=annotations)
        assert await client.send(await client.sender("news"), message) == Accepted()
        state = rig.broker.state()
        assert [entity["messages"] for entity in state["entities"]] == [0, 0]  # type: ignore[index, attr-defined]


async def test_deferred_messages_of_a_session_are_its_holders() -> None:
    async with running() as rig, rig.client("orders") as client:
        await client.fill("orders", "m", session_id="s")
        link = await client.receiver("orders", session_id="s")
        other = await client.receiver("orders", session_id="other")
        (delivery,) = await client.receive(link, 1)
        await client.settle(delivery, Modified(undeliverable_here=True))
        body = {"sequence-numbers": AmqpArray([1], int), "receiver-settle-mode": Uint(0)}

        async def ask(session_id: str, name: str) -> tuple[int, object]:
            asked = {**body, "session-id": session_id}
            answer = await client.manage("orders", "receive-by-sequence-number", asked, link=name)
            return answer.status, answer.body and len(answer.body["messages"])

        assert await ask("s", other.name) == (410, None)
        assert await ask("other", other.name) == (404, None)
        assert await ask("s", link.name) == (200, 1)
        assert await ask("s", link.name) == (404, None)


async def test_messages_of_a_session_are_settled_by_its_holder_only() -> None:
    async with running() as rig, rig.client("orders") as anna, rig.client("orders") as boris:
        await anna.fill("orders", "m", session_id="s")
        link = await anna.receiver("orders", session_id="s")
        (delivery,) = await anna.receive(link, 1)
        tokens = AmqpArray([UUID(bytes_le=delivery.delivery_tag)], UUID)
        body = {"disposition-status": "completed", "lock-tokens": tokens, "session-id": "s"}
        assert (await boris.manage("orders", "update-disposition", body)).status == 410
        assert (await anna.manage("orders", "update-disposition", body, link=link.name)).status == 200


async def test_a_settlement_may_be_refused_by_script() -> None:
    async with running() as rig, rig.client("plain") as client:
        await client.fill("plain", "m")
        rig.broker.faults.add(Fault(on="servicebus.disposition", action=FaultAction.BUSY, times=1))
        (delivery,) = await client.receive(await client.receiver("plain"), 1)
        assert condition_of(await client.settle(delivery, Accepted())) == "com.microsoft:server-busy"


async def test_queues_can_be_added_while_the_broker_runs() -> None:
    async with running() as rig, rig.client("") as client:
        assert await client.refused("new") == "amqp:not-found"
        rig.broker.add_queue(QueueSpec("new"))
        await client.receiver("new")
        with pytest.raises(UsageError, match="one of that name"):
            rig.broker.add_queue(QueueSpec("NEW"))


async def test_a_fault_of_the_broker_costs_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as rig, rig.client("plain") as kept, rig.client("plain") as client:
        plain = rig.broker.namespace.find("plain")
        assert plain is not None
        monkeypatch.setattr(plain, "send", None)
        sender = await client.sender("plain")
        sender.send(Message(Value("m")).encode())
        client.transport.flush()
        await client.closed()
        monkeypatch.undo()
        await rig.until(lambda: rig.broker.counters.failures == 1)
        await kept.fill("plain", "m")


async def test_the_broker_may_have_one_queue() -> None:
    async with running(PLAIN) as rig, rig.client("") as client:
        assert await client.refused("orders", session_id="s") == "amqp:not-found"
