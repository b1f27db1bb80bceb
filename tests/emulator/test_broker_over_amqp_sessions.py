from __future__ import annotations

import pytest

from renewer.amqp import AmqpError, Attach, Message, SessionState, Source, Value
from renewer.emulator.broker import BrokerOptions, Linger, QueueSpec
from renewer.emulator.faults import Faults
from tests.emulator.broker_rig import SESSION_FILTER, running

pytestmark = pytest.mark.anyio

TICKS_AT_UNIX_EPOCH = 621_355_968_000_000_000
LOST = "com.microsoft:session-lock-lost"
TAKEN = "com.microsoft:session-cannot-be-locked"


def locked_until_s(attach: Attach) -> float:
    assert attach.properties is not None
    return (attach.properties["com.microsoft:locked-until-utc"] - TICKS_AT_UNIX_EPOCH) / 1e7


async def test_the_answer_to_an_attach_echoes_the_source_and_tells_session_and_end_of_lock() -> None:
    faults = Faults()
    faults.clock_offset_s = 3600.0
    async with running(lock_duration_s=60.0, faults=faults) as rig, rig.client("orders") as client:
        link = client.ask_receiver("Orders", session_id="s")
        answer = await client.attached(link)
        assert isinstance(answer, Attach)
        assert isinstance(answer.source, Source)
        assert answer.source.address == "amqps://127.0.0.1:5672/Orders"
        assert answer.source.filter == {SESSION_FILTER: "s"}
        assert type(answer.source.filter[SESSION_FILTER]) is str
        assert answer.initial_delivery_count is not None
        assert answer.max_message_size
        assert locked_until_s(answer) == pytest.approx(faults.utc_now().timestamp() + 60.0, abs=5.0)


async def test_a_session_is_renewed_by_its_holder_and_by_nobody_else() -> None:
    async with running() as rig, rig.client("orders") as anna, rig.client("orders") as boris:
        link = await anna.receiver("orders", session_id="s")
        own = await anna.renew("orders", "s", link=link.name)
        assert own.status == 200
        assert own.body["expiration"] == pytest.approx((rig.broker.true_utc_s() + 60) * 1000, abs=5000)
        assert (await anna.renew("ORDERS", "s")).status == 200
        for other in (
            await boris.renew("orders", "s"),
            await boris.renew("orders", "s", link=link.name),
            await anna.renew("orders", "s", link="another"),
            await anna.renew("orders", "another", link=link.name),
        ):
            assert (other.status, other.condition) == (410, LOST)
            assert "TrackingId:" in other.description
            assert "Timestamp:" in other.description
        assert rig.broker.counters.renewals == 2
        assert rig.broker.counters.refused[LOST] == 4


async def test_a_session_link_and_its_management_may_live_in_different_amqp_sessions() -> None:
    async with running() as rig, rig.client("orders") as client:
        elsewhere = await client.begin()
        link = await client.receiver("orders", session_id="s", session=elsewhere)
        assert (await client.renew("orders", "s", link=link.name)).status == 200


async def test_a_second_holder_is_refused_until_the_first_detaches() -> None:
    async with running() as rig, rig.client("orders") as anna, rig.client("orders") as boris:
        link = await anna.receiver("orders", session_id="s")
        assert await boris.refused("orders", session_id="s") == TAKEN
        assert await anna.refused("orders", session_id="s") == TAKEN
        await anna.detach(link)
        await boris.receiver("orders", session_id="s")
        assert (await anna.renew("orders", "s", link=link.name)).condition == LOST


async def test_a_lost_connection_frees_its_sessions_at_once() -> None:
    async with running() as rig, rig.client("orders") as anna, rig.client("orders") as boris:
        await anna.receiver("orders", session_id="s")
        await anna.transport._stream.aclose()
        await rig.until(lambda: rig.broker.counters.connections == 1)
        await boris.receiver("orders", session_id="s")


async def test_an_ended_amqp_session_frees_the_sessions_of_its_links() -> None:
    async with running() as rig, rig.client("orders") as anna, rig.client("orders") as boris:
        other = await anna.begin()
        await anna.receiver("orders", session_id="s", session=other)
        other.end()
        anna.transport.flush()
        await anna.ended(other)
        await boris.receiver("orders", session_id="s")


