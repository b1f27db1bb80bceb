"""What the API asks of the daemon, in virtual time, on both backends."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest

from renewer.api.control import FollowRequest, HoldRequest, Idempotency
from renewer.core.effects import LeaseNews
from renewer.core.model import Ended, Owner, Result, StillRunning, Succeeded
from renewer.core.states import LeaseKind, LeaseState, LossReason, OperationState, OwnerKind, is_over
from renewer.core.timing import PollPolicy
from renewer.daemon.control import DaemonControl, Limits
from renewer.daemon.registrar import Account, Room
from renewer.errors import AdmissionError, ConflictError, LeaseLostError, RegistryError, TransientError, UsageError
from renewer.ports import DEFAULT_TERMS, EntryKind, FollowTerms
from renewer.registry import MemoryRegistry
from tests.daemon.daemon_rig import Desk, FakeBroker, FakeService

pytestmark = pytest.mark.anyio

TOKEN = "3d6c1b1e-7a57-4f2a-9a3f-0e6a7a5b8f10"
RESULT = Result("json", "application/json", b'{"id": 1}')


class FullDisk(MemoryRegistry):
    is_full = False

    async def write(self, batch):
        if self.is_full:
            raise RegistryError("no space left")
        await super().write(batch)


@asynccontextmanager
async def desk(clock, *arguments, **options):
    rig = Desk(clock, *arguments, **options)
    async with rig.running():
        yield rig, rig.control


def wish(session_id: str | None = "a", **more) -> HoldRequest:
    return HoldRequest("main", "orders", session_id=session_id, **more)


def errand(**more) -> FollowRequest:
    return FollowRequest("fabric.main", "submit", {"any": "thing"}, **more)


async def held(control: DaemonControl, request: HoldRequest):
    lease, created = await control.hold(request)
    assert created
    await control.wait_lease(lease.spec.id, lambda lease: lease.state is LeaseState.HELD, 10)
    return lease


async def test_what_is_asked_for_twice_with_one_key_is_registered_once(clock):
    async with desk(clock, service=FakeService(iter([StillRunning(retry_after_s=20, ticket="t")]))) as (_, control):
        key = Idempotency("k", "same")
        first = await control.hold(wish(None, idempotency=key))
        again = await control.hold(wish(None, idempotency=key))
        assert (first[1], again[1]) == (True, False)
        assert first[0] is again[0]
        operation = await control.follow(errand(idempotency=key))
        assert operation[1]
        assert await control.follow(errand(idempotency=key)) == (operation[0], False)
        other = Idempotency("k", "another body")
        with pytest.raises(UsageError, match="Idempotency-Key"):
            await control.hold(wish(None, idempotency=other))
        with pytest.raises(UsageError, match="Idempotency-Key"):
            await control.follow(errand(idempotency=other))


async def test_leases_share_what_is_known_of_them_only_where_that_is_the_same(clock):
    async with desk(clock) as (_, control):
        first = await held(control, wish("a"))
        keyed = await held(control, wish("b", idempotency=Idempotency("k", "this")))
        patient = await held(control, wish("c", reacquire=False))
        last = await held(control, wish("d"))
    assert first.spec.context == last.spec.context == {"origin": "api"}
    assert first.spec.context is last.spec.context
    assert keyed.spec.context == {"origin": "api", "idempotency": {"key": "k", "fingerprint": "this"}}
    assert patient.spec.context == {"origin": "api", "asked": {"reacquire": False}}


async def test_a_key_is_known_across_a_restart_and_gone_with_what_it_made(clock):
    registry, key = MemoryRegistry(), Idempotency("k", "same")
    async with desk(clock, registry=registry) as (_, control):
        lease = await held(control, wish(idempotency=key))
    async with desk(clock, registry=registry) as (_, control):
        again, created = await control.hold(wish(idempotency=key))
        assert (again.spec.id, created) == (lease.spec.id, False)
        await control.forget_lease(again.spec.id)
        _, created = await control.hold(wish(idempotency=key))
        assert created


async def test_a_living_lease_on_the_same_lock_is_found_whatever_the_case_of_its_entity(clock):
    async with desk(clock) as (_, control):
        lease = await held(control, wish())
        found, created = await control.hold(HoldRequest("servicebus.main", "ORDERS", session_id="a"))
        assert (found, created) == (lease, False)
        await control.release(lease.spec.id)
        _, created = await control.hold(wish())
        assert created


async def test_a_message_lock_is_named_by_its_token_and_never_acquired_again(clock):
    async with desk(clock) as (rig, control):
        request = HoldRequest("main", "plain", LeaseKind.MESSAGE, lock_token=TOKEN, reacquire=True)
        lease = await held(control, request)
        assert await control.hold(request) == (lease, False)
        assert not lease.spec.policy.reacquire
        rig.broker.locked_until.clear()
        with pytest.raises(LeaseLostError):
            await control.renew_now(lease.spec.id, 10)
        assert lease.state is LeaseState.LOST


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        (HoldRequest("main", "orders", LeaseKind.MESSAGE), "lock_token"),
        (HoldRequest("main", "orders", lock_token=TOKEN), "lock_token"),
        (HoldRequest("main", "orders", LeaseKind.MESSAGE, session_id="a", lock_token=TOKEN), "session_id"),
        (HoldRequest("main", "orders", LeaseKind.MESSAGE, lock_token="nonsense"), "token"),
        (HoldRequest("nowhere", "orders", session_id="a"), "servicebus"),
        (HoldRequest("main", "orders", session_id="a", owner=Owner(OwnerKind.PID)), "owner.pid"),
        (HoldRequest("main", "orders", session_id="a", owner=Owner(OwnerKind.PID, pid=2**22 + 7)), "owner.pid"),
        (HoldRequest("main", "orders", session_id="a", callback="http://127.0.0.1/"), "callback"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_the_field_and_nothing_is_registered(clock, request_, names):
    async with desk(clock) as (_, control):
        with pytest.raises(UsageError, match=names):
            await control.hold(request_)
        assert list(control.leases()) == []


async def test_no_more_is_taken_on_than_allowed_and_what_has_ended_does_not_count(clock):
    async with desk(clock, limits=Limits(leases=2, operations=0), service=FakeService(iter([]))) as (_, control):
        first = await held(control, wish("a"))
        await held(control, wish("b"))
        with pytest.raises(AdmissionError, match="max_leases") as refused:
            await control.hold(wish("c"))
        assert refused.value.retry_after_s > 0
        await control.release(first.spec.id)
        await held(control, wish("c"))
        with pytest.raises(AdmissionError, match="max_operations"):
            await control.follow(errand())


async def test_while_draining_nothing_new_is_taken_and_what_is_held_is_kept(clock):
    async with desk(clock) as (_, control):
        lease = await held(control, wish("a"))
        await control.drain(enabled=True, park=False)
        assert control.status().state == "draining"
        with pytest.raises(AdmissionError, match="draining"):
            await control.hold(wish("b"))
        assert await control.hold(wish("a")) == (lease, False)
        await anyio.sleep(60)
        assert lease.state is LeaseState.HELD
        await control.drain(enabled=False, park=False)
        await held(control, wish("b"))


async def test_a_drain_that_parks_gives_every_lease_back_for_the_next_start(clock):
    registry = MemoryRegistry()
    async with desk(clock, registry=registry) as (rig, control):
        lease = await held(control, wish("a"))
        await control.drain(enabled=True, park=True)
        assert rig.broker.releases == [lease.spec.id]
    async with desk(clock, registry=registry) as (rig, _):
        await anyio.sleep(5)
        assert rig.lease(lease.spec).epoch == 2


async def test_leases_that_were_parked_are_held_again_when_the_drain_is_called_off(clock):
    async with desk(clock) as (_, control):
        lease = await held(control, wish("a"))
        await control.drain(enabled=True, park=True)
        await control.drain(enabled=False, park=False)
        await anyio.sleep(1)
        assert (lease.state, lease.epoch) == (LeaseState.HELD, 2)


async def test_what_cannot_be_stored_is_not_taken_on(clock, capsys):
    registry = FullDisk()
    service = FakeService(iter([]))
    async with desk(clock, registry=registry, service=service) as (rig, control):
        kept = await held(control, wish("a"))
        registry.is_full = True
        for attempt in (control.hold(wish("b")), control.follow(errand()), control.hold(wish("c"))):
            with pytest.raises(RegistryError, match="no space left"):
                await attempt
        assert [lease.spec.id for lease in control.leases()] == [kept.spec.id]
        assert list(control.operations()) == []
        assert control.status().trouble == ["no space left"]
        assert await control.hold(wish("a")) == (kept, False)
        await anyio.sleep(60)
        assert kept.state is LeaseState.HELD
        registry.is_full = False
        await anyio.sleep(15)
        await held(control, wish("b"))
        assert control.status().trouble == []
    assert service.asked_at == []
    assert rig.broker.expired == 0


async def test_of_many_that_cannot_be_stored_none_waits_until_it_was_tried_again_for_each_of_the_others(clock, capsys):
    registry = FullDisk()
    async with desk(clock, registry=registry, limits=Limits(leases=2000)) as (_, control):
        kept = await held(control, wish("kept"))
        registry.is_full = True
        began_at = clock.now()
        names = [f"s{number}" for number in range(600)]
        answers = await control.hold_all([wish(name) for name in ("kept", *names, "s0")])
        assert clock.now() - began_at < 3
        assert answers[0] == (kept, False)
        assert {str(answer) for answer in answers[1:]} == {"not registered, because it cannot be stored: no space left"}
        assert list(control.leases()) == [kept]


async def test_a_renewal_that_is_asked_for_is_made_now(clock):
    async with desk(clock, FakeBroker(duration_s=300.0)) as (_, control):
        lease = await held(control, wish())
        await anyio.sleep(10)
        renewals, expires_at = lease.renewals, lease.expires_at
        assert await control.renew_now(lease.spec.id, 5) is lease
        assert lease.renewals == renewals + 1
        assert lease.expires_at == pytest.approx(expires_at + 10, abs=0.1)


async def test_a_renewal_that_is_not_answered_or_not_possible_is_an_error(clock):
    async def before(_spec, _number):
        await anyio.sleep_forever()

    async with desk(clock, FakeBroker(duration_s=300.0, before=before)) as (_, control):
        lease = await held(control, wish())
        with pytest.raises(TransientError, match="within 2 s") as late:
            await control.renew_now(lease.spec.id, 2)
        assert late.value.kind == "timeout"
        await control.release(lease.spec.id)
        with pytest.raises(ConflictError, match="released"):
            await control.renew_now(lease.spec.id, 2)
        with pytest.raises(KeyError):
            await control.renew_now("lease-unknown", 2)


async def test_a_renewal_that_finds_the_lock_gone_says_so(clock):
    async with desk(clock, FakeBroker(duration_s=300.0)) as (rig, control):
        lease = await held(control, wish())
        rig.broker.locked_until.clear()
        with pytest.raises(LeaseLostError, match="expired") as lost:
            await control.renew_now(lease.spec.id, 5)
        assert lost.value.reason == LossReason.EXPIRED


async def test_heartbeats_keep_a_lease_and_their_absence_ends_it(clock):
    async with desk(clock) as (rig, control):
        lease = await held(control, wish(owner=Owner(OwnerKind.HEARTBEAT, ttl_s=5.0)))
        for _ in range(10):
            await anyio.sleep(4)
            control.heartbeat(lease.spec.id)
        assert lease.state is LeaseState.HELD
        await anyio.sleep(5.1)
        assert lease.last_loss.reason is LossReason.OWNER_GONE
        assert rig.broker.releases == [lease.spec.id]
        with pytest.raises(ConflictError):
            control.heartbeat(lease.spec.id)


async def test_a_lease_lives_as_long_as_one_of_its_owner_s_connections(clock):
    async with desk(clock) as (_, control):
        lease = await held(control, wish(owner=Owner(OwnerKind.CONNECTION, ttl_s=1.0)))
        with control.owner_connection(lease.spec.id):
            with control.owner_connection(lease.spec.id):
                await anyio.sleep(60)
            await anyio.sleep(60)
        assert lease.state is LeaseState.HELD
        await anyio.sleep(1.1)
        assert lease.last_loss.reason is LossReason.OWNER_GONE


async def test_a_sign_of_life_of_the_wrong_kind_is_refused(clock):
    async with desk(clock) as (_, control):
        lease = await held(control, wish())
        with pytest.raises(ConflictError, match="kind none"):
            control.heartbeat(lease.spec.id)
        with pytest.raises(ConflictError, match="kind none"), control.owner_connection(lease.spec.id):
            pytest.fail("let in")


async def test_the_state_of_a_held_session_is_read_written_and_cleared(clock):
    async with desk(clock) as (_, control):
        lease = await held(control, wish())
        assert await control.session_state(lease.spec.id) is None
        await control.set_session_state(lease.spec.id, b"\0state")
        assert await control.session_state(lease.spec.id) == b"\0state"
        await control.set_session_state(lease.spec.id, None)
        assert await control.session_state(lease.spec.id) is None
        await control.release(lease.spec.id)
        with pytest.raises(ConflictError, match="released"):
            await control.session_state(lease.spec.id)


async def test_a_broker_that_does_not_answer_for_the_state_is_not_waited_for_for_ever(clock):
    async with desk(clock) as (rig, control):
        lease = await held(control, wish())
        rig.broker.latency_s = 1e6
        with pytest.raises(TransientError, match="not known whether") as late:
            await control.set_session_state(lease.spec.id, b"x")
        assert late.value.kind == "timeout"


async def test_waiting_for_many_ends_with_the_first_or_with_the_last(clock):
    class Two(FakeService):
        async def submit(self, spec):
            return StillRunning(retry_after_s=5 if spec.labels["n"] == "1" else 30, ticket="t")

    service = Two(iter([Succeeded("Succeeded", RESULT), Succeeded("Succeeded", RESULT)]))
    async with desk(clock, service=service) as (_, control):
        first, _ = await control.follow(errand(labels={"n": "1"}))
        second, _ = await control.follow(errand(labels={"n": "2"}))
        ids = [first.spec.id, second.spec.id, "op-unknown"]
        started_at = anyio.current_time()

        async def wait(until, timeout_s=300.0):
            await control.wait_operations(ids, lambda item: is_over(item.state), timeout_s, until=until)
            return round(anyio.current_time() - started_at)

        assert await wait("all", 2) == 2
        assert await wait("any") == 5
        assert await wait("all") == 30
        assert await wait("all") == 30
        assert await control.result(first.spec.id) == RESULT


async def test_what_a_caller_asks_of_an_operation_stands_before_what_is_configured(clock):
    told = []

    class Service(FakeService):
        def prepare(self, how, request, terms):
            told.append(terms)
            return super().prepare(how, request, terms)

    service = Service(iter([StillRunning(), StillRunning(), StillRunning()]))
    async with desk(clock, FakeBroker(), service) as (rig, control):
        rig.registrar.accounts["fabric.main"] = Account(service, PollPolicy(early_probe_s=5.0))
        terms = FollowTerms("location", poll_headers={"A": "b"})
        operations = [
            (await control.follow(errand(**asked)))[0]
            for asked in ({}, {"early_probe_s": 0.0}, {"early_probe_s": 2.0, "deadline_s": 60.0, "terms": terms})
        ]
        policies = [operation.spec.policy for operation in operations]
        assert [policy.early_probe_s for policy in policies] == [5.0, None, 2.0]
        assert policies[2].deadline_s == 60.0
        assert told == [DEFAULT_TERMS, DEFAULT_TERMS, terms]


async def test_an_operation_is_cancelled_by_its_service_or_not_at_all(clock):
    service = FakeService(iter([StillRunning(retry_after_s=5, ticket="t"), Ended("canceled", "Cancelled")]))
    async with desk(clock, service=service) as (_, control):
        operation, _ = await control.follow(errand())
        with pytest.raises(ConflictError, match="not answered yet"):
            await control.cancel(operation.spec.id)
        await anyio.sleep(1)
        service.can_cancel = False
        with pytest.raises(ConflictError, match="cannot be cancelled"):
            await control.cancel(operation.spec.id)
        service.can_cancel = True
        await control.cancel(operation.spec.id)
        assert service.cancelled == [operation.spec.id]
        await anyio.sleep(10)
        assert operation.state is OperationState.CANCELED
        with pytest.raises(ConflictError, match="canceled"):
            await control.cancel(operation.spec.id)


async def test_a_forgotten_operation_is_not_asked_about_and_not_known(clock):
    service = FakeService(iter([StillRunning(retry_after_s=5, ticket="t")]))
    async with desk(clock, service=service) as (rig, control):
        operation, _ = await control.follow(errand())
        await anyio.sleep(1)
        await control.forget_operation(operation.spec.id)
        await anyio.sleep(60)
        assert [what for what, _ in service.asked_at] == ["submit"]
        assert control.operation(operation.spec.id) is None
        assert list((await rig.registry.open()).entries) == []


async def test_a_result_that_came_with_the_first_answer_is_stored(clock):
    async with desk(clock, service=FakeService(iter([Succeeded("Succeeded", RESULT)]))) as (rig, control):
        operation, _ = await control.follow(errand())
        await anyio.sleep(1)
        assert operation.result.body == b""
        assert await rig.registry.result(operation.spec.id) == RESULT
        assert await control.result(operation.spec.id) == RESULT


async def test_nothing_is_shown_that_is_not_stored(clock):
    class Slow(MemoryRegistry):
        takes_s = 0.0

        async def write(self, batch):
            await anyio.sleep(self.takes_s)
            await super().write(batch)

    registry = Slow()
    service = FakeService(iter([StillRunning(retry_after_s=5, ticket="t"), Succeeded("Succeeded", RESULT)]))
    async with desk(clock, service=service, registry=registry) as (_, control):
        operation, _ = await control.follow(errand())
        await anyio.sleep(4.9)
        registry.takes_s = 0.3
        await anyio.sleep(0.5)
        assert operation.state is OperationState.SUCCEEDED
        for key in (operation.spec.id, None):
            await control.settled(key)
            (stored,) = [
                entry.document["state"]
                for entry in (await registry.open()).entries
                if entry.kind is EntryKind.OPERATION
            ]
            assert stored == "succeeded"


async def test_the_status_tells_what_is_there(clock):
    service = FakeService(iter([StillRunning(retry_after_s=5, ticket="t")]))
    async with desk(clock, service=service) as (rig, control):
        lease = await held(control, wish("a"))
        await held(control, wish("b"))
        await control.follow(errand())
        rig.break_link(lease.spec, 1)
        await anyio.sleep(6)
        status = control.status()
        assert (status.state, status.leases, status.losses) == ("ready", {"held": 2}, 1)
        assert status.operations == {"running": 1}
        assert status.min_margin_s > 4
        assert len(rig.heard.of(LeaseNews.LOST)) == 1


async def test_letting_go_is_not_acknowledged_while_it_cannot_be_stored(clock, capsys):
    registry = FullDisk()
    service = FakeService(iter([StillRunning(retry_after_s=600.0, ticket="t")]))
    async with desk(clock, service=service, registry=registry) as (_, control):
        lease, other = await held(control, wish("a")), await held(control, wish("b"))
        operation, _ = await control.follow(errand())
        await anyio.sleep(1)
        registry.is_full = True
        with pytest.raises(RegistryError, match=r"it would be back.*no space left"):
            await control.release(lease.spec.id)
        assert lease.state is LeaseState.RELEASED
        with pytest.raises(RegistryError, match="it would be back"):
            await control.forget_lease(other.spec.id)
        with pytest.raises(RegistryError, match="it would be back"):
            await control.forget_operation(operation.spec.id)
        registry.is_full = False
        await control.release(lease.spec.id)
        (entry,) = (await registry.open()).entries
        assert (entry.id, entry.document["state"]) == (lease.spec.id, "released")


async def test_nothing_is_remembered_of_what_was_kept_long_enough(clock):
    service = FakeService(iter([Succeeded("Succeeded")]))
    async with desk(clock, service=service) as (rig, control):
        lease = await held(control, wish("a", idempotency=Idempotency("l", "1")))
        await control.release(lease.spec.id)
        await control.follow(errand(idempotency=Idempotency("o", "1")))
        await anyio.sleep(2 * 86_400)
        assert list(control.leases()) == list(control.operations()) == []
        assert rig.registrar._by_lock == rig.registrar._by_idempotency == {}


async def test_sessions_that_no_connection_has_room_for_are_refused_and_message_locks_are_not(clock):
    async with desk(clock) as (rig, control):
        namespace = rig.registrar.namespaces["servicebus.main"]
        room = Room(2, "max_connections and sessions_per_connection of [servicebus.main]")
        rig.registrar.namespaces = {"servicebus.main": replace(namespace, room=lambda: room)}
        first = await held(control, wish("a"))
        await held(control, wish("b"))
        with pytest.raises(AdmissionError, match=r"2 sessions .* max_connections and sessions_per_conn") as refused:
            await control.hold(wish("c"))
        assert refused.value.retry_after_s > 0
        assert (await control.hold(wish("a")))[1] is False
        await held(control, HoldRequest("main", "plain", LeaseKind.MESSAGE, lock_token=TOKEN))
        await control.release(first.spec.id)
        await held(control, wish("c"))
