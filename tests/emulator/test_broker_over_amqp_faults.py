from __future__ import annotations

import contextlib

import anyio
import pytest

from renewer.amqp import (
    Accepted,
    AmqpTransport,
    Connection,
    ConnectionClosed,
    DeliveryUpdated,
    LinkAttached,
    Message,
    Rejected,
    SaslAnonymous,
    Value,
    connect,
)
from renewer.emulator.broker import Broker
from renewer.emulator.faults import Fault, FaultAction, Faults
from renewer.errors import UsageError
from tests.emulator.broker_rig import PLAIN, Client, Rig, WatchedBroker, cut_off, request, running

pytestmark = pytest.mark.anyio

RENEWAL = request("renew-session-lock", {"session-id": "s"})


def script(rig: Rig, point: str, action: FaultAction, **fields: object) -> None:
    fault = Fault(on=f"servicebus.{point}", action=action, times=1, **fields)  # type: ignore[arg-type]
    rig.broker.faults.add(fault)


async def held(client: Client) -> str:
    return (await client.receiver("orders", session_id="s")).name


async def test_a_lost_reply_was_carried_out_and_the_next_request_is_answered() -> None:
    async with running() as rig, rig.client("orders") as client:
        await held(client)
        script(rig, "management", FaultAction.LOSE_REPLY, match={"operation": "*renew-session-lock"})
        pair = await client.pair("orders/$management")
        lost = pair.post(RENEWAL)
        assert (await client.renew("orders", "s")).status == 200
        assert rig.broker.counters.renewals == 2
        with anyio.move_on_after(0.05):
            await pair.reply(lost)
            raise AssertionError("it was answered")


async def test_a_dropped_request_was_not_carried_out() -> None:
    async with running() as rig, rig.client("orders") as client:
        await held(client)
        script(rig, "management", FaultAction.DROP)
        (await client.pair("orders/$management")).post(RENEWAL)
        assert (await client.renew("orders", "s")).status == 200
        assert rig.broker.counters.renewals == 1


async def test_a_late_answer_comes_after_those_to_later_requests() -> None:
    async with running() as rig, rig.client("orders") as client:
        await held(client)
        script(rig, "management", FaultAction.DELAY, delay_s=0.1)
        pair = await client.pair("orders/$management")
        late, prompt = pair.post(RENEWAL), pair.post(RENEWAL)
        await pair.reply(prompt)
        assert rig.broker.counters.renewals == 2
        assert (await pair.reply(late)).application_properties["statusCode"] == 200


@pytest.mark.parametrize(
    ("action", "fields", "status", "condition"),
    [
        (FaultAction.BUSY, {}, 503, "com.microsoft:server-busy"),
        (FaultAction.UNAUTHORIZED, {}, 401, "amqp:unauthorized-access"),
        (FaultAction.STATUS, {"status": 500}, 500, "amqp:internal-error"),
        (FaultAction.STATUS, {"status": 410, "condition": "com.microsoft:x"}, 410, "com.microsoft:x"),
    ],
)
async def test_scripted_refusals_are_told_as_real_ones(
    action: FaultAction, fields: dict[str, object], status: int, condition: str
) -> None:
    async with running() as rig, rig.client("orders") as client:
        await held(client)
        script(rig, "management", action, **fields, match={"entity": "orders", "session_id": "s"})
        answer = await client.renew("orders", "s")
        assert (answer.status, answer.condition) == (status, condition)
        assert (await client.renew("orders", "s")).status == 200
        script(rig, "attach", action, **fields)
        assert await client.refused("orders", session_id="other") == condition
        script(rig, "transfer", action, **fields)
        outcome = await client.send(await client.sender("orders"), Message(Value("m")))
        assert isinstance(outcome, Rejected)
        assert outcome.error is not None
        assert outcome.error.condition == condition
        script(rig, "cbs", action, **fields)
        assert await client.put_token("orders") == status


async def test_one_in_five_goes_wrong_and_the_rest_do_not() -> None:
    async with running() as rig, rig.client("orders") as client:
        await held(client)
        rig.broker.faults.add(Fault(on="servicebus.management", action=FaultAction.BUSY, every=5))
        answers = [(await client.renew("orders", "s")).status for _ in range(15)]
        assert answers == [200, 200, 200, 200, 503] * 3


