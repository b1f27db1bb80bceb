"""What ends by itself, to the moment: the broker and its clients in virtual time, without sockets."""

from __future__ import annotations

import anyio
import pytest

from renewer.amqp import ConnectionClosed
from renewer.emulator.broker import BrokerOptions
from tests.emulator.broker_rig import in_memory
from tests.virtualtime import VirtualClock, virtual

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return virtual(request.param)


async def test_who_shows_no_token_in_time_is_shown_the_door() -> None:
    options = BrokerOptions(auth_deadline_s=0.1)
    async with in_memory(options=options) as rig, rig.client() as idle:
        closed = await idle.closed()
        assert closed.error is not None
        assert closed.error.condition == "amqp:unauthorized-access"


async def test_who_has_shown_a_token_may_stay() -> None:
    options = BrokerOptions(auth_deadline_s=0.5)
    async with in_memory(options=options) as rig, rig.client("plain") as client:
        await anyio.sleep(0.7)
        await client.receiver("plain")


async def test_links_end_with_the_token_they_were_for() -> None:
    clock = VirtualClock()
    async with in_memory() as rig, rig.client("plain") as client:
        soon_ms = round((clock.utc_now().timestamp() + 0.2) * 1000)
        assert await client.put_token("orders", expiration=soon_ms) == 202
        session_link = await client.receiver("orders", session_id="s")
        kept = await client.receiver("plain")
        error = await client.detached(session_link)
        assert error is not None
        assert error.condition == "amqp:unauthorized-access"
        assert kept.is_attached
        assert await client.refused("orders", session_id="s") == "amqp:unauthorized-access"
        assert await client.put_token("orders") == 202
        await client.receiver("orders", session_id="s")


async def test_who_waits_for_a_session_waits_no_longer_than_the_token_lasts() -> None:
    clock = VirtualClock()
    async with in_memory() as rig, rig.client() as client:
        soon_ms = round((clock.utc_now().timestamp() + 0.2) * 1000)
        assert await client.put_token("orders", expiration=soon_ms) == 202
        assert await client.refused("orders", session_id=None) == "amqp:unauthorized-access"
        assert not rig.broker.waiting


async def test_a_new_token_takes_the_place_of_the_old_one() -> None:
    clock = VirtualClock()
    async with in_memory() as rig, rig.client() as client:
        soon_ms = round((clock.utc_now().timestamp() + 0.3) * 1000)
        assert await client.put_token("orders", expiration=soon_ms) == 202
        link = await client.receiver("orders", session_id="s")
        assert await client.put_token("orders", expiration=soon_ms + 3_600_000) == 202
        await anyio.sleep(0.5)
        assert (await client.renew("orders", "s", link=link.name)).status == 200


async def test_silent_links_are_detached_unless_requests_name_them() -> None:
    options = BrokerOptions(link_idle_s=0.5)
    async with in_memory(options=options) as rig, rig.client("orders") as client:
        named = await client.receiver("orders", session_id="named")
        silent = await client.receiver("orders", session_id="silent")
        with anyio.fail_after(10):
            while silent.is_attached:
                assert (await client.renew("orders", "named", link=named.name)).status == 200
                assert (await client.renew("orders", "silent")).status in {200, 410}
                await anyio.sleep(0.05)
        error = await client.detached(silent)
        assert error is not None
        assert error.condition == "amqp:link:detach-forced"
        assert named.is_attached
        await rig.until(lambda: rig.broker.counters.links_idled >= 1)


async def test_the_time_out_that_is_announced_is_the_one_that_is_kept() -> None:
    async with in_memory(options=BrokerOptions(idle_timeout_s=0.4)) as rig, rig.client("plain") as client:
        opened = client.transport.connection.remote_open
        assert opened is not None
        assert opened.idle_time_out == 400
        await anyio.sleep(1.0)
        assert not any(isinstance(event, ConnectionClosed) for event in client.events)


async def test_a_lock_that_is_renewed_stays() -> None:
    async with in_memory(lock_duration_s=0.5) as rig, rig.client("orders") as client:
        link = await client.receiver("orders", session_id="s")
        end = anyio.current_time() + 1.2
        while anyio.current_time() < end:
            assert (await client.renew("orders", "s", link=link.name)).status == 200
            await anyio.sleep(0.05)
        assert link.is_attached
