"""The emulator's messages over HTTP, as a plain HTTP client sees them."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from uuid import UUID

import httpx
import pytest

from renewer.amqp import Data, Message, MessageProperties, Value
from renewer.emulator.admin import EmulatorAdmin
from renewer.emulator.broker import Broker, BrokerOptions, QueueSpec
from renewer.emulator.broker.messages import Incoming
from renewer.emulator.broker.rest import with_messages
from renewer.emulator.fabric import FabricEmulator
from renewer.emulator.faults import Faults
from renewer.emulator.http import build_http_app
from renewer.targets.servicebus.sas import shared_access_signature

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

QUEUES = (QueueSpec("orders"), QueueSpec("sessions", requires_session=True), QueueSpec("topic/Subscriptions/s"))


@asynccontextmanager
async def served(
    options: BrokerOptions | None = None, **headers: str
) -> AsyncIterator[tuple[Broker, httpx.AsyncClient]]:
    faults = Faults()
    broker = Broker(QUEUES, lock_duration_s=30.0, faults=faults, options=options)
    app = with_messages(broker, build_http_app(FabricEmulator(faults, token="local"), EmulatorAdmin(faults)))
    headers = headers or {"Authorization": "Bearer any"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://emulator", headers=headers) as client:
        yield broker, client


def put(broker: Broker, body: object, path: str = "orders", message_id: str = "m-1") -> None:
    entity = broker.namespace.find(path)
    assert entity is not None
    content = Message(body=body, properties=MessageProperties(message_id=message_id, content_type="text/plain"))
    entity.send([Incoming(content)], broker.now(), broker.utc_ms())


async def test_a_message_is_locked_with_all_that_settles_it() -> None:
    async with served() as (broker, client):
        put(broker, Data([b"wo", b"rk"]))
        answer = await client.post("/orders/messages/head?timeout=1")
        assert (answer.status_code, answer.content) == (201, b"work")
        assert answer.headers["content-type"] == "text/plain"
        shown = json.loads(answer.headers["brokerproperties"])
        assert (shown["SequenceNumber"], shown["MessageId"], shown["DeliveryCount"]) == (1, "m-1", 1)
        left_s = (parsedate_to_datetime(shown["LockedUntilUtc"]) - datetime.now(UTC)).total_seconds()
        assert 25 < left_s <= 30
        assert answer.headers["location"] == f"http://emulator/orders/messages/1/{shown['LockToken']}"
        for name in ("1", "m-1"):
            renewed = await client.post(f"/orders/messages/{name}/{shown['LockToken']}")
            assert (renewed.status_code, renewed.content) == (200, b"")
            assert renewed.headers["content-type"].startswith("application/atom+xml")
        assert (await client.put(answer.headers["location"])).status_code == 200
        again = await client.post("/ORDERS/messages/head")
        assert json.loads(again.headers["brokerproperties"])["DeliveryCount"] == 2
        assert (await client.delete(again.headers["location"])).status_code == 200
        assert (await client.post("/orders/messages/head?timeout=0")).status_code == 204
        for method in ("POST", "PUT", "DELETE"):
            assert (await client.request(method, again.headers["location"])).status_code == 404


@pytest.mark.parametrize(
    ("body", "raw"), [(Value(b"\x00"), b"\x00"), (Value("t"), b"t"), (Value(7), b"7"), (None, b"")]
)
async def test_bodies_of_every_kind_are_given_out_as_bytes(body: object, raw: bytes) -> None:
    async with served() as (broker, client):
        put(broker, body, "topic")
        answer = await client.post("/topic/Subscriptions/s/messages/head?timeout=nonsense")
        assert answer.content == raw


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/nowhere/messages/head", 410),
        ("POST", "/topic/messages/head", 410),
        ("POST", "/sessions/messages/head", 400),
        ("GET", "/orders/messages/head", 405),
        ("DELETE", "/orders/messages/head", 405),
        ("PATCH", f"/orders/messages/1/{UUID(int=1)}", 405),
        ("POST", f"/orders/messages/1/{UUID(int=1)}", 404),
        ("POST", "/orders/messages/1/nonsense", 404),
        ("POST", "/orders/messages/%3Cx%3E/nonsense", 404),
    ],
)
async def test_what_is_not_there_is_answered_as_the_service_does(method: str, path: str, status: int) -> None:
    async with served() as (_, client):
        answer = await client.request(method, path)
        assert answer.status_code == status
        assert answer.text.startswith(f"<Error><Code>{status}</Code><Detail>")


async def test_other_paths_are_fabrics_and_the_admins() -> None:
    async with served() as (_, client):
        assert (await client.get("/_emulator/state")).json()["requests"] == {}
        assert (await client.get("/v1/operations/messages/1/2")).headers["content-type"].startswith("application/json")


async def test_a_key_lets_its_signatures_in_and_nothing_else() -> None:
    def signed(path: str, key: str = "a2V5", *, expires_at: int = 4_000_000_000) -> str:
        return shared_access_signature(f"http://emulator/{path}", key_name="rule", key=key, expires_at=expires_at)

    async with served(BrokerOptions(key_name="rule", key="a2V5"), Accept="*/*") as (broker, client):
        put(broker, Value("m"))
        for token, status in (
            ("", 401),
            ("Bearer any", 401),
            (signed("orders", "b3RoZXI="), 401),
            (signed("other"), 401),
            (signed("orders", expires_at=1), 401),
            (signed("orders"), 201),
        ):
            answer = await client.post("/orders/messages/head?timeout=0", headers={"Authorization": token})
            assert answer.status_code == status, token
