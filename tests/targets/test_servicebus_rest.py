"""Message locks over REST: against the emulator, with the official SDK as the sender and the witness."""

from __future__ import annotations

import logging
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import anyio
import httpx
import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from renewer.core.model import LeaseId, LeaseSpec
from renewer.core.states import LeaseKind, LossReason
from renewer.emulator.broker import QueueSpec
from renewer.emulator.faults import Fault, FaultAction
from renewer.emulator.pair import Emulator
from renewer.errors import ConflictError, LeaseLostError, TransientError, UsageError
from renewer.ports import Settlement
from renewer.targets.servicebus import NamespaceOptions, ServiceBusTarget
from renewer.targets.servicebus.credentials import SharedAccessKey
from tests.targets.scripted_broker import TestClock
from tests.targets.servicebus_rig import begin_renewal, failing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

LOCK_S = 30.0
KEY = "bG9jYWw="
COMPLETE, ABANDON = Settlement("complete"), Settlement("abandon")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Scene:
    """An emulator, the SDK as a client of it, and messages that are taken over HTTP."""

    def __init__(self, emulator: Emulator, amqp_port: int, http_port: int) -> None:
        self.emulator = emulator
        self.http_port = http_port
        self.sdk = ServiceBusClient.from_connection_string(
            f"Endpoint=sb://127.0.0.1:{amqp_port};SharedAccessKeyName=local;SharedAccessKey={KEY};"
            "UseDevelopmentEmulator=true",
            retry_total=0,
        )
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{http_port}", headers={"Authorization": "Bearer local"}, trust_env=False
        )

    async def send(self, body: str, queue: str = "orders") -> None:
        async with self.sdk.get_queue_sender(queue) as sender:
            await sender.send_messages(ServiceBusMessage(body))

    async def peek_lock(self, entity: str = "orders") -> tuple[httpx.Response, LeaseSpec]:
        answer = await self.http.post(f"/{entity}/messages/head?timeout=5")
        assert answer.status_code == 201
        _, number, token = answer.headers["location"].rsplit("/", 2)
        return answer, spec(int(number), token, entity)

    async def left(self, queue: str = "orders") -> list[str]:
        async with self.sdk.get_queue_receiver(queue) as receiver:
            return [str(message) for message in await receiver.peek_messages(10)]