@pytest.mark.parametrize(
    ("linger", "after_detach", "after_loss"),
    [(Linger.NEVER, True, True), (Linger.CONNECTION_LOSS, True, False), (Linger.ALWAYS, False, False)],
)
async def test_whether_a_lock_outlives_its_link_is_a_switch(
    linger: Linger, after_detach: bool, after_loss: bool
) -> None:
    options = BrokerOptions(linger=linger)
    async with running(options=options) as rig, rig.client("orders") as anna, rig.client("orders") as boris:
        link = await anna.receiver("orders", session_id="detached")
        await anna.receiver("orders", session_id="lost")
        await anna.detach(link)
        await anna.transport._stream.aclose()
        await rig.until(lambda: rig.broker.counters.connections == 1)
        for session_id, is_free in (("detached", after_detach), ("lost", after_loss)):
            answer = await boris.attached(boris.ask_receiver("orders", session_id=session_id))
            assert isinstance(answer, Attach) == is_free
            assert rig.broker.expire("orders", session_id)
            await boris.receiver("orders", session_id=session_id)


async def test_a_lock_that_is_not_renewed_costs_the_link() -> None:
    async with running(lock_duration_s=0.1) as rig, rig.client("orders") as client:
        link = await client.receiver("orders", session_id="s")
        error = await client.detached(link)
        assert error is not None
        assert error.condition == LOST
        assert error.description is not None
        assert (await client.renew("orders", "s", link=link.name)).condition == LOST
        assert rig.broker.counters.locks_expired == 1
        assert rig.broker.counters.sessions_held == 0


async def test_the_next_session_is_one_with_messages() -> None:
    async with running() as rig, rig.client("orders") as client:
        await client.fill("orders", "m", session_id="full")
        await client.receiver("orders", session_id="empty")
        link = await client.receiver("orders", session_id=None)
        assert isinstance(link.remote, Attach)
        assert isinstance(link.remote.source, Source)
        assert link.remote.source.filter == {SESSION_FILTER: "full"}


async def test_who_waits_for_the_next_session_gets_it_when_messages_arrive() -> None:
    async with running() as rig, rig.client("orders") as client:
        link = client.ask_receiver("orders", session_id=None)
        await rig.until(lambda: rig.broker.waiting)
        await client.fill("orders", "m", session_id="late")
        answer = await client.attached(link)
        assert isinstance(answer, Attach)
        assert isinstance(answer.source, Source)
        assert answer.source.filter == {SESSION_FILTER: "late"}
        assert (await client.renew("orders", "late", link=link.name)).status == 200


@pytest.mark.parametrize("asked_for", [True, False])
async def test_the_wait_for_the_next_session_ends(asked_for: bool) -> None:
    options = BrokerOptions(next_session_wait_s=0.05 if not asked_for else 65.0)
    properties = {"com.microsoft:timeout": 50} if asked_for else None
    async with running(options=options) as rig, rig.client("orders") as client:
        condition = await client.refused("orders", session_id=None, properties=properties)
        assert condition == "com.microsoft:timeout"
        assert not rig.broker.waiting


async def test_who_stops_waiting_gets_nothing() -> None:
    async with running() as rig, rig.client("orders") as client:
        waiting = client.ask_receiver("orders", session_id=None)
        await rig.until(lambda: rig.broker.waiting)
        waiting.detach()
        client.transport.flush()
        await rig.until(lambda: not rig.broker.waiting)
        await client.fill("orders", "m", session_id="s")
        await client.receiver("orders", session_id="s")


@pytest.mark.parametrize(
    ("entity", "wish", "condition"),
    [
        ("orders", {}, "amqp:not-allowed"),
        ("plain", {"session_id": "s"}, "amqp:not-allowed"),
        ("plain", {"session_id": None}, "amqp:not-allowed"),
        ("orders/$deadletterqueue", {"session_id": "s"}, "amqp:not-allowed"),
        ("nowhere", {}, "amqp:not-found"),
        ("nowhere", {"session_id": "s"}, "amqp:not-found"),
        ("orders", {"session_id": 7}, "com.microsoft:argument-error"),
    ],
)
async def test_what_does_not_fit_the_entity_is_refused(entity: str, wish: dict[str, object], condition: str) -> None:
    async with running() as rig, rig.client("") as client:
        assert await client.refused(entity, **wish) == condition


async def test_a_missing_entity_is_told_in_the_words_that_clients_look_for() -> None:
    # @azure/service-bus 7.9 knows it by the description alone.
    async with running() as rig, rig.client("") as client:
        refusal = await client.attached(client.ask_receiver("nowhere", session_id="s"))
        assert isinstance(refusal, AmqpError)
        assert "The messaging entity 'nowhere' could not be found." in (refusal.description or "")


async def test_session_state_is_bytes_empty_or_nothing() -> None:
    async with running() as rig, rig.client("orders") as client:
        link = await client.receiver("orders", session_id="s")

        async def state() -> object:
            answer = await client.manage("orders", "get-session-state", {"session-id": "s"}, link=link.name)
            assert answer.status == 200
            return answer.body["session-state"]

        assert await state() is None
        for value in (b"\x00\xff", b"", None):
            body = {"session-id": "s", "session-state": value}
            assert (await client.manage("orders", "set-session-state", body, link=link.name)).status == 200
            assert await state() == value