async def test_the_link_of_a_request_is_detached() -> None:
    async with running() as rig, rig.client("orders") as client:
        await held(client)
        pair = await client.pair("orders/$management")
        script(rig, "management", FaultAction.DETACH, condition="amqp:link:detach-forced")
        pair.post(RENEWAL)
        error = await client.detached(pair.requests)
        assert error is not None
        assert error.condition == "amqp:link:detach-forced"


async def test_a_session_is_granted_and_taken_away_at_once() -> None:
    async with running() as rig, rig.client("orders") as client:
        script(rig, "attach", FaultAction.DETACH, condition="com.microsoft:session-lock-lost")
        link = client.ask_receiver("orders", session_id="s")
        await client.saw(LinkAttached, lambda event: event.link is link)
        error = await client.detached(link)
        assert error is not None
        assert error.condition == "com.microsoft:session-lock-lost"
        await held(client)


async def test_an_attach_that_is_not_answered_may_hold_the_session_or_not() -> None:
    async with running() as rig, rig.client("orders") as client:
        script(rig, "attach", FaultAction.DROP, match={"role": "receiver"})
        client.ask_receiver("orders", session_id="dropped")
        await client.receiver("orders", session_id="dropped")
        script(rig, "attach", FaultAction.LOSE_REPLY)
        silent = client.ask_receiver("orders", session_id="lost")
        assert await client.refused("orders", session_id="lost") == "com.microsoft:session-cannot-be-locked"
        silent.detach()
        client.transport.flush()
        await client.detached(silent)
        await client.receiver("orders", session_id="lost")


async def test_a_late_attach_is_an_attach() -> None:
    async with running() as rig, rig.client("orders") as client:
        script(rig, "attach", FaultAction.DELAY, delay_s=0.05)
        assert (await client.renew("orders", "s", link=await held(client))).status == 200


async def test_an_attach_that_is_answered_too_late_does_no_harm() -> None:
    async with running() as rig, rig.client("orders", "plain") as client:
        for entity, wish in (("orders", {"session_id": "s"}), ("plain", {})):
            script(rig, "attach", FaultAction.DELAY, delay_s=0.05)
            link = client.ask_receiver(entity, **wish)
            link.detach()
            client.transport.flush()
            await client.detached(link)
        await anyio.sleep(0.1)
        await client.fill("plain", "m")
        (delivery,) = await client.receive(await client.receiver("plain"), 1)
        assert await client.settle(delivery, Accepted()) == Accepted()
        await held(client)


@pytest.mark.parametrize("action", [FaultAction.CLOSE, FaultAction.RESET, FaultAction.GARBAGE])
@pytest.mark.parametrize("point", ["management", "attach", "transfer", "cbs", "disposition"])
async def test_the_connection_breaks_where_the_script_says(point: str, action: FaultAction) -> None:
    async with running() as rig, rig.client("orders", "plain") as client, rig.client("orders") as other:
        await held(client)
        await client.fill("plain", "m")
        (delivery,) = await client.receive(await client.receiver("plain"), 1)
        sender, management, cbs = (
            await client.sender("plain"),
            await client.pair("orders/$management"),
            await client.pair("$cbs"),
        )
        script(rig, point, action)
        match point:
            case "management":
                management.post(RENEWAL)
            case "cbs":
                cbs.post(Message(Value("token")))
            case "attach":
                client.ask_receiver("plain")
            case "transfer":
                sender.send(Message(Value("m")).encode())
            case _:
                delivery.link.settle(delivery, Accepted())  # type: ignore[call-arg]
        client.transport.flush()
        closed = await client.closed()
        expected = {FaultAction.CLOSE: "closed", FaultAction.RESET: "eof", FaultAction.GARBAGE: "protocol-error"}
        assert closed.reason == expected[action]
        if action is FaultAction.CLOSE:
            assert closed.error is not None
            assert closed.error.condition == "amqp:connection:forced"
        await rig.until(lambda: rig.broker.counters.connections == 1)
        await held(other)


@pytest.mark.parametrize("action", [FaultAction.RESET, FaultAction.DROP])
async def test_a_connection_may_fail_from_the_start(action: FaultAction) -> None:
    async with running() as rig, rig.client("plain") as first:
        script(rig, "connect", action)
        stream = await anyio.connect_tcp("127.0.0.1", rig.port)
        async with stream:
            with contextlib.suppress(anyio.BrokenResourceError):
                await stream.send(b"AMQP\x00\x01\x00\x00")
            if action is FaultAction.DROP:
                with anyio.move_on_after(0.1):
                    await stream.receive()
                    raise AssertionError("it was answered")
            else:
                await cut_off(stream)
        async with rig.client("plain") as second:
            await second.receiver("plain")
        await first.receiver("plain")


