from __future__ import annotations

import httpx
import pytest

from renewer.emulator.admin import EmulatorAdmin
from renewer.emulator.broker.admin import broker_routes
from tests.emulator.broker_rig import Rig, running

pytestmark = pytest.mark.anyio

PREFIX = "/_emulator/servicebus"


def admin_client(rig: Rig) -> httpx.AsyncClient:
    admin = EmulatorAdmin(rig.broker.faults)
    admin.add_routes(broker_routes(rig.broker))
    admin.add_state("servicebus", rig.broker.state)
    return httpx.AsyncClient(transport=httpx.ASGITransport(admin.app), base_url="http://emulator")


async def test_a_session_is_taken_from_its_holder() -> None:
    async with running() as rig, rig.client("orders") as client, admin_client(rig) as admin:
        link = await client.receiver("orders", session_id="s")
        body = {"entity": "orders", "session_id": "s", "condition": "amqp:link:stolen"}
        assert (await admin.post(f"{PREFIX}/detach-session", json=body)).status_code == 200
        error = await client.detached(link)
        assert error is not None
        assert error.condition == "amqp:link:stolen"
        assert (await admin.post(f"{PREFIX}/detach-session", json=body)).status_code == 404


async def test_a_lock_is_made_to_run_out() -> None:
    async with running() as rig, rig.client("orders") as client, admin_client(rig) as admin:
        link = await client.receiver("orders", session_id="s")
        body = {"entity": "orders", "session_id": "s"}
        assert (await admin.post(f"{PREFIX}/expire-session", json=body)).status_code == 200
        error = await client.detached(link)
        assert error is not None
        assert error.condition == "com.microsoft:session-lock-lost"
        assert rig.broker.counters.locks_expired == 1


async def test_connections_are_cut() -> None:
    async with running() as rig, rig.client("orders") as client, admin_client(rig) as admin:
        answer = await admin.post(f"{PREFIX}/reset-connections")
        assert answer.json() == {"connections": 1}
        assert (await client.closed()).reason == "eof"


async def test_the_state_shows_what_is_held() -> None:
    async with running() as rig, rig.client("orders") as client, admin_client(rig) as admin:
        await client.receiver("orders", session_id="s")
        await client.refused("orders", session_id="s")
        state = (await admin.get("/_emulator/state")).json()["servicebus"]
        assert state["counters"]["sessions_held"] == 1
        assert state["counters"]["refused"] == {"com.microsoft:session-cannot-be-locked": 1}
        (orders,) = (entity for entity in state["entities"] if entity["path"] == "orders")
        assert orders["sessions_held"] == 1


@pytest.mark.parametrize(
    "body",
    [{}, {"entity": "orders"}, {"entity": "orders", "session_id": 7}, {"entity": "o", "session_id": "s", "x": 1}],
)
async def test_bad_bodies_are_refused(body: dict[str, object]) -> None:
    async with running() as rig, admin_client(rig) as admin:
        for action in ("detach-session", "expire-session"):
            assert (await admin.post(f"{PREFIX}/{action}", json=body)).status_code == 400
