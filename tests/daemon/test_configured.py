"""The sessions that the configuration names, in step with it through reloads and restarts; in virtual time."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from renewer.config import SessionSettings
from renewer.core.effects import LeaseNews
from renewer.core.events import LeaseReleaseRequested
from renewer.core.states import LeaseState, is_over
from renewer.daemon.configured import ConfiguredSessions
from renewer.registry import MemoryRegistry
from tests.daemon.daemon_rig import Rig

pytestmark = pytest.mark.anyio


def session(session_id: str | None = "a", **terms) -> SessionSettings:
    return SessionSettings(servicebus="main", entity="orders", session_id=session_id, **terms)


def start(rig: Rig, *sections: SessionSettings) -> ConfiguredSessions:
    sessions = ConfiguredSessions(rig.supervisor, rig.registrar)
    sessions.apply(sections, rig.restored.configured)
    return sessions


def living(rig: Rig) -> list[str | None]:
    return [lease.spec.session_id for lease in rig.supervisor.scheduler.leases() if not is_over(lease.state)]


async def test_a_reload_holds_what_is_new_and_lets_go_of_what_is_gone(clock):
    rig = Rig(clock)
    async with rig.running():
        sessions = start(rig, session("a"), session("b"))
        await anyio.sleep(1)
        kept = next(iter(rig.supervisor.scheduler.leases()))
        sessions.apply([session("a"), session("c")])
        await anyio.sleep(1)
        assert living(rig) == ["a", "c"]
        assert (kept.state, kept.epoch) == (LeaseState.HELD, 1)
        sessions.apply([])
        await anyio.sleep(1)
        assert living(rig) == []
        sessions.apply([session("a")])
        await anyio.sleep(1)
        assert living(rig) == ["a"]


async def test_a_session_whose_terms_change_is_kept_on_the_new_ones_without_being_let_go(clock):
    rig = Rig(clock)
    async with rig.running():
        sessions = start(rig, session("a"))
        await anyio.sleep(1)
        (lease,) = rig.supervisor.scheduler.leases()
        sessions.apply([session("a", labels={"team": "blue"}, max_duration=timedelta(seconds=60))])
        await anyio.sleep(1)
        assert (lease.spec.labels, lease.state, lease.epoch) == ({"team": "blue"}, LeaseState.HELD, 1)
        assert len(rig.heard.of(LeaseNews.REVISED)) == 1
        await anyio.sleep(60)
        assert is_over(lease.state)
    assert rig.broker.releases == [lease.spec.id]


async def test_several_entries_for_the_next_available_session_are_that_many_leases(clock):
    rig = Rig(clock)
    async with rig.running():
        sessions = start(rig, session(None), session(None))
        await anyio.sleep(1)
        assert living(rig) == [None, None]
        sessions.apply([session(None), session(None), session(None, labels={"n": "3"})])
        await anyio.sleep(1)
        assert living(rig) == [None, None, None]
        sessions.apply([session(None)])
        await anyio.sleep(1)
        assert living(rig) == [None]


async def test_after_a_restart_a_configured_session_is_the_same_lease_in_a_new_epoch(clock):
    registry = MemoryRegistry()
    first = Rig(clock, registry=registry)
    async with first.running():
        start(first, session("a"), session("b"))
        await anyio.sleep(1)
        known = {lease.spec.session_id: lease.spec.id for lease in first.supervisor.scheduler.leases()}
    rig = Rig(clock, registry=registry)
    async with rig.running():
        start(rig, session("b"), session("c"))
        await anyio.sleep(1)
        leases = {lease.spec.session_id: lease for lease in rig.supervisor.scheduler.leases()}
        assert leases.keys() == {"b", "c"}
        assert (leases["b"].spec.id, leases["b"].epoch) == (known["b"], 2)
        assert (leases["c"].spec.id in known.values(), leases["c"].epoch) == (False, 1)
        await rig.supervisor.keeper.flush()
        assert {entry.id for entry in (await registry.open()).entries} == {lease.spec.id for lease in leases.values()}


async def test_a_session_that_a_worker_asked_for_already_is_not_held_twice(clock, capsys):
    rig = Rig(clock)
    async with rig.running():
        spec = rig.hold("a")
        rig.registrar.note(spec)
        start(rig, session("a"))
        await anyio.sleep(1)
        assert living(rig) == ["a"]


async def test_a_session_that_somebody_else_holds_is_held_by_a_reload_after_that(clock, capsys):
    rig = Rig(clock)
    async with rig.running():
        rival = rig.hold("a")
        rig.registrar.note(rival)
        sessions = start(rig, session("a"))
        await anyio.sleep(1)
        sessions.apply([session("a")])
        rig.supervisor.post(LeaseReleaseRequested(rival.id))
        await anyio.sleep(1)
        assert living(rig) == []
        sessions.apply([session("a")])
        await anyio.sleep(1)
        assert living(rig) == ["a"]


async def test_a_session_that_has_ended_is_held_anew_by_a_reload(clock):
    rig = Rig(clock)
    async with rig.running():
        sessions = start(rig, session("a"))
        await anyio.sleep(1)
        (lease,) = rig.supervisor.scheduler.leases()
        rig.supervisor.post(LeaseReleaseRequested(lease.spec.id))
        await anyio.sleep(1)
        assert living(rig) == []
        sessions.apply([session("a")])
        await anyio.sleep(1)
        assert living(rig) == ["a"]
