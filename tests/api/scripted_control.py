"""A daemon in memory that does what a test says, at once: leases and operations change when they are told to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

import anyio

from renewer.api.control import EventDocument, FollowRequest, GatewayReading, HoldRequest, StatusReading, TargetReading
from renewer.core.leases import Lease
from renewer.core.model import LeaseId, LeaseSpec, OperationId, OperationSpec, Result
from renewer.core.operations import Operation
from renewer.core.past import Loss
from renewer.core.states import LeaseState, LossReason, MessageFate, OperationState, OwnerKind, is_over
from renewer.errors import AdmissionError, ConflictError, LeaseLostError, RenewerError, UnknownHandleError, UsageError
from renewer.messages import InFlight, ReceivedMessage
from renewer.ports import Settlement

LOCK_S = 30.0
STARTED_AT = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    def now(self) -> float:
        return anyio.current_time()

    def utc_now(self) -> datetime:
        return datetime.now(UTC)


class ScriptedControl:
    """Implements `Control`. `failures` maps a method's name to what it raises; `pending` keeps new leases acquiring."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.failures: dict[str, Exception] = {}
        self.pending = False
        self.asked: list[HoldRequest | FollowRequest] = []
        self.settled_keys: list[str] = []
        self.settlements: list[Settlement] = []
        self.messages: list[ReceivedMessage] = []
        self.received: dict[str, InFlight] = {}
        self.receivers = 0
        self.wanted_messages: list[tuple[str, object]] = []
        self.owners_there: dict[LeaseId, int] = {}
        self.changed = anyio.Event()
        self.state: Literal["ready", "draining", "stopping"] = "ready"
        self.parked = False
        self.readers: list[tuple[Callable[[str, str], bool] | None, Collection[str] | None, Any]] = []
        self.afters: list[str | None] = []
        self._leases: dict[LeaseId, Lease] = {}
        self._operations: dict[OperationId, Operation] = {}
        self._states: dict[LeaseId, bytes | None] = {}
        self._results: dict[OperationId, Result] = {}
        self._by_key: dict[str, tuple[str, Any]] = {}
        self._number = 0
        self._told = 0

    # --- what a test does -----------------------------------------------------------------------------------------

    def add_lease(self, session_id: str | None = "s", *, state: LeaseState = LeaseState.HELD, **spec: Any) -> Lease:
        self._number += 1
        given = {"target": "servicebus.main", "entity": "orders", **spec}
        lease = Lease(
            LeaseSpec(LeaseId(f"lease-{self._number}"), session_id=session_id, **given), self.now(), self._number
        )
        self._leases[lease.spec.id] = lease
        if state is not LeaseState.ACQUIRING:
            self.grant(lease)
        lease.state = state
        return lease

    def grant(self, lease: Lease) -> None:
        lease.state, lease.epoch = LeaseState.HELD, lease.epoch + 1
        lease.session_id = lease.spec.session_id or "any"
        lease.acquired_at, lease.duration_s = self.now(), LOCK_S
        lease.expires_at = self.now() + LOCK_S
        lease.locked_until = datetime.now(UTC).timestamp() + LOCK_S
        self.tell("lease.acquired", lease.spec.id)

    def lose(self, lease: Lease) -> None:
        lease.state, lease.losses = LeaseState.LOST, 1
        lease.last_loss = Loss(lease.epoch, LossReason.DETACHED, "as told", self.now())
        self.tell("lease.lost", lease.spec.id, reason="detached", final=True)

    def add_operation(self, state: OperationState = OperationState.RUNNING, **spec: Any) -> Operation:
        self._number += 1
        given = {"account": "fabric.main", "request": {}, **spec}
        operation = Operation(OperationSpec(OperationId(f"op-{self._number}"), **given), self.now(), self._number)
        operation.state = state
        self._operations[operation.spec.id] = operation
        return operation

    def finish(self, operation: Operation, result: Result | None, state: OperationState = OperationState.SUCCEEDED):
        operation.state, operation.ended_at = state, self.now()
        if result is not None:
            self._results[operation.spec.id] = result
            operation.result = result.without_body()
        self.tell(f"operation.{state}", operation.spec.id)

    def tell(self, type_: str, subject: str, **data: Any) -> None:
        self._told += 1
        event = EventDocument(f"1-{self._told}", type_, self.clock.utc_now(), subject, data)
        for wanted, subjects, send in self.readers:
            concerned = (subjects is None or subject in subjects) and (wanted or _not_quiet)(type_, subject)
            if type_ == "stream.gap" or concerned:
                send.send_nowait(event)
        changed, self.changed = self.changed, anyio.Event()
        changed.set()

    def now(self) -> float:
        return self.clock.now()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self.changed.wait()

    def _fail(self, method: str) -> None:
        if method in self.failures:
            raise self.failures[method]

    # --- what the API asks ----------------------------------------------------------------------------------------

    def status(self) -> StatusReading:
        return StatusReading(
            version="1.2.3",
            state=self.state,
            started_at=STARTED_AT,
            leases={"held": len(self._leases)},
            operations={"running": len(self._operations)},
            losses=0,
            max_leases=10,
            max_operations=20,
            loop_lag_s=0.001,
            registry="memory",
            targets=(TargetReading("servicebus.main", 1, 2), TargetReading("fabric.main", clock_skew_s=0.12345)),
            gateways=(
                GatewayReading(
                    "main", "main", "127.0.0.1:5672", 3, 1, {"local": 3}, {"key": 2}, upstream_failures=1, messages=7
                ),
            ),
            trouble=("a full disk",),
        )

    async def drain(self, *, enabled: bool, park: bool) -> None:
        self._fail("drain")
        self.state = "draining" if enabled else "ready"
        self.parked = park

    async def settled(self, key: str | None = None) -> None:
        self.settled_keys.append("*" if key is None else key)

    @asynccontextmanager
    async def events(
        self,
        *,
        after: str | None = None,
        wanted: Callable[[str, str], bool] | None = None,
        subjects: Collection[str] | None = None,
    ) -> AsyncIterator[AsyncIterator[EventDocument]]:
        self._fail("events")
        self.afters.append(after)
        send, receive = anyio.create_memory_object_stream[EventDocument](1000)
        reader = (wanted, subjects, send)
        self.readers.append(reader)
        self.tell("reader.came", "")
        try:
            with send, receive:
                yield receive
        finally:
            self.readers.remove(reader)
            self.tell("reader.went", "")

    def leases(self) -> Iterable[Lease]:
        return self._leases.values()

    def lease(self, lease_id: LeaseId) -> Lease | None:
        return self._leases.get(lease_id)

    async def hold(self, request: HoldRequest) -> tuple[Lease, bool]:
        self._fail("hold")
        known = self._by_key_of(request)
        if known is not None:
            return known, False
        if self.state != "ready":
            raise AdmissionError("draining", retry_after_s=4.2)
        if request.servicebus not in (None, "main"):
            raise UsageError("servicebus: name one of those configured: main")
        for lease in self._leases.values():
            if request.session_id is not None and lease.spec.session_id == request.session_id:
                return lease, False
        lease = self.add_lease(
            request.session_id,
            state=LeaseState.ACQUIRING if self.pending else LeaseState.HELD,
            entity=request.entity,
            kind=request.kind,
            lock_token=request.lock_token,
            labels=request.labels,
            owner=request.owner,
        )
        self._remember(request, lease)
        return lease, True

    async def hold_all(self, requests: Sequence[HoldRequest]) -> list[tuple[Lease, bool] | RenewerError]:
        answers: list[tuple[Lease, bool] | RenewerError] = []
        for request in requests:
            try:
                answers.append(await self.hold(request))
            except RenewerError as error:
                answers.append(error)
        return answers

    async def release(self, lease_id: LeaseId) -> None:
        self._fail("release")
        lease = self._leases[lease_id]
        if not is_over(lease.state):
            lease.state = LeaseState.RELEASED
            self.tell("lease.released", lease_id)

    async def forget_lease(self, lease_id: LeaseId) -> None:
        await self.release(lease_id)
        del self._leases[lease_id]
        self.tell("lease.forgotten", lease_id)

    async def renew_now(self, lease_id: LeaseId, timeout_s: float) -> Lease:
        self._fail("renew_now")
        lease = self._held(lease_id)
        lease.renewals += 1
        return lease

    def heartbeat(self, lease_id: LeaseId) -> Lease:
        lease = self._leases[lease_id]
        if lease.spec.owner.kind is not OwnerKind.HEARTBEAT:
            raise ConflictError("this lease is not kept by heartbeats")
        lease.seen(self.now(), stays=False, is_new=False)
        return lease

    @contextmanager
    def owner_connection(self, lease_id: LeaseId, *, is_new: bool = False) -> Iterator[None]:
        if self._leases[lease_id].spec.owner.kind is not OwnerKind.CONNECTION:
            raise ConflictError("this lease is not kept by a connection")
        self.owners_there[lease_id] = self.owners_there.get(lease_id, 0) + 1
        try:
            yield
        finally:
            self.owners_there[lease_id] -= 1
            self.tell("owner.gone", "")

    def check_epoch(self, lease_id: LeaseId, epoch: int) -> None:
        if self._leases[lease_id].epoch != epoch:
            raise LeaseLostError("another epoch", reason=LossReason.DETACHED)

    async def session_state(self, lease_id: LeaseId) -> bytes | None:
        self._fail("session_state")
        self._held(lease_id)
        return self._states.get(lease_id)

    async def set_session_state(self, lease_id: LeaseId, state: bytes | None) -> None:
        self._held(lease_id)
        self._states[lease_id] = state

    async def settle(self, lease_id: LeaseId, settlement: Settlement) -> Lease:
        self._fail("settle")
        lease = self._held(lease_id)
        self.settlements.append(settlement)
        lease.state, lease.fate = LeaseState.RELEASED, MessageFate.COMPLETED
        self.tell("lease.released", lease_id, settled="completed")
        return lease

    async def receive(self, lease_id: LeaseId, *, count: int, wait_s: float) -> Sequence[ReceivedMessage]:
        self._fail("receive")
        self._held(lease_id)
        self.wanted_messages.append(("receive", (count, wait_s)))
        self.receivers += 1
        self.tell("message.wanted", "")
        try:
            with anyio.move_on_after(wait_s):
                await self.until(lambda: bool(self.messages))
        finally:
            self.receivers -= 1
            self.tell("message.unwanted", "")
        return self._take(count)

    async def receive_deferred(self, lease_id: LeaseId, sequence_numbers: Sequence[int]) -> Sequence[ReceivedMessage]:
        self._fail("receive_deferred")
        self._held(lease_id)
        self.wanted_messages.append(("deferred", list(sequence_numbers)))
        return self._take(len(sequence_numbers))

    async def peek(self, lease_id: LeaseId, *, count: int, from_sequence_number: int = 0) -> Sequence[ReceivedMessage]:
        self._fail("peek")
        self._held(lease_id)
        self.wanted_messages.append(("peek", (count, from_sequence_number)))
        return [replace(message, handle=None) for message in self.messages[:count]]

    async def settle_received(self, lease_id: LeaseId, handle: str, settlement: Settlement) -> None:
        self._fail("settle_received")
        self._held(lease_id)
        if self.received.pop(handle, None) is None:
            raise UnknownHandleError("handle: there is none")
        self.settlements.append(settlement)

    def in_flight(self, lease_id: LeaseId) -> Sequence[InFlight]:
        self._fail("in_flight")
        self._held(lease_id)
        return list(self.received.values())

    def bring(self, *messages: ReceivedMessage) -> None:
        self.messages += messages
        self.tell("message.came", "")

    def _take(self, count: int) -> list[ReceivedMessage]:
        taken, self.messages = self.messages[:count], self.messages[count:]
        self.received |= {one.handle: InFlight(one.handle, one.sequence_number) for one in taken if one.handle}
        return taken

    async def wait_lease(self, lease_id: LeaseId, done: Callable[[Lease], bool], timeout_s: float) -> None:
        with anyio.move_on_after(timeout_s):
            await self.until(lambda: lease_id not in self._leases or done(self._leases[lease_id]))

    def operations(self) -> Iterable[Operation]:
        return self._operations.values()

    def operation(self, operation_id: OperationId) -> Operation | None:
        return self._operations.get(operation_id)

    async def follow(self, request: FollowRequest) -> tuple[Operation, bool]:
        self._fail("follow")
        known = self._by_key_of(request)
        if known is not None:
            return known, False
        if self.state != "ready":
            raise AdmissionError("draining", retry_after_s=4.2)
        if "url" not in request.request:
            raise UsageError(f"{request.how}.url: is missing")
        operation = self.add_operation(
            OperationState.ACCEPTED if self.pending else OperationState.RUNNING, labels=request.labels
        )
        self._remember(request, operation)
        return operation, True

    async def wait_operations(
        self,
        operation_ids: Sequence[OperationId],
        done: Callable[[Operation], bool],
        timeout_s: float,
        *,
        until: Literal["any", "all"] = "all",
    ) -> None:
        enough = all if until == "all" else any

        def fulfilled() -> bool:
            return enough(done(self._operations[id_]) for id_ in operation_ids if id_ in self._operations)

        with anyio.move_on_after(timeout_s):
            await self.until(fulfilled)

    async def result(self, operation_id: OperationId) -> Result | None:
        self._fail("result")
        return self._results.get(operation_id)

    async def cancel(self, operation_id: OperationId) -> None:
        self._fail("cancel")
        if is_over(self._operations[operation_id].state):
            raise ConflictError("it has ended")

    async def forget_operation(self, operation_id: OperationId) -> None:
        del self._operations[operation_id]

    def _held(self, lease_id: LeaseId) -> Lease:
        lease = self._leases[lease_id]
        if lease.state is not LeaseState.HELD:
            raise ConflictError(f"the lease is {lease.state}, not held")
        return lease

    def _by_key_of(self, request: HoldRequest | FollowRequest) -> Any:
        self.asked.append(request)
        if request.idempotency is None or request.idempotency.key not in self._by_key:
            return None
        fingerprint, item = self._by_key[request.idempotency.key]
        if fingerprint != request.idempotency.fingerprint:
            raise UsageError("Idempotency-Key: was used for another request; choose a new one")
        return item

    def _remember(self, request: HoldRequest | FollowRequest, item: Any) -> None:
        if request.idempotency is not None:
            self._by_key[request.idempotency.key] = (request.idempotency.fingerprint, item)


def _not_quiet(type_: str, _subject: str) -> bool:
    return type_ not in ("lease.renewed", "lease.renew_failed", "operation.polled")