@pytest.mark.parametrize(
    ("action", "condition"),
    [
        (FaultAction.BUSY, "com.microsoft:server-busy"),
        (FaultAction.UNAUTHORIZED, "amqp:unauthorized-access"),
        (FaultAction.CLOSE, "amqp:connection:forced"),
    ],
)
async def test_a_connection_may_be_closed_as_soon_as_it_is_open(action: FaultAction, condition: str) -> None:
    async with running() as rig:
        script(rig, "connect", action)
        stream = await connect("127.0.0.1", rig.port)
        connection = Connection(role="client", container_id="test", sasl=SaslAnonymous(), now=anyio.current_time())
        client = Client(AmqpTransport(stream, connection))
        with anyio.fail_after(10):
            await client.transport.run(client.on_event)
        closed = await client.closed()
        assert closed.error is not None
        assert closed.error.condition == condition


async def test_an_outcome_that_is_lost_was_carried_out() -> None:
    async with running() as rig, rig.client("plain") as client:
        sender = await client.sender("plain")
        script(rig, "transfer", FaultAction.LOSE_REPLY)
        lost = sender.send(Message(Value("a")).encode())
        await client.send(sender, Message(Value("b")))
        receiver = await client.receiver("plain")
        first, second = await client.receive(receiver, 2)
        script(rig, "disposition", FaultAction.LOSE_REPLY)
        receiver.settle(first, Accepted(), settled=False)
        client.transport.flush()
        assert await client.settle(second, Accepted()) == Accepted()
        confirmed = [event.delivery for event in client.events if isinstance(event, DeliveryUpdated)]
        assert lost not in confirmed
        assert first not in confirmed
        assert not rig.broker.state()["entities"][2]["messages"]  # type: ignore[index]


async def test_the_broker_tells_the_time_that_it_believes_it_is() -> None:
    async with running() as rig, rig.client("orders") as client:
        await held(client)
        before = (await client.renew("orders", "s")).body["expiration"]
        rig.broker.faults.clock_offset_s = -3600.0
        after = (await client.renew("orders", "s")).body["expiration"]
        assert before - after == pytest.approx(3_600_000, abs=5000)


async def test_every_connection_can_be_cut_at_once() -> None:
    async with running() as rig, rig.client("orders") as anna, rig.client("orders") as boris:
        await held(anna)
        assert rig.broker.reset_connections() == 2
        for client in (anna, boris):
            assert (await client.closed()).reason == "eof"
        await rig.until(lambda: rig.broker.counters.sessions_held == 0)


async def test_a_broker_that_is_stopped_and_started_again_keeps_its_messages() -> None:
    broker = WatchedBroker([PLAIN])
    for expected in ([], ["m"]):
        async with anyio.create_task_group() as tasks:
            port: int = await tasks.start(broker.serve)
            async with Rig(broker, port).client("plain") as client:
                receiver = await client.receiver("plain")
                for _ in expected:
                    (delivery,) = await client.receive(receiver, 1)
                    assert Message.decode(delivery.payload).body == Value("m")
                if not expected:
                    await client.fill("plain", "m")
            tasks.cancel_scope.cancel()
    assert broker.counters.connections == 0


async def test_who_is_connected_when_the_broker_stops_sees_it_at_once() -> None:
    broker = WatchedBroker([PLAIN])
    async with anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()

        async def serve(*, task_status: anyio.abc.TaskStatus[int]) -> None:
            with scope:
                await broker.serve(task_status=task_status)

        port: int = await tasks.start(serve)
        async with Rig(broker, port).client("plain") as client:
            scope.cancel()
            assert isinstance(await client.closed(), ConnectionClosed)


async def test_a_port_that_is_taken_is_said_to_be() -> None:
    async with running() as rig:
        with pytest.raises(UsageError, match="choose another"):
            await Broker([PLAIN]).serve(port=rig.port)
        with pytest.raises(UsageError):
            await Broker([PLAIN]).serve(port=99_999_999)


async def test_faults_may_be_shared_or_its_own() -> None:
    faults = Faults()
    async with running(faults=faults) as rig, rig.client("plain") as client:
        await client.receiver("plain")
        assert rig.broker.faults is faults
        assert faults.seen["servicebus.attach"] == 3
        assert faults.seen["servicebus.connect"] == 1
