"""Sessions as blocks of async code, on asyncio and trio."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio import to_thread

from renewer.client import AsyncClient, Conflict, LockAtRisk, LockLost, SessionLost, Timeout, Unavailable
from tests.client.standin import problem

pytestmark = pytest.mark.anyio

LIMIT_S = 20


@asynccontextmanager
async def connected(standin):
    async with AsyncClient(standin.api, timeout=5, retry_for=0) as client:
        with anyio.fail_after(LIMIT_S):
            yield client


def waited(standin, condition):
    return to_thread.run_sync(standin.until, condition)


async def until(condition):
    while not condition():  # noqa: ASYNC110 - it changes without a sign
        await anyio.sleep(0.005)


class Losses:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.heard = anyio.Event()

    async def lost(self, _session, reason, detail):
        await anyio.lowlevel.checkpoint()
        self.told.append((reason, detail))
        self.heard.set()

    def at_risk(self, _session, detail):
        self.told.append(("at_risk", detail))
        self.heard.set()


async def test_a_session_is_held_for_the_length_of_the_block(standin):
    async with connected(standin) as client:
        async with client.session("orders", "c") as session:
            assert (session.session_id, session.epoch) == ("c", 1)
            assert await session.get_state() is None
            await session.set_state("x")
            assert await session.get_state() == b"x"
            assert await session.renew_lock(timeout=5) == session.locked_until_utc
            await waited(standin, lambda: standin.owners == {"lease-1": 1})
        assert standin.only_lease()["state"] == "released"
        await waited(standin, lambda: standin.owners == {"lease-1": 0})


async def test_a_loss_cancels_the_block_and_is_told_once(standin):
    losses = Losses()
    cancelled = False
    async with connected(standin) as client:
        with pytest.raises(SessionLost, match=r"detached \(taken away\)") as caught:
            async with client.session("orders", "c", on_lost=losses.lost) as session:
                await to_thread.run_sync(
                    lambda: standin.tell("lease-1", "lease.lost", reason="detached", detail="taken away")
                )
                try:
                    await anyio.sleep_forever()
                except anyio.get_cancelled_exc_class():
                    cancelled = True
                    assert session.is_lost
                    raise
        assert cancelled
        assert losses.told == [("detached", "taken away")]
        assert caught.value.reason == "detached"


async def test_a_block_that_overlooks_its_cancellation_still_hears_of_the_loss(standin):
    losses = Losses()
    async with connected(standin) as client:
        with pytest.raises(SessionLost):
            async with client.session("orders", "c", on_lost=losses.lost):
                await to_thread.run_sync(lambda: standin.tell("lease-1", "lease.lost", reason="expired"))
                with anyio.CancelScope(shield=True):
                    await losses.heard.wait()
    assert losses.told == [("expired", "")]


async def test_an_error_of_the_block_passes_as_it_is(standin):
    async with connected(standin) as client:
        with pytest.raises(ValueError, match="mine"):
            async with client.session("orders", "c"):
                raise ValueError("mine")
    assert standin.only_lease()["state"] == "released"


async def test_a_group_of_errors_of_the_block_passes_as_it_is(standin):
    async def fail():
        raise ValueError("mine")

    async with connected(standin) as client:
        with pytest.raises(ExceptionGroup) as caught:
            async with client.session("orders", "c"), anyio.create_task_group() as tasks:
                tasks.start_soon(fail)
    assert [str(error) for error in caught.value.exceptions] == ["mine"]


async def test_a_block_that_is_cancelled_from_outside_gives_the_session_back(standin):
    async with connected(standin) as client:
        with anyio.CancelScope() as outside:
            async with client.session("orders", "c"):
                outside.cancel()
                await anyio.sleep_forever()
        assert outside.cancelled_caught
        assert standin.only_lease()["state"] == "released"


async def test_waiting_for_a_session_can_be_cancelled_and_leaves_nothing_behind(standin):
    standin.grants = False
    async with connected(standin) as client:
        async with anyio.create_task_group() as tasks:

            async def wait_for_it():
                async with client.session("orders", "c", wait=None):
                    pytest.fail("it was never granted")

            tasks.start_soon(wait_for_it)
            await waited(standin, lambda: standin.owners == {"lease-1": 1})
            tasks.cancel_scope.cancel()
        assert standin.only_lease()["state"] == "released"


async def test_a_session_that_cannot_be_had_is_an_error_without_a_group(standin):
    async with connected(standin) as client:
        standin.refuses = 1
        with pytest.raises(SessionLost, match="cannot be had: no sessions here"):
            async with client.session("orders", "c"):
                pytest.fail("it was refused")
        async with client.session("orders", "c"):
            with pytest.raises(Timeout, match="kept already"):
                async with client.session("orders", "c", wait=0.1):
                    pytest.fail("it is held already")
            with pytest.raises(Conflict):
                async with client.session("orders", "c", wait=0):
                    pytest.fail("it is held already")


async def test_a_daemon_that_stays_away_until_the_lock_is_over_has_lost_it(standin):
    losses = Losses()
    standin.lock_duration_s = 1.0
    async with connected(standin) as client:
        with pytest.raises(SessionLost, match="daemon_gone"):
            async with client.session("orders", "c", on_lost=losses.lost, on_at_risk=losses.at_risk):
                await to_thread.run_sync(standin.kill)
                await anyio.sleep_forever()
    assert [reason for reason, _ in losses.told] == ["at_risk", "daemon_gone"]


async def test_an_answer_that_speaks_of_a_loss_is_told_as_one(standin):
    losses = Losses()
    async with connected(standin) as client:
        with pytest.raises(SessionLost):
            async with client.session("orders", "c", on_lost=losses.lost) as session:
                standin.change("lease-1", state="lost", last_loss={"reason": "refused", "detail": "x", "epoch": 1})
                await session.get_state()
    assert losses.told == [("refused", "x")]


async def test_an_event_loop_that_was_kept_busy_beyond_the_lock_loses_nothing(standin):
    losses = Losses()
    standin.lock_duration_s = 0.5
    async with connected(standin) as client:
        async with client.session("orders", "c", on_lost=losses.lost) as session:
            await waited(standin, lambda: standin.owners == {"lease-1": 1})
            standin.tell("lease-1", "lease.renewed")
            time.sleep(1)  # noqa: ASYNC251 - the point: nothing is read meanwhile
            standin.lock_duration_s = 30.0
            standin.tell("lease-1", "lease.renewed")
            with pytest.raises(LockAtRisk, match="no renewal was heard of yet"):
                session.check()
            assert await session.renew_lock() is not None
            session.check()
        assert losses.told == []


async def test_risk_is_told_and_goes_by_and_keeps_the_session_from_being_used(standin):
    losses = Losses()
    async with connected(standin) as client:
        async with client.session("orders", "c", on_lost=losses.lost, on_at_risk=losses.at_risk) as session:
            await waited(standin, lambda: standin.owners == {"lease-1": 1})
            await to_thread.run_sync(standin.break_streams)
            await losses.heard.wait()
            await until(lambda: not session.is_at_risk)
            session.check()
            await to_thread.run_sync(lambda: standin.tell("lease-1", "lease.at_risk", detail="no answer"))
            await until(lambda: session.is_at_risk)
            for use in (session.get_state, lambda: session.set_state("x"), session.renew_lock):
                with pytest.raises(LockAtRisk, match="session 'c' of orders is at risk: no answer"):
                    await use()
            await to_thread.run_sync(lambda: standin.tell("lease-1", "lease.recovered"))
            await until(lambda: not session.is_at_risk)
        assert [reason for reason, _ in losses.told] == ["at_risk", "at_risk"]


async def test_a_release_that_fails_hides_nothing(standin, caplog):
    async with connected(standin) as client:
        standin.answers["DELETE", "/v1/leases/lease-1"] = problem(503, "it cannot be stored")
        with pytest.raises(ValueError, match="mine"):
            async with client.session("orders", "c", owner="none"):
                raise ValueError("mine")
        assert "it cannot be stored; give it back with `renewer lease release lease-1`" in caplog.text
        standin.answers["DELETE", "/v1/leases/lease-2"] = problem(503, "it cannot be stored")
        with pytest.raises(Unavailable, match="cannot be stored"):
            async with client.session("orders", "d", owner="none"):
                pass


async def test_many_sessions_are_held_side_by_side(standin):
    async with connected(standin) as client, anyio.create_task_group() as tasks:
        inside = 0
        all_in = anyio.Event()

        async def hold(number: int) -> None:
            nonlocal inside
            async with client.session("orders", f"c{number}") as session:
                inside += 1
                if inside == 20:
                    all_in.set()
                await all_in.wait()
                assert session.session_id == f"c{number}"

        for number in range(20):
            tasks.start_soon(hold, number)
    assert {lease["state"] for lease in standin.leases.values()} == {"released"}


async def test_the_lock_of_a_message_is_kept_and_its_loss_cancels(standin):
    async with connected(standin) as client:
        async with client.message_lock("orders", "0ddba11") as lock:
            assert await lock.renew_lock() is not None
        with pytest.raises(LockLost) as caught:
            async with client.message_lock("orders", "0ddba11") as lock:
                standin.tell(lock.lease.id, "lease.lost", reason="expired")
                await anyio.sleep_forever()
    assert not isinstance(caught.value, SessionLost)


async def test_heartbeats_are_sent_where_they_are_asked_for(standin):
    async with connected(standin) as client, client.session("orders", "c", owner="heartbeat", owner_ttl=0.3):
        await waited(standin, lambda: len(standin.requests("POST", "/v1/leases/lease-1/heartbeat")) >= 3)