def spec(number: int | None = 1, token: object = UUID(int=7), entity: str = "orders", **more: object) -> LeaseSpec:
    return LeaseSpec(
        LeaseId(f"m{number}"),
        "servicebus.main",
        entity,
        LeaseKind.MESSAGE,
        lock_token=str(token),
        sequence_number=number,
        **more,  # type: ignore[arg-type]
    )


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    emulator = Emulator(
        [QueueSpec("orders"), QueueSpec("sessions", requires_session=True), QueueSpec("topic/Subscriptions/s")],
        lock_duration_s=LOCK_S,
    )
    async with anyio.create_task_group() as tasks:
        ports = await tasks.start(
            lambda task_status: emulator.run(("127.0.0.1", 0), ("127.0.0.1", 0), task_status=task_status)
        )
        made = Scene(emulator, *ports)
        async with made.sdk, made.http:
            yield made
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def target(port: int, **options: object) -> AsyncIterator[ServiceBusTarget]:
    settings = {"lock_duration_s": LOCK_S, "tls": False, "emulator": True} | options
    made = ServiceBusTarget(
        NamespaceOptions("127.0.0.1", "127.0.0.1", port, SharedAccessKey("local", KEY), transport="rest", **settings),
        TestClock(),
        lambda loss: None,
        rng=random.Random(3),
    )
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda task_status: made.run(task_status=task_status))
        yield made
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def service(answer):
    """A service that answers each request as `answer(method, path, headers)` says: status, headers, body."""
    seen = []

    async def app(scope, receive, send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        seen.append((scope["method"], scope["path"], headers))
        status, more, body = answer(scope["method"], scope["path"], headers)
        raw = [(name.encode(), value.encode()) for name, value in more.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    from renewer.asgi import listen_tcp, serve

    with listen_tcp("127.0.0.1", 0) as listener:
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve, app, listener)
            async with target(listener.getsockname()[1]) as keeper:
                yield keeper, seen
            tasks.cancel_scope.cancel()


# Against the emulator -----------------------------------------------------------------------------------------------


async def test_a_message_lock_is_renewed_and_its_message_completed() -> None:
    async with scene() as s, target(s.http_port) as keeper:
        await s.send("work")
        answer, lease = await s.peek_lock()
        assert answer.content == b"work"
        before = TestClock().now()
        grant = await keeper.acquire(lease, 1)
        assert before <= grant.anchored_at <= TestClock().now()
        assert (grant.duration_s, grant.locked_until) == (LOCK_S, None)
        assert begin_renewal(keeper, lease, 1, lambda _: None) is None
        await keeper.renew(lease, 1)
        assert s.emulator.faults.seen["servicebus.rest"] == 3
        assert keeper.connections == 0
        await keeper.settle(lease, 1, COMPLETE)
        assert await s.left() == []
        error = await failing(keeper.renew(lease, 1), LeaseLostError)
        assert error.reason == LossReason.EXPIRED
        assert "over REST a message cannot be looked at" in str(error)
        assert lease.lock_token is not None
        assert lease.lock_token not in str(error)


async def test_a_message_that_is_abandoned_is_delivered_again() -> None:
    async with scene() as s, target(s.http_port) as keeper:
        await s.send("work")
        _, lease = await s.peek_lock()
        await keeper.acquire(lease, 1)
        await keeper.settle(lease, 1, ABANDON)
        async with s.sdk.get_queue_receiver("orders") as receiver:
            (again,) = await receiver.receive_messages(1, max_wait_time=10)
            assert again.delivery_count == 1
            assert str(again) == "work"
            # What the SDK received over AMQP is kept over REST by its number and its token.
            kept = spec(again.sequence_number, again.lock_token)
            await keeper.acquire(kept, 1)
            await keeper.settle(kept, 1, COMPLETE)
        assert await s.left() == []


async def test_subscriptions_and_dead_letter_queues_have_their_own_paths() -> None:
    async with scene() as s, target(s.http_port) as keeper:
        async with s.sdk.get_topic_sender("topic") as sender:
            await sender.send_messages(ServiceBusMessage("copy"))
        await s.send("dead")
        async with s.sdk.get_queue_receiver("orders") as receiver:
            (message,) = await receiver.receive_messages(1, max_wait_time=10)
            await receiver.dead_letter_message(message)
        for entity in ("topic/Subscriptions/s", "orders/$DeadLetterQueue"):
            _, lease = await s.peek_lock(entity)
            await keeper.acquire(lease, 1)
            await keeper.settle(lease, 1, COMPLETE)


async def test_what_rest_cannot_do_is_a_conflict_that_says_what_can() -> None:
    async with scene() as s, target(s.http_port) as keeper:
        await s.send("work")
        _, lease = await s.peek_lock()
        await keeper.acquire(lease, 1)
        for settlement in (Settlement("defer"), Settlement("dead-letter", reason="x"), Settlement("abandon", {"a": 1})):
            await failing(keeper.settle(lease, 1, settlement), ConflictError)
        await keeper.renew(lease, 1)
        await keeper.settle(lease, 1, COMPLETE)


async def test_locks_that_are_not_there_and_entities_that_are_not_there_are_told_apart() -> None:
    async with scene() as s, target(s.http_port) as keeper:
        await s.send("work")
        _, lease = await s.peek_lock()
        for wrong, reason in (
            (spec(lease.sequence_number, UUID(int=5)), LossReason.EXPIRED),
            (spec(77, lease.lock_token), LossReason.EXPIRED),
            (spec(1, lease.lock_token, "nowhere"), LossReason.ENTITY_GONE),
            (spec(1, lease.lock_token, "sessions"), LossReason.REFUSED),
        ):
            assert (await failing(keeper.acquire(wrong, 1), LeaseLostError)).reason == reason


async def test_a_namespace_over_rest_keeps_no_sessions_and_no_messages_without_number_or_duration() -> None:
    async with scene() as s, target(s.http_port, lock_duration_s=None) as keeper:
        session = LeaseSpec(LeaseId("s"), "servicebus.main", "sessions", session_id="a")
        with pytest.raises(UsageError, match='sessions need "amqp"'):
            keeper.check(session)
        assert (await failing(keeper.acquire(session, 1), LeaseLostError)).reason == LossReason.REFUSED
        with pytest.raises(UsageError, match="sequence_number"):
            keeper.check(spec(None))
        assert (await failing(keeper.acquire(spec(None), 1), LeaseLostError)).reason == LossReason.REFUSED
        with pytest.raises(UsageError, match="lock_duration"):
            keeper.check(spec(1))
        keeper.check(spec(1, lock_duration_s=5.0))


async def test_faults_of_the_emulator_cost_an_attempt_and_a_busy_one_slows_all() -> None:
    async with scene() as s, target(s.http_port) as keeper:
        await s.send("work")
        _, lease = await s.peek_lock()
        await keeper.acquire(lease, 1)
        for fault, kind in (
            (Fault(on="servicebus.rest", action=FaultAction.RESET, times=1), "network"),
            (Fault(on="servicebus.rest", action=FaultAction.BUSY, times=1), "busy"),
            (Fault(on="servicebus.rest", action=FaultAction.STATUS, status=500, times=1), "server"),
        ):
            s.emulator.faults.add(fault)
            error = await failing(keeper.renew(lease, 1), TransientError)
            assert error.kind == kind
        assert keeper._pace.refusals == 1
        await keeper.renew(lease, 1)
        for action in (FaultAction.DROP, FaultAction.LOSE_REPLY):
            s.emulator.faults.add(Fault(on="servicebus.rest", action=action, times=1))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(renew_in_vain, keeper, lease)
                while not s.emulator.faults.list()[-1].spent:  # noqa: ASYNC110 - nobody is told
                    await anyio.sleep(0.01)
                await anyio.sleep(0.1)
                tasks.cancel_scope.cancel()
        await keeper.renew(lease, 1)


async def renew_in_vain(keeper: ServiceBusTarget, lease: LeaseSpec) -> None:
    await keeper.renew(lease, 1)
    pytest.fail("it was answered")


# Against anything ---------------------------------------------------------------------------------------------------


def renewed(*_):
    return 200, {"Content-Type": "application/atom+xml;type=entry;charset=utf-8"}, b""


async def test_a_request_names_the_message_and_shows_a_signature_for_its_entity() -> None:
    async with service(renewed) as (keeper, seen):
        lease = spec(9007199254740993, UUID(int=7), "/topic name/Subscriptions/s/")
        await keeper.acquire(lease, 1)
        ((method, path, headers),) = seen
        assert method == "POST"
        assert path == f"/topic name/Subscriptions/s/messages/9007199254740993/{UUID(int=7)}"
        assert headers["authorization"].startswith("SharedAccessSignature sr=http%3A%2F%2F127.0.0.1%3A")
        assert headers["content-length"] == "0"
        await keeper.settle(lease, 1, ABANDON)
        await keeper.settle(lease, 1, COMPLETE)
        assert [method for method, *_ in seen] == ["POST", "PUT", "DELETE"]


async def test_a_token_that_is_refused_is_replaced_once() -> None:
    shown = []

    def picky(_method, _path, headers):
        shown.append(headers["authorization"])
        return renewed() if len(shown) != 1 else (401, {}, b"")

    async with service(picky) as (keeper, _):
        await keeper.acquire(spec(), 1)
        assert len(set(shown)) == 2
    async with service(lambda *_: (401, {}, b"")) as (keeper, seen):
        error = await failing(keeper.acquire(spec(), 1), LeaseLostError)
        assert error.reason == LossReason.UNAUTHORIZED
        assert "SharedAccessSignature" not in str(error)
        assert len(seen) == 2


@pytest.mark.parametrize(
    ("status", "error_type", "word"),
    [
        (404, LeaseLostError, LossReason.EXPIRED),
        (410, LeaseLostError, LossReason.ENTITY_GONE),
        (400, LeaseLostError, LossReason.REFUSED),
        (403, TransientError, "unauthorized"),
        (408, TransientError, "timeout"),
        (429, TransientError, "throttled"),
        (500, TransientError, "server"),
        (503, TransientError, "busy"),
        (302, TransientError, "server"),
    ],
)
async def test_each_status_means_one_thing(status, error_type, word) -> None:
    body = f"<Error><Code>{status}</Code><Detail>why &lt;{UUID(int=7)}&gt; {'x' * 900}</Detail></Error>".encode()
    headers = {"Retry-After": "17", "Location": "http://elsewhere.invalid/"}
    async with service(lambda *_: (status, headers, body)) as (keeper, seen):
        error = await failing(keeper.acquire(spec(), 1), error_type)
        assert getattr(error, "reason", getattr(error, "kind", None)) == word
        assert getattr(error, "retry_after_s", None) in (None, 17.0)
        assert f"answered with {status}: why <" in str(error)
        assert str(UUID(int=7)) not in str(error)
        assert len(str(error)) < 600
        assert len(seen) == 1


@pytest.mark.parametrize("body", [b"", b"\xff<Detail>\xff</Detail>", b"<Detail>" * 10_000, b"x" * 1_000_000])
async def test_answers_of_any_kind_are_survived(body) -> None:
    async with service(lambda *_: (500, {}, body)) as (keeper, _):
        await failing(keeper.acquire(spec(), 1), TransientError)


async def test_a_service_that_is_not_there_costs_an_attempt() -> None:
    async with target(1) as keeper:
        error = await failing(keeper.acquire(spec(), 1), TransientError)
        assert error.kind == "unreachable"
        assert str(UUID(int=7)) not in str(error)


async def test_a_completion_that_was_not_answered_and_is_asked_for_again_is_done() -> None:
    answers = iter([renewed(), (500, {}, b""), (404, {}, b"")])
    async with service(lambda *_: next(answers)) as (keeper, _):
        await keeper.acquire(spec(), 1)
        error = await failing(keeper.settle(spec(), 1, COMPLETE), TransientError)
        assert "it is not known whether the message was completed" in str(error)
        await keeper.settle(spec(), 1, COMPLETE)


async def test_lock_tokens_are_not_in_the_log_of_the_http_client(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with service(renewed) as (keeper, _):
            await keeper.acquire(spec(), 1)
    assert not [record for record in caplog.records if record.name.startswith("httpx")]
    assert str(UUID(int=7)) not in caplog.text


async def test_renewals_are_refused_once_the_target_has_stopped() -> None:
    async with service(renewed) as (keeper, _):
        await keeper.acquire(spec(), 1)
    assert (await failing(keeper.renew(spec(), 1), TransientError)).kind == "network"