async def test_messages_of_a_session_go_to_its_holder_only_while_it_gives_credit() -> None:
    async with running() as rig, rig.client("orders") as client:
        await client.fill("orders", "a", "b", session_id="s")
        await client.fill("orders", "c", session_id="other")
        link = await client.receiver("orders", session_id="s")
        assert (await client.renew("orders", "s")).status == 200
        assert link.unsettled == {}
        deliveries = await client.receive(link, 2)
        messages = [Message.decode(delivery.payload) for delivery in deliveries]
        assert [message.body for message in messages] == [Value("a"), Value("b")]
        assert [message.properties.group_id for message in messages if message.properties] == ["s", "s"]


async def test_a_session_that_is_taken_away_says_so_on_the_link() -> None:
    async with running() as rig, rig.client("orders") as client:
        link = await client.receiver("orders", session_id="s")
        assert rig.broker.detach_session("ORDERS", "s", condition="amqp:link:detach-forced")
        error = await client.detached(link)
        assert error is not None
        assert error.condition == "amqp:link:detach-forced"
        assert not rig.broker.detach_session("orders", "s")
        assert not rig.broker.expire("orders", "s")
        await client.receiver("orders", session_id="s")


async def test_the_sessions_of_a_connection_are_counted() -> None:
    async with running() as rig, rig.client("orders") as anna, rig.client("orders") as boris:
        for number in range(5):
            await anna.receiver("orders", session_id=f"a{number}")
        link = await boris.receiver("orders", session_id="b")
        await boris.detach(link)
        counters = rig.broker.counters
        assert (counters.sessions_held, counters.sessions_held_max) == (5, 6)
        assert counters.sessions_per_connection_max == 5
        assert counters.sessions_accepted == 6
        assert counters.links_per_amqp_session_max == 7
        assert (counters.connections, counters.connections_max) == (2, 2)


async def test_one_link_too_many_costs_the_amqp_session_and_what_it_held() -> None:
    options = BrokerOptions(handle_max=4)
    async with running(options=options) as rig, rig.client("orders") as client:
        crowded = await client.begin()
        assert crowded.remote_handle_max == 4
        links = [await client.receiver("orders", session_id=str(n), session=crowded) for n in range(5)]
        crowded.remote.handle_max = 255  # type: ignore[union-attr]
        client.ask_receiver("orders", session_id="too many", session=crowded)
        ended = await client.ended(crowded)
        assert ended.error is not None
        assert ended.error.condition == "amqp:not-allowed"
        assert crowded.state is SessionState.ENDED
        assert not any(link.is_attached for link in links)
        await rig.until(lambda: rig.broker.counters.sessions_held == 0)
        await client.receiver("orders", session_id="0")


async def test_the_names_of_links_count_within_their_connection_only() -> None:
    async with running() as rig, rig.client("orders") as anna, rig.client("orders") as boris:
        await anna.receiver("orders", session_id="a", name="same")
        await boris.receiver("orders", session_id="b", name="same")
        assert (await anna.renew("orders", "a", link="same")).status == 200
        assert (await anna.renew("orders", "b", link="same")).condition == LOST


async def test_a_name_that_is_used_again_on_the_connection_takes_the_link_from_its_first_owner() -> None:
    async with running() as rig, rig.client("orders") as client:
        other = await client.begin()
        first = await client.receiver("orders", session_id="s", name="same")
        second = await client.receiver("orders", session_id="s", name="same", session=other)
        error = await client.detached(first)
        assert error is not None
        assert error.condition == "amqp:link:stolen"
        assert second.is_attached
        assert (await client.renew("orders", "s", link="same")).status == 200
        assert rig.broker.counters.sessions_held == 1


async def test_names_of_any_length_are_refused_in_a_frame_of_any_size() -> None:
    async with running() as rig, rig.client("", max_frame_size=4096) as client:
        assert await client.refused("x" * 3000) == "amqp:not-found"
        answer = await client.renew("orders", "s" * 3000)
        assert (answer.status, answer.condition) == (410, LOST)


async def test_locks_are_as_long_as_the_queue_says() -> None:
    short = QueueSpec("short", requires_session=True, lock_duration_s=0.1)
    long = QueueSpec("long", requires_session=True)
    async with running(short, long, lock_duration_s=60.0) as rig, rig.client("short", "long") as client:
        kept = await client.receiver("long", session_id="s")
        await client.detached(await client.receiver("short", session_id="s"))
        assert kept.is_attached
